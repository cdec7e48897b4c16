"""From p(seizure) to alerts: thresholds, persistence, refractory time, one id a life.

         p >= clear             p >= raise for persistence
ok  ------------------> watch --------------------------> alert: on
^  <------------------                                      |  ^
|        p < clear                              p < clear   |  | p >= raise
|                                                           v  | for persistence
+------------------------------------------------------ alert: off
      p stayed < clear for the refractory time: ended
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from stream_classifier.signals import AlertEvent, EventType, State

UPDATE_EVERY_S = 5.0
"""An alert that goes on is reported again at most this often."""


@dataclass(frozen=True, slots=True)
class AlarmRule:
    """When an alert is raised and ended.

    Attributes:
        raise_threshold: Stream p(seizure) that raises, 0..1.
        clear_threshold: Below it the seizure is held to be over; at most ``raise_threshold``.
        persistence_s: How long p must stay at or above ``raise_threshold``.
        refractory_s: How long p must stay below ``clear_threshold`` for the alert to end;
            a rise within that time continues the same alert.
    """

    raise_threshold: float
    clear_threshold: float
    persistence_s: float
    refractory_s: float

    def __post_init__(self) -> None:
        if not 0 < self.clear_threshold <= self.raise_threshold < 1:
            raise ValueError(
                "alarm thresholds: expected 0 < clear <= raise < 1, "
                f"found clear {self.clear_threshold:g}, raise {self.raise_threshold:g}"
            )


@dataclass(slots=True)
class _Alert:
    alert_id: str
    onset_s: float
    raised_s: float
    seq: int
    p_max: float
    channels: set[str]
    reported_s: float
    off_s: float | None = None


class Alarm:
    """The alerts of one stream, decided from one value a window.

    Time is counted in windows that could be decided: while p is unknown nothing changes,
    a standing alert is held, and neither persistence nor the refractory time runs.

    Args:
        rule: Thresholds and times.
        hop_s: Seconds from one window to the next.
        identity: What makes alert ids unique to this stream and model.
        rate_hz: Onsets are rounded to this grid in ids, so that they are the same after
            a replay.
    """

    def __init__(self, *, rule: AlarmRule, hop_s: float, identity: str, rate_hz: float) -> None:
        self.rule = rule
        self._hop_s = hop_s
        self._identity = identity
        self._rate_hz = rate_hz
        self._onset_s: float | None = None
        self._above_s = 0.0
        self._below_s = 0.0
        self._alert: _Alert | None = None

    def state(self, p: float | None) -> State | None:
        """Say what a value means, given the alert that stands."""
        if self._alert is not None and self._alert.off_s is None:
            return State.ALERT
        if p is None:
            return None
        return State.WATCH if p >= self.rule.clear_threshold else State.OK

    def add(self, at_s: float, p: float | None, channels: tuple[str, ...] = ()) -> list[AlertEvent]:
        """Take the next window's value.

        Args:
            at_s: Time of the window's last sample on the source's clock.
            p: The stream's smoothed p(seizure), or None if nothing can be said.
            channels: Labels of the channels at or above the raise threshold now.

        Returns:
            What happened, oldest first; usually nothing.
        """
        if p is None:
            self._above_s = 0.0
            return []
        if p >= self.rule.clear_threshold and self._onset_s is None:
            self._onset_s = at_s
        elif p < self.rule.clear_threshold:
            self._onset_s = None
        # The first window at the threshold has lasted 0 s.
        above = p >= self.rule.raise_threshold
        persisted = above and self._above_s >= self.rule.persistence_s
        self._above_s = self._above_s + self._hop_s if above else 0.0
        if self._alert is None:
            return [self._raise(at_s, p, channels)] if persisted else []
        return self._go_on(self._alert, at_s, p, channels, persisted=persisted)

    def _raise(self, at_s: float, p: float, channels: tuple[str, ...]) -> AlertEvent:
        onset_s = at_s if self._onset_s is None else self._onset_s
        name = f"{self._identity}\n{round(onset_s * self._rate_hz)}"
        self._alert = _Alert(
            alert_id=hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32],
            onset_s=onset_s,
            raised_s=at_s,
            seq=0,
            p_max=p,
            channels=set(channels),
            reported_s=at_s,
        )
        self._below_s = 0.0
        return self._event(EventType.RAISED, self._alert, at_s, p)

    def _go_on(
        self, alert: _Alert, at_s: float, p: float, channels: tuple[str, ...], *, persisted: bool
    ) -> list[AlertEvent]:
        alert.p_max = max(alert.p_max, p)
        if p < self.rule.clear_threshold:
            went_off = alert.off_s is None
            if went_off:
                alert.off_s = at_s
            self._below_s = 0.0 if went_off else self._below_s + self._hop_s
            if self._below_s >= self.rule.refractory_s:
                self._alert = None
                return [self._event(EventType.ENDED, alert, at_s, p)]
            return [self._report(alert, at_s, p)] if went_off else []
        self._below_s = 0.0
        if alert.off_s is not None:
            if not persisted:
                return []
            alert.off_s = None
            alert.channels |= set(channels)
            return [self._report(alert, at_s, p)]
        alert.channels |= set(channels)
        due = at_s - alert.reported_s >= UPDATE_EVERY_S
        return [self._report(alert, at_s, p)] if due else []

    def _report(self, alert: _Alert, at_s: float, p: float) -> AlertEvent:
        alert.reported_s = at_s
        return self._event(EventType.UPDATED, alert, at_s, p)

    def _event(self, kind: EventType, alert: _Alert, at_s: float, p: float) -> AlertEvent:
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
        )
        alert.seq += 1
        return event
