"""What is left out for want of speed is counted to the window, and what follows is as it was."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_classifier.bundle import load_bundle
from stream_classifier.detection.detector import Detector, DetectorSettings
from stream_classifier.detection.windows import WindowGrid
from stream_classifier.engines import instruction_sets, make_engine
from stream_classifier.errors import ShapeError, SignalError
from stream_classifier.signals import AlertEvent, Chunk, Prediction, StreamSpec

ENGINES = ["reference", *(["native"] if instruction_sets() else [])]
try:
    import torch as _  # noqa: F401
except ModuleNotFoundError:
    pass
else:
    ENGINES.append("torch")
WINDOWED, CONTINUOUS, HEADSET = "bonn", "bonn-continuous", "headset"
BUNDLES = {name: load_bundle(name) for name in (WINDOWED, CONTINUOUS, HEADSET)}
_EEG = np.ascontiguousarray(BUNDLES[WINDOWED].selftest_windows.ravel(), dtype=np.float32)
N_SAMPLES = 3000
EEG = np.stack([np.resize(_EEG, N_SAMPLES), np.roll(np.resize(_EEG, N_SAMPLES), 500)], axis=1)


def detector(name, engine="reference", *, rate_hz=178.0):
    bundle = BUNDLES[name]
    rule = dataclasses.replace(bundle.alarm, persistence_s=0.0)
    gains = None if bundle.gain is None else (1.3, 0.8)
    return Detector(
        bundle=bundle,
        spec=StreamSpec("bed3", "amp-1", rate_hz, ("C3", "C4")),
        engine=make_engine(bundle, name=engine),
        settings=DetectorSettings(rule=rule, gains=gains),
    )


def chunk(start, stop):
    return Chunk(samples=EEG[start:stop], first_index=start, origin_s=100.0)


def play(d, parts):
    """Feed the parts, or skip them; return predictions."""
    out = []
    for start, stop, is_skipped in parts:
        if is_skipped:
            d.skip(chunk(start, stop))
        else:
            out += [item for item in d.feed(chunk(start, stop)) if isinstance(item, Prediction)]
    return out


def skipping(skips, n=N_SAMPLES):
    """Parts of the whole signal, of which some are skipped."""
    edges = sorted({0, n, *(edge for skip in skips for edge in skip)})
    return [
        (start, stop, any(a <= start < b for a, b in skips))
        for start, stop in itertools.pairwise(edges)
    ]


def starts(predictions, name):
    return [p.end_index + 1 - BUNDLES[name].window_samples for p in predictions]


SKIPS = st.lists(
    st.tuples(st.integers(0, N_SAMPLES - 400), st.integers(1, 500)), min_size=1, max_size=4
).map(lambda found: [(a, min(a + n, N_SAMPLES - 300)) for a, n in found if a < N_SAMPLES - 300])


@pytest.mark.parametrize("rate_hz", [178.0, 250.0])
@pytest.mark.parametrize("name", BUNDLES)
@given(skips=SKIPS)
@settings(max_examples=8)
def test_windows_left_out_are_counted_exactly_and_none_spans_what_was_skipped(name, rate_hz, skips):
    whole, part = detector(name, rate_hz=rate_hz), detector(name, rate_hz=rate_hz)
    play(whole, [(0, N_SAMPLES, False)])
    found = play(part, skipping(skips))
    assert part.n_windows == len(found)
    assert part.n_windows + part.n_windows_shed == whole.n_windows
    scale = BUNDLES[name].rate_hz / rate_hz
    late = part.delay_s * BUNDLES[name].rate_hz  # samples that the resampler still held back
    for first, p in zip(starts(found, name), found, strict=True):
        for start, stop in skips:
            assert first >= (stop - 1) * scale - late - 1 or p.end_index < start * scale


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", [WINDOWED, HEADSET, CONTINUOUS])
@pytest.mark.parametrize("skip", [(700, 701), (700, 1003)])
def test_filters_gains_and_windows_go_on_as_if_nothing_had_been_skipped(name, engine, skip):
    whole = {p.end_index: p for p in play(detector(name, engine), [(0, N_SAMPLES, False)])}
    part = detector(name, engine)
    found = play(part, skipping([skip]))
    behind = [p for p in found if p.end_index >= skip[1] + BUNDLES[name].window_samples - 1]
    assert len(behind) > 100
    assert set(starts(found, name)) <= set(starts(whole.values(), name))
    for p in behind:
        expected = whole[p.end_index]
        is_known = np.isfinite(expected.probabilities)  # what was skipped holds nothing off
        if BUNDLES[name].mode == "windowed":
            np.testing.assert_allclose(
                p.probabilities[is_known], expected.probabilities[is_known], atol=2e-6
            )
        assert np.isfinite(p.probabilities[is_known]).all()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", [HEADSET, CONTINUOUS])
def test_a_state_that_runs_on_begins_again_behind_what_was_skipped(name, engine):
    part = detector(name, engine)
    play(part, [(0, 700, False), (700, 1003, True)])
    behind = play(part, [(1003, 2000, False)])
    first = starts(behind, name)[0]
    assert first >= 1003
    assert first % part.engine.hop_samples == 0
    # The same filtered samples through an engine of its own.
    other = detector(name)
    filtered = other._filters.feed(other._resampler.feed(EEG[:2000]))[first:]
    engine = make_engine(BUNDLES[name], name=engine)
    handle = engine.open(2)
    expected = engine.feed({handle: other._scaler.scale(filtered * other._gains.values)})[handle]
    found = np.array([p.probabilities for p in behind])
    is_known = np.isfinite(found)
    assert is_known.any()
    np.testing.assert_allclose(found[is_known], expected[is_known], atol=2e-6)


@pytest.mark.parametrize("name", BUNDLES)
@given(cuts=st.lists(st.integers(701, 1399), max_size=12))
@settings(max_examples=5)
def test_however_skipped_samples_are_cut_nothing_changes(name, cuts):
    at_once, in_pieces = detector(name), detector(name)
    edges = sorted({700, 1400, *cuts})
    pieces = [(a, b, True) for a, b in itertools.pairwise(edges)]
    one = play(at_once, [(0, 700, False), (700, 1400, True), (1400, N_SAMPLES, False)])
    many = play(in_pieces, [(0, 700, False), *pieces, (1400, N_SAMPLES, False)])
    assert at_once.n_windows_shed == in_pieces.n_windows_shed == 102
    assert [p.end_index for p in one] == [p.end_index for p in many]
    for a, b in zip(one, many, strict=True):
        np.testing.assert_array_equal(a.probabilities, b.probabilities)


def test_a_standing_alert_is_held_over_what_is_skipped():
    bundle = BUNDLES[WINDOWED]
    rule = dataclasses.replace(bundle.alarm, raise_threshold=0.02, clear_threshold=1e-9)
    d = Detector(
        bundle=bundle,
        spec=StreamSpec("bed3", "amp-1", 178.0, ("C3", "C4")),
        engine=make_engine(bundle),
        settings=DetectorSettings(rule=dataclasses.replace(rule, persistence_s=0.0)),
    )
    before = [item for item in d.feed(chunk(0, 1500)) if isinstance(item, AlertEvent)]
    assert before
    assert before[-1].on
    d.skip(chunk(1500, 2400))
    after = [item for item in d.feed(chunk(2400, 3000)) if isinstance(item, AlertEvent)]
    assert {event.alert_id for event in (*before, *after)} == {before[0].alert_id}


def test_a_hole_in_what_is_skipped_is_a_gap():
    whole, part = detector(HEADSET), detector(HEADSET)
    play(part, [(0, 700, False), (800, 1000, True)])
    play(whole, [(0, 700, False), (800, 1000, False)])
    out = [play(d, [(1000, 2000, False)]) for d in (whole, part)]
    assert {p.end_index for p in out[1]} <= {p.end_index for p in out[0]}
    n_before_the_hole = (700 - 120) // 8 + 1
    assert part.n_windows + part.n_windows_shed == whole.n_windows
    assert whole.n_windows > n_before_the_hole


def test_what_cannot_be_fed_cannot_be_skipped():
    d = detector(WINDOWED)
    d.skip(chunk(0, 500))
    with pytest.raises(SignalError, match="go back in time"):
        d.skip(chunk(400, 600))
    with pytest.raises(ShapeError):
        d.skip(Chunk(samples=EEG[:10, :1], first_index=500))


def test_leaving_out_goes_on_with_the_grid():
    grid = WindowGrid(window_samples=120, hop_samples=8)
    grid.restart(1000)
    grid.take(3)
    assert grid.next_start == 1024
    assert [grid.leave_out(until) for until in (1000, 1024, 1025, 1032, 1057)] == [0, 0, 1, 0, 4]
    assert grid.take(1) == [range(1064, 1184)]
