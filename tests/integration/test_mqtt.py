# ruff: noqa: ASYNC220, ASYNC240, S107 - a test may block its own event loop, and its passwords are none
"""Alerts through a real mosquitto: in order, once, and the truth about who is alive."""

import asyncio
import contextlib
import itertools
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiomqtt
import jsonschema
import numpy as np
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from pydantic import SecretStr

from stream_classifier.errors import BrokerRefusedError, BrokerUnavailableError, ConfigError
from stream_classifier.signals import (
    AlertEvent,
    ChannelQuality,
    ChannelState,
    EventType,
    Prediction,
    State,
    StreamSpec,
)
from stream_classifier.sinks import mqtt
from stream_classifier.sinks.broker import BrokerSettings, Protocol, TlsSettings
from stream_classifier.sinks.connection import Connector, Incoming, probe
from stream_classifier.sinks.messages import (
    AlertMessage,
    EventMessage,
    InfoMessage,
    Message,
    MessageBuilder,
    ModelRef,
    PredictionMessage,
    QualityMessage,
    Signal,
    WallClock,
    json_schema,
)
from stream_classifier.sinks.mqtt import FLUSH_S, MqttSink
from stream_classifier.sinks.outbox import Outbox
from stream_classifier.sinks.subscriber import Received, watch
from stream_classifier.sinks.topics import Topics

pytestmark = [pytest.mark.broker, pytest.mark.timeout(60)]

PATIENCE_S = 15.0
"""How long a busy machine may take for what takes milliseconds."""

STREAM = "Bed 3 / left"
TOPICS = Topics(STREAM)
CLOCK = WallClock.set_now(time.monotonic())
BUILDER = MessageBuilder(
    spec=StreamSpec(STREAM, "amp-1", rate_hz=256.0, labels=("C3", "T7")),
    model=ModelRef("bonn", "ab" * 32, raise_threshold=0.8, clear_threshold=0.5),
    clock=CLOCK,
)
SCHEMAS: dict[str, type[Message]] = {
    "alert": AlertMessage,
    "event": EventMessage,
    "prediction": PredictionMessage,
    "quality": QualityMessage,
    "info": InfoMessage,
}

