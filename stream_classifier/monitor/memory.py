"""What viewers may ask for: the last ten minutes of samples, predictions, events, and the state."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from stream_classifier.health import Rung
from stream_classifier.monitor.feed import Said
from stream_classifier.monitor.wire import frame
from stream_classifier.signals import Chunk
from stream_classifier.sinks.messages import (
    AlertMessage,
    EventMessage,
    HealthMessage,
    PredictionMessage,
    QualityMessage,
    WallClock,
    iso_utc,
)

KEPT_S = 600.0
"""How far back samples and predictions can be looked at."""

MOST_BYTES = 96_000_000
"""Samples kept at most: ten minutes of 64 channels at 512 Hz. Of more channels, less time."""

MOST_EVENTS = 400

FRAME_S = 1.0
"""Signal time in one frame at most."""

AGAIN_AFTER_S = 1.0
"""State that is no news goes out again after so long: with it come its newest figures."""

_State = AlertMessage | HealthMessage | QualityMessage
_BAD = frozenset({"degraded", "no_data", "fault"})


@dataclass(frozen=True, slots=True)
class Site:
    """Where on the head a channel is, seen from above.

    Attributes:
        x: To the right; 1 is the ring through Fpz, T7, Oz and T8.
        y: To the front.

    Example:
        >>> Site.seen_from_above(-1.0, 0.0, 0.0)
        Site(x=-1.0, y=0.0)
    """

    x: float
    y: float

    @classmethod
    def seen_from_above(cls, right: float, front: float, up: float) -> Site:
        """Unroll the unit sphere: distances from the vertex stay what they are along the head."""
        from_vertex = math.acos(max(-1.0, min(1.0, up))) / (math.pi / 2)
        flat = math.hypot(right, front) or 1.0
        x, y = (round(from_vertex * value / flat, 3) for value in (right, front))
        return cls(x, y)


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What does not change while a stream is watched.

    Attributes:
        stream: Its name.
        kind: ``lsl`` or ``recording``.
        simulated: Whether the device says that it invents its samples.
        labels: One a channel.
        sites: The same, where on the head; None: unknown.
        rate_hz: Nominal sampling rate.
        unit: Of the samples; "" if nobody knows.
        model: Name of the bundle.
        digest: Of the bundle.
        engine: What runs it.
        raise_threshold: p(seizure) that raises an alert.
        clear_threshold: p(seizure) below which it is held to be over.
        channels_needed: Channels side by side that must agree.
        model_rate_hz: Rate at which the model works.
        delay_ms: What resampling to it needs behind a sample before that can be decided on.
        broker: Where results go; "" if nowhere.
        topic: Prefix of the topics.
        version: Of this program.
    """

    stream: str
    kind: str
    simulated: bool
    labels: tuple[str, ...]
    sites: tuple[Site | None, ...]
    rate_hz: float
    unit: str
    model: str
    digest: str
    engine: str
    raise_threshold: float
    clear_threshold: float
    channels_needed: int
    model_rate_hz: float
    delay_ms: float
    broker: str
    topic: str
    version: str


@dataclass(frozen=True, slots=True)
class _Kept:
    start_unix_s: float
    stop_unix_s: float
    data: bytes


@dataclass(frozen=True, slots=True)
class News:
    """Something for every viewer.

    Attributes:
        kind: What it is about; of ``event`` each matters, of all else the newest.
        text: JSON.
    """

    kind: str
    text: str

    @classmethod
    def of(cls, kind: str, data: object) -> News:
        """Word it."""
        return cls(kind, _json({"kind": kind, "data": data}))


