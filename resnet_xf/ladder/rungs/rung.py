"""What a rung (one check of the parity ladder) is, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from resnet_xf.ladder.accuracy.equivalence import Equivalence
from resnet_xf.ladder.report.report import Curves, LayerError, Level
from resnet_xf.ladder.sides.side import Side
from resnet_xf.ladder.subject import Subject


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a rung. It passes if it is conclusive, ``where`` is None and ``value`` is at most ``bound``.

    Attributes:
        value: the worst measured value.
        bound: the largest value that passes.
        detail: one line: what was compared, or what is wrong.
        where: the first layer or tensor that differs; None if none does.
        layers: the errors of every layer; rung 6 alone has them.
        curves: the losses; rung 9 alone has them.
        accuracy: the accuracies; rung 10 alone has them.
        conclusive: False if rounding errors may be so large that the comparison proves nothing.
        remark: what a pass does not prove, for the verdict.
    """

    value: float
    bound: float
    detail: str
    where: str | None = None
    layers: tuple[LayerError, ...] = ()
    curves: Curves | None = None
    accuracy: Equivalence | None = None
    conclusive: bool = True
    remark: str = ""

    @property
    def status(self) -> Literal["pass", "fail", "inconclusive"]:
        """The rung's status, from ``conclusive``, ``where``, ``value`` and ``bound``."""
        if not self.conclusive:
            return "inconclusive"
        return "pass" if self.where is None and self.value <= self.bound else "fail"


class Worst:
    """Keeps, of many errors, the one that is the largest multiple of its bound, and its place (``where``)."""

    def __init__(self) -> None:
        self.value, self.bound, self.where = 0.0, float("inf"), ""

    def see(self, value: float, bound: float, where: str) -> bool:
        """Add the error of layer or tensor ``where``; return whether it is within its bound. NaN counts as infinite."""
        value = value if value == value else float("inf")
        if not self.where or value * self.bound > self.value * bound or (value > bound and self.value <= self.bound):
            self.value, self.bound, self.where = value, bound, where
        return value <= bound


@dataclass(frozen=True)
class Rung:
    """One check of the ladder. It measures each side (network under comparison), then judges all of them.

    Attributes:
        number: its place on the ladder, from 1.
        name: what it compares, in a word or two.
        metric: what the value and the bound of its finding measure.
        measure: takes all measurements of one side that ``judge`` needs, so that a capture can save them.
        judge: compares the sides and returns the finding.
        level: the lowest level that includes the rung.
        needs: the capabilities of a backend that the rung uses, by their names in
            :data:`resnet_xf.backend.contract.CAPABILITIES`. A side that lacks one is left out of the comparison.
    """

    number: int
    name: str
    metric: str
    measure: Callable[[Subject, Side], object]
    judge: Callable[[Subject, Sequence[Side]], Finding]
    level: Level = "quick"
    needs: tuple[str, ...] = ()
