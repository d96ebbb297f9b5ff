"""The residual network in a larger one: its maps are those inside MXNet's graph."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from helpers.graphs import (
    GRAPHS,
    SHAPE,
    arcface,
    conv,
    head,
    mx,
    preactivation,
    relu,
    run,
    stem,
    sym,
    tensors_of,
    v1_block,
    write,
)
from helpers.narrow import narrowed
from resnet_xf import (
    build,
    convert,
    draw_weights,
    features,
    get_backend,
    get_spec,
    load,
    load_weights,
    save_weights,
    trace,
)
from resnet_xf.architecture.plan import headless, plan, resized
from resnet_xf.architecture.weights import all_weight_shapes
from resnet_xf.backend.observe import capture_layers
from resnet_xf.errors import WeightsError
from resnet_xf.formats import verify
from resnet_xf.formats.files import read_checkpoint
from resnet_xf.formats.identify import identify
from resnet_xf_mxnet.arrays import ndarray

IMAGES = np.random.default_rng(1).standard_normal(SHAPE, np.float32)


def segmentation() -> Any:
    """Two outputs, of which one is made of a map in the middle; and a head that enlarges its map."""
    middle = v1_block(stem(), "a", 4)
    x = v1_block(middle, "b", 6, projects=True)
    large = sym.Deconvolution(conv(x, "score", 3), kernel=(4, 4), stride=(2, 2), num_filter=3, name="large")
    return sym.Group([large, sym.UpSampling(conv(middle, "aux", 3), scale=2, sample_type="nearest", name="up")])


def detector() -> Any:
    """Predictions from two maps, joined; boxes are moved by a sum that is no residual block."""
    first = v1_block(stem(), "a", 4)
    second = v1_block(first, "b", 6, projects=True)
    scores = [sym.Flatten(conv(x, f"score{n}", 2)) for n, x in enumerate((first, second))]
    boxes = sym.broadcast_add(sym.Concat(*scores, dim=1), sym.slice_axis(sym.var("anchors"), axis=0, begin=0, end=1))
    return sym.Group([boxes, sym.softmax(boxes)])


def pyramid() -> Any:
    """A map is added to an enlarged one, which is no residual block of the trunk."""
    first = v1_block(stem(), "a", 4)
    second = v1_block(relu(conv(first, "down", 4, stride=2), "down_relu"), "b", 4)
    large = sym.UpSampling(conv(second, "lateral", 4, 1), scale=2, sample_type="nearest", name="up")
    return conv(large + conv(first, "lateral0", 4, 1), "score", 2)


ENDS = {
    segmentation: ("layer2", "b_relu"),
    detector: ("layer2", "b_relu"),
    pyramid: ("layer1", "a_relu"),
    preactivation: ("act", "relu1"),
    arcface: ("layer1", r"_plus\d+"),
}
"""By network, our last layer of its trunk, and the name of MXNet's."""


def written(folder: Path, network: Callable[[], Any]) -> tuple[Path, np.ndarray]:
    """Write a network with all its arrays; return the path, and what MXNet makes of the images up to the trunk's end."""
    symbol = network()
    internals = symbol.get_internals()
    *_, end = (name for name in internals.list_outputs() if re.fullmatch(f"{ENDS[network][1]}_output", name))
    inner = internals[end]
    tensors = tensors_of(inner)
    others = {*symbol.list_arguments()} - {*tensors, "data", "softmax_label", "anchors"}
    every = tensors | {name: np.ones((2, 2), np.float32) for name in sorted(others)}
    return write(folder, symbol, every), run(inner, tensors, IMAGES)


