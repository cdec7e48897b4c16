"""``stream-classifier status``: how the classifiers at a broker stand, rung by rung."""

from __future__ import annotations

import asyncio
import json
import time
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
    from stream_classifier.sinks.overview import Standing

RUNG_WIDTH, STATE_WIDTH = 8, 9


def status(
    stream: Annotated[
        str | None, typer.Option(help="Name or topic level of one stream; default: all.")
    ] = None,
    broker: BrokerOption = None,
    username: UsernameOption = None,
    password_file: PasswordFileOption = None,
    ca_file: CaFileOption = None,
    config: ConfigOption = None,
    wait: Annotated[float, typer.Option(min=0.5, max=60, help="Seconds to listen at most.")] = 3.0,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say how the classifiers at a broker stand, and whether an alert does.

    Exit code 0 if every one is online and ok, 1 if any is not, or none is there.

    An alert is no fault: it does not change the exit code.

    What is older than 30 s, or of a classifier that is offline, is never shown as ok.
    """
    settings = resolve_broker(
        config, broker=broker, username=username, password_file=password_file, ca_file=ca_file
    )
    from stream_classifier.sinks.connection import event_loop_factory  # noqa: PLC0415
    from stream_classifier.sinks.overview import look  # noqa: PLC0415

    with asyncio.Runner(loop_factory=event_loop_factory) as runner:
        standings = runner.run(look(settings, stream=stream, within_s=wait))
    all_well = bool(standings) and all(s.verdict == "ok" for s in standings)
    if json_:
        print(json.dumps({"ok": all_well, "streams": [_as_json(s) for s in standings]}, indent=2))
    elif not standings:
        which = f"of stream {stream!r}" if stream else "of any classifier"
        print(f"{settings} keeps nothing {which}. Try: is it started, with this broker?")
    else:
        now_s = time.time()
        print("\n\n".join("\n".join(_lines(s, now_s=now_s)) for s in standings))
    if not all_well:
        raise typer.Exit(1)


def _as_json(standing: Standing) -> dict[str, Any]:
    return {
        "stream": standing.name,
        "level": standing.level,
        "status": standing.status,
        "ok": standing.verdict == "ok",
        "verdict": standing.verdict,
        "why": standing.why,
        "remedy": standing.remedy,
        "age_s": standing.age_s,
        "alert_age_s": standing.alert_age_s,
        "alert": standing.alert,
        "health": standing.health,
    }


def _lines(standing: Standing, *, now_s: float) -> list[str]:
    head = f"{standing.name}: {standing.status}, "
    head += "ok" if standing.verdict == "ok" else f"NOT OK ({standing.verdict}): {standing.why}"
    lines = [head]
    if standing.verdict != "ok" and standing.remedy:
        lines.append(f"  try: {standing.remedy}")
    lines.append(f"  {'alert':<{RUNG_WIDTH}} {_alert_words(standing, now_s=now_s)}")
    is_present = standing.verdict in {"ok", "starting", "broken"}
    if standing.rungs and not is_present:
        age = "an unknown time" if standing.age_s is None else duration(standing.age_s)
        lines.append(f"  what follows is {age} old, and says nothing of now:")
    for rung in standing.rungs:
        state = rung.state if is_present else f"({rung.state})"
        line = f"  {rung.name:<{RUNG_WIDTH}} {state:<{STATE_WIDTH}}"
        if rung.since_s is not None:
            line += f" for {duration(now_s - rung.since_s)}"
        lines.append(line + (f": {rung.reason}" if rung.reason else ""))
        if rung.remedy and rung.state != "ok":
            lines.append(f"  {'':<{RUNG_WIDTH}} try: {rung.remedy}")
    latency = standing.health.get("decision_latency_ms")
    if isinstance(latency, dict) and latency.get("n"):
        p50, p99, n = (latency.get(key) for key in ("p50", "p99", "n"))
        if all(isinstance(value, int | float) for value in (p50, p99, n)):
            lines.append(f"  {'latency':<{RUNG_WIDTH}} p50 {p50:g} ms, p99 {p99:g} ms (n = {n})")
    return lines


def _alert_words(standing: Standing, *, now_s: float) -> str:
    from stream_classifier.sinks.messages import shown  # noqa: PLC0415
    from stream_classifier.sinks.overview import OLD_AFTER_S, unix_time  # noqa: PLC0415

    alert, age_s = standing.alert, standing.alert_age_s
    if not alert:
        return "unknown: nothing is kept of any"
    if alert.get("on"):
        raised_s = unix_time(alert.get("raised"))
        words = "ON" if raised_s is None else f"ON for {duration(now_s - raised_s)}"
        if alert.get("latched"):
            words += ", acknowledged" if alert.get("acknowledged") else ", not acknowledged"
        words += f", id {shown(str(alert.get('alert_id')), max_bytes=40)}"
    elif alert.get("alert_id") and not alert.get("ended"):
        words = "off, may come back"
    else:
        words = "none"
    if alert.get("signal") != "ok":
        words += f"; signal {shown(str(alert.get('signal')), max_bytes=20)}"
    if alert.get("muted_until"):
        words += f"; quiet is asked for until {shown(str(alert['muted_until']), max_bytes=30)}"
    is_old = age_s is None or abs(age_s) > OLD_AFTER_S
    if standing.status != "online" or is_old:
        age = "an unknown time" if age_s is None else duration(age_s)
        words = f"UNKNOWN: {age} ago it was: {words}"
    return words


def duration(seconds: float) -> str:
    """Write a time for a person.

    Example:
        >>> duration(7.2), duration(125), duration(7300), duration(1e6)
        ('7 s', '2 min 5 s', '2 h 1 min', '277 h')
    """
    whole = max(0, round(seconds))
    minutes, s = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 100:
        return f"{hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {s} s" if minutes else f"{s} s"
