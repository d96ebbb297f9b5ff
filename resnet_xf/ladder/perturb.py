"""Small random changes of tensors. They show how much a network magnifies a rounding error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache

import numpy as np

from resnet_xf.architecture.measures import layer_of
from resnet_xf.architecture.weights import Array
from resnet_xf.backend.observe import Passed
from resnet_xf.support.seeding import seed_of

PERTURBATION = 2.0**-42
"""Relative size of a perturbation in training: a thousand float64 rounding errors. This is large enough to stand out
from rounding errors, and so small that hardly any input of a ReLU changes its sign."""

PIXEL_PERTURBATION = 1e-6
"""Relative size of a perturbation in inference. It may be larger there, because the output of a ReLU has no jump."""


def noise(key: str, shape: tuple[int, ...]) -> Array:
    """Return standard normal float64 values of a shape. The same key gives the same values."""
    return np.random.default_rng(seed_of(key, 8)).standard_normal(shape)


def perturb(array: Array, size: float, key: str) -> Array:
    """Return a float64 copy, each value multiplied by 1 + ``size`` · normal noise. ``key`` is the seed of the noise."""
    choices = np.frombuffer(_bytes(key, 2 * array.size), np.uint16).reshape(array.shape)
    perturbed = np.take(_factors(size), choices, out=np.empty(array.shape), mode="clip")  # each is within the table
    perturbed *= array
    return perturbed


def _bytes(key: str, count: int) -> bytes:
    return np.random.default_rng(seed_of(key, 8)).bytes(count)


@cache
def _factors(size: float) -> Array:
    """Return 2¹⁶ values of 1 + ``size`` · normal noise. To choose among them is faster than to draw more."""
    return 1 + size * noise("factors", (2**16,))


class Computed(Mapping[str, Array]):
    """A mapping of arrays by name. Each array is computed whenever it is read, so they are never in memory together."""

    def __init__(self, names: Iterable[str], compute: Callable[[str], Array]) -> None:
        self._names, self._compute = tuple(names), compute

    def __getitem__(self, name: str) -> Array:
        return self._compute(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def perturb_all(arrays: Mapping[str, Array], size: float) -> Computed:
    """Return the arrays, each perturbed at random by a relative ``size`` (:func:`perturb`) with its name as the key."""
    return Computed(arrays, lambda name: perturb(arrays[name], size, name))


def perturb_pixels(images: Array) -> Array:
    """Return images in float64, with noise of ``PIXEL_PERTURBATION`` times the largest pixel added, also to zeros."""
    images = images.astype(np.float64)
    perturbed: Array = images + PIXEL_PERTURBATION * np.abs(images).max() * noise("images", images.shape)
    return perturbed


def tile(batch: Array, times: int, key: str) -> Array:
    """Repeat the batch ``times`` times along its first axis. Perturb all copies but the first by 50%, seeded by key."""
    return np.concatenate([batch, *(perturb(batch, 0.5, f"{key}/{time}") for time in range(1, times))])


def next_values(arrays: Mapping[str, Array], key: object) -> Computed:
    """Return the arrays, every value changed at random to the next larger or smaller of its dtype; key: the seed."""

    def change(name: str) -> Array:
        array = arrays[name]
        up = np.unpackbits(np.frombuffer(_bytes(f"{key}/{name}", array.size // 8 + 1), np.uint8))[: array.size]
        ends = np.array([-np.inf, np.inf], array.dtype)[up].reshape(array.shape)
        return np.nextafter(array, ends, out=np.empty_like(array))

    return Computed(arrays, change)


def largest_mean(images: Array, eps: float) -> float:
    """Return the largest |mean| / √(variance + ``eps``) among the channels of ``(N, C, H, W)`` or ``(N, C)``.

    A batch norm magnifies a rounding error of the mean by this factor, because it changes all normalised values
    together (Chan, Golub and LeVeque 1983). A random perturbation does not show this: it hardly changes the mean.
    """
    values = images.astype(np.float64)
    axes = (0, *range(2, values.ndim))
    mean, variance = np.abs(values.mean(axes)), values.var(axes)
    return float((mean / np.sqrt(variance + eps)).max())


def longest_sum(weights: Mapping[str, Array], layer: str, passed: Passed) -> float:
    """Return the number of terms in the longest sum that a layer computes, forward or for its input gradients.

    For a global mean these are the pixels. For a convolution these are the weights of one output channel, or of one
    input channel. ``weights`` are the network's, ``passed`` are the layer's inputs and output.
    """
    pixels = [x.size / passed.output.size for x in passed.inputs]
    kernels = [a.size / min(a.shape[:2]) for k, a in weights.items() if layer_of(k) == layer and a.ndim > 1]
    return max([*pixels, *kernels])


def roundings_of_sum(terms: float) -> float:
    """Return as how many rounding errors a sum counts: 1 + terms / 12, since 1/12 is a rounding error's variance."""
    return 1 + terms / 12
