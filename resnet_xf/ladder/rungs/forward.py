"""Rungs 4 and 5: the same output in float64, and in other precisions one that differs by rounding alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from resnet_xf.architecture.measures import relative_error, rounding_bound, roundings
from resnet_xf.architecture.trace import Passed
from resnet_xf.errors import BackendError, EvidenceError
from resnet_xf.ladder.sides.side import Side
from resnet_xf.ladder.subject import Finding, Outline, Subject, groups

Capture = Callable[[Sequence[str]], dict[str, Passed]]
Parts = Callable[[Sequence[str]], Iterator[list[str]]]


def forward_float64(subject: Subject, sides: Sequence[Side]) -> Finding:
    """Every side's float64 output against the first's, under the given weights and under the probe's."""
    first, *others = sides
    bound = _bound(subject, first, "float64")
    worst = 0.0
    for probe in (False, True) if subject.probe is not None else (False,):
        for other in others:
            error, where = _compare(subject, (other, "float64"), (first, "float64"), bound, probe=probe)
            if where is not None:
                under = ", under weights that hide nothing" if probe else ""
                return Finding(error, bound, f"{other.name} is not {first.name}{under}", where)
            worst = max(worst, error)
    weights = ", also under weights that hide nothing" if subject.probe is not None else ""
    return Finding(worst, bound, f"outputs {first.output('float64').shape}{weights}")


def forward(precision: str, subject: Subject, sides: Sequence[Side]) -> Finding:
    """Every side's output in a precision against the float64 referee, which the rung before found to be one."""
    referee = sides[0]
    bound = _bound(subject, referee, precision)
    errors: dict[str, float] = {}
    lacking: dict[str, BackendError] = {}
    for side in sides:
        try:
            error, where = _compare(subject, (side, precision), (referee, "float64"), bound)
        except BackendError as lack:
            lacking[side.name] = lack
            continue
        if where is not None:
            return Finding(error, bound, f"{side.name} in {precision} is not the float64 result", where)
        errors[side.name] = error
    if not errors:
        raise next(iter(lacking.values()))
    told = [f"{name} {error:.1e}" for name, error in errors.items()] + [
        f"{name} has no {precision}" for name in lacking
    ]
    return Finding(max(errors.values()), bound, ", ".join(told))


def _bound(subject: Subject, referee: Side, precision: str) -> float:
    return rounding_bound(precision, roundings(subject.outline.rows), referee.gain())


def _compare(
    subject: Subject, got: tuple[Side, str], wanted: tuple[Side, str], bound: float, *, probe: bool = False
) -> tuple[float, str | None]:
    """How far one side's output is from another's, and the layer at which it leaves the bound, if any."""
    (side, precision), (referee, exact) = got, wanted
    error = relative_error(side.output(precision, probe=probe), referee.output(exact, probe=probe))
    if error <= bound:
        return error, None
    if precision not in ("float32", "float64"):
        return error, "the whole network"
    captures = partial(side.passed, precision, probe=probe), partial(referee.passed, exact, probe=probe)
    parts = partial(groups, subject, side.trace().layers, shares=2)
    try:
        return error, first_divergence(subject.outline, *captures, bound, parts)
    except EvidenceError:  # a capture does not hold every layer in every way
        return error, "the whole network"


def first_divergence(outline: Outline, got: Capture, wanted: Capture, bound: float, parts: Parts) -> str:
    """The first layer, in the order in which they run, whose output is further from the other's than ``bound``.

    A bisection: goes down the tree one level at a time, and in a level by parts that fit the bound on memory. Where the
    layers in a container agree and its own output does not, the container is named.
    """
    name = ""
    while names := outline.inner(name):
        diverging = next((n for part in parts(names) for n in _apart(got(part), wanted(part), bound)), None)
        if diverging is None:
            break
        name = diverging
    return name or "the whole network"


def _apart(got: Mapping[str, Passed], wanted: Mapping[str, Passed], bound: float) -> list[str]:
    """Those layers whose outputs are further apart, in order."""
    return [name for name in wanted if not relative_error(got[name].output, wanted[name].output) <= bound]
