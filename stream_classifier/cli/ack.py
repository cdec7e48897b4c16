"""``stream-classifier ack``: say that a person has seen an alert, or ask for quiet."""

from __future__ import annotations

import asyncio
import json
import secrets
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

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
    from stream_classifier.sinks.broker import BrokerSettings
    from stream_classifier.sinks.connection import Connection

VALID_FOR = timedelta(seconds=30)
"""A command that is still on its way by then does nothing."""

LOOK_FOR_S = 3.0


def ack(
    stream: Annotated[str, typer.Option(help="Name or topic level of the stream.")],
    alert_id: Annotated[
        str | None, typer.Option(help="Which alert; default: the one that stands.")
    ] = None,
    mute: Annotated[
        int | None,
        typer.Option(min=0, max=60, help="Ask for quiet for so many minutes instead; 0 ends it."),
    ] = None,
    broker: BrokerOption = None,
    username: UsernameOption = None,
    password_file: PasswordFileOption = None,
    ca_file: CaFileOption = None,
    config: ConfigOption = None,
    within: Annotated[
        float, typer.Option(min=0.1, max=60, help="Seconds to wait for the answer.")
    ] = 5.0,
) -> None:
    """Acknowledge the alert that stands: a person has seen it.

    Ends its latch and its reminders, not the alert: while the seizure goes on, it stays on.

    With --mute: asks for quiet instead; a new alert ends it. Nothing is hidden by it.

    The classifier has to run with mqtt.commands = true. Exit code 1 if it refuses or says nothing.
    """
    if mute is not None and alert_id is not None:
        from stream_classifier.errors import ConfigError  # noqa: PLC0415

        raise ConfigError("--mute is for a stream, --alert-id for an alert. Try: one of them")
    settings = resolve_broker(
        config, broker=broker, username=username, password_file=password_file, ca_file=ca_file
    )
    from stream_classifier.sinks.connection import event_loop_factory  # noqa: PLC0415

    with asyncio.Runner(loop_factory=event_loop_factory) as runner:
        said = runner.run(
            _command(settings, stream=stream, alert_id=alert_id, minutes=mute, within_s=within)
        )
    print(said)


async def _command(
    broker: BrokerSettings,
    *,
    stream: str,
    alert_id: str | None,
    minutes: int | None,
    within_s: float,
) -> str:
    """Send one command and return what the classifier says to it.

    Raises:
        SinkError: If it refuses, or says nothing.
    """
    from stream_classifier.errors import SinkError, printable  # noqa: PLC0415
    from stream_classifier.sinks.connection import Connector, passing_client_id  # noqa: PLC0415
    from stream_classifier.sinks.overview import look  # noqa: PLC0415
    from stream_classifier.sinks.topics import stream_level  # noqa: PLC0415

    found = await look(broker, stream=stream, within_s=LOOK_FOR_S)
    standing = next((s for s in found if s.status == "online"), next(iter(found), None))
    if minutes is None and alert_id is None:
        if standing is None or not _stands(standing.alert):
            raise SinkError(f"no alert of stream {stream!r} stands. Try: stream-classifier status")
        alert_id = str(standing.alert.get("alert_id"))
    what = "ack" if minutes is None else "mute"
    fields = {"alert_id": alert_id} if minutes is None else {"minutes": minutes}
    prefix = f"{broker.base_topic}/{standing.level if standing else stream_level(stream)}"
    connector = Connector(broker, client_id=passing_client_id("ack"))
    async with connector.connect() as connection:
        await connection.subscribe(f"{prefix}/answer")
        answer = await _ask(connection, prefix, what, fields, within_s=within_s)
    if answer is None:
        is_online = standing is not None and standing.status == "online"
        where = "" if is_online else f" (its status: {standing.status if standing else 'none'})"
        raise SinkError(
            f"the classifier of {stream!r}{where} did not answer within {within_s:g} s. Try: is "
            f"it running with mqtt.commands = true? And look whether the broker's access list lets "
            f"this user write {prefix}/set/# and read {prefix}/answer, and the classifier read and "
            "write them (deploy/mosquitto/acl shows how)"
        )
    reason = printable(str(answer.get("reason")))[:300]
    if answer.get("done") is not True:
        raise SinkError(f"the classifier of {stream!r} refused: {reason}")
    return reason


def _stands(alert: Any) -> bool:
    """Whether there is anything to acknowledge."""
    return bool(alert.get("on")) or (bool(alert.get("alert_id")) and not alert.get("ended"))


async def _ask(
    connection: Connection, prefix: str, what: str, fields: dict[str, Any], *, within_s: float
) -> dict[str, Any] | None:
    """Send a command, and return the answer that carries its nonce; None if there is none."""
    from stream_classifier.sinks.messages import iso_utc  # noqa: PLC0415

    nonce = secrets.token_urlsafe(24)
    command = {"nonce": nonce, "expires": iso_utc(datetime.now(UTC) + VALID_FOR), **fields}
    await connection.publish(f"{prefix}/set/{what}", json.dumps(command).encode(), qos=1)
    if connection.unheard:
        return None
    try:
        async with asyncio.timeout(within_s):
            async for message in connection.messages():
                try:
                    answer = json.loads(message.payload)
                except (ValueError, RecursionError):
                    continue
                if isinstance(answer, dict) and answer.get("nonce") == nonce:
                    return answer
    except TimeoutError:
        pass
    return None
