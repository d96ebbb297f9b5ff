"""Sketches: a few numbers for a large array, which show any change of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from resnet_xf.architecture.nodes import is_statistic
from resnet_xf.architecture.weights import Array
from resnet_xf.ladder.sides.side import State
from resnet_xf.support.seeding import philox

CHUNKS = 64
"""How many numbers stand for a large array of which only a sketch is kept."""


def sketch(name: str, array: Array) -> Array:
    """A large array in ``CHUNKS`` numbers: the sum of each chunk under random factors, on the scale of one element.

    The factors, uniform in 0.5…1.5 with random signs, follow from the name, so that two sketches of one name can be
    compared; a change of any element shows, a √chunk-th of its size, and so does one that swaps two.
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


def sketched(state: State) -> State:
    """A state of whose large arrays only sketches are left; statistics stay whole, for their exact law."""
    arrays = {name: array if is_statistic(name) else sketch(name, array) for name, array in state.arrays.items()}
    return replace(state, arrays=arrays, sketched=True)
