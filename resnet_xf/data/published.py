"""The data sets MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100: where their files are, and how they are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnet_xf.data.fetch import Content, Source, instructions, read_files
from resnet_xf.data.splits import ArraySplit, Dataset
from resnet_xf.errors import DataError

DIGITS = tuple("0123456789")
CLOTHES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

Halves = tuple[tuple[str, ...], ...]

IDX_HALVES: Halves = tuple((f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte") for part in ("train", "t10k"))
CIFAR10_HALVES: Halves = (tuple(f"data_batch_{number}.bin" for number in range(1, 6)), ("test_batch.bin",))
CIFAR100_HALVES: Halves = (("train.bin",), ("test.bin",))
FINE_NAMES = "fine_label_names.txt"


@dataclass(frozen=True)
class Published:
    """A published data set.

    Attributes:
        source: its files.
        channels: channels of its images.
        classes: the names of the classes; empty if a file holds them.
        halves: the names of the files of the training images and of the test images.
        split: makes a split of one half's files and the classes.
    """

    source: Source
    channels: int
    classes: tuple[str, ...]
    halves: Halves
    split: Callable[[Sequence[Content], tuple[str, ...]], ArraySplit]

    def load(self, data_dir: str | Path | None, progress: bool) -> Dataset:
        """Return the data set, from a folder or downloaded. Raises DataError if a file is missing or damaged."""
        files = read_files(self.source, data_dir, progress)
        classes = self.classes or _fine_names(files[FINE_NAMES])
        train, test = (self.split([files[name] for name in half], classes) for half in self.halves)
        return Dataset(self.source.name, self.channels, classes, train, test)


def _idx_split(files: Sequence[Content], classes: tuple[str, ...]) -> ArraySplit:
    """Return a split of a file of images and a file of labels, both in IDX."""
    images, labels = files
    pixels, numbers = _idx(images, 3), _idx(labels, 1)
    if len(pixels) != len(numbers):
        raise DataError(
            f"{labels.where}: holds {len(numbers)} labels for the {len(pixels)} images of {images.where};"
            " expected two files of one data set, so get both again"
        )
    _check_labels(numbers, classes, labels)
    return ArraySplit(pixels[..., None], numbers.astype(np.int64))


def _idx(content: Content, dimensions: int) -> NDArray[np.uint8]:
    """Return the array of an IDX file: the bytes 0, 0, 8, the number of dimensions, each one in 4 bytes, the array."""
    magic, header = bytes((0, 0, 8, dimensions)), 4 + 4 * dimensions
    if content.data[:4] != magic or len(content.data) < header:
        begins = content.data[:4].hex(" ") or "nothing"
        raise content.damaged(f"begins with {begins}; expected {magic.hex(' ')} and {header - 4} more bytes")
    shape = tuple(np.frombuffer(content.data, ">u4", dimensions, 4).tolist())
    expected, size = header + prod(shape), len(content.data)
    if size != expected:
        raise content.damaged(f"has {size} bytes; expected {expected} for {'×'.join(map(str, shape))}")
    return np.frombuffer(content.data, np.uint8, offset=header).reshape(shape)


def _cifar_split(files: Sequence[Content], classes: tuple[str, ...], coarse: int = 0) -> ArraySplit:
    """Return a split of CIFAR's records: ``coarse`` unused labels, the label, then 32×32 of red, green and blue."""
    length = coarse + 1 + 3 * 32 * 32
    parts = []
    for file in files:
        if not file.data or len(file.data) % length:
            raise file.damaged(f"has {len(file.data)} bytes; expected a multiple of {length}")
        parts.append(np.frombuffer(file.data, np.uint8).reshape(-1, length))
        _check_labels(parts[-1][:, coarse], classes, file)
    records = np.concatenate(parts)
    planes = records[:, coarse + 1 :].reshape(-1, 3, 32, 32)
    return ArraySplit(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), records[:, coarse].astype(np.int64))


