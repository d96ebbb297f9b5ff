"""The rows of the throughput tables on the CPU, before a change and after it, in turns.

``python benchmarks/regression.py --against FOLDER`` runs ``resnet-xf bench`` with that checkout in FOLDER, which
``git worktree add FOLDER COMMIT`` makes, and with this one: each network and precision A, B, A, B. It measures our own
rows, without the peers'. It prints the rows of each network as a table, and writes ``results/regression.json``. A row
is slower if each of its speeds after the change is below each before it, and the medians differ by more than
``NOISE``. The exit code is 1 if a row is slower.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from common import BENCHMARKS, RESULTS, in_checkout, write_results

from resnet_xf.support.environment import environment, hardware

NETWORKS = ("resnet18", "resnet50", "cifar_resnet20")
OPTIONS = "--backend torch,mxnet --mode infer,train --device cpu --preset eager,tuned,best --launches 1"
PRECISIONS = ("float32", "int8")
"""Without bfloat16, which processors without units for it only emulate."""

NOISE = 0.05
"""By how much the speeds of two processes differ without a cause; ``--launches`` measures it."""

FIELDS = ("mode", "backend", "preset", "precision")

HEAD = (
    "| network | mode | backend, preset, precision | before | after | ratio |",
    "| --- | --- | --- | --- | --- | --- |",
)


def speeds(checkout: Path, network: str, precision: str, seconds: str) -> dict[tuple[str, ...], float]:
    """Bench a network with a checkout; images/s of each case that was measured, by its :data:`FIELDS`."""
    with TemporaryDirectory() as folder:
        out = Path(folder) / "report.json"
        words = [network, *OPTIONS.split(), "--precision", precision, "--time", seconds, "--out", str(out)]
        command = [sys.executable, "-m", "resnet_xf", "bench", *words]
        subprocess.run(command, cwd=checkout, env=in_checkout(checkout), stdout=subprocess.DEVNULL, check=True)
        rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    measured = [row for row in rows if row["result"]]
    return {tuple(row["case"][field] for field in FIELDS): row["result"]["speed"]["median"] for row in measured}


def slower(row: dict[str, Any]) -> bool:
    """Whether a row is slower after the change, or not measured any more."""
    return max(row["after"], default=0.0) < min(row["before"]) and ratio(row) < 1 - NOISE


def ratio(row: dict[str, Any]) -> float:
    """The median speed after the change, as a multiple of the one before."""
    return median(row["after"] or [0.0]) / median(row["before"])


def line(row: dict[str, Any]) -> str:
    """A row of the printed table."""
    cells = (f"{' '.join(f'{speed:.4g}' for speed in row[which])}" for which in ("before", "after"))
    case = f"{row['backend']} {row['preset']} {row['precision']}"
    mark = " (slower)" if slower(row) else ""
    return f"| {row['network']} | {row['mode']} | {case} | {' | '.join(cells)} | {ratio(row):.2f}{mark} |"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="NETWORK")
    parser.add_argument("--against", type=Path, metavar="FOLDER", required=True, help="the checkout before the change")
    parser.add_argument("--time", default="2", help="seconds that each process measures")
    parser.add_argument("--times", type=int, default=2, help="how often each is run")
    options = parser.parse_args()
    checkouts = {"before": options.against.resolve(), "after": BENCHMARKS.parent}
    rows: list[dict[str, Any]] = []
    print(*HEAD, sep="\n", flush=True)
    for network in options.networks:
        for precision in PRECISIONS:
            turns = [
                (which, speeds(checkout, network, precision, options.time))
                for _ in range(options.times)
                for which, checkout in checkouts.items()
            ]
            for key in turns[0][1]:
                case = {"network": network} | dict(zip(FIELDS, key, strict=True))
                measured = {
                    which: [found[key] for turn, found in turns if turn == which and key in found]
                    for which in checkouts
                }
                rows.append(case | measured)
                print(line(rows[-1]), flush=True)
            write_results(RESULTS / "regression.json", {"environment": environment() | hardware(), "rows": rows})
    sys.exit(any(map(slower, rows)))


if __name__ == "__main__":
    main()
