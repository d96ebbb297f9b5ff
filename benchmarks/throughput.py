"""How fast networks are, ours against others' or one backend against the other: studies of ``resnet-xf bench``.

``python benchmarks/throughput.py NAME`` measures a study of ``STUDIES``. It writes ``results/throughput_NAME.json``,
the picture ``docs/throughput_NAME.png`` and the tables in ``docs/throughput.md``. With ``--tables``
it measures nothing, and writes the picture and the tables from the results that are there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from common import DOCS, RESULTS, read_results, reduce_colours, write_between, write_results

from resnet_xf.speed.bench.case import OURS
from resnet_xf.speed.bench.charts import plot
from resnet_xf.speed.bench.report import BenchReport, Row, baseline
from resnet_xf.speed.bench.statistics import format_rate


@dataclass(frozen=True)
class Study:
    """Networks and the options of ``resnet-xf bench`` that answer a question.

    Attributes:
        question: what is compared.
        networks: names of the zoo.
        options: of ``resnet-xf bench``.
        title: above the summary of the study in the docs; an empty one has none.
    """

    question: str
    networks: tuple[str, ...]
    options: str
    title: str = ""


STUDIES = {
    "torch_against_mxnet": Study(
        "PyTorch against MXNet Gluon: the same network with the same weights.",
        ("resnet18", "resnet50", "cifar_resnet20"),
        "--backend torch,mxnet --mode infer,train --device cpu --preset eager,tuned,best "
        "--precision float32,bfloat16,int8",
        "PyTorch against MXNet",
    ),
    "against_torchvision_and_timm": Study(
        "Our PyTorch networks against those of torchvision and timm, and the fastest way of each.",
        ("resnet18", "resnet50"),
        "--backend torch --peers torchvision,timm --mode infer,train --device cpu --preset eager,best "
        "--precision float32,bfloat16,int8",
        "Against torchvision and timm",
    ),
    "against_gluon_zoo": Study(
        "Our Gluon networks against those of the Gluon model zoo, and the fastest way of each.",
        ("resnet18_v1", "resnet50_v1"),
        "--backend mxnet --peers gluon --mode infer,train --device cpu --preset tuned,best "
        "--precision float32,bfloat16,int8",
        "Against the Gluon model zoo",
    ),
    "plain_against_torchvision": Study(
        "Our PyTorch networks against those of torchvision, with PyTorch's defaults, in many launches.",
        ("resnet18", "resnet50"),
        "--backend torch --peers torchvision --mode infer,train --device cpu --preset eager --precision float32",
    ),
    "on_a_gpu": Study(
        "Ours against torchvision and timm on a GPU.",
        ("resnet50",),
        "--device cuda --peers torchvision,timm --mode infer,train --precision bfloat16 --preset eager,best "
        "--batch 256 --time 2 --launches 1 --budget 230",
    ),
}
"""By name, in the order of the summary."""

SMOKE = "--image-size 32 --batch 2 --time 0.1 --mode infer --precision float32 --preset eager"
"""Replaces some options to try a study on its first network in a few seconds. Nothing is compiled."""


def main() -> None:
    """Measure studies and write their results, tables and pictures."""
    listing = "\n".join(f"  {name:30}{study.question}" for name, study in STUDIES.items())
    parser = argparse.ArgumentParser(
        description=f"{(__doc__ or '').partition(chr(10))[0]}\n\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("studies", nargs="+", choices=STUDIES, metavar="NAME", help="studies, as listed above")
    parser.add_argument("--time", default="4", help="seconds that each process measures")
    parser.add_argument("--launches", default="6", help="processes of each case")
    parser.add_argument("--smoke", action="store_true", help="try one small network, and keep nothing")
    parser.add_argument("--tables", action="store_true", help="write tables and pictures from earlier results")
    options = parser.parse_args()
    for name in options.studies:
        study = STUDIES[name]
        if options.smoke:
            smoke(study)
            continue
        results = RESULTS / f"throughput_{name}.json"
        if not options.tables:
            chosen = {"--time": options.time, "--launches": options.launches}
            words = [word for pair in chosen.items() if pair[0] not in study.options for word in pair]
            run_bench([*study.networks, *study.options.split(), *words], results)
        write_results(results, read_results(results))
        report = BenchReport.read(results)
        draw(report, DOCS / f"throughput_{name}.png")
        write_between(DOCS / "throughput.md", name, table(report))
        write_between(DOCS / "throughput.md", "throughput", summary())


def smoke(study: Study) -> None:
    """Measure one case of a study for a moment, draw it and print its table."""
    with TemporaryDirectory() as folder:
        results = Path(folder) / "report.json"
        run_bench([study.networks[0], *study.options.split(), *SMOKE.split()], results)
        report = BenchReport.read(results)
        draw(report, Path(folder) / "picture.png")
        print(table(report))


def run_bench(words: Sequence[str], results: Path) -> None:
    """Run ``resnet-xf bench``; ends the program with its exit code if that is not 0."""
    code = subprocess.run([sys.executable, "-m", "resnet_xf", "bench", *words, "--out", str(results)]).returncode
    if code:
        sys.exit(code)


def draw(report: BenchReport, path: Path) -> None:
    """Draw the report as ``resnet-xf bench --plot`` does, in few colours."""
    plot(report, path)
    reduce_colours(path)


def table(report: BenchReport) -> str:
    """Markdown: a line on the machine, then a table for each group of cases."""
    rounds = sorted({(len(row.result.rates), row.result.speed.rounds) for row in report.rows if row.result})
    (launches, fewest), (_, most) = rounds[0], rounds[-1]  # a bench without any result has exit code 1
    many = f"Launches: {launches}, turns in all: {fewest}" + (f" to {most}" if most > fewest else "")
    partial = f"Partial: {report.ended}. " if report.partial else ""
    parts = [f"{partial}{machine(report)}. Ceiling: {report.ceilings_in_words()}. {many}: `{report.command}`\n"]
    for rows in report.groups():
        parts.append(f"{rows[0].case.group_title}, batch {rows[0].case.batch}:\n")
        parts.append(
            "| | images/s | × the first | 95 % interval | error | top-1 | of the ceiling |\n" + "| --- " * 7 + "|"
        )
        first = baseline(rows)
        parts += [table_line(row, first=row is first) for row in rows]
        parts.append("")
    return "\n".join(parts)


def table_line(row: Row, *, first: bool) -> str:
    """A case's line: its speed, its ratio to the first case's, its error and its share of the ceiling."""
    result = row.result
    name = row.case.way if row.case.library != OURS else f"**{row.case.way}**"
    if result is None:
        return f"| {name} | {row.reason} | | | | | |"
    share = "" if result.share is None else f"{result.share:.0%}"
    ratio, interval = "1" if first else "–", ""
    if row.ratio:
        low, high = row.ratio.interval
        same = " ≈" if row.ratio.verdict == "no difference shown" else ""
        ratio, interval = f"{row.ratio.median:.2f}{same}", f"{low:.3f} to {high:.3f}"
    speed = format_rate(result.speed.median)
    return f"| {name} | {speed} | {ratio} | {interval} | {result.error:.1e} | {result.agreement:.0%} | {share} |"


def machine(report: BenchReport) -> str:
    """The processor or the GPUs, and the frameworks' versions."""
    versions = report.environment
    if all(row.case.device == "cpu" for row in report.rows):
        where = [f"{versions['cpu']}, {versions['processors']} processors"]
    else:
        where = [text for name, text in versions.items() if name.startswith("gpu ")]
    return f"{'; '.join(where)}, PyTorch {versions.get('torch', 'none')}, MXNet {versions.get('mxnet', 'none')}"


