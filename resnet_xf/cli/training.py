"""The commands on training: train, evaluate, predict."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from resnet_xf.architecture.plan import Plan, plan
from resnet_xf.architecture.spec import ResNetSpec
from resnet_xf.architecture.weights import Weights, draw_weights
from resnet_xf.backend.fast import PRESETS
from resnet_xf.backend.learner import TIMEOUT
from resnet_xf.backend.registry import get_backend
from resnet_xf.backend.workers import run_together
from resnet_xf.cli.application import app
from resnet_xf.cli.printing import AsJson, new_table, print_json, print_table, read_size
from resnet_xf.data import DATASETS
from resnet_xf.errors import CheckpointError, RecipeError, TrainingError
from resnet_xf.formats.files import read_checkpoint
from resnet_xf.formats.identify import identify
from resnet_xf.support.files import list_checkpoints
from resnet_xf.training import runs as training
from resnet_xf.training.checkpoint import EpochRecord
from resnet_xf.training.inference import evaluate, predict
from resnet_xf.training.loop import Progress as Moment
from resnet_xf.training.loop import Training
from resnet_xf.training.recipe import RECIPES, Recipe, check_recipe, get_recipe

DEFAULT_NETWORK, DEFAULT_DATASET = "d2l_resnet18", "digits"

DataSet = Annotated[str | None, typer.Option("--dataset", help=f"One of {', '.join(DATASETS)}.")]
DataDir = Annotated[Path | None, typer.Option(help="The folder of the data set's files (else they are fetched).")]
RecipeName = Annotated[
    str | None,
    typer.Option("--recipe", help=f"One of {', '.join(RECIPES)}, or a .toml or .json file (else the data set's)."),
]
BackendName = Annotated[str | None, typer.Option("--backend", help="`torch` or `mxnet` (else RESNET_XF_BACKEND).")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
Network = Annotated[str | None, typer.Option("--spec", help="The network of a checkpoint that is no run's.")]
Source = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run's folder, or a checkpoint in any format that `convert` reads.")
]


@app.command("train")
def train_(
    spec: Annotated[str | None, typer.Argument(metavar="[SPEC]", help=f"The network (else {DEFAULT_NETWORK}).")] = None,
    dataset: DataSet = None,
    recipe: RecipeName = None,
    backend: BackendName = None,
    device: Device = "auto",
    preset: Annotated[str, typer.Option(help=f"How much is done for speed: {', '.join(PRESETS)}.")] = "tuned",
    out: Annotated[
        Path | None, typer.Option(help="The run's folder (else a new one under runs/).", show_default=False)
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with a run, on any backend.", show_default=False)
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="A checkpoint to begin from, as `convert` reads it.", show_default=False)
    ] = None,
    data_dir: DataDir = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine that train together.")] = 1,
    keep: Annotated[int, typer.Option(min=1, help="Checkpoints that are kept.")] = 3,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for other workers.")] = TIMEOUT,
    epochs: Annotated[int | None, typer.Option(help="In place of the recipe's.", show_default=False)] = None,
    batch_size: Annotated[int | None, typer.Option(help="In place of the recipe's.", show_default=False)] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate in place of the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option(help="In place of the recipe's.", show_default=False)] = None,
    precision: Annotated[str | None, typer.Option(help="float32, float64, bfloat16 or float16.")] = None,
    image_size: Annotated[str | None, typer.Option(metavar="SIZE", help="As 32 or 96x64 (else the recipe's).")] = None,
    new_head: Annotated[
        bool, typer.Option("--new-head", help="Draw the last layer anew, for other classes than those of --weights.")
    ] = False,
    in_channels: Annotated[int | None, typer.Option(help="In place of the spec's.", show_default=False)] = None,
    num_classes: Annotated[int | None, typer.Option(help="In place of the spec's.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Train a network, or go on with a run. `resnet-xf train` alone trains the book's ResNet-18 on digits.

    The run's folder holds its checkpoints and metrics.jsonl. Ctrl-C writes a checkpoint and stops.
    """
    changes = {
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
        "precision": precision,
        "image_size": read_size(image_size) if image_size else None,
        "learning_rate": lr,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    display = _Display(as_json=as_json)
    settings: dict[str, Any] = {
        "device": device, "preset": preset, "data_dir": data_dir, "keep": keep, "timeout": timeout, "callback": display,
    }  # fmt: skip
    if workers > 1 and ("DMLC_ROLE" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ):
        raise TrainingError("--workers starts processes itself; leave it out under torchrun or DMLC_ variables")
    if resume is not None:
        if changes or any(
            given is not None for given in (recipe, out, weights, in_channels, num_classes, new_head or None)
        ):
            raise CheckpointError(
                f"{resume}: a run goes on as it began; with --resume give only --backend, --device, --preset, "
                "--workers, --keep, --timeout, --data-dir and where a folder: --dataset has moved to"
            )
        out = resume
        begun = training.begin_again(resume, spec, backend=backend, dataset=dataset, **settings)
    else:
        backend = get_backend(backend).name  # first: a parameter server's process goes no further
        dataset = dataset or DEFAULT_DATASET
        planned = plan(_changed(plan(spec or DEFAULT_NETWORK).spec, in_channels, num_classes))
        chosen = _recipe(recipe or training.default_recipe(dataset), changes)
        out = out or _fresh(f"{planned.spec.name}-{dataset.partition(':')[0]}-{backend}")
        first = _first_weights(weights, planned, chosen, new_head=new_head) if weights else None
        begun = training.begin(planned, dataset, chosen, backend=backend, out=out, weights=first, **settings)
    begun.check_shares(workers)
    if workers > 1:
        _run_together(begun, workers, out, fresh=resume is None)
        return
    display.opening = _opening(begun)
    try:
        run = begun.run()
    finally:
        display.bar.stop()
    if not as_json and run.first:
        last = run.history[-1]
        typer.echo(f"done: test accuracy {last.test_accuracy:.2%} after epoch {last.epoch}; the run is {run.path}")


def _first_weights(path: Path, planned: Plan, recipe: Recipe, *, new_head: bool) -> Weights:
    """A checkpoint's weights, the last layer's drawn anew if wished."""
    found = identify(read_checkpoint(path), planned.spec).weights
    if new_head:
        drawn = draw_weights(planned, recipe.seed, recipe.init)
        found |= {name: drawn[name] for name in drawn if name.startswith("fc.")}
    return found


def _run_together(begun: Training, workers: int, out: Path, *, fresh: bool) -> None:
    """Start the same command in several processes, now that what can be checked in one has been."""
    command, *options = _without("--workers", "--out")
    arguments = [command, *(["--out", str(out)] if fresh else []), *options]
    wrong = run_together(get_backend(begun.header.backend).roles(workers), arguments)
    if wrong:
        again = f"resnet-xf train --resume {shlex.quote(str(out))} --workers {workers}"
        hint = f"; `{again}` goes on from the last checkpoint" if list_checkpoints(out) else ""
        raise TrainingError(f"{wrong}{hint}")


@app.command("evaluate")
def evaluate_(
    source: Source,
    dataset: DataSet = None,
    recipe: RecipeName = None,
    spec: Network = None,
    backend: BackendName = None,
    device: Device = "auto",
    data_dir: DataDir = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images at a time (else the recipe's).")] = None,
    as_json: AsJson = False,
) -> None:
    """Tell a network's loss and accuracy on a data set's test images."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("test images", total=None)
        found = evaluate(
            source,
            dataset,
            recipe=recipe,
            network=spec,
            backend=backend,
            device=device,
            data_dir=data_dir,
            batch_size=batch_size,
            callback=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        print_json(msgspec.to_builtins(found))
        return
    size = "×".join(map(str, found.image_size))
    typer.echo(
        f"{found.network} on {found.dataset}, {found.images:,} test images of {size} pixels, "
        f"{found.backend} on {found.device}"
    )
    typer.echo(f"accuracy {found.accuracy:.2%}, loss {found.loss:.4f}, {found.images_per_second:,.0f} images/s")


@app.command("predict")
def predict_(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE…", help="Image files.")],
    run: Annotated[
        Path, typer.Option("--run", help="A run's folder, or a checkpoint in any format that `convert` reads.")
    ],
    top: Annotated[int, typer.Option(min=1, help="How many classes to tell.")] = 5,
    recipe: RecipeName = None,
    spec: Network = None,
    backend: BackendName = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Tell the likeliest classes of images."""
    found = predict(run, images, top=top, recipe=recipe, network=spec, backend=backend, device=device)
    if as_json:
        print_json(
            [{"image": str(path), "top": msgspec.to_builtins(best)} for path, best in zip(images, found, strict=True)]
        )
        return
    table = new_table("image", "class", "probability>")
    for path, best in zip(images, found, strict=True):
        for number, guess in enumerate(best):
            table.add_row("" if number else str(path), guess.name, f"{guess.probability:.2%}")
    print_table(table)


def _changed(spec: ResNetSpec, in_channels: int | None, num_classes: int | None) -> ResNetSpec:
    changes = {"in_channels": in_channels, "num_classes": num_classes}
    return msgspec.structs.replace(spec, **{name: value for name, value in changes.items() if value is not None})


def _recipe(name: str, changes: dict[str, Any]) -> Recipe:
    """A recipe with the changes that options ask for."""
    recipe = get_recipe(name)
    if "learning_rate" in changes:
        rate = changes.pop("learning_rate")
        changes["optimizer"] = msgspec.structs.replace(recipe.optimizer, learning_rate=rate)
    try:
        return check_recipe(msgspec.structs.replace(recipe, **changes))
    except RecipeError as error:
        raise RecipeError(f"recipe {recipe.name} as changed by the options: {error}") from None


def _fresh(name: str) -> Path:
    """A folder under runs/ that is not there yet."""
    paths = (Path("runs") / (name if number == 1 else f"{name}-{number}") for number in range(1, 100_000))
    return next(path for path in paths if not path.exists())


def _without(*options: str) -> list[str]:
    """The arguments of this command less some options and their values."""
    kept, skip = [], False
    for argument in sys.argv[1:]:
        if not skip and argument.partition("=")[0] in options:
            skip = "=" not in argument
            continue
        if not skip:
            kept.append(argument)
        skip = False
    return kept


class _Display:
    """What shows a run: its first line, a bar where stderr is a terminal, and a line an epoch on stdout."""

    def __init__(self, *, as_json: bool) -> None:
        console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[now]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("starting", total=None, now="")
        self.as_json = as_json
        self.opening = ""

    def __call__(self, at: Moment) -> None:
        """Show a step or an epoch; of several workers, the first alone is told of any."""
        if self.opening and not self.as_json:
            typer.echo(self.opening)
        self.opening = ""
        now = f"loss {at.loss:.4f}  accuracy {at.accuracy:.2%}  {at.images_per_second:,.0f} images/s"
        self.bar.start()
        self.bar.update(
            self.task, description=f"epoch {at.epoch}/{at.epochs}", completed=at.step, total=at.steps, now=now
        )
        if at.record is not None:
            self.bar.stop()  # so that the line is not written into it
            typer.echo(msgspec.json.encode(at.record).decode() if self.as_json else _line(at.record, at.epochs))


def _opening(begun: Training) -> str:
    """What is about to be trained."""
    header, spec, data = begun.header, begun.planned.spec, begun.data
    on = f"on {header.step} of {begun.steps} steps, " if header.step else ""
    unused = f" for a network of {spec.num_classes}" if spec.num_classes > len(data.classes) else ""
    return (
        f"{spec.name} on {data.name}: {header.train_images:,} training images of {len(data.classes)} classes{unused}, "
        f"{'×'.join(map(str, begun.transform.size))} pixels; {header.backend}; recipe {header.recipe.name}, "
        f"{on}{header.recipe.epochs} epochs of {header.steps_per_epoch} steps; the run is {begun.out}"
    )


def _line(record: EpochRecord, epochs: int) -> str:
    return (
        f"epoch {record.epoch}/{epochs}: train loss {record.train_loss:.4f} accuracy {record.train_accuracy:.2%}, "
        f"test loss {record.test_loss:.4f} accuracy {record.test_accuracy:.2%}, "
        f"{record.images_per_second:,.0f} images/s"
    )
