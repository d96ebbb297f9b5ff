"""The settings of convolutions and poolings by name."""

import pytest

from resnet_xf.architecture.windows import pool_settings, window_settings


def test_a_number_stands_for_height_and_width() -> None:
    assert window_settings(3, 2, (1, 0), (4, 5), groups=2) == {
        "groups": 2,
        "kernel height": 3, "stride height": 2, "padding height": 1, "dilation height": 4,
        "kernel width": 3, "stride width": 2, "padding width": 0, "dilation width": 5,
    }  # fmt: skip
    assert window_settings(3, 1, 0)["dilation width"] == 1


def test_the_dilation_of_a_single_pixel_changes_nothing() -> None:
    settings = window_settings((1, 2), 1, 0, 7)
    assert "dilation height" not in settings
    assert settings["dilation width"] == 7


@pytest.mark.parametrize(
    ("padding", "counts_padding", "expected"),
    [(1, True, 1.0), ((0, 2), False, 0.0), (0, True, None), ((0, 0), True, None), (1, None, None)],
)
def test_whether_padding_counts_matters_where_there_is_some(padding, counts_padding, expected) -> None:
    settings = pool_settings(3, 2, padding, ceil=True, counts_padding=counts_padding)
    assert settings.get("counts padding") == expected
    assert settings["ceil"] == 1.0
    assert "ceil" in pool_settings(3, 2, 0, ceil=False, counts_padding=None)


def test_a_pooling_has_a_dilation_too() -> None:
    assert pool_settings(3, 2, 1, ceil=False, counts_padding=None, dilation=2)["dilation height"] == 2
