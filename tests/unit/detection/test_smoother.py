"""Smoothing averages what is known and says nothing when too little is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_classifier.detection.smoother import Smoother


def smoother(**changes):
    settings = {"smoothing_samples": 40, "hop_samples": 10}
    return Smoother(**{**settings, **changes})


def feed(s, values, *, start=0, hop=10):
    ends = [start + i * hop for i in range(len(values))]
    return s.add(ends, np.float32(values)[:, None])[:, 0].tolist()


def test_it_is_the_mean_of_the_windows_within_the_smoothing_time():
    out = feed(smoother(), [0.1, 0.2, 0.3, 0.4, 0.8])
    assert out[1:] == pytest.approx([0.15, 0.2, 0.25, 0.425], abs=1e-6)


def test_half_of_the_windows_must_be_known():
    out = feed(smoother(), [0.5, 0.5, np.nan, np.nan, np.nan, 0.5])
    assert np.isfinite(out).tolist() == [False, True, True, True, False, False]


def test_no_smoothing_takes_each_window_as_it_comes():
    assert feed(smoother(smoothing_samples=0), [0.25, 0.75]) == [0.25, 0.75]


def test_a_gap_ages_what_was_known():
    s = smoother()
    feed(s, [1.0, 1.0, 1.0, 1.0])
    assert np.isnan(s.add([1000], np.float32([[0.0]])).item())


@given(st.integers(1, 3), st.lists(st.integers(0, 60), max_size=8), st.integers(0, 90))
def test_cutting_the_windows_changes_no_bit(n_channels, cuts, smoothing_samples):
    rng = np.random.default_rng(4)
    values = rng.random((60, n_channels)).astype(np.float32)
    values[rng.random(values.shape) < 0.2] = np.nan
    ends = np.cumsum(rng.choice([10, 10, 10, 50], size=60))
    whole = smoother(smoothing_samples=smoothing_samples).add(ends, values)
    s = smoother(smoothing_samples=smoothing_samples)
    at = sorted(cuts)
    parts = zip(np.split(ends, at), np.split(values, at), strict=True)
    assert np.concatenate([s.add(*part) for part in parts]).tobytes() == whole.tobytes()
