"""The commands on checkpoints: convert, inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from resnet_xf.architecture.plan import plan
from resnet_xf.cli.application import new_app
from resnet_xf.cli.options import AsJson
from resnet_xf.cli.printing import by_sign, new_table, print_json, print_table
from resnet_xf.cli.progress import ProgressBar
from resnet_xf.formats.convert import convert
from resnet_xf.formats.inspect import inspect

app = new_app()


@app.command("convert")
def convert_(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="A .safetensors, .pth, .pt or .params file, or a run's folder.")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write; its suffix sets the format.")],
    spec: Annotated[
        str | None, typer.Option(help="The network.", show_default="identified by tensor names and shapes")
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(min=1, help="Number of classes.", show_default="as in the file")
    ] = None,
    verify: Annotated[bool, typer.Option(help="Run the source's own network and ours, and compare outputs.")] = True,
    as_json: AsJson = False,
) -> None:
    """Convert a checkpoint to another format and verify it.

    Formats: PyTorch, MXNet and safetensors, each with the tensor names of resnet_xf, torchvision, timm or GluonCV.
    """
    with ProgressBar() as bar:
        bar.update(0, 0, "reading, renaming and comparing tensors")
        done = convert(source, target, plan(spec).spec if spec else None, num_classes, verify=verify)
    if as_json:
        print_json(msgspec.to_builtins(done))
        return
    how = "guessed from names and shapes" if done.guessed else "given"
    typer.echo(f"network: {done.spec.name}, {done.spec.num_classes} classes ({how})")
    typer.echo(f"read: {done.source}, {done.tensors} tensors, names of {done.read_as}")
    if done.prefix:
        typer.echo(f"prefix removed from every name: {done.prefix}")
    for check in done.checks:
        typer.echo(f"compared in float64: {check.ours} and {check.theirs}: largest difference {check.error:.1e}")
    for note in done.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"written: {done.target}, names of {done.written_as}")


@app.command("inspect")
def inspect_(
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="A .safetensors, .pth, .pt or .params file, or a run's folder.")
    ],
    spec: Annotated[
        str | None, typer.Option(help="The network to expect.", show_default="identified by tensor names and shapes")
    ] = None,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a checkpoint holds and whether it is complete.

    Exit code 1 if it is not complete.
    """
    inspection = inspect(path, plan(spec).spec if spec else None)
    if as_json:
        print_json(msgspec.to_builtins(inspection))
    else:
        typer.echo(f"format: {inspection.format}, {inspection.bytes:,} bytes")
        typer.echo(f"network: {inspection.network or 'not recognised'}")
        if inspection.others:
            typer.echo(f"  the same names and shapes: {', '.join(inspection.others)}")
        if inspection.prefix:
            typer.echo(f"prefix of every name: {inspection.prefix}")
        dtypes = ", ".join(inspection.dtypes)
        typer.echo(f"tensors: {len(inspection.tensors)}, {inspection.numbers:,} values, {dtypes}")
        typer.echo(f"complete: {'yes' if inspection.problem is None else f'no: {inspection.problem}'}")
        if tensors:
            table = new_table("tensor", "shape", "dtype")
            for tensor in inspection.tensors:
                table.add_row(tensor.name, by_sign(tensor.shape), tensor.dtype)
            print_table(table)
    raise typer.Exit(0 if inspection.problem is None else 1)
