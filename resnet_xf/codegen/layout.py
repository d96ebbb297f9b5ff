"""Breaks long statements into lines, as ruff and black do."""

from __future__ import annotations

import re
from collections.abc import Iterator

WIDTH = 88
"""The longest line: the default of ruff and black."""


def lines(statement: str, indent: int, end: str = "") -> Iterator[str]:
    """The lines of a statement, and what ends it; brackets are opened where it is too long."""
    yield from _lines(statement, " " * indent, end)


def _lines(text: str, margin: str, end: str) -> Iterator[str]:
    start = _last_bracket(text)
    choice = re.fullmatch(r"(.*\)) (if .*) (else .*)", text)
    if len(margin + text + end) <= WIDTH:
        yield margin + text + end
        return
    if choice and choice[1].count("(") == choice[1].count(")"):
        yield from (margin + choice[1], margin + choice[2], margin + choice[3] + end)
        return
    if start is None:
        yield margin + text + end
        return
    yield margin + text[: start + 1]
    inside, deeper = text[start + 1 : -1], margin + "    "
    if len(deeper + inside) <= WIDTH:
        yield deeper + inside
    else:
        parts = [*_arguments(inside)]
        for part in parts:
            yield from _lines(part, deeper, "," if len(parts) > 1 else "")
    yield margin + text[-1] + end


def _last_bracket(text: str) -> int | None:
    """Where the bracket begins that ends the text; None if there is none, or nothing is in it."""
    if not text.endswith((")", "}")) or text.endswith(("()", "{}")):
        return None
    depth = 0
    for at in range(len(text) - 1, -1, -1):
        depth += (text[at] in ")}") - (text[at] in "({")
        if depth == 0:
            return at
    return None


def _arguments(text: str) -> Iterator[str]:
    """The parts between the outermost commas."""
    depth, start = 0, 0
    for at, letter in enumerate(text):
        depth += (letter in "({") - (letter in ")}")
        if letter == "," and depth == 0:
            yield text[start:at]
            start = at + 2
    yield text[start:]
