"""What the commands share: options, tables, JSON, sizes."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}
"""Of bytes."""

Spec = Annotated[
    str, typer.Argument(metavar="SPEC", help="A name that `resnet-xf list` shows, or a .toml or .json file.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def read_size(text: str) -> tuple[int, int]:
    """``224`` or ``67x61`` as height and width."""
    numbers = text.lower().replace("×", "x").split("x")
    if not all(number.isdecimal() and 0 < int(number) <= 8192 for number in numbers) or len(numbers) > 2:
        raise typer.BadParameter(
            f"{text!r} is not a size of at most 8192; write 224, or 67x61 for height 67", param_hint="--image-size"
        )
    return int(numbers[0]), int(numbers[-1])


def read_bytes(text: str | None) -> int | None:
    """``500M`` or ``2G`` as bytes; None for None."""
    if text is None:
        return None
    number, unit = text[:-1], text[-1:].upper()
    if unit not in UNITS or not number.isdecimal() or not int(number):
        raise typer.BadParameter(f"{text!r} is not a size; write 500M or 2G", param_hint="--max-memory")
    return int(number) * UNITS[unit]


def new_table(*columns: str) -> Table:
    """An empty table; a heading that ends in ``>`` makes a column of numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.rstrip(">"), justify="right" if column.endswith(">") else "left", overflow="fold")
    return table


def print_table(table: Table) -> None:
    """Print at the terminal's width, and unshortened where there is no terminal."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(120, console.width))
    with console.capture() as captured:
        console.print(table, markup=False, highlight=False)
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def print_json(data: Any) -> None:
    """Print data as JSON."""
    typer.echo(json.dumps(data, indent=2))
