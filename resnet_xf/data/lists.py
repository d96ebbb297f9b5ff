"""The small text files beside images: the names of the classes, and the class of each image."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from resnet_xf.errors import DataError
from resnet_xf.support.files import open_regular, reading

CLASS_LISTS = ("synset.txt", "synsets.txt", "LOC_synset_mapping.txt", "classes.txt", "wnids.txt")
"""The names under which a class list is looked for: one class a line, in the order of the labels."""

LONGEST = 2**16
"""The most bytes of a line; this bounds the memory."""

WORDNET = re.compile(r"[nvars]\d{8}\b")


def read_lines(path: Path, what: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file that are not blank, with their numbers from 1.

    Raises DataError if the file cannot be read or is no UTF-8 text.
    """
    with reading(path, DataError, what), open_regular(path) as file:
        for number, line in enumerate(iter(partial(file.readline, LONGEST), b""), 1):
            if len(line) == LONGEST:
                raise DataError(f"line {number}: is longer than {LONGEST:,} bytes, so this is not {what}")
            if text := line.decode("utf-8-sig").strip():
                yield number, text


def synset(name: str) -> str:
    """Return the WordNet number that a class name begins with, as in ``n01440764 tench``; without one, the name."""
    match = WORDNET.match(name)
    return match[0] if match else name


def class_list(folder: Path) -> tuple[str, ...]:
    """Return the class names in a folder's class list; empty if it has none. Raises DataError if a name repeats."""
    path = next(filter(Path.is_file, (folder / name for name in CLASS_LISTS)), None)
    if path is None:
        return ()
    names: dict[str, int] = {}
    for number, name in read_lines(path, "a class list"):
        if name in names:
            raise DataError(f"{path}: line {number}: names the class {name} again; each class stands on one line")
        names[name] = number
    return tuple(names)
