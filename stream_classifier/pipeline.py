"""READ FIRST. The asyncio shell around one stream.

    reader thread                                asyncio
    -------------                                -------
    source -> Chunk -> detector.feed --------->  decisions  -> sink: outbox -> MQTT
              (blocking)         once a chunk    signal watch -> alert state

The reader thread owns the source and the detector; it never waits for the event loop, so the
loop may stall without a sample being lost. The loop owns everything that waits.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import math
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Protocol, Self, TypeVar

from stream_classifier.detection.detector import Decided, Detector
from stream_classifier.errors import printable
from stream_classifier.signals import AlertEvent, Calibrated, Prediction, Source, StreamSpec
from stream_classifier.sinks.messages import (
    AlertMessage,
    EventMessage,
    MessageBuilder,
    PredictionMessage,
    Quality,
    QualityMessage,
    Signal,
    overall,
)

LOG = logging.getLogger(__name__)
T = TypeVar("T")

INBOX_LIMIT = 10_000
"""Decisions waiting for a stalled loop; beyond it predictions are shed, events never."""

NO_SIGNAL_AFTER_S = 1.5
"""No sample for this long is "no signal"."""

STALE_AFTER_S = 2.0
"""A window decided later than this after its last sample (and what the resampler needs behind it)
says nothing of now: old data is never shown as a live signal."""

WATCH_EVERY_S = 0.25
"""How often the age of the newest sample is looked at."""

QUALITY_EVERY_S = 1.0
"""How often, in signal time, what the channels are worth is looked at."""

WAKE_EVERY_S = 0.2
"""How long a prediction that is no news may wait, so that the loop is not woken for each."""

PATIENCE_S = 0.01
"""How long a patient reader waits before it looks again whether there is room."""

JOIN_WITHIN_S = 2.0
"""How long a reader may take to leave its source when asked to stop."""


class Sink(Protocol):
    """Where results go. Called on the event loop; only ``event`` may wait (for the disk)."""

    async def event(self, message: EventMessage) -> None:
        """Keep one step of an alert until subscribers can have it."""
        ...

    def alert_state(self, message: AlertMessage) -> None:
        """Replace the alert state; the sink sends it if it is news, or as a heartbeat."""
        ...

    def prediction(self, message: PredictionMessage) -> None:
        """Offer the newest prediction; it may be dropped for a newer one."""
        ...

    def quality(self, message: QualityMessage) -> None:
        """Offer what the channels are worth; the sink sends it if it is news, or now and then."""
        ...


@dataclass(frozen=True, slots=True)
class Decision:
    """What one chunk decided.

    Attributes:
        items: Predictions, the events they caused, and gains, in order.
        decided_s: When, on the source's clock.
    """

    items: tuple[Decided, ...]
    decided_s: float


@dataclass(slots=True)
class Counters:
    """What happened since the start."""

    predictions: int = 0
    alerts: int = 0
    latency_s: collections.deque[float] = field(
        default_factory=lambda: collections.deque(maxlen=10_000)
    )


class Reader:
    """The thread that owns one source and its detector.

    Use as ``async with``: entering waits for the source to be attached; leaving stops it.

    Args:
        source: Opened, read and closed on the thread.
        make_detector: Called on the thread once the stream is known.
        clock: The source's clock, seconds; callable from any thread.
        stop: Set to make a source that is still looking for its stream give up.
        patient: Whether the source may wait for a stalled loop, as a recording may, so that
            nothing is shed.

    Raises:
        SourceError: On entering, if the source cannot be attached; from ``decisions`` if it
            fails in a way that a person must mend.
    """

    def __init__(
        self,
        source: Source,
        make_detector: Callable[[StreamSpec], Detector],
        *,
        clock: Callable[[], float],
        stop: threading.Event,
        patient: bool = False,
    ) -> None:
        self._source = source
        self._make_detector = make_detector
        self._clock = clock
        self._stop = stop
        self._patient = patient
        self._inbox: collections.deque[Decision] = collections.deque()
        self._woken_s = -math.inf  # on the source's clock
        self._known: tuple[object, ...] = ()  # what the loop was last told
        self.shed = 0  # predictions dropped because the event loop was stalled
        self.last_sample_s = 0.0  # on the source's clock; at first, when it was attached

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[Detector] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._arrived = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)
        self._thread.start()
        try:
            self.detector = await self._opened
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()
        if self._ended.done() and not self._ended.cancelled():
            self._ended.exception()  # looked at; whoever reads decisions has had it

    async def stop(self) -> None:
        """Make the thread let go of its source; what it has decided can still be read."""
        self._stop.set()
        await asyncio.to_thread(self._thread.join, JOIN_WITHIN_S)
        if self._thread.is_alive():
            LOG.warning("the source did not let go within %g s", JOIN_WITHIN_S)

    def left(self) -> list[Decision]:
        """Take what was decided and not read yet."""
        left = list(self._inbox)
        self._inbox.clear()
        return left

    async def decisions(self) -> AsyncIterator[Decision]:
        """Yield decisions until the source ends.

        Raises:
            StreamClassifierError: Whatever ended the source or the detector.
        """
        while True:
            while self._inbox:
                yield self._inbox[0]
                self._inbox.popleft()  # only now: who is cancelled half-way finds it again
            if self._ended.done():
                self._ended.result()
                return
            self._arrived.clear()
            if not self._inbox and not self._ended.done():
                await self._arrived.wait()

    def _run(self) -> None:
        try:
            detector = self._make_detector(self._source.open())
        except BaseException as error:  # noqa: BLE001 - a thread has nobody above it: the loop raises
            self._tell(self._opened, error)
            self._source.close()
            return
        self.last_sample_s = self._clock()
        self._tell(self._opened, detector)
        try:
            for chunk in self._source:
                if self._stop.is_set():
                    break
                if chunk is None:
                    self._wake_for_the_rest()
                    continue
                self.last_sample_s = chunk.received_s
                items = detector.feed(chunk)
                if items:
                    self._hand_over(Decision(items=tuple(items), decided_s=self._clock()))
                    detector.catch_up()  # what it put off, now that nobody waits for it
        except BaseException as error:  # noqa: BLE001 - as above
            self._tell(self._ended, error)
        else:
            self._tell(self._ended, None)
        finally:
            self._source.close()
            detector.close()

    def _hand_over(self, decision: Decision) -> None:
        while self._patient and len(self._inbox) >= INBOX_LIMIT and not self._stop.is_set():
            self._stop.wait(PATIENCE_S)
        if len(self._inbox) >= INBOX_LIMIT:
            events = tuple(item for item in decision.items if not isinstance(item, Prediction))
            self.shed += len(decision.items) - len(events)
            if not events:
                return
            decision = Decision(items=events, decided_s=decision.decided_s)
        self._inbox.append(decision)
        if self._is_news(decision) or not (
            self._woken_s <= decision.decided_s < self._woken_s + WAKE_EVERY_S
        ):
            self._woken_s = decision.decided_s
            self._call(self._arrived.set)

    def _is_news(self, decision: Decision) -> bool:
        """Whether a decision says more than what p is now; waking the loop is not free."""
        before = self._known
        for item in decision.items:
            if not isinstance(item, Prediction):
                return True
            self._known = (item.state, item.p is None, all(item.reasons), item.calibrating)
        return self._known != before

    def _wake_for_the_rest(self) -> None:
        """Hand on what was no news, now that nothing else arrives."""
        if self._inbox:
            self._call(self._arrived.set)

    def _tell(self, future: asyncio.Future[T], outcome: T | BaseException) -> None:
        def settle() -> None:
            if future.done():
                return
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
            self._arrived.set()

        self._call(settle)

    def _call(self, function: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone: nobody is left to tell
            self._loop.call_soon_threadsafe(function)


class Pipeline:
    """Turns what a reader decides into what subscribers receive.

    Args:
        reader: Entered already.
        builder: Makes the messages.
        sink: Receives them.
        clock: The source's clock, seconds.
        on_calibrated: Told of gains that were measured, on a thread, where it may write.
    """

    def __init__(
        self,
        *,
        reader: Reader,
        builder: MessageBuilder,
        sink: Sink,
        clock: Callable[[], float],
        on_calibrated: Callable[[Calibrated], None] = lambda _calibrated: None,
    ) -> None:
        self._reader = reader
        self._builder = builder
        self._sink = sink
        self._clock = clock
        self._on_calibrated = on_calibrated
        self.counters = Counters()
        self.signal: Signal = "starting"
        self._prediction: Prediction | None = None
        self._decided: datetime | None = None
        self._event = reader.detector.standing
        self._is_stale = False
        self._quality: Quality | None = None
        self._quality_due_s = -math.inf

    async def run(self) -> None:
        """Work until the source ends, or for ever.

        However it ends, every event that was decided is handed on first.

        Raises:
            StreamClassifierError: Whatever ended the source, the detector or the outbox.
        """
        self._publish_state()
        work = asyncio.create_task(self._work(), name="decisions")
        watch = asyncio.create_task(self._watch_signal(), name="signal watch")
        try:
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
            for task in (work, watch):
                if task.done():
                    task.result()
        finally:
            work.cancel()
            watch.cancel()
            await asyncio.gather(work, watch, return_exceptions=True)
            await self._reader.stop()
            for decision in self._reader.left():
                await self._take(decision)

    async def _work(self) -> None:
        async for decision in self._reader.decisions():
            await self._take(decision)

    async def _take(self, decision: Decision) -> None:
        decided = self._builder.clock.utc(decision.decided_s)
        told: list[tuple[Prediction, Signal]] = []
        for item in decision.items:
            if isinstance(item, Prediction):
                self._take_prediction(item, decision.decided_s, decided)
                told.append((item, self.signal))
            elif isinstance(item, AlertEvent):
                await self._take_event(item, decided)
            else:
                await asyncio.to_thread(self._on_calibrated, item)
        self._publish_state()
        for prediction, signal in told:  # for looking at: no event waits for it
            self._tell(prediction, signal, decided)

    def _take_prediction(self, item: Prediction, decided_s: float, decided: datetime) -> None:
        latency_s = decided_s - item.at_s
        stale_s = STALE_AFTER_S + self._reader.detector.delay_s
        self._is_stale = latency_s > stale_s
        self._prediction = None if self._is_stale else item
        self._decided = decided
        self.signal = "none" if self._is_stale else _signal_of(item, self.signal)
        self.counters.predictions += 1
        self.counters.latency_s.append(latency_s)
        if self._is_quality_due(item):
            self._quality = overall(item.quality)

    def _is_quality_due(self, item: Prediction) -> bool:
        return not self._quality_due_s - QUALITY_EVERY_S <= item.at_s < self._quality_due_s

    def _tell(self, item: Prediction, signal: Signal, decided: datetime) -> None:
        """Offer a prediction, and seldom enough for a person to read it the channels' quality."""
        self._sink.prediction(self._builder.prediction(item, signal=signal, decided=decided))
        if self._is_quality_due(item):
            self._quality_due_s = item.at_s + QUALITY_EVERY_S
            channels = self._reader.detector.quality
            self._sink.quality(self._builder.quality(channels, at_s=item.at_s, signal=signal))

    async def _take_event(self, event: AlertEvent, decided: datetime) -> None:
        self._event = event
        self.counters.alerts += event.seq == 0
        state = self._prediction.state if self._prediction else None
        await self._sink.event(
            self._builder.event(
                event, state=state, signal=self.signal, decided=decided, quality=self._quality
            )
        )
        await asyncio.sleep(0)  # the sink's turn: it goes out before anything else is done
        LOG.info(
            "alert %s %s: %s, p %.2f, %s",
            event.alert_id[:8],
            event.type.value,
            "on" if event.on else "off",
            event.p,
            ", ".join(map(printable, event.channels)),
        )

    async def _watch_signal(self) -> None:
        """Notice that samples stopped: LSL says nothing when they do."""
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            silent = self._clock() - self._reader.last_sample_s > NO_SIGNAL_AFTER_S
            if silent and self.signal != "none":
                LOG.warning("no signal: no sample for %g s", NO_SIGNAL_AFTER_S)
                self.signal = "none"
                self._prediction = None
                self._publish_state()
            elif not silent and not self._is_stale and self.signal == "none":
                LOG.info("samples are back")
                self.signal = "starting"
                self._publish_state()

    def _publish_state(self) -> None:
        at_s = self._clock() if self._prediction is None else self._prediction.at_s
        self._sink.alert_state(
            self._builder.alert(
                at_s=at_s,
                prediction=self._prediction,
                latest=self._event,
                signal=self.signal,
                decided=self._decided,
                quality=None if self._prediction is None else self._quality,
            )
        )


def _signal_of(prediction: Prediction, before: Signal) -> Signal:
    """Say whether there is a signal to judge, from the newest prediction."""
    if prediction.p is not None:
        return "calibrating" if prediction.calibrating else "ok"
    if all(prediction.reasons):
        return "poor"
    # Usable again, but not for long enough to say anything.
    return "poor" if before == "poor" else "starting"
