"""Rung 8: training in float64, with weights, momentum and running statistics compared after every step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np

from resnet_xf.architecture.measures import layer_of, layer_sizes, tensor_errors
from resnet_xf.architecture.nodes import is_statistic
from resnet_xf.architecture.weights import VELOCITY, Weights
from resnet_xf.backend.learner import Learner
from resnet_xf.ladder.perturb import PERTURBATION, perturb_all
from resnet_xf.ladder.rungs.gradients import sensitivities
from resnet_xf.ladder.rungs.rung import Finding, Rung, Worst
from resnet_xf.ladder.sides.live import Live
from resnet_xf.ladder.sides.side import Side, measured
from resnet_xf.ladder.sketch import sketch
from resnet_xf.ladder.subject import Subject
from resnet_xf.ladder.training_errors import (
    LOSS,
    compare_statistics,
    float64_bound,
    growth,
    loss_error,
    parameters_of,
    statistics_of,
)


@dataclass(frozen=True, slots=True)
class State:
    """A run after one step.

    Attributes:
        loss: of the step.
        arrays: the weights, and the momentum of each behind ``VELOCITY``.
        growth: per layer, how much a small perturbation of the initial weights has grown so far; also for running
            statistics, by their arrays' names, and for the loss. Empty if not measured.
        sketched: whether sketches stand for the large arrays (:func:`resnet_xf.ladder.sketch.sketch`).
    """

    loss: float
    arrays: Weights
    growth: dict[str, float]
    sketched: bool = False


@measured("lock-step/{each}")
def states(live: Live, steps: Sequence[int], *, growing: bool, sketching: bool = False) -> Iterator[State]:
    """Yield the state of a float64 training run after each step.

    Args:
        live: the side. A capture yields what it saved, whatever the flags say.
        steps: the numbers of all steps of the run, from 1. They name the states and do not choose among them.
        growing: train a second network from perturbed weights beside it, to measure the growth.
        sketching: put sketches in place of the large arrays, in every state but the last.
    """
    run = live.subject.lockstep_run
    task, weights = run.task("float64", live.device), live.subject.weights
    start = {name: array.astype(np.float64) for name, array in weights.items()}
    beside = live.learner(task, perturb_all(weights, PERTURBATION)) if growing else nullcontext()
    with live.learner(task, start) as learner, beside as shadow:
        for number, step in zip(steps, run, strict=True):
            loss, _ = learner.step(step.images, step.targets, step.learning_rate)()
            arrays = _arrays_of(learner)
            grown = {}
            if shadow is not None:
                shadow_loss, _ = shadow.step(step.images, step.targets, step.learning_rate)()
                grown = growth((shadow_loss, _arrays_of(shadow)), (loss, arrays))
            live.tell(number / len(steps))
            state = State(loss, arrays, grown)
            yield sketched(state) if sketching and number < len(steps) else state


def _arrays_of(learner: Learner) -> Weights:
    weights, velocity = learner.dump()
    return weights | {VELOCITY + name: array for name, array in velocity.items()}


def sketched(state: State) -> State:
    """Return a state with sketches of its large arrays. Running statistics stay, so that their law can be checked."""
    if state.sketched:
        return state
    arrays = {name: array if is_statistic(name) else sketch(name, array) for name, array in state.arrays.items()}
    return replace(state, arrays=arrays, sketched=True)


def measure(subject: Subject, side: Side) -> None:
    """Measure all states."""
    for _ in states(side, range(1, subject.lockstep_run.steps + 1), growing=True, sketching=True):
        pass


def judge(subject: Subject, sides: Sequence[Side]) -> Finding:
    """Compare every array of every side with the first side's, after every step.

    The bound grows with the number of steps, and with the growth of a perturbation in the first side's run. Momentum
    sums gradients, so its bound is at least rung 7's. Gradients may cancel but their rounding errors do not: scale by
    peak momentum. Running variances must follow their law: one framework keeps the biased variance of a batch and the
    other the unbiased one. The two differ by m / (m − 1), where m is the number of elements per channel.
    """
    first, *others = sides
    worst = Worst()
    start = {name: array.astype(np.float64) for name, array in subject.weights.items()}
    before: list[Weights] = [start for _ in sides]
    noise = {VELOCITY + layer: gain for layer, gain in sensitivities(sides).items()}
    momentum, peaks = subject.lockstep_run.recipe.optimizer.momentum, dict[str, float]()
    numbers = range(1, subject.lockstep_run.steps + 1)
    runs = [states(side, numbers, growing=side is first) for side in sides]
    taken, last_loss = 0, 0.0
    for taken, reached in zip(numbers, zip(*runs, strict=True), strict=True):
        roundings = subject.lockstep_run.roundings * taken
        if any(state.sketched for state in reached):
            reached = tuple(map(sketched, reached))
        sizes = layer_sizes(reached[0].arrays)
        peaks = {place: max(size, momentum * peaks.get(place, 0.0)) for place, size in sizes.items()}
        gain = dict(reached[0].growth)
        for place in gain.keys() & noise.keys() & sizes.keys():
            gain[place] = max(gain[place], noise[place] * (peaks[place] / sizes[place] if sizes[place] else 1.0))
        for other, state, old in zip(others, reached[1:], before[1:], strict=True):
            pair, now = (first, other), (reached[0], state)
            if finding := _compare(subject, pair, now, (before[0], old), gain, roundings, worst):
                return replace(finding, where=f"{finding.where}, step {taken}")
        before = [statistics_of(state.arrays) for state in reached]
        last_loss = reached[0].loss
    detail = f"{taken} steps to a loss of {last_loss:.4f}; weights, momentum and statistics after each"
    return Finding(worst.value, worst.bound, detail)


def _compare(
    subject: Subject,
    sides: tuple[Side, Side],
    states: tuple[State, State],
    before: tuple[Weights, Weights],
    gain: Mapping[str, float],
    roundings: float,
    worst: Worst,
) -> Finding | None:
    """Compare two sides after a step: the loss, then the running statistics, then the parameters and their momentum."""
    (first, other), (expected, state) = sides, states
    error, bound = loss_error(state.loss, expected.loss), float64_bound(roundings, gain[LOSS])
    if not worst.see(error, bound, LOSS):
        return Finding(error, bound, f"{other.name} computes another loss than {first.name}", LOSS)
    after = (expected.arrays, state.arrays)
    for norm, error, bound in compare_statistics(subject, sides, before, after, gain, roundings):
        if not worst.see(error, bound, norm):
            return Finding(error, bound, f"{other.name}'s statistics do not follow {first.name}'s by their law", norm)
    errors = tensor_errors(parameters_of(state.arrays), parameters_of(expected.arrays))
    bounds = {tensor: float64_bound(roundings, gain.get(layer_of(tensor), 0.0)) for tensor in errors}
    wrong = [tensor for tensor, error in errors.items() if not worst.see(error, bounds[tensor], tensor)]
    if not wrong:
        return None
    tensor = wrong[0]
    differing, total = _count_by_kind(wrong), _count_by_kind(errors)
    kind = "momentum" if tensor.startswith(VELOCITY) else "weights"
    # If all weights differ, or all momentum, no single layer is the cause.
    all_differ = any(differing[kind] == total[kind] for kind in total)
    where = "the optimiser" if all_differ else tensor.removeprefix(VELOCITY)
    detail = f"{other.name}'s {kind} part from {first.name}'s in {differing[kind]} of {total[kind]} arrays"
    return Finding(errors[tensor], bounds[tensor], detail, where)


def _count_by_kind(tensors: Iterable[str]) -> Counter[str]:
    """Count the arrays that are weights, and those that are momentum."""
    return Counter("momentum" if tensor.startswith(VELOCITY) else "weights" for tensor in tensors)


RUNG = Rung(8, "lock-step", "relative error", measure, judge, "standard", ("train",))
