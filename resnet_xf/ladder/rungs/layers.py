"""Rung 6: every layer's output, and every layer's own error where it is given the other side's input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from resnet_xf.architecture.measures import relative_error, rounding_bound, roundings
from resnet_xf.architecture.trace import Passed
from resnet_xf.ladder.perturb import NUDGE, longest_sum, nudge, terms
from resnet_xf.ladder.report.report import LayerError
from resnet_xf.ladder.sides.live import Live
from resnet_xf.ladder.sides.side import Side
from resnet_xf.ladder.subject import Finding, Subject, groups


def layer_by_layer(subject: Subject, sides: Sequence[Side]) -> Finding:
    """Every layer in float64, inherited and own error apart; and each side's own float32 against its own float64.

    Inherited is what a layer gives in the whole network, against the first side's. Own is what it gives for the inputs
    that the other side's layer had. The layers are captured in parts that fit the bound on memory: every side's, and
    the first's once more, nudged.
    """
    first = sides[0]
    measured: list[LayerError] = []
    longest = 1.0
    for side in sides:
        side.own_rounding()  # before anything else is held
    for names in groups(subject, first.trace().layers, subject.outline.layers, len(sides) + 1):
        found, longest = _measure(subject, sides, names, longest)
        measured += found
    wrong = [(layer, *complaint) for layer in measured if (complaint := _complaint(layer))]
    # A layer whose own arithmetic is off is the cause; one that only inherits an error is not.
    wrong.sort(key=lambda found: found[0].own is None or found[0].own <= (found[0].own_bound or 0))
    if wrong:
        layer, value, bound, detail = wrong[0]
        return Finding(value, bound, detail, layer.name, layers=tuple(measured))
    worst = max(measured, key=lambda layer: layer.inherited / layer.inherited_bound)
    detail = f"{len(measured)} layers"
    if owns := [layer for layer in measured if layer.own is not None]:
        top = max(owns, key=lambda layer: layer.own or 0.0)
        detail += f"; given the other's input at most {top.own:.1e} ({top.name})"
    else:
        detail += "; no side is here to be given the other's input"
    single = max(max(layer.float32.values(), default=0.0) for layer in measured)
    detail += f"; float32 of its own at most {single:.1e}"
    return Finding(worst.inherited, worst.inherited_bound, detail, layers=tuple(measured))


def _measure(
    subject: Subject, sides: Sequence[Side], names: Sequence[str], longest: float
) -> tuple[list[LayerError], float]:
    """Some layers, and the longest sum that any layer has made so far, whose roundings all that follow inherit."""
    first, *others = sides
    passed = {side.name: side.passed("float64", names) for side in sides}
    gains = first.gains(names, passed[first.name])
    rows = subject.outline.rows
    places = {row.name: place for place, row in enumerate(rows)}
    found = []
    for name in names:
        ours = passed[first.name][name]
        longest = max(longest, longest_sum(subject.weights, name, ours))
        steps = roundings(rows[: places[name] + 1]) + longest / 12
        own = [error for other in others if (error := _own(subject, first, other, name, passed))]
        worst = max(own, key=lambda pair: pair[0] / pair[1]) if own else (None, None)
        single = {side.name: side.own_rounding()[name] for side in sides}
        found.append(
            LayerError(
                name=name,
                kind=subject.outline.kinds[name],
                inherited=max(relative_error(passed[other.name][name].output, ours.output) for other in others),
                inherited_bound=rounding_bound("float64", steps, gains[name]),
                own=worst[0],
                own_bound=worst[1],
                float32={side: one.forward for side, one in single.items()},
                float32_bound=min(one.forward_bound for one in single.values()),
            )
        )
    return found, longest


def _own(
    subject: Subject, first: Side, other: Side, name: str, passed: Mapping[str, Mapping[str, Passed]]
) -> tuple[float, float] | None:
    """A layer's error for the other's input, and its bound; the layer is of whichever side can be run."""
    runs, shown = (other, first) if isinstance(other, Live) else (first, other)
    if not isinstance(runs, Live):
        return None
    given = passed[shown.name][name]
    output = runs.apply("float64", name, given.inputs)
    moved = runs.apply("float64", name, [nudge(x, NUDGE, f"{name}/{n}") for n, x in enumerate(given.inputs)])
    gain = relative_error(moved, output) / NUDGE
    bound = rounding_bound("float64", terms(longest_sum(subject.weights, name, given)), gain)
    return relative_error(output, given.output), bound


def _complaint(layer: LayerError) -> tuple[float, float, str] | None:
    """What is beyond its bound in a layer: the error, the bound, and a line."""
    if layer.own is not None and layer.own_bound is not None and not layer.own <= layer.own_bound:
        return layer.own, layer.own_bound, "given the other side's input it gives another output"
    for side, error in layer.float32.items():
        if not error <= layer.float32_bound:
            return error, layer.float32_bound, f"{side} in float32 is not its own float64 result"
    if not layer.inherited <= layer.inherited_bound:
        return layer.inherited, layer.inherited_bound, "its output differs in the whole network"
    return None
