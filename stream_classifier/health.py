"""What is alive, how late, how good: the ladder from the outlet to the broker.

    outlet -> samples -> rate -> quality -> engine          outbox -> broker

Of a rung nothing can be said while no samples arrive that it could be judged by: it is ``unknown``
then, and the lowest broken rung is where a person looks first. Health says nothing of the alert,
and the alert nothing of health: neither ever overwrites the other.

Pure: no clock, no I/O.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from stream_classifier.errors import OutboxError, SignalError, SinkError, SourceError
from stream_classifier.signals import ChannelState, ChannelVerdict, SourceHealth, SourceState

SILENT_AFTER_S = 1.5
"""Without a sample for this long there is no data."""

SILENT_FAULT_AFTER_S = 4.0
"""... and for this long nobody should sleep through it."""

LOST_FAULT_AFTER_S = 3.0
"""A device that is gone for so long did not only blink."""

OLD_AFTER_S = 2.0
"""Samples that are older than this when they arrive say nothing of now."""

RATE_DEGRADED = 0.01
RATE_FAULT = 0.05
"""Share by which the true rate may differ from the declared one."""

POOR_FAULT_AFTER_S = 1.0
"""No usable channel for this long is a fault, not a blink."""

START_AT_MOST_S = 10.0
"""Samples that arrive for so long and make no window that can be judged are a fault."""

BEHIND_S = 1.0
"""Decisions that lag more than this behind their samples are late."""

RECENTLY_S = 10.0
"""For so long a rung remembers what was shed, dropped or restarted."""

BROKER_START_S = 3.0
"""So long may a first connection take before it is a fault."""

LABELS_NAMED = 8


class Rung(StrEnum):
    """What must hold, from the device to the subscriber."""

    OUTLET = "outlet"
    SAMPLES = "samples"
    RATE = "rate"
    QUALITY = "quality"
    ENGINE = "engine"
    OUTBOX = "outbox"
    BROKER = "broker"


class Condition(StrEnum):
    """How a rung stands, the better first."""

    OK = "ok"
    UNKNOWN = "unknown"
    """Nothing can be said: a rung below is broken."""
    STARTING = "starting"
    """Not yet."""
    DEGRADED = "degraded"
    """It works, and somebody should look at it by day."""
    NO_DATA = "no_data"
    """Nothing arrives."""
    FAULT = "fault"
    """It does not work: somebody has to act."""


_WORSE: tuple[Condition, ...] = tuple(Condition)


@dataclass(frozen=True, slots=True)
class Step:
    """One rung, as it stands.

    Attributes:
        rung: Which.
        condition: How.
        since_s: Since when, on the source's clock.
        reason: Why it is not ok, for a person.
        remedy: What to do about it.
    """

    rung: Rung
    condition: Condition
    since_s: float
    reason: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """The whole ladder at one moment.

    Attributes:
        at_s: When, on the source's clock.
        steps: From the outlet to the broker.
        latency_p50_ms: Of decisions behind their last sample; None before the first.
        latency_p99_ms: The same.
        n_latency: Decisions that these are of.
    """

    at_s: float
    steps: tuple[Step, ...]
    latency_p50_ms: float | None = None
    latency_p99_ms: float | None = None
    n_latency: int = 0

    @property
    def condition(self) -> Condition:
        """Of the worst rung."""
        return max((step.condition for step in self.steps), key=_WORSE.index)

    @property
    def gist(self) -> tuple[object, ...]:
        """What makes it news; reasons hold numbers that change all the time."""
        return tuple((step.rung, step.condition) for step in self.steps)


@dataclass(frozen=True, slots=True)
class SinkCondition:
    """How a sink is doing.

    Attributes:
        publishes: Whether there is anybody to publish to.
        outbox_fault: Why events are not on disk before they are sent; None if they are.
        broker_fault: Why results do not reach the broker; None if they do.
        counters: What it has done so far.
    """

    publishes: bool = True
    outbox_fault: str | None = None
    broker_fault: str | None = None
    counters: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the ladder is judged from; all of it looked at in one moment.

    Attributes:
        now_s: On the source's clock.
        source: What the source says of itself.
        last_sample_s: When the newest sample arrived; at first, when the source was attached.
        nominal_hz: Rate that the stream declares.
        is_old: Whether the samples that arrive are old.
        has_decided: Whether there was a prediction since samples last began to arrive.
        calibrating: Whether gains are being measured.
        channels: What the newest window of each channel is worth.
        engine: Name of the engine.
        engine_fault: What it lost, such as its GPU; None if nothing.
        behind_s: How far the newest decision was behind its samples for want of speed.
        n_shed: Windows left out so far for want of speed.
        n_restarts: Times the reader had to be started again.
        restart_reason: Why, the last time.
        outbox_fault: Why the disk takes no events; None if it does.
        n_dropped: Events dropped so far because they were too old or too many.
        broker_fault: Why results do not reach the broker; None if they do.
        has_broker: Whether anything is to be published at all.
    """

    now_s: float
    source: SourceHealth
    last_sample_s: float
    nominal_hz: float
    is_old: bool = False
    has_decided: bool = True
    calibrating: bool = False
    channels: Sequence[ChannelVerdict] = ()
    engine: str = ""
    engine_fault: str | None = None
    behind_s: float = 0.0
    n_shed: int = 0
    n_restarts: int = 0
    restart_reason: str = ""
    outbox_fault: str | None = None
    n_dropped: int = 0
    broker_fault: str | None = None
    has_broker: bool = True


