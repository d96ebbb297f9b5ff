"""Errors between two results, and the bounds that rounding alone sets on them.

One law gives every bound: epsilon of the dtype × √roundings × gain × ``HEADROOM``. The number of roundings follows from
the layers. The gain, by which a network magnifies a rounding error, is measured on the float64 reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from itertools import pairwise
from math import isfinite, prod, sqrt

import numpy as np

from resnet_xf.architecture.nodes import WEIGHTED
from resnet_xf.architecture.trace import Row
from resnet_xf.architecture.weights import Array

EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "tf32": 2.0**-10, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""The distance from 1 to the next number: by IEEE 754, for TF32 by NVIDIA, for bfloat16 by Google."""

HEADROOM = 8
"""How many typical rounding errors a correct result may be from the exact one.

Measured: the zoo's networks, of 18 to 152 layers, need at most 3 (``docs/bounds.md``, ``benchmarks/bounds.py``). 600
random networks, some with dead channels or constant maps, need at most 5.7 (``benchmarks/false_alarms.py``). The
smallest planted defect, an eps changed by a thousandth, is a thousand times further away.
"""

BLOCK = 2**15
"""How many values are compared at a time."""

FLOAT64_BOUND = 1e-11
"""The largest relative error of a float64 output after a conversion that is not looked into.

For a larger one, the gain of the network is measured (:mod:`resnet_xf.formats.verify`).

Measured: two correct float64 runs of a zoo network differ by at most 2e-15; a changed operation or setting makes a
difference of at least 1e-9.
"""


def relative_error(got: Array, expected: Array, scale: float | None = None) -> float:
    """The largest absolute difference, divided by ``scale`` or else by the largest absolute expected value.

    Infinite if the shapes differ or any value is not finite: two NaN do not agree.
    """
    if got.shape != expected.shape:
        return float("inf")
    difference = largest_difference(got, expected)
    if not isfinite(difference):
        return float("inf")
    scale = largest(expected) if scale is None else scale
    return difference / scale if scale else (0.0 if difference == 0 else float("inf"))


def largest_difference(got: Array, expected: Array) -> float:
    """The largest absolute difference of two arrays of one shape, in float64; NaN or infinite if a value is.

    Computed in blocks that fit in a processor's cache, because a copy of a large array takes longer than the sum.
    """
    flat, other = got.reshape(-1), expected.reshape(-1)
    most = 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, flat.size, BLOCK):
            block = np.subtract(flat[start : start + BLOCK], other[start : start + BLOCK], dtype=np.float64)
            difference = largest(block)
            if not isfinite(difference):
                return difference
            most = max(most, difference)
    return most


def largest(array: Array) -> float:
    """The largest absolute value of an array; 0 if it is empty, NaN if a value is."""
    return float(max(array.max(initial=0.0), -array.min(initial=0.0)))


def layer_of(tensor: str) -> str:
    """The name of the layer that has a tensor: ``layer1.0.conv1`` for ``layer1.0.conv1.weight``."""
    return tensor.rpartition(".")[0]


def tensor_errors(got: Mapping[str, Array], expected: Mapping[str, Array]) -> dict[str, float]:
    """For each tensor, its largest error relative to the largest absolute value in any tensor of its layer.

    The scale is the layer's and not the tensor's, because a tensor may be 0 but for rounding: the gradient of a bias
    before a batch norm is. Infinite where a tensor is missing or left over.
    """
    scales = layer_sizes(expected)
    errors = {
        name: relative_error(got[name], array, scales[layer_of(name)]) if name in got else float("inf")
        for name, array in expected.items()
    }
    return errors | {name: float("inf") for name in got if name not in expected}


def layer_sizes(arrays: Mapping[str, Array]) -> dict[str, float]:
    """For each layer, the largest absolute value in any of its tensors."""
    return _largest_by_layer({name: largest(array) for name, array in arrays.items()})


def layer_errors(got: Mapping[str, Array], expected: Mapping[str, Array]) -> dict[str, float]:
    """For each layer, the largest of its :func:`tensor_errors`."""
    return _largest_by_layer(tensor_errors(got, expected))


def _largest_by_layer(values: Mapping[str, float]) -> dict[str, float]:
    largest: dict[str, float] = {}
    for name, value in values.items():
        largest[layer_of(name)] = max(largest.get(layer_of(name), 0.0), value)
    return largest


def same_bits(got: Array, expected: Array) -> bool:
    """Whether two arrays agree in dtype, shape and every bit, including signs of zeros and NaN."""
    if got.dtype != expected.dtype or got.shape != expected.shape:
        return False
    first, second = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in (got, expected))
    return np.array_equal(first, second)


def array_digest(array: Array) -> str:
    """Return a digest (BLAKE2b, 16 bytes, in hex) of an array's dtype, shape and bytes."""
    hasher = blake2b(f"{array.dtype.str} {array.shape}".encode(), digest_size=16)
    hasher.update(np.ascontiguousarray(array).data)
    return hasher.hexdigest()


def roundings(rows: Sequence[Row]) -> float:
    """The number of independent roundings in a forward pass, from the rows of its trace.

    Each layer with weights makes one. A global mean of n pixels adds n/12: MXNet adds the pixels one by one, and the
    error grows with the running sum.
    """
    layers = sum(1 for row in rows if row.kind in WEIGHTED)
    pixels = [prod(before.output_shape[2:]) for before, row in pairwise(rows) if row.kind == "globalpool"]
    return max(1, layers) + max(pixels, default=0) / 12


def largest_rounding(precision: str, steps: float, gain: float = 1.0) -> float:
    """The largest relative error that rounding alone explains in a correct result.

    Independent rounding errors grow as the square root of their number (Higham 2002, section 2.8). A network that
    magnifies a small change of its input by ``gain`` magnifies its rounding errors too. A gain that is not finite
    counts as 1, else any two networks that overflow would agree.
    """
    return HEADROOM * EPSILON[precision] * sqrt(steps) * (max(1.0, gain) if isfinite(gain) else 1.0)


def rounding_bound(precision: str, steps: float, gain: float = 1.0) -> float:
    """The bound of a relative error: :func:`largest_rounding`, but at most √epsilon.

    A result with half of its digits wrong proves nothing.
    """
    return min(largest_rounding(precision, steps, gain), sqrt(EPSILON[precision]))
