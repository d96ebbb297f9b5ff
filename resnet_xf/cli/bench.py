"""The command on throughput: bench."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from resnet_xf.architecture.plan import plan
from resnet_xf.backend.fast import PRECISIONS, PRESETS
from resnet_xf.backend.registry import ALIASES, get_backend, is_installed, list_backends
from resnet_xf.backend.workers import processors
from resnet_xf.cli.application import app
from resnet_xf.cli.printing import AsJson, new_table, print_json, print_table, read_size
from resnet_xf.errors import BenchError
from resnet_xf.speed.bench.case import MODES, PEERS, cases
from resnet_xf.speed.bench.charts import check_format, plot
from resnet_xf.speed.bench.harness import Callback, best_batch
from resnet_xf.speed.bench.harness import bench as measure
from resnet_xf.speed.bench.machine import gpus
from resnet_xf.speed.bench.report import BenchReport, Comparison, Row, baseline, compare
from resnet_xf.speed.bench.statistics import in_words
from resnet_xf.support.files import atomic
from resnet_xf.support.optional import optional

ALIKE = {"faster": "", "slower": "", "no difference shown": "≈ "}
"""What stands before a ratio, by its verdict."""

STARVED = 0.7
"""A measurement that kept less than this share of its processors busy is told; sound ones have 0.85 and more."""

DEFAULT_NETWORK, DEFAULT_BATCH = "resnet18", 16


@app.command("bench")
def bench(
    context: typer.Context,
    specs: Annotated[
        list[str] | None, typer.Argument(metavar="[SPEC]...", help=f"Networks (else {DEFAULT_NETWORK}).")
    ] = None,
    backend: Annotated[str | None, typer.Option(help="By comma: torch, mxnet (else all that are installed).")] = None,
    mode: Annotated[str, typer.Option(help="By comma: infer, train.")] = "infer",
    precision: Annotated[
        str, typer.Option(help=f"By comma: {', '.join(PRECISIONS)}; low ones in the last preset alone.")
    ] = "float32",
    preset: Annotated[
        str, typer.Option(help="By comma: " + "; ".join(f"{name}: {what}" for name, what in PRESETS.items()) + ".")
    ] = "eager,best",
    batch: Annotated[str, typer.Option(help="Images at a time; or auto: the fastest that fits.")] = str(DEFAULT_BATCH),
    image_size: Annotated[str | None, typer.Option(metavar="S or HxW", help="(else the spec's)")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, or auto: a GPU where there is one.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Of the CPU (else one for each processor).")] = None,
    peers: Annotated[
        str, typer.Option(help="By comma: torchvision, timm, gluon; their own networks, under the same harness.")
    ] = "",
    time: Annotated[float, typer.Option(help="Seconds that each process is run for, once it is steady.")] = 5.0,
    launches: Annotated[
        int,
        typer.Option(
            min=1,
            help="Processes of each, one after the other; with 2 and more, intervals allow for other processes.",
        ),
    ] = 1,
    out: Annotated[Path | None, typer.Option(help="A .json file for the report.", show_default=False)] = None,
    plot_: Annotated[
        Path | None, typer.Option("--plot", help="A .svg, .png or .pdf file for a picture.", show_default=False)
    ] = None,
    against: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--compare", metavar="A.json B.json", help="Measure nothing: hold two reports side by side."),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure throughput: images a second of each backend, and the error that it costs.

    Every measurement has a process of its own, and is checked against float64 before it counts. Exit code 1 if one
    crashes or gives false results.
    """
    if as_csv and as_json:
        raise BenchError("--csv and --json: choose one of the two")
    if against is not None:
        _check_alone(context, "against", "as_json")
        comparison = compare(*map(BenchReport.read, against))
        print_json(msgspec.to_builtins(comparison)) if as_json else _print_comparison(comparison)
        return
    if plot_ is not None:
        check_format(plot_)
        optional("matplotlib", "charts are drawn by Matplotlib")
    if out is not None and out.suffix != ".json":
        raise BenchError(f"{out}: a report is a .json file")
    for file in filter(None, (out, plot_)):
        if not file.parent.is_dir():
            raise BenchError(f"{file}: there is no folder {file.parent}; make it first")
        if file.is_dir():
            raise BenchError(f"{file}: is a folder; name a file in it")
    if backend is None:
        get_backend()  # says how to get one where there is none
    images = _batch(batch)
    asked = partial(
        cases,
        backends=_listed("--backend", backend or ",".join(filter(is_installed, list_backends())), list_backends()),
        modes=_listed("--mode", mode, MODES),
        precisions=_listed("--precision", precision, PRECISIONS),
        presets=tuple(name for name in PRESETS if name in _listed("--preset", preset, PRESETS)),
        peers=_listed("--peers", peers, PEERS) if peers else (),
        device=device if device != "auto" else "cuda" if gpus() else "cpu",
        threads=threads or processors(),
        image_size=read_size(image_size) if image_size else None,
        batch=images or 1,
    )
    wanted = [case for spec in specs or [DEFAULT_NETWORK] for case in asked(plan(spec).spec)]
    command = _command(sys.argv[1:])
    with _progress() as callback:
        if images is None:
            wanted = [best_batch(case, callback) for case in wanted]
        report = measure(wanted, seconds=time, launches=launches, command=command, callback=callback)
    refused = {row.reason for row in report.rows if not row.result}
    if not any(row.result for row in report.rows) and not report.failed:
        raise BenchError("; ".join(sorted(refused)))
    if out is not None:
        with atomic(out) as temporary:
            temporary.write_text(_json(report) + "\n", encoding="utf-8")
    if plot_ is not None and any(row.result for row in report.rows):
        plot(report, plot_)
    if as_json:
        typer.echo(_json(report))
    elif as_csv:
        typer.echo(report.to_csv(), nl=False)
    else:
        _print(report)
    if report.failed:
        raise typer.Exit(1)


