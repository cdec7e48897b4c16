"""What subscribers receive: the payloads as types, and how they are made from results.

The types are the contract. Their JSON Schema (2020-12) comes from ``json_schema``, and
changes only ever add. Every payload stays below ``MAX_PAYLOAD_BYTES``, holds no NaN and no
control character, and names times in UTC with milliseconds.

``published`` and ``seq``, and of events ``late`` and ``durable``, are stamped when a message
goes out, not when it is made.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
)

from stream_classifier.errors import printable
from stream_classifier.health import Condition, Health, Rung
from stream_classifier.signals import (
    CLASS_NAMES,
    AlertEvent,
    ChannelQuality,
    ChannelState,
    EventType,
    Prediction,
    State,
    StreamSpec,
)

MAX_PAYLOAD_BYTES = 16_000
"""Every payload is smaller, for up to 512 channels with labels of any length."""

LATE_AFTER = timedelta(seconds=5)
"""An event that goes out this long after its decision is marked as late."""

ALERT_SCHEMA: Final = "stream_classifier/alert/1"
EVENT_SCHEMA: Final = "stream_classifier/event/1"
PREDICTION_SCHEMA: Final = "stream_classifier/prediction/1"
QUALITY_SCHEMA: Final = "stream_classifier/quality/1"
INFO_SCHEMA: Final = "stream_classifier/info/1"
ANSWER_SCHEMA: Final = "stream_classifier/answer/1"
HEALTH_SCHEMA: Final = "stream_classifier/health/1"

_NAME_BYTES = 256
_LABEL_BYTES = 48
_LABELS_BYTES = 5_000
_CHANNELS_BYTES = 14_000
_CARD_ENTRIES = 24
_CARD_BYTES = 200
_REASON_BYTES = 500

StatusMessage = Literal["online", "offline", "stopped"]
"""The whole payload of ``status``, as plain text."""

Signal = Literal["ok", "none", "poor", "starting", "calibrating", "stopped"]
"""Whether there is a signal to judge. Anything but ``ok`` is never "no seizure"."""

Quality = Literal["good", "fair", "poor"]
_QUALITY: Final[dict[ChannelState, Quality]] = {
    ChannelState.GOOD: "good",
    ChannelState.FAIR: "fair",
    ChannelState.POOR: "poor",
}
Scalar = str | int | float | bool | None


def iso_utc(at: datetime) -> str:
    """Write an instant as subscribers read it.

    Example:
        >>> iso_utc(datetime(2026, 11, 23, 14, 32, 15, 112_000, UTC))
        '2026-11-23T14:32:15.112Z'
    """
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _to_ms(at: datetime) -> datetime:
    """Round to the millisecond; cutting would make every time half a millisecond early."""
    try:
        rounded = at.astimezone(UTC) + timedelta(microseconds=500)
    except OverflowError as error:  # which pydantic would let through
        raise ValueError(f"{at} is not of this calendar in UTC") from error
    return rounded.replace(microsecond=rounded.microsecond // 1000 * 1000)


UtcTime = Annotated[
    AwareDatetime,
    AfterValidator(_to_ms),
    PlainSerializer(iso_utc, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": r"\.\d{3}Z$"}),
]
Probability = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, slots=True)
class WallClock:
    """Labels instants of a source's clock with the time of day.

    The relation is fixed at the start, so that setting the wall clock (daylight saving, a
    late time server) moves no alert. The price: a wall clock that was wrong at the start
    stays wrong in the labels until the next one.

    Attributes:
        offset_s: Unix time minus the source's clock, seconds.

    Example:
        >>> iso_utc(WallClock(offset_s=1_000_000_000.0).utc(0.25))
        '2001-09-09T01:46:40.250Z'
    """

    offset_s: float

    @classmethod
    def set_now(cls, source_now_s: float) -> WallClock:
        """Fix the relation between a source's clock and the wall clock.

        Args:
            source_now_s: What the source's clock shows now (for LSL ``local_clock()``).
        """
        return cls(offset_s=datetime.now(UTC).timestamp() - source_now_s)

    def utc(self, at_s: float) -> datetime:
        """Return the time of day of an instant on the source's clock."""
        return datetime.fromtimestamp(round(at_s + self.offset_s, 3), UTC)

    def source_s(self, at: datetime) -> float:
        """Return when on the source's clock a time of day was, or will be."""
        return at.timestamp() - self.offset_s


