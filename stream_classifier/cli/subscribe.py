"""``stream-classifier subscribe``: alerts as they come, and a warning when nothing can come."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from datetime import UTC, datetime
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
    from stream_classifier.sinks.subscriber import Received

SILENCE_S = 25.0
"""Two heartbeats of 10 s missed, and half of a third."""

CHECK_EVERY_S = 1.0

ADVISE_AFTER_S = 3.0
"""Without a connection by then, a person is told what to look at."""

_SIGNAL_WORDS = {
    "none": "NO SIGNAL: no samples arrive, so no seizure can be seen",
    "poor": "POOR SIGNAL: nothing can be said of it, so no seizure can be seen",
    "starting": "starting: nothing can be said yet",
    "calibrating": "calibrating: gains are being measured, at gain 1 until then; alerts are live",
    "stopped": "the classifier is stopped",
    "ok": "signal ok",
}
_BROKEN = {"degraded", "no_data", "fault"}
_STATUS_WORDS = {
    "online": "the classifier is online",
    "stopped": "the classifier was stopped: no alerts will come",
    "offline": "WARNING: the classifier or its connection died: no alerts will come",
}


def subscribe(
    broker: BrokerOption = None,
    stream: Annotated[
        str | None, typer.Option(help="Name or topic level of one stream; default: all.")
    ] = None,
    username: UsernameOption = None,
    password_file: PasswordFileOption = None,
    ca_file: CaFileOption = None,
    config: ConfigOption = None,
    json_: Annotated[
        bool, typer.Option("--json", help="Every message as one line of JSON, predictions too.")
    ] = False,
    count: Annotated[int | None, typer.Option(min=1, help="End after this many lines.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="End after this time.")] = None,
) -> None:
    """Print alerts as they come.

    Warns when a classifier or its heartbeats stop, and when a signal is not fit to be judged.

    A broker that goes away is waited for. Exit code 1 if there was none in all of --seconds.
    """
    settings = resolve_broker(
        config, broker=broker, username=username, password_file=password_file, ca_file=ca_file
    )
    from stream_classifier.sinks.connection import event_loop_factory  # noqa: PLC0415

    show = JsonLines() if json_ else PlainLines()
    with asyncio.Runner(loop_factory=event_loop_factory) as runner:
        runner.run(_listen(settings, stream=stream, show=show, count=count, seconds=seconds))


async def _listen(
    broker: BrokerSettings,
    *,
    stream: str | None,
    show: JsonLines | PlainLines,
    count: int | None,
    seconds: float | None,
) -> None:
    from stream_classifier.errors import BrokerUnavailableError  # noqa: PLC0415
    from stream_classifier.sinks.messages import shown  # noqa: PLC0415
    from stream_classifier.sinks.subscriber import watch  # noqa: PLC0415

    heartbeats = Heartbeats()
    advise_at = time.monotonic() + ADVISE_AFTER_S
    ends_at = time.monotonic() + (seconds or float("inf"))
    n_lines = 0
    is_connected = is_advised = False
    advice = f"Try: stream-classifier doctor --broker {broker}"

    def listening() -> None:
        nonlocal is_connected
        is_connected = True
        _say(f"listening at {broker} for {f'stream {stream!r}' if stream else 'all streams'}")

    async with contextlib.aclosing(
        watch(broker, stream=stream, on_listening=listening)
    ) as messages:
        # Not wait_for: its timeout would cancel, and so end, the generator.
        awaited = asyncio.ensure_future(anext(messages))
        try:
            while (left_s := ends_at - time.monotonic()) > 0:
                await asyncio.wait({awaited}, timeout=min(CHECK_EVERY_S, left_s))
                if awaited.done():
                    received = awaited.result()
                    heartbeats.take(received, at_s=time.monotonic())
                    n_lines += show.take(received)
                    if n_lines == count:
                        return
                    awaited = asyncio.ensure_future(anext(messages))
                if not (is_connected or is_advised) and time.monotonic() > advise_at:
                    is_advised = True
                    _say(f"no connection to {broker} yet; trying on. {advice}")
                for level, silent_s in heartbeats.silent(at_s=time.monotonic()):
                    _say(
                        f"WARNING: {shown(level, max_bytes=60)}: no heartbeat for {silent_s:.0f} s "
                        "though it is online: alerts may not arrive. "
                        "Try: is the classifier running, the network up, and are both clocks right?"
                    )
        finally:
            awaited.cancel()
            await asyncio.gather(awaited, return_exceptions=True)
    if not is_connected:
        raise BrokerUnavailableError(f"never connected to {broker} in {seconds:g} s. {advice}")


class Heartbeats:
    """Notices streams that are online and yet say nothing."""

    def __init__(self) -> None:
        self._online: set[str] = set()
        self._newest_s: dict[str, float] = {}
        self._reported: set[str] = set()

    def take(self, received: Received, *, at_s: float) -> None:
        """Take any message; ``at_s`` is its arrival on a clock that nobody sets."""
        level = received.level
        if received.what == "status":
            is_news = (received.text == "online") != (level in self._online)
            (self._online.add if received.text == "online" else self._online.discard)(level)
        else:  # one that somebody sends again is no sign of life
            is_news = received.what == "alert" and not _is_old(received)
        if is_news or level not in self._newest_s:
            self._newest_s[level] = at_s
            self._reported.discard(level)

    def silent(self, *, at_s: float) -> list[tuple[str, float]]:
        """Return the streams that fell silent since the last call, and for how long."""
        fallen = [
            (level, at_s - newest_s)
            for level, newest_s in self._newest_s.items()
            if level in self._online - self._reported and at_s - newest_s > SILENCE_S
        ]
        self._reported.update(level for level, _ in fallen)
        return fallen


class JsonLines:
    """Every message, for a machine."""

    def take(self, received: Received) -> int:
        """Print one message; return the number of lines printed."""
        at = datetime.fromtimestamp(received.received_s, UTC).isoformat(timespec="milliseconds")
        line = {
            "received": at.replace("+00:00", "Z"),
            "topic": received.topic,
            "retained": received.retained,
            "message": received.text if received.what == "status" else received.fields,
        }
        print(json.dumps(line), flush=True)
        return 1


class PlainLines:
    """What a person needs to know: alerts, and whether alerts can come."""

    def __init__(self) -> None:
        self._latest: dict[tuple[str, str], object] = {}

    def take(self, received: Received) -> int:
        """Print one message, if it is news; return the number of lines printed."""
        what, fields = received.what, received.fields
        if what == "event":
            return self._print(received, _event_words(fields))
        if what == "status":
            words = _STATUS_WORDS.get(received.text, received.text)
            return self._print_news(received, received.text, words)
        if what == "alert":
            signal = str(fields.get("signal"))
            standing = bool(fields.get("on"))
            if signal == "stopped" and not standing:  # the status, which comes next, says so
                self._latest[received.level, what] = (signal, standing)
                return 0
            words = _SIGNAL_WORDS.get(signal, signal)
            if standing:
                words += f"; SEIZURE ALERT stands since {_local_time(fields.get('raised'))}"
            if received.retained or _is_old(received):
                words += f" (as of {_local_time(fields.get('published'))})"
            return self._print_news(received, (signal, standing, _is_old(received)), words)
        if what == "health":
            return self._take_health(received)
        return 0

    def _take_health(self, received: Received) -> int:
        """Print what is broken, and when nothing is any more; a start is no news."""
        from stream_classifier.sinks.overview import lowest_broken, rungs_of  # noqa: PLC0415

        rungs = tuple(r for r in rungs_of(received.fields) if r.state in _BROKEN)
        key = (received.level, received.what)
        first = lowest_broken(rungs)
        if first is None:
            if not self._latest.pop(key, None):
                return 0
            return self._print(received, "health: nothing is broken any more")
        words = f"health: {first.name} {first.state}: {first.reason}"
        words += f". Try: {first.remedy}" if first.remedy else ""
        if received.retained or _is_old(received):
            words += f" (as of {_local_time(received.fields.get('published'))})"
        return self._print_news(received, tuple((r.name, r.state) for r in rungs), words)

    def _print_news(self, received: Received, news: object, words: str) -> int:
        key = (received.level, received.what)
        if self._latest.get(key) == news:
            return 0
        self._latest[key] = news
        return self._print(received, words)

    def _print(self, received: Received, words: str) -> int:
        from stream_classifier.sinks.messages import shown  # noqa: PLC0415

        at = datetime.fromtimestamp(received.received_s, UTC).astimezone()
        name = received.fields.get("stream", received.level)
        line = f"{at:%H:%M:%S}  {shown(str(name), max_bytes=60)}  {words}"
        print(shown(line, max_bytes=2000), flush=True)
        return 1


def _event_words(fields: dict[str, Any]) -> str:
    marks = [
        word
        for word, holds in (
            ("[TEST]", fields.get("test")),
            ("[SIMULATED]", fields.get("simulated")),
            ("[LATE]", fields.get("late")),
            ("[NOT STORED]", fields.get("durable") is False),
        )
        if holds
    ]
    channels = fields.get("channels")
    kind, is_on = fields.get("event_type"), fields.get("on") is not False
    if is_on:
        what = f"SEIZURE ALERT {kind}"
    elif kind == "updated":
        what = f"seizure alert off since {_local_time(fields.get('ts'))}, ends if p stays low"
    else:
        what = f"seizure alert {kind}"
    parts = [*marks, what, f"p {_rounded(fields.get('p'))}"]
    parts.append(f"onset {_local_time(fields.get('onset'))}")
    if fields.get("latched") and not fields.get("acknowledged"):
        parts.append("not acknowledged")
    if fields.get("ended"):
        parts.append(f"until {_local_time(fields['ended'])}")
    if isinstance(channels, list) and channels:
        parts.append(", ".join(map(str, channels)))
    return "  ".join(parts)


def _rounded(p: object) -> str:
    return f"{p:.2f}" if isinstance(p, int | float) else "unknown" if p is None else str(p)


def _is_old(received: Received) -> bool:
    """Whether a message was sent long before it came, as it says itself."""
    from stream_classifier.sinks.overview import OLD_AFTER_S, unix_time  # noqa: PLC0415

    sent_s = unix_time(received.fields.get("published"))
    return sent_s is not None and received.received_s - sent_s > OLD_AFTER_S


def _local_time(text: object) -> str:
    try:
        at = datetime.fromisoformat(str(text)).astimezone()
    except (ValueError, OverflowError, OSError):
        return str(text)
    is_today = at.date() == datetime.now(UTC).astimezone().date()
    return f"{at:%H:%M:%S}" if is_today else f"{at:%Y-%m-%d %H:%M:%S}"


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
