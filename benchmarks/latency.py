"""From a sample pushed to its alert received: simulated headset, LSL, pipeline, broker, subscriber.

Every event is committed to the outbox before it is sent. To have a thousand of them in a minute or
two, the signal is a seizure that goes on (the neural mass model's), thresholds lie at the median of
its p(seizure), and smoothing, persistence and refractory time are 0: then alerts are raised, go off
and end several times a second. Everything else is as shipped. Beside it, in the same run, the same
job written plainly with MNE-LSL, torch and paho, where those are installed (``pip install
mne-lsl``).

All processes are on one machine, so one clock serves: LSL's, which is the monotonic one.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import sqlite3
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import paho.mqtt.client as paho

from benchmarks.machine import describe
from benchmarks.processes import RunningBroker, broker, started
from simulators.blocks import RATE_HZ, Block
from simulators.device import Device
from simulators.neural_mass import ICTAL, NeuralMass
from stream_classifier.bundle import Bundle, load_bundle
from stream_classifier.config import AlarmSettings
from stream_classifier.detection.detector import Detector, DetectorSettings
from stream_classifier.engines import make_engine
from stream_classifier.service import detector_settings
from stream_classifier.signals import Chunk, Prediction, StreamSpec
from stream_classifier.sources.lsl import lsl_clock

STAGES = ("received", "decided", "committed", "sent", "subscriber")
PARTS = {
    "lsl": ("pushed", "received"),
    "detector": ("received", "decided"),
    "outbox": ("decided", "committed"),
    "sink": ("committed", "sent"),
    "broker": ("sent", "subscriber"),
}
"""What lies between the stages; "outbox" holds the crossing into asyncio and the commit."""

PEER = "MNE-LSL, torch, paho"
PEER_BUNDLE = "bonn"
ATTACH_S = 20.0
SETTLE_S = 5.0
"""Left out at first: filters settle, connections are made."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--channels", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=90.0, help="of each")
    parser.add_argument("--bundle", default="headset")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--outbox", type=Path, help="folder for it; unset: a temporary one")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return a row for each number of channels, of ours and of the peer."""
    missing = [
        name for name in ("mne_lsl", "torch", "paho") if importlib.util.find_spec(name) is None
    ]
    skipped = {}
    if missing:
        skipped[PEER] = f"not installed: {', '.join(missing)}"
    elif arguments.no_peer:
        skipped[PEER] = "--no-peer"
    rows, peers = [], []
    with broker() as running:
        for n_channels in arguments.channels:
            signal = NeuralMass(n_channels=n_channels, seed=3, regime=ICTAL).run(
                round(30 * RATE_HZ)
            )
            rows.append(_ours(running, signal, arguments))
            if not skipped:
                peers.append(_peer(running, signal, arguments.seconds))
        return {
            "machine": describe(),
            "versions": {} if skipped else {name: version(name) for name in ("mne-lsl", "torch")},
            "broker": running.name,
            "bundle": arguments.bundle,
            "rows": rows,
            "bare_commit_ms": _bare_commit(arguments.outbox),
            "peer": {"name": PEER, "bundle": PEER_BUNDLE, "rows": peers},
            "skipped": skipped,
        }


def table(result: dict[str, Any]) -> str:
    lines = [
        (
            f"{result['machine']} {result['versions']}; broker {result['broker']}, "
            f"bundle {result['bundle']}; milliseconds, p50 / p99"
        ),
        f"{'':24} {'channels':>8} {'events':>7} {'sample to subscriber':>22}  parts",
    ]
    for name, rows in (("stream_classifier", result["rows"]), (PEER, result["peer"]["rows"])):
        for row in rows:
            whole = row["sample_to_subscriber_ms"]
            parts = ", ".join(
                f"{part} {ms['p50']:.2f} / {ms['p99']:.2f}"
                for part, ms in row.get("parts_ms", {}).items()
            )
            lines.append(
                f"{name:24} {row['channels']:8} {row['events']:7} "
                f"{whole['p50']:13.2f} / {whole['p99']:6.2f}  {parts}"
            )
    bare = result["bare_commit_ms"]
    lines.append(f"a bare SQLite commit on this disk: {bare['p50']:.2f} / {bare['p99']:.2f}")
    lines += [f"{name}: skipped, {why}" for name, why in result["skipped"].items()]
    return "\n".join(lines)


