"""``stream-classifier demo``: all parts at work, each as it would run by itself."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import webbrowser
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from stream_classifier.cli.event_loop import run_until_stopped
from stream_classifier.errors import DatasetNotFoundError, StreamClassifierError, printable

if TYPE_CHECKING:
    from stream_classifier.demo import Tally
    from stream_classifier.sinks.broker import BrokerSettings

_Child = subprocess.Popen[str]

ENV_PREFIX = "STREAM_CLASSIFIER_"
DATA = "STREAM_CLASSIFIER_DATA"

STREAM = "demo"
REFRACTORY_S = 10
"""Shorter than the shipped 90 s, so that one demo shows an alert end and another begin."""

BARS = " ▁▂▃▄▅▆▇█"
SPARKLINE_SAMPLES = 60


def demo(
    ctx: typer.Context,
    seconds: Annotated[
        float, typer.Option(min=1, help="How long the device plays; inf goes on for ever.")
    ] = 90,
    data: Annotated[
        Path | None, typer.Option(help="The data set's folder.", show_default=False)
    ] = None,
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="A neural mass model, even if there is data.")
    ] = False,
    broker: Annotated[str, typer.Option(help='mqtt://host:port or "embedded".')] = "embedded",
    monitor: Annotated[
        bool, typer.Option("--monitor/--no-monitor", help="Serve the monitor page, too.")
    ] = True,
    json_: Annotated[bool, typer.Option("--json", help="End with one JSON object.")] = False,
) -> None:
    """Play a headset, classify it, and show the alert arrive over MQTT.

    A simulated device on Lab Streaming Layer and the pipeline run as processes of their own,
    beside a broker and a subscriber. The first seizure starts 20 s into the demo. The monitor page
    is opened in a browser where a person sits at this terminal.
    """
    from stream_classifier.sources.lsl_runtime import quiet_liblsl  # noqa: PLC0415

    debug = bool(ctx.obj and ctx.obj["debug"])
    quiet_liblsl(debug)

    played = "synthetic" if synthetic or not _has_data(data) else "epileptic_seizure_recognition"
    show = _Show(live=sys.stderr.isatty() and not debug, opens=not json_ and _has_display())
    if monitor and not _has_monitor():
        show.say("no monitor page: the extra [monitor] is not installed. Try: make demo")
        monitor = False
    result = run_until_stopped(
        _demo(
            show,
            played=played,
            data=data,
            seconds=seconds,
            broker=broker,
            monitor=monitor,
            debug=debug,
        )
    )
    show.verdict(result)
    if json_:
        print(json.dumps(result))


def _has_data(data: Path | None) -> bool:
    from stream_classifier.datasets import find  # noqa: PLC0415

    try:
        find(data)
    except DatasetNotFoundError:
        return False
    return True


def _has_monitor() -> bool:
    return all(map(importlib.util.find_spec, ("starlette", "uvicorn", "websockets")))


def _has_display() -> bool:
    """Whether a browser that is opened is seen by a person."""
    is_shown = sys.platform != "linux" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
    return sys.stdout.isatty() and is_shown and "CI" not in os.environ


async def _demo(
    show: _Show,
    *,
    played: str,
    data: Path | None,
    seconds: float,
    broker: str,
    monitor: bool,
    debug: bool,
) -> dict[str, Any]:
    from stream_classifier.demo import Tally  # noqa: PLC0415

    tally = Tally()
    source_id = f"stream-classifier-demo-{os.getpid()}"
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        no_settings = folder / "empty.toml"  # the user's own are for their own streams
        no_settings.touch()
        settings = await stack.enter_async_context(_broker(broker))
        subscriber = await stack.enter_async_context(_subscribed(settings, tally))
        device = await stack.enter_async_context(
            _process(
                *("simulate", "synthetic" if played == "synthetic" else "scenario"),
                *("--scenario", "demo", "--name", STREAM, "--source-id", source_id, "--loop"),
                *(("--data", str(data)) if data else ()),
                log=None if debug else folder / "device.log",
            )
        )
        pipeline = await stack.enter_async_context(
            _process(
                *("run", "--json", "--source-id", source_id, "--wait", "30"),
                *("--bundle", "bonn"),  # the data set's own, and what is made to resemble it
                *("--config", str(no_settings)),
                *("--broker", str(settings), "--stream", STREAM),
                *("--set", f"outbox.path={folder / 'outbox.sqlite'}"),
                *("--set", f"alarm.refractory_s={REFRACTORY_S}"),
                "--monitor" if monitor else "--no-monitor",
                log=None if debug else folder / "pipeline.log",
            )
        )
        await _playing(device, folder, debug=debug)
        started_s = time.monotonic()
        truth = await stack.enter_async_context(_truth(source_id, tally))
        with show.on(tally, settings, played=played):
            while time.monotonic() - started_s < seconds:
                show.refresh(elapsed_s=time.monotonic() - started_s, seconds=seconds)
                if monitor and (url := _monitor_url(folder / "pipeline.log")):
                    show.page(url)
                    monitor = False
                _must_live(device, "device", folder)
                _must_live(pipeline, "pipeline", folder)
                for task in (subscriber, truth.task):
                    if task.done():
                        task.result()
                await asyncio.sleep(0.1)
        ended_s = time.time()
        truth.stop.set()
        summary = await _stop(pipeline)
        await _stop(device)
    return tally.result(data=played, n_windows=summary.get("windows", 0), ended_s=ended_s)


@contextlib.asynccontextmanager
async def _broker(url: str) -> AsyncIterator[BrokerSettings]:
    from stream_classifier.sinks.broker import parse_broker_url  # noqa: PLC0415

    if url != "embedded":
        broker = parse_broker_url(url)
        yield broker
        await _forget(broker)
        return
    from stream_classifier.sinks.embedded_broker import EmbeddedBroker  # noqa: PLC0415 - extra

    async with EmbeddedBroker() as embedded:
        yield parse_broker_url(embedded.url)


async def _forget(broker: BrokerSettings) -> None:
    """Take back what the demo left retained on somebody's broker."""
    from stream_classifier.errors import SinkError  # noqa: PLC0415
    from stream_classifier.sinks.connection import Connector, passing_client_id  # noqa: PLC0415
    from stream_classifier.sinks.topics import Topics  # noqa: PLC0415

    topics = Topics(stream=STREAM, base=broker.base_topic)
    with contextlib.suppress(SinkError):  # away: then nobody sees it either
        connector = Connector(broker, client_id=passing_client_id("demo"))
        async with connector.connect() as connection:
            for topic in (topics.status, topics.alert, topics.info):
                await connection.publish(topic, b"", qos=1, retain=True)


