"""Cases of a tiny network, and processes that measure them quickly."""

from msgspec.structs import replace

from helpers.runs import TINY
from resnet_xf.speed.bench import worker as worker_module
from resnet_xf.speed.bench.case import Case

CASE = Case(spec=TINY, backend="torch", image_size=(12, 12), threads=1, batch=4, preset="eager")
SECONDS = 0.05
QUICK = """import resnet_xf.speed.bench.engine as engine
engine.ROUND, engine.WARM_UP, engine.MATRIX_SIZE = 0.01, 0.1, {"cpu": 256}
"""
"""What a process runs before it measures: no test needs a steady speed or a true ceiling."""


def case(**fields) -> Case:
    return replace(CASE, **fields)


def patched(monkeypatch, **patches: str) -> None:
    """Run Python first in the processes that measure cases whose JSON holds such a value: a preset, a backend."""
    lines = ["import sys, pathlib", "case = sys.argv[1]"]
    for word, patch in patches.items():
        lines += [f"if ':\"{word}\"' in case:", *(f"    {line}" for line in patch.splitlines())]
    *python, code = worker_module.COMMAND
    monkeypatch.setattr(worker_module, "COMMAND", (*python, "\n".join([*lines, code])))
