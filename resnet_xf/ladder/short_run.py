"""The short training runs of rungs 7 to 9: batches of digits and learning rates, the same for every network."""

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
from resnet_xf.backend.learner import Task
from resnet_xf.data import Batches, load_dataset
from resnet_xf.data.transform import Transform
from resnet_xf.errors import ShapeError
from resnet_xf.ladder.perturb import noise
from resnet_xf.training.recipe import Augmentation, Optimizer, Recipe, Schedule, learning_rates, rounded, targets

SIZES = (16, 24, 32, 48, 64, 96, 128)
"""The heights (= widths) of training images from which a run's size is chosen, the smallest first."""

LOCKSTEP: dict[str, Any] = {"steps": 20, "batch_size": 8, "learning_rate": 3e-4}
"""The run in lock-step, for rungs 7 and 8: :class:`ShortRun`'s fields of these names."""

CURVE: dict[str, Any] = {"steps": 40, "batch_size": 32, "learning_rate": 1e-2}
"""The run for learning curves (rung 9), in which networks do learn: :class:`ShortRun`'s fields of these names."""

PIXELS = 4
"""Fewest pixels per channel and image that each batch norm must see. Statistics of fewer are mostly chance."""

MEAN, STD = 0.3, 0.37
"""Mean and standard deviation of the digits' pixels in 0…1, rounded."""

TEXTURE = 0.01
"""Standard deviation of the noise that is added to normalised images. Without it, large parts of a feature map are
constant. In a sum of equal terms, all rounding errors have the same sign: on a map of 112×112, the measured error was
30 times larger."""


@dataclass(frozen=True)
class TrainingStep:
    """The inputs of one step: images ``(N, C, H, W)`` float32, targets ``(N, classes)`` float64, the learning rate."""

    images: Array
    targets: Array
    learning_rate: float


@dataclass(frozen=True)
class ShortRun:
    """A training run of 2 epochs of ``steps`` / 2 batches each. Iterating over it yields a :class:`TrainingStep` each.

    The learning rate rises for half an epoch and drops to a tenth in the middle of the second, so that a schedule off
    by one step shows. Momentum, weight decay, label smoothing, padded crops and flips are on.

    Attributes:
        network: the node that backends build and train; None for a user's own networks, whose backends copy them.
        weights: the names of the network's arrays.
        channels, classes: the channels of its input, and the number of its outputs.
        size: height and width of the images.
        opens_with_norm: see :class:`resnet_xf.backend.learner.Task`.
        rows: one row per layer, with its shapes for one image of that size.
        steps: the number of steps, a multiple of 4, at least 8.
        batch_size: images per step.
        learning_rate: the highest one of the run.
        seed: the seed of the order and augmentation of images.
        saved: the steps themselves, if they were read from a capture. Else empty, and they are computed.
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
        """For each batch norm, by name: how many values per channel it sees in a step."""
        return {row.name: self.batch_size * prod(row.output_shape[2:]) for row in self.rows if row.kind == "norm"}

    @cached_property
    def all_steps(self) -> tuple[TrainingStep, ...]:
        """The inputs of every step, made once and kept. Rung 9's run is longer, so its steps are iterated over."""
        return tuple(self)

    @property
    def roundings(self) -> float:
        """How many rounding errors a step makes: along the layers, and in the longest sum over a batch's pixels."""
        positions = max(self.batch_size * prod(row.output_shape[2:]) for row in self.rows if row.name)
        return self.path + positions / 12

    @property
    def path(self) -> float:
        """How many rounding errors layers make, forward and backward. Long sums that are made in blocks add no more."""
        return 2 * roundings(self.rows)

    @property
    def rates(self) -> list[float]:
        """The learning rate of each step."""
        return [float(rate) for rate in learning_rates(self.recipe, self.steps // 2)]

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The steps that rung 8 compares, counted from 1: the first two, two at the warm-up's end, two at the drop."""
        quarter = self.steps // 4
        return (1, 2), (quarter, quarter + 1), (3 * quarter, 3 * quarter + 1)

    @property
    def recipe(self) -> Recipe:
        """The recipe of the run: optimiser, learning rate schedule, augmentation and so on."""
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
        """Return the settings from which a backend makes a learner of this run. ``changes`` replace some of them."""
        optimizer = self.recipe.optimizer
        task = Task(
            network=self.network,
            momentum=rounded(optimizer.momentum),
            nesterov=optimizer.nesterov,
            weight_decay=rounded(optimizer.weight_decay),
            decaying=frozenset(name for name in self.weights if not is_statistic(name)),
            precision=precision,
            freeze_statistics=False,
            device=device,
            opens_with_norm=self.opens_with_norm,
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
    """Convert normalised images ``(N, C, H, W)`` to what a network takes that normalises its input itself.

    ``scale`` is the network's own normalisation, which is inverted here; None returns the images unchanged. A network
    that begins with ``(x - 127.5) / 128`` takes pixels from 0 to 255. Values near 0 would become a nearly constant
    image, and batch norms then magnify rounding errors.
    """
    if scale is None:
        return images
    shifts, scales = (np.asarray(values, images.dtype)[:, None, None] for values in (scale.shift, scale.scale))
    pixels: Array = images / scales + shifts
    return pixels


def lockstep_run(planned: Plan, seed: int) -> ShortRun:
    """Return the run of rungs 7 and 8 for a plan, on the smallest images that give every norm ``PIXELS`` pixels."""
    return _short_run(planned, seed, _smallest_size(planned, SIZES, PIXELS), LOCKSTEP)


def curve_run(planned: Plan, seed: int) -> ShortRun:
    """Return the run of rung 9 (learning curves) for a plan: longer, in larger batches, at a higher learning rate."""
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
    """Return the smallest of ``sizes`` that gives every norm at least ``pixels`` pixels; the spec's own if none does.

    Norms that see a single pixel even at the largest size, as after a global pool, do not count. Without batch norms,
    it is the first size that the network takes. ``sizes`` are in rising order.
    """

    def seen(size: int) -> dict[str, int]:
        """Return by name how many pixels each norm sees; empty if the network does not take images of this size."""
        with suppress(ShapeError):
            rows = trace(planned, (1, planned.spec.in_channels, size, size))
            return {row.name: prod(row.output_shape[2:]) for row in rows if row.kind == "norm"} or {"": size}
        return {}

    most = seen(sizes[-1])
    for size in sizes:
        counts = [count for name, count in seen(size).items() if most.get(name) != 1]
        if counts and min(counts) >= pixels:
            return size, size
    return planned.spec.image_size
