"""A monitor page at work without a device: what its tests and benchmarks talk to."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import threading
import time
from datetime import UTC, datetime
from urllib.parse import urlsplit

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra [monitor] is not installed")

from websockets.sync.client import connect

from stream_classifier.health import Condition, Health, Rung, Step
from stream_classifier.monitor.feed import Feed
from stream_classifier.monitor.memory import About, Memory
from stream_classifier.monitor.server import Controls, Monitor
from stream_classifier.signals import (
    AlertEvent,
    ChannelQuality,
    ChannelState,
    Chunk,
    EventType,
    Prediction,
    State,
    StreamSpec,
)
from stream_classifier.sinks.messages import MessageBuilder, ModelRef, WallClock

RATE_HZ = 256.0
PATIENCE_S = 10.0


def about(labels=("C3", "C4"), **changes):
    known = {
        "stream": "bed 3",
        "kind": "lsl",
        "simulated": False,
        "labels": tuple(labels),
        "sites": tuple(None for _ in labels),
        "rate_hz": RATE_HZ,
        "unit": "µV",
        "model": "bonn",
        "digest": "ab" * 32,
        "engine": "reference",
        "raise_threshold": 0.8,
        "clear_threshold": 0.5,
        "channels_needed": 1,
        "model_rate_hz": 178.0,
        "delay_ms": 0.0,
        "broker": "mqtt://127.0.0.1:1883",
        "topic": "stream_classifier/bed-3",
        "version": "0",
    }
    return About(**(known | changes))


class RunningMonitor:
    """A monitor on a pipeline's loop that has nothing else to do; use as a context manager."""

    def __init__(self, *, host="127.0.0.1", port=0, acknowledge=None, **changes):
        self.about = about(**changes)
        self.clock = WallClock.set_now(time.monotonic())
        self.builder = MessageBuilder(
            spec=StreamSpec(self.about.stream, "amp-1", RATE_HZ, self.about.labels),
            model=ModelRef("bonn", "ab" * 32, raise_threshold=0.8, clear_threshold=0.5),
            clock=self.clock,
        )
        self.feed = Feed()
        self.memory = Memory(self.about, clock=self.clock, now=time.monotonic)
        self.host, self._port = host, port
        self.acknowledged, self.muted = [], []
        self.acknowledge = acknowledge or self._acknowledge
        self.origin_s = time.monotonic()
        self.n_sent = 0
        self.scene = {}

    async def _acknowledge(self, alert_id):
        self.acknowledged.append(alert_id)
        return len(self.acknowledged) == 1

    def __enter__(self):
        self.loop = asyncio.new_event_loop()
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self.loop.run_until_complete, args=(self._run(),))
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)
        return self

    async def _run(self):
        controls = Controls(acknowledge=self.acknowledge, mute=self.muted.append)
        monitor = Monitor(self.feed, self.memory, controls, host=self.host, port=self._port)
        with monitor:
            self.url = monitor.url
            self._ready.set()
            await self._stop.wait()

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE_S)
        self.loop.close()

    @property
    def port(self):
        return urlsplit(self.url).port

    @property
    def token(self):
        return urlsplit(self.url).query.removeprefix("token=")

    def get(self, path="/", host=None, **headers):
        """Return the answer to a request, its body read."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port)) as link:
            names = {"Host": host or f"127.0.0.1:{self.port}"}
            link.request("GET", path, headers={**names, **headers})
            answer = link.getresponse()
            answer.body = answer.read()
            return answer

    def link(self, *, origin=None, cookie=None, **more):
        """Connect as the page does."""
        headers = {"Cookie": cookie} if cookie else {}
        return connect(
            f"ws://127.0.0.1:{self.port}/live",
            origin=origin or f"http://127.0.0.1:{self.port}",
            additional_headers=headers,
            proxy=None,
            **more,
        )

    @contextlib.contextmanager
    def playing(self, **scene):
        """Play a stream in real time; what is said of it can be changed by ``scene.update``.

        Keys: ``signal``, ``p``, ``on``, ``acknowledged``, ``poor`` (labels), ``broken`` (as for
        ``health``), ``silent`` (no samples), ``uv`` (their size).
        """
        self.scene.update(scene)
        stop = threading.Event()
        thread = threading.Thread(target=self._play, args=(stop,), daemon=True)
        thread.start()
        try:
            yield self.scene
        finally:
            stop.set()
            thread.join(PATIENCE_S)

    def _play(self, stop):
        rng = np.random.default_rng(0)
        phase = rng.uniform(0, 6.28, len(self.about.labels))
        ticks = 0
        while not stop.wait(0.04):
            scene = self.scene
            due = int((self.now() - self.origin_s) * RATE_HZ)
            if scene.get("silent"):
                self.n_sent = due  # lost for good
            elif due > self.n_sent:
                t = np.arange(self.n_sent, due)[:, None] / RATE_HZ
                x = np.sin(61 * t + phase) + 0.5 * np.sin(19 * t + 2 * phase)
                x = scene.get("uv", 20) * (x + 0.3 * rng.normal(size=x.shape))
                samples = x.astype(np.float32)
                self.feed.samples(Chunk(samples, self.n_sent, self.origin_s, self.now()))
                self.n_sent = due
            ticks += 1
            if ticks % 5 == 0:
                self._say(scene, with_quality=ticks % 25 == 0 or ticks == 5)

    def _say(self, scene, *, with_quality):
        signal, p, on = scene.get("signal", "ok"), scene.get("p", 0.05), scene.get("on", False)
        if signal != "none":
            self.predict(p, signal=signal)
            if with_quality:
                self.quality(scene.get("poor", ()))
        self.alert(
            signal=signal,
            on=on,
            p=p,
            **(
                {"acknowledged": scene.get("acknowledged", False), **scene.get("life", {})}
                if on
                else {}
            ),
        )
        self.health(**scene.get("broken", {}))

    # What a pipeline says.

    def now(self):
        return time.monotonic()

    def send(self, n=16, *, first_index=None, n_channels=None, origin_s=None, value=None):
        """Samples, following those before."""
        first_index = self.n_sent if first_index is None else first_index
        shape = (n, n_channels or len(self.about.labels))
        samples = np.full(shape, first_index if value is None else value, np.float32)
        origin_s = self.origin_s if origin_s is None else origin_s
        self.feed.samples(Chunk(samples, first_index, origin_s, self.now()))
        self.n_sent = first_index + n

    def event(self, event_type="raised", *, alert_id="a1", seq=0, **changes):
        event = self._alert_event(event_type, alert_id, seq, **changes)
        message = self.builder.event(
            event, state=State.ALERT, signal="ok", decided=datetime.now(UTC)
        )
        asyncio.run_coroutine_threadsafe(self.feed.event(message), self.loop).result(PATIENCE_S)

    def _alert_event(self, event_type="raised", alert_id="a1", seq=0, **changes):
        at_s = self.now()
        known = {
            "type": EventType(event_type),
            "alert_id": alert_id,
            "seq": seq,
            "at_s": at_s,
            "onset_s": at_s - 2,
            "raised_s": at_s,
            "off_s": None,
            "p": 0.94,
            "p_max": 0.96,
            "channels": self.about.labels[:2],
        }
        return AlertEvent(**(known | changes))

    def alert(self, *, signal="ok", on=False, p=0.05, **changes):
        latest = self._alert_event(**changes) if on else None
        prediction = self._prediction(p)
        self.feed.alert_state(
            self.builder.alert(
                at_s=self.now(),
                prediction=None if signal == "none" else prediction,
                latest=latest,
                signal=signal,
                decided=datetime.now(UTC),
            )
        )

    def predict(self, p=0.05, *, signal="ok"):
        at = datetime.now(UTC)
        self.feed.prediction(
            self.builder.prediction(self._prediction(p), signal=signal, decided=at)
        )

    def _prediction(self, p):
        n = len(self.about.labels)
        known = np.nan if p is None else p
        return Prediction(
            end_index=0,
            at_s=self.now(),
            probabilities=np.full((n, 3), known, np.float32),
            smoothed=np.full(n, known, np.float32),
            reasons=("",) * n,
            p=p,
            state=None if p is None else State.ALERT if p >= 0.8 else State.OK,
        )

    def quality(self, poor=()):
        channels = [
            ChannelQuality(
                label,
                ChannelState.POOR if label in poor else ChannelState.GOOD,
                ("mains",) if label in poor else (),
                *(30.0, 0.4 if label in poor else 0.01, 0.0, 0.0, 1.0),
            )
            for label in self.about.labels
        ]
        self.feed.quality(self.builder.quality(channels, at_s=self.now(), signal="ok"))

    def health(self, *, counters=None, **broken):
        """All is well but what is named: ``samples=("no_data", "no sample for 2 s")``."""
        steps = [
            Step(rung, Condition(state), self.now(), reason)
            for rung in Rung
            for state, reason in [broken.get(rung.value, ("ok", ""))]
        ]
        health = Health(self.now(), tuple(steps), 3.0, 20.0, 100)
        self.feed.health(self.builder.health(health, counters=counters or {}))


def said(link, kind, *, within_s=PATIENCE_S, **wanted):
    """Return the next thing of a kind that a viewer is told, and that has these fields."""
    deadline_s = time.monotonic() + within_s
    while (left_s := deadline_s - time.monotonic()) > 0:
        try:
            message = link.recv(timeout=left_s)
        except TimeoutError:
            break
        if isinstance(message, bytes):
            continue
        told = json.loads(message)
        if told["kind"] == kind and wanted.items() <= told["data"].items():
            return told["data"]
    pytest.fail(f"no {kind} with {wanted} within {within_s:g} s")


def frames(data):
    """Read frames as the page does."""
    out, at = [], 0
    while at + 32 <= len(data):
        seq, n_samples, n_channels, _ = np.frombuffer(data, "<u4", 4, at).tolist()
        first_index, start = np.frombuffer(data, "<f8", 2, at + 16).tolist()
        n_bytes = 4 * n_samples * n_channels
        samples = np.frombuffer(data, "<f4", n_bytes // 4, at + 32).reshape(n_samples, n_channels)
        out.append((seq, int(first_index), start, samples))
        at += 32 + n_bytes
    assert at == len(data)
    return out
