"""Rung 10: the same accuracy, within a declared margin, by runs that are paired by seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np

from resnet_xf.architecture.plan import plan
from resnet_xf.architecture.spec import ResNetSpec
from resnet_xf.backend.registry import get_backend, list_backends
from resnet_xf.data import load_dataset
from resnet_xf.errors import BackendError, TrainingError
from resnet_xf.ladder.accuracy.equivalence import compare
from resnet_xf.ladder.accuracy.study import images_for, train_seeds
from resnet_xf.ladder.sides.live import Live
from resnet_xf.ladder.sides.side import Side
from resnet_xf.ladder.subject import Finding, Subject
from resnet_xf.support.optional import optional
from resnet_xf.training.evaluation import check_fit
from resnet_xf.training.recipe import RECIPES, Recipe, get_recipe
from resnet_xf.training.runs import default_recipe

DIGITS_TRIAL = msgspec.structs.replace(
    RECIPES["digits"],
    name="digits_trial",
    epochs=4,
    batch_size=32,
    optimizer=msgspec.structs.replace(RECIPES["digits"].optimizer, learning_rate=0.003),
)
"""A short run for rung 10, at a rate at which networks of fifty layers learn the digits too, so that accuracies have
settled and chance has little to add: at 0.01 those of ResNet-50 range over ten points, at 0.003 over one or two."""


@dataclass(frozen=True)
class Trial:
    """How rung 10 trains.

    Attributes:
        dataset: what :func:`resnet_xf.data.load_dataset` takes.
        recipe: as :func:`resnet_xf.train` takes it; if None the data set's, for digits ``DIGITS_TRIAL``.
        seeds: how many, from 0.
        margin: in points (percent of the test images), a difference from which on accuracies are not the same. It is
            declared, not derived: 2 points of the 359 test digits are seven of them, which is what chance gives and
            takes.
        out: the runs' folder, in which an interrupted trial goes on; if None, one that is removed afterwards.
        data_dir: where the data set's files are, if not to be fetched.
        jobs: runs at a time; as many as there are processors if None.
    """

    dataset: str = "digits"
    recipe: Recipe | str | Path | None = None
    seeds: int = 5
    margin: float = 2.0
    out: Path | None = None
    data_dir: Path | None = None
    jobs: int | None = None

    def check(self, spec: ResNetSpec, *, trains: bool) -> None:
        """Refuse what rung 10 would refuse at the end; ``trains``: anything is trained, and not all was captured.

        Raises:
            TrainingError: if the margin or the number of seeds has no sense.
            ResNetXFError: if there is no such recipe or data set, it does not fit the network, or SciPy is missing.
        """
        if not (isfinite(self.margin) and self.margin > 0):
            raise TrainingError(f"margin: must be above 0 points, got {self.margin}")
        if self.seeds < 2:
            raise TrainingError(f"seeds: at least 2 pairs of runs are needed, got {self.seeds}")
        optional("scipy", "accuracies are compared by SciPy")
        self.resolved()
        if trains:
            check_fit(plan(spec), images_for(spec, load_dataset(self.dataset, self.data_dir)))

    def resolved(self) -> Recipe:
        """The recipe itself."""
        if self.recipe is not None:
            return get_recipe(self.recipe)
        return DIGITS_TRIAL if self.dataset == "digits" else get_recipe(default_recipe(self.dataset))


def accuracy(trial: Trial, tell: Callable[[int, int, str], object], subject: Subject, sides: Sequence[Side]) -> Finding:
    """Two one-sided t-tests on the accuracies of every seed; it holds if they are shown to be within the margin.

    It does not where a network has learnt nothing, so that it answers no better than by the commonest class: all
    networks are equivalent in that.

    Raises:
        ResNetXFError: as :func:`resnet_xf.ladder.accuracy.study.train_seeds`.
    """
    live = [side for side in sides if isinstance(side, Live)]
    for side in live:
        if side.name not in list_backends() or get_backend(side.name) is not side.backend:
            raise BackendError(
                f"accuracies are trained in processes of their own, which know no {side.name!r} but the installed "
                "one; leave the trial out, or install yours under a name of its own"
            )
    devices = {side.name: side.device for side in live}
    accuracies, there = run_trial(trial, subject, devices, tell) if devices else ({}, 0)
    recorded = {side.name: side.accuracies(trial) for side in sides if not isinstance(side, Live)}
    accuracies |= {name: found for name, (found, _) in recorded.items()}
    commonest = min((share for _, share in recorded.values()), default=None) or commonest_share(trial)
    first, *others = sides
    seeds = range(trial.seeds)
    found = [compare(first.name, other.name, accuracies, seeds, trial.margin, commonest=commonest) for other in others]
    worst = max(found, key=lambda one: (one.verdict != "equivalent", max(map(abs, one.interval))))
    detail = f"{worst.sentence()}; {trial.dataset} by the recipe {trial.resolved().name}"
    detail += f"; {there} of the runs were there already" if there else ""
    if worst.verdict == "nothing learnt":
        detail += f"; always naming the commonest class gives {commonest:.2f}%, so train longer, by another recipe"
        return Finding(float("inf"), trial.margin, detail, "the accuracies", accuracy=worst)
    where = None if worst.verdict == "equivalent" else "the accuracies"
    return Finding(max(map(abs, worst.interval)), trial.margin, detail, where, accuracy=worst)


def commonest_share(trial: Trial) -> float:
    """How many of the test images are of the commonest class, in percent: the accuracy of always saying so."""
    labels = load_dataset(trial.dataset, trial.data_dir).test.labels
    return 100 * float(np.bincount(labels).max()) / len(labels)


def run_trial(
    trial: Trial, subject: Subject, devices: Mapping[str, str], tell: Callable[[int, int, str], object]
) -> tuple[dict[str, tuple[float, ...]], int]:
    """Train every seed on every backend, each on its device.

    Each backend's accuracies, in percent, and how many of the runs were there already.
    """
    assert subject.outline.spec is not None
    planned = plan(subject.outline.spec)
    found: dict[str, tuple[float, ...]] = {}
    there = 0
    with TemporaryDirectory(prefix="resnet-xf-") as temporary:
        for device in dict.fromkeys(devices.values()):
            study = train_seeds(
                planned,
                trial.dataset,
                trial.resolved(),
                [name for name, place in devices.items() if place == device],
                range(trial.seeds),
                out=trial.out or temporary,
                data_dir=trial.data_dir,
                device=device,
                jobs=trial.jobs,
                callback=tell,
            )
            found |= study.accuracies
            there += study.already_trained
    return found, there
