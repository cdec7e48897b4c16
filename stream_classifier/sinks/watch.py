"""What subscribers see: the messages of one stream or of all, through every outage."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from stream_classifier.errors import BrokerUnavailableError
from stream_classifier.sinks.backoff import Backoff
from stream_classifier.sinks.broker import BrokerSettings
from stream_classifier.sinks.connection import Connector, Incoming, passing_client_id
from stream_classifier.sinks.messages import MAX_PAYLOAD_BYTES
from stream_classifier.sinks.topics import levels_meant

RETRY_FIRST_S = 0.25
RETRY_CAP_S = 5.0
STABLE_S = 10.0

REMEMBERED_EVENTS = 10_000

log = logging.getLogger(__name__)


class Received(NamedTuple):
    """One message, as it arrived.

    Attributes:
        received_at: When, UTC.
        level: Topic level of the stream.
        what: Rest of the topic: ``status``, ``alert``, ``alert/event``, ``prediction``,
            ``info``, or what a later version adds.
        message: The JSON object, or the text of ``status``.
        retained: Whether it was there before we subscribed.
    """

    received_at: datetime
    level: str
    what: str
    message: dict[str, Any] | str
    retained: bool


async def watch(
    broker: BrokerSettings,
    *,
    stream: str | None = None,
    subscribed: asyncio.Event | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> AsyncIterator[Received]:
    """Yield messages as they come, for ever.

    A broker that is away is tried again; what it said meanwhile is missed, except retained
    messages. An event that the broker delivers twice is yielded once. What is no message of
    ours (too large, no JSON) is logged and left out.

    Args:
        broker: Where, and how to be let in.
        stream: Name or topic level of one stream; None: all of them.
        subscribed: Set while messages can arrive, cleared while they cannot.
        now: The time of day.

    Raises:
        BrokerRefusedError: If the broker does not let us in.
        ConfigError: If a certificate file cannot be read.
    """
    levels = ("+",) if stream is None else levels_meant(stream)
    filters = [f"{broker.base_topic}/{level}/#" for level in levels]
    subscribed = subscribed or asyncio.Event()
    connector = Connector(broker, client_id=passing_client_id("watch"))
    backoff = Backoff(first_s=RETRY_FIRST_S, cap_s=RETRY_CAP_S, stable_s=STABLE_S)
    clock_s = asyncio.get_running_loop().time
    seen = _Seen()
    while True:
        since_s: float | None = None
        try:
            async with connector.connect() as connection:
                await connection.subscribe(*filters)
                since_s = clock_s()
                subscribed.set()
                async for incoming in connection.messages():
                    received = _read(incoming, base=broker.base_topic, at=now())
                    if received is not None and not seen.before(received):
                        yield received
        except BrokerUnavailableError as error:
            retry_s = backoff.next_s(lasted_s=0.0 if since_s is None else clock_s() - since_s)
            log.warning("%s; trying again in %.1f s", error, retry_s)
        finally:
            subscribed.clear()
        await asyncio.sleep(retry_s)


def _read(incoming: Incoming, *, base: str, at: datetime) -> Received | None:
    level, _, what = incoming.topic.removeprefix(f"{base}/").partition("/")
    if len(incoming.payload) > MAX_PAYLOAD_BYTES:
        log.warning("%s: %d bytes are no message of ours", incoming.topic, len(incoming.payload))
        return None
    try:
        text = incoming.payload.decode()
        message = text if what == "status" else json.loads(text)
    except (ValueError, RecursionError) as error:
        log.warning("%s: no message of ours: %s", incoming.topic, error)
        return None
    if what != "status" and not isinstance(message, dict):
        log.warning("%s: no message of ours: expected a JSON object", incoming.topic)
        return None
    return Received(at, level, what, message, incoming.retained)


class _Seen:
    """Recognises events that are delivered a second time.

    The time of decision is compared, too: a recording that is played again has the same
    alerts, under the same ids, and they are news.
    """

    def __init__(self) -> None:
        self._newest: OrderedDict[tuple[str, str, str], None] = OrderedDict()

    def before(self, received: Received) -> bool:
        message = received.message
        if isinstance(message, str) or "event_id" not in message:
            return False
        key = (received.level, str(message["event_id"]), str(message.get("decided")))
        if key in self._newest:
            return True
        self._newest[key] = None
        if len(self._newest) > REMEMBERED_EVENTS:
            self._newest.popitem(last=False)
        return False