@pytest.mark.parametrize("network", ENDS)
def test_the_trunk_has_the_maps_of_mxnets_graph(tmp_path, network: Callable[[], Any]) -> None:
    path, expected = written(tmp_path, network)
    identity = identify(read_checkpoint(path, part=True), backbone=True)
    last = ENDS[network][0]
    assert identity.exported.layer == last
    assert identity.plan.spec.num_classes == 0
    assert [row.name for row in trace(identity.plan, IMAGES.shape, top=True)][-3:] == [last, "global_pool", "flatten"]
    for name in ("torch", "mxnet"):
        backend, weights = get_backend(name), {key: a.astype(np.float64) for key, a in identity.weights.items()}
        native = build(identity.plan, backend, weights=weights, dtype="float64")
        found = capture_layers(backend, native, IMAGES.astype(np.float64), [last, ""])
        np.testing.assert_allclose(found[last].output, expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(found[""].output, expected.mean((2, 3)), rtol=0, atol=1e-12)


def test_stages_that_run_on_regions_belong_to_the_trunk(tmp_path, command) -> None:
    """The last stage of a detector runs on what ROIAlign cuts out; it is compared up to there."""
    first = v1_block(stem(), "a", 4)
    regions = sym.contrib.ROIAlign(first, sym.slice_axis(sym.var("boxes"), axis=0, begin=0, end=1), (7, 7), 0.5)
    last = v1_block(regions, "b", 6, projects=True)
    symbol = sym.Group([sym.FullyConnected(last, num_hidden=3, name="box"), conv(first, "rpn", 3)])
    plain = v1_block(v1_block(stem(), "a", 4), "b", 6, projects=True)
    tensors = tensors_of(plain)
    others = {name: np.ones((2, 2), np.float32) for name in ("box_weight", "box_bias", "rpn_weight")}
    path, out = write(tmp_path, symbol, tensors | others), tmp_path / "trunk.safetensors"
    code, said, _ = command("convert", path, out, "--backbone")
    assert code == 0
    assert f"the exported network {tmp_path}/net-symbol.json up to layer1: largest difference" in said
    assert "the layers after a_relu run on regions of its map, which roialign0 (_contrib_ROIAlign) cuts out" in said
    assert "3 arrays are of other parts, and are left out: box_weight, box_bias, rpn_weight" in said.replace("\n", " ")
    (found,) = features_of(out, ["layer2"])
    np.testing.assert_allclose(found, run(plain, tensors, IMAGES), rtol=0, atol=1e-12)


def features_of(path: Path, out: list[str]) -> list[np.ndarray]:
    module = load(path, "torch", out=out, dtype="float64").eval()
    return [one.detach().numpy() for one in module(torch.from_numpy(IMAGES.astype(np.float64)))]


@pytest.mark.parametrize("network", [segmentation, detector, pyramid])
def test_a_larger_network_is_refused_with_the_way_on(tmp_path, command, network: Callable[[], Any]) -> None:
    path, _ = written(tmp_path, network)
    code, _, said = command("convert", path, tmp_path / "out.safetensors")
    assert code == 2
    assert "convert --backbone takes the residual network out of" in said
    assert not (tmp_path / "out.safetensors").exists()


def test_a_graph_without_a_residual_block_has_no_trunk(tmp_path) -> None:
    symbol = sym.Group([head(stem()), sym.UpSampling(stem(), scale=2, sample_type="nearest", name="up")])
    path = write(tmp_path, symbol, tensors_of(head(stem())))
    with pytest.raises(WeightsError, match=r"net-symbol.json: has no residual block that begins at the images"):
        convert(path, tmp_path / "out.safetensors", backbone=True)


def test_a_file_without_a_head_is_timms_network_of_0_classes(tmp_path, command) -> None:
    network = timm.create_model("resnet18", num_classes=0)
    torch.save(network.state_dict(), tmp_path / "trunk.pth")
    out = tmp_path / "trunk.safetensors"
    code, said, _ = command("convert", tmp_path / "trunk.pth", out, "--backbone", "--spec", "resnet18")
    assert code == 0
    assert "network: resnet18, without a head (given)" in said
    timm.create_model("resnet18", num_classes=0).load_state_dict(load_file(out), strict=True)
    spec, weights = load_weights(out)
    assert spec == headless("resnet18").spec
    images = IMAGES.repeat(4, axis=2).repeat(4, axis=3)
    ours = get_backend("torch").forward(load(out, "torch", dtype="float64"), images.astype(np.float64))
    theirs = network.double().eval()(torch.from_numpy(images).double()).detach().numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)
    assert [m.shape[1] for m in features(spec, "torch", weights=weights).eval()(torch.zeros(1, 3, 32, 32))] == [
        64,
        128,
        256,
        512,
    ]
    code, _, said = command("evaluate", out, "--dataset", "digits")
    assert code == 2
    assert "has no head, so it has no classes; train one (train --weights FILE --new-head)" in said


