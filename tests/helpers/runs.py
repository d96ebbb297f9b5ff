"""A small network, data set and recipe that train in a second, for the tests on training."""

from functools import cache

import numpy as np

from resnet_xf import ResNetSpec, Stage, Stem
from resnet_xf.data import Dataset, load_dataset
from resnet_xf.training.recipe import Augmentation, Optimizer, Recipe, Schedule

TINY = ResNetSpec(
    name="tiny",
    in_channels=1,
    num_classes=10,
    image_size=(12, 12),
    stem=Stem(kind="conv3", width=8, stride=1, pool=False),
    stages=(Stage(depth=1, channels=8), Stage(depth=1, channels=16, stride=2)),
)

# Warm-up, a drop of the rate at step 9 of 18, momentum, decay, smoothing and augmentation: all that can go wrong.
RECIPE = Recipe(
    name="small",
    epochs=3,
    batch_size=32,
    optimizer=Optimizer(learning_rate=0.05, momentum=0.9, weight_decay=1e-3),
    schedule=Schedule(kind="step", milestones=(1.5,), warmup_epochs=0.5),
    augmentation=Augmentation(crop="padded", padding=2, flip=True),
    label_smoothing=0.1,
    seed=5,
)


@cache
def few_digits(train: int = 180, test: int = 60) -> Dataset:
    """The first of scikit-learn's digits; 180 make five batches of 32 and one of 20."""
    whole = load_dataset("digits")
    halves = whole.train.take(np.arange(train)), whole.test.take(np.arange(test))
    return Dataset("few digits", whole.channels, whole.classes, *halves)
