"""The real pipeline in a process of its own, noting when each event passed which stage.

``python -m benchmarks.latency_ours SETTINGS.json MARKS.json``; started by ``benchmarks.latency``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from stream_classifier.sources.lsl_runtime import quiet_liblsl

quiet_liblsl()

from stream_classifier.bundle import load_bundle  # noqa: E402 - liblsl has to be told first
from stream_classifier.config import load  # noqa: E402
from stream_classifier.detection.detector import Detector  # noqa: E402
from stream_classifier.gain_store import GainStore  # noqa: E402
from stream_classifier.service import serve  # noqa: E402
from stream_classifier.signals import AlertEvent, StreamSpec  # noqa: E402
from stream_classifier.sinks.connection import Connection, event_loop_factory  # noqa: E402
from stream_classifier.sinks.outbox import Outbox  # noqa: E402
from stream_classifier.sources.lsl import lsl_clock  # noqa: E402


def note_stages() -> dict[str, dict[str, float]]:
    """Note times on LSL's clock, by event: three functions are wrapped, nothing else changes."""
    marks: dict[str, dict[str, float]] = defaultdict(dict)
    feed, put, publish = Detector.feed, Outbox.put, Connection.publish

    def noted_feed(self: Detector, chunk: Any) -> Any:
        items = feed(self, chunk)
        now_s = lsl_clock()
        for item in items:
            if isinstance(item, AlertEvent):
                event = marks[f"{item.alert_id}.{item.seq}"]
                event["received"], event["decided"] = chunk.received_s, now_s
        return items

    async def noted_put(self: Outbox, event_id: str, *rest: Any, **more: Any) -> Any:
        outcome = await put(self, event_id, *rest, **more)
        marks[event_id]["committed"] = lsl_clock()
        return outcome

    async def noted_publish(self: Connection, topic: str, payload: bytes, **more: Any) -> None:
        if topic.endswith("/alert/event"):
            # The id stands in front of the payload's last fields; a search costs a microsecond.
            at = payload.index(b'"event_id":"') + len(b'"event_id":"')
            marks[payload[at : payload.index(b'"', at)].decode()]["sent"] = lsl_clock()
        await publish(self, topic, payload, **more)

    Detector.feed = noted_feed  # type: ignore[method-assign]
    Outbox.put = noted_put  # type: ignore[assignment]
    Connection.publish = noted_publish  # type: ignore[assignment]
    return marks


def main(settings_file: str, marks_file: str) -> None:
    wanted = json.loads(Path(settings_file).read_text(encoding="utf-8"))
    spec = StreamSpec(**wanted["stream"] | {"labels": tuple(wanted["stream"]["labels"])})
    bundle = load_bundle(wanted["flags"]["model"]["bundle"])
    if bundle.gain is not None:  # as at any start but a headset's first
        GainStore(spec).save((1.0,) * spec.n_channels, bundle.gain)
    marks = note_stages()
    with asyncio.Runner(loop_factory=event_loop_factory) as runner:
        runner.run(
            serve(
                load(flags=wanted["flags"]),
                on_attached=lambda _attached: None,
                on_ended=lambda _summary: None,
                seconds=wanted["seconds"],
            )
        )
    Path(marks_file).write_text(json.dumps(marks), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
