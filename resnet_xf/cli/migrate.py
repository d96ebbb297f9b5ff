"""The command that makes a folder for PyTorch of one MXNet checkpoint: migrate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resnet_xf.cli.application import new_app
from resnet_xf.cli.options import AsJson, KeepSoftmax, Prefix, option
from resnet_xf.cli.printing import ProgressBar, echo, print_json, print_table
from resnet_xf.ladder.report.report import Level, check_level
from resnet_xf.migration import Migration, migrate
from resnet_xf.training.inference import Guess

app = new_app()


@app.command("migrate")
def migrate_(
    source: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A .params file, its -symbol.json beside it; or what `convert` reads."),
    ],
    out: Annotated[Path, option("The folder to write; it must be new or empty.")],
    spec: Annotated[str | None, option("The network.", default="the graph's, or identified by names")] = None,
    prefix: Prefix = None,
    keep_softmax: KeepSoftmax = False,
    against: Annotated[
        Path | None, option("What `capture-script` recorded of the original.", default="MXNet runs the graph here")
    ] = None,
    images: Annotated[
        Path | None, option("Folder of images: show the likeliest classes before and after.", default="none")
    ] = None,
    level: Annotated[
        Level,
        option(
            "Of the report. quick: inference; standard: also gradients and training steps, minutes.",
            metavar="LEVEL",
            parser=check_level,
        ),
    ] = "quick",
    as_json: AsJson = False,
) -> None:
    """Turn an MXNet checkpoint into a folder for PyTorch, proven.

    The folder holds weights, model.py, model.pt2, model.onnx, the preprocessing and the parity report. Exit code 1 if a
    rung fails, 3 if the original could not be run or a rung is inconclusive.
    """
    with ProgressBar() as bar:
        done = migrate(
            source,
            out,
            spec,
            prefix=prefix,
            keep_softmax=keep_softmax,
            against=against,
            images=images,
            level=level,
            on_step=lambda number, total, what: bar.update(number, total, what),
        )
    if as_json:
        print_json(done)
    else:
        print_migration(done)
    raise typer.Exit(0 if done.proven else 3 if done.ladder_holds else 1)


def print_migration(done: Migration) -> None:
    """Print the verdict, the comparisons, the files, the images' classes, and how to load the network."""
    if not done.proven:
        echo(f"not proven: {done.unproven}")
    else:
        echo(f"proven: {done.network} gives what {done.proof} gives")
    for check in done.checks:
        echo(f"  {check.ours} ({check.precision}) and {check.theirs}: largest difference {check.error:.1e}")
    echo(f"report: {done.ladder}")
    for note in done.notes:
        echo(f"note: {note}")
    if done.usage:
        echo(f"images: {done.usage.preprocessing.text(done.usage.channels)} ({done.usage.preprocessing_from})")
        rows = [(one.image, _classes(one.before), _classes(one.after)) for one in done.images]
        print_table(("image", "before", "after, model.pt2"), rows)
    echo(f"written: {done.folder}")
    print_table(("file", "what"), [*done.files.items()])
    echo("load it there:")
    for line in done.load.splitlines():
        echo(f"    {line}")


def _classes(guesses: tuple[Guess, ...]) -> str:
    """The likeliest classes in one cell."""
    return ", ".join(f"{guess.name} {100 * guess.probability:.3g}%" for guess in guesses) or "not run"
