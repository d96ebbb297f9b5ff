"""The charts of a parity report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from resnet_xf.ladder.accuracy.equivalence import Equivalence
from resnet_xf.ladder.report.panel import WIDTH, Axis, Panel, Series, Tick, Tip, dots, line, linear, logarithmic
from resnet_xf.ladder.report.report import Curves, LayerError, Report, RungResult
from resnet_xf.ladder.report.wording import beyond, listed, number

FAR = 100.0
"""The end of the axis, as a multiple of the bound. Larger values are drawn there too."""

LETTER, NARROW, WIDE = 8.5, 290, 1000
"""Widths in pixels: of a letter of a label, of a chart on a phone, and of a chart on a wide screen."""


class Bar(NamedTuple):
    """One rung's value divided by its bound: as text, and as its place (0 to 1) on the axis; None if it was skipped."""

    rung: RungResult
    text: str
    place: float | None


class Room(NamedTuple):
    """A bar chart of how far each rung is from its bound: the axis, the place (0 to 1) of the bound, and the bars."""

    axis: Axis
    bound: float
    bars: Sequence[Bar]


def draw(report: Report) -> dict[str, list[Panel]]:
    """Return the panels that a report has data for, by the section of the page that shows them."""
    return {
        "layers": list(layer_errors(report.layers)) if report.layers else [],
        "curves": list(learning_curves(report.curves)) if report.curves else [],
        "accuracy": list(accuracies(report.accuracy)) if report.accuracy else [],
    }


def room(rungs: Sequence[RungResult]) -> Room:
    """Return the bar chart of each rung's value divided by its bound, on a logarithmic axis."""
    shares = [_share(rung) for rung in rungs]
    values = [share for share in shares if share is not None and share <= 1]
    axis = logarithmic([*values, 0.0, 0.1], named={1.0: "bound", FAR: f"{FAR:g}×"}, ceiling=FAR)
    bars = [
        Bar(rung, "skipped", None) if share is None else Bar(rung, _room_in_words(rung, share), axis.share(share))
        for rung, share in zip(rungs, shares, strict=True)
    ]
    return Room(axis, axis.share(1.0), bars)


def layer_errors(layers: Sequence[LayerError]) -> Iterator[Panel]:
    """Yield two charts of every layer's errors, in running order: float64 errors between sides, and float32 errors.

    The second is there only if float32 errors were measured.
    """
    x = Axis(-0.7, len(layers) - 0.3, _parts(layers), f"{len(layers)} layers, in the order in which they run")
    worst = max(layers, key=lambda layer: layer.inherited / layer.inherited_bound if layer.inherited_bound else 0.0)
    largest = f"the largest inherited error for its bound is {number(worst.inherited)} at {worst.name}"
    inherited, own = [layer.inherited for layer in layers], [layer.own for layer in layers]
    bounds = [layer.inherited_bound for layer in layers], [layer.own_bound for layer in layers]
    y = logarithmic([v for v in (*inherited, *own, *bounds[0], *bounds[1]) if v is not None], "relative error")
    dense = " dense" if len(layers) > 100 else ""
    infinite = dots(x, y, ((place, error) for place, error in enumerate(inherited) if not math.isfinite(error)))
    yield Panel(
        "float64: one side against the other",
        f"Relative error of each layer in float64; {largest}, bound {number(worst.inherited_bound)}.",
        x,
        y,
        [
            Series("bound of inherited", "line bound", line(x, y, enumerate(bounds[0]))),
            Series("bound of own", "line s1 dotted", line(x, y, enumerate(bounds[1]))),
            Series("inherited, in the whole network", "line muted", line(x, y, enumerate(inherited)) + infinite),
            _ringed(x, y, zip(own, bounds[1], strict=True)),
            Series("own, given the other side's input", f"dot s1{dense}", dots(x, y, enumerate(own))),
        ],
        tips=[_tip(x, place, layer) for place, layer in enumerate(layers)],
    )
    if sides := list(dict.fromkeys(side for layer in layers for side in layer.float32)):
        bound = [layer.float32_bound for layer in layers]
        single = {side: [layer.float32.get(side) for layer in layers] for side in sides}
        errors = [value for values in single.values() for value in values if value is not None]
        y = logarithmic([*bound, *errors], "relative error")
        yield Panel(
            "float32: each side against its own float64",
            f"Relative error of each layer in float32 for {listed(sides)}.",
            x,
            y,
            [
                Series("bound", "line bound", line(x, y, enumerate(bound))),
                *(_ringed(x, y, zip(values, bound, strict=True)) for values in single.values()),
                *_sides(f"dot{dense}", {side: dots(x, y, enumerate(errors)) for side, errors in single.items()}),
            ],
        )


