"""Training: begin a run, or go on with one from its checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from resnet_xf.architecture.plan import Plan, plan
from resnet_xf.architecture.spec import ResNetSpec
from resnet_xf.architecture.weights import Array, all_weight_shapes, check_weights, draw_weights, without_counters
from resnet_xf.backend.learner import TIMEOUT
from resnet_xf.backend.registry import get_backend
from resnet_xf.data import Dataset, load_dataset
from resnet_xf.data.statistics import pixel_statistics
from resnet_xf.errors import CheckpointError
from resnet_xf.support.files import list_checkpoints
from resnet_xf.training.checkpoint import Checkpoint, Header, load_checkpoint
from resnet_xf.training.evaluation import check_fit
from resnet_xf.training.loop import Progress, Run, Training
from resnet_xf.training.recipe import Recipe, get_recipe

DEFAULT_RECIPES = {"digits": "digits", "mnist": "d2l", "fashion-mnist": "d2l", "cifar10": "cifar", "cifar100": "cifar"}
"""The recipe of a data set where none is named; class folders take ``imagenet``."""


def default_recipe(dataset: str) -> str:
    """The name of a data set's recipe."""
    return DEFAULT_RECIPES.get(dataset, "imagenet")


def train(
    network: Plan | ResNetSpec | str = "d2l_resnet18",
    dataset: Dataset | str = "digits",
    recipe: Recipe | str | Path | None = None,
    *,
    backend: str | None = None,
    device: str = "auto",
    preset: str = "tuned",
    out: str | Path | None = None,
    weights: Mapping[str, Array] | None = None,
    data_dir: str | Path | None = None,
    keep: int = 3,
    timeout: float = TIMEOUT,
    callback: Callable[[Progress], object] | None = None,
) -> Run:
    """Train a network.

    Args:
        network: a plan, a spec or the name of one.
        dataset: a data set or what :func:`resnet_xf.data.load_dataset` takes.
        recipe: a recipe, or what :func:`resnet_xf.training.recipe.get_recipe` takes; if None, the data set's
            (``DEFAULT_RECIPES``).
        backend: as :func:`resnet_xf.backend.registry.get_backend` chooses it.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        preset: how much is done for speed, one of :data:`PRESETS`; low precision is the recipe's choice.
        out: the run's folder, for its checkpoints and ``metrics.jsonl``; nothing is written if None.
        weights: to begin with; if None they are drawn from the recipe's seed.
        data_dir: where the data set's files are, if not to be fetched.
        keep: how many checkpoints are kept.
        timeout: seconds for which a worker waits for the others, where there are several.
        callback: told of every step and epoch, on the first worker.

    Raises:
        ResNetXFError: of the kind of what is wrong; TrainingError if the loss is no longer finite or another worker is
            lost; TrainingStopped after SIGINT or SIGTERM, once the checkpoint is written.
    """
    settings: dict[str, Any] = {
        "device": device,
        "preset": preset,
        "keep": keep,
        "timeout": timeout,
        "callback": callback,
    }
    start = prepare(network, dataset, recipe, backend=backend, out=out, weights=weights, data_dir=data_dir, **settings)
    return start.run()


def prepare(
    network: Plan | ResNetSpec | str,
    dataset: Dataset | str,
    recipe: Recipe | str | Path | None,
    *,
    backend: str | None,
    out: str | Path | None,
    weights: Mapping[str, Array] | None,
    data_dir: str | Path | None,
    **settings: Any,
) -> Training:
    """What :func:`train` runs, with all checked that can be before the first step."""
    backend = get_backend(backend).name  # first: in a parameter server's process it does not return
    planned = plan(network)
    data = load_dataset(dataset, data_dir) if isinstance(dataset, str) else dataset
    recipe = get_recipe(default_recipe(data.name) if recipe is None else recipe)
    mean, std = recipe.augmentation.mean, recipe.augmentation.std
    check_fit(planned, data)
    if mean is None or std is None:
        mean, std = pixel_statistics(data.train, data.channels)
    header = Header(
        recipe=recipe,
        backend=backend,
        dataset=data.name,
        data_dir=None if data_dir is None else str(Path(data_dir).resolve()),
        train_images=len(data.train),
        train_digest=data.train.digest(),
        classes=data.classes,
        mean=mean,
        std=std,
    )
    if weights is None:
        weights = draw_weights(planned, recipe.seed, recipe.init, recipe.dtype)
    weights = without_counters(weights)
    check_weights(weights, all_weight_shapes(planned), recipe.dtype)
    if out is not None and list_checkpoints(out):
        raise CheckpointError(f"{out}: holds a run already; go on with it by --resume, or choose another folder")
    return Training(planned, data, Checkpoint(planned.spec, header, weights, {}), backend=backend, out=out, **settings)


