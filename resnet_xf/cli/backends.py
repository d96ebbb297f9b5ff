"""The commands on the installed backends: trace, doctor."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import typer

from resnet_xf.architecture.nodes import walk
from resnet_xf.architecture.plan import plan
from resnet_xf.architecture.trace import observed_rows, trace
from resnet_xf.architecture.weights import require_memory
from resnet_xf.backend.doctor import diagnose
from resnet_xf.backend.observe import trace_network
from resnet_xf.backend.registry import check_backend, get_backend
from resnet_xf.cli import options
from resnet_xf.cli.application import new_app
from resnet_xf.cli.options import ANY_BACKEND, input_shape, option
from resnet_xf.cli.printing import by_sign, echo, print_json, print_layers
from resnet_xf.errors import ResNetXFError
from resnet_xf.support.environment import environment

app = new_app()


@app.command("trace")
def trace_(
    spec: options.SpecArgument,
    image_size: options.ImageSize = None,
    batch: options.Batch = 1,
    backend: Annotated[
        str | None,
        option("`torch`, `mxnet` or another installed backend; `none`: by arithmetic, as `show`.", default=ANY_BACKEND),
    ] = None,
    top: options.TopOnly = False,
    as_json: options.AsJson = False,
    old_input: options.InputShape = None,
) -> None:
    """Run a network on a backend and show its layers' shapes.

    The input is all zeros. Exit code 1 if the native network's layers differ from what `show` computes from the spec.
    """
    planned = plan(spec)
    shape = input_shape(planned.spec, image_size, batch)
    rows = expected = trace(planned, shape)
    if backend != "none":
        chosen = check_backend(get_backend(backend))
        require_memory(planned)
        observed = trace_network(chosen, chosen.build(planned.root), np.zeros(shape, np.float32))
        if observed.error:
            raise ResNetXFError(f"{chosen.name} cannot run {planned.spec.name} on {by_sign(shape)}: {observed.error}")
        rows = observed_rows(observed, {name: node.kind for name, node in walk(planned.root)})
    print_layers([row for row in rows if row.depth <= 1] if top else rows, as_json=as_json)
    if backend == "none":
        return
    wrong = sorted({row.name or "the whole network" for row in {*rows} ^ {*expected}})
    if not as_json:
        verdict = f"differs from the spec in {', '.join(wrong)}" if wrong else "every layer is as the spec says"
        echo(f"{planned.spec.name} on {chosen.name} {chosen.version()}: {verdict}")
    raise typer.Exit(1 if wrong else 0)


@app.command()
def doctor(as_json: options.AsJson = False) -> None:
    """Check which backends work, and say how to repair the others.

    Exit code 1 if none works.
    """
    diagnoses = diagnose()
    if as_json:
        print_json({"environment": environment(), "backends": diagnoses})
    else:
        for key, value in environment().items():
            echo(f"{key}: {value}")
        for one in diagnoses:
            state = f"usable, version {one.version}, devices {', '.join(one.devices)}" if one.usable else one.problem
            echo(f"{one.name} ({one.framework}): {state}")
            if one.mend:
                echo(f"  mend: {one.mend}")
    raise typer.Exit(0 if any(one.usable for one in diagnoses) else 1)
