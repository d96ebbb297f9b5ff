"""The commands on parity: parity, capture."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

from resnet_xf.architecture.plan import Plan, plan
from resnet_xf.cli.application import app
from resnet_xf.cli.printing import AsJson, new_table, print_json, print_table, read_bytes, read_size
from resnet_xf.cli.training import DEFAULT_DATASET, BackendName, DataDir, Device, RecipeName
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

Network = Annotated[
    str | None,
    typer.Argument(metavar="SPEC", help="A spec, as `show` takes it, or a checkpoint, as `inspect` does."),
]
LevelName = Annotated[
    str | None,
    typer.Option(
        "--level",
        help="quick: inference, seconds; standard: gradients and training in lock-step too, half a minute for resnet18 "
        "on 2 cores; full: learning curves and accuracies too, minutes.",
        show_default="standard",
    ),
]
ImageSize = Annotated[str | None, typer.Option(metavar="S or HxW", help="The images' size (else the spec's).")]
Images = Annotated[
    Path | None,
    typer.Option(help="A folder of images (else scikit-learn's photographs, or its digits for one channel)."),
]
Weights = Annotated[
    Path | None, typer.Option(help="A checkpoint of this spec, as `convert` reads it (else drawn from the seed).")
]
Seed = Annotated[int, typer.Option(min=0, help="For drawing weights, and for what is trained on.")]
Precisions = Annotated[
    str, typer.Option("--precision", help="More to run forwards, by comma: bfloat16, float16, tf32 (on a GPU).")
]
MaxMemory = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="What captured layers may take at a time, as 500M or 2G (else 1G)."),
]
Accuracy = Annotated[bool, typer.Option("--accuracy", help="Compare accuracies too (level full does so on digits).")]
DataSet = Annotated[str | None, typer.Option("--dataset", help="For accuracies, as `train` takes it.")]
Epochs = Annotated[int | None, typer.Option(min=1, help="For accuracies, in place of the recipe's.")]
Seeds = Annotated[int | None, typer.Option(min=2, help="For accuracies: how many pairs of runs.", show_default="5")]
Margin = Annotated[
    float | None,
    typer.Option(help="For accuracies: from how many points on they are not the same.", show_default="2.0"),
]
Jobs = Annotated[int | None, typer.Option(min=1, help="For accuracies: runs at a time (else one for each core).")]


@app.command("parity")
def parity_(
    spec: Network = None,
    backends: Annotated[
        str | None, typer.Option(help="The backends to compare, by name and comma.", show_default="torch,mxnet")
    ] = None,
    level: LevelName = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(metavar="CAPTURE", help="A folder that `capture` wrote, in place of a backend; may be repeated."),
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
    runs: Annotated[
        Path | None,
        typer.Option(help="The folder of the accuracies' runs (else one under runs/, where it goes on)."),
    ] = None,
    data_dir: DataDir = None,
    jobs: Jobs = None,
    html: Annotated[Path | None, typer.Option(help="Write the report as one HTML file.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write the report as JUnit XML, each rung a test.")] = None,
    as_json: AsJson = False,
) -> None:
    """Prove that backends build the same network from a spec, or say where they part (exit code 1)."""
    for path in (html, junit):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise EvidenceError(
                f"{path}: {'is a folder' if path.is_dir() else 'its folder is not there'}; write elsewhere"
            )
    if html is not None:
        for library in ("jinja2", "matplotlib"):
            optional(library, "an HTML report is made by jinja2 and matplotlib")
    asked = accuracy or any(x is not None for x in (dataset, recipe, epochs, seeds, margin, runs, jobs))
    if spec is None and not against:
        raise SpecError("name a network, as `resnet-xf list` shows them, or a capture by --against")
    trial = None
    captured = read_manifest(against[0]) if against else None
    if asked or level == "full" or (captured and captured.trial and level is None):
        name = captured.spec.name if captured else _name(spec or "")
        if captured and captured.trial:
            dataset = dataset or captured.trial.dataset
        trial = _trial(name, dataset, recipe, epochs, seeds, margin, runs, data_dir, jobs)
    shared: dict[str, Any] = {"device": device, "max_memory": read_bytes(max_memory), "trial": trial}
    with _bar() as show:
        if against:
            if images or image_size or precision:
                raise EvidenceError("images, their size and precisions are the capture's; leave the options out")
            wanted, file = _asked(spec, weights)
            report = parity_against(
                against,
                backends,
                spec=wanted,
                weights=file,
                level=check_level(level) if level else None,
                on_rung=lambda number, name, share: show(f"rung {number}: {name}", share),
                **shared,
            )
        else:
            assert spec is not None
            report = parity(
                spec,
                backends or "torch,mxnet",
                level=check_level(level or "standard"),
                image_size=read_size(image_size) if image_size else None,
                images=images,
                weights=weights,
                seed=seed,
                precisions=_names(precision),
                on_rung=lambda number, name, share: show(f"rung {number}: {name}", share),
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
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="A spec or a checkpoint, as `parity` takes it.")],
    out: Annotated[Path, typer.Option(help="The folder to write, which must not be there yet.")],
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
    runs: Annotated[Path | None, typer.Option(help="The folder of the accuracies' runs.")] = None,
    data_dir: DataDir = None,
    jobs: Jobs = None,
    as_json: AsJson = False,
) -> None:
    """Record all that `parity --against` needs of one backend, for another machine or environment."""
    asked = accuracy or any(x is not None for x in (dataset, recipe, epochs, seeds, runs, jobs))
    trial = None
    if asked or level == "full":
        trial = _trial(_name(spec), dataset, recipe, epochs, seeds, None, runs, data_dir, jobs)
    with _bar() as show:
        manifest = capture(
            spec,
            out,
            backend,
            level=check_level(level or "standard"),
            image_size=read_size(image_size) if image_size else None,
            images=images,
            weights=weights,
            seed=seed,
            device=device,
            precisions=_names(precision),
            trial=trial,
            max_memory=read_bytes(max_memory),
            tell=show,
        )
    size = sum(path.stat().st_size for path in out.iterdir())
    if as_json:
        told = {"capture": str(out), "bytes": size, "network": manifest.spec.name, "level": manifest.level}
        print_json(told | {"backend": manifest.backend, "version": manifest.backend_version})
        return
    typer.echo(
        f"{manifest.spec.name} on {manifest.backend} {manifest.backend_version}, level {manifest.level}: "
        f"{size / 2**20:,.0f} MiB in {out}"
    )
    typer.echo(f"compare it anywhere by: resnet-xf parity --against {shlex.quote(str(out))}")


def _name(spec: str) -> str:
    """The network's name, of a spec or a checkpoint."""
    found = identify(read_checkpoint(spec)).plan if is_checkpoint(spec) else plan(spec)
    return found.spec.name


