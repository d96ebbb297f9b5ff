import json

import msgspec
import numpy as np
import pytest
from hypothesis import given, reject, settings

from resnet_xf import (
    BackendError,
    DataError,
    ResNetSpec,
    ShapeError,
    Stage,
    Stem,
    WeightsError,
    assert_parity,
    draw_weights,
    get_spec,
    list_models,
    parity,
    photographs,
    trace,
)
from resnet_xf.measures import float32_bound, relative_error, same_bits
from resnet_xf.zoo import REFERENCE
from sabotage import Saboteur, only
from strategies import specs

FIRST = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet50_v1", "d2l_resnet18")
SIZES = [(name, (224, 224)) for name in FIRST] + [("d2l_resnet18", (96, 96))]
# Not the Gluon zoo's, which test_zoo holds against their reference on both backends, nor GluonCV's, which are timm's.
# Two of the largest are other sizes of their neighbours, and cost ten seconds each.
PROVEN = ("resnet50_v1b", "resnet50_v1c", "resnet50_v1d", "resnet50_v1s", "wide_resnet101_2", "resnext101_32x8d")
OTHERS = [n for n in list_models() if n not in (*FIRST, *PROVEN) and REFERENCE[n] != "gluon"]


@pytest.mark.parametrize("name, size", SIZES, ids=[f"{name}-{size[0]}" for name, size in SIZES])
def test_every_zoo_network_is_the_same_on_both_backends(name: str, size: tuple[int, int]) -> None:
    report = assert_parity(name, image_size=size)
    assert [rung.name for rung in report.rungs] == [
        *("shapes", "weights", "determinism", "forward float64", "forward float32"),
    ]
    assert report.input_shape[2:] == size
    worst = report.rungs[3].value
    assert worst is not None
    assert 0 < worst < 1e-13  # a comparison of a thing with itself would give 0


@pytest.mark.parametrize("name", OTHERS)
def test_every_other_zoo_network_is_too_at_a_smaller_size(name: str) -> None:
    assert_parity(name, image_size=(32, 32) if name.startswith("cifar") else (64, 64))


@pytest.mark.parametrize(
    "name, size, seeds",
    [("resnet50", 64, 3), ("resnet152", 64, 2), ("cifar_resnet110_v1", 32, 3), ("cifar_resnet110_v2", 32, 3)],
)
def test_float32_stays_far_within_its_bound_whatever_the_seed(name: str, size: int, seeds: int) -> None:
    for seed in range(1, seeds):
        last = assert_parity(name, image_size=(size, size), seed=seed).rungs[-1]
        assert last.value < last.bound / 3


@pytest.mark.parametrize("seed", range(3))
def test_a_mean_over_many_pixels_is_given_its_due(seed: int) -> None:
    """MXNet sums a map's 50,176 pixels one by one, which costs more than a shallow network's layers do."""
    stem = Stem(kind="conv3", width=16, stride=1, pool=False)
    spec = ResNetSpec(name="wide_open", stem=stem, stages=(Stage(depth=1, channels=16),), num_classes=10)
    last = assert_parity(spec, seed=seed).rungs[-1]
    assert last.value < last.bound / 3


def test_a_network_that_no_zoo_has(odd_spec: ResNetSpec, tmp_path) -> None:
    path = tmp_path / "odd.toml"
    path.write_text(odd_spec.to_toml())
    report = assert_parity(get_spec(path))
    assert report.input_shape == (2, 3, 67, 61)


@settings(max_examples=200)
@given(specs())
def test_any_sound_spec_is_the_same_on_both_backends(spec: ResNetSpec) -> None:
    try:
        trace(spec, (1, spec.in_channels, *spec.image_size))
    except ShapeError:
        reject()  # a small image, pooled to less than a window of the next pool
    assert_parity(spec)


