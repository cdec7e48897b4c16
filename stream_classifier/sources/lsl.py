"""EEG from Lab Streaming Layer: found, read, lost and found again.

The only file that opens an inlet. Everything here runs on the thread that owns the source,
except ``health``. liblsl has no call that can be interrupted, so every call has a deadline of
50 ms and is repeated; that is why attaching is written as generators that yield in between.
"""

from __future__ import annotations

import contextlib
import logging
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pylsl
from pylsl.util import LostError
from pylsl.util import TimeoutError as LslTimeoutError

from stream_classifier.errors import (
    AmbiguousStreamError,
    StreamChangedError,
    StreamDescriptionError,
    StreamLostError,
    StreamNotFoundError,
)
from stream_classifier.signals import Chunk, StreamSpec
from stream_classifier.sources.channels import (
    MAX_CHANNELS,
    MAX_TEXT,
    ChannelPlan,
    ChannelText,
    plan_channels,
)
from stream_classifier.sources.discovery import SETTLE_S, Lookout, StreamSeen, Wanted
from stream_classifier.sources.timeline import Timeline

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Generator, Iterator

    from numpy.typing import NDArray

LOG = logging.getLogger(__name__)
T = TypeVar("T")

CALL_S = 0.05
"""Deadline of one call into liblsl: how soon a request to stop is noticed."""

ANSWER_S = 5.0
"""A device that was found and does not answer for this long is given up for now."""

CORRECTION_S = 3.0
"""The first clock correction takes 0.6 s; without one by then, arrival times have to do."""

CORRECT_EVERY_S = 5.0
"""How often the clock correction is read again (liblsl measures it in the background)."""

BUFFER_S = 3
"""What liblsl keeps for us. Small: old samples must never be taken for live ones."""

MAX_PULL = 256
"""Samples in one pull."""

NO_DATA_AFTER_S = 1.5
"""Without a sample for this long there is no data, whatever the connection says."""

RECONNECT_AFTER_S = 10.0
"""A device that is there and silent for this long is connected to anew, as is one ..."""

PATIENCE_MAX_S = 60.0
"""... that stays silent, each time after twice as long, up to this."""

FOREIGN_CLOCK_S = 60.0
"""Stamps this far from now are not of LSL's clock (``time.time()`` is a common mistake)."""

MAX_RATE_HZ = 100_000.0


class SourceState(StrEnum):
    """How a source stands."""

    LOOKING = "looking"
    """Not found yet."""
    ATTACHED = "attached"
    """Samples arrive."""
    NO_DATA = "no_data"
    """Connected, but no sample for a while."""
    LOST = "lost"
    """The device went away; it is being looked for."""


@dataclass(frozen=True, slots=True)
class SourceHealth:
    """How a source is doing, at one moment.

    Attributes:
        state: See ``SourceState``.
        detail: What it waits for, for a person; "" while all is well.
        last_received_s: When the newest sample arrived, on ``lsl_clock()``; None before.
        lag_s: How old that sample was when it arrived, by its own stamp.
        measured_hz: True rate; None in the first 5 s.
        samples: Samples handed on.
        gaps: Holes in their indices.
        missing_samples: Indices in those holes.
        duplicates: Samples dropped because they were there already.
        reconnects: Times the device was attached to again.
    """

    state: SourceState
    detail: str
    last_received_s: float | None
    lag_s: float | None
    measured_hz: float | None
    samples: int
    gaps: int
    missing_samples: int
    duplicates: int
    reconnects: int


def lsl_clock() -> float:
    """Return the time on LSL's clock of this machine: seconds, steady, never set."""
    return float(pylsl.local_clock())


