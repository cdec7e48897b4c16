"""The way to the broker: credentials, certificates, access lists, a second client of our name."""

import asyncio
import contextlib
import itertools
import json
import logging
import ssl
import time
from dataclasses import replace
from pathlib import Path

import aiomqtt
import pytest
from pydantic import SecretStr

from stream_classifier.errors import BrokerRefusedError, BrokerUnavailableError
from stream_classifier.sinks import mqtt
from stream_classifier.sinks.broker import BrokerSettings, TlsSettings
from stream_classifier.sinks.connection import Connector, probe
from stream_classifier.sinks.topics import stream_level
from tests.live_broker import (
    PATIENCE_S,
    STREAM,
    TOPICS,
    Certificates,
    Mosquitto,
    alert,
    as_user,
    event,
    password_file,
    publisher,
    subscriber,
    tls_broker,
    until,
)

pytestmark = [pytest.mark.broker, pytest.mark.timeout(120)]

FAULT_WITHIN_S = 5.0
CONNECTS_A_MINUTE = 5
PLUGINS = Path("/usr/lib").glob("*/mosquitto_dynamic_security.so")


# 22: wrong password


@pytest.fixture
def guarded(tmp_path):
    """A broker that wants a password, with access to its password file."""
    folder = tmp_path / "guarded"
    folder.mkdir()
    passwords = password_file(folder / "passwords", nurse="hunter2")
    broker = Mosquitto(folder, config=f"allow_anonymous false\npassword_file {passwords}\n")
    broker.passwords = passwords
    yield broker.start()
    broker.kill()


@pytest.mark.fault(22)
def test_a_wrong_password_at_the_start_ends_with_5_and_the_secret_is_nowhere(
    start, guarded, tmp_path, measured
):
    wrong = tmp_path / "wrong"
    wrong.write_text("open barley\n")
    begun_s = time.monotonic()
    arguments = ("--debug", "run", "--broker", guarded.url, "--username", "nurse", "--wait", "1")
    refused = [
        start(*arguments, "--password-file", wrong),
        start(*arguments, environment={"STREAM_CLASSIFIER_MQTT__PASSWORD": "open barley"}),
    ]
    shown = start("config", "show", environment={"STREAM_CLASSIFIER_MQTT__PASSWORD": "open barley"})
    assert [command.process.wait(40) for command in refused] == [5, 5]
    measured("exit 5 at the start after", time.monotonic() - begun_s, "s")
    assert shown.process.wait(40) == 0
    for command in (*refused, shown):
        assert "barley" not in command.said + command.printed
    for command in refused:
        assert f"{guarded.url} refused the connection with user 'nurse'" in command.said
    assert "barley" not in guarded.said
    settings = as_user(guarded, "nurse", "open barley")
    assert "barley" not in f"{settings!r} {settings} {Connector(settings, client_id='x')!r}"


@pytest.mark.fault(22)
async def test_a_password_that_is_changed_later_is_a_fault_with_slow_retries(
    guarded, tmp_path, caplog, monkeypatch, measured
):
    caplog.set_level(logging.DEBUG)
    assert mqtt.REFUSED_RETRY_S >= 30.0
    monkeypatch.setattr(mqtt, "REFUSED_RETRY_S", 2.0)
    monkeypatch.setattr(mqtt, "GRACE_S", 0.2)
    async with publisher(as_user(guarded, "nurse"), tmp_path) as sink:
        await until(lambda: sink.connected)
        guarded.kill()
        password_file(guarded.passwords, nurse="another")
        guarded.start()
        back_s = time.monotonic()
        await until(lambda: "refused the connection" in (sink.fault or ""))
        measured("later: fault after", time.monotonic() - back_s, "s")
        await sink.event(event(0))
        assert sink.counters.pending == 1
        refusals = [r for r in caplog.records if "refused the connection" in r.getMessage()]
        assert len(refusals) == 1
        n_asked = guarded.said.count("not authorised")
        password_file(guarded.passwords, nurse="hunter2")
        guarded.signal(1)  # SIGHUP: read the passwords again
        await until(lambda: sink.connected and sink.counters.pending == 0)
        assert guarded.said.count("not authorised") - n_asked <= 2
    measured("retries every", 30, "s")
    assert "hunter2" not in caplog.text + guarded.said


# 23: certificates


