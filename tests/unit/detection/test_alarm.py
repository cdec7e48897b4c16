"""The life of an alert: one id from onset to end."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_classifier.bundle import AlarmSpec
from stream_classifier.detection.alarm import LATCHED_AT_MOST_S, Alarm
from stream_classifier.signals import EventType, State

RULE = AlarmSpec(
    raise_threshold=0.8, clear_threshold=0.5, smoothing_s=1.0, persistence_s=0.3, refractory_s=2.0
)
HOP_S = 0.1
RAISED, UPDATED, ENDED = EventType.RAISED, EventType.UPDATED, EventType.ENDED


def alarm(rule=RULE, identity="bed3"):
    return Alarm(rule=rule, hop_s=HOP_S, identity=identity, rate_hz=178.0)


def latching():
    return Alarm(rule=RULE, hop_s=HOP_S, identity="bed3", rate_hz=178.0, remind_every_s=30.0)


def play(a, values, *, start_s=0.0):
    events = []
    for i, p in enumerate(values):
        events += a.add(start_s + i * HOP_S, p, ("C3",))
    return events


def test_an_alert_needs_persistence_above_the_raise_threshold():
    assert play(alarm(), [0.9, 0.9, 0.9, 0.1] * 5) == []
    (event,) = play(alarm(), [0.1, 0.6, 0.9, 0.9, 0.9, 0.9])
    assert event.type is RAISED
    assert event.onset_s == pytest.approx(0.1)  # first at or above the clear threshold
    assert event.raised_s == pytest.approx(0.5)
    assert event.on
    assert event.channels == ("C3",)


def test_without_persistence_one_window_is_enough():
    rule = dataclasses.replace(RULE, persistence_s=0, refractory_s=0)
    a = alarm(rule)
    assert [e.type for e in play(a, [0.9, 0.1, 0.1])] == [RAISED, UPDATED, ENDED]


def test_it_ends_only_after_the_refractory_time_below_clear():
    events = play(alarm(), [0.9] * 4 + [0.1] * 21)
    assert [e.type for e in events] == [RAISED, UPDATED, ENDED]
    assert [e.on for e in events] == [True, False, False]
    assert events[1].off_s == events[2].off_s == pytest.approx(0.4)
    assert events[2].at_s == pytest.approx(2.4)


def test_a_rise_within_the_refractory_time_is_the_same_alert():
    events = play(alarm(), [0.9] * 4 + [0.1] * 15 + [0.9] * 6 + [0.1] * 25)
    assert [e.type for e in events] == [RAISED, UPDATED, UPDATED, UPDATED, ENDED]
    assert len({e.alert_id for e in events}) == 1
    assert [e.on for e in events] == [True, False, True, False, False]


def test_a_rise_after_the_end_is_another_alert():
    events = play(alarm(), ([0.9] * 4 + [0.1] * 25) * 2)
    assert [e.type for e in events] == [RAISED, UPDATED, ENDED] * 2
    assert events[0].alert_id != events[3].alert_id


def test_a_standing_alert_is_held_while_nothing_can_be_said():
    a = alarm()
    play(a, [0.9] * 4)
    assert play(a, [None] * 1000, start_s=1.0) == []
    assert a.state(0.7) is State.ALERT


def test_a_rise_that_was_interrupted_begins_again():
    rise = [0.9, 0.9, 0.9]
    assert play(alarm(), [*rise, None, *rise, None]) == []
    (event,) = play(alarm(), [*rise, None, *rise, 0.9])
    assert event.onset_s == pytest.approx(0.4)
    a = alarm()
    play(a, rise)
    a.interrupt()
    assert play(a, rise, start_s=500.0) == []
    (event,) = a.add(500.3, 0.9)
    assert event.onset_s == pytest.approx(500.0)


def test_an_alert_that_is_on_never_ends_while_nothing_is_known():
    a = alarm()
    play(a, [0.9] * 4)
    assert play(a, [None] * 100, start_s=1.0) == []
    (event,) = a.add(7200.0, 0.9)
    assert event.type is UPDATED
    assert event.on


def test_a_seizure_long_after_an_alert_went_off_is_an_alert_of_its_own():
    a = alarm()
    (first, *_) = play(a, [0.9] * 4 + [0.1] * 3)
    ended, raised = play(a, [0.9] * 4, start_s=7200.0)
    assert (ended.type, ended.alert_id) == (ENDED, first.alert_id)
    assert raised.type is RAISED
    assert raised.alert_id != first.alert_id
    assert raised.onset_s == pytest.approx(7200.0)


def test_what_hovers_below_the_raise_threshold_does_not_keep_an_old_alert_for_ever():
    a = alarm()
    (first, *_) = play(a, [0.9] * 4 + [0.1, 0.6])
    ended, raised = play(a, [0.9] * 4, start_s=7200.0)
    assert (ended.type, ended.alert_id) == (ENDED, first.alert_id)
    assert raised.alert_id != first.alert_id


def test_an_alert_of_a_process_whose_clock_was_ahead_ends_in_time():
    before = play(alarm(), [0.9] * 4 + [0.1])
    a = alarm()
    a.resume(dataclasses.replace(before[-1], at_s=3600.0, off_s=3600.0))
    events = play(a, [0.1] * 25, start_s=1.0)
    assert [e.type for e in events] == [ENDED]
    assert events[0].at_s == pytest.approx(1.0 + RULE.refractory_s)


def test_a_latched_alert_lets_go_in_the_end_whatever_the_rule_of_the_next_process():
    before = play(latching(), [0.9] * 4 + [0.1] * 25)[-1]
    assert before.on
    a = alarm()
    a.resume(before)
    assert a.remind(LATCHED_AT_MOST_S) == []
    (event,) = a.remind(before.raised_s + LATCHED_AT_MOST_S)
    assert not event.on
    assert a.remind(2 * LATCHED_AT_MOST_S) == []


def test_the_id_follows_the_samples_and_not_the_estimate_of_their_time():
    a, b = alarm(), alarm()
    one = [e for i in range(5) for e in a.add(50.0 + i * HOP_S, 0.9, nominal_s=i * HOP_S)]
    two = [e for i in range(5) for e in b.add(50.004 + i * HOP_S, 0.9, nominal_s=i * HOP_S)]
    assert one[0].alert_id == two[0].alert_id
    assert one[0].onset_s != two[0].onset_s


def test_an_alert_that_another_process_left_goes_on_under_its_id():
    before = play(alarm(), [0.9] * 4)
    a = alarm()
    a.resume(before[-1])
    assert a.state(0.9) is State.ALERT
    after = play(a, [0.9] * 3 + [0.1] * 25, start_s=3.0)
    assert [e.type for e in after] == [UPDATED, ENDED]
    assert {e.alert_id for e in after} == {before[0].alert_id}
    assert [e.seq for e in after] == [1, 2]
    assert after[0].onset_s == before[0].onset_s


def test_an_alert_that_was_off_when_its_process_ended_ends_in_time():
    before = play(alarm(), [0.9] * 4 + [0.1])
    a = alarm()
    a.resume(before[-1])
    (ended,) = a.add(100.0, 0.1)
    assert (ended.type, ended.alert_id) == (ENDED, before[0].alert_id)


def test_nothing_known_is_no_state_and_never_ok():
    assert alarm().state(None) is None
    assert alarm().state(0.2) is State.OK
    assert alarm().state(0.6) is State.WATCH


def test_a_long_seizure_is_reported_every_five_seconds_with_its_maximum():
    events = play(alarm(), [0.85] * 60 + [0.95] * 60)
    assert [e.type for e in events] == [RAISED, UPDATED, UPDATED]
    assert events[1].at_s - events[0].at_s == pytest.approx(5.0, abs=0.11)
    assert events[2].p_max == pytest.approx(0.95)


def test_the_id_follows_from_stream_model_and_onset_alone():
    (first,) = play(alarm(), [0.9] * 4)
    (again,) = play(alarm(), [0.9] * 4)
    (other,) = play(alarm(identity="bed4"), [0.9] * 4)
    assert first.alert_id == again.alert_id != other.alert_id


@given(
    st.lists(st.one_of(st.none(), st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.8, 1.0])), max_size=300)
)
def test_whatever_p_does_every_alert_has_one_life(values):
    a = alarm()
    open_id, seq, last_end = None, 0, -1e9
    for i, p in enumerate(values):
        for event in a.add(i * HOP_S, p):
            if event.type is RAISED:
                assert open_id is None
                assert event.at_s - last_end >= RULE.persistence_s - 1e-9
                open_id, seq = event.alert_id, 0
            assert event.alert_id == open_id
            assert event.seq == seq
            assert event.onset_s <= event.raised_s <= event.at_s
            seq += 1
            if event.type is ENDED:
                open_id, last_end = None, event.at_s
        if p is not None and p >= RULE.raise_threshold and a.state(p) is State.OK:
            pytest.fail("p above the raise threshold can never be called ok")