def slim(name: str) -> ResNetSpec:
    """The network with a quarter of its channels, which is as good to break and quicker to build."""
    spec = get_spec(name)
    stages = tuple(msgspec.structs.replace(stage, channels=stage.channels // 4) for stage in spec.stages)
    return msgspec.structs.replace(spec, stem=msgspec.structs.replace(spec.stem, width=16), stages=stages)


def flipped(tensor: str):
    """One weight's sign."""

    def flip(weights):
        weights[tensor].flat[3] *= -1
        return weights

    return flip


def swapped(first: str, second: str):
    def swap(weights):
        return weights | {first: weights[second], second: weights[first]}

    return swap


BN = "layer1.1.bn2"
# What is planted into one backend: the rung that must fail, and the layer or tensor that it must name.
DEFECTS = {
    "stride on the other convolution": (
        "resnet50_v1",
        {"node": lambda n, node: only("layer2.0.conv1", stride=1)(n, only("layer2.0.conv2", stride=2)(n, node))},
        ("shapes", "layer2.0.conv1"),
    ),
    "stride missing in a shortcut": ("resnet18", {"node": only("layer3.0.downsample.0", stride=1)}, ("shapes", "layer3.0.downsample.0")),
    "a bias too many": ("resnet18", {"node": only("layer1.0.conv1", bias=True)}, ("shapes", "layer1.0.conv1")),
    "a bias too few": ("d2l_resnet18", {"node": only("layer4.1.conv2", bias=False)}, ("shapes", "layer4.1.conv2")),
    "groups": ("resnet18", {"node": only("layer2.1.conv1", groups=2)}, ("shapes", "layer2.1.conv1")),
    "one sign flipped on the way in": ("resnet18", {"load": flipped("layer3.1.conv2.weight")}, ("weights", "layer3.1.conv2.weight")),
    "one sign flipped where the way out hides it": (
        "resnet18",
        {"load": flipped("layer3.1.conv2.weight"), "dump": flipped("layer3.1.conv2.weight")},
        ("forward float64", "layer3.1.conv2"),
    ),
    "mean and shift swapped both ways": (
        "resnet18",
        {"load": swapped(f"{BN}.bias", f"{BN}.running_mean"), "dump": swapped(f"{BN}.bias", f"{BN}.running_mean")},
        ("forward float64", BN),
    ),
    "momentum for eps": ("resnet18", {"node": only("layer2.0.bn1", eps=0.1)}, ("shapes", "layer2.0.bn1")),
    "the other framework's momentum": ("resnet18", {"node": only("bn1", momentum=0.9)}, ("shapes", "bn1")),
    "eps 1e-3, not told": ("resnet18", {"node": only("bn1", eps=1e-3), "tells": False}, ("forward float64", "bn1")),
    "eps off by a thousandth of itself, not told": (
        "resnet18",
        {"node": only("layer1.1.bn1", eps=1.001e-5), "tells": False},
        ("forward float64", "layer1.1.bn1"),
    ),
    "sigmoid after a sum": ("resnet18", {"node": only("layer1.0.act2", function="sigmoid")}, ("forward float64", "layer1.0.act2")),
    "average for max": ("resnet18", {"node": only("maxpool", operation="avg")}, ("forward float64", "maxpool")),
    "sigmoid for relu": ("resnet18", {"node": only("act1", function="sigmoid")}, ("forward float64", "act1")),
    "dilation at the same size": ("resnet18", {"node": only("layer4.1.conv1", dilation=2, padding=2)}, ("forward float64", "layer4.1.conv1")),
    "the last layer": ("resnet18", {"load": flipped("fc.bias"), "dump": flipped("fc.bias")}, ("forward float64", "fc")),
}  # fmt: skip


@pytest.mark.parametrize("broken", ["torch", "mxnet"])
@pytest.mark.parametrize("name, planted, expected", DEFECTS.values(), ids=DEFECTS)
def test_one_planted_defect_fails_the_right_rung_at_the_right_layer(broken: str, name: str, planted, expected) -> None:
    backends = [Saboteur(b, **planted) if b == broken else b for b in ("torch", "mxnet")]
    report = parity(slim(name), backends, image_size=(64, 64))
    assert not report.holds
    failure = report.failure
    assert failure is not None
    assert (failure.name, failure.where) == expected
    after = report.rungs[failure.number :]
    assert all(rung.status == "skip" for rung in after)
    assert f"rung {failure.number} ({expected[0]}) at {expected[1]}" in report.verdict()


@pytest.mark.parametrize("broken", ["torch", "mxnet"])
def test_a_sum_that_does_not_add_is_named(broken: str) -> None:
    import torch

    from resnet_xf_mxnet.loan import mx

    class Subtracts(Saboteur):
        """One block's sum is a difference."""

        def build(self, node, dtype="float32"):
            network = self.real.build(node, dtype)
            if broken == "torch":

                class Difference(torch.nn.Module):
                    def forward(self, body, shortcut):
                        return body - shortcut

                network.layer2[1].add = Difference()
            else:

                class Difference(mx.gluon.HybridBlock):
                    def hybrid_forward(self, F, body, shortcut):  # noqa: N803
                        return body - shortcut

                network._children["layer2"]._children["1"].register_child(Difference(), "add")
            return network

    report = parity("resnet18", [Subtracts(b) if b == broken else b for b in ("torch", "mxnet")], image_size=(64, 64))
    assert (report.failure.name, report.failure.where) == ("forward float64", "layer2.1.add")


def test_a_defect_behind_zeros_is_found_under_weights_that_hide_nothing() -> None:
    spec = msgspec.structs.replace(get_spec("resnet18"), zero_init_last=True)
    backends = ["torch", Saboteur("mxnet", node=only("layer2.0.bn1", eps=0.1), tells=False)]
    report = parity(spec, backends, image_size=(64, 64), weights=draw_weights(spec))
    assert (report.failure.name, report.failure.where) == ("forward float64", "layer2.0.bn1")
    assert "under weights that hide nothing" in report.verdict()


def test_a_shortcut_that_reads_another_tensor_is_named() -> None:
    from dataclasses import replace

    from resnet_xf.nodes import Residual, Sequential

    class Forgetful(Saboteur):
        """Reads the projected shortcut of a pre-activation block from the raw input."""

        def build(self, node, dtype="float32"):
            children = dict(node.children)
            block = dict(children["layer2"].children)["0"]
            assert isinstance(block, Residual)
            children["layer2"] = Sequential(
                (("0", replace(block, shortcut_from="input")), *children["layer2"].children[1:])
            )
            return self.real.build(Sequential(tuple(children.items())), dtype)

    spec = msgspec.structs.replace(get_spec("resnet18"), preactivation=True)
    report = parity(spec, ["torch", Forgetful("mxnet")], image_size=(64, 64))
    assert (report.failure.name, report.failure.where) == ("forward float64", "layer2.0.downsample.0")


def test_float32_that_is_not_float32_is_caught() -> None:
    class Coarse(Saboteur):
        """Rounds float32 weights to half precision's 11 bits, and hides it."""

        def load(self, network, weights):
            given = {k: v.astype("float16").astype("float32") for k, v in weights.items()}
            is_single = next(iter(self.real.dump(network).values())).dtype == np.float32
            self.real.load(network, given if is_single else weights)
            self.wanted = weights

        def dump(self, network):
            real = self.real.dump(network)
            return {k: self.wanted[k].astype(v.dtype) for k, v in real.items()} if hasattr(self, "wanted") else real

    report = parity("resnet18", ["torch", Coarse("mxnet")], image_size=(64, 64))
    assert (report.failure.name, report.failure.where) == ("forward float32", "conv1")


def test_a_backend_that_varies_is_caught() -> None:
    class Moody(Saboteur):
        calls = 0

        def forward(self, network, images):
            self.calls += 1
            return self.real.forward(network, images) * np.float32(1 + self.calls * 2**-20)

    report = parity("d2l_resnet18", ["torch", Moody("mxnet")])
    assert report.failure.name == "determinism"


@pytest.mark.parametrize(
    "name, value, says",
    [
        ("fc.bias", np.nan, "fc.bias: holds NaN"),
        ("bn1.running_var", -1, "bn1.running_var: holds negative"),
        ("conv1.weight", np.inf, "conv1.weight: holds NaN or infinite"),
    ],
)
def test_numbers_that_compare_with_nothing_are_refused(name: str, value: float, says: str) -> None:
    weights = draw_weights("d2l_resnet18", scheme="probe")
    weights[name].flat[2] = value
    with pytest.raises(WeightsError, match=says):
        parity("d2l_resnet18", weights=weights)
    with pytest.raises(DataError, match="NaN"):
        parity("d2l_resnet18", images=np.full((1, 1, 96, 96), np.nan, np.float32))


def test_nan_that_a_network_makes_on_both_sides_is_no_agreement() -> None:
    weights = draw_weights("d2l_resnet18", scheme="probe")
    for name in weights:
        weights[name][:] = 3e38 if name.endswith("conv1.weight") else weights[name]
    report = parity("d2l_resnet18", weights=weights)
    assert report.failure.name in ("determinism", "forward float64", "forward float32")


def test_any_numpy_array_will_do() -> None:
    flipped_channels = photographs((64, 64))[:, ::-1, :, ::-1]
    weights = {k: v.astype(">f4") for k, v in draw_weights("resnet18", scheme="probe").items()}
    weights["fc.weight"] = weights["fc.weight"][::-1]
    for images in (flipped_channels, flipped_channels.astype(">f4"), flipped_channels.astype("float64")):
        assert_parity("resnet18", images=images, weights=weights)


def test_a_torchvision_state_dict_of_arrays_can_be_proven() -> None:
    import torchvision

    weights = {k: v.numpy() for k, v in torchvision.models.resnet18().state_dict().items()}
    assert "given as arrays" in assert_parity("resnet18", image_size=(64, 64), weights=weights).weights


def test_a_network_that_breaks_is_a_finding() -> None:
    class Mute(Saboteur):
        def forward(self, network, images):
            raise RuntimeError("out of luck\nand more")

    report = parity("d2l_resnet18", ["torch", Mute("mxnet")])
    assert (report.failure.name, report.failure.detail) == ("determinism", "it does not run: out of luck")


def test_assert_parity_names_rung_and_layer() -> None:
    with pytest.raises(
        AssertionError,
        match=r"rung 4 \(forward float64\) at bn1: mxnet is not torch \(relative error [\d.e-]+, bound 1e-11\)",
    ):
        assert_parity("d2l_resnet18", ["torch", Saboteur("mxnet", node=only("bn1", eps=1e-3), tells=False)])


@pytest.mark.parametrize("backends", [["torch"], ["torch", "pytorch"], []])
def test_fewer_than_two_backends_prove_nothing(backends: list[str]) -> None:
    with pytest.raises(BackendError, match="two or more different backends"):
        parity("resnet18", backends)


def test_images_and_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match="conv1: expected 1 channels, got 3"):
        parity("d2l_resnet18", images=np.zeros((1, 3, 96, 96), np.float32))
    with pytest.raises(WeightsError, match="missing: conv1.weight"):
        parity("d2l_resnet18", weights={})


def test_the_report_as_json_is_complete() -> None:
    report = parity("d2l_resnet18")
    data = json.loads(report.to_json())
    assert data["holds"] is True
    assert data["verdict"] == report.verdict()
    assert set(data["backends"]) == {"torch", "mxnet"}
    assert [rung["status"] for rung in data["rungs"]] == ["pass"] * 5
    assert msgspec.convert(data["spec"], ResNetSpec) == report.spec


def test_relative_error() -> None:
    ones = np.ones((2, 3))
    assert relative_error(ones, ones) == 0
    assert relative_error(ones * 1.5, ones * 2) == 0.25
    assert relative_error(-ones, ones) == 2
    assert relative_error(ones, ones[:1]) == np.inf
    assert relative_error(ones * np.nan, ones * np.nan) == np.inf
    assert relative_error(ones, ones * 0) == np.inf
    assert relative_error(ones * 0, ones * 0) == 0


def test_same_bits_tells_the_zeros_apart() -> None:
    assert same_bits(np.array([np.nan]), np.array([np.nan]))
    assert not same_bits(np.array([0.0]), np.array([-0.0]))
    assert not same_bits(np.array([1.0]), np.array([1.0], np.float32))


def test_the_float32_bound_grows_as_the_root_of_the_depth() -> None:
    shallow, deep = (float32_bound(trace(name, (1, 3, 224, 224)), 0.5) for name in ("resnet18", "resnet152"))
    assert 2 < deep / shallow < 4
    assert shallow < 1e-5
    assert float32_bound(trace("resnet18", (1, 3, 224, 224)), 10) == pytest.approx(10 * shallow)
