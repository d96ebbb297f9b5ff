import math
import subprocess
import sys
from math import log, sqrt

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from resnet_xf.errors import MissingExtraError, TrainingError
from resnet_xf.ladder.accuracy import equivalence
from resnet_xf.ladder.accuracy.equivalence import Equivalence, compare, seeds_needed, tost_power

ORDER = ("equivalent", "not enough seeds", "different")

percents = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=2, max_size=9)
hundredths = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 10_000)), min_size=2, max_size=9)
near = st.lists(st.tuples(st.integers(9_000, 9_050), st.integers(9_000, 9_050)), min_size=2, max_size=9)
margins = st.floats(1e-3, 100)
alphas = st.floats(1e-3, 0.49)


def compared(pairs, margin=0.3, alpha=0.05) -> Equivalence:
    torch, mxnet = zip(*pairs, strict=True)
    return compare("torch", "mxnet", {"torch": torch, "mxnet": mxnet}, range(len(pairs)), margin, alpha)


def differing(differences, margin=0.3, alpha=0.05) -> Equivalence:
    return compared([(50.0, 50.0 + difference) for difference in differences], margin, alpha)


@given(hundredths | near, margins, alphas)
def test_interval_and_p_value_are_those_of_scipy_s_one_sided_tests(pairs, margin: float, alpha: float) -> None:
    pairs = [(first / 100, second / 100) for first, second in pairs]
    differences = np.array([second - first for first, second in pairs])
    if differences.std() < 1e-6:
        return
    found = compared(pairs, margin, alpha)
    above = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(differences, margin, alternative="less").pvalue
    interval = stats.ttest_1samp(differences, 0).confidence_interval(1 - 2 * alpha)
    assert found.p_value == pytest.approx(max(above, below), rel=1e-9, abs=1e-14)
    assert found.interval == pytest.approx(tuple(interval), rel=1e-9, abs=1e-9)
    assert found.mean_difference == pytest.approx(differences.mean(), abs=1e-12)
    assert found.deviation == pytest.approx(differences.std(ddof=1))
    if abs(found.p_value - alpha) > 1e-9:
        assert (found.verdict == "equivalent") == (found.p_value < alpha)


def test_student_s_own_example() -> None:
    # Student 1908, hours of sleep gained by ten patients under two drugs; R's t.test prints t = 4.0621 on 9 degrees.
    first = (0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0)
    second = (1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4)
    found = compared([(50 + one, 50 + other) for one, other in zip(first, second, strict=True)], margin=2.5)
    assert found.mean_difference == pytest.approx(1.58)
    assert found.mean_difference / (found.deviation / sqrt(10)) == pytest.approx(4.0621, abs=5e-5)
    # By hand: the standard error is 1.58 / 4.0621 = 0.38896, and a table has t(0.95; 9) = 1.8331.
    assert found.interval == pytest.approx((1.58 - 1.8331 * 0.38896, 1.58 + 1.8331 * 0.38896), abs=1e-4)
    # The nearer end lies (2.5 − 1.58) / 0.38896 = 2.3653 off, between the table's t(0.975; 9) = 2.262 and t(0.99) = 2.821.
    assert 0.01 < found.p_value < 0.025
    assert found.verdict == "equivalent"


@pytest.mark.parametrize(
    "variation, subjects, power", [(0.2, 20, 0.8346802), (0.25, 28, 0.8074395), (0.3, 40, 0.8158453)]
)
def test_the_power_is_the_published_one(variation: float, subjects: int, power: float) -> None:
    # The R package PowerTOST, exact: two-period crossover, a true ratio of 0.95, limits of 0.8 and 1.25.
    error = sqrt(log(1 + variation**2)) * sqrt(2 / subjects)
    assert tost_power(log(0.95), error, subjects - 2, log(1.25), 0.05) == pytest.approx(power, abs=5e-7)


@given(st.integers(2, 300), st.floats(1e-3, 1e3), alphas, st.floats(-1.5, 1.5))
def test_the_power_is_the_integral_over_the_deviation(seeds: int, deviation: float, alpha: float, true: float) -> None:
    freedom, error, margin = seeds - 1, deviation / sqrt(seeds), 1.0
    critical = stats.t.ppf(1 - alpha, freedom)

    def passing(quantiles: np.ndarray) -> np.ndarray:
        s = error * np.sqrt(stats.chi2.ppf(quantiles, freedom) / freedom)
        low, high = -margin + critical * s - true, margin - critical * s - true
        return np.maximum(0.0, stats.norm.cdf(high / error) - stats.norm.cdf(low / error))

    end = stats.chi2.cdf(freedom * (margin / error / critical) ** 2, freedom)
    points, parts = np.polynomial.legendre.leggauss(120)
    wanted = parts @ passing(end * (points + 1) / 2) * end / 2
    assert tost_power(true, error, freedom, margin, alpha) == pytest.approx(wanted, abs=2e-4)


