"""The detector with a bundle for heads: gate, gain and mains, however the stream comes."""

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream_classifier.bundle import AlarmSpec
from stream_classifier.detection.detector import Detector, DetectorSettings
from stream_classifier.engines.reference import ReferenceEngine
from stream_classifier.errors import ShapeError
from stream_classifier.signals import AlertEvent, Calibrated, Chunk, Prediction, StreamSpec

RULE = AlarmSpec(
    raise_threshold=0.3, clear_threshold=0.2, smoothing_s=0.2, persistence_s=0, refractory_s=1.0
)
LABELS = ("F7", "T7", "P7")


def detector(head, *, n_channels=3, rate_hz=178.0, rule=RULE, hop=40, **more):
    spec = StreamSpec("bed 3", "amp-1", rate_hz, LABELS[:n_channels])
    return Detector(
        bundle=head,
        spec=spec,
        engine=ReferenceEngine(head, hop_samples=hop),
        settings=DetectorSettings(rule=rule, **more),
    )


def signal(seconds, *, n_channels=3, rms_uv=15.0, rate_hz=178.0, seed=7, artefact_uv=0.0):
    """A head at rest, on an amplifier's offset; or with an artefact in its last channel."""
    rng = np.random.default_rng(seed)
    n = int(seconds * rate_hz)
    spectrum = np.fft.rfft(rng.normal(size=(n, n_channels)), axis=0)
    hz = np.fft.rfftfreq(n, 1 / rate_hz)[:, None]
    x = np.fft.irfft(spectrum / np.maximum(hz, 2.0), n=n, axis=0)
    x *= rms_uv / x.std()
    x[int(0.4 * n) : int(0.42 * n), -1] += artefact_uv
    return (x + 4100).astype(np.float32)


def feed(d, samples, *, first=0, cuts=()):
    out = []
    for part in np.split(samples, sorted(c % len(samples) for c in cuts)):
        out += d.feed(Chunk(samples=part, first_index=first, origin_s=100.0))
        first += len(part)
    return out


def plain(out):
    return [
        dataclasses.replace(item, probabilities=item.probabilities.tobytes(),
                            smoothed=item.smoothed.tobytes())
        if isinstance(item, Prediction) else item
        for item in out
    ]  # fmt: skip


def same(mine, theirs):
    assert len(mine) == len(theirs)
    for a, b in zip(plain(mine), plain(theirs), strict=True):
        assert type(a) is type(b)
        assert dataclasses.asdict(a) == dataclasses.asdict(b)


@given(
    st.lists(st.integers(0, 10**6), max_size=25),
    st.sampled_from([128.0, 178.0]),
    st.integers(1, 3),
)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cutting_the_stream_changes_no_bit_not_even_while_gains_are_measured(
    head, cuts, rate_hz, n_channels
):
    samples = signal(13, n_channels=n_channels, rate_hz=rate_hz, artefact_uv=3000)
    whole = feed(detector(head, n_channels=n_channels, rate_hz=rate_hz), samples)
    cut = feed(detector(head, n_channels=n_channels, rate_hz=rate_hz), samples, cuts=cuts)
    assert any(isinstance(item, Calibrated) for item in whole)
    same(whole, cut)


def test_gains_are_measured_once_told_once_and_frozen(head):
    d = detector(head)
    assert d.gains == (1.0, 1.0, 1.0)
    assert d.calibrating
    out = feed(d, signal(14))
    told = [item for item in out if isinstance(item, Calibrated)]
    assert len(told) == 1
    assert told[0].gains == d.gains
    assert not d.calibrating
    assert (told[0].end_index + 1) % 178 == 0
    assert told[0].at_s == pytest.approx(100 + told[0].end_index / 178)
    frozen = d.gains
    assert all(1.5 < gain < 6 for gain in frozen)  # 15 µV to 40 µV, less what the filters take
    feed(d, signal(20, rms_uv=150.0), first=14 * 178)
    assert d.gains == frozen


def test_predictions_say_whether_the_gains_are_still_being_measured(head):
    out = feed(detector(head), signal(14))
    cal = next(i for i, item in enumerate(out) if isinstance(item, Calibrated))
    assert all(p.calibrating for p in out[:cal] if isinstance(p, Prediction))
    assert not any(p.calibrating for p in out[cal:] if isinstance(p, Prediction))


def test_alarms_are_live_while_gains_are_measured(head, real_signal):
    d = detector(head, n_channels=1)
    out = feed(d, real_signal[: 178 * 8, None].astype(np.float32))
    assert any(isinstance(item, AlertEvent) for item in out)
    assert d.calibrating
    assert d.n_windows_calibrating == d.n_windows


def test_signal_in_which_an_alert_is_on_is_no_baseline(head, real_signal):
    x = real_signal[: 178 * 8, None].astype(np.float32)
    never = dataclasses.replace(RULE, persistence_s=3600.0)
    calm, alarmed = detector(head, n_channels=1, rule=never), detector(head, n_channels=1)
    n_on = sum(p.state == "alert" for p in feed(alarmed, x) if isinstance(p, Prediction))
    feed(calm, x)
    assert n_on > 5
    assert alarmed.calibration_progress < calm.calibration_progress


