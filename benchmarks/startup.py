"""How fast the command line starts, and reads an exported network: ``python benchmarks/startup.py``.

Runs Python alone and the commands below in turns, and prints the median of each one's seconds (wall clock and
processor), the seconds beyond Python's own start, and the limit that the project sets. The network is Gluon's
``resnet50_v1`` with its graph; ``alone.params`` is the same file without the graph, and in ``unknown.params`` one array
is missing, so that no network fits. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
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
    "resnet-xf inspect net-0000.params": ([*RESNET_XF, "inspect", "net-0000.params"], 1.0),
    "resnet-xf inspect alone.params": ([*RESNET_XF, "inspect", "alone.params"], 1.0),
    "resnet-xf inspect unknown.params": ([*RESNET_XF, "inspect", "unknown.params"], 1.0),
    "resnet-xf convert net-0000.params": ([*RESNET_XF, "convert", "net-0000.params", "net.safetensors"], 5.0),
}
"""Each command line, and the limit of its seconds beyond Python's own start."""


def export(folder: str) -> None:
    """Export Gluon's ``resnet50_v1`` into a folder, in a process of its own."""
    script = (
        "import os, warnings; warnings.simplefilter('ignore'); os.environ.setdefault('OMP_NUM_THREADS', '2')\n"
        "from resnet_xf_mxnet.numpy_compat import mx\n"
        "network = mx.gluon.model_zoo.vision.resnet50_v1(); network.initialize(mx.init.Xavier()); network.hybridize()\n"
        "network(mx.nd.zeros((1, 3, 32, 32))); network.export('net')\n"
        "arrays = mx.nd.load('net-0000.params'); mx.nd.save('alone.params', arrays)\n"
        "arrays.pop('arg:resnetv10_stage2_conv1_weight'); mx.nd.save('unknown.params', arrays)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=folder, check=True, stderr=subprocess.DEVNULL)


def seconds(arguments: list[str], folder: str) -> tuple[float, float]:
    """Run a command once in a folder; return its seconds by the wall clock and on the processor."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(arguments, cwd=folder, stdout=subprocess.DEVNULL, check="unknown.params" not in arguments)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10, help="runs of each command (default 10)")
    runs = parser.parse_args().runs
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        export(folder)
        for _ in range(runs):
            for name, (arguments, _limit) in COMMANDS.items():
                samples[name].append(seconds(arguments, folder))
    rows = []
    python = median(wall for wall, _ in samples["python -c pass"])
    for name, (_, limit) in COMMANDS.items():
        wall, processor = (median(column) for column in zip(*samples[name], strict=True))
        cells = f"{wall:.3f}", f"{wall - python:.3f}", f"{limit or ''}", f"{processor:.3f}", f"{wall / python:.1f}"
        rows.append((name, *cells))
    print_table(("command", "wall s>", "beyond Python s>", "limit s>", "processor s>", "× Python>"), rows)


if __name__ == "__main__":
    main()
