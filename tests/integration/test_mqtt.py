"""Alerts through a real mosquitto: in order, once, and the truth about who is alive."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiomqtt
import jsonschema
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from stream_classifier.errors import BrokerRefusedError, BrokerUnavailableError, ConfigError
from stream_classifier.sinks import mqtt
from stream_classifier.sinks.broker import BrokerSettings, Protocol, TlsSettings
from stream_classifier.sinks.connection import Connector, Incoming, probe
from stream_classifier.sinks.messages import (
    AlertMessage,
    EventMessage,
    InfoMessage,
    Message,
    PredictionMessage,
    QualityMessage,
    json_schema,
)
from stream_classifier.sinks.mqtt import FLUSH_S, MqttSink
from stream_classifier.sinks.outbox import Outbox
from tests.live_broker import (
    BUILDER,
    PATIENCE_S,
    STREAM,
    TOPICS,
    Mosquitto,
    alert,
    as_user,
    event,
    now,
    password_file,
    prediction,
    publisher,
    quality,
    retained,
    step,
    subscriber,
    until,
)

pytestmark = [pytest.mark.broker, pytest.mark.timeout(60)]

SCHEMAS: dict[str, type[Message]] = {
    "alert": AlertMessage,
    "event": EventMessage,
    "prediction": PredictionMessage,
    "quality": QualityMessage,
    "info": InfoMessage,
}


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    mosquitto = Mosquitto(tmp_path / "mosquitto")
    mosquitto.start()
    yield mosquitto
    mosquitto.kill()


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
    folder = tmp_path / "guarded"
    folder.mkdir()
    rights = folder / "rights"
    users = dict.fromkeys(("nurse", "admin", "deaf"), "hunter2")
    passwords = password_file(folder / "passwords", **users)
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


async def test_wrong_credentials_are_refused_at_the_start(guarded: Mosquitto) -> None:
    for settings in (guarded.settings, as_user(guarded, "nurse", "wrong-secret")):
        with pytest.raises(BrokerRefusedError, match="refused the connection") as refused:
            await probe(settings)
        assert refused.value.exit_code == 5
        assert "wrong-secret" not in str(refused.value)
    assert await probe(as_user(guarded, "nurse")) == "5"


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
