from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_classifier.sources.timeline import HOLD_S, Timeline

RATE_HZ = 178.0
START_S = 4711.0


def regular(seconds, rate_hz=RATE_HZ, start_s=START_S):
    return start_s + np.arange(round(seconds * rate_hz)) / rate_hz


def stamped_on_arrival(arrivals, n, rate_hz=RATE_HZ):
    """One stamp a chunk, for its last sample; the others deduced, as liblsl does it."""
    return (np.asarray(arrivals)[:, None] - np.arange(n)[::-1] / rate_hz).ravel()


def place(timeline, stamps, cuts=(), **keywords):
    """Feed numbered samples, and return chunks, sample numbers and indices."""
    rows = np.arange(len(stamps), dtype=np.float32)[:, None]
    chunks = []
    for start, stop in zip([0, *cuts], [*cuts, len(stamps)], strict=True):
        chunks += timeline.place(rows[start:stop], np.asarray(stamps)[start:stop], **keywords)
    numbers = np.concatenate([chunk.samples[:, 0] for chunk in chunks] or [[]]).astype(int)
    indices = np.concatenate([np.asarray(chunk.indices) for chunk in chunks] or [[]]).astype(int)
    return chunks, numbers, indices


def time_of_last(chunk, rate_hz=RATE_HZ):
    return chunk.origin_s + chunk.indices[-1] / rate_hz


def test_regular_samples_are_numbered_from_zero_at_once():
    timeline = Timeline(RATE_HZ)
    stamps = regular(2)
    for n, stamp in enumerate(stamps):
        (chunk,) = timeline.place(np.zeros((1, 1), np.float32), stamps[n : n + 1])
        assert chunk.indices == range(n, n + 1)
        assert time_of_last(chunk) == pytest.approx(stamp, abs=1e-6)
    assert (timeline.n_samples, timeline.n_gaps, timeline.n_held) == (len(stamps), 0, 0)


@pytest.mark.parametrize("n_lost", [1, 2, 7, 178, 1780])
def test_a_loss_leaves_exactly_as_many_indices_out(n_lost):
    timeline = Timeline(RATE_HZ)
    stamps = np.delete(regular(60), range(900, 900 + n_lost))
    _, numbers, indices = place(timeline, stamps)
    assert numbers.tolist() == list(range(len(stamps)))
    assert indices.tolist() == [*range(900), *range(900 + n_lost, 60 * 178)]
    assert (timeline.n_gaps, timeline.n_missing) == (1, n_lost)


@given(
    lost=st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 400)), max_size=8),
    offset=st.floats(0.01, 1e7),
)
def test_any_losses_are_counted_exactly(lost, offset):
    kept = np.ones(5000, dtype=bool)
    for first, n in lost:
        kept[first : first + n] = False
    timeline = Timeline(RATE_HZ)
    _, _, indices = place(timeline, (offset + np.arange(5000) / RATE_HZ)[kept])
    assert indices.tolist() == np.flatnonzero(kept).tolist()
    assert timeline.n_missing == 5000 - kept.sum()
    assert timeline.n_gaps == np.count_nonzero(np.diff(kept.astype(int)) == -1)


def test_a_sample_after_a_loss_waits_no_longer_than_the_hold():
    timeline = Timeline(RATE_HZ)
    stamps = np.delete(regular(5), range(700, 717))
    for n in range(len(stamps)):
        timeline.place(np.zeros((1, 1), np.float32), stamps[n : n + 1])
        assert timeline.n_held <= math.ceil(HOLD_S * RATE_HZ)
    assert timeline.n_held == 0