# A classifier's sink in a process of its own, for killing.
PUBLISHER = """
import asyncio, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_mqtt import alert, publisher
from stream_classifier.sinks.broker import parse_broker_url

async def main():
    async with publisher(parse_broker_url(sys.argv[2]), Path(sys.argv[3])) as sink:
        while not sink.connected or sink.counters.published < 3:
            await asyncio.sleep(0.01)
        print("online", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


class Mosquitto:
    """A mosquitto that can be killed, frozen and started again on the same port."""

    def __init__(self, folder: Path, *, config: str = "allow_anonymous true\n") -> None:
        program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        if not Path(program).exists():
            pytest.skip("mosquitto is not installed. Try: apt-get install mosquitto")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        folder.mkdir(exist_ok=True)
        self._config = folder / "mosquitto.conf"
        # TCP_NODELAY as anyone would set it who cares for latency; "user" since it would
        # else give up root's rights and then not read this folder.
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\nuser root\nset_tcp_nodelay true\n{config}"
        )
        self._command = [program, "-c", str(self._config)]
        self._log = folder / "mosquitto.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> BrokerSettings:
        return BrokerSettings(host="127.0.0.1", port=self.port)

    @property
    def url(self) -> str:
        return str(self.settings)

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.01)
        pytest.fail(f"mosquitto did not start: {self._log.read_text()}")

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    mosquitto = Mosquitto(tmp_path / "mosquitto")
    mosquitto.start()
    yield mosquitto
    mosquitto.kill()


class Inbox:
    """Everything a subscriber received, and waiting for more of it."""

    def __init__(self) -> None:
        self.all: list[Received] = []
        self._more = asyncio.Event()

    def take(self, received: Received) -> None:
        self.all.append(received)
        self._more.set()

    def of(self, what: str) -> list[Received]:
        return [received for received in self.all if received.what == what]

    @property
    def statuses(self) -> list[str]:
        return [received.text for received in self.of("status")]

    @property
    def event_ids(self) -> list[str]:
        return [received.fields["event_id"] for received in self.of("event")]

    async def until(self, holds: Callable[[], object], *, within_s: float = PATIENCE_S) -> None:
        async with asyncio.timeout(within_s):
            while not holds():
                self._more.clear()
                await self._more.wait()


@contextlib.asynccontextmanager
async def subscriber(
    settings: BrokerSettings, *, stream: str | None = STREAM
) -> AsyncIterator[Inbox]:
    inbox, listening = Inbox(), asyncio.Event()

    async def listen() -> None:
        async with contextlib.aclosing(
            watch(settings, stream=stream, on_listening=listening.set)
        ) as messages:
            async for received in messages:
                inbox.take(received)

    task = asyncio.create_task(listen())
    try:
        async with asyncio.timeout(PATIENCE_S):
            await listening.wait()
        yield inbox
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def now() -> datetime:
    return CLOCK.utc(time.monotonic())


def alert(signal: Signal = "starting", *, latest: AlertEvent | None = None) -> AlertMessage:
    return BUILDER.alert(
        at_s=time.monotonic(), prediction=None, latest=latest, signal=signal, decided=None
    )


def step(seq: int, kind: EventType = EventType.UPDATED) -> AlertEvent:
    at_s = time.monotonic()
    return AlertEvent(kind, "alert-1", seq, at_s, at_s, at_s, None, 0.9, 0.95, ("C3",))


def event(seq: int, *, decided_ago_s: float = 0.0) -> EventMessage:
    return BUILDER.event(
        step(seq, EventType.UPDATED if seq else EventType.RAISED),
        state=State.ALERT,
        signal="ok",
        decided=now() - timedelta(seconds=decided_ago_s),
    )


def prediction(p: float = 0.3) -> PredictionMessage:
    made = Prediction(
        end_index=0,
        at_s=time.monotonic(),
        probabilities=np.full((2, 3), p, np.float32),
        smoothed=np.full(2, p, np.float32),
        reasons=("", ""),
        p=p,
        state=State.OK,
    )
    return BUILDER.prediction(made, signal="ok", decided=now())


def quality(state: str = "good", *, rms_uv: float = 12.0) -> QualityMessage:
    channel = ChannelQuality("C3", ChannelState(state), (), rms_uv, 0.0, 0.0, 0.0, 1.0)
    return BUILDER.quality([channel], at_s=time.monotonic(), signal="ok")


@contextlib.asynccontextmanager
async def publisher(
    settings: BrokerSettings,
    folder: Path,
    *,
    first: AlertMessage | None = None,
    on_command: Callable[[Incoming], None] | None = None,
) -> AsyncIterator[MqttSink]:
    info = BUILDER.info(at=now(), topics=TOPICS.by_name(), versions={}, card={})
    async with (
        Outbox(path=folder / "outbox.sqlite", max_age_s=1e6, max_rows=10_000) as outbox,
        MqttSink(
            settings=settings,
            outbox=outbox,
            topics=TOPICS,
            info=info,
            on_command=on_command,
            now=now,
        ) as sink,
    ):
        sink.alert_state(first or alert())
        yield sink


async def until(holds: Callable[[], object], *, within_s: float = PATIENCE_S) -> None:
    """Wait for what tells nobody when it changes."""
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def retained(settings: BrokerSettings, *, n: int = 3) -> dict[str, Received]:
    """Return what a subscriber that comes now is told of the past."""
    async with subscriber(settings) as inbox:
        await inbox.until(lambda: len([r for r in inbox.all if r.retained]) >= n)
        return {received.what: received for received in inbox.all if received.retained}


async def test_who_subscribes_early_sees_the_truth_before_online(
    broker: Mosquitto, tmp_path: Path
) -> None:
    async with subscriber(broker.settings) as inbox, publisher(broker.settings, tmp_path):
        await inbox.until(lambda: inbox.statuses)
        assert [received.what for received in inbox.all] == ["info", "alert", "status"]
        assert inbox.statuses == ["online"]


async def test_who_subscribes_late_sees_info_alert_and_status(
    broker: Mosquitto, tmp_path: Path
) -> None:
    async with publisher(broker.settings, tmp_path) as sink:
        await until(lambda: sink.counters.published >= 3)
        await sink.event(event(0))
        sink.prediction(prediction())
        await until(lambda: sink.counters.published >= 5)
        found = await retained(broker.settings)
    assert set(found) == {"info", "alert", "status"}  # never an event or a prediction
    assert found["status"].text == "online"
    assert found["info"].fields["topics"] == TOPICS.by_name()
    assert found["alert"].fields["stream"] == STREAM


async def test_live_messages_satisfy_their_schemas(broker: Mosquitto, tmp_path: Path) -> None:
    async with (
        subscriber(broker.settings) as inbox,
        publisher(broker.settings, tmp_path) as sink,
    ):
        await inbox.until(lambda: inbox.statuses)
        await sink.event(event(0))
        sink.prediction(prediction())
        sink.quality(quality())
        sink.alert_state(alert("ok", latest=step(0)))
        await inbox.until(lambda: all(inbox.of(what) for what in SCHEMAS))
    for what, kind in SCHEMAS.items():
        for received in inbox.of(what):
            jsonschema.Draft202012Validator(json_schema(kind)).validate(received.fields)
            published = datetime.fromisoformat(received.fields["published"])
            assert abs(published - datetime.now(UTC)) < timedelta(seconds=PATIENCE_S)


async def test_mqtt_5_says_what_a_message_is_and_when_it_expires(
    broker: Mosquitto, tmp_path: Path
) -> None:
    seen: dict[str, Any] = {}
    async with Connector(broker.settings, client_id="raw").connect() as connection:
        await connection.subscribe(f"{TOPICS.prefix}/#")
        async with publisher(broker.settings, tmp_path) as sink:
            await until(lambda: sink.counters.published >= 3)
            await sink.event(event(0))
            sink.prediction(prediction())
            async with asyncio.timeout(PATIENCE_S):
                async for message in connection._client.messages:
                    if str(message.topic) != TOPICS.canary:
                        seen[str(message.topic)] = message
                    if len(seen) == 5:
                        break
    sent_event, sent_prediction = seen[TOPICS.event], seen[TOPICS.prediction]
    assert (sent_event.qos, sent_prediction.qos) == (1, 0)
    assert sent_event.properties.ContentType == "application/json"
    assert sent_event.properties.PayloadFormatIndicator == 1
    assert dict(sent_event.properties.UserProperty) == {
        "schema": "stream_classifier/event/1",
        "simulated": "false",
    }
    assert sent_prediction.properties.MessageExpiryInterval <= 30
    assert not hasattr(seen[TOPICS.alert].properties, "MessageExpiryInterval")
    assert seen[TOPICS.status].properties.ContentType == "text/plain"


async def test_a_killed_classifier_is_said_to_be_offline(broker: Mosquitto, tmp_path: Path) -> None:
    async with subscriber(broker.settings) as inbox:
        with subprocess.Popen(
            [
                *(sys.executable, "-c", PUBLISHER),
                *(str(Path(__file__).parent), broker.url, str(tmp_path)),
            ],
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) == b"online\n"
            await inbox.until(lambda: inbox.statuses == ["online"])
            process.kill()
        await inbox.until(lambda: inbox.statuses == ["online", "offline"], within_s=7.5)
    found = await retained(broker.settings)
    assert found["status"].text == "offline"


async def test_a_clean_end_says_stopped_and_the_broker_forgets_the_last_will(
    broker: Mosquitto, tmp_path: Path
) -> None:
    async with subscriber(broker.settings) as inbox:
        async with publisher(broker.settings, tmp_path, first=alert("ok", latest=step(0))):
            await inbox.until(lambda: inbox.statuses)
        await inbox.until(lambda: inbox.statuses == ["online", "stopped"])
        last = inbox.of("alert")[-1].fields
        assert (last["signal"], last["state"]) == ("stopped", None)
        assert last["on"] is True  # nobody has said that the seizure is over
        async with publisher(broker.settings, tmp_path):
            await inbox.until(lambda: len(inbox.statuses) == 3)
        await inbox.until(lambda: len(inbox.statuses) == 4)
        assert inbox.statuses == ["online", "stopped"] * 2


def is_one_hour_late(fields: dict[str, Any]) -> bool:
    decided, published = map(datetime.fromisoformat, (fields["decided"], fields["published"]))
    return fields["late"] is True and published - decided >= timedelta(hours=1)


async def test_events_of_an_outage_come_once_in_order_and_late(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "RETRY_FIRST_S", 2.0)  # the subscriber shall be back first
    standing = alert("ok", latest=step(0))
    async with publisher(broker.settings, tmp_path, first=standing) as sink:
        await until(lambda: sink.connected)
        broker.kill()
        await until(lambda: not sink.connected)
        for seq in range(50):
            await sink.event(event(seq, decided_ago_s=3600.0))
        sink.prediction(prediction())
        assert (sink.counters.pending, sink.counters.predictions_dropped) == (50, 1)
        assert sink.fault is not None
        broker.start()
        async with subscriber(broker.settings) as inbox:
            await inbox.until(lambda: inbox.statuses, within_s=5.0)
            assert inbox.statuses == ["online"]
            assert inbox.of("alert")[0].fields["on"] is True
            await sink.event(event(50))
            await inbox.until(lambda: "alert-1.50" in inbox.event_ids)
    assert inbox.event_ids == [f"alert-1.{seq}" for seq in range(51)]
    *waited, live = [received.fields for received in inbox.of("event")]
    assert all(map(is_one_hour_late, waited))
    assert live["late"] is False
    assert sink.counters.reconnects == 1


async def test_events_wait_for_a_subscriber_that_comes_back_later_than_the_classifier(
    broker: Mosquitto, tmp_path: Path
) -> None:
    async with publisher(broker.settings, tmp_path) as sink:
        await until(lambda: sink.connected)
        broker.kill()
        await until(lambda: not sink.connected)
        await sink.event(event(0, decided_ago_s=3600.0))
        broker.start()
        await until(lambda: sink.counters.published > 6)  # offered, and nobody was there
        assert sink.counters.pending == 1
        async with subscriber(broker.settings) as inbox:
            await inbox.until(lambda: inbox.event_ids)
        await until(lambda: not sink.counters.pending)
    assert inbox.event_ids == ["alert-1.0"]


async def test_events_that_nobody_wants_do_not_pile_up(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "GRACE_S", 0.2)
    async with publisher(broker.settings, tmp_path) as sink:
        await until(lambda: sink.connected)
        for seq in range(20):
            await sink.event(event(seq))
        await until(lambda: not sink.counters.pending)


async def test_events_of_an_outage_outlive_the_process_that_raised_them(
    broker: Mosquitto, tmp_path: Path
) -> None:
    async with publisher(broker.settings, tmp_path) as sink:
        await until(lambda: sink.connected)
        broker.kill()
        for seq in range(50):
            await sink.event(event(seq, decided_ago_s=3600.0))
    broker.start()
    async with subscriber(broker.settings) as inbox:
        async with publisher(broker.settings, tmp_path) as sink:
            await until(lambda: sink.connected and sink.counters.pending == 0)
        await inbox.until(lambda: "stopped" in inbox.statuses)
    assert inbox.event_ids == [f"alert-1.{seq}" for seq in range(50)]
    assert all(is_one_hour_late(received.fields) for received in inbox.of("event"))


async def test_a_flapping_broker_loses_and_doubles_nothing(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "RETRY_CAP_S", 0.25)
    monkeypatch.setattr(mqtt, "CONTENDED_RETRY_S", 0.25)
    received: set[str] = set()
    async with publisher(broker.settings, tmp_path) as sink:
        for n in range(8):
            async with subscriber(broker.settings) as inbox:
                await sink.event(event(n))
                await until(lambda: sink.counters.pending == 0)
                await inbox.until(lambda: inbox.event_ids)
                received |= set(inbox.event_ids)
                broker.kill()
                broker.start()
    assert received == {f"alert-1.{n}" for n in range(8)}
    assert sink.counters.published >= 8


async def test_two_classifiers_of_one_name_do_not_throw_each_other_out_for_ever(
    broker: Mosquitto, tmp_path: Path
) -> None:
    async with (
        publisher(broker.settings, tmp_path / "one") as one,
        publisher(broker.settings, tmp_path / "two") as two,
    ):
        await until(
            lambda: any("another client called" in (sink.fault or "") for sink in (one, two)),
            within_s=30.0,
        )
        n_connections = one.counters.reconnects + two.counters.reconnects
    assert n_connections <= 2 * (mqtt.SHORT_LIVED + 1)


async def test_a_frozen_broker_is_noticed_and_no_event_is_lost(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "GRACE_S", 0.2)  # nobody is subscribed here
    settings = replace(broker.settings, keepalive_s=2)
    async with publisher(settings, tmp_path) as sink:
        await until(lambda: sink.counters.published >= 3)
        broker.signal(signal.SIGSTOP)
        try:
            await until(lambda: not sink.connected, within_s=1.5 * settings.keepalive_s + 1.0)
            await sink.event(event(0))
        finally:
            broker.signal(signal.SIGCONT)
        await until(lambda: sink.connected and sink.counters.pending == 0)
        found = await retained(broker.settings)
    assert found["status"].text == "online"


async def test_leaving_takes_no_longer_than_promised_when_the_broker_is_frozen(
    broker: Mosquitto, tmp_path: Path
) -> None:
    async with subscriber(broker.settings) as inbox:
        async with contextlib.AsyncExitStack() as stack:
            sink = await stack.enter_async_context(publisher(broker.settings, tmp_path))
            await inbox.until(lambda: inbox.statuses)
            broker.signal(signal.SIGSTOP)
            await sink.event(event(0))
            started = time.monotonic()
            await stack.aclose()
            took_s = time.monotonic() - started
        broker.signal(signal.SIGCONT)
        assert took_s < FLUSH_S + 0.7
        # It could not say goodbye, so that the broker must not believe in it any more.
        await inbox.until(lambda: inbox.statuses[-1] == "offline")


async def test_cancelling_the_classifier_flushes_too(broker: Mosquitto, tmp_path: Path) -> None:
    started = asyncio.Event()

    async def classify() -> None:
        async with publisher(broker.settings, tmp_path) as sink:
            await until(lambda: sink.connected)
            for seq in range(20):
                await sink.event(event(seq))
            started.set()
            await asyncio.Event().wait()

    async with subscriber(broker.settings) as inbox:
        task = asyncio.create_task(classify())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await inbox.until(lambda: "stopped" in inbox.statuses)
    assert len(inbox.event_ids) == 20
    assert inbox.all[-1].text == "stopped"


async def test_an_error_of_the_classifier_is_passed_on_unchanged(
    broker: Mosquitto, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="of the classifier"):
        async with publisher(broker.settings, tmp_path):
            raise ConfigError("of the classifier")


async def test_a_defect_of_the_publisher_ends_the_classifier(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather a process that ends and is restarted than one that is silent."""

    async def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(MqttSink, "_publish_due", fail)
    with pytest.raises(ExceptionGroup) as ended:
        async with asyncio.timeout(PATIENCE_S), publisher(broker.settings, tmp_path):
            await asyncio.Event().wait()
    assert ended.group_contains(ZeroDivisionError)


