"""The command on throughput: bench."""

from __future__ import annotations

import shlex
import sys
import time as clock
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from resnet_xf.architecture.plan import plan
from resnet_xf.backend.fast import PRECISIONS, PRESETS
from resnet_xf.backend.registry import ALIASES, get_backend, has_device, is_installed, list_backends
from resnet_xf.cli.application import new_app
from resnet_xf.cli.options import AsJson, Device, ImageSize, arguments_without, check_outputs, option
from resnet_xf.cli.printing import ProgressBar, echo, print_json, print_table
from resnet_xf.errors import BenchError
from resnet_xf.speed.bench.case import MODES, PEERS, cases
from resnet_xf.speed.bench.charts import check_format, plot
from resnet_xf.speed.bench.harness import bench as measure
from resnet_xf.speed.bench.harness import best_batch, check_options
from resnet_xf.speed.bench.report import BenchReport, Comparison, Row, baseline, compare
from resnet_xf.speed.bench.statistics import format_rate
from resnet_xf.support.environment import gpus, process_age, processors
from resnet_xf.support.files import atomic
from resnet_xf.support.optional import optional

app = new_app()

RATIO_SIGNS = {"faster": "", "slower": "", "no difference shown": "≈ "}
"""The sign before a ratio, by its verdict."""

IDLE = 0.7
"""A measurement is reported as doubtful if fewer than this share of its processors were busy; sound ones have 0.85."""

PREPARING = 4
"""On a GPU, a case gets one CPU thread for this many processors, because several cases get ready at the same time."""

STARTING = 30.0
"""Seconds. The age of an older process is not counted: it was started for something else, as a test run."""

SEARCHING = 0.5
"""The share of a budget in which the fastest batches are searched for."""

DEFAULT_NETWORK = "resnet18"


