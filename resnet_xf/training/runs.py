"""Train a network, or resume a run from its last checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from resnet_xf.architecture.plan import Plan, plan
from resnet_xf.architecture.spec import Spec
from resnet_xf.architecture.weights import Array, draw_weights, first_not_finite, fitting_weights
from resnet_xf.backend.learner import TIMEOUT
from resnet_xf.backend.registry import get_backend
from resnet_xf.data import Dataset, load_dataset
from resnet_xf.data.splits import limited
from resnet_xf.errors import CheckpointError, WeightsError
from resnet_xf.training.checkpoint import Checkpoint, Header, load_checkpoint, refuse_run
from resnet_xf.training.evaluation import check_fit, images_for, normalisation, pixels_taken
from resnet_xf.training.loop import Progress, Run, Training
from resnet_xf.training.recipe import SMALL, Recipe, check_recipe, get_recipe, learning_rates

DEFAULT_RECIPES = {"digits": "digits", "mnist": "d2l", "fashion-mnist": "d2l", "cifar10": "cifar", "cifar100": "cifar"}
"""The recipe for each data set if none is given; your own images take ``small`` or ``imagenet``, by their number."""

STATES = (
    "a .states file holds an optimizer as a pickle, which is not read; begin a run from the weights that were saved "
    "with it: --weights"
)
"""What is said of the file that Gluon's ``Trainer.save_states`` wrote, before the name of a file of weights."""


def default_recipe(dataset: str, train_images: int | None = None) -> str:
    """Return the name of a data set's recipe; ``imagenet`` for your own images if their number is not given."""
    of_number = "imagenet" if train_images is None or train_images > SMALL else "small"
    return DEFAULT_RECIPES.get(dataset, of_number)


def train(
    network: Plan | Spec | str = "d2l_resnet18",
    dataset: Dataset | str = "digits",
    recipe: Recipe | str | Path | None = None,
    *,
    backend: str | None = None,
    device: str = "auto",
    preset: str = "tuned",
    out: str | Path | None = None,
    weights: Mapping[str, Array] | None = None,
    data_dir: str | Path | None = None,
    limit: int | None = None,
    keep: int = 3,
    timeout: float = TIMEOUT,
    max_memory: int | None = None,
    callback: Callable[[Progress], object] | None = None,
) -> Run:
    """Train a network and return the finished run.

    Args:
        network: a plan, a spec or a name.
        dataset: a data set, or a name for :func:`resnet_xf.data.load_dataset`.
        recipe: a recipe, or a name for :func:`resnet_xf.training.recipe.get_recipe`; if None, the data set's own
            (``DEFAULT_RECIPES``), or for your own images ``small`` or ``imagenet``, by their number.
        backend: a name, as in :func:`resnet_xf.get_backend`.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:1``.
        preset: one of :data:`resnet_xf.backend.fast.PRESETS`. The precision is set by the recipe.
        out: folder for the checkpoints and ``metrics.jsonl``; if None, nothing is written.
        weights: initial weights by name; if None, they are drawn from the recipe's seed.
        data_dir: folder with the data set's files; if None, they are downloaded.
        limit: number of training images to train on, drawn by the recipe's seed; if None, all.
        keep: number of checkpoints to keep.
        timeout: seconds to wait for other workers.
        max_memory: bytes that images may take which are decoded and resized once and then kept, of all workers on this
            machine together; if None, a quarter of the free memory. Images that do not fit are read in each epoch.
        callback: called after every step and epoch, on the first worker.

    Raises:
        ResNetXFError: if an argument is wrong, by the subclass for its kind.
        TrainingError: if the loss is not finite, or another worker is lost.
        TrainingStopped: after SIGINT or SIGTERM, once the checkpoint is written.
    """
    return prepare(**locals()).run()


def prepare(
    network: Plan | Spec | str,
    dataset: Dataset | str,
    recipe: Recipe | str | Path | None,
    *,
    backend: str | None = None,
    out: str | Path | None = None,
    weights: Mapping[str, Array] | None = None,
    data_dir: str | Path | None = None,
    limit: int | None = None,
    **settings: Any,
) -> Training:
    """Check all arguments of :func:`train` and return the training, ready to run; ``settings`` are its other fields."""
    backend = get_backend(backend).name  # first: in a parameter server's process it does not return
    planned = plan(network)
    data = load_dataset(dataset, data_dir)
    recipe = get_recipe(recipe or default_recipe(data.name, min(limit or len(data.train), len(data.train))))
    data = limited(data, limit, recipe.seed)
    check_fit(planned, data)
    own = pixels_taken(planned)  # if the network has a mean and a scale of its own
    mean, std = ((0.0,), (1 / own,)) if own else normalisation(recipe, data)
    header = Header(
        recipe=recipe,
        backend=backend,
        dataset=data.name,
        data_dir=None if data_dir is None else str(Path(data_dir).resolve()),
        limit=limit,
        train_images=len(data.train),
        train_digest=data.train.digest(),
        classes=data.classes,
        mean=mean,
        std=std,
    )
    if weights is None:
        weights = draw_weights(planned, recipe.seed, recipe.init, recipe.dtype)
    weights = fitting_weights(weights, planned, recipe.dtype)
    if broken := first_not_finite(weights):
        raise WeightsError(f"{broken}: holds NaN or infinite values, and no training begins with them")
    if out is not None:
        refuse_run(out)
    folder = None if out is None else Path(out)
    return Training(planned, data, Checkpoint(planned.spec, header, weights, {}), folder, **settings)


