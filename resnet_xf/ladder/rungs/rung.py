"""What a rung of the ladder is, and what it finds."""

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
    """The result of a rung. It passes if ``where`` is None and ``value`` is at most ``bound``.

    Attributes:
        value: the worst measured value.
        bound: the largest value that passes.
        detail: one line: what was compared, or what is wrong.
        where: the first layer or tensor that differs.
        layers: the errors of every layer, from rung 6.
        curves: the losses, from rung 9.
        accuracy: the accuracies, from rung 10.
        conclusive: whether the comparison proves anything.
        remark: what a pass does not say, for the verdict.
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
        """What the finding makes of the rung."""
        if not self.conclusive:
            return "inconclusive"
        return "pass" if self.where is None and self.value <= self.bound else "fail"


class Worst:
    """Of many errors the one closest to its bound, or furthest beyond it."""

    def __init__(self) -> None:
        self.value, self.bound, self.where = 0.0, float("inf"), ""

    def see(self, value: float, bound: float, where: str) -> bool:
        """Add an error. Return whether it is within its bound. NaN counts as infinite."""
        value = value if value == value else float("inf")
        if not self.where or value * self.bound > self.value * bound or (value > bound and self.value <= self.bound):
            self.value, self.bound, self.where = value, bound, where
        return value <= bound


@dataclass(frozen=True)
class Rung:
    """One comparison of the ladder. Its file holds what it measures of a side, and how it judges all sides.

    Attributes:
        number: its place on the ladder, from 1.
        name: what it compares, in a word or two.
        metric: what the value and the bound of its finding measure.
        measure: asks one side for everything that ``judge`` may ask for. A capture saves the answers.
        judge: compares the sides.
        level: the lowest level that includes the rung.
        needs: the capabilities of a backend that the rung uses, by their names in
            :data:`resnet_xf.backend.contract.CAPABILITIES`. If a side lacks one, the rung is skipped.
    """

    number: int
    name: str
    metric: str
    measure: Callable[[Subject, Side], object]
    judge: Callable[[Subject, Sequence[Side]], Finding]
    level: Level = "quick"
    needs: tuple[str, ...] = ()
