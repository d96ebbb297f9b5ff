"""The order of an epoch's samples and the random numbers of each: functions of the seed, the same everywhere.

They are made of the words of a counter-based generator (Philox4x64, Salmon et al. 2011) and of nothing else of
NumPy's, whose other methods may change from version to version.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_xf.support.seeding import philox

DRAWS = 24
"""How many numbers each sample has; a multiple of the 4 words that one tick of the counter gives."""


def permutation(what: str, count: int) -> NDArray[np.int64]:
    """The numbers 0…count - 1 in an order that depends on ``what`` and ``count`` alone."""
    words = philox(what).random_raw(count)
    return np.argsort(words, kind="stable").astype(np.int64, copy=False)


def order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The samples of an epoch, each once, in the order in which it takes them: ``(count,)``."""
    return permutation(f"{seed}/order/{epoch}", count)


def draws(seed: int, epoch: int, start: int, count: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) for the samples at ``start`` and after in that epoch's order: ``(count, DRAWS)``.

    A sample's numbers depend on the seed, the epoch and its place in the order, and so on no batch size and on no
    number of workers; only those asked for are made.
    """
    words = philox(f"{seed}/draws/{epoch}", start * DRAWS // 4).random_raw(count * DRAWS)
    return (words >> np.uint64(11)).astype(np.float64).reshape(count, DRAWS) * 2.0**-53


def share(batch: NDArray[Any], rank: int, workers: int) -> NDArray[Any]:
    """One worker's part of what stands in a batch: every ``workers``-th row from ``rank`` on; a view."""
    return batch[rank::workers]
