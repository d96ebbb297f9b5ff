"""Rung 10: the same test accuracy, to within a declared margin, from training runs that are paired by seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from math import inf, isfinite
from pathlib import Path

import msgspec
import numpy as np

from resnet_xf.architecture.plan import plan
from resnet_xf.backend.registry import get_backend, list_backends
from resnet_xf.data import load_dataset
from resnet_xf.errors import BackendError, DataError, EvidenceError, TrainingError
from resnet_xf.ladder.accuracy.equivalence import compare
from resnet_xf.ladder.accuracy.study import Callback as Tell
from resnet_xf.ladder.accuracy.study import PreparedStudy, prepare_seeds
from resnet_xf.ladder.capture.evidence import ACCURACY, TrialRecord
from resnet_xf.ladder.rungs.rung import Finding, Rung
from resnet_xf.ladder.sides.live import Live
from resnet_xf.ladder.sides.side import Side, measured
from resnet_xf.ladder.subject import Subject
from resnet_xf.support.files import temporary_folder
from resnet_xf.support.optional import optional
from resnet_xf.training.evaluation import check_fit, images_for
from resnet_xf.training.recipe import RECIPES, Recipe, get_recipe
from resnet_xf.training.runs import DEFAULT_RECIPES, default_recipe

DIGITS_TRIAL = msgspec.structs.replace(
    RECIPES["digits"],
    name="digits_trial",
    epochs=4,
    batch_size=32,
    optimizer=msgspec.structs.replace(RECIPES["digits"].optimizer, learning_rate=0.003),
)
"""A short recipe for rung 10. Its learning rate suits networks of fifty layers too, so that accuracies vary little by
chance: those of ResNet-50 range over ten points at 0.01, and over one or two at 0.003."""

MEND = "choose another data set, a spec with {0} = {2}, or a comparison without accuracies (level standard)"
"""What a person can do if the data set does not fit the network."""


@dataclass(frozen=True)
class Trial:
    """How rung 10 trains the networks whose test accuracies it compares.

    Attributes:
        dataset: a name, as :func:`resnet_xf.data.load_dataset` takes it.
        recipe: as :func:`resnet_xf.train` takes it; if None the data set's own, and for digits ``DIGITS_TRIAL``.
        seeds: the number of seeds; they are 0, 1, and so on.
        margin: the smallest difference of accuracies that matters, in percentage points. It is chosen, not derived: 2
            points are seven of the 359 test digits, which chance alone can change.
        out: the folder of the runs, from which an interrupted trial continues; if None, a temporary one.
        data_dir: the folder with the data set's files; if None they are fetched.
        jobs: how many runs are trained at the same time; if None, one for each processor.
    """

    dataset: str = "digits"
    recipe: Recipe | str | Path | None = None
    seeds: int = 5
    margin: float = 2.0
    out: Path | None = None
    data_dir: Path | None = None
    jobs: int | None = None

    def check(self, subject: Subject, live: Sequence[Live]) -> None:
        """Raise, before the ladder starts, the errors that rung 10 would raise after hours.

        Args:
            subject: gives the network's spec.
            live: the sides (networks that run here) to be trained; empty if all accuracies are in captures.

        Raises:
            TrainingError: if the margin or the number of seeds is out of range.
            MissingExtraError: if SciPy is not installed.
            ResNetXFError: if there is no such recipe or data set, or it does not fit the network; or as
                :func:`run_trial`, if a folder holds another run, say.
        """
        if not (isfinite(self.margin) and self.margin > 0):
            raise TrainingError(f"margin: must be above 0 points, got {self.margin}")
        if self.seeds < 2:
            raise TrainingError(f"seeds: at least 2 pairs of runs are needed, got {self.seeds}")
        optional("scipy", "accuracies are compared by SciPy")
        self.resolved()
        if live:
            with _prepared(self, subject, live):
                pass

    def resolved(self) -> Recipe:
        """Return the recipe of the training runs: ``recipe``, or the default of the data set."""
        return self._default_recipe if self.recipe is None else get_recipe(self.recipe)

    @cached_property
    def _default_recipe(self) -> Recipe:
        if self.dataset == "digits":
            return DIGITS_TRIAL
        images = None
        if self.dataset not in DEFAULT_RECIPES:
            with suppress(DataError):  # a capture's images may be on another machine
                images = len(load_dataset(self.dataset, self.data_dir).train)
        return get_recipe(default_recipe(self.dataset, images))


@measured(ACCURACY)
def accuracies(live: Live, trial: Trial, tell: Tell) -> TrialRecord:
    """Train a side (network) from every seed of a trial, and return the test accuracies."""
    found, _ = run_trial(trial, live.subject, [live], tell)
    return TrialRecord(
        dataset=trial.dataset,
        recipe=trial.resolved().to_complete_json(),
        accuracies=found[live.name],
        commonest=commonest_share(trial),
    )


def accuracy_rung(trial: Trial, tell: Tell) -> Rung:
    """Return rung 10 for a trial. ``tell`` is called with the finished steps, their total, and a text on the run."""

    def measure(subject: Subject, side: Side) -> None:
        accuracies(side, trial, tell)

    return Rung(10, "accuracy", "points", measure, partial(accuracy, trial, tell), "full", ("train",))


def _captured(side: Side, trial: Trial, tell: Tell) -> TrialRecord:
    """Return the accuracies that a capture has; raise EvidenceError for another data set, recipe or number of seeds."""
    record = accuracies(side, trial, tell)
    for field, captured, asked in (
        ("dataset", record.dataset, trial.dataset),
        ("recipe", record.recipe, trial.resolved().to_complete_json()),
        ("seeds", len(record.accuracies), trial.seeds),
    ):
        if captured != asked:
            raise EvidenceError(f"{side.name}: trial: {field} {captured} was captured, and {asked} was asked for")
    return record


def accuracy(trial: Trial, tell: Tell, subject: Subject, sides: Sequence[Side]) -> Finding:
    """Judge: every side (network) must be shown to reach the first side's accuracy within the margin, above chance.

    For sides that run here, accuracies are measured by training; for captures (saved measurements), they are read.
    Return the finding for the side with the worst result.

    Args:
        trial: how runs are trained.
        tell: called with the steps done, the steps in all, and a text.
        subject: gives the network's spec.
        sides: the backends or captures to compare.

    Raises:
        ResNetXFError: as :func:`run_trial`.
    """
    live = [side for side in sides if isinstance(side, Live)]
    reached, already_trained = run_trial(trial, subject, live, tell) if live else ({}, 0)
    captured = {side.name: _captured(side, trial, tell) for side in sides if not isinstance(side, Live)}
    reached |= {name: record.accuracies for name, record in captured.items()}
    commonest = min((record.commonest for record in captured.values()), default=None) or commonest_share(trial)
    first, *others = sides
    seeds = range(trial.seeds)
    results = [compare(first.name, one.name, reached, seeds, trial.margin, commonest=commonest) for one in others]
    worst = max(results, key=lambda one: (one.verdict != "equivalent", max(map(abs, one.interval))))
    value = max(map(abs, worst.interval))
    detail = f"{worst.sentence()}; {trial.dataset} by the recipe {trial.resolved().name}"
    detail += f"; {already_trained} of the runs were there already" if already_trained else ""
    if worst.verdict == "nothing learnt":
        value = inf
        detail += f"; always naming the commonest class gives {commonest:.2f}%, so train longer, by another recipe"
    where = None if worst.verdict == "equivalent" else "the accuracies"
    return Finding(value, trial.margin, detail, where, accuracy=worst)


def commonest_share(trial: Trial) -> float:
    """Return the share of the most frequent class among the test images, in percent: what a constant guess reaches."""
    labels = load_dataset(trial.dataset, trial.data_dir).test.labels
    return 100 * float(np.bincount(labels).max()) / len(labels)


def run_trial(
    trial: Trial, subject: Subject, live: Sequence[Live], tell: Tell
) -> tuple[dict[str, tuple[float, ...]], int]:
    """Measure: train every seed on the backend of every side (network that runs here), on the side's device.

    Returns:
        The accuracies of every backend in percent, by seed; and how many of the runs were trained by an earlier call.

    Raises:
        BackendError: if a side's backend is not the installed one of its name.
        ResNetXFError: as :func:`resnet_xf.ladder.accuracy.study.prepare_seeds` and
            :meth:`resnet_xf.ladder.accuracy.study.PreparedStudy.train`.
    """
    accuracies: dict[str, tuple[float, ...]] = {}
    already_trained = 0
    with _prepared(trial, subject, live) as studies:
        for prepared in studies:
            study = prepared.train(tell)
            accuracies |= study.accuracies
            already_trained += study.already_trained
    return accuracies, already_trained


@contextmanager
def _prepared(trial: Trial, subject: Subject, live: Sequence[Live]) -> Iterator[list[PreparedStudy]]:
    """Check all that :func:`run_trial` can check before it trains. Yield the runs on each device, ready to be trained.

    Without a folder in ``trial``, they have a temporary one within the block.
    """
    for side in live:
        if side.name not in list_backends() or get_backend(side.name) is not side.backend:
            raise BackendError(
                f"accuracies are trained in processes of their own, which know no {side.name!r} but the installed "
                "one; leave the trial out, or install yours under a name of its own"
            )
    devices = {side.name: side.device for side in live}
    spec = subject.outline.spec
    assert spec is not None
    data = images_for(spec, load_dataset(trial.dataset, trial.data_dir))
    check_fit(plan(spec), data, mend=MEND)
    with temporary_folder() as temporary:
        studies = [
            prepare_seeds(
                plan(spec),
                data,
                trial.resolved(),
                [name for name, place in devices.items() if place == device],
                range(trial.seeds),
                out=trial.out or temporary,
                data_dir=trial.data_dir,
                device=device,
                jobs=trial.jobs,
            )
            for device in dict.fromkeys(devices.values())
        ]
        del data  # the runs' processes read it again
        yield studies
