"""Settings to a running pipeline: the one place where the parts are chosen and joined."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import platform
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from stream_classifier import __version__
from stream_classifier.bundle import Bundle, default_bundle, load_bundle
from stream_classifier.config import AlarmSettings, MqttSettings, Settings, SourceSettings
from stream_classifier.detection.detector import Detector, DetectorSettings
from stream_classifier.engines import make_engine
from stream_classifier.errors import ConfigError, RecordingUnusableError, printable
from stream_classifier.gain_store import GainStore
from stream_classifier.pipeline import Pipeline, Reader, Sink
from stream_classifier.signals import Calibrated, StreamSpec
from stream_classifier.sinks.broker import BrokerSettings, broker_settings
from stream_classifier.sinks.connection import probe
from stream_classifier.sinks.console import ConsoleSink
from stream_classifier.sinks.messages import (
    EventMessage,
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

LOG = logging.getLogger(__name__)

DELIVER_WITHIN_S = 5.0
"""At the end of a recording: how long to wait for a broker that takes nothing of what is left."""

LOOK_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class Attached:
    """What a running pipeline has attached to.

    Attributes:
        spec: The stream, as it announces itself.
        broker: Where results go; None: nowhere but to ``on_event``.
        topics: Its topics.
        bundle: What decides.
    """

    spec: StreamSpec
    broker: BrokerSettings | None
    topics: Topics
    bundle: Bundle


async def serve(
    settings: Settings,
    *,
    on_attached: Callable[[Attached], None],
    on_ended: Callable[[dict[str, Any]], None],
    on_event: Callable[[EventMessage, WallClock], None] = lambda _event, _clock: None,
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
        seconds: Stop by itself this long after attaching; None runs on.

    Raises:
        StreamClassifierError: Whatever a person must mend; see the error tree.
    """
    publishes = _publishes(settings)
    bundle = load_bundle(_bundle_name(settings))
    engine = make_engine(
        bundle,
        name=settings.model.engine,
        device=settings.model.device,
        hop_samples=settings.model.hop_samples,
        precision=settings.model.precision,
    )
    if settings.model.engine == "torch" and settings.model.device == "cpu":
        import torch  # noqa: PLC0415 - optional extra

        torch.set_num_threads(1)  # for steps this small, threads wait for each other
    LOG.info("model %s %s, engine %s", bundle.name, bundle.digest[:12], engine.name)
    detection = detector_settings(bundle, settings.alarm, mains_hz=settings.source.mains_hz)
    stop = threading.Event()
    source = await _source(settings.source, stop)
    is_recording = isinstance(source, RecordingSource)
    source_clock = source.clock if isinstance(source, RecordingSource) else lsl_clock
    clock = WallClock.set_now(source_clock())

    def make_detector(spec: StreamSpec) -> Detector:
        topics, outbox_file = _places(settings, spec)
        left = None if is_recording else read_latest(outbox_file, topics.event)
        return Detector(
            bundle=bundle,
            spec=spec,
            engine=engine,
            settings=detection if is_recording else with_known_gains(detection, bundle, spec),
            standing=None if left is None else standing_alert(left, clock=clock),
        )

    def keep_gains(calibrated: Calibrated) -> None:
        LOG.info("gains measured: %s", gain_words(reader.detector.spec.labels, calibrated.gains))
        if bundle.gain is not None and not is_recording:
            GainStore(reader.detector.spec).save(calibrated.gains, bundle.gain)

    async with contextlib.AsyncExitStack() as stack:
        broker = None
        if publishes:
            broker = await stack.enter_async_context(_broker(settings.mqtt))
            await probe(broker)
        reader = Reader(source, make_detector, clock=source_clock, stop=stop, patient=is_recording)
        await stack.enter_async_context(reader)
        if isinstance(source, RecordingSource):
            clock = _from_the_start(source)
        topics, outbox_file = _places(settings, reader.detector.spec)
        spec = replace(reader.detector.spec, name=topics.stream)
        builder = MessageBuilder(
            spec=spec,
            model=ModelRef(
                name=bundle.name,
                sha256=bundle.digest,
                raise_threshold=detection.rule.raise_threshold,
                clear_threshold=detection.rule.clear_threshold,
            ),
            clock=clock,
        )
        sink: Sink = ConsoleSink(lambda event: on_event(event, clock))
        if broker is not None:
            outbox = await stack.enter_async_context(
                Outbox(
                    path=outbox_file,
                    max_age_s=settings.outbox.max_age_h * 3600,
                    max_rows=settings.outbox.max_rows,
                )
            )
            info = builder.info(
                at=datetime.now(UTC),
                topics=topics.by_name(),
                versions=_versions(),
                card=_card(bundle),
            )
            sink = await stack.enter_async_context(
                MqttSink(settings=broker, outbox=outbox, topics=topics, info=info)
            )
        on_attached(
            Attached(
                spec=reader.detector.spec,
                broker=broker,
                topics=topics,
                bundle=bundle,
            )
        )
        pipeline = Pipeline(
            reader=reader,
            builder=builder,
            sink=sink,
            clock=source_clock,
            on_calibrated=keep_gains,
        )
        stack.callback(lambda: on_ended(_summary(pipeline, reader, source)))
        await _run(pipeline, seconds)
        if isinstance(source, RecordingSource) and source.ended:
            if isinstance(sink, MqttSink):
                await _delivered(sink)
            _refuse_unusable(source, reader.detector)


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
    overrides = alarm.model_dump(exclude_none=True)
    try:
        rule = replace(bundle.alarm, **overrides)
    except ValueError as error:
        raise ConfigError(f"[alarm], with what the bundle says of the rest: {error}") from error
    return DetectorSettings(rule=rule, mains_hz=mains_hz)


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
    rest = mqtt.model_dump(exclude={"broker", "stream"})
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


def _summary(
    pipeline: Pipeline, reader: Reader, source: LslSource | RecordingSource
) -> dict[str, Any]:
    latency_ms = np.array(pipeline.counters.latency_s) * 1e3
    return {
        "windows": reader.detector.n_windows,
        "windows_refused": reader.detector.n_windows_refused,
        "windows_calibrating": reader.detector.n_windows_calibrating,
        "alerts": pipeline.counters.alerts,
        "shed": reader.shed,
        **_received(source),
        "decision_latency_ms": {
            "p50": round(float(np.percentile(latency_ms, 50)), 2) if latency_ms.size else None,
            "p99": round(float(np.percentile(latency_ms, 99)), 2) if latency_ms.size else None,
            "n": int(latency_ms.size),
        },
    }


def _received(source: LslSource | RecordingSource) -> dict[str, int]:
    if isinstance(source, RecordingSource):
        n_samples, n_gaps, n_missing, n_reconnects = (
            source.n_samples, source.n_gaps, source.n_missing, 0,
        )  # fmt: skip
    else:
        health = source.health
        n_samples, n_gaps, n_missing, n_reconnects = (
            health.samples, health.gaps, health.missing_samples, health.reconnects,
        )  # fmt: skip
    return {
        "samples": n_samples,
        "gaps": n_gaps,
        "missing_samples": n_missing,
        "reconnects": n_reconnects,
    }
