"""Captures: one side's answers written to a folder, and the side that answers from such a folder."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from msgspec.structs import replace as changed

from resnet_xf.architecture.plan import plan
from resnet_xf.architecture.trace import ObservedTrace, Passed
from resnet_xf.architecture.weights import Array
from resnet_xf.errors import EvidenceError
from resnet_xf.ladder.capture.evidence import (
    MANIFEST,
    Manifest,
    Reader,
    StepRecord,
    TrialRecord,
    Writer,
    read_manifest,
    write_manifest,
)
from resnet_xf.ladder.capture.sketch import sketched
from resnet_xf.ladder.lessons import Lesson, Lessons, course_for, lessons_for
from resnet_xf.ladder.report.report import Level
from resnet_xf.ladder.rungs.accuracy import Trial, commonest_share, run_trial
from resnet_xf.ladder.sides.live import Live
from resnet_xf.ladder.sides.side import Curve, Own, State, Step
from resnet_xf.ladder.subject import Subject, groups, outline_of
from resnet_xf.support.environment import environment

AGAIN = "float32 again"
"""The name of the output of a second network, built and run anew."""


def record(
    folder: Path,
    side: Live,
    *,
    level: Level,
    words: tuple[str, str],
    precisions: Sequence[str] = (),
    trial: Trial | None = None,
    tell: Callable[[str, float], object] = lambda what, share: None,
) -> Manifest:
    """Write all that a comparison needs of one side into an empty folder, whole or not at all.

    Raises:
        EvidenceError: if the folder holds anything, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise EvidenceError(f"{folder}: is there already; choose another folder by --out")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
            inside = Path(temporary) / "capture"
            inside.mkdir()
            manifest = _record(Writer(inside), side, level, words, precisions, trial, tell)
            write_manifest(inside, manifest)
            if folder.exists():
                folder.rmdir()
            inside.rename(folder)
    except OSError as error:
        raise EvidenceError(f"{folder}: cannot be written: {error.strerror}") from None
    return manifest


def _record(
    writer: Writer,
    side: Live,
    level: Level,
    words: tuple[str, str],
    precisions: Sequence[str],
    trial: Trial | None,
    tell: Callable[[str, float], object],
) -> Manifest:
    subject, spec = side.subject, side.subject.outline.spec
    assert spec is not None
    tell("inference", 0.0)
    writer.put({f"weights/{name}": array for name, array in subject.weights.items()} | {"images": subject.images})
    first, again = side.twice()
    outputs = {"float32": first, AGAIN: again, "float64": side.output("float64")}
    outputs |= {precision: side.output(precision) for precision in precisions}
    if subject.probe is not None:
        outputs["float64 probe"] = side.output("float64", probe=True)
        writer.put({f"probe/{name}": array for name, array in subject.probe.items()})
    writer.put({f"output/{name}": array for name, array in outputs.items()})
    trace = side.trace()
    manifest = Manifest(
        spec=spec,
        level=level,
        seed=subject.lessons.seed,
        backend=side.name,
        backend_version=side.version,
        device=side.device,
        unbiased_variance=side.unbiased_variance,
        environment=environment(),
        recipe=subject.lessons.recipe.to_complete_json(),
        precisions=tuple(precisions),
        weights=words[0],
        images=words[1],
        probed=subject.probe is not None,
        layers=trace.layers,
        broken=trace.error,
        held={dtype: side.held(dtype) for dtype in ("float32", "float64")},
        returned={dtype: side.returned(dtype) for dtype in ("float32", "float64")},
        gain=side.gain(),
    )
    if level != "quick":
        manifest = _record_training(writer, side, manifest, tell)
    if level == "full":
        tell("learning curves", 0.0)
        writer.put({f"start/{name}": array for name, array in subject.start.items()})
        course = _write_lessons(writer, "course", subject.course)
        side.tell = partial(tell, "learning curves")
        manifest = changed(manifest, curve=side.curve(), rates=manifest.rates | {"course": course})
    if trial is not None:
        found, _ = run_trial(trial, subject, {side.name: side.device}, lambda done, all_, text: tell(text, done / all_))
        told = TrialRecord(
            dataset=trial.dataset,
            recipe=trial.resolved().to_complete_json(),
            accuracies=found[side.name],
            commonest=commonest_share(trial),
        )
        manifest = changed(manifest, trial=told)
    return changed(manifest, arrays=writer.names)


