"""Images resized by OpenCV's bilinear interpolation, as MXNet's and GluonCV's own readers do: without antialiasing.

OpenCV also decodes JPEGs, because it gives an array sooner than Pillow does. Both use libjpeg-turbo, and the pixels are
the same. What OpenCV refuses, as a file that is cut off, goes to Pillow, whose message says what is wrong.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from resnet_xf.data.images import Box, Size, decoded
from resnet_xf.errors import MissingExtraError
from resnet_xf.support.optional import optional

MOST_BYTES = 2**27
"""The most bytes of a JPEG that are given to OpenCV."""


def bilinear(image: Image.Image, mode: str, size: Size, box: Box | None = None, factor: int = 1) -> NDArray[np.uint8]:
    """Return an image, or a box of it, at a height and width: ``(H, W)`` or ``(H, W, 3)``.

    The arguments are those of :func:`resnet_xf.data.images.antialiased`. If a JPEG is decoded at a smaller scale, the
    box becomes the smallest one of whole pixels that contains it.

    Raises:
        MissingExtraError: if OpenCV is not installed.
    """
    cv2 = _opencv()
    left, top, right, bottom = box or (0, 0, *image.size)
    pixels = _jpeg(image, mode, factor)
    if pixels is None:
        pixels, factor = np.asarray(decoded(image, mode)), 1
    part = pixels[top // factor : -(-bottom // factor), left // factor : -(-right // factor)]
    resized: NDArray[np.uint8] = cv2.resize(part, size[::-1], interpolation=cv2.INTER_LINEAR)
    return resized


def _jpeg(image: Image.Image, mode: str, factor: int) -> NDArray[np.uint8] | None:
    """Return a JPEG that is not decoded yet, with its sides divided by a factor; None if Pillow is to decode it.

    Pillow decodes what is no JPEG, has other channels, or is damaged; it then says how.
    """
    if not (isinstance(image, ImageFile.ImageFile) and image.format == "JPEG" and image.tile and image.fp):
        return None
    if image.mode not in ("L", mode):
        return None
    cv2 = _opencv()
    image.fp.seek(0)
    data = np.frombuffer(image.fp.read(MOST_BYTES), np.uint8)
    colour = cv2.IMREAD_COLOR_RGB if mode == "RGB" else cv2.IMREAD_GRAYSCALE
    scale = getattr(cv2, f"IMREAD_REDUCED_GRAYSCALE_{factor}") if factor > 1 else 0
    pixels: NDArray[np.uint8] | None = cv2.imdecode(data, colour | scale | cv2.IMREAD_IGNORE_ORIENTATION)
    full = (-(-image.height // factor), -(-image.width // factor))
    return pixels if pixels is not None and pixels.shape[:2] == full else None


@cache
def _opencv() -> Any:
    """Import OpenCV, and let it use no threads of its own: several images are read at a time."""
    mend = "pip install 'resnet-xf[opencv]'"
    cv2 = optional("cv2", "the recipe's interpolation is bilinear, and images are resized by OpenCV", mend)
    if not hasattr(cv2, "IMREAD_COLOR_RGB"):
        raise MissingExtraError(f"images are resized by OpenCV 4.11 or later, and {cv2.__version__} is installed", mend)
    cv2.setNumThreads(1)
    return cv2
