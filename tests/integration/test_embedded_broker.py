# ruff: noqa: ASYNC220 - a test may block its own event loop
"""The broker of the demo: a real one, on this machine only, that starts and stops."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from stream_classifier.errors import BrokerUnavailableError, MissingExtraError
from stream_classifier.sinks import embedded_broker
from stream_classifier.sinks.broker import BrokerSettings, parse_broker_url
from stream_classifier.sinks.connection import Connection, Connector, LastWill, probe
from stream_classifier.sinks.embedded_broker import EmbeddedBroker
from stream_classifier.sinks.messages import MAX_PAYLOAD_BYTES

pytest.importorskip("iotcore", reason="the extra [demo] is not installed")
pytestmark = [pytest.mark.broker, pytest.mark.timeout(60)]

PATIENCE_S = 15.0

# Starts a broker, says where, and waits to be killed.
PARENT = """
import asyncio
from stream_classifier.sinks.embedded_broker import EmbeddedBroker

async def main():
    async with EmbeddedBroker() as broker:
        print(broker.port, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest_asyncio.fixture
async def broker() -> AsyncIterator[EmbeddedBroker]:
    async with EmbeddedBroker() as running:
        yield running


def connector(url: str, name: str, *, will: LastWill | None = None) -> Connector:
    return Connector(parse_broker_url(url), client_id=name, will=will)


async def read(connection: Connection, n: int) -> list[tuple[str, bytes, bool]]:
    received: list[tuple[str, bytes, bool]] = []
    async with asyncio.timeout(PATIENCE_S):
        async for message in connection.messages():
            received.append((message.topic, message.payload, message.retained))
            if len(received) == n:
                break
    return received


def listens(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex((host, port)) == 0


async def test_it_is_ready_when_entered_and_gone_when_left() -> None:
    started = time.monotonic()
    async with EmbeddedBroker() as broker:
        took_s = time.monotonic() - started
        assert await probe(parse_broker_url(broker.url)) == "3.1.1"
    assert took_s < 5  # 0.2 s on an idle machine
    assert not listens(broker.port)
    assert not listens(broker.port_v5)


async def test_it_can_be_started_again_on_the_same_ports(broker: EmbeddedBroker) -> None:
    async with EmbeddedBroker() as first:
        assert await probe(parse_broker_url(first.url)) == "3.1.1"
    async with EmbeddedBroker(port=first.port, port_v5=first.port_v5) as second:
        assert (second.port, second.port_v5) == (first.port, first.port_v5)
        assert await probe(parse_broker_url(second.url)) == "3.1.1"


async def test_it_listens_on_this_machine_only(broker: EmbeddedBroker) -> None:
    assert listens(broker.port)
    # Another address of this machine: a broker on 0.0.0.0 would answer there.
    assert not listens(broker.port, host="127.0.0.2")


async def test_our_messages_reach_subscribers_of_either_version(broker: EmbeddedBroker) -> None:
    async with (
        connector(broker.url, "old").connect() as old,
        connector(broker.url_v5, "new").connect() as new,
        connector(broker.url, "publisher").connect() as publisher,
    ):
        assert (old.protocol, new.protocol) == ("3.1.1", "5")
        await old.subscribe("a/#")
        await new.subscribe("a/#")
        for n in range(3):
            await publisher.publish(f"a/{n}", b"x", qos=1, labels={"schema": "x"}, expires_s=5)
        everything = [(f"a/{n}", b"x", False) for n in range(3)]
        assert await read(old, 3) == everything
        assert await read(new, 3) == everything


@pytest.mark.parametrize("program", ["mosquitto_sub"])
async def test_the_usual_subscriber_needs_no_option_but_the_port(
    broker: EmbeddedBroker, program: str
) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed. Try: apt-get install mosquitto-clients")
    async with connector(broker.url, "publisher").connect() as publisher:
        await publisher.publish("a/state", b"hello", qos=1, retain=True)
        process = await asyncio.create_subprocess_exec(
            *(program, "-h", "127.0.0.1", "-p", str(broker.port), "-t", "a/#", "-v", "-C", "1"),
            stdout=subprocess.PIPE,
        )
        async with asyncio.timeout(PATIENCE_S):
            out, _ = await process.communicate()
    assert out == b"a/state hello\n"


async def test_it_keeps_retained_messages_for_later_subscribers(broker: EmbeddedBroker) -> None:
    async with connector(broker.url, "one").connect() as one:
        await one.publish("a/state", b"old", qos=1, retain=True)
        await one.publish("a/state", b"new", qos=1, retain=True)
        await one.publish("a/event", b"gone", qos=1)
    async with connector(broker.url, "two").connect() as two:
        await two.subscribe("a/#")
        assert await read(two, 1) == [("a/state", b"new", True)]


async def test_it_publishes_the_last_will_of_who_vanishes(broker: EmbeddedBroker) -> None:
    will = LastWill("a/status", b"offline")
    async with connector(broker.url, "watcher").connect() as watcher:
        await watcher.subscribe("a/#")
        async with connector(broker.url, "clean", will=will).connect() as clean:
            await clean.publish("a/status", b"stopped", qos=1, retain=True)
        with pytest.raises(ZeroDivisionError):
            async with connector(broker.url, "dying", will=will).connect():
                raise ZeroDivisionError
        assert [payload for _, payload, _ in await read(watcher, 2)] == [b"stopped", b"offline"]


async def test_it_takes_the_largest_payload_there_is(broker: EmbeddedBroker) -> None:
    payload = json.dumps("x" * (2 * MAX_PAYLOAD_BYTES)).encode()
    async with connector(broker.url, "one").connect() as one:
        await one.subscribe("a")
        await one.publish("a", payload, qos=1, labels={"schema": "x"}, expires_s=30)
        assert (await read(one, 1))[0][1] == payload


@pytest.mark.parametrize("which", ["port", "port_v5"])
async def test_a_port_that_is_taken_is_a_clear_error(which: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(BrokerUnavailableError, match=f"port {port} on 127.0.0.1 is taken"):
            async with EmbeddedBroker(**{which: port}):
                pass


async def test_a_broker_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_broker, "_reserve", lambda *_: [1, 70_000])
    with pytest.raises(BrokerUnavailableError, match="did not start: "):
        async with EmbeddedBroker():
            pass


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"\[demo\]"):
        EmbeddedBroker()


async def test_ctrl_c_is_left_to_the_commands_that_use_it(broker: EmbeddedBroker) -> None:
    """They have something to say to the broker before they go."""
    assert broker.pid is not None
    os.kill(broker.pid, signal.SIGINT)
    async with connector(broker.url, "one").connect() as one:
        await one.publish("a", b"goodbye", qos=1)


async def test_it_ends_with_its_parent_however_that_ends() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        port = json.loads(await asyncio.to_thread(parent.stdout.readline))
        assert await probe(BrokerSettings(host="127.0.0.1", port=port)) == "3.1.1"
        parent.kill()
    async with asyncio.timeout(PATIENCE_S):
        while listens(port):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
