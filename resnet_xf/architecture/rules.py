"""What several kinds of nodes share: how arrays are specified, and the arithmetic of shapes."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple, TypeAlias

from msgspec import Meta

from resnet_xf.errors import ShapeError

Shape: TypeAlias = tuple[int, ...]

Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Classes = Annotated[int, Meta(ge=0, le=1_000_000)]
Window = Annotated[int, Meta(ge=1, le=1024)]
Padding = Annotated[int, Meta(ge=0, le=1024)]
Share = Annotated[float, Meta(ge=0, le=1)]
Axes = Literal[2, 4]
LARGEST = 1e30
Constant = Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]
"""The types of nodes' fields, whose ranges are checked where a node is read from a document."""

Distribution: TypeAlias = tuple[Literal["uniform", "normal"], float, float]
"""Uniform from a low to a high value, or normal with a mean and a standard deviation."""

NEAR_0: Distribution = ("normal", 0.0, 0.1)
NEAR_1: Distribution = ("uniform", 0.5, 1.5)


class ArraySpec(NamedTuple):
    """One array of a layer.

    Attributes:
        shape: its shape.
        start: its value under the schemes ``he`` and ``xavier``; None for a kernel, which is drawn by its fans.
        probe: its distribution under the scheme ``probe``; a kernel is drawn by its fans there too.
    """

    shape: Shape
    start: float | None = 0.0
    probe: Distribution = NEAR_0


Arrays: TypeAlias = dict[str, ArraySpec]
"""The arrays of one layer by their last word: ``weight``, ``bias`` and the running statistics."""


def kernel_and_bias(*shape: int, bias: bool) -> Arrays:
    """The kernel or matrix of a layer, whose first axis is the output's, and its bias if there is one."""
    arrays = {"weight": ArraySpec(shape, None)}
    return arrays | {"bias": ArraySpec(shape[:1])} if bias else arrays


def expect(shape: Shape, axes: Axes, channels: int | None = None) -> Shape:
    """Return a shape as it is.

    Raises:
        ShapeError: if it has another number of axes or of channels.
    """
    if len(shape) != axes:
        raise ShapeError(f"expected {'(N, C, H, W)' if axes == 4 else '(N, C)'}, got {shape}")
    if channels is not None and shape[1] != channels:
        raise ShapeError(f"expected {channels} channels, got {shape[1]} in {shape}")
    return shape


def windows(size: int, window: int, stride: int, padding: int, ceil: bool = False) -> int:
    """How many windows fit along an axis. With ``ceil`` the last one may extend beyond the image.

    Raises:
        ShapeError: if none fits, or the last one begins outside the image: PyTorch drops that one, MXNet keeps it.
    """
    span = size + 2 * padding - window
    if span < 0:
        raise ShapeError(f"an input of size {size} shrinks to nothing under a window of {window}; give a larger image")
    windows = (-(-span // stride) if ceil else span // stride) + 1
    if ceil and (windows - 1) * stride >= size + padding:
        raise ShapeError(f"on size {size} its last window begins outside the image; frameworks disagree there")
    return windows
