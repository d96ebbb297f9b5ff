"""Rung 7: compares the loss and gradients of one training step: the whole network in float64, its layers in float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import sqrt

import numpy as np

from resnet_xf.architecture.measures import EPSILON, layer_errors, rounding_bound
from resnet_xf.architecture.weights import Array, Weights, first_not_finite
from resnet_xf.ladder.capture.script import sketch
from resnet_xf.ladder.perturb import PERTURBATION, next_values, perturb, perturb_all
from resnet_xf.ladder.rungs.layers import rounding
from resnet_xf.ladder.rungs.rung import Finding, Rung, Worst
from resnet_xf.ladder.sides.live import Live
from resnet_xf.ladder.sides.side import Side, measured
from resnet_xf.ladder.subject import Subject
from resnet_xf.ladder.training_errors import LOSS, compare_statistics, growth, loss_error, statistics_of

DRAWS = 3
"""From how many float32 steps the rounding errors of gradients are measured. In one step, one may be 0 by chance."""


@dataclass(frozen=True, slots=True)
class Step:
    """One training step: the outputs, the loss, the gradient of every parameter, the running statistics after it.

    If ``sketched``, the gradients are sketches (a few values that stand for an array), and some may be missing.
    """

    outputs: Array
    loss: float
    gradients: Weights
    statistics: Weights
    sketched: bool = False


@measured("step/{dtype}", large=True)
def first_step(live: Live, dtype: str) -> Step:
    """Take the first training step, at learning rate 0, in a dtype, and return its loss, gradients and so on."""
    return _take_step(live, dtype, live.subject.weights)


@measured("sensitivity")
def sensitivity(live: Live) -> dict[str, float]:
    """Return how many times larger a small perturbation of weights and images becomes in each layer's gradients.

    The result has running statistics and ``LOSS`` too. A perturbation cannot show gradients that are always zero (a
    conv bias before BatchNorm). Take their noise from ``DRAWS`` float32 steps, divided by the rounding error of sums
    that are made in blocks: float32 sums are made so, while float64 sums may be made term by term.
    """
    weights, exact = live.subject.weights, first_step(live, "float64")
    found = _growth(_take_step(live, "float64", perturb_all(weights, PERTURBATION), PERTURBATION), exact)
    for draw in range(DRAWS):
        single = _take_step(live, "float32", next_values(weights, draw)) if draw else first_step(live, "float32")
        _raise_to(found, _noise(live.subject, single, exact))
        del single
    return found


def _noise(subject: Subject, single: Step, exact: Step) -> dict[str, float]:
    """Return the error of each layer's float32 gradients, over the rounding error of sums that are made in blocks."""
    typical = EPSILON["float32"] * sqrt(subject.lockstep_run.path)
    return {layer: error / typical for layer, error in layer_errors(single.gradients, exact.gradients).items()}


def _raise_to(gains: dict[str, float], others: Mapping[str, float]) -> None:
    """Put the larger of two gains in place of each."""
    gains |= {layer: max(gains.get(layer, 0.0), gain) for layer, gain in others.items()}


def _growth(perturbed: Step, exact: Step) -> dict[str, float]:
    return growth(*((step.outputs, step.gradients | step.statistics) for step in (perturbed, exact)))


def _take_step(live: Live, dtype: str, weights: Mapping[str, Array], perturbation: float = 0.0) -> Step:
    """Take one training step from ``weights``, at learning rate 0, and return it.

    There is no weight decay and no earlier momentum, so the momentum buffers are the gradients. The images are
    perturbed by the relative size ``perturbation``.
    """
    step = live.subject.lockstep_run.all_steps[0]
    images = perturb(step.images, perturbation, "lesson") if perturbation else step.images
    task = live.subject.lockstep_run.task(dtype, live.device, weight_decay=0.0, nesterov=False)
    with live.learner(task, weights) as learner:
        loss, outputs = learner.step(images, step.targets, 0.0)()
        after, velocity = learner.dump()
        after = statistics_of(after)
        del learner
    return Step(outputs, loss, velocity, after)


def measure(subject: Subject, side: Side) -> None:
    """Let a side measure and save what this rung needs: the step in float64 and float32, and how errors grow in it."""
    for dtype in ("float64", "float32"):
        first_step(side, dtype)
    sensitivity(side)
    rounding(side)