class _Part(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True
    )


class Threshold(_Part):
    """The p(seizure) between which an alert lives."""

    raise_: Probability = Field(alias="raise", description="at or above it an alert is raised")
    clear: Probability = Field(description="below it the seizure is held to be over")


class Model(_Part):
    """Which model decided."""

    name: str
    sha256: str = Field(description="digest of the model bundle")


class ModelWithCard(Model):
    """Which model decides, with a summary of its model card."""

    card: dict[str, Scalar]


class Origin(_Part):
    """Where the samples come from."""

    kind: str = Field(description="lsl, or recording")
    source_id: str = Field(description="the device's stable identity; empty if it gave none")


class Message(_Part):
    """What every JSON payload carries."""

    schema_: str = Field(alias="schema")
    stream: str = Field(description="the stream's own name, a pseudonym; shortened if very long")
    seq: int = Field(0, ge=0, description="counts this publisher's messages on this topic, from 0")
    ts: UtcTime = Field(description="time of the last sample that counted")
    published: UtcTime | None = Field(None, description="when this message was sent")
    simulated: bool = Field(description="whether the device says that it invents its samples")

    def to_json(self) -> bytes:
        """Return the payload, UTF-8."""
        return self.model_dump_json(by_alias=True).encode()


class Decided(Message):
    """What every payload carries that follows from a decision."""

    state: State | None = Field(description="null while nothing can be said; never the signal's")
    signal: Signal = Field(description="anything but ok is never 'no seizure'")
    p: Probability | None = Field(description="smoothed p(seizure) of the stream; null: unknown")
    decided: UtcTime | None = Field(description="when it was decided; null: not yet")


class AlertFields(Decided):
    """The alert of one stream, as its state and its events show it."""

    on: bool = Field(
        description="whether a seizure is held to be going on, or a latched alert is not "
        "acknowledged yet"
    )
    priority: Literal["high", "low"] | None = Field(
        description="high while on, low while it may still come back, null without an alert"
    )
    alert_id: str | None = Field(description="one id from onset to end; null without an alert")
    onset: UtcTime | None = Field(description="first window of the rise")
    raised: UtcTime | None = Field(description="when thresholds and persistence were met")
    ended: UtcTime | None = Field(description="when it went off, known once it is over for good")
    p_max: Probability | None = Field(description="highest p so far")
    threshold: Threshold
    channels: tuple[str, ...] = Field(description="channels at or above the raise threshold")
    quality: Quality | None = Field(None, description="of the signal; null: not judged")
    latched: bool = Field(False, description="whether it stands until acknowledged")
    acknowledged: bool = Field(False, description="whether a person has seen it")
    late: bool = Field(False, description="sent more than 5 s after it was decided")
    durable: bool = Field(True, description="whether it was on disk before it was sent")
    test: bool = Field(False, description="a test of the alarm chain, not a finding")
    model: Model
    source: Origin
    intended_use: Literal["research"] = "research"


class AlertMessage(AlertFields):
    """The retained alert state, published on change and as a heartbeat."""

    schema_: Literal["stream_classifier/alert/1"] = Field(ALERT_SCHEMA, alias="schema")
    muted_until: UtcTime | None = Field(
        None, description="a person asked for quiet until then; null: nobody did. Hides nothing"
    )


class EventMessage(AlertFields):
    """One step in the life of one alert; the same step always has the same ``event_id``."""

    schema_: Literal["stream_classifier/event/1"] = Field(EVENT_SCHEMA, alias="schema")
    event_type: EventType
    event_id: str = Field(description="receive a step twice, and this tells")


