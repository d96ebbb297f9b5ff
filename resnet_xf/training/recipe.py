"""A training run as frozen data: optimiser, schedule, augmentation, epochs, batch size, seed, precision."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from resnet_xf.architecture.nodes import is_statistic
from resnet_xf.architecture.plan import Plan
from resnet_xf.architecture.spec import Name, Side, Spec
from resnet_xf.architecture.weights import all_weight_shapes
from resnet_xf.data import IMAGENET_MEAN, IMAGENET_STD, Crop, Interpolation
from resnet_xf.errors import RecipeError, refuse
from resnet_xf.formats.description import Channel
from resnet_xf.support.documents import Document, Struct

Share = Annotated[float, Meta(ge=0, lt=1)]
Epoch = Annotated[float, Meta(gt=0, le=100_000)]
Epochs = Annotated[float, Meta(ge=0, le=100_000)]

MOST_STEPS = 2**24
"""The most steps of a run; the ``imagenet`` recipe makes 450,000 of ImageNet."""

Precision = Literal["float32", "float64", "bfloat16", "float16"]


class Optimizer(Struct, frozen=True, kw_only=True):
    """Stochastic gradient descent as PyTorch defines it, on every backend.

    g is the gradient of the mean loss, plus ``weight_decay`` · w for weights that decay. A step computes
    v ← ``momentum`` · v + g, then w ← w − rate · v. With Nesterov momentum it is w ← w − rate · (g + ``momentum`` · v).

    Attributes:
        learning_rate: peak learning rate.
        momentum: factor of the velocity v.
        nesterov: whether to use Nesterov momentum.
        weight_decay: factor of the weights that is added to the gradient.
        decay: which weights decay. ``all``, or ``weights``: only the kernels of convolutions and linear layers, not
            biases and not batch norms.
    """

    learning_rate: Annotated[float, Meta(ge=1e-30, le=1e30)]
    momentum: Share = 0.0
    nesterov: bool = False
    weight_decay: Annotated[float, Meta(ge=0, le=1e30)] = 0.0
    decay: Literal["all", "weights"] = "all"


class Schedule(Struct, frozen=True, kw_only=True):
    """The learning rate of every step, as a factor of the peak.

    Attributes:
        kind: ``constant``; ``step``: multiplied by ``gamma`` at each milestone; ``cosine``: half a cosine, from
            the peak at the end of the warm-up to 0 at the end of the run.
        milestones: for ``step``, in epochs.
        gamma: for ``step``, the factor at each milestone.
        warmup_epochs: length of the linear warm-up, in epochs.
        warmup_start: factor of the peak at the start of the warm-up.
    """

    kind: Literal["constant", "step", "cosine"] = "constant"
    milestones: tuple[Epoch, ...] = ()
    gamma: Annotated[float, Meta(gt=0, le=1)] = 0.1
    warmup_epochs: Epochs = 0.0
    warmup_start: Annotated[float, Meta(ge=0, le=1)] = 0.01


class Augmentation(Struct, frozen=True, kw_only=True):
    """How an image becomes an input tensor.

    Attributes:
        crop: ``resize``: the whole image. ``centre``: its centre, after a resize to 8/7 of the size. ``padded``: in
            training, a random crop of the image with ``padding`` black pixels around it (He et al. 2016, CIFAR); in a
            test, the whole image. ``random_resized``: in training, a random box of 8 to 100 % of the area (Szegedy et
            al. 2015); in a test, the centre.
        padding: for ``padded``, in pixels on each side.
        flip: whether a random half of the training images is mirrored left to right.
        mean: subtracted from the pixels, which are 0…1; one value for each channel or one for all. If None, the mean of
            the training images.
        std: divides the pixels after that; if None, the standard deviation of the training images.
        interpolation: how images are resized, in training and in a test. ``antialias``: by Pillow, from all pixels, as
            torchvision does. ``bilinear``: by OpenCV, from the four nearest pixels, as MXNet and GluonCV do.
    """

    crop: Crop = "resize"
    padding: Annotated[int, Meta(ge=0, le=512)] = 4
    flip: bool = False
    mean: Channel | None = None
    std: Channel | None = None
    interpolation: Interpolation = "antialias"


class Recipe(Document, frozen=True, kw_only=True):
    """A training run.

    Attributes:
        name: name of the recipe.
        epochs: number of passes over the training images.
        batch_size: images per step, of all workers together.
        label_smoothing: share of each target that is spread over all classes (Szegedy et al. 2016).
        image_size: height and width of the input, in pixels; if None, the spec's.
        init: distribution of the initial weights: ``he`` or ``xavier``, see
            :func:`resnet_xf.architecture.weights.draw_weights`.
        seed: seed of the weights, the order of the images and the augmentation.
        precision: ``float32``, ``float64``, or mixed: float32 weights with convolutions in ``bfloat16`` or ``float16``.
        drop_last: whether to leave out an epoch's last batch if it is smaller than the others.
        freeze_statistics: whether batch norms use their running statistics and do not update them.
    """

    title = "a recipe"
    error = RecipeError

    name: Name
    epochs: Annotated[int, Meta(ge=1, le=100_000)]
    batch_size: Annotated[int, Meta(ge=1, le=1_000_000)]
    optimizer: Optimizer
    schedule: Schedule = Schedule()
    augmentation: Augmentation = Augmentation()
    label_smoothing: Share = 0.0
    image_size: tuple[Side, Side] | None = None
    init: Literal["he", "xavier"] = "he"
    seed: Annotated[int, Meta(ge=0)] = 0
    precision: Precision = "float32"
    drop_last: bool = False
    freeze_statistics: bool = False

    @property
    def dtype(self) -> str:
        """The dtype of the weights: ``float64`` for that precision, else ``float32``."""
        return "float64" if self.precision == "float64" else "float32"


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="digits",
            epochs=8,
            batch_size=64,
            optimizer=Optimizer(learning_rate=0.05, momentum=0.9, weight_decay=5e-4),
            schedule=Schedule(kind="cosine", warmup_epochs=0.5),
            augmentation=Augmentation(mean=(0.0,), std=(1.0,)),
            image_size=(32, 32),
        ),
        Recipe(
            name="d2l",
            epochs=10,
            batch_size=256,
            optimizer=Optimizer(learning_rate=0.05),
            augmentation=Augmentation(mean=(0.0,), std=(1.0,)),
            image_size=(96, 96),
            init="xavier",
        ),
        Recipe(
            name="cifar",
            epochs=164,
            batch_size=128,
            optimizer=Optimizer(learning_rate=0.1, momentum=0.9, weight_decay=1e-4),
            schedule=Schedule(kind="step", milestones=(82.0, 123.0)),
            augmentation=Augmentation(crop="padded", flip=True),
        ),
        Recipe(
            name="imagenet",
            epochs=90,
            batch_size=256,
            optimizer=Optimizer(learning_rate=0.1, momentum=0.9, weight_decay=1e-4),
            schedule=Schedule(kind="step", milestones=(30.0, 60.0)),
            augmentation=Augmentation(crop="random_resized", flip=True, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        ),
        Recipe(
            name="small",
            epochs=60,
            batch_size=16,
            optimizer=Optimizer(learning_rate=0.02, momentum=0.9, weight_decay=5e-4),
            schedule=Schedule(kind="cosine", warmup_epochs=0.5),
            augmentation=Augmentation(crop="random_resized", flip=True, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        ),
    )
}
"""The named recipes. ``digits``: ours, for scikit-learn's digits. ``d2l``: the two notebooks of "Dive into Deep
Learning". ``cifar``: He et al. 2016, section 4.2; its 64,000 steps of 128 images are 164 epochs of 50,000 images, and
its milestones of 32,000 and 48,000 steps are epochs 82 and 123. ``imagenet``: torchvision's reference script, with its
8 processes of 32 images as one batch. ``small``: ours, for up to :data:`SMALL` images of your own: images as for
``imagenet``, in small batches, so that an epoch has several steps."""

SMALL = 10_000
"""The largest number of training images for the recipe ``small``; with more, an epoch of ``imagenet`` has 40 steps."""


def get_recipe(name_or_path: Recipe | str | Path) -> Recipe:
    """Return a recipe: by name, from a ``.toml`` or ``.json`` file, or the one given. It is checked.

    Raises:
        RecipeError: if there is no such name, the file cannot be read, or a field is wrong.
    """
    if isinstance(name_or_path, Recipe):
        return check_recipe(name_or_path)
    name = str(name_or_path)
    if name in RECIPES:
        return RECIPES[name]
    if Path(name).suffix.lower() not in (".toml", ".json") and not os.path.exists(name):
        raise RecipeError(f"no recipe is called {name!r}; choose one of {', '.join(RECIPES)}, or a .toml or .json file")
    recipe = Recipe.read(name)
    try:
        return check_recipe(recipe)
    except RecipeError as error:
        raise RecipeError(f"{name}: {error}") from None


def check_recipe(recipe: Recipe) -> Recipe:
    """Check types, ranges and combinations of a recipe's fields, and return the recipe.

    Raises RecipeError, with the path of the field that is wrong, as ``$.schedule.milestones``.
    """
    recipe = recipe.checked()
    schedule, milestones, epochs = recipe.schedule, recipe.schedule.milestones, recipe.epochs
    stepwise, mean, std = schedule.kind == "step", recipe.augmentation.mean, recipe.augmentation.std
    complaints = {
        "$.optimizer.nesterov: needs a momentum above 0": recipe.optimizer.nesterov and not recipe.optimizer.momentum,
        "$.schedule.milestones: belong to the kind 'step', and it needs at least one": bool(milestones) != stepwise,
        "$.schedule.milestones: must increase": list(milestones) != sorted(set(milestones)),
        f"$.schedule.warmup_epochs: must be less than epochs, which is {epochs}": schedule.warmup_epochs >= epochs,
        "$.augmentation.mean: give mean and std both or neither": (mean is None) != (std is None),
        "$.augmentation.std: must be above 0": min(std or (1.0,)) <= 0,
    }
    refuse(RecipeError, complaints)
    return recipe


def rounded(value: float) -> float:
    """Return the nearest float32: MXNet stores learning rate, momentum and decay so, and PyTorch must use the same."""
    return float(np.float32(value))


def learning_rates(recipe: Recipe, steps_per_epoch: int) -> NDArray[np.float32]:
    """Return the learning rate of every step of a run, ``(epochs · steps_per_epoch,)``.

    Raises:
        RecipeError: if these are too many to be held in memory.
    """
    schedule, steps = recipe.schedule, recipe.epochs * steps_per_epoch
    refuse(RecipeError, {f"$.epochs: make {steps:,} steps; at most {MOST_STEPS:,} are allowed": steps > MOST_STEPS})
    step = np.arange(steps, dtype=np.float64)
    warm = round(schedule.warmup_epochs * steps_per_epoch)
    factor = np.ones(steps)
    if schedule.kind == "step":
        drops = np.array([round(epoch * steps_per_epoch) for epoch in schedule.milestones])
        factor = schedule.gamma ** np.searchsorted(drops, step, side="right")
    elif schedule.kind == "cosine":
        factor = (1 + np.cos(np.pi * np.maximum(step - warm, 0) / max(1, steps - warm))) / 2
    climb = schedule.warmup_start + (1 - schedule.warmup_start) * step / max(1, warm)
    rates: NDArray[np.float64] = recipe.optimizer.learning_rate * factor * np.where(step < warm, climb, 1)
    return rates.astype(np.float32)


def decaying(network: Plan | Spec | str, recipe: Recipe) -> frozenset[str]:
    """Return the names of the weights that decay."""
    return frozenset(
        name
        for name, shape in all_weight_shapes(network).items()
        if not is_statistic(name) and (recipe.optimizer.decay == "all" or len(shape) > 1)
    )


def targets(
    labels: Sequence[int] | NDArray[np.int64], num_classes: int, smoothing: float, size: int
) -> NDArray[np.float64]:
    """Return the targets of the loss, ``(N, num_classes)``: the loss is −Σ log-softmax(outputs) · targets.

    Each row is the label's one-hot vector with a share ``smoothing`` spread over all classes, divided by ``size``. With
    ``size`` the number of images of the whole batch, the losses of its parts add up to the mean cross entropy.
    """
    even = np.full((len(labels), num_classes), smoothing / num_classes)
    even[np.arange(len(labels)), np.asarray(labels)] += 1 - smoothing
    return even / size
