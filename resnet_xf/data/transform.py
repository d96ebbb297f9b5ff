"""From images to input tensors: resize, crop, mirror and normalise."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from math import exp, log, sqrt
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_xf.data.images import MODES, Box, Size, all_resized, antialiased, centre_of
from resnet_xf.data.opencv import bilinear
from resnet_xf.data.pixels import Bytes, Normalisation, Pixels
from resnet_xf.data.randomness import DRAWS
from resnet_xf.data.splits import Split
from resnet_xf.errors import DataError, refuse

Crop: TypeAlias = Literal["resize", "centre", "padded", "random_resized"]

Interpolation: TypeAlias = Literal["antialias", "bilinear"]

TEST_CROPS: dict[Crop, Literal["resize", "centre"]] = {
    "resize": "resize",
    "centre": "centre",
    "padded": "resize",
    "random_resized": "centre",
}
"""How test images are cropped, by the crop of training."""

RESIZES: dict[Interpolation, Callable[..., Bytes]] = {"antialias": antialiased, "bilinear": bilinear}
"""What decodes and resizes an image, by the interpolation."""

AREA, RATIO, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10
"""Range of a random box's area and aspect ratio, and how often one is drawn; from torchvision."""

SCALES = (8, 4, 2)
"""By how much the sides of a JPEG can be divided while it is decoded."""

PLACE, FLIP = slice(2 * TRIES, 2 * TRIES + 2), 2 * TRIES + 2
"""Which of an image's random numbers set the place of its crop and its mirroring; the first ones set boxes."""
assert DRAWS > FLIP


