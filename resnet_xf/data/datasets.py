"""Labelled data sets by name."""

from __future__ import annotations

import os
from pathlib import Path

from resnet_xf.data.folders import FOLDER, load_folder
from resnet_xf.data.images import all_digits
from resnet_xf.data.published import DIGITS, PUBLISHED, refuse_pickles
from resnet_xf.data.recordio import RECORDS, load_records
from resnet_xf.data.splits import ArraySplit, Dataset, hold_out
from resnet_xf.errors import DataError

DATASETS = ("digits", *PUBLISHED, f"{FOLDER}PATH", f"{RECORDS}PATH.rec")
"""The names that :func:`load_dataset` takes."""


def load_dataset(name: Dataset | str, data_dir: str | Path | None = None, *, progress: bool = True) -> Dataset:
    """Return a data set: its classes, its training images and its test images.

    Args:
        name: ``digits``: scikit-learn's digits, 8×8; a fixed fifth of each class is for testing. ``fashion-mnist``,
            ``mnist``: 28×28, grey. ``cifar10``, ``cifar100``: 32×32, in colour, with the 100 fine classes.
            ``folder:PATH``: your own images, in PATH/train/CLASS and PATH/test/CLASS (or PATH/val/CLASS), or in
            PATH/CLASS alone, or with a list of images, see :func:`resnet_xf.data.folders.load_folder`.
            ``recordio:PATH.rec``: MXNet's records, see :func:`resnet_xf.data.recordio.load_records`. A data set is
            returned as it is.
        data_dir: folder with a published data set's files, packed or not; if None, they are downloaded once into the
            user's cache.
        progress: whether to show a download's progress on stderr, if that is a terminal.

    Raises:
        DataError: if there is no such data set, or one of its files is missing, damaged or cannot be downloaded.
    """
    if isinstance(name, Dataset):
        return name
    if name.startswith(FOLDER):
        folder = os.path.expanduser(name.removeprefix(FOLDER))  # leaves the ~ of an unknown user alone
        refuse_pickles(folder)
        return load_folder(folder)
    if name.startswith(RECORDS):
        return load_records(name.removeprefix(RECORDS))
    if name == "digits":
        pixels, labels = all_digits()
        return Dataset(name, 1, DIGITS, *hold_out(name, ArraySplit(pixels[..., None], labels), DIGITS))
    if name not in PUBLISHED:
        raise DataError(f"no data set is called {name!r}; choose one of {', '.join(DATASETS)}")
    return PUBLISHED[name].load(data_dir, progress)
