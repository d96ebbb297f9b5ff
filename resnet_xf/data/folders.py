"""Your own images: a folder for each class, or one folder with a list of the images' classes, as ImageNet's ``val``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from resnet_xf.data.images import SUFFIXES, is_image
from resnet_xf.data.lists import class_list, read_lines, synset
from resnet_xf.data.splits import Dataset, FileSplit, hold_out
from resnet_xf.errors import DataError

FOLDER = "folder:"
"""How the name of a data set in a folder begins."""

TRAIN, TEST = "train", ("test", "val")
"""The folders of the training and of the test images; of several test folders, the first one with known classes."""

IMAGE_LISTS = (
    "{0}_annotations.txt",
    "{0}_map.txt",
    "{0}.txt",
    "{0}.csv",
    "{0}.lst",
    "LOC_{0}_solution.csv",
    "imagenet_2012_{0}idation_synset_labels.txt",
)
"""The names under which a list of the images in a folder is looked for, in it and beside it; {0} is the folder's name.

The first is Tiny ImageNet's; the last two are Kaggle's and TensorFlow's, of ImageNet's folder ``val``.
"""

NO_CLASSES = ("train", "training", "test", "testing", "val", "valid", "validation")
"""Names of folders, in any case, that hold a half of the images and are no classes."""

NUMBER = re.compile(r"([0-9]{1,6})(?:\.0*)?")
"""A class by its number; ``im2rec`` writes it with a decimal point."""


def load_folder(path: str | Path) -> Dataset:
    """Return the images below ``path``/train and ``path``/test (or val), or below ``path`` alone. None is opened yet.

    Images lie at any depth in a folder of their class, or in a folder with a list of their classes (``IMAGE_LISTS``).
    Hidden files are skipped. Without a folder train, a fixed fifth of each class is for testing; all images are if
    ``path`` has a list of images, or is itself called test or val. Classes have the order of a class list
    (``synset.txt``), or else of their names.

    Raises:
        DataError: if a folder is missing or holds no image, training and test have different classes, or a list does
            not fit.
    """
    root = Path(os.path.expanduser(path))
    name = f"{FOLDER}{root.resolve()}"
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give one that holds a folder of images for each class")
    classes = class_list(root)
    if not (root / TRAIN).is_dir():
        if image_list := _image_list(root):
            classes, split = _listed(root, image_list, classes or class_list(root.parent))
            return Dataset(name, 3, classes, split.take(np.array([], np.int64)), split)
        if (names := _subfolders(root)) and set(names) <= set(TEST):
            raise DataError(
                f"{root}: holds {' and '.join(names)}, but no {TRAIN}; add it, or test on one folder of classes: "
                f"{FOLDER}{root / names[0]}"
            )
        halves = [one for one in names if one.lower() in NO_CLASSES]
        if len(halves) > 1 or (halves and halves == [*names]):
            raise DataError(
                f"{root}: holds {' and '.join(halves)}, which are no classes; call them {TRAIN} and {TEST[0]}, or name "
                "one folder of classes"
            )
        classes, split = _labelled(root, classes)
        if root.resolve().name in TEST:  # a test half by its name
            return Dataset(name, 3, classes, split.take(np.array([], np.int64)), split)
        return Dataset(name, 3, classes, *hold_out(str(root), split, classes))
    tests = [root / test for test in TEST if (root / test).is_dir()]
    if not tests:
        raise DataError(f"{root}: holds {TRAIN}, but neither {' nor '.join(TEST)} beside it; add one of them")
    test_folder = next((test for test in tests if len(_subfolders(test)) > 1 or _image_list(test)), tests[0])
    listed = bool(classes)
    classes, train = _labelled(root / TRAIN, classes)
    if image_list := _image_list(test_folder):
        return Dataset(name, 3, classes, train, _listed(test_folder, image_list, classes)[1])
    test_classes, test = _labelled(test_folder, classes if listed else ())
    if unpaired := sorted(set(classes) ^ set(test_classes)):
        raise DataError(f"{root}: class {unpaired[0]} is in only one of {TRAIN} and {test_folder.name}; add it to both")
    return Dataset(name, 3, classes, train, test)


def _labelled(folder: Path, classes: Sequence[str]) -> tuple[tuple[str, ...], FileSplit]:
    """Return the names of a folder's classes, those given or else its folders, and their images."""
    names = _subfolders(folder)
    if not names:
        lists = ", ".join(name.format(folder.name) for name in IMAGE_LISTS)
        flat = f", or a list of the classes of its images, as {lists}" if next(_images(folder), None) else ""
        raise DataError(f"{folder}: holds no folder; expected one of images for each class{flat}")
    classes = tuple(classes) or names
    numbers = {synset(name): number for number, name in enumerate(classes)}
    paths: list[str] = []
    labels: list[int] = []
    for name in names:
        if synset(name) not in numbers:
            raise DataError(f"{folder / name}: is no class of the class list; add the class, or move the folder away")
        images = sorted(_images(folder / name))
        if not images:
            raise DataError(f"{folder / name}: holds no image; expected files that end in {', '.join(SUFFIXES)}")
        paths += images
        labels += [numbers[synset(name)]] * len(images)
    return classes, FileSplit(tuple(paths), np.array(labels, np.int64))


