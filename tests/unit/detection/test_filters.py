"""The bundle's filters start without ringing and do not care how the stream is cut."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import butter, sosfilt

from stream_classifier.detection.filters import CausalFilters

HIGH_PASS = butter(2, 0.5, "highpass", fs=178.0, output="sos").tolist()


def test_no_filter_is_no_change():
    samples = np.float32([[1, np.nan], [2, 3]])
    assert CausalFilters([], n_channels=2).feed(samples) is samples


@given(st.lists(st.integers(0, 399), max_size=10))
def test_cutting_the_stream_changes_no_bit(cuts):
    samples = np.random.default_rng(1).normal(4000, 50, size=(400, 2)).astype(np.float32)
    samples[100:103, 1] = np.nan
    samples[0, 0] = np.nan
    whole = CausalFilters([HIGH_PASS], n_channels=2).feed(samples)
    filters = CausalFilters([HIGH_PASS], n_channels=2)
    cut = np.concatenate([filters.feed(part) for part in np.split(samples, sorted(cuts))])
    assert whole.tobytes() == cut.tobytes()


def test_an_offset_does_not_ring_at_the_start_nor_after_a_restart():
    filters = CausalFilters([HIGH_PASS], n_channels=1)
    assert np.abs(filters.feed(np.full((50, 1), 4100, np.float32))).max() < 1e-3
    filters.restart()
    assert np.abs(filters.feed(np.full((50, 1), -900, np.float32))).max() < 1e-3


def test_a_value_that_is_not_finite_is_passed_on_and_forgotten():
    samples = np.ones((300, 1), np.float32)
    samples[50] = np.nan
    out = CausalFilters([HIGH_PASS], n_channels=1).feed(samples)
    assert np.flatnonzero(~np.isfinite(out[:, 0])).tolist() == [50]


def test_it_is_the_filter_it_says():
    samples = np.random.default_rng(2).normal(size=(200, 1)).astype(np.float32)
    samples[0] = 0  # steady state of zero
    expected = sosfilt(np.array(HIGH_PASS), samples.astype(float), axis=0)
    out = CausalFilters([HIGH_PASS], n_channels=1).feed(samples)
    np.testing.assert_allclose(out, expected, atol=1e-6)
