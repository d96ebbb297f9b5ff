"""Rung 10's statistics: two one-sided t-tests on accuracies that are paired by seed."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import cache
from math import floor, inf, log, log10, sqrt
from statistics import fmean, stdev
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from resnet_xf.errors import TrainingError
from resnet_xf.support.optional import optional

Verdict = Literal["equivalent", "different", "not enough seeds", "nothing learnt"]

GOOD_POWER = 0.8
"""The power that ``needed`` seeds give."""

MOST_SEEDS = 100_000
"""Where the search for that number ends."""

LIES: dict[Verdict, str] = {
    "equivalent": "within",
    "different": "beyond",
    "not enough seeds": "not within",
    "nothing learnt": "within",
}
"""Where the interval lies, by verdict."""

NODES, TAIL = 200, 1e-12
"""Of the power's integral: Gauss and Legendre's points, and how much of either end of its range is left out."""


class Equivalence(msgspec.Struct, frozen=True, kw_only=True):
    """Whether two backends reach the same accuracy, from runs that are paired by seed.

    The verdict is on the margin alone, and can be read off the interval:

    - ``equivalent``: the interval lies within ±margin. So both one-sided tests reject at ``alpha`` (Schuirmann 1987),
      and the true difference is less than the margin, even where the interval leaves out 0.
    - ``different``: the interval lies wholly beyond ±margin, on either side.
    - ``not enough seeds``: it holds one of the margin's ends, and more seeds will tell on which side the truth is.
    - ``nothing learnt``: it lies within ±margin, but a run answers no better than by always naming the commonest class,
      in which all networks are equivalent.

    An interval that leaves out 0 is no ``different`` by itself: a true difference within the margin, which was declared
    not to matter, would then be called one as often as not. This way a difference within the margin is called
    ``different``, and one beyond it ``equivalent``, with a probability of ``alpha`` at most (the three-sided test of
    Goeman, Solari and Stijnen 2010), and a smaller margin never makes a better verdict.

    Attributes:
        first, second: the backends' names.
        seeds: of the runs, in order.
        accuracies: of each backend for each seed, in percent.
        mean_difference: the mean of ``second`` − ``first``, in points (percent of the test images).
        deviation: the sample standard deviation of those differences, in points.
        interval: low and high end of the mean difference's interval of 1 − 2 · ``alpha``, by Student's t.
        margin: the difference, in points, from which on accuracies are not the same.
        alpha: the level of each one-sided test.
        p_value: the larger of the two tests'.
        power: the probability of ``equivalent`` for so many seeds, if there is no difference and ``deviation`` is the
            true one; see :func:`tost_power`.
        needed: the smallest number of seeds for which that is at least 0.8; None if beyond 100,000.
        verdict: see above.
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
        """The verdict and its grounds, in a line."""
        places = max(2, 1 - floor(log10(self.margin)))  # two digits of the margin, and hundredths at least
        mean, low, high = (f"{n:+z.{places}f}".replace("-", "−") for n in (self.mean_difference, *self.interval))
        p_value = f"p {self.p_value:.3f}" if self.p_value >= 0.0005 else "p < 0.001"
        return (
            f"{self.verdict}{self._wish()}: {self.second} − {self.first} = {mean} points, "
            f"{100 - 200 * self.alpha:.4g}% interval {low} to {high}, {LIES[self.verdict]} ±{self.margin:g} "
            f"({len(self.seeds)} seeds, {p_value}, power {self.power:.2f})"
        )

    def _wish(self) -> str:
        """How many seeds would do, where there are not enough."""
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
    """Whether two backends reach the same accuracy, to within a margin declared beforehand.

    Args:
        first: a backend's name.
        second: the other's.
        accuracies: by backend, for each seed, in percent; others than the two are passed over.
        seeds: at least two.
        margin: in points (percent of the test images), above 0.
        alpha: the level of each one-sided test, between 0 and 0.5.
        commonest: the share of the test images' commonest class, in percent, which a run that has learnt beats; if
            None, that is not asked.

    Raises:
        TrainingError: if accuracies do not fit the seeds, or one is no percentage; or margin or alpha is out of range.
        MissingExtraError: if SciPy is not installed.
    """
    seeds = tuple(seeds)
    taken = {name: tuple(map(float, accuracies[name])) for name in (first, second) if name in accuracies}
    wrong = {
        f"{second}: cannot be compared with itself; name two backends": first == second,
        f"seeds: a comparison needs at least 2 that are all different, got {', '.join(map(str, seeds)) or 'none'}": (
            len(set(seeds)) < max(2, len(seeds))
        ),
        f"margin: must be above 0 and finite, in points, got {margin}": not 0 < margin < inf,
        f"alpha: must be between 0 and 0.5, got {alpha}": not 0 < alpha < 0.5,
        **{f"accuracies: none of {name}; train it too": name not in taken for name in (first, second)},
        **{
            f"accuracies: {len(numbers)} of {name} for {len(seeds)} seeds; give one for each": len(numbers)
            != len(seeds)
            for name, numbers in taken.items()
        },
        **{
            f"accuracies: {number} of {name}, seed {seed}, is no percentage; expected 0 to 100": not 0 <= number <= 100
            for name, numbers in taken.items()
            for seed, number in zip(seeds, numbers, strict=False)
        },
    }
    for complaint, holds in wrong.items():
        if holds:
            raise TrainingError(complaint)
    differences = [b - a for a, b in zip(taken[first], taken[second], strict=True)]
    mean, deviation, freedom = fmean(differences), stdev(differences), len(seeds) - 1
    special, error = _special(), deviation / sqrt(len(seeds))
    half = float(special.stdtrit(freedom, 1 - alpha)) * error
    low, high = mean - half, mean + half
    nearest = margin - abs(mean)  # the larger p-value is that of the margin's nearer end
    t = nearest / error if error else nearest and inf * nearest
    return Equivalence(
        first=first,
        second=second,
        seeds=seeds,
        accuracies=taken,
        mean_difference=mean,
        deviation=deviation,
        interval=(low, high),
        margin=margin,
        alpha=alpha,
        p_value=float(special.stdtr(freedom, -t)),
        power=tost_power(0.0, error, freedom, margin, alpha),
        needed=seeds_needed(deviation, margin, alpha),
        verdict=_verdict(low, high, margin, learnt=commonest is None or min(map(min, taken.values())) > commonest),
    )


