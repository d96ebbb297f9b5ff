"""Reads what a user gives to a parity run: a network, its weights, its images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from resnet_xf.architecture.plan import Plan, plan
from resnet_xf.architecture.spec import Spec
from resnet_xf.architecture.trace import trace
from resnet_xf.architecture.weights import (
    Array,
    Weights,
    cast_weights,
    draw_weights,
    fitting_weights,
    plain,
    require_memory,
)
from resnet_xf.data import sample_images
from resnet_xf.errors import DataError, WeightsError, escaped
from resnet_xf.formats.convert import identify_verified
from resnet_xf.formats.files import is_checkpoint
from resnet_xf.ladder.short_run import curve_run, in_units, lockstep_run
from resnet_xf.ladder.subject import Subject, outline_of
from resnet_xf.support import environment


def subject_of(
    spec: Plan | Spec | str,
    image_size: tuple[int, int] | None,
    images: Array | str | Path | None,
    weights: Mapping[str, Array] | str | Path | None,
    seed: int,
    max_memory: int | None,
    prefix: str | None = None,
) -> tuple[Subject, str, str]:
    """Return the subject (all inputs) of a parity run, and two texts: where its weights and its images came from.

    Args:
        spec: a plan, a spec, the name or the path of one, or the path of a checkpoint.
        image_size: height and width; the spec's own if None.
        images: an array ``(N, C, H, W)``, or a folder of images; photographs or digits if None.
        weights: arrays by name, or the path of a checkpoint; drawn from ``seed`` if None.
        seed: the seed of drawn weights, and of the training runs.
        max_memory: see :func:`memory_limit`.
        prefix: the prefix of the network's names in the checkpoint; None if the file holds only this network.

    Raises:
        SpecError, ShapeError, WeightsError, DataError: if these do not make a network, or do not fit it.
    """
    drawn = weights is None
    if isinstance(spec, str) and is_checkpoint(spec):
        if weights is not None:
            raise WeightsError(f"{spec}: is a checkpoint itself, so leave out --weights; or name its spec in its place")
        planned, arrays, origin = _read(spec, None, prefix)
        drawn = False
    else:
        planned = plan(spec)
        require_memory(planned)
        if weights is not None:
            planned, arrays, origin = weights_of(planned, weights, prefix)
    pixels, images_origin = _images(planned, images, image_size)
    trace(planned, pixels.shape)  # refuses images that do not fit, by the layer's name
    if drawn:  # last, because it takes the longest
        arrays, origin = draw_weights(planned, seed, "probe"), f"drawn as probe from seed {seed}"
    subject = Subject(
        outline=outline_of(planned, pixels.shape),
        weights=arrays,
        images=pixels,
        probe=None if drawn else draw_weights(planned, seed, "probe"),
        lockstep_run=lockstep_run(planned, seed),
        curve_start=lambda: draw_weights(planned, seed) if drawn else arrays,
        curve_run=curve_run(planned, seed),
        max_memory=memory_limit(max_memory),
    )
    return subject, escaped(origin), escaped(images_origin)


def memory_limit(max_memory: int | None) -> int:
    """Return ``max_memory`` (bytes), or if it is None, 1 GiB, or a quarter of the memory of a small machine."""
    if max_memory is not None:
        return max_memory
    available = environment.memory()
    return min(2**30, available.total // 4) if available else 2**30


def _images(planned: Plan, images: Array | str | Path | None, size: tuple[int, int] | None) -> tuple[Array, str]:
    """Return images as float32 ``(N, C, H, W)``, and a text that says where they came from.

    ``images``: see :func:`subject_of`. ``size``: height and width, unless images are an array; the spec's own if None.
    """
    channels = planned.spec.in_channels
    if images is None or isinstance(images, str | Path):
        origin = "scikit-learn's digits" if channels == 1 else "scikit-learn's photographs"
        origin = origin if images is None else f"the images of {images}"
        shown = sample_images(channels, size or planned.spec.image_size, images)
        return in_units(shown, planned.input_scale), origin
    return pixels_of(images), "images given as an array"


def pixels_of(images: Array) -> Array:
    """Return images as float32. Raises DataError if a value is not finite."""
    if not np.isfinite(images).all():
        raise DataError("images: hold NaN or infinite values, which compare with nothing")
    return plain(images, "float32")


def weights_of(
    planned: Plan, weights: Mapping[str, Array] | str | Path, prefix: str | None
) -> tuple[Plan, Weights, str]:
    """Return a plan, its float32 weights by name, and a text that says where these came from.

    ``weights``: arrays, or a checkpoint. A checkpoint's plan replaces ``planned``, because it may have another eps or
    number of classes. ``prefix``: see :func:`subject_of`.

    Raises:
        WeightsError: if the weights do not fit the plan or are not finite.
    """
    if isinstance(weights, str | Path):
        return _read(weights, planned.spec, prefix)
    arrays, rounded = float32_of(fitting_weights(weights, planned, "float64"))
    return planned, arrays, "given as arrays" + rounded


def _read(path: str | Path, spec: Spec | None, prefix: str | None) -> tuple[Plan, Weights, str]:
    """Return the plan of a checkpoint, its float32 weights, and a text that says where they came from.

    ``spec``: the network that it should be; None if only the checkpoint tells. ``prefix``: see :func:`subject_of`.
    """
    found, how = identify_verified(path, spec, prefix)
    arrays, rounded = float32_of(found.weights)
    return found.plan, arrays, f"from {path}{rounded}{how}"


def float32_of(weights: Mapping[str, Array]) -> tuple[Weights, str]:
    """Return weights as float32, and the text ``, rounded to float32`` if any was float64, else an empty one.

    Raises:
        WeightsError: if a value is not finite or too large for float32, or a variance is negative.
    """
    for name, array in weights.items():
        if not np.isfinite(array).all():
            raise WeightsError(f"{name}: holds NaN or infinite values, which compare with nothing")
        if name.endswith("running_var") and (array < 0).any():
            raise WeightsError(f"{name}: holds negative values, and a variance has none")
    rounded = ", rounded to float32" if any(array.dtype == np.float64 for array in weights.values()) else ""
    return cast_weights(weights, "float32"), rounded
