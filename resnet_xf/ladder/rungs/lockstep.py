"""Rung 8: training step by step in float64, with weights, momentum and norm statistics compared after each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from resnet_xf.architecture.measures import layer_of, layer_sizes, rounding_bound, tensor_errors
from resnet_xf.architecture.weights import VELOCITY, Weights
from resnet_xf.ladder.capture.sketch import sketched
from resnet_xf.ladder.sides.side import LOSS, Side, State, loss_error, statistic_errors, statistics_of, trained
from resnet_xf.ladder.subject import Finding, Subject, Worst
from resnet_xf.training.recipe import rounded

MOST = 1e-11
"""The largest bound, a declared margin: a run so chaotic that rounding alone may exceed it proves nothing, and fails.

The zoo's networks' own bounds, which their gains give, stay below 1e-11 for twenty steps. The smallest difference of
law that is known, a rate that is held as float64 on one side and as float32 on the other, parts the runs of a small
ResNet by 1e-12 at the first step, where their bound is 2.5e-14 (``docs/mutants.md``)."""


def lockstep(subject: Subject, sides: Sequence[Side]) -> Finding:
    """Every array of every side after every step, against the first side's.

    The bound grows with the step and with what a nudge of the first weights has become by then in the first side's own
    run. That of momentum is at least what it is for the gradients of rung 7, of which it is the sum: where they cancel,
    their roundings do not, so that these count as a share of what the momentum was before. Running variances are held
    to their exact law: one framework keeps the biased and the other the unbiased variance of a batch, which differ by
    m / (m − 1), m being the elements that a norm saw of each channel.
    """
    first, *others = sides
    worst = Worst()
    start = {name: array.astype(np.float64) for name, array in subject.weights.items()}
    before: list[Weights] = [start for _ in sides]
    rough = {VELOCITY + layer: gain for layer, gain in sensitivities(sides).items()}
    momentum, peaks = subject.lessons.recipe.optimizer.momentum, dict[str, float]()
    runs = [side.lockstep(measured=side is first) for side in sides]
    taken, last_loss = 0, 0.0
    for taken, states in enumerate(zip(*runs, strict=True), start=1):
        steps = subject.lessons.roundings * taken
        if any(state.sketched for state in states):
            states = tuple(state if state.sketched else sketched(state) for state in states)
        sizes = layer_sizes(states[0].arrays)
        peaks = {place: max(size, momentum * peaks.get(place, 0.0)) for place, size in sizes.items()}
        gain = dict(states[0].gain)
        for place in gain.keys() & rough.keys() & sizes.keys():
            gain[place] = max(gain[place], rough[place] * (peaks[place] / sizes[place] if sizes[place] else 1.0))
        for other, state, old in zip(others, states[1:], before[1:], strict=True):
            finding = _compare(subject, (first, other), (states[0], state), (before[0], old), gain, steps, worst)
            if finding is not None:
                where = f"{finding.where}, step {taken}"
                return Finding(finding.value, finding.bound, finding.detail, where)
        before = [statistics_of(state.arrays) for state in states]
        last_loss = states[0].loss
    detail = f"{taken} steps to a loss of {last_loss:.4f}; weights, momentum and statistics after each"
    return Finding(worst.value, worst.bound, detail)


def _compare(
    subject: Subject,
    sides: tuple[Side, Side],
    states: tuple[State, State],
    before: tuple[Weights, Weights],
    gain: Mapping[str, float],
    steps: float,
    worst: Worst,
) -> Finding | None:
    """What one step has put apart, if anything."""
    (first, other), (wanted, got) = sides, states
    wrong: list[tuple[str, float, float]] = []
    loss = loss_error(got.loss, wanted.loss)
    bound = _bound(steps, gain[LOSS])
    worst.see(loss, bound, "the loss")
    if not loss <= bound:
        return Finding(loss, bound, f"{other.name} computes another loss than {first.name}", "the loss")
    for norm, error, bound in statistics_apart(subject, sides, before, (wanted.arrays, got.arrays), gain, steps):
        worst.see(error, bound, norm)
        if not error <= bound:
            return Finding(error, bound, f"{other.name}'s statistics do not follow {first.name}'s by their law", norm)
    moved = [trained(state.arrays) for state in states]
    errors = tensor_errors(moved[1], moved[0])
    for tensor, error in errors.items():
        bound = _bound(steps, gain.get(layer_of(tensor), 0.0))
        worst.see(error, bound, tensor)
        if not error <= bound:
            wrong.append((tensor, error, bound))
    if not wrong:
        return None
    tensor, error, bound = wrong[0]
    parted, whole = _of_each_kind(name for name, *_ in wrong), _of_each_kind(errors)
    kind = "momentum" if tensor.startswith(VELOCITY) else "weights"
    # All weights at once, or all momenta, are no one layer's doing.
    all_of_them = any(parted[kind] == whole[kind] for kind in whole)
    where = "the optimiser" if all_of_them else tensor.removeprefix(VELOCITY)
    detail = f"{other.name}'s {kind} part from {first.name}'s in {parted[kind]} of {whole[kind]} arrays"
    return Finding(error, bound, detail, where)


def _of_each_kind(tensors: Iterable[str]) -> Counter[str]:
    """How many of the arrays are weights, and how many momenta."""
    return Counter("momentum" if tensor.startswith(VELOCITY) else "weights" for tensor in tensors)


def sensitivities(sides: Sequence[Side]) -> dict[str, float]:
    """For each layer, the largest that any side measured in its own run."""
    found: dict[str, float] = {}
    for side in sides:
        for layer, gain in side.sensitivity().items():
            found[layer] = max(found.get(layer, 0.0), gain)
    return found


def statistics_apart(
    subject: Subject,
    sides: tuple[Side, Side],
    before: tuple[Weights, Weights],
    after: tuple[Weights, Weights],
    gain: Mapping[str, float],
    steps: float,
) -> Iterator[tuple[str, float, float]]:
    """Each norm in the order in which they run, how far its statistics are from their law, and the bound.

    With r the running value, b the batch's and k the share of r that is kept: r ← k · r + (1 − k) · b, where a
    variance's b is Σ (x − x̄)² / m on one framework and / (m − 1) on the other. So what one side adds to k · r is what
    the other adds, times the ratio of the two.
    """
    first, other = sides
    for norm, settings in subject.outline.settings.items():
        elements, keep = subject.lessons.elements[norm], rounded(1 - settings["momentum"])
        ratios = {"running_mean": 1.0, "running_var": _correction(other, elements) / _correction(first, elements)}
        expected = {}
        for name, ratio in ratios.items():
            key = f"{norm}.{name}"
            expected[key] = keep * before[1][key] + ratio * (after[0][key] - keep * before[0][key])
        for key, error in statistic_errors(after[1], expected).items():
            yield norm, error, _bound(steps, gain.get(key, 0.0))


def _correction(side: Side, elements: int) -> float:
    """A side's variance as a multiple of the biased one."""
    return elements / (elements - 1) if side.unbiased_variance else 1.0


def _bound(steps: float, gain: float) -> float:
    return min(MOST, rounding_bound("float64", steps, gain))
