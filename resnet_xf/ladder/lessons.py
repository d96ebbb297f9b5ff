"""What the ladder trains on: real digits in batches, with every step's learning rate, the same for every side."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from resnet_xf.architecture.measures import roundings
from resnet_xf.architecture.nodes import is_statistic
from resnet_xf.architecture.plan import Plan
from resnet_xf.architecture.trace import Row, trace
from resnet_xf.architecture.weights import Array, all_weight_shapes
from resnet_xf.backend.learner import TIMEOUT, Task
from resnet_xf.data import Batches, load_dataset
from resnet_xf.data.transform import Transform
from resnet_xf.errors import ShapeError
from resnet_xf.training.recipe import Augmentation, Optimizer, Recipe, Schedule, learning_rates, rounded, targets

SIDES = (16, 24, 32, 48, 64, 96, 128)
"""Of square images to train on, the smallest first."""

STEPS = 20
"""How many are taken in lock-step."""

BATCH = 8
"""Images a step."""

RATE = 3e-4
"""The highest learning rate in lock-step. At 1e-2, rounding errors of float64 grow to the size of ResNet-50's weights
within twenty steps, and no comparison could tell anything; at 1e-3, to 2e-11 of its momentum; at this one, to 3e-15."""

COURSE_RATE = 1e-2
"""The highest of the course, in which the networks do learn."""

PIXELS = 4
"""What the norms should see of each image at least: the statistics of fewer numbers are ruled by chance."""

MEAN, DEVIATION = 0.3, 0.37
"""Of the digits' pixels in 0…1, rounded."""


@dataclass(frozen=True)
class Lesson:
    """One training step: images ``(N, C, H, W)`` float32, targets ``(N, classes)`` float64, the learning rate."""

    images: Array
    targets: Array
    rate: float


@dataclass(frozen=True)
class Lessons:
    """A short training run: 2 epochs of ``steps`` / 2 batches each.

    The rate climbs for a half epoch and drops to a tenth in the middle of the second, so that a schedule that is off by
    one step shows; momentum, decay, label smoothing, padded crops and flips are on.

    Attributes:
        network: what backends train.
        weights: the names of its arrays.
        channels, classes: of its input and output.
        size: of the images.
        opens_with_norm: see :class:`resnet_xf.backend.learner.Task`.
        rows: the trace for one image of that size.
        steps: even, at least 8.
        batch_size: images a step.
        learning_rate: the highest.
        seed: of order and augmentation.
        given: the steps themselves, where they were made before.
    """

    network: object
    weights: Sequence[str]
    channels: int
    classes: int
    size: tuple[int, int]
    opens_with_norm: bool
    rows: Sequence[Row]
    steps: int = STEPS
    batch_size: int = BATCH
    learning_rate: float = RATE
    seed: int = 0
    given: Sequence[Lesson] = ()

    @cached_property
    def elements(self) -> dict[str, int]:
        """How many numbers of each channel every norm sees in a step."""
        return {row.name: self.batch_size * prod(row.output_shape[2:]) for row in self.rows if row.kind == "norm"}

    @property
    def roundings(self) -> float:
        """Of a step: those along the layers, and those of the longest sum over a batch's pixels."""
        positions = max(self.batch_size * prod(row.output_shape[2:]) for row in self.rows if row.name)
        return self.path + positions / 12

    @property
    def path(self) -> float:
        """The roundings along the layers, forwards and backwards: all there are if long sums are made in blocks."""
        return 2 * roundings(self.rows)

    @property
    def recipe(self) -> Recipe:
        """The run as a recipe."""
        return Recipe(
            name="lockstep",
            epochs=2,
            batch_size=self.batch_size,
            optimizer=Optimizer(learning_rate=self.learning_rate, momentum=0.9, weight_decay=5e-4),
            schedule=Schedule(kind="step", milestones=(1.5,), warmup_epochs=0.5),
            augmentation=Augmentation(crop="padded", padding=2, flip=True, mean=(MEAN,), std=(DEVIATION,)),
            label_smoothing=0.1,
            image_size=self.size,
            seed=self.seed,
        )

    def task(self, precision: str, device: str, **changes: object) -> Task:
        """What a learner is to do in them."""
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

    def __iter__(self) -> Iterator[Lesson]:
        """Every step, in order."""
        if self.given:
            yield from self.given
            return
        recipe = self.recipe
        data = load_dataset("digits")
        shown = 1 if self.channels == 1 else 3
        half = data.train.take(np.arange(self.batch_size * self.steps // 2))
        crop = recipe.augmentation
        look = Transform(self.size, shown, crop.crop, crop.flip, crop.padding, (MEAN,), (DEVIATION,))
        rates = iter(learning_rates(recipe, self.steps // 2))
        # Of the same digit in every channel, each is fainter than the one before, so that no two can be confused.
        tints = np.linspace(1, 0.5, self.channels, dtype=np.float32)[:, None, None]
        for epoch in range(recipe.epochs):
            for batch in Batches(half, look, self.batch_size, seed=self.seed, epoch=epoch, threads=1):
                images = batch.images[:, np.arange(self.channels) % shown] * tints
                wanted = targets(batch.labels % self.classes, self.classes, recipe.label_smoothing, batch.size)
                yield Lesson(images, wanted, float(next(rates)))


def lessons_for(
    planned: Plan,
    seed: int,
    *,
    sides: Sequence[int] = SIDES,
    pixels: int = PIXELS,
    steps: int = STEPS,
    batch_size: int = BATCH,
    learning_rate: float = RATE,
) -> Lessons:
    """Lessons for a plan, in the smallest square images that give every norm so many pixels."""
    spec, size = planned.spec, _small(planned, sides, pixels)
    rows = trace(planned, (1, spec.in_channels, *size))
    return Lessons(
        network=planned.root,
        weights=tuple(all_weight_shapes(planned)),
        channels=spec.in_channels,
        classes=spec.num_classes,
        size=size,
        opens_with_norm=planned.opens_with_norm,
        rows=rows,
        seed=seed,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
    )


def course_for(planned: Plan, seed: int) -> Lessons:
    """A longer run in larger batches, for learning curves."""
    sides = [side for side in SIDES if side >= 32]
    return lessons_for(planned, seed, sides=sides, pixels=1, steps=40, batch_size=32, learning_rate=COURSE_RATE)


def _small(planned: Plan, sides: Sequence[int], pixels: int) -> tuple[int, int]:
    """The smallest size that gives norms enough pixels; if none does, the spec's own."""
    for side in sides:
        try:
            rows = trace(planned, (1, planned.spec.in_channels, side, side))
        except ShapeError:
            continue
        if _least_pixels(rows) >= pixels:
            return side, side
    return planned.spec.image_size


def _least_pixels(rows: Sequence[Row]) -> int:
    return min((int(np.prod(row.output_shape[2:])) for row in rows if row.kind == "norm"), default=PIXELS)