def resume(
    run: str | Path,
    network: Plan | Spec | str | None = None,
    *,
    backend: str | None = None,
    device: str = "auto",
    preset: str = "tuned",
    dataset: Dataset | str | None = None,
    data_dir: str | Path | None = None,
    epochs: int | None = None,
    keep: int = 3,
    timeout: float = TIMEOUT,
    max_memory: int | None = None,
    callback: Callable[[Progress], object] | None = None,
) -> Run:
    """Resume a run from its last checkpoint and return the finished run.

    On the same backend and a CPU, the result is equal to the bit to the result of a run that never stopped.

    Args:
        run: the run's folder.
        network: the network that the run must be of; if None, any.
        backend: any backend; if None, the run's last one.
        dataset: the data set, if a folder of images has moved; if None, the run's.
        data_dir: folder with the data set's files; if None, the run's.
        epochs: number of epochs in all, in place of the recipe's; a cosine schedule then ends there.
        device: as in :func:`train`.
        preset: as in :func:`train`.
        keep: as in :func:`train`.
        timeout: as in :func:`train`.
        max_memory: as in :func:`train`.
        callback: as in :func:`train`.

    Raises:
        ResNetXFError: as :func:`train`.
        CheckpointError: if there is no run, or it is of other data, or has trained more epochs already.
    """
    return prepare_resume(**locals()).run()


def prepare_resume(
    run: str | Path,
    network: Plan | Spec | str | None,
    *,
    backend: str | None = None,
    dataset: Dataset | str | None = None,
    data_dir: str | Path | None = None,
    epochs: int | None = None,
    **settings: Any,
) -> Training:
    """Check all arguments of :func:`resume` and return the training, ready to run; as in :func:`prepare`."""
    if not Path(run).is_dir():
        raise CheckpointError(f"{run}: no such folder; expected the folder of a run{_hint_for_file(Path(run))}")
    start = load_checkpoint(run)
    header = start.header
    backend = get_backend(backend or header.backend).name
    if network is not None and (spec := plan(network).spec) != start.spec:
        raise CheckpointError(
            f"{run}: is a run of {start.spec.name}, and {spec.name} was asked for; they differ in "
            f"{', '.join(spec.differences(start.spec))}"
        )
    data = images_for(start.spec, dataset_of(header, dataset, data_dir))
    data = limited(data, header.limit, header.recipe.seed)
    if (len(data.train), data.train.digest()) != (header.train_images, header.train_digest):
        raise CheckpointError(
            f"{run}: trains on {header.train_images} images of {header.dataset}, and the {len(data.train)} of "
            f"{data.name} are not those; it needs the same ones"
        )
    places = {} if data_dir is None else {"data_dir": str(Path(data_dir).resolve())}
    header = msgspec.structs.replace(header, backend=backend, dataset=data.name, **places)
    if epochs is not None:
        header, settings["note"] = _with_epochs(run, header, epochs)
    return Training(plan(start.spec), data, dataclasses.replace(start, header=header), Path(run), **settings)


def _hint_for_file(path: Path) -> str:
    """Return what to give in place of a file; nothing if there is no such file."""
    if path.suffix == ".states":
        return f"; {STATES} {path.with_suffix('.params')}"
    return f"; to begin a run from the weights in this file: --weights {path}" if path.is_file() else ""


def _with_epochs(run: str | Path, header: Header, epochs: int) -> tuple[Header, str]:
    """Return a run's header with another number of epochs, and in words what that changes."""
    begun = header.position.epoch + bool(header.position.batch)
    if epochs < begun:
        raise CheckpointError(f"{run}: epochs: it is in epoch {begun} already; expected {begun} or more, got {epochs}")
    recipe = check_recipe(msgspec.structs.replace(header.recipe, epochs=epochs))
    old, new = (learning_rates(one, header.steps_per_epoch)[header.step :] for one in (header.recipe, recipe))
    text = f"epochs: {header.recipe.epochs} → {epochs}; schedule {recipe.schedule.kind}: "
    if len(new):
        before = f"it would have been {old[0]:.3g}" if len(old) else "the run was finished"
        text += f"the learning rate of step {header.step + 1} is {new[0]:.3g}, and {before}"
    return msgspec.structs.replace(header, recipe=recipe), text


def dataset_of(header: Header, dataset: Dataset | str | None, data_dir: str | Path | None) -> Dataset:
    """Return the data set if one is given, else the run's. Raises CheckpointError if its classes are not the run's."""
    data = load_dataset(dataset or header.dataset, data_dir or header.data_dir)
    if data.classes != header.classes:
        raise CheckpointError(f"{data.name}: has other classes than {header.dataset}, which the run was begun on")
    return data
