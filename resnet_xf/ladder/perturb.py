"""Small random changes of numbers, by which it is measured how much a rounding is magnified on its way."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from resnet_xf.architecture.measures import layer_of
from resnet_xf.architecture.trace import Passed
from resnet_xf.architecture.weights import Array
from resnet_xf.support.seeding import seed_of

NUDGE = 2.0**-42
"""How far numbers are moved, relatively, to see how much a rounding of float64 is magnified: a thousand roundings, so
that the answer is not itself rounding, and so little that hardly a ReLU changes its mind."""

PIXEL_NUDGE = 1e-6
"""The same in inference, where no ReLU's mind makes a jump."""


def noise(key: str, shape: tuple[int, ...]) -> Array:
    """Normal random numbers, the same for the same key."""
    return np.random.default_rng(seed_of(key, 8)).standard_normal(shape)


def nudge(array: Array, by: float, key: str) -> Array:
    """An array as float64, each number moved at random by so much of itself."""
    moved: Array = array.astype(np.float64) * (1 + by * noise(key, array.shape))
    return moved


def repeated(array: Array, times: int, key: str) -> Array:
    """So many times the images, each time but the first with every number changed at random by about half of itself."""
    return np.concatenate([array, *(nudge(array, 0.5, f"{key}/{time}") for time in range(1, times))])


def neighbours(array: Array, key: str) -> Array:
    """An array with each number moved to the next of its dtype, up or down at random."""
    towards = np.where(noise(key, array.shape) < 0, -np.inf, np.inf).astype(array.dtype)
    moved: Array = np.nextafter(array, towards)
    return moved


def offset(images: Array, eps: float) -> float:
    """How many deviations a norm's input is from 0, in the channel where that is most; ``(N, C, H, W)``.

    A rounding of the mean is so many times as large in the normalised numbers, all of which it moves together (Chan,
    Golub and LeVeque 1983). No nudge shows that: it moves each number by itself, and the mean by far less.
    """
    numbers = images.astype(np.float64)
    mean, variance = np.abs(numbers.mean((0, 2, 3))), numbers.var((0, 2, 3))
    return float((mean / np.sqrt(variance + eps)).max())


def longest_sum(weights: Mapping[str, Array], layer: str, passed: Passed) -> float:
    """How many terms the longest sum has that a layer makes, forwards or from its outputs back to its inputs.

    Of a global mean, the pixels; of a convolution, the weights of one output channel, or of one input channel.
    """
    pixels = [x.size / passed.output.size for x in passed.inputs]
    kernels = [a.size / min(a.shape[:2]) for k, a in weights.items() if layer_of(k) == layer and a.ndim > 1]
    return max([*pixels, *kernels])


def terms(count: float) -> float:
    """The roundings of a sum of so many terms: one, and a twelfth for each, the variance of a rounding error."""
    return 1 + count / 12