@pytest.fixture
def certificates(tmp_path):
    return Certificates(tmp_path / "certificates")


@pytest.mark.fault(23)
@pytest.mark.parametrize("flaw", ["unknown authority", "wrong host", "expired"])
async def test_a_broker_that_does_not_prove_itself_is_refused_and_told_nothing(
    flaw, tmp_path, certificates, measured
):
    pair = certificates.sign(
        "broker",
        host="DNS:broker.example" if flaw == "wrong host" else "IP:127.0.0.1",
        days=-1 if flaw == "expired" else 2,
    )
    ca = certificates.other_ca if flaw == "unknown authority" else certificates.ca
    with tls_broker(tmp_path / "tls", certificates, pair) as broker:
        secret = as_user(broker, "nurse", "hunter2")
        settings = replace(secret, tls=TlsSettings(ca_file=ca))
        with pytest.raises(BrokerRefusedError, match="never tried without TLS") as refused:
            await probe(settings)
        assert refused.value.exit_code == 5
        async with publisher(settings, tmp_path) as sink:
            await until(lambda: "never tried without TLS" in (sink.fault or ""))
            assert not sink.connected
        assert "New client connected" not in broker.said
    measured(f"{flaw}: refused, in plain text nothing")


@pytest.mark.fault(23)
async def test_a_broker_that_speaks_no_tls_gets_a_handshake_and_nothing_else(
    certificates, measured
):
    heard = b""

    async def listen(reader, writer):
        nonlocal heard
        heard += await reader.read(4096)
        writer.write(b"\x20\x02\x00\x00")  # CONNACK in plain text
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    async with server:
        settings = BrokerSettings(
            host="127.0.0.1",
            port=server.sockets[0].getsockname()[1],
            username="nurse",
            password=SecretStr("hunter2"),
            tls=TlsSettings(ca_file=certificates.ca),
        )
        with pytest.raises((BrokerRefusedError, BrokerUnavailableError)):
            await _connect(settings)
    assert heard[0] == 0x16  # a TLS handshake
    for said in (b"hunter2", b"nurse", b"MQTT"):
        assert said not in heard
    measured("plain-text port behind mqtts: a handshake, nothing else")


@pytest.mark.fault(23)
async def test_a_running_classifier_does_not_follow_its_broker_to_plain_text(
    tmp_path, certificates
):
    with tls_broker(tmp_path / "tls", certificates, certificates.sign("broker")) as broker:
        settings = replace(broker.settings, tls=TlsSettings(ca_file=certificates.ca))
        async with publisher(settings, tmp_path) as sink:
            await until(lambda: sink.connected)
            broker.kill()
            plain = Mosquitto(tmp_path / "plain")
            plain._config.write_text(plain._config.read_text().replace(
                f"listener {plain.port}", f"listener {broker.port}"
            ))  # fmt: skip
            plain.port = broker.port
            plain.start()
            try:
                await until(lambda: "New connection from" in plain.said)
                await until(lambda: sink.fault and not sink.connected)
                await sink.event(event(0))
                assert sink.counters.pending == 1
                assert "New client connected" not in plain.said
            finally:
                plain.kill()


@pytest.mark.fault(23)
async def test_a_broker_that_wants_a_certificate_gets_ours_and_refuses_others(
    tmp_path, certificates, measured
):
    pair = certificates.sign("broker")
    with tls_broker(tmp_path / "tls", certificates, pair, clients=True) as broker:
        bare = replace(broker.settings, tls=TlsSettings(ca_file=certificates.ca))
        with pytest.raises(BrokerUnavailableError, match=r"certificate of ours.*mqtt\.cert_file"):
            await _connect(bare)
        ours = replace(
            bare,
            tls=TlsSettings(ca_file=certificates.ca, cert_file=pair[0], key_file=pair[1]),
        )
        async with subscriber(ours) as inbox, publisher(ours, tmp_path) as sink:
            await sink.event(event(0))
            await inbox.until(lambda: inbox.event_ids)
    measured("client certificates: ours let in, none refused")


def test_tls_verifies_by_default(certificates):
    context = Connector(
        BrokerSettings(host="h", tls=TlsSettings(ca_file=certificates.ca)), client_id="x"
    )._tls
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


async def _connect(settings):
    async with Connector(settings, client_id="raw").connect():
        pass


# 24: the access list


