"""The charts of a parity report."""

from __future__ import annotations

import math
from collections.abc import Sequence

from resnet_xf.ladder.accuracy.equivalence import Equivalence
from resnet_xf.ladder.report.drawing import (
    BAD,
    BOUND,
    DASHES,
    GOOD,
    GRID,
    INK,
    MUTED,
    SERIES,
    Chart,
    new_figure,
    powers_of_ten,
    put_legend,
    style,
    ticker,
    to_svg,
)
from resnet_xf.ladder.report.layer_chart import layer_errors
from resnet_xf.ladder.report.report import Curves, Report, RungResult
from resnet_xf.ladder.report.wording import legal, number

FAR = 100.0
"""How many times its bound an error is drawn at, at most."""


def draw(report: Report) -> dict[str, str]:
    """The charts that a report has data for, by name, each an ``<svg>`` element.

    Raises:
        BackendError: if Matplotlib is not installed.
    """
    with style():
        charts = [head_room(report.rungs)]
        if report.layers:
            charts.append(layer_errors(report.layers))
        if report.curves:
            charts.append(learning_curves(report.curves))
        if report.accuracy:
            charts.append(accuracies(report.accuracy))
        return {chart.name: to_svg(chart) for chart in charts}


def head_room(rungs: Sequence[RungResult]) -> Chart:
    """What every rung found as a share of its bound, on a logarithmic scale."""
    height = 0.30 * len(rungs) + 0.95
    figure = new_figure(height, 0.17, 0.55 / height, 0.985, 1 - 0.06 / height)
    axes = figure.subplots()
    shares = [_share(rung) for rung in rungs]
    least = min((share for share in shares if share and 0 < share <= 1), default=0.01)
    floor = 10.0 ** (math.floor(math.log10(max(least, 1e-12))) - 1)
    axes.set(xscale="log", xlim=(floor / 2, FAR * 3), ylim=(len(rungs) - 0.4, -0.6))
    axes.axvspan(1, FAR * 3, color=BAD, alpha=0.09, linewidth=0)
    axes.axvline(1, color=BOUND, linewidth=1.3)
    for place, (rung, share) in enumerate(zip(rungs, shares, strict=True)):
        if share is None:
            axes.text(floor, place, "skipped", color=MUTED, va="center", style="italic")
            continue
        x, colour = min(max(share, floor), FAR), BAD if rung.status == "fail" else GOOD
        axes.plot([x, 1], [place, place], color=colour, linewidth=2.2, alpha=0.35, solid_capstyle="butt")
        axes.plot([x], [place], "X" if rung.status == "fail" else "o", color=colour, markersize=7, linestyle="none")
        end, side = (x * 1.3, "left") if share <= floor else (min(x, 1.0) / 1.3, "right")
        axes.text(
            end,
            place + 0.02 - 0.22 * (share <= floor),
            _room(rung, share),
            color=INK,
            ha=side,
            va="center",
            fontsize=8.5,
        )
    axes.set_yticks(range(len(rungs)), [f"{legal(rung.name)}  {rung.number}" for rung in rungs])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    powers_of_ten(axes.xaxis, {floor: "0", 1.0: "bound", FAR: "100 and more"})
    axes.set_xlabel("found, as a share of the bound")
    axes.spines["left"].set_visible(False)
    said = "; ".join(f"{rung.name}: {_room(rung, s)}" for rung, s in zip(rungs, shares, strict=True) if s is not None)
    return Chart("head-room", figure, f"How far each rung is from its bound. {said}.")


def learning_curves(found: Curves) -> Chart:
    """Each side's losses, and how far they are apart: from the first side's, and from those of its nudged runs."""
    figure = new_figure(5.2, 0.07, 0.09, 0.985, 0.93)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    first = next(iter(found.losses.values()))
    pairs = [(found.losses[side], run) for side, runs in found.nudged.items() for run in runs]
    for place, (own, run) in enumerate(pairs):
        look = {"color": MUTED, "linewidth": 0.7, "alpha": 0.6}
        label = f"begun one rounding away ({len(pairs)} runs)" if place == 0 else None
        upper.plot(range(1, len(run) + 1), run, label=label, **look)
        lower.plot(range(1, len(run) + 1), _apart(own, run), label=label and "nudged, from its own side", **look)
    for place, (side, losses) in enumerate(found.losses.items()):
        look = {"color": SERIES[place % 4], "linestyle": DASHES[place % 4], "linewidth": 1.9, "label": legal(side)}
        steps = range(1, len(losses) + 1)
        upper.plot(steps, losses, **look)
        if place:
            other = legal(f"{side}, from {next(iter(found.losses))}")
            lower.plot(steps, _apart(first, losses), **look | {"linestyle": "solid", "label": other})
    upper.set(ylabel="loss")
    lower.set(xlabel="step", ylabel="apart", yscale="log")
    if math.isfinite(lower.dataLim.y0):
        powers_of_ten(lower.yaxis, {})
    else:
        lower.set_yticks([])
        lower.text(0.5, 0.5, "equal at every step", transform=lower.transAxes, ha="center", color=MUTED)
    upper.margins(x=0.01)
    lower.xaxis.set_major_locator(ticker().MaxNLocator(integer=True, nbins=10))
    for axes in (upper, lower):
        put_legend(axes)
    ends = ", ".join(f"{side} {number(losses[-1])}" for side, losses in found.losses.items() if losses)
    return Chart("loss-curves", figure, f"Loss by training step, with nudged runs in grey. Last losses: {ends}.")


