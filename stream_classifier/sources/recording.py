"""Recordings as sources: EDF, BDF, XDF, CSV, the OpenBCI GUI's text, and the data set's own.

The same bytes give the same chunks, and so the same alerts under the same ids, at any speed:
indices count from the recording's first sample, times are seconds from it, and the identity of the
source is made of the file's SHA-256.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from stream_classifier.errors import RecordingInvalidError, RecordingNotFoundError, printable
from stream_classifier.signals import Chunk, SourceHealth, SourceState, StreamSpec
from stream_classifier.sources.recordings import bids
from stream_classifier.sources.recordings.edf import open_edf
from stream_classifier.sources.recordings.material import Ask, Recording, Seizure
from stream_classifier.sources.recordings.rows import open_rows
from stream_classifier.sources.recordings.text import open_text
from stream_classifier.sources.recordings.xdf import open_xdf

if TYPE_CHECKING:
    import threading

LOG = logging.getLogger(__name__)

CHUNK_S: Final = 1.0
"""Signal handed on at once where nobody waits for it."""

PACED_CHUNK_S: Final = 0.05
"""The same at a given speed, in seconds of the clock: as a live stream comes."""

LONGEST_WAIT_S: Final = 0.05
"""So that a request to stop is noticed."""

TIME_ROUNDS_S: Final = 1e-6
"""A wait shorter than this would be no wait, again and again."""

_OPENERS: Final[dict[str, Callable[[Path, Ask], Recording]]] = {
    ".edf": open_edf,
    ".bdf": open_edf,
    ".xdf": open_xdf,
    ".csv": open_text,
    ".tsv": open_text,
    ".txt": open_text,
}


def open_recording(name: str, ask: Ask | None = None) -> Recording:
    """Find a recording, and understand it without reading its samples.

    Args:
        name: A file; a folder that holds one recording; or, where there is no such file, the key
            of a recording of the data set.
        ask: How it is to be read. What lies beside a file of BIDS is looked at, too.

    Raises:
        RecordingNotFoundError: If there is no such file and no such key.
        RecordingInvalidError: If it is damaged, cut off, empty, or of no format that is read.
        StreamDescriptionError: If a unit, a rate or a channel is missing.
        MissingExtraError: If the format needs a library that is not installed.
    """
    ask = ask or Ask()
    # Of os.path: a name that no file can have, or of no user, is no file, and no error.
    path = Path(os.path.expanduser(name))  # noqa: PTH111
    if os.path.isdir(path):  # noqa: PTH112
        path = _only_one(path)
    elif not os.path.exists(path):  # noqa: PTH110
        if (found := open_rows(name, ask)) is not None:
            return found
        raise RecordingNotFoundError(
            name,
            looked_for="there is no such file, and no recording of that key in a data set at hand",
            fix="a path; or a key that 'stream-classifier dataset recordings' lists",
        )
    opener = _OPENERS.get(path.suffix.lower())
    if opener is None:
        raise RecordingInvalidError(
            path=str(path),
            expected=f"one of {', '.join(_OPENERS)}",
            found=path.suffix or "no ending",
            fix="convert it, e.g. with MNE-Python's export to EDF",
        )
    return opener(path, replace(ask, sidecar=bids.sidecar(path)))


def annotated(recording: Recording) -> tuple[Seizure, ...] | None:
    """Return the seizures that people marked, beside a recording or else in it.

    Returns:
        In the order of time, in seconds from the first sample; may reach beyond the recording. None
        if nobody said.

    Raises:
        RecordingInvalidError: If the annotations are damaged.
    """
    path = Path(recording.path)
    beside = bids.seizures(path) if os.path.isfile(path) else None  # noqa: PTH113
    return recording.seizures() if beside is None else beside


def _only_one(folder: Path) -> Path:
    paths = list(islice(bids.find(folder), 2))
    if len(paths) != 1:
        raise RecordingInvalidError(
            path=str(folder),
            expected="one recording in the folder",
            found="several" if paths else "none",
            fix="name one file; or stream-classifier evaluate --recordings for all of them",
        )
    return paths[0]


class RecordingSource:
    """A recording, played; a ``Source``.

    One thread opens, iterates and closes; ``clock`` may be called from any.

    Args:
        recording: Found and checked already.
        speed: Seconds of signal a second; 0: as fast as it goes.
        chunk_samples: Samples in a chunk (shorter before a hole and at the end); None: 1 s of
            signal, or less where a speed is kept: 50 ms of the clock.
        stop: Set by anyone to make it end.
        monotonic: Says the time, seconds.
        wait: Waits that many seconds, or less.

    Attributes:
        recording: As given.
        n_samples: Samples handed on.
        n_gaps: Holes in their indices.
        n_missing: Indices in those holes.
        ended: Whether it was played to its end.

    Raises:
        ValueError: If ``speed`` is negative or ``chunk_samples`` below 1.
    """

    def __init__(
        self,
        recording: Recording,
        *,
        speed: float = 0.0,
        chunk_samples: int | None = None,
        stop: threading.Event | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        if not 0 <= speed < np.inf or (chunk_samples is not None and chunk_samples < 1):
            raise ValueError(f"expected speed >= 0 and chunks of 1, got {speed}, {chunk_samples}")
        chunk_s = min(PACED_CHUNK_S * speed, CHUNK_S) if speed else CHUNK_S
        self.recording = recording
        self.n_samples = 0
        self.n_gaps = 0
        self.n_missing = 0
        self.ended = False
        self._speed = speed
        self._chunk_samples = chunk_samples or max(1, round(chunk_s * recording.rate_hz))
        self._stop = stop
        self._monotonic = monotonic
        self._wait = wait or (stop.wait if stop is not None else time.sleep)
        self._started_s: float | None = None
        self._reached_s = 0.0  # how far it was played, seconds of signal

    @property
    def duration_s(self) -> float:
        """Signal time played so far, holes included."""
        return (self.n_samples + self.n_missing) / self.recording.rate_hz

    def clock(self) -> float:
        """Return how far the recording has been played: its seconds, from its first sample.

        In real time this is the clock on the wall, so that a machine that is too slow shows; at
        any other speed nothing can be late, and time passes with what is handed on.
        """
        return self.played_for_s() if self._speed == 1.0 else self._reached_s

    @property
    def health(self) -> SourceHealth:
        """How it is doing now. May be read from any thread."""
        return SourceHealth(
            state=SourceState.ATTACHED,
            measured_hz=self.recording.rate_hz,
            samples=self.n_samples,
            gaps=self.n_gaps,
            missing_samples=self.n_missing,
        )

    def played_for_s(self) -> float:
        """Return for how long it has been played, seconds of the clock on the wall."""
        return 0.0 if self._started_s is None else self._monotonic() - self._started_s

    def open(self) -> StreamSpec:
        """Say what it is."""
        for note in self.recording.notes:
            LOG.warning("%s: %s", printable(self.recording.path), printable(note))
        return spec_of(self.recording)

    def __iter__(self) -> Iterator[Chunk | None]:
        """Yield chunks when they are due, and None at least every 50 ms of waiting.

        However the file was read, chunks are the same: they begin at the recording's first sample
        and after each hole.

        Raises:
            RecordingInvalidError: If it turns out to be damaged.
        """
        self._started_s = self._monotonic()
        for chunk in _chunks(self.recording, self._chunk_samples):
            missing = chunk.first_index - self.n_samples - self.n_missing
            self.n_gaps += missing > 0
            self.n_missing += missing
            due_s = chunk.indices.stop / self.recording.rate_hz
            for reached_s in self._pace(due_s):
                self._reached_s = reached_s
                yield None
            if self._stop is not None and self._stop.is_set():
                return
            self._reached_s = due_s
            self.n_samples += len(chunk.samples)
            yield replace(chunk, received_s=self.clock())
        self.ended = True

    def close(self) -> None:
        """Let go of it: files are open only while it is read. May be called twice."""

    def _pace(self, due_s: float) -> Iterator[float]:
        """Wait until a time of the signal is due; say where it is on the way."""
        if not self._speed or self._started_s is None:
            return
        while self._stop is None or not self._stop.is_set():
            played_s = (self._monotonic() - self._started_s) * self._speed
            left_s = (due_s - played_s) / self._speed
            if left_s <= TIME_ROUNDS_S:
                return
            self._wait(min(left_s, LONGEST_WAIT_S))
            if left_s > LONGEST_WAIT_S:
                yield max(self._reached_s, min(played_s, due_s))


def spec_of(recording: Recording) -> StreamSpec:
    """Describe a recording as a stream."""
    return StreamSpec(
        name=recording.name,
        source_id=recording.source_id,
        rate_hz=recording.rate_hz,
        labels=recording.labels,
        kind="recording",
        simulated=recording.simulated,
    )


def _chunks(recording: Recording, chunk_samples: int) -> Iterator[Chunk]:
    """Cut runs into chunks of one size; runs that follow each other are one."""
    held = np.empty((0, len(recording.labels)), np.float32)
    index = 0  # of the first sample held
    for run in recording.runs():
        if run.first_index != index + len(held) and len(held):
            yield Chunk(held, index)
            held = held[:0]
        if not len(held):
            index = run.first_index
        held = np.concatenate((held, run.samples)) if len(held) else run.samples
        for start in range(0, len(held) - chunk_samples + 1, chunk_samples):
            yield Chunk(held[start : start + chunk_samples], index + start)
        n_done = len(held) // chunk_samples * chunk_samples
        held, index = held[n_done:], index + n_done
    if len(held):
        yield Chunk(held, index)