def _verdict(low: float, high: float, margin: float, *, learnt: bool) -> Verdict:
    if -margin < low and high < margin:
        return "equivalent" if learnt else "nothing learnt"
    return "different" if low > margin or high < -margin else "not enough seeds"


def tost_power(difference: float, error: float, freedom: int, margin: float, alpha: float) -> float:
    """The probability that two one-sided t-tests both reject.

    Exact, and not by the approximation of the non-central t, which counts both tests' failures where s is large: given
    the standard deviation, the probability is a normal one, and it is integrated over the deviation's chi distribution
    up to where no mean can pass (Phillips 1990; the same as a difference of two of Owen's Q functions, 1965).

    Args:
        difference: the true one.
        error: the true standard error of the estimated one, in the same units as ``margin``.
        freedom: the degrees of freedom of the estimated error.
        margin: of equivalence, on both sides of 0.
        alpha: the level of each test.
    """
    if not error:
        return float(abs(difference) < margin)
    special = _special()
    below, above = (-margin - difference) / error, (margin - difference) / error
    critical = float(special.stdtrit(freedom, 1 - alpha)) / sqrt(freedom)  # of chi = s · √freedom
    # Where all of the distribution but its tails lies; and no further than both tests can pass.
    start, end = (float(np.sqrt(special.chdtri(freedom, tail))) for tail in (1 - TAIL, TAIL))
    end = min(end, (above - below) / 2 / critical)
    if end <= start:
        return 0.0
    nodes, parts = _nodes()
    chi = start + (end - start) * (nodes + 1) / 2
    density = np.exp(
        (freedom - 1) * np.log(chi) - chi**2 / 2 - (freedom / 2 - 1) * log(2) - special.gammaln(freedom / 2)
    )
    both = special.ndtr(above - critical * chi) - special.ndtr(below + critical * chi)
    return float(min(1.0, (parts * density * both).sum() * (end - start) / 2))


def seeds_needed(deviation: float, margin: float, alpha: float) -> int | None:
    """The smallest number of seeds that gives ``GOOD_POWER`` if there is no difference; None beyond ``MOST_SEEDS``.

    ``deviation`` is the true one of paired differences, in the same units as ``margin``.
    """

    def enough(seeds: int) -> bool:
        return tost_power(0.0, deviation / sqrt(seeds), seeds - 1, margin, alpha) >= GOOD_POWER

    found = bisect_left(range(MOST_SEEDS + 1), True, lo=2, key=enough)
    return found if found <= MOST_SEEDS else None


@cache
def _nodes() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gauss and Legendre's points in −1…1, and what each counts."""
    nodes, parts = _special().roots_legendre(NODES)
    return nodes, parts


def _special() -> Any:
    """SciPy's special functions, imported when they are needed."""
    return optional("scipy.special", "accuracies are compared by SciPy")
