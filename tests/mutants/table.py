"""The table of planted defects, and ``docs/mutants.md``, which ``python tests/mutants/table.py`` makes of it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest does by itself

from mutants.accuracy import ACCURACY, Slip
from mutants.architecture import ARCHITECTURE
from mutants.arrays import NORMS, WEIGHTS
from mutants.layers import LAYERS
from mutants.learning import DATA, GRADIENTS, LOSS, OPTIMISER, SCHEDULE
from mutants.mutant import Mutant
from mutants.precision import COMPARATORS, PRECISION
from resnet_xf.ladder.climb import LADDER
from resnet_xf.support.files import atomic

DOCUMENT = Path(__file__).parents[2] / "docs" / "mutants.md"

MUTANTS: dict[str, list[Mutant]] = {
    "architecture": ARCHITECTURE,
    "layers": LAYERS,
    "weights": WEIGHTS,
    "norms": NORMS,
    "gradients": GRADIENTS,
    "loss": LOSS,
    "optimiser": OPTIMISER,
    "schedule": SCHEDULE,
    "data": DATA,
    "precision": PRECISION,
    "comparators": COMPARATORS,
}
"""By area."""

SLIPS: dict[str, list[Slip]] = {"recipe": ACCURACY}

NUMBERS = {rung.name: rung.number for rung in LADDER} | {"accuracy": 10}

HEAD = """\
# Planted defects

What the parity ladder is known to notice. Each row is a defect that a test plants into a real network or into its
training, on one backend at a time, and the rung and place at which the ladder must find it; the rungs below must hold.
`python tests/mutants/table.py` makes this page of the tests' own table.

| defect | area | planted in | caught on rung | at |
| --- | --- | --- | --- | --- |
"""


def rows() -> list[str]:
    """A line of the table for each defect."""
    return [
        f"| {one.defect} | {area} | {one.network}; {' or '.join(one.sides) or 'both'} "
        f"| {NUMBERS[one.rung]} {one.rung} | {one.where} |"
        for areas in (MUTANTS, SLIPS)
        for area, planted in areas.items()
        for one in planted
    ]


def document() -> str:
    """The whole page."""
    return HEAD + "\n".join(rows()) + "\n"


if __name__ == "__main__":
    DOCUMENT.parent.mkdir(exist_ok=True)
    with atomic(DOCUMENT) as temporary:
        temporary.write_text(document(), encoding="utf-8")