@pytest.mark.parametrize("seeds, deviation", [(2, 0.1), (3, 0.3), (5, 0.2), (14, 0.4), (100, 1.0), (1000, 3.0)])
def test_the_power_is_exact_to_ten_places(seeds: int, deviation: float) -> None:
    freedom, error = seeds - 1, deviation / sqrt(seeds)
    critical = stats.t.ppf(0.95, freedom)

    def density(chi: float) -> float:
        return (2 * stats.norm.cdf(0.3 / error - critical * chi / sqrt(freedom)) - 1) * stats.chi.pdf(chi, freedom)

    end = min(0.3 / error / critical * sqrt(freedom), stats.chi.isf(1e-14, freedom))
    wanted, _ = integrate.quad(density, 0, end, limit=400, epsabs=1e-13, points=[min(end, sqrt(freedom)) / 2])
    assert tost_power(0.0, error, freedom, 0.3, 0.05) == pytest.approx(wanted, abs=1e-10)


@pytest.mark.parametrize("true, seeds, deviation", [(0.3, 5, 0.15), (0.0, 5, 0.2), (0.6, 6, 0.2)])
def test_verdicts_are_as_often_wrong_and_right_as_they_say(
    true: float, seeds: int, deviation: float, monkeypatch
) -> None:
    for slow in ("seeds_needed", "tost_power"):  # they take most of the time, and no part
        monkeypatch.setattr(equivalence, slow, lambda *_: 0)
    draws = np.random.default_rng(7).normal(true, deviation, (10_000, seeds))
    verdicts = [differing(draw.tolist()).verdict for draw in draws]
    share = {verdict: verdicts.count(verdict) / len(verdicts) for verdict in ORDER}
    slack = 4 * 0.5 / sqrt(len(draws))
    power = tost_power(true, deviation / sqrt(seeds), seeds - 1, 0.3, 0.05)
    assert share["equivalent"] == pytest.approx(power, abs=slack)
    slack = 4 * sqrt(0.05 * 0.95 / len(draws))
    if true >= 0.3:
        assert share["equivalent"] < 0.05 + slack
    if true <= 0.3:
        assert share["different"] < 0.05 + slack
    else:
        assert share["different"] > 0.5
    if true == 0.3:  # where each of the two tests just keeps its level
        assert share["equivalent"] == pytest.approx(0.05, abs=slack)
        assert share["different"] == pytest.approx(0.05, abs=slack)


@given(percents, margins, alphas)
def test_swapping_the_backends_mirrors_all(pairs, margin: float, alpha: float) -> None:
    one, other = compared(pairs, margin, alpha), compared([pair[::-1] for pair in pairs], margin, alpha)
    assert other.mean_difference == -one.mean_difference
    assert other.interval == (-one.interval[1], -one.interval[0])
    for field in ("deviation", "p_value", "power", "needed", "verdict"):
        assert getattr(one, field) == getattr(other, field)


@given(percents, margins, alphas, st.sampled_from([1 / 2, 1 / 8, 1 / 64]))
def test_other_units_change_nothing(pairs, margin: float, alpha: float, unit: float) -> None:
    one = compared(pairs, margin, alpha)
    other = compared([(first * unit, second * unit) for first, second in pairs], margin * unit, alpha)
    assert other.interval == pytest.approx(tuple(unit * end for end in one.interval), abs=1e-300)
    assert (other.verdict, other.needed) == (one.verdict, one.needed)
    assert (other.p_value, other.power) == pytest.approx((one.p_value, one.power))


@given(hundredths | near, st.tuples(margins, margins), alphas)
def test_a_smaller_margin_makes_no_better_verdict(pairs, two, alpha: float) -> None:
    pairs = [(first / 100, second / 100) for first, second in pairs]
    small, large = (compared(pairs, margin, alpha) for margin in sorted(two))
    assert ORDER.index(small.verdict) >= ORDER.index(large.verdict)
    assert small.p_value >= large.p_value
    assert small.power <= large.power + 1e-9
    assert (small.needed or math.inf) >= (large.needed or math.inf)


@given(st.floats(0, 1e3), margins, alphas)
def test_the_seeds_needed_are_the_fewest(deviation: float, margin: float, alpha: float) -> None:
    def power(seeds: int) -> float:
        return tost_power(0.0, deviation / sqrt(seeds), seeds - 1, margin, alpha)

    needed = seeds_needed(deviation, margin, alpha)
    if needed is None:
        assert power(100_000) < 0.8
    else:
        assert power(needed) >= 0.8
        assert needed == 2 or power(needed - 1) < 0.8


def test_equal_differences_leave_no_doubt() -> None:
    same = compared([(90.0, 90.0), (91.0, 91.0)])
    assert same.interval == (0, 0)
    assert (same.verdict, same.p_value, same.power, same.needed) == ("equivalent", 0, 1, 2)
    off = compared([(90.0, 90.5), (91.0, 91.5)])
    assert (off.verdict, off.p_value, off.power) == ("different", 1, 1)
    edge = compared([(90.0, 90.5), (91.0, 91.5)], margin=0.5)
    assert (edge.verdict, edge.p_value) == ("not enough seeds", 0.5)


