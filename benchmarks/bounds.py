"""Measured error against depth, beside the bound: how much head-room the ladder's bounds have.

``python benchmarks/bounds.py`` climbs the rungs that compare by rounding, for networks of 18 to 152 layers, and writes
``results/bounds.json``, the plot ``docs/bounds.svg`` and the table of ``docs/bounds.md``.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from rich.progress import track

from resnet_xf.architecture.measures import HEADROOM
from resnet_xf.ladder.report.report import environment
from resnet_xf.support.files import atomic

HERE = Path(__file__).parent
DEPTHS = {18: "resnet18", 34: "resnet34", 50: "resnet50", 101: "resnet101", 152: "resnet152"}
RUNGS = ("forward float64", "forward float32", "layers", "gradients", "lock-step")
MARK = re.compile(r"(<!-- bounds -->\n).*?(<!-- end -->)", re.DOTALL)


def measure(size: int, seeds: int) -> list[dict[str, Any]]:
    """A row for every network, seed and rung."""
    rows = []
    for depth, name in track(DEPTHS.items(), "depths"):
        for seed in range(seeds):
            level = "quick" if seed else "standard"  # training costs minutes at 152 layers
            options = ["--level", level, "--image-size", str(size), "--seed", str(seed), "--json"]
            command = [sys.executable, "-m", "resnet_xf", "parity", name, *options]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
            if done.returncode not in (0, 1):  # what failed, it has said itself
                sys.exit(done.returncode)
            report = json.loads(done.stdout)
            print(report["verdict"], flush=True)
            for rung in report["rungs"]:
                if rung["name"] in RUNGS and rung["value"] is not None:
                    told = {"rung": rung["name"], "status": rung["status"]}
                    rows.append(
                        {"depth": depth, "network": name, "seed": seed}
                        | told
                        | {"error": rung["value"], "bound": rung["bound"]}
                    )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: for each rung and depth the largest share of the bound."""
    lines = [f"| rung | {' | '.join(f'{depth} layers' for depth in DEPTHS)} |", "| --- |" + " --- |" * len(DEPTHS)]
    for rung in RUNGS:
        cells = []
        for depth in DEPTHS:
            found = [row for row in rows if (row["depth"], row["rung"]) == (depth, rung)]
            if not found:  # a rung below has failed
                cells.append("not reached")
                continue
            worst = max(found, key=lambda row: row["error"] / row["bound"])
            cells.append(f"{worst['error']:.1e} of {worst['bound']:.1e} ({worst['error'] / worst['bound']:.0%})")
        lines.append(f"| {rung} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Error and bound against depth, a panel for each rung."""
    mpl.rcParams["svg.hashsalt"] = "bounds"
    figure, panels = plt.subplots(1, len(RUNGS), figsize=(3 * len(RUNGS), 3.4), layout="constrained")
    for panel, rung in zip(panels, RUNGS, strict=True):
        mine = [row for row in rows if row["rung"] == rung]
        depths = sorted({row["depth"] for row in mine})
        bounds = [min(row["bound"] for row in mine if row["depth"] == depth) for depth in depths]
        panel.plot(depths, bounds, color="#c0392b", label="bound")
        panel.plot(depths, [bound / HEADROOM for bound in bounds], color="#c0392b", ls=":", label=f"bound / {HEADROOM}")
        panel.scatter([row["depth"] for row in mine], [row["error"] for row in mine], color="#1f4e79", label="measured")
        panel.set(title=rung, xlabel="layers", yscale="log", xticks=depths)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("relative error")
    panels[0].legend(loc="center right", fontsize=8)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})


def main() -> None:
    """Measure, unless only the plot is wanted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3, help="of which the first climbs to training")
    parser.add_argument("--plot-only", action="store_true", help="from the results that are there")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "bounds.json")
    parser.add_argument("--docs", type=Path, default=HERE.parent / "docs")
    options = parser.parse_args()
    if options.plot_only:
        rows = json.loads(options.out.read_text())["rows"]
    else:
        rows = measure(options.image_size, options.seeds)
        result = {
            "command": f"python benchmarks/bounds.py --image-size {options.image_size} --seeds {options.seeds}",
            "environment": environment(),
            "headroom": HEADROOM,
            "rows": rows,
        }
        with atomic(options.out) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n")
    plot(rows, options.docs / "bounds.svg")
    print(table(rows))
    page = options.docs / "bounds.md"
    text = MARK.sub(lambda found: found[1] + table(rows) + found[2], page.read_text())
    with atomic(page) as temporary:
        temporary.write_text(text)


if __name__ == "__main__":
    main()
