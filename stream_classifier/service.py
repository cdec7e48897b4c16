"""Settings to a running pipeline: the one place where the parts are chosen and joined."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import platform
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from stream_classifier import __version__
from stream_classifier.bundle import Bundle, default_bundle, load_bundle
from stream_classifier.config import (
    AlarmSettings,
    ModelSettings,
    MonitorSettings,
    MqttSettings,
    Settings,
    SourceSettings,
)
from stream_classifier.detection.detector import Detector, DetectorSettings
from stream_classifier.detection.montage import position
from stream_classifier.engines import make_engine
from stream_classifier.errors import (
    ConfigError,
    MissingExtraError,
    ReaderFailedError,
    RecordingUnusableError,
    StreamChangedError,
    printable,
)
from stream_classifier.gain_store import GainStore
from stream_classifier.health import Condition, Health
from stream_classifier.monitor.feed import Feed
from stream_classifier.monitor.memory import About, Memory, Site
from stream_classifier.pipeline import Pipeline, Reader, Sink
from stream_classifier.recorder.recorder import Recorder
from stream_classifier.signals import AlertEvent, Calibrated, Chunk, Engine, StreamSpec
from stream_classifier.sinks.backoff import Backoff
from stream_classifier.sinks.broker import BrokerSettings, broker_settings
from stream_classifier.sinks.commands import CommandDesk
from stream_classifier.sinks.connection import probe
from stream_classifier.sinks.console import ConsoleSink
from stream_classifier.sinks.fan_out import FanOut
from stream_classifier.sinks.messages import (
    EventMessage,
    InfoMessage,
    MessageBuilder,
    ModelRef,
    WallClock,
    standing_alert,
)
from stream_classifier.sinks.mqtt import MqttSink
from stream_classifier.sinks.outbox import Outbox, read_latest
from stream_classifier.sinks.topics import Topics, stream_level
from stream_classifier.sources.lsl import LslSource, lsl_clock
from stream_classifier.sources.recording import RecordingSource, open_recording
from stream_classifier.sources.recordings.material import Ask
from stream_classifier.watchdog import LoopWatchdog, ServiceManager

LOG = logging.getLogger(__name__)

DELIVER_WITHIN_S = 5.0
"""At the end of a recording: how long to wait for a broker that takes nothing of what is left."""

LOOK_EVERY_S = 0.05

REVIVE_FIRST_S = 0.25
REVIVE_CAP_S = 5.0
STABLE_S = 60.0
MOST_FAILURES = 5
"""A reader that fails is started again after so long; so often in a row, each time before it held
for a minute, and the process ends."""


@dataclass(frozen=True, slots=True)
class Attached:
    """What a running pipeline has attached to.

    Attributes:
        spec: The stream, as it announces itself.
        broker: Where results go; None: nowhere but to ``on_event``.
        topics: Its topics.
        bundle: What decides.
        monitor_url: Where the monitor page is; None: nowhere.
    """

    spec: StreamSpec
    broker: BrokerSettings | None
    topics: Topics
    bundle: Bundle
    monitor_url: str | None = None


async def serve(
    settings: Settings,
    *,
    on_attached: Callable[[Attached], None],
    on_ended: Callable[[dict[str, Any]], None],
    on_event: Callable[[EventMessage, WallClock], None] = lambda _event, _clock: None,
    on_health: Callable[[Health], None] = lambda _health: None,
    seconds: float | None = None,
) -> None:
    """Run one stream's pipeline until it is cancelled, or its recording ends.

    Of a recording, an alert that an earlier run left standing is not gone on with, and gains are
    neither looked up nor kept, so that the same bytes give the same alerts.

    Args:
        settings: Everything.
        on_attached: Told once, when the stream is attached.
        on_ended: Told what happened, counts and latencies, however it ended.
        on_event: Told each step of an alert where nothing is published, and what brings its times
            to seconds of the source's clock.
        on_health: Told of the ladder whenever a rung changes.
        seconds: Stop by itself this long after attaching; None runs on.

    Raises:
        StreamClassifierError: Whatever a person must mend; see the error tree.
    """
    manager = ServiceManager()
    async with contextlib.AsyncExitStack() as stack:
        publishes = _publishes(settings)
        station = await _Station.make(settings)
        broker = None
        if publishes:
            broker = await stack.enter_async_context(_broker(settings.mqtt))
            await probe(broker)
        recorder: Recorder | None = None
        if settings.record.folder is not None:
            recorder = await stack.enter_async_context(
                Recorder(settings.record, patient=station.is_recording)
            )
            station.taps.append(recorder.take)
        # A device that is not there yet is waited for: to a service manager, that is at work.
        manager.ready("looking for the stream")
        readers = await stack.enter_async_context(contextlib.AsyncExitStack())
        async with _signs_of_life(manager):
            reader = await readers.enter_async_context(station.first_reader())
        builder = station.message_builder(reader)
        sink: Sink = ConsoleSink(lambda event: on_event(event, builder.clock))
        others: list[Sink] = []  # what looks at results, or keeps them
        if recorder is not None:
            await asyncio.to_thread(recorder.begin, builder.spec, builder.clock)
            others.append(recorder)
        mqtt: MqttSink | None = None
        if broker is not None:
            outbox = await stack.enter_async_context(
                Outbox(
                    path=station.outbox_file,
                    max_age_s=settings.outbox.max_age_h * 3600,
                    max_rows=settings.outbox.max_rows,
                )
            )
            # What carries commands out is made further down.
            desk = CommandDesk(
                topic=station.topics.commands,
                acknowledge=lambda alert_id: pipeline.acknowledge(alert_id),  # noqa: PLW0108
                mute=lambda until: pipeline.mute(until),  # noqa: PLW0108
                spend=lambda nonce, until: outbox.spend(nonce, until=until),
                answer=lambda command, payload: mqtt.answer(command, payload) if mqtt else None,
            )
            await stack.enter_async_context(_working(desk))
            mqtt = await stack.enter_async_context(
                MqttSink(
                    settings=broker,
                    outbox=outbox,
                    topics=station.topics,
                    info=station.info(builder),
                    on_command=desk.take if settings.mqtt.commands else None,
                )
            )
            sink = mqtt
        watchdog = stack.enter_context(LoopWatchdog())
        monitor_url = None
        if settings.monitor.on:
            feed = Feed()
            station.taps.append(feed.samples)
            others.append(feed)
            monitor_url = stack.enter_context(
                _monitor(
                    settings.monitor,
                    feed,
                    station.memory(builder, broker, delay_s=reader.detector.delay_s),
                    # What carries them out is made further down.
                    acknowledge=lambda alert_id: pipeline.acknowledge(alert_id),  # noqa: PLW0108
                    mute=lambda until: pipeline.mute(until),  # noqa: PLW0108
                )
            )

        async def revive(failure: Exception) -> Reader:
            await readers.aclose()  # lets go of the one that failed
            return await readers.enter_async_context(
                await station.next_reader(failure, standing=pipeline.standing)
            )

        pipeline = Pipeline(
            reader=reader,
            builder=builder,
            sink=FanOut(sink, others) if others else sink,
            clock=station.clock,
            revive=revive,
            on_calibrated=station.keep_gains,
            on_watch=_Teller(manager, on_health),
            count=lambda: {
                "loop_stalls": watchdog.n_stalls,
                **(recorder.counters if recorder else {}),
            },
        )
        on_attached(
            Attached(
                spec=station.spec,
                broker=broker,
                topics=station.topics,
                bundle=station.bundle,
                monitor_url=monitor_url,
            )
        )
        manager.status(f"attached to {printable(station.spec.name)}")
        stack.callback(lambda: on_ended(_summary(pipeline)))
        stack.callback(manager.stopping)
        await _run(pipeline, seconds)
        if isinstance(station.source, RecordingSource) and station.source.ended:
            if mqtt is not None:
                await _delivered(mqtt)
            _refuse_unusable(station.source, reader.detector)


class _Station:
    """One stream, what reads it and what decides: made once, with a reader for each failure.

    Attributes:
        settings: Everything.
        bundle: What decides.
        source: The stream or recording, as it was first opened.
        clock: The source's.
        spec: The stream; known once the first reader has attached, as are the next two.
        topics: Its topics.
        outbox_file: Where its events are kept.
        taps: Given every chunk; see ``Reader``.
    """

    spec: StreamSpec
    topics: Topics
    outbox_file: Path

    def __init__(
        self,
        settings: Settings,
        bundle: Bundle,
        source: LslSource | RecordingSource,
        stop: threading.Event,
    ) -> None:
        self.settings = settings
        self.bundle = bundle
        self.source = source
        self._stop = stop
        self.is_recording = isinstance(source, RecordingSource)
        self.clock = source.clock if isinstance(source, RecordingSource) else lsl_clock
        self._detection = detector_settings(
            bundle, settings.alarm, mains_hz=settings.source.mains_hz
        )
        self._engine = _engine(bundle, settings.model)
        self._wall = WallClock.set_now(self.clock())
        self._backoff = Backoff(first_s=REVIVE_FIRST_S, cap_s=REVIVE_CAP_S, stable_s=STABLE_S)
        self._n_failures = 0
        self.taps: list[Callable[[Chunk], None]] = []
        self._began_s = time.monotonic()

    @classmethod
    async def make(cls, settings: Settings) -> _Station:
        """Load the bundle, make the engine, and look at a recording: what can be refused is."""
        bundle = load_bundle(_bundle_name(settings))
        stop = threading.Event()
        station = cls(settings, bundle, await _source(settings.source, stop), stop)
        LOG.info("model %s %s, engine %s", bundle.name, bundle.digest[:12], station._engine.name)
        return station

    def first_reader(self) -> Reader:
        """Return what attaches to the stream."""
        return Reader(
            self.source,
            self._first_detector,
            clock=self.clock,
            stop=self._stop,
            patient=self.is_recording,
            taps=self.taps,
        )

    async def next_reader(self, failure: Exception, *, standing: AlertEvent | None) -> Reader:
        """Return what attaches to the same stream again, after a while.

        Args:
            failure: What the reader before ended of.
            standing: Latest step of the alert that stands.

        Raises:
            ReaderFailedError: If it failed too often, or plays a recording, which fails again.
        """
        lasted_s = time.monotonic() - self._began_s
        self._n_failures = 1 if lasted_s >= STABLE_S else self._n_failures + 1
        if self.is_recording or self._n_failures > MOST_FAILURES:
            reason = f"{type(failure).__name__}: {failure}"
            raise ReaderFailedError(n_times=self._n_failures, reason=reason) from failure
        await asyncio.sleep(self._backoff.next_s(lasted_s=lasted_s))
        self._began_s = time.monotonic()
        self._engine = _engine(self.bundle, self.settings.model)

        def detector(found: StreamSpec) -> Detector:
            if replace(found, name=self.spec.name) != self.spec:
                raise StreamChangedError(self.spec.name, before=str(self.spec), now=str(found))
            return self._detector(found, standing)

        stop = threading.Event()
        source = await _source(_the_same(self.settings.source, self.spec), stop)
        return Reader(source, detector, clock=self.clock, stop=stop, taps=self.taps)

    def message_builder(self, reader: Reader) -> MessageBuilder:
        """Return what words the results; called once the first reader has attached."""
        clock = self._wall
        if isinstance(self.source, RecordingSource):
            clock = _from_the_start(self.source)
        return MessageBuilder(
            spec=replace(reader.detector.spec, name=self.topics.stream),
            model=ModelRef(
                name=self.bundle.name,
                sha256=self.bundle.digest,
                raise_threshold=self._detection.rule.raise_threshold,
                clear_threshold=self._detection.rule.clear_threshold,
            ),
            clock=clock,
        )

    def info(self, builder: MessageBuilder) -> InfoMessage:
        """Say what the classifier is."""
        return builder.info(
            at=datetime.now(UTC),
            topics=self.topics.by_name(),
            versions=_versions(),
            card=_card(self.bundle),
        )

    def memory(
        self, builder: MessageBuilder, broker: BrokerSettings | None, *, delay_s: float
    ) -> Memory:
        """Return what the monitor page remembers, empty."""
        info = self.info(builder)
        sites = (position(label) for label in self.spec.labels)
        return Memory(
            About(
                stream=info.stream,
                kind=self.spec.kind,
                simulated=self.spec.simulated,
                labels=info.channels,
                sites=tuple(site and Site.seen_from_above(*site) for site in sites),
                rate_hz=self.spec.rate_hz,
                unit="µV",
                model=self.bundle.name,
                digest=self.bundle.digest,
                engine=self._engine.name,
                raise_threshold=self._detection.rule.raise_threshold,
                clear_threshold=self._detection.rule.clear_threshold,
                channels_needed=self._detection.rule.channels_needed,
                model_rate_hz=self.bundle.rate_hz,
                delay_ms=round(1e3 * delay_s, 1),
                broker="" if broker is None else str(broker),
                topic="" if broker is None else self.topics.prefix,
                version=__version__,
            ),
            clock=builder.clock,
            now=self.clock,
        )

    def keep_gains(self, calibrated: Calibrated) -> None:
        """Keep gains for the next start, of a living stream. Blocks."""
        LOG.info("gains measured: %s", gain_words(self.spec.labels, calibrated.gains))
        if self.bundle.gain is not None and not self.is_recording:
            GainStore(self.spec).save(calibrated.gains, self.bundle.gain)

    def _first_detector(self, spec: StreamSpec) -> Detector:
        self.spec = spec
        self.topics, self.outbox_file = _places(self.settings, spec)
        left = None if self.is_recording else read_latest(self.outbox_file, self.topics.event)
        standing = None if left is None else standing_alert(left, clock=self._wall)
        return self._detector(spec, standing)

    def _detector(self, spec: StreamSpec, standing: AlertEvent | None) -> Detector:
        settings = self._detection
        if not self.is_recording:
            settings = with_known_gains(settings, self.bundle, spec)
        return Detector(
            bundle=self.bundle,
            spec=spec,
            engine=self._engine,
            settings=settings,
            standing=standing,
        )


class _Teller:
    """Tells the service manager, and whoever else asks, how things stand."""

    def __init__(self, manager: ServiceManager, on_health: Callable[[Health], None]) -> None:
        self._manager = manager
        self._on_health = on_health
        self._gist: object = None
        self._alive_due_s = -math.inf

    def __call__(self, health: Health) -> None:
        every_s = self._manager.alive_every_s
        if every_s is not None and time.monotonic() >= self._alive_due_s:
            self._alive_due_s = time.monotonic() + every_s
            self._manager.alive()
        if health.gist == self._gist:
            return
        self._gist = health.gist
        broken = [
            step for step in health.steps if step.reason and step.condition is not Condition.UNKNOWN
        ]
        said = "; ".join(f"{step.rung} {step.condition}: {step.reason}" for step in broken)
        said = printable(f"{health.condition}{': ' if said else ''}{said}")
        is_ill = health.condition in {Condition.DEGRADED, Condition.NO_DATA, Condition.FAULT}
        LOG.log(logging.WARNING if is_ill else logging.INFO, "health %s", said)
        self._manager.status(said)
        self._on_health(health)


@contextlib.asynccontextmanager
async def _signs_of_life(manager: ServiceManager) -> AsyncIterator[None]:
    """Give them while there is no pipeline yet to give them."""

    async def give(every_s: float) -> None:
        while True:
            manager.alive()
            await asyncio.sleep(every_s)

    if manager.alive_every_s is None:
        yield
        return
    task = asyncio.create_task(give(manager.alive_every_s), name="signs of life")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def _working(desk: CommandDesk) -> AsyncIterator[None]:
    task = asyncio.create_task(desk.work(), name="commands")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.contextmanager
def _monitor(
    settings: MonitorSettings,
    feed: Feed,
    memory: Memory,
    *,
    acknowledge: Callable[[str], Awaitable[bool]],
    mute: Callable[[datetime | None], None],
) -> Iterator[str]:
    """Serve the monitor page, and yield where."""
    try:
        from stream_classifier.monitor.server import Controls, Monitor  # noqa: PLC0415 - extra
    except ImportError as error:
        raise MissingExtraError(
            feature="the monitor page", extra="monitor", module=error.name or "starlette"
        ) from error
    controls = Controls(acknowledge=acknowledge, mute=mute)
    with Monitor(feed, memory, controls, host=settings.host, port=settings.port) as monitor:
        yield monitor.url


def _engine(bundle: Bundle, model: ModelSettings) -> Engine:
    engine = make_engine(
        bundle,
        name=model.engine,
        device=model.device,
        hop_samples=model.hop_samples,
        precision=model.precision,
    )
    if model.engine == "torch" and model.device == "cpu":
        import torch  # noqa: PLC0415 - optional extra

        torch.set_num_threads(1)  # for steps this small, threads wait for each other
    return engine


def _the_same(source: SourceSettings, spec: StreamSpec) -> SourceSettings:
    """Return settings that find the stream again that was attached to, however long it takes."""
    identity = {"source_id": spec.source_id} if spec.source_id else {"name": spec.name}
    return source.model_copy(update={**identity, "wait_s": math.inf})


def _publishes(settings: Settings) -> bool:
    """Whether results go to a broker: for a recording only where one was named.

    Raises:
        ConfigError: If a live stream is to have none.
    """
    if settings.source.recording is not None:
        return settings.mqtt.broker != "none" and "broker" in settings.mqtt.model_fields_set
    if settings.mqtt.broker == "none":
        raise ConfigError(
            'mqtt.broker "none" prints the alerts of a recording; those of a live stream have to '
            "go somewhere. Try: --broker embedded, or --recording"
        )
    return True


def _bundle_name(settings: Settings) -> str:
    """Return the bundle that was named, or the default for what is played."""
    recording = settings.source.recording
    if settings.model.bundle is not None:
        return settings.model.bundle
    is_key = recording is not None and not Path(recording).expanduser().exists()
    return default_bundle("dataset" if is_key else "live")


async def _source(source: SourceSettings, stop: threading.Event) -> LslSource | RecordingSource:
    """Return the stream or the recording that is asked for; a recording is looked at first."""
    if source.recording is None:
        return LslSource(
            name=source.name,
            type=source.type,
            source_id=source.source_id,
            channels=source.channels,
            unit=source.unit,
            wait_s=source.wait_s,
            stop=stop,
        )
    ask = Ask(
        channels=source.channels, unit=source.unit, rate_hz=source.rate_hz, stream=source.name
    )
    recording = await asyncio.to_thread(open_recording, source.recording, ask)
    return RecordingSource(recording, speed=source.speed, stop=stop)


def _from_the_start(source: RecordingSource) -> WallClock:
    """Return what makes the recording's first sample be taken when it began to be played.

    To the whole millisecond, so that times round alike in every run.
    """
    return WallClock(offset_s=round(WallClock.set_now(source.played_for_s()).offset_s, 3))


async def _delivered(sink: MqttSink) -> None:
    """Wait for the broker to take what is left, for as long as it takes some of it."""
    loop = asyncio.get_running_loop()
    n_left, since_s = sink.counters.pending, loop.time()
    while n_left and loop.time() - since_s < DELIVER_WITHIN_S:
        await asyncio.sleep(LOOK_EVERY_S)
        if (n_now := sink.counters.pending) != n_left:
            n_left, since_s = n_now, loop.time()


def _refuse_unusable(source: RecordingSource, detector: Detector) -> None:
    if detector.n_windows == detector.n_windows_refused:
        raise RecordingUnusableError(
            path=source.recording.path,
            why=f"{source.duration_s:.1f} s, {detector.n_windows:,} windows, all of them refused",
        )


async def _run(pipeline: Pipeline, seconds: float | None) -> None:
    try:
        async with asyncio.timeout(seconds) as limit:
            await pipeline.run()
    except TimeoutError:
        if not limit.expired():
            raise


def detector_settings(
    bundle: Bundle, alarm: AlarmSettings, *, mains_hz: float = 50.0
) -> DetectorSettings:
    """Take the bundle's alarm rule, and from the settings what they override.

    Raises:
        ConfigError: If the thresholds that result make no sense together.
    """
    overrides = alarm.model_dump(exclude_none=True, exclude={"latched", "remind_every_s"})
    remind_every_s = alarm.remind_every_s if alarm.latched else None
    try:
        rule = replace(bundle.alarm, **overrides)
    except ValueError as error:
        raise ConfigError(f"[alarm], with what the bundle says of the rest: {error}") from error
    return DetectorSettings(rule=rule, mains_hz=mains_hz, remind_every_s=remind_every_s)


def with_known_gains(
    settings: DetectorSettings, bundle: Bundle, spec: StreamSpec
) -> DetectorSettings:
    """Add the gains that an earlier start measured on this stream, if the bundle wants any."""
    gains = None if bundle.gain is None else GainStore(spec).load(bundle.gain)
    if gains is None:
        return settings
    LOG.info(
        "gains of an earlier start: %s. To measure again: stream-classifier calibrate",
        gain_words(spec.labels, gains),
    )
    return replace(settings, gains=gains)


def gain_words(labels: Sequence[str], gains: Sequence[float | None]) -> str:
    """Write gains for a person.

    Example:
        >>> gain_words(["C3", "C4"], [2.0345, None])
        'C3 2.03, C4 not measured'
    """
    return ", ".join(
        f"{printable(label)} {'not measured' if gain is None else f'{gain:.2f}'}"
        for label, gain in zip(labels, gains, strict=True)
    )


def outbox_path(stream: str) -> Path:
    """Return where a stream's outbox lies unless a setting says otherwise."""
    return platformdirs.user_state_path("stream_classifier") / f"{stream_level(stream)}.sqlite"


