"""Whatever p does, and whoever acknowledges or dies meanwhile: each alert has one life, seen."""

import math
from collections import defaultdict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stream_classifier.bundle import AlarmSpec
from stream_classifier.detection.alarm import LATCHED_AT_MOST_S, Alarm
from stream_classifier.pipeline import _is_settled
from stream_classifier.signals import EventType, State, StreamSpec
from stream_classifier.sinks.messages import MessageBuilder, ModelRef, WallClock, standing_alert

RAISE, CLEAR = 0.8, 0.5
HOP_S = 0.125
REMIND_EVERY_S = 30.0
ROUNDED_S = 0.002
"""Times go through JSON in milliseconds, and the refractory time is met to a window."""

VALUES = st.one_of(
    st.sampled_from([0.0, CLEAR - 0.01, CLEAR, 0.65, RAISE - 0.01, RAISE, 1.0]),
    st.floats(0, 1).map(lambda p: round(p, 3)),
    st.none(),
)


class AlarmLife(RuleBasedStateMachine):
    """One stream's alarm through processes that come and go, and what its subscribers see."""

    @initialize(
        persistence_s=st.sampled_from([0.0, 0.3, 1.0]),
        refractory_s=st.sampled_from([0.0, 1.0, 5.0]),
        latched=st.booleans(),
    )
    def begin(self, persistence_s, refractory_s, latched):
        self.rule = AlarmSpec(
            raise_threshold=RAISE,
            clear_threshold=CLEAR,
            smoothing_s=1.0,
            persistence_s=persistence_s,
            refractory_s=refractory_s,
        )
        self.now_s = 1000.0
        self.clock_moved_s = 0.0
        self.clock = WallClock(offset_s=1.7e9)
        self.newest = None  # payload of the newest event: all that outlives a process
        self.event = None  # its step, as this process holds it
        self.by_id = defaultdict(list)
        self.event_ids = set()
        self.acknowledged = set()
        self.raised_at_s = {}
        self.active_s = -math.inf  # last window at or above clear, as far as this process knows
        self.low_s = None  # since when p has been low without a break, in this process
        self.n_above = 0  # windows in a row at or above raise, in this process
        self.start(latched=latched)

    def start(self, *, latched):
        self.alarm = Alarm(
            rule=self.rule,
            hop_s=HOP_S,
            identity="bed3",
            rate_hz=178.0,
            remind_every_s=REMIND_EVERY_S if latched else None,
        )
        self.latched = latched
        self.builder = MessageBuilder(
            spec=StreamSpec("bed3", "amp-1", 178.0, ("C3",)),
            model=ModelRef("bonn", "ab" * 32, RAISE, CLEAR),
            clock=self.clock,
        )
        self.low_s, self.n_above = None, 0
        self.ahead_s = None  # when the alert went off, by a clock that was set back since

    def take(self, events):
        for event in events:
            decided = self.clock.utc(self.now_s)
            message = self.builder.event(event, state=None, signal="ok", decided=decided)
            self.newest, self.event = message.to_json(), event
            assert message.event_id not in self.event_ids
            self.event_ids.add(message.event_id)
            life = self.by_id[event.alert_id]
            assert [e.type for e in [*life, event]].count(EventType.ENDED) <= 1
            assert (event.type is EventType.RAISED) == (not life)
            assert not life or event.seq > life[-1].seq
            if event.type is EventType.RAISED:
                unended = [i for i, e in self.by_id.items() if e and not self.is_over(i)]
                assert not unended, "one seizure has two ids"
                self.raised_at_s[event.alert_id] = self.now_s
            life.append(event)
            self.acknowledged |= {event.alert_id} if event.acknowledged else set()
            if self.waits_to_be_seen(event, for_s=LATCHED_AT_MOST_S - self.clock_moved_s):
                assert event.on, "a latched alert went off and nobody has seen it"

    def is_over(self, alert_id):
        return any(e.type is EventType.ENDED for e in self.by_id[alert_id])

    def waits_to_be_seen(self, event, *, for_s=LATCHED_AT_MOST_S):
        was_latched = self.by_id[event.alert_id][0].latched
        since_s = self.now_s - self.raised_at_s[event.alert_id]
        return was_latched and event.alert_id not in self.acknowledged and since_s < for_s

    # What happens.

    @rule(p=VALUES, n_windows=st.sampled_from([1, 2, 12]))
    def windows(self, p, n_windows):
        for _ in range(n_windows):
            self.window(p)

    @rule(values=st.lists(st.sampled_from([0.1, 0.65, 0.95]), min_size=1, max_size=6))
    def chatter(self, values):
        for p in values:
            self.window(p)

    @rule()
    def quiet(self):
        for _ in range(60):
            self.window(0.1)

    @rule()
    def seizure(self):
        for _ in range(12):
            self.window(0.95)

    def window(self, p):
        self.now_s += HOP_S
        self.remind()
        if self.ahead_s is not None and p is not None:  # only now the alarm learns what time it is
            self.active_s, self.ahead_s = min(self.ahead_s, self.now_s), None
        before_s, before = self.active_s, self.event
        events = self.alarm.add(self.now_s, p, ("C3",))
        self.take(events)
        if before and self.goes_on(before) and not self.goes_on(self.event):  # it did until then
            self.active_s = max(self.active_s, self.now_s - HOP_S)
        if p is None:
            assert not events
            self.n_above, self.low_s = 0, None
            return
        self.low_s = None if p >= CLEAR else (self.now_s if self.low_s is None else self.low_s)
        self.n_above = self.n_above + 1 if p >= RAISE else 0
        for event in events:
            if event.type is EventType.ENDED:
                quiet_s = self.now_s - before_s
                assert quiet_s >= self.rule.refractory_s - ROUNDED_S, "it ended too soon"
        most_s = self.rule.refractory_s + HOP_S + ROUNDED_S
        if before and not self.goes_on(before) and self.now_s - before_s >= most_s:
            assert self.is_over(before.alert_id), "another seizure would have the old one's id"
        if p >= CLEAR:
            self.active_s = self.now_s

    @staticmethod
    def goes_on(event):
        return event.off_s is None and not event.over

    @rule(seconds=st.sampled_from([0.5, 3.0, 60.0, 3600.0, LATCHED_AT_MOST_S]))
    def pause(self, seconds):
        self.now_s += seconds
        self.remind()
        self.alarm.interrupt()
        self.n_above, self.low_s = 0, None

    def remind(self):
        events = self.alarm.remind(self.now_s)
        self.take(events)
        for event in events:
            assert event.alert_id not in self.acknowledged
            assert event.on or not event.latched
        assert self.alarm.remind(self.now_s) == []

    @rule(data=st.data())
    @precondition(lambda self: self.by_id)
    def acknowledge(self, data):
        alert_id = data.draw(st.sampled_from(sorted(self.by_id)))
        try:
            events = self.alarm.acknowledge(alert_id)
        except LookupError:
            if self.event is not None and self.event.alert_id == alert_id:
                assert self.is_over(alert_id)
                assert not self.event.on
            return
        assert len(events) == (alert_id not in self.acknowledged)
        self.take(events)
        assert alert_id in self.acknowledged
        assert self.alarm.acknowledge(alert_id) == []

    @rule()
    def acknowledge_what_is_not_there(self):
        with pytest.raises(LookupError):
            self.alarm.acknowledge("0" * 32)

    @rule(seconds=st.sampled_from([0.2, 4.0, 600.0]), latched=st.booleans())
    def killed_and_started_again(self, seconds, latched):
        self.restart(seconds, latched=latched)

    @rule(step_s=st.sampled_from([-3600.0, -2.0, 2.0, 3600.0]))
    def killed_and_the_wall_clock_set(self, step_s):
        self.clock_moved_s += abs(step_s)
        self.clock = WallClock(offset_s=self.clock.offset_s + step_s)
        self.restart(1.0, latched=self.latched)

    def restart(self, seconds, *, latched):
        self.now_s += seconds
        before = self.event
        self.start(latched=latched)
        self.event = self.newest and standing_alert(self.newest, clock=self.clock)
        if self.event is None:
            assert before is None or (not before.on and self.is_over(before.alert_id))
            return
        assert self.event.on == before.on
        assert self.goes_on(self.event) == self.goes_on(before)
        self.resume()

    @rule()
    def reader_fails_and_is_started_again(self):
        self.start(latched=self.latched)
        if self.event is not None and _is_settled(self.event):
            self.event = None
        if self.event is not None:
            self.resume()

    def resume(self):
        self.alarm.resume(self.event)
        if self.event.off_s is not None:  # since then nothing is known
            self.active_s = min(self.event.off_s, self.now_s)
            if self.event.off_s > self.now_s:
                self.ahead_s = self.event.off_s

    # What holds.

    @invariant()
    @precondition(lambda self: hasattr(self, "alarm"))
    def a_seizure_is_never_hidden(self):
        # A window more than the persistence asks for: times are sums of hops.
        if self.n_above and (self.n_above - 2) * HOP_S >= self.rule.persistence_s:
            assert self.event is not None
            assert self.event.on
            assert self.goes_on(self.event)
            assert self.alarm.state(RAISE) is State.ALERT

    @invariant()
    @precondition(lambda self: hasattr(self, "alarm"))
    def every_alert_has_an_end(self):
        if self.low_s is None or self.now_s - self.low_s < self.rule.refractory_s + 2 * HOP_S:
            return
        assert all(map(self.is_over, self.by_id))
        most_s = LATCHED_AT_MOST_S + self.clock_moved_s + ROUNDED_S
        if self.event is not None and not self.waits_to_be_seen(self.event, for_s=most_s):
            self.take(self.alarm.remind(self.now_s))
            assert not self.event.on

    @invariant()
    @precondition(lambda self: hasattr(self, "alarm"))
    def subscribers_see_what_stands(self):
        state = self.builder.alert(
            at_s=self.now_s, prediction=None, latest=self.event, signal="ok", decided=None
        )
        assert state.on == (self.event is not None and self.event.on)
        assert state.alert_id == (self.event and self.event.alert_id)
        if self.alarm.state(0.0) is State.ALERT:
            assert state.on


TestAlarmLife = AlarmLife.TestCase
TestAlarmLife.settings = settings(
    max_examples=150, stateful_step_count=40, report_multiple_bugs=False
)
