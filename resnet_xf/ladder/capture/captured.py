"""Writes a capture: a folder with all that the rungs of a level measure of one network. Reads it as a side later."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from resnet_xf.architecture.plan import plan
from resnet_xf.architecture.weights import Array, Weights
from resnet_xf.errors import EvidenceError
from resnet_xf.ladder.capture.evidence import Manifest, Reader, Writer, write_manifest
from resnet_xf.ladder.report.report import Level
from resnet_xf.ladder.rungs.rung import Rung
from resnet_xf.ladder.short_run import TrainingStep, curve_run, lockstep_run
from resnet_xf.ladder.sides.live import Live
from resnet_xf.ladder.subject import Subject, outline_of
from resnet_xf.support.environment import environment
from resnet_xf.support.files import new_folder

INPUTS = "inputs"
"""The key under which a capture saves its :class:`Inputs`."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inputs of a parity run as a capture saves them: fields of :class:`Subject`, training runs as single steps.

    Training steps and start weights that the capture's level does not use are left out. Steps are saved because another
    version of Pillow may resize images differently.
    """

    weights: Weights
    images: Array
    probe: Weights | None = None
    lockstep_run: tuple[TrainingStep, ...] = ()
    curve_start: Weights | None = None
    curve_run: tuple[TrainingStep, ...] = ()


CAPTURED_NEEDS = ("run layers alone", "differentiate layers alone", "train")
"""The capabilities of a backend that later comparisons ask for. A capture saves why its backend lacks one of them."""


def record(
    folder: Path,
    live: Live,
    rungs: Sequence[Rung],
    level: Level,
    origins: tuple[str, str],
    precisions: Sequence[str],
    tell: Callable[[str, float], object],
) -> Manifest:
    """Measure a side on every rung that its backend supports, and write a capture. Return the capture's manifest.

    After an error, no part of the capture is left.

    Args:
        folder: where to write it; must be empty or missing.
        live: the side: a network that runs here.
        rungs: the rungs of the level, in order.
        level: see :class:`Manifest`.
        origins: where the weights and the images came from, in words.
        precisions: the further precisions in which ``rungs`` compare outputs, to be noted in the manifest.
        tell: called with the name of a rung and its finished share, from 0 to 1.

    Raises:
        EvidenceError: if the folder holds anything, or cannot be written.
    """
    folder = folder.resolve()  # a link is followed, not replaced
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EvidenceError(f"{folder}: cannot be written: {error.strerror}") from None
    with new_folder(folder, EvidenceError) as inside:
        writer = Writer(inside)
        writer.save(INPUTS, _inputs_of(live.subject, level))
        live.save = writer.save
        for rung in rungs:
            if not any(map(live.cannot, rung.needs)):
                live.tell = partial(tell, rung.name)
                live.tell(0.0)
                rung.measure(live.subject, live)
                if rung.level != "quick":
                    live.release()
        manifest = _manifest_of(live, level, origins, precisions, writer.evidence)
        write_manifest(inside, manifest)
    return manifest


def _inputs_of(subject: Subject, level: Level) -> Inputs:
    inputs = Inputs(subject.weights, subject.images, subject.probe)
    if level != "quick":
        inputs = replace(inputs, lockstep_run=subject.lockstep_run.all_steps)
    if level == "full":
        inputs = replace(inputs, curve_start=subject.curve_start(), curve_run=tuple(subject.curve_run))
    return inputs


def _manifest_of(
    live: Live, level: Level, origins: tuple[str, str], precisions: Sequence[str], evidence: dict[str, Any]
) -> Manifest:
    spec, run = live.subject.outline.spec, live.subject.lockstep_run
    assert spec is not None
    return Manifest(
        spec=spec,
        level=level,
        seed=run.seed,
        backend=live.name,
        backend_version=live.version,
        device=live.device,
        unbiased_variance=live.unbiased_variance,
        environment=environment(),
        recipe=run.recipe.to_complete_json(),
        precisions=tuple(precisions),
        weights=origins[0],
        images=origins[1],
        cannot={need: lack for need in CAPTURED_NEEDS if (lack := live.cannot(need))},
        evidence=evidence,
    )


class Captured:
    """A side (network under comparison) whose measurements are read from a capture: a folder that was written earlier.

    See :class:`resnet_xf.ladder.sides.side.Side`.

    Raises:
        EvidenceError: if the folder holds no capture that can be read.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._reader = Reader(self.folder)
        self.manifest = manifest = self._reader.manifest
        there = manifest.environment
        captured = f"(captured under Python {there.get('python', '?')}, NumPy {there.get('numpy', '?')})"
        self.name, self.version = manifest.backend, f"{manifest.backend_version} {captured}"
        self.device, self.unbiased_variance = manifest.device, manifest.unbiased_variance
        self.tell: Callable[[float], object] = lambda share: None
        self.cannot = manifest.cannot.get

    def release(self) -> None:
        """Do nothing, since nothing is held."""

    def take(self, key: str, kind: Any, measure: object, *, large: bool) -> Any:
        """Return what was saved under ``key``, as type ``kind``; the other arguments are not used.

        Raises:
            EvidenceError: if it was not captured, or is damaged.
        """
        return self._reader.load(key, kind)

    def take_each(self, keys: Sequence[str], kind: Any, measure: object) -> Iterator[Any]:
        """Yield what was saved under each key, as type ``kind``, read one at a time; ``measure`` is not used.

        Raises:
            EvidenceError: on reaching one that was not captured, or is damaged.
        """
        return (self._reader.load(key, kind) for key in keys)

    def subject(self, max_memory: int) -> Subject:
        """Return the captured inputs, on which another network can be run. ``max_memory``: see :class:`Subject`."""
        planned, seed = plan(self.manifest.spec), self.manifest.seed
        inputs: Inputs = self._reader.load(INPUTS, Inputs)
        return Subject(
            outline=outline_of(planned, inputs.images.shape),
            weights=inputs.weights,
            images=inputs.images,
            probe=inputs.probe,
            lockstep_run=replace(lockstep_run(planned, seed), saved=inputs.lockstep_run),
            curve_start=lambda: inputs.curve_start or inputs.weights,
            curve_run=replace(curve_run(planned, seed), saved=inputs.curve_run),
            max_memory=max_memory,
        )

    def inputs(self) -> dict[str, Any]:
        """Return the captured :class:`Inputs` as a dict, with digests in place of arrays."""
        inputs: dict[str, Any] = self._reader.load(INPUTS, dict[str, Any])
        return inputs

    def differs(self, other: Captured) -> str | None:
        """Return in words why this capture and another cannot be compared, or None if they can."""
        ours, theirs = self.manifest, other.manifest
        if ours.spec != theirs.spec:
            return f"spec ({ours.spec.name} and {theirs.spec.name})"
        if ours.seed != theirs.seed:
            return f"seed ({ours.seed} and {theirs.seed})"
        if ours.recipe != theirs.recipe:
            return "recipe of the training runs"
        inputs, others = self.inputs(), other.inputs()
        for name, mark in inputs.get("weights", {}).items():
            if mark != others.get("weights", {}).get(name):
                return f"the weights' {name}"
        # A capture of a lower level has fewer inputs, but each has a probe or has none.
        wrong = [
            key
            for key in inputs
            if inputs[key] != others.get(key) and (key == "probe" or (inputs[key] and others.get(key)))
        ]
        return wrong[0].replace("_", " ") if wrong else None