@pytest.mark.parametrize("name", ["cifar_resnet20_v2", "arcface_r18", "resnet10t"])
def test_a_head_is_taken_off_and_put_on(tmp_path, name: str) -> None:
    spec = narrowed(get_spec(name), 4)
    weights = draw_weights(spec)
    save_weights(tmp_path / "whole.safetensors", weights, spec)
    done = convert(tmp_path / "whole.safetensors", tmp_path / "trunk.safetensors", backbone=True, verify=False)
    assert done.spec == headless(spec).spec
    _, kept = load_weights(tmp_path / "trunk.safetensors")
    assert kept.keys() == all_weight_shapes(done.spec).keys()
    assert all(np.array_equal(kept[key], weights[key]) for key in kept)
    assert plan(resized(done.spec, num_classes=7)).outputs == 7


def test_an_explicit_network_loses_its_head_and_gets_another(tmp_path) -> None:
    path = write(tmp_path, GRAPHS["odd"](), tensors_of(GRAPHS["odd"]()))
    convert(path, tmp_path / "whole.safetensors")
    done = convert(tmp_path / "whole.safetensors", tmp_path / "trunk.safetensors", backbone=True)
    assert [name for name, _ in plan(done.spec).root.children][-3:] == ["layer1", "global_pool", "flatten"]
    assert plan(done.spec).outputs == 4
    assert [name for name, _ in plan(resized(done.spec, num_classes=7)).root.children][-1] == "fc"


@pytest.mark.parametrize("name", ["resnet18_v1", "resnet18_v2"])
def test_a_zoo_s_features_that_were_saved_alone_are_a_trunk(tmp_path, command, name: str) -> None:
    part = getattr(mx.gluon.model_zoo.vision, name)().features
    part.initialize(mx.init.Xavier())
    part(mx.nd.zeros((1, 3, 64, 64)))
    path, out = tmp_path / "saved.params", tmp_path / "trunk.safetensors"
    part.save_parameters(str(path))
    code, _, said = command("convert", path, out)
    assert code == 2
    assert f"holds the stem and the stages of {name.removesuffix('_v1')}" in said
    assert "`convert --backbone` takes the part before the head" in said
    assert command("convert", path, out, "--backbone", "--no-verify")[0] == 0
    images = np.random.default_rng(2).standard_normal((2, 3, 64, 64))
    part.cast("float64")
    expected = part(ndarray(images, "float64", mx.cpu())).asnumpy().reshape(2, 512)
    ours = get_backend("torch").forward(load(out, "torch", dtype="float64"), images)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_a_graph_is_named_where_mxnet_cannot_run_it(tmp_path, monkeypatch) -> None:
    symbol = head(v1_block(stem(), "a", 4))
    path = write(tmp_path, symbol, tensors_of(symbol))
    module = import_module("resnet_xf.formats.convert")  # the package has a function of this name
    for one in (module, verify):
        monkeypatch.setattr(one, "is_installed", lambda name: name != "mxnet")
    identity, says = module.identify_verified(path)
    assert says == f", the network of the graph {tmp_path / 'net-symbol.json'}"
    assert identity.plan.outputs == 5
