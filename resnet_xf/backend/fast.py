"""The speed interface of a backend: presets, precisions, fast inference, benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from resnet_xf.architecture.weights import Array
from resnet_xf.errors import BackendError

PRECISIONS = ("float32", "bfloat16", "float16", "tf32", "int8")
"""The precisions of fast inference. Backends and devices support some of them."""

PRESETS = {
    "eager": "the framework's default settings",
    "tuned": "its own fast layout or graph, at no cost in time: PyTorch's channels_last, Gluon's static hybridize",
    "best": "compiled or fused, which takes some seconds at the start",
    "max": "as best, and kernels are chosen by trying many, which takes minutes; only PyTorch on a GPU has more to try",
}
"""How much is done for a network's speed."""

COMPILED = ("best", "max")
"""The presets that fold norms into convolutions, fuse layers, and compile."""


@dataclass(frozen=True, slots=True)
class FastTask:
    """A network to make fast, and how.

    Attributes:
        network: a native network with its weights, on the CPU; it is changed.
        precision: one of ``PRECISIONS``.
        preset: one of ``PRESETS``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        shape: shape of a batch, ``(N, C, H, W)``. Other batches are split, and the last part is padded.
        calibration: images that set the ranges for int8, float32, in one or more whole batches.
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
    """What was done for speed, for example ``channels_last``."""

    def put(self, images: Array) -> Any:
        """Start to copy images to the device, and return them as a native tensor."""
        ...

    def __call__(self, images: Any) -> Any:
        """Return float32 outputs for images ``(N, C, H, W)``: an array for an array, a native tensor for a tensor.

        Raises:
            BackendError: if the framework is recording gradients.
        """
        ...


class Bench(Protocol):
    """What a backend's benchmarks need. A backend for the CPU alone may inherit the last three members."""

    def fast(self, task: FastTask) -> Fast:
        """Make a network fast, for inference only.

        Raises:
            BackendError: if the device does not support the precision, or the network cannot be compiled.
            MemoryError: if the batch does not fit.
        """
        ...

    def products(self, size: int, precision: str, device: str) -> list[Callable[[], object]]:
        """Return functions that multiply two square matrices, ``size`` × ``size``, and wait for the result.

        The list may be empty. A function raises the framework's error if the device does not support it.
        """
        ...

    def threads(self) -> int:
        """Return the number of CPU threads that the framework uses in this process."""
        ...

    def wait(self, device: str) -> None:
        """Wait until the device has finished all its work."""
        return

    def peak_memory(self, device: str) -> int | None:
        """Return the peak use of the device's memory in bytes; None on the CPU."""
        return None

    def release(self, device: str) -> tuple[int, int] | None:
        """Give cached memory back to a GPU. Return the bytes that this process keeps there, and those that are free.

        Return None on the CPU.

        Raises:
            BackendError: if there is no such device.
        """
        return None


def no_gradients() -> NoReturn:
    """Raise the BackendError of a fast network that is used in training."""
    raise BackendError(
        "an optimised network cannot be trained: its norms are gone, and fused layers would have gradients of zero; "
        "train the network that build() gives, and optimise its weights"
    )
