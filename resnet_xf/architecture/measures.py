"""How far apart two results are, and how far apart rounding alone may put them.

One law gives every bound: the dtype's epsilon × √roundings × gain × ``HEADROOM``. How many roundings there are follows
from the layers; how much a rounding is magnified on its way, the gain, is measured on the float64 referee.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import isfinite, prod, sqrt

import numpy as np

from resnet_xf.architecture.nodes import WEIGHTED
from resnet_xf.architecture.trace import Row
from resnet_xf.architecture.weights import Array

EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "tf32": 2.0**-10, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""The distance from 1 to the next number of each precision: IEEE 754's, and NVIDIA's and Google's for the other two."""

HEADROOM = 8
"""How many typical rounding errors a sound result may be from the truth.

Measured: the zoo's networks, of 18 to 152 layers, stay within 3 (``docs/bounds.md``, from ``benchmarks/bounds.py``),
and 600 random networks, with dead channels and constant maps among them, within 6.4 (``benchmarks/false_alarms.py``).
The smallest planted defect that must be seen, an eps changed by a thousandth of itself, is a thousand times further.
"""

FLOAT64_BOUND = 1e-11
"""What a conversion may change of a float64 output, relative; a declared margin, since a checkpoint's own gain is not
measured there. Two sound float64 runs of the zoo's networks were 2e-15 apart at most; a changed operation or setting
shows at 1e-9 or above."""


def relative_error(got: Array, wanted: Array, scale: float | None = None) -> float:
    """The largest absolute difference as a share of the largest wanted value, or of ``scale``.

    Infinite where shapes differ or anything is not finite, so that NaN on both sides is no agreement.
    """
    if got.shape != wanted.shape or not (np.isfinite(got).all() and np.isfinite(wanted).all()):
        return float("inf")
    if not wanted.size:
        return 0.0
    difference = np.abs(got.astype(np.float64) - wanted.astype(np.float64)).max()
    scale = np.abs(wanted).max() if scale is None else scale
    return float(difference / scale) if scale else (0.0 if difference == 0 else float("inf"))


def layer_of(tensor: str) -> str:
    """The name of the layer that holds a tensor: ``layer1.0.conv1`` of ``layer1.0.conv1.weight``."""
    return tensor.rpartition(".")[0]


def tensor_errors(got: Mapping[str, Array], wanted: Mapping[str, Array]) -> dict[str, float]:
    """For each tensor, its largest error as a share of the largest number in any tensor of its layer.

    The layer is the scale, and not the tensor: the gradient of a bias that a norm takes off again is 0 but for
    rounding, and nothing is a share of that. Infinite where a tensor is missing or left over.
    """
    scales = layer_sizes(wanted)
    errors = {
        name: relative_error(got[name], array, scales[layer_of(name)]) if name in got else float("inf")
        for name, array in wanted.items()
    }
    return errors | {name: float("inf") for name in got if name not in wanted}


def layer_sizes(arrays: Mapping[str, Array]) -> dict[str, float]:
    """For each layer, the largest number in any of its tensors, without its sign."""
    found: dict[str, float] = {}
    for name, array in arrays.items():
        found[layer_of(name)] = max(found.get(layer_of(name), 0.0), float(np.abs(array).max(initial=0.0)))
    return found


def layer_errors(got: Mapping[str, Array], wanted: Mapping[str, Array]) -> dict[str, float]:
    """For each layer, the largest of its :func:`tensor_errors`."""
    found: dict[str, float] = {}
    for name, error in tensor_errors(got, wanted).items():
        found[layer_of(name)] = max(found.get(layer_of(name), 0.0), error)
    return found


def same_bits(got: Array, wanted: Array) -> bool:
    """Whether two arrays agree in dtype, shape and every bit, signs of zeros and NaN included."""
    return got.dtype == wanted.dtype and got.shape == wanted.shape and got.tobytes() == wanted.tobytes()


def roundings(rows: Sequence[Row]) -> float:
    """How many independent roundings a forward pass makes on its way, of the rows of its trace.

    One for each layer with weights. A mean over n pixels, summed one by one as MXNet does, adds n/12: the running sum's
    error grows with it.
    """
    layers = sum(1 for row in rows if row.kind in WEIGHTED)
    pixels = [prod(before.output_shape[2:]) for before, row in pairwise(rows) if row.kind == "globalpool"]
    return max(1, layers) + max(pixels, default=0) / 12


def rounding_bound(precision: str, steps: float, gain: float = 1.0) -> float:
    """How far a sound result in a precision may be from the truth, relative.

    Independent roundings add up as the square root of their number (Higham 2002, section 2.8), and a computation that
    makes a small change of its input ``gain`` times as large does so with its roundings too. A gain that is not finite
    allows nothing: else two networks that overflow would be the same. And no bound is above √epsilon: a result of which
    half the digits may be wrong proves nothing.
    """
    bound = HEADROOM * EPSILON[precision] * sqrt(steps) * (max(1.0, gain) if isfinite(gain) else 1.0)
    return min(bound, sqrt(EPSILON[precision]))