async def test_nothing_is_published_before_the_state_is_known(
    broker: Mosquitto, tmp_path: Path
) -> None:
    info = BUILDER.info(at=now(), topics=TOPICS.by_name(), versions={}, card={})
    async with (
        subscriber(broker.settings) as inbox,
        Outbox(path=tmp_path / "o", max_age_s=1e6, max_rows=100) as outbox,
    ):
        async with MqttSink(
            settings=broker.settings, outbox=outbox, topics=TOPICS, info=info
        ) as sink:
            await sink.event(event(0))
            assert not sink.connected
        async with publisher(broker.settings, tmp_path / "other"):
            await inbox.until(lambda: inbox.statuses)
        assert inbox.event_ids == []
        assert outbox.n_pending == 1


async def test_predictions_come_about_twice_a_second_and_in_order(
    broker: Mosquitto, tmp_path: Path
) -> None:
    async with (
        subscriber(broker.settings) as inbox,
        publisher(broker.settings, tmp_path) as sink,
    ):
        await inbox.until(lambda: inbox.statuses)
        until_s = time.monotonic() + 1.3
        n = 0
        while time.monotonic() < until_s:
            n += 1
            sink.prediction(prediction(p=n / 1000))
            await asyncio.sleep(0.01)
        await inbox.until(lambda: len(inbox.of("prediction")) >= 3)
        values = [received.fields["p"] for received in inbox.of("prediction")]
    assert len(values) <= 4
    assert values == sorted(values)
    assert values[1] > 0.01  # a new one, not one that waited for half a second


