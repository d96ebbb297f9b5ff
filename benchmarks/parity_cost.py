"""The seconds and the peak memory of a proof at level ``standard``, before a change and after it, in turns.

``python benchmarks/parity_cost.py --against FOLDER`` runs ``resnet-xf parity NETWORK`` with this checkout and with that
in FOLDER, which ``git worktree add FOLDER COMMIT`` makes: each network A, B, A, B. It writes
``results/parity_cost.json`` after each run, and the table in ``docs/ladder.md``. The memory is the peak of the process,
which starts no other. With ``--tables`` it measures nothing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from common import BENCHMARKS, DOCS, RESULTS, in_checkout, read_results, write_between, write_results

from resnet_xf.support.environment import environment, hardware

NETWORKS = ("resnet18", "resnet50", "resnet152")


def run(checkout: Path, network: str) -> dict[str, object]:
    """Prove one network with a checkout; its seconds by the wall clock and on the processor, and its peak in bytes."""
    command = [sys.executable, "-m", "resnet_xf", "parity", network, "--level", "standard"]
    load, start = os.getloadavg()[0], time.perf_counter()
    process = subprocess.Popen(command, cwd=checkout, env=in_checkout(checkout), stdout=subprocess.PIPE)
    assert process.stdout is not None
    verdict = process.stdout.read().decode().strip().rpartition("\n")[2]
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{checkout}: {network}: {verdict}")
    seconds = {"seconds": time.perf_counter() - start, "processor seconds": usage.ru_utime + usage.ru_stime}
    return seconds | {"peak bytes": usage.ru_maxrss * 1024, "load before": load, "verdict": verdict}


def table(rows: list[dict]) -> str:
    """Markdown: the median of each network and checkout."""
    lines = [
        "| network | seconds before | after | processor seconds before | after | peak GB before | after |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for network in dict.fromkeys(row["network"] for row in rows):
        cells = []
        for field, unit, digits in (("seconds", 1, 0), ("processor seconds", 1, 0), ("peak bytes", 1e9, 1)):
            for which in ("before", "after"):
                values = [row[field] / unit for row in rows if (row["network"], row["checkout"]) == (network, which)]
                cells.append(f"{median(values):.{digits}f}" if values else "")
        lines.append(f"| `{network}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="NETWORK")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="the checkout before the change")
    parser.add_argument("--times", type=int, default=2, help="how often each is run")
    parser.add_argument("--tables", action="store_true", help="write the table from earlier results")
    options = parser.parse_args()
    results = RESULTS / "parity_cost.json"
    if not options.tables:
        if options.against is None:
            parser.error("--against: name a checkout of the commit before")
        rows: list[dict] = []
        for network in options.networks:
            for _ in range(options.times):
                for which, checkout in (("before", options.against.resolve()), ("after", BENCHMARKS.parent)):
                    rows.append({"network": network, "checkout": which} | run(checkout, network))
                    print(rows[-1], flush=True)
                    write_results(results, {"environment": environment() | hardware(), "rows": rows})
    write_between(DOCS / "ladder.md", "parity cost", table(read_results(results)["rows"]))


if __name__ == "__main__":
    main()
