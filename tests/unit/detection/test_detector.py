"""The whole detector: the same answers however the stream comes, and none it cannot give."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_classifier.bundle import AlarmSpec, load_bundle
from stream_classifier.detection.detector import Detector, DetectorSettings
from stream_classifier.engines.reference import ReferenceEngine
from stream_classifier.errors import ShapeError, SignalError
from stream_classifier.signals import AlertEvent, Chunk, EventType, Prediction, StreamSpec
from stream_classifier.sources.timeline import Timeline

BUNDLE = load_bundle("bonn")
EEG = np.ascontiguousarray(BUNDLE.selftest_windows.ravel(), dtype=np.float32)
# Low thresholds, so that a few seconds of signal live through whole alerts.
SETTINGS = DetectorSettings(
    rule=AlarmSpec(
        raise_threshold=0.3,
        clear_threshold=0.2,
        smoothing_s=0.2,
        persistence_s=0.0,
        refractory_s=0.1,
        channels_needed=2,
    ),
)


def detector(*, n_channels=1, rate_hz=178.0, engine=None, settings=SETTINGS):
    spec = StreamSpec(
        name="bed 3",
        source_id="amp-1",
        rate_hz=rate_hz,
        labels=tuple(f"C{i}" for i in range(n_channels)),
    )
    engine = engine or ReferenceEngine(BUNDLE, hop_samples=8)
    return Detector(bundle=BUNDLE, spec=spec, engine=engine, settings=settings)


def channels(n, n_samples=1200):
    return np.stack([np.roll(EEG[:n_samples], 173 * c) for c in range(n)], axis=1)


def feed(d, samples, *, first=0, cuts=()):
    out = []
    for part in np.split(samples, sorted(c % len(samples) for c in cuts)):
        out += d.feed(Chunk(samples=part, first_index=first, origin_s=100.0))
        first += len(part)
    return out


def plain(out):
    """Everything in a list of results, to the last bit."""
    return [
        (
            item.end_index,
            item.at_s,
            item.probabilities.tobytes(),
            item.smoothed.tobytes(),
            item.reasons,
            item.p,
            item.state,
        )
        if isinstance(item, Prediction)
        else item
        for item in out
    ]


def predictions(out):
    return [item for item in out if isinstance(item, Prediction)]


@given(
    st.lists(st.integers(0, 10**6), max_size=25),
    st.sampled_from([128.0, 178.0, 250.0, 512.0]),
    st.integers(1, 3),
    st.integers(0, 10**7),
)
@settings(max_examples=40)
def test_cutting_the_stream_changes_no_bit(cuts, rate_hz, n_channels, first):
    samples = channels(n_channels)
    whole = feed(detector(n_channels=n_channels, rate_hz=rate_hz), samples, first=first)
    cut = feed(detector(n_channels=n_channels, rate_hz=rate_hz), samples, first=first, cuts=cuts)
    assert whole
    assert plain(whole) == plain(cut)


@given(st.lists(st.integers(0, 10**6), max_size=40), st.sampled_from([177.3, 178.0, 178.5]))
@settings(max_examples=25)
def test_cutting_a_device_s_stream_changes_neither_times_nor_ids(cuts, true_hz):
    samples = np.tile(channels(1), (2, 1))
    jitter_s = np.random.default_rng(5).normal(0, 1e-4, len(samples))
    stamps = 5000.0 + np.arange(len(samples)) / true_hz + jitter_s
    stamps[900:] += 0.5  # 89 samples are missing

    def play(cuts):
        timeline, d, out = Timeline(178.0), detector(), []
        where = sorted(c % len(samples) for c in cuts)
        for part, times in zip(np.split(samples, where), np.split(stamps, where), strict=True):
            for chunk in timeline.place(part, times):
                out += d.feed(chunk)
        return out

    whole = play([])
    assert any(isinstance(item, AlertEvent) for item in whole)
    assert plain(whole) == plain(play(cuts))


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=10))
@settings(max_examples=15)
def test_sharing_the_engine_changes_no_bit(cuts):
    engine = ReferenceEngine(BUNDLE, hop_samples=8)
    mine, other = detector(n_channels=2, engine=engine), detector(engine=engine, rate_hz=250.0)
    samples = channels(2)
    together = []
    first = 0
    for part in np.split(samples, sorted(c % len(samples) for c in cuts)):
        together += mine.feed(Chunk(samples=part, first_index=first, origin_s=100.0))
        other.feed(Chunk(samples=part[:, :1] * 3, first_index=first * 2))
        first += len(part)
    assert plain(together) == plain(feed(detector(n_channels=2), samples))


def test_a_prediction_carries_the_time_of_its_window_s_last_sample():
    out = predictions(feed(detector(), channels(1), first=356))
    assert out[0].end_index == 356 + 119
    assert out[0].at_s == pytest.approx(100 + (356 + 119) / 178)
    assert np.diff([p.end_index for p in out]).tolist() == [8] * (len(out) - 1)


@pytest.mark.parametrize("first", [0, 1001])
def test_a_window_is_decided_with_its_last_sample_and_waits_for_no_other(first):
    d = detector()
    for i, sample in enumerate(channels(1, 300), start=first):
        for prediction in predictions(d.feed(Chunk(samples=sample[None], first_index=i))):
            assert prediction.end_index == i
    assert d.n_windows == (300 - 120) // 8 + 1


def test_resampling_does_not_shift_the_time():
    t = np.arange(1500) / 250.0
    slow = np.interp(t, np.arange(len(EEG)) / 178.0, EEG).astype(np.float32)[:, None]
    out = predictions(feed(detector(rate_hz=250.0), slow))
    assert out[0].end_index == pytest.approx(119 + 13, abs=2)  # the kernel's half width later
    assert out[0].at_s == pytest.approx(100 + out[0].end_index / 178)


@pytest.mark.parametrize("rate_hz", [178.0, 250.0])
def test_no_window_spans_a_gap(rate_hz):
    samples = channels(1)
    d = detector(rate_hz=rate_hz)
    before = feed(d, samples[:500])
    after = feed(d, samples[500:], first=500 + 7)
    alone = feed(detector(rate_hz=rate_hz), samples[500:], first=507)
    gap_at = int(500 / rate_hz * 178)
    assert max(p.end_index for p in predictions(before)) <= gap_at
    assert min(p.end_index for p in predictions(after)) >= 507 / rate_hz * 178 + 119
    for mine, theirs in zip(predictions(after), predictions(alone), strict=True):
        assert mine.end_index == theirs.end_index
        assert mine.probabilities.tobytes() == theirs.probabilities.tobytes()


def test_a_channel_that_cannot_be_classified_is_left_out_and_named():
    samples = channels(3)
    samples[:, 1] = 5.0
    samples[600, 2] = np.nan
    out = predictions(feed(detector(n_channels=3), samples))
    assert all(p.reasons[1] == "flat" for p in out)
    assert {p.reasons[2] for p in out} == {"", "not finite"}
    assert all(np.isnan(p.probabilities[1]).all() for p in out)
    assert all(np.isfinite(p.probabilities[0]).all() for p in out)
    assert all(p.p is None or np.isfinite(p.p) for p in out)


def test_no_usable_channel_is_nothing_known_and_never_ok():
    d = detector()
    out = predictions(feed(d, np.zeros((600, 1), np.float32)))
    assert {p.p for p in out} == {None}
    assert {p.state for p in out} == {None}
    assert d.n_windows_refused == d.n_windows == len(out)


def test_alerts_follow_their_prediction_and_carry_one_id():
    out = feed(detector(n_channels=2), channels(2, 4000))
    events = [item for item in out if isinstance(item, AlertEvent)]
    assert [e.type for e in events].count(EventType.RAISED) >= 1
    for i, item in enumerate(out):
        if isinstance(item, AlertEvent):
            latest = next(p for p in reversed(out[:i]) if isinstance(p, Prediction))
            assert item.at_s == latest.at_s
            assert set(item.channels) <= {"C0", "C1"}


def test_the_same_samples_give_the_same_ids():
    samples = channels(1, 4000)
    first = [e.alert_id for e in feed(detector(), samples) if isinstance(e, AlertEvent)]
    again = [e.alert_id for e in feed(detector(), samples) if isinstance(e, AlertEvent)]
    assert first == again != []


def test_a_chunk_longer_than_the_ring_buffer_loses_nothing():
    samples = np.tile(channels(1, 2000), (12, 1))
    out = predictions(feed(detector(), samples))
    assert len(out) == (len(samples) - 120) // 8 + 1


def test_samples_that_go_back_in_time_are_an_error():
    d = detector()
    feed(d, channels(1)[:100])
    with pytest.raises(SignalError, match="expected index 100 or later, found 99"):
        feed(d, channels(1)[:100], first=99)


@pytest.mark.parametrize("shape", [(10,), (10, 2)])
def test_other_channels_are_refused(shape):
    with pytest.raises(ShapeError):
        detector().feed(Chunk(samples=np.zeros(shape, np.float32), first_index=0))
