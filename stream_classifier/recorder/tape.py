"""One stream on disk: file after file, with its alerts as annotations.

Synchronous and on one thread; ``recorder`` puts a queue and a thread around it. A disk that takes
nothing is a fault that is said once and tried again; it is never anybody else's.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np

from stream_classifier.errors import StreamClassifierError
from stream_classifier.recorder.alerts import Step, alert_text
from stream_classifier.recorder.bdf import BdfWriter, Note, mend
from stream_classifier.recorder.evidence import MAX_CLIP_S, Case, Evidence, Moment
from stream_classifier.recorder.shelf import Shelf
from stream_classifier.signals import Chunk, EventType, StreamSpec
from stream_classifier.sinks.messages import (
    AlertMessage,
    EventMessage,
    PredictionMessage,
    Signal,
    WallClock,
)

LOG = logging.getLogger(__name__)

RETRY_EVERY_S: Final = 5.0
"""How often a disk that took nothing is tried again."""

TIDY_EVERY_S: Final = 60.0

MAX_DRIFT_S: Final = 1.0
"""A device whose clock has run away by this much from the header's rate gets a new file, so that
the time of day of every sample is right to a second."""

PATIENCE_S: Final = 60.0
"""So long after an alert's end its clip is cut even if no more samples come."""

MAX_NOTES: Final = 200
"""Annotations that wait for a file to be written to."""

_SIGNAL_NOTES: Final[dict[Signal, str]] = {
    "none": "signal lost",
    "poor": "signal poor",
    "ok": "signal ok",
    "calibrating": "signal calibrating",
}


@dataclass(slots=True)
class _Open:
    """The file that is being written, and where on the source's clock it is.

    Attributes:
        writer: Of the file.
        start: When its first sample was taken.
        first_index: Absolute index of that sample.
        origin_s: Time of index 0 on the source's clock, when the file was begun.
        anchor_s: Of the stream.
    """

    writer: BdfWriter
    start: datetime
    first_index: int
    origin_s: float
    anchor_s: float


@dataclass(slots=True)
class _Watched:
    """An alert whose clip is not cut yet, or that still stands."""

    case: Case
    standing: bool = True
    cut: bool = False
    ended_at: float | None = None  # monotonic


