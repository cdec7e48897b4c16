"""From messages to the broker, through every outage.

    event()        -> outbox (disk) --+
    alert_state()  -> latest ---------+--> one task, one connection --> broker
    prediction()   -> latest ---------+
    quality()      -> latest ---------+
    health()       -> latest ---------+
                                           one more task reads: canary, commands <-- broker

Events are sent in order and forgotten only when acknowledged. States are sent again on every
connect, since a broker forgets even what it acknowledged. Predictions are for looking at. A canary
that does not come back tells that the broker acknowledges and hands nothing on.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType, TracebackType
from typing import Self

from stream_classifier.errors import (
    BrokerRefusedError,
    BrokerUnavailableError,
    DuplicateIdError,
)
from stream_classifier.health import SinkCondition
from stream_classifier.signals import EventType
from stream_classifier.sinks.backoff import Backoff
from stream_classifier.sinks.broker import BrokerSettings
from stream_classifier.sinks.connection import Connection, Connector, Incoming, LastWill
from stream_classifier.sinks.messages import (
    EVENT_SCHEMA,
    AlertMessage,
    EventMessage,
    HealthMessage,
    InfoMessage,
    Message,
    PredictionMessage,
    QualityMessage,
    StatusMessage,
    WallClock,
    iso_utc,
    stamped,
    stamped_event,
)
from stream_classifier.sinks.outbox import Outbox, OutboxRow
from stream_classifier.sinks.read_back import READ_BACK_WITHIN_S, ReadBack
from stream_classifier.sinks.topics import Topics, stream_level

HEARTBEAT_S = 10.0
"""The alert state is sent again after this long, so that silence means trouble."""

PREDICTION_EVERY_S = 0.5
PREDICTION_EXPIRES_S = 10

QUALITY_EVERY_S = 5.0
QUALITY_CHANGE_EVERY_S = 1.0
"""What channels are worth is sent this often, and this often at most when it changes."""

QUALITY_EXPIRES_S = 15

RETRY_FIRST_S = 0.1
"""After a connection that was lost. A broker that was stopped is not back as soon as this: a first
try that it takes tells that it was there all the time, and let go of us alone."""

RETRY_CAP_S = 5.0
"""Not longer, so that a broker that is back after any outage shows the truth within 5 s."""

CONTENDED_S = 60.0
SHORT_LIVED = 2
CONTENDED_RETRY_S = 15.0
"""Another client that uses our name throws us out, and we it, for ever; so we come back at most
five times a minute. Some MQTT 5 brokers say that it is so (mosquitto 2.0 does not); else it is
presumed after so many connections in a row that lasted for less than a minute, at a broker that was
there all the time."""

REFUSED_RETRY_S = 30.0
"""After a refusal a person must act; asking more often only fills the broker's log."""

DRAIN_S = 1.5
FLUSH_S = 2.0
"""A stop takes this long at most, ``DRAIN_S`` of it for events that still wait."""

GRACE_S = 15.0
"""After a connect, an event that the broker has nobody to give to is kept for this long:
subscribers come back later than we do. Only MQTT 5 brokers tell."""

UNHEARD_RETRY_S = 0.5

EVENTS_RETRY_S = 1.0
"""Until events that could not be read from the outbox are looked for again."""

CANARY_EVERY_S = 10.0
CANARY_EXPIRES_S = 5
"""Every so often we look whether what we publish is handed on; an old canary is of no use."""

ANSWER_LEVEL = re.compile(r"[A-Za-z0-9_-]{1,64}")
MAX_CORRELATION_BYTES = 128
"""What a command may ask of its answer: a level of its own, and to carry something back."""

MAX_ANSWERS = 100
"""Answers to commands that wait for the connection; when full, the oldest is left out."""

ANSWERS_AT_ONCE = 5
"""After so many, alerts and states have their turn: whoever floods us with commands would hold them
up else, since more come while these are sent."""

