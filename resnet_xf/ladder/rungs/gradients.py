"""Rung 7: the loss and every parameter's gradient in training mode, in float64 as a whole and in float32 by layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from resnet_xf.architecture.measures import layer_errors, rounding_bound
from resnet_xf.ladder.rungs.lockstep import sensitivities, statistics_apart
from resnet_xf.ladder.sides.side import LOSS, Side, loss_error
from resnet_xf.ladder.subject import Finding, Subject, Worst


def gradients(subject: Subject, sides: Sequence[Side]) -> Finding:
    """One step on the first lesson, float64; and each layer's own gradients in float32 against its float64.

    In float64 the bound is the rounding law with each layer's measured gain; so it is for the loss in float32. The
    gradients of a whole float32 network have no bound: a ReLU whose input lies within a rounding of zero may let a
    gradient through or not, which is a jump and no rounding (a tenth of a layer's gradient was measured, on both
    frameworks). So there each layer is held alone against its own float64 on the same inputs, where no ReLU can change
    its mind.
    """
    first, *others = sides
    start = {name: array.astype("float64") for name, array in subject.weights.items()}
    steps = subject.lessons.roundings
    worst = Worst()
    for side, dtype in product(sides, ("float64", "float32")):
        if (finding := _unheld(side, dtype)) is not None:
            return finding
    truth, gains = first.step("float64"), sensitivities(sides)
    for other in others:
        step = other.step("float64")
        before, after = (start, start), (truth.statistics, step.statistics)
        for norm, error, bound in statistics_apart(subject, (first, other), before, after, gains, steps):
            if not error <= bound:
                return Finding(error, bound, f"{other.name}'s statistics are not {first.name}'s in training", norm)
        # Where the losses differ, so do all gradients, and none of them is the cause.
        finding = _loss(other, "float64", truth.loss, rounding_bound("float64", steps, gains[LOSS]))
        if finding is not None:
            return finding
        errors = layer_errors(step.gradients, truth.gradients)
        # Gradients come from the end, so the last layer that is wrong is the cause.
        for layer in reversed(list(errors)):
            worst.see(errors[layer], rounding_bound("float64", steps, gains.get(layer, 0.0)), layer)
            if not worst.holds:
                return Finding(worst.value, worst.bound, f"{other.name}'s gradient is not {first.name}'s", layer)
    for side in sides:
        finding = _loss(side, "float32", truth.loss, rounding_bound("float32", steps, gains[LOSS]))
        if finding is not None:
            return finding
        for layer, own in side.own_rounding().items():
            if not own.backward <= own.backward_bound:
                detail = f"{side.name}'s gradient in float32 is not its own float64 one"
                return Finding(own.backward, own.backward_bound, detail, layer)
    whole = max(max(layer_errors(side.step("float32").gradients, truth.gradients).values()) for side in sides)
    single = max(own.backward for side in sides for own in side.own_rounding().values())
    detail = f"loss {truth.loss:.4f}; float32 by layers at most {single:.1e}, as a whole {whole:.1e}"
    return Finding(worst.value, worst.bound, detail)


def _unheld(side: Side, dtype: str) -> Finding | None:
    """Gradients that are not there, since the momentum that holds them is not, or that are no numbers."""
    found = side.step(dtype).gradients
    where = "the optimiser" if not found else next((n for n, a in found.items() if not np.isfinite(a).all()), None)
    if where is None:
        return None
    detail = "holds a gradient that is not finite" if found else "keeps no momentum"
    return Finding(float("inf"), 0, f"{side.name} {detail} in {dtype}", where)


def _loss(side: Side, dtype: str, truth: float, bound: float) -> Finding | None:
    error = loss_error(side.step(dtype).loss, truth)
    if error <= bound:
        return None
    return Finding(error, bound, f"{side.name} computes another loss in {dtype}", "the loss")