class Memory:
    """Turns what the pipeline says into what viewers receive, and keeps what they may ask for.

    Belongs to one thread. However long it runs, its size is bounded.

    Args:
        about: The stream.
        clock: Labels the source's seconds with the time of day.
        now: The source's clock, seconds.
    """

    def __init__(self, about: About, *, clock: WallClock, now: Callable[[], float]) -> None:
        self.about = about
        self._clock = clock
        self._now = now
        self._frames: deque[_Kept] = deque()
        self._n_bytes = 0
        self._seq = 0
        self._predictions: deque[tuple[float, float | None, float | None]] = deque()
        self._events: deque[dict[str, Any]] = deque(maxlen=MOST_EVENTS)
        self._state: dict[str, Any] = {}
        self._gists: dict[str, tuple[object, float]] = {}
        self._rungs: dict[str, str] = {}
        self._n_misfits = 0

    def hello(self) -> str:
        """Return all that a viewer needs to begin with."""
        kept_s = self._frames[-1].stop_unix_s - self._frames[0].start_unix_s if self._frames else 0
        return _json(
            {
                "kind": "hello",
                "data": {
                    "about": asdict(self.about),
                    "now": self._clock.utc(self._now()).timestamp(),
                    "kept_s": kept_s,
                    "state": self._state,
                    "predictions": list(self._predictions),
                    "events": list(self._events),
                },
            }
        )

    def frames(self, start_unix_s: float, stop_unix_s: float) -> list[bytes]:
        """Return the frames that lie in a stretch of time, in part or whole."""
        return [
            kept.data
            for kept in self._frames
            if kept.stop_unix_s > start_unix_s and kept.start_unix_s < stop_unix_s
        ]

    def take_chunks(self, chunks: Iterable[Chunk]) -> list[bytes]:
        """Keep samples, and return them as frames."""
        out = []
        for chunk in self._merged(chunks):
            start_unix_s = chunk.origin_s + self._clock.offset_s
            start_unix_s += chunk.first_index / self.about.rate_hz
            data = frame(
                chunk.samples,
                seq=self._seq,
                first_index=chunk.first_index,
                start_unix_s=start_unix_s,
            )
            self._seq += 1
            lasts_s = len(chunk.samples) / self.about.rate_hz
            self._frames.append(_Kept(start_unix_s, start_unix_s + lasts_s, data))
            self._n_bytes += len(data)
            out.append(data)
        self._forget()
        return out

    def take_said(self, said: Iterable[Said]) -> list[News]:
        """Keep what was said, and return what of it is news: of most kinds the newest only."""
        newest: dict[type[_State], _State] = {}
        predictions: list[PredictionMessage] = []
        news: list[News] = []
        for message in said:
            if isinstance(message, EventMessage):
                news.append(self._event(_alert_event(message)))
            elif isinstance(message, PredictionMessage):
                predictions.append(message)
            else:
                if isinstance(message, HealthMessage):
                    news += self._changes(message)
                newest[type(message)] = message
        if predictions:
            news.append(self._prediction(predictions))
        for message in newest.values():
            news += self._told(message)
        return news

    def mark(self, *, at_unix_s: float, text: str) -> News:
        """Keep a viewer's mark."""
        at = iso_utc(datetime.fromtimestamp(at_unix_s, UTC))
        return self._event({"what": "mark", "at": at, "text": text})

    def _merged(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """Join what follows upon each other, and leave out what is no sample of this stream."""
        most = max(1, round(FRAME_S * self.about.rate_hz))
        pieces: list[Chunk] = []
        for chunk in chunks:
            if chunk.samples.ndim != 2 or chunk.samples.shape[1] != len(self.about.labels):
                self._n_misfits += 1
                continue
            for start in range(0, len(chunk.samples), most):
                piece = Chunk(
                    samples=chunk.samples[start : start + most],
                    first_index=chunk.first_index + start,
                    origin_s=chunk.origin_s,
                )
                held = sum(len(each.samples) for each in pieces)
                follows = (
                    pieces
                    and piece.first_index == pieces[-1].indices.stop
                    and piece.origin_s == pieces[-1].origin_s
                    and held + len(piece.samples) <= most
                )
                if pieces and not follows:
                    yield _joined(pieces)
                    pieces = []
                pieces.append(piece)
        if pieces:
            yield _joined(pieces)

    def _forget(self) -> None:
        while self._frames and (
            self._n_bytes > MOST_BYTES
            or self._frames[-1].stop_unix_s - self._frames[0].start_unix_s > KEPT_S
            or self._frames[0].start_unix_s > self._frames[-1].stop_unix_s  # the clock went back
        ):
            self._n_bytes -= len(self._frames.popleft().data)

    def _prediction(self, predictions: list[PredictionMessage]) -> News:
        newest = predictions[-1]
        windows = [p for each in predictions for p in each.window if p is not None]
        t = newest.ts.timestamp()
        point = (round(t, 3), newest.p, max(windows, default=None))
        held = self._predictions
        if held and held[-1][0] > t:  # the clock went back
            held.clear()
        held.append(point)
        while held and t - held[0][0] > KEPT_S:
            held.popleft()
        latency_s = (newest.decided - newest.ts).total_seconds() if newest.decided else None
        self._state["prediction"] = data = {
            "t": point[0],
            "p": point[1],
            "window_max": point[2],
            "state": newest.state,
            "signal": newest.signal,
            "window": newest.window,
            "smoothed": newest.smoothed,
            "latency_ms": None if latency_s is None else round(latency_s * 1e3, 1),
        }
        return News.of("prediction", data)

    def _told(self, message: _State) -> list[News]:
        kind = message.schema_.split("/")[1]
        data = message.model_dump(mode="json", by_alias=True)
        self._state[kind] = data
        gist = _gist(data)
        before, told_s = self._gists.get(kind, (None, 0.0))
        now_s = time.monotonic()
        if gist == before and now_s - told_s < AGAIN_AFTER_S:
            return []
        self._gists[kind] = (gist, now_s)
        return [News.of(kind, data)]

    def _changes(self, message: HealthMessage) -> list[News]:
        """Say which rungs broke, and which were mended."""
        news = []
        for rung in message.rungs:
            before, state = self._rungs.get(rung.rung, "starting"), rung.state.value
            if state == before or state in {"unknown", "starting"}:
                continue
            self._rungs[rung.rung] = state
            bad = _BAD - {"degraded"} if rung.rung is Rung.QUALITY else _BAD  # contacts come and go
            if state in bad or before in bad:
                event = {"what": "health", "at": iso_utc(message.ts), "rung": rung.rung.value}
                event |= {"state": state, "reason": rung.reason, "remedy": rung.remedy}
                news.append(self._event(event))
        return news

    def _event(self, event: dict[str, Any]) -> News:
        self._events.append(event)
        return News.of("event", event)


def _alert_event(message: EventMessage) -> dict[str, Any]:
    data = message.model_dump(mode="json", by_alias=True)
    kept = (
        *("event_type", "alert_id", "p", "p_max", "channels", "onset", "raised", "ended"),
        *("on", "acknowledged", "test"),
    )
    return {"what": "alert", "at": data["ts"], **{key: data[key] for key in kept}}


def _gist(data: dict[str, Any]) -> object:
    """Return what makes state news: all but its figures."""
    if "rungs" in data:
        return [(rung["rung"], rung["state"], rung["reason"]) for rung in data["rungs"]]
    if "threshold" in data:
        figures = {"ts", "p", "p_max", "decided", "seq", "published"}
        return {key: value for key, value in data.items() if key not in figures}
    return [(each["channel"], each["state"]) for each in data["channels"]]


def _joined(pieces: list[Chunk]) -> Chunk:
    if len(pieces) == 1:
        return pieces[0]
    samples = np.concatenate([piece.samples for piece in pieces])
    return Chunk(samples, pieces[0].first_index, origin_s=pieces[0].origin_s)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
