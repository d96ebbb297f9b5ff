"""What the ladder asks of each side of a comparison."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from resnet_xf.architecture.measures import relative_error
from resnet_xf.architecture.nodes import is_statistic
from resnet_xf.architecture.trace import ObservedTrace, Passed
from resnet_xf.architecture.weights import Array, Weights

LOSS = "the loss"
"""The loss's place among the layers' gains."""


@dataclass(frozen=True, slots=True)
class Own:
    """What one layer's own float32 arithmetic adds, relative, forwards and backwards, and what it may."""

    forward: float
    forward_bound: float
    backward: float
    backward_bound: float


@dataclass(frozen=True, slots=True)
class Step:
    """One training step: the loss, every parameter's gradient, and the norms' statistics after it."""

    loss: float
    gradients: Weights
    statistics: Weights


@dataclass(frozen=True, slots=True)
class State:
    """A run after one step: the loss, all arrays by name, momentum's behind ``momentum/``.

    ``gain`` tells how many times its size a change of the first weights has by now: in what is trained of each layer,
    in each norm's statistics by their arrays' names, and in the loss; empty if not asked.
    ``sketched`` says that of large arrays only sketches are there (:func:`resnet_xf.ladder.capture.evidence.sketch`).
    """

    loss: float
    arrays: Weights
    gain: Mapping[str, float]
    sketched: bool = False


@dataclass(frozen=True, slots=True)
class Curve:
    """The losses of a float32 run, and of such runs with every weight nudged to a float32 number next to it."""

    losses: tuple[float, ...]
    nudged: tuple[tuple[float, ...], ...]


class Side(Protocol):
    """One of the networks that are compared: here and now, or as a capture recorded it."""

    name: str
    version: str
    device: str
    unbiased_variance: bool
    tell: Callable[[float], object]
    """Told how much of a rung that takes long is done, 0…1."""

    def cannot(self, capability: str) -> str | None:
        """Why the side lacks a capability, as ``numpy cannot train``; None if it has it."""
        ...

    def let_go(self) -> None:
        """Forget what takes much memory and can be had again."""
        ...

    def trace(self) -> ObservedTrace:
        """What the layers show for one image."""
        ...

    def held(self, dtype: str) -> dict[str, tuple[int, ...]]:
        """The shapes of its arrays, by name."""
        ...

    def returned(self, dtype: str) -> dict[str, str]:
        """The fingerprints of its arrays after the weights were put in."""
        ...

    def twice(self) -> tuple[Array, Array]:
        """The float32 outputs of two networks built and run one after the other."""
        ...

    def output(self, precision: str, *, probe: bool = False) -> Array:
        """The output for the images; ``probe``: under the weights that hide nothing."""
        ...

    def gain(self) -> float:
        """How many times larger, relatively, a small random change is in the float64 output.

        A change of the images, or of all weights at once, which is one for each rounding and is counted as such.
        """
        ...

    def passed(self, dtype: str, names: Sequence[str], *, probe: bool = False) -> dict[str, Passed]:
        """What goes into and comes out of the named layers for the images."""
        ...

    def gains(self, names: Sequence[str], passed: Mapping[str, Passed]) -> dict[str, float]:
        """For each layer, what :meth:`gain` is for its output; ``passed`` is what passed them for the images."""
        ...

    def own_rounding(self) -> dict[str, Own]:
        """Each layer's own float32 rounding, against its own float64 on the same inputs."""
        ...

    def step(self, dtype: str) -> Step:
        """The first lesson, at a learning rate of 0."""
        ...

    def sensitivity(self) -> dict[str, float]:
        """How many times its size a small change of all numbers has in each layer's gradients, as ``State.gain``."""
        ...

    def lockstep(self, *, measured: bool) -> Iterator[State]:
        """Every lesson in float64; ``measured``: with the gain."""
        ...

    def curve(self) -> Curve:
        """The course in float32, and again from nudged weights."""
        ...

    def accuracies(self, trial: Any) -> tuple[tuple[float, ...], float]:
        """What a capture recorded of a :class:`resnet_xf.ladder.rungs.accuracy.Trial`, in percent.

        The accuracy for each seed, and the share of the test images' commonest class.
        """
        ...


def fingerprint(array: Array) -> str:
    """A digest of an array's dtype, shape and bits."""
    digest = hashlib.blake2b(f"{array.dtype.str} {array.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def trained(arrays: Weights) -> Weights:
    """What an optimiser moves, less what norms keep."""
    return {name: array for name, array in arrays.items() if not is_statistic(name)}


def statistics_of(arrays: Weights) -> Weights:
    """What norms keep."""
    return {name: array for name, array in arrays.items() if is_statistic(name)}


def statistic_errors(got: Mapping[str, Array], wanted: Mapping[str, Array]) -> dict[str, float]:
    """How far each norm's running mean and variance are from others, by the arrays' names.

    A mean's error is a share of its channels' deviation where that is more: what a norm is given may have a mean of 0,
    as what another norm gave has, and nothing is a share of that.
    """
    found = {}
    for name, array in wanted.items():
        scale = float(np.abs(array).max(initial=0.0))
        if name.endswith("running_mean"):
            variances = wanted[name.removesuffix("mean") + "var"]
            scale = max(scale, float(np.sqrt(np.abs(variances).max(initial=0.0))))
        found[name] = relative_error(got[name], array, scale)
    return found


def loss_error(got: float, wanted: float) -> float:
    """How far a loss is from another, as a share of it or of 1, whichever is more.

    A loss is the logarithm of a probability: what is relative in the one is absolute in the other. A network of a
    single class has no other loss than 0.
    """
    return relative_error(np.array(got), np.array(wanted), max(1.0, abs(wanted)))