log = logging.getLogger(__name__)
_clock_s = time.monotonic


@dataclass(frozen=True, slots=True)
class SinkCounters:
    """What the sink has done so far.

    Attributes:
        published: Messages sent; with QoS 1, acknowledged too.
        reconnects: Connections after the first.
        predictions_dropped: Predictions that came while the broker was away.
        denied: Messages that the broker refused to take.
        pending: Events that wait for the broker now.
    """

    published: int
    reconnects: int
    predictions_dropped: int
    denied: int
    pending: int


class MqttSink:
    """Publishes the results of one stream, for the length of an ``async with`` block.

    Its methods are for the event loop and never wait for the broker. Whatever the broker
    does, it goes on: one that is away is tried again within 5 s, one that refuses us every
    30 s, and both are logged. Credentials are best checked before, with ``connection.probe``.

    Connects once it has been told how things stand (``alert_state``), and says so before it
    says ``online``: nobody shall take the state that an earlier run left for the present one.

    Leaving the block, however that comes about, sends what waits (for 2 s at most), says
    ``stopped`` and disconnects. For a process that dies, the broker says ``offline``.

    Nothing queues up in memory: events wait in the outbox, and of states and predictions
    only the latest is kept.

    Whether the broker hands anything on is seen by a message to ourselves (``Topics.canary``)
    after each connect and every 10 s; a broker that speaks only MQTT 3.1.1 has to give back the
    events, too. What does not come back within 3 s is a ``fault``, and stops nothing.

    Args:
        settings: Where the broker is, and how to be let in.
        outbox: Open for longer than the sink. Events of an earlier run that still wait in
            it are sent, too.
        topics: Of the stream.
        info: What is published of the classifier.
        on_command: Told of what arrives below ``Topics.commands``, on the event loop; it must not
            wait, and answers with ``answer``. None: commands are not even subscribed to.
        now: The time of day for ``published``. The default is fixed to the wall clock at
            construction.

    Raises:
        ConfigError: If a certificate file cannot be read.
    """

    def __init__(
        self,
        *,
        settings: BrokerSettings,
        outbox: Outbox,
        topics: Topics,
        info: InfoMessage,
        on_command: Callable[[Incoming], None] | None = None,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        self.topics = topics
        self._connector = Connector(
            settings,
            client_id=settings.client_id or f"stream_classifier-{stream_level(topics.stream)}",
            will=LastWill(topics.status, b"offline"),
        )
        self._outbox = outbox
        self._info = info
        self._on_command = on_command
        self._alert: AlertMessage | None = None
        self._prediction: PredictionMessage | None = None
        self._quality: QualityMessage | None = None
        self._health: HealthMessage | None = None
        self._now = now or _clock_fixed_now()

        self._connected = False
        self._away: str | None = "not connected yet"
        self._denied: dict[str, str] = {}
        self._deaf: str | None = None  # which subscription the broker denied
        self._canary = ReadBack(topics.canary)
        self._events_back = ReadBack(topics.event)
        self._answers: deque[tuple[str, Incoming, bytes]] = deque(maxlen=MAX_ANSWERS)
        self._tasks = asyncio.TaskGroup()
        self._told = asyncio.Event()
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._drain_until = float("inf")
        self._gist_sent: tuple[object, ...] = ()
        self._alert_due = 0.0
        self._health_sent: tuple[float, object] = (-math.inf, None)  # when, and its gist
        self._prediction_due = 0.0
        self._quality_sent: tuple[float, object] = (-math.inf, None)  # when, and what it said
        self._events_due = 0.0
        self._canary_due = 0.0
        self._grace_until = 0.0
        self._seq: Counter[str] = Counter()
        self._n_published = 0
        self._n_connections = 0
        self._n_predictions_dropped = 0
        self._n_denied = 0

    async def __aenter__(self) -> Self:
        """Start publishing. Should the publisher itself fail, the block is cancelled."""
        await self._tasks.__aenter__()
        self._serving = self._tasks.create_task(self._serve(), name="mqtt")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Send what waits, say ``stopped`` and disconnect, within ``FLUSH_S``."""
        self._drain_until = _clock_s() + DRAIN_S
        self._stop.set()
        self._wake.set()
        try:
            if self._connected:  # if not, what waits is on disk
                await asyncio.wait({self._serving}, timeout=FLUSH_S)
        finally:
            self._serving.cancel()
            await self._tasks.__aexit__(None, None, None)

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._connected

    @property
    def fault(self) -> str | None:
        """Why results do not reach the broker, in words; None if they do."""
        denied = next(iter(self._denied.values()), None)
        return self._away or denied or self._deaf or self._not_handed_on()

    @property
    def counters(self) -> SinkCounters:
        """What the sink has done so far."""
        return SinkCounters(
            published=self._n_published,
            reconnects=max(0, self._n_connections - 1),
            predictions_dropped=self._n_predictions_dropped,
            denied=self._n_denied,
            pending=self._outbox.n_pending,
        )

    async def event(self, event: EventMessage) -> None:
        """Take one step in the life of an alert; returns once it is on disk.

        A disk that does not take it stops nothing: it is sent all the same, marked as not
        durable.
        """
        await self._outbox.put(
            event.event_id,
            self.topics.event,
            event.to_json(),
            expendable=event.event_type is EventType.UPDATED,
        )
        self._wake.set()

    def alert_state(self, message: AlertMessage) -> None:
        """Take how things stand now. Sent if it is news, else with the next heartbeat."""
        self._alert = message
        self._told.set()
        if self._alert_is_news():
            self._wake.set()

    def prediction(self, message: PredictionMessage) -> None:
        """Take the newest prediction. About two a second are sent, each of them at once.

        One that comes too early is not kept for later: it would arrive old.
        """
        if not self._connected:
            self._n_predictions_dropped += 1
        elif _clock_s() >= self._prediction_due:
            self._prediction = message
            self._wake.set()

    def quality(self, message: QualityMessage) -> None:
        """Take what the channels are worth now. Sent if it is news, else every 5 s."""
        sent_s, sent = self._quality_sent
        waits_s = QUALITY_EVERY_S if _worth(message) == sent else QUALITY_CHANGE_EVERY_S
        if self._connected and _clock_s() >= sent_s + waits_s:
            self._quality = message
            self._wake.set()

    def answer(self, command: Incoming, payload: bytes) -> None:
        """Answer a command, where it asked to be answered if that is right below ``Topics.answer``.

        A command that names another topic, or none, is answered on ``Topics.answer``: nobody
        shall make us write where he himself may not, or what the broker lets go of us for. Lost
        with the connection.
        """
        asked, ours = command.response_topic or "", self.topics.answer
        level = asked.removeprefix(f"{ours}/")
        topic = asked if level != asked and ANSWER_LEVEL.fullmatch(level) else ours
        if len(command.correlation or b"") > MAX_CORRELATION_BYTES:
            command = replace(command, correlation=None)
        self._answers.append((topic, command, payload))
        self._wake.set()

    def health(self, message: HealthMessage) -> None:
        """Take the state of health. Sent if it is news, else with the next heartbeat."""
        self._health = message
        if self._connected and self._health_is_news():
            self._wake.set()

    @property
    def condition(self) -> SinkCondition:
        """How the sink itself is doing."""
        counters = self.counters
        return SinkCondition(
            outbox_fault=self._outbox.fault,
            broker_fault=self.fault,
            counters={
                "published": counters.published,
                "broker_reconnects": counters.reconnects,
                "denied": counters.denied,
                "pending": counters.pending,
                "dropped": self._outbox.dropped,
            },
        )

    async def _serve(self) -> None:
        await self._told.wait()
        backoff = Backoff(first_s=RETRY_FIRST_S, cap_s=RETRY_CAP_S, stable_s=CONTENDED_S)
        n_short = 0
        while not self._stop.is_set():
            since_s = _clock_s()
            try:
                async with self._connector.connect(on_lost=self._wake.set) as connection:
                    since_s = _clock_s()
                    reading = self._tasks.create_task(self._read(connection), name="mqtt reading")
                    try:
                        await self._publish_until_stopped(connection)
                    finally:
                        reading.cancel()
            except BrokerRefusedError as error:
                self._report(str(error), retry_s=REFUSED_RETRY_S)
                await self._pause(REFUSED_RETRY_S)
            except BrokerUnavailableError as error:
                fault = str(error)
                is_short = self._connected and _clock_s() - since_s < CONTENDED_S
                n_short = n_short + 1 if is_short else 0  # not if it was away
                retry_s = backoff.next_s(lasted_s=math.inf if self._connected else 0.0)
                if n_short >= SHORT_LIVED and not isinstance(error, DuplicateIdError):
                    fault += (
                        f". Perhaps duplicate_id. Try: look for another client called "
                        f"{self._connector.client_id!r}, such as a second classifier on this stream"
                    )
                if n_short >= SHORT_LIVED or isinstance(error, DuplicateIdError):
                    retry_s = CONTENDED_RETRY_S
                self._report(fault, retry_s=retry_s)
                await self._pause(retry_s)
            finally:
                self._connected = False
                self._prediction = self._quality = None
                self._quality_sent = self._health_sent = (-math.inf, None)
                self._answers.clear()
                self._canary.forget()
                self._events_back.forget()

    async def _read(self, connection: Connection) -> None:
        """Take what arrives, until the connection breaks, which whoever publishes notices, too."""
        with suppress(BrokerUnavailableError):
            async for message in connection.messages():
                self._hear(message)

    def _hear(self, message: Incoming) -> None:
        for back in (self._canary, self._events_back):
            if message.topic == back.topic:
                was_missing = back.missing
                back.heard(message.payload)
                if was_missing and not back.missing:
                    log.warning("the broker gives %s back again", back.topic)
                return
        if self._on_command is not None:
            self._on_command(message)

    def _report(self, fault: str, *, retry_s: float) -> None:
        if fault != self._away:
            log.warning("%s; trying again in %.1f s", fault, retry_s)
        self._away = fault
        self._connected = False

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    async def _publish_until_stopped(self, connection: Connection) -> None:
        self._connected = True
        self._away = None
        self._n_connections += 1
        self._events_due = 0.0
        self._grace_until = _clock_s() + GRACE_S
        await self._publish_message(connection, self.topics.info, self._info, retain=True)
        await self._publish_alert(connection)
        await self._publish_status(connection, "online")
        await self._subscribe(connection)
        await self._publish_canary(connection)
        log.info("connected to %s with MQTT %s", self._connector.broker, connection.protocol)
        while not self._stop.is_set():
            self._wake.clear()
            await self._publish_due(connection)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._next_due() - _clock_s())):
                    await self._wake.wait()
            connection.raise_if_lost()
        await self._say_goodbye(connection)

    async def _subscribe(self, connection: Connection) -> None:
        topics = [self.topics.canary]
        if connection.protocol == "3.1.1":  # an MQTT 5 broker says itself that it denies an event
            topics.append(self.topics.event)
        if self._on_command is not None:
            topics.append(f"{self.topics.commands}/#")
        before, self._deaf = self._deaf, None
        try:
            await connection.subscribe(*topics)
        except BrokerRefusedError as error:
            self._deaf = str(error)
            if self._deaf != before:
                log.error("%s", error)  # noqa: TRY400 - the error says all there is to say

    async def _publish_canary(self, connection: Connection) -> None:
        nonce = secrets.token_hex(8).encode()
        self._canary_due = _clock_s() + CANARY_EVERY_S
        self._canary.sent(nonce, now_s=_clock_s())
        if not await self._publish(
            connection,
            self.topics.canary,
            nonce,
            content_type="text/plain",
            expires_s=CANARY_EXPIRES_S,
        ):
            self._canary.forget()

    def _look_for_what_came_back(self) -> None:
        before = self._not_handed_on()
        for back in (self._canary, self._events_back):
            back.look(now_s=_clock_s())
        fault = self._not_handed_on()
        if fault is not None and fault != before:
            log.error("%s", fault)

    def _not_handed_on(self) -> str | None:
        missing = [back.topic for back in (self._events_back, self._canary) if back.missing]
        if not missing:
            return None
        broker = self._connector.broker
        who = f"user {broker.username!r}" if broker.username else "a client without a name"
        return (
            f"{broker} does not hand on what it acknowledges: expected our own message on "
            f"{missing[0]} back within {READ_BACK_WITHIN_S:g} s, found none. Try: let {who} write "
            "and read that topic in the broker's access list (deploy/mosquitto/acl shows how)"
        )

    async def _say_goodbye(self, connection: Connection) -> None:
        await self._publish_events(connection)
        # Nobody looks at the signal any more. A standing alert stays on.
        if self._alert is not None:
            self._alert = self._alert.model_copy(update={"signal": "stopped", "state": None})
        if self._alert_is_news():
            await self._publish_alert(connection)
        await self._publish_health(connection)
        await self._publish_status(connection, "stopped")

    def _next_due(self) -> float:
        due = [
            self._alert_due,
            self._health_sent[0] + HEARTBEAT_S,
            self._canary_due,
            self._canary.due_s,
            self._events_back.due_s,
        ]
        if self._outbox.n_pending:
            due.append(self._events_due)
        return min(due)

    async def _publish_due(self, connection: Connection) -> None:
        if self._outbox.n_pending and _clock_s() >= self._events_due:
            await self._publish_events(connection)
        if self._alert_is_news() or _clock_s() >= self._alert_due:
            await self._publish_alert(connection)
        if self._prediction is not None:
            self._prediction_due = _clock_s() + PREDICTION_EVERY_S
            message, self._prediction = self._prediction, None
            await self._publish_message(
                connection, self.topics.prediction, message, qos=0, expires_s=PREDICTION_EXPIRES_S
            )
        await self._publish_answers(connection)
        if self._health_is_news():
            await self._publish_health(connection)
        if _clock_s() >= self._canary_due:
            await self._publish_canary(connection)
        self._look_for_what_came_back()
        if self._quality is not None:
            quality, self._quality = self._quality, None
            self._quality_sent = (_clock_s(), _worth(quality))
            await self._publish_message(
                connection,
                self.topics.quality,
                quality,
                qos=0,
                retain=True,
                expires_s=QUALITY_EXPIRES_S,
            )

    async def _publish_answers(self, connection: Connection) -> None:
        for _ in range(min(len(self._answers), ANSWERS_AT_ONCE)):
            topic, command, payload = self._answers.popleft()
            await self._publish(connection, topic, payload, correlation=command.correlation)
        if self._answers:
            self._wake.set()

    def _health_is_news(self) -> bool:
        sent_s, gist = self._health_sent
        return _clock_s() >= sent_s + HEARTBEAT_S or (
            self._health is not None and _conditions(self._health) != gist
        )

    async def _publish_health(self, connection: Connection) -> None:
        gist = None if self._health is None else _conditions(self._health)
        self._health_sent = (_clock_s(), gist)
        if self._health is not None:
            await self._publish_message(connection, self.topics.health, self._health, retain=True)

    async def _publish_events(self, connection: Connection) -> None:
        """Send the events that wait, oldest first; the first one denied holds up the rest."""
        while rows := await self._outbox.pending():
            for row in rows:
                if _clock_s() >= self._drain_until:
                    return
                self._look_for_what_came_back()
                if not await self._publish_event(connection, row):
                    self._events_due = _clock_s() + REFUSED_RETRY_S
                    return
                if connection.unheard and _clock_s() < self._grace_until:
                    self._events_due = _clock_s() + UNHEARD_RETRY_S
                    return
                await self._outbox.delivered(row.event_id)
        if self._outbox.n_pending:
            self._events_due = _clock_s() + EVENTS_RETRY_S

    async def _publish_event(self, connection: Connection, row: OutboxRow) -> bool:
        try:
            payload = stamped_event(
                row.payload,
                published=self._now(),
                seq=self._seq[row.topic],
                durable=row.durable,
            )
        except ValueError as error:
            log.error("event %s in the outbox is damaged and left out: %s", row.event_id, error)  # noqa: TRY400 - the cause is named
            return True
        if connection.protocol == "3.1.1":
            self._events_back.sent(payload, now_s=_clock_s())
        labels = {"schema": EVENT_SCHEMA, "simulated": _word(self._info.simulated)}
        return await self._publish(connection, row.topic, payload, labels=labels)

    def _alert_is_news(self) -> bool:
        return self._alert is not None and _gist(self._alert) != self._gist_sent

    async def _publish_alert(self, connection: Connection) -> None:
        self._alert_due = _clock_s() + HEARTBEAT_S
        if self._alert is not None:
            self._gist_sent = _gist(self._alert)
            await self._publish_message(connection, self.topics.alert, self._alert, retain=True)

    async def _publish_status(self, connection: Connection, status: StatusMessage) -> None:
        await self._publish(
            connection, self.topics.status, status.encode(), retain=True, content_type="text/plain"
        )

    async def _publish_message(
        self,
        connection: Connection,
        topic: str,
        message: Message,
        *,
        qos: int = 1,
        retain: bool = False,
        expires_s: int | None = None,
    ) -> None:
        await self._publish(
            connection,
            topic,
            stamped(message.to_json(), published=iso_utc(self._now()), seq=self._seq[topic]),
            qos=qos,
            retain=retain,
            expires_s=expires_s,
            labels={"schema": message.schema_, "simulated": _word(message.simulated)},
        )

    async def _publish(
        self,
        connection: Connection,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        content_type: str = "application/json",
        expires_s: int | None = None,
        labels: Mapping[str, str] = MappingProxyType({}),
        correlation: bytes | None = None,
    ) -> bool:
        """Send, and return whether the broker took it; denied for one topic, others go on."""
        try:
            await connection.publish(
                topic,
                payload,
                qos=qos,
                retain=retain,
                content_type=content_type,
                expires_s=expires_s,
                labels=labels,
                correlation=correlation,
            )
        except BrokerRefusedError as error:
            if topic not in self._denied:
                log.error("%s", error)  # noqa: TRY400 - the error says all there is to say
            self._denied[topic] = str(error)
            self._n_denied += 1
            return False
        self._denied.pop(topic, None)
        self._seq[topic] += 1
        self._n_published += topic != self.topics.canary  # which is no message to anybody
        return True


def _gist(message: AlertMessage) -> tuple[object, ...]:
    """Return what makes an alert state news; p and the times change with every window."""
    return (
        message.state,
        message.signal,
        message.quality,
        message.on,
        message.priority,
        message.alert_id,
        message.ended,
        message.latched,
        message.acknowledged,
        message.muted_until,
    )


def _worth(message: QualityMessage) -> tuple[object, ...]:
    """Return what makes a quality news; the measures change with every window."""
    return (message.signal, *((c.channel, c.state, c.reasons, c.gain) for c in message.channels))


def _conditions(message: HealthMessage) -> tuple[object, ...]:
    """Return what makes a state of health news; reasons hold numbers that change all the time."""
    return tuple((rung.rung, rung.state) for rung in message.rungs)


def _word(claim: bool) -> str:
    return "true" if claim else "false"


def _clock_fixed_now() -> Callable[[], datetime]:
    clock = WallClock.set_now(_clock_s())
    return lambda: clock.utc(_clock_s())
