"""What a bench's times say: median and quartiles, and the ratio of two things that took turns, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
"""Bootstrap samples of a ratio; its interval's ends are then known to a hundredth of its width."""

CONFIDENCE = 0.95
"""Of that interval."""

Verdict = Literal["faster", "slower", "no difference shown"]


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """Images per second, over the rounds of a measurement."""

    median: float
    low: float
    high: float
    rounds: int


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """How many times as fast the first of two is, from rounds in which they took turns.

    Attributes:
        median: of the rounds' ratios.
        interval: of 95 %, by the bootstrap (Efron 1979): rounds are drawn again with replacement, whole, so that what
            slowed the machine for both cancels out.
        verdict: ``no difference shown`` where the interval holds 1.
    """

    median: float
    interval: tuple[float, float]
    rounds: int

    @property
    def verdict(self) -> Verdict:
        """In words."""
        low, high = self.interval
        return "faster" if low > 1 else "slower" if high < 1 else "no difference shown"

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.median:.2f}× ({low:.2f} to {high:.2f}, {self.rounds} rounds): {self.verdict}"


def speed(rates: Sequence[float]) -> Speed:
    """The median and quartiles of images per second."""
    low, middle, high = np.quantile(rates, (0.25, 0.5, 0.75))
    return Speed(median=float(middle), low=float(low), high=float(high), rounds=len(rates))


def ratio(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Ratio:
    """How many times as fast the first is; both are images per second, one number for each round.

    Raises:
        ValueError: if there are not as many of each, or none.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"rounds: {len(first)} of the one and {len(second)} of the other")
    ratios = np.array(first) / np.array(second)
    drawn = np.random.default_rng(seed).integers(0, len(ratios), (RESAMPLES, len(ratios)))
    medians = np.median(ratios[drawn], axis=1)
    return Ratio(median=float(np.median(ratios)), interval=_interval(medians), rounds=len(ratios))


def unpaired(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Ratio:
    """The same of two that did not take turns: each one's rounds are drawn again by themselves."""
    rng = np.random.default_rng(seed)
    medians = [
        np.median(np.array(rates)[rng.integers(0, len(rates), (RESAMPLES, len(rates)))], 1) for rates in (first, second)
    ]
    middle = float(np.median(first) / np.median(second))
    return Ratio(median=middle, interval=_interval(medians[0] / medians[1]), rounds=min(len(first), len(second)))


def _interval(drawn: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(drawn, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return float(low), float(high)


def steady(rates: Sequence[float], window: int = 2, within: float = 0.05) -> bool:
    """Whether a warm-up is over: the best of the last rounds is no faster than the best of those before them.

    A machine that still compiles, allocates or raises its clock gets faster from round to round.
    """
    if len(rates) < 2 * window:
        return False
    before, last = max(rates[:-window]), max(rates[-window:])
    return last <= before * (1 + within)
