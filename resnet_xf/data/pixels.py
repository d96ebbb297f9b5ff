"""A batch of images as bytes, and how a backend makes an input tensor of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Bytes: TypeAlias = NDArray[np.uint8]
"""Images as they are stored: ``(N, H, W, C)`` uint8."""


@dataclass(frozen=True, eq=False)
class Normalisation:
    """Bytes to float32: ``(byte / 255 - mean) / std``, rounded to float32 after each operation.

    Attributes:
        mean, std: ``(C,)`` float32.
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    def __call__(self, images: Bytes) -> NDArray[np.float32]:
        """Return images ``(N, H, W, C)`` as a contiguous input tensor ``(N, C, H, W)``."""
        count, height, width, channels = images.shape
        values = np.empty((count, channels, height, width), np.float32)
        np.divide(images.transpose(0, 3, 1, 2), np.float32(255), out=values)
        values -= self.mean[:, None, None]
        values /= self.std[:, None, None]
        return values

    @cached_property
    def table(self) -> NDArray[np.float32]:
        """The float32 value of every byte in every channel, ``(C, 256)``: a look-up is exact on every device."""
        grey = np.arange(256, dtype=np.uint8).reshape(1, 1, 256, 1)
        return self(np.repeat(grey, len(self.mean), axis=3))[0, :, 0]


@dataclass(frozen=True, eq=False)
class Pixels:
    """A batch of images as bytes. ``np.asarray(pixels)`` is the input tensor, ``(B, C, H, W)`` float32.

    A backend for a GPU copies the bytes there, then shifts, mirrors and normalises them: the result is the same to the
    bit. Image ``n`` of the batch is ``store[rows[n]]``, cut out of its padded image, then mirrored, then normalised.

    Attributes:
        store: ``(N, H, W, C)`` uint8: this batch, or a whole split that is kept in memory.
        normalisation: makes float32 of bytes.
        rows: which images of ``store`` are the batch, ``(B,)`` int64; None for all, in order.
        fixed: whether ``store`` is the same array in other batches and never changes, so that a copy can be kept.
        mirrored: which images are mirrored, ``(B,)`` bool; None for none.
        padding: black pixels that are added on each side before the crop.
        corners: top and left of each crop in the padded image, ``(B, 2)`` int64; None if nothing is cropped.
    """

    store: Bytes
    normalisation: Normalisation
    rows: NDArray[np.int64] | None = None
    fixed: bool = False
    mirrored: NDArray[np.bool_] | None = None
    padding: int = 0
    corners: NDArray[np.int64] | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of the input tensor, ``(B, C, H, W)``."""
        count, height, width, channels = self.store.shape
        return count if self.rows is None else len(self.rows), channels, height, width

    def images(self) -> Bytes:
        """Return the batch's images, shifted and mirrored: ``(B, H, W, C)``; ``store`` is not changed."""
        images = self.store if self.rows is None else self.store[self.rows]
        if self.corners is not None:
            images = cropped(images, self.padding, self.corners)
        if self.mirrored is not None:
            images = images.copy() if images is self.store else np.ascontiguousarray(images)
            whole = images.view(f"V{images.shape[3]}")  # NumPy moves whole pixels faster than their bytes
            whole[self.mirrored] = whole[self.mirrored, :, ::-1]
        return images

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self.normalisation(self.images()).astype(dtype or np.float32, copy=False)


def cropped(images: Bytes, padding: int, corners: NDArray[np.int64]) -> Bytes:
    """Return images with ``padding`` black pixels on each side, each cropped at its corner to the size it had."""
    height, width = images.shape[1:3]
    sides = (padding, padding)
    padded = np.pad(images, ((0, 0), sides, sides, (0, 0)))
    result = np.empty_like(images)
    for place, image, (top, left) in zip(result, padded, corners, strict=True):
        place[:] = image[top : top + height, left : left + width]
    return result
