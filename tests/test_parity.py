import json

import msgspec
import numpy as np
import pytest
from hypothesis import given, reject, settings

from resnet_xf import (
    BackendError,
    ResNetSpec,
    ShapeError,
    WeightsError,
    assert_parity,
    draw_weights,
    get_spec,
    list_models,
    parity,
    trace,
)
from resnet_xf.nodes import Norm, Pool
from resnet_xf.parity.measures import float32_bound, relative_error, same_bits
from resnet_xf.plan import plan
from sabotage import Saboteur, only
from strategies import specs

SIZES = [(name, (224, 224)) for name in list_models()] + [("d2l_resnet18", (96, 96))]


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
    "momentum for eps": ("resnet18", {"node": only("layer2.0.bn1", eps=0.1)}, ("forward float64", "layer2.0.bn1")),
    "eps 1e-3": ("resnet18", {"node": only("bn1", eps=1e-3)}, ("forward float64", "bn1")),
    "eps off by a thousandth of itself": ("resnet18", {"node": only("bn1", eps=1.001e-5)}, ("forward float64", "bn1")),
    "average for max": ("resnet18", {"node": only("maxpool", operation="avg")}, ("forward float64", "maxpool")),
    "sigmoid for relu": ("resnet18", {"node": only("act1", function="sigmoid")}, ("forward float64", "act1")),
    "dilation at the same size": ("resnet18", {"node": only("layer4.1.conv1", dilation=2, padding=2)}, ("forward float64", "layer4.1.conv1")),
    "the last layer": ("resnet18", {"load": flipped("fc.bias"), "dump": flipped("fc.bias")}, ("forward float64", "fc")),
}  # fmt: skip


@pytest.mark.parametrize("broken", ["torch", "mxnet"])
@pytest.mark.parametrize("name, planted, expected", DEFECTS.values(), ids=DEFECTS)
def test_one_planted_defect_fails_the_right_rung_at_the_right_layer(broken: str, name: str, planted, expected) -> None:
    backends = [Saboteur(b, **planted) if b == broken else b for b in ("torch", "mxnet")]
    report = parity(name, backends, image_size=(64, 64))
    assert not report.holds
    failure = report.failure
    assert failure is not None
    assert (failure.name, failure.where) == expected
    after = report.rungs[failure.number :]
    assert all(rung.status == "skip" for rung in after)
    assert f"rung {failure.number} ({expected[0]}) at {expected[1]}" in report.verdict()


def test_a_residual_that_adds_nothing_is_named_itself() -> None:
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


def test_nan_on_both_sides_is_no_agreement() -> None:
    weights = draw_weights("d2l_resnet18", scheme="probe")
    weights["fc.bias"][2] = np.nan
    report = parity("d2l_resnet18", weights=weights)
    assert (report.failure.name, report.failure.where) == ("forward float64", "fc")


def test_a_network_that_breaks_is_a_finding() -> None:
    class Mute(Saboteur):
        def forward(self, network, images):
            raise RuntimeError("out of luck\nand more")

    report = parity("d2l_resnet18", ["torch", Mute("mxnet")])
    assert (report.failure.name, report.failure.detail) == ("determinism", "it does not run: out of luck")


def test_assert_parity_names_rung_and_layer() -> None:
    with pytest.raises(AssertionError, match=r"rung 4 \(forward float64\) at bn1: mxnet is not torch"):
        assert_parity("d2l_resnet18", ["torch", Saboteur("mxnet", node=only("bn1", eps=1e-3))])


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
    shallow, deep = float32_bound(plan("resnet18").root), float32_bound(plan("resnet152").root)
    assert 2 < deep / shallow < 4
    assert shallow < 1e-5
    assert float32_bound(Pool("max", 2, 2)) < float32_bound(Norm(3, 1e-5, 0.1)) * 1.01
