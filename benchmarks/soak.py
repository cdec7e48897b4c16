"""A simulated day through the whole pipeline in one process: memory, file descriptors, counters.

A device with a seizure every ten minutes and a second missing every hour, its samples placed by
their stamps, the reader's thread, the pipeline, the outbox on disk, a broker and a subscriber. The
device is as fast as the rest of it, so a day takes minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho
from numpy.typing import NDArray

from benchmarks.machine import describe
from benchmarks.processes import broker
from simulators.blocks import RATE_HZ
from simulators.scenario import parse, play
from stream_classifier.bundle import Bundle, load_bundle
from stream_classifier.detection.detector import Detector, DetectorSettings
from stream_classifier.engines import make_engine
from stream_classifier.pipeline import Pipeline, Reader
from stream_classifier.signals import Chunk, SourceHealth, SourceState, StreamSpec
from stream_classifier.sinks.broker import parse_broker_url
from stream_classifier.sinks.connection import event_loop_factory
from stream_classifier.sinks.messages import MessageBuilder, ModelRef, WallClock
from stream_classifier.sinks.mqtt import MqttSink
from stream_classifier.sinks.outbox import Outbox
from stream_classifier.sinks.topics import Topics
from stream_classifier.sources.timeline import Timeline

DAY_S = 86_400.0
CYCLE_S = 600.0
CYCLE = """
seed = 3
[[part]]
state = "background"
seconds = 560
[[part]]
state = "seizure"
seconds = 20
[[part]]
state = "background"
seconds = 20
"""
HOUR_S = 3600
WARM_UP_SHARE = 0.25
"""Of the time: queues of the newest and pools of the libraries fill up, and stay as they are."""

LOOKS = 200
SPEC = StreamSpec("soak", "soak", RATE_HZ, ("Cz",), simulated=True)
TOPICS = Topics("soak")
DELIVERED_WITHIN_S = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--hours", type=float, default=24.0, help="of signal")
    parser.add_argument("--bundle", default="headset")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one soak."""
    return {"machine": describe()} | soak(
        arguments.hours * HOUR_S, bundle=load_bundle(arguments.bundle), progress=True
    )


def table(result: dict[str, Any]) -> str:
    lines = [str(result.pop("machine"))]
    lines += [f"{name.replace('_', ' '):36} {value}" for name, value in result.items()]
    return "\n".join(lines)


