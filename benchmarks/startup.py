"""How fast the command line starts: ``python benchmarks/startup.py``.

Runs Python alone and the commands below in turns, and prints the median of each one's seconds (wall clock and
processor), the seconds beyond Python's own start, and the limit that the project sets. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from statistics import median

from resnet_xf.cli.printing import print_table

RESNET_XF = [sys.executable, "-m", "resnet_xf"]
COMMANDS = {
    "python -c pass": ([sys.executable, "-c", "pass"], None),
    "resnet-xf --help": ([*RESNET_XF, "--help"], 0.3),
    "resnet-xf list": ([*RESNET_XF, "list"], 0.5),
    "resnet-xf show resnet18": ([*RESNET_XF, "show", "resnet18"], None),
    "resnet-xf parity --help": ([*RESNET_XF, "parity", "--help"], None),
    "resnet-xf train --help": ([*RESNET_XF, "train", "--help"], None),
}
"""Each command line, and the limit of its seconds beyond Python's own start."""


def seconds(arguments: list[str]) -> tuple[float, float]:
    """Run a command once; return its seconds by the wall clock and on the processor."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(arguments, stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10, help="runs of each command (default 10)")
    runs = parser.parse_args().runs
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for _ in range(runs):
        for name, (arguments, _limit) in COMMANDS.items():
            samples[name].append(seconds(arguments))
    rows = []
    python = median(wall for wall, _ in samples["python -c pass"])
    for name, (_, limit) in COMMANDS.items():
        wall, processor = (median(column) for column in zip(*samples[name], strict=True))
        cells = f"{wall:.3f}", f"{wall - python:.3f}", f"{limit or ''}", f"{processor:.3f}", f"{wall / python:.1f}"
        rows.append((name, *cells))
    print_table(("command", "wall s>", "beyond Python s>", "limit s>", "processor s>", "× Python>"), rows)


if __name__ == "__main__":
    main()
