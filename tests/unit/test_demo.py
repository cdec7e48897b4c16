"""The demo counts what was played against what was said."""

from datetime import UTC, datetime

import pytest

from stream_classifier.demo import OFFSET, ONSET, Tally


def iso(at_s):
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds")


def event(raised_s, *, at_s=None, kind="raised"):
    at_s = raised_s if at_s is None else at_s
    return {"event_type": kind, "ts": iso(at_s), "raised": iso(raised_s), "on": True}


def tally():
    t = Tally()
    t.marker(ONSET, 1020.0)
    t.marker(OFFSET, 1043.0)
    return t


def result(t, ended_s=1090.0):
    return t.result(data="synthetic", n_windows=7, ended_s=ended_s)


def test_an_alert_within_the_seizure_detects_it_at_its_arrival():
    t = tally()
    t.event(event(1021.5), 1021.6)
    assert result(t)["seizures_detected"] == 1
    assert result(t)["detection_latency_s"] == [pytest.approx(1.6)]
    assert result(t)["false_alarms"] == 0


@pytest.mark.parametrize("raised_s", [1000.0, 1019.9, 1046.0])
def test_an_alert_at_any_other_time_is_a_false_alarm(raised_s):
    t = tally()
    t.event(event(raised_s), raised_s + 0.1)
    assert result(t)["seizures_detected"] == 0
    assert result(t)["false_alarms"] == 1


def test_a_missed_seizure_stays_missed():
    assert result(tally())["seizures_true"] == 1
    assert result(tally())["seizures_detected"] == 0


def test_a_seizure_that_has_just_begun_is_not_counted_unless_it_was_detected():
    t = Tally()
    t.marker(ONSET, 1087.0)
    assert result(t)["seizures_true"] == 0
    t.event(event(1088.0), 1088.1)
    assert result(t)["seizures_true"] == result(t)["seizures_detected"] == 1


def test_later_steps_of_an_alert_raise_nothing():
    t = tally()
    t.event(event(1021.0), 1021.1)
    t.event(event(1021.0, at_s=1026.0, kind="updated"), 1026.1)
    assert result(t)["false_alarms"] == 0
    assert len(result(t)["alerts"]) == 2


def test_transport_is_measured_over_predictions_and_alerts():
    t = tally()
    for i in range(10):
        sent = {"p": 0.1, "state": "ok", "signal": "ok", "ts": iso(1000 + i)}
        t.prediction(sent, 1000 + i + 0.005)
    t.event(event(1021.0), 1021.005)
    transport = result(t)["sample_to_subscriber_ms"]
    assert transport["n"] == 11
    assert transport["p50"] == pytest.approx(5, abs=0.1)
