import json

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from msgspec.structs import replace

from helpers.narrow import narrowed, shortened
from helpers.sabotage import Bare, Saboteur, only
from helpers.strategies import fits, specs
from resnet_xf import (
    ResNetSpec,
    Stage,
    Stem,
    assert_parity,
    draw_weights,
    get_spec,
    list_models,
    parity,
    save_weights,
    trace,
)
from resnet_xf.architecture.measures import HEADROOM, rounding_bound, roundings, same_bits
from resnet_xf.architecture.spec import SqueezeExcitation
from resnet_xf.architecture.zoo import REFERENCE
from resnet_xf.data import photographs
from resnet_xf.errors import BackendError, DataError, ShapeError, WeightsError
from resnet_xf.ladder.inputs import subject_of
from resnet_xf.ladder.training_errors import loss_error

FIRST = ("resnet18", "resnet34", "resnet50", "resnet50_v1", "d2l_resnet18")
# Not the Gluon zoo's, which test_zoo holds against their reference on both backends, nor GluonCV's, which are timm's, nor
# dilated ones, which test_zoo draws, nor ArcFace's, which take 112×112 alone; test_nodes and test_graph have small ones.
# docs/bounds.md has those of 101 and 152 layers.
PROVEN = ("resnet50_v1b", "resnet50_v1c", "resnet50_v1d", "resnet50_v1s", "resnet50_os8", "resnet50_os16", "resnet101")
OTHERS = [n for n in list_models() if n not in (*FIRST, *PROVEN) and REFERENCE[n] not in ("gluon", "insightface")]
# resnet50 has its true depth and widths here, and resnet18 in test_docs, once with images of 224×224.
WHOLE = {name: get_spec(name) if name == "resnet50" else shortened(name) for name in FIRST}


def kind(spec: ResNetSpec) -> ResNetSpec:
    """The spec but for its widths; only whether the blocks of a stage differ in width is kept."""
    stages = (
        replace(s, channels=1, mid_channels=((1,),) if isinstance(s.mid_channels, tuple) else 1) for s in spec.stages
    )
    return replace(spec, stem=replace(spec.stem, width=1, hidden=None), stages=tuple(stages))


# One network of each kind: test_source has all of them.
KINDS = {kind(shortened(name)): name for name in reversed((*FIRST, *OTHERS))}


@pytest.mark.parametrize("name", FIRST)
def test_every_zoo_network_is_the_same_on_both_backends(name: str) -> None:
    report = assert_parity(WHOLE[name], level="quick", image_size=(64, 96))
    assert [rung.name for rung in report.rungs] == [
        *("shapes", "weights", "determinism", "forward float64", "forward float32"),
    ]
    assert report.input_shape[2:] == (64, 96)
    worst = report.rungs[3].value
    assert worst is not None
    assert 0 < worst < 1e-13  # a comparison of a thing with itself would give 0
    assert report.rungs[4].value < report.rungs[4].bound / 3


@pytest.mark.parametrize("name", [name for name in KINDS.values() if name not in FIRST])
def test_every_other_kind_of_network_in_the_zoo_is_too_at_a_smaller_size_and_depth(name: str) -> None:
    assert_parity(shortened(name), level="quick", image_size=(32, 32))


@pytest.mark.parametrize("name", ["cifar_resnet20_v1", "cifar_resnet20_v2"])
def test_a_few_are_the_same_in_training_too(name: str) -> None:
    """With two blocks in place of three: the third repeats the second, and the ladder's cost is by the layer."""
    spec = narrowed(get_spec(name), 2)
    spec = replace(spec, stages=tuple(replace(stage, depth=2) for stage in spec.stages))
    report = assert_parity(spec, level="standard", image_size=(16, 16))
    assert [rung.name for rung in report.rungs[5:]] == ["layers", "gradients", "lock-step"]
    assert len(report.layers) > 20
    assert report.rungs[6].value > 0
    assert "in inference, and torch and mxnet in training (8 rungs hold; 7 to 8 without onnx" in report.verdict()


@pytest.mark.parametrize(
    "spec, size, seed",
    [
        (narrowed(get_spec("resnet152"), 8), 32, 1),  # above is a wide one
        (narrowed(get_spec("cifar_resnet110_v1"), 2), 16, 1),
        (narrowed(get_spec("cifar_resnet110_v2"), 2), 16, 2),
    ],
    ids=["resnet152", "cifar_resnet110_v1", "cifar_resnet110_v2"],
)
def test_float32_stays_far_within_its_bound_with_another_seed(spec: ResNetSpec, size: int, seed: int) -> None:
    last = assert_parity(spec, level="quick", image_size=(size, size), seed=seed).rungs[-1]
    assert last.value < last.bound / 3


