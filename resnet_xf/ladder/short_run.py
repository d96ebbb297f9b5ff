"""The short training runs of the ladder: digits in batches, the same for every side, with each learning rate."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from resnet_xf.architecture.measures import roundings
from resnet_xf.architecture.nodes import Scale, is_statistic
from resnet_xf.architecture.plan import Plan
from resnet_xf.architecture.rewrite import in_full_precision, without_dropout
from resnet_xf.architecture.trace import Row, trace
from resnet_xf.architecture.weights import Array, all_weight_shapes
from resnet_xf.backend.learner import TIMEOUT, Task
from resnet_xf.data import Batches, load_dataset
from resnet_xf.data.transform import Transform
from resnet_xf.errors import ShapeError
from resnet_xf.ladder.perturb import noise
from resnet_xf.training.recipe import Augmentation, Optimizer, Recipe, Schedule, learning_rates, rounded, targets

SIZES = (16, 24, 32, 48, 64, 96, 128)
"""Height and width of the images that may be trained on, the smallest first."""

LOCKSTEP: dict[str, Any] = {"steps": 20, "batch_size": 8, "learning_rate": 3e-4}
"""The run in lock-step, and its highest learning rate."""

CURVE: dict[str, Any] = {"steps": 40, "batch_size": 32, "learning_rate": 1e-2}
"""The run for learning curves, in which networks do learn."""

PIXELS = 4
"""Smallest number of pixels per channel and image that each norm sees. Statistics of fewer are mostly chance."""

MEAN, STD = 0.3, 0.37
"""Of the digits' pixels in 0…1, rounded."""

TEXTURE = 0.01
"""Standard deviation of noise on the normalised images. Without it large parts of a map are constant. In a sum of equal
terms all rounding errors have the same sign, and grow with their number: measured on a map of 112×112, 30 times larger.
"""


@dataclass(frozen=True)
class TrainingStep:
    """The inputs of one step: images ``(N, C, H, W)`` float32, targets ``(N, classes)`` float64, the learning rate."""

    images: Array
    targets: Array
    learning_rate: float


