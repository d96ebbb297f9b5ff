"""Statistics of measured speeds: median and quartiles, and the ratio of two speeds with its confidence interval.

Cases are measured in turns. A round is what one case does in one turn: some batches, timed together. A launch is one
start of the processes, with several rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from resnet_xf.support.optional import optional

RESAMPLES = 10_000
"""Bootstrap samples of a ratio. The ends of its interval are then known to a hundredth of its width."""

CONFIDENCE = 0.95
"""The confidence level of every interval."""

Launches = Sequence[Sequence[float]]
"""Images per second, or ratios of them: for each launch, the value of each round."""

Rate = Annotated[float, msgspec.Meta(gt=1e-9, lt=1e12)]
"""Images per second. The limits keep ratios of two of them finite."""

Verdict = Literal["faster", "slower", "no difference shown"]


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """Images per second over all rounds: the median, the lower and upper quartile, and the number of rounds."""

    median: Rate
    low: Rate
    high: Rate
    rounds: int


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """How many times as fast the first of two networks is as the second.

    Attributes:
        median: the median ratio over the rounds; with several launches, the geometric mean of their medians.
        interval: the 95 % confidence interval, by the bootstrap (Efron 1979; Kalibera and Jones 2013): launches are
            drawn again with replacement, and so are the rounds within each launch. With one launch it is valid for
            these processes only. With more it is widened (:func:`widening`), and valid for other processes too.
        rounds: the number of rounds, over all launches.
        launches: how many times both processes were started; where their memory lies differs between launches.
    """

    median: float
    interval: tuple[float, float]
    rounds: int
    launches: int = 1

    @property
    def verdict(self) -> Verdict:
        """``faster`` if the whole interval lies above 1, ``slower`` if below 1, else ``no difference shown``."""
        low, high = self.interval
        return "faster" if low > 1 else "slower" if high < 1 else "no difference shown"

    def __str__(self) -> str:
        low, high = self.interval
        counts = f"{self.rounds} rounds in {self.launches} launch{'es' if self.launches > 1 else ''}"
        return f"{self.median:.2f}× ({low:.3f} to {high:.3f}, {counts}): {self.verdict}"


def format_rate(rate: float) -> str:
    """Return images per second as text: ``1,234`` from 100 on, ``12.3`` below."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def speed(rates: Sequence[float]) -> Speed:
    """Return the median and the quartiles of ``rates``: the images per second of all rounds."""
    low, middle, high = np.quantile(rates, (0.25, 0.5, 0.75))
    return Speed(median=float(middle), low=float(low), high=float(high), rounds=len(rates))


def ratio(first: Launches, second: Launches) -> Ratio:
    """Return the ratio of the ``first`` speed to the ``second``, if they were measured in the same rounds, in turns.

    Each round has its own ratio. What slowed the machine in a round slowed both, and cancels out.

    Raises:
        ValueError: if the two have different numbers of rounds, or none.
    """
    if [len(rates) for rates in first] != [len(rates) for rates in second] or not first or not all(first):
        raise ValueError(f"rounds: {sum(map(len, first))} of the one and {sum(map(len, second))} of the other")
    ratios = [[one / other for one, other in zip(*rates, strict=True)] for rates in zip(first, second, strict=True)]
    return _with_interval(_center(ratios), _bootstrap(ratios, np.random.default_rng(0)), ratios)


def unpaired(first: Launches, second: Launches) -> Ratio:
    """Return the ratio of the ``first`` speed to the ``second``, if they were measured at different times.

    The bootstrap resamples each speed by itself.
    """
    rng = np.random.default_rng(0)
    center, samples = _center(first) / _center(second), _bootstrap(first, rng) / _bootstrap(second, rng)
    return _with_interval(center, samples, min(first, second, key=len))


def _center(launches: Launches) -> float:
    """Return the geometric mean of the launches' medians. So the ratio of b to a is 1 / the ratio of a to b."""
    return float(np.exp(np.mean([np.log(np.median(rounds)) for rounds in launches])))


def _bootstrap(launches: Launches, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return ``RESAMPLES`` values of :func:`_center`, each from launches and rounds that are drawn with replacement."""
    logs = np.empty((len(launches), RESAMPLES))
    for row, rounds in zip(logs, launches, strict=True):
        row[:] = np.log(np.median(rng.choice(np.asarray(rounds), (RESAMPLES, len(rounds))), axis=1))
    chosen = rng.integers(0, len(logs), (len(logs), RESAMPLES))
    samples: NDArray[np.float64] = np.exp(logs[chosen, rng.integers(0, RESAMPLES, chosen.shape)].mean(axis=0))
    return samples


def _with_interval(center: float, samples: NDArray[np.float64], launches: Launches) -> Ratio:
    """Return a ratio whose interval is from quantiles of bootstrap ``samples``, widened (:func:`widening`).

    ``center``: its median. ``launches`` gives the numbers of rounds and launches.
    """
    ends = np.quantile(samples, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    low, high = center * (ends / center) ** widening(len(launches))
    rounds = sum(map(len, launches))
    return Ratio(median=center, interval=(float(low), float(high)), rounds=rounds, launches=len(launches))


def widening(launches: int) -> float:
    """Return the factor from a bootstrap to a Student-t interval for n launches: t/z·√(n/(n−1)); 1 for one launch.

    The bootstrap divides the variance by n in place of n − 1, and takes the deviation as known.

    Raises:
        MissingExtraError: if SciPy is not installed; for two launches and more.
    """
    if launches == 1:
        return 1.0
    student = optional("scipy.special", "intervals over several launches are found by SciPy").stdtrit
    quantile = (1 + CONFIDENCE) / 2
    t, z = student(launches - 1, quantile), NormalDist().inv_cdf(quantile)
    return float(t / z * np.sqrt(launches / (launches - 1)))


def steady(rates: Sequence[float]) -> bool:
    """Return whether a warm-up is over: the best of its last two rounds is at most 5 % faster than all before."""
    return len(rates) >= 4 and max(rates[-2:]) <= 1.05 * max(rates[:-2])