@dataclass(frozen=True, slots=True)
class _Found:
    condition: Condition = Condition.OK
    reason: str = ""
    remedy: str = ""


_OK = _Found()
_UNKNOWN = _Found(Condition.UNKNOWN, "no samples to judge it by")


@dataclass(slots=True)
class _Recent:
    """Something that happens now and then, and is remembered for a while."""

    n: int = 0
    at_s: float = -math.inf

    def seen(self, n: int, now_s: float) -> bool:
        """Whether it happened recently, given how often so far."""
        if n > self.n:
            self.at_s = now_s
        self.n = n
        return now_s - self.at_s < RECENTLY_S


@dataclass(slots=True)
class Ladder:
    """Judges the ladder again and again, and remembers since when each rung is as it is."""

    _steps: dict[Rung, Step] = field(default_factory=dict)
    _started_s: float | None = None
    _usable_s: float = math.inf  # when a channel could last be judged, or samples began
    _shed: _Recent = field(default_factory=_Recent)
    _restarts: _Recent = field(default_factory=_Recent)
    _dropped: _Recent = field(default_factory=_Recent)

    def look(self, facts: Facts) -> Health:
        """Say how each rung stands now."""
        if self._started_s is None:
            self._started_s = facts.now_s
        samples = _samples(facts)
        arriving = samples.condition is Condition.OK
        if not arriving:
            self._usable_s = facts.now_s
        found = {
            Rung.OUTLET: _outlet(facts),
            Rung.SAMPLES: samples,
            Rung.RATE: _rate(facts) if arriving else _UNKNOWN,
            Rung.QUALITY: self._quality(facts) if arriving else _UNKNOWN,
            Rung.ENGINE: self._engine(facts, arriving=arriving),
            Rung.OUTBOX: self._outbox(facts),
            Rung.BROKER: self._broker(facts),
        }
        return Health(facts.now_s, tuple(self._kept(rung, found[rung], facts) for rung in Rung))

    def _kept(self, rung: Rung, found: _Found, facts: Facts) -> Step:
        before = self._steps.get(rung)
        if before is None or before.condition is not found.condition:
            step = Step(rung, found.condition, facts.now_s, found.reason, found.remedy)
        else:
            step = replace(before, reason=found.reason, remedy=found.remedy)
        self._steps[rung] = step
        return step

    def _quality(self, facts: Facts) -> _Found:
        poor = [c for c in facts.channels if c.state is ChannelState.POOR]
        judged = facts.has_decided and len(facts.channels) > 0
        self._usable_s = min(self._usable_s, facts.now_s)
        if judged and len(poor) < len(facts.channels):
            self._usable_s = facts.now_s
        useless_s = facts.now_s - self._usable_s
        if not judged or all(c.reasons[:1] == ("settling",) for c in facts.channels):
            if useless_s < START_AT_MOST_S:
                return _Found(Condition.STARTING, "the first window is not complete")
            said = f"for {useless_s:.0f} s no window was complete: samples keep missing"
            return _Found(Condition.FAULT, said, "look at the link between headset and computer")
        if not poor:
            if facts.calibrating:
                return _Found(Condition.STARTING, "gains are being measured; alarms are live")
            return _OK
        reasons = Counter(reason for c in poor for reason in c.reasons[:1])
        commonest = [reason for reason, _ in reasons.most_common(3)]
        words = ", ".join(commonest)
        remedy = _REMEDIES.get(commonest[0] if commonest else "", "look at electrodes and cable")
        if len(poor) < len(facts.channels):
            named = ", ".join(c.label for c in poor[:LABELS_NAMED])
            more = ", ..." if len(poor) > LABELS_NAMED else ""
            said = (
                f"{len(poor)} of {len(facts.channels)} channels unusable ({words}): {named}{more}"
            )
            return _Found(Condition.DEGRADED, said, remedy)
        said = f"no channel can be classified: {words}"
        lasted = useless_s >= POOR_FAULT_AFTER_S
        return _Found(Condition.FAULT if lasted else Condition.DEGRADED, said, remedy)

    def _engine(self, facts: Facts, *, arriving: bool) -> _Found:
        restarted = self._restarts.seen(facts.n_restarts, facts.now_s)
        shed = self._shed.seen(facts.n_shed, facts.now_s)
        slow = "a faster machine, fewer channels, or a larger model.hop_samples"
        if arriving and facts.behind_s > BEHIND_S:
            said = f"{facts.engine} is {facts.behind_s:.1f} s behind the samples"
            return _Found(Condition.FAULT, said, slow)
        if shed:
            said = f"{facts.engine} is slower than the stream: {facts.n_shed} windows left out"
            return _Found(Condition.DEGRADED, said, slow)
        if facts.engine_fault is not None:
            return _Found(
                Condition.DEGRADED,
                facts.engine_fault,
                "look at the GPU, then restart the classifier to use it again",
            )
        if restarted:
            said = f"the reader was started again ({facts.n_restarts}): {facts.restart_reason}"
            return _Found(Condition.DEGRADED, said, "report it, with the log")
        return _OK if arriving else _UNKNOWN

    def _outbox(self, facts: Facts) -> _Found:
        dropped = self._dropped.seen(facts.n_dropped, facts.now_s)
        if facts.outbox_fault is not None:
            return _Found(
                Condition.FAULT,
                f"storage: {facts.outbox_fault}",
                "make room on the disk, or set outbox.path to another one",
            )
        if dropped:
            said = f"{facts.n_dropped} events dropped: too old or too many"
            return _Found(
                Condition.DEGRADED, said, "mend the broker; see outbox.max_age_h, max_rows"
            )
        return _OK

    def _broker(self, facts: Facts) -> _Found:
        if not facts.has_broker or facts.broker_fault is None:
            return _OK
        said, _, remedy = facts.broker_fault.partition(" Try: ")
        if facts.now_s - (self._started_s or 0.0) < BROKER_START_S and not remedy:
            return _Found(Condition.STARTING, said)
        return _Found(
            Condition.FAULT,
            said,
            remedy or "look whether the broker runs: stream-classifier doctor --broker ...",
        )


