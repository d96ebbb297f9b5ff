"""Use a trained network: measure its accuracy on a data set, or classify images."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from resnet_xf.architecture.plan import Plan, plan
from resnet_xf.architecture.weights import RUN_KEY, Weights, read_arrays
from resnet_xf.backend.contract import Trains, require
from resnet_xf.backend.learner import Learner
from resnet_xf.backend.registry import get_backend
from resnet_xf.data import Dataset, Transform, load_dataset
from resnet_xf.data.images import read_image
from resnet_xf.errors import DataError
from resnet_xf.formats.files import read_checkpoint
from resnet_xf.formats.identify import identify
from resnet_xf.training.checkpoint import Header, load_checkpoint
from resnet_xf.training.evaluation import check_fit, evaluate_split, normalisation, task_of, transform_of
from resnet_xf.training.recipe import Recipe, get_recipe
from resnet_xf.training.runs import dataset_of, default_recipe


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """A network's mean cross entropy and accuracy, 0…1, on a data set's test images."""

    network: str
    dataset: str
    images: int
    image_size: tuple[int, int]
    loss: float
    accuracy: float
    images_per_second: float
    backend: str
    device: str


class Guess(msgspec.Struct, frozen=True):
    """A class that an image may show: its label, its name (the label's digits if it has none) and its probability."""

    label: int
    name: str
    probability: float


def evaluate(
    source: str | Path,
    dataset: Dataset | str | None = None,
    *,
    recipe: Recipe | str | Path | None = None,
    network: str | None = None,
    backend: str | None = None,
    device: str = "auto",
    data_dir: str | Path | None = None,
    batch_size: int | None = None,
    callback: Callable[[int, int], object] | None = None,
) -> Evaluation:
    """Measure loss and accuracy of a network on a data set's test images.

    Args:
        source: a run's folder, or a checkpoint in any format that :func:`resnet_xf.convert` reads.
        dataset: a data set or a name for :func:`resnet_xf.data.load_dataset`; if None, the run's.
        recipe: sets size, crop and normalisation of the images; if None, the run's, or the data set's for other
            checkpoints.
        network: the spec of a checkpoint that is no run's; if None, it is identified by names and shapes.
        backend: as in :func:`resnet_xf.train`.
        device: as in :func:`resnet_xf.train`.
        data_dir: as in :func:`resnet_xf.train`.
        batch_size: images per batch; if None, the recipe's.
        callback: called after every batch with the number of images done and of all images.

    Raises:
        ResNetXFError: if an argument is wrong, by the subclass for its kind.
    """
    planned, weights, run = _read(source, network)
    if run is not None:
        data = dataset_of(run, dataset, data_dir)
    elif dataset is None:
        raise DataError(f"{source}: is no run, so a data set must be named (--dataset)")
    else:
        data = load_dataset(dataset, data_dir)
    check_fit(planned, data)
    recipe, transform = _view(planned, run, data, recipe)
    learner = _learner(planned, weights, recipe, backend, device)
    size = recipe.batch_size if batch_size is None else batch_size
    start, batches = time.perf_counter(), itertools.count(1)

    def report() -> bool:
        if callback is not None:
            callback(min(next(batches) * size, len(data.test)), len(data.test))
        return False

    means = evaluate_split(learner, data.test, transform, size, planned.spec.num_classes, stopped=report)
    assert means is not None  # it is never stopped
    return Evaluation(
        network=planned.spec.name,
        dataset=data.name,
        images=len(data.test),
        image_size=transform.size,
        loss=means[0],
        accuracy=means[1],
        images_per_second=len(data.test) / (time.perf_counter() - start),
        backend=get_backend(backend).name,
        device=learner.device,
    )


def predict(
    source: str | Path,
    images: Sequence[str | Path],
    *,
    top: int = 5,
    recipe: Recipe | str | Path | None = None,
    network: str | None = None,
    backend: str | None = None,
    device: str = "auto",
) -> list[list[Guess]]:
    """Return the most likely classes of each image file, the likeliest first.

    Args:
        source: a run's folder, or a checkpoint in any format that :func:`resnet_xf.convert` reads.
        images: paths of image files.
        top: number of classes for each image.
        recipe: as in :func:`evaluate`; if None, the run's, or ``imagenet`` for other checkpoints.
        network: as in :func:`evaluate`.
        backend: as in :func:`resnet_xf.train`.
        device: as in :func:`resnet_xf.train`.

    Raises:
        ResNetXFError: if an argument is wrong, by the subclass for its kind.
    """
    if isinstance(images, str | Path):
        raise DataError(f"{images}: give a list of images, even of one")
    if top < 1:
        raise DataError(f"top: expected 1 class or more, got {top}")
    planned, weights, run = _read(source, network)
    recipe, transform = _view(planned, run, None, recipe)
    classes = run.classes if run else ()
    inputs = [transform.one(read_image(path)) for path in images]
    learner = _learner(planned, weights, recipe, backend, device)
    guesses = []
    for batch in inputs:
        outputs = learner.outputs(batch)[0].astype(np.float64)
        probability = np.exp(outputs - outputs.max())
        probability /= probability.sum()
        best = np.argsort(-probability, kind="stable")[:top].tolist()
        names = (classes[label] if label < len(classes) else str(label) for label in best)
        guesses.append([*map(Guess, best, names, probability[best].tolist())])
    return guesses


def _read(source: str | Path, network: str | None) -> tuple[Plan, Weights, Header | None]:
    """Return a checkpoint's network and weights, and the header of the run that trained it, if it is a run's."""
    path = Path(source)
    if path.is_dir() or (path.suffix == ".safetensors" and path.is_file() and RUN_KEY in read_arrays(path)[1]):
        checkpoint = load_checkpoint(path)
        return plan(checkpoint.spec), checkpoint.weights, checkpoint.header
    identity = identify(read_checkpoint(path), plan(network).spec if network else None)
    return identity.plan, identity.weights, None


def _view(
    planned: Plan, run: Header | None, data: Dataset | None, recipe: Recipe | str | Path | None
) -> tuple[Recipe, Transform]:
    """Return the recipe that was asked for, else the run's or the data set's, and its transform of images."""
    if recipe is None and run is not None:
        return run.recipe, transform_of(planned, run.recipe, run.mean, run.std)
    recipe = get_recipe(recipe or default_recipe(data.name if data else ""))
    return recipe, transform_of(planned, recipe, *normalisation(recipe, data))


def _learner(planned: Plan, weights: Weights, recipe: Recipe, backend: str | None, device: str) -> Learner:
    """Return a learner in the precision of the weights, so that a network trained in float16 also runs on a CPU."""
    exact = msgspec.structs.replace(recipe, precision=recipe.dtype)
    learner = require(get_backend(backend), Trains).learner(task_of(planned, exact, device))
    learner.load(weights, {})
    return learner
