"""The broker: absent, away for an hour, flapping, frozen, killed; and our own end in its eyes."""

import asyncio
import itertools
import signal
import time
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from stream_classifier.sinks import mqtt
from tests.live_broker import (
    Mosquitto,
    alert,
    event,
    now,
    publisher,
    publisher_process,
    retained,
    step,
    subscriber,
    until,
)
from tests.system.conftest import eventually

pytestmark = [pytest.mark.broker, pytest.mark.timeout(120)]

BUSY_S = 1.0
"""What a busy machine may add to a promise."""

HUNG_WITHIN_S = 1.5 * 5 + 5.0
"""Of a client that hangs, mosquitto notices it when it looks, which it does every 5 s."""


@pytest.fixture
def broker(tmp_path):
    mosquitto = Mosquitto(tmp_path / "mosquitto").start()
    yield mosquitto
    mosquitto.kill()


def utc(text):
    return datetime.fromisoformat(text)


# 17: down at the start


@pytest.mark.fault(17)
@pytest.mark.lsl
@pytest.mark.slow
def test_detection_starts_without_a_broker_and_what_it_found_is_delivered(story, measured):
    def start_s():
        begun_s = time.monotonic()
        pipeline = story.pipeline()
        eventually(lambda: "attached to" in pipeline.said, what="the stream")
        return pipeline, time.monotonic() - begun_s

    story.device()
    for _ in range(2):  # the first start is slower: files are not in memory yet
        pipeline, with_broker_s = start_s()
        assert pipeline.stop() == 0
    story.broker.signal(signal.SIGSTOP)
    try:
        pipeline, frozen_s = start_s()
        assert pipeline.stop() == 0
    finally:
        story.broker.kill()
    pipeline, absent_s = start_s()
    for how, took_s in (("frozen", frozen_s), ("closed port", absent_s)):
        later_s = max(0.0, took_s - with_broker_s)
        measured(f"{how}: detection later than with a broker by", later_s, "s")
        assert later_s < 3.0 + BUSY_S
    eventually(lambda: "raised:" in pipeline.said, what="an alert in the pipeline's log")
    story.broker.start()
    raised = story.until("alert/event", lambda m: m["event_type"] == "raised")
    assert raised["durable"] is True


@pytest.mark.fault(17)
async def test_the_sink_takes_events_at_once_without_a_broker(broker, tmp_path, measured):
    broker.kill()
    begun_s = time.monotonic()
    async with publisher(broker.settings, tmp_path) as sink:
        await sink.event(event(0))
        took_s = time.monotonic() - begun_s
        measured("no broker: first event durable after", took_s, "s")
        assert took_s < 3.0
        assert not sink.connected
        await until(lambda: "does not answer" in (sink.fault or ""))
        broker.start()
        async with subscriber(broker.settings) as inbox:
            await inbox.until(lambda: inbox.event_ids)


# 18: away for an hour


