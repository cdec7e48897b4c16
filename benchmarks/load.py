"""64 channels at 512 Hz on a real LSL stream, and 50 alerts a second through a flapping connection.

What counts is what is lost: no sample, and no alert. Beside it, what the first takes of a core, and
how late the alerts of the second were.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import tempfile
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import paho.mqtt.client as paho

from benchmarks.machine import describe
from benchmarks.processes import RunningBroker, broker, own
from simulators.blocks import Block
from simulators.device import Device
from stream_classifier.signals import AlertEvent, EventType, State, StreamSpec
from stream_classifier.sinks.broker import parse_broker_url
from stream_classifier.sinks.connection import event_loop_factory
from stream_classifier.sinks.messages import MessageBuilder, ModelRef, WallClock
from stream_classifier.sinks.mqtt import MqttSink
from stream_classifier.sinks.outbox import Outbox
from stream_classifier.sinks.topics import Topics

N_CHANNELS, RATE_HZ = 64, 512.0
ALERTS_A_SECOND = 50
UP_S, DOWN_S = 1.7, 0.3
"""The connection is cut every two seconds, and stays so for a moment."""

ATTACH_WITHIN_S = 60.0
SETTLE_S = 15.0
DRAIN_WITHIN_S = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=600.0, help="of the stream")
    parser.add_argument("--alert-seconds", type=float, default=60.0)
    parser.add_argument("--bundle", default="headset")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what both took, and what was lost."""
    return {
        "machine": describe(),
        "stream": stream(arguments.seconds, bundle=arguments.bundle),
        "alerts": alerts(arguments.alert_seconds),
    }


def table(result: dict[str, Any]) -> str:
    lines = [str(result["machine"])]
    for part in ("stream", "alerts"):
        lines += [f"{part} {name.replace('_', ' '):32} {v}" for name, v in result[part].items()]
    return "\n".join(lines)


def stream(seconds: float, *, bundle: str = "headset") -> dict[str, Any]:
    """Play to a classifier in a process of its own; say what it counted and used."""
    name = f"load-{uuid.uuid4().hex[:8]}"
    n_sent = round(seconds * RATE_HZ)
    with tempfile.TemporaryDirectory() as folder, broker() as running:
        device = Device(
            name=name,
            source_id=name,
            labels=tuple(f"E{i + 1}" for i in range(N_CHANNELS)),
            played="noise",
            rate_hz=RATE_HZ,
            chunk_samples=16,
        )
        with (
            device,
            _Health(running, name) as health,
            own(
                *("run", "--source-id", name, "--broker", running.url, "--bundle", bundle),
                *("--wait", str(ATTACH_WITHIN_S)),
                home=Path(folder),
            ) as process,
        ):
            if not device.wait_for_consumer(ATTACH_WITHIN_S):
                raise TimeoutError(f"nobody read the stream within {ATTACH_WITHIN_S:g} s")
            health.until(lambda: True, within_s=ATTACH_WITHIN_S)
            before_s, since_s = _cpu_s(process.pid), time.monotonic()
            device.stream(_noise(n_sent))
            cpu_s, lasted_s = _cpu_s(process.pid) - before_s, time.monotonic() - since_s
            with contextlib.suppress(TimeoutError):
                health.until(lambda: health.counters["samples"] >= n_sent, within_s=SETTLE_S)
            counted, latency_ms = health.counters, health.latency_ms
    return {
        "seconds": seconds,
        "channels": N_CHANNELS,
        "rate_hz": RATE_HZ,
        "samples_sent": n_sent,
        "samples_lost": n_sent - counted["samples"],
        "gaps": counted["gaps"],
        "missing_samples": counted["missing_samples"],
        "windows": counted["windows"],
        "windows_shed": counted["windows_shed"],
        "cpu_percent_of_a_core": round(100 * cpu_s / lasted_s, 1),
        "decision_latency_ms": latency_ms,
    }


def alerts(seconds: float) -> dict[str, Any]:
    """Raise alerts for so long while the connection comes and goes; say what arrived."""
    with (
        tempfile.TemporaryDirectory() as folder,
        broker() as running,
        asyncio.Runner(loop_factory=event_loop_factory) as runner,
    ):
        return runner.run(_alerts(seconds, running, Path(folder)))


