"""k channels side by side make the stream's value."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_classifier.detection.fusion import Fusion
from stream_classifier.detection.montage import groups

NAMES = ["AF3", "F7", "F3", "FC5", "T7", "P7", "O1", "O2", "P8", "T8", "FC6", "left", "right"]
P = st.one_of(st.just(np.nan), st.floats(0, 1, width=32))
CASES = st.lists(st.tuples(st.sampled_from(NAMES), P), min_size=1, max_size=14)


def agree(fusion, p):
    """What one window says."""
    [value] = fusion.agree(p[None])
    return value


def by_hand(labels, p, k):
    """The rule as it is told, one group after another."""
    best = None
    for group in groups(labels, at_least=k):
        known = sorted((float(p[i]) for i in group if np.isfinite(p[i])), reverse=True)
        if known:
            value = known[min(k, len(known)) - 1]
            best = value if best is None else max(best, value)
    return best


@given(CASES, st.integers(1, 6))
def test_it_is_the_highest_value_that_k_neighbours_reach(case, k):
    labels, p = [name for name, _ in case], np.float32([value for _, value in case])
    assert agree(Fusion(labels, channels_needed=k), p) == by_hand(labels, p, k)


@given(CASES)
def test_one_channel_is_enough_where_one_is_needed(case):
    labels, p = [name for name, _ in case], np.float32([value for _, value in case])
    known = p[np.isfinite(p)]
    value = agree(Fusion(labels, channels_needed=1), p)
    assert value == (float(known.max()) if known.size else None)


@given(CASES, st.integers(1, 5))
def test_more_channels_needed_never_make_it_higher(case, k):
    labels = [f"EEG{i}" for i in range(len(case))]
    p = np.float32([value for _, value in case])
    fewer = agree(Fusion(labels, channels_needed=k), p)
    more = agree(Fusion(labels, channels_needed=k + 1), p)
    assert (fewer is None) == (more is None)
    assert fewer is None or more <= fewer


@given(CASES, st.integers(1, 4), st.integers(0, 13), st.floats(0, 1, width=32))
def test_a_channel_that_rises_never_lowers_the_stream(case, k, which, value):
    labels, p = [name for name, _ in case], np.float32([value for _, value in case])
    i = which % len(labels)
    before = agree(Fusion(labels, channels_needed=k), p)
    risen = p.copy()
    risen[i] = np.float32(max(p[i], value))
    if np.isfinite(p[i]):
        assert agree(Fusion(labels, channels_needed=k), risen) >= before


def test_two_that_agree_must_be_side_by_side():
    fusion = Fusion(["F7", "T7", "F8", "T8"], channels_needed=2)
    assert agree(fusion, np.float32([0.9, 0.1, 0.9, 0.1])) == pytest.approx(0.1)
    assert agree(fusion, np.float32([0.9, 0.8, 0.1, 0.1])) == pytest.approx(0.8)


def test_labels_that_tell_nothing_make_all_channels_neighbours():
    fusion = Fusion(["1", "2", "3"], channels_needed=2)
    assert agree(fusion, np.float32([0.9, 0.1, 0.7])) == pytest.approx(0.7)


def test_where_fewer_are_known_than_must_agree_all_of_them_must():
    fusion = Fusion(["1", "2", "3"], channels_needed=3)
    assert agree(fusion, np.float32([np.nan, 0.9, 0.8])) == pytest.approx(0.8)
    assert agree(fusion, np.float32([np.nan, 0.9, np.nan])) == pytest.approx(0.9)


def test_nothing_known_is_none_and_not_zero():
    assert agree(Fusion(["1", "2"], channels_needed=1), np.float32([np.nan, np.nan])) is None


def test_each_window_is_judged_by_itself():
    fusion = Fusion(["1", "2", "3"], channels_needed=2)
    nan = np.nan
    windows = np.float32([[0.9, 0.1, 0.7], [nan, nan, nan], [0.2, nan, nan]])
    assert fusion.agree(windows) == [agree(fusion, window) for window in windows]
