"""What training and inference share: checks of a data set against a network, image transforms, loss and accuracy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from resnet_xf.architecture.plan import Plan
from resnet_xf.architecture.spec import Spec
from resnet_xf.backend.learner import Learner, Task
from resnet_xf.data import Batches, Dataset, Kept, Split, Transform
from resnet_xf.data.splits import ArraySplit, pixel_statistics
from resnet_xf.errors import DataError, RecipeError
from resnet_xf.training.recipe import Recipe, decaying, rounded


def normalisation(recipe: Recipe, data: Dataset | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of the channels, from the recipe or else from the data set.

    Raises DataError if the recipe has none and there is no data set.
    """
    mean, std = recipe.augmentation.mean, recipe.augmentation.std
    if mean is not None and std is not None:
        return mean, std
    if data is None or not len(data.train):
        lacking = "training images" if data else "a data set"
        raise DataError(f"recipe {recipe.name}: takes mean and std from {lacking}, and there are none; name another")
    return pixel_statistics(data.train, data.channels)


def pixels_taken(planned: Plan) -> Literal[1, 255] | None:
    """Return the largest pixel for a network that begins with its own mean and scale; None if it has none."""
    own = planned.input_scale
    if own is None:
        return None
    return 255 if max(map(abs, own.scale)) < 0.1 or max(map(abs, own.shift)) > 2 else 1


def images_for(spec: Spec, data: Dataset) -> Dataset:
    """Return the data set with as many channels as the network takes: grey images are repeated in three channels."""
    if (data.channels, spec.in_channels) != (1, 3):
        return data
    return replace(data, channels=3, train=_in_three_channels(data.train), test=_in_three_channels(data.test))


def _in_three_channels(split: Split) -> Split:
    """Return a split with grey images in three equal channels; images in files are converted when they are read."""
    if isinstance(split, ArraySplit):
        return replace(split, images=np.broadcast_to(split.images, (*split.images.shape[:3], 3)))
    return split


def transform_of(planned: Plan, recipe: Recipe, mean: tuple[float, ...], std: tuple[float, ...]) -> Transform:
    """Return the transform from images to a network's input tensors. Raises RecipeError if mean or std do not fit."""
    size, channels, look = recipe.image_size or planned.spec.image_size, planned.spec.in_channels, recipe.augmentation
    if len(mean) not in (1, channels) or len(std) != len(mean):
        raise RecipeError(
            f"$.augmentation.mean: has {len(mean)} numbers and std {len(std)}, for {channels} channels; name another "
            "recipe; `evaluate` and `predict` take --mean and --std too"
        )
    return Transform(size, channels, look.crop, look.flip, look.padding, mean, std, interpolation=look.interpolation)


def task_of(planned: Plan, recipe: Recipe, device: str, **settings: Any) -> Task:
    """Return what a learner needs to train a network by a recipe; ``settings`` are further fields of :class:`Task`."""
    optimizer = recipe.optimizer
    return Task(
        network=planned.root,
        momentum=rounded(optimizer.momentum),
        nesterov=optimizer.nesterov,
        weight_decay=rounded(optimizer.weight_decay),
        decaying=decaying(planned, recipe),
        precision=recipe.precision,
        freeze_statistics=recipe.freeze_statistics,
        device=device,
        opens_with_norm=planned.opens_with_norm,
        **settings,
    )


def check_fit(
    planned: Plan, data: Dataset, *, training: bool = True, mend: str = "change the spec's {} (--{} {})"
) -> None:
    """Check that a network can train on a data set, or be tested on it.

    Raises DataError if the channels differ, a half has no images, or a label is not below the number of classes. A data
    set for a test needs no training images. A network that ends in a softmax cannot train. ``mend`` tells a person who
    trains what to do, with places for the spec's field, the option of ``train`` and the value that fits.
    """
    spec = planned.spec

    def hint(field: str, value: int) -> str:
        return "; " + mend.format(field, field.replace("_", "-"), value) if training else ""

    if training and planned.ends_in_softmax:
        raise DataError(
            f"{spec.name}: ends in a softmax, and the loss has one of its own; convert it without --keep-softmax"
        )
    if data.channels != spec.in_channels:
        raise DataError(
            f"{data.name}: its images have {data.channels} channels and {spec.name} takes {spec.in_channels}"
            + hint("in_channels", data.channels)
        )
    for half, split in (("training", data.train), ("test", data.test)):
        if not len(split) and (training or split is data.test):
            raise DataError(f"{data.name}: has no {half} images")
    labels = np.concatenate([data.train.labels, data.test.labels])
    largest, least = labels.max(), labels.min()
    if least < 0:
        raise DataError(f"{data.name}: has the label {least}; expected 0 and more")
    if largest >= spec.num_classes:
        raise DataError(
            f"{data.name}: its labels go up to {largest} and {spec.name} has {spec.num_classes} classes"
            + hint("num_classes", len(data.classes))
        )


def evaluate_split(
    learner: Learner,
    split: Split,
    transform: Transform,
    batch_size: int,
    *,
    kept: Kept | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> tuple[float, float] | None:
    """Return mean cross entropy and accuracy over a split, shared by all workers; None if ``stopped`` returned True.

    ``kept`` has the split's images, if they are kept in memory.
    """
    sums = np.zeros(2)
    for batch in Batches(split, transform, batch_size, rank=learner.rank, workers=learner.workers, kept=kept):
        if len(batch.labels):
            outputs = learner.outputs(batch.pixels).astype(np.float64)
            outputs[~np.isfinite(outputs)] = np.nan
            shifted = outputs - outputs.max(axis=1, keepdims=True)
            log_probability = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
            sums[0] -= log_probability[np.arange(len(batch.labels)), batch.labels].sum()
            sums[1] += (outputs.argmax(axis=1) == batch.labels).sum()
        if stopped():
            return None
    loss, correct = learner.total(sums) / len(split)
    return float(loss), float(correct)