def learning_curves(curves: Curves) -> Iterator[Panel]:
    """Yield a chart of the losses of all runs by step, then one of their differences.

    Each side's run is compared with the first side's, and each nudged run with the run of its own side. The second
    chart is left out if all differences are 0.
    """
    first = next(iter(curves.losses))
    nudged = [(curves.losses[side], run) for side, runs in curves.nudged.items() for run in runs]
    runs = [*curves.losses.values(), *(run for _, run in nudged)]
    steps = linear([1, max(map(len, runs), default=1)], "step", least_step=1)
    y = linear(loss for run in runs for loss in run)
    grey = "".join(line(steps, y, enumerate(run, 1)) for _, run in nudged)
    ends = ", ".join(f"{side} {number(losses[-1])}" for side, losses in curves.losses.items() if losses)
    yield Panel(
        "loss",
        f"Loss by training step. Last losses: {ends}.",
        steps,
        y,
        [
            Series(f"runs that started one rounding away: {len(nudged)}", "line muted thin", grey),
            *_sides("line dashed", {side: line(steps, y, enumerate(run, 1)) for side, run in curves.losses.items()}),
        ],
    )
    differences = {side: _distances(curves.losses[first], losses) for side, losses in curves.losses.items()}
    nudges = [_distances(own, run) for own, run in nudged]
    values = [value for run in (*differences.values(), *nudges) for value in run if value and math.isfinite(value)]
    if not values:
        return
    y = logarithmic(values)
    grey = "".join(line(steps, y, enumerate(run, 1)) for run in nudges)
    yield Panel(
        f"difference from {first}'s losses",
        "Difference of the losses by training step, on a logarithmic scale.",
        steps,
        y,
        [
            Series("nudged, from its own side", "line muted thin", grey),
            *_sides("line", {side: line(steps, y, enumerate(run, 1)) for side, run in differences.items()}),
        ],
    )


def accuracies(result: Equivalence) -> Iterator[Panel]:
    """Yield a chart of both backends' accuracies by seed, then one of their differences against the margin."""
    both = {name: result.accuracies[name] for name in (result.first, result.second)}
    count = len(result.seeds)
    ticks = [Tick((n + 0.5) / count, str(result.seeds[n])) for n in range(0, count, math.ceil(count / 12))]
    x = Axis(-0.5, count - 0.5, ticks, "seed")
    y = linear((value for values in both.values() for value in values), "accuracy, %")
    pairs = "".join(line(x, y, ((n, a), (n, b))) for n, (a, b) in enumerate(zip(*both.values(), strict=True)))
    drawn = _sides("dot", {name: dots(x, y, enumerate(values)) for name, values in both.items()})
    series = [Series("", "line muted thin", pairs), *drawn]
    yield Panel("by seed", f"Accuracies: {result.sentence()}.", x, y, series)

    differences = [b - a for a, b in zip(*both.values(), strict=True)]
    low, high = result.interval
    reach = 1.1 * max(result.margin, abs(low), abs(high), *map(abs, differences))
    x = linear((-reach, reach), f"{result.second} − {result.first}, points")
    y = Axis(0, 4, [Tick(0.25, "mean"), Tick(0.7, "seeds")])
    look = "good" if result.verdict == "equivalent" else "bad"
    seeds = [(value, 2 + 1.6 * (n + 0.5) / count) for n, value in enumerate(differences)]
    ends = [(-result.margin, 0), (-result.margin, 4), (math.nan, None), (result.margin, 0), (result.margin, 4)]
    level = f"{100 - 200 * result.alpha:.4g}% interval, {number(low)} to {number(high)}".replace("-", "−")
    yield Panel(
        "difference of each pair",
        f"Differences of the accuracies: {result.sentence()}.",
        x,
        y,
        [
            Series(f"margin of ±{result.margin:g}", "line bound", line(x, y, ends)),
            Series("each seed", "dot muted", dots(x, y, seeds)),
            Series(level, f"line thick {look}", line(x, y, ((low, 1), (high, 1)))),
            Series("mean", f"dot mean {look}", dots(x, y, [(result.mean_difference, 1)])),
        ],
        bands=[(WIDTH * x.share(-result.margin), WIDTH * (x.share(result.margin) - x.share(-result.margin)))],
    )


