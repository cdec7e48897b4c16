"""What the commands that only talk to the broker have in common."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from stream_classifier.sinks.broker import BrokerSettings

BrokerOption = Annotated[
    str | None,
    typer.Option("--broker", help="mqtt://host:port or mqtts://host:port; default: as configured."),
]
UsernameOption = Annotated[str | None, typer.Option(help="User name at the broker.")]
PasswordFileOption = Annotated[
    Path | None,
    typer.Option(help="File with its password; or STREAM_CLASSIFIER_MQTT__PASSWORD."),
]
CaFileOption = Annotated[
    Path | None, typer.Option(help="Authority that signed the broker's certificate (mqtts).")
]


def resolve_broker(
    config: Path | None,
    *,
    broker: str | None,
    username: str | None,
    password_file: Path | None,
    ca_file: Path | None,
) -> BrokerSettings:
    """Put flags, environment and configuration file together.

    Raises:
        ConfigError: If a setting is wrong, or names no broker that can be connected to.
    """
    from stream_classifier.config import load  # noqa: PLC0415 - keeps --help fast
    from stream_classifier.errors import ConfigError  # noqa: PLC0415
    from stream_classifier.sinks.broker import broker_settings  # noqa: PLC0415

    flags = {
        "broker": broker,
        "username": username,
        "password_file": password_file,
        "ca_file": ca_file,
    }
    mqtt = load(config, {"mqtt": flags}).mqtt
    if mqtt.broker == "embedded":
        raise ConfigError(
            "broker: the embedded one lives inside another command, on a port that it names. "
            "Try: --broker with the address that command printed"
        )
    return broker_settings(mqtt.broker, **mqtt.transport())
