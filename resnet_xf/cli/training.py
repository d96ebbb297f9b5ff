"""The commands on training: train, evaluate, predict."""

from __future__ import annotations

import itertools
import os
import shlex
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from resnet_xf.architecture.plan import Plan, plan
from resnet_xf.architecture.spec import ResNetSpec
from resnet_xf.architecture.weights import Weights, draw_weights
from resnet_xf.backend.contract import Trains, require
from resnet_xf.backend.fast import PRESETS
from resnet_xf.backend.learner import TIMEOUT
from resnet_xf.backend.registry import get_backend
from resnet_xf.backend.workers import run_together
from resnet_xf.cli.application import new_app
from resnet_xf.cli.options import (
    AsJson,
    BackendName,
    DataDir,
    Device,
    RecipeName,
    arguments_without,
    read_size,
)
from resnet_xf.cli.printing import by_sign, new_table, print_json, print_table
from resnet_xf.cli.progress import ProgressBar
from resnet_xf.data import DATASETS
from resnet_xf.errors import CheckpointError, RecipeError, TrainingError
from resnet_xf.formats.files import read_checkpoint
from resnet_xf.formats.identify import identify
from resnet_xf.support.files import list_checkpoints
from resnet_xf.training import runs
from resnet_xf.training.checkpoint import EpochRecord
from resnet_xf.training.inference import evaluate, predict
from resnet_xf.training.loop import Progress, Training
from resnet_xf.training.recipe import Recipe, check_recipe, get_recipe

app = new_app()

DEFAULT_NETWORK, DEFAULT_DATASET = "d2l_resnet18", "digits"

DataSet = Annotated[
    str | None, typer.Option("--dataset", help=f"One of {', '.join(DATASETS)}.", show_default="the run's")
]
Network = Annotated[
    str | None,
    typer.Option(
        "--spec", help="The network of a checkpoint that is no run's.", show_default="identified by names and shapes"
    ),
]
SOURCE = "A run's folder, or a checkpoint in any format that `convert` reads."