@pytest.fixture
def denying(tmp_path):
    """A broker with users who lack one right each; it tells nobody who speaks 3.1.1."""
    folder = tmp_path / "denying"
    folder.mkdir()
    prefix = TOPICS.prefix
    write = "".join(
        f"topic write {prefix}/{what}\n" for what in ("status", "alert", "info", "canary")
    )
    rights = folder / "rights"
    rights.write_text(
        "user admin\ntopic readwrite #\n"
        "user nothing\ntopic deny #\n"
        f"user unread\ntopic write {prefix}/#\n"
        f"user no-events\n{write}topic read {prefix}/#\n"
    )
    broker = Mosquitto(folder, config=f"allow_anonymous true\nacl_file {rights}\n")
    broker.rights = rights
    yield broker.start()
    broker.kill()


async def until_fault(sink):
    await until(lambda: sink.connected)
    connected_s = time.monotonic()
    await until(lambda: sink.connected and sink.fault, within_s=FAULT_WITHIN_S)
    return time.monotonic() - connected_s


@pytest.mark.fault(24)
@pytest.mark.parametrize(
    ("user", "protocol"),
    [
        ("nothing", "3.1.1"),
        pytest.param("unread", "3.1.1", marks=pytest.mark.slow),
        pytest.param("unread", "5", marks=pytest.mark.slow),
        ("nothing", "5"),
    ],
)
async def test_a_broker_that_hands_nothing_on_is_a_fault_within_5_s_of_the_connect(
    denying, tmp_path, user, protocol, measured
):
    settings = replace(as_user(denying, user), protocol=protocol)
    async with publisher(settings, tmp_path) as sink:
        took_s = await until_fault(sink)
        assert TOPICS.prefix in sink.fault
        assert "access list" in sink.fault
        assert "deploy/mosquitto/acl" in sink.fault
        assert sink.connected  # nothing stops
    right = "write" if user == "nothing" else "read back"
    measured(f"MQTT {protocol}, no right to {right}: fault after", took_s, "s")


@pytest.mark.fault(24)
async def test_an_event_that_the_broker_denies_is_kept_and_the_rest_goes_on(
    denying, tmp_path, measured
):
    async with (
        subscriber(as_user(denying, "admin")) as inbox,
        publisher(as_user(denying, "no-events"), tmp_path) as sink,
    ):
        await inbox.until(lambda: inbox.statuses)
        assert sink.fault is None
        begun_s = time.monotonic()
        await sink.event(event(0))
        await until(lambda: sink.fault, within_s=FAULT_WITHIN_S)
        measured("MQTT 5, events alone denied: fault after", time.monotonic() - begun_s, "s")
        assert TOPICS.event in sink.fault
        sink.alert_state(alert("none"))
        await inbox.until(lambda: inbox.of("alert")[-1].fields["signal"] == "none")
        assert sink.counters.pending == 1
        assert inbox.event_ids == []


@pytest.mark.fault(24)
async def test_events_that_are_denied_silently_are_a_fault_until_they_come_back(
    denying, tmp_path, measured
):
    settings = replace(as_user(denying, "no-events"), protocol="3.1.1")
    async with publisher(settings, tmp_path) as sink:
        await until(lambda: sink.counters.published >= 3)
        assert sink.fault is None
        begun_s = time.monotonic()
        await sink.event(event(0))
        await until(lambda: sink.fault, within_s=FAULT_WITHIN_S)
        measured("MQTT 3.1.1, events alone denied: fault after", time.monotonic() - begun_s, "s")
        assert TOPICS.event in sink.fault
        denying.rights.write_text(denying.rights.read_text() + f"topic write {TOPICS.event}\n")
        denying.signal(1)  # SIGHUP: read the access list again
        async with asyncio.timeout(PATIENCE_S):
            for seq in itertools.count(1):  # the broker takes its time to read it
                await sink.event(event(seq))
                await asyncio.sleep(0.05)
                if sink.fault is None:
                    break