@contextlib.asynccontextmanager
async def _subscribed(broker: BrokerSettings, tally: Tally) -> AsyncIterator[asyncio.Task[None]]:
    """Yield a task that tells the tally what a subscriber receives; it listens already."""
    listening = asyncio.Event()
    task = asyncio.create_task(_subscribe(broker, tally, listening.set), name="subscriber")
    heard = asyncio.create_task(listening.wait(), name="listening")
    try:
        await asyncio.wait({task, heard}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        yield task
    finally:
        heard.cancel()
        task.cancel()
        await asyncio.gather(task, heard, return_exceptions=True)


async def _subscribe(
    broker: BrokerSettings, tally: Tally, on_listening: Callable[[], None]
) -> None:
    from stream_classifier.sinks.subscriber import watch  # noqa: PLC0415

    async for message in watch(broker, stream=STREAM, on_listening=on_listening):
        match message.what:
            case "prediction":
                tally.prediction(message.fields, message.received_s)
            case "event":
                tally.event(message.fields, message.received_s)
            case "status":
                tally.status = message.text
            case "alert":
                tally.signal = str(message.fields.get("signal"))


@dataclass(frozen=True, slots=True)
class _Truth:
    task: asyncio.Task[None]
    stop: threading.Event


@contextlib.asynccontextmanager
async def _truth(source_id: str, tally: Tally) -> AsyncIterator[_Truth]:
    """Read the device's markers on a thread; they come with LSL time."""
    from stream_classifier.sources.lsl import lsl_clock  # noqa: PLC0415
    from stream_classifier.sources.markers import read_markers  # noqa: PLC0415

    stop = threading.Event()
    loop = asyncio.get_running_loop()
    to_unix_s = time.time() - lsl_clock()

    def take(text: str, at_s: float) -> None:
        loop.call_soon_threadsafe(tally.marker, text, at_s + to_unix_s)

    reading = asyncio.create_task(
        asyncio.to_thread(
            read_markers, f"{source_id}-markers", on_marker=take, wait_s=30, stop=stop
        ),
        name="truth",
    )
    try:
        yield _Truth(reading, stop)
    finally:
        stop.set()
        await asyncio.gather(reading, return_exceptions=True)


async def _playing(device: _Child, folder: Path, *, debug: bool) -> None:
    """Wait until the device says that it streams; then the demo's time begins."""
    log = folder / "device.log"
    while not debug and "streaming" not in log.read_text(errors="replace"):
        _must_live(device, "device", folder)
        await asyncio.sleep(0.02)


def _monitor_url(log: Path) -> str | None:
    """Return where the pipeline says that its page is, once it does."""
    said = log.read_text(errors="replace") if log.exists() else ""
    found = re.search(r"^monitor page: (\S+)$", said, re.MULTILINE)
    return found and found[1]


@contextlib.asynccontextmanager
async def _process(*arguments: str, log: Path | None) -> AsyncIterator[_Child]:
    """Run one of our own commands in a process of its own, and end it with this block.

    Not asyncio's subprocesses: on Windows the event loop that MQTT needs has none.

    Args:
        *arguments: The command and its options.
        log: Where its standard error goes; None: to ours, with debugging on.
    """
    with contextlib.ExitStack() as stack:
        child = subprocess.Popen(  # noqa: ASYNC220, S603 - our own command; it starts at once
            [sys.executable, "-m", "stream_classifier", *(() if log else ("--debug",)), *arguments],
            stdout=subprocess.PIPE,
            stderr=stack.enter_context(log.open("wb")) if log else None,
            text=True,
            env={k: v for k, v in os.environ.items() if not k.startswith(ENV_PREFIX) or k == DATA},
        )
    try:
        yield child
    finally:
        await _stop(child)


def _must_live(child: _Child, name: str, folder: Path) -> None:
    if child.poll() is None:
        return
    log = folder / f"{name}.log"
    said = log.read_text(errors="replace").strip()[-1000:] if log.exists() else ""
    raise StreamClassifierError(
        f"the {name}'s process ended with exit code {child.returncode}. It said:\n{said}\n"
        "Try: stream-classifier doctor; stream-classifier --debug demo"
    )


async def _stop(child: _Child) -> dict[str, Any]:
    """End a process as a service manager would, and return the JSON that it printed, if any."""
    if child.stdout is None or child.stdout.closed:
        return {}
    child.terminate()
    try:
        out, _ = await asyncio.to_thread(child.communicate, timeout=5)
    except subprocess.TimeoutExpired:
        child.kill()
        out, _ = await asyncio.to_thread(child.communicate)
    lines = out.strip().splitlines()
    return dict(json.loads(lines[-1])) if lines and lines[-1].startswith("{") else {}


class _Show:
    """What a person sees, on standard error: a live view on a terminal, else a few lines."""

    def __init__(self, *, live: bool, opens: bool) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._is_live = live
        self._opens = opens
        self._recent: deque[float | None] = deque(maxlen=SPARKLINE_SAMPLES)
        self._n_shown = 0

    @contextlib.contextmanager
    def on(self, tally: Tally, broker: BrokerSettings, *, played: str) -> Iterator[None]:
        """Show this tally until the end of the block."""
        self._tally = tally
        port, host = broker.port, broker.host
        self._hint = f"mosquitto_sub -h {host} -p {port} -t 'stream_classifier/{STREAM}/alert/#' -v"
        self._played = played
        self._console.print(f"playing {played}; watch it yourself:\n  {self._hint}", markup=False)
        if not self._is_live:
            yield
            return
        with Live(console=self._console, auto_refresh=False, transient=True) as self._view:
            yield

    def say(self, line: str) -> None:
        """Print one line."""
        self._console.print(line, markup=False)

    def page(self, url: str) -> None:
        """Say where the monitor page is, and open it where a person sits here."""
        self.say(f"monitor page: {url}")
        if self._opens:
            webbrowser.open(url)

    def refresh(self, *, elapsed_s: float, seconds: float) -> None:
        """Bring the view up to date."""
        tally = self._tally
        for alert in tally.alerts[self._n_shown :]:
            self._console.print(_line(alert), markup=False, soft_wrap=True)
        self._n_shown = len(tally.alerts)
        self._recent.append(tally.p)
        if self._is_live:
            self._view.update(self._panel(elapsed_s, seconds), refresh=True)

    def _panel(self, elapsed_s: float, seconds: float) -> Panel:
        tally = self._tally
        seizing = bool(tally.seizures) and tally.seizures[-1].offset_s is None
        end = "" if math.isinf(seconds) else f" of {seconds:.0f}"
        alert = tally.state == "alert"
        grid = Table.grid(padding=(0, 2))
        grid.add_row("device plays", "[bold]SEIZURE[/]" if seizing else "background")
        signal = "starting" if tally.status == "offline" else printable(tally.signal)
        grid.add_row("signal", Text(signal))
        grid.add_row("p(seizure)", f"{_number(tally.p)}  {self._sparkline()}")
        grid.add_row("alert", "[bold white on red] !!! SEIZURE ALERT [/]" if alert else "none")
        latest = tally.latencies_ms[-200:]
        if latest:
            grid.add_row(
                "sample to subscriber", f"{sorted(latest)[len(latest) // 2]:.1f} ms median"
            )
        return Panel(
            grid,
            title=f"stream_classifier demo   {elapsed_s:.0f}{end} s",
            subtitle="research use only, not a medical device",
            expand=False,
        )

    def _sparkline(self) -> str:
        width = max(10, min(SPARKLINE_SAMPLES, self._console.width - 40))
        recent = [*[None] * width, *self._recent][-width:]
        return "".join(
            "·" if p is None else BARS[min(int(p * len(BARS)), len(BARS) - 1)] for p in recent
        )

    def verdict(self, result: dict[str, Any]) -> None:
        """Say how it went."""
        latencies = ", ".join(f"{s:.1f} s" for s in result["detection_latency_s"]) or "none"
        transport = result["sample_to_subscriber_ms"]
        self._console.print(
            f"{result['seizures_detected']} of {result['seizures_true']} seizures detected "
            f"(latency {latencies}), {result['false_alarms']} false alarms in "
            f"{result['windows']} windows"
        )
        self._console.print(
            f"sample to subscriber: {transport['p50']} ms median, {transport['p99']} ms p99 "
            f"(n = {transport['n']})"
        )


def _line(alert: dict[str, Any]) -> str:
    at = datetime.fromisoformat(alert["ts"]).astimezone()
    sign = "!!!" if alert["on"] else "   "
    return (
        f"{at:%H:%M:%S} {sign} {alert['event_type']:8} p {alert['p']:.2f}  "
        f"{printable(', '.join(alert['channels']))}  {alert['alert_id'][:8]}"
    )


def _number(p: float | None) -> str:
    return " -- " if p is None else f"{p:.2f}"
