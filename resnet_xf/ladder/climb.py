"""The ladder: the rungs in order, cheapest first, and what it takes to climb them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from resnet_xf.architecture.plan import Plan
from resnet_xf.architecture.spec import ResNetSpec
from resnet_xf.architecture.weights import Array, digest
from resnet_xf.backend.contract import Backend
from resnet_xf.backend.registry import get_backend
from resnet_xf.errors import (
    BackendError,
    CheckpointError,
    DataError,
    EvidenceError,
    RecipeError,
    ResNetXFError,
    SpecError,
    TrainingStopped,
    one_line,
)
from resnet_xf.ladder.inputs import subject_of
from resnet_xf.ladder.pair.pairs import Pair, pair_of
from resnet_xf.ladder.report.report import LEVELS, Level, Report, RungResult, check_level
from resnet_xf.ladder.rungs.accuracy import Trial, accuracy
from resnet_xf.ladder.rungs.curves import learning_curves
from resnet_xf.ladder.rungs.determinism import determinism
from resnet_xf.ladder.rungs.forward import forward, forward_float64
from resnet_xf.ladder.rungs.gradients import gradients
from resnet_xf.ladder.rungs.layers import layer_by_layer
from resnet_xf.ladder.rungs.lockstep import lockstep
from resnet_xf.ladder.rungs.shapes import shapes
from resnet_xf.ladder.rungs.weights import round_trip
from resnet_xf.ladder.sides.live import Live
from resnet_xf.ladder.sides.side import Side
from resnet_xf.ladder.subject import Finding, Subject
from resnet_xf.support.environment import environment

Tell = Callable[[int, str, float], object]


@dataclass(frozen=True, slots=True)
class Rung:
    """A kind of comparison.

    Attributes:
        number: its place, from 1.
        name: what it compares.
        metric: what its value measures.
        climb: makes the comparison.
        level: the lowest that climbs it.
        needs: the capabilities of a backend that it takes, as :data:`resnet_xf.backend.contract.CAPABILITIES` names
            them. Where a side lacks one, the rung is skipped.
    """

    number: int
    name: str
    metric: str
    climb: Callable[[Subject, Sequence[Side]], Finding]
    level: Level
    needs: tuple[str, ...] = ()


LADDER = (
    Rung(1, "shapes", "rows that differ", shapes, "quick"),
    Rung(2, "weights", "arrays that change", round_trip, "quick"),
    Rung(3, "determinism", "backends that vary", determinism, "quick"),
    Rung(4, "forward float64", "relative error", forward_float64, "quick"),
    Rung(5, "forward float32", "relative error", partial(forward, "float32"), "quick"),
    Rung(6, "layers", "relative error", layer_by_layer, "standard", ("run layers alone",)),
    Rung(7, "gradients", "relative error", gradients, "standard", ("train", "run layers alone")),
    Rung(8, "lock-step", "relative error", lockstep, "standard", ("train",)),
    Rung(9, "learning curves", "distance in nudges", learning_curves, "full", ("train",)),
)

PRECISIONS = ("bfloat16", "float16", "tf32")
"""Those that may be run forwards besides float32 and float64."""

ACCURACY = 10
"""The rung in which processes train, whose complaints are nothing about the networks."""

MENDABLE = (BackendError, CheckpointError, DataError, EvidenceError, RecipeError, TrainingStopped)
"""What is no finding on the networks, but something that a person can mend or has asked for."""


def parity(
    spec: Plan | ResNetSpec | str | Pair,
    backends: str | Sequence[str | Backend] = ("torch", "mxnet"),
    *,
    names: Mapping[str, str] | None = None,
    level: Level = "standard",
    image_size: tuple[int, int] | None = None,
    images: Array | str | Path | None = None,
    weights: Mapping[str, Array] | str | Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    precisions: Sequence[str] = (),
    trial: Trial | None = None,
    max_memory: int | None = None,
    on_rung: Tell = lambda number, name, share: None,
) -> Report:
    """Compare the networks that backends build from one spec, rung by rung, up to the first that fails.

    Or two networks of your own: ``parity((module, block), names={...}, images=array)``, of whichever frameworks, that
    take ``(N, C, H, W)`` and give ``(N, classes)``. All is done with copies, hooks included, in which every parameter
    learns; the networks themselves are not touched. The first is the measure, layer by layer. They bring their own
    weights, which must be the same, and backends; ``images`` must be an array. Lessons are given in images of that
    size. No accuracies are compared, so ``full`` goes up to rung 9. Where training draws at random, as dropout does,
    frameworks cannot be compared beyond ``quick``.

    Args:
        spec: a plan, a spec, or the name of one; or a checkpoint's path, as :func:`resnet_xf.convert` reads it, whose
            network is found by its own words, by the exported network beside it, or else guessed, which ``weights`` in
            the report tells; or a pair of your own networks.
        backends: at least two, by name or as objects; one text may hold several names and commas.
        names: of a pair, the second network's layers by dotted structural name, and for each the first's. Layers of
            equal name need no entry, and those without weights may be left out: they are then not compared by
            themselves. :func:`resnet_xf.suggest_names` makes a proposal.
        level: ``quick``: inference (rungs 1 to 5); ``standard``: layer by layer, gradients and training in lock-step
            too (to 8); ``full``: learning curves and accuracies as well (to 10).
        image_size: height and width; the spec's own if None.
        images: an array ``(N, C, H, W)``, or a folder of images; else scikit-learn's two photographs, or its
            handwritten digits for a network of one channel (:func:`resnet_xf.data.sample_images`).
        weights: arrays by name, or a checkpoint of any format that :func:`resnet_xf.convert` reads; if None, drawn from
            ``seed`` with the scheme ``probe``, under which no scale is 1 and no shift or running mean 0, so that
            every number matters.
        seed: for that draw, and for the order and augmentation of what is trained on.
        device: for every backend that has it: ``cpu``, ``cuda`` or ``cuda:1``; the others stay on the CPU. float32 is
            float32 there: TF32 is off.
        precisions: more of them to run forwards and hold against float64: ``bfloat16``, ``float16``, ``tf32``.
        trial: how accuracies are compared; if None, only on level ``full``, on digits.
        max_memory: bytes that captured layers may take at a time; 1 GiB if None, or a quarter of a small machine's.
        on_rung: called with the number and name of each rung before it is climbed and while it is, and with how much of
            it is done, 0…1.

    Raises:
        BackendError: if fewer than two backends are named, or one cannot be used.
        SpecError, ShapeError, WeightsError, DataError: for input that makes no network.
    """
    if isinstance(spec, tuple):
        if trial is not None:
            raise RecipeError("trial: accuracies are compared of networks from a spec, not of a pair of your own")
        if image_size is not None or backends != ("torch", "mxnet"):
            raise SpecError("a pair of your own networks brings its backends and its images' size; leave them out")
        subject, chosen, origin, shown = pair_of(spec, names or {}, images, weights, seed, level, max_memory)
        sides = [Live(subject, *both) for both in zip(chosen, places(chosen, device), strict=True)]
        return climb(subject, sides, origin, shown, level=level, precisions=precisions, on_rung=on_rung)
    if names is not None:
        raise SpecError("names: are for a pair of your own networks; layers from a spec bear the same names everywhere")
    named = backends.split(",") if isinstance(backends, str) else backends
    chosen = [get_backend(b.strip()) if isinstance(b, str) else b for b in named]
    if len({backend.name for backend in chosen}) < max(2, len(chosen)):
        raise BackendError(f"parity compares two or more different backends, got {', '.join(b.name for b in chosen)}")
    subject, origin, shown = subject_of(spec, image_size, images, weights, seed, max_memory)
    sides = [Live(subject, *both) for both in zip(chosen, places(chosen, device), strict=True)]
    return climb(subject, sides, origin, shown, level=level, precisions=precisions, trial=trial, on_rung=on_rung)


def places(backends: Sequence[Backend], device: str) -> list[str]:
    """The device that each backend is to run on: the one asked for, or the CPU if it has no other.

    Raises:
        BackendError: if a GPU was asked for and none of them has any.
    """
    found = [device if len(backend.devices()) > 1 else "cpu" for backend in backends]
    if device not in ("auto", "cpu") and set(found) <= {"cpu"}:
        names = " and ".join(backend.name for backend in backends)
        raise BackendError(f"{names} have no {device} on this machine; choose --device cpu")
    return found


def climb(
    subject: Subject,
    sides: Sequence[Side],
    weights: str,
    images: str,
    *,
    level: Level,
    precisions: Sequence[str] = (),
    trial: Trial | None = None,
    on_rung: Tell = lambda number, name, share: None,
) -> Report:
    """Climb a level's rungs with those sides until one fails; the rest are skipped, since they could only repeat it."""
    created = datetime.now(UTC).replace(microsecond=0)
    findings: dict[str, Finding] = {}
    results: list[RungResult] = []
    if level == "full" and trial is None and subject.outline.spec is not None:
        trial = Trial()
    chosen = rungs(level, precisions, trial, on_rung)
    check(subject, sides, precisions, trial)
    for rung in chosen:
        lacking = (lack for need in rung.needs for side in sides if (lack := side.cannot(need)))
        lack = next(lacking, "")
        result = RungResult(number=rung.number, name=rung.name, metric=rung.metric, status="skip", detail=lack)
        if not lack and all(finding.holds for finding in findings.values()):
            findings[rung.name], seconds = _climb(rung, subject, sides, on_rung)
            result = _result(result, findings[rung.name], seconds)
            if rung.level != "quick":
                for side in sides:
                    side.let_go()
        results.append(result)
    told = {
        name: finding
        for finding in findings.values()
        for name in ("layers", "curves", "accuracy")
        if getattr(finding, name)
    }
    return Report(
        network=subject.outline.name,
        spec=subject.outline.spec,
        level=level,
        backends={side.name: side.version for side in sides},
        devices={side.name: side.device for side in sides},
        images=images,
        input_shape=subject.images.shape,
        weights=weights,
        weights_digest=digest(subject.weights),
        created=created,
        environment=environment(),
        rungs=tuple(results),
        **{name: getattr(finding, name) for name, finding in told.items()},
    )


