"""``stream-classifier test-alarm``: does an alert get through? Send one and read it back."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stream_classifier.cli.broker import (
    BrokerOption,
    CaFileOption,
    PasswordFileOption,
    UsernameOption,
    resolve_broker,
)
from stream_classifier.cli.config import ConfigOption

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stream_classifier.sinks.broker import BrokerSettings
    from stream_classifier.sinks.connection import Connection
    from stream_classifier.sinks.messages import EventMessage

__test__: dict[str, str] = {}  # the name is the command's; pytest shall not take it for tests

P_OF_TEST = 0.99


def test_alarm(
    stream: Annotated[str, typer.Option(help="Name of the stream to alert for.")] = "test",
    broker: BrokerOption = None,
    username: UsernameOption = None,
    password_file: PasswordFileOption = None,
    ca_file: CaFileOption = None,
    config: ConfigOption = None,
    within: Annotated[
        float, typer.Option(min=0.1, help="Seconds to wait for each alert to come back.")
    ] = 5.0,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Send a marked test alert through outbox and broker, and read it back.

    Subscribers receive it as "raised" and then "ended", both with "test": true.

    The retained state and status of a classifier that runs meanwhile stay as they are.
    """
    settings = resolve_broker(
        config, broker=broker, username=username, password_file=password_file, ca_file=ca_file
    )
    from stream_classifier.errors import BrokerUnavailableError  # noqa: PLC0415
    from stream_classifier.sinks.connection import event_loop_factory  # noqa: PLC0415

    try:
        with asyncio.Runner(loop_factory=event_loop_factory) as runner:
            topic, round_trips_ms = runner.run(
                _send_and_read(settings, stream=stream, within_s=within)
            )
    except BrokerUnavailableError as error:
        raise BrokerUnavailableError(
            f"{error}. Try: stream-classifier doctor --broker {settings}"
        ) from error
    if json_:
        print(json.dumps({"topic": topic, "round_trip_ms": round_trips_ms}))
        return
    raised_ms, ended_ms = round_trips_ms
    print(
        f"test alert came back from {settings} on {topic}: "
        f"raised after {raised_ms:.1f} ms, ended after {ended_ms:.1f} ms"
    )


async def _send_and_read(
    broker: BrokerSettings, *, stream: str, within_s: float
) -> tuple[str, list[float]]:
    from stream_classifier.sinks.connection import Connector, passing_client_id  # noqa: PLC0415
    from stream_classifier.sinks.topics import Topics  # noqa: PLC0415

    topic = Topics(stream, base=broker.base_topic).event
    round_trips_ms = []
    # No last will, and a name of its own: a running classifier must not notice.
    async with Connector(broker, client_id=passing_client_id("test")).connect() as connection:
        await connection.subscribe(topic)
        for event in _test_events(stream):
            started_s = time.perf_counter()
            await _send(connection, topic, event)
            await _read_back(connection, topic, event.event_id, within_s=within_s)
            round_trips_ms.append(round((time.perf_counter() - started_s) * 1e3, 2))
    return topic, round_trips_ms


def _test_events(stream: str) -> list[EventMessage]:
    from stream_classifier.signals import AlertEvent, EventType, StreamSpec  # noqa: PLC0415
    from stream_classifier.sinks.messages import (  # noqa: PLC0415
        MessageBuilder,
        ModelRef,
        WallClock,
    )

    now_s = time.monotonic()
    builder = MessageBuilder(
        spec=StreamSpec(stream, "test-alarm", rate_hz=178.0, labels=(), kind="test"),
        model=ModelRef("test-alarm", "", raise_threshold=0.8, clear_threshold=0.5),
        clock=WallClock.set_now(now_s),
    )
    alert_id = f"test-{uuid.uuid4().hex}"
    return [
        builder.event(
            AlertEvent(
                type=kind,
                alert_id=alert_id,
                seq=seq,
                at_s=now_s,
                onset_s=now_s,
                raised_s=now_s,
                off_s=now_s if kind is EventType.ENDED else None,
                p=P_OF_TEST,
                p_max=P_OF_TEST,
                channels=(),
            ),
            state=None,
            signal="ok",
            decided=builder.clock.utc(now_s),
            test=True,
        )
        for seq, kind in enumerate((EventType.RAISED, EventType.ENDED))
    ]


async def _send(connection: Connection, topic: str, event: EventMessage) -> None:
    """Send as a classifier does: first to disk, then to the broker."""
    from datetime import UTC, datetime  # noqa: PLC0415

    from stream_classifier.sinks.messages import stamped_event  # noqa: PLC0415
    from stream_classifier.sinks.outbox import Outbox  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "outbox.sqlite"
        async with Outbox(path=path, max_age_s=3600, max_rows=100) as outbox:
            await outbox.put(event.event_id, topic, event.to_json())
            for row in await outbox.pending():
                payload = stamped_event(
                    row.payload, published=datetime.now(UTC), seq=0, durable=row.durable
                )
                await connection.publish(row.topic, payload, qos=1)
                await outbox.delivered(row.event_id)


async def _read_back(connection: Connection, topic: str, event_id: str, *, within_s: float) -> None:
    from stream_classifier.errors import SinkError  # noqa: PLC0415

    try:
        async with asyncio.timeout(within_s):
            async for payload in _events(connection):
                if payload.get("event_id") == event_id:
                    return
    except TimeoutError:
        raise SinkError(
            f"the broker took the test alert but did not send it back on {topic} within "
            f"{within_s:g} s. Try: look whether its access list lets this user publish and "
            "subscribe there, and the broker's log"
        ) from None


async def _events(connection: Connection) -> AsyncIterator[dict[str, object]]:
    async for message in connection.messages():
        try:
            fields = json.loads(message.payload)
        except ValueError:
            continue
        if isinstance(fields, dict):
            yield fields
