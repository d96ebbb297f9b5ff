"""The training interface of a backend: a learner, which takes one step at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from resnet_xf.architecture.weights import Array, Weights
from resnet_xf.data.pixels import Pixels
from resnet_xf.errors import BackendError

TIMEOUT = 600.0
"""Seconds that a worker waits for the others."""

Outcome: TypeAlias = Callable[[], tuple[float, Array]]
"""Wait for the end of a step. Return the loss of this worker's images and their outputs ``(N, classes)`` before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A training task. All floats are rounded to float32.

    Attributes:
        network: the network's node, or a native network.
        momentum, nesterov, weight_decay: of SGD as :class:`resnet_xf.training.recipe.Optimizer` defines it.
        decaying: names of the weights with weight decay.
        precision: ``float32``, ``float64``, ``bfloat16``, ``float16``, or ``tf32`` (float32 with TF32 on a GPU).
        preset: how much is done for speed, one of :data:`resnet_xf.backend.fast.PRESETS`.
        freeze_statistics: whether batch norms use their running statistics and do not change them.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        opens_with_norm: whether the first layer is a batch norm, so that no layer before it needs a gradient.
        together: whether to train with other workers, if environment variables describe them.
        timeout: seconds that a worker waits for the others.
    """

    network: Any
    momentum: float
    nesterov: bool
    weight_decay: float
    decaying: frozenset[str]
    precision: str
    preset: str = "tuned"
    freeze_statistics: bool
    device: str
    opens_with_norm: bool
    together: bool = False
    timeout: float = TIMEOUT


class Learner(Protocol):
    """A network in training. Each of the ``workers`` takes the same steps, each on its part of every batch."""

    rank: int
    workers: int
    device: str
    steps: tuple[str, ...]
    """What was done for speed, for example ``channels_last``."""

    def put(self, images: Array | Pixels) -> Any:
        """Start to copy images to the device, and return them for :meth:`step`.

        The input tensor of :class:`resnet_xf.data.Pixels` is ``np.asarray(images)``, or the same made on the device.
        """
        ...

    def step(self, images: Any, targets: Array, rate: float) -> Outcome:
        """Take one step of SGD on the loss −Σ log-softmax(outputs) · targets, summed over all workers.

        Args:
            images: ``(N, C, H, W)``, float32: this worker's part of the batch, as an array, as
                :class:`resnet_xf.data.Pixels` or as the result of :meth:`put`.
            targets: ``(N, classes)``, see :func:`resnet_xf.training.recipe.targets`.
            rate: the learning rate, rounded to float32.
        """
        ...

    def outputs(self, images: Array | Pixels) -> Array:
        """Return the network's outputs in inference mode, ``(N, classes)``, float32 or float64."""
        ...

    def dump(self) -> tuple[Weights, Weights]:
        """Return copies of the weights and of the momentum buffers, by name. Without momentum there are no buffers."""
        ...

    def load(self, weights: Mapping[str, Array], velocity: Mapping[str, Array]) -> None:
        """Load weights and momentum buffers by name. Those that are not in the mappings keep their values."""
        ...

    def loss_scaling(self) -> dict[str, int | float]:
        """Return the state of float16's loss scaling; empty in every other precision."""
        ...

    def load_loss_scaling(self, state: Mapping[str, int | float]) -> None:
        """Load a state of the loss scaling. An empty one changes nothing."""
        ...

    def total(self, values: Array) -> Array:
        """Return the sum over all workers of float64 ``values``, ``(n,)``. All workers must call it."""
        ...

    def close(self, failure: BaseException | None = None) -> None:
        """Leave the other workers. After a failure, do not wait for them."""
        ...


def device_number(name: str, count: int, framework: str) -> int | None:
    """Return the index of the GPU that a device's name means, or None for the CPU. The machine has ``count`` GPUs.

    ``auto`` means a GPU if there is one. A name without an index means the GPU of this worker (``LOCAL_RANK``).

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
