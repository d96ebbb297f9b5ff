"""The command that writes a network as Python: source."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from resnet_xf.architecture.plan import plan
from resnet_xf.architecture.zoo import ZOO
from resnet_xf.cli.application import new_app
from resnet_xf.cli.options import BackendName, Prefix, check_outputs, option
from resnet_xf.cli.printing import echo
from resnet_xf.codegen.writer import source
from resnet_xf.formats.files import is_checkpoint
from resnet_xf.formats.load import read_network
from resnet_xf.support.files import atomic

app = new_app()

NETWORK = "A name from `resnet-xf list`, a spec's file, or a checkpoint that `convert` reads."


@app.command("source")
def source_(
    network: Annotated[str, typer.Argument(metavar="SPEC|FILE", help=NETWORK, autocompletion=lambda: [*ZOO])],
    backend: BackendName = None,
    spec: Annotated[str | None, option("With a checkpoint: its network.", default="identified by names")] = None,
    prefix: Prefix = None,
    out: Annotated[Path | None, option("The file to write.", default="print it")] = None,
) -> None:
    """Write a network as one Python file, without resnet_xf.

    The layers have the names of resnet_xf's own networks, so the same weights fit.
    """
    check_outputs(out)
    planned = read_network(network, spec, prefix).plan if is_checkpoint(network) else plan(network)
    text = source(planned, backend)
    if out is None:
        sys.stdout.write(text)
        return
    with atomic(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    echo(f"written: {out}")
