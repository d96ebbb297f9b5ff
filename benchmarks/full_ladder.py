"""Run the whole ladder, with accuracies on digits, on networks of every kind, and measure the time of each rung.

``python benchmarks/full_ladder.py`` runs the networks that ``results/full_ladder.json`` does not hold yet. It writes
that file and the table in ``docs/ladder.md``. The command for each is ``resnet-xf parity NAME --level full
--image-size SIZE``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from common import DOCS, RESULTS, read_results, refuse_unknown, resnet_xf, rungs_held, write_between, write_results
from rich.progress import track

SIZES = {
    "d2l_resnet18": 96,
    "resnet18": 224,
    "resnet50": 64,
    "resnet50_v1": 64,
    "resnet18_v2": 64,
    "cifar_resnet20": 32,
    "seresnet50": 64,
    "resnext50_32x4d": 64,
}
OPTIONS = {"resnet50_v1": ["--seeds", "10"], "cifar_resnet20": ["--recipe", "digits"]}
"""Options of the networks for which five pairs of short runs gave ``not enough seeds``. One needs more pairs. CIFAR's
small network needs longer runs at a higher rate: after the short ones it was right on three of four digits."""


def run(name: str, size: int, runs: Path | None) -> dict[str, object]:
    """Run one network; its report without the long parts. ``runs`` is the folder that keeps its training runs."""
    command = ["parity", name, "--level", "full", "--image-size", str(size), *OPTIONS.get(name, []), "--json"]
    with TemporaryDirectory() as folder:
        printed = resnet_xf(*command, "--runs", str(runs / name if runs else folder), codes=(0, 1, 3))
    report = json.loads(printed)
    keep = ("network", "holds", "verdict", "backends", "environment", "input_shape", "rungs", "accuracy")
    threads = {"cpus": os.cpu_count(), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")}
    return {"command": "resnet-xf " + " ".join(command)} | {key: report[key] for key in keep} | {"threads": threads}


def table(results: dict[str, dict]) -> str:
    """Markdown: seconds to the end of each level, the rungs that hold, and the accuracies."""
    lines = [
        "| network | image | quick, s | standard, s | full, s | holds | accuracies: mean difference, 90% interval |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, report in results.items():
        seconds = {rung["number"]: rung["seconds"] for rung in report["rungs"]}
        upto = [f"{sum(s for n, s in seconds.items() if n <= last):.0f}" for last in (5, 8, 10)]
        points = ""
        if accuracy := report["accuracy"]:
            low, high = accuracy["interval"]
            points = f"{accuracy['mean_difference']:+.2f}, {low:+.2f} to {high:+.2f}"
        size = report["input_shape"][-1]
        lines.append(f"| `{name}` | {size}×{size} | {' | '.join(upto)} | {rungs_held(report)} | {points} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the networks that have no results yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=list(SIZES), metavar="NETWORK")
    parser.add_argument("--again", action="store_true", help="run also the networks that have results")
    parser.add_argument("--out", type=Path, default=RESULTS / "full_ladder.json")
    parser.add_argument("--runs", type=Path, help="folder that keeps the training runs; those that are there continue")
    options = parser.parse_args()
    refuse_unknown(parser, options.networks, SIZES)
    results = read_results(options.out) if options.out.exists() else {}
    missing = [name for name in options.networks if options.again or name not in results]
    for name in track(missing, "networks"):
        results[name] = run(name, SIZES[name], options.runs)
        results = {known: results[known] for known in SIZES if known in results}
        print(results[name]["verdict"], flush=True)
        write_results(options.out, results)
    print(table(results))
    write_between(DOCS / "ladder.md", "full ladder", table(results))
    sys.exit(0 if all(report["holds"] for report in results.values()) else 1)


if __name__ == "__main__":
    main()