def _asked(spec: str | None, weights: Path | None) -> tuple[Plan | None, Path | None]:
    """What a capture must be of: a network, none where a checkpoint's is but guessed, and the file of its weights."""
    if spec is None or not is_checkpoint(spec):
        return plan(spec) if spec else None, weights
    if weights is not None:
        raise WeightsError(f"{spec}: is a checkpoint itself, so leave out --weights; or name its spec in its place")
    found = identify(read_checkpoint(spec))
    return None if found.guessed else found.plan, Path(spec)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _trial(
    network: str,
    dataset: str | None,
    recipe: str | None,
    epochs: int | None,
    seeds: int | None,
    margin: float | None,
    runs: Path | None,
    data_dir: Path | None,
    jobs: int | None,
) -> Trial:
    """What is trained to compare accuracies."""
    dataset = dataset or DEFAULT_DATASET
    given = {"seeds": seeds, "margin": margin}
    trial = Trial(
        dataset=dataset,
        recipe=recipe,
        out=runs or Path("runs") / f"parity-{network}-{dataset.partition(':')[0]}",
        data_dir=data_dir,
        jobs=jobs,
        **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
    )
    if epochs is not None:
        trial = dataclasses.replace(trial, recipe=msgspec.structs.replace(trial.resolved(), epochs=epochs))
    return trial


@contextmanager
def _bar() -> Iterator[Callable[[str, float], object]]:
    """A progress bar on standard error, where that is a terminal; gives what to tell of it."""
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("starting", total=1.0)
        yield lambda what, share: progress.update(task, description=what, completed=share or 0.0)


def print_report(report: Report) -> None:
    """The ladder as a table, and the verdict."""
    versions = ", ".join(f"{name} {version}" for name, version in report.backends.items())
    shape = "×".join(map(str, report.input_shape))
    typer.echo(f"{report.network}: {versions}; {report.images}, {shape}; weights {report.weights}")
    table = new_table("rung>", "compares", "result", "found>", "bound>", "seconds>", "what")
    for rung in report.rungs:
        numbers = ["" if number is None else f"{number:.3g}" for number in (rung.value, rung.bound)]
        what = f"{rung.where}: {rung.detail}" if rung.where else rung.detail
        table.add_row(str(rung.number), rung.name, rung.status, *numbers, f"{rung.seconds:.2f}", what)
    print_table(table)
    typer.echo(report.verdict())
