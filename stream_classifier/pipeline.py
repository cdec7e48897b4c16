"""READ FIRST. The asyncio shell around one stream.

    reader thread                                asyncio
    -------------                                -------
    source -> Chunk -> detector.feed --------->  decisions  -> sink: outbox -> MQTT
              (blocking)         once a chunk    watch -> alert state, ladder of health
                         <---------------------  what a person acknowledges

The reader thread owns the source and the detector; it never waits for the event loop, so the
loop may stall without a sample being lost. The loop owns everything that waits. A reader that
fails is started again by ``service``; the pipeline goes on with the next one.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import logging
import math
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import TracebackType
from typing import Protocol, Self, TypeVar

from stream_classifier.detection.detector import Decided, Detector
from stream_classifier.errors import (
    ReaderError,
    ReaderStuckError,
    StreamClassifierError,
    printable,
)
from stream_classifier.health import (
    OLD_AFTER_S,
    SILENT_AFTER_S,
    Facts,
    Health,
    Ladder,
    SinkCondition,
    stopped_health,
)
from stream_classifier.signals import (
    AlertEvent,
    Calibrated,
    Chunk,
    EventType,
    Prediction,
    Source,
    SourceHealth,
    StreamSpec,
)
from stream_classifier.sinks.messages import (
    AlertMessage,
    EventMessage,
    HealthMessage,
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

MOST_BEHIND_S = 0.6
"""Samples that waited longer than this for a detector that is too slow are not classified any
more: a late alarm helps less than one of what is going on now."""

PIECE_S = 0.1
"""Signal time given to the detector at once, so that it is noticed in time that it is slow."""

STUCK_AFTER_S = 10.0
"""A reader that gives no sign of life for so long hangs in a library, and nothing ends it but the
end of the process."""

WATCH_EVERY_S = 0.25
"""How often the age of the newest sample is looked at."""

QUALITY_EVERY_S = 1.0
"""How often, in signal time, what the channels are worth is looked at."""

WAKE_EVERY_S = 0.2
"""How long a prediction that is no news may wait, so that the loop is not woken for each."""

LATENCY_EVERY_S = 5.0
"""How often the percentiles of the latency are looked at."""

WALL_STEP_S = 0.5
"""A wall clock that moves by more than this against one that nobody sets was set."""

PATIENCE_S = 0.01
"""How long a patient reader waits before it looks again whether there is room."""

JOIN_WITHIN_S = 0.8
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

    def health(self, message: HealthMessage) -> None:
        """Replace the state of health; the sink sends it if it is news, or as a heartbeat."""
        ...

    @property
    def condition(self) -> SinkCondition:
        """How the sink itself is doing."""
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
        taps: Each is given every chunk, on the thread, once it has been classified; has to return
            at once. What one raises ends the reader.

    Raises:
        SourceError: On entering, if the source cannot be attached.
    """

    def __init__(
        self,
        source: Source,
        make_detector: Callable[[StreamSpec], Detector],
        *,
        clock: Callable[[], float],
        stop: threading.Event,
        patient: bool = False,
        taps: Sequence[Callable[[Chunk], None]] = (),
    ) -> None:
        self._source = source
        self._taps = taps
        self._make_detector = make_detector
        self._clock = clock
        self._stop = stop
        self._patient = patient
        self._inbox: collections.deque[Decision] = collections.deque()
        self._asked: collections.deque[_Asked] = collections.deque()
        self._came_s = 0.0  # when the source was last looked at; on its clock, as the next
        self._since_s = 0.0  # when it was before: none of what came then had waited
        self._since_index = 0  # of the first sample that came
        self._woken_s = -math.inf  # on the source's clock
        self._known: tuple[object, ...] = ()  # what the loop was last told
        self.shed = 0  # predictions dropped because the event loop was stalled
        self.last_sample_s = 0.0  # on the source's clock; at first, when it was attached
        self.behind_s = 0.0  # how long the newest samples had waited for the detector
        self._alive_at = time.monotonic()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[Detector] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._ended.add_done_callback(self._refuse_asked)
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
        _ = self.failure  # looked at

    async def stop(self) -> None:
        """Make the thread let go of its source; what it has decided can still be read."""
        self._stop.set()
        await asyncio.to_thread(self._thread.join, JOIN_WITHIN_S)
        if self._thread.is_alive():
            LOG.warning("the source did not let go within %g s", JOIN_WITHIN_S)

    @property
    def patient(self) -> bool:
        """Whether it may be behind for no want of speed."""
        return self._patient

    @property
    def health(self) -> SourceHealth:
        """How the source is doing."""
        return self._source.health

    @property
    def sign_of_life(self) -> float:
        """Changes all the while the thread does anything; NaN once it has ended."""
        return self._alive_at if self._thread.is_alive() else math.nan

    async def ask(self, work: Callable[[Detector], list[AlertEvent]]) -> list[AlertEvent]:
        """Have something done to the detector on its own thread, between two chunks.

        Returns:
            The events it led to; they are among the decisions, too.

        Raises:
            Exception: Whatever ``work`` raises.
        """
        if self._ended.done():
            raise ReaderError(_ENDED)
        asked = _Asked(work)
        self._asked.append(asked)
        return await asyncio.wrap_future(asked.answer)

    def left(self) -> list[Decision]:
        """Take what was decided and not read yet."""
        left = list(self._inbox)
        self._inbox.clear()
        return left

    @property
    def failure(self) -> BaseException | None:
        """What ended the source or the detector; None if it was in order, or goes on."""
        is_over = self._ended.done() and not self._ended.cancelled()
        return self._ended.exception() if is_over else None

    async def decisions(self) -> AsyncIterator[Decision]:
        """Yield decisions until the reader ends; ``failure`` says why it did."""
        while True:
            while self._inbox:
                yield self._inbox[0]
                self._inbox.popleft()  # only now: who is cancelled half-way finds it again
            if self._ended.done():
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
        self.last_sample_s = self._since_s = self._came_s = self._clock()
        self._alive_at = time.monotonic()
        self._tell(self._opened, detector)
        try:
            for chunk in self._source:
                self._alive_at = time.monotonic()
                if self._stop.is_set():
                    break
                self._do_asked(detector)
                if chunk is None:
                    self._came_s = self._clock()
                    self._wake_for_the_rest()
                else:
                    self.last_sample_s = chunk.received_s
                    self._feed(detector, chunk)
                    for tap in self._taps:
                        tap(chunk)
        except Exception as error:  # noqa: BLE001 - as above
            self._tell(self._ended, error)
        except BaseException as error:  # noqa: BLE001 - the loop must outlive what ends a thread
            self._tell(self._ended, RuntimeError(f"the reader was ended by {error!r}"))
        else:
            self._tell(self._ended, None)
        finally:
            self._source.close()
            detector.close()

    def _refuse_asked(self, _ended: object) -> None:
        """Answer what nobody does any more; on the loop, so that nothing comes in between."""
        while self._asked:
            answer = self._asked.popleft().answer
            if answer.set_running_or_notify_cancel():
                answer.set_exception(ReaderError(_ENDED))

    def _feed(self, detector: Detector, chunk: Chunk) -> None:
        """Have a chunk classified; what waited too long for that is only taken."""
        if chunk.received_s > self._came_s:  # the first that came then
            self._since_s, self._came_s = self._came_s, chunk.received_s
            self._since_index = chunk.first_index
        n_samples = len(chunk.samples)
        n_most = n_samples
        if not self._patient:
            n_most = max(1, round(PIECE_S * detector.spec.rate_hz))
        for start in range(0, n_samples, n_most):
            if not self._patient:
                n_since = chunk.first_index + start - self._since_index
                arrived_s = min(self._came_s, self._since_s + n_since / detector.spec.rate_hz)
                self.behind_s = max(0.0, self._clock() - arrived_s)
            if self.behind_s > MOST_BEHIND_S:
                detector.skip(_from(chunk, start, n_samples))
                return
            self._alive_at = time.monotonic()
            items = detector.feed(_from(chunk, start, start + n_most))
            if items:
                self._hand_over(Decision(items=tuple(items), decided_s=self._clock()))
                detector.catch_up()  # what it put off, now that nobody waits for it

    def _do_asked(self, detector: Detector) -> None:
        """Do what was asked for from outside, and what is due without samples."""
        events: list[AlertEvent] = detector.remind(self._clock())
        while self._asked:
            asked = self._asked.popleft()
            if not asked.answer.set_running_or_notify_cancel():
                continue
            try:
                done = asked.work(detector)
            except Exception as error:  # noqa: BLE001 - it is for who asked
                asked.answer.set_exception(error)
            else:
                asked.answer.set_result(done)
                events += done
        if events:
            self._hand_over(Decision(items=tuple(events), decided_s=self._clock()))

    def _hand_over(self, decision: Decision) -> None:
        while self._patient and len(self._inbox) >= INBOX_LIMIT and not self._stop.is_set():
            self._stop.wait(PATIENCE_S)
            self._alive_at = time.monotonic()
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