def resume(
    run: str | Path,
    network: Plan | ResNetSpec | str | None = None,
    *,
    backend: str | None = None,
    device: str = "auto",
    preset: str = "tuned",
    dataset: Dataset | str | None = None,
    data_dir: str | Path | None = None,
    keep: int = 3,
    timeout: float = TIMEOUT,
    callback: Callable[[Progress], object] | None = None,
) -> Run:
    """Go on with a run from its last checkpoint; on the same backend and a CPU, to the bit as if it never stopped.

    Args:
        run: its folder.
        network: if given, the run must be of this network.
        backend: any; if None, the one that it was on.
        dataset: where the images are now; if None, where they were.
        device: as in :func:`train`.
        preset: as in :func:`train`.
        data_dir: where the data set's files are now; if None, where they were.
        keep: as in :func:`train`.
        timeout: as in :func:`train`.
        callback: as in :func:`train`.

    Raises:
        ResNetXFError: as :func:`train`; CheckpointError if there is no run, or it is of other data.
    """
    settings: dict[str, Any] = {
        "device": device,
        "preset": preset,
        "keep": keep,
        "timeout": timeout,
        "callback": callback,
    }
    return prepare_resume(run, network, backend=backend, dataset=dataset, data_dir=data_dir, **settings).run()


def prepare_resume(
    run: str | Path,
    network: Plan | ResNetSpec | str | None,
    *,
    backend: str | None,
    dataset: Dataset | str | None,
    data_dir: str | Path | None,
    **settings: Any,
) -> Training:
    """What :func:`resume` runs, with all checked that can be before the first step."""
    if not Path(run).is_dir():
        raise CheckpointError(f"{run}: no such folder; expected the folder of a run")
    start = load_checkpoint(run)
    header = start.header
    backend = get_backend(backend or header.backend).name
    if network is not None and (asked := plan(network).spec) != start.spec:
        fields = [field for field in asked.__struct_fields__ if getattr(asked, field) != getattr(start.spec, field)]
        raise CheckpointError(
            f"{run}: is a run of {start.spec.name}, and {asked.name} was asked for; they differ in {', '.join(fields)}"
        )
    data = dataset_of(header, dataset, data_dir)
    if (len(data.train), data.train.digest()) != (header.train_images, header.train_digest):
        raise CheckpointError(
            f"{run}: trains on {header.train_images} images of {header.dataset}, and the {len(data.train)} of "
            f"{data.name} are not those; it needs the same ones"
        )
    moved = {"dataset": data.name} | ({"data_dir": str(Path(data_dir).resolve())} if data_dir is not None else {})
    start = dataclasses.replace(start, header=msgspec.structs.replace(header, **moved))
    return Training(plan(start.spec), data, start, backend=backend, out=run, **settings)


def dataset_of(header: Header, dataset: Dataset | str | None, data_dir: str | Path | None) -> Dataset:
    """A run's data set, or another of the same classes.

    Raises:
        CheckpointError: if the classes are not the same.
    """
    if not isinstance(dataset, Dataset):
        dataset = load_dataset(dataset or header.dataset, data_dir or header.data_dir)
    if dataset.classes != header.classes:
        raise CheckpointError(f"{dataset.name}: has other classes than {header.dataset}, which the run was begun on")
    return dataset