@dataclass(frozen=True)
class Transform:
    """A transform from images to float32 tensors of one size and number of channels.

    Attributes:
        size: height and width of the tensors.
        channels: 1 (grey) or 3 (red, green, blue); images with other channels are converted.
        crop, flip, padding, mean, std, interpolation: as in :class:`resnet_xf.training.recipe.Augmentation`.
        order: ``RGB`` or ``BGR``, the order of three channels; mean and std are in this order too.

    Raises:
        DataError: if a field is out of range; the message begins with its name.
    """

    size: Size
    channels: int
    crop: Crop = "resize"
    flip: bool = False
    padding: int = 4
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    order: Literal["RGB", "BGR"] = "RGB"
    interpolation: Interpolation = "antialias"

    def __post_init__(self) -> None:
        numbers = f"one number or {self.channels}"
        complaints = {
            f"size: expected a height and a width of at least 1, got {self.size}": min(self.size) < 1,
            f"channels: expected 1 (grey) or 3 (red, green, blue), got {self.channels}": self.channels not in MODES,
            f"crop: expected one of {', '.join(get_args(Crop))}, got {self.crop!r}": self.crop not in TEST_CROPS,
            f"interpolation: expected one of {', '.join(RESIZES)}, got {self.interpolation!r}": self.interpolation
            not in RESIZES,
            f"padding: expected 0 or more, got {self.padding}": self.padding < 0,
            f"mean: expected {numbers}, got {self.mean}": len(self.mean) not in (1, self.channels),
            f"mean: expected values for pixels of 0…1, got {self.mean}; divide mean and std by 255, or write scale 255 "
            "in a checkpoint's description": max(map(abs, self.mean), default=0) > 1,
            f"std: expected {numbers}, above 0, got {self.std}": len(self.std) not in (1, self.channels)
            or not min(self.std) > 0,
        }
        refuse(DataError, complaints)

    def one(self, image: Image.Image) -> NDArray[np.float32]:
        """Return one image for a test: ``(1, C, H, W)``. It may be not decoded yet."""
        return np.asarray(self.pixels(self._stacked([self._shown(image)], 1)))

    def bytes(self, split: Split, indices: NDArray[np.int64], draws: NDArray[np.float64] | None = None) -> Bytes:
        """Return images at the transform's size, ``(B, H, W, C)``; random boxes of them if that is the crop.

        Shifts and mirroring are not done yet, see :meth:`pixels`. Without ``draws``, images are as for a test. The
        result is new memory. Raises DataError if an image's file cannot be read.
        """
        uses: list[Callable[[Image.Image], Bytes]] = [self._shown] * len(indices)
        alike = self.interpolation == "antialias" and TEST_CROPS[self.crop] == "resize"
        if self.crop == "random_resized" and draws is not None:
            uses = [partial(self._random_box, drawn=drawn) for drawn in draws]
        elif alike and (stacked := split.stack(indices, self.channels)) is not None:
            return self._ordered(all_resized(stacked, self.size))
        images = (split.read(index, use) for index, use in zip(indices, uses, strict=True))
        return self._stacked(images, len(indices))

    def pixels(
        self,
        store: Bytes,
        draws: NDArray[np.float64] | None = None,
        rows: NDArray[np.int64] | None = None,
        *,
        fixed: bool = False,
    ) -> Pixels:
        """Return a batch of the bytes that :meth:`bytes` returned, with the shifts and mirroring that are drawn."""
        mirrored = corners = None
        if draws is not None and self.flip:
            mirrored = draws[:, FLIP] < 0.5
        if draws is not None and self.crop == "padded":
            corners = corners_of(self.padding, draws[:, PLACE])
        return Pixels(store, self.normalisation, rows, fixed, mirrored, self.padding, corners)

    @cached_property
    def normalisation(self) -> Normalisation:
        """The normalisation, with a mean and a deviation for each channel."""
        mean, std = (np.broadcast_to(np.array(row, np.float32), self.channels) for row in (self.mean, self.std))
        return Normalisation(mean, std)

    def _shown(self, image: Image.Image) -> Bytes:
        """Return the pixels of an image for a test, at the transform's size."""
        resize, mode = RESIZES[self.interpolation], MODES[self.channels]
        if TEST_CROPS[self.crop] == "resize":
            return resize(image, mode, self.size)
        whole, (left, top, right, bottom) = centre_of(image, self.size)
        return resize(image, mode, whole)[top:bottom, left:right]

    def _random_box(self, image: Image.Image, drawn: NDArray[np.float64]) -> Bytes:
        """Return the pixels of a random box of an image, at the transform's size.

        A JPEG is decoded at a half, a quarter or an eighth of its size if the box is then still as large as the result.
        """
        box = left, top, right, bottom = random_box(image.size, drawn)
        most = min((bottom - top) // self.size[0], (right - left) // self.size[1])
        factor = next((factor for factor in SCALES if factor <= most), 1)
        return RESIZES[self.interpolation](image, MODES[self.channels], self.size, box, factor)

    def _stacked(self, images: Iterable[Bytes], count: int) -> Bytes:
        pixels = np.empty((count, *self.size, self.channels), np.uint8)
        for place, image in zip(pixels, images, strict=True):
            place[:] = image.reshape(place.shape)
        return self._ordered(pixels)

    def _ordered(self, images: Bytes) -> Bytes:
        """Return images whose channels are red, green and blue in the transform's order."""
        return np.ascontiguousarray(images[..., ::-1]) if self.order == "BGR" else images


def corners_of(padding: int, places: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return top and left of each crop in an image with ``padding``, ``(B, 2)``, for places in [0, 1)."""
    return (places * (2 * padding + 1)).astype(np.int64)


def random_box(size: tuple[int, int], drawn: NDArray[np.float64]) -> Box:
    """Return a random box in an image of a width and height.

    Area and aspect ratio are drawn as in torchvision's ``RandomResizedCrop``: up to ten times, until the box fits. If
    none fits, the box is the largest central one with an allowed ratio.
    """
    width, height = size
    for area, ratio in drawn[: 2 * TRIES].reshape(TRIES, 2).tolist():
        part = width * height * (AREA[0] + area * (AREA[1] - AREA[0]))
        aspect = exp(log(RATIO[0]) + ratio * (log(RATIO[1]) - log(RATIO[0])))
        across, down = round(sqrt(part * aspect)), round(sqrt(part / aspect))
        if 0 < across <= width and 0 < down <= height:
            top, left = (
                int(u * (room + 1)) for u, room in zip(drawn[PLACE], (height - down, width - across), strict=True)
            )
            return left, top, left + across, top + down
    across, down = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down
