"""Any rate comes out at 178 Hz, on time, unaliased, and the same however it is cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_classifier.detection.resampler import Resampler

RATES = [128.0, 173.61, 178.0, 200.0, 250.0, 256.0, 500.0, 511.98, 512.0, 1000.0, 2048.0]


def resample(samples, *, in_hz, first=0, cuts=()):
    resampler = Resampler(in_hz=in_hz, out_hz=178.0, n_channels=samples.shape[1])
    resampler.restart(first)
    first_out = resampler.next_index
    out = [
        resampler.feed(part) for part in np.split(samples, sorted(c % len(samples) for c in cuts))
    ]
    return first_out, np.concatenate(out)


@given(
    st.sampled_from(RATES),
    st.integers(0, 10**8),
    st.lists(st.integers(0, 10**6), max_size=20),
    st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_cutting_the_stream_changes_no_bit(in_hz, first, cuts, n_channels):
    samples = np.random.default_rng(3).normal(size=(700, n_channels)).astype(np.float32)
    whole_first, whole = resample(samples, in_hz=in_hz, first=first)
    cut_first, cut = resample(samples, in_hz=in_hz, first=first, cuts=cuts)
    assert whole_first == cut_first
    assert whole.tobytes() == cut.tobytes()


@pytest.mark.parametrize("in_hz", RATES)
@pytest.mark.parametrize("first", [0, 1, 12_345_678])
def test_a_sine_comes_out_as_the_same_sine_at_the_same_time(in_hz, first):
    hz = 11.0
    t_in = (first + np.arange(int(4 * in_hz))) / in_hz
    first_out, out = resample(
        np.sin(2 * np.pi * hz * t_in)[:, None].astype(np.float32), in_hz=in_hz, first=first
    )
    t_out = (first_out + np.arange(len(out))) / 178.0
    assert len(out) > 3.7 * 178
    np.testing.assert_allclose(out[:, 0], np.sin(2 * np.pi * hz * t_out), atol=4e-3)


@pytest.mark.parametrize("in_hz", [250.0, 256.0, 512.0, 1000.0])
def test_what_lies_above_the_new_nyquist_is_removed(in_hz):
    t = np.arange(int(4 * in_hz)) / in_hz
    _, out = resample(np.sin(2 * np.pi * 105 * t)[:, None].astype(np.float32), in_hz=in_hz)
    assert np.sqrt((out**2).mean()) < 2e-3  # -51 dB of the sine's 0.707


def test_the_model_s_own_rate_passes_untouched_and_at_once():
    samples = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    resampler = Resampler(in_hz=178.0, out_hz=178.0, n_channels=2)
    resampler.restart(7)
    assert resampler.feed(samples).tobytes() == samples.tobytes()
    assert resampler.delay_s == 0
    assert resampler.next_index == 57


@pytest.mark.parametrize("in_hz", [128.0, 250.0, 512.0])
def test_an_output_needs_no_more_future_than_the_stated_delay(in_hz):
    resampler = Resampler(in_hz=in_hz, out_hz=178.0, n_channels=1)
    resampler.restart(0)
    for i in range(int(in_hz)):
        n_out = len(resampler.feed(np.zeros((1, 1), np.float32)))
        if n_out:
            newest_out_s = (resampler.next_index - 1) / 178.0
            assert i / in_hz - newest_out_s <= resampler.delay_s + 1e-9
    due = int((int(in_hz) / in_hz - resampler.delay_s) * 178.0)
    assert resampler.next_index >= due


def test_one_bad_sample_spoils_only_what_its_kernel_covers():
    samples = np.ones((1000, 1), np.float32)
    samples[500] = np.nan
    _, out = resample(samples, in_hz=250.0)
    bad = np.flatnonzero(~np.isfinite(out[:, 0]))
    assert 0 < len(bad) <= 2 * 12 + 2


def test_a_restart_forgets_the_run_before():
    resampler = Resampler(in_hz=250.0, out_hz=178.0, n_channels=1)
    resampler.restart(0)
    resampler.feed(np.full((100, 1), 1e6, np.float32))
    resampler.restart(1000)
    out = resampler.feed(np.zeros((100, 1), np.float32))
    assert len(out)
    assert not out.any()


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_rate_is_refused(rate):
    with pytest.raises(ValueError, match="finite and above 0"):
        Resampler(in_hz=rate, out_hz=178.0, n_channels=1)


@given(st.sampled_from(RATES), st.integers(0, 10**8), st.integers(0, 400))
def test_it_says_how_much_input_an_output_needs(in_hz, first, later):
    resampler = Resampler(in_hz=in_hz, out_hz=178.0, n_channels=1)
    resampler.restart(first)
    wanted = resampler.next_index + later
    n_needed = resampler.needs(wanted) - first
    samples = np.zeros((n_needed, 1), np.float32)
    resampler.feed(samples[:-1])
    assert resampler.next_index <= wanted
    resampler.feed(samples[-1:])
    assert resampler.next_index > wanted
