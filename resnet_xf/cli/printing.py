"""How the commands print: tables, layers and JSON on stdout."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from resnet_xf.architecture.trace import Row

if TYPE_CHECKING:
    from rich.table import Table


def new_table(*headings: str) -> Table:
    """Return an empty table. A column whose heading ends in ``>`` is aligned to the right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading.rstrip(">"), justify="right" if heading.endswith(">") else "left", overflow="fold")
    return table


def print_table(table: Table) -> None:
    """Print a table at the terminal's width; where there is no terminal, at its full width."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=max(120, console.width))
    with console.capture() as captured:
        console.print(table, markup=False, highlight=False)
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


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
    table = new_table("name", "kind", "output shape", "parameters>", "MACs>")
    for row in [*rows[1:], rows[0]]:
        name = "  " * (row.depth - 1) + row.name if row.name else "total"
        table.add_row(name, row.kind, by_sign(row.output_shape), f"{row.parameters:,}", f"{row.macs:,}")
    print_table(table)