def _fine_names(file: Content) -> tuple[str, ...]:
    """Return the names of CIFAR-100's classes, which stand one on a line."""
    classes = tuple(file.data.decode(errors="replace").split())
    if len(classes) != 100:
        raise file.damaged(f"names {len(classes)} classes; expected 100, one a line")
    return classes


def _check_labels(labels: NDArray[np.uint8], classes: tuple[str, ...], file: Content) -> None:
    """Raise DataError if a label is not the number of a class."""
    outside = np.flatnonzero(labels >= len(classes))
    if outside.size:
        first = outside[0]
        raise file.damaged(f"label {labels[first]} of image {first} is not one of 0…{len(classes) - 1}")


def _mnist(
    name: str, classes: tuple[str, ...], folder: str, md5s: str, mirrors: tuple[str, ...], hint: str = ""
) -> Published:
    """Return a data set in MNIST's format; ``md5s`` are of the images and labels of training, then of test."""
    files = {file: f"{file}.gz" for half in IDX_HALVES for file in half}
    checksums = dict(zip(files.values(), md5s.split(), strict=True))
    source = Source(name, files, checksums, mirrors, ("", "raw", f"{folder}/raw"), hint=hint)
    return Published(source, 1, classes, IDX_HALVES, _idx_split)


def _cifar(classes: tuple[str, ...], halves: Halves, md5: str, folder: str, pickled: str, coarse: int = 0) -> Published:
    """Return a data set in CIFAR's binary format, whose classes a file names if ``classes`` is empty."""
    name = "cifar-10" if classes else "cifar-100"
    archive = f"{name}-binary.tar.gz"
    names = (*(() if classes else (FINE_NAMES,)), *sum(halves, ()))
    source = Source(
        name.replace("-", ""),
        dict.fromkeys(names, archive),
        {archive: md5},
        ("https://www.cs.toronto.edu/~kriz/", "https://cave.cs.toronto.edu/kriz/"),
        ("", folder),
        refused=(pickled, f"{name}-python.tar.gz", "data_batch_1" if classes else "train"),
        why_refused="is Python's pickled version, which is not read, for a pickle may run anything; "
        "docs/training.md has the lines that write the binary version of a pickle that you trust",
    )
    return Published(source, 3, classes, halves, partial(_cifar_split, coarse=coarse))


PUBLISHED = {
    data.source.name: data
    for data in (
        _mnist(
            "fashion-mnist",
            CLOTHES,
            "FashionMNIST",
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d 25c81989df183df01b3e8a0aad5dffbe "
            "bef4ecab320f06d8554ea6380940ec79 bb300cfdad3c16e7a12a480ee83cd310",
            (
                "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            ),
            "on Debian, `apt-get install dataset-fashion-mnist` puts them into /usr/share/datasets/fashion-mnist",
        ),
        _mnist(
            "mnist",
            DIGITS,
            "MNIST",
            "f68b3c2dcbeaaa9fbdd348bbdeb94873 d53e105ee54ea40749a09fcbcd1e9432 "
            "9fb629c4189551a2d022fa330f9573f3 ec29112dd5afa0611ce80d1b7f02629c",
            ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
        ),
        _cifar(
            THINGS, CIFAR10_HALVES, "c32a1d4ab5d03f1284b67883e8d87530", "cifar-10-batches-bin", "cifar-10-batches-py"
        ),
        _cifar((), CIFAR100_HALVES, "03b5dce01913d631647c71ecec9e9cb8", "cifar-100-binary", "cifar-100-python", 1),
    )
}
"""The published data sets by name. The checksums are from the data sets' own pages or torchvision."""


def refuse_pickles(folder: str | Path) -> None:
    """Raise DataError if a folder holds the pickled version of a published data set."""
    for name, data in PUBLISHED.items():
        for path in (Path(folder) / file for file in data.source.refused):
            if path.is_file() or (path.is_dir() and path.name == data.source.refused[0]):
                raise DataError(f"{path} {data.source.why_refused}; {instructions(data.source)} --dataset {name}")