class _NotedDevice(Device):
    """Notes when it really pushed each chunk."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.pushed_s: dict[int, float] = {}  # by the index of the chunk's last sample

    def _send(self, piece: Any) -> None:
        self.pushed_s[piece.last_index] = lsl_clock()
        super()._send(piece)

    def pushed(self, index: int) -> float | None:
        """When a sample was pushed, as the last of a chunk or within it."""
        later = range(index, index + self.chunk_samples)
        return next((self.pushed_s[i] for i in later if i in self.pushed_s), None)


def _ours(
    running: RunningBroker, signal: np.ndarray, arguments: argparse.Namespace
) -> dict[str, Any]:
    n_channels = signal.shape[1]
    spec = _spec(n_channels)
    bundle = load_bundle(arguments.bundle)
    threshold = _busiest_threshold(bundle, signal, spec)
    with TemporaryDirectory() as folder, TemporaryDirectory(dir=arguments.outbox) as outbox:
        settings, marks = Path(folder) / "settings.json", Path(folder) / "marks.json"
        flags = {
            "source": {"source_id": spec.source_id, "wait_s": ATTACH_S},
            "mqtt": {"broker": running.url},
            "outbox": {"path": f"{outbox}/outbox.sqlite"},
            "model": {"bundle": arguments.bundle, "engine": arguments.engine},
            "alarm": {
                "raise_threshold": threshold, "clear_threshold": threshold, "smoothing_s": 0,
                "persistence_s": 0, "refractory_s": 0,
            },
        }  # fmt: skip
        seconds = arguments.seconds + SETTLE_S
        stream = {
            "name": spec.name, "source_id": spec.source_id, "rate_hz": spec.rate_hz,
            "labels": spec.labels, "simulated": True,
        }  # fmt: skip
        settings.write_text(json.dumps({"flags": flags, "seconds": seconds, "stream": stream}))
        command = (sys.executable, "-m", "benchmarks.latency_ours", str(settings), str(marks))
        topic = f"stream_classifier/{spec.name}/alert/event"
        device, received = _play(running, command, Path(folder), topic, signal, spec, seconds)
        stages = json.loads(marks.read_text(encoding="utf-8"))
    to_lsl_s = lsl_clock() - time.time()
    events = []
    for payload, at_s in received:
        fields = json.loads(payload)
        stamp_s = datetime.fromisoformat(fields["ts"]).timestamp() + to_lsl_s
        pushed_s = device.pushed(round((stamp_s - device.pacer.start_s) * RATE_HZ))
        times = stages.get(fields["event_id"], {})
        if pushed_s is not None and len(times) == len(STAGES) - 1 and fields["durable"]:
            events.append(times | {"pushed": pushed_s, "subscriber": at_s})
    first_s = device.pacer.start_s + SETTLE_S
    events = [times for times in events if times["pushed"] >= first_s]
    return {
        "channels": n_channels,
        "events": len(events),
        "threshold": threshold,
        "sample_to_subscriber_ms": _spread(events, "pushed", "subscriber"),
        "parts_ms": {part: _spread(events, *ends) for part, ends in PARTS.items()},
    }


def _peer(running: RunningBroker, signal: np.ndarray, seconds: float) -> dict[str, Any]:
    spec = _spec(signal.shape[1])
    seconds += SETTLE_S
    with TemporaryDirectory() as folder:
        settings = Path(folder) / "settings.json"
        topic = f"peer/{spec.name}"
        settings.write_text(
            json.dumps(
                {"source_id": spec.source_id, "port": running.port, "topic": topic,
                 "bundle": PEER_BUNDLE, "seconds": seconds + ATTACH_S / 4}
            )
        )  # fmt: skip
        command = (sys.executable, "-m", "benchmarks.latency_peer", str(settings))
        device, received = _play(running, command, Path(folder), topic, signal, spec, seconds)
    events = []
    for payload, at_s in received:
        index = round((json.loads(payload)["stamp_s"] - device.pacer.start_s) * RATE_HZ)
        pushed_s = device.pushed(index)
        if pushed_s is not None and pushed_s >= device.pacer.start_s + SETTLE_S:
            events.append({"pushed": pushed_s, "subscriber": at_s})
    return {
        "channels": spec.n_channels,
        "events": len(events),
        "sample_to_subscriber_ms": _spread(events, "pushed", "subscriber"),
    }


def _play(
    running: RunningBroker,
    command: tuple[str, ...],
    home: Path,
    topic: str,
    signal: np.ndarray,
    spec: StreamSpec,
    seconds: float,
) -> tuple[_NotedDevice, list[tuple[bytes, float]]]:
    """Play the signal to a process; return the device, and what came with the time it came."""
    received: list[tuple[bytes, float]] = []
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.on_message = lambda _c, _d, message: received.append((message.payload, lsl_clock()))
    client.connect("127.0.0.1", running.port)
    client.subscribe(topic, qos=1)
    client.loop_start()
    stop = threading.Event()
    device = _NotedDevice(
        name=spec.name, source_id=spec.source_id, labels=spec.labels,
        played="benchmark", chunk_samples=4, stop=stop,
    )  # fmt: skip
    folders = {name: str(home) for name in ("XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
    try:
        with device, started(*command, environment=folders) as process:
            if not device.wait_for_consumer(2 * ATTACH_S):
                raise TimeoutError(f"nobody read the stream within {2 * ATTACH_S:g} s")
            threading.Timer(seconds + ATTACH_S, stop.set).start()
            playing = threading.Thread(target=device.stream, args=(_again_and_again(signal),))
            playing.start()
            if process.wait(seconds + 3 * ATTACH_S):
                raise RuntimeError(f"{' '.join(command)} failed")
            stop.set()
            playing.join()
    finally:
        stop.set()
        client.disconnect()
        client.loop_stop()
    return device, received


def _again_and_again(signal: np.ndarray) -> Iterator[Block]:
    yield from itertools.repeat(Block(signal))


def _spec(n_channels: int) -> StreamSpec:
    name = f"latency-{uuid.uuid4().hex[:8]}"
    labels = tuple(f"E{i + 1}" for i in range(n_channels))
    return StreamSpec(name, name, RATE_HZ, labels, simulated=True)


def _busiest_threshold(bundle: Bundle, signal: np.ndarray, spec: StreamSpec) -> float:
    """The level that the stream's p(seizure) rises through most often, decided offline."""
    plain = AlarmSettings(smoothing_s=0, persistence_s=0, refractory_s=0)
    settings = detector_settings(bundle, plain)
    detector = Detector(
        bundle=bundle,
        spec=spec,
        engine=make_engine(bundle),
        settings=DetectorSettings(rule=settings.rule, gains=(1.0,) * spec.n_channels),
    )
    items = detector.feed(Chunk(signal, 0))
    p = np.array([item.p for item in items if isinstance(item, Prediction) and item.p is not None])
    levels = np.unique(np.percentile(p, range(5, 96)))
    return float(max(levels, key=lambda level: np.sum((p[:-1] < level) & (p[1:] >= level))))


def _bare_commit(folder: Path | None, *, n: int = 500, every_s: float = 0.05) -> dict[str, float]:
    """One row a transaction, set up as the outbox is: what the disk makes of a commit."""
    commits = []
    with (
        TemporaryDirectory(dir=folder) as place,
        closing(sqlite3.connect(f"{place}/bare.sqlite", isolation_level=None)) as database,
    ):
        for setting in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL"):
            database.execute(f"PRAGMA {setting}")
        database.execute("CREATE TABLE bare (payload BLOB)")
        for _ in range(n):
            start = time.perf_counter()
            database.execute("INSERT INTO bare VALUES (?)", (bytes(900),))
            commits.append({"begun": start, "done": time.perf_counter()})
            time.sleep(every_s)
    return _spread(commits, "begun", "done")


def _spread(events: list[dict[str, float]], start: str, stop: str) -> dict[str, float]:
    took_ms = [(times[stop] - times[start]) * 1e3 for times in events]
    if not took_ms:
        return {"p50": float("nan"), "p99": float("nan")}
    return {f"p{q}": round(float(np.percentile(took_ms, q)), 3) for q in (50, 99)}
