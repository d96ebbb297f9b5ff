"""Rung 10's statistics: two one-sided t-tests on the differences of accuracies that are paired by seed."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from math import floor, inf, log, log10, sqrt
from statistics import fmean, stdev
from typing import Any, Literal

import msgspec
import numpy as np

from resnet_xf.errors import TrainingError, refuse
from resnet_xf.support.optional import optional

Verdict = Literal["equivalent", "different", "not enough seeds", "nothing learnt"]

GOOD_POWER = 0.8
"""The power that a sufficient number of seeds gives (the field ``needed``)."""

MOST_SEEDS = 100_000
"""The largest number of seeds that is tried as ``needed``."""

POSITIONS: dict[Verdict, str] = {
    "equivalent": "within",
    "different": "beyond",
    "not enough seeds": "not within",
    "nothing learnt": "within",
}
"""For each verdict, the word that says where the interval lies in relation to ±margin."""

NODES, TAIL = 200, 1e-12
"""The nodes of the Gauss-Legendre integral of the power; and the probability that is left out at each end of it."""


class Equivalence(msgspec.Struct, frozen=True, kw_only=True):
    """Whether two backends reach the same accuracy to within a margin, from runs that are paired by seed.

    The verdict follows from the interval and the margin:

    - ``equivalent``: the interval lies within ±margin, so both one-sided tests reject at ``alpha`` (Schuirmann 1987).
      This also holds for an interval that does not contain 0.
    - ``different``: the interval lies wholly beyond +margin or −margin.
    - ``not enough seeds``: the interval contains +margin or −margin. More seeds will make it narrower.
    - ``nothing learnt``: the interval lies within ±margin, but a run is no more accurate than always predicting the
      most frequent class. Any two networks that learn nothing are equivalent.

    An interval without 0 is not ``different`` by itself, because differences within the margin were declared not to
    matter. The probability of a wrong ``different`` or a wrong ``equivalent`` is at most ``alpha`` (the three-sided
    test of Goeman, Solari and Stijnen 2010).

    Attributes:
        first, second: the backends' names.
        seeds: the seeds of the runs, in order.
        accuracies: for each backend and each seed, the test accuracy in percent.
        mean_difference: the mean of ``second`` − ``first``, in percentage points.
        deviation: the sample standard deviation of these differences, in percentage points.
        interval: the Student-t interval of the mean difference at the confidence level 1 − 2 · ``alpha``.
        margin: the smallest difference that matters, in percentage points.
        alpha: the significance level of each one-sided test.
        p_value: the larger p-value of the two tests.
        power: the probability of ``equivalent`` with this number of seeds, if the true difference is 0 and the true
            standard deviation is ``deviation``; see :func:`tost_power`.
        needed: the smallest number of seeds with a power of 0.8 or more; None if it is above 100,000.
        verdict: one of the four above.
    """

    first: str
    second: str
    seeds: tuple[int, ...]
    accuracies: dict[str, tuple[float, ...]]
    mean_difference: float
    deviation: float
    interval: tuple[float, float]
    margin: float
    alpha: float
    p_value: float
    power: float
    needed: int | None
    verdict: Verdict

    def sentence(self) -> str:
        """Return the verdict with the numbers that it follows from, in one line."""
        places = max(2, 1 - floor(log10(self.margin)))  # show two digits of the margin, and at least hundredths
        mean, low, high = (f"{n:+z.{places}f}".replace("-", "−") for n in (self.mean_difference, *self.interval))
        p_value = f"p {self.p_value:.3f}" if self.p_value >= 0.0005 else "p < 0.001"
        return (
            f"{self.verdict}{self._seeds_hint()}: {self.second} − {self.first} = {mean} points, "
            f"{100 - 200 * self.alpha:.4g}% interval {low} to {high}, {POSITIONS[self.verdict]} ±{self.margin:g} "
            f"({len(self.seeds)} seeds, {p_value}, power {self.power:.2f})"
        )

    def _seeds_hint(self) -> str:
        """Return in words how many seeds would be enough; empty unless the verdict is ``not enough seeds``."""
        if self.verdict != "not enough seeds":
            return ""
        if self.needed is None:
            return f" (needs more than {MOST_SEEDS:,})"
        if self.needed > len(self.seeds):
            return f" (needs about {self.needed:,})"
        return f" ({self.needed:,} would mostly do if there were no difference)"


def compare(
    first: str,
    second: str,
    accuracies: Mapping[str, Sequence[float]],
    seeds: Sequence[int],
    margin: float,
    alpha: float = 0.05,
    commonest: float | None = None,
) -> Equivalence:
    """Test whether two backends reach the same accuracy, to within a margin that was declared beforehand.

    Args:
        first: one backend's name.
        second: the other's.
        accuracies: for each backend and each seed, the test accuracy in percent. Other backends are ignored.
        seeds: two different seeds or more.
        margin: the smallest difference that matters, in percentage points, above 0.
        alpha: the significance level of each one-sided test, between 0 and 0.5.
        commonest: the share of the most frequent class among the test images, in percent. A run that is not above it
            has learnt nothing; if None, this is not checked.

    Raises:
        TrainingError: if the accuracies do not fit the seeds or are no percentages, or margin or alpha is out of range.
        MissingExtraError: if SciPy is not installed.
    """
    seeds = tuple(seeds)
    paired = {name: tuple(map(float, accuracies[name])) for name in (first, second) if name in accuracies}
    complaints = {
        f"{second}: cannot be compared with itself; name two backends": first == second,
        f"seeds: a comparison needs at least 2 that are all different, got {', '.join(map(str, seeds)) or 'none'}": (
            len(set(seeds)) < max(2, len(seeds))
        ),
        f"margin: must be above 0 and finite, in points, got {margin}": not 0 < margin < inf,
        f"alpha: must be between 0 and 0.5, got {alpha}": not 0 < alpha < 0.5,
        **{f"accuracies: none of {name}; train it too": name not in paired for name in (first, second)},
    }
    for name, values in paired.items():
        complaint = f"accuracies: {len(values)} of {name} for {len(seeds)} seeds; give one for each"
        complaints[complaint] = len(values) != len(seeds)
        for seed, value in zip(seeds, values, strict=False):
            complaint = f"accuracies: {value} of {name}, seed {seed}, is no percentage; expected 0 to 100"
            complaints[complaint] = not 0 <= value <= 100
    refuse(TrainingError, complaints)
    differences = [b - a for a, b in zip(paired[first], paired[second], strict=True)]
    mean, deviation, freedom = fmean(differences), stdev(differences), len(seeds) - 1
    special, error = _scipy("special"), deviation / sqrt(len(seeds))
    half = float(special.stdtrit(freedom, 1 - alpha)) * error
    low, high = mean - half, mean + half
    distance = margin - abs(mean)  # to the nearer end of ±margin, whose test has the larger p-value
    t = distance / error if error else distance and inf * distance
    return Equivalence(
        first=first,
        second=second,
        seeds=seeds,
        accuracies=paired,
        mean_difference=mean,
        deviation=deviation,
        interval=(low, high),
        margin=margin,
        alpha=alpha,
        p_value=float(special.stdtr(freedom, -t)),
        power=tost_power(0.0, error, freedom, margin, alpha),
        needed=seeds_needed(deviation, margin, alpha),
        verdict=_verdict(low, high, margin, learnt=commonest is None or min(map(min, paired.values())) > commonest),
    )


def _verdict(low: float, high: float, margin: float, *, learnt: bool) -> Verdict:
    """Return the verdict for the interval ``low`` to ``high``. ``learnt``: whether every run was better than chance."""
    if -margin < low and high < margin:
        return "equivalent" if learnt else "nothing learnt"
    return "different" if low > margin or high < -margin else "not enough seeds"


def tost_power(difference: float, error: float, freedom: int, margin: float, alpha: float) -> float:
    """Return the probability that both one-sided t-tests reject, which makes the verdict ``equivalent``.

    The result is exact: for a given standard deviation, it is the probability of a normal interval. It is integrated
    over the deviation's chi distribution, as far as both tests can reject (Phillips 1990; equal to a difference of two
    of Owen's Q functions, 1965). The usual approximation by the non-central t is wrong for large deviations.

    Args:
        difference: the true mean difference.
        error: the true standard error of the mean difference, in the unit of ``margin``.
        freedom: the degrees of freedom of the estimated standard error.
        margin: the smallest difference that matters.
        alpha: the significance level of each test.
    """
    if not error:
        return float(abs(difference) < margin)
    special = _scipy("special")
    below, above = (-margin - difference) / error, (margin - difference) / error
    critical = float(special.stdtrit(freedom, 1 - alpha)) / sqrt(freedom)  # of chi = s · √freedom
    start, end = (float(np.sqrt(special.chdtri(freedom, tail))) for tail in (1 - TAIL, TAIL))
    end = min(end, (above - below) / 2 / critical)
    if end <= start:
        return 0.0

    def integrand(chi: Any) -> Any:
        log_norm = (freedom / 2 - 1) * log(2) + special.gammaln(freedom / 2)
        density = np.exp((freedom - 1) * np.log(chi) - chi**2 / 2 - log_norm)
        return density * (special.ndtr(above - critical * chi) - special.ndtr(below + critical * chi))

    return float(min(1.0, _scipy("integrate").fixed_quad(integrand, start, end, n=NODES)[0]))


def seeds_needed(deviation: float, margin: float, alpha: float) -> int | None:
    """Return the smallest number of seeds that gives ``GOOD_POWER`` without a difference; None above ``MOST_SEEDS``.

    ``deviation`` is the true standard deviation of the paired differences, in the unit of ``margin``.
    """

    def enough(seeds: int) -> bool:
        return tost_power(0.0, deviation / sqrt(seeds), seeds - 1, margin, alpha) >= GOOD_POWER

    seeds = bisect_left(range(MOST_SEEDS + 1), True, lo=2, key=enough)
    return seeds if seeds <= MOST_SEEDS else None


def _scipy(module: str) -> Any:
    """Import and return a module of SciPy; raise MissingExtraError if SciPy is not installed."""
    return optional(f"scipy.{module}", "accuracies are compared by SciPy")
