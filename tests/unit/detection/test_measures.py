"""What is measured of windows, against the plain formula, and however they come."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from stream_classifier.detection.measures import Measures, WindowMeter

RNG = np.random.default_rng(3)
RAW = (RNG.normal(size=(1500, 5)).cumsum(axis=0) * 8 + 4100).astype(np.float32)
CLEAN = (RNG.normal(size=(1500, 5)).cumsum(axis=0) * 5).astype(np.float32)


def meter_of(*, hop=8, mains_hz=50.0):
    return WindowMeter(window_samples=120, hop_samples=hop, rate_hz=178.0, mains_hz=mains_hz)


def measure(raw=RAW, clean=CLEAN, *, hop=8, mains_hz=50.0):
    meter = meter_of(hop=hop, mains_hz=mains_hz)
    n = (len(raw) - 120) // hop + 1
    end = 120 + (n - 1) * hop
    return meter.measure(raw[:end], clean[:end])


def tone(hz, *, amplitude_uv=50.0, n=600):
    t = np.arange(n) / 178.0
    return (4100 + amplitude_uv * np.sin(2 * np.pi * hz * t + 0.3)).astype(np.float32)[:, None]


@pytest.mark.parametrize("hop", [1, 7, 8, 10, 20, 60, 120])
def test_each_measure_is_the_plain_formula_over_its_window(hop):
    m = measure(hop=hop)
    x = sliding_window_view(RAW.astype(float), 120, axis=0)[::hop]  # (windows, channels, 120)
    y = sliding_window_view(CLEAN.astype(float), 120, axis=0)[::hop]
    span, clean_span = np.ptp(x, axis=2), np.ptp(y, axis=2)
    change, length = np.abs(np.diff(x, axis=2)), np.abs(np.diff(y, axis=2)).sum(axis=2)
    assert m.mean_uv == pytest.approx(x.mean(axis=2))
    assert m.rms_uv == pytest.approx(x.std(axis=2))
    assert m.span_uv == pytest.approx(span)
    assert m.clean_span_uv == pytest.approx(clean_span)
    assert m.step_share == pytest.approx(change.max(axis=2) / span)
    assert m.step_crest == pytest.approx(
        change.max(axis=2) / np.sqrt(np.square(change).mean(axis=2))
    )
    assert m.traversals == pytest.approx(length / clean_span)
    middle = sliding_window_view(np.median(CLEAN.astype(float), axis=1), 120)[::hop]
    likeness = [
        [np.corrcoef(y[i, c], middle[i])[0, 1] for c in range(5)] for i in range(0, len(y), 50)
    ]
    seen = meter_of(hop=hop).likeness(CLEAN[: 120 + (len(y) - 1) * hop])
    assert seen[::50] == pytest.approx(np.array(likeness), abs=1e-6)


def test_an_offset_is_no_hum_and_hum_is_known_at_either_frequency():
    for mains_hz in (50.0, 60.0):
        both = tone(10.0, amplitude_uv=40) + tone(mains_hz, amplitude_uv=30)
        shares = measure(both, both, mains_hz=mains_hz).mains_share
        assert shares == pytest.approx(900 / 2500, abs=0.05)
        assert measure(tone(10.0), tone(10.0), mains_hz=mains_hz).mains_share.max() < 0.01


@pytest.mark.parametrize(("hz", "expected"), [(10.0, 0.031), (40.0, 0.42), (80.0, 0.97)])
def test_the_share_of_fast_signal_follows_its_frequency(hz, expected):
    assert measure(tone(hz), tone(hz)).fast_share == pytest.approx(expected, abs=0.03)


def test_hum_alone_is_not_taken_for_muscle():
    both = tone(10.0, amplitude_uv=50) + tone(50.0, amplitude_uv=50)
    assert measure(both, both).fast_share.max() < 0.12


def test_flat_and_railed_are_shares_of_the_window():
    x = tone(7.0).copy()
    x[300:400] = x[300:400].max()
    flat = measure(x, x)
    assert flat.flat_share[0] == 0
    assert flat.railed_share[0] < 0.12  # the crests of a sine
    i = (400 - 120) // 8  # the window that ends with the flat stretch
    assert flat.flat_share[i, 0] > 0.5
    clipped = np.clip(tone(2.0, amplitude_uv=300), 4000, 4200)
    assert measure(clipped, clipped).railed_share.min() > 0.4
    # Clipping of what is fast lasts a few samples at a time, and is as bad.
    fast = np.clip(tone(20.0, amplitude_uv=3000), 4000, 4200)
    assert measure(fast, fast).railed_share.min() > 0.8


def test_a_step_crosses_once_and_a_rhythm_many_times():
    step = np.where(np.arange(600) < 300, 0, 500).astype(np.float32)[:, None]
    assert measure(step, step).traversals.max() == pytest.approx(1.0)
    rhythm = measure(tone(6.0), tone(6.0))
    assert rhythm.traversals == pytest.approx(2 * 6.0 * 119 / 178, rel=0.1)
    ramp = np.arange(600, dtype=np.float32)[:, None]
    assert measure(ramp, ramp).trend_share == pytest.approx(80 / 119, abs=0.01)


def test_a_value_that_is_no_number_is_told_and_harms_no_other_window():
    raw = RAW.copy()
    raw[600, 2] = np.nan
    m, whole = measure(raw), measure()
    hit = [i for i in range(len(m.finite)) if i * 8 <= 600 < i * 8 + 120]
    assert (np.flatnonzero(~m.finite[:, 2]) == hit).all()
    assert m.finite[:, [0, 1, 3, 4]].all()
    for field in dataclasses.fields(Measures):
        values = getattr(m, field.name)
        assert np.isfinite(values).all()
        assert (
            np.delete(values, hit, axis=0) == np.delete(getattr(whole, field.name), hit, 0)
        ).all()


@given(st.integers(0, 160), st.integers(1, 40), st.sampled_from([1, 2, 5]))
@settings(max_examples=40)
def test_no_bit_depends_on_which_windows_are_measured_together(first, n, n_channels):
    raw, clean = RAW[:, :n_channels], CLEAN[:, :n_channels]
    whole = measure(raw, clean)
    n = min(n, len(whole.finite) - first)
    start, end = first * 8, first * 8 + 120 + (n - 1) * 8
    part = measure(raw[start:end], clean[start:end])
    for field in dataclasses.fields(Measures):
        mine, theirs = getattr(part, field.name), getattr(whole, field.name)[first : first + n]
        assert mine.tobytes() == np.ascontiguousarray(theirs).tobytes(), field.name
