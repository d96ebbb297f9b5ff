"""Rung 8: training steps in float64, with weights, momentum and running statistics compared after every step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod, sqrt

import numpy as np

from resnet_xf.architecture.measures import (
    EPSILON,
    largest,
    largest_rounding,
    layer_of,
    layer_sizes,
    rounding_bound,
    tensor_errors,
)
from resnet_xf.architecture.nodes import is_statistic
from resnet_xf.architecture.weights import VELOCITY, Array, Weights
from resnet_xf.backend.learner import Learner
from resnet_xf.ladder.perturb import PERTURBATION, Computed, perturb_all
from resnet_xf.ladder.rungs.gradients import sensitivities
from resnet_xf.ladder.rungs.rung import Finding, Rung, Worst
from resnet_xf.ladder.short_run import ShortRun, TrainingStep
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
"""For each term of the SGD update, the smallest defect that must be found, as a share of the term. One side may not
round a rate or a momentum to float32, or may leave out a decay for some weights (``docs/mutants.md``)."""

MOST = sqrt(EPSILON["float64"])
"""The largest bound of any error. See :func:`resnet_xf.architecture.measures.rounding_bound`."""

CHAOTIC = "inference and gradients hold; training at these weights is too chaotic to compare"


@dataclass(frozen=True, slots=True)
class State:
    """The state of a training run after one step.

    Attributes:
        loss: the step's loss.
        arrays: the weights by name, and their momentum buffers under ``VELOCITY`` + name.
        growth: per layer, how many times larger a small perturbation of the initial weights has become since the
            restart; also for running statistics, by their arrays' names, and for the loss. Empty if not measured.
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
    momentum. Each pair has a learner of its own, which takes three times the memory of the weights. It is closed
    before another side's learner is built.

    Args:
        live: the side (network) to measure. If it is a capture, what was saved is yielded, whatever the flags say.
        steps: the numbers of the steps, from 1: always all in ``ShortRun.pairs``, in order.
        growing: train from perturbed weights too, to measure the growth.
        sketching: put sketches in place of the large arrays, in every state but the last.
    """
    batches = live.subject.lockstep_run.all_steps
    momentum: Mapping[str, Array] = {}
    for place in range(0, len(steps), 2):
        pair = steps[place : place + 2]
        reached = _train_pair(live, [batches[number - 1] for number in pair], momentum, growing)
        for number in pair:
            state = next(reached)
            momentum = momentum or drawn_momentum(live.subject.weights, state.arrays)
            live.tell(number / len(batches))
            passed = [sketched(state) if sketching and number < steps[-1] else state]
            del state
            yield passed.pop()  # and hold no reference, so that it can be freed


def _train_pair(
    live: Live, batches: Sequence[TrainingStep], momentum: Mapping[str, Array], growing: bool
) -> Iterator[State]:
    """Yield the state after each step of ``batches``, trained from the given weights and ``momentum``.

    If ``momentum`` is empty, training begins without, and the free run is measured too. If ``growing``, the growth of a
    perturbation is measured by the same learner, after all steps.
    """
    weights, run = live.subject.weights, live.subject.lockstep_run
    reached, outputs, losses = list[State](), list[Array](), list[float]()
    with live.learner(run.task("float64", live.device), weights) as learner:
        learner.load({}, _momentum_of(momentum))
        for batch in batches:
            if reached and not growing:
                yield reached.pop()
            loss, output = learner.step(batch.images, batch.targets, batch.learning_rate)()
            reached.append(State(loss, _arrays_of(learner), {}))
            outputs.append(output)
            losses.append(loss)
        if not momentum:
            free_run(live, (learner, losses))
        if growing:
            zeros = Computed(reached[0].arrays, lambda name: np.zeros(weights[name.removeprefix(VELOCITY)].shape))
            start = perturb_all(momentum or zeros, PERTURBATION)
            learner.load(perturb_all(weights, PERTURBATION), _momentum_of(start))
            for place, batch in enumerate(batches):
                _, output = learner.step(batch.images, batch.targets, batch.learning_rate)()
                grown = growth((output, _arrays_of(learner)), (outputs[place], reached[place].arrays))
                reached[place] = replace(reached[place], growth=grown)
        del learner
    while reached:
        yield reached.pop(0)


@measured("free run")
def free_run(live: Live, begun: tuple[Learner, Sequence[float]] | None = None) -> tuple[float, ...]:
    """Return the loss of each step of the first epoch in float64, in one training run without restarts.

    ``begun``: a learner that took the first steps, and their losses; it continues. If None, a new learner starts. If
    the result is remembered or read from a capture, ``begun`` is not used.
    """
    run = live.subject.lockstep_run
    if begun is None:
        with live.learner(run.task("float64", live.device), live.subject.weights) as learner:
            return _continue(run, learner, ())
    return _continue(run, *begun)


def _continue(run: ShortRun, learner: Learner, losses: Sequence[float]) -> tuple[float, ...]:
    epoch = run.all_steps[len(losses) : run.steps // 2]
    return *losses, *(learner.step(step.images, step.targets, step.learning_rate)()[0] for step in epoch)


def drawn_momentum(weights: Weights, arrays: Iterable[str]) -> Computed:
    """Return random values for each momentum buffer (``VELOCITY`` + weight) that is named in ``arrays``.

    They are uniform between plus and minus the largest absolute value in the layer's tensors. Names and shapes choose
    the random numbers, the same ones with every version of NumPy, so captures can be compared.
    """
    sizes = layer_sizes(weights)

    def draw(name: str) -> Array:
        weight = name.removeprefix(VELOCITY)
        shape = weights[weight].shape
        words = philox(f"momentum of {weight}").random_raw(prod(shape))
        drawn: Array = ((words >> 11) * 2.0**-52 - 1) * sizes[layer_of(weight)]
        return drawn.reshape(shape)

    return Computed((name for name in arrays if name.startswith(VELOCITY)), draw)


def _momentum_of(arrays: Mapping[str, Array]) -> Computed:
    """Return the momentum buffers among ``arrays``, by the names of their weights."""
    names = [name.removeprefix(VELOCITY) for name in arrays if name.startswith(VELOCITY)]
    return Computed(names, lambda name: arrays[VELOCITY + name])


def _arrays_of(learner: Learner) -> Weights:
    weights, velocity = learner.dump()
    return weights | {VELOCITY + name: array for name, array in velocity.items()}


def sketched(state: State) -> State:
    """Return a state in which a short :func:`sketch` stands for each large array of weights or momentum.

    Running statistics stay whole, to check their update rule.
    """
    return state if state.sketched else replace(state, arrays=_sketches(state.arrays), sketched=True)


def _sketches(arrays: Weights) -> Weights:
    return {name: array if is_statistic(name) else sketch(name, array) for name, array in arrays.items()}


def measure(subject: Subject, side: Side) -> None:
    """Let a side measure and save what this rung needs: states after training steps, and losses without restarts."""
    for _ in states(side, _numbers(subject.lockstep_run), growing=True, sketching=True):
        pass
    free_run(side)


def _numbers(run: ShortRun) -> list[int]:
    return [number for pair in run.pairs for number in pair]


def judge(subject: Subject, sides: Sequence[Side]) -> Finding:
    """Compare every array of every side (network) with the first side's, after every step.

    Rounding errors grow in training, in some networks a thousand times within two steps. So the sides restart from the
    same weights and momentum before each pair of steps. The first step of a pair shows the update rule before errors
    grow. The learning rate changes between the two. A run without restarts is reported and not judged.

    The bound grows with the steps since the restart, and with the growth of a perturbation in the first side's run.
    Momentum sums gradients, so its bound is at least rung 7's. Gradients may cancel but their rounding errors do
    not: scale by peak momentum. Running variances must follow their law: one framework keeps the biased variance of a
    batch and the other the unbiased one. The two differ by m / (m − 1), where m is the number of elements per channel.

    A bound proves nothing if it would hide the smallest defect of a term (``SMALLEST``). If this is so in every tensor
    and step, the finding is inconclusive. Errors that rounding explains though they are above ``MOST`` are not judged.
    """
    first, *others = sides
    run = subject.lockstep_run
    start = {name: array.astype(np.float64) for name, array in statistics_of(subject.weights).items()}
    noise = {VELOCITY + layer: gain for layer, gain in sensitivities(sides).items()}
    momentum, rates = run.recipe.optimizer.momentum, run.rates
    judged, power = _Judged(), dict.fromkeys(SMALLEST, 0.0)
    numbers = _numbers(run)
    runs = [states(side, numbers, growing=side is first) for side in sides]
    for place, number in enumerate(numbers):
        reached = tuple(next(run) for run in runs)
        if any(state.sketched for state in reached):
            reached = tuple(map(sketched, reached))
        if place % 2 == 0:
            before: list[Weights] = [start for _ in sides]
            momenta = drawn_momentum(subject.weights, reached[0].arrays) if place else {}
            sizes_before, peaks = _sizes(subject.weights) | _sizes(momenta), dict[str, float]()
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
        sizes_after = _sizes(reached[0].arrays)
        for law, tensor, effect in _effects(run, rates[number - 1], sizes_before, sizes_after):
            scale, bound = sizes[layer_of(tensor)], judged.bound(gain.get(layer_of(tensor), 0.0))
            if scale and bound < MOST:
                power[law] = max(power[law], SMALLEST[law] * effect / scale / bound)
        sizes_before = sizes_after
        del reached, state  # before the next ones are computed: at most one step's arrays of each side are held
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
    """Compares errors with their bounds, counts them, and keeps the worst.

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
        """Count an error, and return whether rounding explains it.

        Args:
            error: a relative error after a step.
            gain: how much a small perturbation of the weights has grown there.
            where: the array's name, for the report.

        An error above ``MOST`` that rounding explains counts as chaotic: it proves nothing, and is not the worst one.
        """
        self.count += 1
        if MOST < error <= largest_rounding("float64", self.roundings, gain):
            self.chaotic += 1
            return True
        return self.worst.see(error, self.bound(gain), where)


def _sizes(arrays: Mapping[str, Array]) -> dict[str, float]:
    """Return the largest absolute value of each array, by name."""
    return {name: largest(array) for name, array in arrays.items()}


def _effects(
    run: ShortRun, rate: float, before: Mapping[str, float], after: Mapping[str, float]
) -> Iterator[tuple[str, str, float]]:
    """Yield for each term of the SGD update (a key of ``SMALLEST``): it, a tensor that shows it, and its size there.

    ``rate``: the learning rate. ``before`` and ``after``: the largest absolute value of each array around the step.
    """
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
    """Compare two sides after a step: the loss, then running statistics, then the parameters and their momentum.

    Return a failure at the first that differs, or None. ``before``: the running statistics before the step. ``gain``:
    by layer, array or ``LOSS``, how much a perturbation has grown.
    """
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
    """Count how many of the named arrays are ``weights``, and how many ``momentum`` buffers."""
    return Counter("momentum" if tensor.startswith(VELOCITY) else "weights" for tensor in tensors)


RUNG = Rung(8, "lock-step", "relative error", measure, judge, "standard", ("train", "train step by step"))