class PredictionMessage(Decided):
    """p(seizure) of the newest window.

    The other classes say where and how a recording was made, not what a person has: they
    are not published.
    """

    schema_: Literal["stream_classifier/prediction/1"] = Field(PREDICTION_SCHEMA, alias="schema")
    channels: tuple[str, ...]
    window: tuple[Probability | None, ...] = Field(
        description="p(seizure) of the newest window of each channel; null: no decision"
    )
    smoothed: tuple[Probability | None, ...] = Field(
        description="smoothed p(seizure) of each channel; null: unknown"
    )


class ChannelReport(_Part):
    """What the newest window of one channel is worth."""

    channel: str
    state: Quality = Field(description="poor: no decision is made on it")
    reasons: tuple[str, ...] = Field(description="why it is not good; the weightiest first")
    rms_uv: Annotated[float, Field(ge=0)] | None = Field(
        description="as it comes, about its mean; null: a sample is missing"
    )
    mains_share: Probability = Field(description="power at the mains' frequency, of all power")
    flat_share: Probability = Field(description="share of the window in which nothing moves")
    railed_share: Probability = Field(description="share of the window at its own extreme value")
    gain: Annotated[float, Field(gt=0)] = Field(description="1 until it is measured")


class QualityMessage(Message):
    """What each channel's signal is worth.

    Of a stream with more channels than fit, the worst ones are listed; the counts are of all.
    """

    schema_: Literal["stream_classifier/quality/1"] = Field(QUALITY_SCHEMA, alias="schema")
    signal: Signal = Field(description="as in the alert state")
    good: int = Field(ge=0, description="channels that are good")
    fair: int = Field(ge=0, description="channels that are decided on, with care")
    poor: int = Field(ge=0, description="channels that no decision is made on")
    channels: tuple[ChannelReport, ...]
    left_off: int = Field(0, ge=0, description="channels that are not listed")


class RungReport(_Part):
    """One rung of the ladder from the outlet to the broker."""

    rung: Rung
    state: Condition
    since: UtcTime = Field(description="since when it has been in this state")
    reason: str = Field(description="why it is not ok, for a person; empty where it is")
    remedy: str = Field(description="what to do about it; empty where nothing is to be done")


class Latency(_Part):
    """How long decisions took behind their last sample, of the newest 10,000."""

    p50: Annotated[float, Field(ge=0)] | None = Field(description="ms; null: no decision yet")
    p99: Annotated[float, Field(ge=0)] | None
    n: int = Field(ge=0, description="decisions measured")


class HealthMessage(Message):
    """Whether the classifier can do its work. Never says anything of the alert."""

    schema_: Literal["stream_classifier/health/1"] = Field(HEALTH_SCHEMA, alias="schema")
    state: Condition = Field(description="of the worst rung")
    rungs: tuple[RungReport, ...] = Field(description="from the outlet to the broker")
    decision_latency_ms: Latency
    counters: dict[str, int]


class InfoMessage(Message):
    """What the classifier is and how to read its results."""

    schema_: Literal["stream_classifier/info/1"] = Field(INFO_SCHEMA, alias="schema")
    channels: tuple[str, ...]
    unit: Literal["uV"] = "uV"
    rate_hz: float = Field(gt=0, description="of the stream, before it is resampled")
    model: ModelWithCard
    threshold: Threshold
    source: Origin
    topics: dict[str, str]
    versions: dict[str, str]
    intended_use: Literal["research"] = "research"


