"""What is kept of each alert: the signal around it, its probabilities, and a picture of both.

Cut out of the recordings on a thread of its own, so that an alert that outlives its process can be
cut out by the next one.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from stream_classifier.errors import StreamClassifierError, printable
from stream_classifier.recorder.alerts import alerts_in
from stream_classifier.recorder.bdf import (
    NO_NUMBER_TEXT,
    NO_SAMPLES_TEXT,
    BdfFile,
    BdfWriter,
    Note,
    open_bdf,
)
from stream_classifier.recorder.shelf import Shelf
from stream_classifier.sinks.messages import iso_utc

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOG = logging.getLogger(__name__)

BEFORE_S: Final = 30.0
AFTER_S: Final = 30.0
"""Kept of the signal before an alert's onset, and after its end."""

MAX_CLIP_S: Final = 600.0
"""Of an alert that goes on for longer only the first part is kept apart."""

MAX_WAITING: Final = 100
PIECE_S: Final = 30.0
DRAW_WITHIN_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Moment:
    """What one window said: p of the stream and of each channel, NaN where nothing."""

    at: datetime
    p: float
    smoothed: NDArray[np.float32]


@dataclass(slots=True)
class Case:
    """One alert of which evidence is kept; times are those of the recording's files.

    Attributes:
        alert_id: Of the alert.
        onset: First window of the rise.
        raised: When it was raised; None if unknown.
        ended: When it went off for good; None while it may come back.
        off: Since when it is off, for good or not.
        p_max: Highest p(seizure).
        channels: Labels of the channels above the raise threshold.
        event: The newest message about it, as it was sent; empty where it is not known.
        moments: p(seizure) around it.
        labels: Of the channels that the moments name.
    """

    alert_id: str
    onset: datetime
    raised: datetime | None = None
    ended: datetime | None = None
    off: datetime | None = None
    p_max: float | None = None
    channels: tuple[str, ...] = ()
    event: dict[str, Any] = field(default_factory=dict)
    moments: Sequence[Moment] = ()
    labels: tuple[str, ...] = ()

    @property
    def start(self) -> datetime:
        """Where its clip begins."""
        return self.onset - timedelta(seconds=BEFORE_S)

    @property
    def most(self) -> datetime:
        """Where its clip ends at the latest."""
        return self.start + timedelta(seconds=MAX_CLIP_S)

    @property
    def end(self) -> datetime:
        """Where its clip ends."""
        if self.ended is None:
            return self.most
        return min(self.most, self.ended + timedelta(seconds=AFTER_S))


