"""The broker as ``deploy/mosquitto`` sets it up: who comes in, and who may do what."""

import asyncio
import contextlib
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from stream_classifier.errors import BrokerRefusedError, BrokerUnavailableError
from stream_classifier.sinks.broker import BrokerSettings, TlsSettings
from stream_classifier.sinks.connection import Connector, probe
from stream_classifier.sinks.topics import Topics
from tests.live_broker import (
    PATIENCE_S,
    TOPICS,
    Mosquitto,
    alert,
    event,
    prediction,
    publisher,
    quality,
    subscriber,
    until,
)

pytestmark = [pytest.mark.broker, pytest.mark.timeout(60)]

DEPLOY = Path(__file__).parents[2] / "deploy" / "mosquitto"
OTHER = Topics("bed9")
LEVEL = TOPICS.prefix.rpartition("/")[2]


class Deployed:
    """A broker that was set up by the commands of the README, in a folder of its own."""

    def __init__(self, folder: Path):
        self._here = folder / "deploy"
        shutil.copytree(DEPLOY, self._here)
        acl = self._here / "acl"
        mine = acl.read_text().replace("bed3", LEVEL)
        acl.write_text(mine.replace("# topic read", "topic read"))  # the line for MQTT 3.1.1
        etc = folder / "etc"
        etc.mkdir()
        commands = (DEPLOY / "README.md").read_text().split("```sh\n")[1].split("```")[0]
        for there, here in (
            ("HOST=broker.example", "HOST=localhost"),
            ("CONF=/etc/mosquitto", f"CONF={etc}"),
            ("sudo ", ""),
            ("-o root -g mosquitto ", ""),
            ("-o root -g root ", ""),
            ("classifier-bed3", f"classifier-{LEVEL}"),
        ):
            assert there in commands, there
            commands = commands.replace(there, here)
        subprocess.run(
            ["bash", "-euc", commands], cwd=self._here, check=True, capture_output=True, text=True
        )
        config = (etc / "mosquitto.conf").read_text()
        for there, here in (
            ("/etc/mosquitto/", f"{etc}/"),
            ("/var/lib/mosquitto/", f"{folder}/"),
            ("listener 8883", "listener {port}"),
        ):
            assert there in config, there
            config = config.replace(there, here)
        self.broker = Mosquitto(folder / "run", whole=config)

    def settings(self, user: str) -> BrokerSettings:
        name = f"classifier-{LEVEL}" if user == "classifier" else user
        return BrokerSettings(
            host="localhost",
            port=self.broker.port,
            username=name,
            password=SecretStr((self._here / f"{name}.password").read_text().strip()),
            tls=TlsSettings(ca_file=self._here / "ca.pem"),
        )

    def connect(self, user: str):
        return Connector(self.settings(user), client_id=f"test-{user}").connect()


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    for tool in ("openssl", "mosquitto_passwd", "bash"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    made = Deployed(tmp_path_factory.mktemp("deployed"))
    made.broker.start()
    yield made
    made.broker.kill()


async def test_only_who_has_a_password_comes_in_and_only_through_tls(deployed):
    nurse = deployed.settings("ward")
    for refused in (
        replace(nurse, username=None, password=None),
        replace(nurse, password=SecretStr("guess")),
        replace(nurse, tls=TlsSettings()),  # of an authority that nobody here knows
    ):
        with pytest.raises(BrokerRefusedError):
            await probe(refused)
    with pytest.raises(BrokerUnavailableError, match="Try: mqtts://"):
        async with Connector(replace(nurse, tls=None), client_id="plain").connect():
            pass
    assert await probe(nurse) == "5"


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_a_classifier_has_all_the_rights_that_it_needs(deployed, tmp_path, protocol):
    settings = replace(deployed.settings("classifier"), protocol=protocol)
    commands = []
    async with (
        deployed.connect("operator") as desk,
        subscriber(deployed.settings("ward")) as ward,
        publisher(settings, tmp_path, on_command=commands.append) as sink,
    ):
        await desk.subscribe(f"{TOPICS.answer}/#")
        await until(lambda: sink.counters.published >= 3)
        await sink.event(event(0))
        sink.prediction(prediction())
        sink.quality(quality())
        await desk.publish(f"{TOPICS.commands}/ack", b"{}", qos=1)
        await until(lambda: commands)
        sink.answer(commands[0], b"heard")
        async with asyncio.timeout(PATIENCE_S):
            async for answer in desk.messages():
                assert answer.payload == b"heard"
                break
        await ward.until(lambda: ward.event_ids)
        await until(lambda: not sink._canary.due_s < float("inf"))  # it has come back
        assert sink.fault is None
        assert sink.counters.denied == 0
        sink.alert_state(alert("none"))
        await ward.until(lambda: ward.of("alert")[-1].fields["signal"] == "none")
    assert {received.what for received in ward.all} <= {"status", "alert", "event", "health"}


@pytest.mark.parametrize(
    ("user", "topic"),
    [
        ("ward", TOPICS.alert),
        ("ward", TOPICS.event),
        ("ward", f"{TOPICS.commands}/ack"),
        ("ward", TOPICS.canary),
        ("operator", TOPICS.alert),
        ("operator", TOPICS.event),
        ("operator", TOPICS.status),
        ("operator", TOPICS.canary),
        ("classifier", OTHER.alert),
        ("classifier", OTHER.status),
        ("classifier", f"{TOPICS.commands}/ack"),
        ("classifier", f"{OTHER.commands}/ack"),
    ],
)
async def test_nobody_may_write_what_is_not_his(deployed, user, topic):
    async with deployed.connect(user) as connection:
        with pytest.raises(BrokerRefusedError, match="access list"):
            await connection.publish(topic, b"{}", qos=1)


@pytest.mark.parametrize(
    ("user", "readable"),
    [
        ("ward", {TOPICS.status, TOPICS.alert, TOPICS.event}),
        ("operator", {TOPICS.status, TOPICS.alert, TOPICS.event, TOPICS.answer}),
        ("classifier", {TOPICS.canary, TOPICS.event}),  # events for MQTT 3.1.1
    ],
)
async def test_nobody_reads_what_is_not_his(deployed, tmp_path, user, readable):
    heard = set()

    async def listen(connection):
        async for message in connection.messages():
            heard.add(message.topic)

    async with contextlib.AsyncExitStack() as stack:
        reader = await stack.enter_async_context(deployed.connect(user))
        await reader.subscribe("#")
        listening = asyncio.create_task(listen(reader))
        settings = deployed.settings("classifier")
        commands = []
        sink = await stack.enter_async_context(
            publisher(settings, tmp_path, on_command=commands.append)
        )
        desk = await stack.enter_async_context(
            Connector(deployed.settings("operator"), client_id="desk").connect()
        )
        await until(lambda: sink.counters.published >= 3)
        sink.prediction(prediction())
        sink.quality(quality())
        await sink.event(event(0))
        await desk.publish(f"{OTHER.commands}/ack", b"{}", qos=1)
        await desk.publish(f"{TOPICS.commands}/ack", b"{}", qos=1)
        await until(lambda: commands)
        sink.answer(commands[0], b"heard")
        await until(lambda: readable <= heard)
        listening.cancel()
    expected = readable | ({f"{TOPICS.commands}/ack"} if user == "classifier" else set())
    assert heard <= expected


async def test_the_standing_alert_outlives_a_restart_of_the_broker(deployed, tmp_path):
    async with publisher(deployed.settings("classifier"), tmp_path, first=alert("ok")) as sink:
        await until(lambda: sink.counters.published >= 3)
    broker = deployed.broker
    broker._process.terminate()  # as a service manager does; it writes its retained messages
    broker._process.wait()
    broker.start()
    async with subscriber(deployed.settings("ward")) as ward:
        await ward.until(lambda: ward.of("alert") and ward.of("status"))
        assert ward.of("alert")[0].retained
        assert ward.statuses[0] == "stopped"
