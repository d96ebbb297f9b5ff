"""The axes and paths of a report's charts."""

from math import inf, nan

import pytest

from helpers.reports import failing
from resnet_xf.ladder.report.charts import layer_errors
from resnet_xf.ladder.report.panel import MARGIN, dots, line, linear, logarithmic


def labels(axis) -> list[str]:
    assert [tick.place for tick in axis.ticks] == sorted(tick.place for tick in axis.ticks)
    assert all(0 <= tick.place <= 1 for tick in axis.ticks)
    return [tick.label for tick in axis.ticks]


@pytest.mark.parametrize(
    "values, wanted",
    [
        ([1, 40], ["0", "10", "20", "30", "40"]),
        ([-0.02, 0.02], ["−0.02", "−0.01", "0.00", "0.01", "0.02"]),
        ([0.5, 0.5, inf, nan], ["0.48", "0.49", "0.50", "0.51", "0.52"]),
        ([], ["−0.04", "−0.02", "0.00", "0.02", "0.04"]),
    ],
)
def test_linear_axes_are_labelled_at_round_numbers(values, wanted) -> None:
    axis = linear(values)
    assert labels(axis) == wanted
    assert axis.share(axis.low) == 0
    assert labels(linear([1, 3], least_step=1)) == ["1", "2", "3"]
    assert axis.share(axis.high) == axis.share(inf) == axis.share(1e9) == 1


def test_logarithmic_axes_have_places_for_zero_and_infinity() -> None:
    assert labels(logarithmic([1e-3, 1e-1])) == ["10⁻³", "10⁻²", "10⁻¹"]
    axis = logarithmic([0, 2e-16, 3e-13, inf])
    assert labels(axis) == ["0", "10⁻¹⁶", "10⁻¹⁵", "10⁻¹⁴", "10⁻¹³", "10⁻¹²", "∞"]
    assert (axis.low, axis.high) == (-17 - MARGIN, -11 + MARGIN)
    assert [axis.share(value) for value in (0, 1e-16, nan)] == [axis.ticks[n].place for n in (0, 1, -1)]
    assert labels(logarithmic([])) == ["10⁰", "10¹"]
    shares = logarithmic([0.0, 0.004], named={1.0: "bound", 100.0: "100×"}, ceiling=100.0)
    assert labels(shares) == ["0", "10⁻³", "10⁻²", "10⁻¹", "bound", "10¹", "100×"]


def test_paths_leave_gaps_where_there_is_no_value() -> None:
    x, y = linear([0, 10]), linear([0, 10])
    assert line(x, y, [(0, 0.0), (5, 5.0), (7, nan), (8, None), (10, 10.0)]) == (
        "M45.5 286.4h.01L500.0 150.0M954.5 13.6h.01"
    )
    assert dots(x, y, [(0, None), (5, 5.0), (5, nan)]) == "M500.0 150.0h.01M500.0 0.0h.01"


def test_an_infinite_inherited_error_is_drawn() -> None:
    layers = failing().layers
    assert any(layer.inherited == inf for layer in layers)
    drawn = next(layer_errors(layers)).series
    path = next(series.path for series in drawn if series.label.startswith("inherited"))
    assert path.count("M") + path.count("L") == len(layers)
