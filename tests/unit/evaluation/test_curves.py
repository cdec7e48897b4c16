"""Curves are those worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_classifier.evaluation.curves import curve

SCORE = np.array([0.9, 0.8, 0.8, 0.3, 0.1])
POSITIVE = np.array([True, True, False, True, False])


def test_equal_scores_are_called_together():
    made = curve(SCORE, POSITIVE)
    assert made.thresholds.tolist() == [0.9, 0.8, 0.3, 0.1]
    assert made.recall == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert made.false_positive_rate.tolist() == [0, 0.5, 0.5, 1]
    assert made.precision == pytest.approx([1, 2 / 3, 3 / 4, 3 / 5])
    assert made.area == pytest.approx(0.5 * (1 / 3 + 2 / 3) / 2 + 0.5)
    assert made.average_precision == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3 + 1 / 3 * 3 / 4)


def test_a_threshold_between_scores_is_that_of_the_next_higher_one():
    made = curve(SCORE, POSITIVE)
    assert made.at(0.5) == pytest.approx((2 / 3, 0.5, 2 / 3))
    assert made.at(0.9) == pytest.approx((1 / 3, 0, 1))
    assert made.at(0.95) is None


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_the_area_is_the_chance_that_a_positive_scores_higher(pairs):
    score, positive = np.array([s for s, _ in pairs]), np.array([p for _, p in pairs])
    if positive.all() or not positive.any():
        with pytest.raises(ValueError, match="positives and negatives"):
            curve(score, positive)
        return
    difference = score[positive][:, None] - score[~positive][None]
    chance = (difference > 0).mean() + (difference == 0).mean() / 2
    assert curve(score, positive).area == pytest.approx(chance)
