"""Sketches: a few values that stand for a large array and show any change of it."""

from __future__ import annotations

import numpy as np

from resnet_xf.architecture.weights import Array
from resnet_xf.support.seeding import philox

CHUNKS = 64
"""The number of values in a sketch."""


def sketch(name: str, array: Array) -> Array:
    """Sum each of ``CHUNKS`` chunks of a large array under random factors, scaled to the size of one element.

    The factors are uniform in 0.5…1.5, have random signs, and follow from the name, so sketches of one name can be
    compared. A change of any element changes the sketch by 1/√chunk of its size. So does a swap of two elements.
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
