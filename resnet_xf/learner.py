"""What training asks of a backend: a learner, which takes one step at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from resnet_xf.nodes import Node
from resnet_xf.weights import Array, Weights

Outcome: TypeAlias = Callable[[], tuple[float, Array]]
"""Waits for a step to be done: the loss of this worker's part, and its outputs before the step, ``(N, classes)``."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a learner is to do; every number is rounded to float32.

    Attributes:
        network: the network's node.
        momentum, nesterov, weight_decay: the optimiser, whose law :class:`resnet_xf.recipe.Optimizer` states.
        decaying: the names of the arrays that decay.
        precision: ``float32``, ``float64``, ``bfloat16`` or ``float16``.
        freeze_statistics: norms use their running statistics and leave them as they are.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        timeout: seconds for which a worker waits for the others.
    """

    network: Node
    momentum: float
    nesterov: bool
    weight_decay: float
    decaying: frozenset[str]
    precision: str
    freeze_statistics: bool
    device: str
    timeout: float


class Learner(Protocol):
    """A network in training, one of ``workers`` that take the same steps, each on its part of every batch."""

    rank: int
    workers: int
    device: str

    def step(self, images: Array, targets: Array, rate: float) -> Outcome:
        """Take one step down the gradient of −Σ log-softmax(outputs) · targets, added up over all workers.

        Args:
            images: ``(N, C, H, W)``, float32, this worker's part of the batch.
            targets: ``(N, classes)``, see :func:`resnet_xf.recipe.targets`.
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

    def close(self) -> None:
        """Part from the other workers."""
        ...