def stopped_health(at_s: float, *, why: Exception | None = None) -> Health:
    """Return what is left of the ladder when nobody looks any more.

    Args:
        at_s: When, on the source's clock.
        why: What ended it all; None: somebody stopped it.
    """
    stopped = "the classifier is stopped"
    steps = {rung: Step(rung, Condition.UNKNOWN, at_s, stopped) for rung in Rung}
    if why is not None:
        rung = next((r for kind, r in _RUNG_OF.items() if isinstance(why, kind)), Rung.ENGINE)
        said, _, remedy = str(why).partition(" Try: ")
        said = said or type(why).__name__
        steps[rung] = Step(rung, Condition.FAULT, at_s, said, remedy or "look at the log")
    return Health(at_s, tuple(steps.values()))


_RUNG_OF: dict[type[Exception], Rung] = {  # an outbox's error is a sink's, too: it comes first
    SourceError: Rung.OUTLET,
    OutboxError: Rung.OUTBOX,
    SinkError: Rung.BROKER,
    SignalError: Rung.SAMPLES,
}


def _outlet(facts: Facts) -> _Found:
    source = facts.source
    if source.state is SourceState.LOOKING:
        return _Found(Condition.STARTING, source.detail)
    if source.state is not SourceState.LOST:
        return _OK
    lasted = facts.now_s - facts.last_sample_s > LOST_FAULT_AFTER_S
    return _Found(
        Condition.FAULT if lasted else Condition.DEGRADED,
        source.detail or "the device is gone",
        "switch the headset on and start its LSL app; it is looked for all the while",
    )


