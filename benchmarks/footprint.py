"""What ``stream-classifier run`` takes: processor, memory, time to start, and disk.

One simulated headset on a real LSL stream (in a process of its own), one real broker, and
``stream-classifier run`` as a user starts it. Processor and memory are the kernel's own figures of
that process (``/proc``: Linux only), after it has settled.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import statistics
import threading
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import paho.mqtt.client as paho

from benchmarks.machine import describe
from benchmarks.processes import RunningBroker, broker, own

MB = 1e6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--channels", type=int, nargs="+", default=[8])
    parser.add_argument("--seconds", type=float, default=60.0, help="measured, of each")
    parser.add_argument("--settle", type=float, default=10.0, help="seconds left out before")
    parser.add_argument("--rounds", type=int, default=3, help="starts")
    parser.add_argument("--bundle", default="headset")
    parser.add_argument("--engine", default="auto")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    with broker() as running:
        rows = [_row(running, n_channels, arguments) for n_channels in arguments.channels]
        return {
            "machine": describe(),
            "broker": running.name,
            "bundle": arguments.bundle,
            "rows": rows,
            "installed_mb": installed_mb(),
        }


def table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['machine']}; broker {result['broker']}; bundle {result['bundle']}",
        (
            f"{'channels':>8} {'CPU, % of a core':>17} {'resident MB':>12} {'peak MB':>8} "
            f"{'start to online s':>18} {'to first prediction s':>22}  imported"
        ),
    ]
    lines += [
        f"{row['channels']:8} {row['cpu_percent']:17.2f} {row['resident_mb']:12.1f} "
        f"{row['peak_mb']:8.1f} {row['online_s']:18.2f} {row['prediction_s']:22.2f}  "
        f"{', '.join(row['heavy_libraries']) or 'no scipy, no torch'}"
        for row in result["rows"]
    ]
    sizes = ", ".join(f"{name} {size:,.0f} MB" for name, size in result["installed_mb"].items())
    return "\n".join([*lines, f"installed: {sizes}"])


def _row(running: RunningBroker, n_channels: int, arguments: argparse.Namespace) -> dict[str, Any]:
    last = arguments.rounds - 1  # the first may have to compile
    starts = [_start(running, n_channels, arguments, usage=i == last) for i in range(last + 1)]
    return {
        **starts[-1],
        "channels": n_channels,
        "online_s": round(statistics.median(start["online_s"] for start in starts), 3),
        "prediction_s": round(statistics.median(start["prediction_s"] for start in starts), 3),
    }


def _start(
    running: RunningBroker, n_channels: int, arguments: argparse.Namespace, *, usage: bool
) -> dict[str, Any]:
    """Start once; measure processor and memory, too, if asked for ``usage``."""
    name = f"footprint-{uuid.uuid4().hex[:8]}"
    with TemporaryDirectory() as folder:
        device = own(
            "simulate", "synthetic", "--loop", "--name", name, "--channels", str(n_channels),
            home=Path(folder),
        )  # fmt: skip
        with device:
            time.sleep(3.0)  # it has to be there, so that only our own start is measured
            with _Watcher(running.port, name) as watcher:
                since_s = time.monotonic()
                run = own(
                    "run", "--source-id", name, "--broker", running.url, "--bundle",
                    arguments.bundle, "--engine", arguments.engine, home=Path(folder),
                )  # fmt: skip
                with run as process:
                    found = {
                        "online_s": watcher.first("status", b"online") - since_s,
                        "prediction_s": watcher.first("prediction") - since_s,
                    }
                    if usage:
                        found |= _usage(process.pid, arguments.settle, arguments.seconds)
    return found


def _usage(pid: int, settle_s: float, seconds: float) -> dict[str, Any]:
    time.sleep(settle_s)
    before_s, since_s = _cpu_s(pid), time.monotonic()
    time.sleep(seconds)
    cpu_s, lasted_s = _cpu_s(pid) - before_s, time.monotonic() - since_s
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    maps = Path(f"/proc/{pid}/maps").read_text()
    return {
        "cpu_percent": round(100 * cpu_s / lasted_s, 2),
        "resident_mb": round(_kilobytes(status["VmRSS"]) * 1024 / MB, 1),
        "peak_mb": round(_kilobytes(status["VmHWM"]) * 1024 / MB, 1),
        "heavy_libraries": sorted({*re.findall(r"/site-packages/(scipy|torch)/", maps)}),
    }


def _kilobytes(text: str) -> int:
    return int(text.split(maxsplit=1)[0])


def _cpu_s(pid: int) -> float:
    """Time on a processor of all threads, to the nanosecond: ticks miss what is shorter."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


class _Watcher:
    """Notes when messages of a stream first came."""

    def __init__(self, port: int, stream: str) -> None:
        self._seen: dict[tuple[str, bytes | None], float] = {}
        self._changed = threading.Condition()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._client.on_message = self._note
        self._client.connect("127.0.0.1", port)
        self._client.subscribe(f"stream_classifier/{stream}/+", qos=1)

    def __enter__(self) -> Self:
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _note(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        now_s, what = time.monotonic(), message.topic.rpartition("/")[2]
        with self._changed:
            for key in ((what, message.payload), (what, None)):
                self._seen.setdefault(key, now_s)
            self._changed.notify_all()

    def first(self, what: str, payload: bytes | None = None, *, within_s: float = 60.0) -> float:
        """Wait for a message; return when it came, on the monotonic clock."""
        with self._changed:
            if not self._changed.wait_for(lambda: (what, payload) in self._seen, within_s):
                raise TimeoutError(f"no {what} within {within_s:g} s")
            return self._seen[what, payload]


def installed_mb() -> dict[str, float]:
    """Size of what an installation needs, from what is installed here; compiled files and all."""
    base = _closure("stream_classifier")
    sizes = {"base": _mb(base)}
    if "torch" in {name.lower() for name in _closure("stream_classifier", "torch")}:
        sizes["with [torch]"] = _mb(_closure("stream_classifier", "torch"))
    for name in ("scipy", "numpy"):
        if name in base:
            sizes[f"of it {name}"] = _mb({name})
    return {name: round(size, 1) for name, size in sizes.items()}


def _mb(names: Iterable[str]) -> float:
    n_bytes = 0
    for name in names:
        for file in importlib.metadata.files(name) or []:
            path = Path(str(file.locate()))
            n_bytes += path.stat().st_size if path.is_file() else 0
    # An editable installation lists none of its own files.
    package = Path(__file__).parents[1] / "stream_classifier"
    own_bytes = sum(path.stat().st_size for path in package.rglob("*") if path.is_file())
    return (n_bytes + own_bytes * ("stream_classifier" in set(names))) / MB


def _closure(name: str, extra: str = "") -> set[str]:
    """Names of the installed distributions that one needs, itself too."""
    found: set[str] = set()
    waiting = [(name, extra)]
    while waiting:
        name, extra = waiting.pop()
        if name in found and not extra:
            continue
        try:
            requirements = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        for requirement in requirements:
            text, _, marker = requirement.partition(";")
            wanted = re.findall(r"extra\s*==\s*[\"']([^\"']+)", marker)
            if wanted and extra not in wanted:
                continue
            needed = re.match(r"[A-Za-z0-9._-]+", text.strip())
            if needed and _normal(needed[0]) not in found:
                waiting.append((_normal(needed[0]), ""))
    return found


def _normal(name: str) -> str:
    return "stream_classifier" if name == "stream_classifier" else re.sub(r"[-_.]+", "-", name)
