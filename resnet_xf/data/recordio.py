"""Labelled images in MXNet's RecordIO files (``.rec``), read without MXNet.

A record is one or more parts. A part is the magic number, a word of its kind (3 bits) and its length (29 bits), its
bytes, and zeros up to a multiple of four bytes. Kind 0 is a whole record; 1, 2 and 3 are a first, middle and last part.
The writer cuts a record where its bytes hold the magic number, and leaves that out; a reader puts it between the parts.

The record of an image begins with a header: the number of labels that follow it, or 0; the label, if that is 0; two
numbers that identify the image. After the labels comes the image's file.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_xf.data.images import T, open_image
from resnet_xf.data.lists import class_list, read_lines
from resnet_xf.data.splits import Dataset, Split, hold_out
from resnet_xf.errors import DataError
from resnet_xf.support.files import open_regular, reading

RECORDS = "recordio:"
"""How the name of a data set in a RecordIO file begins."""

MAGIC = b"\x0a\x23\xd7\xce"
WHOLE, FIRST, MIDDLE, LAST = range(4)
PART, HEADER, LABEL = struct.Struct("<4sI"), struct.Struct("<IfQQ"), struct.Struct("<f")

BLOCK = 2**20
"""Bytes that are read at a time while a file is searched for its records."""

MOST_BYTES, MOST_PARTS = 2**27, 2**12
"""The most bytes and parts of a record: both bound the memory."""

MOST_CLASSES = 2**20

DETECTION = "a file for object detection has no class for a whole image"

HALVES = {"train": ("test", "val"), "test": ("train",), "val": ("train",)}
"""The last word of a file's name, and the words in its place in the name of the other half's file."""

HINT = "; copy the file again, or write it again by im2rec"
REMAKE = "remove the index, or write it again by MXNet's rec2idx"

Part = tuple[int, int]
"""Where a part's bytes begin in the file, and their number."""


@dataclass(frozen=True, eq=False)
class RecordSplit(Split):
    """Images in a RecordIO file; an image is read each time it is used.

    Attributes:
        path: the file.
        offsets: where each image's record begins, ``(N,)`` int64.
        lengths: bytes of each image's record, ``(N,)`` int64; a record is read in one piece.
    """

    path: str
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    labels: NDArray[np.int64]

    def digest(self) -> str:
        """Return a digest of the labels in order and of where the records are."""
        return hashlib.blake2b(self.labels.tobytes() + self.offsets.tobytes(), digest_size=16).hexdigest()

    def read(self, index: int, use: Callable[[Image.Image], T]) -> T:
        """Read one image's record and return what ``use`` makes of the image."""
        offset, length = int(self.offsets[index]), int(self.lengths[index])
        with reading(self.path, DataError, "a RecordIO file", HINT), open_regular(self.path, length) as file:
            parts, _ = _parts(file, offset)
            header = _header(file, parts, offset)
            record = _joined(file, parts, MOST_BYTES)
        where = f"{self.path}: the record at byte {offset}"
        image = io.BytesIO(memoryview(record)[header.size :])
        return open_image(image, where, "; write the file without it", use)

    def take(self, indices: NDArray[np.int64]) -> RecordSplit:
        """Return a split of these images, in this order."""
        return RecordSplit(self.path, self.offsets[indices], self.lengths[indices], self.labels[indices])