def check(subject: Subject, sides: Sequence[Side], precisions: Sequence[str], trial: Trial | None) -> None:
    """Refuse before the first rung what could only be refused at a later one.

    Raises:
        BackendError: if no side has a precision.
        ResNetXFError: as :meth:`resnet_xf.ladder.rungs.accuracy.Trial.check`.
    """
    live = [side for side in sides if isinstance(side, Live)]
    for precision in precisions:
        if precision not in PRECISIONS:
            raise BackendError(f"no precision is called {precision!r}; choose from {', '.join(PRECISIONS)}")
        lacks = [side.lacks(precision) for side in live]
        if live and len(live) == len(sides) and all(lacks):
            raise BackendError(str(lacks[0]))
    if trial is not None:
        assert subject.outline.spec is not None
        trial.check(subject.outline.spec, trains=bool(live))


def rungs(level: Level, precisions: Sequence[str], trial: Trial | None, on_rung: Tell) -> list[Rung]:
    """The rungs of a level, with those for more precisions and for accuracies."""
    check_level(level)
    chosen = [rung for rung in LADDER if LEVELS.index(rung.level) <= LEVELS.index(level)]
    more = [Rung(5, f"forward {p}", "relative error", partial(forward, p), "quick") for p in precisions]
    chosen[5:5] = more
    if trial is not None:
        name = "accuracy"
        compare = partial(accuracy, trial, lambda done, total, text: on_rung(ACCURACY, f"{name}, {text}", done / total))
        chosen.append(Rung(ACCURACY, name, "points", compare, "full", ("train",)))
    return chosen


