"""Settings to a running pipeline: the one place where the parts are chosen and joined."""

from __future__ import annotations

import asyncio
import contextlib
import platform
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from stream_classifier import __version__
from stream_classifier.bundle import Bundle, load_bundle
from stream_classifier.config import AlarmSettings, MqttSettings, Settings
from stream_classifier.detection.detector import Detector, DetectorSettings
from stream_classifier.engines import make_engine
from stream_classifier.errors import ConfigError
from stream_classifier.pipeline import Pipeline, Reader
from stream_classifier.signals import StreamSpec
from stream_classifier.sinks.broker import BrokerSettings, broker_settings
from stream_classifier.sinks.connection import probe
from stream_classifier.sinks.messages import (
    MessageBuilder,
    ModelRef,
    WallClock,
    standing_alert,
)
from stream_classifier.sinks.mqtt import MqttSink
from stream_classifier.sinks.outbox import Outbox, read_latest
from stream_classifier.sinks.topics import Topics, stream_level
from stream_classifier.sources.lsl import LslSource, lsl_clock


@dataclass(frozen=True, slots=True)
class Attached:
    """What a running pipeline has attached to.

    Attributes:
        spec: The stream, as it announces itself.
        broker: Where results go.
        topics: Its topics.
        bundle: What decides.
    """

    spec: StreamSpec
    broker: BrokerSettings
    topics: Topics
    bundle: Bundle


async def serve(
    settings: Settings,
    *,
    on_attached: Callable[[Attached], None],
    on_ended: Callable[[dict[str, Any]], None],
    seconds: float | None = None,
) -> None:
    """Run one stream's pipeline until it is cancelled.

    Args:
        settings: Everything.
        on_attached: Told once, when the stream is attached.
        on_ended: Told what happened, counts and latencies, however it ended.
        seconds: Stop by itself this long after attaching; None runs on.

    Raises:
        StreamClassifierError: Whatever a person must mend; see the error tree.
    """
    bundle = load_bundle(settings.model.bundle)
    engine = make_engine(
        bundle,
        name=settings.model.engine,
        device=settings.model.device,
        hop_samples=settings.model.hop_samples,
    )
    detection = detector_settings(bundle, settings.alarm, mains_hz=settings.source.mains_hz)
    stop = threading.Event()
    source = LslSource(
        name=settings.source.name,
        type=settings.source.type,
        source_id=settings.source.source_id,
        channels=settings.source.channels,
        unit=settings.source.unit,
        wait_s=settings.source.wait_s,
        stop=stop,
    )

    clock = WallClock.set_now(lsl_clock())

    def make_detector(spec: StreamSpec) -> Detector:
        topics, outbox_file = _places(settings, spec)
        left = read_latest(outbox_file, topics.event)
        return Detector(
            bundle=bundle,
            spec=spec,
            engine=engine,
            settings=detection,
            standing=None if left is None else standing_alert(left, clock=clock),
        )

    async with contextlib.AsyncExitStack() as stack:
        broker = await stack.enter_async_context(_broker(settings.mqtt))
        await probe(broker)
        reader = Reader(source, make_detector, clock=lsl_clock, stop=stop)
        await stack.enter_async_context(reader)
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
        pipeline = Pipeline(reader=reader, builder=builder, sink=sink, clock=lsl_clock)
        stack.callback(lambda: on_ended(_summary(pipeline, reader, source)))
        await _run(pipeline, seconds)


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


def outbox_path(stream: str) -> Path:
    """Return where a stream's outbox lies unless a setting says otherwise."""
    return platformdirs.user_state_path("stream_classifier") / f"{stream_level(stream)}.sqlite"


def _places(settings: Settings, spec: StreamSpec) -> tuple[Topics, Path]:
    """Return where a stream's results go: its topics, and the file of its outbox."""
    topics = Topics(stream=settings.mqtt.stream or spec.name, base=settings.mqtt.base_topic)
    return topics, settings.outbox.path or outbox_path(topics.stream)


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


def _summary(pipeline: Pipeline, reader: Reader, source: LslSource) -> dict[str, Any]:
    latency_ms = np.array(pipeline.counters.latency_s) * 1e3
    health = source.health
    return {
        "windows": reader.detector.n_windows,
        "windows_refused": reader.detector.n_windows_refused,
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