def _samples(facts: Facts) -> _Found:
    silent_s = facts.now_s - facts.last_sample_s
    look = "look whether the headset is on, in reach and charged"
    if silent_s > SILENT_FAULT_AFTER_S:
        return _Found(Condition.FAULT, f"no sample for {silent_s:.0f} s", look)
    if silent_s > SILENT_AFTER_S:
        return _Found(Condition.NO_DATA, "no sample for more than 1.5 s", look)
    if facts.is_old:
        return _Found(
            Condition.NO_DATA,
            f"the samples that arrive are more than {OLD_AFTER_S:g} s old",
            "look at the link between headset and computer",
        )
    if facts.source.state is SourceState.NO_DATA and not facts.source.samples:
        return _Found(Condition.STARTING, "waiting for the first sample")
    return _OK


def _rate(facts: Facts) -> _Found:
    measured_hz = facts.source.measured_hz
    if measured_hz is None:
        return _Found(Condition.STARTING, "the rate is being measured")
    off = abs(measured_hz / facts.nominal_hz - 1)
    if off <= RATE_DEGRADED:
        return _OK
    return _Found(
        Condition.FAULT if off > RATE_FAULT else Condition.DEGRADED,
        f"the stream declares {facts.nominal_hz:g} Hz and sends {measured_hz:.2f} Hz",
        "set the device's rate right in its LSL app: frequencies are off by as much",
    )


_REMEDIES = {
    "flat": "an electrode is off, or its cable: put it back on",
    "railed": "the amplifier is at its limit: put the electrode back on, or lower its gain",
    "out of range": "no EEG is this large: look at the unit (source.unit) and at the electrodes",
    "offset": "a bundle without a high-pass: use the amplifier's, or the bundle headset",
    "mains": "mains hum: look at ground and reference, and at source.mains_hz",
    "not finite": "the device sends values that are no numbers: restart its LSL app",
    "motion": "the wearer moves, or the cap is loose",
    "muscle": "muscle, or a wrong source.mains_hz: wait, or put the electrode elsewhere",
    "pop": "an electrode is loose: press it on, add gel",
    "drift": "an electrode is loose or dries out: add gel",
    "alone": "this electrode does what no other does: put it back on",
    "settling": "nothing, if it passes: the filters settle after a gap",
    "hold-off": "nothing, if it passes: it follows a disturbance",
}