@pytest.mark.parametrize("seed", range(3))
def test_a_mean_over_many_pixels_is_given_its_due(seed: int) -> None:
    """MXNet sums a map's 50,176 pixels one by one, which costs more than a shallow network's layers do."""
    stem = Stem(kind="conv3", width=4, stride=1, pool=False)
    spec = ResNetSpec(name="wide_open", stem=stem, stages=(Stage(depth=1, channels=4),), num_classes=10)
    last = assert_parity(spec, level="quick", seed=seed).rungs[-1]
    assert last.value < last.bound / 3


def test_a_network_that_no_zoo_has(odd_spec: ResNetSpec, tmp_path) -> None:
    path = tmp_path / "odd.toml"
    path.write_text(odd_spec.to_toml())
    report = assert_parity(get_spec(path), level="standard")
    assert report.input_shape == (2, 3, 67, 61)


@settings(max_examples=20)
@given(specs().filter(fits))
def test_any_sound_spec_is_the_same_on_both_backends(spec: ResNetSpec) -> None:
    """``benchmarks/false_alarms.py`` climbs 200 of them."""
    assert_parity(spec, level="quick")


@settings(max_examples=3)
@given(specs().filter(fits))
def test_any_sound_spec_raises_no_false_alarm_in_training(spec: ResNetSpec) -> None:
    """``benchmarks/false_alarms.py`` climbs 200 of them."""
    assert_parity(spec, level="standard")


def small(**fields) -> ResNetSpec:
    return ResNetSpec(
        name="small", stem=Stem(width=4), stages=(Stage(depth=1, channels=4),), image_size=(16, 16), **fields
    )


def test_images_of_zeros_raise_no_false_alarm() -> None:
    assert_parity(small(), images=np.zeros((2, 3, 16, 16), np.float32))


def test_one_class_raises_no_false_alarm() -> None:
    """Its loss is 0 whatever it computes, and so are all of its gradients."""
    verdict = assert_parity(small(num_classes=1)).verdict()
    assert "every gradient is 0, as with one output, so little of training is compared" in verdict
    assert "every gradient is 0" not in assert_parity(small(num_classes=2)).verdict()


def test_one_image_of_one_pixel_raises_no_false_alarm() -> None:
    """A norm in training takes more than one number."""
    assert_parity(small(), images=photographs((8, 8))[:1])


@pytest.mark.parametrize(
    "name, value, says",
    [
        ("fc.bias", np.nan, "fc.bias: holds NaN"),
        ("bn1.running_var", -1, "bn1.running_var: holds negative"),
        ("conv1.weight", np.inf, "conv1.weight: holds NaN or infinite"),
        ("conv1.weight", 1e39, "conv1.weight has the value 1e.39, and float32 ends at 3.403e.38"),
    ],
)
def test_numbers_that_compare_with_nothing_are_refused(name: str, value: float, says: str) -> None:
    spec = narrowed(get_spec("d2l_resnet18"), 8)
    weights = draw_weights(spec, 0, "probe", "float64")
    weights[name].flat[2] = value
    with pytest.raises(WeightsError, match=says):
        parity(spec, weights=weights)
    with pytest.raises(DataError, match="NaN"):
        parity(spec, images=np.full((1, 1, 96, 96), np.nan, np.float32))


def test_any_numpy_array_will_do() -> None:
    flipped_channels = photographs((16, 16))[:, ::-1, :, ::-1]
    weights = {k: v.astype(">f4") for k, v in draw_weights(small(), scheme="probe").items()}
    weights["fc.weight"] = weights["fc.weight"][::-1]
    for images in (flipped_channels, flipped_channels.astype(">f4"), flipped_channels.astype("float64")):
        assert_parity(small(), level="quick", images=images, weights=weights)


def test_a_checkpoint_named_as_the_network_is_compared_as_given_weights_are(tmp_path) -> None:
    """Also under weights that hide nothing, and its learning curves start from its own weights."""
    path, weights = tmp_path / "tuned.safetensors", draw_weights(small(), 3)
    save_weights(path, weights, small())
    assert "also under weights that hide nothing" in assert_parity(str(path), level="quick").rungs[3].detail
    subject, *_ = subject_of(str(path), None, None, None, 0, None)
    assert subject.probe is not None
    assert all(same_bits(array, weights[name]) for name, array in subject.curve_start().items())


def test_a_torchvision_state_dict_of_arrays_can_be_proven() -> None:
    import torch
    import torchvision

    network = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])
    network.layer3, network.layer4, network.fc = torch.nn.Identity(), torch.nn.Identity(), torch.nn.Linear(128, 10)
    weights = {k: v.numpy() for k, v in network.state_dict().items()}
    spec = get_spec("resnet18")
    spec = replace(spec, num_classes=10, stages=tuple(replace(stage, depth=1) for stage in spec.stages[:2]))
    assert "given as arrays" in assert_parity(spec, level="quick", image_size=(32, 32), weights=weights).weights


