"""The order of an epoch's images and the random numbers of each image, from the seed alone.

They use only the raw words of a counter-based generator (Philox4x64, Salmon et al. 2011): NumPy's other methods may
change from version to version.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_xf.support.seeding import philox

DRAWS = 24
"""Random numbers per image; a multiple of the 4 words that one step of the counter gives."""


def permutation(key: str, count: int) -> NDArray[np.int64]:
    """Return 0…count − 1 in an order that depends only on the key and ``count``."""
    words = philox(key).random_raw(count)
    return np.argsort(words, kind="stable").astype(np.int64, copy=False)


def order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """Return the indices of all images in an epoch's order: ``(count,)``."""
    return permutation(f"{seed}/order/{epoch}", count)


def draws(seed: int, epoch: int, start: int, count: int) -> NDArray[np.float64]:
    """Return uniform random numbers in [0, 1) for the images from ``start`` on in an epoch's order: ``(count, DRAWS)``.

    An image's numbers depend on the seed, the epoch and its position in the order, and so not on the batch size or the
    number of workers.
    """
    words = philox(f"{seed}/draws/{epoch}", start * DRAWS // 4).random_raw(count * DRAWS)
    return (words >> np.uint64(11)).astype(np.float64).reshape(count, DRAWS) * 2.0**-53


def share(batch: NDArray[Any], rank: int, workers: int) -> NDArray[Any]:
    """Return one worker's part of a batch: a view of every ``workers``-th row from ``rank`` on."""
    return batch[rank::workers]
