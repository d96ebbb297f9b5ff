"""Rung 8: training steps in float64, with weights, momentum and running statistics compared after every step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from math import prod, sqrt

import numpy as np

from resnet_xf.architecture.measures import (
    EPSILON,
    largest_rounding,
    layer_of,
    layer_sizes,
    rounding_bound,
    tensor_errors,
)
from resnet_xf.architecture.nodes import is_statistic
from resnet_xf.architecture.weights import VELOCITY, Array, Weights
from resnet_xf.backend.learner import Learner
from resnet_xf.ladder.perturb import PERTURBATION, perturb_all
from resnet_xf.ladder.rungs.gradients import sensitivities
from resnet_xf.ladder.rungs.rung import Finding, Rung, Worst
from resnet_xf.ladder.short_run import ShortRun
from resnet_xf.ladder.sides.live import Live
from resnet_xf.ladder.sides.side import Side, measured
from resnet_xf.ladder.sketch import sketch
from resnet_xf.ladder.subject import Subject
from resnet_xf.ladder.training_errors import (
    LOSS,
    compare_statistics,
    growth,
    loss_error,
    parameters_of,
    statistics_of,
)
from resnet_xf.support.seeding import philox

SMALLEST = {"learning rate": 2.0**-24, "momentum": 2.0**-26, "weight decay": 1.0}
"""The smallest planted defect of each law, as a share of its term: a rate or a momentum that one side holds as float64,
and a decay that one side leaves out for some weights (``docs/mutants.md``)."""

MOST = sqrt(EPSILON["float64"])
"""The largest bound. See :func:`resnet_xf.architecture.measures.rounding_bound`."""

CHAOTIC = "inference and gradients hold; training at these weights is too chaotic to compare"


@dataclass(frozen=True, slots=True)
class State:
    """A run after one step.

    Attributes:
        loss: of the step.
        arrays: the weights, and the momentum of each behind ``VELOCITY``.
        growth: per layer, how much a small perturbation of the initial weights has grown since the restart; also for
            running statistics, by their arrays' names, and for the loss. Empty if not measured.
        sketched: whether sketches stand for the large arrays (:func:`resnet_xf.ladder.sketch.sketch`).
    """

    loss: float
    arrays: Weights
    growth: dict[str, float]
    sketched: bool = False


@measured("lock-step/{each}")
def states(live: Live, steps: Sequence[int], *, growing: bool, sketching: bool = False) -> Iterator[State]:
    """Yield the state after each of several pairs of float64 training steps.

    The first pair begins without momentum. Before each other pair, the network gets the given weights again, and drawn
    momentum.

    Args:
        live: the side. A capture yields what it saved, whatever the flags say.
        steps: the numbers of the steps, those of ``ShortRun.pairs``. They name the states and do not choose among them.
        growing: train a second network from perturbed weights beside it, to measure the growth.
        sketching: put sketches in place of the large arrays, in every state but the last.
    """
    run = live.subject.lockstep_run
    task, weights = run.task("float64", live.device), live.subject.weights
    start = {name: array.astype(np.float64) for name, array in weights.items()}
    batches, arrays = list(run), start
    beside = live.learner(task, perturb_all(start, PERTURBATION)) if growing else nullcontext()
    with live.learner(task, start) as learner, beside as shadow:
        for place, number in enumerate(steps):
            if place and place % 2 == 0:
                restart = start | drawn_momentum(start, arrays)
                _load(learner, restart)
                if shadow is not None:
                    _load(shadow, perturb_all(restart, PERTURBATION))
            step = batches[number - 1]
            loss, outputs = learner.step(step.images, step.targets, step.learning_rate)()
            arrays = _arrays_of(learner)
            grown = {}
            if shadow is not None:
                _, perturbed = shadow.step(step.images, step.targets, step.learning_rate)()
                grown = growth((perturbed, _arrays_of(shadow)), (outputs, arrays))
            live.tell(number / len(batches))
            state = State(loss, arrays, grown)
            yield sketched(state) if sketching and number < steps[-1] else state


@measured("free run")
def free_run(live: Live) -> tuple[float, ...]:
    """The losses of the first epoch in float64, without restarts."""
    run = live.subject.lockstep_run
    start = {name: array.astype(np.float64) for name, array in live.subject.weights.items()}
    with live.learner(run.task("float64", live.device), start) as learner:
        epoch = islice(run, run.steps // 2)
        return tuple(learner.step(step.images, step.targets, step.learning_rate)()[0] for step in epoch)


def drawn_momentum(weights: Weights, arrays: Iterable[str]) -> Weights:
    """Draw a momentum for each that is named among ``arrays``: uniform, up to the largest weight of the layer.

    The same weights give the same values with every version of NumPy, so captures can be compared.
    """
    sizes = layer_sizes(weights)

    def draw(name: str) -> Array:
        shape = weights[name].shape
        words = philox(f"momentum of {name}").random_raw(prod(shape)).reshape(shape)
        drawn: Array = ((words >> 11) * 2.0**-52 - 1) * sizes[layer_of(name)]
        return drawn

    return {name: draw(name.removeprefix(VELOCITY)) for name in arrays if name.startswith(VELOCITY)}


def _load(learner: Learner, arrays: Weights) -> None:
    momentum = {name.removeprefix(VELOCITY): array for name, array in arrays.items() if name.startswith(VELOCITY)}
    learner.load({name: array for name, array in arrays.items() if not name.startswith(VELOCITY)}, momentum)


def _arrays_of(learner: Learner) -> Weights:
    weights, velocity = learner.dump()
    return weights | {VELOCITY + name: array for name, array in velocity.items()}


def sketched(state: State) -> State:
    """Return a state with sketches of its large arrays. Running statistics stay, so that their law can be checked."""
    return state if state.sketched else replace(state, arrays=_sketches(state.arrays), sketched=True)


def _sketches(arrays: Weights) -> Weights:
    return {name: array if is_statistic(name) else sketch(name, array) for name, array in arrays.items()}


def measure(subject: Subject, side: Side) -> None:
    """Measure all states, and the losses of the free run."""
    for _ in states(side, _numbers(subject.lockstep_run), growing=True, sketching=True):
        pass
    free_run(side)


def _numbers(run: ShortRun) -> list[int]:
    return [number for pair in run.pairs for number in pair]


def judge(subject: Subject, sides: Sequence[Side]) -> Finding:
    """Compare every array of every side with the first side's, after every step.

    Rounding errors grow in training, in some networks a thousand times within two steps. So the sides restart from the
    same weights and momentum before each pair of steps. The first step shows each law at work before errors grow. The
    learning rate changes between the two. A run without restarts is shown and not judged.

    The bound grows with the steps since the restart, and with the growth of a perturbation in the first side's run.
    Momentum sums gradients, so its bound is at least rung 7's. Gradients may cancel but their rounding errors do
    not: scale by peak momentum. Running variances must follow their law: one framework keeps the biased variance of a
    batch and the other the unbiased one. The two differ by m / (m − 1), where m is the number of elements per channel.

    A bound proves nothing if the smallest planted defect of a law stays within it. If that is so in every tensor and
    step, the finding is inconclusive. Where rounding may take half of the digits, nothing is judged.
    """
    first, *others = sides
    run = subject.lockstep_run
    start = {name: array.astype(np.float64) for name, array in subject.weights.items()}
    noise = {VELOCITY + layer: gain for layer, gain in sensitivities(sides).items()}
    momentum, rates = run.recipe.optimizer.momentum, run.rates
    judged, power = _Judged(), dict.fromkeys(SMALLEST, 0.0)
    numbers = _numbers(run)
    runs = [states(side, numbers, growing=side is first) for side in sides]
    for place, (number, reached) in enumerate(zip(numbers, zip(*runs, strict=True), strict=True)):
        if any(state.sketched for state in reached):
            reached = tuple(map(sketched, reached))
        if place % 2 == 0:
            before: list[Weights] = [start for _ in sides]
            momenta = drawn_momentum(start, reached[0].arrays) if place else {}
            largest, peaks = _sizes(start | momenta), dict[str, float]()
        sizes = layer_sizes(reached[0].arrays)
        peaks = {layer: max(size, momentum * peaks.get(layer, 0.0)) for layer, size in sizes.items()}
        gain = dict(reached[0].growth)
        for layer in gain.keys() & noise.keys() & sizes.keys():
            gain[layer] = max(gain[layer], noise[layer] * (peaks[layer] / sizes[layer] if sizes[layer] else 1.0))
        judged.roundings = run.roundings * (place % 2 + 1)
        for other, state, old in zip(others, reached[1:], before[1:], strict=True):
            if finding := _compare(subject, (first, other), (reached[0], state), (before[0], old), gain, judged):
                return replace(finding, where=f"{finding.where}, step {number}")
        before = [statistics_of(state.arrays) for state in reached]
        earlier, largest = largest, _sizes(reached[0].arrays)
        for law, tensor, effect in _effects(run, rates[number - 1], earlier, largest):
            scale, bound = sizes[layer_of(tensor)], judged.bound(gain.get(layer_of(tensor), 0.0))
            if scale and bound < MOST:
                power[law] = max(power[law], SMALLEST[law] * effect / scale / bound)
    free = [free_run(side) for side in sides]
    parting = max(loss_error(losses[-1], free[0][-1]) for losses in free[1:])
    detail = (
        f"{len(numbers)} steps, in pairs from the same state; weights, momentum and statistics after each; "
        f"{len(free[0])} steps without a restart lead to losses of {free[0][-1]:.4f}, {parting:.0e} apart"
    )
    if judged.chaotic:
        detail += f"; {judged.chaotic} of {judged.count:,} errors too chaotic to judge"
    weakest = min(power, key=lambda law: power[law])
    if power[weakest] < 1:
        detail = f"{CHAOTIC}; in every layer, the bound would hide another {weakest}"
    return Finding(judged.worst.value, judged.worst.bound, detail, conclusive=power[weakest] >= 1)


class _Judged:
    """Holds errors against their bounds.

    Attributes:
        roundings: the number of rounding errors since the restart.
        worst: the error closest to its bound.
        count, chaotic: how many errors there were, and how many that rounding explains though they are beyond ``MOST``.
    """

    def __init__(self) -> None:
        self.roundings, self.worst, self.count, self.chaotic = 1.0, Worst(), 0, 0

    def bound(self, gain: float) -> float:
        return rounding_bound("float64", self.roundings, gain)

    def see(self, error: float, gain: float, where: str) -> bool:
        """Add an error. Return whether rounding explains it."""
        self.count += 1
        if MOST < error <= largest_rounding("float64", self.roundings, gain):
            self.chaotic += 1
            return True
        return self.worst.see(error, self.bound(gain), where)


def _sizes(arrays: Weights) -> dict[str, float]:
    """The largest absolute value of each array."""
    return {name: float(np.abs(array).max(initial=0.0)) for name, array in arrays.items()}


def _effects(
    run: ShortRun, rate: float, before: Mapping[str, float], after: Mapping[str, float]
) -> Iterator[tuple[str, str, float]]:
    """Yield each law, a tensor that shows it, and the size of the law's term there, from the sizes of all arrays."""
    optimizer = run.recipe.optimizer
    for name, velocity in after.items():
        if name.startswith(VELOCITY):
            weight = name.removeprefix(VELOCITY)
            yield "learning rate", weight, rate * velocity
            yield "momentum", name, optimizer.momentum * before.get(name, 0.0)
            yield "weight decay", name, optimizer.weight_decay * before[weight]


