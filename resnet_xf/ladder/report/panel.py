"""A chart as plain data: axes, and lines and dots as SVG paths. The page's template draws it.

A path is drawn in a box of ``WIDTH`` by ``HEIGHT`` that the browser stretches to the page's width. Strokes and letters
are not stretched, so a chart is as readable on a phone as on a wide screen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from resnet_xf.ladder.report.wording import power_of_ten

WIDTH, HEIGHT = 1000, 300
POINT = "h.01"
"""An SVG path command for a stroke of nearly no length. Its round ends make a dot of it."""

LABELS = 6
"""Labels on an axis, at most: so many fit on a phone."""

MARGIN = 0.25
"""Powers of ten that a logarithmic axis extends beyond its labels."""


class Tick(NamedTuple):
    """A label of an axis, at ``place`` (0: low end, 1: high end). ``narrow``: whether a phone shows it too."""

    place: float
    label: str
    narrow: bool = True


@dataclass(frozen=True)
class Axis:
    """A linear or logarithmic scale.

    Attributes:
        low, high: the values at its ends; of a logarithmic scale, their exponents.
        ticks: its labels.
        title: what it measures, with its unit.
        logarithmic: whether it is. Then 0 and ∞ are drawn ``MARGIN`` from its ends.
    """

    low: float
    high: float
    ticks: Sequence[Tick] = ()
    title: str = ""
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Return where a value lies on the axis: 0 is the low end, 1 the high end. Values beyond an end lie at it.

        On a logarithmic axis, infinity and NaN lie ``MARGIN`` inside the high end, and 0 and negative values inside
        the low end.
        """
        value = math.inf if math.isnan(value) else value
        if self.logarithmic:
            if 0 < value < math.inf:
                value = math.log10(value)
            else:
                value = self.low + MARGIN if value <= 0 else self.high - MARGIN
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)


def linear(values: Iterable[float], title: str = "", least_step: float = 0.0) -> Axis:
    """Return a linear axis for the finite values, with labels at round numbers, at least ``least_step`` apart."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    reach = (high - low) or abs(high) or 1.0
    low, high = low - 0.05 * reach, high + 0.05 * reach
    rough = max((high - low) / LABELS, least_step)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    values = [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
    ticks = [Tick((v - low) / (high - low), f"{v:z.{digits}f}".replace("-", "−")) for v in values]
    return Axis(low, high, ticks, title)


def logarithmic(
    values: Iterable[float], title: str = "", *, named: Mapping[float, str] | None = None, ceiling: float | None = None
) -> Axis:
    """Return a logarithmic axis with a place for 0 at its low end and for ∞ at its high end, if values need them.

    Args:
        values: the values to be shown; NaN counts as infinite.
        title: what the axis measures.
        named: for some values, the label to show there instead of a power of ten.
        ceiling: the largest value with a place of its own; if None, the largest finite value, and ∞ has a place too.
    """
    listed = list(values)
    positive = [value for value in listed if 0 < value < math.inf] or [1.0]
    first = math.floor(math.log10(min(positive)))
    last = max(math.ceil(math.log10(ceiling or max(positive))), first + 1)
    labels = {math.log10(value): label for value, label in (named or {}).items()}
    if has_zero := any(value == 0 for value in listed):
        labels[first - 1] = "0"
    if is_cut := ceiling is None and not all(value < math.inf for value in listed):
        labels[last + 1] = "∞"
    step = math.ceil((last - first + 1) / LABELS)
    exponents = [e for e in range(first, last + 1) if e % step == 0 and all(abs(e - other) >= 1 for other in labels)]
    labels |= {exponent: power_of_ten(exponent) for exponent in exponents}
    low, high = first - has_zero - MARGIN, last + is_cut + MARGIN
    ticks = [Tick((exponent - low) / (high - low), label) for exponent, label in sorted(labels.items())]
    return Axis(low, high, ticks, title, logarithmic=True)


class Series(NamedTuple):
    """Lines or dots that look alike.

    Attributes:
        label: what the legend says. There is no entry if the label or the path is empty.
        look: the classes of the page's style that draw it: ``line`` or ``dot`` first, then a colour.
        path: an SVG path.
    """

    label: str
    look: str
    path: str


class Tip(NamedTuple):
    """The text that a column of the chart shows under the pointer. ``start`` and ``width`` are 0 to ``WIDTH``."""

    start: float
    width: float
    text: str


@dataclass(frozen=True)
class Panel:
    """A chart: a pair of axes, and what is drawn between them.

    Attributes:
        title: what it shows; may be empty.
        alternative: a text in place of the chart, for screen readers.
        x, y: its axes.
        series: the lines and dots, drawn in this order.
        bands: ranges of x that are shaded, as start and width in 0 to ``WIDTH``.
        tips: the texts of its columns.
    """

    title: str
    alternative: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    bands: Sequence[tuple[float, float]] = ()
    tips: Sequence[Tip] = ()


def line(x: Axis, y: Axis, points: Iterable[tuple[float, float | None]]) -> str:
    """Return an SVG path of lines through points (x, y). A y that is None or not finite leaves a gap."""
    parts, pen = [], "M"
    for across, up in points:
        if up is None or not math.isfinite(up):
            pen = "M"
            continue
        parts.append(pen + _place(x, y, across, up) + POINT * (pen == "M"))
        pen = "L"
    return "".join(parts)


def dots(x: Axis, y: Axis, points: Iterable[tuple[float, float | None]]) -> str:
    """Return an SVG path with a dot at each point (x, y). A y of None has no dot."""
    return "".join(f"M{_place(x, y, across, up)}{POINT}" for across, up in points if up is not None)


def _place(x: Axis, y: Axis, across: float, up: float) -> str:
    return f"{WIDTH * x.share(across):.1f} {HEIGHT * (1 - y.share(up)):.1f}"
