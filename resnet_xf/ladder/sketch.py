"""Sketches: a few values that stand for a large array and show any change of it."""

from __future__ import annotations

import numpy as np

from resnet_xf.architecture.weights import Array
from resnet_xf.support.seeding import philox

CHUNKS = 64
"""The number of values in a sketch."""


def sketch(name: str, array: Array) -> Array:
    """Return ``CHUNKS`` values that stand for a large array: a weighted sum of each chunk, divided by √(chunk size).

    The weights are uniform in 0.5…1.5, have random signs, and depend on ``name`` alone. So sketches under the same name
    can be compared. A change of any element, or a swap of two, changes the sketch by 1/√(chunk size) of its size.
    Arrays of up to ``CHUNKS`` values are returned as they are.
    """
    if array.size <= CHUNKS:
        return array
    width = -(-array.size // CHUNKS)
    padded = np.zeros(CHUNKS * width)
    padded[: array.size] = array.ravel()
    words = philox(name).random_raw(width)
    factors = (0.5 + (words >> 11) * 2.0**-53) * np.where(words & 1, 1.0, -1.0)
    summed: Array = padded.reshape(CHUNKS, width) @ factors / np.sqrt(width)
    return summed