async def test_quality_is_kept_for_who_comes_later_and_sent_when_it_changes(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "QUALITY_CHANGE_EVERY_S", 0.2)
    async with (
        subscriber(broker.settings) as inbox,
        publisher(broker.settings, tmp_path) as sink,
    ):
        await inbox.until(lambda: inbox.statuses)
        for rms_uv in range(50):  # the measures alone are no news
            sink.quality(quality("good", rms_uv=float(rms_uv)))
            await asyncio.sleep(0.005)
        sink.quality(quality("poor"))
        await inbox.until(lambda: len(inbox.of("quality")) >= 2)
        states = [r.fields["channels"][0]["state"] for r in inbox.of("quality")]
        found = await retained(broker.settings, n=4)
    assert states == ["good", "poor"]
    assert found["quality"].fields["poor"] == 1


async def test_the_state_is_sent_on_change_and_as_a_heartbeat(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        subscriber(broker.settings) as inbox,
        publisher(broker.settings, tmp_path) as sink,
    ):
        await inbox.until(lambda: inbox.statuses)
        for _ in range(20):
            sink.alert_state(alert("ok"))
        sink.alert_state(alert("none"))
        await inbox.until(lambda: inbox.of("alert")[-1].fields["signal"] == "none")
        assert len(inbox.of("alert")) <= 3
        monkeypatch.setattr(mqtt, "HEARTBEAT_S", 0.05)
        sink.alert_state(alert("ok"))
        n = len(inbox.of("alert"))
        await inbox.until(lambda: len(inbox.of("alert")) >= n + 5)
    seqs = [received.fields["seq"] for received in inbox.of("alert")]
    assert seqs == list(range(len(seqs)))


