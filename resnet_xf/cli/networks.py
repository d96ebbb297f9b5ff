"""The commands on networks and checkpoints: list, show, trace, parity, convert, inspect, doctor."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from resnet_xf.architecture.nodes import kind, walk
from resnet_xf.architecture.plan import Plan, plan
from resnet_xf.architecture.trace import Row, observed_rows, trace
from resnet_xf.architecture.weights import require_memory
from resnet_xf.architecture.zoo import REFERENCE, ZOO, list_models
from resnet_xf.backend.doctor import diagnose
from resnet_xf.backend.registry import get_backend
from resnet_xf.cli.application import app
from resnet_xf.cli.printing import AsJson, Spec, new_table, print_json, print_table
from resnet_xf.errors import ResNetXFError, SpecError
from resnet_xf.formats.convert import convert
from resnet_xf.formats.inspect import inspect
from resnet_xf.ladder.report.report import environment

TopOnly = Annotated[bool, typer.Option("--top", help="Only the network's own layers and stages.")]
InputShape = Annotated[
    str | None,
    typer.Option("--input", metavar="N,C,H,W", help="The input's shape (else one image of the spec's size)."),
]


@app.command("list")
def list_(
    pattern: Annotated[str, typer.Option("--filter", help="A shell-style pattern, as 'cifar*'.")] = "*",
    as_json: AsJson = False,
) -> None:
    """List the named specs: parameters, multiply-accumulates, and whose network each is."""
    names = list_models(pattern)
    if not names:
        raise SpecError(f"no spec's name matches {pattern!r}; `resnet-xf list` shows them all")
    rows: list[dict[str, Any]] = []
    table = new_table("name", "parameters>", "GMACs>", "image size>", "reference")
    for name in names:
        spec, source = ZOO[name], REFERENCE[name]
        whole = trace(spec, (1, spec.in_channels, *spec.image_size))[0]
        sizes = {"image_size": spec.image_size, "num_classes": spec.num_classes}
        rows.append({"name": name, "parameters": whole.parameters, "macs": whole.macs, "reference": source} | sizes)
        size = "×".join(map(str, spec.image_size))
        table.add_row(name, f"{whole.parameters:,}", f"{whole.macs / 1e9:.3f}", size, source)
    if as_json:
        print_json(rows)
    else:
        print_table(table)


@app.command()
def show(
    spec: Spec,
    input_shape: InputShape = None,
    top: TopOnly = False,
    as_json: AsJson = False,
    as_toml: Annotated[
        bool, typer.Option("--toml", help="Print the spec itself as TOML, to begin one's own from.")
    ] = False,
) -> None:
    """Show a spec's layers: name, kind, output shape, parameters, multiply-accumulates."""
    planned = plan(spec)
    if as_toml:
        typer.echo(planned.spec.to_toml(), nl=False)
        return
    _print_rows(trace(planned, _shape(input_shape, planned), top=top), as_json)


@app.command("trace")
def trace_(
    spec: Spec,
    input_shape: InputShape = None,
    backend: Annotated[
        str,
        typer.Option("--backend", help="`torch` or `mxnet`: run the native network; `none`: arithmetic alone."),
    ] = "none",
    top: TopOnly = False,
    as_json: AsJson = False,
) -> None:
    """Trace an input's shape through a network, by arithmetic or by running it."""
    import numpy as np

    planned = plan(spec)
    shape = _shape(input_shape, planned)
    rows = trace(planned, shape)
    if backend != "none":
        chosen = get_backend(backend)
        require_memory(planned)
        kinds = {name: kind(node) for name, node in walk(planned.root)}
        observed = chosen.trace(chosen.build(planned.root), np.zeros(shape, np.float32))
        if observed.error:
            raise ResNetXFError(f"{chosen.name} cannot run {planned.spec.name} on {shape}: {observed.error}")
        rows = observed_rows(observed, kinds)
    _print_rows([row for row in rows if row.depth <= 1] if top else rows, as_json)


