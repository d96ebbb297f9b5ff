"""Use a trained network: measure its accuracy on a data set, or classify images."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from resnet_xf.architecture.plan import Plan, plan, without_softmax
from resnet_xf.architecture.weights import RUN_KEY, Array, Weights, read_arrays
from resnet_xf.backend.contract import Trains, require
from resnet_xf.backend.learner import Learner
from resnet_xf.backend.registry import get_backend
from resnet_xf.data import TEST_CROPS, Dataset, load_dataset
from resnet_xf.data.images import read_file
from resnet_xf.data.lists import synset
from resnet_xf.errors import DataError, WeightsError, refuse
from resnet_xf.formats.description import UNTRAINED, Description, Preprocessing, describe_run
from resnet_xf.formats.files import read_checkpoint
from resnet_xf.formats.identify import identify
from resnet_xf.support.files import list_checkpoints
from resnet_xf.training.checkpoint import Header, load_checkpoint
from resnet_xf.training.evaluation import (
    check_fit,
    evaluate_split,
    images_for,
    normalisation,
    pixels_taken,
    task_of,
    transform_of,
)
from resnet_xf.training.recipe import Recipe, get_recipe
from resnet_xf.training.runs import default_recipe


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """How a network is used.

    Attributes:
        channels: of the network's input.
        preprocessing: how images become input tensors.
        preprocessing_from: where that is known from, in words.
        classes: names of the outputs, in order; empty if they are not known.
        classes_from: where these are known from, in words.
        warnings: what the user should know about the network; one line each.
    """

    channels: int
    preprocessing: Preprocessing
    preprocessing_from: str
    classes: tuple[str, ...]
    classes_from: str
    warnings: tuple[str, ...]


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
    usage: Usage


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
    image_size: tuple[int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    classes: Sequence[str] = (),
    callback: Callable[[int, int], object] | None = None,
) -> Evaluation:
    """Measure loss and accuracy of a network on a data set's test images.

    Where the names of the network's classes are known, labels are compared by name: the data set may have its classes
    in another order, and may lack some.

    Args:
        source: a run's folder, or a checkpoint in any format that :func:`resnet_xf.convert` reads.
        dataset: a data set or a name for :func:`resnet_xf.data.load_dataset`; if None, the run's.
        recipe: sets size, crop and normalisation of the images; if None, the checkpoint's own, or the data set's
            where the checkpoint does not tell.
        network: the spec of a checkpoint that is no run's; if None, it is identified by names and shapes.
        backend: as in :func:`resnet_xf.train`.
        device: as in :func:`resnet_xf.train`.
        data_dir: as in :func:`resnet_xf.train`.
        batch_size: images per batch; if None, the recipe's.
        image_size: height and width of the input, in place of the recipe's or the checkpoint's.
        mean: subtracted from pixels of 0…1, in place of the recipe's or the checkpoint's.
        std: divides them after that; give both or neither.
        classes: names of the network's outputs, in order; if empty, the checkpoint's own.
        callback: called after every batch with the number of images done and of all images.

    Raises:
        ResNetXFError: if an argument is wrong, by the subclass for its kind.
    """
    known = _read(source, network)
    planned, run = known.planned, known.run
    if run is not None and dataset in (None, run.dataset):
        dataset, data_dir = run.dataset, data_dir or run.data_dir
    if dataset is None:
        raise DataError(f"{source}: is no run, so a data set must be named (--dataset)")
    data = load_dataset(dataset, data_dir)
    data = data if run is None else images_for(planned.spec, data)
    names, names_from = _names(known, classes)
    data = relabelled(data, names, planned) if names else data
    check_fit(planned, data, training=False)
    if not names:
        names, names_from = _assumed_names(data, planned), "assumed: the data set's, in its order"
    recipe, view, view_from = _view(known, data, recipe, image_size, mean, std)
    transform = view.transform(planned.spec.in_channels)
    usage = _usage(known, view, view_from, names, names_from)
    learner = _learner(planned, known.weights, recipe, backend, device)
    size = recipe.batch_size if batch_size is None else batch_size
    start, batches = time.perf_counter(), itertools.count(1)

    def report() -> bool:
        if callback is not None:
            callback(min(next(batches) * size, len(data.test)), len(data.test))
        return False

    means = evaluate_split(learner, data.test, transform, size, stopped=report)
    assert means is not None  # it is never stopped
    check_finite(source, means[0])
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
        usage=usage,
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
    image_size: tuple[int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    classes: Sequence[str] = (),
    callback: Callable[[Usage], object] | None = None,
) -> list[list[Guess]]:
    """Return the most likely classes of each image file, the likeliest first.

    Args:
        source: a run's folder, or a checkpoint in any format that :func:`resnet_xf.convert` reads.
        images: paths of image files.
        top: number of classes for each image.
        recipe: as in :func:`evaluate`; if None, the checkpoint's own, or ``imagenet`` where it does not tell.
        network: as in :func:`evaluate`.
        backend: as in :func:`resnet_xf.train`.
        device: as in :func:`resnet_xf.train`.
        image_size: as in :func:`evaluate`.
        mean: as in :func:`evaluate`.
        std: as in :func:`evaluate`.
        classes: as in :func:`evaluate`.
        callback: called once, with the preprocessing and the classes that are used.

    Raises:
        ResNetXFError: if an argument is wrong, by the subclass for its kind.
    """
    shown = prepare(source, images, top, recipe, network, image_size, mean, std, classes)
    if callback is not None:
        callback(shown.usage)
    learner = _learner(shown.known.planned, shown.known.weights, shown.recipe, backend, device)
    outputs = [learner.outputs(batch)[0] for batch in shown.inputs]
    check_finite(source, outputs)
    softmax = not shown.known.planned.gives_probabilities
    return [most_likely(one, shown.usage.classes, top, softmax=softmax) for one in outputs]


@dataclass(frozen=True, eq=False)
class Prepared:
    """Images as a network takes them: a batch of one for each, and how they were made."""

    inputs: list[Array]
    usage: Usage
    known: _Known
    recipe: Recipe


def prepare(
    source: str | Path,
    images: Sequence[str | Path],
    top: int = 5,
    recipe: Recipe | str | Path | None = None,
    network: str | None = None,
    image_size: tuple[int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    classes: Sequence[str] = (),
) -> Prepared:
    """Read images as the network of a checkpoint takes them. Arguments and errors are those of :func:`predict`."""
    if isinstance(images, str | Path):
        raise DataError(f"{images}: give a list of images, even of one")
    if top < 1:
        raise DataError(f"top: expected 1 class or more, got {top}")
    known = _read(source, network)
    recipe, view, view_from = _view(known, None, recipe, image_size, mean, std)
    transform = view.transform(known.planned.spec.in_channels)
    usage = _usage(known, view, view_from, *_names(known, classes))
    return Prepared([read_file(path, transform.one) for path in images], usage, known, recipe)


def most_likely(outputs: Array, classes: Sequence[str], top: int = 5, *, softmax: bool = True) -> list[Guess]:
    """Return the most likely classes for one image's outputs, the likeliest first.

    Set ``softmax`` to False if the outputs are probabilities already.
    """
    probability = outputs.astype(np.float64)
    if softmax:
        probability = np.exp(probability - probability.max())
        probability /= probability.sum()
    best = np.argsort(-probability, kind="stable")[:top].tolist()
    names = (classes[label] if label < len(classes) else str(label) for label in best)
    return [*map(Guess, best, names, probability[best].tolist())]


def check_finite(source: str | Path, values: list[Array] | float) -> None:
    """Raise WeightsError if outputs, or their mean loss, are not finite."""
    if not np.isfinite(values).all():
        causes = "too large values in its weights, or wrong mean and std of the images"
        raise WeightsError(f"{source}: its outputs are not finite; causes are {causes} (--mean, --std)")


@dataclass(frozen=True, eq=False)
class _Known:
    """A checkpoint: its network, its weights and its description; and the header of its run, if it is a run's."""

    source: str
    planned: Plan
    weights: Weights
    description: Description
    run: Header | None = None
    warnings: tuple[str, ...] = ()


