"""The command line's frame: the table of commands, and the app that imports a command's module when it is called."""

from __future__ import annotations

import importlib
from itertools import groupby
from operator import attrgetter
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from resnet_xf.support.version import __version__


class Entry(NamedTuple):
    """One command: its heading in ``--help``, its name, its module in this room, and a summary of one short line."""

    heading: str
    name: str
    module: str
    summary: str


COMMANDS = (
    Entry("Networks", "list", "networks", "List the named networks, their size and their origin."),
    Entry("Networks", "show", "networks", "Show a network's layers, shapes and costs, by arithmetic."),
    Entry("Networks", "source", "source", "Write a network as one Python file, without resnet_xf."),
    Entry("Networks", "trace", "backends", "Run a network on a backend and show its layers' shapes."),
    Entry("Parity", "parity", "parity", "Prove that backends build the same network from a spec."),
    Entry("Parity", "capture", "parity", "Record one backend's results for `parity --against`."),
    Entry("Parity", "capture-script", "parity", "Print a file that records an MXNet network on Python 3.6."),
    Entry("Checkpoints", "convert", "checkpoints", "Convert a checkpoint to another format and verify it."),
    Entry("Checkpoints", "migrate", "migrate", "Turn an MXNet checkpoint into a folder for PyTorch, proven."),
    Entry("Checkpoints", "inspect", "checkpoints", "Show what a checkpoint holds and whether it is complete."),
    Entry("Training", "train", "training", "Train a network, or resume a run."),
    Entry("Training", "evaluate", "training", "Measure loss and accuracy on a data set's test images."),
    Entry("Training", "predict", "training", "Show the most likely classes of images."),
    Entry("This machine", "bench", "bench", "Measure images per second and the rounding error."),
    Entry("This machine", "doctor", "backends", "Check which backends work, and say how to repair the others."),
)
"""Every command. A summary is the first line of the command's docstring; it fits in 80 columns."""


class _Lazy(TyperCommand):
    """A command whose module is imported when it runs, shows its own help or completes its options."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry.name, short_help=entry.summary)
        self.module = f"{__package__}.{entry.module}"

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        command: Any = typer.main.get_command(importlib.import_module(self.module).app)
        if isinstance(command, TyperGroup):  # a module of several commands
            command = command.commands[self.name or ""]
        return command.make_context(info_name, args, parent=parent, **extra)


class _Commands(TyperGroup):
    """All commands, listed under their headings."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for entry in COMMANDS:
            self.add_command(_Lazy(entry))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(len(entry.name) for entry in COMMANDS)
        for heading, entries in groupby(COMMANDS, attrgetter("heading")):
            with formatter.section(heading):
                formatter.write_dl([(entry.name.ljust(width), entry.summary) for entry in entries])


def new_app(**settings: Any) -> typer.Typer:
    """An app without Rich, which would double the time to start."""
    return typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, **settings)


app = new_app(
    cls=_Commands,
    help="One description of a residual network, built in PyTorch and in MXNet Gluon, and proven the same.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        typer.echo(f"resnet-xf {__version__}")
        raise typer.Exit
