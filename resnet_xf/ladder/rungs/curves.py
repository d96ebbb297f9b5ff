"""Rung 9: learning curves in float32, held against what a change of one rounding does to them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import sqrt

import numpy as np

from resnet_xf.architecture.measures import EPSILON
from resnet_xf.ladder.report.report import Curves
from resnet_xf.ladder.sides.side import Side
from resnet_xf.ladder.subject import Finding, Subject

CURVE_MULTIPLE = 3.0
"""How many times as far apart as a side's own nudged runs two sides' losses may be: a declared margin.

Training in float32 is chaotic: a change of one rounding grows within ten steps to what chance alone would make of the
losses. The zoo's networks were 0.4 to 0.9 times as far from the other side as the furthest of four nudged runs was from
its own; a run at another learning rate is further by its trend."""

PART = 0.01
"""A share of the loss, by which curves are said to part."""


def learning_curves(subject: Subject, sides: Sequence[Side]) -> Finding:
    """The root of the mean square of the losses' differences over a run on real data, with the same batches.

    The yardstick is the largest such distance between a side's run and the same begun with every weight moved to one of
    the two float32 numbers next to it, on the calmer side; and no less than the roundings of so many steps, added up,
    where training is so calm that none of them grows.
    """
    found = {side.name: side.curve() for side in sides}
    curves = Curves(
        losses={name: curve.losses for name, curve in found.items()},
        nudged={name: curve.nudged for name, curve in found.items()},
    )
    wild = next((name for name, curve in found.items() if not np.isfinite([curve.losses, *curve.nudged]).all()), None)
    if wild is not None:
        return Finding(float("inf"), CURVE_MULTIPLE, f"{wild}'s loss does not stay finite", "the losses", curves=curves)
    nudges = min(max(distance(curve.losses, nudged) for nudged in curve.nudged) for curve in found.values())
    course, loss = subject.course, max(abs(x) for c in found.values() for x in c.losses)
    yardstick = max(nudges, EPSILON["float32"] * sqrt(course.roundings * course.steps) * max(1.0, loss))
    apart, pair = max((distance(curves.losses[a], curves.losses[b]), (a, b)) for a, b in combinations(curves.losses, 2))
    detail = (
        f"{len(curves.losses[pair[0]])} steps, {_parting(curves.losses[pair[0]], curves.losses[pair[1]])}; "
        f"{apart:.2g} apart, {nudges:.2g} after a nudge of one rounding"
    )
    value = apart / yardstick
    return Finding(value, CURVE_MULTIPLE, detail, None if value <= CURVE_MULTIPLE else "the losses", curves=curves)


def distance(first: Sequence[float], second: Sequence[float]) -> float:
    """The root of the mean square of the differences; infinite if one is not finite or of another length."""
    a, b = np.array(first), np.array(second)
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    return float(np.sqrt(((a - b) ** 2).mean()))


def _parting(first: Sequence[float], second: Sequence[float]) -> str:
    """Where two curves part."""
    for step, (a, b) in enumerate(zip(first, second, strict=True), start=1):
        if abs(a - b) > PART * abs(a):
            return f"the curves part by {PART:.0%} at step {step}"
    return f"the curves never part by {PART:.0%}"
