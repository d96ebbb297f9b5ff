"""What training asks of a backend: a learner, which takes one step at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from resnet_xf.architecture.weights import Array, Weights
from resnet_xf.errors import BackendError

TIMEOUT = 600.0
"""Seconds for which a worker waits for the others."""

Outcome: TypeAlias = Callable[[], tuple[float, Array]]
"""Waits for a step to be done: the loss of this worker's part, and its outputs before the step, ``(N, classes)``."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a learner is to do; every number is rounded to float32.

    Attributes:
        network: the network's node, or a native network.
        momentum, nesterov, weight_decay: the optimiser, whose law :class:`resnet_xf.training.recipe.Optimizer` states.
        decaying: the names of the arrays that decay.
        precision: ``float32``, ``float64``, ``bfloat16``, ``float16``, or ``tf32``: float32, its products on a GPU
            rounded.
        preset: how much is done for speed, one of :data:`resnet_xf.backend.fast.PRESETS`.
        freeze_statistics: norms use their running statistics and leave them as they are.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        opens_with_norm: the network's first layer is a norm, before which nothing needs a gradient.
        together: with the other workers that the environment tells of, if it does; else alone.
        timeout: seconds for which a worker waits for the others.
    """

    network: Any
    momentum: float
    nesterov: bool
    weight_decay: float
    decaying: frozenset[str]
    precision: str
    preset: str
    freeze_statistics: bool
    device: str
    opens_with_norm: bool
    together: bool
    timeout: float


class Learner(Protocol):
    """A network in training, one of ``workers`` that take the same steps, each on its part of every batch."""

    rank: int
    workers: int
    device: str
    steps: tuple[str, ...]
    """What was done for speed, in a word or two each."""

    def put(self, images: Array) -> Any:
        """Images on the device, as :meth:`step` takes them as well as arrays; they may still be on their way."""
        ...

    def step(self, images: Any, targets: Array, rate: float) -> Outcome:
        """Take one step down the gradient of −Σ log-softmax(outputs) · targets, added up over all workers.

        Args:
            images: ``(N, C, H, W)``, float32, this worker's part of the batch; an array, or what :meth:`put` gave.
            targets: ``(N, classes)``, see :func:`resnet_xf.training.recipe.targets`.
            rate: the learning rate, a float32 number.
        """
        ...

    def outputs(self, images: Array) -> Array:
        """The network's outputs in inference mode, ``(N, classes)``, float32 or float64."""
        ...

    def dump(self) -> tuple[Weights, Weights]:
        """Copies of the weights and of the optimiser's v, by name; v is empty where there is no momentum."""
        ...

    def load(self, weights: Mapping[str, Array], velocity: Mapping[str, Array]) -> None:
        """Put weights and v in; those left out are kept."""
        ...

    def loss_scaling(self) -> dict[str, int | float]:
        """The state of what scales the loss in float16; empty in every other precision."""
        ...

    def load_loss_scaling(self, state: Mapping[str, int | float]) -> None:
        """Go on with that state; an empty one changes nothing."""
        ...

    def total(self, numbers: Array) -> Array:
        """The sum of every worker's float64 numbers, ``(n,)``; all workers must call it together."""
        ...

    def close(self, failure: BaseException | None = None) -> None:
        """Part from the other workers; after a failure without waiting for them."""
        ...


def device_number(name: str, count: int, framework: str) -> int | None:
    """Which GPU a device's name means, of ``count``; None for the CPU.

    ``auto`` is a GPU where there is one; without a number, it is that of this process's place among its machine's
    workers (``LOCAL_RANK``).

    Raises:
        BackendError: if there is no such device.
    """
    if name == "cpu" or (name == "auto" and not count):
        return None
    kind, _, number = name.partition(":")
    if not (name == "auto" or kind == "cuda") or (number and not number.isdecimal()):
        raise BackendError(f"no device is called {name!r}; choose auto, cpu, cuda or cuda:1")
    index = int(number or os.environ.get("LOCAL_RANK", "0"))
    if index >= count:
        raise BackendError(f"{framework} sees {count} GPUs on this machine, so there is no cuda:{index}; choose cpu")
    return index
