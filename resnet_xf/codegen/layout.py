"""Breaks long statements into lines, as ruff and black do."""

from __future__ import annotations

import re
from collections.abc import Iterator

WIDTH = 88
"""The longest line: the default of ruff and black."""


def lines(statement: str, indent: int, end: str = "") -> Iterator[str]:
    """The lines of a statement, and what ends it; brackets are opened where it is too long."""
    margin, start = " " * indent, _last_bracket(statement)
    choice = re.fullmatch(r"(.*\)) (if .*) (else .*)", statement)
    if len(margin + statement + end) <= WIDTH:
        yield margin + statement + end
    elif choice and choice[1].count("(") == choice[1].count(")"):
        yield from (margin + choice[1], margin + choice[2], margin + choice[3] + end)
    elif start is None:
        yield margin + statement + end
    else:
        yield margin + statement[: start + 1]
        inside = statement[start + 1 : -1]
        parts = [inside] if indent + 4 + len(inside) <= WIDTH else [*_arguments(inside)]
        for part in parts:
            yield from lines(part, indent + 4, "," if len(parts) > 1 else "")
        yield margin + statement[-1] + end


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
