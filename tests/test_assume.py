"""Networks whose names and shapes another one has: never converted wrongly and silently."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from helpers.graphs import save
from helpers.undrawn import undrawn
from resnet_xf import Stage, Stem, build, convert, draw_weights, get_backend, get_spec, plan
from resnet_xf.architecture.plan import headless
from resnet_xf.architecture.spec import ResNetSpec
from resnet_xf.architecture.weights import Weights, all_weight_shapes
from resnet_xf.architecture.zoo import with_output_stride
from resnet_xf.errors import WeightsError
from resnet_xf.formats.assume import assumption
from resnet_xf.formats.families import GLUON, LAYOUTS
from resnet_xf.formats.files import CheckpointFile, read_checkpoint
from resnet_xf.formats.identify import check_unambiguous, identify
from resnet_xf.formats.layouts import comparable, places
from resnet_xf.formats.settle import settled

EXPORTED = next(layout for layout in LAYOUTS if layout.title == "GluonCV's v1b to v1s, exported")


def dilated(name: str) -> ResNetSpec:
    return with_output_stride(get_spec(name), 8)


def of_eps(eps: float) -> ResNetSpec:
    return msgspec.structs.replace(get_spec("resnet18_v1b"), norm_eps=eps)


SILENT = {
    "50c as 50d": (lambda: get_spec("resnet50_v1c"), "net0_", "resnet50c|resnet50_v1d"),
    "50d as 50c": (lambda: get_spec("resnet50_v1d"), "net0_", "resnet50c|resnet50_v1d"),
    "101c as 101d": (lambda: get_spec("resnet101_v1c"), "resnetv1c_", "networks with dilation in place of stride"),
    "dilated as plain": (lambda: dilated("resnet50_v1s"), "resnetv1s_", "networks with dilation in place of stride"),
    "eps 1e-3 as 1e-5": (lambda: of_eps(1e-3), "resnetv1b_", "networks with an eps of 2e-05 or 0.001, whose outputs"),
}
"""By what happened before: the network, the prefix of its exported names, and what the refusal must name."""


def exported_alone(spec: ResNetSpec, prefix: str, path: Path) -> Path:
    """Write what ``export`` writes into the ``.params``, without its graph."""
    weights = undrawn(spec)
    rng = np.random.default_rng(0)
    for name in weights:
        if name.endswith("running_var"):
            weights[name] = rng.uniform(0.0005, 0.01, weights[name].shape).astype("f4")
    every = places(plan(spec), EXPORTED, counted=True) or []
    save(path, {prefix + place.theirs: weights[place.ours] for place in every})
    return path


@pytest.mark.parametrize("case", SILENT)
def test_without_a_graph_it_is_refused_with_the_way_on_and_right_with_the_network(tmp_path, case: str, command) -> None:
    make, prefix, names = SILENT[case]
    spec = make()
    path, out = exported_alone(spec, prefix, tmp_path / "net-0000.params"), tmp_path / "out.safetensors"
    code, _, said = command("convert", path, out)
    assert code == 2
    assert not out.exists()
    said = " ".join(said.split())
    assert all(name in said for name in names.split("|"))
    assert all(way in said for way in ("-symbol.json beside it", "--spec resnet", "--images images.npy --expect"))
    done = convert(path, out, spec, verify=False)
    assert plan(done.spec).root == plan(spec).root
    assert not done.assumed


def test_the_file_s_own_prefix_tells_the_variant(tmp_path) -> None:
    for letter in "bcd":
        path = exported_alone(get_spec(f"resnet50_v1{letter}"), f"resnetv1{letter}0_", tmp_path / "net-0000.params")
        with pytest.raises(WeightsError, match=f"could be resnet50_v1{letter}, ") as refused:
            convert(path, tmp_path / "out.safetensors")
        assert not any(f"v1{other}" in str(refused.value) for other in "bcde" if other != letter)


BESIDE = {
    "fcn0_resnetv1s_": ("fcn0__fcnhead0_hybridsequential0_conv0_weight", "resnet50_v1s", 8),
    "deeplabv3plus0_resnetv1s_": ("deeplabv3plus0__aspp0_conv0_weight", "resnet50_v1s", 8),
    "resnetv1b_": ("fasterrcnn0_rpn0_conv0_weight", "resnet50_v1b", 32),
    "maskrcnn0_resnetv1b0_": ("maskrcnn0_mask0_conv0_weight", "resnet50_v1b", 32),
}
"""By the prefix of a trunk's names, another array in the file, the network and its output stride."""


