"""Images of a split that are decoded and resized once, and then kept in memory."""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import NDArray

from resnet_xf.data.pixels import Bytes
from resnet_xf.data.splits import ArraySplit, Split
from resnet_xf.data.transform import Transform
from resnet_xf.support import environment

SHARE = 4
"""The part of the free memory that kept images may take, if no limit is given: a quarter."""


class Kept:
    """A split's images at a transform's size. An image is read when it is used for the first time.

    Attributes:
        store: ``(N, H, W, C)`` uint8; the images that are not read yet are undefined.
    """

    def __init__(self, split: Split, transform: Transform) -> None:
        self._split, self._transform = split, transform
        store = _as_stored(split, transform)
        self._ready = np.full(len(split), store is not None)
        # np.empty: the system gives memory as it is written
        self.store = np.empty(_shape(split, transform), np.uint8) if store is None else store

    def complete(self) -> bool:
        """Return whether all images are kept."""
        return bool(self._ready.all())

    def missing(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return those of the indices whose images are not kept yet."""
        return indices[~self._ready[indices]]

    def fill(self, indices: NDArray[np.int64]) -> None:
        """Read images and keep them. Raises DataError if a file cannot be read."""
        self.store[indices] = self._transform.bytes(self._split, indices)
        self._ready[indices] = True


def keep(split: Split, transform: Transform, memory: int, *, training: bool) -> tuple[Kept | None, int]:
    """Return what keeps a split's images in memory, and the bytes that are left of ``memory`` after it.

    Nothing is kept, and the result is None, if the images need more memory, or each epoch cuts other boxes of them.
    """
    if training and transform.crop == "random_resized":
        return None, memory
    used = prod(_shape(split, transform)) if _as_stored(split, transform) is None else 0
    return (None, memory) if used > memory else (Kept(split, transform), memory - used)


def _shape(split: Split, transform: Transform) -> tuple[int, int, int, int]:
    return len(split), *transform.size, transform.channels


def _as_stored(split: Split, transform: Transform) -> Bytes | None:
    """Return the images of a split in memory, if the transform leaves them as they are."""
    if not isinstance(split, ArraySplit) or split.images.shape != _shape(split, transform):
        return None
    return split.images if transform.crop in ("resize", "padded") and transform.order == "RGB" else None


def kept_memory(max_memory: int | None) -> int:
    """Return ``max_memory`` in bytes, or if it is None, a quarter of the free memory; 1 GiB where that is not known."""
    if max_memory is not None:
        return max_memory
    available = environment.memory()
    return available.free // SHARE if available else 2**30
