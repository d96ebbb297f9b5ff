"""Labelled images: one half of a data set, in memory or in files, and a data set of two halves."""

from __future__ import annotations

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_xf.data.images import MODES, T, decoded, image_of, read_file
from resnet_xf.data.randomness import permutation
from resnet_xf.errors import DataError

TEST_SHARE = 0.2
"""The share of each class that is for testing, if a data set has no test images of its own."""

SAMPLE = 1000
"""The least number of images that are read from files, evenly spaced; and the number counted at a time in memory."""


class Split(ABC):
    """Images with their labels, ``(N,)`` int64."""

    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def read(self, index: int, use: Callable[[Image.Image], T]) -> T:
        """Return what ``use`` makes of one image; it gets the image before it is decoded, if it is in a file.

        Raises:
            DataError: if the file cannot be read, is no image, or is damaged.
        """

    def image(self, index: int, channels: int) -> Image.Image:
        """Return one image: grey for one channel, red, green and blue for three. Errors are those of :meth:`read`."""
        return self.read(index, lambda image: decoded(image, MODES[channels]))

    def digest(self) -> str:
        """Return a digest of the labels in order, and of the names of their files, if any; pixels are not read."""
        return hashlib.blake2b(self.labels.tobytes(), digest_size=16).hexdigest()

    @abstractmethod
    def take(self, indices: NDArray[np.int64]) -> Split:
        """Return a split of these images, in this order."""

    def stack(self, indices: NDArray[np.int64], channels: int) -> NDArray[np.uint8] | None:
        """Return a copy of these images, ``(B, H, W, C)``, if all are arrays of one size with C channels; else None."""
        return None


@dataclass(frozen=True, eq=False)
class ArraySplit(Split):
    """Images of one size in memory: ``(N, H, W, C)`` uint8, where C is 1 or 3."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def read(self, index: int, use: Callable[[Image.Image], T]) -> T:
        """Return what ``use`` makes of one image."""
        return use(image_of(self.images[index]))

    def take(self, indices: NDArray[np.int64]) -> ArraySplit:
        """Return a split of copies of these images, in this order."""
        return ArraySplit(self.images[indices], self.labels[indices])

    def stack(self, indices: NDArray[np.int64], channels: int) -> NDArray[np.uint8] | None:
        """Return a copy of these images, ``(B, H, W, C)``, if they have C channels; else None."""
        return self.images[indices] if self.images.shape[3] == channels else None


@dataclass(frozen=True, eq=False)
class FileSplit(Split):
    """Images of any sizes in files; an image is read each time it is used."""

    paths: tuple[str, ...]
    labels: NDArray[np.int64]

    def digest(self) -> str:
        """Return a digest of the labels in order and of the files' names."""
        names = "/".join(Path(path).name for path in self.paths).encode("utf-8", "surrogateescape")
        return hashlib.blake2b(self.labels.tobytes() + names, digest_size=16).hexdigest()

    def read(self, index: int, use: Callable[[Image.Image], T]) -> T:
        """Open one image's file and return what ``use`` makes of it."""
        return read_file(self.paths[index], use)

    def take(self, indices: NDArray[np.int64]) -> FileSplit:
        """Return a split of these images, in this order."""
        return FileSplit(tuple(self.paths[index] for index in indices), self.labels[indices])


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training images and test images; label ``n`` means ``classes[n]``."""

    name: str
    channels: int
    classes: tuple[str, ...]
    train: Split
    test: Split

    def __post_init__(self) -> None:
        for name in (self.name, *self.classes):
            if name != name.encode("utf-8", "replace").decode():
                raise DataError(f"{self.name}: {name!a} is not UTF-8; rename it")


def hold_out(name: str, split: Split, classes: tuple[str, ...]) -> tuple[Split, Split]:
    """Return training and test images from images that are not separated: a fixed fifth of each class is for testing.

    Raises DataError if a class has one image alone.
    """
    shuffled = permutation("parted", len(split))
    by_class = shuffled[np.argsort(split.labels[shuffled], kind="stable")]
    ends = np.cumsum(np.bincount(split.labels, minlength=len(classes)))
    for_test = np.zeros(len(split), bool)
    for title, members in zip(classes, np.split(by_class, ends[:-1]), strict=True):
        if len(members) == 1:
            raise DataError(f"{name}: class {title} has 1 image, and a training and a test half need two")
        for_test[members[: max(1, round(TEST_SHARE * len(members)))]] = True
    return split.take(np.flatnonzero(~for_test)), split.take(np.flatnonzero(for_test))


def limited(data: Dataset, limit: int | None, seed: int) -> Dataset:
    """Return a data set with only ``limit`` of its training images, drawn by a seed, in their order; all if None.

    Raises DataError if the limit is not positive.
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit: expected 1 training image or more, got {limit}")
    if limit is None or limit >= len(data.train):
        return data
    chosen = np.sort(permutation(f"{seed}/limit", len(data.train))[:limit])
    return dataclasses.replace(data, train=data.train.take(chosen))


def pixel_statistics(split: Split, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, for values in 0…1.

    They cover all images in memory, and 1,000 to 2,000 images in files. Pixels are counted by their byte value, so the
    result is the same on every machine. Raises DataError if an image's file cannot be read.
    """
    counts = np.zeros((channels, 256), np.int64)
    if isinstance(split, ArraySplit):
        blocks = (split.images[start : start + SAMPLE] for start in range(0, len(split), SAMPLE))
    else:
        indices = range(0, len(split), max(1, len(split) // SAMPLE))
        blocks = (np.asarray(split.image(index, channels)) for index in indices)
    for block in blocks:
        for count, pixels in zip(counts, block.reshape(-1, channels).T, strict=True):
            count += np.bincount(pixels, minlength=256)
    values = np.arange(256) / 255
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ values
    std = np.sqrt((share * (values - mean[:, None]) ** 2).sum(axis=1))
    return tuple(mean.tolist()), tuple(np.maximum(std, 1 / 255).tolist())
