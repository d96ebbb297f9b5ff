"""The batches of an epoch, prepared in background threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass

import numpy as np
from numpy.typing import NDArray

from resnet_xf.data.randomness import draws, order, share
from resnet_xf.data.splits import Split
from resnet_xf.data.transform import Transform
from resnet_xf.errors import DataError

MOST_THREADS = 4
"""The largest number of threads, and of batches prepared ahead; each takes the memory of its float32 images."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One worker's part of a batch.

    Attributes:
        number: number of the batch in its epoch, from 0.
        indices: indices of the images in their split, ``(B,)`` int64.
        images: ``(B, C, H, W)`` float32.
        labels: ``(B,)`` int64.
        size: number of images in the whole batch, of all workers together; B may be 0 if it is small.
    """

    number: int
    indices: NDArray[np.int64]
    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    size: int


@dataclass(eq=False)
class Batches:
    """The batches of one epoch: for training if there is a seed, for a test if there is none.

    In training, images come in the epoch's random order, each with its own random crop and mirroring. A batch depends
    only on the seed, the epoch, its number and the batch size. In a test, images come in the split's order.

    Each iteration starts at the first batch. Its threads end when the iteration ends. An error in a thread is raised by
    the iteration when it reaches that batch.

    Attributes:
        split: the images.
        transform: makes an input tensor of each image.
        batch_size: images per batch, of all workers together.
        seed: seed of order and augmentation; None for a test.
        epoch: number of the epoch, from 0.
        first: number of the first batch; earlier batches are skipped.
        rank: number of this worker, from 0.
        workers: number of workers; each gets every ``workers``-th image of every batch.
        drop_last: whether to leave out a last batch that is smaller than the others.
        threads: number of threads, and of batches prepared ahead; by default one per processor, at most 4.
        total: number of batches in the epoch.

    Raises:
        DataError: if an argument is out of range, or no batch is left.
    """

    split: Split
    transform: Transform
    batch_size: int
    _: KW_ONLY
    seed: int | None = None
    epoch: int = 0
    first: int = 0
    rank: int = 0
    workers: int = 1
    drop_last: bool = False
    threads: int = min(MOST_THREADS, os.cpu_count() or 1)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise DataError(f"batch size: expected 1 or more, got {self.batch_size}")
        if not 0 <= self.rank < self.workers:
            raise DataError(
                f"rank: expected 0…{self.workers - 1}, being one of {self.workers} workers, got {self.rank}"
            )
        count, size = len(self.split), self.batch_size
        self.total = count // size if self.drop_last else -(-count // size)
        if self.total == 0:
            raise DataError(f"batch size: {size} leaves no batch of {count} images; choose a smaller one")

    def __len__(self) -> int:
        """The number of batches from ``first`` on."""
        return max(0, self.total - self.first)

    def __iter__(self) -> Iterator[Batch]:
        count = len(self.split)
        positions = np.arange(count, dtype=np.int64) if self.seed is None else order(self.seed, self.epoch, count)
        waiting: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(self.threads, "batches") as pool:
            try:
                for number in range(self.first, self.total):
                    waiting.append(pool.submit(self._prepare, number, positions))
                    if len(waiting) > self.threads:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _prepare(self, number: int, positions: NDArray[np.int64]) -> Batch:
        start = number * self.batch_size
        whole = positions[start : start + self.batch_size]
        indices = share(whole, self.rank, self.workers)
        if self.seed is None:
            images = self.transform.test(self.split, indices)
        else:
            random = share(draws(self.seed, self.epoch, start, len(whole)), self.rank, self.workers)
            images = self.transform.train(self.split, indices, random)
        return Batch(number, indices, images, self.split.labels[indices], len(whole))