@pytest.mark.parametrize(("true_hz", "nominal_hz"), [(177, 178), (179, 178), (256, 250)])
@pytest.mark.parametrize("n_chunk", [1, 8, 32])
def test_a_wrong_nominal_rate_is_measured_and_makes_no_gap(true_hz, nominal_hz, n_chunk):
    timeline = Timeline(nominal_hz)
    ends = START_S + np.arange(1, 10 * true_hz // n_chunk) * n_chunk / true_hz
    chunks, _, indices = place(timeline, stamped_on_arrival(ends, n_chunk, nominal_hz))
    assert indices.tolist() == list(range(len(indices)))
    assert timeline.n_gaps == 0
    assert timeline.measured_hz == pytest.approx(true_hz, rel=1e-3)
    late_s = time_of_last(chunks[-1], nominal_hz) - ends[-1]
    assert abs(late_s) < 1 / nominal_hz


@pytest.mark.parametrize("true_hz", [177, 179])
def test_losses_are_exact_at_a_wrong_nominal_rate(true_hz):
    timeline = Timeline(RATE_HZ)
    stamps = regular(20, true_hz)
    place(timeline, np.delete(stamps, [true_hz * 2, *range(true_hz * 5, true_hz * 15)]))
    assert (timeline.n_gaps, timeline.n_missing) == (2, 1 + true_hz * 10)


@given(seed=st.integers(0, 2**32), n_chunk=st.sampled_from([4, 8, 20]), late_ms=st.floats(0, 60))
def test_chunks_that_arrive_late_are_no_gap(seed, n_chunk, late_ms):
    timeline = Timeline(RATE_HZ)
    n_chunks = round(20 * RATE_HZ / n_chunk)
    sent = START_S + np.arange(1, n_chunks + 1) * n_chunk / RATE_HZ
    late = np.random.default_rng(seed).uniform(0, late_ms / 1e3, n_chunks)
    # In order, and never at the very same moment.
    arrived = np.maximum.accumulate(sent + late) + np.arange(n_chunks) * 1e-7
    chunks, _, _ = place(timeline, stamped_on_arrival(arrived, n_chunk))
    assert (timeline.n_gaps, timeline.n_duplicates) == (0, 0)
    assert timeline.measured_hz == pytest.approx(RATE_HZ, rel=5e-3)
    assert abs(time_of_last(chunks[-1]) - sent[-1]) < 0.1 + late_ms / 1e3


def test_packets_of_a_radio_link_make_no_gap_but_a_lost_packet_does():
    timeline = Timeline(250.0)
    sent = START_S + np.arange(1, 500) * 10 / 250.0
    # ten samples pushed one by one, each stamped as it is pushed
    stamps = (sent[:, None] + np.arange(10) * 2e-5).ravel()
    _, numbers, _ = place(timeline, stamps)
    assert (timeline.n_gaps, timeline.n_held) == (0, 0)
    assert len(numbers) == len(stamps)

    timeline = Timeline(250.0)
    place(timeline, np.delete(stamps, range(3000, 3010)))
    assert (timeline.n_gaps, timeline.n_missing) == (1, 10)


@pytest.mark.parametrize("stall_s", [0.05, 0.3, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("n_chunk", [1, 8])
def test_a_stall_that_catches_up_is_no_gap(stall_s, n_chunk):
    timeline = Timeline(RATE_HZ)
    sent = START_S + np.arange(1, round(60 * RATE_HZ / n_chunk)) * n_chunk / RATE_HZ
    stalled = (sent > START_S + 10) & (sent < START_S + 10 + stall_s)
    burst = START_S + 10 + stall_s + np.cumsum(stalled) * 1e-6
    arrived = np.where(stalled, burst, sent)
    arrived = np.maximum.accumulate(arrived) + np.arange(len(sent)) * 1e-7
    chunks, numbers, indices = place(timeline, stamped_on_arrival(arrived, n_chunk))
    assert indices.tolist() == numbers.tolist() == list(range(len(sent) * n_chunk))
    assert timeline.n_gaps == timeline.n_held == 0
    assert time_of_last(chunks[-1]) == pytest.approx(sent[-1], abs=0.02)
    assert timeline.measured_hz == pytest.approx(RATE_HZ, rel=2e-3)


def test_what_a_stall_lost_for_good_is_a_gap():
    """Three seconds of silence, of which the device had kept the last one."""
    timeline = Timeline(RATE_HZ)
    stamps = regular(30)
    kept = (stamps < START_S + 10) | (stamps >= START_S + 12)
    backlog = kept & (stamps >= START_S + 12) & (stamps < START_S + 13)
    arrived = np.where(backlog, START_S + 13 + np.cumsum(backlog) * 2e-5, stamps)[kept]
    place(timeline, arrived)
    assert timeline.n_gaps == 1
    assert timeline.n_missing == pytest.approx(2 * RATE_HZ, abs=2)


def test_repeated_chunks_are_dropped_and_counted():
    clean = regular(10)
    doubled = np.insert(clean, 500, clean[480:500])  # a chunk sent twice
    doubled = np.insert(doubled, 1000, doubled[999])  # one sample sent twice
    timeline = Timeline(RATE_HZ)
    _, numbers, indices = place(timeline, doubled)
    assert indices.tolist() == list(range(len(clean)))
    assert doubled[numbers].tolist() == clean.tolist()
    assert (timeline.n_duplicates, timeline.n_gaps) == (21, 0)


def test_a_repeated_chunk_is_known_though_its_stamps_were_added_up_anew():
    clean = regular(4)
    again = clean[100] + np.cumsum(np.full(32, 1 / RATE_HZ)) - 1 / RATE_HZ
    timeline = Timeline(RATE_HZ)
    place(timeline, np.insert(clean, 132, again))
    assert (timeline.n_duplicates, timeline.n_samples) == (32, len(clean))


@pytest.mark.parametrize("wild", [math.nan, math.inf, -math.inf, 0.0, -5.0, 4.1e9, 1.0])
def test_one_wild_stamp_moves_nothing(wild):
    stamps = regular(10)
    stamps[900] = wild
    timeline = Timeline(RATE_HZ)
    chunks, _, indices = place(timeline, stamps)
    assert indices.tolist() == list(range(len(stamps)))
    assert timeline.n_gaps == 0
    assert time_of_last(chunks[-1]) == pytest.approx(stamps[-1], abs=1e-4)


def test_samples_before_the_first_usable_stamp_are_dropped_and_counted():
    timeline = Timeline(RATE_HZ)
    _, numbers, indices = place(timeline, [math.nan, 0.0, *regular(1)])
    assert (numbers[0], indices[0], timeline.n_bad_stamps) == (2, 0, 2)


def test_a_stream_without_any_usable_stamp_yields_nothing():
    timeline = Timeline(RATE_HZ)
    assert place(timeline, [math.nan] * 500)[0] == []
    assert timeline.n_bad_stamps == 500


@pytest.mark.parametrize("jump_s", [-3600.0, -2.003, 4000.0, 1e9])
def test_a_device_whose_clock_is_set_leaves_one_index_out(jump_s):
    stamps = regular(20)
    stamps[1000:] += jump_s
    timeline = Timeline(RATE_HZ)
    chunks, _, indices = place(timeline, stamps[stamps > 0])
    assert indices.tolist() == [*range(1000), *range(1001, len(indices) + 1)]
    assert (timeline.n_clock_steps, timeline.n_gaps, timeline.n_missing) == (1, 1, 1)
    assert time_of_last(chunks[-1]) == pytest.approx(stamps[-1], abs=1e-3)


def test_a_small_step_back_is_no_gap():
    stamps = regular(20)
    stamps[1000:] -= 0.0501
    timeline = Timeline(RATE_HZ)
    chunks, _, indices = place(timeline, stamps)
    assert indices.tolist() == list(range(len(stamps)))
    assert time_of_last(chunks[-1]) == pytest.approx(stamps[-1], abs=1e-3)


def test_another_session_starts_as_far_ahead_as_time_has_passed():
    timeline = Timeline(RATE_HZ)
    place(timeline, regular(5))
    timeline.resume()
    chunks, _, indices = place(timeline, regular(1, start_s=START_S + 60))
    assert indices[0] == 60 * 178
    assert timeline.n_missing == 55 * 178
    assert time_of_last(chunks[-1]) == pytest.approx(START_S + 61 - 1 / RATE_HZ, abs=1e-6)


def test_another_session_may_be_on_another_clock():
    timeline = Timeline(RATE_HZ)
    place(timeline, regular(5, start_s=9000.0), correction_s=100.0)
    timeline.resume()
    chunks, _, indices = place(timeline, regular(1, start_s=3.0), correction_s=9107.0)
    assert indices[0] == 10 * 178
    assert time_of_last(chunks[-1]) == pytest.approx(9111.0 - 1 / RATE_HZ, abs=1e-6)


@pytest.mark.parametrize("away_s", [-50.0, 0.0, 1 / RATE_HZ])
def test_another_session_never_joins_the_old_one(away_s):
    timeline = Timeline(RATE_HZ)
    stamps = regular(5)
    place(timeline, stamps)
    timeline.resume()
    _, _, indices = place(timeline, regular(1, start_s=stamps[-1] + away_s))
    assert indices[0] == len(stamps) + 1
    assert (timeline.n_gaps, timeline.n_missing) == (1, 1)


def test_what_was_held_when_the_session_ended_lies_in_the_hole():
    timeline = Timeline(RATE_HZ)
    stamps = regular(5)
    place(timeline, np.delete(stamps, range(800, 810))[:810])
    assert timeline.n_held == 10
    timeline.resume()
    assert timeline.n_held == 0
    _, numbers, indices = place(timeline, regular(1, start_s=START_S + 10))
    assert (numbers[0], indices[0], timeline.n_missing) == (0, 1780, 980)


def test_the_clock_correction_moves_times_and_never_makes_a_gap():
    timeline = Timeline(RATE_HZ)
    place(timeline, regular(5), correction_s=0.0)
    chunks, _, _ = place(timeline, regular(5, start_s=START_S + 5), correction_s=0.4)
    assert timeline.n_gaps == 0
    assert time_of_last(chunks[-1]) == pytest.approx(START_S + 10.4 - 1 / RATE_HZ, abs=1e-6)


def test_times_of_samples_do_not_run_backwards_where_stamps_do():
    rng = np.random.default_rng(7)
    sent = START_S + np.arange(1, 600) * 12 / RATE_HZ
    arrived = np.maximum.accumulate(sent + rng.uniform(0, 0.05, len(sent)))
    arrived += np.arange(len(sent)) * 1e-7
    stamps = stamped_on_arrival(arrived, 12)
    assert np.diff(stamps).min() < -0.02
    chunks, _, _ = place(Timeline(RATE_HZ), stamps, cuts=range(12, len(stamps), 12))
    times = np.array([time_of_last(chunk) for chunk in chunks])
    passed_s = np.diff([chunk.indices[-1] for chunk in chunks]) / RATE_HZ
    after = times[1:] > START_S + 5
    assert np.diff(times).min() > -1 / RATE_HZ
    assert np.abs(np.diff(times) - passed_s)[after].max() < 0.003


def messy(seed):
    """Everything at once: jitter, stalls, losses, repeats, wild stamps, a clock that is set."""
    rng = np.random.default_rng(seed)
    n_chunk = int(rng.integers(1, 40))
    ends = START_S + np.arange(1, 2000 // n_chunk + 2) * n_chunk / (
        RATE_HZ * rng.uniform(0.98, 1.02)
    )
    ends = ends + rng.uniform(0, rng.choice([0.0, 1e-3, 0.05]), len(ends))
    stamps = stamped_on_arrival(ends, n_chunk)
    for _ in range(rng.integers(0, 4)):
        at, n = int(rng.integers(1, 1500)), int(rng.integers(1, 300))
        kind = rng.integers(0, 5)
        if kind == 0:
            stamps = np.delete(stamps, slice(at, at + n))
        elif kind == 1:
            stamps = np.insert(stamps, at, stamps[max(0, at - n) : at])
        elif kind == 2:
            stamps[at : at + n] = (
                stamps[at : at + n].max(initial=0.0) + np.arange(len(stamps[at : at + n])) * 1e-5
            )
        elif kind == 3:
            stamps[at] = rng.choice([math.nan, math.inf, -1.0, 4.1e9])
        else:
            stamps[at:] += rng.choice([-100.0, -0.2, 7200.0])
    return stamps


@given(seed=st.integers(0, 2**32), cuts=st.sets(st.integers(0, 1600), max_size=40))
def test_however_the_stream_is_cut_the_placement_is_the_same(seed, cuts):
    stamps = messy(seed)
    whole, cut = Timeline(RATE_HZ), Timeline(RATE_HZ)
    chunks, numbers, indices = place(whole, stamps)
    cuts = sorted(cut for cut in cuts if cut < len(stamps))
    chunks_cut, numbers_cut, indices_cut = place(cut, stamps, cuts)
    assert numbers_cut.tolist() == numbers.tolist()
    assert indices_cut.tolist() == indices.tolist()
    for counter in ("samples", "gaps", "missing", "duplicates", "bad_stamps", "clock_steps"):
        assert getattr(cut, f"n_{counter}") == getattr(whole, f"n_{counter}")
    assert cut.measured_hz == whole.measured_hz
    assert [c.origin_s for c in chunks[-1:]] == [c.origin_s for c in chunks_cut[-1:]]


@given(seed=st.integers(0, 2**32))
def test_every_sample_is_placed_once_in_order_dropped_and_counted_or_held(seed):
    stamps = messy(seed)
    timeline = Timeline(RATE_HZ)
    _, numbers, indices = place(timeline, stamps)
    assert np.all(np.diff(numbers) > 0)
    assert np.all(np.diff(indices) > 0)
    assert timeline.n_samples == len(numbers)
    assert len(stamps) == len(numbers) + timeline.n_duplicates + timeline.n_held
    assert timeline.n_missing == (indices[-1] + 1 - len(indices) if len(indices) else 0)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=300))
def test_no_stamps_however_absurd_break_it(stamps):
    timeline = Timeline(RATE_HZ)
    chunks, _, indices = place(timeline, np.array(stamps, dtype=np.float64))
    assert np.all(np.diff(indices) > 0)
    assert all(math.isfinite(chunk.origin_s) for chunk in chunks)