def summary() -> str:
    """Markdown, a table for each study with a title: images a second, and their ratio to the first row's."""
    lines: list[str] = []
    for name, study in STUDIES.items():
        path = RESULTS / f"throughput_{name}.json"
        if not study.title or not path.exists():
            continue
        report = BenchReport.read(path)
        groups = list(report.groups())
        lines += [f"{study.title}: {machine(report)}.", ""]
        titles = [f"{rows[0].case.spec.name}, {rows[0].case.mode}" for rows in groups]
        lines += [f"| images/s | {' | '.join(titles)} |", "| --- " * (len(titles) + 1) + "|"]
        for way in dict.fromkeys(row.case.way for rows in groups for row in rows):
            line = [next((row for row in rows if row.case.way == way), None) for rows in groups]
            if any(row and row.result for row in line):
                ours = any(row and row.case.library == OURS for row in line)
                lines.append(f"| {f'**{way}**' if ours else way} | {' | '.join(map(summary_cell, line))} |")
        lines.append("")
    return "\n".join(lines)


def summary_cell(row: Row | None) -> str:
    """Images a second, and in brackets their ratio to the first row's."""
    if row is None or row.result is None:
        return "–"
    speed = format_rate(row.result.speed.median)
    if row.ratio is None:
        return speed
    return f"{speed} ({'≈' if row.ratio.verdict == 'no difference shown' else ''}{row.ratio.median:.2f}×)"


if __name__ == "__main__":
    main()
