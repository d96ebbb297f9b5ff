"""What the throughput scripts share: one ``resnet-xf bench``, whose report becomes a table and a plot."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from resnet_xf.speed.bench.case import OURS
from resnet_xf.speed.bench.charts import plot
from resnet_xf.speed.bench.report import BenchReport, Row, baseline
from resnet_xf.speed.bench.statistics import in_words
from resnet_xf.support.files import atomic

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
SMOKE = (
    *("--image-size", "32", "--batch", "2", "--time", "0.1"),
    *("--mode", "infer", "--precision", "float32"),
)
"""In place of some options, and with the first network alone, to see that a script runs."""


SUMMARIES = {
    "torch_against_mxnet": "PyTorch against MXNet",
    "against_torchvision_and_timm": "Against torchvision and timm",
    "against_gluon_zoo": "Against the Gluon model zoo",
}
"""The reports that the README sums up."""


def main(name: str, question: str, networks: Sequence[str], options: Sequence[str]) -> None:
    """Measure what answers a question; write ``results/throughput_NAME.json``, its table and its plot."""
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--time", default="4", help="seconds that each process runs")
    parser.add_argument("--launches", default="6", help="processes of each case")
    parser.add_argument("--smoke", action="store_true", help="a small network for a moment, and nothing is kept")
    parser.add_argument(
        "--tables", action="store_true", help="only write table and plot anew from the results that are there"
    )
    asked = parser.parse_args()
    results = HERE / "results" / f"throughput_{name}.json"
    if asked.smoke:
        with TemporaryDirectory() as folder:
            out = Path(folder) / "report.json"
            _bench([networks[0], *options, *SMOKE], out)
            report = BenchReport.read(out)
            plot(report, Path(folder) / "plot.svg")
            print(table(report))
        return
    if not asked.tables:
        _bench([*networks, *options, "--time", asked.time, "--launches", asked.launches], results)
    check_measured(results)
    report = BenchReport.read(results)
    plot(report, DOCS / f"throughput_{name}.svg")
    write_between(DOCS / "throughput.md", name, table(report))
    write_between(HERE.parent / "README.md", "throughput", summary())


def _bench(arguments: Sequence[str], out: Path) -> None:
    command = [sys.executable, "-m", "resnet_xf", "bench", *arguments, "--out", str(out)]
    code = subprocess.run(command, check=False).returncode
    if code:
        sys.exit(code)


def table(report: BenchReport) -> str:
    """The report as Markdown: the machine, and a table for each group."""
    rounds = sorted({(len(row.result.rates), row.result.speed.rounds) for row in report.rows if row.result})
    (launches, fewest), (_, most) = rounds[0], rounds[-1]
    many = f"Launches: {launches}, turns in all: {fewest}" + (f" to {most}" if most > fewest else "")
    parts = [f"{_machine(report)}. Ceiling: {report.ceilings_in_words()}. {many}: `{report.command}`\n"]
    for rows in report.groups():
        parts.append(f"{rows[0].case.group_title}, batch {rows[0].case.batch}:\n")
        parts.append(
            "| | images/s | × the first | 95 % interval | error | top-1 | of the ceiling |\n" + "| --- " * 7 + "|"
        )
        first = baseline(rows)
        parts += [_line(row, first=row is first) for row in rows]
        parts.append("")
    return "\n".join(parts)


def _machine(report: BenchReport) -> str:
    """What was measured on, and with what."""
    found = report.environment
    if all(row.case.device == "cpu" for row in report.rows):
        where = [f"{found['cpu']}, {found['processors']} processors"]
    else:
        where = [text for name, text in found.items() if name.startswith("gpu ")]
    return f"{'; '.join(where)}, PyTorch {found.get('torch', 'none')}, MXNet {found.get('mxnet', 'none')}"


def summary() -> str:
    """Markdown, a table for each report: images a second, and how many times those of the first row."""
    lines: list[str] = []
    for name, title in SUMMARIES.items():
        path = HERE / "results" / f"throughput_{name}.json"
        if not path.exists():
            continue
        report = BenchReport.read(path)
        groups = list(report.groups())
        lines += [f"{title}: {_machine(report)}.", ""]
        titles = [f"{rows[0].case.spec.name}, {rows[0].case.mode}" for rows in groups]
        lines += [f"| images/s | {' | '.join(titles)} |", "| --- " * (len(titles) + 1) + "|"]
        for way in dict.fromkeys(row.case.way for rows in groups for row in rows):
            found = [next((row for row in rows if row.case.way == way), None) for rows in groups]
            if any(row and row.result for row in found):
                ours = any(row and row.case.library == OURS for row in found)
                lines.append(f"| {f'**{way}**' if ours else way} | {' | '.join(map(_cell, found))} |")
        lines.append("")
    return "\n".join(lines)


def _cell(row: Row | None) -> str:
    if row is None or row.result is None:
        return "–"
    shown = in_words(row.result.speed.median)
    if row.ratio is None:
        return shown
    return f"{shown} ({'≈' if row.ratio.verdict == 'no difference shown' else ''}{row.ratio.median:.2f}×)"


def _line(row: Row, *, first: bool) -> str:
    found = row.result
    who = row.case.way if row.case.library != OURS else f"**{row.case.way}**"
    if found is None:
        return f"| {who} | {row.reason} | | | | | |"
    rate = in_words(found.speed.median)
    share = "" if found.share is None else f"{found.share:.0%}"
    ratio = ("1" if first else "–", "")
    if row.ratio:
        low, high = row.ratio.interval
        same = " ≈" if row.ratio.verdict == "no difference shown" else ""
        ratio = (f"{row.ratio.median:.2f}{same}", f"{low:.3f} to {high:.3f}")
    return f"| {who} | {rate} | {ratio[0]} | {ratio[1]} | {found.error:.1e} | {found.agreement:.0%} | {share} |"


def check_measured(results: Path) -> None:
    """End in a line if there is nothing yet of which to make a table."""
    if not results.exists():
        sys.exit(f"{results}: nothing was measured yet; leave out --tables")


def write_between(path: Path, mark: str, text: str) -> None:
    """Put a text between ``<!-- MARK -->`` and the next ``<!-- end -->`` of a file."""
    whole = path.read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not pattern.search(whole):
        sys.exit(f"{path}: has no <!-- {mark} -->")
    with atomic(path) as temporary:
        temporary.write_text(pattern.sub(lambda found: f"{found[1]}{text}{found[2]}", whole), encoding="utf-8")
