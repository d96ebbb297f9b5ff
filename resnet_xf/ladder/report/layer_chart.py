"""The chart of rung 6: every layer's errors, in the order in which layers run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import cycle, groupby
from typing import Any, NamedTuple

from resnet_xf.ladder.report.drawing import (
    BAD,
    BOUND,
    DASHES,
    GRID,
    INK,
    MUTED,
    SERIES,
    Chart,
    Tip,
    new_figure,
    powers_of_ten,
    put_legend,
)
from resnet_xf.ladder.report.report import LayerError
from resnet_xf.ladder.report.wording import beyond, legal, number

LETTER = 5.0
"""Points that a letter of a group's name takes under the axis, at most."""


class Series(NamedTuple):
    """A label, a colour, a marker or a dash, values by layer, and the bound of each if they have one."""

    label: str
    colour: str
    mark: Any
    values: Sequence[float | None]
    bounds: Sequence[float | None] = ()

    @property
    def known(self) -> bool:
        """Whether any layer has a value."""
        return any(value is not None for value in self.values)


def layer_errors(layers: Sequence[LayerError]) -> Chart:
    """Every layer's errors: in float64 inherited and own, and each side's own in float32."""
    sides = list(dict.fromkeys(side for layer in layers for side in layer.float32))
    figure = new_figure(5.6 if sides else 3.5, 0.07, 0.085 if sides else 0.13, 0.985, 0.915 if sides else 0.86)
    upper, *lower = figure.subplots(1 + bool(sides), 1, sharex=True, squeeze=False)[:, 0]
    size = 4.2 if len(layers) <= 100 else 3.2 if len(layers) <= 300 else 2.2

    inherited, own = [layer.inherited_bound for layer in layers], [layer.own_bound for layer in layers]
    bounds = [
        Series("bound of inherited", BOUND, "solid", inherited),
        Series("bound of own", SERIES[0], DASHES[2], own),
    ]
    errors = [
        Series("inherited, in the whole network", MUTED, "-", [layer.inherited for layer in layers], inherited),
        Series("own, given the other side's input", SERIES[0], "o", [layer.own for layer in layers], own),
    ]
    _errors(upper, errors, bounds, size)
    upper.set_title("float64: one side against the other", pad=22)
    for axes in lower:
        single = [layer.float32_bound for layer in layers]
        errors = [
            Series(legal(side), colour, mark, [layer.float32.get(side) for layer in layers], single)
            for side, colour, mark in zip(sides, cycle(SERIES), cycle("osD^"), strict=False)
        ]
        _errors(axes, errors, [Series("bound", BOUND, "solid", single)], size)
        axes.set_title("float32: each side against its own float64", pad=22)
    _groups((upper, *lower), layers)
    worst = max(layers, key=lambda layer: layer.inherited / layer.inherited_bound if layer.inherited_bound else 0.0)
    alternative = (
        f"Relative error of each of {len(layers)} layers in running order. The largest inherited error for its bound "
        f"is {number(worst.inherited)} at {worst.name}, bound {number(worst.inherited_bound)}."
    )
    return Chart("layer-errors", figure, alternative, list(_layer_tips(figure, upper, layers)))


def _errors(axes: Any, errors: Sequence[Series], bounds: Sequence[Series], size: float) -> None:
    """Errors by layer on a logarithmic scale, which has a place for 0 and one for what is not finite."""
    positive = [v for one in (*errors, *bounds) for v in one.values if v is not None and 0 < v < math.inf]
    floor = 10.0 ** (math.floor(math.log10(min(positive, default=1e-16))) - 1)
    ceiling = 10.0 ** (math.ceil(math.log10(max(positive, default=1.0))) + 1)
    lost = False
    for one in filter(lambda series: series.known, bounds):
        line = [math.nan if value is None or value <= 0 else value for value in one.values]
        axes.plot(range(len(line)), line, color=one.colour, linestyle=one.mark, linewidth=1.1, label=one.label)
    for one in filter(lambda series: series.known, errors):
        drawn = [math.nan if v is None else max(v, floor) if v < math.inf else ceiling for v in one.values]
        lost = lost or ceiling in drawn
        dots = {"marker": one.mark, "markersize": size + 1.5 * (one.mark != "o"), "linestyle": "none"}
        look = {"linewidth": 1.3} if one.mark == "-" else dots
        face = one.colour if one.mark == "o" else "none"
        axes.plot(range(len(drawn)), drawn, color=one.colour, mfc=face, mew=1.0, alpha=0.9, label=one.label, **look)
        if one.mark != "-":
            wrong = [place for place, pair in enumerate(zip(one.values, one.bounds, strict=True)) if beyond(*pair)]
            ring = {"marker": "o", "markersize": size + 6, "markerfacecolor": "none", "markeredgewidth": 1.7}
            axes.plot(wrong, [drawn[place] for place in wrong], color=BAD, linestyle="none", **ring)
    axes.set(yscale="log", ylim=(floor / 2.5, ceiling * 2.5 if lost else ceiling / 3), ylabel="relative error")
    powers_of_ten(axes.yaxis, {floor: "0"} | ({ceiling: "∞"} if lost else {}))
    put_legend(axes)


def _groups(panels: Sequence[Any], layers: Sequence[LayerError]) -> None:
    """The layers' axis: lines between the parts of the network, and the parts' names where they fit."""
    ends = {depth: list(_parts(layers, depth)) for depth in (1, 2, 3)}
    depth = next((d for d, parts in ends.items() if len(parts) > 1 and parts[0][1] < 0.9 * len(layers)), 1)
    room = panels[0].bbox.width / len(layers)
    named = [part for part in ends[depth] if (part[2] - part[1]) * room >= LETTER * len(part[0]) + 6]
    for axes in panels:
        for _, first, end in ends[depth]:
            for edge in (first, end) if end - first > 1 else ():
                axes.axvline(edge - 0.5, color=GRID, linewidth=0.8, zorder=0.5)
        axes.set_xlim(-0.8, len(layers) - 0.2)
        axes.set_xticks([(first + end - 1) / 2 for _, first, end in named], [legal(name) for name, _, _ in named])
        axes.tick_params(axis="x", length=0, labelbottom=axes is panels[-1], labelcolor=INK)
    panels[-1].set_xlabel(f"{len(layers)} layers, in the order in which they run")


def _parts(layers: Sequence[LayerError], depth: int) -> Iterator[tuple[str, int, int]]:
    """The runs of layers whose names begin alike: that beginning, the first layer, and the one after the last."""
    place = 0
    for name, members in groupby(".".join(layer.name.split(".")[:depth]) for layer in layers):
        first, place = place, place + len(list(members))
        yield name, first, place


def _layer_tips(figure: Any, axes: Any, layers: Sequence[LayerError]) -> Iterator[Tip]:
    """What each layer's column says."""
    low, high = (figure.subplotpars.bottom * figure.bbox.height, figure.subplotpars.top * figure.bbox.height)
    for place, layer in enumerate(layers):
        start, end = (float(axes.transData.transform((place + side, 1.0))[0]) for side in (-0.5, 0.5))
        lines = [f"{layer.name} ({layer.kind})", f"inherited {number(layer.inherited)}"]
        lines += [f"own {number(layer.own)}"] if layer.own is not None else []
        lines += [f"{side} float32 {number(error)}" for side, error in layer.float32.items()]
        yield Tip(start, low, end - start, high - low, "\n".join(lines))