@dataclass(frozen=True)
class ShortRun:
    """A training run of 2 epochs of ``steps`` / 2 batches each. Iterate over it for its :class:`TrainingStep`.

    The learning rate rises for half an epoch and drops to a tenth in the middle of the second, so that a schedule off
    by one step shows. Momentum, weight decay, label smoothing, padded crops and flips are on.

    Attributes:
        network: what backends train.
        weights: the names of its arrays.
        channels, classes: of its input and output.
        size: height and width of the images.
        opens_with_norm: see :class:`resnet_xf.backend.learner.Task`.
        rows: the trace for one image of that size.
        steps: their number, a multiple of 4, at least 8.
        batch_size: images per step.
        learning_rate: the highest.
        seed: of order and augmentation.
        saved: the steps themselves, if a capture brought them.
        input_scale: see :attr:`resnet_xf.architecture.plan.Plan.input_scale`.
    """

    network: object
    weights: Sequence[str]
    channels: int
    classes: int
    size: tuple[int, int]
    opens_with_norm: bool
    rows: Sequence[Row]
    steps: int
    batch_size: int
    learning_rate: float
    seed: int
    saved: Sequence[TrainingStep] = ()
    input_scale: Scale | None = None

    @cached_property
    def elements(self) -> dict[str, int]:
        """How many values per channel each norm sees in a step."""
        return {row.name: self.batch_size * prod(row.output_shape[2:]) for row in self.rows if row.kind == "norm"}

    @property
    def roundings(self) -> float:
        """The rounding errors of a step: those along the layers, and those of the longest sum over a batch's pixels."""
        positions = max(self.batch_size * prod(row.output_shape[2:]) for row in self.rows if row.name)
        return self.path + positions / 12

    @property
    def path(self) -> float:
        """The rounding errors along the layers, forward and backward: all there are if long sums are made in blocks."""
        return 2 * roundings(self.rows)

    @property
    def rates(self) -> list[float]:
        """The learning rate of each step."""
        return [float(rate) for rate in learning_rates(self.recipe, self.steps // 2)]

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Numbers of pairs of steps, from 1: the first two, two across the end of the warm-up, two across the drop."""
        quarter = self.steps // 4
        return (1, 2), (quarter, quarter + 1), (3 * quarter, 3 * quarter + 1)

    @property
    def recipe(self) -> Recipe:
        """The run as a recipe."""
        return Recipe(
            name="lockstep",
            epochs=2,
            batch_size=self.batch_size,
            optimizer=Optimizer(learning_rate=self.learning_rate, momentum=0.9, weight_decay=5e-4),
            schedule=Schedule(kind="step", milestones=(1.5,), warmup_epochs=0.5),
            augmentation=Augmentation(crop="padded", padding=2, flip=True, mean=(MEAN,), std=(STD,)),
            label_smoothing=0.1,
            image_size=self.size,
            seed=self.seed,
        )

    def task(self, precision: str, device: str, **changes: object) -> Task:
        """Return the task of a learner. ``changes`` are other values for its fields."""
        optimizer = self.recipe.optimizer
        task = Task(
            network=self.network,
            momentum=rounded(optimizer.momentum),
            nesterov=optimizer.nesterov,
            weight_decay=rounded(optimizer.weight_decay),
            decaying=frozenset(name for name in self.weights if not is_statistic(name)),
            precision=precision,
            preset="tuned",
            freeze_statistics=False,
            device=device,
            opens_with_norm=self.opens_with_norm,
            together=False,
            timeout=TIMEOUT,
        )
        return dataclasses.replace(task, **changes)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[TrainingStep]:
        """Yield the inputs of every step, in order; the same ones in each iteration. Nothing is trained."""
        if self.saved:
            yield from self.saved
            return
        recipe = self.recipe
        data = load_dataset("digits")
        shown = 1 if self.channels == 1 else 3
        half = data.train.take(np.arange(self.batch_size * self.steps // 2))
        crop = recipe.augmentation
        transform = Transform(self.size, shown, crop.crop, crop.flip, crop.padding, (MEAN,), (STD,))
        rates = iter(self.rates)
        # The same digit in every channel, each fainter than the one before, so that no two channels are equal.
        tints = np.linspace(1, 0.5, self.channels, dtype=np.float32)[:, None, None]
        for epoch in range(recipe.epochs):
            for batch in Batches(half, transform, self.batch_size, seed=self.seed, epoch=epoch, threads=1):
                images = batch.images[:, np.arange(self.channels) % shown] * tints
                images += TEXTURE * noise(f"texture/{epoch}/{batch.number}", images.shape).astype(images.dtype)
                images = in_units(images, self.input_scale)
                smoothed = targets(batch.labels % self.classes, self.classes, recipe.label_smoothing, batch.size)
                yield TrainingStep(images, smoothed, next(rates))


def in_units(images: Array, scale: Scale | None) -> Array:
    """Return normalised images ``(N, C, H, W)`` in the units that a network takes which normalises them itself.

    A network that begins with ``(x - 127.5) / 128`` takes pixels from 0 to 255. Of values near 0 it would make a nearly
    constant image, whose batch norms magnify rounding errors.
    """
    if scale is None:
        return images
    shifts, scales = (np.asarray(values, images.dtype)[:, None, None] for values in (scale.shift, scale.scale))
    pixels: Array = images / scales + shifts
    return pixels


def lockstep_run(planned: Plan, seed: int) -> ShortRun:
    """Return the run in lock-step, on the smallest images that give every norm ``PIXELS`` pixels."""
    return _short_run(planned, seed, _smallest_size(planned, SIZES, PIXELS), LOCKSTEP)


def curve_run(planned: Plan, seed: int) -> ShortRun:
    """Return the run for learning curves: longer, in larger batches, at a higher learning rate."""
    size = _smallest_size(planned, [size for size in SIZES if size >= 32], 1)
    return _short_run(planned, seed, size, CURVE)


def _short_run(planned: Plan, seed: int, size: tuple[int, int], settings: Mapping[str, Any]) -> ShortRun:
    return ShortRun(
        network=without_dropout(in_full_precision(planned.root)),
        weights=tuple(all_weight_shapes(planned)),
        channels=planned.spec.in_channels,
        classes=planned.outputs,
        size=size,
        opens_with_norm=planned.opens_with_norm,
        input_scale=planned.input_scale,
        rows=trace(planned, (1, planned.spec.in_channels, *size)),
        seed=seed,
        **settings,
    )


def _smallest_size(planned: Plan, sizes: Sequence[int], pixels: int) -> tuple[int, int]:
    """Return the smallest size of images that gives every norm enough pixels; the spec's own if none does.

    Norms that see a single pixel at any size, after a global pool, do not count.
    """

    def seen(size: int) -> dict[str, int]:
        """Return the pixels that each norm sees; nothing if the network does not take such images."""
        with suppress(ShapeError):
            rows = trace(planned, (1, planned.spec.in_channels, size, size))
            return {row.name: prod(row.output_shape[2:]) for row in rows if row.kind == "norm"} or {"": pixels}
        return {}

    most = seen(sizes[-1])
    for size in sizes:
        counts = [count for name, count in seen(size).items() if most.get(name) != 1]
        if counts and min(counts) >= pixels:
            return size, size
    return planned.spec.image_size
