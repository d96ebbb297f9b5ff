"""Which of several networks a checkpoint is, by outputs that its owner still has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from math import sqrt
from pathlib import Path

import msgspec
import numpy as np

from resnet_xf.architecture.measures import EPSILON, relative_error
from resnet_xf.architecture.nodes import output_shapes
from resnet_xf.architecture.plan import Plan, plan
from resnet_xf.architecture.spec import ResNetSpec, Spec
from resnet_xf.architecture.weights import Array, all_weight_shapes
from resnet_xf.architecture.zoo import with_output_stride
from resnet_xf.backend.registry import build, get_backend
from resnet_xf.errors import DataError, ShapeError, SpecError, WeightsError
from resnet_xf.formats.assume import EPS, assumption
from resnet_xf.formats.identify import Identity, twins
from resnet_xf.support.files import open_regular, reading

CLEARLY = 10
"""How many times nearer than any other candidate the right network must be."""

BOUND = sqrt(EPSILON["float32"])
"""The largest error of float32 outputs that agree: half of the digits."""


def read_npy(path: str | Path, axes: int) -> Array:
    """Return the array of numbers in a ``.npy`` file. Nothing is unpickled.

    Raises:
        DataError: if it cannot be read, or has another number of axes.
    """
    with reading(path, DataError, "a .npy file"), open_regular(path) as file:
        array: Array = np.load(file, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise DataError("is an .npz archive; expected a .npy file, which numpy.save writes")
        if array.ndim != axes or array.dtype.kind != "f" or not np.isfinite(array).all():
            expected = "(N, C, H, W)" if axes == 4 else "(N, classes)"
            raise DataError(f"holds {array.dtype} values of shape {array.shape}; expected finite floats {expected}")
    return array


def settled(identity: Identity, images: Array, expected: Array) -> Identity:
    """Return the identity with the candidate that gives the expected outputs.

    Args:
        identity: of a file whose network is assumed or given.
        images: ``(N, C, H, W)``, as the original network took them.
        expected: its outputs for them, ``(N, classes)``, before any softmax.

    Raises:
        WeightsError: if no candidate gives these outputs, or two do.
        DataError: if images and outputs do not fit each other or the network.
    """
    shape = (len(images), identity.plan.outputs)
    if expected.shape != shape:
        raise DataError(f"outputs: expected the shape {shape} for {len(images)} images, got {expected.shape}")
    backend = get_backend(None)
    errors: list[tuple[float, Plan]] = []
    for candidate in _candidates(identity):
        try:
            output_shapes(candidate.root, images.shape)
        except ShapeError as error:
            raise DataError(f"images: {candidate.spec.name} cannot take them: {error}") from None
        network = build(candidate.root, backend, weights=identity.weights, dtype="float64")
        errors.append((relative_error(backend.forward(network, images), expected), candidate))
    errors.sort(key=lambda one: one[0])
    (least, best), others = errors[0], [one for one in errors[1:] if one[1].root != errors[0][1].root]
    if not least <= BOUND:
        raise WeightsError(
            f"no network with these names and shapes gives the expected outputs; the nearest, {assumption(best.spec)}, "
            f"is off by {least:.1e} of the largest; give images as the network took them and outputs before any "
            "softmax, or name the network with --spec"
        )
    if others and others[0][0] <= CLEARLY * least:
        raise WeightsError(
            f"the expected outputs do not tell {assumption(best.spec)} (off by {least:.1e}) from "
            f"{assumption(others[0][1].spec)} ({others[0][0]:.1e}); give more or other images"
        )
    note = f"by the expected outputs it is {assumption(best.spec)}: off by {least:.1e} of the largest"
    if others:
        note += f"; the next, {assumption(others[0][1].spec)}, by {others[0][0]:.1e}"
    return replace(identity, plan=best, guessed=False, others=(), notes=(*identity.notes, note))


def _candidates(identity: Identity) -> Iterator[Plan]:
    """Yield the network and all others with its names and shapes, with each usual eps."""
    base = identity.plan.spec
    yield identity.plan
    if not isinstance(base, ResNetSpec):
        return
    specs: list[Spec] = [base, *twins(identity.plan)]
    for stride in (16, 8):
        with suppress(SpecError, ShapeError):
            specs.append(with_output_stride(base, stride))
    shapes, seen = all_weight_shapes(identity.plan), [identity.plan.root]
    for spec in specs:
        for eps in dict.fromkeys((base.norm_eps, *EPS)):
            candidate = plan(msgspec.structs.replace(spec, norm_eps=eps))  # type: ignore[type-var]
            if candidate.root not in seen and all_weight_shapes(candidate) == shapes:
                seen.append(candidate.root)
                yield candidate
