"""An epoch's batches, made ahead in background threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resnet_xf.data.randomness import draws, order, share
from resnet_xf.data.splits import Split
from resnet_xf.data.transform import Transform
from resnet_xf.errors import DataError

MOST_THREADS = 4
"""Also how many batches are made ahead, each of which takes the memory of its float32 images."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One worker's part of a batch.

    Attributes:
        number: of the batch in its epoch, from 0.
        indices: which of the split's images these are, ``(B,)`` int64.
        images: ``(B, C, H, W)`` float32.
        labels: ``(B,)`` int64.
        size: how many samples the whole batch has, all workers' together; B may be 0 when it is small.
    """

    number: int
    indices: NDArray[np.int64]
    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    size: int


class Batches:
    """The batches of one epoch, for training if there is a seed and for a test if there is none.

    In training, samples come in the epoch's own order, each cropped and mirrored by its own draws; what a batch holds
    depends on the seed, the epoch, its number and the batch size alone. In a test they come as they lie.

    Each iteration begins anew and ends its threads when it ends, is left or fails; what fails in a thread is raised
    where its batch would have come.

    Args:
        split: where the images are.
        transform: what is made of them.
        batch_size: samples of a batch, all workers' together.
        seed: for training; None for a test.
        epoch: of the seed's epochs.
        first: the number of the first batch wanted; those before it are not made.
        rank: which worker this is, from 0.
        workers: how many there are; each has every ``workers``-th sample of every batch.
        drop_last: whether a last batch of fewer samples is left out.
        threads: how many make batches, and how many batches they are ahead; at most 4 and no more than there are
            processors if None.

    Raises:
        DataError: if one of the numbers has no sense, or no batch is left.
    """

    def __init__(
        self,
        split: Split,
        transform: Transform,
        batch_size: int,
        *,
        seed: int | None = None,
        epoch: int = 0,
        first: int = 0,
        rank: int = 0,
        workers: int = 1,
        drop_last: bool = False,
        threads: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise DataError(f"batch size: expected 1 or more, got {batch_size}")
        if not 0 <= rank < workers:
            raise DataError(f"rank: expected 0…{workers - 1}, being one of {workers} workers, got {rank}")
        self.total = len(split) // batch_size if drop_last else -(-len(split) // batch_size)
        if self.total == 0:
            raise DataError(f"batch size: {batch_size} leaves no batch of {len(split)} images; choose a smaller one")
        self.split, self.transform, self.batch_size = split, transform, batch_size
        self.seed, self.epoch, self.first = seed, epoch, first
        self.rank, self.workers = rank, workers
        self.threads = threads or min(MOST_THREADS, os.cpu_count() or 1)

    def __len__(self) -> int:
        """How many batches come; ``total`` is how many the epoch has."""
        return max(0, self.total - self.first)

    def __iter__(self) -> Iterator[Batch]:
        count = len(self.split)
        places = np.arange(count, dtype=np.int64) if self.seed is None else order(self.seed, self.epoch, count)
        waiting: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(self.threads, "batches") as pool:
            try:
                for number in range(self.first, self.total):
                    waiting.append(pool.submit(self._make, number, places))
                    if len(waiting) > self.threads:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _make(self, number: int, places: NDArray[np.int64]) -> Batch:
        start = number * self.batch_size
        whole = places[start : start + self.batch_size]
        mine = share(whole, self.rank, self.workers)
        if self.seed is None:
            images = self.transform.test(self.split, mine)
        else:
            drawn = share(draws(self.seed, self.epoch, start, len(whole)), self.rank, self.workers)
            images = self.transform.train(self.split, mine, drawn)
        return Batch(number, mine, images, self.split.labels[mine], len(whole))
