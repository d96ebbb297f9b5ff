"""Labelled data sets by name, and your own: a folder of images for each class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from resnet_xf.data.images import SUFFIXES, all_digits, is_image
from resnet_xf.data.published import DIGITS, PUBLISHED
from resnet_xf.data.recordio import RECORDS, load_records
from resnet_xf.data.splits import ArraySplit, Dataset, FileSplit, hold_out
from resnet_xf.errors import DataError

FOLDER = "folder:"

TRAIN, TEST = "train", ("test", "val")
"""The folders of the training and of the test images; of several test folders, the first one that exists."""

DATASETS = ("digits", *PUBLISHED, f"{FOLDER}PATH", f"{RECORDS}PATH.rec")
"""The names that :func:`load_dataset` takes."""


def load_dataset(name: Dataset | str, data_dir: str | Path | None = None, *, progress: bool = True) -> Dataset:
    """Return a data set: its classes, its training images and its test images.

    Args:
        name: ``digits``: scikit-learn's digits, 8×8; a fixed fifth of each class is for testing. ``fashion-mnist``,
            ``mnist``: 28×28, grey. ``cifar10``, ``cifar100``: 32×32, in colour, with the 100 fine classes.
            ``folder:PATH``: your own images, in PATH/train/CLASS and PATH/test/CLASS (or PATH/val/CLASS), or in
            PATH/CLASS alone. ``recordio:PATH.rec``: MXNet's records, see
            :func:`resnet_xf.data.recordio.load_records`. A data set is returned as it is.
        data_dir: folder with a published data set's files, packed or not; if None, they are downloaded once into the
            user's cache.
        progress: whether to show a download's progress on stderr, if that is a terminal.

    Raises:
        DataError: if there is no such data set, or one of its files is missing, damaged or cannot be downloaded.
    """
    if isinstance(name, Dataset):
        return name
    if name.startswith(FOLDER):
        return load_folder(name.removeprefix(FOLDER))
    if name.startswith(RECORDS):
        return load_records(name.removeprefix(RECORDS))
    if name == "digits":
        pixels, labels = all_digits()
        return Dataset(name, 1, DIGITS, *hold_out(name, ArraySplit(pixels[..., None], labels), DIGITS))
    if name not in PUBLISHED:
        raise DataError(f"no data set is called {name!r}; choose one of {', '.join(DATASETS)}")
    return PUBLISHED[name].load(data_dir, progress)


def load_folder(path: str | Path) -> Dataset:
    """Return the images below ``path``/train/CLASS and ``path``/test/CLASS (or val), or below ``path``/CLASS alone.

    Classes are numbered in the order of their names. Images may lie at any depth; hidden files are skipped. Without a
    folder train, a fixed fifth of each class is for testing. No image is opened yet.

    Raises:
        DataError: if a folder is missing or holds no image, or training and test have different classes.
    """
    root = Path(path).expanduser()
    name = f"folder:{root.resolve()}"
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give one that holds a folder of images for each class")
    if not (root / TRAIN).is_dir():
        classes, split = _labelled(root)
        return Dataset(name, 3, classes, *hold_out(str(root), split, classes))
    test_folder = next((root / test for test in TEST if (root / test).is_dir()), None)
    if test_folder is None:
        raise DataError(f"{root}: holds {TRAIN}, but neither {' nor '.join(TEST)} beside it; add one of them")
    classes, train = _labelled(root / TRAIN)
    test_classes, test = _labelled(test_folder)
    if unpaired := sorted(set(classes) ^ set(test_classes)):
        raise DataError(f"{root}: class {unpaired[0]} is in only one of {TRAIN} and {test_folder.name}; add it to both")
    return Dataset(name, 3, classes, train, test)


def _labelled(folder: Path) -> tuple[tuple[str, ...], FileSplit]:
    """Return the names of a folder's classes, and their images."""
    classes = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."))
    if not classes:
        raise DataError(f"{folder}: holds no folder; expected one of images for each class")
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        images = sorted(_images(folder / name))
        if not images:
            raise DataError(f"{folder / name}: holds no image; expected files that end in {', '.join(SUFFIXES)}")
        paths += images
        labels += [label] * len(images)
    return classes, FileSplit(tuple(paths), np.array(labels, np.int64))


def _images(folder: Path) -> Iterator[str]:
    """Yield the paths of all images below a folder that are not hidden."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "."]
        yield from (os.path.join(parent, name) for name in names if is_image(Path(name)))
