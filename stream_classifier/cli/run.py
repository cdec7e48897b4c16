"""``stream-classifier run``: attach to a stream, classify it, publish alerts."""

from __future__ import annotations

import json
import logging
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from stream_classifier.cli.config import ConfigOption
from stream_classifier.cli.event_loop import run_until_stopped
from stream_classifier.errors import ConfigError, printable

if TYPE_CHECKING:
    from datetime import datetime

    from stream_classifier.config import Settings
    from stream_classifier.service import Attached
    from stream_classifier.sinks.messages import EventMessage, WallClock

MAX_LABELS = 16
"""Channels named when a stream is attached."""

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any setting; may be given again."),
]


def run(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Option(help="LSL stream name.")] = None,
    stream_type: Annotated[str | None, typer.Option("--type", help="LSL stream type.")] = None,
    source_id: Annotated[str | None, typer.Option(help="LSL source_id: the surest.")] = None,
    channels: Annotated[str | None, typer.Option(help="Labels to use, e.g. C3,C4.")] = None,
    unit: Annotated[str | None, typer.Option(help="Unit, where the stream says none.")] = None,
    recording: Annotated[
        str | None,
        typer.Option(
            help="Play this instead of a stream: an EDF, BDF, XDF, CSV or OpenBCI file, or the key "
            "of a recording of the data set. Without --broker its alerts are printed."
        ),
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(help="Of a recording: seconds a second; 0: as fast as it goes (default)."),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Sampling rate, Hz, of a text file that does not say.")
    ] = None,
    wait: Annotated[
        str | None, typer.Option(help='Seconds to wait for the stream, or "forever".')
    ] = None,
    broker: Annotated[
        str | None, typer.Option(help='mqtt://host:port, mqtts://host:port, "embedded" or "none".')
    ] = None,
    username: Annotated[str | None, typer.Option(help="User name at the broker.")] = None,
    password_file: Annotated[Path | None, typer.Option(help="File with its password.")] = None,
    ca_file: Annotated[
        Path | None, typer.Option(help="Authority that signed its certificate (mqtts).")
    ] = None,
    stream: Annotated[str | None, typer.Option(help="Name to publish under.")] = None,
    bundle: Annotated[str | None, typer.Option(help="Model bundle: a name or a folder.")] = None,
    engine: Annotated[str | None, typer.Option(help="auto, native, reference or torch.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    monitor: Annotated[
        bool | None, typer.Option("--monitor/--no-monitor", help="Serve the monitor page.")
    ] = None,
    monitor_at: Annotated[
        str | None,
        typer.Option(metavar="[HOST:]PORT", help="... there; by default a free port, loopback."),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Record the signal here as BDF+, with the alerts, and keep a clip of each.",
        ),
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="Stop after this time.")] = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    json_: Annotated[bool, typer.Option("--json", help="Print a summary at the end.")] = False,
) -> None:
    """Attach to an LSL stream, classify it, and publish alerts over MQTT.

    Runs until it is stopped. A stream or a broker that goes away is waited for.

    With --recording: until the recording ends.

    One that cannot be read, or has no usable signal, is exit code 4.

    Every setting: stream-classifier config init.
    """
    from stream_classifier.config import load  # noqa: PLC0415

    flags: dict[str, dict[str, Any]] = {
        "source": {
            "name": name,
            "type": stream_type,
            "source_id": source_id,
            "channels": channels,
            "unit": unit,
            "recording": recording,
            "speed": speed,
            "rate_hz": rate,
            "wait_s": wait,
        },
        "mqtt": {
            "broker": broker,
            "username": username,
            "password_file": password_file,
            "ca_file": ca_file,
            "stream": stream,
        },
        "model": {"bundle": bundle, "engine": engine, "device": device},
        "monitor": {"on": monitor},
        "record": {"folder": record},
    }
    if monitor_at is not None:
        flags["monitor"] = {"on": monitor is not False, **_address(monitor_at)}
    for text in settings or []:
        _assign(flags, text)
    resolved = load(config, flags)
    if resolved.source.recording is None and not (speed is None and rate is None):
        raise ConfigError("--speed and --rate have no meaning for a live stream. Try: --recording")
    debug = bool(ctx.obj and ctx.obj["debug"])
    logging.basicConfig(
        level=logging.DEBUG if debug else resolved.log_level.upper(),
        format="%(asctime)s %(levelname)-7s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
    )
    _serve(resolved, seconds=seconds, debug=debug, json_=json_)