class Evidence:
    """Keeps the evidence of alerts, one after the other, on its own thread.

    Args:
        shelf: Where recordings are, and clips go.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._jobs: queue.Queue[Case | None] = queue.Queue(MAX_WAITING)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="evidence", daemon=True)
        self._left = shelf.recordings()[-1:]

    def start(self) -> None:
        """Begin with what an earlier process did not get to."""
        self._thread.start()

    def keep(self, case: Case) -> None:
        """Have an alert's evidence kept; what it needs has to be on disk by now."""
        try:
            self._jobs.put_nowait(case)
        except queue.Full:
            LOG.warning("no clip of alert %s: too many alerts at once", case.alert_id[:8])

    def close(self, *, within_s: float) -> None:
        """Finish, or leave the rest to the next start."""
        self._jobs.put(None)
        self._closing.set()
        self._thread.join(within_s)

    def _run(self) -> None:
        self._do(self._keep_what_is_left)
        self._do(self._draw)
        while (case := self._jobs.get()) is not None:
            self._do(lambda case=case: keep(case, self._shelf))
            if self._jobs.empty():
                self._do(self._draw)
        self._do(self._draw)

    def _do(self, work: Any) -> None:
        try:
            work()
        except (OSError, StreamClassifierError) as error:
            LOG.error("evidence of an alert could not be kept: %s", error)  # noqa: TRY400

    def _keep_what_is_left(self) -> None:
        """Keep clips of alerts that a killed process left in its last recording."""
        for path in self._left:
            for span in alerts_in([open_bdf(path)]):
                case = Case(
                    alert_id=span.alert_id,
                    onset=span.start,
                    off=span.end,
                    p_max=span.p,
                    channels=span.channels,
                )
                stem = self._shelf.evidence_stem(span.start, span.alert_id)
                if not stem.with_suffix(".json").exists():
                    keep(case, self._shelf)

    def _draw(self) -> None:
        """Draw the pictures that are missing, in a process that yields to all others."""
        missing = [
            path
            for path in self._shelf.alerts.glob("*.json")
            if path.is_file() and not path.with_suffix(".png").exists()
        ]
        if not missing:
            return
        if find_spec("matplotlib") is None:
            LOG.info(
                "alerts are kept without a picture. Try: pip install stream_classifier[report]"
            )
            return
        process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", "stream_classifier.recorder.picture", str(self._shelf.alerts)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for us; it is done in a moment
        )
        try:
            code = process.wait(DRAW_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        if code:
            LOG.warning(
                "the picture of an alert could not be drawn. Try: %s -m "
                "stream_classifier.recorder.picture %s",
                sys.executable,
                self._shelf.alerts,
            )


def keep(case: Case, shelf: Shelf) -> Path:
    """Write the clip, the probabilities and the facts of one alert.

    Returns:
        The file of its facts, JSON; the others are called alike.

    Raises:
        OSError: If the disk does not take it.
        StreamClassifierError: If a recording is damaged.
    """
    stem = shelf.evidence_stem(case.onset, case.alert_id)
    clip = _cut(case, shelf, stem.with_suffix(".bdf"))
    start = case.start if clip is None else clip.start
    moments = [m for m in case.moments if case.start <= m.at <= case.end]
    facts = {
        "schema": "stream_classifier/evidence/1",
        "alert_id": case.alert_id,
        "onset": iso_utc(case.onset),
        "raised": case.raised and iso_utc(case.raised),
        "ended": case.ended and iso_utc(case.ended),
        "off": case.off and iso_utc(case.off),
        "p_max": case.p_max,
        "channels": case.channels,
        "clip_start": iso_utc(start),
        "clip_seconds": None if clip is None else round(clip.duration_s, 3),
        "cut_short": case.ended is None or case.end == case.most,
        "simulated": clip is not None and clip.simulated,
        "event": case.event,
    }
    if moments:
        _put(stem.with_suffix(".csv"), _as_csv(moments, case.labels, start))
    stem.with_suffix(".png").unlink(missing_ok=True)  # of an earlier part of it
    path = stem.with_suffix(".json")
    _put(path, json.dumps(facts, indent=1, ensure_ascii=False).encode())
    LOG.info("evidence of alert %s: %s", case.alert_id[:8], path)
    return path


def _cut(case: Case, shelf: Shelf, path: Path) -> BdfFile | None:
    """Copy the signal around an alert; None if nothing of it was recorded."""
    files = [file for file in _files(shelf) if file.start < case.end and file.end > case.start]
    if not files:
        return None
    first = files[0]
    files = [f for f in files if (f.labels, f.rate_hz) == (first.labels, first.rate_hz)]
    skipped = max(0, round((case.start - first.start).total_seconds() * first.rate_hz))
    start = first.start + timedelta(seconds=skipped / first.rate_hz)
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    writer = BdfWriter(
        part, labels=first.labels, rate_hz=first.rate_hz, start=start, about=first.about
    )
    try:
        for file in files:
            _copy(file, writer, start, case)
    finally:
        writer.close()
    part.replace(path)
    return open_bdf(path)


def _copy(file: BdfFile, writer: BdfWriter, start: datetime, case: Case) -> None:
    rate_hz = file.rate_hz
    offset = round((file.start - start).total_seconds() * rate_hz)  # of the file, in the clip
    stop = round((case.end - file.start).total_seconds() * rate_hz)
    stop = min(stop, file.n_records * file.record_samples)
    at = max(0, writer.n_samples - offset)
    writer.skip(at + offset - writer.n_samples)
    for note in file.notes():
        at_s = note.at_s + offset / rate_hz
        if note.text not in (NO_SAMPLES_TEXT, NO_NUMBER_TEXT) and 0 <= at_s <= MAX_CLIP_S:
            writer.annotate(Note(at_s, note.text, note.duration_s))
    n_piece = max(1, round(PIECE_S * rate_hz))
    while at < stop:
        samples = file.read(range(at, min(stop, at + n_piece)))
        at += len(samples)
        for is_missing, run in _runs(samples):
            if is_missing:
                writer.skip(len(run))
            else:
                writer.append(run)


def _runs(samples: NDArray[np.float32]) -> Iterator[tuple[bool, NDArray[np.float32]]]:
    """Yield stretches that are there, and stretches of which no channel has a sample."""
    missing = np.isnan(samples).all(axis=1)
    edges = np.flatnonzero(np.diff(missing)) + 1
    for run in np.split(samples, edges):
        if len(run):
            yield bool(np.isnan(run[0]).all()), run


def _files(shelf: Shelf) -> Iterator[BdfFile]:
    for path in shelf.recordings():
        try:
            yield open_bdf(path)
        except StreamClassifierError:  # just begun, or damaged: the others count
            continue


def _as_csv(moments: Sequence[Moment], labels: Sequence[str], start: datetime) -> bytes:
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["seconds", "utc", "p", *map(_heading, labels)])
    for moment in moments:
        at_s = (moment.at - start).total_seconds()
        values = [f"{p:.4f}" if np.isfinite(p) else "" for p in (moment.p, *moment.smoothed)]
        rows.writerow([f"{at_s:.3f}", iso_utc(moment.at), *values])
    return text.getvalue().encode()


def _heading(label: str) -> str:
    """Return a label that no spreadsheet takes for a formula."""
    text = printable(label)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _put(path: Path, data: bytes) -> None:
    """Write a file as a whole, readable for its owner alone."""
    part = path.with_name(path.name + ".part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    part.replace(path)