@dataclass(frozen=True, slots=True)
class ModelRef:
    """The model, as messages name it.

    Attributes:
        name: Of the bundle.
        sha256: Of the bundle, hexadecimal.
        raise_threshold: p(seizure) that raises an alert.
        clear_threshold: p(seizure) below which it is held to be over.
    """

    name: str
    sha256: str
    raise_threshold: float
    clear_threshold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageBuilder:
    """Makes the messages of one stream from what its detector says.

    Attributes:
        spec: The stream; its name is the one to publish under.
        model: What decides.
        clock: Labels the source's seconds with the time of day.
    """

    spec: StreamSpec
    model: ModelRef
    clock: WallClock

    def prediction(
        self, prediction: Prediction, *, signal: Signal, decided: datetime
    ) -> PredictionMessage:
        """Say what the newest window says."""
        seizure = prediction.probabilities[:, CLASS_NAMES.index("seizure")]
        return PredictionMessage(
            stream=_name(self.spec.name),
            ts=self.clock.utc(prediction.at_s),
            simulated=self.spec.simulated,
            state=prediction.state,
            signal=signal,
            p=_known(prediction.p),
            decided=decided,
            channels=_labels(self.spec.labels),
            window=tuple(map(_known, seizure.tolist())),
            smoothed=tuple(map(_known, prediction.smoothed.tolist())),
        )

    def quality(
        self, channels: Sequence[ChannelQuality], *, at_s: float, signal: Signal
    ) -> QualityMessage:
        """Say what each channel's signal is worth, as of a time on the source's clock."""
        labels = _labels(channel.label for channel in channels)
        reports = [_report(*both) for both in zip(channels, labels, strict=True)]
        listed = _fitting(reports)
        if len(listed) < len(reports):
            listed = _fitting(sorted(reports, key=lambda r: _WORST_FIRST.index(r.state)))
        n_of = Counter(report.state for report in reports)
        return QualityMessage(
            stream=_name(self.spec.name),
            ts=self.clock.utc(at_s),
            simulated=self.spec.simulated,
            signal=signal,
            good=n_of["good"],
            fair=n_of["fair"],
            poor=n_of["poor"],
            channels=tuple(listed),
            left_off=len(reports) - len(listed),
        )

    def alert(
        self,
        *,
        at_s: float,
        prediction: Prediction | None,
        latest: AlertEvent | None,
        signal: Signal,
        decided: datetime | None,
        quality: Quality | None = None,
        muted_until: datetime | None = None,
    ) -> AlertMessage:
        """Say how things stand.

        Args:
            at_s: Time on the source's clock that this is about: of the newest sample, or
                now if there is none.
            prediction: The newest one; None while nothing can be said.
            latest: Latest step of the alert that stands, or that just ended; None
                without an alert.
            signal: Whether there is a signal to judge.
            decided: When ``prediction`` was made.
            quality: Of the signal, if it is judged.
            muted_until: Until when a person asked for quiet.
        """
        return AlertMessage(
            ts=self.clock.utc(at_s),
            state=None if prediction is None else prediction.state,
            signal=signal,
            p=None if prediction is None else _known(prediction.p),
            decided=decided,
            quality=quality,
            muted_until=muted_until,
            **self._life(latest),
        )

    def event(
        self,
        event: AlertEvent,
        *,
        state: State | None,
        signal: Signal,
        decided: datetime,
        quality: Quality | None = None,
        test: bool = False,
    ) -> EventMessage:
        """Say what happened to an alert."""
        return EventMessage(
            ts=self.clock.utc(event.at_s),
            state=state,
            signal=signal,
            p=_known(event.p),
            decided=decided,
            quality=quality,
            test=test,
            event_type=event.type,
            event_id=f"{event.alert_id}.{event.seq}",
            **self._life(event),
        )

    def health(self, health: Health, *, counters: Mapping[str, int]) -> HealthMessage:
        """Say whether the classifier can do its work."""
        return HealthMessage(
            stream=_name(self.spec.name),
            ts=self.clock.utc(health.at_s),
            simulated=self.spec.simulated,
            state=health.condition,
            rungs=tuple(
                RungReport(
                    rung=step.rung,
                    state=step.condition,
                    since=self.clock.utc(step.since_s),
                    reason=shown(step.reason, max_bytes=_REASON_BYTES),
                    remedy=shown(step.remedy, max_bytes=_REASON_BYTES),
                )
                for step in health.steps
            ),
            decision_latency_ms=Latency(
                p50=health.latency_p50_ms, p99=health.latency_p99_ms, n=health.n_latency
            ),
            counters=dict(counters),
        )

    def info(
        self,
        *,
        at: datetime,
        topics: Mapping[str, str],
        versions: Mapping[str, str],
        card: Mapping[str, Scalar],
    ) -> InfoMessage:
        """Say what the classifier is.

        Args:
            at: Now.
            topics: Every topic of the stream, by short name.
            versions: Of the package and what it runs on.
            card: Summary of the model card; the first 24 entries are taken.
        """
        return InfoMessage(
            stream=_name(self.spec.name),
            ts=at,
            simulated=self.spec.simulated,
            channels=_labels(self.spec.labels),
            rate_hz=self.spec.rate_hz,
            model=ModelWithCard(
                name=_name(self.model.name),
                sha256=self.model.sha256,
                card={
                    shown(key, max_bytes=_LABEL_BYTES): _scalar(value)
                    for key, value in list(card.items())[:_CARD_ENTRIES]
                },
            ),
            threshold=self._threshold(),
            source=self._source(),
            topics=dict(topics),
            versions=dict(versions),
        )

    def _life(self, event: AlertEvent | None) -> dict[str, Any]:
        """Return what an alert's state and its events have in common."""
        return {
            "stream": _name(self.spec.name),
            "simulated": self.spec.simulated,
            "on": event is not None and event.on,
            "priority": _priority(event),
            "alert_id": event and event.alert_id,
            "onset": event and self.clock.utc(event.onset_s),
            "raised": event and self.clock.utc(event.raised_s),
            "ended": event and self._ended(event),
            "p_max": event and _known(event.p_max),
            "threshold": self._threshold(),
            "channels": _labels(event.channels) if event else (),
            "latched": event is not None and event.latched,
            "acknowledged": event is not None and event.acknowledged,
            "model": Model(name=_name(self.model.name), sha256=self.model.sha256),
            "source": self._source(),
        }

    def _ended(self, event: AlertEvent) -> datetime | None:
        """Return since when p had been low: an alert ends for good only later."""
        if not event.over and event.type not in _FINAL:
            return None
        return self.clock.utc(event.at_s if event.off_s is None else event.off_s)

    def _threshold(self) -> Threshold:
        return Threshold(raise_=self.model.raise_threshold, clear=self.model.clear_threshold)

    def _source(self) -> Origin:
        return Origin(kind=self.spec.kind, source_id=_name(self.spec.source_id))