@app.command("bench")
def bench(
    context: typer.Context,
    specs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SPEC]...", help="Networks, as `show` takes them.", show_default=DEFAULT_NETWORK),
    ] = None,
    backend: Annotated[
        str | None, option("By comma: torch, mxnet.", default="all that are installed and have the device")
    ] = None,
    mode: Annotated[str, option("By comma: infer, train.")] = "infer",
    precision: Annotated[
        str, option(f"By comma: {', '.join(PRECISIONS)}; beside float32, low ones only in the last preset.")
    ] = "float32",
    preset: Annotated[
        str, option("By comma: " + "; ".join(f"{name}: {what}" for name, what in PRESETS.items()) + ".")
    ] = "eager,best",
    batch: Annotated[
        str, option("Images per batch; auto: the fastest batch that fits in memory.", metavar="N or auto")
    ] = "16",
    image_size: ImageSize = None,
    device: Device = "auto",
    threads: Annotated[
        int | None, option("CPU threads.", default="one for each processor; on a GPU a quarter", min=1)
    ] = None,
    peers: Annotated[str, option("By comma: torchvision, timm, gluon: measure these libraries' networks too.")] = "",
    time: Annotated[float, option("Seconds of measurement for each process, after the warm-up.")] = 5.0,
    launches: Annotated[
        int,
        option("Processes for each case, in turns; with 2 or more, intervals include their differences.", min=1),
    ] = 1,
    budget: Annotated[
        float | None,
        option("Seconds for everything; what does not fit is listed.", default="as long as it takes"),
    ] = None,
    out: Annotated[Path | None, option("Also write the report to a .json file.")] = None,
    plot_: Annotated[Path | None, option("Also draw the report to a .svg, .png or .pdf file.", "--plot")] = None,
    against: Annotated[
        tuple[Path, Path] | None,
        option("Measure nothing; compare two reports.", "--compare", metavar="A.json B.json"),
    ] = None,
    as_csv: Annotated[bool, option("Print CSV.", "--csv")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure images per second and the rounding error.

    Each measurement runs in a process of its own and is first checked against float64. Table, report and plot are
    written after each group, and when Ctrl-C, SIGTERM or the budget ends the bench; then they are marked as partial.
    Exit code 1 if a measurement crashes or gives false outputs, or if the budget is too small for any.
    """
    age = process_age()
    start = clock.monotonic() - (age if age < STARTING else 0.0)
    if as_csv and as_json:
        raise BenchError("--csv and --json: choose one of the two")
    if against is not None:
        _check_alone(context, "against", "as_json")
        comparison = compare(*map(BenchReport.read, against))
        print_json(comparison) if as_json else _print_comparison(comparison)
        return
    if plot_ is not None:
        check_format(plot_)
        optional("matplotlib", "charts are drawn by Matplotlib")
    if out is not None and out.suffix != ".json":
        raise BenchError(f"{out}: a report is a .json file")
    check_outputs(out, plot_)
    if backend is None:
        get_backend()  # raises if none is installed
    check_options(time, launches, budget)
    images = _batch(batch)
    named = _names("--backend", backend, list_backends()) if backend else tuple(filter(is_installed, list_backends()))
    place = device if device != "auto" else "cuda" if gpus() and _having(named, "cuda") else "cpu"
    settings: dict[str, Any] = {
        "backends": named if backend else _having(named, place) or named,  # if none has it, for its reason
        "modes": _names("--mode", mode, MODES),
        "precisions": _names("--precision", precision, PRECISIONS),
        "presets": tuple(name for name in PRESETS if name in _names("--preset", preset, PRESETS)),
        "peers": _names("--peers", peers, PEERS) if peers else (),
        "device": place,
        "threads": threads or (processors() if place == "cpu" else max(1, processors() // PREPARING)),
        "image_size": image_size,
        "batch": images or 1,
    }
    chosen = [case for spec in specs or [DEFAULT_NETWORK] for case in cases(plan(spec).spec, **settings)]
    # The files' paths mean nothing on another machine.
    command = shlex.join(["resnet-xf", *arguments_without("--out", "--plot")])
    with ProgressBar() as bar:
        output = _Output(out, plot_, "json" if as_json else "csv" if as_csv else "", bar, start)
        if images is None:
            each = None if budget is None else SEARCHING * budget / len(chosen)
            chosen = [best_batch(case, bar.update, budget=each) for case in chosen]
        options: dict[str, Any] = {"seconds": time, "launches": launches, "budget": budget, "command": command}
        try:
            report = measure(chosen, **options, start=start, callback=bar.update, log=output.log, keep=output.keep)
        finally:
            output.finish()
    measured = any(row.result for row in report.rows)
    if not measured and not report.failed and not report.partial:
        raise BenchError("; ".join(sorted({row.reason for row in report.rows})))
    if report.failed or not measured:
        raise typer.Exit(1)


def _having(names: tuple[str, ...], device: str) -> tuple[str, ...]:
    """Return the backends that have a kind of device; every one has a CPU."""
    if device == "cpu":  # and no backend need be imported
        return names
    return tuple(name for name in names if has_device(get_backend(name), device))


class _Output:
    """Writes what was measured: report and plot after each group, the table group by group.

    Args:
        out, plot: files for the report and for the plot.
        kind: what is printed at the end: ``json`` or ``csv``; if empty, tables are printed as groups are complete.
        bar: the progress bar, which is removed while something is printed.
        start: when the command began, of :func:`time.monotonic`.
    """

    def __init__(self, out: Path | None, plot: Path | None, kind: str, bar: ProgressBar, start: float) -> None:
        self._out, self._plot, self._kind, self._bar, self._start = out, plot, kind, bar, start
        self._printed = 0
        self._report: BenchReport | None = None

    def log(self, line: str) -> None:
        """Print a line on stderr, unless a terminal shows the progress bar there."""
        if not sys.stderr.isatty():
            typer.echo(f"{clock.monotonic() - self._start:5.0f} s  {line}", err=True)

    def keep(self, report: BenchReport, complete: int) -> None:
        """Write the report so far, and print the tables of the groups that are complete."""
        self._report = report
        if self._out is not None:
            with atomic(self._out) as temporary:
                temporary.write_text(_json(report) + "\n", encoding="utf-8")
        if self._plot is not None and any(row.result for row in report.rows):
            plot(report, self._plot)
        if not self._kind and any(row.result for row in report.rows):
            self._bar.stop()
            for rows in list(report.groups())[self._printed : complete]:
                _print_group(rows)
            self._printed = max(self._printed, complete)

    def finish(self) -> None:
        """Print the report, or what is not printed of it."""
        report = self._report
        if report is None or not (report.partial or report.failed or any(row.result for row in report.rows)):
            return
        if self._kind == "json":
            typer.echo(_json(report))
        elif self._kind == "csv":
            typer.echo(report.to_csv(), nl=False)
        else:
            for rows in list(report.groups())[self._printed :]:
                _print_group(rows)
            _print_notes(report)


def _check_alone(context: typer.Context, *allowed: str) -> None:
    """Raise BenchError if the command line has any other option or argument than these."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE" and parameter.name not in allowed:
            what = parameter.opts[0] if parameter.opts[0].startswith("-") else "the networks"
            raise BenchError(f"--compare measures nothing and only prints, as a table or --json; leave out {what}")


def _json(report: BenchReport) -> str:
    return msgspec.json.format(report.to_complete_json(), indent=2)


def _names(option: str, text: str, choices: Sequence[str] | dict[str, str]) -> tuple[str, ...]:
    """Return an option's names, separated by commas, each once; raise BenchError for a name that is no choice."""
    words = (word.strip().lower() for word in text.split(","))
    names = tuple(dict.fromkeys(word if word in choices else ALIASES.get(word, word) for word in words))
    for name in names:
        if name not in choices:
            raise BenchError(f"{option}: nothing is called {name!r}; choose, by comma, from {', '.join(choices)}")
    return names


def _batch(text: str) -> int | None:
    """Return the number of images per batch; None for auto."""
    if text == "auto":
        return None
    if not text.isdecimal() or not int(text):
        raise BenchError(f"--batch: expected a number of images, 1 or more, or auto; got {text!r}")
    return int(text)


def _print_group(rows: Sequence[Row]) -> None:
    """Print the table of a group."""
    echo(rows[0].case.group_title + (" (partial)" if any(row.missing for row in rows) else ""))
    first = baseline(rows)
    speeds = "images/s>", "quartiles>", "× first>", "interval>"
    headings = "", "batch>", *speeds, "error>", "top-1>", "ceiling>", "memory>", "start>"
    print_table(headings, [_cells(row, first=row is first) for row in rows])
    for row in rows:
        if not row.result:
            echo(f"{row.case}: {'FAILED: ' if row.failed else ''}{row.reason}")
    echo("")


def _print_notes(report: BenchReport) -> None:
    """Print what the tables do not say, and conclusions."""
    if report.partial:
        missing = sum(row.missing for row in report.rows)
        echo(f"PARTIAL: {report.ended}; {missing} of {len(report.rows)} cases were not measured")
    if any(row.ratio and RATIO_SIGNS[row.ratio.verdict] for row in report.rows):
        echo("≈ no difference shown: the interval holds 1")
    doubtful = [
        f"{row.case} ({row.result.busy_processors:.1f} of {row.case.threads})"
        for row in report.rows
        if row.result and row.case.device == "cpu" and row.result.busy_processors < IDLE * row.case.threads
    ]
    if doubtful:
        echo(f"processors idle or used by another program, so these say little: {', '.join(doubtful)}")
    if any(row.ratio and row.ratio.launches == 1 for row in report.rows):
        echo("intervals cover one process each; with --launches 6 they include the few per cent between processes")
    for line in report.conclusions():
        echo(line)
    echo(f"ceiling, a large matrix product: {report.ceilings_in_words()}")


def _cells(row: Row, *, first: bool) -> list[str]:
    case, result = row.case, row.result
    if result is None:
        return [case.way, str(case.batch), "–"]
    memory = result.device_memory if result.device_memory is not None else result.host_memory
    ratio = row.ratio
    return [
        case.way,
        str(case.batch),
        format_rate(result.speed.median),
        f"{format_rate(result.speed.low)}–{format_rate(result.speed.high)}",
        f"{RATIO_SIGNS[ratio.verdict]}{ratio.median:.2f}" if ratio else "1" if first else "–",
        f"{ratio.interval[0]:.3f}–{ratio.interval[1]:.3f}" if ratio else "",
        f"{result.error:.1e}",
        f"{result.agreement:.0%}",
        f"{result.share:.0%}" if result.share is not None else "–",
        f"{memory / 2**30:.1f} GiB",
        f"{result.build + result.first:.1f} s",
    ]


def _print_comparison(comparison: Comparison) -> None:
    """Print the speeds of two reports side by side."""
    rows = []
    for change in comparison.changes:
        low, high = change.ratio.interval
        speeds = format_rate(change.before.median), format_rate(change.after.median)
        name = f"{change.case.group_title}: {change.case}"
        rows.append((name, *speeds, f"{change.ratio.median:.2f}", f"{low:.3f}–{high:.3f}", change.verdict))
    print_table(("", "before>", "after>", "×>", "interval>", ""), rows)
    for title, names in (("only before", comparison.only_before), ("only after", comparison.only_after)):
        for name in names:
            echo(f"{title}: {name}")
    for name, (before, after) in comparison.environment.items():
        echo(f"not the same: {name}: {before} → {after}")
    for which, why in comparison.partial.items():
        echo(f"the report {which} is partial: {why}")
    echo("The reports were not measured in turns: these ratios include all that differed between the two times.")
    if any(change.ratio.launches == 1 for change in comparison.changes):
        echo("A report has one process per case, and processes differ by a few per cent; use --launches 6.")