class Tape:
    """Writes one stream.

    Args:
        shelf: Where to; made already.
        evidence: Keeps the clips.
        spec: The stream; its name is a pseudonym.
        clock: Labels the source's seconds with the time of day.
        about: What the header says of it.
        file_s: Length of a file.
        min_free_bytes: Room that is left to others on the disk.
        free_bytes: Says how much room there is.
        monotonic: Says the time, seconds.

    Attributes:
        fault: Why nothing is recorded; None if it is.
        n_samples: Samples recorded.
        n_lost: Samples that could not be.
    """

    def __init__(
        self,
        shelf: Shelf,
        evidence: Evidence,
        *,
        spec: StreamSpec,
        clock: WallClock,
        about: str,
        file_s: float,
        min_free_bytes: float,
        free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shelf = shelf
        self._evidence = evidence
        self._spec = spec
        self._clock = clock
        self._about = about
        self._file_s = file_s
        self._min_free_bytes = min_free_bytes
        self._free_bytes = free_bytes
        self._monotonic = monotonic
        self._open: _Open | None = None
        self._next_index = 0
        self._origin_s = 0.0
        self._signal: Signal = "starting"
        self._retry_at = -np.inf
        self._tidy_at = -np.inf
        self._notes: deque[tuple[datetime, str]] = deque(maxlen=MAX_NOTES)
        self._alerts: dict[str, _Watched] = {}
        self._moments: deque[Moment] = deque()
        self.fault: str | None = None
        self.n_samples = 0
        self.n_lost = 0

    def take(self, item: Chunk | EventMessage | AlertMessage | PredictionMessage) -> None:
        """Take whatever came."""
        if isinstance(item, Chunk):
            self._take_chunk(item)
        elif isinstance(item, EventMessage):
            self._take_event(item)
        elif isinstance(item, AlertMessage):
            self._take_state(item)
        else:
            self._take_prediction(item)

    def tick(self) -> None:
        """Bring what was written to the disk, and look after alerts; every second or so."""
        self._try(self._flush)
        self._cut_what_is_due()

    def close(self) -> None:
        """End the file, and have evidence kept of alerts as far as they got."""
        self._try(self._end_file)
        for watched in self._alerts.values():
            if not watched.cut:
                self._keep(watched)

    def _take_chunk(self, chunk: Chunk) -> None:
        self._origin_s = chunk.origin_s
        n_before = self.n_samples
        if self.fault is None or self._monotonic() >= self._retry_at:
            self._try(lambda: self._write(chunk))
        self.n_lost += len(chunk.samples) - (self.n_samples - n_before)

    def _write(self, chunk: Chunk) -> None:
        while len(chunk.samples):
            if self._open is not None and self._is_another(self._open, chunk):
                self._end_file()
            into = self._open or self._begin_file(chunk)
            into.writer.skip(chunk.first_index - self._next_index)
            # To the end of a record, where a file may end.
            n = min(len(chunk.samples), into.writer.room or into.writer.record_samples)
            into.writer.append(chunk.samples[:n])
            self.n_samples += n
            self._next_index = chunk.first_index + n
            chunk = replace(chunk, samples=chunk.samples[n:], first_index=self._next_index)

    def _is_another(self, into: _Open, chunk: Chunk) -> bool:
        """Whether a chunk does not belong into the file: it follows too late, or on a full one."""
        gap = chunk.first_index - self._next_index
        is_next = chunk.anchor_s == into.anchor_s and 0 <= gap < into.writer.record_samples
        return not is_next or (self._is_full(into, chunk) and not into.writer.room)

    def _is_full(self, into: _Open, chunk: Chunk) -> bool:
        lasts_s = into.writer.n_samples / self._spec.rate_hz
        return lasts_s >= self._file_s or abs(chunk.origin_s - into.origin_s) > MAX_DRIFT_S

    def _begin_file(self, chunk: Chunk) -> _Open:
        self._look_for_room()
        self._tidy()
        start = self._clock.utc(chunk.origin_s + chunk.first_index / self._spec.rate_hz)
        writer = BdfWriter(
            self._shelf.new_recording(start),
            labels=self._spec.labels,
            rate_hz=self._spec.rate_hz,
            start=start,
            about=self._about,
        )
        self._open = _Open(writer, start, chunk.first_index, chunk.origin_s, chunk.anchor_s)
        self._next_index = chunk.first_index
        if self.fault is not None:
            LOG.warning("recording goes on; %d samples were not recorded", self.n_lost)
            self.fault = None
        while self._notes:
            self._annotate(*self._notes.popleft())
        for alert_id, watched in self._alerts.items():
            if watched.standing:
                writer.annotate(Note(0.0, alert_text("standing", alert_id)))
        return self._open

    def _end_file(self) -> None:
        if self._open is not None:
            self._open.writer.close()
            self._open = None

    def _flush(self) -> None:
        if self._open is None:
            return
        self._open.writer.flush()
        self._look_for_room()
        if self._monotonic() >= self._tidy_at:
            self._tidy()

    def _tidy(self) -> None:
        self._tidy_at = self._monotonic() + TIDY_EVERY_S
        try:
            self._shelf.tidy(keep=None if self._open is None else self._open.writer.path)
        except OSError as error:  # recording goes on while there is room
            LOG.warning("old recordings cannot be deleted: %s", error)

    def _look_for_room(self) -> None:
        if self._free_bytes(self._shelf.folder) < self._min_free_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._shelf.folder))

    def _try(self, work: Callable[[], object]) -> None:
        """Do something to the disk; what it refuses becomes a fault."""
        try:
            work()
        except OSError as error:
            self._retry_at = self._monotonic() + RETRY_EVERY_S
            reason = error.strerror or str(error)
            if self.fault is None:
                LOG.error(  # noqa: TRY400 - a full disk needs no traceback
                    "recording stopped: %s: %s. Alerts go on. Try: room on the disk (record.max_gb,"
                    " record.min_free_gb), or another folder; it is tried again every %g s",
                    self._shelf.folder,
                    reason,
                    RETRY_EVERY_S,
                )
            self.fault = reason
            if self._open is not None:
                path = self._open.writer.path
                self._open.writer.abandon()
                self._open = None
                with contextlib.suppress(OSError, StreamClassifierError):
                    mend(path)  # the part of a record that was still written

    def _take_event(self, event: EventMessage) -> None:
        alert_id = event.alert_id
        if alert_id is None or event.test:
            return
        kind = event.event_type
        watched = self._watch(event)
        if kind is EventType.RAISED:
            self._note(event.onset or event.ts, alert_text("onset", alert_id))
        step: Step | None = {
            EventType.RAISED: "raised",
            EventType.ACKNOWLEDGED: "acknowledged",
            EventType.RETRACTED: "retracted",
        }.get(kind)  # type: ignore[assignment]
        if step is not None:
            at = event.raised if step == "raised" else event.ts
            text = alert_text(step, alert_id, p=event.p, channels=event.channels)
            self._note(at or event.ts, text)
        if not event.on and watched.case.off is None:
            watched.case.off = self._axis(event.ended or event.ts)
            self._note(event.ended or event.ts, alert_text("off", alert_id, p=event.p_max))
        elif event.on and event.ended is None and watched.case.off is not None:
            watched.case.off = None
            self._note(event.ts, alert_text("on", alert_id, p=event.p_max))
        if event.ended is not None and watched.case.ended is None:
            watched.case.ended = self._axis(event.ended)
            watched.ended_at = self._monotonic()
            text = alert_text("ended", alert_id, p=event.p_max, channels=event.channels)
            self._note(event.ended, text)
        watched.standing = event.on or event.ended is None
        watched.case.p_max = event.p_max
        watched.case.event = event.model_dump(mode="json", by_alias=True)
        if event.channels:
            watched.case.channels = event.channels
        self._try(self._flush)
        self._cut_what_is_due()

    def _watch(self, message: EventMessage | AlertMessage) -> _Watched:
        """Return what is kept of a message's alert, from its first message on."""
        alert_id = message.alert_id or ""
        if alert_id not in self._alerts:
            self._alerts[alert_id] = _Watched(
                Case(
                    alert_id=alert_id,
                    onset=self._axis(message.onset or message.ts),
                    raised=self._axis(message.raised or message.ts),
                    p_max=message.p_max,
                    channels=message.channels,
                    labels=self._spec.labels,
                )
            )
        return self._alerts[alert_id]

    def _take_state(self, state: AlertMessage) -> None:
        if state.on and state.alert_id and state.alert_id not in self._alerts:
            self._watch(state)  # it was raised before the process began
            self._note(state.ts, alert_text("standing", state.alert_id))
        if state.signal != self._signal:
            self._signal = state.signal
            if state.signal in _SIGNAL_NOTES:
                self._note(state.ts, _SIGNAL_NOTES[state.signal])
                self._try(self._flush)

    def _take_prediction(self, message: PredictionMessage) -> None:
        def number(p: float | None) -> float:
            return np.nan if p is None else p

        smoothed = np.array([number(p) for p in message.smoothed], np.float32)
        moment = Moment(self._axis(message.ts), number(message.p), smoothed)
        self._moments.append(moment)
        too_old = moment.at - timedelta(seconds=MAX_CLIP_S + PATIENCE_S)
        while self._moments[0].at < too_old:
            self._moments.popleft()

    def _cut_what_is_due(self) -> None:
        newest = self._axis(self._clock.utc(self._time_of(self._next_index)))
        for alert_id, watched in list(self._alerts.items()):
            late = (
                watched.ended_at is not None and self._monotonic() > watched.ended_at + PATIENCE_S
            )
            if not watched.cut and (newest >= watched.case.end or late):
                self._keep(watched)
            if watched.cut and not watched.standing:
                del self._alerts[alert_id]

    def _keep(self, watched: _Watched) -> None:
        watched.cut = True
        case = watched.case
        moments = [m for m in self._moments if case.start <= m.at <= case.end]
        self._try(self._flush)
        self._evidence.keep(replace(case, moments=moments))

    def _note(self, at: datetime, text: str) -> None:
        """Annotate the file; what comes while there is none waits for the next."""
        if self._open is None:
            self._notes.append((at, text))
        else:
            self._try(lambda: self._annotate(at, text))

    def _annotate(self, at: datetime, text: str) -> None:
        if self._open is not None:
            at_s = (self._axis(at) - self._open.start).total_seconds()
            self._open.writer.annotate(Note(at_s, text))

    def _time_of(self, index: int) -> float:
        return self._origin_s + index / self._spec.rate_hz

    def _axis(self, at: datetime) -> datetime:
        """Return the time of day that the file gives to the sample that was taken then.

        A file counts at the nominal rate, a device need not: what belongs to a sample stays with
        it.
        """
        if self._open is None:
            return at
        index = (self._clock.source_s(at) - self._origin_s) * self._spec.rate_hz
        return self._open.start + timedelta(
            seconds=(index - self._open.first_index) / self._spec.rate_hz
        )