_FINAL = (EventType.ENDED, EventType.RETRACTED)
_WORST_FIRST: Final = ("poor", "fair", "good")


def overall(states: Sequence[str]) -> Quality | None:
    """Say what a stream's signal is worth: what at least half of its channels are worth.

    Example:
        >>> overall(["good", "good", "poor"]), overall(["good", "poor"]), overall([])
        ('good', 'good', None)
    """
    if not states:
        return None
    n_of = Counter(map(str, states))
    if 2 * n_of["good"] >= len(states):
        return "good"
    return "poor" if 2 * n_of["poor"] > len(states) else "fair"


def _report(channel: ChannelQuality, label: str) -> ChannelReport:
    return ChannelReport(
        channel=label,
        state=_QUALITY[channel.state],
        reasons=channel.reasons,
        rms_uv=round(channel.rms_uv, 1) if math.isfinite(channel.rms_uv) else None,
        mains_share=round(channel.mains_share, 3),
        flat_share=round(channel.flat_share, 3),
        railed_share=round(channel.railed_share, 3),
        gain=round(channel.gain, 3),
    )


def _fitting(reports: Iterable[ChannelReport]) -> list[ChannelReport]:
    """Return the first of them, as many as fit into a payload."""
    fitting = []
    left = _CHANNELS_BYTES
    for report in reports:
        left -= len(report.model_dump_json().encode()) + 1
        if left < 0:
            break
        fitting.append(report)
    return fitting


def _priority(event: AlertEvent | None) -> Literal["high", "low"] | None:
    if event is None:
        return None
    return "high" if event.on else "low"


def stamped(payload: bytes, **facts: Scalar) -> bytes:
    """Return a JSON payload with fields set that are known only as it goes out.

    Works on the payload and not on the type, so that an event that an earlier version
    left in the outbox goes out as it was, with every field it had.

    Raises:
        ValueError: If the payload is no JSON.
    """
    return _compact(json.loads(payload) | facts)


