"""Matplotlib's figures as SVG that can stand inside a page: the page's colours, no ids, the same bytes every time."""

from __future__ import annotations

import io
import math
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from resnet_xf.ladder.report.wording import legal, power_of_ten
from resnet_xf.support.optional import optional

PURPOSE = "charts are drawn by Matplotlib"

INK, MUTED, GRID, BAD, GOOD, BOUND = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
SERIES = ("#070701", "#070702", "#070703", "#070704")
"""One for each side."""

VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    BAD: "bad",
    GOOD: "good",
    BOUND: "bound",
    **{colour: f"series{number}" for number, colour in enumerate(SERIES, start=1)},
}
"""The page's CSS variable that takes each colour's place, so that a chart follows the page into the dark."""

DASHES: tuple[Any, ...] = ("solid", (0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
"""Of each side, which are not told apart by colour alone."""

STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "resnet_xf",
    "text.parse_math": False,
    "font.size": 9.5,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "path.simplify": False,
}

HEX = re.compile("#[0-9a-f]{6}")
REFERENCE = re.compile(r"#([\w.\-]+)")
WIDTH = 9.6
"""Of every chart, in inches of 72 points."""


class Tip(NamedTuple):
    """What a part of a chart says to a pointer that rests on it; its place is in points from the lower left."""

    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A figure, and what it says to those who do not see it."""

    name: str
    figure: Any
    alternative: str
    tips: Sequence[Tip] = field(default=())


def new_figure(height: float, *edges: float) -> Any:
    """An empty figure of a height in inches; ``edges`` are its axes' left, bottom, right and top, as shares of it."""
    figure = optional("matplotlib.figure", PURPOSE).Figure(figsize=(WIDTH, height), dpi=72)
    left, bottom, right, top = edges
    figure.subplots_adjust(left=left, bottom=bottom, right=right, top=top, hspace=0.32, wspace=0.16)
    return figure


@contextmanager
def style() -> Iterator[None]:
    """A context in which figures look as ours do, whatever a person's own settings are."""
    matplotlib = optional("matplotlib", PURPOSE)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def powers_of_ten(axis: Any, named: dict[float, str]) -> None:
    """Ticks at some powers of ten, and at places that have names; none before the 0 and none after the ∞."""
    low, high = (round(math.log10(end)) for end in axis.get_view_interval())
    step = max(1, math.ceil((high - low) / 9))
    places = {name: place for place, name in named.items()}
    powers = [10.0**e for e in range(low, high + 1) if e % step == 0]
    clear = [p for p in powers if all(abs(math.log10(p / place)) > 0.9 for place in named)]
    kept = [p for p in clear if places.get("0", 0.0) < p < places.get("∞", math.inf)]
    labels = named | {p: power_of_ten(round(math.log10(p))) for p in kept}
    axis.set_major_locator(ticker().FixedLocator(list(labels)))
    axis.set_major_formatter(ticker().FixedFormatter(list(labels.values())))
    axis.set_minor_locator(ticker().NullLocator())


def put_legend(axes: Any) -> None:
    """The legend in one row above the axes."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.005, 0.985), ncols=4, fontsize=9, borderaxespad=0, handlelength=1.8
    )


def ticker() -> Any:
    """Matplotlib's module of that name."""
    return optional("matplotlib.ticker", PURPOSE)


def to_svg(chart: Chart) -> str:
    """The chart as an ``<svg>`` element; its ids begin with its name."""
    written = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # text is measured, and set by the browser
        chart.figure.savefig(written, format="svg", metadata={"Date": None})
    root = ET.fromstring(written.getvalue())
    used = {target for element in root.iter() for value in element.attrib.values() for target in _references(value)}
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = _attributes(element.attrib, chart.name, used)
    for unwanted in ("width", "height", "version"):
        root.attrib.pop(unwanted, None)
    root.attrib |= {"role": "img", "aria-label": legal(chart.alternative)}
    for tip in chart.tips:
        root.append(_rectangle(tip, chart.figure.bbox.height))
    return ET.tostring(root, encoding="unicode")


def _references(value: str) -> list[str]:
    """The ids to which an attribute points."""
    return REFERENCE.findall(value) if value.startswith("#") or "url(#" in value else []


def _attributes(attributes: dict[str, str], name: str, used: set[str]) -> dict[str, str]:
    """An element's attributes, without ids that nothing points to, and with the page's colours."""
    found = {}
    for key, value in attributes.items():
        key = _local(key)
        if key == "id":
            if value in used:
                found[key] = f"{name}-{value}"
        elif key == "style":
            found[key] = HEX.sub(_variable, value)
        elif _references(value):
            found[key] = REFERENCE.sub(rf"#{name}-\1", value)
        else:
            found[key] = value
    return found


def _variable(colour: re.Match[str]) -> str:
    variable = VARIABLES.get(colour[0])
    return f"var(--{variable})" if variable else colour[0]


def _rectangle(tip: Tip, height: float) -> ET.Element:
    """An unseen rectangle with a title, which browsers show to a resting pointer."""
    sizes = {"x": tip.x, "y": height - tip.y - tip.height, "width": tip.width, "height": tip.height}
    element = ET.Element("rect", {"class": "tip"} | {key: f"{size:.2f}" for key, size in sizes.items()})
    ET.SubElement(element, "title").text = legal(tip.text)
    return element


def _local(tag: str) -> str:
    """A name without its namespace, which HTML knows by itself."""
    return tag.rpartition("}")[2]
