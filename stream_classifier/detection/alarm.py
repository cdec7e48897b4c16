"""From p(seizure) to alerts: thresholds, persistence, refractory time, one id a life.

         p >= clear             p >= raise for persistence
ok  ------------------> watch --------------------------> alert: on
^  <------------------                                      |  ^
|        p < clear                              p < clear   |  | p >= raise
|                                                           v  | for persistence
+------------------------------------------------------ alert: off
      p stayed < clear for the refractory time: ended

A latched alert stands, on or over, until a person acknowledges it; it is called to mind again and
again, and after half a day it lets go by itself.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

from stream_classifier.bundle import AlarmSpec
from stream_classifier.signals import AlertEvent, EventType, State

UPDATE_EVERY_S = 5.0
"""An alert that goes on is reported again at most this often."""

LATCHED_AT_MOST_S = 43_200.0
"""A latched alert that nobody acknowledged lets go this long after it was raised."""


@dataclass(slots=True)
class _Alert:
    alert_id: str
    onset_s: float
    raised_s: float
    seq: int
    p_max: float
    channels: set[str]
    reported_s: float
    off_s: float | None = None  # since when it is off
    low_since_s: float | None = None  # while it is off: since when, as far as known, p is low
    latched: bool = False
    acknowledged: bool = False
    p: float = 0.0  # the latest
    at_s: float = 0.0  # of the latest step
    reminded_s: float = 0.0  # when it was last called to mind, or raised


class Alarm:
    """The alerts of one stream, decided from one value a window.

    While p is unknown nothing is decided: a standing alert is held, and a rise that had begun must
    begin again afterwards. The refractory time of an alert that is off runs on the source's
    clock all the while, so that a seizure after an hour without a signal is an alert of its own.

    Args:
        rule: Thresholds and times.
        hop_s: Seconds from one window to the next.
        identity: What makes alert ids unique to this stream and model.
        rate_hz: Onsets are rounded to this grid in ids.
        remind_every_s: Alerts are latched, and called to mind this often until acknowledged;
            None: not latched.
    """

    def __init__(
        self,
        *,
        rule: AlarmSpec,
        hop_s: float,
        identity: str,
        rate_hz: float,
        remind_every_s: float | None = None,
    ) -> None:
        self.rule = rule
        self._remind_every_s = remind_every_s
        self._hop_s = hop_s
        self._identity = identity
        self._rate_hz = rate_hz
        self._onset: tuple[float, float] | None = None  # of the rise: its time, and its id's
        self._above_s = 0.0
        self._alert: _Alert | None = None
        self._over: _Alert | None = None  # over, and latched; a newer alert takes its place

    def resume(self, event: AlertEvent) -> None:
        """Go on with an alert that an earlier process left standing; this is its latest step.

        What p was between that step and now nobody knows: the refractory time of an alert that was
        off runs from then. Whether it is latched is as it was, whatever the rule is now.
        """
        alert = _Alert(
            alert_id=event.alert_id,
            onset_s=event.onset_s,
            raised_s=event.raised_s,
            seq=event.seq + 1,
            p_max=event.p_max,
            channels=set(event.channels),
            reported_s=event.at_s,
            off_s=event.off_s,
            low_since_s=event.off_s,
            latched=event.latched,
            acknowledged=event.acknowledged,
            p=event.p,
            at_s=event.at_s,
            reminded_s=event.at_s,
        )
        if event.type is EventType.ENDED or event.over:
            self._over = alert
        else:
            self._alert = alert

    def acknowledge(self, alert_id: str) -> list[AlertEvent]:
        """A person has seen an alert, on or over.

        Returns:
            The step it is; nothing if it was acknowledged before.

        Raises:
            LookupError: If there is no such alert.
        """
        for alert in (self._alert, self._over):
            if alert is not None and alert.alert_id == alert_id:
                if alert.acknowledged:
                    return []
                alert.acknowledged = True
                return [self._event(EventType.ACKNOWLEDGED, alert, alert.at_s, alert.p)]
        raise LookupError(alert_id)

    def remind(self, now_s: float) -> list[AlertEvent]:
        """Call a latched alert that nobody acknowledged to mind, or let it go, where that is due.

        Args:
            now_s: On the source's clock, which goes on without samples.
        """
        alert = self._alert or self._over
        if alert is None or not alert.latched or alert.acknowledged:
            return []
        alert.latched = now_s - alert.raised_s < LATCHED_AT_MOST_S
        # No time lies ahead: the clock of the process before may have.
        alert.reminded_s = min(alert.reminded_s, now_s)
        every_s = math.inf if self._remind_every_s is None else self._remind_every_s
        if alert.latched and now_s - alert.reminded_s < every_s:
            return []
        alert.reminded_s = now_s
        return [self._event(EventType.UPDATED, alert, alert.at_s, alert.p)]

    def state(self, p: float | None) -> State | None:
        """Say what a value means, given the alert that stands; None while nothing is known."""
        if p is None:
            return None
        if self._alert is not None and self._alert.off_s is None:
            return State.ALERT
        return State.WATCH if p >= self.rule.clear_threshold else State.OK

    def interrupt(self) -> None:
        """Say that something is missing before the next value: a rise must begin again."""
        self._onset = None
        self._above_s = 0.0

    def add(
        self,
        at_s: float,
        p: float | None,
        channels: tuple[str, ...] = (),
        *,
        nominal_s: float | None = None,
    ) -> list[AlertEvent]:
        """Take the next window's value.

        Args:
            at_s: Time of the window's last sample on the source's clock.
            p: The stream's smoothed p(seizure), or None if nothing can be said.
            channels: Labels of the channels at or above the raise threshold now.
            nominal_s: That sample's time as ids are made of: a function of the samples alone,
                where ``at_s`` follows an estimate of the clock. None: ``at_s``.

        Returns:
            What happened, oldest first; usually nothing.
        """
        if p is None:
            self.interrupt()
            return []
        rule = self.rule
        events = self._end_if_over(at_s, p)
        if p < rule.clear_threshold:
            self._onset = None
        elif self._onset is None:
            self._onset = (at_s, at_s if nominal_s is None else nominal_s)
        # The first window at the threshold has lasted 0 s.
        above = p >= rule.raise_threshold
        persisted = above and self._above_s >= rule.persistence_s
        self._above_s = self._above_s + self._hop_s if above else 0.0
        if self._alert is not None:
            events += self._go_on(self._alert, at_s, p, channels, persisted=persisted)
        elif persisted and self._onset is not None:
            events.append(self._raise(self._onset, at_s, p, channels))
        return events

    def _end_if_over(self, at_s: float, p: float) -> list[AlertEvent]:
        alert = self._alert
        if alert is None or alert.low_since_s is None:
            return []
        alert.low_since_s = min(alert.low_since_s, at_s)  # as in ``remind``
        # The tolerance keeps a hop that is no binary fraction from costing another window.
        if at_s - alert.low_since_s < self.rule.refractory_s - 1e-6:
            return []
        self._alert, self._over = None, alert if alert.latched else None
        return [self._event(EventType.ENDED, alert, at_s, p)]

    def _raise(
        self, onset: tuple[float, float], at_s: float, p: float, channels: tuple[str, ...]
    ) -> AlertEvent:
        onset_s, nominal_s = onset
        name = f"{self._identity}\n{round(nominal_s * self._rate_hz)}"
        self._alert = _Alert(
            alert_id=hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32],
            onset_s=onset_s,
            raised_s=at_s,
            seq=0,
            p_max=p,
            channels=set(channels),
            reported_s=at_s,
            latched=self._remind_every_s is not None,
            reminded_s=at_s,
        )
        self._over = None
        return self._event(EventType.RAISED, self._alert, at_s, p)

    def _go_on(
        self, alert: _Alert, at_s: float, p: float, channels: tuple[str, ...], *, persisted: bool
    ) -> list[AlertEvent]:
        alert.p_max = max(alert.p_max, p)
        was_on = alert.off_s is None
        if p < self.rule.clear_threshold:
            alert.low_since_s = at_s if alert.low_since_s is None else alert.low_since_s
            if was_on:
                alert.off_s = at_s
                return [self._report(alert, at_s, p)]
            return []
        if not was_on and not persisted:
            alert.low_since_s = at_s + self._hop_s  # if nothing comes any more
            return []
        alert.off_s = alert.low_since_s = None
        alert.channels |= set(channels)
        alert.reported_s = min(alert.reported_s, at_s)  # as in ``remind``
        due = not was_on or at_s - alert.reported_s >= UPDATE_EVERY_S
        return [self._report(alert, at_s, p)] if due else []

    def _report(self, alert: _Alert, at_s: float, p: float) -> AlertEvent:
        alert.reported_s = at_s
        return self._event(EventType.UPDATED, alert, at_s, p)

    def _event(self, kind: EventType, alert: _Alert, at_s: float, p: float) -> AlertEvent:
        alert.p, alert.at_s = p, at_s
        event = AlertEvent(
            type=kind,
            alert_id=alert.alert_id,
            seq=alert.seq,
            at_s=at_s,
            onset_s=alert.onset_s,
            raised_s=alert.raised_s,
            off_s=alert.off_s,
            p=p,
            p_max=alert.p_max,
            channels=tuple(sorted(alert.channels)),
            latched=alert.latched,
            acknowledged=alert.acknowledged,
            over=alert is not self._alert,
        )
        alert.seq += 1
        return event
