"""Smoothing averages what is known and says nothing when too little is."""

import numpy as np
import pytest

from stream_classifier.detection.smoother import Smoother


def smoother(**changes):
    settings = {"smoothing_samples": 40, "hop_samples": 10, "channel_share": 0.25}
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


@pytest.mark.parametrize(
    ("share", "expected"), [(0.01, 0.9), (0.25, 0.9), (0.5, 0.7), (0.75, 0.3), (1.0, 0.1)]
)
def test_the_stream_has_what_enough_channels_reach(share, expected):
    p = smoother(channel_share=share).agree(np.float32([0.1, 0.9, 0.3, 0.7]))
    assert p == pytest.approx(expected)


def test_silent_channels_do_not_make_it_easier_for_the_others():
    p = smoother(channel_share=0.5).agree(np.float32([np.nan, 0.9, np.nan, 0.3]))
    assert p == pytest.approx(0.3)  # two of four


def test_where_fewer_are_known_than_must_agree_all_of_them_must():
    p = smoother(channel_share=0.5).agree(np.float32([np.nan] * 6 + [0.9, 0.8]))
    assert p == pytest.approx(0.8)


def test_nothing_known_is_none_and_not_zero():
    assert smoother().agree(np.float32([np.nan, np.nan])) is None
