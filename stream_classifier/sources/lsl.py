"""EEG from Lab Streaming Layer: found, read, lost and found again."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, TypeVar

import pylsl

from stream_classifier.errors import (
    AmbiguousStreamError,
    StreamChangedError,
    StreamDescriptionError,
    StreamLostError,
    StreamNotFoundError,
    printable,
)
from stream_classifier.signals import Chunk, SourceHealth, SourceState, StreamSpec
from stream_classifier.sources.discovery import SETTLE_S, Lookout, StreamSeen, Wanted
from stream_classifier.sources.inlet import CALL_S, Description, Session, attach
from stream_classifier.sources.timeline import Timeline

if TYPE_CHECKING:
    import threading
    from collections.abc import Generator, Iterator

LOG = logging.getLogger(__name__)
T = TypeVar("T")

NO_DATA_AFTER_S = 1.5
"""Without a sample for this long there is no data, whatever the connection says."""

SETTLE_AGAIN_S = 0.5
"""How long to look for a second match when a device comes back: seconds count then."""

LOOK_EVERY_S = 0.5
"""How often a device that is away, or silent, is looked for."""

RECONNECT_AFTER_S = 10.0
RECONNECT_MOST_S = 60.0
"""A device that is there but silent is connected to anew after the first, then each time after
twice as long, up to the second: its connection may be broken without anybody knowing."""

PAUSE_S = 0.5
PAUSE_MOST_S = 5.0
"""Pause before attaching again to a device that does not answer, doubled each time."""


def lsl_clock() -> float:
    """Return the time on LSL's clock of this machine: seconds, steady, never set."""
    return float(pylsl.local_clock())