@dataclass(frozen=True, slots=True)
class _Asked:
    """Something to be done on the reader's thread, and what came of it."""

    work: Callable[[Detector], list[AlertEvent]]
    answer: concurrent.futures.Future[list[AlertEvent]] = field(
        default_factory=concurrent.futures.Future
    )


def _from(chunk: Chunk, start: int, stop: int) -> Chunk:
    if start == 0 and stop >= len(chunk.samples):
        return chunk
    return replace(chunk, samples=chunk.samples[start:stop], first_index=chunk.first_index + start)


_ENDED = "the reader has ended, and may be started again. Try: the same in some seconds"

Revive = Callable[[Exception], Awaitable[Reader]]


async def _give_up(failure: Exception) -> Reader:
    raise failure


class Pipeline:
    """Turns what a reader decides into what subscribers receive.

    Args:
        reader: Entered already.
        revive: Given what a reader failed of, returns another one on the same stream, or raises
            what ends it all.
        builder: Makes the messages.
        sink: Receives them.
        clock: The source's clock, seconds.
        on_calibrated: Told of gains that were measured, on a thread, where it may write.
        on_watch: Called four times a second with the state of health.
        count: More counters for the state of health.
        wall: The wall clock, Unix time; that somebody sets it is reported.
    """

    def __init__(
        self,
        *,
        reader: Reader,
        builder: MessageBuilder,
        sink: Sink,
        clock: Callable[[], float],
        revive: Revive = _give_up,
        on_calibrated: Callable[[Calibrated], None] = lambda _calibrated: None,
        on_watch: Callable[[Health], None] = lambda _health: None,
        count: Callable[[], Mapping[str, int]] = dict,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._reader = reader
        self._revive = revive
        self._ladder = Ladder()
        self._on_watch = on_watch
        self._count = count
        self._wall = _WallWatch(wall)
        self._muted_until: datetime | None = None
        self._mute_ends_s = math.inf
        self._n_restarts = 0
        self._restart_reason = ""
        self._last_words: Exception | None = None
        self._n_shed_before = 0  # by readers that failed
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
        self._latency_ms: tuple[float | None, float | None, int] = (None, None, 0)
        self._latency_due_s = -math.inf

    @property
    def reader(self) -> Reader:
        """The one at work."""
        return self._reader

    @property
    def standing(self) -> AlertEvent | None:
        """Latest step of the alert that stands, for a detector to go on with."""
        return None if self._event is None or _is_settled(self._event) else self._event

    async def acknowledge(self, alert_id: str) -> bool:
        """A person has seen an alert.

        Returns:
            Whether it was news; False if it was acknowledged before.

        Raises:
            LookupError: If there is no such alert.
        """
        return bool(await self._reader.ask(lambda detector: detector.acknowledge(alert_id)))

    def mute(self, until: datetime | None) -> None:
        """Ask for quiet until then; a new alert, or None, ends it. Hides nothing."""
        self._muted_until = until
        if until is not None:  # kept by a clock that nobody sets
            self._mute_ends_s = time.monotonic() + until.timestamp() - time.time()
        self._publish_state()

    async def run(self) -> None:
        """Work until the source ends, or for ever.

        However it ends, every event that was decided is handed on first.

        Raises:
            StreamClassifierError: Whatever ended the source, the detector or the outbox.
            ReaderStuckError: If the reader hangs.
        """
        self._publish_state()
        work = asyncio.create_task(self._work(), name="decisions")
        watch = asyncio.create_task(self._watch(), name="watch")
        try:
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
            for task in (work, watch):
                if task.done():
                    task.result()
        except Exception as error:
            self._last_words = error
            raise
        finally:
            work.cancel()
            watch.cancel()
            await asyncio.gather(work, watch, return_exceptions=True)
            await self._reader.stop()
            try:
                for decision in self._reader.left():
                    await self._take(decision)
            finally:
                self._say_goodbye()

    async def _work(self) -> None:
        while True:
            async for decision in self._reader.decisions():
                await self._take(decision)
            failure = self._reader.failure
            if failure is None:
                return
            if not isinstance(failure, Exception) or isinstance(failure, StreamClassifierError):
                raise failure
            LOG.error("the reader failed", exc_info=failure)
            self._n_restarts += 1
            self._restart_reason = f"{type(failure).__name__}: {failure}"
            n_shed = self._reader.detector.n_windows_shed
            self.signal = "starting"
            self._prediction = None
            self._publish_state()
            self._reader = await self._revive(failure)
            self._n_shed_before += n_shed

    def _say_goodbye(self) -> None:
        """Leave no state of health behind that looks as if somebody still looked."""
        stopped = stopped_health(self._clock(), why=self._last_words)
        self._sink.health(self._builder.health(stopped, counters=self._counted()))

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
        # What the resampler needs behind a sample is no age.
        stale_s = OLD_AFTER_S + self._reader.detector.delay_s
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
        if event.seq == 0:
            self.counters.alerts += 1
            self._muted_until = None
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

    async def _watch(self) -> None:
        """Notice what nobody says: that samples stopped, that a thread hangs, that clocks jump."""
        seen, silent_s = math.nan, 0.0
        while True:
            self.look()
            await asyncio.sleep(WATCH_EVERY_S)
            # Looks are counted, no clock is read: a process that was stopped has no silent reader.
            before, seen = seen, self._reader.sign_of_life
            silent_s = silent_s + WATCH_EVERY_S if seen == before else 0.0
            if silent_s > STUCK_AFTER_S:
                raise ReaderStuckError(silent_s=STUCK_AFTER_S)

    def look(self) -> Health:
        """Judge the ladder, and publish what is news."""
        self._watch_signal()
        if self._muted_until is not None and time.monotonic() >= self._mute_ends_s:
            self.mute(None)
        self._wall.look()
        health = self._health()
        self._sink.health(self._builder.health(health, counters=self._counted()))
        self._on_watch(health)
        return health

    def _watch_signal(self) -> None:
        """Notice what LSL does not say: that samples stopped, or that none can be decided on."""
        now_s = self._clock()
        silent = now_s - self._reader.last_sample_s > SILENT_AFTER_S
        if silent and self.signal != "none":
            LOG.warning("no signal: no sample for %g s", SILENT_AFTER_S)
            self.signal = "none"
            self._prediction = None
            self._publish_state()
        elif not silent and not self._is_stale and self.signal == "none":
            LOG.info("samples are back")
            self.signal = "starting"
            self._publish_state()
        elif self._is_undecided(now_s):
            LOG.warning("samples arrive, and none are decided on: too many are missing")
            self.signal = "starting"
            self._prediction = None
            self._publish_state()

    def _is_undecided(self, now_s: float) -> bool:
        """Whether the newest decision is older than that of a device that is late and silent."""
        if self._prediction is None or self._reader.patient:
            return False
        at_most_s = OLD_AFTER_S + SILENT_AFTER_S + self._reader.detector.delay_s
        return now_s - self._prediction.at_s > at_most_s

    def _health(self) -> Health:
        detector, sink = self._reader.detector, self._sink.condition
        health = self._ladder.look(
            Facts(
                now_s=self._clock(),
                source=self._reader.health,
                last_sample_s=self._reader.last_sample_s,
                nominal_hz=detector.spec.rate_hz,
                is_old=self._is_stale,
                has_decided=self._prediction is not None,
                calibrating=detector.calibrating,
                channels=detector.verdicts,
                engine=detector.engine.name,
                engine_fault=detector.engine.fault,
                behind_s=self._reader.behind_s,
                n_shed=self._n_shed_before + detector.n_windows_shed,
                n_restarts=self._n_restarts,
                restart_reason=self._restart_reason,
                outbox_fault=sink.outbox_fault,
                n_dropped=sink.counters.get("dropped", 0),
                broker_fault=sink.broker_fault,
                has_broker=sink.publishes,
            )
        )
        p50_ms, p99_ms, n = self._latency()
        return replace(health, latency_p50_ms=p50_ms, latency_p99_ms=p99_ms, n_latency=n)

    def _latency(self) -> tuple[float | None, float | None, int]:
        """Return the decision latency, looked at anew every few seconds: sorting is not free."""
        now_s = self._clock()
        if not self._latency_due_s - LATENCY_EVERY_S <= now_s < self._latency_due_s:
            self._latency_due_s = now_s + LATENCY_EVERY_S
            latest = sorted(self.counters.latency_s)
            n = len(latest)
            if n:
                p50, p99 = (max(0.0, latest[int(share * (n - 1))]) for share in (0.5, 0.99))
                self._latency_ms = (round(p50 * 1e3, 2), round(p99 * 1e3, 2), n)
        return self._latency_ms

    def _counted(self) -> dict[str, int]:
        detector, source = self._reader.detector, self._reader.health
        return {
            "samples": source.samples,
            "gaps": source.gaps,
            "missing_samples": source.missing_samples,
            "duplicates": source.duplicates,
            "reconnects": source.reconnects,
            "windows": detector.n_windows,
            "windows_refused": detector.n_windows_refused,
            "windows_shed": self._n_shed_before + detector.n_windows_shed,
            "alerts": self.counters.alerts,
            "reader_restarts": self._n_restarts,
            "clock_steps": self._wall.n_steps,
            **self._count(),
            **self._sink.condition.counters,
        }

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
                muted_until=self._muted_until,
            )
        )


class _WallWatch:
    """Notices that somebody set the wall clock: it moves no alert, but people should know."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._ahead_s: float | None = None
        self.n_steps = 0

    def look(self) -> None:
        ahead_s = self._wall() - time.monotonic()  # whatever the source's clock is
        if self._ahead_s is not None and abs(ahead_s - self._ahead_s) > WALL_STEP_S:
            self.n_steps += 1
            LOG.warning(
                "the wall clock was set by %+.1f s, or this machine slept; alerts go on with the "
                "time as it was at the start. Try: a restart, to take the new time over",
                ahead_s - self._ahead_s,
            )
        self._ahead_s = ahead_s


def _is_settled(event: AlertEvent) -> bool:
    """Whether an alert is over and stands for nobody."""
    is_over = event.over or event.type in (EventType.ENDED, EventType.RETRACTED)
    return is_over and not event.on


def _signal_of(prediction: Prediction, before: Signal) -> Signal:
    """Say whether there is a signal to judge, from the newest prediction."""
    if prediction.p is not None:
        return "calibrating" if prediction.calibrating else "ok"
    if all(prediction.reasons):
        return "poor"
    # Usable again, but not for long enough to say anything.
    return "poor" if before == "poor" else "starting"
