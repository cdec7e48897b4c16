"""Bounds are those of published tables, and recordings are what is drawn."""

import numpy as np
import pytest

from stream_classifier.evaluation.intervals import (
    draw_sums,
    quantile_bounds,
    rate_bounds,
    share_bounds,
    sum_by_recording,
)


@pytest.mark.parametrize(
    ("n_right", "n", "low", "high"),
    [(0, 10, 0.0, 0.3085), (10, 10, 0.6915, 1.0), (5, 10, 0.1871, 0.8129), (60, 60, 0.9404, 1.0),
     (1, 20, 0.0013, 0.2487), (100, 100, 0.9638, 1.0)],
)  # fmt: skip
def test_a_share_has_the_bounds_of_clopper_and_pearson(n_right, n, low, high):
    assert share_bounds(n_right, n) == pytest.approx((low, high), abs=5e-5)


def test_a_share_of_nothing_may_be_anything():
    assert share_bounds(0, 0) == (0, 1)


@pytest.mark.parametrize(
    ("n_events", "low", "high"),
    # The table of 95% limits in Garwood 1936.
    [(0, 0, 3.689), (1, 0.0253, 5.572), (2, 0.242, 7.225), (5, 1.623, 11.668), (10, 4.795, 18.390)],
)
def test_a_rate_has_the_bounds_of_garwood(n_events, low, high):
    assert rate_bounds(n_events, 1.0) == pytest.approx((low, high), abs=1e-3)
    assert rate_bounds(n_events, 2.0) == pytest.approx((low / 2, high / 2), abs=1e-3)


def test_bounds_of_the_impossible_are_an_error():
    with pytest.raises(ValueError, match="0 to 3 successes, got 4"):
        share_bounds(4, 3)
    with pytest.raises(ValueError, match="above 0"):
        rate_bounds(1, 0.0)


def test_a_recording_is_drawn_whole_or_not_at_all():
    values = np.array([[1.0, 10], [1, 10], [1, 20], [1, 20], [1, 20]])
    sums = sum_by_recording(values, np.array(["b", "b", "a", "a", "a"]))
    assert sums.tolist() == [[3, 60], [2, 20]]
    drawn = draw_sums(sums, seed=1, n_draws=500)
    assert set(map(tuple, drawn.tolist())) == {(6, 120), (5, 80), (4, 40)}


def test_a_draw_without_a_value_is_left_out():
    assert quantile_bounds(np.array([np.nan, 1.0, 1.0])) == (1, 1)
