"""What fast inference asks of a backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from resnet_xf.errors import BackendError
from resnet_xf.nodes import Node
from resnet_xf.weights import Array

PRECISIONS = ("float32", "bfloat16", "float16", "tf32", "int8")
"""In which a network can be made fast; which of them there are depends on backend and device."""


@dataclass(frozen=True, slots=True)
class FastTask:
    """What a backend is to make fast.

    Attributes:
        network: the node; its norms are folded where they can be.
        precision: one of ``PRECISIONS``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        shape: of the batches for which it is tuned, ``(N, C, H, W)``; others are cut into such, the last filled up.
        compiles: whether the framework's compiler may take its seconds.
        calibration: images by which int8's ranges are set, float32, in one or more whole batches.
    """

    network: Node
    precision: str
    device: str
    shape: tuple[int, ...]
    compiles: bool
    calibration: Array


class Fast(Protocol):
    """A backend's network for inference alone."""

    device: str
    steps: tuple[str, ...]
    """What was done to it, in a word or two each."""

    def __call__(self, images: Any) -> Any:
        """The outputs for images ``(N, C, H, W)``, float32: an array for an array, a native tensor for a native one.

        Raises:
            BackendError: where the framework records what it runs, to differentiate it.
        """
        ...


def no_gradients() -> NoReturn:
    """What every fast network says that is asked to learn; raises BackendError."""
    raise BackendError(
        "an optimised network cannot be trained: its norms are gone, and fused layers would have gradients of zero; "
        "train the network that build() gives, and optimise its weights"
    )
