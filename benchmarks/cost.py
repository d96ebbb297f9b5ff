"""How the time of a step grows with depth, width, image size and batch size, and the exponents that fit.

``python benchmarks/cost.py`` writes ``results/cost.json``, ``docs/cost.png`` and the table in ``docs/throughput.md``.
With ``--tables`` it measures nothing, and writes picture and table from the results that are there.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import numpy as np
from common import DOCS, RESULTS, exponent, picture, read_results, write_between, write_results
from rich.progress import Progress

from resnet_xf import ResNetSpec, Stage, Stem
from resnet_xf.speed.bench.case import Case
from resnet_xf.speed.bench.charts import COLOURS
from resnet_xf.speed.bench.harness import bench
from resnet_xf.support.environment import environment, hardware, processors

BACKENDS = ("torch", "mxnet")
MODES = ("infer", "train")
CHANNELS, DEPTH, SIDE, BATCH = 32, 8, 64, 16
"""The network that every sweep starts from. Its stage keeps its resolution, so each block costs the same."""


@dataclass(frozen=True)
class Sweep:
    """One setting to change.

    Attributes:
        name: of the setting.
        label: of the picture's axis.
        values: to measure.
        expected: the exponent with which the number of multiplications grows.
    """

    name: str
    label: str
    values: tuple[int, ...]
    expected: float

    def case(self, value: int, backend: str, mode: str, preset: str) -> Case:
        """The case with this value, and all other settings unchanged."""
        settings = {"depth": DEPTH, "width": CHANNELS, "side": SIDE, "batch": BATCH} | {self.name: value}
        stages = (Stage(depth=settings["depth"], channels=settings["width"]),)
        stem = Stem(kind="conv3", width=settings["width"], stride=1, pool=False)
        size = settings["side"], settings["side"]
        spec = ResNetSpec(name=f"{self.name}_{value}", stem=stem, stages=stages, num_classes=10, image_size=size)
        return Case(
            spec=spec,
            backend=backend,
            mode=mode,
            preset=preset,
            batch=settings["batch"],
            image_size=size,
            threads=processors(),
        )


SWEEPS = (
    Sweep("depth", "blocks", (4, 8, 16, 32), 1),
    Sweep("width", "channels", (16, 32, 64, 128), 2),
    Sweep("side", "pixels of a side", (32, 48, 64, 96, 128), 2),
    Sweep("batch", "images of a batch", (4, 8, 16, 32, 64), 1),
)


def measure(
    sweeps: tuple[Sweep, ...], seconds: float, preset: str = "best", *, together: bool = False
) -> list[dict[str, object]]:
    """Measure every value on every backend in every mode; a row for each, in milliseconds a step.

    Points that are measured together share processes, which start once.
    """
    points = [
        (sweep, value, backend, mode)
        for sweep in sweeps
        for backend in BACKENDS
        for mode in MODES
        for value in sweep.values
    ]
    Random(0).shuffle(points)  # a machine that gets slower with time must not look like an exponent
    rows: list[dict[str, object]] = []
    with Progress() as progress:
        cases = [sweep.case(value, backend, mode, preset) for sweep, value, backend, mode in points]
        groups = [cases] if together else [[case] for case in cases]
        found = (row for group in groups for row in bench(group, seconds=seconds).rows)
        for (sweep, value, backend, mode), row in progress.track(zip(points, found, strict=True), len(points)):
            if row.result is None:
                raise SystemExit(f"{row.case}: {row.reason}")
            milliseconds = 1e3 * row.case.batch / row.result.speed.median
            point = {"what": sweep.name, "value": value, "backend": backend, "mode": mode}
            rows.append(point | {"milliseconds": milliseconds, "share": row.result.share})
    return sorted(rows, key=lambda row: [str(row["what"]), row["value"], str(row["backend"]), str(row["mode"])])


def series(rows: list[dict[str, object]], sweep: Sweep, backend: str, mode: str) -> tuple[list[float], list[float]]:
    """The values and times of one line of the picture."""
    key = {"what": sweep.name, "backend": backend, "mode": mode}
    points = [row for row in rows if key.items() <= row.items()]
    return [float(row["value"]) for row in points], [float(row["milliseconds"]) for row in points]  # type: ignore[arg-type]


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
    """Draw the time against each setting on logarithmic axes, and a line of the expected exponent."""
    with picture(path, 11, 3.2) as drawn:
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


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--time", type=float, default=2.0, help="seconds that each point is measured")
    parser.add_argument("--smoke", action="store_true", help="measure two points for a moment, and keep nothing")
    parser.add_argument("--tables", action="store_true", help="write table and picture from earlier results")
    options = parser.parse_args()
    if options.smoke:
        some = (Sweep("side", "pixels of a side", (8, 16), 2),)
        rows = measure(some, 0.1, "eager", together=True)
        print(table(some, rows))
        with TemporaryDirectory() as folder:
            draw((*some, *some), rows, Path(folder) / "cost.png")
        return
    results = RESULTS / "cost.json"
    if not options.tables:
        write_results(results, {"environment": environment() | hardware(), "rows": measure(SWEEPS, options.time)})
    rows = read_results(results)["rows"]
    write_between(DOCS / "throughput.md", "cost", table(SWEEPS, rows))
    draw(SWEEPS, rows, DOCS / "cost.png")


if __name__ == "__main__":
    main()
