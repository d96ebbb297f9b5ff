"""One image: read from a file, resized, cropped."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from resnet_xf.errors import DataError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and deviation of ImageNet's red, green and blue, values in 0…1; torchvision's."""

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

MODES = {1: "L", 3: "RGB"}
"""Pillow's name for images of that many channels."""

Size = tuple[int, int]
"""Height and width, in this order."""


def is_image(path: Path) -> bool:
    """Whether a file's name is an image's, and not a hidden one's."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def read_image(path: str | Path, mode: str = "RGB") -> Image.Image:
    """The image in a file, in one of Pillow's modes.

    Raises:
        DataError: if the file cannot be read, or is no image or a damaged one.
    """
    try:
        with Image.open(path) as image:
            return image.convert(mode)
    except (OSError, SyntaxError, ValueError, NotImplementedError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path}: not a readable image ({error}); replace it, or remove it before a run begins"
        ) from None


def resized(image: Image.Image, size: Size) -> Image.Image:
    """The whole image at that height and width; bilinear, as torchvision's ``Resize``."""
    return image.resize(size[::-1], Image.Resampling.BILINEAR)


def centre(image: Image.Image, size: Size) -> Image.Image:
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
    return resized(image, (down, across)).crop((left, top, left + width, top + height))
