"""What can be no EEG is refused, and the data set's own extremes are not."""

import numpy as np
import pytest

from stream_classifier.detection.measures import WindowMeter
from stream_classifier.detection.quality import Gate


def judge(window, *, limit_offset):
    meter = WindowMeter(window_samples=len(window), hop_samples=8, rate_hz=178.0, mains_hz=50.0)
    gate = Gate(meter, limit_offset=limit_offset)
    ones = np.ones(window.shape[1], np.float32)
    return gate.judge(window, window, ends=[len(window)], gains=ones).reasons(0)


RNG = np.random.default_rng(5)


def eeg(rms_uv=40.0):
    return (RNG.normal(size=(120, 1)) * rms_uv).astype(np.float32)


@pytest.mark.parametrize("rms_uv", [4.0, 40.0, 800.0])
def test_eeg_of_any_usual_size_is_usable(rms_uv):
    assert judge(eeg(rms_uv), limit_offset=True) == ("",)


@pytest.mark.parametrize("start", [0, 30, 60, 90])
def test_a_flat_stretch_is_refused_wherever_it_lies(start):
    window = eeg()
    window[start : start + 30] = 7.0
    assert judge(window, limit_offset=True) == ("flat",)


@pytest.mark.parametrize(
    ("gain", "reason"), [(1e-6, "flat"), (1e-3, "flat"), (1e3, "out of range")]
)
def test_a_wrong_unit_is_refused(gain, reason):
    assert judge(eeg() * np.float32(gain), limit_offset=True) == (reason,)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_refuses_its_channel_only(value):
    window = np.concatenate([eeg(), eeg()], axis=1)
    window[119, 1] = value
    assert judge(window, limit_offset=True) == ("", "not finite")


def test_an_offset_matters_only_without_a_high_pass():
    window = eeg() + np.float32(4100)
    assert judge(window, limit_offset=True) == ("offset",)
    assert judge(window, limit_offset=False) == ("",)
