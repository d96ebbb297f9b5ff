"""Mean and standard deviation of a data set's pixels."""

from __future__ import annotations

import numpy as np

from resnet_xf.data.splits import ArraySplit, Split

SAMPLE = 1000
"""The number of images that are read from files, evenly spaced; and the number counted at a time in memory."""


def pixel_statistics(split: Split, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, for values in 0…1.

    They cover all images in memory, and about 1,000 images in files. Pixels are counted by their byte value, so the
    result is the same on every machine.

    Raises:
        DataError: if an image's file cannot be read.
    """
    counts = np.zeros((channels, 256), np.int64)
    if isinstance(split, ArraySplit):
        for channel in range(channels):
            for start in range(0, len(split), SAMPLE):
                pixels = split.images[start : start + SAMPLE, ..., channel]
                counts[channel] += np.bincount(pixels.ravel(), minlength=256)
    else:
        for index in range(0, len(split), max(1, len(split) // SAMPLE)):
            pixels = np.asarray(split.image(index, channels)).reshape(-1, channels)
            for channel in range(channels):
                counts[channel] += np.bincount(pixels[:, channel], minlength=256)
    values = np.arange(256) / 255
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ values
    std = np.sqrt((share * (values - mean[:, None]) ** 2).sum(axis=1))
    return tuple(mean.tolist()), tuple(np.maximum(std, 1 / 255).tolist())