class LslSource:
    """An EEG stream on Lab Streaming Layer; a ``Source``.

    A device that goes away is looked for, by its source_id or else its name, type and host, for
    as long as it takes, at about 1% of a core; what it sent meanwhile is a gap. A stall is
    only reported: the connection is kept, since the device may catch up.

    One thread opens, iterates and closes; ``health`` may be read by any.

    Args:
        name: Stream name; what is None is not compared.
        type: Content type, in any case.
        source_id: The device's own identity, the surest choice.
        channels: Labels of the channels to use, in this order; None for every EEG channel.
        unit: Unit of all channels, for a stream that does not say.
        wait_s: How long ``open`` looks, at least 1 s; ``math.inf`` for ever.
        stop: Set by anyone to make it give up or end within 0.1 s.
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
        self._session: _Session | None = None
        self._stall: _Stall | None = None
        self._device: StreamSeen | None = None
        self._spec: StreamSpec | None = None
        self._plan: ChannelPlan | None = None
        self._timeline = Timeline(1.0)  # until the rate is known
        self._received_s: float | None = None
        self._lag_s: float | None = None
        self._n_reconnects = 0

    @property
    def health(self) -> SourceHealth:
        """How it is doing now. May be read from any thread."""
        timeline = self._timeline
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
                of numbers, a channel or unit that is missing.
        """
        started_s = lsl_clock()
        deadline_s = started_s + max(self._wait_s, SETTLE_S)
        trouble = ""
        while True:
            device = self._finish(self._look(self._wanted, deadline_s, trouble))
            try:
                self._session = self._finish(self._attach(device))
            except StreamLostError as error:
                trouble = str(error)
                LOG.warning("%s", error)
                continue
            break
        plan = self._session.plan
        for note in plan.notes:
            LOG.warning("LSL stream %r: %s", device.name, note)
        self._device, self._plan = device, plan
        self._timeline = Timeline(device.rate_hz)
        self._spec = StreamSpec(
            name=device.name,
            source_id=device.source_id,
            rate_hz=device.rate_hz,
            labels=plan.labels,
            simulated=self._session.simulated,
        )
        LOG.info("attached to LSL stream %s", device)
        return self._spec

    def __iter__(self) -> Iterator[Chunk | None]:
        """Yield chunks as they arrive, None at least every 50 ms, until ``stop`` is set.

        Raises:
            StreamChangedError: If the device came back with other channels, rate or units.
            AmbiguousStreamError: If more than one device came back under its identity.
        """
        if self._device is None:
            raise ValueError("open the source first")
        while not self._stop.is_set():
            if self._session is None:
                yield from self._find_again(self._device)
                continue
            try:
                chunks = self._session.read(self._timeline)
            except LostError:
                self._detach(f"LSL stream {self._device.name!r} was lost")
                continue
            if chunks is not None:
                self._note_arrival(chunks)
                yield from chunks
            elif self._is_gone(self._session):
                self._detach(f"LSL stream {self._device.name!r} is connected to anew")
            if not chunks:
                yield None

    def close(self) -> None:
        """Let go of the device. May be called twice."""
        self._end_stall()
        # Destroying the inlet is enough; close_stream() before it can abort the process.
        self._session = None

    def _note_arrival(self, chunks: list[Chunk]) -> None:
        self._received_s = lsl_clock()
        if chunks:
            newest, rate_hz = chunks[-1], self._timeline.rate_hz
            self._received_s = newest.received_s
            self._lag_s = newest.received_s - newest.origin_s - newest.indices[-1] / rate_hz
        self._end_stall()
        if self._state is not SourceState.ATTACHED:
            self._tell(SourceState.ATTACHED, "")

    def _tell(self, state: SourceState, detail: str) -> None:
        if state is not self._state and self._device is not None:
            LOG.log(
                logging.INFO if state is SourceState.ATTACHED else logging.WARNING,
                "%s",
                detail or f"samples arrive from LSL stream {self._device.name!r}",
            )
        self._state, self._detail = state, detail

    def _detach(self, why: str) -> None:
        self._end_stall()
        self._session = None
        self._timeline.resume()
        self._tell(SourceState.LOST, why)

    def _is_gone(self, session: _Session) -> bool:
        """Whether a silent connection should be given up, because the device is elsewhere."""
        silent_s = lsl_clock() - session.last_s
        if silent_s < NO_DATA_AFTER_S:
            return False
        if self._stall is None:
            self._stall = _Stall(session.device, _identity(session.device))
            self._tell(
                SourceState.NO_DATA,
                f"no sample from LSL stream {session.device.name!r} for {silent_s:.1f} s",
            )
        return self._stall.device_moved(silent_s)

    def _end_stall(self) -> None:
        if self._stall is not None:
            self._stall.close()
            self._stall = None

    def _find_again(self, before: StreamSeen) -> Generator[None, None, None]:
        """Look for the device and attach to it, for as long as it takes."""
        pause_s = 0.5
        while not self._stop.is_set():
            wanted = _identity(before)
            self._tell(SourceState.LOST, f"looking for {wanted}")
            device = yield from self._look(wanted, math.inf, host=before.host, settle_s=0.5)
            try:
                session = yield from self._attach(device)
                self._refuse_change(device, session.plan)
            except StreamDescriptionError as error:
                raise StreamChangedError(
                    before.name, before=self._described(before), now=str(error)
                ) from error
            except StreamLostError as error:
                LOG.warning("%s", error)
                yield from self._pause(pause_s)
                pause_s = min(2 * pause_s, ANSWER_S)
                continue
            self._session = session
            self._device = device
            self._n_reconnects += 1
            self._tell(SourceState.NO_DATA, f"LSL stream {device.name!r} is back, no sample yet")
            return

    def _refuse_change(self, device: StreamSeen, plan: ChannelPlan) -> None:
        before = self._device, self._plan
        assert before[0] is not None  # noqa: S101 - both are set by open
        assert before[1] is not None  # noqa: S101
        same = (
            device.rate_hz == before[0].rate_hz
            and plan.labels == before[1].labels
            and plan.uv_per_unit == before[1].uv_per_unit
        )
        if not same:
            raise StreamChangedError(
                device.name,
                before=_summary(before[0], before[1]),
                now=_summary(device, plan),
            )
