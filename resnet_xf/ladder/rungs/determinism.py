"""Rung 3: a network that is built and run twice gives the same output, to the bit."""

from __future__ import annotations

from collections.abc import Sequence

from resnet_xf.architecture.measures import same_bits
from resnet_xf.ladder.sides.side import Side
from resnet_xf.ladder.subject import Finding, Subject


def determinism(subject: Subject, sides: Sequence[Side]) -> Finding:
    """Compare each side's two float32 outputs: those of two networks, built and run one after the other."""
    for side in sides:
        if not same_bits(*side.twice()):
            return Finding(1, 0, f"{side.name} gives other numbers the second time", "the whole network")
    return Finding(0, 0, "two builds, two runs, equal to the bit")
