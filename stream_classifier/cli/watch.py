"""``stream-classifier watch``: how streams stand, in a terminal, by SSH from anywhere.

Everything is said in words; colour only repeats them, and nothing blinks. What is old is said to be
old, and no alert is never shown where nothing is known.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import sys
import textwrap
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from stream_classifier.cli.broker import (
    BrokerOption,
    CaFileOption,
    PasswordFileOption,
    UsernameOption,
    resolve_broker,
)
from stream_classifier.cli.config import ConfigOption
from stream_classifier.errors import ConfigError, printable

if TYPE_CHECKING:
    from stream_classifier.sinks.broker import BrokerSettings
    from stream_classifier.sinks.subscriber import Received

DRAW_EVERY_S = 0.25

STALE_AFTER_S = 25.0
"""Two heartbeats of 10 s missed, and half of a third."""

OLD_P_AFTER_S = 3.0
"""p comes twice a second."""

SPARK_S = 60.0
"""Of p(seizure), drawn."""

MAX_STREAMS = 256
MAX_NAME = 32

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = "_.-:=+*#"

_ALARM = "bold white on red"
_WARNING = "bold yellow"
_DIM = "dim"

_SIGNAL_WORDS = {
    "ok": "signal ok",
    "calibrating": "calibrating; alerts are live",
    "starting": "starting: nothing can be said yet",
    "none": "NO SIGNAL: no seizure can be seen",
    "poor": "POOR SIGNAL: no seizure can be seen",
    "stopped": "the classifier is stopped",
}
_STATUS_WORDS = {
    "stopped": "STOPPED: no alerts will come",
    "offline": "OFFLINE: the classifier or its connection died; no alerts will come",
}
_WELL = {"ok", "calibrating"}


def watch(
    broker: BrokerOption = None,
    stream: Annotated[
        str | None, typer.Option(help="Name or topic level of one stream; default: all.")
    ] = None,
    username: UsernameOption = None,
    password_file: PasswordFileOption = None,
    ca_file: CaFileOption = None,
    config: ConfigOption = None,
) -> None:
    """Watch streams in the terminal: alert, p(seizure), channels, and what is wrong where.

    One stream fills the screen; of several, each has a line or two. Ends with q.

    It only looks: a broker that goes away is waited for, and no classifier notices.
    """
    console = Console()
    if not console.is_terminal:
        raise ConfigError(
            "watch: expected a terminal, found a file or a pipe. Try: stream-classifier subscribe"
        )
    settings = resolve_broker(
        config, broker=broker, username=username, password_file=password_file, ca_file=ca_file
    )
    from stream_classifier.sinks.connection import event_loop_factory  # noqa: PLC0415

    logging.getLogger("stream_classifier").addHandler(logging.NullHandler())  # the screen says it
    with asyncio.Runner(loop_factory=event_loop_factory) as runner:
        runner.run(_watch(settings, stream=stream, console=console))


async def _watch(broker: BrokerSettings, *, stream: str | None, console: Console) -> None:
    from stream_classifier.sinks.subscriber import watch as messages  # noqa: PLC0415

    blocks = BLOCKS if (console.encoding or "").lower().startswith("utf") else ASCII_BLOCKS
    board = Board(str(broker), blocks=blocks)
    ended = asyncio.Event()

    async def listen() -> None:
        received = messages(
            broker, stream=stream, on_listening=board.broker_is_there, on_away=board.broker_is_away
        )
        async with contextlib.aclosing(received):
            async for message in received:
                board.take(message, at_s=time.monotonic())

    listening = asyncio.create_task(listen(), name="messages")
    listening.add_done_callback(lambda _task: ended.set())
    try:
        with (
            _key_pressed("q", ended.set),
            Live(console=console, screen=True, auto_refresh=False) as live,
        ):
            while not ended.is_set():
                width, height = console.size
                lines = board.lines(width=width, height=height, now_s=time.monotonic())
                live.update(Group(*lines), refresh=True)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), DRAW_EVERY_S)
    finally:
        listening.cancel()
        outcome = (await asyncio.gather(listening, return_exceptions=True))[0]
    if isinstance(outcome, Exception):
        raise outcome


@contextlib.contextmanager
def _key_pressed(key: str, call: Callable[[], object]) -> Iterator[None]:
    """Call something when a key is pressed; where keys cannot be read, Ctrl-C has to do."""
    try:
        import termios  # noqa: PLC0415 - not on Windows
        import tty  # noqa: PLC0415

        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
    except (ImportError, OSError, ValueError, AttributeError):
        yield
        return
    except termios.error:
        yield
        return

    def read() -> None:
        if key in sys.stdin.read(1).lower():
            call()

    loop = asyncio.get_running_loop()
    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, read)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@dataclass(slots=True)
class Shown:
    """What is known of one stream.

    Attributes:
        level: Its topic level.
        name: Its own name.
        status: ``online``, ``stopped`` or ``offline``; "" while unknown.
        alert: The newest alert state.
        quality: The newest quality message.
        health: The newest ladder.
        p: Values of p(seizure) with the time of their arrival.
        heard_s: When its newest alert state was sent; None while none is known.
    """

    level: str
    name: str
    status: str = ""
    alert: dict[str, Any] = field(default_factory=dict)
    quality: dict[str, Any] = field(default_factory=dict)
    health: dict[str, Any] = field(default_factory=dict)
    p: deque[tuple[float, float | None]] = field(default_factory=lambda: deque(maxlen=1000))
    heard_s: float | None = None

    @property
    def on(self) -> bool:
        """Whether an alert stands, as far as is known."""
        return bool(self.alert.get("on"))

    def age_s(self, now_s: float) -> float:
        """For how long nothing was heard."""
        return math.inf if self.heard_s is None else max(0.0, now_s - self.heard_s)

    def is_stale(self, now_s: float) -> bool:
        """Whether heartbeats are missing."""
        return self.age_s(now_s) > STALE_AFTER_S

    def is_well(self, now_s: float) -> bool:
        """Whether a seizure would be seen."""
        return (
            self.status == "online"
            and not self.is_stale(now_s)
            and str(self.alert.get("signal")) in _WELL
        )


class Board:
    """What is on the screen.

    Args:
        broker: Its address.
        blocks: Eight characters, from low to high.
    """

    def __init__(self, broker: str, *, blocks: str = BLOCKS) -> None:
        self._broker = broker
        self._blocks = blocks
        self._streams: dict[str, Shown] = {}
        self._away: str | None = "connecting"

    def broker_is_there(self) -> None:
        """Messages can arrive."""
        self._away = None

    def broker_is_away(self, why: str) -> None:
        """No messages can arrive."""
        self._away = why

    def take(self, received: Received, *, at_s: float) -> None:
        """Take a message; ``at_s`` is its arrival on a clock that nobody sets."""
        if received.level not in self._streams and len(self._streams) >= MAX_STREAMS:
            return
        shown = self._streams.setdefault(received.level, Shown(received.level, received.level))
        fields = received.fields
        if received.what == "status":
            shown.status = received.text
        elif received.what == "alert":
            shown.alert = fields
        elif received.what == "quality":
            shown.quality = fields
        elif received.what == "health":
            shown.health = fields
        elif received.what == "prediction":
            shown.p.append((at_s, _number(fields.get("p"))))
        else:
            return
        shown.name = str(fields.get("stream", shown.name))
        if received.what != "alert":  # what else comes does not make an old "no alert" new
            return
        # What the broker had kept, or somebody sends again, was sent some time ago; how long, its
        # own time says. Two clocks may differ a little.
        sent_s = _unix_s(fields.get("published"))
        old_s = 0.0 if sent_s is None else max(0.0, received.received_s - sent_s)
        if sent_s is not None or not received.retained:
            heard_s = at_s - (old_s if received.retained or old_s > STALE_AFTER_S else 0.0)
            shown.heard_s = heard_s if shown.heard_s is None else max(shown.heard_s, heard_s)

    def lines(self, *, width: int, height: int, now_s: float) -> list[Text]:
        """Return the screen, one line each, no longer and no more than fit."""
        streams = sorted(
            self._streams.values(),
            key=lambda one: (not one.on, one.is_well(now_s), one.name),
        )
        body: list[Text] = []
        if self._away is not None:
            words = f"BROKER AWAY: {self._away}. What is shown is old; trying on"
            body += _wrapped(words, width, most=3, style=_WARNING)
        room = height - len(body) - 1
        if not streams:
            body.append(Text("nothing heard of any stream yet", style=_DIM))
        elif len(streams) == 1:
            body += self._one(streams[0], width=width, height=room, now_s=now_s)
        else:
            body += self._many(streams, width=width, height=room, now_s=now_s)
        body = body[: height - 1]
        body += [Text()] * (height - 1 - len(body))
        body.append(Text(f"{self._broker}   q quits   for research only", style=_DIM))
        return [_cut(line, width) for line in body]

    def _one(self, one: Shown, *, width: int, height: int, now_s: float) -> list[Text]:
        top = [
            self._title(one, now_s),
            self._band(one, width, now_s),
            *self._p_lines(one, width, now_s),
            Text(),
        ]
        ladder = self._ladder(one, width, now_s)
        room = height - len(top) - len(ladder) - 1
        return [*top, *self._channels(one, width, max(2, room)), Text(), *ladder]

    def _many(self, streams: list[Shown], *, width: int, height: int, now_s: float) -> list[Text]:
        lines: list[Text] = []
        for n, one in enumerate(streams):
            mine = [self._title(one, now_s), self._band(one, width, now_s)]
            mine[0].append("  ")
            mine[0].append_text(self._spark(one, max(8, width // 4), now_s))
            if not one.is_well(now_s) or one.health.get("state") not in ("ok", "starting"):
                mine += self._ladder(one, width, now_s)[:1]
            left = len(streams) - n
            if len(lines) + len(mine) > height - (left > 1):
                lines.append(Text(f"and {left} more stream(s): --stream NAME, or a larger window"))
                break
            lines += mine
        return lines

    def _title(self, one: Shown, now_s: float) -> Text:
        name = printable(one.name)
        title = Text(name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + "…", style="bold")
        if one.alert.get("simulated"):
            title.append("  SIMULATED", style="bold")
        if one.status in _STATUS_WORDS:
            title.append(f"  {_STATUS_WORDS[one.status]}", style=_WARNING)
        elif one.heard_s is None:
            title.append("  nothing heard yet", style=_DIM)
        elif one.is_stale(now_s):
            title.append(f"  STALE: nothing heard for {_lasting(one.age_s(now_s))}", style=_WARNING)
        else:
            status = printable(one.status[:MAX_NAME]) or "status unknown"
            title.append(f"  {status}, {one.age_s(now_s):.0f} s ago")
        return title

    def _band(self, one: Shown, width: int, now_s: float) -> Text:
        """Say whether there is an alert, in words, over the whole width."""
        alert = one.alert
        signal = str(alert.get("signal", ""))
        said = _SIGNAL_WORDS.get(signal, printable(signal)) if signal else "nothing known"
        old = ", as of the last that was heard" if not self._is_now(one, now_s) else ""
        if one.on:
            parts = [f"SEIZURE ALERT since {_local_time(alert.get('onset'))}{old}"]
            p_max = _number(alert.get("p_max"))
            parts += [] if p_max is None else [f"p up to {p_max:.2f}"]
            parts += ["acknowledged"] if alert.get("acknowledged") else []
            if alert.get("muted_until"):
                parts.append(f"muted until {_local_time(alert['muted_until'])}")
            parts.append(", ".join(printable(str(label)) for label in _list(alert.get("channels"))))
            parts += [] if signal in _WELL else [said]
            words = "   ".join(part for part in parts if part)
            return Text(f" {words}".ljust(width), style=_ALARM)
        if signal in _WELL and not old and one.status == "online":
            off = alert.get("priority") == "low" and not alert.get("ended")
            words = "alert off; ends if p stays low" if off else "no alert"
            return Text(f" {words}   {said}")
        return Text(f" {said}{old}", style=_WARNING)

    def _is_now(self, one: Shown, now_s: float) -> bool:
        return self._away is None and not one.is_stale(now_s)

    def _p_lines(self, one: Shown, width: int, now_s: float) -> list[Text]:
        newest = one.p[-1] if one.p else None
        if newest is None:
            said = "unknown: none heard yet"
        elif now_s - newest[0] > OLD_P_AFTER_S:
            said = f"unknown: the last came {_lasting(now_s - newest[0])} ago"
        else:
            said = "unknown" if newest[1] is None else f"{newest[1]:.2f}"
        threshold = one.alert.get("threshold")
        limits = ""
        if isinstance(threshold, dict):
            limits = printable(
                f"   raises at {threshold.get('raise')}, clears at {threshold.get('clear')}"
            )
        return [
            Text(f"p(seizure) {said}{limits}   of the last {SPARK_S:.0f} s:"),
            self._spark(one, width, now_s),
        ]

    def _spark(self, one: Shown, width: int, now_s: float) -> Text:
        """Draw the highest p of each moment of the last minute; a dot where none came."""
        highest: list[float | None] = [None] * width
        for at_s, p in one.p:
            column = width - 1 - int((now_s - at_s) / SPARK_S * width)
            if 0 <= column < width and p is not None:
                highest[column] = max(p, highest[column] or 0.0)
        drawn = "".join("." if p is None else self._block(p) for p in highest)
        return Text(drawn)

    def _block(self, p: float) -> str:
        return self._blocks[round(min(1.0, max(0.0, p)) * (len(self._blocks) - 1))]

    def _channels(self, one: Shown, width: int, height: int) -> list[Text]:
        quality = one.quality
        if not quality:
            return [Text("channels: nothing known yet", style=_DIM)]
        counts = ", ".join(f"{quality.get(state, '?')} {state}" for state in _STATES)
        lines = [Text(printable(f"channels: {counts}"))]
        reports = [r for r in _list(quality.get("channels")) if isinstance(r, dict)]
        reports.sort(key=lambda r: _WORST_FIRST.get(str(r.get("state")), 0))
        cells = [_channel_cell(report) for report in reports]
        each = 26 if width >= 52 else width
        per_line = max(1, width // each)
        n_fit = per_line * max(1, height - 1)
        n_hidden = len(cells) - n_fit + 1 if len(cells) > n_fit else 0
        if n_hidden:
            cells = [*cells[: n_fit - 1], Text(f"and {n_hidden} more, no worse", style=_DIM)]
        for start in range(0, len(cells), per_line):
            line = Text()
            for cell in cells[start : start + per_line]:
                cell.truncate(each - 1, overflow="ellipsis", pad=True)
                line.append_text(cell).append(" ")
            lines.append(line)
        return lines

    def _ladder(self, one: Shown, width: int, now_s: float) -> list[Text]:
        """Say which rungs are well on one line, and of the others why, and what to do."""
        rungs = [r for r in _list(one.health.get("rungs")) if isinstance(r, dict)]
        if not rungs:
            return [Text("health: nothing known yet", style=_DIM)]
        old = "" if self._is_now(one, now_s) else " (as of the last that was heard)"
        lines: list[Text] = []
        well = []
        for rung in rungs:
            name, state = printable(str(rung.get("rung"))), printable(str(rung.get("state")))
            if state == "ok":
                well.append(name)
                continue
            style = _WARNING if state in ("fault", "no_data", "degraded") else ""
            since = _local_time(rung.get("since"))
            said = f"{name}: {state.upper().replace('_', ' ')} since {since}{old}"
            reason, remedy = (printable(str(rung.get(k) or "")) for k in ("reason", "remedy"))
            lines += _wrapped(f"{said}: {reason}" if reason else said, width, most=2, style=style)
            if remedy:
                lines += _wrapped(f"    do: {remedy}", width, most=2)
        latency = one.health.get("decision_latency_ms")
        p50_ms = _number(latency.get("p50")) if isinstance(latency, dict) else None
        if p50_ms is not None:
            well.append(f"decision after {p50_ms:.0f} ms (median)")
        if well:
            words = f"ok{old}: {', '.join(well)}"
            lines += _wrapped(words, width, most=2, style="" if old else "green")
        return lines


_STATES = ("good", "fair", "poor")
_WORST_FIRST = {"poor": -2, "fair": -1}


def _channel_cell(report: dict[str, Any]) -> Text:
    state = printable(str(report.get("state")))
    rms_uv = _number(report.get("rms_uv"))
    why = ", ".join(map(str, _list(report.get("reasons"))))
    size = "" if rms_uv is None else f"{rms_uv:.0f} µV"
    words = printable(f"{state} {why or size}")
    return Text.assemble(
        (f"{printable(str(report.get('channel'))):<7} ", "bold"),
        (words, _WARNING if state == "poor" else ""),
    )


def _wrapped(words: str, width: int, *, most: int, style: str = "") -> list[Text]:
    """Break words into lines; what does not fit into the most that are allowed ends in dots."""
    lines = textwrap.wrap(
        words, max(10, width), subsequent_indent="    ", max_lines=most, placeholder=" …"
    )
    return [Text(line, style=style) for line in lines]


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _number(value: object) -> float | None:
    """Return a number that can be written; what came may hold anything."""
    if not isinstance(value, int | float):
        return None
    return float(value) if -1e9 < value < 1e9 else None  # False for NaN


def _cut(line: Text, width: int) -> Text:
    line.truncate(width, overflow="ellipsis")
    line.no_wrap = True
    return line


def _lasting(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _unix_s(text: object) -> float | None:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def _local_time(text: object) -> str:
    try:
        return f"{datetime.fromisoformat(str(text)).astimezone():%H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return "?"