@pytest.mark.parametrize("prefix", BESIDE)
def test_what_stands_beside_a_trunk_tells_whether_it_is_dilated(tmp_path, prefix: str) -> None:
    other, name, stride = BESIDE[prefix]
    weights = undrawn(name)
    every = places(plan(name), EXPORTED, counted=True) or []
    tensors = {prefix + place.theirs: weights[place.ours] for place in every if not place.ours.startswith("fc.")}
    path = tmp_path / "net-0000.params"
    save(path, tensors | {other: np.ones((4, 4, 1, 1), np.float32)})
    file = read_checkpoint(path)
    identity = identify(file, backbone=True)
    check_unambiguous(file, identity)
    expected = get_spec(name) if stride == 32 else with_output_stride(get_spec(name), stride)
    assert identity.plan.root == headless(expected).root
    assert identity.weights.keys() == all_weight_shapes(identity.plan).keys()
    assert any(note.startswith("1 arrays are of other parts, and are left out: ") for note in identity.notes)
    with pytest.raises(WeightsError, match=r"`convert --backbone` takes the part before the head|--prefix|--backbone"):
        identify(file)
    save(path, tensors)
    file = read_checkpoint(path)
    if prefix.startswith("resnet"):  # nothing tells the kind of the whole model
        with pytest.raises(WeightsError, match="networks with dilation in place of stride"):
            check_unambiguous(file, identify(file, backbone=True))


def test_the_trunk_of_a_region_detector_lies_in_two_lists(tmp_path) -> None:
    """``save_parameters`` of GluonCV's Faster and Mask R-CNN."""
    lists = {"conv1.": "features.0.", "bn1.": "features.1.", "layer4.": "top_features.0."}
    lists |= {f"layer{stage}.": f"features.{stage + 3}." for stage in (1, 2, 3)}
    weights, tensors = draw_weights("resnet50_v1b"), {}
    for place in places(plan("resnet50_v1b"), GLUON) or []:
        if not place.ours.startswith("fc."):
            begin = next(ours for ours in lists if place.theirs.startswith(ours))
            tensors[lists[begin] + place.theirs.removeprefix(begin)] = weights[place.ours]
    save(tmp_path / "saved.params", tensors | {"class_predictor.weight": np.ones((4, 4), np.float32)})
    file = read_checkpoint(tmp_path / "saved.params")
    identity = identify(file, backbone=True)
    check_unambiguous(file, identity)
    assert identity.plan.root == headless("resnet50_v1b").root
    assert all(np.array_equal(identity.weights[name], weights[name]) for name in all_weight_shapes(identity.plan))


def test_what_is_assumed_is_said_in_words() -> None:
    assert assumption(get_spec("resnet18")) == "resnet18, eps 1e-05, no dilation, inputs normalised outside"
    said = "resnet50_v1_os8, eps 1e-05, stride on the 1×1, dilation, inputs normalised outside"
    assert assumption(dilated("resnet50_v1")) == said


def test_names_that_a_family_cannot_tell_apart_stay_as_they_are() -> None:
    assert comparable(["features.0.weight", "fc.bias"], GLUON) == {
        "conv1.weight": "features.0.weight",
        "fc.bias": "fc.bias",
    }
    twice = ["features.0.weight", "conv1.weight"]
    assert comparable(twice, GLUON) == {name: name for name in twice}


NARROW = ResNetSpec(
    name="narrow", stages=(Stage(depth=1, channels=2),), stem=Stem(kind="conv3", width=2), num_classes=3
)


def settled_by(weights: Weights, eps: float) -> ResNetSpec:
    """What is found by the outputs of a network with some eps."""
    backend, images = get_backend("torch"), np.random.default_rng(0).standard_normal((2, 3, 16, 16))
    network = build(msgspec.structs.replace(NARROW, norm_eps=eps), "torch", weights=weights, dtype="float64")
    file = CheckpointFile(Path("net.safetensors"), "safetensors", weights)
    return settled(identify(file, NARROW), images, backend.forward(network, images)).plan.spec


def test_outputs_settle_the_eps_or_are_refused_if_two_fit() -> None:
    weights = draw_weights(NARROW, scheme="probe")
    for eps in (1e-5, 2e-5, 1e-3):
        assert settled_by(weights, eps) == msgspec.structs.replace(NARROW, norm_eps=eps)
    with pytest.raises(WeightsError, match="do not tell narrow, eps .* from narrow, eps .*; give more or other images"):
        settled_by(weights, 1.5e-5)


def test_outputs_that_every_candidate_gives_settle_nothing() -> None:
    weights = draw_weights(NARROW, scheme="probe")
    weights["fc.weight"] = np.zeros_like(weights["fc.weight"])
    with pytest.raises(
        WeightsError, match=r"do not tell narrow, eps 1e-05, .* \(off by 0\.0e\+00\) from narrow, eps 2e-05"
    ):
        settled_by(weights, 1e-5)
