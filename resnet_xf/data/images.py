"""Read, resize and crop one image."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from resnet_xf.errors import DataError, refuse
from resnet_xf.support.files import open_regular, reading

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's red, green and blue, for values in 0…1; from torchvision."""

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""The formats that are read, whatever the name says; for others, Pillow would start other programs."""

MOST_PIXELS, MOST_OBLONG = 80_000_000, 100
"""The most pixels of an image, in all and along its longer side for each along the shorter: both bound the memory."""

MODES = {1: "L", 3: "RGB"}
"""Pillow's mode for each number of channels."""

Size = tuple[int, int]
"""Height and width in pixels, in this order."""


def is_image(path: Path) -> bool:
    """Whether a file has the name of an image and is not hidden."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def read_image(path: str | Path, mode: str = "RGB") -> Image.Image:
    """Return the image in a file, in one of Pillow's modes.

    Raises:
        DataError: if the file cannot be read, is no image, or is damaged.
    """
    with (
        reading(path, DataError, "an image", "; replace it, or remove it before a run begins"),
        open_regular(path),
        Image.open(path, formats=FORMATS) as image,
    ):
        width, height = image.size
        sides = f"has {width}×{height} pixels"
        refuse(
            DataError,
            {
                f"{sides}; at most {MOST_PIXELS:,} are read": width * height > MOST_PIXELS,
                f"{sides}; at most {MOST_OBLONG} times as many along one side are read": max(width, height)
                > MOST_OBLONG * min(width, height),
            },
        )
        return image.convert(mode)


def resized(image: Image.Image, size: Size) -> Image.Image:
    """Return the whole image at a height and width, by bilinear interpolation as in torchvision's ``Resize``."""
    return image.resize(size[::-1], Image.Resampling.BILINEAR)


def centre(image: Image.Image, size: Size) -> Image.Image:
    """Return the centre of an image at a height and width, after a resize to 8/7 of the size (256 for 224).

    Sides and corners are rounded as in torchvision's ``Resize`` and ``CenterCrop``.
    """
    height, width = size
    if height * image.width >= width * image.height:
        down = round(height * 8 / 7)
        across = max(width, int(down * image.width / image.height))
    else:
        across = round(width * 8 / 7)
        down = max(height, int(across * image.height / image.width))
    left, top = round((across - width) / 2), round((down - height) / 2)
    return resized(image, (down, across)).crop((left, top, left + width, top + height))
