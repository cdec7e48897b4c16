"""Timelines use every recording once, the real detector plays them, and every alarm counts."""

from dataclasses import replace

import numpy as np
import pytest

from stream_classifier.bundle import AlarmSpec, GainSpec
from stream_classifier.detection.alarm import Alarm
from stream_classifier.errors import TimelineNeededError
from stream_classifier.evaluation.timelines import (
    Played,
    Timeline,
    held_out_keys,
    on_intervals,
    play,
    pool,
    splice,
    sweep,
)
from stream_classifier.signals import EventType

LABELS = (1, 2, 3, 4, 5, 1, 2, 3, 4, 5)
RULE = AlarmSpec(
    raise_threshold=0.8, clear_threshold=0.5, smoothing_s=1, persistence_s=0, refractory_s=90
)


def played(p, *, seizures, rule=RULE, delay_s=0.0):
    """What an alarm makes of one p a second; the timeline has no samples worth the name."""
    n = len(p)
    timeline = Timeline(np.zeros(n, np.float32), 1.0, ("V1",), (0.0,), seizures)
    silent = Played(
        timeline, rule, 1.0, delay_s, np.arange(n, dtype=float), np.zeros((n, 3), np.float32),
        np.array(p, dtype=float), ()
    )  # fmt: skip
    return silent.under(rule)


def p_with(n, *highs, value=0.9):
    p = np.zeros(n)
    for start, stop in highs:
        p[start:stop] = value
    return p


def test_a_timeline_uses_every_recording_once_with_four_of_background_before_each_seizure(table_of):
    rows = table_of(LABELS)
    timeline = splice(rows, rows.keys, seed=3)
    assert sorted(timeline.keys) == sorted(rows.keys)
    classes = [rows.class_of(key) for key in timeline.keys]
    assert [place for place, c in enumerate(classes) if c == 0] == [4, 9]
    assert timeline.seizures == ((92.0, 115.0), (207.0, 230.0))
    assert timeline.duration_s == 230
    assert timeline.background_s == 184
    for key, start_s in zip(timeline.keys, timeline.starts_s, strict=True):
        here = timeline.samples_uv[round(start_s * 178) :][:4094]
        np.testing.assert_array_equal(here, rows.recording(key))