def _serve(settings: Settings, *, seconds: float | None, debug: bool, json_: bool) -> None:
    from stream_classifier.sources.lsl_runtime import quiet_liblsl  # noqa: PLC0415

    quiet_liblsl(debug)
    from stream_classifier.service import serve  # noqa: PLC0415

    def say_event(event: EventMessage, clock: WallClock) -> None:
        print(_as_json(event, clock) if json_ else _as_line(event, clock), flush=True)

    def say_ended(summary: dict[str, Any]) -> None:
        if json_:
            print(json.dumps(summary), flush=True)

    run_until_stopped(
        serve(
            settings,
            on_attached=_say_attached,
            on_ended=say_ended,
            on_event=say_event,
            seconds=seconds,
        )
    )


def _say_attached(attached: Attached) -> None:
    spec = attached.spec
    labels = printable(", ".join(spec.labels[:MAX_LABELS]))
    more = ", ..." if spec.n_channels > MAX_LABELS else ""
    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
    what = "playing" if spec.kind == "recording" else "attached to"
    console.print(
        f"{what} {spec.name!r}: {spec.n_channels} channel(s) at {spec.rate_hz:g} Hz "
        f"({labels}{more})"
    )
    if attached.broker is None:
        console.print("nothing is published: alerts are printed. Try: --broker, to publish them")
    else:
        console.print(f"publishing to {attached.broker} under {attached.topics.prefix}/")
    if attached.monitor_url is not None:
        console.print(f"monitor page: {attached.monitor_url}")
    console.print(f"model {attached.bundle.name} {attached.bundle.digest[:12]}; for research only")


def _as_json(event: EventMessage, clock: WallClock) -> str:
    """One line of JSON; times are seconds from the recording's first sample."""
    return json.dumps(
        {
            "event_type": event.event_type.value,
            "event_id": event.event_id,
            "alert_id": event.alert_id,
            "at_s": _seconds(event.ts, clock),
            "onset_s": _seconds(event.onset, clock),
            "raised_s": _seconds(event.raised, clock),
            "ended_s": _seconds(event.ended, clock),
            "on": event.on,
            "p": event.p,
            "p_max": event.p_max,
            "channels": event.channels,
            "stream": event.stream,
            "simulated": event.simulated,
            "source": event.source.model_dump(),
            "model": event.model.model_dump(),
        }
    )


def _as_line(event: EventMessage, clock: WallClock) -> str:
    at_s = _seconds(event.ts, clock) or 0.0
    minutes, seconds = divmod(at_s, 60)
    hours, minutes = divmod(int(minutes), 60)
    said = event.event_type.value + ("" if event.on or event.event_type == "ended" else ", off")
    channels = printable(", ".join(event.channels))
    return (
        f"{hours:02d}:{minutes:02d}:{seconds:06.3f}  {(event.alert_id or '')[:8]}  {said:<12}  "
        f"p {event.p or 0.0:.2f}  {channels}"
    )


def _seconds(at: datetime | None, clock: WallClock) -> float | None:
    return None if at is None else round(clock.source_s(at), 3)


def _address(text: str) -> dict[str, Any]:
    """Read where the monitor page is to be.

    Example:
        >>> _address("8080"), _address("0.0.0.0:8080"), _address("[::1]:0")
        ({'port': 8080}, {'host': '0.0.0.0', 'port': 8080}, {'host': '::1', 'port': 0})
    """
    host, colon, port = text.rpartition(":")
    if not port.isdecimal() or (colon and not host):
        raise ConfigError(
            f"--monitor-at {text!r}: expected [HOST:]PORT. Try: --monitor-at 127.0.0.1:8080"
        )
    named = {"host": host.removeprefix("[").removesuffix("]")} if colon else {}
    return {**named, "port": int(port)}


def _assign(flags: dict[str, dict[str, Any]], text: str) -> None:
    """Put one ``--set`` where the flags are."""
    key, equals, value = text.partition("=")
    path = [part.strip() for part in key.split(".")]
    if not equals or len(path) != 2 or not all(path):
        raise ConfigError(f"--set {text!r}: expected SECTION.KEY=VALUE, e.g. alarm.smoothing_s=2")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value  # a bare word is a string
    flags.setdefault(path[0], {})[path[1]] = parsed
