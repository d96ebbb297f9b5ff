"""The families of networks that came from MXNet's graphs: each named one against its original."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from helpers.graphs import arcface, bn, conv, head, mx, relu, tensors_of, write
from resnet_xf import ResNetSpec, SqueezeExcitation, Stage, Stem, get_backend, get_spec, plan, trace
from resnet_xf.architecture.zoo import REFERENCE
from resnet_xf.data import photographs
from resnet_xf.errors import SpecError, WeightsError
from resnet_xf.formats.files import read_checkpoint
from resnet_xf.formats.identify import identify
from resnet_xf.formats.steps import Step, difference, steps_of

sym = mx.sym
ORIGINALS = json.loads((Path(__file__).parent / "originals.json").read_text())


def content(steps: list[Step]) -> list[Any]:
    """The layers with their arguments, without those at their defaults."""
    return [
        [
            type(step.node).__name__,
            {
                field.name: getattr(step.node, field.name)
                for field in dataclasses.fields(step.node)  # type: ignore[arg-type]
                if getattr(step.node, field.name) != field.default
            },
            [content(branch) for branch in step.branches],
        ]
        for step in steps
    ]


@pytest.mark.parametrize("name", ORIGINALS)
def test_every_layer_is_that_of_the_original(name: str) -> None:
    """``originals.json`` has for each name the parameters and a digest of the layers.

    They come from the graph that the family's own code draws with MXNet 1.9.1: GluonCV 0.10.5, the symbols of MXNet's
    ``example/image-classification``, InsightFace's ``fresnet.py`` with input 1, unit 3, output E and PReLU. The graph
    was read by ``read_graph``; the parameters are the sizes of the graph's arguments, without fixed scales.
    """
    spec = get_spec(name)
    layers = json.dumps(content(steps_of(plan(spec).root.children)), sort_keys=True)
    parameters = trace(spec, (1, 3, *spec.image_size))[0].parameters
    assert [parameters, hashlib.sha256(layers.encode()).hexdigest()[:12]] == ORIGINALS[name]


def test_every_new_family_has_originals() -> None:
    of_graphs = {name for name, source in REFERENCE.items() if source in ("symbol", "insightface")}
    gluoncv = {name for name, source in REFERENCE.items() if source == "gluoncv" and not name.startswith("cifar")}
    assert set(ORIGINALS) == of_graphs | gluoncv


def basic(x: Any, name: str, filters: int, mid: int, stride: int, *, projects: bool) -> Any:
    """A block of version 1 whose first convolution has ``mid`` channels."""
    body = relu(bn(conv(x, f"{name}_conv1", mid, stride=stride), f"{name}_bn1"), f"{name}_relu1")
    body = bn(conv(body, f"{name}_conv2", filters), f"{name}_bn2")
    shortcut = bn(conv(x, f"{name}_sc", filters, 1, stride), f"{name}_sc_bn") if projects else x
    return relu(body + shortcut, f"{name}_relu")


def stem() -> Any:
    return relu(bn(conv(sym.var("data"), "conv0", 4), "bn0"), "relu0")


def projection_in_the_first_block() -> Any:
    x = basic(stem(), "stage1_unit1", 4, 4, 1, projects=True)
    return head(basic(x, "stage1_unit2", 4, 4, 1, projects=False))


def input_norm_with_shift() -> Any:
    """The symbol API's pre-activation network, with a projection where the shape stays."""
    x = conv(bn(sym.var("data"), "bn_data", fix_gamma=True), "conv0", 4)
    for name, projects in (("stage1_unit1", True), ("stage1_unit2", False)):
        act = relu(bn(x, f"{name}_bn1"), f"{name}_relu1")
        body = relu(bn(conv(act, f"{name}_conv1", 4), f"{name}_bn2"), f"{name}_relu2")
        x = conv(body, f"{name}_conv2", 4) + (conv(act, f"{name}_sc", 4, 1) if projects else x)
    return head(relu(bn(x, "bn1"), "relu1"))


def pruned() -> Any:
    x = basic(stem(), "layers1_0", 6, 3, 2, projects=True)
    return head(basic(x, "layers1_1", 6, 5, 1, projects=False))


def resnest() -> Any:
    """A bottleneck with split attention and a pool with the stride; an average pool in the shortcut."""
    x = stem()
    y = relu(bn(conv(x, "conv1", 4, 1), "bn1"), "relu1")
    y = relu(bn(conv(y, "conv2", 8, num_group=2), "bn2"), "relu2")
    parts = sym.reshape(sym.expand_dims(y, axis=1), shape=(0, 2, 4, 0, 0))
    gap = sym.contrib.AdaptiveAvgPooling2D(sym.sum(parts, axis=1), output_size=1)
    hidden = relu(bn(conv(gap, "fc1_", 32, 1, no_bias=False), "bn3"), "relu3")
    weights = conv(hidden, "fc2_", 8, 1, no_bias=False)
    weights = sym.swapaxes(sym.reshape(weights, shape=(0, 1, 2, -1)), dim1=1, dim2=2)
    weights = sym.reshape(sym.softmax(weights, axis=1), shape=(0, 2, -1, 1, 1))
    y = sym.sum(sym.broadcast_mul(weights, parts), axis=1)
    y = sym.Pooling(y, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="avg", name="avd")
    y = bn(conv(y, "conv3", 16, 1), "bn4")
    options = {"pooling_convention": "full", "count_include_pad": False, "pool_type": "avg", "name": "down"}
    shortcut = sym.Pooling(x, kernel=(2, 2), stride=(2, 2), **options)
    return head(relu(y + bn(conv(shortcut, "conv4", 16, 1), "bn5"), "relu4"))


