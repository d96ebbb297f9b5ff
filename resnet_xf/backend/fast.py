"""What speed asks of a backend: presets and precisions, fast inference, and what it is measured against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from resnet_xf.architecture.weights import Array
from resnet_xf.errors import BackendError

PRECISIONS = ("float32", "bfloat16", "float16", "tf32", "int8")
"""In which a network can be made fast; which of them there are depends on backend and device."""

PRESETS = {
    "eager": "the framework with nothing set",
    "tuned": "its own fast layout or graph, at no cost in time: PyTorch's channels_last, Gluon's static hybridize",
    "best": "the fastest way known: compiled or fused, which takes its seconds",
}
"""How much is done for a network's speed."""


@dataclass(frozen=True, slots=True)
class FastTask:
    """What a backend is to make fast.

    Attributes:
        network: a native network with its weights, on the CPU; it is used up.
        precision: one of ``PRECISIONS``.
        preset: one of ``PRESETS``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        shape: of the batches for which it is tuned, ``(N, C, H, W)``; others are cut into such, the last filled up.
        calibration: images by which int8's ranges are set, float32, in one or more whole batches.
    """

    network: Any
    precision: str
    preset: str
    device: str
    shape: tuple[int, ...]
    calibration: Array


class Fast(Protocol):
    """A backend's network for inference alone."""

    device: str
    steps: tuple[str, ...]
    """What was done to it, in a word or two each."""

    def put(self, images: Array) -> Any:
        """Images on the device, a native tensor; they may still be on their way."""
        ...

    def __call__(self, images: Any) -> Any:
        """The outputs for images ``(N, C, H, W)``, float32: an array for an array, a native tensor for a native one.

        Raises:
            BackendError: where the framework records what it runs, to differentiate it.
        """
        ...


class Bench(Protocol):
    """How a backend is made fast and measured."""

    def fast(self, task: FastTask) -> Fast:
        """A network for inference alone.

        Raises:
            BackendError: where the device lacks that precision, or nothing compiles.
            MemoryError: if the batch does not fit.
        """
        ...

    def products(self, size: int, precision: str, device: str) -> list[Callable[[], object]]:
        """Ways to multiply two square matrices of that size, each of which returns once it is done.

        There may be none, and a way may fail where a device lacks it, with whatever the framework raises.
        """
        ...

    def threads(self) -> int:
        """How many threads of the CPU the framework computes with in this process."""
        ...

    def wait(self, device: str) -> None:
        """Return once the device has done all that it was asked."""
        ...

    def peak_memory(self, device: str) -> int | None:
        """The most bytes of the device's memory that were in use; None on the CPU."""
        ...


def no_gradients() -> NoReturn:
    """What every fast network says that is asked to learn; raises BackendError."""
    raise BackendError(
        "an optimised network cannot be trained: its norms are gone, and fused layers would have gradients of zero; "
        "train the network that build() gives, and optimise its weights"
    )
