"""How far apart two results are, and how far apart rounding alone may put them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod, sqrt

import numpy as np

from resnet_xf.trace import Row
from resnet_xf.weights import Array

FLOAT64_BOUND = 1e-11
"""Relative. Two float64 implementations of the zoo's networks were measured 2e-15 apart at most; a difference in
arithmetic that matters shows at 1e-9 or above. The bound stands between."""

FLOAT32_MULTIPLE = 8
"""How many typical rounding errors a float32 result may be from the truth; the zoo's networks stay within 2."""


def relative_error(got: Array, wanted: Array) -> float:
    """The largest absolute difference as a share of the largest wanted value.

    Infinite where shapes differ or anything is not finite, so that NaN on both sides is no agreement.
    """
    if got.shape != wanted.shape or not (np.isfinite(got).all() and np.isfinite(wanted).all()):
        return float("inf")
    if not wanted.size:
        return 0.0
    difference = np.abs(got.astype(np.float64) - wanted.astype(np.float64)).max()
    scale = np.abs(wanted).max()
    return float(difference / scale) if scale else (0.0 if difference == 0 else float("inf"))


def same_bits(got: Array, wanted: Array) -> bool:
    """Whether two arrays agree in dtype, shape and every bit, signs of zeros and NaN included."""
    return got.dtype == wanted.dtype and got.shape == wanted.shape and got.tobytes() == wanted.tobytes()


def float32_bound(rows: Sequence[Row], gain: float) -> float:
    """How far a sound float32 forward pass may be from the float64 one, relative.

    Each layer with weights rounds its result; independent roundings add up as the square root of their number
    (Higham 2002, section 2.8): the dtype's epsilon × √roundings, times ``FLOAT32_MULTIPLE``. A mean over n pixels,
    summed one by one as MXNet does, adds n/12 roundings: the running sum's error grows with it. A network that carries
    a small change of its input to its output ``gain`` times as large does so with its roundings too.
    """
    layers = sum(1 for row in rows if row.kind in ("conv", "norm", "linear"))
    pixels = [prod(before.output_shape[2:]) for before, row in pairwise(rows) if row.kind == "globalpool"]
    roundings = max(1, layers) + max(pixels, default=0) / 12
    return FLOAT32_MULTIPLE * float(np.finfo(np.float32).eps) * sqrt(roundings) * max(1.0, gain)
