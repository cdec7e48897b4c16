"""What subscribers see: the messages of one stream or of all, through every outage."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

from stream_classifier.errors import BrokerUnavailableError, printable
from stream_classifier.sinks.backoff import Backoff
from stream_classifier.sinks.broker import BrokerSettings
from stream_classifier.sinks.connection import Connector, Incoming, passing_client_id
from stream_classifier.sinks.messages import MAX_PAYLOAD_BYTES
from stream_classifier.sinks.topics import levels_meant

RETRY_FIRST_S = 0.25
RETRY_CAP_S = 5.0
STABLE_S = 1.0

REMEMBERED_EVENTS = 10_000

MAX_DIGITS = 20
"""Of a whole number; a count of samples has fewer."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Received:
    """One message, as it arrived.

    Attributes:
        received_s: When, Unix time.
        topic: Where.
        level: Topic level of the stream.
        what: ``status``, ``alert``, ``event``, ``prediction``, ``info``, or the rest of a
            topic that a later version adds.
        text: As it came.
        fields: The JSON object; empty for ``status``, which is plain text.
        retained: Whether it was there before we subscribed.
    """

    received_s: float
    topic: str
    level: str
    what: str
    text: str
    fields: dict[str, Any]
    retained: bool


async def watch(
    broker: BrokerSettings,
    *,
    stream: str | None = None,
    on_listening: Callable[[], None] = lambda: None,
    on_away: Callable[[str], None] = lambda _why: None,
    now_s: Callable[[], float] = time.time,
) -> AsyncGenerator[Received, None]:
    """Yield messages as they come, for ever.

    A broker that is away is tried again; what it said meanwhile is missed, except retained
    messages. An event that the broker delivers twice is yielded once. What is no message of
    ours (too large, no JSON, a number beyond all bounds) is logged and left out; what a
    classifier tells itself, too.

    Args:
        broker: Where, and how to be let in.
        stream: Name or topic level of one stream; None: all of them.
        on_listening: Called on every connect, once messages can arrive.
        on_away: Told why the broker cannot be reached, each time that it was tried.
        now_s: Unix time.

    Raises:
        BrokerRefusedError: If the broker does not let us in.
        ConfigError: If a certificate file cannot be read.
    """
    levels = ("+",) if stream is None else levels_meant(stream)
    filters = [f"{broker.base_topic}/{level}/#" for level in levels]
    connector = Connector(broker, client_id=passing_client_id("watch"))
    backoff = Backoff(first_s=RETRY_FIRST_S, cap_s=RETRY_CAP_S, stable_s=STABLE_S)
    clock_s = asyncio.get_running_loop().time
    seen = _Seen()
    away: str | None = None
    while True:
        since_s: float | None = None
        try:
            async with connector.connect() as connection:
                await connection.subscribe(*filters)
                since_s = clock_s()
                on_listening()
                async for incoming in connection.messages():
                    received = _read(incoming, base=broker.base_topic, at_s=now_s())
                    if received is not None and not seen.before(received):
                        yield received
        except BrokerUnavailableError as error:
            retry_s = backoff.next_s(lasted_s=0.0 if since_s is None else clock_s() - since_s)
            if str(error) != away:
                log.warning("%s; trying again in %.1f s", error, retry_s)
            away = str(error)
            on_away(away)
        await asyncio.sleep(retry_s)


def _read(incoming: Incoming, *, base: str, at_s: float) -> Received | None:
    level, _, what = incoming.topic.removeprefix(f"{base}/").partition("/")
    what = "event" if what == "alert/event" else what
    if what == "canary":
        return None
    fields: object = {}
    if len(incoming.payload) > MAX_PAYLOAD_BYTES:
        log.warning(
            "%s: %d bytes are no message of ours", printable(incoming.topic), len(incoming.payload)
        )
        return None
    try:
        text = incoming.payload.decode()
        if what != "status":
            fields = json.loads(
                text, parse_int=_whole, parse_float=_finite, parse_constant=_no_number
            )
    except (ValueError, RecursionError) as error:
        log.warning("%s: no message of ours: %s", printable(incoming.topic), error)
        return None
    if not isinstance(fields, dict):
        log.warning("%s: no message of ours: expected a JSON object", printable(incoming.topic))
        return None
    return Received(at_s, incoming.topic, level, what, text, fields, incoming.retained)


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:  # no float holds any such number: whoever formats it falls over
        raise ValueError(f"expected at most {MAX_DIGITS} digits, found {len(text)}")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)


def _no_number(text: str) -> float:
    raise ValueError(f"expected a finite number, found {text[:40]}")


class _Seen:
    """Recognises events that are delivered a second time.

    The time of decision is compared, too: a recording that is played again has the same
    alerts, under the same ids, and they are news.
    """

    def __init__(self) -> None:
        self._newest: OrderedDict[tuple[str, str, str], None] = OrderedDict()

    def before(self, received: Received) -> bool:
        if received.what != "event":
            return False
        fields = received.fields
        key = (received.level, str(fields.get("event_id")), str(fields.get("decided")))
        if key in self._newest:
            return True
        self._newest[key] = None
        if len(self._newest) > REMEMBERED_EVENTS:
            self._newest.popitem(last=False)
        return False