def test_assert_parity_names_rung_and_layer() -> None:
    with pytest.raises(
        AssertionError,
        match=r"rung 4 \(forward float64\) at bn1: mxnet is not torch \(relative error [\d.e-]+, bound [\d.e-]+\)",
    ):
        assert_parity(
            narrowed(get_spec("d2l_resnet18"), 8),
            ["torch", Saboteur("mxnet", node=only("bn1", eps=1e-3), tells=False)],
            image_size=(32, 32),
        )


@pytest.mark.parametrize("backends", [["torch"], ["torch", "pytorch"], []])
def test_fewer_than_two_backends_prove_nothing(backends: list[str]) -> None:
    with pytest.raises(BackendError, match="two or more different backends"):
        parity(small(), backends)


def test_images_and_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match="conv1: expected 1 channels, got 3"):
        parity("d2l_resnet18", images=np.zeros((1, 3, 96, 96), np.float32))
    with pytest.raises(WeightsError, match="missing: conv1.weight"):
        parity("d2l_resnet18", weights={})


def test_the_report_as_json_is_complete() -> None:
    report = parity(small(), level="quick")
    data = json.loads(report.to_json())
    assert data["holds"] is True
    assert data["verdict"] == report.verdict()
    assert set(data["backends"]) == {"torch", "mxnet", "onnx"}
    assert [rung["status"] for rung in data["rungs"]] == ["pass"] * 5
    assert msgspec.convert(data["spec"], ResNetSpec) == report.spec


def test_the_bound_grows_as_the_root_of_the_depth() -> None:
    traces = {name: trace(name, (1, 3, 224, 224)) for name in ("resnet18", "resnet152")}
    shallow, deep = (rounding_bound("float32", roundings(rows), 0.5) for rows in traces.values())
    assert 2 < deep / shallow < 4
    assert shallow < 1e-5
    assert rounding_bound("float32", roundings(traces["resnet18"]), 10) == pytest.approx(10 * shallow)
    assert rounding_bound("float64", 4, 3) == pytest.approx(HEADROOM * 2.0**-52 * 2 * 3)


@pytest.mark.parametrize("gain", [np.inf, np.nan])
def test_what_overflows_when_nudged_is_allowed_nothing_more(gain: float) -> None:
    assert rounding_bound("float32", 9, gain) == rounding_bound("float32", 9)


def test_a_loss_is_compared_as_the_logarithm_that_it_is() -> None:
    assert loss_error(2.5, 2.0) == 0.25
    assert loss_error(1e-8, 0.0) == 1e-8
    assert loss_error(np.nan, np.nan) == np.inf


def test_a_gate_whose_one_hidden_number_cancels_out_raises_no_false_alarm() -> None:
    """Its six means add up to a 268th of themselves, and a nudge of the pixels need not show it."""
    spec = ResNetSpec(
        name="gated",
        in_channels=1,
        num_classes=5,
        image_size=(29, 24),
        stem=Stem(kind="conv3", width=2),
        stages=(Stage(depth=2, channels=6, stride=2, groups=2),),
        preactivation=True,
        shortcut="conv",
        shortcut_norm=True,
        conv_bias=("3x3", "stem"),
        se=SqueezeExcitation(ratio=0.0625, divisor=1, bias=False),
        norm_momentum=0.01,
        zero_init_last=True,
    )
    assert_parity(spec, level="standard")


def test_rungs_that_a_backend_cannot_climb_are_skipped_and_nothing_more_is_claimed() -> None:
    report = assert_parity(small(), ["mxnet", Bare()])
    assert [rung.status for rung in report.rungs] == ["pass"] * 5 + ["skip"] * 3
    assert [rung.detail for rung in report.rungs[5:]] == ["bare cannot run layers alone"] + ["bare cannot train"] * 2
    assert report.verdict() == (
        "small: mxnet and bare are the same network in inference (5 rungs hold; "
        "6 skipped: bare cannot run layers alone; 7 to 8 skipped: bare cannot train)"
    )
    with pytest.raises(BackendError, match="bare has no bfloat16"):
        parity(small(), [Bare(), Bare("bald")], precisions=["bfloat16"])
    report = parity(small(), ["torch", Bare()], level="quick", precisions=["bfloat16"])
    assert "bare has no bfloat16" in report.rungs[5].detail
    report = parity(small(), [Saboteur("mxnet", node=only("bn1", eps=1e-3), tells=False), Bare()])
    assert (report.failure.number, report.failure.where) == (4, "bn1")
    assert "mxnet does not give eps and momentum of" in report.rungs[0].detail