def load_records(path: str | Path) -> Dataset:
    """Return the images of a ``.rec`` file that MXNet's ``im2rec`` or ``recordio`` wrote. No image is opened yet.

    A file whose name ends in ``train`` is the training half; in ``test`` or ``val``, the test half. The other half is
    the file beside it with the other word in its name. If there is none, all images of a test half are for testing; of
    any other file, a fixed fifth of each class. If a record has several labels, its class is the first one.

    An ``.idx`` file beside it sets the order. An ``.lst`` file beside it is compared with the records; its folders name
    the classes, unless a class list (``synset.txt``) does.

    Raises:
        DataError: if a file is missing, cut off or damaged, or a label is no class.
    """
    path = Path(os.path.expanduser(path)).resolve()
    if path.suffix in (".idx", ".lst"):
        raise DataError(f"{path}: is a list of records; name the file with the records themselves, {path.stem}.rec")
    match = re.fullmatch(r"(|.*[^a-z])(train|test|val)", path.stem)
    others = [path.with_name(f"{match[1]}{word}{path.suffix}") for word in HALVES[match[2]]] if match else []
    other = next(filter(Path.is_file, others), None)
    splits: list[Split] = []
    names: dict[int, str] = {}
    for file in filter(None, (path, other)):
        split, listed = _read(file)
        splits.append(split)
        labels = {name: label for label, name in names.items()}
        for label, name in listed.items():
            if labels.get(name, label) != label:
                raise DataError(
                    f"{file.with_suffix('.lst')}: has the label {label} for {name}, and {path.with_suffix('.lst')} has "
                    f"{labels[name]}; number the classes of both alike, and write the records again"
                )
        names = listed | names
    count = 1 + max(int(split.labels.max()) for split in splits)
    classes = class_list(path.parent) or tuple(names.get(label, str(label)) for label in range(count))
    if len(classes) < count:
        raise DataError(f"{path}: has labels up to {count - 1}, and the class list beside it only {len(classes)} names")
    is_test = match is not None and match[2] != "train"
    if other is None and is_test:
        splits.append(splits[0].take(np.array([], np.int64)))
    elif other is None:
        splits = [*hold_out(str(path), splits[0], classes)]
    train, test = reversed(splits) if is_test else splits
    return Dataset(f"{RECORDS}{path}", 3, classes, train, test)


def _read(path: Path) -> tuple[RecordSplit, dict[int, str]]:
    """Return a file's images in the order of its index, and the names of classes by label, if its list has them."""
    offsets, lengths, labels, identities = array("q"), array("q"), array("q"), array("Q")
    width, layouts = 0, set[tuple[float, float]]()
    with reading(path, DataError, "a RecordIO file", HINT), open_regular(path, BLOCK) as file:
        for offset, parts in _records(file):
            header = _header(file, parts, offset)
            if header.width != (width := width or header.width):
                raise DataError(
                    f"the record at byte {offset} has {header.width} labels, and those before it have {width}; "
                    f"{DETECTION}"
                )
            if not (0 <= header.label < MOST_CLASSES and header.label == int(header.label)):
                raise DataError(
                    f"the record at byte {offset} has the label {header.label:g}; expected a class, as a whole number"
                )
            if len(layouts) < 2:
                layouts.add((header.label, header.second))
            offsets.append(offset)
            lengths.append(sum(parts[-1]) - offset)
            labels.append(int(header.label))
            identities.append(header.identity)
        if not offsets:
            raise DataError("it holds no record")
        (start, size), *others = layouts
        if not others and start >= 2 and size >= 5 and width > start and (width - start) % size == 0:
            raise DataError(f"the labels of each record begin with {start:g} and {size:g}, as of boxes; {DETECTION}")
    split = RecordSplit(str(path), *(np.array(numbers, np.int64) for numbers in (offsets, lengths, labels)))
    names = _listed_names(path.with_suffix(".lst"), split, identities)
    return split.take(_indexed_order(path.with_suffix(".idx"), split.offsets)), names


@dataclass(frozen=True, slots=True)
class _Header:
    """The header of an image's record: number of labels, the first two, the image's number, and its own bytes."""

    width: int
    label: float
    second: float
    identity: int
    size: int


def _header(file: BinaryIO, parts: Sequence[Part], offset: int) -> _Header:
    """Return the header of the record at an offset. Raises DataError if the record is too short for it."""
    start = _joined(file, parts, HEADER.size + 2 * LABEL.size)
    total = sum(length for _, length in parts) + (len(parts) - 1) * len(MAGIC)
    count, label, identity, _ = HEADER.unpack_from(start) if total >= HEADER.size else (0, 0.0, 0, 0)
    size = HEADER.size + count * LABEL.size
    if total < size:
        raise DataError(f"the record at byte {offset} has {total} bytes; its header and labels alone need {size}")
    first, second = (
        LABEL.unpack_from(start, HEADER.size + at * LABEL.size)[0] if at < count else 0.0 for at in range(2)
    )
    return _Header(max(1, count), first if count else label, second, identity, size)


def _records(file: BinaryIO) -> Iterator[tuple[int, list[Part]]]:
    """Yield where each record of a file begins, and its parts."""
    offset, size = 0, os.fstat(file.fileno()).st_size
    while offset < size:
        parts, end = _parts(file, offset)
        yield offset, parts
        offset = end