async def _alerts(seconds: float, running: RunningBroker, folder: Path) -> dict[str, Any]:
    builder = MessageBuilder(
        spec=StreamSpec("load", "load", 178.0, ("Cz",), simulated=True),
        model=ModelRef("load", "0" * 64, 0.8, 0.5),
        clock=WallClock.set_now(time.monotonic()),
    )
    topics = Topics("load")
    info = builder.info(at=datetime.now(UTC), topics=topics.by_name(), versions={}, card={})
    n_alerts = round(seconds * ALERTS_A_SECOND)
    commit_s: list[float] = []
    with _Events(running, topics.event) as heard:
        async with (
            _flapping(running.port) as (port, cuts),
            Outbox(path=folder / "outbox.sqlite", max_age_s=1e9, max_rows=100_000) as outbox,
            MqttSink(
                settings=parse_broker_url(f"mqtt://127.0.0.1:{port}"),
                outbox=outbox,
                topics=topics,
                info=info,
            ) as sink,
        ):

            async def put(seq: int) -> None:
                at_s = time.monotonic()
                event = AlertEvent(
                    type=EventType.UPDATED if seq else EventType.RAISED,
                    alert_id="load",
                    seq=seq,
                    at_s=at_s,
                    onset_s=at_s,
                    raised_s=at_s,
                    off_s=None,
                    p=0.9,
                    p_max=0.9,
                    channels=("Cz",),
                )
                decided = builder.clock.utc(at_s)
                await sink.event(
                    builder.event(event, state=State.ALERT, signal="ok", decided=decided)
                )
                commit_s.append(time.monotonic() - at_s)

            since_s = time.monotonic()
            sink.alert_state(
                builder.alert(
                    at_s=since_s, prediction=None, latest=None, signal="starting", decided=None
                )
            )
            async with asyncio.TaskGroup() as putting:
                for seq in range(n_alerts):
                    due_s = since_s + seq / ALERTS_A_SECOND
                    await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                    putting.create_task(put(seq))
            ended_s = time.monotonic()
            expected = [f"load.{seq}" for seq in range(n_alerts)]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_WITHIN_S):
                    while len(set(heard)) < n_alerts or sink.counters.pending:  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
            drained_s = time.monotonic() - ended_s
            n_left = sink.counters.pending
    distinct = list(dict.fromkeys(heard))
    return {
        "seconds": seconds,
        "alerts": n_alerts,
        "cuts": len(cuts),
        "lost": len(set(expected) - set(heard)),
        "in_order": distinct == expected,
        "sent_again": len(heard) - len(distinct),
        "left": n_left,
        "drained_s": round(drained_s, 2),
        "commit_ms": {f"p{q}": round(1e3 * float(np.percentile(commit_s, q)), 1) for q in (50, 99)},
    }


@contextlib.asynccontextmanager
async def _flapping(broker_port: int) -> AsyncIterator[tuple[int, list[float]]]:
    """Pass a port on to the broker's, and cut whatever is connected again and again."""
    passing: set[asyncio.StreamWriter] = set()
    cuts: list[float] = []

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inward, outward = await asyncio.open_connection("127.0.0.1", broker_port)
        passing.update((writer, outward))
        await asyncio.wait(
            [asyncio.create_task(pipe(reader, outward)), asyncio.create_task(pipe(inward, writer))],
            return_when=asyncio.FIRST_COMPLETED,
        )
        for end in (writer, outward):
            passing.discard(end)
            end.transport.abort()

    async def flap() -> None:
        nonlocal server
        while True:
            await asyncio.sleep(UP_S)
            server.close()
            for end in list(passing):
                end.transport.abort()
            cuts.append(time.monotonic())
            await asyncio.sleep(DOWN_S)
            server = await asyncio.start_server(serve, "127.0.0.1", port)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = int(server.sockets[0].getsockname()[1])
    flapping = asyncio.create_task(flap(), name="flap")
    try:
        yield port, cuts
    finally:
        flapping.cancel()
        await asyncio.gather(flapping, return_exceptions=True)
        server.close()


def _noise(n_samples: int) -> Iterator[Block]:
    """Pink noise of a head's amplitude, the same ten seconds again and again."""
    rng = np.random.default_rng(5)
    n = round(10 * RATE_HZ)
    spectrum = np.fft.rfft(rng.normal(size=(n, N_CHANNELS)), axis=0)
    hz = np.fft.rfftfreq(n, 1 / RATE_HZ)[:, None]
    signal = np.fft.irfft(spectrum / np.maximum(hz, 2.0), n=n, axis=0)
    samples = np.float32(signal * 15.0 / signal.std())
    while n_samples > 0:
        yield Block(samples[:n_samples])
        n_samples -= n


def _cpu_s(pid: int) -> float:
    """Time on a processor, user's and system's, of all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class _Subscriber:
    """A client of a broker's own, on a thread."""

    def __init__(self, running: RunningBroker, topic: str) -> None:
        self._changed = threading.Condition()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._client.on_message = self._take
        listening = threading.Event()
        self._client.on_subscribe = lambda *_: listening.set()
        self._client.connect("127.0.0.1", running.port)
        self._client.subscribe(topic, qos=1)
        self._client.loop_start()
        if not listening.wait(10):
            raise TimeoutError("the broker took no subscription within 10 s")

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _take(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        with self._changed:
            self.take(json.loads(message.payload))
            self._changed.notify_all()

    def take(self, fields: dict[str, Any]) -> None:
        raise NotImplementedError


class _Events(_Subscriber):
    """Notes the ids of events as they come."""

    def __init__(self, running: RunningBroker, topic: str) -> None:
        self.ids: list[str] = []
        super().__init__(running, topic)

    def __enter__(self) -> list[str]:
        return self.ids

    def take(self, fields: dict[str, Any]) -> None:
        self.ids.append(fields["event_id"])


class _Health(_Subscriber):
    """Keeps the newest state of health."""

    def __init__(self, running: RunningBroker, stream: str) -> None:
        self.counters: dict[str, int] = {}
        self.latency_ms: dict[str, Any] = {}
        super().__init__(running, Topics(stream).health)

    def __enter__(self) -> Self:
        return self

    def take(self, fields: dict[str, Any]) -> None:
        self.counters, self.latency_ms = fields["counters"], fields["decision_latency_ms"]

    def until(self, holds: Any, *, within_s: float) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self.counters and holds(), within_s):
                raise TimeoutError(f"no such state of health within {within_s:g} s")
