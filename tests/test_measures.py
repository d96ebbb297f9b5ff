"""Errors between results, and the bounds on them."""

from math import inf, isnan, nan, sqrt

import msgspec
import numpy as np
import pytest

from resnet_xf import ResNetSpec, Stage, Stem
from resnet_xf.architecture.measures import (
    BLOCK,
    EPSILON,
    HEADROOM,
    array_digest,
    largest,
    largest_rounding,
    layer_errors,
    layer_of,
    layer_sizes,
    relative_error,
    rounding_bound,
    roundings,
    same_bits,
    tensor_errors,
)
from resnet_xf.architecture.plan import plan
from resnet_xf.architecture.trace import trace


@pytest.mark.parametrize("name", ["float64", "float32", "float16"])
def test_epsilon_is_the_distance_from_one_to_the_next_number(name: str) -> None:
    assert EPSILON[name] == float(np.finfo(name).eps)


def test_bfloat16_is_the_upper_half_of_float32() -> None:
    one, after = np.array([0x3F80 << 16, 0x3F81 << 16], np.uint32).view(np.float32)
    assert (one, EPSILON["bfloat16"]) == (1, after - one)


def test_tf32_has_the_ten_bits_of_float16() -> None:
    assert EPSILON["tf32"] == EPSILON["float16"]


def test_an_error_is_relative_to_the_largest_expected_value() -> None:
    got, expected = np.array([1.0, -7.5]), np.array([2.0, -8.0])
    assert relative_error(got, expected) == 1 / 8
    assert relative_error(expected, got) == 1 / 7.5
    assert relative_error(got, expected, 0.5) == 2
    assert relative_error(expected, expected) == 0
    assert relative_error(np.zeros(0), np.zeros(0)) == 0


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_what_is_not_finite_agrees_with_nothing(value: float) -> None:
    odd, sound = np.array([1.0, value]), np.array([1.0, 2.0])
    assert relative_error(odd, sound) == relative_error(sound, odd) == relative_error(odd, odd) == inf


def test_large_arrays_are_compared_block_by_block_in_any_order() -> None:
    expected = np.ones((2, BLOCK // 2 + 3, 2), np.float32)
    got = np.asfortranarray(expected)
    assert relative_error(got, expected) == 0
    for place in (0, BLOCK - 1, BLOCK, expected.size - 1):
        got = expected.copy()
        got.reshape(-1)[place] = -3
        assert relative_error(np.asfortranarray(got), expected) == 4
        got.reshape(-1)[place] = nan
        assert relative_error(got, expected) == relative_error(expected, got) == inf


def test_the_largest_is_that_of_absolute_values() -> None:
    assert largest(np.array([1.0, -2.0])) == 2
    assert largest(np.array([])) == 0
    assert isnan(largest(np.array([1.0, nan])))


def test_other_shapes_do_not_agree() -> None:
    assert relative_error(np.zeros(2), np.zeros((2, 1))) == inf


def test_zeros_are_met_by_zeros_alone() -> None:
    assert relative_error(np.zeros(2), np.zeros(2)) == 0
    assert relative_error(np.array([0.0, 1e-300]), np.zeros(2)) == inf
    assert relative_error(np.ones(2), np.ones(2), 0.0) == 0


def test_errors_are_measured_in_float64() -> None:
    """The largest float16 minus its negative is beyond float16."""
    largest = np.full(2, 65504, np.float16)
    assert relative_error(-largest, largest) == 2


def test_a_tensor_s_error_is_relative_to_its_layer() -> None:
    expected = {"a.conv.weight": np.array([-8.0, 1.0]), "a.conv.bias": np.array([0.0]), "fc.weight": np.array([2.0])}
    got = {"a.conv.weight": np.array([-8.0, 1.5]), "a.conv.bias": np.array([1.0]), "fc.weight": np.array([2.0])}
    assert layer_of("a.conv.weight") == "a.conv"
    assert layer_sizes(expected) == {"a.conv": 8, "fc": 2}
    assert tensor_errors(got, expected) == {"a.conv.weight": 1 / 16, "a.conv.bias": 1 / 8, "fc.weight": 0}
    assert layer_errors(got, expected) == {"a.conv": 1 / 8, "fc": 0}


def test_tensors_that_are_missing_or_left_over_do_not_agree() -> None:
    assert tensor_errors({"b.x": np.ones(1)}, {"a.x": np.ones(1)}) == {"a.x": inf, "b.x": inf}


def test_same_bits_sees_dtype_shape_and_the_sign_of_zero() -> None:
    zero = np.zeros(2)
    assert same_bits(zero, zero.copy())
    assert not same_bits(zero, -zero)
    assert not same_bits(zero, zero.reshape(1, 2))
    assert not same_bits(np.zeros(2, "f4"), np.zeros(1, "f8"))
    assert not same_bits(np.zeros(2, "i4"), np.zeros(2, "f4"))
    assert same_bits(np.array([nan]), np.array([nan]))


def test_a_digest_is_of_dtype_shape_and_bytes() -> None:
    array = np.arange(6.0).reshape(2, 3)
    others = (array.reshape(3, 2), array.view(np.int64), array + 0.5)
    assert len(array_digest(array)) == 32
    assert array_digest(array) == array_digest(np.asfortranarray(array))
    assert len({array_digest(array), *map(array_digest, others)}) == 4


def test_roundings_are_the_layers_with_weights_and_a_twelfth_of_the_last_map() -> None:
    spec = ResNetSpec(
        name="two",
        in_channels=1,
        num_classes=3,
        stem=Stem(kind="conv3", width=4, stride=1, pool=False),
        stages=(Stage(depth=1, channels=4),),
    )
    planned = plan(spec)
    rows = trace(planned, (1, 1, 6, 8))
    convolutions, norms, linear = 3, 3, 1
    assert roundings(rows) == convolutions + norms + linear + 48 / 12
    assert roundings([]) == 1
    larger = trace(plan(msgspec.structs.replace(spec, stages=(Stage(depth=1, channels=4, stride=2),))), (1, 1, 6, 8))
    assert roundings(larger) == convolutions + norms + linear + 2 + 12 / 12  # and a shortcut's convolution and norm


def test_rounding_grows_with_the_square_root_of_the_steps_and_with_the_gain() -> None:
    base = HEADROOM * 2.0**-52
    assert largest_rounding("float64", 4) == base * 2
    assert largest_rounding("float64", 4, 10) == base * 20
    assert largest_rounding("float64", 4, 0.1) == base * 2
    assert largest_rounding("float64", 4, inf) == largest_rounding("float64", 4, nan) == base * 2


def test_a_bound_is_at_most_half_of_the_digits() -> None:
    assert rounding_bound("float32", 9) == HEADROOM * 2.0**-23 * 3
    assert rounding_bound("float32", 9, 1e30) == sqrt(2.0**-23)