@pytest.mark.fault(24)
async def test_a_denied_subscription_to_the_canary_is_a_fault(tmp_path):
    plugin = next(PLUGINS, None)
    if plugin is None:
        pytest.skip("mosquitto's plugin for dynamic security is not installed")
    folder = tmp_path / "dynamic"
    folder.mkdir()
    rights = {"publishClientSend": True, "publishClientReceive": True, "subscribe": False}
    (folder / "rights.json").write_text(json.dumps({"defaultACLAccess": rights}))
    config = f"plugin {plugin}\nplugin_opt_config_file {folder / 'rights.json'}\n"
    broker = Mosquitto(folder, config=f"allow_anonymous true\n{config}").start()
    try:
        async with publisher(broker.settings, tmp_path) as sink:
            await until_fault(sink)
            assert f"denied subscribing to {TOPICS.canary}" in sink.fault
            assert "deploy/mosquitto/acl" in sink.fault
            await until(lambda: sink.counters.published >= 3)  # everything else goes on
    finally:
        broker.kill()


# 25: a second client of our name


@contextlib.asynccontextmanager
async def namesake(broker, protocol):
    """A client that is called as we are, and comes back at once whenever it is thrown out."""

    async def insist():
        version = aiomqtt.ProtocolVersion.V5 if protocol == "5" else aiomqtt.ProtocolVersion.V311
        while True:
            with contextlib.suppress(aiomqtt.MqttError):
                async with aiomqtt.Client(
                    "127.0.0.1",
                    broker.port,
                    identifier=f"stream_classifier-{stream_level(STREAM)}",
                    protocol=version,
                ) as client:
                    await client.subscribe("nothing")
                    async for _ in client.messages:
                        pass
            await asyncio.sleep(0.2)

    task = asyncio.create_task(insist())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.fault(25)
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_a_second_client_of_our_name_is_said_and_not_fought(
    broker, tmp_path, protocol, measured
):
    settings = replace(broker.settings, protocol=protocol)
    async with publisher(settings, tmp_path) as sink:
        await until(lambda: sink.counters.published >= 3)
        begun_s = time.monotonic()
        async with namesake(broker, protocol):
            await until(lambda: "duplicate_id" in (sink.fault or ""))
            measured(f"MQTT {protocol}: duplicate_id after", time.monotonic() - begun_s, "s")
            assert "called 'stream_classifier-bed-3-left" in sink.fault
            n = sink.counters.reconnects
            await asyncio.sleep(2.0)  # nothing shall happen
            assert sink.counters.reconnects == n


@pytest.mark.fault(25)
@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_two_of_one_name_connect_at_most_five_times_a_minute(
    broker, tmp_path, protocol, measured
):
    settings = replace(broker.settings, protocol=protocol)
    async with publisher(settings, tmp_path) as sink:
        await until(lambda: sink.counters.published >= 3)
        async with namesake(broker, protocol):
            await asyncio.sleep(60.0)
            n_connects = sink.counters.reconnects
    measured(f"MQTT {protocol}: connects in the first minute", n_connects)
    assert 1 <= n_connects <= CONNECTS_A_MINUTE


@pytest.mark.fault(25)
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_two_classifiers_of_one_name_are_told_of_each_other(broker, tmp_path, protocol):
    settings = replace(broker.settings, protocol=protocol)
    async with (
        publisher(settings, tmp_path / "one") as one,
        publisher(settings, tmp_path / "two") as two,
    ):
        sinks = (one, two)
        await until(lambda: any("duplicate_id" in (sink.fault or "") for sink in sinks))
        assert all(sink.counters.reconnects <= mqtt.SHORT_LIVED for sink in sinks)


@pytest.mark.fault(25)
async def test_a_broker_that_says_why_it_let_go_of_us_is_believed_at_once(tmp_path, measured):
    """As MQTT 5 asks of brokers (3.1.4-3); mosquitto 2.0 does not."""

    async def serve(reader, writer):
        await reader.read(4096)
        writer.write(b"\x20\x03\x00\x00\x00")  # CONNACK
        await reader.read(4096)
        writer.write(b"\xe0\x01\x8e")  # DISCONNECT, session taken over
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        settings = BrokerSettings(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
        begun_s = time.monotonic()
        async with publisher(settings, tmp_path) as sink:
            await until(lambda: (sink.fault or "").startswith("duplicate_id:"))
            assert sink.counters.reconnects == 0
    measured("a broker that says so: duplicate_id after", time.monotonic() - begun_s, "s")


@pytest.fixture
def broker(tmp_path):
    mosquitto = Mosquitto(tmp_path / "mosquitto").start()
    yield mosquitto
    mosquitto.kill()
