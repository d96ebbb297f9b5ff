"""The commands on networks alone: list, show. Neither imports NumPy or a framework."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from resnet_xf.architecture.plan import plan
from resnet_xf.architecture.trace import totals, trace
from resnet_xf.architecture.zoo import REFERENCE, ZOO, list_models
from resnet_xf.cli.application import new_app
from resnet_xf.cli.options import AsJson, Batch, ImageSize, InputShape, SpecArgument, TopOnly, input_shape, option
from resnet_xf.cli.printing import by_sign, print_json, print_layers, print_table
from resnet_xf.errors import SpecError

app = new_app()


@app.command("list")
def list_(
    pattern: Annotated[str, option("A shell-style pattern of names, as 'cifar*'.", "--filter")] = "*",
    as_json: AsJson = False,
) -> None:
    """List the named networks, their size and their origin.

    GMACs are 10⁹ multiply-accumulates for one image. The reference is the library that has the same network.
    """
    names = list_models(pattern)
    if not names:
        raise SpecError(f"--filter: no network's name matches {pattern!r}; `resnet-xf list` shows all names")
    rows: list[dict[str, Any]] = []
    table = []
    for name in names:
        spec, source = ZOO[name], REFERENCE[name]
        parameters, macs = totals(plan(spec).root, (1, spec.in_channels, *spec.image_size))
        sizes = {"image_size": spec.image_size, "num_classes": spec.num_classes}
        rows.append({"name": name, "parameters": parameters, "macs": macs, "reference": source} | sizes)
        table.append((name, f"{parameters:,}", f"{macs / 1e9:.3f}", by_sign(spec.image_size), source))
    if as_json:
        print_json(rows)
    else:
        print_table(("name", "parameters>", "GMACs>", "image size>", "reference"), table)


@app.command()
def show(
    spec: SpecArgument,
    image_size: ImageSize = None,
    batch: Batch = 1,
    top: TopOnly = False,
    as_json: AsJson = False,
    as_toml: Annotated[bool, option("Print the spec as TOML, as a start for a spec of your own.", "--toml")] = False,
    old_input: InputShape = None,
) -> None:
    """Show a network's layers, shapes and costs, by arithmetic.

    The last row is the whole network. MACs are multiply-accumulates for one image. No backend is needed.
    """
    planned = plan(spec)
    if as_toml:
        typer.echo(planned.spec.to_toml(), nl=False)
        return
    print_layers(trace(planned, input_shape(planned.spec, image_size, batch), top=top), as_json=as_json)
