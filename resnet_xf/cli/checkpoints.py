"""The commands on checkpoints: convert, inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resnet_xf.architecture.spec import Spec
from resnet_xf.cli.application import new_app
from resnet_xf.cli.options import AsJson, KeepSoftmax, Prefix, option
from resnet_xf.cli.printing import ProgressBar, by_sign, echo, list_names, print_json, print_table
from resnet_xf.formats.convert import convert
from resnet_xf.formats.description import Description, path_beside
from resnet_xf.formats.inspect import inspect

app = new_app()

SOURCE = "A .safetensors, .pth, .pt or .params file, or a run's folder."
TARGET = "The file to write; its suffix sets the format. Without a suffix, a folder for timm."
IDENTIFIED = "identified by tensor names and shapes"


@app.command("convert")
def convert_(
    source: Annotated[Path, typer.Argument(metavar="IN", help=SOURCE)],
    target: Annotated[str, typer.Argument(metavar="OUT", help=TARGET)],
    spec: Annotated[str | None, option("The network.", default=IDENTIFIED)] = None,
    prefix: Prefix = None,
    num_classes: Annotated[int | None, option("Number of classes.", default="as in the file", min=1)] = None,
    verify: Annotated[bool, option("Run the source's own network and ours, and compare outputs.")] = True,
    keep_softmax: KeepSoftmax = False,
    backbone: Annotated[
        bool, option("Take the residual network without its head, out of a detector too.", "--backbone")
    ] = False,
    images: Annotated[Path | None, option("A .npy file (N, C, H, W) that the original network was shown.")] = None,
    expect: Annotated[Path | None, option("Its outputs for --images, a .npy file (N, classes).")] = None,
    precision: Annotated[
        str | None, option("float32, float16 or bfloat16, of what is written.", default="as in the file")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Convert a checkpoint to another format and verify it.

    Formats: PyTorch, MXNet and safetensors, each with the tensor names of resnet_xf, torchvision, timm or GluonCV. If
    the -symbol.json of MXNet's export lies beside a .params file, the network is read from it.

    For use without resnet_xf: .pt2 (torch.export), .onnx, or a folder for timm, each run once it is written.
    """
    with ProgressBar() as bar:
        bar.update(0, 0, "reading, renaming and comparing tensors")
        done = convert(
            source,
            target,
            spec,
            num_classes,
            prefix=prefix,
            verify=verify,
            keep_softmax=keep_softmax,
            backbone=backbone,
            images=images,
            expected=expect,
            precision=precision,
        )
    if as_json:
        print_json(done)
        return
    how = f"read from {done.graph}" if done.graph else "assumed from names and shapes" if done.guessed else "given"
    size = f"{done.spec.num_classes} classes" if done.spec.num_classes else "without a head"
    echo(f"network: {done.spec.name}, {size} ({how})")
    if done.assumed:
        echo(f"assumed: {done.assumed}")
    echo(f"read: {done.source}, {done.tensors} tensors, names of {done.read_as}")
    if done.prefix:
        echo(f"prefix removed from every name: {done.prefix}")
    if done.checks and done.graph is None:
        echo("not compared with your own network, of which the file has no graph; these have its weights:")
    for check in done.checks:
        echo(f"compared in {check.precision}: {check.ours} and {check.theirs}: largest difference {check.error:.1e}")
    for note in done.notes:
        echo(f"note: {note}")
    echo(f"written: {done.target}; {done.loads_into}")
    if done.description:
        print_description(done.description, done.spec)
    beside = path_beside(Path(target))
    if beside.exists() and not target.endswith(".safetensors"):
        echo(f"  {beside} says which network it is; it belongs to the file, so move both together")


def print_description(description: Description, spec: Spec | None) -> None:
    """Print the preprocessing and the class names that are known."""
    if description.preprocessing:
        echo(f"images: {description.preprocessing.text(spec.in_channels if spec else None)}")
    if description.classes:
        echo(f"classes: {list_names(description.classes)}")


@app.command("inspect")
def inspect_(
    path: Annotated[Path, typer.Argument(metavar="FILE", help=SOURCE)],
    spec: Annotated[str | None, option("The network to expect.", default=IDENTIFIED)] = None,
    prefix: Prefix = None,
    tensors: Annotated[bool, option("List every tensor.", "--tensors")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a checkpoint holds and whether it is complete.

    Exit code 1 if it is not complete.
    """
    inspection = inspect(path, spec, prefix)
    if as_json:
        print_json(inspection)
    else:
        echo(f"format: {inspection.format}, {inspection.bytes:,} bytes")
        echo(f"network: {inspection.network or 'not recognised'}")
        if inspection.others:
            echo(f"  the same names and shapes: {', '.join(inspection.others)}")
        if inspection.prefix:
            echo(f"prefix of every name: {inspection.prefix}")
        dtypes = ", ".join(inspection.dtypes)
        echo(f"tensors: {len(inspection.tensors)}, {inspection.numbers:,} values, {dtypes}")
        if inspection.description:
            print_description(inspection.description, inspection.spec)
        echo(f"complete: {'yes' if inspection.problem is None else f'no: {inspection.problem}'}")
        if tensors:
            rows = [(tensor.name, by_sign(tensor.shape), tensor.dtype) for tensor in inspection.tensors]
            print_table(("tensor", "shape", "dtype"), rows)
    raise typer.Exit(0 if inspection.problem is None else 1)
