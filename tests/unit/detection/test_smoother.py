"""Smoothing averages what is known and says nothing when too little is."""

import numpy as np
import pytest

from stream_classifier.detection.smoother import Smoother


def smoother(**changes):
    settings = {"smoothing_samples": 40, "hop_samples": 10}
    return Smoother(**{**settings, **changes})


def feed(s, values, *, start=0, hop=10):
    return [s.add(start + i * hop, np.float32([v])).item() for i, v in enumerate(values)]


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
    assert np.isnan(s.add(1000, np.float32([0.0])).item())