def stamped_event(payload: bytes, *, published: datetime, seq: int, durable: bool) -> bytes:
    """Return an event's payload as it goes out, and say in it whether it is late.

    Raises:
        ValueError: If the payload is no JSON object with a time of decision.
    """
    try:
        fields = json.loads(payload)
        decided = fields.get("decided") if isinstance(fields, dict) else None
        decided_at = datetime.fromisoformat(str(decided)).astimezone(UTC)
    except (RecursionError, OverflowError) as error:
        raise ValueError(str(error)) from error
    facts = {
        "published": iso_utc(published),
        "seq": seq,
        "late": published - decided_at > LATE_AFTER,
        "durable": durable,
    }
    return _compact(fields | facts)


def _compact(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def standing_alert(payload: bytes, *, clock: WallClock) -> AlertEvent | None:
    """Return the alert that an event left standing, so that another process can go on with it.

    Args:
        payload: The newest event of a stream, as an earlier process stored it.
        clock: Of this process.

    Returns:
        Its latest step; None if it was over and stands for nobody, or what is there is no event
        of ours.
    """
    try:
        message = EventMessage.model_validate_json(payload)
        seq = int(message.event_id.rpartition(".")[2])
    except ValueError:
        return None
    if message.test or None in (message.onset, message.raised):
        return None
    over = message.ended is not None or message.event_type in _FINAL
    if over and (not message.latched or message.acknowledged):
        return None
    at_s = clock.source_s(message.ts)
    p = message.p or 0.0
    # A latched alert says that it is on when it is off, too; the step that it went off with is low.
    is_off = not message.on or over or p < message.threshold.clear
    return AlertEvent(
        type=message.event_type,
        alert_id=message.alert_id or "",
        seq=seq,
        at_s=at_s,
        onset_s=clock.source_s(message.onset or message.ts),
        raised_s=clock.source_s(message.raised or message.ts),
        # The step that says "off" comes when it goes off.
        off_s=at_s if is_off else None,
        p=p,
        p_max=message.p_max or 0.0,
        channels=message.channels,
        latched=message.latched,
        acknowledged=message.acknowledged,
        over=over,
    )


def json_schema(message: type[Message]) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a message type, as it is on the wire.

    Unknown fields are allowed: later versions add some, and a subscriber that validates
    must not refuse an alert for that.
    """
    schema = message.model_json_schema(by_alias=True, mode="serialization")
    for part in (schema, *schema.get("$defs", {}).values()):
        part.pop("additionalProperties", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def shown(text: str, *, max_bytes: int) -> str:
    """Make a foreign text safe to print and short enough to send.

    What cannot be printed (control characters, unpaired surrogates) becomes U+FFFD, and
    what is cut off becomes an ellipsis.

    Args:
        text: Anything.
        max_bytes: Size in JSON, UTF-8, without the quotes; at least 3.

    Example:
        >>> shown("Fp1" + chr(10) + "-" * 9, max_bytes=9)
        'Fp1\ufffd…'
    """
    clean = printable(text[: max_bytes + 1])
    if _json_bytes(clean) <= max_bytes:
        return clean
    while _json_bytes(clean) + len("…".encode()) > max_bytes:
        clean = clean[:-1]
    return clean + "…"


def _json_bytes(text: str) -> int:
    return len(json.dumps(text, ensure_ascii=False).encode()) - len('""')


@lru_cache(maxsize=64)
def _name(text: str) -> str:
    return shown(text, max_bytes=_NAME_BYTES)


def _labels(labels: Iterable[str]) -> tuple[str, ...]:
    return _short_labels(tuple(labels))


@lru_cache(maxsize=64)
def _short_labels(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Shorten labels so that all of them together stay within their share of a payload."""
    each = min(_LABEL_BYTES, max(3, _LABELS_BYTES // max(1, len(labels))))
    return tuple(shown(label, max_bytes=each) for label in labels)


def _known(value: float | None) -> float | None:
    """Return a probability with four decimals, or None for NaN."""
    if value is None or not math.isfinite(value):
        return None
    return round(min(max(value, 0.0), 1.0), 4)


def _scalar(value: Scalar) -> Scalar:
    if isinstance(value, str):
        return shown(value, max_bytes=_CARD_BYTES)
    return value if not isinstance(value, float) or math.isfinite(value) else None
