"""Labelled data sets by name."""

from __future__ import annotations

from pathlib import Path

from resnet_xf.data.folders import load_folder
from resnet_xf.data.published import DIGITS, PUBLISHED
from resnet_xf.data.samples import all_digits
from resnet_xf.data.splits import ArraySplit, Dataset, parted
from resnet_xf.errors import DataError

FOLDER = "folder:"

DATASETS = ("digits", *PUBLISHED, f"{FOLDER}PATH")
"""What :func:`load_dataset` takes."""


def load_dataset(name: str, data_dir: str | Path | None = None, *, progress: bool = True) -> Dataset:
    """A data set: its classes, and its training and test images.

    Args:
        name: ``digits``: scikit-learn's, 8×8, of which a fifth of each class, always the same, is the test half.
            ``fashion-mnist``, ``mnist``: 28×28, grey. ``cifar10``, ``cifar100``: 32×32, in colour; of the second,
            the hundred fine classes. ``folder:PATH``: one's own images, in PATH/train/CLASS and PATH/test/CLASS (or
            PATH/val/CLASS), or in PATH/CLASS alone.
        data_dir: a folder that holds a published data set's files, packed or not; if None, they are fetched once
            into the user's cache.
        progress: whether to show how fetching goes, on standard error.

    Raises:
        DataError: if there is no such data set, or a file of it is missing, damaged or cannot be fetched.
    """
    if name.startswith(FOLDER):
        return load_folder(name.removeprefix(FOLDER))
    if name == "digits":
        pixels, labels = all_digits()
        return Dataset(name, 1, DIGITS, *parted(name, ArraySplit(pixels[..., None], labels), DIGITS))
    if name not in PUBLISHED:
        raise DataError(f"no data set is called {name!r}; choose one of {', '.join(DATASETS)}")
    return PUBLISHED[name].load(data_dir, progress)
