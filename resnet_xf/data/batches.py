"""The batches of an epoch, prepared in background threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from resnet_xf.data.kept import Kept
from resnet_xf.data.pixels import Pixels
from resnet_xf.data.randomness import draws, order, share
from resnet_xf.data.splits import Split
from resnet_xf.data.transform import Transform
from resnet_xf.errors import DataError
from resnet_xf.support.environment import processors

CHUNK = 16
"""Images that a thread prepares at a time. All threads work on the same batch, so that few batches are in memory."""

AHEAD = 2
"""Batches that are prepared ahead, or more if a batch has too few chunks for all threads."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One worker's part of a batch.

    Attributes:
        number: number of the batch in its epoch, from 0.
        indices: indices of the images in their split, ``(B,)`` int64.
        pixels: the images as bytes, for a learner.
        labels: ``(B,)`` int64.
        size: number of images in the whole batch, of all workers together. If there are more workers, B is 0 for some.
    """

    number: int
    indices: NDArray[np.int64]
    pixels: Pixels
    labels: NDArray[np.int64]
    size: int

    @cached_property
    def images(self) -> NDArray[np.float32]:
        """The images as an input tensor, ``(B, C, H, W)`` float32."""
        return np.asarray(self.pixels)


@dataclass(eq=False)
class Batches:
    """The batches of one epoch: for training if there is a seed, for a test if there is none.

    In training, images come in the epoch's random order, each with its own random crop and mirroring. A batch depends
    only on the seed, the epoch, its number and the batch size. In a test, images come in the split's order.

    Each iteration starts at batch ``first``. Its threads end when the iteration ends. An error in a thread is raised by
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
        threads: number of threads; 0 for this worker's share of the processors.
        kept: images of the split that are kept from epoch to epoch; None if there are none.
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
    threads: int = 0
    kept: Kept | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise DataError(f"batch size: expected 1 or more, got {self.batch_size}")
        if not 0 <= self.rank < self.workers:
            raise DataError(
                f"rank: expected 0…{self.workers - 1}, being one of {self.workers} workers, got {self.rank}"
            )
        self.threads = self.threads or max(1, processors() // self.workers)
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
        if self.kept is not None and self.kept.complete():
            yield from (self._begin(number, positions, None)[0] for number in range(self.first, self.total))
            return
        chunks = -(-self.batch_size // (CHUNK * self.workers))
        ahead = max(AHEAD, -(-self.threads // chunks))
        waiting: deque[tuple[Batch, list[Future[None]]]] = deque()
        with ThreadPoolExecutor(self.threads, "batches") as pool:
            try:
                for number in range(self.first, self.total):
                    waiting.append(self._begin(number, positions, pool))
                    if len(waiting) > ahead:
                        yield _finished(*waiting.popleft())
                while waiting:
                    yield _finished(*waiting.popleft())
            finally:
                for _, futures in waiting:
                    for future in futures:
                        future.cancel()

    def _begin(
        self, number: int, positions: NDArray[np.int64], pool: ThreadPoolExecutor | None
    ) -> tuple[Batch, list[Future[None]]]:
        """Return a batch, and what its images wait for. Without a pool, all images are kept."""
        start = number * self.batch_size
        whole = positions[start : start + self.batch_size]
        indices = share(whole, self.rank, self.workers)
        random = None
        if self.seed is not None:
            random = share(draws(self.seed, self.epoch, start, len(whole)), self.rank, self.workers)
        futures: list[Future[None]] = []
        if self.kept is not None:
            pixels = self.transform.pixels(self.kept.store, random, indices, fixed=pool is None)
            missing = self.kept.missing(indices)
            futures = [pool.submit(self.kept.fill, missing[part]) for part in _chunks(len(missing))] if pool else []
        else:
            store = np.empty((len(indices), *self.transform.size, self.transform.channels), np.uint8)
            pixels = self.transform.pixels(store, random)

            def fill(part: slice) -> None:
                store[part] = self.transform.bytes(self.split, indices[part], None if random is None else random[part])

            futures = [pool.submit(fill, part) for part in _chunks(len(indices))] if pool else []
        return Batch(number, indices, pixels, self.split.labels[indices], len(whole)), futures


def _chunks(count: int) -> list[slice]:
    return [slice(start, start + CHUNK) for start in range(0, count, CHUNK)]


def _finished(batch: Batch, futures: list[Future[None]]) -> Batch:
    """Wait for a batch's images and return it."""
    for future in futures:
        future.result()
    return batch