class Device:
    """A source that has its next second whenever it is asked, and says when all was taken.

    Args:
        seconds: Of signal, a whole number.
    """

    def __init__(self, seconds: float) -> None:
        self._signal = np.concatenate([b.samples for b in play(parse(CYCLE), n_channels=1)])
        self._n_seconds = round(seconds)
        self._timeline = Timeline(RATE_HZ)
        self.stop = threading.Event()
        self.now_s = 1000.0
        self.runs: list[int] = [0]  # lengths of the stretches between gaps, samples
        self.looks: list[tuple[float, int, int]] = []  # seconds of signal, bytes, descriptors
        self.show: Any = lambda _share: None

    def clock(self) -> float:
        """Return the time, which passes with the signal."""
        return self.now_s

    @property
    def health(self) -> SourceHealth:
        timeline = self._timeline
        return SourceHealth(
            state=SourceState.ATTACHED,
            measured_hz=timeline.measured_hz,
            samples=timeline.n_samples,
            gaps=timeline.n_gaps,
            missing_samples=timeline.n_missing,
        )

    def open(self) -> StreamSpec:
        return SPEC

    def __iter__(self) -> Iterator[Chunk]:
        rate = round(RATE_HZ)
        every = max(1, self._n_seconds // LOOKS)
        for second in range(self._n_seconds):
            if self.stop.is_set():
                return
            if second % HOUR_S == HOUR_S // 2:  # this second is lost
                self.runs.append(0)
                continue
            index = np.arange(second * rate, (second + 1) * rate)
            self.now_s = 1000.0 + (second + 1)
            self.runs[-1] += rate
            samples = np.take(self._signal, index, axis=0, mode="wrap")
            placed = self._timeline.place(samples, 1000.0 + index / RATE_HZ, received_s=self.now_s)
            # It cuts where its estimate of the clock moves; in long chunks all goes faster.
            for run in _runs(placed):
                yield replace(
                    run[-1],
                    samples=np.concatenate([c.samples for c in run]),
                    first_index=run[0].first_index,
                )
            if second % every == 0:
                self.looks.append((second, *_usage()))
                self.show(second / self._n_seconds)

    def close(self) -> None:
        pass


def _runs(chunks: list[Chunk]) -> list[list[Chunk]]:
    """Group chunks that follow each other without a gap."""
    runs: list[list[Chunk]] = []
    for chunk in chunks:
        if runs and runs[-1][-1].indices.stop == chunk.first_index:
            runs[-1].append(chunk)
        else:
            runs.append([chunk])
    return runs


def soak(seconds: float, *, bundle: Bundle, progress: bool = False) -> dict[str, Any]:
    """Run that much signal through, and return what it took and whether all was counted."""
    device = Device(seconds)
    if progress:
        device.show = _bar
    with tempfile.TemporaryDirectory() as folder, broker() as running, _Subscriber(running) as ids:
        began_s = time.perf_counter()
        with asyncio.Runner(loop_factory=event_loop_factory) as runner:
            counted = runner.run(_through(device, bundle, running.url, Path(folder), ids))
        took_s = time.perf_counter() - began_s
    return {
        "hours": round(seconds / HOUR_S, 3),
        "times_real_time": round(seconds / took_s),
        "broker": running.name,
        **_growth(device),
        **counted,
    }


async def _through(
    device: Device, bundle: Bundle, url: str, folder: Path, delivered: list[str]
) -> dict[str, Any]:
    builder = MessageBuilder(
        spec=SPEC,
        model=ModelRef(
            bundle.name, bundle.digest, bundle.alarm.raise_threshold, bundle.alarm.clear_threshold
        ),
        clock=WallClock.set_now(device.now_s),
    )
    info = builder.info(at=datetime.now(UTC), topics=TOPICS.by_name(), versions={}, card={})
    settings = DetectorSettings(rule=bundle.alarm)
    kept: dict[str, None] = {}

    def make(spec: StreamSpec) -> Detector:
        return Detector(bundle=bundle, spec=spec, engine=make_engine(bundle), settings=settings)

    async with (
        Outbox(path=folder / "outbox.sqlite", max_age_s=1e9, max_rows=100_000) as outbox,
        MqttSink(settings=parse_broker_url(url), outbox=outbox, topics=TOPICS, info=info) as sink,
        Reader(device, make, clock=device.clock, stop=device.stop, patient=True) as reader,
    ):
        take = sink.event

        async def noted(message: Any) -> None:
            kept[message.event_id] = None
            await take(message)

        sink.event = noted  # type: ignore[method-assign]
        pipeline = Pipeline(reader=reader, builder=builder, sink=sink, clock=device.clock)
        await pipeline.run()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DELIVERED_WITHIN_S):
                while set(delivered) < set(kept):  # noqa: ASYNC110 - another thread is told
                    await asyncio.sleep(0.05)
    detector, health = reader.detector, reader.health
    n_due = sum(_n_windows(n, bundle, detector.engine.hop_samples) for n in device.runs)
    distinct = list(dict.fromkeys(delivered))
    return {
        "samples": health.samples,
        "samples_expected": sum(device.runs),
        "gaps": health.gaps,
        "gaps_expected": len(device.runs) - 1,
        "missing_samples": health.missing_samples,
        "windows": detector.n_windows,
        "windows_expected": n_due,
        "predictions": pipeline.counters.predictions,
        "predictions_shed": reader.shed,
        "windows_refused": detector.n_windows_refused,
        "alerts": pipeline.counters.alerts,
        "events_decided": len(kept),
        "events_lost": len(set(kept) - set(delivered)),
        "events_in_order": distinct == list(kept),
        "events_left": sink.counters.pending,
    }


def _n_windows(n_samples: int, bundle: Bundle, hop_samples: int) -> int:
    return max(0, (n_samples - bundle.window_samples) // hop_samples + 1)


def _growth(device: Device) -> dict[str, Any]:
    """Say how memory and descriptors went, once the first part had passed."""
    looks = np.array(device.looks, dtype=np.float64)
    looks = looks[round(len(looks) * WARM_UP_SHARE) :]
    at_s, n_bytes, n_files = looks.T
    slope, _ = np.polyfit(at_s, n_bytes, 1)
    return {
        "resident_mb": round(float(n_bytes[-1]) / 1e6, 1),
        "resident_slope_percent_a_day": round(float(100 * slope * DAY_S / n_bytes.mean()), 2),
        "resident_growth_percent": round(100 * float(_end_growth(n_bytes)), 2),
        "descriptors": int(n_files[-1]),
        "descriptors_growth": int(n_files[-1] - n_files[0]),
    }


def _end_growth(n_bytes: NDArray[np.float64]) -> float:
    tenth = max(1, len(n_bytes) // 10)
    return float(np.median(n_bytes[-tenth:]) / np.median(n_bytes[:tenth]) - 1)


def _usage() -> tuple[int, int]:
    """Return resident memory in bytes, and how many files are open."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def _bar(share: float) -> None:
    if not sys.stderr.isatty():
        return
    print(f"\r[{'#' * round(40 * share):40}] {share:4.0%}", end="", file=sys.stderr, flush=True)


@dataclass
class _Subscriber:
    """Notes the id of every event that a broker hands on."""

    running: Any
    ids: list[str] = field(default_factory=list)

    def __enter__(self) -> list[str]:
        listening = threading.Event()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._client.on_message = lambda _c, _u, message: self.ids.append(_id(message.payload))
        self._client.on_subscribe = lambda *_: listening.set()
        self._client.connect("127.0.0.1", self.running.port)
        self._client.subscribe(TOPICS.event, qos=1)
        self._client.loop_start()
        if not listening.wait(10):
            raise TimeoutError("the broker took no subscription within 10 s")
        return self.ids

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def _id(payload: bytes) -> str:
    at = payload.index(b'"event_id":"') + len(b'"event_id":"')
    return payload[at : payload.index(b'"', at)].decode()