def _places(settings: Settings, spec: StreamSpec) -> tuple[Topics, Path]:
    """Return where a stream's results go: its topics, and the file of its outbox."""
    topics = Topics(stream=settings.mqtt.stream or spec.name, base=settings.mqtt.base_topic)
    # A recording's alerts are not those of a person who may be wearing the headset now.
    apart = " (recording)" if spec.kind == "recording" else ""
    return topics, settings.outbox.path or outbox_path(topics.stream + apart)


@contextlib.asynccontextmanager
async def _broker(mqtt: MqttSettings) -> AsyncIterator[BrokerSettings]:
    """Yield how to reach the broker; with ``embedded``, one that lives as long as this."""
    rest = mqtt.transport()
    if mqtt.broker != "embedded":
        yield broker_settings(mqtt.broker, **rest)
        return
    from stream_classifier.sinks.embedded_broker import EmbeddedBroker  # noqa: PLC0415 - extra

    async with EmbeddedBroker() as embedded:
        yield broker_settings(embedded.url, **rest)


def _versions() -> dict[str, str]:
    return {
        "stream_classifier": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def _card(bundle: Bundle) -> dict[str, str | int | float | bool | None]:
    """Return what a subscriber should know of the model, flat."""
    return {
        "version": bundle.version,
        "protocol": bundle.split.protocol,
        "window_samples": bundle.window_samples,
        "hop_samples": bundle.hop_samples,
        "model_rate_hz": bundle.rate_hz,
        "accuracy": bundle.metrics.get("accuracy"),
        "macro_f1": bundle.metrics.get("macro_f1"),
        "limits": "research only; not a medical device; trained on 500 recordings of 10 people",
    }


def _summary(pipeline: Pipeline) -> dict[str, Any]:
    reader = pipeline.reader
    health = reader.health
    latency_ms = np.array(pipeline.counters.latency_s) * 1e3
    return {
        "windows": reader.detector.n_windows,
        "windows_refused": reader.detector.n_windows_refused,
        "windows_calibrating": reader.detector.n_windows_calibrating,
        "alerts": pipeline.counters.alerts,
        "shed": reader.shed,
        "samples": health.samples,
        "gaps": health.gaps,
        "missing_samples": health.missing_samples,
        "reconnects": health.reconnects,
        "decision_latency_ms": {
            "p50": round(float(np.percentile(latency_ms, 50)), 2) if latency_ms.size else None,
            "p99": round(float(np.percentile(latency_ms, 99)), 2) if latency_ms.size else None,
            "n": int(latency_ms.size),
        },
    }
