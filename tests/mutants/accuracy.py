"""Defects of whole runs: the accuracies of real ones, trained by another recipe than was asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from msgspec.structs import replace

from helpers.runs import RECIPE, TINY, few_digits
from resnet_xf import train
from resnet_xf.ladder.capture.evidence import TrialRecord
from resnet_xf.ladder.rungs.accuracy import Trial, accuracy
from resnet_xf.ladder.rungs.rung import Finding
from resnet_xf.training.recipe import Recipe

SEEDS = 3
MARGIN = 10.0
"""In points."""

ASKED = replace(RECIPE, epochs=4, schedule=replace(RECIPE.schedule, milestones=(3.5,)), label_smoothing=0.0)


@dataclass(frozen=True)
class Slip:
    """A recipe in place of the one that was asked for."""

    defect: str
    change: Callable[[Recipe], Recipe]
    rung: str = "accuracy"
    where: str = "the accuracies"
    network: str = "a tiny network on digits"
    sides: tuple[str, ...] = ("mxnet",)


@dataclass(frozen=True)
class Ran:
    """A side of which only the accuracies are known."""

    name: str
    found: Sequence[float]

    def take(self, key: str, kind: Any, measure: Any, *, large: bool) -> TrialRecord:
        recipe = Trial().resolved().to_complete_json()
        # No class of ten is as common as a ninth.
        return TrialRecord(dataset="digits", recipe=recipe, accuracies=tuple(self.found), commonest=100 / 9)


@cache
def reached(backend: str, change: Callable[[Recipe], Recipe] | None = None) -> tuple[float, ...]:
    """In percent, for each seed."""
    recipe = ASKED if change is None else change(ASKED)
    runs = [train(TINY, few_digits(900, 300), replace(recipe, seed=seed), backend=backend) for seed in range(SEEDS)]
    return tuple(100 * run.history[-1].test_accuracy for run in runs)


def judged(change: Callable[[Recipe], Recipe] | None) -> Finding:
    """What rung 10 makes of the accuracies of both backends, one of which was trained by a changed recipe."""
    sides: Any = [Ran("torch", reached("torch")), Ran("mxnet", reached("mxnet", change))]
    return accuracy(Trial(seeds=SEEDS, margin=MARGIN), lambda done, total, text: None, None, sides)  # type: ignore[arg-type]


ACCURACY = [
    Slip("a learning rate of a hundredth", lambda recipe: replace(recipe, optimizer=replace(recipe.optimizer, learning_rate=5e-4))),
    Slip("one epoch for four", lambda recipe: replace(recipe, epochs=1, schedule=replace(recipe.schedule, milestones=(0.9,)))),
]  # fmt: skip