@pytest.mark.fault(18)
async def test_alerts_of_an_hour_without_a_broker_come_once_in_order_late_with_their_times(
    broker, tmp_path, measured
):
    """The hour is a clock that is put forward; a raised and an ended event a minute."""
    n_events = 120
    passed_s = 0.0
    decided = {}
    async with publisher(
        broker.settings,
        tmp_path,
        first=alert("ok", latest=step(0)),
        now=lambda: now() + timedelta(seconds=passed_s),
    ) as sink:
        await until(lambda: sink.connected)
        broker.kill()
        await until(lambda: not sink.connected)
        for seq in range(n_events):
            passed_s = 3600.0 * (seq + 1) / n_events
            message = event(seq, decided_ago_s=-passed_s)
            decided[message.event_id] = message.decided
            await sink.event(message)
        assert sink.counters.pending == n_events
        assert sink.fault is not None
        broker.start()
        back_s = time.monotonic()
        async with subscriber(broker.settings) as inbox:
            await inbox.until(lambda: len(inbox.event_ids) >= n_events, within_s=30.0)
            measured("an hour, 120 events: drained after", time.monotonic() - back_s, "s")
            assert inbox.of("alert")[0].fields["on"] is True
            await sink.event(event(n_events, decided_ago_s=-passed_s))
            await inbox.until(lambda: f"alert-1.{n_events}" in inbox.event_ids)
    assert inbox.event_ids == [f"alert-1.{seq}" for seq in range(n_events + 1)]
    *waited, live = [received.fields for received in inbox.of("event")]
    assert [utc(m["decided"]) for m in waited] == [
        d.replace(microsecond=d.microsecond // 1000 * 1000) for d in decided.values()
    ]
    is_old = [utc(m["published"]) - utc(m["decided"]) > timedelta(seconds=6) for m in waited]
    assert all(m["late"] for m, old in zip(waited, is_old, strict=True) if old)
    assert sum(is_old) >= n_events - 1
    assert live["late"] is False
    measured("lost", 0)
    measured("doubled", 0)


# 19: flapping


async def through_a_flapping_broker(broker, tmp_path, *, n_flaps, every_s, hz):
    """Put events at ``hz`` while the broker goes away and comes back; return what was heard."""
    stop = asyncio.Event()

    async def flap():
        for _ in range(n_flaps):
            await asyncio.sleep(every_s / 2)
            broker.kill()
            await asyncio.sleep(every_s / 2)
            await asyncio.to_thread(broker.start)
        stop.set()

    async with (
        subscriber(broker.settings) as inbox,
        publisher(broker.settings, tmp_path) as sink,
    ):
        await inbox.until(lambda: inbox.statuses)
        flapping = asyncio.create_task(flap())
        begun_s = time.monotonic()
        sent = 0
        while not stop.is_set():
            behind = int((time.monotonic() - begun_s) * hz) - sent
            await asyncio.gather(*(sink.event(event(sent + n)) for n in range(behind)))
            sent += behind
            await asyncio.sleep(0.02)
        await flapping
        calm_s = time.monotonic()
        await until(lambda: sink.connected and sink.counters.pending == 0, within_s=30.0)
        await inbox.until(lambda: len(set(inbox.event_ids)) >= sent, within_s=30.0)
        drained_s = time.monotonic() - calm_s
        return sent, inbox.event_ids, drained_s, sink.counters.reconnects


def none_missing_none_doubled(sent, heard):
    assert sorted(heard, key=lambda i: int(i.rpartition(".")[2])) == [
        f"alert-1.{n}" for n in range(sent)
    ]


@pytest.mark.fault(19)
async def test_five_flaps_lose_and_double_nothing(broker, tmp_path, measured):
    sent, heard, drained_s, n_connects = await through_a_flapping_broker(
        broker, tmp_path, n_flaps=5, every_s=0.6, hz=50
    )
    none_missing_none_doubled(sent, heard)
    assert n_connects <= 5 + 1
    measured(f"5 flaps, {sent} events at 50 a second: lost or doubled", 0)
    measured("drained after", drained_s, "s")


@pytest.mark.fault(19)
@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_a_hundred_flaps_lose_and_double_nothing(broker, tmp_path, measured):
    sent, heard, drained_s, n_connects = await through_a_flapping_broker(
        broker, tmp_path, n_flaps=100, every_s=2.0, hz=5
    )
    none_missing_none_doubled(sent, heard)
    assert n_connects <= 100 + 1
    measured(f"100 flaps, {sent} events: lost or doubled", 0)
    measured("connects", n_connects)
    measured("drained after", drained_s, "s")


@pytest.mark.fault(19)
@pytest.mark.slow
@pytest.mark.timeout(200)
async def test_fifty_alerts_a_second_for_a_minute_get_through_a_flapping_broker(
    broker, tmp_path, measured
):
    sent, heard, drained_s, _ = await through_a_flapping_broker(
        broker, tmp_path, n_flaps=30, every_s=2.0, hz=50
    )
    assert sent >= 50 * 55
    none_missing_none_doubled(sent, heard)
    measured(f"{sent} events at 50 a second for a minute: lost or doubled", 0)
    measured("drained after", drained_s, "s")


@pytest.mark.fault(19)
def test_the_waits_between_tries_are_jittered_and_bounded():
    backoffs = [
        mqtt.Backoff(first_s=mqtt.RETRY_FIRST_S, cap_s=mqtt.RETRY_CAP_S, stable_s=60.0)
        for _ in range(50)
    ]
    waits = [[backoff.next_s() for _ in range(10)] for backoff in backoffs]
    assert max(itertools.chain(*waits)) <= mqtt.RETRY_CAP_S
    assert len({wait[-1] for wait in waits}) == 50


# 20: frozen


@pytest.mark.fault(20)
async def test_a_frozen_broker_is_noticed_and_no_event_is_lost(
    broker, tmp_path, monkeypatch, measured
):
    monkeypatch.setattr(mqtt, "GRACE_S", 0.2)  # nobody is subscribed here
    settings = replace(broker.settings, keepalive_s=2)
    async with publisher(settings, tmp_path) as sink:
        await until(lambda: sink.counters.published >= 3)
        broker.signal(signal.SIGSTOP)
        frozen_s = time.monotonic()
        try:
            await until(lambda: not sink.connected, within_s=1.5 * settings.keepalive_s + BUSY_S)
            took_s = time.monotonic() - frozen_s
            await sink.event(event(0))
        finally:
            broker.signal(signal.SIGCONT)
        await until(lambda: sink.connected and sink.counters.pending == 0)
        found = await retained(broker.settings)
    assert found["status"].text == "online"
    measured("keepalive 2 s, so promised 3 s: seen after", took_s, "s")


# 21: killed after it acknowledged


@pytest.mark.fault(21)
async def test_a_broker_that_forgot_what_it_acknowledged_is_told_again(broker, tmp_path, measured):
    standing = alert("ok", latest=step(0))
    async with publisher(broker.settings, tmp_path, first=standing) as sink:
        async with subscriber(broker.settings) as inbox:
            await inbox.until(lambda: inbox.statuses)
            await sink.event(event(0))
            await inbox.until(lambda: inbox.event_ids)
        await until(lambda: sink.counters.pending == 0)
        took_s = []
        for _ in range(3):
            broker.kill()  # without persistence: all that was retained is gone
            await until(lambda: "does not answer" in (sink.fault or ""))
            broker.start()
            back_s = time.monotonic()
            async with subscriber(broker.settings) as inbox:
                await inbox.until(lambda: inbox.statuses and inbox.of("alert"))
                took_s.append(time.monotonic() - back_s)
                assert inbox.statuses == ["online"]
                assert inbox.of("alert")[0].fields["on"] is True
        assert max(took_s) < mqtt.RETRY_CAP_S + BUSY_S
    measured("standing alert and status visible again after at most", max(took_s), "s")


# 26, 28: our own end


@pytest.mark.fault(26)
async def test_a_classifier_that_is_killed_is_offline(broker, tmp_path, measured):
    async with subscriber(broker.settings) as inbox:
        with publisher_process(broker.url, tmp_path) as process:
            assert await asyncio.to_thread(process.stdout.readline) == b"online\n"
            await inbox.until(lambda: inbox.statuses == ["online"])
            process.kill()
            killed_s = time.monotonic()
        within_s = 1.5 * broker.settings.keepalive_s
        await inbox.until(lambda: inbox.statuses == ["online", "offline"], within_s=within_s)
        measured("killed: offline after", time.monotonic() - killed_s, "s")
    found = await retained(broker.settings)
    assert found["status"].text == "offline"
    assert found["alert"].fields["on"] is True  # the standing alert stays


@pytest.mark.fault(26)
@pytest.mark.slow
async def test_a_classifier_that_hangs_is_offline(broker, tmp_path, measured):
    async with subscriber(broker.settings) as inbox:
        with publisher_process(broker.url, tmp_path) as process:
            try:
                assert await asyncio.to_thread(process.stdout.readline) == b"online\n"
                await inbox.until(lambda: inbox.statuses == ["online"])
                process.send_signal(signal.SIGSTOP)
                hung_s = time.monotonic()
                await inbox.until(lambda: inbox.statuses == ["online", "offline"])
                took_s = time.monotonic() - hung_s
            finally:
                process.kill()
    assert took_s < HUNG_WITHIN_S
    measured("hung, not dead: offline after", took_s, "s")


@pytest.mark.fault(28)
@pytest.mark.lsl
@pytest.mark.slow
def test_a_stop_in_the_middle_of_an_alert_is_clean_and_leaves_the_alert_standing(story, measured):
    story.device()
    pipeline = story.pipeline()
    story.until_now("alert", lambda m: m["on"])
    asked_s = time.monotonic()
    assert pipeline.stop() == 0
    took_s = time.monotonic() - asked_s
    assert took_s < 3.0 + BUSY_S
    measured("SIGTERM: exit 0 after", took_s, "s")
    assert story.until_now("status", lambda m: m == "stopped")
    last = story.heard("alert")[-1]
    assert (last["signal"], last["state"], last["on"]) == ("stopped", None, True)


@pytest.mark.fault(28)
async def test_what_waits_is_flushed_on_the_way_out(broker, tmp_path, measured):
    async with subscriber(broker.settings) as inbox:
        async with publisher(broker.settings, tmp_path) as sink:
            await inbox.until(lambda: inbox.statuses)
            await asyncio.gather(*(sink.event(event(n)) for n in range(100)))
            left_s = time.monotonic()
        took_s = time.monotonic() - left_s
        await inbox.until(lambda: "stopped" in inbox.statuses)
    assert inbox.event_ids == [f"alert-1.{n}" for n in range(100)]
    assert took_s < 3.0
    measured("100 events in hand: flushed and stopped after", took_s, "s")
