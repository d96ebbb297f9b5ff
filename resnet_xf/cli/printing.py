"""What the commands show: tables, layers and JSON on stdout, and a progress bar on stderr."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import msgspec
import typer

from resnet_xf.architecture.trace import Row


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table at the terminal's width; where there is no terminal, at its full width.

    A column whose heading ends in ``>`` is aligned to the right. A row may have fewer cells than there are columns.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading.rstrip(">"), justify="right" if heading.endswith(">") else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(120, console.width))
    with console.capture() as captured:
        console.print(table, markup=False, highlight=False)
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def print_json(data: Any) -> None:
    """Print plain data, a struct or a dataclass as JSON."""
    typer.echo(json.dumps(msgspec.to_builtins(data), indent=2))


def by_sign(sizes: Iterable[int]) -> str:
    """Return sizes joined by the sign of multiplication: ``1×3×224×224``."""
    return "×".join(map(str, sizes))


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
