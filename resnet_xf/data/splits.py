"""Labelled images: one half of a data set, held as an array or as files to read when wanted; and both halves."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_xf.data.images import MODES, read_image
from resnet_xf.data.randomness import permutation
from resnet_xf.errors import DataError

TEST_PART = 0.2
"""How much of each class is held back where nobody has parted training from test images."""


class Split(ABC):
    """Images and their labels, ``(N,)`` int64."""

    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def image(self, index: int, channels: int) -> Image.Image:
        """One image, grey for one channel and red, green, blue for three.

        Raises:
            DataError: if its file cannot be read.
        """

    def digest(self) -> str:
        """What tells these images from others without looking at them: their labels in order, and files' names."""
        return hashlib.blake2b(self.labels.tobytes(), digest_size=16).hexdigest()

    @abstractmethod
    def take(self, indices: NDArray[np.int64]) -> Split:
        """Those images alone, in that order."""

    def stack(self, indices: NDArray[np.int64], shape: tuple[int, int, int]) -> NDArray[np.uint8] | None:
        """A copy of those images, ``(B, H, W, C)``, if they lie as arrays of that shape ``(H, W, C)``."""
        return None


@dataclass(frozen=True, eq=False)
class ArraySplit(Split):
    """Images of one size, held in memory: ``(N, H, W, C)`` uint8, C being 1 or 3."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def image(self, index: int, channels: int) -> Image.Image:
        """One image, grey for one channel and red, green, blue for three."""
        pixels = self.images[index]
        return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert(MODES[channels])

    def take(self, indices: NDArray[np.int64]) -> ArraySplit:
        """Those images alone, in that order; a copy."""
        return ArraySplit(self.images[indices], self.labels[indices])

    def stack(self, indices: NDArray[np.int64], shape: tuple[int, int, int]) -> NDArray[np.uint8] | None:
        """A copy of those images, ``(B, H, W, C)``, if they are of that shape ``(H, W, C)``."""
        return self.images[indices] if self.images.shape[1:] == shape else None


@dataclass(frozen=True, eq=False)
class FileSplit(Split):
    """Images of any sizes, each read from its file whenever it is wanted."""

    paths: tuple[str, ...]
    labels: NDArray[np.int64]

    def digest(self) -> str:
        """Of their labels in order, and the files' names."""
        names = "/".join(Path(path).name for path in self.paths)
        return hashlib.blake2b(self.labels.tobytes() + names.encode(), digest_size=16).hexdigest()

    def image(self, index: int, channels: int) -> Image.Image:
        """One image, grey for one channel and red, green, blue for three.

        Raises:
            DataError: if its file cannot be read, or is no image or a damaged one.
        """
        return read_image(self.paths[index], MODES[channels])

    def take(self, indices: NDArray[np.int64]) -> FileSplit:
        """Those images alone, in that order."""
        return FileSplit(tuple(self.paths[index] for index in indices), self.labels[indices])


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images to learn from and others to test with; label ``n`` is that of ``classes[n]``."""

    name: str
    channels: int
    classes: tuple[str, ...]
    train: Split
    test: Split


def parted(name: str, split: Split, classes: tuple[str, ...]) -> tuple[Split, Split]:
    """Training and test images where all are in one heap: of each class a fifth, always the same, is held back.

    Raises:
        DataError: if a class has a single image, which cannot be in both.
    """
    shuffled = permutation("parted", len(split))
    held_back = np.zeros(len(split), bool)
    for label, title in enumerate(classes):
        members = shuffled[split.labels[shuffled] == label]
        if len(members) < 2:
            raise DataError(f"{name}: class {title} has {len(members)} image, and a training and a test half need two")
        held_back[members[: max(1, round(TEST_PART * len(members)))]] = True
    return split.take(np.flatnonzero(~held_back)), split.take(np.flatnonzero(held_back))
