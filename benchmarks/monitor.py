"""The monitor page: what a frame costs the browser, and what viewers cost the decisions.

Frames: a recording of 512 Hz is played on a real LSL stream to ``stream-classifier run --monitor``,
and headless Chromium shows its page; the cost is the page's own measure of drawing one frame.
Decisions: a simulated headset at the model's rate, 32 channels; the decision latency that ``run
--json`` reports, without a viewer and with five, one of which never reads what it is sent.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.machine import describe
from benchmarks.processes import broker
from simulators.montage import labels

RATE_HZ = 512
RECORDED_S = 20
N_CHANNELS = 32
N_VIEWERS = 5
START_WITHIN_S = 30.0
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--channels", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=20.0, help="of frames, of each")
    parser.add_argument("--decisions", type=float, default=90.0, help="seconds of decisions, each")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    with broker() as running, TemporaryDirectory() as folder:
        bench = _Bench(running.url, Path(folder))
        skipped = _why_no_browser()
        rows = [] if skipped else [_row(bench, n, arguments.seconds) for n in arguments.channels]
        return {
            "machine": describe(),
            "rows": rows,
            "decision_latency_ms": {
                "no_viewer": _decisions(bench, arguments.decisions, n_viewers=0),
                "five_viewers": _decisions(bench, arguments.decisions, n_viewers=N_VIEWERS),
            },
            "bytes_per_s": rows[-1]["bytes_per_s"] if rows else None,
            "skipped": {"frames": skipped} if skipped else {},
        }


def table(result: dict[str, Any]) -> str:
    lines = [
        result["machine"],
        f"{'channels':>8} {'frame p50 ms':>13} {'p95':>6} {'frames/s':>9} {'kB/s a viewer':>14}",
    ]
    lines += [
        f"{row['channels']:8} {row['frame_ms']['p50']:13.2f} {row['frame_ms']['p95']:6.2f} "
        f"{row['frames_per_s']:9.1f} {row['bytes_per_s'] / 1e3:14.1f}"
        for row in result["rows"]
    ]
    for name, found in result["decision_latency_ms"].items():
        lines.append(
            f"decision latency, {name.replace('_', ' ')}: p50 {found['p50']:.2f} ms, "
            f"p99 {found['p99']:.2f} ms (n = {found['n']})"
        )
    lines += [f"{name}: skipped, {why}" for name, why in result["skipped"].items()]
    return "\n".join(lines)


class _Bench:
    """Starts a device and the classifier on it, each as a process of its own."""

    def __init__(self, broker_url: str, folder: Path) -> None:
        self._broker = broker_url
        self.folder = folder

    @contextlib.contextmanager
    def monitor(self, *device: str) -> Iterator[_Run]:
        name = f"monitor-{uuid.uuid4().hex[:8]}"
        with _own("simulate", *device, "--loop", "--name", name, "--source-id", name):
            state = {"XDG_STATE_HOME": str(self.folder / name)}
            arguments = (
                "run",
                "--json",
                "--source-id",
                name,
                "--broker",
                self._broker,
                "--monitor",
            )
            with _own(*arguments, "--wait", "30", environment=state) as process:
                yield _Run(process)

    def recording(self, n_channels: int) -> str:
        """A file of 512 Hz, with a rhythm and noise."""
        path = self.folder / f"{n_channels}.csv"
        rng = np.random.default_rng(n_channels)
        t = np.arange(RECORDED_S * RATE_HZ)[:, None] / RATE_HZ
        phase = rng.uniform(0, 2 * np.pi, n_channels)
        x = 15 * np.sin(2 * np.pi * 10 * t + phase) + rng.normal(0, 6, (len(t), n_channels))
        head = ",".join(labels(str(n_channels)))
        np.savetxt(path, x, fmt="%.2f", delimiter=",", header=head, comments="")
        return str(path)


class _Run:
    """One classifier with its page."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.url = self._url()
        # What it says from now on is of no interest; but somebody has to read it.
        threading.Thread(target=process.stderr.read, daemon=True).start()  # type: ignore[union-attr]

    def _url(self) -> str:
        said = []
        for line in self.process.stderr or ():
            said.append(line)
            if found := re.search(r"monitor page: (\S+)", line):
                return found[1]
        raise RuntimeError("the classifier did not start: " + "".join(said))

    def link(self, **more: Any) -> Any:
        from websockets.sync.client import connect

        url = self.url.rstrip("/")
        return connect(f"{url.replace('http', 'ws')}/live", origin=url, proxy=None, **more)

    def end(self) -> dict[str, Any]:
        """Stop it; return its summary."""
        self.process.terminate()
        lines = (self.process.stdout.read() if self.process.stdout else "").strip().splitlines()
        self.process.wait(10)
        return dict(json.loads(lines[-1]))


@contextlib.contextmanager
def _own(
    *arguments: str, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "stream_classifier", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if arguments[0] == "run" else subprocess.DEVNULL,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(10)


def _row(bench: _Bench, n_channels: int, seconds: float) -> dict[str, Any]:
    from playwright.sync_api import sync_playwright

    device = ("recording", "--recording", bench.recording(n_channels), "--rate", str(RATE_HZ))
    with bench.monitor(*device, "--unit", "uV") as run, sync_playwright() as driver:
        is_root = hasattr(os, "geteuid") and os.geteuid() == 0
        browser = driver.chromium.launch(
            executable_path=_browser(), args=["--no-sandbox"] if is_root else []
        )
        page = browser.new_context(viewport={"width": 1600, "height": 1000}).new_page()
        page.goto(run.url)
        page.wait_for_timeout(5_000)  # what is done once is over
        page.evaluate("monitor.sweep.frames = []; globalThis.before = monitor.connection.bytes")
        since_s = time.monotonic()
        page.wait_for_timeout(1_000 * seconds)
        frames, n_bytes = page.evaluate(
            "[monitor.sweep.frames, monitor.connection.bytes - globalThis.before]"
        )
        lasted_s = time.monotonic() - since_s
        browser.close()
    return {
        "channels": n_channels,
        "frame_ms": {
            "p50": round(statistics.median(frames), 2),
            "p95": round(float(np.percentile(frames, 95)), 2),
        },
        "frames_per_s": round(len(frames) / lasted_s, 1),
        "bytes_per_s": round(n_bytes / lasted_s),
    }


def _decisions(bench: _Bench, seconds: float, *, n_viewers: int) -> dict[str, Any]:
    device = ("synthetic", "--scenario", "quiet", "--channels", str(N_CHANNELS))
    with bench.monitor(*device) as run, contextlib.ExitStack() as stack:
        # One of them never reads what it is sent.
        for i in range(n_viewers):
            link = stack.enter_context(run.link(max_queue=1 if i == 0 else 16, ping_interval=None))
            if i:
                threading.Thread(target=_read, args=(link,), daemon=True).start()
        time.sleep(seconds)
        summary = run.end()["decision_latency_ms"]
    return {"p50": summary["p50"], "p99": summary["p99"], "n": summary["n"]}


def _read(link: Any) -> None:
    from websockets.exceptions import ConnectionClosed

    with contextlib.suppress(ConnectionClosed):
        for _ in link:
            pass


def _browser() -> str | None:
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def _why_no_browser() -> str:
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "playwright is not installed: pip install '.[browser]'"
    return "" if _browser() else "Chromium is not installed: apt-get install chromium"
