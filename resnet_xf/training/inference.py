"""What a trained network gives: its accuracy on a data set, and the likeliest classes of an image."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from resnet_xf.architecture.plan import Plan, plan
from resnet_xf.architecture.weights import RUN_KEY, Weights, read_arrays
from resnet_xf.backend.contract import Trains, require
from resnet_xf.backend.learner import Learner
from resnet_xf.backend.registry import get_backend
from resnet_xf.data import Dataset, load_dataset
from resnet_xf.data.images import read_image
from resnet_xf.data.statistics import pixel_statistics
from resnet_xf.errors import DataError
from resnet_xf.formats.files import read_checkpoint
from resnet_xf.formats.identify import identify
from resnet_xf.training.checkpoint import Header, load_checkpoint
from resnet_xf.training.evaluation import check_fit, evaluate_split, task_of, transform_of
from resnet_xf.training.recipe import Recipe, get_recipe
from resnet_xf.training.runs import dataset_of, default_recipe


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """How well a network does on the test images of a data set: mean cross entropy, and accuracy in 0…1."""

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
    """A class that an image may show: its number, its name (the number's digits if it has none), its probability."""

    label: int
    name: str
    probability: float


@dataclass(frozen=True, eq=False)
class _Trained:
    """A network and its weights; and the run that made them, as far as it is known."""

    planned: Plan
    weights: Weights
    header: Header | None


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
    """Loss and accuracy of a network on a data set's test images.

    Args:
        source: a run's folder, or a checkpoint in any format that :func:`resnet_xf.convert` reads.
        dataset: what :func:`resnet_xf.data.load_dataset` takes; if None, the run's.
        recipe: how images become numbers; if None the run's, or for other checkpoints the data set's.
        network: the spec of a checkpoint that is no run's; found by names and shapes if None.
        backend: as in :func:`resnet_xf.train`.
        device: as in :func:`resnet_xf.train`.
        data_dir: as in :func:`resnet_xf.train`.
        batch_size: images at a time; the recipe's if None.
        callback: told after every batch how many images are done, and of how many.

    Raises:
        ResNetXFError: of the kind of what is wrong.
    """
    trained = _read(source, network)
    if trained.header is not None:
        data = dataset_of(trained.header, dataset, data_dir)
    elif dataset is None:
        raise DataError(f"{source}: is no run, so a data set must be named (--dataset)")
    else:
        data = load_dataset(dataset, data_dir) if isinstance(dataset, str) else dataset
    check_fit(trained.planned, data)
    header = _header(trained, data, recipe)
    learner = _learner(trained, header, backend, device)
    size = header.recipe.batch_size if batch_size is None else batch_size
    transform, classes = transform_of(header, trained.planned), trained.planned.spec.num_classes
    began = time.perf_counter()
    done = 0

    def tell() -> bool:
        nonlocal done
        done = min(done + size, len(data.test))
        if callback is not None:
            callback(done, len(data.test))
        return False

    found = evaluate_split(learner, data.test, transform, size, classes, stopped=tell)
    assert found is not None  # nothing asks it to stop
    loss, accuracy = found
    return Evaluation(
        network=trained.planned.spec.name,
        dataset=data.name,
        images=len(data.test),
        image_size=transform.size,
        loss=loss,
        accuracy=accuracy,
        images_per_second=len(data.test) / (time.perf_counter() - began),
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
    """The likeliest classes of each image file, the likeliest first.

    Args:
        source: a run's folder, or a checkpoint in any format that :func:`resnet_xf.convert` reads.
        images: files.
        top: how many classes.
        recipe: how images become numbers; if None the run's, or for other checkpoints ``imagenet``.
        network: as in :func:`evaluate`.
        backend: as in :func:`evaluate`.
        device: as in :func:`evaluate`.

    Raises:
        ResNetXFError: of the kind of what is wrong.
    """
    if isinstance(images, str | Path):
        raise DataError(f"{images}: give a list of images, even of one")
    if top < 1:
        raise DataError(f"top: expected 1 class or more, got {top}")
    trained = _read(source, network)
    header = _header(trained, None, recipe)
    transform = transform_of(header, trained.planned)
    numbers = [transform.one(read_image(path)) for path in images]
    learner = _learner(trained, header, backend, device)
    return [_best(learner.outputs(one)[0].astype(np.float64), header.classes, top) for one in numbers]


def _best(outputs: np.ndarray[tuple[int], np.dtype[np.float64]], classes: Sequence[str], top: int) -> list[Guess]:
    likelihood = np.exp(outputs - outputs.max())
    likelihood /= likelihood.sum()
    best = np.argsort(-likelihood, kind="stable")[:top].tolist()
    return [Guess(n, classes[n] if n < len(classes) else str(n), float(likelihood[n])) for n in best]


def _read(source: str | Path, network: str | None) -> _Trained:
    """A run's last checkpoint, or any other checkpoint."""
    path = Path(source)
    if path.is_dir() or (path.suffix == ".safetensors" and path.is_file() and RUN_KEY in read_arrays(path)[1]):
        checkpoint = load_checkpoint(path)
        return _Trained(plan(checkpoint.spec), checkpoint.weights, checkpoint.header)
    found = identify(read_checkpoint(path), plan(network).spec if network else None)
    return _Trained(found.plan, found.weights, None)


def _header(trained: _Trained, data: Dataset | None, recipe: Recipe | str | Path | None) -> Header:
    """How images are to become numbers: the run's way, unless another recipe is named."""
    if recipe is None and trained.header is not None:
        return trained.header
    recipe = recipe or default_recipe(data.name if data else "")
    recipe = get_recipe(recipe)
    mean, std = recipe.augmentation.mean, recipe.augmentation.std
    if mean is None or std is None:
        if data is None:
            raise DataError(
                f"recipe {recipe.name}: takes mean and std from a data set, and there is none; name another"
            )
        mean, std = pixel_statistics(data.train, data.channels)
    classes = data.classes if data else trained.header.classes if trained.header else ()
    return Header(
        recipe=recipe,
        backend="",
        dataset=data.name if data else "",
        train_images=0,
        train_digest="",
        classes=classes,
        mean=mean,
        std=std,
    )


def _learner(trained: _Trained, header: Header, backend: str | None, device: str) -> Learner:
    """In the precision of the weights: a network trained in float16 on a GPU can be looked at anywhere."""
    exact = msgspec.structs.replace(header.recipe, precision=header.recipe.dtype)
    learner = require(get_backend(backend), Trains).learner(task_of(trained.planned, exact, device))
    learner.load(trained.weights, {})
    return learner
