"""The commands on training: train, evaluate, predict."""

from __future__ import annotations

import itertools
import os
import shlex
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from resnet_xf.architecture.plan import Plan, plan, resized
from resnet_xf.architecture.weights import Weights, draw_weights
from resnet_xf.backend.contract import Trains, require
from resnet_xf.backend.fast import PRESETS
from resnet_xf.backend.learner import TIMEOUT
from resnet_xf.backend.registry import get_backend
from resnet_xf.backend.workers import run_together
from resnet_xf.cli import options
from resnet_xf.cli.application import new_app
from resnet_xf.cli.options import arguments_without, not_none, option, size_option
from resnet_xf.cli.printing import ProgressBar, by_sign, echo, list_names, print_json, print_table
from resnet_xf.data import DATASETS, Dataset, load_dataset
from resnet_xf.data.lists import synset
from resnet_xf.errors import CheckpointError, DataError, RecipeError, TrainingError, escaped
from resnet_xf.formats.files import read_checkpoint
from resnet_xf.formats.identify import identify
from resnet_xf.support.files import list_checkpoints, read_bytes, reading
from resnet_xf.training import runs
from resnet_xf.training.inference import Usage, evaluate, predict
from resnet_xf.training.loop import Progress, Training
from resnet_xf.training.recipe import Recipe, check_recipe, get_recipe

app = new_app()

DEFAULT_NETWORK, DEFAULT_DATASET = "d2l_resnet18", "digits"
RECIPES_OWN = "the recipe's"

DATASET_NAMES = f"One of {', '.join(DATASETS)}."
SOURCE = "A run's folder, or a checkpoint in any format that `convert` reads."
Network = Annotated[
    str | None, option("The network of a checkpoint that is no run's.", default="identified by names and shapes")
]


CHECKPOINTS_OWN = "the checkpoint's, else the recipe's"
MOST_NAMES = 2**24
"""The largest file of class names, in bytes."""


def _channels(text: str) -> tuple[float, ...]:
    """Return the values of ``0.5`` or ``0.485,0.456,0.406``. Raises BadParameter if these are no finite numbers."""
    try:
        values = tuple(map(float, text.split(",")))
    except ValueError:
        values = (float("nan"),)
    if not all(map(isfinite, values)):
        raise typer.BadParameter(f"{text!r} is no number, nor several by comma; write 0.5 or 0.485,0.456,0.406")
    return values


def _class_names(text: str | None) -> tuple[str, ...]:
    """Return class names from a file, one a line, or from a text, by comma."""
    if text is None:
        return ()
    if "," in text and not os.path.isfile(text):  # Path.is_file raises for a name that is too long
        return tuple(name.strip() for name in text.removesuffix(",").split(","))  # ``cat,`` is one name
    with reading(text, DataError, "a file of class names", "; or give the names by comma"):
        lines = read_bytes(text, MOST_NAMES).decode("utf-8-sig").splitlines()
        if not (names := tuple(line.strip() for line in lines if line.strip())):
            raise DataError("names no class")
        return names


Mean = Annotated[
    Any, option("Mean of pixels of 0 to 1, for all or each channel.", default=CHECKPOINTS_OWN, parser=_channels)
]
Std = Annotated[
    Any,
    option(
        "Standard deviation of pixels of 0 to 1, for all or each channel.", default=CHECKPOINTS_OWN, parser=_channels
    ),
]
MaxMemory = Annotated[
    int | None,
    option(
        "Memory for images that are kept, as 500M or 2G.",
        default="a quarter of the free memory",
        metavar="SIZE",
        parser=options.read_bytes,
    ),
]
ImageSize = Annotated[options.Size | None, size_option(CHECKPOINTS_OWN)]
Classes = Annotated[
    str | None,
    option("The network's class names in order: a file, one a line; or by comma.", default="the checkpoint's"),
]