def _record_training(writer: Writer, side: Live, manifest: Manifest, tell: Callable[[str, float], object]) -> Manifest:
    """Rungs 6 to 8."""
    subject = side.subject
    tell("layers", 0.0)
    gains: dict[str, float] = {}
    own = side.own_rounding()  # before anything else is held
    for names in groups(subject, side.trace().layers, subject.outline.layers, 2):
        passed = side.passed("float64", names)
        gains |= side.gains(names, passed)
        for name, one in passed.items():
            inputs = {f"passed/{name}/input{n}": array for n, array in enumerate(one.inputs)}
            writer.put({f"passed/{name}/output": one.output} | inputs)
    tell("gradients", 0.0)
    steps = {dtype: side.step(dtype) for dtype in ("float64", "float32")}
    for dtype, step in steps.items():
        writer.put({f"gradient/{dtype}/{name}": array for name, array in step.gradients.items()})
        writer.put({f"statistic/{dtype}/{name}": array for name, array in step.statistics.items()})
    lessons = side.subject.lessons
    rates = {"lessons": _write_lessons(writer, "lessons", lessons)}
    records = []
    side.tell = partial(tell, "lock-step")
    for number, state in enumerate(side.lockstep(measured=True), start=1):
        arrays = (state if number == lessons.steps else sketched(state)).arrays
        writer.put({f"state/{number}/{name}": array for name, array in arrays.items()})
        records.append(StepRecord(loss=state.loss, gain=dict(state.gain)))
    return changed(
        manifest,
        gains=gains,
        sensitivity=side.sensitivity(),
        own=own,
        losses={dtype: step.loss for dtype, step in steps.items()},
        lockstep=tuple(records),
        rates=rates,
    )


def _write_lessons(writer: Writer, prefix: str, lessons: Lessons) -> tuple[float, ...]:
    """Write what is trained on, and give the learning rates: another machine's Pillow may resize otherwise."""
    rates = []
    for number, lesson in enumerate(lessons):
        writer.put({f"{prefix}/{number}/images": lesson.images, f"{prefix}/{number}/targets": lesson.targets})
        rates.append(lesson.rate)
    return tuple(rates)


