"""The whole ladder, accuracies on digits included, on networks of every kind; how long each rung takes.

``python benchmarks/full_ladder.py`` runs what ``results/full_ladder.json`` does not hold yet and writes it, and the
table of ``docs/ladder.md``. Each network is one command, ``resnet-xf parity NAME --level full --image-size SIZE``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.progress import track

from resnet_xf.support.files import atomic

HERE = Path(__file__).parent
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
MORE = {"resnet50_v1": ["--seeds", "10"], "cifar_resnet20": ["--recipe", "digits"]}
"""Options of networks for which five pairs of short runs were ``not enough seeds``: more of them, or longer runs at a
higher rate, since CIFAR's small network had learnt but three of four digits."""

MARK = re.compile(r"(<!-- full ladder -->\n).*?(<!-- end -->)", re.DOTALL)


def run(name: str, size: int, runs: Path | None) -> dict[str, object]:
    """One network's report, less what is long; its training runs are kept in a folder if one is given."""
    command = ["parity", name, "--level", "full", "--image-size", str(size), *MORE.get(name, []), "--json"]
    with TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "resnet_xf", *command, "--runs", str(runs / name if runs else folder)],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode not in (0, 1):
        sys.exit(f"{name}: {done.stderr}")
    report = json.loads(done.stdout)
    keep = ("network", "holds", "verdict", "backends", "environment", "input_shape", "rungs", "accuracy")
    threads = {"cpus": os.cpu_count(), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")}
    return {"command": "resnet-xf " + " ".join(command)} | {key: report[key] for key in keep} | {"threads": threads}


def table(results: dict[str, dict]) -> str:
    """Markdown: seconds up to the end of each level, and the verdict of the last rung."""
    lines = [
        "| network | image | quick, s | standard, s | full, s | holds | accuracies: mean difference, 90% interval |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, report in results.items():
        seconds = {rung["number"]: rung["seconds"] for rung in report["rungs"]}
        upto = [f"{sum(s for n, s in seconds.items() if n <= last):.0f}" for last in (5, 8, 10)]
        told = report["accuracy"]
        points = (
            f"{told['mean_difference']:+.2f}, {told['interval'][0]:+.2f} to {told['interval'][1]:+.2f}" if told else ""
        )
        size = report["input_shape"][-1]
        held = sum(rung["status"] == "pass" for rung in report["rungs"])
        lines.append(f"| `{name}` | {size}×{size} | {' | '.join(upto)} | {held} of {len(seconds)} rungs | {points} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=list(SIZES), metavar="NETWORK")
    parser.add_argument("--again", action="store_true", help="run also what is there")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "full_ladder.json")
    parser.add_argument("--docs", type=Path, default=HERE.parent / "docs" / "ladder.md")
    parser.add_argument("--runs", type=Path, help="keep the runs' folders there, and go on with those that are")
    options = parser.parse_args()
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    missing = [name for name in options.networks if options.again or name not in results]
    for name in track(missing, "networks"):
        results[name] = run(name, SIZES[name], options.runs)
        print(results[name]["verdict"], flush=True)
        ordered = {name: results[name] for name in SIZES if name in results}
        with atomic(options.out) as temporary:
            temporary.write_text(json.dumps(ordered, indent=1) + "\n")
    ordered = {name: results[name] for name in SIZES if name in results}
    print(table(ordered))
    if options.docs.exists():
        text = MARK.sub(lambda found: found[1] + table(ordered) + found[2], options.docs.read_text())
        with atomic(options.docs) as temporary:
            temporary.write_text(text)
    sys.exit(0 if all(report["holds"] for report in results.values()) else 1)


if __name__ == "__main__":
    main()
