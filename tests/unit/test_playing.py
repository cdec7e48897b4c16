"""Recordings and the shell around a stream: nothing is shed, and a broker is optional."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from stream_classifier import pipeline
from stream_classifier.config import load
from stream_classifier.errors import ConfigError
from stream_classifier.pipeline import Reader
from stream_classifier.service import _bundle_name, _publishes
from stream_classifier.sources.recording import RecordingSource
from stream_classifier.sources.recordings.material import Recording, Run


def settings(monkeypatch, tmp_path, **sections):
    monkeypatch.chdir(tmp_path)
    return load(flags=sections)


async def test_a_recording_waits_for_a_stalled_loop_and_sheds_nothing(monkeypatch):
    monkeypatch.setattr(pipeline, "INBOX_LIMIT", 3)
    monkeypatch.setattr(pipeline, "PATIENCE_S", 0.001)
    zeros = np.zeros((2000, 1), np.float32)
    recording = Recording("x", "x", "x", 100.0, ("C3",), runs=lambda: iter([Run(0, zeros)]))
    stop = threading.Event()
    source = RecordingSource(recording, stop=stop)
    detector = SimpleNamespace(
        feed=lambda chunk: [chunk.first_index],
        remind=lambda _now_s: [],
        catch_up=lambda: None,
        close=lambda: None,
    )
    async with Reader(
        source, lambda _spec: detector, clock=source.clock, stop=stop, patient=True
    ) as reader:
        taken = []
        async for decision in reader.decisions():
            taken += decision.items
            await asyncio.sleep(0.002)  # a loop that is slower than the reader
    assert taken == list(range(0, 2000, 100))
    assert reader.shed == 0


@pytest.mark.parametrize(
    ("broker", "recording", "publishes"),
    [
        (None, None, True),
        (None, "a.edf", False),
        ("none", "a.edf", False),
        ("mqtt://b", "a.edf", True),
        ("embedded", "a.edf", True),
    ],
)
def test_a_recording_is_published_only_where_a_broker_was_named(
    monkeypatch, tmp_path, broker, recording, publishes
):
    given = settings(
        monkeypatch, tmp_path, mqtt={"broker": broker}, source={"recording": recording}
    )
    assert _publishes(given) is publishes


def test_a_live_stream_needs_a_broker(monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match="live stream"):
        _publishes(settings(monkeypatch, tmp_path, mqtt={"broker": "none"}))


def test_a_bundle_that_was_named_is_used_whatever_is_played(monkeypatch, tmp_path):
    named = settings(
        monkeypatch, tmp_path, model={"bundle": "bonn-rows"}, source={"recording": "V1.791"}
    )
    assert _bundle_name(named) == "bonn-rows"
    by_key = settings(monkeypatch, tmp_path, source={"recording": "V1.791"})
    assert _bundle_name(by_key) == "bonn"