class LslSource:
    """An EEG stream on Lab Streaming Layer; a ``Source``.

    A device that goes away is looked for, by its source_id and type, or without one by name,
    type and host, for as long as it takes and at 1% of a core; what it sent meanwhile is a gap.
    A stall is reported and waited out, since the device may catch up.

    One thread opens, iterates and closes; ``health`` may be read by any.

    Args:
        name: Stream name. What is None is not compared.
        type: Content type, in any case.
        source_id: The device's own identity, the surest choice.
        channels: Labels of the channels to use, in this order; None for every EEG channel.
        unit: Unit of all channels, for a stream that does not say.
        wait_s: How long ``open`` looks, at least 1 s; ``math.inf`` for ever.
        stop: Set by anyone to make it give up, or end, within 0.1 s.
    """

    def __init__(
        self,
        *,
        name: str | None = None,
        type: str | None = "EEG",  # noqa: A002 - LSL's own word
        source_id: str | None = None,
        channels: tuple[str, ...] | None = None,
        unit: str | None = None,
        wait_s: float = 10.0,
        stop: threading.Event,
    ) -> None:
        self._wanted = Wanted(name=name, type=type, source_id=source_id)
        self._channels = channels
        self._unit = unit
        self._wait_s = wait_s
        self._stop = stop
        self._state = SourceState.LOOKING
        self._detail = f"looking for {self._wanted}"
        self._session: Session | None = None
        self._known: Description | None = None  # what it was at first
        self._stall: _Stall | None = None
        self._timeline: Timeline | None = None
        self._received_s: float | None = None
        self._lag_s: float | None = None
        self._n_reconnects = 0
        self._reconnect_after_s = RECONNECT_AFTER_S

    @property
    def health(self) -> SourceHealth:
        """How it is doing now. May be read from any thread."""
        timeline = self._timeline or Timeline(1.0)
        return SourceHealth(
            state=self._state,
            detail=self._detail,
            last_received_s=self._received_s,
            lag_s=self._lag_s,
            measured_hz=timeline.measured_hz,
            samples=timeline.n_samples,
            gaps=timeline.n_gaps,
            missing_samples=timeline.n_missing,
            duplicates=timeline.n_duplicates,
            reconnects=self._n_reconnects,
        )

    def open(self) -> StreamSpec:
        """Find the stream and attach to it.

        Returns:
            What it is; the labels are those of the channels used.

        Raises:
            StreamNotFoundError: If it did not appear, or not answer, in time, or if ``stop``
                was set meanwhile.
            AmbiguousStreamError: If more than one stream matches.
            StreamDescriptionError: If it cannot be read safely: no regular rate, text instead
                of numbers, or a channel or unit that is missing.
        """
        deadline_s = lsl_clock() + max(self._wait_s, SETTLE_S)
        while True:
            device = self._finish(self._look(self._wanted, deadline_s))
            try:
                session = self._finish(attach(device, channels=self._channels, unit=self._unit))
            except StreamNotFoundError:
                if self._stop.is_set() or lsl_clock() > deadline_s:
                    raise
                continue
            break
        known = session.description
        for note in known.plan.notes:
            LOG.warning("LSL stream %r: %s", device.name, printable(note))
        LOG.info("attached to LSL stream %s", device)
        self._session, self._known = session, known
        self._timeline = Timeline(device.rate_hz)
        self._tell(SourceState.NO_DATA, "waiting for the first sample", logging.INFO)
        return StreamSpec(
            name=device.name,
            source_id=device.source_id,
            rate_hz=device.rate_hz,
            labels=known.plan.labels,
            simulated=known.simulated,
        )

    def __iter__(self) -> Iterator[Chunk | None]:
        """Yield chunks as they arrive, None at least every 50 ms, until ``stop`` is set.

        Raises:
            StreamChangedError: If the device came back with other channels, rate or units.
            AmbiguousStreamError: If more than one device came back under its identity.
        """
        if self._known is None or self._timeline is None:
            raise ValueError("a source is opened before it is read")
        while not self._stop.is_set():
            if self._session is None:
                self._session = yield from self._find_again(self._known)
                continue
            chunks = self._read(self._session, self._timeline)
            if chunks:
                yield from chunks
            else:
                yield None

    def close(self) -> None:
        """Let go of the device. May be called twice."""
        self._end_stall()
        # Destroying the inlet is enough; close_stream() before it can abort the process.
        self._session = None

    def _read(self, session: Session, timeline: Timeline) -> list[Chunk]:
        """Read once, and notice what it means if nothing comes."""
        try:
            chunks = session.read(timeline)
        except StreamLostError:
            self._let_go(timeline, "the stream is gone; looking for it")
            return []
        if chunks is None:
            if self._is_elsewhere(session):
                self._let_go(timeline, "connecting anew: the device is there but silent here")
            return []
        if self._stall is not None:
            silent_s = session.last_s - (self._received_s or session.last_s)
            LOG.info("samples arrive again after %.2f s without one", silent_s)
        self._received_s = session.last_s
        if chunks:
            self._lag_s = (
                session.last_s - chunks[-1].origin_s - chunks[-1].indices[-1] / timeline.rate_hz
            )
        self._reconnect_after_s = RECONNECT_AFTER_S
        self._end_stall()
        self._tell(SourceState.ATTACHED, "", logging.INFO)
        return chunks

    def _let_go(self, timeline: Timeline, why: str) -> None:
        self._end_stall()
        self._session = None
        timeline.resume()
        self._tell(SourceState.LOST, why)

    def _is_elsewhere(self, session: Session) -> bool:
        """Whether a silent connection should be given up; says so when data stop."""
        silent_s = lsl_clock() - session.last_s
        if silent_s < NO_DATA_AFTER_S:
            return False
        if self._stall is None:
            self._stall = _Stall(session.description.device)
            self._tell(SourceState.NO_DATA, f"no sample for {silent_s:.1f} s: waiting for it")
        moved = self._stall.device_moved()
        if moved is False and silent_s > self._reconnect_after_s:
            self._reconnect_after_s = min(2 * self._reconnect_after_s, RECONNECT_MOST_S)
            return True
        return moved is True

    def _end_stall(self) -> None:
        if self._stall is not None:
            self._stall.close()
            self._stall = None

    def _tell(self, state: SourceState, detail: str, level: int = logging.WARNING) -> None:
        if state is not self._state:
            name = self._known.device.name if self._known else ""
            LOG.log(level, "LSL stream %r: %s", name, detail or "samples arrive")
        self._state, self._detail = state, detail

    def _find_again(self, known: Description) -> Generator[None, None, Session | None]:
        """Look for the device and attach to it, for as long as it takes; None if stopped."""
        wanted = _identity(known.device)
        pause_s = PAUSE_S
        while True:
            self._tell(SourceState.LOST, f"looking for {wanted}")
            try:
                device = yield from self._look(wanted, math.inf, before=known.device)
                session = yield from attach(device, channels=self._channels, unit=self._unit)
            except StreamDescriptionError as error:
                raise StreamChangedError(
                    known.device.name, before=str(known), now=str(error)
                ) from error
            except StreamNotFoundError as error:
                if self._stop.is_set():
                    return None
                LOG.warning("%s", error)
                yield from self._pause(pause_s)
                pause_s = min(2 * pause_s, PAUSE_MOST_S)
                continue
            if not session.description.reads_like(known):
                raise StreamChangedError(
                    known.device.name, before=str(known), now=str(session.description)
                )
            self._n_reconnects += 1
            self._tell(
                SourceState.NO_DATA, "attached again; waiting for the first sample", logging.INFO
            )
            return session

    def _look(
        self, wanted: Wanted, deadline_s: float, *, before: StreamSeen | None = None
    ) -> Generator[None, None, StreamSeen]:
        """Look until one stream matches, yielding every 50 ms.

        Args:
            wanted: What is looked for.
            deadline_s: On LSL's clock.
            before: The device that went away: if several match, one on its host is it.

        Raises:
            StreamNotFoundError: At the deadline, or when ``stop`` is set.
            AmbiguousStreamError: If several match.
        """
        started_s = asked_s = lsl_clock()
        first_s = math.inf
        with Lookout() as lookout:
            while True:
                now_s = lsl_clock()
                streams = lookout.streams()
                matches = [seen for seen in streams if wanted.matches(seen)]
                if before is not None:
                    matches = [seen for seen in matches if seen.host == before.host] or matches
                first_s = min(first_s, now_s) if matches else math.inf
                if now_s - first_s >= (SETTLE_S if before is None else SETTLE_AGAIN_S):
                    if len(matches) > 1:
                        raise AmbiguousStreamError(
                            wanted=str(wanted), candidates=[str(seen) for seen in matches]
                        )
                    return matches[0]
                if self._stop.is_set() or (now_s >= deadline_s and not matches):
                    raise StreamNotFoundError(
                        wanted=str(wanted),
                        waited_s=now_s - started_s,
                        seen=[str(seen) for seen in streams],
                    )
                if not matches and now_s - asked_s >= LOOK_EVERY_S:
                    asked_s = now_s
                    lookout.ask_again()
                yield from self._pause(CALL_S)

    def _pause(self, seconds: float) -> Generator[None, None, None]:
        ends_s = lsl_clock() + seconds
        while (left_s := ends_s - lsl_clock()) > 0 and not self._stop.wait(min(left_s, CALL_S)):
            yield

    def _finish(self, steps: Generator[None, None, T]) -> T:
        """Run a generator to its end without anybody to yield to."""
        while True:
            try:
                next(steps)
            except StopIteration as done:
                result: T = done.value
                return result
            if self._stop.is_set():
                steps.close()
                raise StreamNotFoundError(wanted=str(self._wanted), waited_s=0.0, seen=["stopped"])


class _Stall:
    """A silence of a device: is it still there, or back as another outlet?"""

    def __init__(self, device: StreamSeen) -> None:
        self._device = device
        self._wanted = _identity(device)
        self._lookout = Lookout()
        self._look_at_s = lsl_clock() + SETTLE_AGAIN_S

    def device_moved(self) -> bool | None:
        """True if it runs as another outlet now, False if still as this one, None if unknown."""
        now_s = lsl_clock()
        if now_s < self._look_at_s:
            return None
        self._look_at_s = now_s + LOOK_EVERY_S
        uids = {seen.uid for seen in self._lookout.streams() if self._wanted.matches(seen)}
        return None if not uids else self._device.uid not in uids

    def close(self) -> None:
        """Stop looking."""
        self._lookout.close()


def _identity(device: StreamSeen) -> Wanted:
    """What makes a device the same device when it comes back.

    The type belongs to it: a headset may announce EEG and motion under one source_id.
    """
    if device.source_id:
        return Wanted(source_id=device.source_id, type=device.type)
    return Wanted(name=device.name, type=device.type, host=device.host)
