"""Rung 9: compares learning curves in float32. The unit: what a change of the weights by one rounding does to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt

import numpy as np

from resnet_xf.architecture.measures import EPSILON
from resnet_xf.architecture.weights import Array
from resnet_xf.ladder.perturb import next_values
from resnet_xf.ladder.report.report import Curves
from resnet_xf.ladder.rungs.rung import Finding, Rung
from resnet_xf.ladder.short_run import TrainingStep
from resnet_xf.ladder.sides.live import Live
from resnet_xf.ladder.sides.side import Side, measured
from resnet_xf.ladder.subject import Subject

CURVE_MULTIPLE = 3.0
"""The bound: two sides' losses may be this many times as far apart as those of one side's run and its perturbed runs.
It was chosen and not derived.

Training in float32 is chaotic: within ten steps, a change by one rounding error makes the losses as different as chance
would. Eight networks were 0.7 to 1.6 times as far apart as a side's perturbed runs
(benchmarks/results/full_ladder.json). A run at another learning rate is further away, because of its trend."""

PERTURBED_RUNS = 2
"""How many runs from perturbed weights each side makes."""

PART = 0.01
"""The relative difference of two losses from which a report says that the curves part."""

PLACE = "the losses"


@dataclass(frozen=True, slots=True)
class Curve:
    """The losses of a float32 training run, step by step, and in ``nudged`` those of runs from perturbed weights."""

    losses: tuple[float, ...]
    nudged: tuple[tuple[float, ...], ...]


@measured("curve")
def curve(live: Live) -> Curve:
    """Train from the start weights, then from weights whose values are replaced by float32 values next to them.

    Return the losses of all these runs.
    """
    steps, start = list(live.subject.curve_run), live.subject.curve_start()
    starts = [start, *(next_values(start, run) for run in range(1, 1 + PERTURBED_RUNS))]
    losses, *perturbed = (_train(live, steps, weights, run) for run, weights in enumerate(starts))
    return Curve(losses, tuple(perturbed))


def _train(live: Live, steps: Sequence[TrainingStep], weights: Mapping[str, Array], run: int) -> tuple[float, ...]:
    """Train from ``weights`` and return the loss of each step. ``run`` is the run's number from 0, for the progress."""
    losses = []
    with live.learner(live.subject.curve_run.task("float32", live.device), weights) as learner:
        for number, step in enumerate(steps, start=1):
            losses.append(learner.step(step.images, step.targets, step.learning_rate)()[0])
            live.tell((run + number / len(steps)) / (1 + PERTURBED_RUNS))
    return tuple(losses)


def judge(subject: Subject, sides: Sequence[Side]) -> Finding:
    """Compare the losses of every two sides (networks), trained on the same batches, by root mean square difference.

    The unit is the largest difference between a side's run and its perturbed runs, on the side where this is smallest.
    If the rounding errors of all steps add up to more, the unit is their sum instead.
    """
    found = {side.name: curve(side) for side in sides}
    curves = Curves(
        losses={name: one.losses for name, one in found.items()},
        nudged={name: one.nudged for name, one in found.items()},
    )
    infinite = next((name for name, one in found.items() if not np.isfinite([one.losses, *one.nudged]).all()), None)
    if infinite is not None:
        return Finding(float("inf"), CURVE_MULTIPLE, f"{infinite}'s loss does not stay finite", PLACE, curves=curves)
    perturbed = min(max(distance(one.losses, losses) for losses in one.nudged) for one in found.values())
    run, loss = subject.curve_run, max(abs(x) for one in found.values() for x in one.losses)
    unit = max(perturbed, EPSILON["float32"] * sqrt(run.roundings * run.steps) * max(1.0, loss))
    apart, a, b = max((distance(curves.losses[a], curves.losses[b]), a, b) for a, b in combinations(curves.losses, 2))
    detail = (
        f"{len(curves.losses[a])} steps, {_parting(curves.losses[a], curves.losses[b])}; "
        f"{apart:.2g} apart, {perturbed:.2g} after a nudge of one rounding"
    )
    value = apart / unit
    return Finding(value, CURVE_MULTIPLE, detail, None if value <= CURVE_MULTIPLE else PLACE, curves=curves)


def distance(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the root mean square difference of two runs' losses; infinite if one is not finite or lengths differ."""
    a, b = np.array(first), np.array(second)
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    return float(np.sqrt(((a - b) ** 2).mean()))


def _parting(first: Sequence[float], second: Sequence[float]) -> str:
    """Describe in words the first step at which the losses of two runs differ by more than ``PART``."""
    for step, (a, b) in enumerate(zip(first, second, strict=True), start=1):
        if abs(a - b) > PART * abs(a):
            return f"the curves part by {PART:.0%} at step {step}"
    return f"the curves never part by {PART:.0%}"


RUNG = Rung(
    9,
    "learning curves",
    "distance in nudges",
    lambda subject, side: curve(side),
    judge,
    "full",
    ("train", "train step by step"),
)
