"""The recorder: a tap on the reader and a sink, with a thread that writes."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from types import TracebackType
from typing import Final, Self

from stream_classifier.config import RecordSettings
from stream_classifier.errors import ConfigError
from stream_classifier.health import SinkCondition
from stream_classifier.recorder.evidence import Evidence
from stream_classifier.recorder.shelf import Shelf
from stream_classifier.recorder.tape import Tape
from stream_classifier.signals import Chunk, StreamSpec
from stream_classifier.sinks.messages import (
    AlertMessage,
    EventMessage,
    HealthMessage,
    PredictionMessage,
    QualityMessage,
    WallClock,
)
from stream_classifier.sinks.topics import stream_level

LOG = logging.getLogger(__name__)

MAX_WAITING_BYTES: Final = 32 * 2**20
"""Samples that may wait for a slow disk: minutes of a headset."""

MAX_WAITING_MESSAGES: Final = 20_000
"""Chunks and messages that may: a disk that hangs for so long loses alerts' annotations, too."""

SYNC_EVERY_S: Final = 1.0
LOSS_SAID_EVERY_S: Final = 10.0

STOP_WITHIN_S: Final = 1.0
FINISH_WITHIN_S: Final = 180.0
"""For the pictures of a recording that was played; a living stream leaves them to the next one."""

_Item = Chunk | EventMessage | AlertMessage | PredictionMessage


class Recorder:
    """Records a stream and keeps evidence of its alerts; a ``Sink``, and with ``take`` a tap.

    Nobody waits for it: what a disk is too slow for is left out of the recording and counted, and
    a disk that takes nothing is a line in the log. Only a recording that is played waits, since it
    can.

    Use as ``async with``: entering makes the folder, leaving ends the file.

    Args:
        settings: Where and how much.
        patient: Whether ``take`` may wait.

    Raises:
        ConfigError: On entering, if the folder cannot be made.
    """

    def __init__(self, settings: RecordSettings, *, patient: bool = False) -> None:
        self._settings = settings
        self._patient = patient
        self._items: deque[_Item] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._closed = False
        self._tape: Tape | None = None
        self._thread: threading.Thread | None = None
        self._n_dropped = 0
        self._said_at = -LOSS_SAID_EVERY_S
        self._gist: tuple[object, ...] = ()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.close)

    def begin(self, spec: StreamSpec, clock: WallClock) -> None:
        """Write what came so far and what comes, now that it is known what it is.

        Args:
            spec: The stream; its name is the one to publish under.
            clock: Labels the source's seconds with the time of day.

        Raises:
            ConfigError: If the folder cannot be made.
        """
        settings = self._settings
        if settings.folder is None:
            raise ConfigError("record.folder: expected a folder, found none. Try: --record DIR")
        level = stream_level(spec.name)
        shelf = Shelf(
            settings.folder.expanduser() / level,
            max_age_s=settings.max_age_h * 3600,
            max_bytes=settings.max_gb * 1e9,
        )
        try:
            shelf.make()
            n_mended = shelf.mend()
        except OSError as error:
            raise ConfigError(
                f"record.folder: {error.filename or settings.folder} cannot be written: "
                f"{error.strerror}. Try: --record with a folder of yours"
            ) from error
        if n_mended:
            LOG.info("%d recording(s) of a process that was killed: mended", n_mended)
        evidence = Evidence(shelf)
        kind = "simulated" if spec.simulated else spec.kind
        self._tape = Tape(
            shelf,
            evidence,
            spec=spec,
            clock=clock,
            about=f"{kind} {level}",
            file_s=settings.file_h * 3600,
            min_free_bytes=settings.min_free_gb * 1e9,
        )
        evidence.start()
        self._thread = threading.Thread(
            target=self._run, args=(self._tape, evidence), name="recorder", daemon=True
        )
        self._thread.start()
        LOG.info("recording to %s", shelf.folder)

    @property
    def counters(self) -> dict[str, int]:
        """How many samples were recorded, and how many could not be."""
        tape = self._tape
        return {
            "recorded_samples": tape.n_samples if tape else 0,
            "recording_lost_samples": self._n_dropped + (tape.n_lost if tape else 0),
        }

    def take(self, chunk: Chunk) -> None:
        """Take a chunk; called on the reader's thread, returns at once."""
        with self._changed:
            while self._patient and self._bytes > MAX_WAITING_BYTES and not self._closed:
                self._changed.wait(SYNC_EVERY_S)
            if self._bytes <= MAX_WAITING_BYTES and not self._closed:
                self._items.append(chunk)
                self._bytes += chunk.samples.nbytes
                self._changed.notify_all()
                return
            self._n_dropped += len(chunk.samples)
            if self._closed:
                return
        if time.monotonic() >= self._said_at + LOSS_SAID_EVERY_S:
            self._said_at = time.monotonic()
            LOG.warning(
                "the disk is too slow for the recording: %d samples left out so far. "
                "Try: a faster disk for record.folder",
                self._n_dropped,
            )

    async def event(self, message: EventMessage) -> None:
        """Have it annotated."""
        self._put(message)

    def alert_state(self, message: AlertMessage) -> None:
        """Have it annotated where the signal comes or goes."""
        gist = (message.signal, message.on, message.alert_id)
        if gist != self._gist:  # there is one a decision
            self._gist = gist
            self._put(message)

    def prediction(self, message: PredictionMessage) -> None:
        """Keep it for an alert's evidence."""
        self._put(message)

    def quality(self, message: QualityMessage) -> None:
        """Leave it: the signal is there to be looked at."""

    def health(self, message: HealthMessage) -> None:
        """Leave it."""

    @property
    def condition(self) -> SinkCondition:
        """It publishes nothing."""
        return SinkCondition(publishes=False)

    def close(self) -> None:
        """Write what waits, and end the file."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(FINISH_WITHIN_S if self._patient else 2 * STOP_WITHIN_S)

    def _put(self, item: _Item) -> None:
        with self._changed:
            if not self._closed and len(self._items) < MAX_WAITING_MESSAGES:
                self._items.append(item)
                self._changed.notify_all()

    def _run(self, tape: Tape, evidence: Evidence) -> None:
        try:
            self._write(tape, evidence)
        except Exception:  # a defect of ours: nobody else's recording or alert may end of it
            LOG.exception("the recorder failed: nothing more is recorded; alerts go on")
            with self._changed:
                self._closed = True
                self._items.clear()
                self._changed.notify_all()

    def _write(self, tape: Tape, evidence: Evidence) -> None:
        tick_at = time.monotonic() + SYNC_EVERY_S
        while True:
            with self._changed:
                if not self._items and not self._closed:
                    self._changed.wait(SYNC_EVERY_S)
                item = self._items.popleft() if self._items else None
                if isinstance(item, Chunk):
                    self._bytes -= item.samples.nbytes
                    self._changed.notify_all()
                is_over = item is None and self._closed
            if item is not None:
                tape.take(item)
            if time.monotonic() >= tick_at:
                tick_at = time.monotonic() + SYNC_EVERY_S
                tape.tick()
            if is_over:
                break
        tape.close()
        evidence.close(within_s=FINISH_WITHIN_S if self._patient else STOP_WITHIN_S)