async def test_an_event_that_the_disk_refused_is_sent_and_says_so(
    broker: Mosquitto, tmp_path: Path
) -> None:
    async with (
        subscriber(broker.settings) as inbox,
        publisher(broker.settings, tmp_path) as sink,
    ):
        box = sink._outbox
        box._thread.submit(lambda: box._connected().execute("PRAGMA query_only=1")).result()
        await sink.event(event(0))
        await inbox.until(lambda: inbox.event_ids)
        assert inbox.of("event")[0].fields["durable"] is False


async def test_cancelled_while_connecting_leaves_nothing_behind(broker: Mosquitto) -> None:
    broker.signal(signal.SIGSTOP)
    try:
        connecting = asyncio.ensure_future(probe(broker.settings))
        done, _ = await asyncio.wait({connecting}, timeout=0.3)
        assert not done
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
    finally:
        broker.signal(signal.SIGCONT)
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})


async def test_a_publish_in_flight_fails_at_once_when_the_broker_dies(broker: Mosquitto) -> None:
    async with Connector(broker.settings, client_id="raw").connect() as connection:
        broker.signal(signal.SIGSTOP)
        publishing = asyncio.ensure_future(connection.publish("a/b", b"1", qos=1))
        await asyncio.sleep(0)
        broker.kill()
        started = time.monotonic()
        with pytest.raises(BrokerUnavailableError, match="lost"):
            await publishing
        assert time.monotonic() - started < 2


async def test_an_absent_broker_is_no_error_at_the_start() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        assert await probe(BrokerSettings(host="127.0.0.1", port=port)) is None


# Who may come in.


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker that wants a password and lets nobody publish events; ``admin`` may all."""
    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        pytest.skip("mosquitto_passwd is not installed. Try: apt-get install mosquitto")
    folder = tmp_path / "guarded"
    folder.mkdir()
    passwords, rights = folder / "passwords", folder / "rights"
    passwords.touch(mode=0o600)
    for user in ("nurse", "admin", "deaf"):
        subprocess.run([tool, "-b", str(passwords), user, "hunter2"], check=True)
    rights.write_text(
        "user admin\ntopic readwrite #\n"
        "user deaf\ntopic write #\n"
        "user nurse\ntopic read #\n"
        f"topic write {TOPICS.status}\ntopic write {TOPICS.alert}\ntopic write {TOPICS.info}\n"
        f"topic write {TOPICS.canary}\n"
    )
    mosquitto = Mosquitto(
        folder,
        config=f"allow_anonymous false\npassword_file {passwords}\nacl_file {rights}\n",
    )
    mosquitto.start()
    yield mosquitto
    mosquitto.kill()


def as_user(broker: Mosquitto, name: str, password: str = "hunter2") -> BrokerSettings:
    return replace(broker.settings, username=name, password=SecretStr(password))


async def test_wrong_credentials_are_refused_at_the_start(guarded: Mosquitto) -> None:
    for settings in (guarded.settings, as_user(guarded, "nurse", "wrong-secret")):
        with pytest.raises(BrokerRefusedError, match="refused the connection") as refused:
            await probe(settings)
        assert refused.value.exit_code == 5
        assert "wrong-secret" not in str(refused.value)
    assert await probe(as_user(guarded, "nurse")) == "5"


async def test_credentials_refused_later_are_reported_and_nothing_stops(
    guarded: Mosquitto, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        async with publisher(as_user(guarded, "nurse", "wrong-secret"), tmp_path) as sink:
            await until(lambda: "refused" in (sink.fault or ""))
            await sink.event(event(0))
            assert sink.counters.pending == 1
    assert "refused the connection" in caplog.text
    assert "wrong-secret" not in caplog.text


async def test_an_event_that_the_broker_denies_is_kept_and_the_rest_goes_on(
    guarded: Mosquitto, tmp_path: Path
) -> None:
    async with (
        subscriber(as_user(guarded, "admin")) as inbox,
        publisher(as_user(guarded, "nurse"), tmp_path) as sink,
    ):
        await inbox.until(lambda: inbox.statuses)
        await sink.event(event(0))
        await until(lambda: sink.counters.denied)
        assert sink.fault is not None
        assert "access list" in sink.fault
        sink.alert_state(alert("none"))
        await inbox.until(lambda: inbox.of("alert")[-1].fields["signal"] == "none")
        assert sink.counters.pending == 1
        assert inbox.event_ids == []


# What the broker acknowledges and hands on to nobody.


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_what_we_publish_comes_back_and_nobody_else_is_told(
    broker: Mosquitto, tmp_path: Path, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "CANARY_EVERY_S", 0.05)
    settings = replace(broker.settings, protocol=protocol)
    heard: list[Incoming] = []
    async with (
        Connector(broker.settings, client_id="raw").connect() as connection,
        subscriber(settings) as inbox,
    ):
        await connection.subscribe(f"{TOPICS.prefix}/canary")
        async with publisher(settings, tmp_path) as sink:
            async with asyncio.timeout(PATIENCE_S):
                async for message in connection.messages():
                    heard.append(message)
                    if len(heard) == 5:
                        break
            await sink.event(event(0))
            await inbox.until(lambda: inbox.event_ids)
            assert sink.fault is None
            assert not sink._canary.missing
    assert len({message.payload for message in heard}) == 5
    assert not any(message.retained for message in heard)
    assert "canary" not in {received.what for received in inbox.all}


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker with users who lack one right each, which it tells nobody that speaks 3.1.1."""
    rights = tmp_path / "silent" / "rights"
    rights.parent.mkdir()
    prefix = TOPICS.prefix
    write = "".join(
        f"topic write {prefix}/{what}\n" for what in ("status", "alert", "info", "canary")
    )
    rights.write_text(
        "user admin\ntopic readwrite #\n"
        "user nothing\ntopic deny #\n"
        f"user unread\ntopic write {prefix}/#\n"
        f"user unwritten\n{write}topic read {prefix}/#\n"
    )
    mosquitto = Mosquitto(rights.parent, config=f"allow_anonymous true\nacl_file {rights}\n")
    mosquitto.start()
    yield mosquitto
    mosquitto.kill()