def test_the_order_comes_from_the_seed(table_of):
    rows = table_of(LABELS)
    orders = [splice(rows, rows.keys, seed=seed).keys for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_background_that_does_not_divide_is_dealt_evenly_and_no_seizure_is_no_obstacle(table_of):
    rows = table_of((1, 1, 2, 3, 4))
    classes = [rows.class_of(key) == 0 for key in splice(rows, rows.keys, seed=0).keys]
    assert classes == [False, False, True, False, True]
    rows = table_of((4, 5))
    assert splice(rows, rows.keys, seed=0).seizures == ()
    with pytest.raises(ValueError, match="no recordings"):
        splice(rows, (), seed=0)


def test_a_timeline_at_the_true_rate_is_longer(table_of):
    rows = table_of((4, 1))
    timeline = splice(rows, rows.keys, seed=0, rate_hz=173.61)
    assert timeline.seizures[0] == pytest.approx((4094 / 173.61, 2 * 4094 / 173.61))


def test_single_rows_make_no_timeline(bonn):
    assert held_out_keys(bonn.split) == bonn.split.test
    rows_split = replace(bonn.split, protocol="rows", train=(0,), validation=(1,), test=(2,))
    with pytest.raises(TimelineNeededError, match=r"neither a before nor an after.*Try:") as caught:
        held_out_keys(rows_split)
    assert caught.value.exit_code == 6


def test_the_detector_s_alarms_are_those_of_its_own_alarm_over_what_it_said(bonn, table_of):
    rows = table_of((4, 1, 5, 1))
    # So short a persistence and so near a pair of thresholds that it goes on and off.
    rule = replace(bonn.alarm, raise_threshold=0.9, clear_threshold=0.9, persistence_s=0.0)
    once = play(bonn, splice(rows, rows.keys, seed=0), rule=rule)
    assert len(once.alarms) >= 2
    assert once.under(rule).alarms == once.alarms
    seconds = []
    play(bonn, once.timeline, rule=rule, on_played_s=seconds.append)
    assert sum(seconds) == pytest.approx(once.timeline.duration_s)


def test_a_bundle_with_a_gain_is_played_at_gain_1_from_the_first_sample(bonn, table_of):
    rows = table_of((4, 1))
    head = replace(
        bonn, gain=GainSpec(target_uv=40.0), alarm=replace(bonn.alarm, channels_needed=4)
    )
    made = play(head, splice(rows, rows.keys, seed=0))
    plain = play(bonn, made.timeline)
    decided = np.isfinite(made.probabilities[:, 0])
    assert made.refused_share == pytest.approx(1 - decided.mean())
    np.testing.assert_array_equal(made.probabilities[decided], plain.probabilities[decided])
    assert len(made.alarms) == 1


def test_another_smoothing_is_another_p():
    with pytest.raises(ValueError, match="smoothed over 1 s, not 2 s"):
        played(p_with(9), seizures=()).under(replace(RULE, smoothing_s=2))


def test_an_alarm_in_the_background_counts_once_however_long():
    score = pool([played(p_with(3600, (100, 400)), seizures=())])
    assert (score.false_alarms, score.background_hours) == (1, 1)
    assert score.false_alarms_per_hour == 1
    assert score.sensitivity is None
    assert score.latency_s(0.5) is None


def test_an_alarm_that_comes_on_again_counts_again_also_under_one_id():
    p = p_with(600, (100, 110), (130, 140), (300, 310))
    alarm = Alarm(rule=RULE, hop_s=1.0, identity="", rate_hz=1.0)
    events = [event for at, value in enumerate(p) for event in alarm.add(float(at), float(value))]
    assert [event.type for event in events].count(EventType.RAISED) == 2
    assert on_intervals(events, 600.0) == ((100, 110), (130, 140), (300, 310))
    assert pool([played(p, seizures=())]).false_alarms == 3


def test_an_alarm_that_is_on_at_the_end_lasts_to_the_end():
    assert played(p_with(50, (40, 50)), seizures=()).alarms == ((40, 50),)


def test_detection_is_timed_from_the_seizure_s_start_with_the_detector_s_own_delay():
    score = pool([played(p_with(300, (103, 120)), seizures=((100.0, 123.0),), delay_s=0.25)])
    assert score.latencies_s == (3.25,)
    assert (score.n_detected, score.sensitivity, score.false_alarms) == (1, 1, 0)
    assert score.background_hours == pytest.approx(277 / 3600)


def test_an_alarm_that_was_on_before_or_comes_on_after_is_false_and_detects_nothing():
    before = played(p_with(300, (90, 120)), seizures=((100.0, 123.0),))
    after = played(p_with(300, (123, 130)), seizures=((100.0, 123.0),))
    for one in (before, after):
        score = pool([one])
        assert (score.n_detected, score.false_alarms) == (0, 1)


def test_timelines_are_counted_together():
    one = played(p_with(300, (10, 20), (101, 120)), seizures=((100.0, 123.0),))
    two = played(p_with(300, (105, 120)), seizures=((100.0, 123.0), (200.0, 223.0)))
    score = pool([one, two])
    assert (score.n_seizures, score.n_detected, score.false_alarms) == (3, 2, 1)
    assert score.latencies_s == (1, 5)
    said = score.as_json()
    assert said["latency_median_s"] == 3
    assert said["latency_max_s"] == 5
    assert said["intervals"]["sensitivity"] == pytest.approx([0.0943, 0.9916], abs=1e-4)
    hours = (300 - 23 + 300 - 46) / 3600
    assert said["intervals"]["false_alarms_per_hour"] == pytest.approx(
        [0.0253 / hours, 5.572 / hours], rel=1e-2
    )
    assert said["intervals"]["latency_median_s"] == [1, 5]


def test_a_lower_threshold_raises_no_fewer_alarms():
    p = p_with(300, (10, 20), value=0.6) + p_with(300, (100, 120), value=0.95)
    scores = sweep([played(p, seizures=((100.0, 123.0),))], (0.3, 0.7, 0.99))
    assert [(s.n_detected, s.false_alarms) for s in scores.values()] == [(1, 1), (1, 0), (0, 0)]
