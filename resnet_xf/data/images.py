"""Read, resize and crop images, and give real ones as inputs for a network."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import BITSPERSAMPLE, TiffImageFile

from resnet_xf.errors import DataError
from resnet_xf.support.files import open_regular, reading

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's red, green and blue, for values in 0…1; from torchvision."""

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""The formats that are read, whatever the name says; for others, Pillow would start other programs."""

MOST_PIXELS, MOST_OBLONG = 80_000_000, 100
"""The most pixels of an image, and the most times that one side is as long as the other: both bound the memory."""

MODES = {1: "L", 3: "RGB"}
"""Pillow's mode for each number of channels."""

Size = tuple[int, int]
"""Height and width in pixels, in this order."""

Box = tuple[int, int, int, int]
"""A part of an image: left, top, right, bottom, as Pillow takes it."""

T = TypeVar("T")

Images = NDArray[np.float32]
"""``(N, C, H, W)``."""


def is_image(path: Path) -> bool:
    """Whether a file has the name of an image and is not hidden."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def read_image(path: str | Path) -> Image.Image:
    """Return the image in a file, in colour. Raises DataError if the file is no image, or damaged."""
    return read_file(path, lambda image: decoded(image, "RGB"))


def read_file(path: str | Path, use: Callable[[Image.Image], T]) -> T:
    """Return what ``use`` makes of the image in a file; it gets the image before it is decoded.

    Raises DataError if the file is no image, or damaged.
    """
    hint = "; replace it, or remove it before a run begins"
    with reading(path, DataError, "an image", hint), open_regular(path) as file:
        return open_image(file, path, hint, use)


def open_image(file: BinaryIO, where: str | Path, hint: str, use: Callable[[Image.Image], T]) -> T:
    """Do as :func:`read_file` with an open file; ``where`` and ``hint`` are for the message, as in ``reading``."""
    with reading(where, DataError, "an image", hint), _opened(file) as image:
        shorter, longer = sorted(image.size)
        sides = f"has {image.width}×{image.height} pixels"
        if shorter * longer > MOST_PIXELS:
            raise DataError(f"{sides}; at most {MOST_PIXELS:,} are read")
        if longer > MOST_OBLONG * shorter:
            raise DataError(f"{sides}; at most {MOST_OBLONG} times as many along one side are read")
        return use(image)


def decoded(image: Image.Image, mode: str) -> Image.Image:
    """Return an image in one of Pillow's modes, decoded by Pillow if it is not decoded yet.

    Pixels of 12 or 16 bits are divided so that they fit in 8. Raises DataError if pixels are of mode I or F, but for a
    PNG file's, which have 16 bits.
    """
    if image.mode == mode:
        image.load()
        return image
    if image.mode in ("I", "F") and image.format != "PNG":
        raise DataError(f"has pixels of mode {image.mode}, whose largest value is not known; save it with 8 bits")
    if image.mode.startswith("I"):  # more than 8 bits; Pillow would turn all but the darkest grey into white
        bits = image.tag_v2.get(BITSPERSAMPLE, (16,))[0] if isinstance(image, TiffImageFile) else 16
        return Image.fromarray((np.asarray(image) >> (bits - 8)).astype(np.uint8)).convert(mode)
    return image.convert(mode)


def _opened(file: BinaryIO) -> Image.Image:
    try:
        return Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:  # whose message names the Python object
        raise UnidentifiedImageError(f"it is none of {', '.join(FORMATS)}") from None


def resized(image: Image.Image, size: Size) -> Image.Image:
    """Return the whole image at a height and width, by bilinear interpolation as in torchvision's ``Resize``."""
    return image.resize(size[::-1], Image.Resampling.BILINEAR)


def antialiased(
    image: Image.Image, mode: str, size: Size, box: Box | None = None, factor: int = 1
) -> NDArray[np.uint8]:
    """Return an image, or a box of it, at a height and width as :func:`resized` does: ``(H, W)`` or ``(H, W, 3)``.

    Args:
        image: it may be not decoded yet.
        mode: Pillow's mode of the result.
        size: height and width of the result.
        box: in pixels of the full image; None for all of it.
        factor: by how much the sides of a JPEG that is not decoded yet are divided while it is decoded.
    """
    full = image.size
    if factor > 1:
        image.draft(None, (image.width // factor, image.height // factor))
    image = decoded(image, mode)
    if box is None:
        return np.asarray(resized(image, size))
    if image.size == full:
        return np.asarray(resized(image.crop(box), size))
    left, top, right, bottom = (side / factor for side in box)
    return np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR, (left, top, right, bottom)))


