"""The commands on parity: parity, capture."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from resnet_xf.architecture.plan import Plan, plan
from resnet_xf.cli.application import new_app
from resnet_xf.cli.options import (
    AsJson,
    BackendName,
    DataDir,
    Device,
    ImageSize,
    RecipeName,
    check_outputs,
    read_bytes,
    read_size,
)
from resnet_xf.cli.printing import by_sign, new_table, print_json, print_table
from resnet_xf.cli.progress import ProgressBar
from resnet_xf.errors import EvidenceError, SpecError, WeightsError
from resnet_xf.formats.files import read_checkpoint
from resnet_xf.formats.identify import identify
from resnet_xf.ladder.capture.against import capture, parity_against
from resnet_xf.ladder.capture.evidence import read_manifest
from resnet_xf.ladder.climb import parity
from resnet_xf.ladder.inputs import is_checkpoint
from resnet_xf.ladder.report.html import write_html
from resnet_xf.ladder.report.junit import write_junit
from resnet_xf.ladder.report.report import Report, check_level
from resnet_xf.ladder.rungs.accuracy import Trial
from resnet_xf.support.optional import optional

app = new_app()

NETWORK = "A name from `resnet-xf list`, a .toml or .json file, or a checkpoint that `inspect` recognises."
LevelName = Annotated[
    str | None,
    typer.Option(
        "--level",
        help="quick: inference, seconds; standard: also gradients and training steps, half a minute for resnet18 "
        "on 2 cores; full: also learning curves and accuracies, minutes.",
        show_default="standard",
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(help="Folder of images.", show_default="scikit-learn's photographs; its digits for one channel"),
]
Weights = Annotated[
    Path | None,
    typer.Option(help="A checkpoint of this network, in any format `convert` reads.", show_default="random"),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the random weights and of the training batches.")]
Precisions = Annotated[
    str,
    typer.Option(
        "--precision", help="Further precisions of the forward pass, by comma: bfloat16, float16, tf32 (on a GPU)."
    ),
]
MaxMemory = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Memory for the layers' tensors, as 500M or 2G.", show_default="1G"),
]
Accuracy = Annotated[bool, typer.Option("--accuracy", help="Also train, and compare accuracies, as level full does.")]
DataSet = Annotated[
    str | None, typer.Option("--dataset", help="Data set for the accuracies, as in `train`.", show_default="digits")
]
Epochs = Annotated[int | None, typer.Option(min=1, help="Epochs for the accuracies.", show_default="the recipe's")]
Seeds = Annotated[int | None, typer.Option(min=2, help="Number of pairs of runs for the accuracies.", show_default="5")]
Margin = Annotated[
    float | None,
    typer.Option(help="Largest difference of accuracies that is no failure, in percentage points.", show_default="2.0"),
]
Runs = Annotated[
    Path | None,
    typer.Option(help="Folder of the accuracies' runs; unfinished runs resume.", show_default="one under runs/"),
]
Jobs = Annotated[
    int | None, typer.Option(min=1, help="Runs at a time for the accuracies.", show_default="one for each core")
]


@app.command("parity")
def parity_(
    spec: Annotated[str | None, typer.Argument(metavar="SPEC", help=NETWORK, show_default=False)] = None,
    backends: Annotated[
        str | None,
        typer.Option(help="Backends to compare, by comma; the first is the reference.", show_default="torch,mxnet"),
    ] = None,
    level: LevelName = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(metavar="CAPTURE", help="A folder from `capture`, in place of a backend; may be repeated."),
    ] = None,
    image_size: ImageSize = None,
    images: Images = None,
    weights: Weights = None,
    seed: Seed = 0,
    device: Device = "cpu",
    precision: Precisions = "",
    max_memory: MaxMemory = None,
    accuracy: Accuracy = False,
    dataset: DataSet = None,
    recipe: RecipeName = None,
    epochs: Epochs = None,
    seeds: Seeds = None,
    margin: Margin = None,
    runs: Runs = None,
    data_dir: DataDir = None,
    jobs: Jobs = None,
    html: Annotated[Path | None, typer.Option(help="Also write the report as one HTML file.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Also write the report as JUnit XML, one test a rung.")] = None,
    as_json: AsJson = False,
) -> None:
    """Prove that backends build the same network from a spec.

    The networks are compared rung by rung, up to the first rung that fails; its layer is named. Exit code 1 if a rung
    fails.
    """
    check_outputs(html, junit)
    if html is not None:
        optional("jinja2", "an HTML report is made by Jinja")
    if spec is None and not against:
        raise SpecError("name a network from `resnet-xf list`, or a capture by --against")
    settings = {"dataset": dataset, "recipe": recipe, "seeds": seeds, "margin": margin, "out": runs, "jobs": jobs}
    wants_accuracy = accuracy or level == "full" or epochs is not None or any(x is not None for x in settings.values())
    captured = read_manifest(against[0]) if against else None
    if captured and captured.trial:
        settings["dataset"] = dataset or captured.trial.dataset
        wants_accuracy |= level is None
    trial = None
    if wants_accuracy:
        name = captured.spec.name if captured else _network_name(spec or "")
        trial = _trial(name, epochs, settings | {"data_dir": data_dir})
    with ProgressBar() as bar:
        shared: dict[str, Any] = {
            "device": device,
            "max_memory": read_bytes(max_memory),
            "trial": trial,
            "on_rung": lambda number, name, share: bar.update(share or 0.0, 1.0, f"rung {number}: {name}"),
        }
        if against:
            if images or image_size or precision:
                raise EvidenceError("a capture brings its images, their size and precisions; leave out those options")
            network, file = _expected(spec, weights)
            report = parity_against(
                against, backends, spec=network, weights=file, level=check_level(level) if level else None, **shared
            )
        else:
            report = parity(
                spec or "",
                backends or "torch,mxnet",
                level=check_level(level or "standard"),
                image_size=read_size(image_size),
                images=images,
                weights=weights,
                seed=seed,
                precisions=_names(precision),
                **shared,
            )
    report = msgspec.structs.replace(report, command=shlex.join(["resnet-xf", *sys.argv[1:]]))
    if as_json:
        typer.echo(report.to_json())
    else:
        print_report(report)
    if html:
        write_html(report, html)
    if junit:
        write_junit(report, junit)
    raise typer.Exit(0 if report.holds else 1)


@app.command("capture")
def capture_(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help=NETWORK)],
    out: Annotated[Path, typer.Option(help="Folder to write; it must be new or empty.")],
    backend: BackendName = None,
    level: LevelName = None,
    image_size: ImageSize = None,
    images: Images = None,
    weights: Weights = None,
    seed: Seed = 0,
    device: Device = "cpu",
    precision: Precisions = "",
    max_memory: MaxMemory = None,
    accuracy: Accuracy = False,
    dataset: DataSet = None,
    recipe: RecipeName = None,
    epochs: Epochs = None,
    seeds: Seeds = None,
    runs: Runs = None,
    data_dir: DataDir = None,
    jobs: Jobs = None,
    as_json: AsJson = False,
) -> None:
    """Record one backend's results for `parity --against`.

    The comparison can then run on another machine or in another environment.
    """
    settings = {"dataset": dataset, "recipe": recipe, "seeds": seeds, "out": runs, "jobs": jobs}
    trial = None
    if accuracy or level == "full" or epochs is not None or any(value is not None for value in settings.values()):
        trial = _trial(_network_name(spec), epochs, settings | {"data_dir": data_dir})
    with ProgressBar() as bar:
        manifest = capture(
            spec,
            out,
            backend,
            level=check_level(level or "standard"),
            image_size=read_size(image_size),
            images=images,
            weights=weights,
            seed=seed,
            device=device,
            precisions=_names(precision),
            trial=trial,
            max_memory=read_bytes(max_memory),
            tell=lambda text, share: bar.update(share or 0.0, 1.0, text),
        )
    size = sum(path.stat().st_size for path in out.iterdir())
    if as_json:
        network = {"capture": str(out), "bytes": size, "network": manifest.spec.name, "level": manifest.level}
        print_json(network | {"backend": manifest.backend, "version": manifest.backend_version})
        return
    typer.echo(
        f"{manifest.spec.name} on {manifest.backend} {manifest.backend_version}, level {manifest.level}: "
        f"{size / 2**20:,.0f} MiB in {out}"
    )
    for lack in manifest.cannot.values() if manifest.level != "quick" else ():
        typer.echo(f"{lack}; the rungs that need it are left out")
    typer.echo(f"compare it on any machine: resnet-xf parity --against {shlex.quote(str(out))}")


def _network_name(spec: str) -> str:
    """Return the name of the network that a spec or a checkpoint holds."""
    network = identify(read_checkpoint(spec)).plan if is_checkpoint(spec) else plan(spec)
    return network.spec.name


def _expected(spec: str | None, weights: Path | None) -> tuple[Plan | None, Path | None]:
    """Return the network and the weights that a capture must have; None for what may be anything.

    A checkpoint's network counts only if it is known for sure, and not guessed from names and shapes.
    """
    if spec is None or not is_checkpoint(spec):
        return plan(spec) if spec else None, weights
    if weights is not None:
        raise WeightsError(f"{spec}: is a checkpoint; leave out --weights, or name a spec in its place")
    identity = identify(read_checkpoint(spec))
    return None if identity.guessed else identity.plan, Path(spec)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _trial(network: str, epochs: int | None, settings: dict[str, Any]) -> Trial:
    """Return the training runs that compare accuracies; a setting of None leaves the trial's default."""
    trial = Trial(**{name: value for name, value in settings.items() if value is not None})
    if trial.out is None:
        trial = replace(trial, out=Path("runs") / f"parity-{network}-{trial.dataset.partition(':')[0]}")
    if epochs is not None:
        trial = replace(trial, recipe=msgspec.structs.replace(trial.resolved(), epochs=epochs))
    return trial


def print_report(report: Report) -> None:
    """Print the rungs as a table, and the verdict."""
    versions = ", ".join(f"{name} {version}" for name, version in report.backends.items())
    typer.echo(
        f"{report.network}: {versions}; {report.images}, {by_sign(report.input_shape)}; weights {report.weights}"
    )
    table = new_table("rung>", "compares", "result", "found>", "bound>", "seconds>", "what")
    for rung in report.rungs:
        numbers = ["" if number is None else f"{number:.3g}" for number in (rung.value, rung.bound)]
        what = f"{rung.where}: {rung.detail}" if rung.where else rung.detail
        table.add_row(str(rung.number), rung.name, rung.status, *numbers, f"{rung.seconds:.2f}", what)
    print_table(table)
    typer.echo(report.verdict())
