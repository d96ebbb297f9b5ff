"""How an image becomes numbers: its size, its part that is shown, its mirror image, its mean and deviation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import exp, log, sqrt
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_xf.data.images import MODES, Size, centre, resized
from resnet_xf.data.randomness import DRAWS
from resnet_xf.data.splits import Split
from resnet_xf.errors import DataError

Crop: TypeAlias = Literal["resize", "centre", "padded", "random_resized"]
Pixels: TypeAlias = NDArray[np.uint8]

FRAMES: dict[Crop, Callable[[Image.Image, Size], Image.Image]] = {
    "resize": resized,
    "centre": centre,
    "padded": resized,
    "random_resized": centre,
}
"""What each way to crop shows of a test image."""

AREA, RATIO, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10
"""A random box's part of the image, its width over its height, and how often one is drawn; torchvision's."""

PLACE, FLIP = slice(2 * TRIES, 2 * TRIES + 2), 2 * TRIES + 2
"""Which of a sample's draws say where its crop lies and whether it is mirrored; the first are the boxes'."""
assert DRAWS > FLIP


@dataclass(frozen=True)
class Transform:
    """Images of one size and number of channels; pixels stay bytes until they are normalised, in float32.

    Attributes:
        size: height and width of what comes out.
        channels: 1, grey, or 3, red, green and blue; images that have other channels are converted.
        crop: what is shown of an image. ``resize``: the whole of it. ``centre``: its centre, 7/8 of it. ``padded``: the
            whole in a test; in training, that with ``padding`` black pixels on each side, cropped to ``size`` at
            random. ``random_resized``: the centre in a test; in training, a random box of 8 to 100 % of its area.
        flip: whether every other image, at random, is mirrored left to right in training.
        padding: pixels, for ``padded``.
        mean: subtracted from values in 0…1; one for each channel, or one for all.
        std: what they are then divided by, likewise.

    Raises:
        DataError: if a field has no sense; the message begins with its name.
    """

    size: Size
    channels: int
    crop: Crop = "resize"
    flip: bool = False
    padding: int = 4
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        numbers = f"one number or {self.channels}"
        wrong = {
            f"size: expected a height and a width of at least 1, got {self.size}": min(self.size) < 1,
            f"channels: expected 1 (grey) or 3 (red, green, blue), got {self.channels}": self.channels not in MODES,
            f"crop: expected one of {', '.join(get_args(Crop))}, got {self.crop!r}": self.crop not in FRAMES,
            f"padding: expected 0 or more, got {self.padding}": self.padding < 0,
            f"mean: expected {numbers}, got {self.mean}": len(self.mean) not in (1, self.channels),
            f"std: expected {numbers}, above 0, got {self.std}": len(self.std) not in (1, self.channels)
            or not min(self.std) > 0,
        }
        for complaint, is_wrong in wrong.items():
            if is_wrong:
                raise DataError(complaint)

    def train(self, split: Split, indices: NDArray[np.int64], draws: NDArray[np.float64]) -> NDArray[np.float32]:
        """Those images as they are learnt from: ``(B, C, H, W)``.

        Args:
            split: where the images are.
            indices: which of them, ``(B,)``.
            draws: the random numbers of each, ``(B, DRAWS)``.

        Raises:
            DataError: if an image's file cannot be read.
        """
        if self.crop == "random_resized":
            images = (split.image(index, self.channels) for index in indices)
            boxes = (image.crop(random_box(image.size, drawn)) for image, drawn in zip(images, draws, strict=True))
            pixels = self._stacked((resized(box, self.size) for box in boxes), len(indices))
        else:
            pixels = self._framed(split, indices)
        if self.crop == "padded":
            pixels = shifted(pixels, self.padding, draws[:, PLACE])
        if self.flip:
            mirrored = draws[:, FLIP] < 0.5
            pixels[mirrored] = pixels[mirrored, :, ::-1]
        return self._normalised(pixels)

    def test(self, split: Split, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Those images as a network is tested with them, ``(B, C, H, W)``: nothing is random.

        Raises:
            DataError: if an image's file cannot be read.
        """
        return self._normalised(self._framed(split, indices))

    def one(self, image: Image.Image) -> NDArray[np.float32]:
        """One image as :meth:`test` shows it: ``(1, C, H, W)``."""
        framed = FRAMES[self.crop](image.convert(MODES[self.channels]), self.size)
        return self._normalised(self._stacked([framed], 1))

    def _framed(self, split: Split, indices: NDArray[np.int64]) -> Pixels:
        frame = FRAMES[self.crop]
        if frame is resized and (pixels := split.stack(indices, (*self.size, self.channels))) is not None:
            return pixels
        return self._stacked((frame(split.image(index, self.channels), self.size) for index in indices), len(indices))

    def _stacked(self, images: Iterable[Image.Image], count: int) -> Pixels:
        pixels = np.empty((count, *self.size, self.channels), np.uint8)
        for place, image in zip(pixels, images, strict=True):
            place[:] = np.asarray(image).reshape(place.shape)
        return pixels

    def _normalised(self, pixels: Pixels) -> NDArray[np.float32]:
        mean, std = (np.array(numbers, np.float32)[:, None, None] for numbers in (self.mean, self.std))
        numbers = np.empty((len(pixels), self.channels, *self.size), np.float32)
        np.divide(pixels.transpose(0, 3, 1, 2), np.float32(255), out=numbers)
        numbers -= mean
        numbers /= std
        return numbers


def shifted(pixels: Pixels, padding: int, places: NDArray[np.float64]) -> Pixels:
    """Each image moved by up to ``padding`` pixels each way, black moving in: ``(B, H, W, C)``.

    ``places``, ``(B, 2)`` in [0, 1), say how far down and across the crop lies in the padded image.
    """
    height, width = pixels.shape[1:3]
    sides = (padding, padding)
    padded = np.pad(pixels, ((0, 0), sides, sides, (0, 0)))
    corners = (places * (2 * padding + 1)).astype(np.int64)
    for place, image, (top, left) in zip(pixels, padded, corners, strict=True):
        place[:] = image[top : top + height, left : left + width]
    return pixels


def random_box(size: tuple[int, int], drawn: NDArray[np.float64]) -> tuple[int, int, int, int]:
    """A box in an image of that width and height, as Pillow takes it: left, top, right, bottom.

    Area and ratio are drawn as torchvision's ``RandomResizedCrop`` draws them: up to ten times, until the box fits;
    else it is the largest central one of a ratio allowed.
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
