"""Real images as inputs for a network: float32 arrays ``(N, C, H, W)``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_xf.data.images import IMAGENET_MEAN, IMAGENET_STD, SUFFIXES, Size, centre, is_image, read_image, resized
from resnet_xf.errors import DataError

Images = NDArray[np.float32]


def sample_images(channels: int, size: Size, folder: str | Path | None = None, count: int = 8) -> Images:
    """Return real images for a network with that many input channels, ``(N, channels, H, W)``.

    With a folder, its first ``count`` images by name. Without, scikit-learn's handwritten digits for one channel, and
    its two photographs for any other number of channels, which repeat red, green and blue.

    Raises:
        DataError: if the size is not positive, or the folder holds no image, or an image cannot be read.
    """
    if min(size) < 1:
        raise DataError(f"images of {size[0]}×{size[1]} pixels are empty; each side is at least 1 pixel")
    if folder is not None:
        return _stack(_read_folder(Path(folder), count), channels, size)
    return digits(size) if channels == 1 else _stack(_photographs(), channels, size)


def photographs(size: Size = (224, 224)) -> Images:
    """Return scikit-learn's two photographs, cropped and normalised as for ImageNet: ``(2, 3, H, W)``."""
    return sample_images(3, size)


def digits(size: Size = (96, 96), count: int = 4) -> Images:
    """Return the first of scikit-learn's handwritten digits, enlarged, with values in 0…1: ``(count, 1, H, W)``."""
    pixels, _ = all_digits()
    return _grey(resized(Image.fromarray(image), size) for image in pixels[:count])


@cache
def all_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return scikit-learn's 1797 digits, ``(N, 8, 8)`` with values in 0…255, and labels ``(N,)``; both read-only."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    pixels, labels = (loaded.images * (255 / 16)).astype(np.uint8), loaded.target.astype(np.int64)
    pixels.flags.writeable = labels.flags.writeable = False
    return pixels, labels


def _photographs() -> Iterator[Image.Image]:
    from sklearn.datasets import load_sample_images

    return map(Image.fromarray, load_sample_images().images)


def _read_folder(folder: Path, count: int) -> Iterator[Image.Image]:
    """Return the first images of a folder, by name; folders inside it are not searched."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give a folder that holds images")
    paths = sorted(filter(is_image, folder.iterdir()))
    if not paths:
        raise DataError(f"{folder}: holds no image; expected files that end in {', '.join(SUFFIXES)}")
    return map(read_image, paths[:count])


def _stack(images: Iterable[Image.Image], channels: int, size: Size) -> Images:
    """Resize and crop images to ``size``, normalise them as for ImageNet, and repeat or drop channels."""
    if channels == 1:
        return _grey(centre(image.convert("L"), size) for image in images)
    rgb = np.stack([np.asarray(centre(image, size), np.float32) for image in images]) / 255
    normal = (rgb - np.array(IMAGENET_MEAN, np.float32)) / np.array(IMAGENET_STD, np.float32)
    return np.ascontiguousarray(normal.transpose(0, 3, 1, 2)[:, np.arange(channels) % 3])


def _grey(images: Iterable[Image.Image]) -> Images:
    """Stack grey images, with values in 0…1."""
    return np.stack([np.asarray(image, np.float32) for image in images])[:, None] / np.float32(255)
