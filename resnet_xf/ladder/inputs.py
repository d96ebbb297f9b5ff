"""What a person gives to a parity run, made into what is compared: a network, its weights, its images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from resnet_xf.architecture.plan import Plan, plan
from resnet_xf.architecture.spec import ResNetSpec
from resnet_xf.architecture.trace import trace
from resnet_xf.architecture.weights import (
    Array,
    Weights,
    all_weight_shapes,
    check_weights,
    draw_weights,
    plain,
    require_memory,
    without_counters,
)
from resnet_xf.data import sample_images
from resnet_xf.errors import DataError, WeightsError
from resnet_xf.formats.convert import identify_verified
from resnet_xf.formats.files import SUFFIXES
from resnet_xf.ladder.lessons import course_for, lessons_for
from resnet_xf.ladder.subject import Subject, outline_of
from resnet_xf.support import environment
from resnet_xf.support.files import list_checkpoints


def subject_of(
    spec: Plan | ResNetSpec | str,
    image_size: tuple[int, int] | None,
    images: Array | str | Path | None,
    weights: Mapping[str, Array] | str | Path | None,
    seed: int,
    max_memory: int | None,
) -> tuple[Subject, str, str]:
    """The subject of a run, and a word each on where its weights and its images came from.

    Raises:
        SpecError, ShapeError, WeightsError, DataError: for input that makes no network.
    """
    if isinstance(spec, str) and is_checkpoint(spec):
        if weights is not None:
            raise WeightsError(f"{spec}: is a checkpoint itself, so leave out --weights; or name its spec in its place")
        planned, arrays, origin = _read(spec, None)
    else:
        planned = plan(spec)
        require_memory(planned)
        planned, arrays, origin = weights_of(planned, weights, seed)
    pixels, shown = _images(planned, images, image_size)
    trace(planned, pixels.shape)  # refuses images that do not fit, by the layer's name
    subject = Subject(
        outline=outline_of(planned, pixels.shape),
        weights=arrays,
        images=pixels,
        probe=None if weights is None else draw_weights(planned, seed, "probe"),
        lessons=lessons_for(planned, seed),
        start=draw_weights(planned, seed) if weights is None else arrays,
        course=course_for(planned, seed),
        max_memory=memory(max_memory),
    )
    return subject, origin, shown


def memory(asked: int | None) -> int:
    """Bytes that captured layers may take; 1 GiB where nobody asks, or a quarter of a small machine's."""
    if asked is not None:
        return asked
    available = environment.memory()
    return min(2**30, available.total // 4) if available else 2**30


def _images(planned: Plan, given: Array | str | Path | None, size: tuple[int, int] | None) -> tuple[Array, str]:
    """The images to show to every network, float32, and a word on where they came from."""
    channels = planned.spec.in_channels
    if given is None or isinstance(given, str | Path):
        shown = "scikit-learn's digits" if channels == 1 else "scikit-learn's photographs"
        shown = shown if given is None else f"the images of {given}"
        return sample_images(channels, size or planned.spec.image_size, given), shown
    return pixels_of(given), "images given as an array"


def pixels_of(given: Array) -> Array:
    """An array of images as float32; raises DataError if it holds what compares with nothing."""
    if not np.isfinite(given).all():
        raise DataError("images: hold NaN or infinite numbers, which compare with nothing")
    return plain(given, "float32")


def weights_of(planned: Plan, given: Mapping[str, Array] | str | Path | None, seed: int) -> tuple[Plan, Weights, str]:
    """The arrays to put into every network, float32, a word on where they came from, and the network they are of."""
    if given is None:
        return planned, draw_weights(planned, seed, "probe"), f"drawn as probe from seed {seed}"
    if isinstance(given, str | Path):
        return _read(given, planned.spec)
    given = without_counters(given)
    check_weights(given, all_weight_shapes(planned), "float64")
    arrays, rounded = float32_of(given)
    return planned, arrays, "given as arrays" + rounded


def _read(path: str | Path, spec: ResNetSpec | None) -> tuple[Plan, Weights, str]:
    """The network of a checkpoint, with the file's number of classes and its eps if it tells one, and its arrays."""
    found, how = identify_verified(path, spec)
    arrays, rounded = float32_of(found.weights)
    return found.plan, arrays, f"from {path}{rounded}{how}"


def is_checkpoint(path: str) -> bool:
    """Whether a name is that of a checkpoint, or of a run's folder, and not of a spec."""
    return Path(path).suffix in SUFFIXES or bool(list_checkpoints(path))


def float32_of(given: Mapping[str, Array]) -> tuple[Weights, str]:
    """Arrays as float32, and a word on it if that rounds them; raises WeightsError if they compare with nothing."""
    for name, array in given.items():
        if not np.isfinite(array).all():
            raise WeightsError(f"{name}: holds NaN or infinite numbers, which compare with nothing")
        if name.endswith("running_var") and (array < 0).any():
            raise WeightsError(f"{name}: holds negative numbers, and a variance has none")
    rounded = ", rounded to float32" if any(array.dtype == np.float64 for array in given.values()) else ""
    return {name: plain(array, "float32") for name, array in given.items()}, rounded