class Recorded:
    """A side that answers from a capture's folder; see :class:`resnet_xf.ladder.sides.side.Side`.

    Raises:
        EvidenceError: if the folder holds no capture that can be read.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(folder)
        there = self.manifest.environment
        self.name = self.manifest.backend
        self.version = (
            f"{self.manifest.backend_version} "
            f"(captured under Python {there.get('python', '?')}, NumPy {there.get('numpy', '?')})"
        )
        self.device, self.unbiased_variance = self.manifest.device, self.manifest.unbiased_variance
        self.tell: Callable[[float], object] = lambda share: None
        self._reader = Reader(self.folder, self.manifest.arrays)
        self._layers = outline_of(plan(self.manifest.spec), self._reader.get("images").shape).layers

    def subject(self, max_memory: int) -> Subject:
        """What was captured, for another side to be run on."""
        told, planned = self.manifest, plan(self.manifest.spec)
        weights, images = self._reader.all("weights/"), self._reader.get("images")
        return Subject(
            outline=outline_of(planned, images.shape),
            weights=weights,
            images=images,
            probe=self._reader.all("probe/") if told.probed else None,
            lessons=replace(lessons_for(planned, told.seed), given=self._lessons("lessons")),
            start=self._reader.all("start/") or weights,
            course=replace(course_for(planned, told.seed), given=self._lessons("course")),
            max_memory=max_memory,
        )

    def _lessons(self, prefix: str) -> tuple[Lesson, ...]:
        get = self._reader.get
        return tuple(
            Lesson(get(f"{prefix}/{number}/images"), get(f"{prefix}/{number}/targets"), rate)
            for number, rate in enumerate(self.manifest.rates.get(prefix, ()))
        )

    def differs(self, other: Recorded) -> str | None:
        """The first thing in which two captures cannot be compared, in words."""
        for field in ("spec", "seed", "probed"):
            ours, theirs = getattr(self.manifest, field), getattr(other.manifest, field)
            if ours != theirs:
                names = (ours.name, theirs.name) if field == "spec" else (ours, theirs)
                return f"{field} ({names[0]} and {names[1]})"
        for field in ("recipe", "rates"):
            both = [getattr(one.manifest, field) for one in (self, other)]
            if all(both) and both[0] != both[1]:
                return f"{field} of what is trained on"
        mine, others = self.manifest.arrays, other.manifest.arrays
        for prefix in ("weights/", "images", "probe/", "start/", "lessons/", "course/"):
            for name, mark in mine.items():
                if name.startswith(prefix) and mark != others.get(name, mark):
                    return name.replace("weights/", "the weights' ")
        return None

    def cannot(self, capability: str) -> str | None:
        """None: what was captured is there."""
        return None

    def let_go(self) -> None:
        """Nothing is held."""

    def trace(self) -> ObservedTrace:
        """As captured."""
        return ObservedTrace(self.manifest.layers, self.manifest.broken)

    def held(self, dtype: str) -> dict[str, tuple[int, ...]]:
        """As captured."""
        return self.manifest.held[dtype]

    def returned(self, dtype: str) -> dict[str, str]:
        """As captured."""
        return self.manifest.returned[dtype]

    def twice(self) -> tuple[Array, Array]:
        """As captured."""
        return self.output("float32"), self._reader.get(f"output/{AGAIN}")

    def output(self, precision: str, *, probe: bool = False) -> Array:
        """As captured."""
        return self._reader.get(f"output/{precision}{' probe' if probe else ''}")

    def gain(self) -> float:
        """As captured."""
        return self.manifest.gain

    def gains(self, names: Sequence[str], passed: Mapping[str, Passed]) -> dict[str, float]:
        """As captured."""
        return {name: self.manifest.gains[name] for name in names}

    def passed(self, dtype: str, names: Sequence[str], *, probe: bool = False) -> dict[str, Passed]:
        """As captured, in float64; of a container, what its last layer gave.

        Raises:
            EvidenceError: for float32 and the probe's weights, of which only outputs are captured.
        """
        if dtype != "float64" or probe:
            raise EvidenceError(f"{self.folder}: holds the layers' outputs in float64 alone")
        return {name: self._passed(name) for name in names}

    def _passed(self, name: str) -> Passed:
        if name not in self._layers:
            name = next(layer for layer in reversed(self._layers) if layer.startswith(f"{name}."))
        inputs = self._reader.all(f"passed/{name}/input")
        return Passed(tuple(inputs[key] for key in sorted(inputs)), self._reader.get(f"passed/{name}/output"))

    def own_rounding(self) -> dict[str, Own]:
        """As captured."""
        return self.manifest.own

    def step(self, dtype: str) -> Step:
        """As captured."""
        gradients, statistics = (self._reader.all(f"{kind}/{dtype}/") for kind in ("gradient", "statistic"))
        return Step(self.manifest.losses[dtype], gradients, statistics)

    def sensitivity(self) -> dict[str, float]:
        """As captured."""
        return self.manifest.sensitivity

    def lockstep(self, *, measured: bool) -> Iterator[State]:
        """As captured: sketches, but for the last step."""
        records = self.manifest.lockstep
        for number, step in enumerate(records, start=1):
            arrays = self._reader.all(f"state/{number}/")
            yield State(step.loss, arrays, step.gain if measured else {}, sketched=number < len(records))

    def curve(self) -> Curve:
        """As captured."""
        if self.manifest.curve is None:
            raise EvidenceError(f"{self.folder / MANIFEST}: holds no learning curve; capture again with --level full")
        return self.manifest.curve

    def accuracies(self, trial: Trial) -> tuple[tuple[float, ...], float]:
        """As captured, if it was the same trial.

        Raises:
            EvidenceError: if it was not.
        """
        told = self.manifest.trial
        if told is None:
            raise EvidenceError(f"{self.folder / MANIFEST}: holds no accuracies; capture again with --accuracy")
        for field, ours, theirs in (
            ("dataset", told.dataset, trial.dataset),
            ("recipe", told.recipe, trial.resolved().to_complete_json()),
            ("seeds", len(told.accuracies), trial.seeds),
        ):
            if ours != theirs:
                raise EvidenceError(f"{self.folder / MANIFEST}: trial: {field} {ours}, and {theirs} was asked for")
        return told.accuracies, told.commonest
