"""What training and inference share: a data set held against a network, its images as numbers, loss and accuracy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from resnet_xf.architecture.plan import Plan
from resnet_xf.backend.learner import TIMEOUT, Learner, Task
from resnet_xf.data import Batches, Dataset, Split, Transform
from resnet_xf.errors import DataError, RecipeError
from resnet_xf.training.checkpoint import Header
from resnet_xf.training.recipe import Recipe, decaying, rounded, targets


def transform_of(header: Header, planned: Plan) -> Transform:
    """How a run makes numbers of images.

    Raises:
        RecipeError: if mean and deviation are of another number of channels.
    """
    augmentation, channels = header.recipe.augmentation, planned.spec.in_channels
    if len(header.mean) not in (1, channels) or len(header.std) != len(header.mean):
        raise RecipeError(
            f"$.augmentation.mean: has {len(header.mean)} numbers and std {len(header.std)}, for {channels} channels"
        )
    return Transform(
        header.recipe.image_size or planned.spec.image_size,
        channels,
        augmentation.crop,
        augmentation.flip,
        augmentation.padding,
        header.mean,
        header.std,
    )


def task_of(
    planned: Plan,
    recipe: Recipe,
    device: str,
    timeout: float = TIMEOUT,
    *,
    together: bool = False,
    preset: str = "tuned",
) -> Task:
    """What a backend's learner is to do with a network, by a recipe, ``together`` with other workers or alone."""
    optimizer = recipe.optimizer
    return Task(
        network=planned.root,
        momentum=rounded(optimizer.momentum),
        nesterov=optimizer.nesterov,
        weight_decay=rounded(optimizer.weight_decay),
        decaying=decaying(planned, recipe),
        precision=recipe.precision,
        preset=preset,
        freeze_statistics=recipe.freeze_statistics,
        device=device,
        opens_with_norm=planned.opens_with_norm,
        together=together,
        timeout=timeout,
    )


def check_fit(planned: Plan, data: Dataset) -> None:
    """Hold a data set against a network.

    Raises:
        DataError: if its images have another number of channels, or its labels go beyond the classes.
    """
    spec = planned.spec
    if data.channels != spec.in_channels:
        raise DataError(
            f"{data.name}: its images have {data.channels} channels and {spec.name} takes {spec.in_channels}; "
            f"change the spec's in_channels (--in-channels {data.channels})"
        )
    for half, split in (("training", data.train), ("test", data.test)):
        if not len(split):
            raise DataError(f"{data.name}: has no {half} images")
        if split.labels.min() < 0:
            raise DataError(f"{data.name}: has the label {split.labels.min()}; expected 0 and more")
    top = max(int(split.labels.max()) for split in (data.train, data.test))
    if top >= spec.num_classes:
        raise DataError(
            f"{data.name}: its labels go up to {top} and {spec.name} has {spec.num_classes} classes; "
            f"change the spec's num_classes (--num-classes {len(data.classes)})"
        )


def evaluate_split(
    learner: Learner,
    split: Split,
    transform: Transform,
    batch_size: int,
    num_classes: int,
    *,
    stopped: Callable[[], bool] = lambda: False,
) -> tuple[float, float] | None:
    """Mean cross entropy and accuracy over a split, all workers taking their share; None if it was stopped."""
    sums = np.zeros(2)
    for batch in Batches(split, transform, batch_size, rank=learner.rank, workers=learner.workers):
        if len(batch.labels):
            outputs = learner.outputs(batch.images).astype(np.float64)
            outputs[~np.isfinite(outputs)] = np.nan
            shifted = outputs - outputs.max(axis=1, keepdims=True)
            likelihood = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
            sums[0] -= (likelihood * targets(batch.labels, num_classes, 0.0, 1)).sum()
            sums[1] += (outputs.argmax(axis=1) == batch.labels).sum()
        if stopped():
            return None
    loss, correct = learner.total(sums) / len(split)
    return float(loss), float(correct)
