"""Draws the results of a bench: the images per second of every case, and its speed against its error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from resnet_xf.backend.fast import COMPILED
from resnet_xf.errors import BenchError
from resnet_xf.speed.bench.case import OURS, Case
from resnet_xf.speed.bench.report import BenchReport, Result, Row, measured
from resnet_xf.speed.bench.statistics import format_rate
from resnet_xf.support.files import atomic
from resnet_xf.support.optional import optional

Results = Sequence[tuple[Case, Result]]

FORMATS = (".svg", ".png", ".pdf")

COLOURS = {
    "torch": "#c8502d",
    "mxnet": "#1f6fb2",
    "onnx": "#5f8f3e",
    "torchvision": "#e0a48f",
    "timm": "#d9b36c",
    "gluon": "#9cc3e4",
}
"""Colours of the backends, and paler ones of the other libraries that use them."""

MARKERS = {"float32": "o", "tf32": "v", "bfloat16": "s", "float16": "D", "int8": "^"}

STYLE = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "resnet_xf",
}


def plot(report: BenchReport, path: str | Path) -> None:
    """Draw a report to a file: for every group of cases a chart of speeds, and one of speed against error.

    Raises:
        MissingExtraError: if Matplotlib is not installed.
        BenchError: if the file's name ends in no known format, or nothing was measured.
    """
    path = Path(path)
    check_format(path)
    groups = [rows for rows in report.groups() if measured(rows)]
    if not groups:
        raise BenchError("nothing was measured that could be drawn")
    with figure() as new:
        heights = [max(2.6, 0.9 + 0.3 * sum(bool(row.result or row.missing) for row in rows)) for rows in groups]
        picture = new(figsize=(11, sum(heights)), layout="constrained")
        if report.partial:
            absent = [rows[0].case.group_title for rows in report.groups() if rows not in groups]
            lines = [f"partial: {report.ended}", *(f"not measured: {title}" for title in absent)]
            picture.suptitle("\n".join(lines))
        axes = picture.subplots(len(groups), 2, squeeze=False, height_ratios=heights)
        for (left, right), rows in zip(axes, groups, strict=True):
            _bars(left, [row for row in rows if row.result or row.missing])
            _errors(right, measured(rows))
        with atomic(path) as temporary:
            metadata = {"Date": None} if path.suffix == ".svg" else None
            picture.savefig(temporary, format=path.suffix[1:], metadata=metadata)


def check_format(path: Path) -> None:
    """Raise BenchError unless the file's name ends in one of ``FORMATS``."""
    if path.suffix.lower() not in FORMATS:
        raise BenchError(f"{path}: a picture is one of {', '.join(FORMATS)}")


@contextmanager
def figure() -> Iterator[Any]:
    """Yield Matplotlib's class ``Figure``; within the block our ``STYLE`` replaces the user's own settings."""
    matplotlib = optional("matplotlib", "charts are drawn by Matplotlib")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield optional("matplotlib.figure", "charts are drawn by Matplotlib").Figure


def _colour(case: Case) -> str:
    """Return the colour of the case's backend, or of the other library that implements the network."""
    return COLOURS.get(case.backend if case.library == OURS else case.library, "#777777")


def _bars(axes: Any, rows: Sequence[Row]) -> None:
    """Draw a bar for each case: its median of images per second, with a line from quartile to quartile.

    A case without a result has the reason in place of a bar.
    """
    beside = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
    for place, row in enumerate(rows):
        if row.result is None:
            axes.annotate(row.reason, (0, place), **beside)
            continue
        speed = row.result.speed
        axes.barh(place, speed.median, color=_colour(row.case), height=0.7)
        axes.plot([speed.low, speed.high], [place, place], color="#222222", linewidth=1.4)
        axes.annotate(format_rate(speed.median), (speed.high, place), **beside)
    axes.set_yticks(range(len(rows)), [str(row.case) for row in rows])
    if any(row.missing for row in rows):  # texts alone do not widen the axis
        axes.set_ylim(-0.5, len(rows) - 0.5)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.14)
    axes.set(title=rows[0].case.group_title, xlabel="images a second: median and quartiles")


def _errors(axes: Any, results: Results) -> None:
    """Draw a point for each case: its error on the x axis, its images per second on the y axis."""
    for case, result in results:
        size = 70 if case.preset in COMPILED else 30
        style = {"marker": MARKERS.get(case.precision, "o"), "edgecolors": "white", "linewidths": 0.6}
        axes.scatter(max(result.error, 2e-8), result.speed.median, s=size, color=_colour(case), **style)
    for precision in dict.fromkeys(case.precision for case, _ in results):
        axes.scatter([], [], color="#777777", marker=MARKERS.get(precision, "o"), label=precision)
    top = 1.1 * max(result.speed.median for _, result in results)
    axes.set(xscale="log", xlim=(1e-8, 1), ylim=(0, top), title="speed against its price")
    axes.set(xlabel="error of the outputs against float64; large: preset best or max", ylabel="images a second")
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