def _sides(look: str, paths: Mapping[str, str]) -> Iterator[Series]:
    """Yield a series for each side, with its path and its own colour. ``look`` has the other classes of the style."""
    return (Series(side, f"{look} s{1 + place % 4}", path) for place, (side, path) in enumerate(paths.items()))


def _ringed(x: Axis, y: Axis, measured: Iterator[tuple[float | None, float | None]]) -> Series:
    """Return a series of rings around errors beyond their bounds. ``measured``: each layer's error and bound."""
    path = dots(x, y, ((place, error) for place, (error, bound) in enumerate(measured) if beyond(error, bound)))
    return Series("beyond its bound", "dot ring", path)


def _distances(first: Sequence[float], second: Sequence[float]) -> list[float | None]:
    """Return the absolute difference of two runs' losses at each step; None where they are equal."""
    return [abs(a - b) or None for a, b in zip(first, second, strict=False)]


def _tip(x: Axis, place: int, layer: LayerError) -> Tip:
    """Return the text that the chart shows at a layer's column; ``place`` is the layer's number from 0."""
    start, end = (WIDTH * x.share(place + side) for side in (-0.5, 0.5))
    lines = [f"{layer.name} ({layer.kind})", f"inherited {number(layer.inherited)}"]
    lines += [f"own {number(layer.own)}"] if layer.own is not None else []
    lines += [f"{side} float32 {number(error)}" for side, error in layer.float32.items()]
    return Tip(start, end - start, "\n".join(lines))


def _parts(layers: Sequence[LayerError]) -> list[Tick]:
    """Return labels for the x axis: the network's parts, such as ``layer1``, each in the middle of its layers.

    Labels that have no room are left out.
    """
    for depth in (1, 2, 3):
        names = [".".join(layer.name.split(".")[:depth]) for layer in layers]
        counts = [(name, len(list(members))) for name, members in groupby(names)]
        if len(counts) > 1 and counts[0][1] < 0.9 * len(layers):
            break
    ticks, start = [], 0
    for name, count in counts:
        share, needed = count / len(layers), LETTER * len(name)
        if needed < share * WIDE:
            ticks.append(Tick((start + count / 2) / len(layers), name, narrow=needed < share * NARROW))
        start += count
    return ticks


def _share(rung: RungResult) -> float | None:
    """Return a rung's value divided by its bound; None if it was skipped, infinite if NaN or above a bound of 0."""
    if rung.value is None or rung.bound is None:
        return None
    if math.isnan(rung.value) or (rung.bound == 0 and rung.value > 0):
        return math.inf
    return rung.value / rung.bound if rung.bound else 0.0


def _room_in_words(rung: RungResult, share: float) -> str:
    """Return in words how far a rung is from its bound; ``share`` is its value divided by the bound."""
    if share == 0:
        return "exact"
    if share > 1:
        return f"found {number(rung.value)}, bound {number(rung.bound)}"
    return f"{number(1 / share)} times below"
