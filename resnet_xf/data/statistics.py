"""Mean and standard deviation of a data set's pixels."""

from __future__ import annotations

import numpy as np

from resnet_xf.data.splits import ArraySplit, Split

SAMPLE = 1000
"""How many images are read where they lie in files, evenly spaced over them all; and counted at a time in memory."""


def pixel_statistics(split: Split, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, values in 0…1, over all pixels; of files, over some 1,000 images.

    Counted exactly, byte value by byte value, so that they are the same on every machine.

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
