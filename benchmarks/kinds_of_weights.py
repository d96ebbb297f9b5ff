"""The ladder at level ``standard`` on networks of every kind, with four kinds of weights: no false verdict may appear.

``python benchmarks/kinds_of_weights.py`` runs each network with the ladder's own draw, with He's and with Xavier's
initialization, and two networks also after training. It writes ``results/kinds_of_weights.json`` and the table in
``docs/ladder.md``. Networks that have results already are not run again. The exit code is 1 if a verdict is not
"holds".
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from common import DOCS, RESULTS, read_results, refuse_unknown, resnet_xf, rungs_held, write_between, write_results
from full_ladder import SIZES
from rich.progress import track

from resnet_xf import draw_weights, plan, save_weights
from resnet_xf.support.environment import environment

SEED = 1
"""Of He's and Xavier's weights, and of the training."""

TRAINED = {
    "d2l_resnet18": ("--image-size", "32", "--epochs", "2"),
    "cifar_resnet20": ("--recipe", "digits", "--in-channels", "1"),
}
"""How two networks are trained."""

KINDS = ("own", "he", "xavier", "trained")
"""The kinds of weights."""


def run(name: str, kind: str, folder: Path) -> dict[str, Any]:
    """The report of one network with one kind of weights, without the long parts."""
    subject = name
    if kind in ("he", "xavier"):
        subject = str(folder / f"{name}_{kind}.safetensors")
        save_weights(subject, draw_weights(name, SEED, kind), plan(name).spec)  # type: ignore[arg-type]
    elif kind == "trained":
        subject = str(folder / name)
        resnet_xf("train", name, *TRAINED[name], "--seed", str(SEED), "--backend", "torch", "--out", subject)
    words = "parity", subject, "--level", "standard", "--image-size", str(SIZES[name]), "--json"
    report = json.loads(resnet_xf(*words, codes=(0, 1, 3)))
    return {key: report[key] for key in ("network", "holds", "verdict", "input_shape", "rungs")}


def table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown: a row for each network, with its verdicts and the rungs that hold."""
    lines = ["| network | image | own draw | He | Xavier | trained |", "| --- | --- | --- | --- | --- | --- |"]
    for name, size in SIZES.items():
        cells = []
        for kind in KINDS:
            report = results.get(f"{name} {kind}")
            if report is None:
                cells.append("")
                continue
            cells.append(f"{'holds' if report['holds'] else report['verdict']}, {rungs_held(report)}")
        lines.append(f"| `{name}` | {size}×{size} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what has no result yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=list(SIZES), metavar="NETWORK")
    parser.add_argument("--again", action="store_true", help="run also what has results")
    parser.add_argument("--out", type=Path, default=RESULTS / "kinds_of_weights.json")
    options = parser.parse_args()
    refuse_unknown(parser, options.networks, SIZES)
    stored = read_results(options.out) if options.out.exists() else {}
    results = stored.get("reports", {})
    cases = [(name, kind) for kind in KINDS for name in options.networks]
    cases = [case for case in cases if case[1] != "trained" or case[0] in TRAINED]
    missing = [case for case in cases if options.again or " ".join(case) not in results]
    with TemporaryDirectory() as folder:
        for name, kind in track(missing, "networks"):
            results[f"{name} {kind}"] = run(name, kind, Path(folder))
            print(f"{name}, {kind}: {results[f'{name} {kind}']['verdict']}", flush=True)
            write_results(options.out, {"environment": environment(), "reports": results})
    print(table(results))
    write_between(DOCS / "ladder.md", "kinds of weights", table(results))
    sys.exit(0 if all(report["holds"] for report in results.values()) else 1)


if __name__ == "__main__":
    main()
