"""Runs the parity ladder: compares two or more networks in checks called rungs, the cheapest first."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from resnet_xf.architecture.plan import Plan
from resnet_xf.architecture.spec import Spec
from resnet_xf.architecture.weights import Array, digest
from resnet_xf.backend.contract import Backend
from resnet_xf.backend.registry import backends_to_compare, check_backend, get_backend, has_device
from resnet_xf.errors import (
    BackendError,
    CheckpointError,
    DataError,
    EvidenceError,
    RecipeError,
    SpecError,
    TrainingStopped,
    one_line,
)
from resnet_xf.ladder.inputs import subject_of
from resnet_xf.ladder.pair.pairs import Pair, pair_of
from resnet_xf.ladder.report.report import LEVELS, Level, Report, RungResult, check_level
from resnet_xf.ladder.rungs import curves, determinism, forward, gradients, layers, lockstep, shapes, weights
from resnet_xf.ladder.rungs.accuracy import Trial, accuracy_rung
from resnet_xf.ladder.rungs.rung import Finding, Rung
from resnet_xf.ladder.sides.live import Live
from resnet_xf.ladder.sides.side import Side
from resnet_xf.ladder.subject import Subject
from resnet_xf.support.environment import environment, free_memory

Tell = Callable[[int, str, float], object]


LADDER = (
    shapes.RUNG,
    weights.RUNG,
    determinism.RUNG,
    forward.FLOAT64,
    forward.FLOAT32,
    layers.RUNG,
    gradients.RUNG,
    lockstep.RUNG,
    curves.RUNG,
)
"""The rungs in order, cheapest first. :func:`rungs` adds those of further precisions, and of accuracies."""

PRECISIONS = ("bfloat16", "float16", "tf32")
"""The precisions in which outputs can be compared, besides float32 and float64."""

FREED = 2**25
"""If the weights take more bytes, memory is freed after each rung. For smaller networks this is not worth the time."""

ACCURACY = 10
"""The number of the rung that trains in child processes. Errors in this process say nothing about the networks."""

MENDABLE = (BackendError, CheckpointError, DataError, EvidenceError, OSError, RecipeError, TrainingStopped)
"""Errors that are raised and not reported as a difference: a user can mend the cause (a full disk), or stopped the run.
"""


def parity(
    spec: Plan | Spec | str | Pair,
    backends: str | Sequence[str | Backend] | None = None,
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
    prefix: str | None = None,
    on_rung: Tell = lambda number, name, share: None,
) -> Report:
    """Compare the networks that backends build from one spec, in checks called rungs, up to the first that fails.

    Or compare two networks of your own, from any of the frameworks: ``parity((module, block), names={...},
    images=array)``. They take ``(N, C, H, W)`` and return ``(N, classes)``. Their own weights are compared, and must be
    equal. The comparison uses copies, in which every parameter is trained; it does not change your networks or their
    hooks. The first network is the reference for the layers of the second. Training uses images of the size of
    ``images``, which must be an array. Accuracies are not compared, so ``full`` ends at rung 9. Frameworks draw random
    values differently, so networks with dropout can be compared at ``quick`` only. A network of Gluon's
    ``SymbolBlock.imports`` has no layers; these are read from its graph, and named as ``convert`` names them.

    Args:
        spec: a plan, a spec, or the name of one. Or the path of a checkpoint, as :func:`resnet_xf.convert` reads it:
            its network is found by what the file says, by the exported network beside it, or else guessed. The report
            says which, in ``weights``. Or a pair of your own networks.
        backends: at least two, by name or as objects. A text may hold several names, with commas between them. If None,
            all of this project that are installed.
        names: for a pair: from the dotted name of each layer of the second network to its name in the first. Layers of
            equal name may be left out. Layers without weights may be left out too; these are then not compared on their
            own. :func:`resnet_xf.suggest_names` proposes names.
        level: ``quick``: inference (rungs 1 to 5). ``standard``: also layers, gradients and training in lock-step (to
            8). ``full``: also learning curves and accuracies (to 10).
        image_size: height and width; the spec's own if None.
        images: an array ``(N, C, H, W)``, or a folder of images. If None, two photographs of scikit-learn, or its
            digits for a network of one channel (:func:`resnet_xf.data.sample_images`).
        weights: arrays by name, or a checkpoint of any format that :func:`resnet_xf.convert` reads. If None, drawn from
            ``seed`` by the scheme ``probe``: no scale is 1, no shift and no running mean is 0, so every value has an
            effect.
        seed: the seed of drawn weights, and of the order and augmentation of training images.
        device: ``cpu``, ``cuda`` or ``cuda:1``, for every backend that has it; the others run on the CPU. TF32 is off.
        precisions: further precisions whose output is compared with float64: ``bfloat16``, ``float16``, ``tf32``.
        trial: how accuracies are compared (rung 10). If None, they are compared at ``full`` only, on digits.
        max_memory: bytes that tensors captured inside the networks may take at a time. If None, 1 GiB, or a quarter of
            a small machine's memory.
        prefix: the prefix of the network's names in the checkpoint, if the file holds more than this network.
        on_rung: called with the number and the name of each rung, and its finished share, from 0 to 1.

    Returns:
        The report. Its ``holds`` is True if no rung failed and none was inconclusive.

    Raises:
        BackendError: if fewer than two backends are named, or one cannot be used.
        SpecError, ShapeError, WeightsError, DataError: if the input does not make a network.
    """
    if isinstance(spec, tuple):
        if trial is not None:
            raise RecipeError("trial: accuracies are compared of networks from a spec, not of a pair of your own")
        if image_size is not None or backends is not None:
            raise SpecError("a pair of your own networks brings its backends and its images' size; leave them out")
        subject, chosen, *origins = pair_of(spec, names or {}, images, weights, seed, level, max_memory)
    else:
        if names is not None:
            raise SpecError(
                "names: are for a pair of your own networks; networks from a spec share their layers' names"
            )
        subject, *origins = subject_of(spec, image_size, images, weights, seed, max_memory, prefix)
        chosen = backends_of(backends)
        if len({backend.name for backend in chosen}) < max(2, len(chosen)):
            raise BackendError(
                f"parity compares two or more different backends, got {', '.join(b.name for b in chosen)}"
            )
    sides = live_sides(subject, chosen, device)
    return climb(subject, sides, *origins, level=level, precisions=precisions, trial=trial, on_rung=on_rung)


def live_sides(subject: Subject, backends: Sequence[Backend], device: str) -> list[Live]:
    """Return a live side (a network that runs here) for each backend, on ``device`` or else on its only one, the CPU.

    Raises:
        BackendError: if ``device`` is a GPU and none of the backends has one.
    """
    devices = [device if has_device(backend, "cuda") else "cpu" for backend in backends]
    if backends and device not in ("auto", "cpu") and set(devices) == {"cpu"}:
        names = " and ".join(backend.name for backend in backends)
        raise BackendError(f"{names} have no {device} on this machine; choose --device cpu")
    return [Live(subject, *both) for both in zip(backends, devices, strict=True)]


def backends_of(names: str | Sequence[str | Backend] | None) -> list[Backend]:
    """Return backends, in order, from one string of names with commas or a sequence of names and backends.

    If ``names`` is None, return the installed backends of this project.

    Raises:
        BackendError: if a backend is unknown, not installed or incomplete.
    """
    listed = backends_to_compare() if names is None else names.split(",") if isinstance(names, str) else names
    return [check_backend(get_backend(one.strip() if isinstance(one, str) else one)) for one in listed]


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
    """Compare sides (networks under comparison) on the rungs of a level, and return the report.

    A rung compares the sides that have the capabilities it needs. It is skipped if there are fewer than two. After a
    rung that fails, the others are skipped, because they could only repeat the failure. ``weights`` and ``images`` are
    texts that say where these came from. The other arguments are as in :func:`parity`.
    """
    created = datetime.now(UTC).replace(microsecond=0)
    results: list[RungResult] = []
    extras: dict[str, Any] = {}
    failed = False
    for rung in rungs(subject, sides, level, precisions, trial, on_rung):
        lacks: dict[str, str] = {}
        for need, side in product(rung.needs, sides):
            if lack := side.cannot(need):
                lacks.setdefault(side.name, lack)
        able = [side for side in sides if side.name not in lacks]
        reason = "" if len(able) > 1 else next(iter(lacks.values()))
        result = RungResult(number=rung.number, name=rung.name, metric=rung.metric, status="skip", detail=reason)
        if not reason and not failed:
            finding, seconds = _judge(rung, subject, able, on_rung)
            failed = finding.status == "fail"
            found = {
                field: getattr(finding, field) for field in ("status", "value", "bound", "where", "detail", "remark")
            }
            found["detail"] = "; ".join([finding.detail, *lacks.values()])
            result = msgspec.structs.replace(result, seconds=seconds, left_out=lacks, **found)
            extras |= {field: more for field in ("layers", "curves", "accuracy") if (more := getattr(finding, field))}
            if rung.level != "quick":
                for side in sides:
                    side.release()
                if sum(array.nbytes for array in subject.weights.values()) > FREED:
                    free_memory()
        results.append(result)
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
        **extras,
    )


def rungs(
    subject: Subject,
    sides: Sequence[Side],
    level: Level,
    precisions: Sequence[str],
    trial: Trial | None,
    on_rung: Tell = lambda number, name, share: None,
) -> list[Rung]:
    """Return the rungs of a level, one more for each of ``precisions``, and rung 10 if accuracies are to be compared.

    Errors that a later rung would raise are raised here, before hours are spent. ``on_rung`` gets rung 10's progress.

    Raises:
        BackendError: if a precision is unknown, or all sides (networks) run here and none of them has it.
        ResNetXFError: if there is no such level, or as :meth:`resnet_xf.ladder.rungs.accuracy.Trial.check`.
    """
    check_level(level)
    live = [side for side in sides if isinstance(side, Live)]
    for precision in precisions:
        if precision not in PRECISIONS:
            raise BackendError(f"no precision is called {precision!r}; choose from {', '.join(PRECISIONS)}")
        lacks = [side.lacks(precision) for side in live]
        if live and len(live) == len(sides) and all(lacks):
            raise BackendError(str(lacks[0]))
    chosen = [rung for rung in LADDER if LEVELS.index(rung.level) <= LEVELS.index(level)]
    chosen[5:5] = map(forward.in_precision, precisions)
    spec = subject.outline.spec
    if spec is not None and (trial is not None or level == "full"):
        trial = trial or Trial()
        able = [side for side in sides if not side.cannot("train")]
        compared = len(able) > 1 or len(sides) == 1  # a capture has one side; with less, the rung is skipped
        trial.check(subject, [side for side in able if compared and isinstance(side, Live)])
        tell = lambda done, total, run: on_rung(ACCURACY, f"accuracy, {run}", done / total)  # noqa: E731
        chosen.append(accuracy_rung(trial, tell))
    return chosen


def _judge(rung: Rung, subject: Subject, sides: Sequence[Side], on_rung: Tell) -> tuple[Finding, float]:
    """Compare sides (networks) on a rung. Return its finding and the seconds; a network that crashes is a failure."""
    tell = partial(on_rung, rung.number, rung.name)
    tell(0.0)
    for side in sides:
        side.tell = tell
    start = time.perf_counter()
    try:
        with np.errstate(all="warn", under="ignore"):  # and not as a caller has set them
            finding = rung.judge(subject, sides)
    except (MemoryError, *MENDABLE):
        raise
    except Exception as error:  # a network that breaks is a finding, in the words of its framework
        if rung.number == ACCURACY:
            raise
        finding = Finding(float("inf"), 0, f"it does not run: {one_line(error)}", where="the whole network")
    return finding, round(time.perf_counter() - start, 3)


def assert_parity(
    spec: Plan | Spec | str | Pair,
    backends: str | Sequence[str | Backend] | None = None,
    **options: object,
) -> Report:
    """Call :func:`parity` with the same arguments; return its report, or raise if a rung failed or is inconclusive.

    Raises:
        AssertionError: the message names the rung, the first layer that differs, and by how much; or what could not be
            decided.
    """
    report = parity(spec, backends, **options)  # type: ignore[arg-type]
    if not report.holds:
        raise AssertionError(report.verdict())
    return report
