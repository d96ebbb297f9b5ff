"""How the commands print: tables, layers and JSON on stdout."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import typer

from resnet_xf.architecture.trace import Row


class Table:
    """Text in columns, aligned to the left, or to the right where the heading ends in ``>``.

    Rich's tables would take a third of the time that ``resnet-xf list`` needs.
    """

    def __init__(self, *headings: str) -> None:
        self.to_right = [heading.endswith(">") for heading in headings]
        self.rows: list[tuple[str, ...]] = [tuple(heading.rstrip(">") for heading in headings)]

    def add_row(self, *cells: str) -> None:
        """Add a row. A row may have fewer cells than there are headings."""
        self.rows.append((*cells, *[""] * (len(self.to_right) - len(cells))))

    def print(self) -> None:
        """Print the table; on a terminal, text in the last column is wrapped at the terminal's width."""
        widths = [max(map(cell_width, column)) for column in zip(*self.rows, strict=True)]
        room = max(24, shutil.get_terminal_size().columns - sum(widths[:-1]) - 2 * len(widths[1:]))
        wraps = sys.stdout.isatty() and not self.to_right[-1]
        for *cells, last in self.rows:
            for part in (textwrap.wrap(last, room) if wraps else []) or [last]:
                columns = zip((*cells, part), widths, self.to_right, strict=True)
                typer.echo("  ".join(itertools.starmap(_aligned, columns)).rstrip())
                cells = [""] * len(cells)


def cell_width(text: str) -> int:
    """Return how many columns of a terminal a text takes: two for each wide character of Chinese or Japanese."""
    return sum(1 + (unicodedata.east_asian_width(character) in "WF") for character in text)


def _aligned(text: str, width: int, to_right: bool) -> str:
    space = " " * (width - cell_width(text))
    return space + text if to_right else text + space


def print_json(data: Any) -> None:
    """Print data as JSON."""
    typer.echo(json.dumps(data, indent=2))


def by_sign(sizes: Iterable[int]) -> str:
    """Return sizes joined by the sign of multiplication: ``1×3×224×224``."""
    return "×".join(map(str, sizes))


def print_rows(rows: list[Row], *, as_json: bool) -> None:
    """Print a network's layers; as a table, the whole network comes last."""
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    table = Table("name", "kind", "output shape", "parameters>", "MACs>")
    for row in [*rows[1:], rows[0]]:
        name = "  " * (row.depth - 1) + row.name if row.name else "total"
        table.add_row(name, row.kind, by_sign(row.output_shape), f"{row.parameters:,}", f"{row.macs:,}")
    table.print()
