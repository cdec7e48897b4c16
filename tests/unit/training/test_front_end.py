"""What a model for heads hears: 0.5 to 40 Hz at the true rate, without the mains."""

import numpy as np
import pytest
from scipy.signal import butter, sosfilt

from stream_classifier.training.front_end import (
    RATE_HZ,
    SETTLE_S,
    TRUE_RATE_HZ,
    front_end,
)

PUBLISHED, HEADSET = front_end("as published"), front_end("headset")
SECONDS = 20


def tone(hz, *, rate_hz, amplitude_uv=100.0, offset_uv=0.0):
    t = np.arange(round(SECONDS * rate_hz)) / rate_hz
    return (amplitude_uv * np.sin(2 * np.pi * hz * t) + offset_uv).astype(np.float32)


def amplitude(prepared, hz):
    """Of the component at a frequency, by least squares."""
    t = np.arange(len(prepared)) / RATE_HZ
    basis = np.stack([np.cos(2 * np.pi * hz * t), np.sin(2 * np.pi * hz * t), np.ones(len(t))], 1)
    found = np.linalg.lstsq(basis, prepared.astype(float), rcond=None)[0]
    return float(np.hypot(*found[:2]))


def test_as_published_is_the_table_as_it_is():
    run = np.random.default_rng(0).normal(0, 50, 4094).astype(np.float32)
    assert (PUBLISHED.filters, PUBLISHED.gain, PUBLISHED.data_rate_hz) == ((), None, RATE_HZ)
    np.testing.assert_array_equal(PUBLISHED.prepare(run), run)


@pytest.mark.parametrize("hz", [2.0, 5.0, 10.0, 20.0])
def test_the_band_of_a_headset_passes_within_two_percent(hz):
    prepared = HEADSET.prepare(tone(hz, rate_hz=TRUE_RATE_HZ))
    assert amplitude(prepared, hz) == pytest.approx(100, rel=0.02)


def test_a_tone_keeps_its_frequency_at_the_models_rate():
    prepared = HEADSET.prepare(tone(10.0, rate_hz=TRUE_RATE_HZ))
    power = np.abs(np.fft.rfft(prepared * np.hanning(len(prepared)))) ** 2
    hz = np.fft.rfftfreq(len(prepared), 1 / RATE_HZ)
    assert hz[power.argmax()] == pytest.approx(10.0, abs=0.06)
    # Taken for 178 Hz, as the table suggests, it would be heard too high.
    assert abs(hz[power.argmax()] - 10.0 * RATE_HZ / TRUE_RATE_HZ) > 0.15


def test_an_offset_is_removed_by_30_db_and_leaves_no_step():
    prepared = HEADSET.prepare(tone(10.0, rate_hz=TRUE_RATE_HZ, offset_uv=4100.0))
    assert np.abs(prepared.mean()) < 4100 / 10 ** (30 / 20) / 10
    quiet = HEADSET.prepare(np.full(4094, 4100, np.float32))
    assert np.abs(quiet).max() < 0.1


@pytest.mark.parametrize("off_hz", [-0.3, 0.0, 0.3])
def test_hum_at_the_true_rate_is_removed_by_30_db(off_hz):
    prepared = HEADSET.prepare(tone(50.0 + off_hz, rate_hz=TRUE_RATE_HZ))
    assert amplitude(prepared, 50.0 + off_hz) < 100 / 10 ** (30 / 20)


def test_hum_taken_at_the_rate_of_the_table_would_pass_the_notch():
    """Why the recordings are resampled first: at 178 Hz the line sits at 51.26 Hz."""
    notch = next(f for f in HEADSET.filters if f.mains_hz == 50.0)
    hum = tone(50.0 * RATE_HZ / TRUE_RATE_HZ, rate_hz=RATE_HZ)
    through = sosfilt(np.array(notch.sos), hum)[500:]
    assert amplitude(through, 50.0 * RATE_HZ / TRUE_RATE_HZ) > 100 / 10 ** (20 / 20)


def test_what_a_headset_does_not_deliver_is_gone():
    prepared = HEADSET.prepare(tone(70.0, rate_hz=TRUE_RATE_HZ))
    assert amplitude(prepared, 70.0) < 100 / 10 ** (20 / 20)
    drift = HEADSET.prepare(tone(0.05, rate_hz=TRUE_RATE_HZ))
    assert np.abs(drift).max() < 100 / 10 ** (30 / 20)


def test_both_mains_have_their_notch_and_only_one_of_them_is_ever_applied():
    mains = [f.mains_hz for f in HEADSET.filters]
    assert sorted(m for m in mains if m is not None) == [50.0, 60.0]
    # 35 Hz lies within the skirt of neither: it passes as the low-pass lets it.
    low = butter(4, 40, "lowpass", fs=RATE_HZ, output="sos")
    expected = amplitude(sosfilt(low, tone(35.0, rate_hz=RATE_HZ))[500:], 35.0)
    prepared = HEADSET.prepare(tone(35.0, rate_hz=TRUE_RATE_HZ))
    assert amplitude(prepared, 35.0) == pytest.approx(expected, rel=0.06)


def test_what_the_filters_need_to_settle_is_left_out():
    run = tone(10.0, rate_hz=TRUE_RATE_HZ)
    prepared = HEADSET.prepare(run)
    settle_s = max(f.settle_s for f in HEADSET.filters)
    lost_s = SECONDS - len(prepared) / RATE_HZ
    assert settle_s <= lost_s < settle_s + 0.2  # and what the resampler loses at either end
    steady = np.abs(prepared[len(prepared) // 2 :]).max()
    assert np.abs(prepared[:178]).max() < 1.16 * steady


def test_a_run_that_is_too_short_gives_nothing():
    assert len(HEADSET.prepare(np.zeros(178, np.float32))) == 0
    assert len(HEADSET.prepare(np.zeros(10, np.float32))) == 0


@pytest.mark.parametrize(("after_s", "left"), [(SETTLE_S, 0.16), (1.4, 0.05)])
def test_a_step_is_forgotten_as_far_as_the_settling_time_says(after_s, left):
    high = HEADSET.filters[0]
    assert high.settle_s == SETTLE_S
    step = sosfilt(np.array(high.sos), np.ones(1000))
    assert np.abs(step[round(after_s * RATE_HZ) :]).max() < left
