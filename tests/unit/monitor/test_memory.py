import asyncio
import json
import time
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from stream_classifier.monitor import memory as memory_module
from stream_classifier.monitor.feed import MOST_CHUNKS, Feed
from stream_classifier.signals import Chunk
from tests.running_monitor import RATE_HZ, RunningMonitor, frames


@pytest.fixture
def spoken():
    """A pipeline's words, with nobody who serves them."""
    monitor = RunningMonitor()
    monitor.loop = None
    return monitor


def take(monitor):
    return monitor.memory.take_chunks(monitor.feed.take_chunks())


def told(monitor):
    return [json.loads(each.text) for each in monitor.memory.take_said(monitor.feed.take_said())]


def test_samples_arrive_bit_for_bit_at_their_index_and_time(spoken):
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(7, 2)).astype(np.float32)
    spoken.feed.samples(Chunk(samples, 100, origin_s=5.0))
    [(seq, first_index, start, seen)] = frames(take(spoken)[0])
    assert (seq, first_index) == (0, 100)
    assert start == pytest.approx(5.0 + spoken.clock.offset_s + 100 / RATE_HZ)
    np.testing.assert_array_equal(seen, samples)


def test_what_follows_is_joined_and_a_gap_begins_a_new_frame(spoken):
    for first_index in (0, 4, 8, 20, 24):
        spoken.send(n=4, first_index=first_index)
    seen = [frames(each)[0] for each in take(spoken)]
    found = [(first_index, len(samples)) for _, first_index, _, samples in seen]
    assert found == [(0, 12), (20, 8)]


def test_no_frame_is_longer_than_a_second(spoken):
    spoken.send(n=int(3.5 * RATE_HZ))
    assert [len(frames(each)[0][3]) for each in take(spoken)] == [256, 256, 256, 128]


def test_ten_minutes_are_kept_and_no_more(spoken):
    for minute in range(12):
        spoken.send(n=int(60 * RATE_HZ), first_index=int(60 * minute * RATE_HZ))
        take(spoken)
    held = spoken.memory.frames(-np.inf, np.inf)
    n_samples = sum(len(frames(each)[0][3]) for each in held)
    assert n_samples / RATE_HZ == pytest.approx(600, abs=2)


def test_of_very_many_channels_fewer_minutes_are_kept(monkeypatch, spoken):
    monkeypatch.setattr(memory_module, "MOST_BYTES", 100_000)
    spoken.send(n=int(300 * RATE_HZ))
    take(spoken)
    assert sum(map(len, spoken.memory.frames(-np.inf, np.inf))) <= 100_000


def test_a_stretch_of_time_is_found_again(spoken):
    spoken.send(n=int(20 * RATE_HZ))
    take(spoken)
    start = spoken.origin_s + spoken.clock.offset_s
    [each] = spoken.memory.frames(start + 5.2, start + 5.8)
    assert frames(each)[0][1] == 5 * RATE_HZ


def test_samples_of_another_number_of_channels_are_left_out(spoken):
    spoken.send(n=4, n_channels=3)
    spoken.send(n=4, first_index=4)
    assert [frames(each)[0][1] for each in take(spoken)] == [4]


def test_a_clock_that_goes_back_leaves_nothing_of_the_future(spoken):
    spoken.send(n=256, origin_s=1e6)
    take(spoken)
    spoken.send(n=256, origin_s=0.0)
    take(spoken)
    assert len(spoken.memory.frames(-np.inf, np.inf)) == 1


def test_state_is_told_when_it_is_news_and_its_figures_now_and_then(spoken, monkeypatch):
    spoken.alert(p=0.1)
    assert [each["kind"] for each in told(spoken)] == ["alert"]
    spoken.alert(p=0.2)
    assert told(spoken) == []
    spoken.alert(p=0.9, on=True)
    [news] = told(spoken)
    assert news["data"]["on"]
    later_s = time.monotonic() + 2
    monkeypatch.setattr(memory_module.time, "monotonic", lambda: later_s)
    spoken.memory.take_said(spoken.feed.take_said())
    message = spoken.builder.alert(
        at_s=0.0, prediction=None, latest=None, signal="ok", decided=datetime.now(UTC)
    )
    spoken.feed.alert_state(message)
    assert len(told(spoken)) == 1


def test_a_rung_that_breaks_and_is_mended_is_two_events(spoken):
    spoken.health()
    told(spoken)
    spoken.health(broker=("fault", "the broker is gone"))
    spoken.health(broker=("fault", "the broker is still gone"))
    spoken.health()
    events = [each["data"] for each in told(spoken) if each["kind"] == "event"]
    assert [each["state"] for each in events] == ["fault", "ok"]
    assert {each["rung"] for each in events} == {"broker"}


def test_a_contact_that_comes_and_goes_is_no_event_and_no_contact_at_all_is_one(spoken):
    for _ in range(5):
        spoken.health(quality=("degraded", "1 of 2 channels unusable"))
        spoken.health()
    spoken.health(quality=("fault", "no channel can be classified"))
    events = [each["data"]["state"] for each in told(spoken) if each["kind"] == "event"]
    assert events == ["fault"]


def test_what_only_starts_is_no_event(spoken):
    spoken.health(rate=("starting", "the rate is being measured"), samples=("unknown", ""))
    spoken.health()
    assert [each for each in told(spoken) if each["kind"] == "event"] == []


def test_a_viewer_that_comes_is_told_all_that_is_known(spoken):
    spoken.alert(on=True, alert_id="a7")
    spoken.quality(poor=("C4",))
    spoken.health()
    spoken.predict(0.4)
    told(spoken)
    spoken.memory.mark(at_unix_s=1000.0, text="here")
    data = json.loads(spoken.memory.hello())["data"]
    assert data["about"]["labels"] == ["C3", "C4"]
    assert set(data["state"]) == {"alert", "quality", "health", "prediction"}
    assert data["state"]["alert"]["alert_id"] == "a7"
    assert data["predictions"][0][1:] == [0.4, 0.4]
    assert data["events"][-1] == {"what": "mark", "at": "1970-01-01T00:16:40.000Z", "text": "here"}


def test_events_are_kept_up_to_a_number(spoken):
    for i in range(1000):
        spoken.memory.mark(at_unix_s=float(i), text="")
    assert len(json.loads(spoken.memory.hello())["data"]["events"]) == memory_module.MOST_EVENTS


def test_no_number_that_is_none_reaches_a_viewer(spoken):
    spoken.predict(None)
    [news] = told(spoken)
    assert news["data"]["p"] is None
    assert news["data"]["smoothed"] == [None, None]


def test_an_event_is_told_with_all_that_the_page_says_of_it(spoken):
    event = spoken._alert_event("raised", "a1", 0)
    message = spoken.builder.event(event, state=None, signal="ok", decided=datetime.now(UTC))
    asyncio.run(spoken.feed.event(message))
    [news] = told(spoken)
    assert news["data"]["what"] == "alert"
    assert news["data"]["channels"] == ["C3", "C4"]
    assert news["data"]["onset"] < news["data"]["raised"]


def test_a_feed_that_nobody_reads_is_bounded():
    feed = Feed()
    chunk = Chunk(np.zeros((1, 1), np.float32), 0)
    for i in range(3 * MOST_CHUNKS):
        feed.samples(replace(chunk, first_index=i))
    chunks = feed.take_chunks()
    assert len(chunks) == MOST_CHUNKS
    assert chunks[-1].first_index == 3 * MOST_CHUNKS - 1
    assert not feed.condition.publishes