def _subfolders(folder: Path) -> tuple[str, ...]:
    """Return the names of the folders in a folder that are not hidden."""
    return tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."))


def _image_list(folder: Path) -> Path | None:
    """Return the path of the list of a folder's images, in it or beside it; None if it holds folders of classes."""
    if len(_subfolders(folder)) > 1:
        return None
    names = [name.format(folder.name) for name in IMAGE_LISTS]
    return next(filter(Path.is_file, (place / name for place in (folder, folder.parent) for name in names)), None)


def _listed(folder: Path, path: Path, classes: Sequence[str]) -> tuple[tuple[str, ...], FileSplit]:
    """Return the names of the classes, those given or else the list's, and the images that a list names.

    A line has an image and its class, by name or number. One with the class alone is for the image at its place among
    the names in alphabetical order. The lines of an ``.lst`` file have a number, labels, and the image.
    """
    paths = sorted(_images(folder), key=lambda image: (os.path.basename(image), image))
    stems = {Path(image).stem: image for image in paths}
    titles: dict[str, str] = {}
    for number, line in read_lines(path, "a list of images and their classes"):
        if re.search(r"[\t,]", line):
            fields = [field.strip() for field in re.split(r"[\t,]", line)]
        else:
            fields = line.split(None, -1 if path.suffix == ".lst" else 1)
        if path.suffix == ".lst" and len(fields) > 2:
            fields = [fields[-1], fields[1]]
        if len(fields) > 1:
            image = stems.get(Path(fields[0]).stem)
        else:
            image = paths[number - 1] if number <= len(paths) else None
        if image is None and number == 1 and path.suffix == ".csv":
            continue  # a line of titles
        if image is None or image in titles:
            raise DataError(f"{path}: line {number}: {line[:80]} names no image of {folder}, or one of a line before")
        if NUMBER.fullmatch(line):
            raise DataError(
                f"{path}: has numbers alone, whose order is not known; expected an image and its class a line"
            )
        titles[image] = synset(fields[min(1, len(fields) - 1)])
    if left := next((image for image in paths if image not in titles), None):
        raise DataError(f"{path}: has no line for {left}; add one, or move the image away")
    if not titles:
        raise DataError(f"{folder}: holds no image; expected files that end in {', '.join(SUFFIXES)}")
    named = set(titles.values()) <= {synset(name) for name in classes}  # a class may be called 7
    if not named and all(map(NUMBER.fullmatch, titles.values())):
        titles = {image: str(int(float(title))) for image, title in titles.items()}
        classes = classes or tuple(map(str, range(1 + max(map(int, titles.values())))))
        numbers = {str(number): number for number in range(len(classes))}
    else:
        classes = classes or tuple(sorted(set(titles.values())))
        numbers = {synset(name): number for number, name in enumerate(classes)}
    for title in titles.values():
        if title not in numbers:
            raise DataError(f"{path}: names the class {title!r}, which is none of the {len(classes)} ({classes[0]}, …)")
    labels = np.array([numbers[titles[image]] for image in paths], np.int64)
    return tuple(classes), FileSplit(tuple(paths), labels)


def _images(folder: Path) -> Iterator[str]:
    """Yield the paths of all images below a folder that are not hidden."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if name[0] != "."]
        yield from (os.path.join(parent, name) for name in names if is_image(Path(name)))
