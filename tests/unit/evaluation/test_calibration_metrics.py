"""Calibration figures are those worked out by hand."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_classifier.evaluation.calibration import N_BINS, calibration_metrics, reliability

# Four decisions: 0.8 said twice and right once, 0.5 said twice and right both times.
P = np.array([[0.8, 0.1, 0.1], [0.8, 0.2, 0.0], [0.5, 0.3, 0.2], [0.1, 0.5, 0.4]])
TRUTH = np.array([0, 1, 0, 1])


def test_the_expected_calibration_error_of_a_toy():
    figures = calibration_metrics(P, TRUTH)
    assert figures.ece == pytest.approx((2 * abs(0.8 - 0.5) + 2 * abs(0.5 - 1.0)) / 4)
    # p(seizure): 0.8 twice (one is), 0.5 once (is), 0.1 once (is not).
    assert figures.ece_seizure == pytest.approx((2 * 0.3 + 0.5 + 0.1) / 4)


def test_the_brier_scores_of_a_toy():
    figures = calibration_metrics(P, TRUTH)
    by_hand = [0.04 + 0.01 + 0.01, 0.64 + 0.64, 0.25 + 0.09 + 0.04, 0.01 + 0.25 + 0.16]
    assert figures.brier == pytest.approx(np.mean(by_hand))
    assert figures.brier_seizure == pytest.approx(np.mean([0.04, 0.64, 0.25, 0.01]))


def test_the_bins_add_up_to_the_error():
    figures = calibration_metrics(P, TRUTH)
    assert figures.bins.counts.sum() == figures.bins_seizure.counts.sum() == 4
    assert figures.bins.error == pytest.approx(figures.ece)
    assert figures.bins_seizure.error == pytest.approx(figures.ece_seizure)


def test_a_bin_holds_its_upper_edge_and_the_first_one_nought():
    said = np.float32([0.0, 1 / 15, 1 / 15 + 1e-3, 0.8, 1.0]).astype(float)
    bins = reliability(said, np.ones(5, bool))
    assert np.flatnonzero(bins.counts).tolist() == [0, 1, 11, 14]
    assert bins.counts[0] == 2
    assert np.isnan(bins.said[5])


def test_who_is_as_often_right_as_he_says_has_no_error():
    p = np.tile([0.75, 0.25, 0.0], (4, 1))
    figures = calibration_metrics(p, np.array([0, 0, 0, 1]))
    assert figures.ece == pytest.approx(0)
    assert figures.ece_seizure == pytest.approx(0)


@given(st.integers(0, 2**32))
def test_intervals_hold_their_figures_and_json_holds_no_nan(seed):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([0.5, 0.5, 0.5], size=120).astype(np.float32)
    truth = np.array([rng.choice(3, p=row / row.sum()) for row in p.astype(float)])
    figures = calibration_metrics(p, truth, np.repeat(np.arange(24).astype(str), 5))
    assert set(figures.intervals) == {"ece", "brier", "ece_seizure", "brier_seizure"}
    for name in ("brier", "brier_seizure"):  # an error of bins is biased upwards in every draw
        low, high = figures.intervals[name]
        assert low <= getattr(figures, name) <= high
    assert len(json.loads(json.dumps(figures.as_json(), allow_nan=False))["bins"]["so"]) == N_BINS


def test_nothing_to_compare_is_an_error():
    with pytest.raises(ValueError, match=r"n above 0, got \(0, 3\)"):
        calibration_metrics(np.zeros((0, 3)), np.zeros(0, int))