STEM = Stem(kind="conv3", width=4, stride=1, pool=False)
small = partial(ResNetSpec, name="small", num_classes=5, norm_eps=2e-5, image_size=(16, 16))
SMALL = {
    "projection in the first block": (
        projection_in_the_first_block,
        small(stem=STEM, stages=(Stage(depth=2, channels=4),), project_first=True),
    ),
    "input norm with shift": (
        input_norm_with_shift,
        small(
            stem=Stem(kind="conv3", width=4, stride=1, input_norm="shift", norm=False, activation=False, pool=False),
            stages=(Stage(depth=2, channels=4),),
            preactivation=True,
            project_first=True,
        ),
    ),
    "pruned": (
        pruned,
        small(stem=STEM, stages=(Stage(depth=2, channels=6, stride=2, mid_channels=((3,), (5,))),)),
    ),
    "arcface": (
        arcface,
        small(
            stem=Stem(kind="conv3", width=4, stride=1, pool=False, input_scale=(127.5, 0.0078125)),
            stages=(Stage(depth=2, channels=6, stride=2),),
            block="ir",
            activation="prelu",
            head="embedding",
            drop_rate=0.4,
        ),
    ),
    "resnest": (
        resnest,
        small(
            stem=STEM,
            stages=(Stage(depth=1, channels=16, stride=2),),
            block="bottleneck",
            radix=2,
            stride_on="avg_pool",
            shortcut="avg_conv",
        ),
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_spec_says_what_a_drawn_graph_is(tmp_path, name: str) -> None:
    draw, spec = SMALL[name]
    assert ResNetSpec.from_json(spec.to_json()) == spec
    path = tmp_path / "small.toml"
    path.write_text(spec.to_toml())
    assert get_spec(path) == spec
    symbol = draw()
    read = identify(read_checkpoint(write(tmp_path, symbol, tensors_of(symbol))), spec).plan
    assert difference(steps_of(plan(spec).root.children), steps_of(read.root.children)) is None
    own = identify(read_checkpoint(tmp_path / "net-0000.params")).plan  # without the spec: a plan of its own
    assert difference(steps_of(own.root.children), steps_of(read.root.children)) is None


def test_a_network_has_the_eps_of_its_graph_and_its_first_other_layer_is_named(tmp_path) -> None:
    draw, spec = SMALL["pruned"]
    symbol = draw()
    file = read_checkpoint(write(tmp_path, symbol, tensors_of(symbol)))
    assert identify(file, msgspec.structs.replace(spec, norm_eps=1e-3)).plan.spec == spec
    says = r"is not small: its layer1.0.conv1, Conv\(.* stands where the graph has node layers1_0_conv1, Conv\("
    with pytest.raises(WeightsError, match=says):
        identify(file, SMALL["projection in the first block"][1])


@pytest.mark.parametrize("depth", [14, 26, 50])
def test_resnest_computes_what_timm_s_computes(depth: int) -> None:
    import timm
    import torch

    torch.manual_seed(0)
    theirs = timm.create_model(f"resnest{depth}d").eval()
    with torch.no_grad():
        for key, tensor in theirs.state_dict().items():
            if tensor.ndim == 1 and tensor.is_floating_point():
                tensor.uniform_(*((-0.2, 0.2) if key.endswith(("bias", "mean")) else (0.5, 1.5)))
    names = ((r"conv2\.(fc1|fc2|bn1)\.", r"attention.\1."), (r"conv2\.conv\.", "conv2."), (r"conv2\.bn0\.", "bn2."))
    state = {}
    for name, tensor in theirs.state_dict().items():
        for pattern, ours in names:
            name = re.sub(pattern, ours, name)
        state[name] = tensor
    network = get_backend("torch").build(plan(f"resnest{depth}").root).eval()
    network.load_state_dict(state, strict=True)
    images = torch.from_numpy(photographs((64, 64)))
    with torch.inference_mode():
        ours, expected = network(images).numpy(), theirs(images).numpy()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "fields, complaint",
    [
        ({"radix": 2}, r"\$\.radix: only a bottleneck of a network without pre-activation has split attention"),
        ({"stride_on": "avg_pool"}, r"\$\.stride_on: only a bottleneck has the pool"),
        ({"block": "ir", "preactivation": True}, r"\$\.preactivation: an 'ir' block has one norm"),
        (
            {"stages": (Stage(depth=2, channels=8, mid_channels=((4,),)),)},
            r"\$\.stages\[0\]\.mid_channels: expected a list of 1 for each of 2 blocks",
        ),
        (
            {"stages": (Stage(depth=1, channels=8, mid_channels=((4,),)),), "block": "bottleneck"},
            r"\$\.stages\[0\]\.mid_channels: expected a list of 2 for each of 1 blocks",
        ),
    ],
)
def test_fields_that_contradict_each_other_are_named(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        plan(ResNetSpec(**({"name": "wrong", "stages": (Stage(depth=1, channels=8),)} | fields)))


def test_a_gate_of_a_network_with_prelu_has_prelu() -> None:
    spec = small(stages=(Stage(depth=1, channels=8),), activation="prelu", se=SqueezeExcitation())
    kinds = [row.kind for row in trace(spec, (1, 3, 16, 16))]
    assert "relu" not in kinds
    assert kinds.count("prelu") == 4
