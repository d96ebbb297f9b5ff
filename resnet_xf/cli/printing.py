"""What the commands show: tables, layers and JSON on stdout, and a progress bar on stderr."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import msgspec
import typer
from rich.cells import cell_len

from resnet_xf.architecture.trace import Row
from resnet_xf.errors import escaped


def echo(line: str) -> None:
    """Print one line; names and texts of files may be in it."""
    typer.echo(escaped(line))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table. Where a terminal is too narrow for it, long cells are folded.

    A column whose heading ends in ``>`` is aligned to the right. A row may have fewer cells than there are columns.
    """
    table = [[heading.rstrip(">") for heading in headings]]
    table += [[*map(escaped, row), *[""] * (len(headings) - len(row))] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    rights = [heading.endswith(">") for heading in headings]
    if sys.stdout.isatty() and sum(widths) + 2 * len(widths) > shutil.get_terminal_size().columns:
        _print_folded(table, rights)
        return
    for row in table:
        pads = [" " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
        cells = [pad + cell if right else cell + pad for cell, pad, right in zip(row, pads, rights, strict=True)]
        typer.echo("  ".join(cells).rstrip())


def _print_folded(table: list[list[str]], rights: list[bool]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    folded = Table(box=None, pad_edge=False, header_style="bold")
    for heading, right in zip(table[0], rights, strict=True):
        folded.add_column(heading, justify="right" if right else "left", overflow="fold")
    for row in table[1:]:
        folded.add_row(*map(Text, row))
    Console().print(folded)


def print_json(data: Any) -> None:
    """Print plain data, a struct or a dataclass as JSON."""
    typer.echo(json.dumps(msgspec.to_builtins(data), indent=2))


def by_sign(sizes: Iterable[int]) -> str:
    """Return sizes joined by the sign of multiplication: ``1×3×224×224``."""
    return "×".join(map(str, sizes))


def list_names(names: Sequence[str]) -> str:
    """Return the number of names and the first of them: ``10: airplane, automobile, …``."""
    return f"{len(names)}: {', '.join(names[:10])}{', …' if len(names) > 10 else ''}"


def print_layers(rows: Sequence[Row], *, as_json: bool) -> None:
    """Print a network's layers; as a table, the whole network comes last."""
    if as_json:
        print_json(rows)
        return
    cells = []
    for row in [*rows[1:], rows[0]]:
        name = "  " * (row.depth - 1) + row.name if row.name else "total"
        cells.append((name, row.kind, by_sign(row.output_shape), f"{row.parameters:,}", f"{row.macs:,}"))
    print_table(("name", "kind", "output shape", "parameters>", "MACs>"), cells)


class ProgressBar(AbstractContextManager["ProgressBar"]):
    """A bar on stderr, shown only where stderr is a terminal, from its first update until the block ends."""

    _bar: Any = None

    def update(self, done: float, total: float, text: str) -> None:
        """Show how much of the total is done, and what is going on; a total of 0 means that it is not known."""
        from tqdm import tqdm

        if self._bar is None:
            shape = "{percentage:3.0f}%|{bar:24}| {elapsed}  {desc}"
            self._bar = tqdm(bar_format=shape, leave=False, disable=None)
        self._bar.total, self._bar.n = total, done
        self._bar.set_description_str(text)

    def stop(self) -> None:
        """Remove the bar, so that a line can be printed; the next update shows it again."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __exit__(self, *error: object) -> None:
        self.stop()
