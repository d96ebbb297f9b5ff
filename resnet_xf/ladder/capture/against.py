"""Apart, then compared: capturing one backend's answers, and holding captures against each other or a backend here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from resnet_xf.architecture.plan import Plan, plan
from resnet_xf.architecture.spec import ResNetSpec
from resnet_xf.architecture.weights import Array, Weights
from resnet_xf.backend.contract import Backend
from resnet_xf.backend.registry import get_backend, is_installed, list_backends
from resnet_xf.errors import EvidenceError
from resnet_xf.ladder.capture.evidence import Manifest
from resnet_xf.ladder.capture.recorded import Recorded, record
from resnet_xf.ladder.climb import Tell, check, climb, places
from resnet_xf.ladder.inputs import memory, subject_of, weights_of
from resnet_xf.ladder.report.report import LEVELS, Level, Report, check_level
from resnet_xf.ladder.rungs.accuracy import Trial
from resnet_xf.ladder.sides.live import Live
from resnet_xf.ladder.sides.side import Side, fingerprint
from resnet_xf.training.recipe import Recipe


def capture(
    spec: Plan | ResNetSpec | str,
    out: str | Path,
    backend: str | Backend | None = None,
    *,
    level: Level = "standard",
    image_size: tuple[int, int] | None = None,
    images: Array | str | Path | None = None,
    weights: Mapping[str, Array] | str | Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    precisions: Sequence[str] = (),
    trial: Trial | None = None,
    max_memory: int | None = None,
    tell: Callable[[str, float], object] = lambda what, share: None,
) -> Manifest:
    """Record all that :func:`resnet_xf.parity_against` needs of one backend's network, into a new folder.

    Args:
        spec: as in :func:`resnet_xf.parity`.
        out: the folder, which must not be there yet, or be empty.
        backend: as :func:`resnet_xf.get_backend` chooses it.
        level: how far up the ladder a comparison can then go.
        image_size: as in :func:`resnet_xf.parity`.
        images: as in :func:`resnet_xf.parity`.
        weights: as in :func:`resnet_xf.parity`.
        seed: as in :func:`resnet_xf.parity`.
        device: ``cpu``, ``cuda`` or ``cuda:1``.
        precisions: as in :func:`resnet_xf.parity`.
        max_memory: as in :func:`resnet_xf.parity`.
        trial: the runs whose accuracies are recorded; if None, only on level ``full``, on digits.
        tell: told what is being done, and how much of it is, 0…1.

    Raises:
        ResNetXFError: of the kind of what is wrong; EvidenceError if the folder cannot be written.
    """
    check_level(level)
    chosen = get_backend(backend) if backend is None or isinstance(backend, str) else backend
    subject, origin, shown = subject_of(spec, image_size, images, weights, seed, max_memory)
    side = Live(subject, chosen, device)
    if level == "full" and trial is None:
        trial = Trial()
    check(subject, [side], precisions, trial)
    words = (origin, shown)
    return record(Path(out), side, level=level, words=words, precisions=precisions, trial=trial, tell=tell)


def parity_against(
    captures: Sequence[str | Path],
    backends: str | Sequence[str | Backend] | None = None,
    *,
    spec: Plan | ResNetSpec | str | None = None,
    weights: Mapping[str, Array] | str | Path | None = None,
    level: Level | None = None,
    device: str = "cpu",
    trial: Trial | None = None,
    max_memory: int | None = None,
    on_rung: Tell = lambda number, name, share: None,
) -> Report:
    """Hold captures against backends that are here, or against each other.

    Weights, images and lessons are those of the first capture.

    Args:
        captures: folders that :func:`capture` wrote.
        backends: those to run; if None and there is a single capture, the first other one that is installed.
        spec: if given, the captures must be of this network.
        weights: if given, they must be of these weights.
        level: as far as the captures reach if None.
        device: as in :func:`resnet_xf.parity`.
        trial: for the accuracies' margin and the folder of runs; what is trained is what the captures tell.
        max_memory: as in :func:`resnet_xf.parity`.
        on_rung: as in :func:`resnet_xf.parity`.

    Raises:
        EvidenceError: if a capture cannot be read, or is of another network, other weights, images or settings.
        BackendError: if no backend is left to compare with.
    """
    recorded = [Recorded(folder) for folder in captures]
    first = recorded[0]
    for other in recorded[1:]:
        if wrong := first.differs(other):
            raise EvidenceError(f"{first.folder} and {other.folder} cannot be compared; they differ in {wrong}")
    if len({one.folder.resolve() for one in recorded}) < len(recorded):
        raise EvidenceError(f"{first.folder}: is named twice; a capture is the same as itself")
    _check(first, spec, weights)
    level = _level(recorded, level)
    subject = first.subject(memory(max_memory))
    chosen = _backends(recorded, backends)
    sides: list[Side] = [Live(subject, *both) for both in zip(chosen, places(chosen, device), strict=True)]
    names = [side.name for side in sides]
    for one in recorded:
        if one.name in names:
            one.name = f"{one.name} of {one.folder}"
        names.append(one.name)
    if len(set(names)) < len(names):
        raise EvidenceError(f"a comparison is of different sides, got {', '.join(names)}")
    sides += recorded
    if subject.lessons.recipe.to_complete_json() != first.manifest.recipe:
        raise EvidenceError(f"{first.folder}: was captured by a version that trains by another recipe; capture again")
    precisions = [p for p in first.manifest.precisions if all(p in one.manifest.precisions for one in recorded)]
    told = first.manifest.trial
    if told is not None and (trial is not None or level == "full"):
        trained = Trial(dataset=told.dataset, recipe=Recipe.from_json(told.recipe), seeds=len(told.accuracies))
        asked = trial or trained
        for field in ("dataset", "recipe", "seeds"):
            if getattr(asked, field) not in (getattr(trained, field), getattr(Trial(), field)):
                raise EvidenceError(f"{first.folder}: accuracies were captured of another {field}; leave that out")
        trial = replace(trained, margin=asked.margin, out=asked.out, data_dir=asked.data_dir, jobs=asked.jobs)
    elif trial is not None:
        raise EvidenceError(f"{first.folder}: holds no accuracies; capture again with --accuracy")
    held = f", which {weights} holds too" if isinstance(weights, str | Path) else ""
    words = (f"{first.manifest.weights}, as captured{held}", f"{first.manifest.images}, as captured")
    return climb(subject, sides, *words, level=level, precisions=precisions, trial=trial, on_rung=on_rung)


def _check(
    first: Recorded, spec: Plan | ResNetSpec | str | None, weights: Mapping[str, Array] | str | Path | None
) -> None:
    """Refuse a capture of another network or of other weights than those asked for."""
    there = first.manifest.spec
    asked = plan(there if spec is None else spec)
    arrays: Weights = {}
    if weights is not None:
        asked, arrays, _ = weights_of(asked, weights, first.manifest.seed)
    fields = [f for f in there.__struct_fields__ if f != "name" and getattr(asked.spec, f) != getattr(there, f)]
    if fields:
        raise EvidenceError(
            f"{first.folder}: is of {there.name}, and {asked.spec.name} was asked for; they differ in "
            f"{', '.join(fields)}; name the capture's network, or capture this one"
        )
    if weights is not None:
        captured = first.manifest.arrays
        wrong = [name for name, array in arrays.items() if captured.get(f"weights/{name}") != fingerprint(array)]
        if wrong:
            raise EvidenceError(
                f"{first.folder}: was captured with other weights; {len(wrong)} of {len(arrays)} arrays differ, "
                f"first {wrong[0]}"
            )


def _level(recorded: Sequence[Recorded], asked: Level | None) -> Level:
    """The level asked for, or the highest that all captures reach."""
    reached = min((one.manifest.level for one in recorded), key=LEVELS.index)
    if asked is None:
        return reached
    for one in recorded:
        if LEVELS.index(one.manifest.level) < LEVELS.index(asked):
            raise EvidenceError(
                f"{one.folder}: was captured at level {one.manifest.level}; capture again with --level {asked}"
            )
    return asked


def _backends(recorded: Sequence[Recorded], asked: str | Sequence[str | Backend] | None) -> list[Backend]:
    if asked is None:
        there = {one.manifest.backend for one in recorded}
        others = [name for name in list_backends() if name not in there and is_installed(name)]
        asked = others[:1] if len(recorded) == 1 else []
        if not asked and len(recorded) == 1:
            return [get_backend()]
    named = asked.split(",") if isinstance(asked, str) else asked
    return [get_backend(b.strip()) if isinstance(b, str) else b for b in named]