def _compare(
    subject: Subject,
    sides: tuple[Side, Side],
    states: tuple[State, State],
    before: tuple[Weights, Weights],
    gain: Mapping[str, float],
    judged: _Judged,
) -> Finding | None:
    """Compare two sides after a step: the loss, then the running statistics, then the parameters and their momentum."""
    (first, other), (expected, state) = sides, states

    def differs(error: float, gain: float, detail: str, where: str) -> Finding:
        return Finding(error, judged.bound(gain), detail, where)

    error = loss_error(state.loss, expected.loss)
    if not judged.see(error, gain[LOSS], LOSS):
        return differs(error, gain[LOSS], f"{other.name} computes another loss than {first.name}", LOSS)
    for norm, error, grown in compare_statistics(subject, sides, before, (expected.arrays, state.arrays), gain):
        if not judged.see(error, grown, norm):
            detail = f"{other.name}'s statistics do not follow {first.name}'s by their law"
            return differs(error, grown, detail, norm)
    errors = tensor_errors(parameters_of(state.arrays), parameters_of(expected.arrays))
    gains = {tensor: gain.get(layer_of(tensor), 0.0) for tensor in errors}
    wrong = [tensor for tensor, error in errors.items() if not judged.see(error, gains[tensor], tensor)]
    if not wrong:
        return None
    tensor = wrong[0]
    differing, total = _count_by_kind(wrong), _count_by_kind(errors)
    kind = "momentum" if tensor.startswith(VELOCITY) else "weights"
    # If all weights differ, or all momentum, no single layer is the cause.
    all_differ = any(differing[kind] == total[kind] for kind in total)
    where = "the optimiser" if all_differ else tensor.removeprefix(VELOCITY)
    detail = f"{other.name}'s {kind} part from {first.name}'s in {differing[kind]} of {total[kind]} arrays"
    return differs(errors[tensor], gains[tensor], detail, where)


def _count_by_kind(tensors: Iterable[str]) -> Counter[str]:
    """Count the arrays that are weights, and those that are momentum."""
    return Counter("momentum" if tensor.startswith(VELOCITY) else "weights" for tensor in tensors)


RUNG = Rung(8, "lock-step", "relative error", measure, judge, "standard", ("train", "train step by step"))