@app.command("convert")
def convert_(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A .safetensors, .pth, .pt or .params file.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write; its suffix tells the format.")],
    spec: Annotated[str | None, typer.Option(help="The network (else found by names and shapes).")] = None,
    num_classes: Annotated[int | None, typer.Option(min=1, help="Classes (else as many as the file has).")] = None,
    verify: Annotated[bool, typer.Option(help="Run the source's own network and ours, and compare.")] = True,
    as_json: AsJson = False,
) -> None:
    """Convert a checkpoint between PyTorch, MXNet and safetensors, and prove that the network is the same."""
    console = Console(stderr=True)
    with console.status("reading, mapping, comparing"):
        done = convert(source, target, plan(spec).spec if spec else None, num_classes, verify=verify)
    if as_json:
        print_json(msgspec.to_builtins(done))
        return
    how = "guessed from names and shapes" if done.guessed else "given"
    typer.echo(f"network: {done.spec.name}, {done.spec.num_classes} classes ({how})")
    typer.echo(f"read: {done.source}, {done.tensors} tensors, names of {done.read_as}")
    if done.prefix:
        typer.echo(f"taken off every name: {done.prefix}")
    for check in done.checks:
        typer.echo(f"compared in float64: {check.ours} and {check.theirs}: largest difference {check.error:.1e}")
    for note in done.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"written: {done.target}, names of {done.written_as}")


@app.command("inspect")
def inspect_(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A .safetensors, .pth, .pt or .params file.")],
    spec: Annotated[str | None, typer.Option(help="The network that it should be (else found).")] = None,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tell a checkpoint's format, network and tensors, and whether it is whole (exit code 1 if it is not)."""
    found = inspect(path, plan(spec).spec if spec else None)
    if as_json:
        print_json(msgspec.to_builtins(found))
    else:
        typer.echo(f"format: {found.format}, {found.bytes:,} bytes")
        typer.echo(f"network: {found.network or 'not recognised'}")
        if found.others:
            typer.echo(f"  the same names and shapes: {', '.join(found.others)}")
        if found.prefix:
            typer.echo(f"prefix of every name: {found.prefix}")
        typer.echo(f"tensors: {len(found.tensors)}, {found.numbers:,} numbers, {', '.join(found.dtypes)}")
        typer.echo(f"whole: {'yes' if found.problem is None else f'no: {found.problem}'}")
        if tensors:
            table = new_table("tensor", "shape", "dtype")
            for one in found.tensors:
                table.add_row(one.name, "×".join(map(str, one.shape)), one.dtype)
            print_table(table)
    raise typer.Exit(0 if found.problem is None else 1)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Tell for each backend whether it is installed and usable, and if not, why and how to mend it."""
    found = diagnose()
    if as_json:
        print_json({"environment": environment(), "backends": msgspec.to_builtins(found)})
    else:
        for key, value in environment().items():
            typer.echo(f"{key}: {value}")
        for one in found:
            state = f"usable, version {one.version}, devices {', '.join(one.devices)}" if one.usable else one.problem
            typer.echo(f"{one.name} ({one.framework}): {state}")
            if one.mend:
                typer.echo(f"  mend: {one.mend}")
    raise typer.Exit(0 if any(one.usable for one in found) else 1)


def _shape(text: str | None, planned: Plan) -> tuple[int, ...]:
    """``1,3,224,224`` as numbers; without a text, one image of the spec's size."""
    if text is None:
        return (1, planned.spec.in_channels, *planned.spec.image_size)
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a shape; write four numbers, as 1,3,224,224", param_hint="--input"
        ) from None


def _print_rows(rows: list[Row], as_json: bool) -> None:
    """A trace, its whole as the last line."""
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    table = new_table("name", "kind", "output shape", "parameters>", "MACs>")
    for row in [*rows[1:], rows[0]]:
        name = "  " * (row.depth - 1) + row.name if row.name else "total"
        shape = "×".join(map(str, row.output_shape))
        table.add_row(name, row.kind, shape, f"{row.parameters:,}", f"{row.macs:,}")
    print_table(table)
