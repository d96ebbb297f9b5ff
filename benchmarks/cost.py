"""Cost against depth, width, image size and batch: seconds a step, and the exponents that fit.

``python benchmarks/cost.py`` writes ``results/cost.json``, ``docs/cost.svg`` and the table in ``docs/throughput.md``.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import numpy as np
from rich.progress import Progress
from throughput import DOCS, HERE, check_measured, write_between

from resnet_xf import ResNetSpec, Stage, Stem
from resnet_xf.backend.workers import processors
from resnet_xf.speed.bench.case import Case
from resnet_xf.speed.bench.charts import COLOURS, figure
from resnet_xf.speed.bench.harness import bench
from resnet_xf.speed.bench.machine import environment
from resnet_xf.support.files import atomic

BACKENDS = ("torch", "mxnet")
MODES = ("infer", "train")
CHANNELS, DEPTH, SIDE, BATCH = 32, 8, 64, 16
"""Of the network from which one thing at a time is changed; its stage keeps its resolution, so that each block costs
the same."""


@dataclass(frozen=True)
class Sweep:
    """One thing that is changed: its values, and the exponent of the arithmetic in it."""

    name: str
    label: str
    values: tuple[int, ...]
    expected: float

    def case(self, value: int, backend: str, mode: str) -> Case:
        """The measurement with that value, everything else as it was."""
        given = {"depth": DEPTH, "width": CHANNELS, "side": SIDE, "batch": BATCH} | {self.name: value}
        stages = (Stage(depth=given["depth"], channels=given["width"]),)
        stem = Stem(kind="conv3", width=given["width"], stride=1, pool=False)
        size = given["side"], given["side"]
        spec = ResNetSpec(name=f"{self.name}_{value}", stem=stem, stages=stages, num_classes=10, image_size=size)
        return Case(
            spec=spec,
            backend=backend,
            mode=mode,
            preset="best",
            batch=given["batch"],
            image_size=size,
            threads=processors(),
        )


SWEEPS = (
    Sweep("depth", "blocks", (4, 8, 16, 32), 1),
    Sweep("width", "channels", (16, 32, 64, 128), 2),
    Sweep("side", "pixels of a side", (32, 48, 64, 96, 128), 2),
    Sweep("batch", "images of a batch", (4, 8, 16, 32, 64), 1),
)


def measure(sweeps: tuple[Sweep, ...], seconds: float) -> list[dict[str, object]]:
    """A row for every value, backend and mode: milliseconds a step."""
    points = [
        (sweep, value, backend, mode)
        for sweep in sweeps
        for backend in BACKENDS
        for mode in MODES
        for value in sweep.values
    ]
    Random(0).shuffle(points)  # so that a machine which gets slower meanwhile does not look like an exponent
    rows: list[dict[str, object]] = []
    with Progress() as progress:
        for sweep, value, backend, mode in progress.track(points, description="cost"):
            [row] = bench([sweep.case(value, backend, mode)], seconds=seconds).rows
            if row.result is None:
                raise SystemExit(f"{row.case}: {row.reason}")
            milliseconds = 1e3 * row.case.batch / row.result.speed.median
            told = {"what": sweep.name, "value": value, "backend": backend, "mode": mode}
            rows.append(told | {"milliseconds": milliseconds, "share": row.result.share})
    return sorted(rows, key=lambda row: [str(row["what"]), row["value"], str(row["backend"]), str(row["mode"])])


def exponent(values: list[float], times: list[float]) -> float:
    """The slope of log time against log value, by least squares."""
    return float(np.polyfit(np.log(values), np.log(times), 1)[0])


def series(rows: list[dict[str, object]], sweep: Sweep, backend: str, mode: str) -> tuple[list[float], list[float]]:
    """The values and times of one line of the plot."""
    key = {"what": sweep.name, "backend": backend, "mode": mode}
    found = [row for row in rows if key.items() <= row.items()]
    return [float(row["value"]) for row in found], [float(row["milliseconds"]) for row in found]  # type: ignore[arg-type]


def table(sweeps: tuple[Sweep, ...], rows: list[dict[str, object]]) -> str:
    """The exponents as Markdown."""
    columns = [(backend, mode) for mode in MODES for backend in BACKENDS]
    lines = [f"| time against | exponent of the arithmetic | {' | '.join(f'{b}, {m}' for b, m in columns)} |"]
    lines.append("| --- " * (2 + len(columns)) + "|")
    for sweep in sweeps:
        cells = [f"{exponent(*series(rows, sweep, *column)):.2f}" for column in columns]
        lines.append(
            f"| {sweep.label}, {sweep.values[0]} to {sweep.values[-1]} | {sweep.expected:g} | {' | '.join(cells)} |"
        )
    return "\n".join(lines) + "\n"


def draw(sweeps: tuple[Sweep, ...], rows: list[dict[str, object]], path: Path) -> None:
    """Time against each thing, on logarithmic axes, beside the line of the arithmetic's exponent."""
    with figure() as new:
        drawn = new(figsize=(11, 3.2), layout="constrained")
        for axes, sweep in zip(drawn.subplots(1, len(sweeps)), sweeps, strict=True):
            for backend, colour in ((name, COLOURS[name]) for name in BACKENDS):
                for mode, look in zip(MODES, ("o-", "s--"), strict=True):
                    values, times = series(rows, sweep, backend, mode)
                    label = f"{backend}, {mode}: {exponent(values, times):.2f}"
                    axes.plot(values, times, look, color=colour, markersize=4, linewidth=1.3, label=label)
            ends = np.array([sweep.values[0], sweep.values[-1]], float)
            start = series(rows, sweep, BACKENDS[0], MODES[0])[1][0] / 1.6
            axes.plot(
                ends,
                start * (ends / ends[0]) ** sweep.expected,
                color="#999999",
                linewidth=1,
                label=f"exponent {sweep.expected:g}",
            )
            axes.set(xscale="log", yscale="log", xlabel=sweep.label)
            axes.set_xticks(sweep.values, [str(value) for value in sweep.values])
            axes.minorticks_off()
            axes.legend(fontsize=7, frameon=False)
        drawn.axes[0].set_ylabel("milliseconds a step")
        with atomic(path) as temporary:
            drawn.savefig(temporary, format="svg", metadata={"Date": None})


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--time", type=float, default=2.0, help="seconds that each point runs")
    parser.add_argument("--smoke", action="store_true", help="two points for a moment, and nothing is kept")
    parser.add_argument("--tables", action="store_true", help="only write table and plot anew")
    asked = parser.parse_args()
    if asked.smoke:
        some = (Sweep("batch", "images of a batch", (1, 2), 1),)
        rows = measure(some, 0.1)
        print(table(some, rows))
        with TemporaryDirectory() as folder:
            draw((*some, *some), rows, Path(folder) / "cost.svg")
        return
    results = HERE / "results" / "cost.json"
    if not asked.tables:
        rows = measure(SWEEPS, asked.time)
        with atomic(results) as temporary:
            temporary.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=2) + "\n")
    check_measured(results)
    rows = json.loads(results.read_text())["rows"]
    write_between(DOCS / "throughput.md", "cost", table(SWEEPS, rows))
    draw(SWEEPS, rows, DOCS / "cost.svg")


if __name__ == "__main__":
    main()