def _parts(file: BinaryIO, offset: int) -> tuple[list[Part], int]:
    """Return the parts of the record at an offset, and where the next record begins.

    Raises DataError if no record begins there, or the file ends before the record does.
    """
    parts: list[Part] = []
    kind, end, size, total = FIRST, offset, os.fstat(file.fileno()).st_size, 0
    while kind in (FIRST, MIDDLE):
        at = end
        file.seek(at)
        start = file.read(PART.size)
        magic, word = PART.unpack(start.ljust(PART.size, b"\0"))
        kind, length = word >> 29, word % 2**29
        end = at + PART.size + length + -length % 4
        total += length
        if not MAGIC.startswith(start[:4]):
            raise DataError(f"at byte {at} stands {magic.hex(' ')}; a record begins with {MAGIC.hex(' ')}{HINT}")
        if len(start) < PART.size or end > size:
            raise DataError(f"the record at byte {offset} is cut off: the file ends at byte {size}{HINT}")
        if kind not in ((MIDDLE, LAST) if parts else (WHOLE, FIRST)):
            raise DataError(f"at byte {at} stands a part of kind {kind}, which does not belong there{HINT}")
        if total > MOST_BYTES or len(parts) == MOST_PARTS:
            raise DataError(
                f"the record at byte {offset} is too large: at most {MOST_BYTES:,} bytes, {MOST_PARTS:,} parts are read"
            )
        parts.append((at + PART.size, length))
    return parts, end


def _joined(file: BinaryIO, parts: Sequence[Part], most: int) -> bytes:
    """Return the bytes of a record, at least the first ``most`` of them, with the magic number between its parts."""
    chunks: list[bytes] = []
    for at, length in parts:
        file.seek(at)
        chunks.append(file.read(min(length, most)))
        if sum(map(len, chunks)) >= most:
            break
    return MAGIC.join(chunks)


def _indexed_order(path: Path, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the order of the records in an ``.idx`` file, or that of the file itself if there is none.

    Raises DataError if the index does not name each record once.
    """
    if not path.is_file():
        return np.arange(len(offsets))
    order = array("q")
    places = dict(zip(offsets.tolist(), range(len(offsets)), strict=True))
    for number, line in read_lines(path, "an index of records"):
        _, _, offset = line.partition("\t")
        place = places.pop(int(offset), None) if re.fullmatch(r"\d{1,18}", offset) else None
        if place is None:
            raise DataError(
                f"{path}: line {number}: no record begins at {offset!r}, or a line before names it; {REMAKE}"
            )
        order.append(place)
    if places:
        raise DataError(f"{path}: does not name the record at byte {min(places)}; {REMAKE}")
    return np.array(order, np.int64)


def _listed_names(path: Path, split: RecordSplit, identities: Sequence[int]) -> dict[int, str]:
    """Return the folder of each label's images in an ``.lst`` file; nothing if there is none, or a label has several.

    Of its path, this is as little as names each folder: ``cat`` of ``train/cat``, as in a list of ``val/cat``.

    Raises DataError if the list has another label for an image than its record.
    """
    if not path.is_file():
        return {}
    labels = dict(zip(identities, split.labels.tolist(), strict=True))
    unique = len(labels) == len(identities)
    folders: dict[float, set[tuple[str, ...]]] = {}
    for number, line in read_lines(path, "a list of images"):
        identity, *values = line.split("\t")
        try:
            key, label, image = int(identity), float(values[0]), values[1:][-1]
            int(label)
        except (IndexError, OverflowError, ValueError):
            raise DataError(f"{path}: line {number}: expected a number, labels and a file, by tabs") from None
        if unique and labels.get(key, label) != label:
            raise DataError(
                f"{path}: line {number}: has the label {label:g} for image {key}, and its record has {labels[key]}; "
                "remove the list, or write the records again by im2rec"
            )
        folders.setdefault(label, set()).add(PureWindowsPath(image).parent.parts)  # Windows separates by / and \\
    paths = {int(label): folder for label, (folder, *more) in folders.items() if folder and not more}
    for count in range(1, 1 + max(map(len, paths.values()), default=0)):
        names = {label: "/".join(folder[-count:]) for label, folder in paths.items()}
        if len(set(names.values())) == len(folders):
            return names
    return {}