def judge(subject: Subject, sides: Sequence[Side]) -> Finding:
    """Compare the first training step of all sides (networks) in float64, and each layer's gradients in float32.

    Float64 errors are bounded by :func:`rounding_bound` with each layer's measured :func:`sensitivity`. So is the loss
    in float32. The gradients of a whole float32 network have no bound: if the input of a ReLU is within a rounding
    error of zero, the ReLU may pass the gradient or not. This is a jump, not a rounding error: it changed a layer's
    gradient by a tenth, on both frameworks. So in float32 each layer is run alone in both dtypes on the same inputs,
    where no ReLU can change.
    """
    first, *others = sides
    start = {name: array.astype(np.float64) for name, array in statistics_of(subject.weights).items()}
    steps = subject.lockstep_run.roundings
    worst = Worst()
    for side, dtype in product(sides, ("float64", "float32")):
        if finding := _check_gradients(side, dtype):
            return finding
    truth, gains = first_step(first, "float64"), sensitivities(sides)
    for other in others:
        step = first_step(other, "float64")
        if step.sketched:  # all that is known of a recorded network's rounding errors
            _raise_to(gains, _noise(subject, first_step(other, "float32"), step))
        after = (truth.statistics, step.statistics)
        for norm, error, gain in compare_statistics(subject, (first, other), (start, start), after, gains):
            if not error <= (bound := rounding_bound("float64", steps, gain)):
                return Finding(error, bound, f"{other.name}'s statistics are not {first.name}'s in training", norm)
        # If the losses differ, so do all gradients, and no layer is the cause.
        if finding := _compare_loss(other, "float64", truth.loss, rounding_bound("float64", steps, gains[LOSS])):
            return finding
        errors = gradient_errors(step, truth)
        # Gradients are computed from the end, so the last layer that is wrong is the cause.
        for layer in reversed(list(errors)):
            if not worst.see(errors[layer], rounding_bound("float64", steps, gains.get(layer, 0.0)), layer):
                return Finding(worst.value, worst.bound, f"{other.name}'s gradient is not {first.name}'s", layer)
    for side in sides:
        if finding := _compare_loss(side, "float32", truth.loss, rounding_bound("float32", steps, gains[LOSS])):
            return finding
        for layer, own in rounding(side).items():
            if not own.backward <= own.backward_bound:
                detail = f"{side.name}'s gradient in float32 is not its own float64 one"
                return Finding(own.backward, own.backward_bound, detail, layer)
    whole = max(max(gradient_errors(first_step(side, "float32"), truth).values()) for side in sides)
    single = max(own.backward for side in sides for own in rounding(side).values())
    detail = f"loss {truth.loss:.4f}; float32 by layers at most {single:.1e}, as a whole {whole:.1e}"
    recorded = [first_step(side, "float64") for side in sides]
    if left := [name for name in truth.gradients if any(s.sketched and name not in s.gradients for s in recorded)]:
        detail += f"; not recorded: {', '.join(left)}"
    remarks = {
        "training is compared without dropout, whose rates are the same": bool(subject.outline.dropouts),
        "what training keeps besides weights and running statistics is not compared": subject.keeps_more,
        "every gradient is 0, as with one output, so little of training is compared": not any(
            array.any() for array in truth.gradients.values()
        ),
    }
    return Finding(worst.value, worst.bound, detail, remark="; ".join(text for text, true in remarks.items() if true))


def gradient_errors(step: Step, truth: Step) -> dict[str, float]:
    """Return each layer's largest relative error of its gradients.

    If ``step`` holds sketches (short summaries of arrays), sketches of ``truth`` are compared with them, and gradients
    that ``step`` lacks are left out. Without sketches, a missing gradient has an infinite error.
    """
    expected = truth.gradients
    if step.sketched:
        expected = {name: sketch(array) for name, array in expected.items() if name in step.gradients}
    return layer_errors(step.gradients, expected)


def sensitivities(sides: Sequence[Side]) -> dict[str, float]:
    """Return each layer's largest :func:`sensitivity` among the networks that run here, or all if none does."""
    found: dict[str, float] = {}
    for side in [side for side in sides if isinstance(side, Live)] or sides:
        _raise_to(found, sensitivity(side))
    return found


def _check_gradients(side: Side, dtype: str) -> Finding | None:
    """Return a failure if a network has no gradients (its optimiser keeps no momentum) or one is infinite or NaN."""
    gradients = first_step(side, dtype).gradients
    if not gradients:
        return Finding(float("inf"), 0, f"{side.name} keeps no momentum in {dtype}", "the optimiser")
    where = first_not_finite(gradients)
    if where is None:
        return None
    return Finding(float("inf"), 0, f"{side.name} holds a gradient that is not finite in {dtype}", where)


def _compare_loss(side: Side, dtype: str, expected: float, bound: float) -> Finding | None:
    error = loss_error(first_step(side, dtype).loss, expected)
    if error <= bound:
        return None
    return Finding(error, bound, f"{side.name} computes another loss in {dtype}", LOSS)


NEEDS = ("train", "run layers alone", "differentiate layers alone")

RUNG = Rung(7, "gradients", "relative error", measure, judge, "standard", NEEDS)