@pytest.mark.parametrize("user", ["nothing", "unread"])
async def test_a_broker_that_hands_nothing_on_and_does_not_say_so_is_a_fault_within_5_s(
    silent: Mosquitto, tmp_path: Path, user: str
) -> None:
    settings = replace(as_user(silent, user), protocol="3.1.1")
    async with publisher(settings, tmp_path) as sink:
        await until(lambda: sink.connected)
        await until(lambda: sink.fault, within_s=5.0)
        assert sink.fault is not None
        assert f"{TOPICS.prefix}/canary" in sink.fault
        assert "access list" in sink.fault
        assert sink.connected  # nothing stops


async def test_an_event_topic_that_is_denied_silently_is_a_fault_until_events_come_back(
    silent: Mosquitto, tmp_path: Path
) -> None:
    settings = replace(as_user(silent, "unwritten"), protocol="3.1.1")
    async with publisher(settings, tmp_path) as sink:
        await until(lambda: sink.counters.published >= 3)
        assert sink.fault is None
        await sink.event(event(0))
        await until(lambda: sink.fault, within_s=5.0)
        assert TOPICS.event in str(sink.fault)
        rights = silent._config.with_name("rights")
        rights.write_text(rights.read_text() + f"topic write {TOPICS.event}\n")
        silent.signal(signal.SIGHUP)  # read the access list again
        async with asyncio.timeout(PATIENCE_S):
            for seq in itertools.count(1):  # the broker takes its time to read it
                await sink.event(event(seq))
                await asyncio.sleep(0.05)
                if sink.fault is None:
                    break


async def test_a_subscription_to_the_canary_that_is_denied_is_a_fault(
    tmp_path: Path,
) -> None:
    plugin = next(Path("/usr/lib").glob("*/mosquitto_dynamic_security.so"), None)
    if plugin is None:
        pytest.skip("mosquitto's plugin for dynamic security is not installed")
    folder = tmp_path / "dynamic"
    folder.mkdir()
    rights = {"publishClientSend": True, "publishClientReceive": True, "subscribe": False}
    (folder / "rights.json").write_text(json.dumps({"defaultACLAccess": rights}))
    config = f"plugin {plugin}\nplugin_opt_config_file {folder / 'rights.json'}\n"
    mosquitto = Mosquitto(folder, config=f"allow_anonymous true\n{config}")
    mosquitto.start()
    try:
        async with publisher(mosquitto.settings, tmp_path) as sink:
            await until(lambda: sink.fault and sink.connected, within_s=5.0)
            assert f"denied subscribing to {TOPICS.canary}" in str(sink.fault)
            assert "deploy/mosquitto/acl" in str(sink.fault)
            await until(lambda: sink.counters.published >= 3)  # everything else goes on
    finally:
        mosquitto.kill()


