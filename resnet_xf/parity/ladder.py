"""The ladder: the rungs in order, cheapest first, and what it takes to climb them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnet_xf.backend import Backend, get_backend
from resnet_xf.data import sample_images
from resnet_xf.errors import BackendError, DataError, WeightsError, one_line
from resnet_xf.formats.files import read_checkpoint
from resnet_xf.formats.identify import identify
from resnet_xf.parity.forward import determinism, forward_float32, forward_float64
from resnet_xf.parity.report import Report, RungResult, environment
from resnet_xf.parity.roundtrip import round_trip
from resnet_xf.parity.shapes import shapes
from resnet_xf.parity.subject import Finding, Subject
from resnet_xf.plan import Plan, plan
from resnet_xf.spec import ResNetSpec
from resnet_xf.trace import trace
from resnet_xf.weights import (
    Array,
    Weights,
    all_weight_shapes,
    check_weights,
    draw_weights,
    plain,
    require_memory,
    without_counters,
)


@dataclass(frozen=True, slots=True)
class Rung:
    """A kind of comparison: its name, what its value measures, and the function that makes it."""

    name: str
    metric: str
    climb: Callable[[Subject], Finding]


LADDER = (
    Rung("shapes", "rows that differ", shapes),
    Rung("weights", "arrays that change", round_trip),
    Rung("determinism", "backends that vary", determinism),
    Rung("forward float64", "relative error", forward_float64),
    Rung("forward float32", "relative error", forward_float32),
)


def parity(
    spec: Plan | ResNetSpec | str,
    backends: str | Sequence[str | Backend] = ("torch", "mxnet"),
    *,
    image_size: tuple[int, int] | None = None,
    images: Array | str | Path | None = None,
    weights: Mapping[str, Array] | str | Path | None = None,
    seed: int = 0,
    on_rung: Callable[[int, str], None] = lambda number, name: None,
) -> Report:
    """Compare the networks that backends build from one spec, rung by rung, up to the first that fails.

    Args:
        spec: a plan, a spec, or the name of one.
        backends: at least two, by name or as objects; one text may hold several names and commas.
        image_size: height and width; the spec's own if None.
        images: an array ``(N, C, H, W)``, or a folder of images; else scikit-learn's two photographs, or its
            handwritten digits for a network of one channel (:func:`resnet_xf.data.sample_images`).
        weights: arrays by name, or a checkpoint of any format that :func:`resnet_xf.convert` reads; if None, drawn from
            ``seed`` with the scheme ``probe``, under which no scale is 1 and no shift or running mean 0, so that
            every number matters.
        seed: for that draw.
        on_rung: called with the number and name of each rung before it is climbed.

    Raises:
        BackendError: if fewer than two backends are named, or one cannot be used.
        SpecError, ShapeError, WeightsError, DataError: for input that makes no network.
    """
    planned = spec if isinstance(spec, Plan) else plan(spec)
    named = backends.split(",") if isinstance(backends, str) else backends
    chosen = tuple(get_backend(b.strip()) if isinstance(b, str) else b for b in named)
    if len({backend.name for backend in chosen}) < max(2, len(chosen)):
        raise BackendError(f"parity compares two or more different backends, got {', '.join(b.name for b in chosen)}")
    require_memory(planned)
    planned, arrays, origin = _weights(planned, weights, seed)
    pixels, shown = _images(planned, images, image_size)
    trace(planned, pixels.shape)  # refuses images that do not fit, by the layer's name
    probe = None if weights is None else Subject(planned, draw_weights(planned, seed, "probe"), pixels, chosen)
    subject = Subject(planned, arrays, pixels, chosen, probe)
    return Report(
        spec=planned.spec,
        backends={backend.name: backend.version() for backend in chosen},
        images=shown,
        input_shape=pixels.shape,
        weights=origin,
        environment=environment(),
        rungs=_climb(subject, on_rung),
    )


def _images(planned: Plan, given: Array | str | Path | None, size: tuple[int, int] | None) -> tuple[Array, str]:
    """The images to show to every network, float32, and a word on where they came from."""
    channels = planned.spec.in_channels
    if given is None or isinstance(given, str | Path):
        shown = "scikit-learn's digits" if channels == 1 else "scikit-learn's photographs"
        shown = shown if given is None else f"the images of {given}"
        return sample_images(channels, size or planned.spec.image_size, given), shown
    if not np.isfinite(given).all():
        raise DataError("images: hold NaN or infinite numbers, which compare with nothing")
    return plain(given, "float32"), "images given as an array"


def _weights(planned: Plan, given: Mapping[str, Array] | str | Path | None, seed: int) -> tuple[Plan, Weights, str]:
    """The arrays to put into every network, float32, a word on where they came from, and the network they are of."""
    if given is None:
        return planned, draw_weights(planned, seed, "probe"), f"drawn as probe from seed {seed}"
    origin = "given as arrays"
    if isinstance(given, str | Path):
        origin = f"from {given}"
        found = identify(read_checkpoint(given), planned.spec)
        planned, given = found.plan, found.weights  # with the file's number of classes, and its eps if it tells one
    given = without_counters(given)
    check_weights(given, all_weight_shapes(planned), "float64")
    for name, array in given.items():
        if not np.isfinite(array).all():
            raise WeightsError(f"{name}: holds NaN or infinite numbers, which compare with nothing")
        if name.endswith("running_var") and (array < 0).any():
            raise WeightsError(f"{name}: holds negative numbers, and a variance has none")
    if any(array.dtype == np.float64 for array in given.values()):
        origin += ", rounded to float32"
    return planned, {name: plain(array, "float32") for name, array in given.items()}, origin


def _climb(subject: Subject, on_rung: Callable[[int, str], None]) -> tuple[RungResult, ...]:
    """Climb until a rung fails; the rest are skipped, since they could only repeat it."""
    results: list[RungResult] = []
    failed = False
    for number, rung in enumerate(LADDER, start=1):
        if failed:
            results.append(RungResult(number=number, name=rung.name, metric=rung.metric, status="skip"))
            continue
        on_rung(number, rung.name)
        start = time.perf_counter()
        try:
            finding = rung.climb(subject)
        except MemoryError:
            raise
        except Exception as error:  # a network that breaks is a finding, whichever framework's words it uses
            finding = Finding(float("inf"), 0, f"it does not run: {one_line(error)}", where="the whole network")
        failed = not finding.holds
        results.append(
            RungResult(
                number=number,
                name=rung.name,
                status="fail" if failed else "pass",
                metric=rung.metric,
                value=finding.value,
                bound=finding.bound,
                where=finding.where,
                detail=finding.detail,
                seconds=round(time.perf_counter() - start, 3),
            )
        )
    return tuple(results)


def assert_parity(
    spec: Plan | ResNetSpec | str,
    backends: str | Sequence[str | Backend] = ("torch", "mxnet"),
    *,
    image_size: tuple[int, int] | None = None,
    images: Array | str | Path | None = None,
    weights: Mapping[str, Array] | str | Path | None = None,
    seed: int = 0,
) -> Report:
    """For test suites: :func:`parity`, with the same arguments, raising unless every rung holds.

    Raises:
        AssertionError: its message names the rung, the first layer that diverges, and by how much.
    """
    report = parity(spec, backends, image_size=image_size, images=images, weights=weights, seed=seed)
    if not report.holds:
        raise AssertionError(report.verdict())
    return report
