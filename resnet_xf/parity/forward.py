"""Rungs 3 to 5: the same output twice, the same output in float64, and float32 as near to it as rounding allows."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

from resnet_xf.backend import Backend
from resnet_xf.measures import FLOAT64_BOUND, float32_bound, relative_error, same_bits
from resnet_xf.nodes import Node, children, join
from resnet_xf.parity.subject import Finding, Subject
from resnet_xf.trace import trace
from resnet_xf.weights import Array

Capture = Callable[[Collection[str]], dict[str, Array]]


def determinism(subject: Subject) -> Finding:
    """Each backend built and run twice in float32: the outputs are equal to the bit."""
    for backend in subject.backends:
        first = subject.output(backend, "float32")
        second = backend.forward(subject.fresh(backend, "float32"), subject.images)
        if not same_bits(first, second):
            return Finding(1, 0, f"{backend.name} gives other numbers the second time", "the whole network")
    return Finding(0, 0, "two builds, two runs, equal to the bit")


def forward_float64(subject: Subject) -> Finding:
    """Every backend's float64 output against the first's, under the given weights and under the probe's."""
    first, *others = subject.backends
    worst = 0.0
    for shown in (subject, subject.probe) if subject.probe else (subject,):
        for other in others:
            error, where = _compare(shown, (other, "float64"), (first, "float64"), FLOAT64_BOUND)
            if where is not None:
                under = "" if shown is subject else ", under weights that hide nothing"
                return Finding(error, FLOAT64_BOUND, f"{other.name} is not {first.name}{under}", where)
            worst = max(worst, error)
    weights = ", also under weights that hide nothing" if subject.probe else ""
    return Finding(worst, FLOAT64_BOUND, f"outputs {subject.output(first, 'float64').shape}{weights}")


def forward_float32(subject: Subject) -> Finding:
    """Every backend's float32 output against the float64 referee, which the rung before found to be one."""
    referee = subject.backends[0]
    bound = float32_bound(trace(subject.plan, subject.images.shape), subject.gain(referee))
    errors = {}
    for backend in subject.backends:
        error, where = _compare(subject, (backend, "float32"), (referee, "float64"), bound)
        if where is not None:
            return Finding(error, bound, f"{backend.name} in float32 is not the float64 result", where)
        errors[backend.name] = error
    return Finding(max(errors.values()), bound, ", ".join(f"{name} {e:.1e}" for name, e in errors.items()))


def _compare(
    subject: Subject, got: tuple[Backend, str], wanted: tuple[Backend, str], bound: float
) -> tuple[float, str | None]:
    """How far one backend's output in a dtype is from another's, and the layer at which it leaves the bound, if any."""
    error = relative_error(subject.output(*got), subject.output(*wanted))
    if error <= bound:
        return error, None
    captures = partial(subject.capture, *got), partial(subject.capture, *wanted)
    return error, first_divergence(subject.plan.root, *captures, bound)


def first_divergence(root: Node, got: Capture, wanted: Capture, bound: float) -> str:
    """The first layer, in the order in which they run, whose output is further from the other's than ``bound``.

    Goes down the tree one level at a time, so that only one level's outputs are held at once. Where the layers in a
    container agree and its own output does not, the container is named.
    """
    name, node = "", root
    while inner := children(node):
        names = [join(name, child_name) for child_name, _ in inner]
        ours, theirs = got(names), wanted(names)
        diverging = [
            (full, child)
            for full, (_, child) in zip(names, inner, strict=True)
            if not relative_error(ours[full], theirs[full]) <= bound
        ]
        if not diverging:
            break
        name, node = diverging[0]
    return name or "the whole network"