def accuracies(found: Equivalence) -> Chart:
    """Accuracies that are paired by seed, and their differences against the margin."""
    figure = new_figure(3.3, 0.07, 0.15, 0.985, 0.83)
    left, right = figure.subplots(1, 2)
    first, second = (found.accuracies[name] for name in (found.first, found.second))
    places = range(len(found.seeds))
    for place, a, b in zip(places, first, second, strict=True):
        left.plot([place, place], [a, b], color=MUTED, linewidth=1.2, alpha=0.7)
    for n, (name, values) in enumerate(((found.first, first), (found.second, second))):
        look = {
            "marker": "os"[n],
            "markersize": 6 + 2 * n,
            "markerfacecolor": (SERIES[n], "none")[n],
            "linestyle": "none",
        }
        left.plot(places, values, color=SERIES[n], markeredgewidth=1.4, label=legal(name), **look)
    shown = places[:: math.ceil(len(places) / 12)]
    left.set_xticks(shown, [str(found.seeds[place]) for place in shown])
    left.set(xlabel="seed", ylabel="accuracy, %", xlim=(-0.6, len(places) - 0.4))
    left.set_title("by seed", pad=22)
    put_legend(left)

    differences = [b - a for a, b in zip(first, second, strict=True)]
    low, high = found.interval
    colour = GOOD if found.verdict == "equivalent" else BAD
    right.axvspan(-found.margin, found.margin, color=GOOD, alpha=0.10, linewidth=0)
    for end in (-found.margin, found.margin):
        right.axvline(end, color=BOUND, linewidth=1.3)
    right.axvline(0, color=GRID, linewidth=0.8)
    heights = [1.55 + 0.9 * (place + 0.5) / len(places) for place in places]
    right.plot(differences, heights, "o", color=MUTED, markersize=4.5, linestyle="none")
    right.plot([low, high], [0.8, 0.8], color=colour, linewidth=4, solid_capstyle="butt")
    right.plot([found.mean_difference], [0.8], "D", color=colour, markersize=8)
    right.text(found.mean_difference, 0.52, f"{number(low)} to {number(high)}", ha="center", va="top", fontsize=8.5)
    reach = 1.25 * max(found.margin, abs(low), abs(high), *map(abs, differences))
    right.set(xlim=(-reach, reach), ylim=(0, 2.7), xlabel=legal(f"{found.second} − {found.first}, points"))
    interval = f"{100 - 200 * found.alpha:.4g}% interval"
    right.set_yticks([0.8, 2.0], [interval, "each seed"], rotation=90, va="center")
    right.tick_params(axis="y", length=0)
    right.grid(visible=False, axis="y")
    right.set_title(f"difference, and the margin of ±{found.margin:g}", pad=22)
    return Chart("accuracies", figure, f"Accuracies by seed and their differences: {found.sentence()}.")


def _apart(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """How far losses are apart at each step; not a number where they are equal, which no logarithm shows."""
    return [abs(a - b) or math.nan for a, b in zip(first, second, strict=False)]


def _share(rung: RungResult) -> float | None:
    """What a rung found as a share of its bound; None if it was skipped."""
    if rung.value is None or rung.bound is None:
        return None
    if math.isnan(rung.value) or (rung.bound == 0 and rung.value > 0):
        return math.inf
    return rung.value / rung.bound if rung.bound else 0.0


def _room(rung: RungResult, share: float) -> str:
    """How far a rung is from its bound, in words."""
    if share == 0:
        return "exact"
    if share > 1:
        return f"found {number(rung.value)}, bound {number(rung.bound)}"
    return f"{number(1 / share)} times below"