def _read(source: str | Path, network: str | None) -> _Known:
    """Read a checkpoint. Raises WeightsError if its description does not fit its network."""
    path = Path(source)
    in_run = path.suffix == ".safetensors" and path.is_file() and RUN_KEY in read_arrays(path)[1]
    if in_run or (path.is_dir() and list_checkpoints(path)):
        checkpoint = load_checkpoint(path)
        description = describe_run(checkpoint.header.to_complete_json(), checkpoint.spec)
        return _Known(str(source), plan(checkpoint.spec), checkpoint.weights, description, checkpoint.header)
    file = read_checkpoint(path)
    identity = identify(file, network)
    description = file.description or Description()
    description.check(identity.plan.spec, source)
    if not identity.plan.spec.num_classes:
        raise WeightsError(f"{source}: has no head, so it has no classes; train one (train --weights FILE --new-head)")
    assumed = (f"{source}: assumed to be {identity.assumed}; --spec names another",) if identity.assumed else ()
    planned = without_softmax(identity.plan)  # the values before it serve as those of any other network
    return _Known(str(source), planned, identity.weights, description, warnings=assumed)


def _names(known: _Known, classes: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Return the names of the network's outputs and where they are from: the ones given, or the checkpoint's own."""
    spec = known.planned.spec
    if not classes:
        own = known.description.classes
        return own, "the checkpoint's" if own else "unknown; shown by their numbers from 0"
    if len(classes) != spec.num_classes:
        raise DataError(
            f"classes: expected a name for each of the {spec.num_classes} classes of {spec.name}, got {len(classes)} "
            f"({classes[0]}, …); name all, in the order of the network's outputs"
        )
    return tuple(classes), "given"


def relabelled(data: Dataset, names: tuple[str, ...], planned: Plan) -> Dataset:
    """Return a data set with the labels of a network whose outputs have these names; WordNet numbers suffice.

    Raises:
        DataError: if the data set has a class that the network has not, or one that it has twice.
    """
    if data.classes == names:
        return data
    network, keys = planned.spec.name, [*map(synset, names)]
    for title in data.classes:
        if keys.count(synset(title)) != 1:
            has = f"two classes {title}" if synset(title) in keys else "no class of this name"
            raise DataError(
                f"{data.name}: has the class {title}, and {network} has {has} ({', '.join(names[:10])}, …); "
                "rename the class, or name the network's classes in their order (--classes)"
            )
    labels = np.array([keys.index(synset(title)) for title in data.classes], np.int64)
    halves = (dataclasses.replace(half, labels=labels[half.labels]) for half in (data.train, data.test))  # type: ignore[type-var]
    return Dataset(data.name, data.channels, names, *halves)


def _assumed_names(data: Dataset, planned: Plan) -> tuple[str, ...]:
    """Return the data set's classes as the network's. Raises DataError if their numbers differ."""
    spec = planned.spec
    if len(data.classes) != spec.num_classes:
        raise DataError(
            f"{data.name}: has {len(data.classes)} classes and {spec.name} has {spec.num_classes}, whose names are not "
            f"known, so labels could be shifted; name all {spec.num_classes} in the network's order (--classes)"
        )
    return data.classes


def _view(
    known: _Known,
    data: Dataset | None,
    recipe: Recipe | str | Path | None,
    image_size: tuple[int, int] | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
) -> tuple[Recipe, Preprocessing, str]:
    """Return the recipe that was asked for, else the checkpoint's or the data set's; the preprocessing; its origin."""
    planned, own = known.planned, known.description.preprocessing
    refuse(DataError, {"mean: give mean and std both or neither": (mean is None) != (std is None)})
    default = default_recipe(data.name if data else "")
    chosen = known.run.recipe if known.run and recipe is None else get_recipe(recipe or default)
    if own is not None and recipe is None:
        view, origin = own, "the checkpoint's"
    else:
        top = None if recipe else pixels_taken(planned)
        where = (mean, std) if mean and std else ((0.0,), (1.0,)) if top else normalisation(chosen, data)
        shown = transform_of(planned, chosen, *where)
        view = Preprocessing(
            image_size=shown.size,
            crop=TEST_CROPS[shown.crop],
            mean=shown.mean,
            std=shown.std,
            interpolation=shown.interpolation,
            scale=top or 1,
        )
        origin = f"recipe {chosen.name}" if recipe else f"assumed: recipe {chosen.name}; the checkpoint does not tell"
        if top:
            origin += f"; the network has its own mean and scale, for pixels of 0 to {top}"
    given: dict[str, Any] = {} if image_size is None else {"image_size": tuple(image_size)}
    if mean is not None and std is not None:
        given |= {"mean": tuple(mean), "std": tuple(std), "scale": 1}
    if given:
        view = msgspec.structs.replace(view, **given)
        origin = f"{', '.join(key for key in given if key != 'scale')} given; otherwise {origin}"
    return chosen, view, origin


def _usage(known: _Known, view: Preprocessing, view_from: str, names: tuple[str, ...], names_from: str) -> Usage:
    warnings = known.warnings + (() if known.description.trained else (f"{known.source}: {UNTRAINED}",))
    return Usage(
        channels=known.planned.spec.in_channels,
        preprocessing=view,
        preprocessing_from=view_from,
        classes=names,
        classes_from=names_from,
        warnings=warnings,
    )


def _learner(planned: Plan, weights: Weights, recipe: Recipe, backend: str | None, device: str) -> Learner:
    """Return a learner in float32 or float64, as the recipe, so what was trained in float16 runs on a CPU too."""
    exact = msgspec.structs.replace(recipe, precision=recipe.dtype)
    learner = require(get_backend(backend), Trains).learner(task_of(planned, exact, device))
    learner.load(weights, {})
    return learner