def _climb(rung: Rung, subject: Subject, sides: Sequence[Side], on_rung: Tell) -> tuple[Finding, float]:
    """What a rung finds, and the seconds that it takes."""
    told = partial(on_rung, rung.number, rung.name)
    told(0.0)
    for side in sides:
        side.tell = told
    start = time.perf_counter()
    try:
        finding = rung.climb(subject, sides)
    except (MemoryError, *MENDABLE):
        raise
    except Exception as error:  # a network that breaks is a finding, whichever framework's words it uses
        if rung.number == ACCURACY and isinstance(error, ResNetXFError):
            raise
        finding = Finding(float("inf"), 0, f"it does not run: {one_line(error)}", where="the whole network")
    return finding, round(time.perf_counter() - start, 3)


def _result(skipped: RungResult, finding: Finding, seconds: float) -> RungResult:
    return RungResult(
        number=skipped.number,
        name=skipped.name,
        metric=skipped.metric,
        status="pass" if finding.holds else "fail",
        value=finding.value,
        bound=finding.bound,
        where=finding.where,
        detail=finding.detail,
        seconds=seconds,
    )


def assert_parity(
    spec: Plan | ResNetSpec | str | Pair,
    backends: str | Sequence[str | Backend] = ("torch", "mxnet"),
    **options: object,
) -> Report:
    """For test suites: :func:`parity`, with the same arguments, raising unless every rung holds.

    Raises:
        AssertionError: its message names the rung, the first layer that diverges, and by how much.
    """
    report = parity(spec, backends, **options)  # type: ignore[arg-type]
    if not report.holds:
        raise AssertionError(report.verdict())
    return report