async def test_commands_are_heard_and_answered_where_they_ask_below_our_own_topic(
    broker: Mosquitto, tmp_path: Path
) -> None:
    commands: list[Incoming] = []
    ours = f"{TOPICS.answer}/desk-4"
    async with (
        publisher(broker.settings, tmp_path, on_command=commands.append) as sink,
        aiomqtt.Client("127.0.0.1", broker.port, protocol=aiomqtt.ProtocolVersion.V5) as desk,
    ):
        await desk.subscribe(f"{TOPICS.prefix}/#")
        await until(lambda: sink.counters.published >= 3)
        for asked in (ours, TOPICS.status, None):
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.CorrelationData = b"7"
            if asked:
                properties.ResponseTopic = asked
            await desk.publish(f"{TOPICS.commands}/ack", b"{}", qos=1, properties=properties)
        await until(lambda: len(commands) == 3)
        assert [c.response_topic for c in commands] == [ours, TOPICS.status, None]
        for command in commands:
            sink.answer(command, b'{"done": true}')
        answers = []
        async with asyncio.timeout(PATIENCE_S):
            async for message in desk.messages:
                if message.payload == b'{"done": true}':
                    answers.append((str(message.topic), message.properties.CorrelationData))
                if len(answers) == 3:
                    break
    assert answers == [(ours, b"7"), (TOPICS.answer, b"7"), (TOPICS.answer, b"7")]


@contextlib.asynccontextmanager
async def scripted_broker(
    *answers: Callable[[bytes], bytes],
) -> AsyncIterator[BrokerSettings]:
    """A broker that gives these answers, one to each packet of a connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            for answer in answers:
                writer.write(answer(await reader.read(4096)))
                await writer.drain()
            await reader.read()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield BrokerSettings(host="127.0.0.1", port=server.sockets[0].getsockname()[1])


async def test_a_broker_that_speaks_no_mqtt_5_is_spoken_to_in_3_1_1() -> None:
    levels: list[int] = []

    def connack(connect: bytes) -> bytes:
        levels.append(connect[connect.index(b"MQTT") + 4])
        return b"\x20\x02\x00\x01" if levels[-1] == 5 else b"\x20\x02\x00\x00"

    async with scripted_broker(connack) as settings:
        connector = Connector(settings, client_id="raw")
        for _ in range(2):
            async with connector.connect() as connection:
                assert connection.protocol == "3.1.1"
    assert levels == [5, 4, 4]  # asked once, and remembered


async def test_a_subscription_that_the_broker_denies_is_an_error() -> None:
    def suback(subscribe: bytes) -> bytes:
        return b"\x90\x04" + subscribe[2:4] + b"\x00\x87"

    async with (
        scripted_broker(lambda _: b"\x20\x03\x00\x00\x00", suback) as settings,
        Connector(settings, client_id="raw").connect() as connection,
    ):
        with pytest.raises(BrokerRefusedError, match="denied subscribing to #"):
            await connection.subscribe("#")


# TLS.


class Certificates:
    """An authority and what it signs, made with the openssl command."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("openssl")
        if program is None:
            pytest.skip("openssl is not installed")
        self._openssl = program
        self._folder = folder
        folder.mkdir()
        self.ca = self._authority("ca")
        self.other_ca = self._authority("other-ca")

    def _run(self, *arguments: str) -> None:
        subprocess.run(
            [self._openssl, *arguments], check=True, capture_output=True, cwd=self._folder
        )

    def _authority(self, name: str) -> Path:
        self._run(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *(
                "-keyout",
                f"{name}.key",
                "-out",
                f"{name}.pem",
                "-days",
                "2",
                "-subj",
                f"/CN={name}",
            ),
            *("-addext", "basicConstraints=critical,CA:TRUE"),
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
        )
        return self._folder / f"{name}.pem"

    def sign(self, name: str, *, host: str = "IP:127.0.0.1", days: int = 2) -> tuple[Path, Path]:
        """Return a certificate for a host, and its key."""
        extensions = self._folder / f"{name}.ext"
        extensions.write_text(
            f"subjectAltName={host}\nbasicConstraints=CA:FALSE\n"
            "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
        )
        self._run(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}"),
        )
        self._run(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-days", str(days), "-extfile", extensions.name),
            *("-out", f"{name}.pem"),
        )
        return self._folder / f"{name}.pem", self._folder / f"{name}.key"


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path / "certificates")


@contextlib.contextmanager
def tls_broker(
    folder: Path, certificates: Certificates, pair: Sequence[Path], *, clients: bool = False
) -> Iterator[Mosquitto]:
    mosquitto = Mosquitto(
        folder,
        config=(
            f"allow_anonymous true\ncafile {certificates.ca}\ncertfile {pair[0]}\n"
            f"keyfile {pair[1]}\nrequire_certificate {'true' if clients else 'false'}\n"
        ),
    )
    mosquitto.start()
    try:
        yield mosquitto
    finally:
        mosquitto.kill()


async def test_events_go_through_tls_to_a_broker_that_proves_itself(
    tmp_path: Path, certificates: Certificates
) -> None:
    pair = certificates.sign("broker")
    with tls_broker(tmp_path / "tls", certificates, pair, clients=True) as broker:
        settings = replace(
            broker.settings,
            tls=TlsSettings(ca_file=certificates.ca, cert_file=pair[0], key_file=pair[1]),
        )
        async with subscriber(settings) as inbox, publisher(settings, tmp_path) as sink:
            await sink.event(event(0))
            await inbox.until(lambda: inbox.event_ids)


@pytest.mark.parametrize("flaw", ["unknown authority", "wrong host", "expired"])
async def test_a_broker_that_does_not_prove_itself_is_refused(
    flaw: str, tmp_path: Path, certificates: Certificates
) -> None:
    pair = certificates.sign(
        "broker",
        host="DNS:broker.example" if flaw == "wrong host" else "IP:127.0.0.1",
        days=-1 if flaw == "expired" else 2,
    )
    ca = certificates.other_ca if flaw == "unknown authority" else certificates.ca
    with (
        tls_broker(tmp_path / "tls", certificates, pair) as broker,
        pytest.raises(BrokerRefusedError, match="never tried without TLS") as refused,
    ):
        await probe(replace(broker.settings, tls=TlsSettings(ca_file=ca)))
    assert refused.value.exit_code == 5