def test_the_verdict_is_on_the_margin_and_not_on_zero() -> None:
    small = differing((0.1, 0.11, 0.09))
    assert small.interval[0] > 0
    assert small.verdict == "equivalent"
    across = differing((0.2, 0.3, 0.4))
    assert across.interval[0] > 0
    assert across.verdict == "not enough seeds"
    assert differing((-1.0, -1.1, -0.9)).verdict == "different"


def test_runs_that_learnt_nothing_are_not_called_equivalent() -> None:
    chance = {"torch": (10.0, 31.0), "mxnet": (10.0, 31.0)}
    assert compare("torch", "mxnet", chance, (0, 1), 2.0).verdict == "equivalent"
    assert compare("torch", "mxnet", chance, (0, 1), 2.0, commonest=9.9).verdict == "equivalent"
    told = compare("torch", "mxnet", chance, (0, 1), 2.0, commonest=10.0)
    assert told.verdict == "nothing learnt"
    assert told.sentence().startswith("nothing learnt: mxnet − torch = +0.00 points")
    apart = {"torch": (10.0, 10.0), "mxnet": (90.0, 91.0)}
    assert compare("torch", "mxnet", apart, (0, 1), 2.0, commonest=10.0).verdict == "different"


def test_a_sentence_says_verdict_and_grounds() -> None:
    assert differing((0.1, 0.11, 0.09)).sentence() == (
        "equivalent: mxnet − torch = +0.10 points, 90% interval +0.08 to +0.12, within ±0.3 "
        "(3 seeds, p < 0.001, power 1.00)"
    )
    assert differing((-1.0, -1.1, -0.9), 0.05, 0.025).sentence() == (
        "different: mxnet − torch = −1.000 points, 95% interval −1.248 to −0.752, beyond ±0.05 "
        "(3 seeds, p 0.998, power 0.01)"
    )
    assert differing((0.1, 0.3, -0.2)).sentence() == (
        "not enough seeds (needs about 8): mxnet − torch = +0.07 points, 90% interval −0.36 to +0.49, not within ±0.3 "
        "(3 seeds, p 0.125, power 0.20)"
    )
    assert differing((9.0, -9.0), 0.01).sentence().startswith("not enough seeds (needs more than 100,000): ")
    enough = differing((0.25, 0.3, 0.35, 0.3, 0.29, 0.31))
    assert enough.sentence().startswith("not enough seeds (2 would mostly do if there were no difference): ")


def test_it_is_plain_data() -> None:
    found = differing((0.1, 0.2, 0.3))
    assert msgspec.json.decode(msgspec.json.encode(found), type=Equivalence) == found
    assert found.accuracies == {"torch": (50.0,) * 3, "mxnet": (50.1, 50.2, 50.3)}
    assert found.seeds == (0, 1, 2)


def test_what_cannot_be_compared_is_refused_in_one_line() -> None:
    good = {"torch": (90.0, 91.0), "mxnet": (90.0, 91.0), "other": ()}
    wrong = {
        "torch: cannot be compared with itself": {"second": "torch"},
        "seeds: a comparison needs at least 2 that are all different, got 0$": {"seeds": (0,)},
        "at least 2 that are all different, got none": {"seeds": ()},
        "at least 2 that are all different, got 3, 3": {"seeds": (3, 3)},
        "margin: must be above 0 and finite, in points, got 0": {"margin": 0},
        "margin: must be above 0 and finite, in points, got nan": {"margin": math.nan},
        "margin: must be above 0 and finite, in points, got inf": {"margin": math.inf},
        "alpha: must be between 0 and 0.5, got 0.5": {"alpha": 0.5},
        "accuracies: none of jax; train it too": {"first": "jax"},
        "accuracies: 2 of torch for 3 seeds; give one for each": {"seeds": (0, 1, 2)},
        "accuracies: nan of mxnet, seed 8, is no percentage": {"accuracies": good | {"mxnet": (90.0, math.nan)}},
        "accuracies: inf of torch, seed 7, is no percentage": {"accuracies": good | {"torch": (math.inf, 90.0)}},
        "accuracies: 100.5 of torch, seed 7, is no percentage": {"accuracies": good | {"torch": (100.5, 90.0)}},
    }
    arguments = {"first": "torch", "second": "mxnet", "accuracies": good, "seeds": (7, 8), "margin": 0.3}
    assert compare(**arguments).verdict == "equivalent"
    for message, change in wrong.items():
        with pytest.raises(TrainingError, match=message) as refused:
            compare(**arguments | change)
        assert "\n" not in str(refused.value)


def test_without_scipy_it_says_how_to_get_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.special", None)
    with pytest.raises(MissingExtraError, match=r"run: pip install 'resnet-xf\[report\]'$"):
        differing((0.1, 0.2))


def test_scipy_is_imported_when_it_is_needed() -> None:
    code = (
        "import sys, resnet_xf.ladder.accuracy.equivalence; assert not {'scipy', 'torch', 'mxnet'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
