"""The rows of the throughput tables on the CPU, before a change and after it, in turns.

``python benchmarks/regression.py --against FOLDER`` runs ``resnet-xf bench`` with that checkout in FOLDER, which
``git worktree add FOLDER COMMIT`` makes, and with this one: each network and precision A, B, A, B. It measures our own
rows, without the peers'. A row is slower if each of its speeds after the change is below each before it, and the
medians differ by more than ``NOISE``. With two turns, noise does this to one row in six, so a row that is slower is
measured in ``MORE`` further turns.

It prints the rows as a table, and writes ``results/regression.json``; rows of other networks and precisions stay there.
The exit code is 1 if a row is slower. With ``--again``, only the rows that are slower there are measured, in further
turns.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from common import BENCHMARKS, RESULTS, in_checkout, read_results, write_results

from resnet_xf.support.environment import environment, hardware

NETWORKS = ("resnet18", "cifar_resnet20", "resnet50")
PRESETS = {"float32": "eager,tuned,best", "int8": "best", "bfloat16": "best"}
"""By precision, the presets that the tables have."""

EVERY = {"backend": "torch,mxnet", "mode": "infer,train"}
"""What is measured of each network, precision and preset, as far as there is such a thing."""

NOISE = 0.05
"""By how much the speeds of two processes differ without a cause, as ``resnet-xf bench --launches`` measures it."""

MORE = 3
"""How many further turns decide of a row that is slower."""

FIELDS = ("mode", "backend", "preset", "precision")

HEAD = (
    "| network | mode | backend, preset, precision | before | after | ratio |",
    "| --- | --- | --- | --- | --- | --- |",
)


class Speeds:
    """Measures speeds with two checkouts, in turns."""

    def __init__(self, before: Path, seconds: str) -> None:
        self.checkouts = {"before": before.resolve(), "after": BENCHMARKS.parent}
        self.seconds = seconds

    def measure(self, network: str, precision: str, which: Mapping[str, str], turns: int) -> list[dict[str, Any]]:
        """The rows of a network in a precision: ``before`` and ``after`` have the images/s of each turn."""
        rows: dict[tuple[str, ...], dict[str, Any]] = {}
        for _ in range(turns):
            for name, checkout in self.checkouts.items():
                for case, speed in self._bench(checkout, network, precision, which):
                    key = tuple(case[field] for field in FIELDS)
                    new = {"network": network} | dict(zip(FIELDS, key, strict=True)) | {"before": [], "after": []}
                    rows.setdefault(key, new)[name].append(speed)
        return [row for row in rows.values() if row["before"]]

    def more(self, row: dict[str, Any]) -> None:
        """Add the speeds of further turns to a row that is slower."""
        print(line(row), "further turns:", flush=True)
        which = {field: row[field] for field in ("backend", "mode", "preset")}
        for again in self.measure(row["network"], row["precision"], which, MORE):
            row["before"] += again["before"]
            row["after"] += again["after"]

    def _bench(
        self, checkout: Path, network: str, precision: str, which: Mapping[str, str]
    ) -> list[tuple[dict[str, str], float]]:
        """Each case that a checkout measured, and its images/s."""
        with TemporaryDirectory() as folder:
            out = Path(folder) / "report.json"
            options = which | {"precision": precision, "device": "cpu", "launches": "1", "time": self.seconds}
            words = [word for key, value in options.items() for word in (f"--{key}", value)]
            command = [sys.executable, "-m", "resnet_xf", "bench", network, *words, "--out", str(out)]
            subprocess.run(command, cwd=checkout, env=in_checkout(checkout), stdout=subprocess.DEVNULL, check=True)
            rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
        return [(row["case"], row["result"]["speed"]["median"]) for row in rows if row["result"]]


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


def _computed_here() -> list[str]:
    """The precisions, without bfloat16 on processors without units for it, which only emulate it."""
    has_units = "bf16" in hardware().get("cpu features", "")
    return [precision for precision in PRESETS if precision != "bfloat16" or has_units]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="NETWORK")
    parser.add_argument("--precision", choices=PRESETS, action="append", help="one of them; all, if left out")
    parser.add_argument("--against", type=Path, metavar="FOLDER", required=True, help="the checkout before the change")
    parser.add_argument("--time", default="2", help="seconds that each process measures")
    parser.add_argument("--times", type=int, default=2, help="how often each is run")
    parser.add_argument("--again", action="store_true", help="measure the rows again that are slower")
    options = parser.parse_args()
    precisions = () if options.again else options.precision or _computed_here()
    results = RESULTS / "regression.json"
    rows: list[dict[str, Any]] = read_results(results)["rows"] if results.exists() else []
    rows = [row for row in rows if row["network"] not in options.networks or row["precision"] not in precisions]
    speeds = Speeds(options.against, options.time)
    print(*HEAD, sep="\n", flush=True)
    for network in options.networks:
        for precision in precisions:
            rows += speeds.measure(network, precision, EVERY | {"preset": PRESETS[precision]}, options.times)
            write_results(results, {"environment": environment() | hardware(), "rows": rows})
        for row in rows:
            if row["network"] == network and slower(row):
                speeds.more(row)
                write_results(results, {"environment": environment() | hardware(), "rows": rows})
        print(*(line(row) for row in rows if row["network"] == network), sep="\n", flush=True)
    sys.exit(any(map(slower, rows)))


if __name__ == "__main__":
    main()
