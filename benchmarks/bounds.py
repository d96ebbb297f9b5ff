"""How far the measured rounding errors stay below the ladder's bounds, against depth.

``python benchmarks/bounds.py`` measures the rungs that have a bound, on networks of 18 to 152 layers. It writes
``results/bounds.json``, the picture ``docs/bounds.png`` and the table in ``docs/bounds.md``. With ``--tables`` it
measures nothing, and writes picture and table from the results that are there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import DOCS, RESULTS, picture, read_results, write_between, write_results
from rich.progress import track

from resnet_xf.architecture.measures import HEADROOM
from resnet_xf.support.environment import environment

DEPTHS = {18: "resnet18", 34: "resnet34", 50: "resnet50", 101: "resnet101", 152: "resnet152"}
RUNGS = ("forward float64", "forward float32", "layers", "gradients", "lock-step")


def measure(size: int, seeds: int) -> list[dict[str, Any]]:
    """Run the ladder on every network with every seed; a row for each rung."""
    rows = []
    for depth, name in track(DEPTHS.items(), "depths"):
        for seed in range(seeds):
            level = "quick" if seed else "standard"  # training costs minutes at 152 layers
            options = ["--level", level, "--image-size", str(size), "--seed", str(seed), "--json"]
            command = [sys.executable, "-m", "resnet_xf", "parity", name, *options]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
            if done.returncode not in (0, 1, 3):  # the command has printed why
                sys.exit(done.returncode)
            report = json.loads(done.stdout)
            print(report["verdict"], flush=True)
            for rung in report["rungs"]:
                if rung["name"] in RUNGS and rung["value"] is not None:
                    run = {"depth": depth, "network": name, "seed": seed}
                    result = {"rung": rung["name"], "status": rung["status"]}
                    rows.append(run | result | {"error": rung["value"], "bound": rung["bound"]})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: for each rung and depth, the error that comes nearest to its bound."""
    lines = [f"| rung | {' | '.join(f'{depth} layers' for depth in DEPTHS)} |", "| --- |" + " --- |" * len(DEPTHS)]
    for rung in RUNGS:
        cells = []
        for depth in DEPTHS:
            measured = [row for row in rows if (row["depth"], row["rung"]) == (depth, rung)]
            if not measured:  # a lower rung has failed
                cells.append("not reached")
                continue
            worst = max(measured, key=lambda row: row["error"] / row["bound"])
            cells.append(f"{worst['error']:.1e} of {worst['bound']:.1e} ({worst['error'] / worst['bound']:.0%})")
        lines.append(f"| {rung} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw error and bound against depth, a panel for each rung."""
    with picture(path, 3 * len(RUNGS), 3.4) as drawn:
        panels = drawn.subplots(1, len(RUNGS))
        for panel, rung in zip(panels, RUNGS, strict=True):
            mine = [row for row in rows if row["rung"] == rung]
            depths = sorted({row["depth"] for row in mine})
            bounds = [min(row["bound"] for row in mine if row["depth"] == depth) for depth in depths]
            panel.plot(depths, bounds, color="#c0392b", label="bound")
            tightened = [bound / HEADROOM for bound in bounds]
            panel.plot(depths, tightened, color="#c0392b", ls=":", label=f"bound / {HEADROOM}")
            of_rows, errors = ([row[field] for row in mine] for field in ("depth", "error"))
            panel.scatter(of_rows, errors, color="#1f4e79", label="measured")
            panel.set(title=rung, xlabel="layers", yscale="log", xticks=depths)
        panels[0].set_ylabel("relative error")
        panels[0].legend(loc="center right", fontsize=8)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3, help="sets of weights; the first one is also trained")
    parser.add_argument("--tables", action="store_true", help="write picture and table from earlier results")
    options = parser.parse_args()
    results = RESULTS / "bounds.json"
    if not options.tables:
        result = {
            "command": f"python benchmarks/bounds.py --image-size {options.image_size} --seeds {options.seeds}",
            "environment": environment(),
            "headroom": HEADROOM,
            "rows": measure(options.image_size, options.seeds),
        }
        write_results(results, result)
    rows = read_results(results)["rows"]
    draw(rows, DOCS / "bounds.png")
    print(table(rows))
    write_between(DOCS / "bounds.md", "bounds", table(rows))


if __name__ == "__main__":
    main()
