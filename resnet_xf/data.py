"""Real images as NumPy arrays ``(N, C, H, W)``, float32."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_xf.errors import DataError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and deviation of ImageNet's red, green and blue, values in 0…1; torchvision's."""

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

Size = tuple[int, int]
Images = NDArray[np.float32]


def sample_images(channels: int, size: Size, folder: str | Path | None = None, count: int = 8) -> Images:
    """Real images for a network of that many input channels, ``(N, channels, H, W)``.

    From ``folder`` if one is given, its first ``count`` by name; else scikit-learn's handwritten digits for
    one channel, and its two photographs for any other number (which take red, green, blue, red, …).

    Raises:
        DataError: if the folder holds no image, or one that cannot be read.
    """
    if min(size) < 1:
        raise DataError(f"images of {size[0]}×{size[1]} pixels hold nothing; each side is at least 1")
    if folder is not None:
        return _stack(_read_folder(Path(folder), count), channels, size)
    return digits(size) if channels == 1 else _stack(_photographs(), channels, size)


def photographs(size: Size = (224, 224)) -> Images:
    """scikit-learn's two photographs, cropped and normalised as ImageNet's: ``(2, 3, H, W)``."""
    return sample_images(3, size)


def digits(size: Size = (96, 96), count: int = 4) -> Images:
    """The first of scikit-learn's handwritten digits, enlarged, values in 0…1: ``(count, 1, H, W)``."""
    from sklearn.datasets import load_digits

    grey = [Image.fromarray((image * (255 / 16)).astype(np.uint8)) for image in load_digits().images[:count]]
    return _grey(image.resize(size[::-1], Image.Resampling.BILINEAR) for image in grey)


def _photographs() -> Iterator[Image.Image]:
    from sklearn.datasets import load_sample_images

    return map(Image.fromarray, load_sample_images().images)


def _read_folder(folder: Path, count: int) -> Iterator[Image.Image]:
    """The first images directly in a folder, in the order of their names."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give a folder that holds images")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise DataError(f"{folder}: holds no image; expected files that end in {', '.join(SUFFIXES)}")
    for path in paths[:count]:
        try:
            with Image.open(path) as image:
                yield image.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{path}: not a readable image ({error}); remove or replace it") from None


def _stack(images: Iterable[Image.Image], channels: int, size: Size) -> Images:
    """Resize and crop each to ``size``, normalise as ImageNet's, and repeat or drop channels as needed."""
    if channels == 1:
        return _grey(_centre(image.convert("L"), size) for image in images)
    rgb = np.stack([np.asarray(_centre(image, size), np.float32) for image in images]) / 255
    normal = (rgb - np.array(IMAGENET_MEAN, np.float32)) / np.array(IMAGENET_STD, np.float32)
    return np.ascontiguousarray(normal.transpose(0, 3, 1, 2)[:, np.arange(channels) % 3])


def _grey(images: Iterable[Image.Image]) -> Images:
    """Grey images stacked, values in 0…1."""
    return np.stack([np.asarray(image, np.float32) for image in images])[:, None] / np.float32(255)


def _centre(image: Image.Image, size: Size) -> Image.Image:
    """The centre of an image, of that height and width, after a resize to 8/7 of it (256 for 224).

    Sides and corners are rounded as torchvision's ``Resize`` and ``CenterCrop`` round them.
    """
    height, width = size
    if height * image.width >= width * image.height:
        down = round(height * 8 / 7)
        across = max(width, int(down * image.width / image.height))
    else:
        across = round(width * 8 / 7)
        down = max(height, int(across * image.height / image.width))
    left, top = round((across - width) / 2), round((down - height) / 2)
    resized = image.resize((across, down), Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + width, top + height))