def _check_alone(context: typer.Context, *allowed: str) -> None:
    """Raises BenchError if anything else was asked for on the command line."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE" and parameter.name not in allowed:
            what = parameter.opts[0] if parameter.opts[0].startswith("-") else "the networks"
            raise BenchError(f"--compare measures nothing and only prints, as a table or --json; leave out {what}")


def _command(arguments: Sequence[str]) -> str:
    """The command line without the files that it writes, whose places are one machine's own."""
    kept: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, _, value = argument.partition("=")
        if name not in ("--out", "--plot"):
            kept.append(argument)
        elif not value:
            next(rest, None)
    return shlex.join(["resnet-xf", *kept])


def _json(report: BenchReport) -> str:
    return msgspec.json.format(report.to_complete_json(), indent=2)


def _listed(option: str, text: str, known: Sequence[str] | dict[str, str]) -> tuple[str, ...]:
    """Words by comma, each once and each known."""
    given = (word.strip().lower() for word in text.split(","))
    words = tuple(dict.fromkeys(word if word in known else ALIASES.get(word, word) for word in given))
    for word in words:
        if word not in known:
            raise BenchError(f"{option}: nothing is called {word!r}; choose, by comma, from {', '.join(known)}")
    return words


def _batch(text: str) -> int | None:
    """How many images; None if that is to be searched for."""
    if text == "auto":
        return None
    if not text.isdecimal() or not int(text):
        raise BenchError(f"--batch: expected a number of images, 1 or more, or auto; got {text!r}")
    return int(text)


@contextmanager
def _progress() -> Iterator[Callback]:
    """A bar on stderr, where that is a terminal."""
    console = Console(stderr=True)
    columns = SpinnerColumn(), BarColumn(24), TimeElapsedColumn(), TextColumn("{task.description}", markup=False)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda done, total, text: bar.update(task, completed=done, total=total or None, description=text)


def _print(report: BenchReport) -> None:
    """A table for each group, and what it comes to."""
    for rows in report.groups():
        typer.echo(rows[0].case.group_title)
        table = new_table(
            *("", "batch>", "images/s>", "quartiles>", "× first>", "interval>", "error>", "top-1>"),
            *("ceiling>", "memory>", "start>"),
        )
        first = baseline(rows)
        for row in rows:
            table.add_row(*_cells(row, first=row is first))
        print_table(table)
        for row in rows:
            if not row.result:
                typer.echo(f"{row.case}: {'FAILED: ' if row.failed else ''}{row.reason}")
        typer.echo()
    if any(row.ratio and ALIKE[row.ratio.verdict] for row in report.rows):
        typer.echo("≈ no difference shown: the interval holds 1")
    starved = [
        f"{row.case} ({row.result.busy_processors:.1f} of {row.case.threads})"
        for row in report.rows
        if row.result and row.case.device == "cpu" and row.result.busy_processors < STARVED * row.case.threads
    ]
    if starved:
        typer.echo(f"processors idle, or taken by something else, so that these say little: {', '.join(starved)}")
    if any(row.ratio and row.ratio.launches == 1 for row in report.rows):
        typer.echo(
            "intervals are of these processes; --launches 6 allows for the few per cent between one and the next"
        )
    for line in report.conclusions():
        typer.echo(line)
    typer.echo(f"ceiling, a large product of matrices: {report.ceilings_in_words()}")


def _cells(row: Row, *, first: bool) -> list[str]:
    case, found = row.case, row.result
    if found is None:
        return [case.way, str(case.batch), "–"]
    memory = found.device_memory if found.device_memory is not None else found.host_memory
    ratio = row.ratio
    return [
        case.way,
        str(case.batch),
        in_words(found.speed.median),
        f"{in_words(found.speed.low)}–{in_words(found.speed.high)}",
        f"{ALIKE[ratio.verdict]}{ratio.median:.2f}" if ratio else "1" if first else "–",
        f"{ratio.interval[0]:.3f}–{ratio.interval[1]:.3f}" if ratio else "",
        f"{found.error:.1e}",
        f"{found.agreement:.0%}",
        f"{found.share:.0%}" if found.share is not None else "–",
        f"{memory / 2**30:.1f} GiB",
        f"{found.build + found.first:.1f} s",
    ]


def _print_comparison(found: Comparison) -> None:
    """Both reports' speeds side by side."""
    table = new_table("", "before>", "after>", "×>", "interval>", "")
    for change in found.changes:
        low, high = change.ratio.interval
        speeds = in_words(change.before.median), in_words(change.after.median)
        name = f"{change.case.group_title}: {change.case}"
        table.add_row(name, *speeds, f"{change.ratio.median:.2f}", f"{low:.3f}–{high:.3f}", change.ratio.verdict)
    print_table(table)
    for title, names in (("only before", found.only_before), ("only after", found.only_after)):
        for name in names:
            typer.echo(f"{title}: {name}")
    for name, (before, after) in found.environment.items():
        typer.echo(f"not the same: {name}: {before} → {after}")
    typer.echo("The two were not run in turns: whatever else each machine did stands in these ratios as well.")
    if any(change.ratio.launches == 1 for change in found.changes):
        typer.echo("One of them had a single process of each, and the next is a few per cent off: use --launches 6.")
