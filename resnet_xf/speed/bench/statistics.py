"""What a bench's times say: median and quartiles, and the ratio of two things that took turns, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from resnet_xf.support.optional import optional

RESAMPLES = 10_000
"""Bootstrap samples of a ratio; its interval's ends are then known to a hundredth of its width."""

CONFIDENCE = 0.95
"""Of that interval."""

Launches = Sequence[Sequence[float]]
"""Images per second, or ratios of them: those of each round, launch by launch."""

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
        median: of the rounds' ratios; with several launches, the geometric mean of each one's median.
        interval: of 95 %, by the bootstrap (Efron 1979): launches are drawn again with replacement, and within each its
            rounds, whole, so that what slowed the machine for both cancels out (Kalibera and Jones 2013). With one
            launch it is of those processes; from two on it allows for others, and is widened by Student's t, since a
            few launches drawn again do not go beyond themselves.
        rounds: how many there are, over all launches.
        launches: how often both were started anew; where their memory lies differs between launches alone.
        verdict: ``no difference shown`` where the interval holds 1.
    """

    median: float
    interval: tuple[float, float]
    rounds: int
    launches: int = 1

    @property
    def verdict(self) -> Verdict:
        """In words."""
        low, high = self.interval
        return "faster" if low > 1 else "slower" if high < 1 else "no difference shown"

    def __str__(self) -> str:
        low, high = self.interval
        many = f"{self.rounds} rounds in {self.launches} launch{'es' if self.launches > 1 else ''}"
        return f"{self.median:.2f}× ({low:.3f} to {high:.3f}, {many}): {self.verdict}"


def in_words(rate: float) -> str:
    """Images a second, to three figures and more."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def speed(rates: Sequence[float]) -> Speed:
    """The median and quartiles of images per second."""
    low, middle, high = np.quantile(rates, (0.25, 0.5, 0.75))
    return Speed(median=float(middle), low=float(low), high=float(high), rounds=len(rates))


def ratio(first: Launches, second: Launches, seed: int = 0) -> Ratio:
    """How many times as fast the first is; both are images per second by launch, one number for each round.

    Raises:
        ValueError: if there are not as many of each, or none.
    """
    if [len(rates) for rates in first] != [len(rates) for rates in second] or not first or not all(first):
        raise ValueError(f"rounds: {sum(map(len, first))} of the one and {sum(map(len, second))} of the other")
    ratios = [[one / other for one, other in zip(*rates, strict=True)] for rates in zip(first, second, strict=True)]
    return _found(_middle(ratios), _drawn(ratios, np.random.default_rng(seed)), ratios)


def unpaired(first: Launches, second: Launches, seed: int = 0) -> Ratio:
    """The same of two that did not take turns: each one's launches and rounds are drawn again by themselves."""
    rng = np.random.default_rng(seed)
    return _found(
        _middle(first) / _middle(second), _drawn(first, rng) / _drawn(second, rng), min(first, second, key=len)
    )


def _middle(launches: Launches) -> float:
    """The geometric mean of the launches' medians, so that the ratio of b to a is the inverse of a to b's."""
    return float(np.exp(np.mean([np.log(np.median(rounds)) for rounds in launches])))


def _drawn(launches: Launches, rng: np.random.Generator) -> NDArray[np.float64]:
    """The same of launches drawn again, each with its rounds drawn again."""
    logs = np.empty((len(launches), RESAMPLES))
    for row, rounds in zip(logs, launches, strict=True):
        row[:] = np.log(np.median(np.asarray(rounds)[rng.integers(0, len(rounds), (RESAMPLES, len(rounds)))], axis=1))
    chosen = rng.integers(0, len(logs), (len(logs), RESAMPLES))
    drawn: NDArray[np.float64] = np.exp(logs[chosen, rng.integers(0, RESAMPLES, chosen.shape)].mean(axis=0))
    return drawn


def _found(middle: float, drawn: NDArray[np.float64], launches: Launches) -> Ratio:
    ends = np.quantile(drawn, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    low, high = middle * (ends / middle) ** widening(len(launches))
    return Ratio(
        median=middle, interval=(float(low), float(high)), rounds=sum(map(len, launches)), launches=len(launches)
    )


def widening(launches: int) -> float:
    """By how much the bootstrap's deviations fall short of Student's t: it divides by n, and takes n as many.

    Raises:
        MissingExtraError: if SciPy, which knows that distribution, is not installed; one launch does not need it.
    """
    if launches == 1:
        return 1.0
    student = optional("scipy.special", "intervals over several launches are found by SciPy").stdtrit
    asked = (1 + CONFIDENCE) / 2
    return float(student(launches - 1, asked) / NormalDist().inv_cdf(asked) * np.sqrt(launches / (launches - 1)))


def steady(rates: Sequence[float], window: int = 2, within: float = 0.05) -> bool:
    """Whether a warm-up is over: the best of the last rounds is no faster than the best of those before them.

    A machine that still compiles, allocates or raises its clock gets faster from round to round.
    """
    if len(rates) < 2 * window:
        return False
    before, last = max(rates[:-window]), max(rates[-window:])
    return last <= before * (1 + within)
