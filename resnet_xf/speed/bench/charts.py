"""A bench's picture: images a second of every case, and the speed against the error that it costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from resnet_xf.errors import BenchError
from resnet_xf.speed.bench.case import OURS, Case
from resnet_xf.speed.bench.report import BenchReport, Row
from resnet_xf.speed.bench.statistics import in_words
from resnet_xf.support.files import atomic
from resnet_xf.support.optional import optional

FORMATS = (".svg", ".png", ".pdf")

COLOURS = {"torch": "#c8502d", "mxnet": "#1f6fb2", "torchvision": "#e0a48f", "timm": "#d9b36c", "gluon": "#9cc3e4"}
"""Of the backends, and paler ones of their peers."""

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
    """Write the picture, one row of two charts for every group of cases.

    Raises:
        MissingExtraError: if Matplotlib is not installed.
        BenchError: if the file's name ends in no known format, or nothing was measured.
    """
    path = Path(path)
    check_format(path)
    groups = [rows for rows in map(_measured, report.groups()) if rows]
    if not groups:
        raise BenchError("nothing was measured that could be drawn")
    with figure() as new:
        heights = [0.9 + 0.3 * len(rows) for rows in groups]
        drawn = new(figsize=(11, sum(max(2.6, height) for height in heights)), layout="constrained")
        axes = drawn.subplots(len(groups), 2, squeeze=False, height_ratios=[max(2.6, h) for h in heights])
        for (left, right), rows in zip(axes, groups, strict=True):
            _bars(left, rows)
            _errors(right, rows)
        with atomic(path) as temporary:
            metadata = {"Date": None} if path.suffix == ".svg" else None
            drawn.savefig(temporary, format=path.suffix[1:], metadata=metadata)


def check_format(path: Path) -> None:
    """Raises BenchError unless the file's name ends in one of ``FORMATS``."""
    if path.suffix.lower() not in FORMATS:
        raise BenchError(f"{path}: a picture is one of {', '.join(FORMATS)}")


@contextmanager
def figure() -> Iterator[Any]:
    """Matplotlib's ``Figure``, in our style whatever a person's own settings are."""
    matplotlib = optional("matplotlib", "charts are drawn by Matplotlib")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield optional("matplotlib.figure", "charts are drawn by Matplotlib").Figure


def _measured(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.result]


def _colour(case: Case) -> str:
    return COLOURS.get(case.backend if case.library == OURS else case.library, "#777777")


def _bars(axes: Any, rows: Sequence[Row]) -> None:
    """Images a second, with the quartiles."""
    for place, row in enumerate(rows):
        assert row.result is not None
        speed = row.result.speed
        axes.barh(place, speed.median, color=_colour(row.case), height=0.7)
        axes.plot([speed.low, speed.high], [place, place], color="#222222", linewidth=1.4)
        beside = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
        axes.annotate(in_words(speed.median), (speed.high, place), **beside)
    axes.set_yticks(range(len(rows)), [str(row.case) for row in rows])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.14)
    axes.set(title=rows[0].case.group_title, xlabel="images a second: median and quartiles")


def _errors(axes: Any, rows: Sequence[Row]) -> None:
    """Speed against error; up and to the left is better."""
    for row in rows:
        assert row.result is not None
        size = 70 if row.case.preset == "best" else 30
        axes.scatter(
            max(row.result.error, 2e-8),
            row.result.speed.median,
            s=size,
            color=_colour(row.case),
            marker=MARKERS.get(row.case.precision, "o"),
            edgecolors="white",
            linewidths=0.6,
        )
    for precision in dict.fromkeys(row.case.precision for row in rows):
        axes.scatter([], [], color="#777777", marker=MARKERS.get(precision, "o"), label=precision)
    top = 1.1 * max(row.result.speed.median for row in rows if row.result)
    axes.set(xscale="log", xlim=(1e-8, 1), ylim=(0, top), title="speed against its price")
    axes.set(xlabel="error of the outputs against float64; large: preset best", ylabel="images a second")
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