@app.command("train")
def train_(
    spec: Annotated[
        str | None,
        typer.Argument(metavar="[SPEC]", help="The network, as `show` takes it.", show_default=DEFAULT_NETWORK),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(DATASETS)}.", show_default=DEFAULT_DATASET)
    ] = None,
    recipe: RecipeName = None,
    backend: BackendName = None,
    device: Device = "auto",
    preset: Annotated[str, typer.Option(help=f"Optimisation for speed: {', '.join(PRESETS)}.")] = "tuned",
    out: Annotated[
        Path | None, typer.Option(help="The run's folder; it must hold no run.", show_default="a new one under runs/")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Resume the run in this folder, on any backend.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Initial weights: a checkpoint in any format `convert` reads.", show_default="random"),
    ] = None,
    data_dir: DataDir = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine that train together.")] = 1,
    keep: Annotated[int, typer.Option(min=1, help="Number of checkpoints to keep.")] = 3,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for other workers.")] = TIMEOUT,
    epochs: Annotated[int | None, typer.Option(help="Number of epochs.", show_default="the recipe's")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images per step, of all workers together.", show_default="the recipe's")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.", show_default="the recipe's")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of weights, order and augmentation.", show_default="the recipe's")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="float32, float64, bfloat16 or float16.", show_default="the recipe's")
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option(metavar="S or HxW", help="Image size in pixels, as 32 or 96x64.", show_default="the recipe's"),
    ] = None,
    new_head: Annotated[
        bool, typer.Option("--new-head", help="With --weights: draw the last layer anew, for other classes.")
    ] = False,
    in_channels: Annotated[
        int | None, typer.Option(help="Channels of the images, 1 or 3.", show_default="the spec's")
    ] = None,
    num_classes: Annotated[int | None, typer.Option(help="Number of classes.", show_default="the spec's")] = None,
    as_json: AsJson = False,
) -> None:
    """Train a network, or resume a run.

    `resnet-xf train` alone trains the ResNet-18 of the book "Dive into Deep Learning" on scikit-learn's digits. The
    run's folder holds checkpoints and metrics.jsonl. Ctrl-C writes a checkpoint and stops.
    """
    changes = {
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
        "precision": precision,
        "image_size": read_size(image_size),
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
        fixed = (recipe, out, weights, in_channels, num_classes, new_head or None)
        if changes or any(value is not None for value in fixed):
            raise CheckpointError(
                f"{resume}: a run resumes with its own settings; with --resume give only --backend, --device, "
                "--preset, --workers, --keep, --timeout, --data-dir, and --dataset if a folder: has moved"
            )
        out = resume
        training = runs.prepare_resume(resume, spec, backend=backend, dataset=dataset, **settings)
    else:
        backend = get_backend(backend).name  # first: in a parameter server's process it does not return
        dataset = dataset or DEFAULT_DATASET
        planned = plan(_with_sizes(plan(spec or DEFAULT_NETWORK).spec, in_channels, num_classes))
        changed = _changed_recipe(recipe or runs.default_recipe(dataset), changes)
        out = out or _new_folder(f"{planned.spec.name}-{dataset.partition(':')[0]}-{backend}")
        initial = _initial_weights(weights, planned, changed, new_head=new_head) if weights else None
        training = runs.prepare(planned, dataset, changed, backend=backend, out=out, weights=initial, **settings)
    training.check_shares(workers)
    if workers > 1:
        _run_together(training, workers, out, new=resume is None)
        return
    display.opening = _opening(training)
    with display.bar:
        run = training.run()
    if not as_json and run.first:
        last = run.history[-1]
        typer.echo(f"done: test accuracy {last.test_accuracy:.2%} after epoch {last.epoch}; the run is {run.path}")


def _initial_weights(path: Path, planned: Plan, recipe: Recipe, *, new_head: bool) -> Weights:
    """Return a checkpoint's weights; with ``new_head``, those of the last layer are random."""
    weights = identify(read_checkpoint(path), planned.spec).weights
    if new_head:
        drawn = draw_weights(planned, recipe.seed, recipe.init)
        weights |= {name: drawn[name] for name in drawn if name.startswith("fc.")}
    return weights


def _run_together(training: Training, workers: int, out: Path, *, new: bool) -> None:
    """Run this command in several processes, after this process has checked all it can."""
    command, *options = arguments_without("--workers", "--out")
    arguments = [command, *(["--out", str(out)] if new else []), *options]
    failure = run_together(require(get_backend(training.header.backend), Trains).roles(workers), arguments)
    if failure:
        again = f"resnet-xf train --resume {shlex.quote(str(out))} --workers {workers}"
        hint = f"; `{again}` goes on from the last checkpoint" if list_checkpoints(out) else ""
        raise TrainingError(f"{failure}{hint}")


@app.command("evaluate")
def evaluate_(
    source: Annotated[Path, typer.Argument(metavar="RUN", help=SOURCE)],
    dataset: DataSet = None,
    recipe: RecipeName = None,
    spec: Network = None,
    backend: BackendName = None,
    device: Device = "auto",
    data_dir: DataDir = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images per batch.", show_default="the recipe's")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure loss and accuracy on a data set's test images."""
    with ProgressBar() as bar:
        result = evaluate(
            source,
            dataset,
            recipe=recipe,
            network=spec,
            backend=backend,
            device=device,
            data_dir=data_dir,
            batch_size=batch_size,
            callback=lambda done, total: bar.update(done, total, "test images"),
        )
    if as_json:
        print_json(msgspec.to_builtins(result))
        return
    typer.echo(
        f"{result.network} on {result.dataset}, {result.images:,} test images of {by_sign(result.image_size)} pixels, "
        f"{result.backend} on {result.device}"
    )
    typer.echo(f"accuracy {result.accuracy:.2%}, loss {result.loss:.4f}, {result.images_per_second:,.0f} images/s")


@app.command("predict")
def predict_(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    run: Annotated[Path, typer.Option("--run", metavar="RUN", help=SOURCE)],
    top: Annotated[int, typer.Option(min=1, help="Number of classes to show.")] = 5,
    recipe: RecipeName = None,
    spec: Network = None,
    backend: BackendName = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Show the most likely classes of images."""
    guesses = predict(run, images, top=top, recipe=recipe, network=spec, backend=backend, device=device)
    answers = list(zip(images, guesses, strict=True))
    if as_json:
        print_json([{"image": str(path), "top": msgspec.to_builtins(best)} for path, best in answers])
        return
    table = new_table("image", "class", "probability>")
    for path, best in answers:
        for number, guess in enumerate(best):
            table.add_row("" if number else str(path), guess.name, f"{guess.probability:.2%}")
    print_table(table)


def _with_sizes(spec: ResNetSpec, in_channels: int | None, num_classes: int | None) -> ResNetSpec:
    """Return the spec with these sizes; None leaves the spec's own."""
    sizes = {"in_channels": in_channels, "num_classes": num_classes}
    return msgspec.structs.replace(spec, **{name: value for name, value in sizes.items() if value is not None})


def _changed_recipe(name: str, changes: dict[str, Any]) -> Recipe:
    """Return a recipe with the changes that options ask for."""
    recipe = get_recipe(name)
    if "learning_rate" in changes:
        rate = changes.pop("learning_rate")
        changes["optimizer"] = msgspec.structs.replace(recipe.optimizer, learning_rate=rate)
    try:
        return check_recipe(msgspec.structs.replace(recipe, **changes))
    except RecipeError as error:
        raise RecipeError(f"recipe {recipe.name} as changed by the options: {error}") from None


def _new_folder(name: str) -> Path:
    """Return the path of a folder under runs/ that does not exist yet."""
    paths = (Path("runs") / (name if number == 1 else f"{name}-{number}") for number in itertools.count(1))
    return next(path for path in paths if not path.exists())


class _Display:
    """Shows a run's progress: a first line, a line per epoch on stdout, and a bar on stderr if it is a terminal."""

    def __init__(self, *, as_json: bool) -> None:
        self.bar = ProgressBar()
        self.as_json = as_json
        self.opening = ""

    def __call__(self, progress: Progress) -> None:
        """Show a step or an epoch. Only the first of several workers is called."""
        if self.opening and not self.as_json:
            typer.echo(self.opening)
        self.opening = ""
        text = (
            f"epoch {progress.epoch}/{progress.epochs}  step {progress.step}/{progress.steps}  loss {progress.loss:.4f}"
            f"  accuracy {progress.accuracy:.2%}  {progress.images_per_second:,.0f} images/s"
        )
        self.bar.update(progress.step, progress.steps, text)
        record = progress.record
        if record is not None:
            self.bar.stop()  # so that the line is not written into it
            typer.echo(msgspec.json.encode(record).decode() if self.as_json else _line(record, progress.epochs))


def _opening(training: Training) -> str:
    """Return the line that tells what is about to be trained."""
    header, spec, data = training.header, training.planned.spec, training.data
    done = f"on {header.step} of {training.steps} steps, " if header.step else ""
    unused = f" for a network of {spec.num_classes}" if spec.num_classes > len(data.classes) else ""
    return (
        f"{spec.name} on {data.name}: {header.train_images:,} training images of {len(data.classes)} classes{unused}, "
        f"{by_sign(training.transform.size)} pixels; {header.backend}; recipe {header.recipe.name}, "
        f"{done}{header.recipe.epochs} epochs of {header.steps_per_epoch} steps; the run is {training.out}"
    )


def _line(record: EpochRecord, epochs: int) -> str:
    return (
        f"epoch {record.epoch}/{epochs}: train loss {record.train_loss:.4f} accuracy {record.train_accuracy:.2%}, "
        f"test loss {record.test_loss:.4f} accuracy {record.test_accuracy:.2%}, "
        f"{record.images_per_second:,.0f} images/s"
    )