@app.command("train")
def train_(
    spec: Annotated[
        str | None,
        typer.Argument(metavar="[SPEC]", help="The network, as `show` takes it.", show_default=DEFAULT_NETWORK),
    ] = None,
    dataset: Annotated[str | None, option(DATASET_NAMES, default=DEFAULT_DATASET)] = None,
    recipe: options.RecipeName = None,
    backend: options.BackendName = None,
    device: options.Device = "auto",
    preset: Annotated[str, option(f"Optimisation for speed: {', '.join(PRESETS)}.")] = "tuned",
    out: Annotated[Path | None, option("The run's folder; it must hold no run.", default="a new one in runs/")] = None,
    resume: Annotated[Path | None, option("Resume the run in this folder, on any backend.", metavar="RUN")] = None,
    weights: Annotated[
        Path | None, option("Initial weights: a checkpoint in any format `convert` reads.", default="random")
    ] = None,
    data_dir: options.DataDir = None,
    workers: Annotated[int, option("Processes on this machine that train together.", min=1)] = 1,
    limit: Annotated[
        int | None, option("Train on N images alone, drawn by the seed.", default="all", metavar="N")
    ] = None,
    keep: Annotated[int, option("Number of checkpoints to keep.", min=1)] = 3,
    timeout: Annotated[float, option("Seconds to wait for other workers.", min=1)] = TIMEOUT,
    max_memory: MaxMemory = None,
    epochs: Annotated[int | None, option("Number of epochs; with --resume, in all.", default=RECIPES_OWN)] = None,
    batch_size: Annotated[int | None, option("Images per step, of all workers together.", default=RECIPES_OWN)] = None,
    lr: Annotated[float | None, option("Peak learning rate.", default=RECIPES_OWN)] = None,
    seed: Annotated[int | None, option("Seed of weights, order and augmentation.", default=RECIPES_OWN)] = None,
    precision: Annotated[str | None, option("float32, float64, bfloat16 or float16.", default=RECIPES_OWN)] = None,
    image_size: Annotated[options.Size | None, size_option(RECIPES_OWN)] = None,
    prefix: options.Prefix = None,
    new_head: Annotated[bool, option("With --weights: draw a new last layer for other classes.", "--new-head")] = False,
    in_channels: Annotated[int | None, option("Channels of the images, 1 or 3.", default="the spec's")] = None,
    num_classes: Annotated[int | None, option("Number of classes.", default="the spec's")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Train a network, or resume a run.

    `resnet-xf train` alone trains the ResNet-18 of the book "Dive into Deep Learning" on scikit-learn's digits. The
    run's folder holds checkpoints and metrics.jsonl. Ctrl-C writes a checkpoint and stops.
    """
    if workers > 1 and ("DMLC_ROLE" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ):
        raise TrainingError("--workers starts processes itself; leave it out under torchrun or DMLC_ variables")
    sizes = not_none(in_channels=in_channels, num_classes=num_classes)
    changes = not_none(batch_size=batch_size, seed=seed, precision=precision, image_size=image_size)
    settings = not_none(
        device=device, preset=preset, data_dir=data_dir, keep=keep, timeout=timeout, max_memory=max_memory
    )
    if resume is not None:
        begun_with = not_none(lr=lr, recipe=recipe, out=out, weights=weights, limit=limit, prefix=prefix)
        if sizes or changes or new_head or begun_with:
            raise CheckpointError(
                f"{resume}: a run resumes with its own settings; with --resume give only --backend, --device, "
                "--preset, --workers, --keep, --timeout, --max-memory, --data-dir, --epochs, and --dataset if its "
                "files have moved"
            )
        out = resume
        training = runs.prepare_resume(resume, spec, backend=backend, dataset=dataset, epochs=epochs, **settings)
    else:
        if weights is None and (prefix or new_head):
            raise CheckpointError("--prefix and --new-head say what is taken of a checkpoint; name it with --weights")
        dataset = dataset or DEFAULT_DATASET
        planned = plan(resized(plan(spec or DEFAULT_NETWORK).spec, **sizes))
        backend = get_backend(backend).name  # in a parameter server's process it does not return
        out = out or _new_folder(f"{planned.spec.name}-{dataset.partition(':')[0]}-{backend}")
        data = load_dataset(dataset, data_dir)
        images = min(limit or len(data.train), len(data.train))
        changed = _changed_recipe(
            recipe or runs.default_recipe(data.name, images), lr, changes | not_none(epochs=epochs)
        )
        initial = _initial_weights(weights, planned, changed, data, prefix, new_head=new_head) if weights else None
        settings |= {"out": out, "weights": initial, "limit": limit}
        training = runs.prepare(planned, data, changed, backend=backend, **settings)
    training.check_shares(workers)
    if workers > 1:
        _run_together(training, workers, out, new=resume is None)
        return
    training.callback = display = _Display(training, as_json=as_json)
    with display:
        run = training.run()
    if not as_json and run.first:
        last = run.history[-1]
        echo(f"done: test accuracy {last.test_accuracy:.2%} after epoch {last.epoch}; the run is {run.path}")


def _changed_recipe(name: str, rate: float | None, changes: dict[str, Any]) -> Recipe:
    """Return a recipe with the learning rate and the other changes that options ask for."""
    recipe = get_recipe(name)
    if rate is not None:
        changes = {"optimizer": msgspec.structs.replace(recipe.optimizer, learning_rate=rate)} | changes
    try:
        return check_recipe(msgspec.structs.replace(recipe, **changes))
    except RecipeError as error:
        raise RecipeError(f"recipe {recipe.name} as changed by the options: {error}") from None


def _new_folder(name: str) -> Path:
    """Return the path of a folder under runs/ that does not exist yet."""
    paths = (Path("runs") / (name if number == 1 else f"{name}-{number}") for number in itertools.count(1))
    return next(path for path in paths if not path.exists())


def _initial_weights(
    path: Path, planned: Plan, recipe: Recipe, data: Dataset, prefix: str | None, *, new_head: bool
) -> Weights:
    """Return a checkpoint's weights; with ``new_head``, those after the last map are random.

    Raises:
        DataError: if the last layer is kept, and its classes are not the data set's.
    """
    if path.suffix == ".states":
        raise CheckpointError(f"{path}: {runs.STATES} {path.with_suffix('.params')}")
    file = read_checkpoint(path, prefix, part=new_head)
    weights = identify(file, planned.spec, backbone=new_head).weights
    names = file.description.classes if file.description else ()
    if names and not new_head:
        for label, (name, title) in enumerate(zip(names, data.classes, strict=False)):
            if synset(name) != synset(title):
                raise DataError(
                    f"{path}: its output {label} is the class {name}, and class {label} of {data.name} is {title}; "
                    "draw a new last layer (--new-head)"
                )
    return draw_weights(planned, recipe.seed, recipe.init) | weights if new_head else weights


def _run_together(training: Training, workers: int, out: Path, *, new: bool) -> None:
    """Run this command in several processes, after this process has checked all it can."""
    command, *others = arguments_without("--workers", "--out")
    arguments = [command, *(["--out", str(out)] if new else []), *others]
    failure = run_together(require(get_backend(training.header.backend), Trains).roles(workers), arguments)
    if failure:
        again = f"resnet-xf train --resume {shlex.quote(str(out))} --workers {workers}"
        hint = f"; `{again}` goes on from the last checkpoint" if list_checkpoints(out) else ""
        raise TrainingError(f"{failure}{hint}")


class _Display(ProgressBar):
    """Shows a run's progress: a first line, a line per epoch on stdout, and a bar on stderr if it is a terminal."""

    def __init__(self, training: Training, *, as_json: bool) -> None:
        self.as_json = as_json
        header, spec, data = training.header, training.planned.spec, training.data
        done = f"on {header.step} of {training.steps} steps, " if header.step else ""
        unused = f" for a network of {spec.num_classes}" if spec.num_classes > len(data.classes) else ""
        self.opening = (
            f"{spec.name} on {data.name}: {header.train_images:,} training images of {len(data.classes)} classes"
            f"{unused}, {by_sign(training.transform.size)} pixels; {header.backend}; recipe {header.recipe.name}, "
            f"{done}{header.recipe.epochs} epochs of {header.steps_per_epoch} steps; the run is {training.out}"
        )
        self.note = training.note

    def __call__(self, progress: Progress) -> None:
        """Show a step or an epoch. Only the first of several workers is called."""
        for line in filter(None, (self.note, self.opening)):
            if not self.as_json:
                echo(line)
        self.note = self.opening = ""
        epoch, speed = f"epoch {progress.epoch}/{progress.epochs}", f"{progress.images_per_second:,.0f} images/s"
        text = (
            f"{epoch}  step {progress.step}/{progress.steps}  loss {progress.loss:.4f}  "
            f"accuracy {progress.accuracy:.2%}  {speed}"
        )
        self.update(progress.step, progress.steps, text)
        record = progress.record
        if record is None:
            return
        self.stop()  # so that the line is not written into the bar
        line = (
            f"{epoch}: train loss {record.train_loss:.4f} accuracy {record.train_accuracy:.2%}, "
            f"test loss {record.test_loss:.4f} accuracy {record.test_accuracy:.2%}, {speed}"
        )
        echo(msgspec.json.encode(record).decode() if self.as_json else line)


@app.command("evaluate")
def evaluate_(
    source: Annotated[Path, typer.Argument(metavar="RUN", help=SOURCE)],
    dataset: Annotated[str | None, option(DATASET_NAMES, default="the run's")] = None,
    recipe: options.RecipeName = None,
    spec: Network = None,
    backend: options.BackendName = None,
    device: options.Device = "auto",
    data_dir: options.DataDir = None,
    batch_size: Annotated[int | None, option("Images per batch.", default=RECIPES_OWN, min=1)] = None,
    image_size: ImageSize = None,
    mean: Mean = None,
    std: Std = None,
    classes: Classes = None,
    as_json: options.AsJson = False,
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
            image_size=image_size,
            mean=mean,
            std=std,
            classes=_class_names(classes),
            callback=lambda done, total: bar.update(done, total, "test images"),
        )
    _print_warnings(result.usage)
    if as_json:
        print_json(result)
        return
    echo(
        f"{result.network} on {result.dataset}, {result.images:,} test images of {by_sign(result.image_size)} pixels, "
        f"{result.backend} on {result.device}"
    )
    _print_usage(result.usage)
    echo(f"accuracy {result.accuracy:.2%}, loss {result.loss:.4f}, {result.images_per_second:,.0f} images/s")


@app.command("predict")
def predict_(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    run: Annotated[Path, option(SOURCE, metavar="RUN")],
    top: Annotated[int, option("Number of classes to show.", min=1)] = 5,
    recipe: options.RecipeName = None,
    spec: Network = None,
    backend: options.BackendName = None,
    device: options.Device = "auto",
    image_size: ImageSize = None,
    mean: Mean = None,
    std: Std = None,
    classes: Classes = None,
    as_json: options.AsJson = False,
) -> None:
    """Show the most likely classes of images."""
    usages: list[Usage] = []
    guesses = predict(
        run,
        images,
        top=top,
        recipe=recipe,
        network=spec,
        backend=backend,
        device=device,
        image_size=image_size,
        mean=mean,
        std=std,
        classes=_class_names(classes),
        callback=usages.append,
    )
    answers = list(zip(map(str, images), guesses, strict=True))
    _print_warnings(usages[0])
    if as_json:
        view = {"preprocessing": usages[0].preprocessing, "preprocessing_from": usages[0].preprocessing_from}
        print_json([{"image": path, "top": best, **view} for path, best in answers])
        return
    _print_usage(usages[0])
    rows = [
        ("" if number else path, guess.name, f"{guess.probability:.2%}")
        for path, best in answers
        for number, guess in enumerate(best)
    ]
    print_table(("image", "class", "probability>"), rows)


def _print_warnings(usage: Usage) -> None:
    """Print each warning in a line on stderr."""
    for warning in usage.warnings:
        typer.echo(f"warning: {escaped(warning)}", err=True)


def _print_usage(usage: Usage) -> None:
    """Print the preprocessing and the classes, and where each is known from."""
    echo(f"images: {usage.preprocessing.text(usage.channels)} ({usage.preprocessing_from})")
    names = f"{list_names(usage.classes)} ({usage.classes_from})" if usage.classes else usage.classes_from
    echo(f"classes: {names}")
