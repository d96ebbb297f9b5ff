"""What the benchmarks share: where results go, how they are written, the pictures and the tables in the docs."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from resnet_xf.speed.bench.charts import figure
from resnet_xf.support.files import atomic

BENCHMARKS = Path(__file__).parent
RESULTS = BENCHMARKS / "results"
DOCS = BENCHMARKS.parent / "docs"

COLOURS = 64
"""Colours of a picture: enough for charts and smooth text, and a quarter of the bytes."""


def resnet_xf(*words: str, codes: Collection[int] = (0,)) -> str:
    """Run a command of resnet_xf and return what it prints; end the program if its exit code is none of ``codes``."""
    done = subprocess.run([sys.executable, "-m", "resnet_xf", *words], capture_output=True, text=True, check=False)
    if done.returncode not in codes:
        sys.exit(f"{' '.join(words[:2])}: {done.stderr}")
    return done.stdout


def in_checkout(folder: Path) -> dict[str, str]:
    """The environment of a process that imports the packages of the checkout in ``folder``."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (folder, folder / "backends")))}


def refuse_unknown(parser: argparse.ArgumentParser, networks: Sequence[str], known: Collection[str]) -> None:
    """End the program, with the parser's usage, if a network is none of ``known``."""
    if unknown := [name for name in networks if name not in known]:
        parser.error(f"{', '.join(unknown)}: choose from {', '.join(known)}")


def rungs_held(report: Mapping[str, Any]) -> str:
    """How many rungs of a report of ``parity --json`` hold: ``8 of 8 rungs``."""
    return f"{sum(rung['status'] == 'pass' for rung in report['rungs'])} of {len(report['rungs'])} rungs"


def exponent(values: Sequence[float], times: Sequence[float]) -> float:
    """The exponent of a power law fitted by least squares to the logarithms; 1 is linear."""
    return float(np.polyfit(np.log(values), np.log(times), 1)[0])


def write_results(path: Path, results: object) -> None:
    """Write results as JSON: each field on a line, and each item of a list or dict in a field on a line of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        temporary.write_text(to_json(results) + "\n", encoding="utf-8")


def to_json(value: Any, levels: int = 2, indent: str = "") -> str:
    """JSON with line breaks in the outer ``levels`` alone."""
    if levels == 0 or not value or not isinstance(value, (dict, list, tuple)):
        return json.dumps(value, ensure_ascii=False)
    inner = indent + " "
    if isinstance(value, dict):
        lines = [f"{json.dumps(key)}: {to_json(item, levels - 1, inner)}" for key, item in value.items()]
        first, last = "{", "}"
    else:
        lines = [to_json(item, levels - 1, inner) for item in value]
        first, last = "[", "]"
    return f"{first}\n{inner}" + f",\n{inner}".join(lines) + f"\n{indent}{last}"


def read_results(path: Path) -> Any:
    """Results that were written before; ends the program in one line if there are none."""
    if not path.exists():
        sys.exit(f"{path}: nothing was measured yet; run this without --tables or --plot-only first")
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def picture(path: Path, width: float, height: float) -> Iterator[Any]:
    """A Matplotlib figure to draw on, in inches; it is written as a PNG file when the block ends."""
    with figure() as new:
        drawn = new(figsize=(width, height), layout="constrained")
        yield drawn
        with atomic(path) as temporary:
            drawn.savefig(temporary, format="png")
    reduce_colours(path)


def reduce_colours(path: Path) -> None:
    """Write a PNG file again with ``COLOURS`` colours; the same pixels give the same bytes."""
    with Image.open(path) as image:
        reduced = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    with atomic(path) as temporary:
        reduced.save(temporary, format="png", optimize=True)


def write_between(path: Path, mark: str, text: str) -> None:
    """Replace what stands between ``<!-- MARK -->`` and the next ``<!-- end -->`` of a file."""
    page = path.read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not pattern.search(page):
        sys.exit(f"{path}: has no <!-- {mark} -->")
    with atomic(path) as temporary:
        temporary.write_text(pattern.sub(lambda match: f"{match[1]}{text}{match[2]}", page), encoding="utf-8")