def test_a_gap_resets_the_filters_and_not_the_baseline(head):
    d = detector(head)
    feed(d, signal(6.5))
    gathered = d.calibration_progress
    assert 0.4 < gathered < 1
    out = feed(d, signal(1.4), first=20 * 178)
    assert {r for p in out if isinstance(p, Prediction) for r in p.reasons} == {"settling"}
    assert d.calibration_progress == gathered
    assert any(isinstance(x, Calibrated) for x in feed(d, signal(9.0, seed=8), first=22 * 178))


def test_a_gain_that_was_measured_before_is_used_from_the_first_sample(head):
    d = detector(head, gains=(2.0, 3.0, 4.0))
    assert d.gains == (2.0, 3.0, 4.0)
    assert not d.calibrating
    out = feed(d, signal(12))
    assert not any(isinstance(item, Calibrated) for item in out)
    assert d.n_windows_calibrating == 0


def test_the_network_sees_the_signal_times_the_gain(head):
    x = signal(4, n_channels=1, rms_uv=8.0)
    x[:] = x - 4100
    quiet = feed(detector(head, n_channels=1, gains=(5.0,)), x)
    loud = feed(detector(head, n_channels=1, gains=(1.0,)), 5 * x)
    for a, b in zip(quiet, loud, strict=True):
        if isinstance(a, Prediction):
            assert a.probabilities == pytest.approx(b.probabilities, abs=1e-3, nan_ok=True)


def test_without_calibration_and_without_a_gain_it_is_one(head, bonn):
    for d in (detector(head, calibrate=False), detector(bonn, gains=(2.0, 2.0, 2.0))):
        assert not d.calibrating
        assert not any(isinstance(x, Calibrated) for x in feed(d, signal(10)))
        assert d.gains == (1.0, 1.0, 1.0)


def test_no_window_of_two_gains_is_decided_on(head):
    out = feed(detector(head, hop=8), signal(14))
    (told,) = (item for item in out if isinstance(item, Calibrated))
    after = [
        p for p in out
        if isinstance(p, Prediction) and told.end_index < p.end_index <= told.end_index + 119
    ]  # fmt: skip
    assert after
    assert all(set(p.reasons) == {"hold-off"} for p in after)


def test_a_dead_channel_keeps_calibrating_alone(head):
    x = signal(12)
    x[:, 2] = 4100
    d = detector(head)
    (told,) = (item for item in feed(d, x) if isinstance(item, Calibrated))
    assert told.gains[2] is None
    assert d.gains[2] == 1.0
    assert not d.calibrating
    again = [x for x in feed(d, signal(12, seed=9), first=12 * 178) if isinstance(x, Calibrated)]
    assert again[-1].gains[:2] == told.gains[:2]
    assert again[-1].gains[2] is not None


def test_the_notch_of_the_other_mains_is_left_out(head):
    t = np.arange(178 * 4) / 178
    hum = (4100 + 30 * np.sin(2 * np.pi * 60 * t))[:, None].astype(np.float32)
    eeg = signal(4, n_channels=1)
    seen = {}
    for mains_hz in (50.0, 60.0):
        d = detector(head, n_channels=1, gains=(1.0,), mains_hz=mains_hz)
        feed(d, eeg + hum - 4100)
        seen[mains_hz] = d._filtered.read(range(400, 700)).std()
        feeds = [f.mains_hz for f in head.filters if f.mains_hz in (None, mains_hz)]
        assert feeds == [None, None, mains_hz]
    assert seen[60.0] < seen[50.0]


def test_every_channel_s_quality_is_told(head):
    x = signal(8)
    x[:, 0] = 4100
    d = detector(head)
    assert d.quality == ()
    out = [p for p in feed(d, x) if isinstance(p, Prediction)]
    assert out[-1].quality == ("poor", "good", "good")
    assert [q.label for q in d.quality] == list(LABELS)
    assert (d.quality[0].state, d.quality[0].reasons[0]) == ("poor", "flat")
    assert d.quality[0].flat_share == 1.0
    assert d.quality[1].rms_uv == pytest.approx(15, rel=0.7)


def test_two_neighbours_must_agree_where_two_are_needed(head, real_signal):
    x = signal(12)
    x[:, 0] += real_signal[: len(x)].astype(np.float32)
    alone = detector(head, rule=dataclasses.replace(RULE, channels_needed=2), calibrate=False)
    any_one = detector(head, rule=RULE, calibrate=False)
    assert any(isinstance(item, AlertEvent) for item in feed(any_one, x))
    agreed = [p.p for p in feed(alone, x) if isinstance(p, Prediction) and p.p is not None]
    free = [p.p for p in feed(detector(head, calibrate=False), x)
            if isinstance(p, Prediction) and p.p is not None]  # fmt: skip
    assert max(agreed) < max(free)


def test_gains_of_another_number_of_channels_are_refused(head):
    with pytest.raises(ShapeError, match="3"):
        detector(head, gains=(1.0, 2.0))