async def test_tls_never_falls_back_to_plain_text(certificates: Certificates) -> None:
    """Whatever is said to a broker that speaks no TLS, it is no MQTT packet."""
    heard = b""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heard
        heard += await reader.read(1024)
        writer.write(b"\x20\x02\x00\x00")  # CONNACK in plain text
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        settings = BrokerSettings(
            host="127.0.0.1",
            port=port,
            username="nurse",
            password=SecretStr("hunter2"),
            tls=TlsSettings(ca_file=certificates.ca),
        )
        with pytest.raises((BrokerRefusedError, BrokerUnavailableError)):
            async with Connector(settings, client_id="raw").connect():
                pass
    assert heard[0] == 0x16  # a TLS handshake
    assert b"hunter2" not in heard


async def test_a_certificate_file_that_is_none_is_a_configuration_error(tmp_path: Path) -> None:
    for file in (tmp_path / "missing.pem", Path(__file__)):
        with pytest.raises(ConfigError, match=file.name):
            await probe(BrokerSettings(host="127.0.0.1", tls=TlsSettings(ca_file=file)))


# The commands.


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "stream_classifier", *arguments]


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("STREAM_CLASSIFIER_")}


async def test_subscribe_prints_alerts_and_ends_after_the_count(
    broker: Mosquitto, tmp_path: Path
) -> None:
    async with publisher(broker.settings, tmp_path, first=alert("ok")) as sink:
        await until(lambda: sink.counters.published >= 3)
        process = await asyncio.create_subprocess_exec(
            *command("subscribe", "--broker", broker.url, "--stream", STREAM, "--count", "3"),
            stdout=subprocess.PIPE,
            env=environment(),
        )
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            first = [await process.stdout.readline() for _ in range(2)]  # retained: it listens
            await sink.event(event(0))
            third = await process.stdout.readline()
            assert await process.wait() == 0
    assert any(b"online" in line for line in first)
    assert b"SEIZURE ALERT raised" in third
    assert STREAM.encode() in third


async def test_subscribe_is_interrupted_with_130(broker: Mosquitto, tmp_path: Path) -> None:
    async with publisher(broker.settings, tmp_path):
        process = await asyncio.create_subprocess_exec(
            *command("subscribe", "--broker", broker.url, "--json"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            line = json.loads(await process.stdout.readline())
            process.send_signal(signal.SIGINT)
            _, said = await process.communicate()
    assert line["topic"].startswith(TOPICS.prefix)
    assert process.returncode == 130
    assert b"Traceback" not in said


async def test_subscribe_refused_by_the_broker_ends_with_5(guarded: Mosquitto) -> None:
    process = await asyncio.create_subprocess_exec(
        *command("subscribe", "--broker", guarded.url, "--username", "nurse"),
        stderr=subprocess.PIPE,
        env=environment() | {"STREAM_CLASSIFIER_MQTT__PASSWORD": "wrong-secret"},
    )
    async with asyncio.timeout(PATIENCE_S):
        _, said = await process.communicate()
    assert process.returncode == 5
    assert b"refused the connection" in said
    assert b"wrong-secret" not in said


async def test_a_test_alarm_gets_through_and_disturbs_nothing(
    broker: Mosquitto, tmp_path: Path
) -> None:
    async with (
        subscriber(broker.settings) as inbox,
        publisher(broker.settings, tmp_path, first=alert("ok")) as sink,
    ):
        await inbox.until(lambda: inbox.statuses)
        process = await asyncio.create_subprocess_exec(
            *command("test-alarm", "--broker", broker.url, "--stream", STREAM, "--json"),
            stdout=subprocess.PIPE,
            env=environment(),
        )
        async with asyncio.timeout(PATIENCE_S):
            out, _ = await process.communicate()
        assert process.returncode == 0
        await inbox.until(lambda: len(inbox.event_ids) == 2)
        assert sink.connected
        assert sink.counters.reconnects == 0
    round_trips_ms = json.loads(out)["round_trip_ms"]
    assert len(round_trips_ms) == 2
    assert all(0 < ms < 5000 for ms in round_trips_ms)
    assert [received.fields["event_type"] for received in inbox.of("event")] == ["raised", "ended"]
    assert all(received.fields["test"] for received in inbox.of("event"))
    assert inbox.statuses in (["online"], ["online", "stopped"])
    assert not any(received.fields["on"] for received in inbox.of("alert"))


@pytest.mark.parametrize("user", ["nurse", "deaf"])  # may not publish; may not read
async def test_a_test_alarm_that_does_not_get_through_is_an_error(
    guarded: Mosquitto, user: str
) -> None:
    process = await asyncio.create_subprocess_exec(
        *command("test-alarm", "--broker", guarded.url, "--stream", STREAM),
        *("--username", user, "--within", "1"),
        stderr=subprocess.PIPE,
        env=environment() | {"STREAM_CLASSIFIER_MQTT__PASSWORD": "hunter2"},
    )
    async with asyncio.timeout(PATIENCE_S):
        _, said = await process.communicate()
    assert process.returncode not in (0, None)
    assert b"access list" in said
    assert b"Traceback" not in said
