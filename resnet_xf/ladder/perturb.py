"""Small random changes of tensors. They show how much a network magnifies a rounding error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from resnet_xf.architecture.measures import layer_of
from resnet_xf.architecture.weights import Array
from resnet_xf.backend.observe import Passed
from resnet_xf.support.seeding import seed_of

PERTURBATION = 2.0**-42
"""Relative size of a perturbation in training: a thousand float64 rounding errors. So the answer is not rounding error
itself, and hardly any ReLU input changes its sign."""

PIXEL_PERTURBATION = 1e-6
"""Relative size of a perturbation in inference, where a ReLU makes no jump."""


def noise(key: str, shape: tuple[int, ...]) -> Array:
    """Return standard normal float64 values. The same key gives the same values."""
    return np.random.default_rng(seed_of(key, 8)).standard_normal(shape)


def perturb(array: Array, size: float, key: str) -> Array:
    """Return an array in float64, each value changed at random by about ``size`` of itself."""
    normal = np.random.default_rng(seed_of(key, 8)).standard_normal(array.shape, np.float32)
    perturbed: Array = np.multiply(normal, size, dtype=np.float64)
    perturbed += 1
    perturbed *= array
    return perturbed


class Computed(Mapping[str, Array]):
    """Arrays by name that are computed each time they are read, so that they are never in memory together."""

    def __init__(self, names: Iterable[str], compute: Callable[[str], Array]) -> None:
        self._names, self._compute = tuple(names), compute

    def __getitem__(self, name: str) -> Array:
        return self._compute(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def perturb_all(arrays: Mapping[str, Array], size: float) -> Computed:
    """Perturb every array at random, by a relative ``size``, seeded by its name; each is computed when it is read."""
    return Computed(arrays, lambda name: perturb(arrays[name], size, name))


def perturb_pixels(images: Array) -> Array:
    """Return images in float64, each pixel changed by a share of the brightest one. So black pixels change too."""
    images = images.astype(np.float64)
    perturbed: Array = images + PIXEL_PERTURBATION * np.abs(images).max() * noise("images", images.shape)
    return perturbed


def tile(batch: Array, times: int, key: str) -> Array:
    """Tile the batch; perturb every copy but the first by about 50%."""
    return np.concatenate([batch, *(perturb(batch, 0.5, f"{key}/{time}") for time in range(1, times))])


def next_values(arrays: Mapping[str, Array], key: object) -> Computed:
    """Change every value to the next larger or next smaller one of its dtype, at random."""

    def change(name: str) -> Array:
        array = arrays[name]
        up = np.random.default_rng(seed_of(f"{key}/{name}", 8)).random(array.shape, np.float32) < 0.5
        changed: Array = np.nextafter(array, np.where(up, array.dtype.type(np.inf), array.dtype.type(-np.inf)))
        return changed

    return Computed(arrays, change)


def largest_mean(images: Array, eps: float) -> float:
    """Return the largest mean of a channel of ``(N, C, H, W)`` or ``(N, C)``, in standard deviations of that channel.

    A batch norm magnifies a rounding error of the mean by this factor, because it changes all normalised values
    together (Chan, Golub and LeVeque 1983). A perturbation cannot show it: it changes each value on its own, and the
    mean far less.
    """
    values = images.astype(np.float64)
    axes = (0, *range(2, values.ndim))
    mean, variance = np.abs(values.mean(axes)), values.var(axes)
    return float((mean / np.sqrt(variance + eps)).max())


def longest_sum(weights: Mapping[str, Array], layer: str, passed: Passed) -> float:
    """Return the number of terms in the longest sum of a layer, forward or from its outputs back to its inputs.

    For a global mean these are its pixels. For a convolution these are the weights of one output channel, or of one
    input channel.
    """
    pixels = [x.size / passed.output.size for x in passed.inputs]
    kernels = [a.size / min(a.shape[:2]) for k, a in weights.items() if layer_of(k) == layer and a.ndim > 1]
    return max([*pixels, *kernels])


def roundings_of_sum(terms: float) -> float:
    """Return how many rounding errors a sum counts as: one, and 1/12 per term, the variance of a rounding error."""
    return 1 + terms / 12
