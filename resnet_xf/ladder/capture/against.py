"""Captures one backend's measurements, and compares captures with each other or with a backend that runs here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from resnet_xf.architecture.measures import array_digest
from resnet_xf.architecture.plan import Plan, plan, without_softmax
from resnet_xf.architecture.spec import Spec
from resnet_xf.architecture.weights import Array, Weights
from resnet_xf.backend.contract import Backend
from resnet_xf.backend.registry import check_backend, get_backend, is_installed, list_backends
from resnet_xf.errors import EvidenceError
from resnet_xf.ladder.capture.captured import Captured, record
from resnet_xf.ladder.capture.evidence import Manifest
from resnet_xf.ladder.capture.original import Original, translate
from resnet_xf.ladder.capture.recorded import read_evidence
from resnet_xf.ladder.climb import Tell, backends_of, climb, live_sides, rungs
from resnet_xf.ladder.inputs import memory_limit, subject_of, weights_of
from resnet_xf.ladder.report.report import LEVELS, Level, Report
from resnet_xf.ladder.rungs.accuracy import Trial
from resnet_xf.ladder.sides.live import Live
from resnet_xf.ladder.sides.side import Side
from resnet_xf.training.recipe import Recipe


def capture(
    spec: Plan | Spec | str,
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
    prefix: str | None = None,
    tell: Callable[[str, float], object] = lambda what, share: None,
) -> Manifest:
    """Measure one backend's network, and save in a new folder what :func:`resnet_xf.parity_against` needs of it.

    Args:
        spec: as in :func:`resnet_xf.parity`.
        out: the folder. It must be missing or empty.
        backend: as :func:`resnet_xf.get_backend` chooses it.
        level: the highest level at which the capture can be compared.
        image_size: as in :func:`resnet_xf.parity`.
        images: as in :func:`resnet_xf.parity`.
        weights: as in :func:`resnet_xf.parity`.
        seed: as in :func:`resnet_xf.parity`.
        device: ``cpu``, ``cuda`` or ``cuda:1``.
        precisions: as in :func:`resnet_xf.parity`.
        trial: the runs whose accuracies are saved. If None, they are saved at ``full`` only, on digits.
        max_memory: as in :func:`resnet_xf.parity`.
        prefix: as in :func:`resnet_xf.parity`.
        tell: called with the name of a rung and its finished share, from 0 to 1.

    Returns:
        The manifest of the capture: everything in it but the arrays.

    Raises:
        EvidenceError: if the folder cannot be written.
        ResNetXFError: as in :func:`resnet_xf.parity`.
    """
    subject, origin, images_origin = subject_of(spec, image_size, images, weights, seed, max_memory, prefix)
    live = Live(subject, check_backend(get_backend(backend)), device)
    climbed = rungs(subject, [live], level, precisions, trial, lambda number, name, share: tell(name, share))
    return record(Path(out), live, climbed, level, (origin, images_origin), precisions, tell)


def parity_against(
    captures: str | Path | Sequence[str | Path],
    backends: str | Sequence[str | Backend] | None = None,
    *,
    spec: Plan | Spec | str | None = None,
    weights: Mapping[str, Array] | str | Path | None = None,
    prefix: str | None = None,
    seed: int | None = None,
    level: Level | None = None,
    device: str = "cpu",
    trial: Trial | None = None,
    max_memory: int | None = None,
    on_rung: Tell = lambda number, name, share: None,
) -> Report:
    """Compare captures (saved measurements of networks) with backends that run here, or with each other.

    Weights, images and training steps are taken from the first capture.

    A capture may also be ``evidence.npz`` of an original MXNet network, as the file of ``resnet-xf capture-script``
    writes it. It holds only digests of the weights, so ``weights`` must be given. The comparison ends at rung 7.

    Args:
        captures: folders that :func:`capture` wrote, or one of them, or one evidence file.
        backends: the backends to run here. If None: for a single capture, the first other one that is installed; for
            several captures, none.
        spec: the network that was captured; refused if the captures are of another. If None, this is not checked.
        weights: the weights that were captured; refused if the captures are of others. If None, this is not checked.
        prefix: the prefix of the network's names in the file of weights, as in :func:`resnet_xf.parity`.
        seed: the seed that was captured; refused if it is another, or if there is none. If None, this is not checked.
        level: how many rungs are compared; if None, the highest level that all captures allow.
        device: as in :func:`resnet_xf.parity`.
        trial: its margin, folders and number of jobs are used. Data set, recipe and seeds come from the captures.
        max_memory: as in :func:`resnet_xf.parity`.
        on_rung: as in :func:`resnet_xf.parity`.

    Raises:
        EvidenceError: if a capture cannot be read, or is of another network, other weights, images or settings.
        BackendError: if no backend is left to compare with.
    """
    captures = [captures] if isinstance(captures, str | Path) else captures
    if not captures:
        raise EvidenceError("name a capture: a folder that `resnet-xf capture` wrote, or an evidence file")
    if any(Path(path).is_file() for path in captures):
        if seed is not None:
            raise EvidenceError(f"{captures[0]}: evidence of an original network has no seed; leave out --seed")
        return _against_evidence(captures, backends, spec, weights, prefix, level, device, trial, max_memory, on_rung)
    captured = [Captured(folder) for folder in captures]
    first = captured[0]
    for other in captured[1:]:
        if wrong := first.differs(other):
            raise EvidenceError(f"{first.folder} and {other.folder} cannot be compared; they differ in {wrong}")
    if len({one.folder.resolve() for one in captured}) < len(captured):
        raise EvidenceError(f"{first.folder}: is named twice; a capture is the same as itself")
    if seed not in (None, first.manifest.seed):
        raise EvidenceError(
            f"{first.folder}: was made with seed {first.manifest.seed}, and {seed} was asked for; leave out --seed, "
            "or capture again"
        )
    _check_subject(first, spec, weights, prefix)
    level = _level(captured, level)
    subject = first.subject(memory_limit(max_memory))
    sides: list[Side] = [*live_sides(subject, _backends(captured, backends), device)]
    names = [side.name for side in sides]
    for one in captured:
        if one.name in names:
            one.name = f"{one.name} of {one.folder}"
        names.append(one.name)
    if len(set(names)) < len(names):
        raise EvidenceError(f"a comparison is of different sides, got {', '.join(names)}")
    if subject.lockstep_run.recipe.to_complete_json() != first.manifest.recipe:
        raise EvidenceError(f"{first.folder}: was captured by a version that trains by another recipe; capture again")
    also = f", which {weights} holds too" if isinstance(weights, str | Path) else ""
    return climb(
        subject,
        [*sides, *captured],
        f"{first.manifest.weights}, as captured{also}",
        f"{first.manifest.images}, as captured",
        level=level,
        precisions=[p for p in first.manifest.precisions if all(p in one.manifest.precisions for one in captured)],
        trial=_trial(captured, trial, level),
        on_rung=on_rung,
    )


def _against_evidence(
    captures: Sequence[str | Path],
    backends: str | Sequence[str | Backend] | None,
    spec: Plan | Spec | str | None,
    weights: Mapping[str, Array] | str | Path | None,
    prefix: str | None,
    level: Level | None,
    device: str,
    trial: Trial | None,
    max_memory: int | None,
    on_rung: Tell,
) -> Report:
    """Compare ``weights`` with an evidence file: what was recorded of an original MXNet network.

    The network is read from the file of weights. If that does not tell it, it is ``spec``, or the evidence's graph.
    The arguments are as in :func:`parity_against`; ``captures`` is the evidence file alone.
    """
    path = captures[0]
    if len(captures) > 1:
        raise EvidenceError(f"{path}: evidence of an original network is compared alone; name it once")
    if trial is not None or level == "full":
        raise EvidenceError(f"{path}: holds one training step; leave out --accuracy and --level full")
    if weights is None:
        raise EvidenceError(f"{path}: holds no weights; name a file of them: resnet-xf parity FILE --against {path}")
    evidence = read_evidence(path)
    planned, arrays, origin = weights_of(translate(evidence).plan if spec is None else plan(spec), weights, prefix)
    if evidence.facts.softmax:
        planned = without_softmax(planned)
    translation = translate(evidence, planned)
    original = Original(evidence, translation, arrays)
    subject = original.subject(planned, memory_limit(max_memory))
    chosen = backends_of(backends) if backends else [_other_than("mxnet")]
    sides = live_sides(subject, chosen, device)
    if original.name in {side.name for side in sides}:
        original.name = f"{original.name} of {path}"
    left_out = f"; {evidence.facts.softmax} at its end is left out" if evidence.facts.softmax else ""
    return climb(
        subject,
        [*sides, original],
        f"{origin}; the original's graph and digests from {path}{left_out}",
        f"{len(subject.images)} images of {path}",
        level=level or "standard",
        on_rung=on_rung,
    )


def _trial(captured: Sequence[Captured], asked: Trial | None, level: Level) -> Trial | None:
    """Return the trial (training runs of rung 10) to compare: the captures', with margin, folders, jobs of ``asked``.

    Captures of backends that cannot train do not count. Return None if accuracies are not compared: ``asked`` is None,
    and the level is not full or some capture has none.

    Raises:
        EvidenceError: if ``asked`` has another data set, recipe or number of seeds than a capture, or it has none.
    """
    trials: dict[Path, Trial] = {}
    for one in captured:
        if one.cannot("train"):
            continue
        if (record := one.manifest.trial) is None:
            if asked is not None:
                raise EvidenceError(f"{one.folder}: holds no accuracies; capture again with --accuracy")
            return None
        seeds = len(record.accuracies)
        trials[one.folder] = Trial(dataset=record.dataset, recipe=Recipe.from_json(record.recipe), seeds=seeds)
    if not trials or (asked is None and level != "full"):
        return None
    first, trained = next(iter(trials.items()))
    asked = replace(asked, recipe=asked.recipe and asked.resolved()) if asked else trained
    for field in ("dataset", "recipe", "seeds"):
        if getattr(asked, field) not in (getattr(trained, field), getattr(Trial(), field)):
            raise EvidenceError(f"{first}: accuracies were captured of another {field}; leave that out")
        for folder, other in trials.items():
            if getattr(other, field) != getattr(trained, field):
                raise EvidenceError(f"{first} and {folder} cannot be compared; their accuracies differ in {field}")
    return replace(trained, margin=asked.margin, out=asked.out, data_dir=asked.data_dir, jobs=asked.jobs)


def _check_subject(
    first: Captured,
    spec: Plan | Spec | str | None,
    weights: Mapping[str, Array] | str | Path | None,
    prefix: str | None,
) -> None:
    """Raise EvidenceError unless a capture (saved measurements) was made of the network ``spec`` with these weights.

    What is None is not checked. If ``weights`` is the path of a checkpoint, the network that it says it holds is
    checked too; ``prefix`` begins the names of that network's arrays. Weights are compared by digests of their bytes.
    Only the networks' names may differ.
    """
    captured = first.manifest.spec
    planned = plan(captured if spec is None else spec)
    arrays: Weights = {}
    if weights is not None:
        planned, arrays, _ = weights_of(planned, weights, prefix)
    asked = planned.spec
    if fields := [field for field in captured.differences(asked) if field != "name"]:
        raise EvidenceError(
            f"{first.folder}: is of {captured.name}, and {asked.name} was asked for; they differ in "
            f"{', '.join(fields)}; name the capture's network, or capture this one"
        )
    digests = first.inputs().get("weights", {})
    wrong = [name for name, array in arrays.items() if digests.get(name) != array_digest(array)]
    if wrong:
        raise EvidenceError(
            f"{first.folder}: was captured with other weights; {len(wrong)} of {len(arrays)} arrays differ, "
            f"first {wrong[0]}"
        )


def _level(captured: Sequence[Captured], asked: Level | None) -> Level:
    """Return the level ``asked``, or if it is None the highest that all captures (saved measurements) allow.

    Raises:
        EvidenceError: if a capture has a lower level than ``asked``.
    """
    if asked is None:
        return min((one.manifest.level for one in captured), key=LEVELS.index)
    for one in captured:
        if LEVELS.index(one.manifest.level) < LEVELS.index(asked):
            raise EvidenceError(
                f"{one.folder}: was captured at level {one.manifest.level}; capture again with --level {asked}"
            )
    return asked


def _backends(captured: Sequence[Captured], asked: str | Sequence[str | Backend] | None) -> list[Backend]:
    """Return the backends to run: those ``asked`` for; if None, another one for a single capture, none for several."""
    if asked:
        return backends_of(asked)
    if len(captured) > 1:
        return []
    return [_other_than(captured[0].manifest.backend)]


def _other_than(backend: str) -> Backend:
    """Return the first installed backend of another name than ``backend``; if there is none, the default backend."""
    others = [name for name in list_backends() if name != backend and is_installed(name)]
    return get_backend(others[0] if others else None)
