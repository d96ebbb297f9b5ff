"""Data sets of one's own: a folder of images for each class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from resnet_xf.data.images import SUFFIXES, is_image
from resnet_xf.data.splits import Dataset, FileSplit, parted
from resnet_xf.errors import DataError

TRAIN, TEST = "train", ("test", "val")
"""The folders of the two halves; of the second, the first name that there is."""


def load_folder(path: str | Path) -> Dataset:
    """The images below ``path``/train/CLASS and ``path``/test/CLASS (or val), or below ``path``/CLASS alone.

    Classes are numbered in the order of their names, and images are found at any depth; hidden ones are passed over.
    Where there is no train, a fifth of each class, always the same, is the test half. No image is opened yet.

    Raises:
        DataError: if a folder is not there or holds no image, or the halves differ in their classes.
    """
    root = Path(path).expanduser()
    name = f"folder:{root.resolve()}"
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give one that holds a folder of images for each class")
    if not (root / TRAIN).is_dir():
        classes, split = _labelled(root)
        return Dataset(name, 3, classes, *parted(str(root), split, classes))
    held_back = next((root / test for test in TEST if (root / test).is_dir()), None)
    if held_back is None:
        raise DataError(f"{root}: holds {TRAIN}, but neither {' nor '.join(TEST)} beside it; add one of them")
    classes, train = _labelled(root / TRAIN)
    others, test = _labelled(held_back)
    if odd := sorted(set(classes) ^ set(others)):
        raise DataError(f"{root}: class {odd[0]} is in only one of {TRAIN} and {held_back.name}; both need the same")
    return Dataset(name, 3, classes, train, test)


def _labelled(folder: Path) -> tuple[tuple[str, ...], FileSplit]:
    """The classes that a folder holds, by name, and their images."""
    classes = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."))
    if not classes:
        raise DataError(f"{folder}: holds no folder; expected one of images for each class")
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(_images(folder / name))
        if not found:
            raise DataError(f"{folder / name}: holds no image; expected files that end in {', '.join(SUFFIXES)}")
        paths += found
        labels += [label] * len(found)
    return classes, FileSplit(tuple(paths), np.array(labels, np.int64))


def _images(folder: Path) -> Iterator[str]:
    for parent, inner, names in os.walk(folder):
        inner[:] = [name for name in inner if name[0] != "."]
        yield from (os.path.join(parent, name) for name in names if is_image(Path(name)))
