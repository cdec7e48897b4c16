"""The ring buffer keeps every sample under its own index, or says that it is gone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_classifier.detection.buffer import RingBuffer
from stream_classifier.errors import SamplesExpiredError, ShapeError


@given(st.integers(1, 50), st.lists(st.integers(0, 120), max_size=12), st.integers(0, 10**9))
def test_what_is_held_is_what_was_appended_however_it_was_cut(capacity, cuts, first):
    buffer = RingBuffer(capacity=capacity, n_channels=2)
    buffer.restart(first)
    total = sum(cuts)
    samples = np.arange(2 * total, dtype=np.float32).reshape(total, 2)
    start = 0
    for n in cuts:
        buffer.append(samples[start : start + n])
        start += n
    held = buffer.held
    assert len(held) == min(total, capacity)
    assert held.stop == first + total
    np.testing.assert_array_equal(buffer.read(held), samples[total - len(held) :])


def test_reading_overwritten_samples_is_an_error():
    buffer = RingBuffer(capacity=4, n_channels=1)
    buffer.append(np.zeros((6, 1), np.float32))
    with pytest.raises(SamplesExpiredError, match=r"1\.\.3.*holds 2\.\.6"):
        buffer.read(range(1, 3))


def test_reading_samples_that_have_not_arrived_is_an_error():
    buffer = RingBuffer(capacity=4, n_channels=1)
    with pytest.raises(SamplesExpiredError):
        buffer.read(range(1))


def test_nothing_from_before_a_restart_can_be_read():
    buffer = RingBuffer(capacity=8, n_channels=1)
    buffer.append(np.ones((8, 1), np.float32))
    buffer.restart(20)
    buffer.append(np.zeros((2, 1), np.float32))
    with pytest.raises(SamplesExpiredError):
        buffer.read(range(19, 22))
    assert buffer.read(range(20, 22)).tolist() == [[0], [0]]


def test_what_was_read_does_not_change_later():
    buffer = RingBuffer(capacity=2, n_channels=1)
    buffer.append(np.ones((2, 1), np.float32))
    read = buffer.read(range(2))
    buffer.append(np.zeros((2, 1), np.float32))
    assert read.tolist() == [[1], [1]]


def test_other_channels_are_refused():
    with pytest.raises(ShapeError, match=r"\(n, 2\)"):
        RingBuffer(capacity=2, n_channels=2).append(np.zeros((3, 1), np.float32))


@pytest.mark.parametrize(("capacity", "n_channels"), [(0, 1), (1, 0)])
def test_an_empty_buffer_is_refused(capacity, n_channels):
    with pytest.raises(ValueError, match="at least 1"):
        RingBuffer(capacity=capacity, n_channels=n_channels)
