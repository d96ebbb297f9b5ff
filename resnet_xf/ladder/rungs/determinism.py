"""Rung 3: a network that is built and run twice gives the same output, to the bit."""

from __future__ import annotations

from collections.abc import Sequence

from resnet_xf.architecture.measures import same_bits
from resnet_xf.architecture.weights import Array
from resnet_xf.ladder.rungs.forward import output
from resnet_xf.ladder.rungs.rung import Finding, Rung
from resnet_xf.ladder.sides.live import Live
from resnet_xf.ladder.sides.side import Side, measured
from resnet_xf.ladder.subject import Subject


@measured("repeated output")
def repeat_output(live: Live) -> Array:
    """Build the network a second time, and return its float32 output for the images of the comparison."""
    return live.backend.forward(live.fresh("float32"), live.subject.images)


def judge(subject: Subject, sides: Sequence[Side]) -> Finding:
    """Compare the float32 outputs of two builds of each side (network), bit by bit."""
    for side in sides:
        if not same_bits(output(side, "float32"), repeat_output(side)):
            return Finding(1, 0, f"{side.name} gives other values the second time", "the whole network")
    return Finding(0, 0, "two builds, two runs, equal to the bit")


RUNG = Rung(
    3, "determinism", "backends that vary", lambda subject, side: (output(side, "float32"), repeat_output(side)), judge
)
