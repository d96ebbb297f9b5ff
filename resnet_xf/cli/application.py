"""The command's frame: the app that the commands join."""

from __future__ import annotations

from typing import Annotated

import typer

from resnet_xf.support.version import __version__

app = typer.Typer(
    help="One description of a residual network, built in PyTorch and in MXNet Gluon, and proven the same.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"resnet-xf {__version__}")
        raise typer.Exit