def all_resized(images: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Return images ``(N, H, W, C)`` at a height and width, equal to the bit to :func:`resized` of each."""
    count, height, width, channels = images.shape
    if (height, width) == size or not count:
        return images.reshape(count, *size, channels)
    if _resizes_across_first((height, width), size):
        return _together(images, size)
    return np.stack([np.asarray(resized(image_of(image), size)).reshape(*size, channels) for image in images])


def _together(images: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Resize all images across as one tall image, then down as one wide image: two calls of Pillow in place of N."""
    (count, height, _, channels), (down, across) = images.shape, size
    tall = resized(image_of(images.reshape(count * height, -1, channels)), (count * height, across))
    rows = np.asarray(tall).reshape(count, height, across * channels).swapaxes(0, 1)
    wide = resized(image_of(rows.reshape(height, -1, channels)), (down, count * across))
    return np.ascontiguousarray(np.asarray(wide).reshape(down, count, -1).swapaxes(0, 1)).reshape(-1, *size, channels)


@cache
def _resizes_across_first(old: Size, new: Size) -> bool:
    """Return whether Pillow resizes across, rounds to bytes, then resizes down. The order depends on the sizes."""
    noise = np.random.default_rng(0).integers(0, 256, (1, *old, 1), np.uint8)
    return np.array_equal(np.asarray(resized(image_of(noise[0]), new)), _together(noise, new)[0, :, :, 0])


def image_of(pixels: NDArray[np.uint8]) -> Image.Image:
    """Return the image of pixels ``(H, W, C)``, grey if C is 1."""
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def centre(image: Image.Image, size: Size) -> Image.Image:
    """Return the centre of an image at a height and width, after a resize to 8/7 of the size (256 for 224)."""
    whole, box = centre_of(image, size)
    return resized(image, whole).crop(box)


def centre_of(image: Image.Image, size: Size) -> tuple[Size, Box]:
    """Return the size to which an image is resized for its centre, and the box of the centre in the resized image.

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
    return (down, across), (left, top, left + width, top + height)


def sample_images(channels: int, size: Size, folder: str | Path | None = None) -> Images:
    """Return real images for a network with that many input channels, ``(N, channels, H, W)``.

    With a folder, its first eight images by name. Without, scikit-learn's handwritten digits for one channel, and
    its two photographs for any other number of channels, which repeat red, green and blue.

    Raises:
        DataError: if the size is not positive, or the folder holds no image, or an image cannot be read.
    """
    if min(size) < 1:
        raise DataError(f"images of {size[0]}×{size[1]} pixels are empty; each side is at least 1 pixel")
    if folder is not None:
        return _stack(map(read_image, image_files(folder)[:8]), channels, size)
    if channels == 1:
        return digits(size)
    return _stack((read_image(_sklearn_file(f"images/{name}.jpg")) for name in ("china", "flower")), channels, size)


def image_files(folder: str | Path) -> list[Path]:
    """Return the paths of a folder's images by name; folders inside it are not searched.

    Raises:
        DataError: if there is no such folder, or no image in it.
    """
    if not Path(folder).is_dir():
        raise DataError(f"{folder}: no such folder; give a folder that holds images")
    paths = sorted(filter(is_image, Path(folder).iterdir()))
    if not paths:
        raise DataError(f"{folder}: holds no image; expected files that end in {', '.join(SUFFIXES)}")
    return paths


def photographs(size: Size = (224, 224)) -> Images:
    """Return scikit-learn's two photographs, cropped and normalised as for ImageNet: ``(2, 3, H, W)``."""
    return sample_images(3, size)


def digits(size: Size = (96, 96)) -> Images:
    """Return the first four of scikit-learn's handwritten digits, enlarged, with values in 0…1: ``(4, 1, H, W)``."""
    pixels, _ = all_digits()
    return _grey(resized(Image.fromarray(image), size) for image in pixels[:4])


@cache
def all_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return scikit-learn's 1797 digits, ``(N, 8, 8)`` with values in 0…255, and labels ``(N,)``; both read-only."""
    with gzip.open(_sklearn_file("data/digits.csv.gz"), "rt") as file:
        rows = np.loadtxt(file, delimiter=",")
    pixels, labels = (rows[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8), rows[:, -1].astype(np.int64)
    pixels.flags.writeable = labels.flags.writeable = False
    return pixels, labels


def _sklearn_file(name: str) -> Path:
    """Return the path of a file among scikit-learn's data sets. To import scikit-learn itself takes a second."""
    found = find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
    return Path(found.submodule_search_locations[0]) / "datasets" / name


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
