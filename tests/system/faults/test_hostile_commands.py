"""Commands from somebody who should send none: nothing falls over, and nothing is done."""

import asyncio
import contextlib
import json
import random
import secrets
import time
from datetime import UTC, datetime, timedelta

import aiomqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from stream_classifier.sinks.commands import MAX_COMMAND_BYTES, CommandDesk
from stream_classifier.sinks.connection import MAX_PACKET_BYTES, Incoming
from tests.live_broker import TOPICS as BED
from tests.live_broker import Mosquitto, alert, event, publisher, subscriber
from tests.system.conftest import eventually

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
SET = "stream_classifier/bed3/set"
PREFIX = "stream_classifier/bed3"
MANY = [
    pytest.param(2_000, id="2,000"),
    pytest.param(100_000, id="100,000", marks=[pytest.mark.slow, pytest.mark.timeout(300)]),
]
PIECES = [
    *(b"{", b"}", b"[", b"]", b'"', b":", b",", b"\\", b"\x00", b"\xff", b"\xed\xa0\x80", b"NaN"),
    *(b"1e999", b"-0", b"true", b"null", b"\\ud800", b"\\u0000", b"nonce", b"expires", b"minutes"),
    *(b"alert_id", b"__proto__", b"\xe2\x80\xae", b"\x1b[2J", b"' OR 1=1 --", b"${jndi:ldap://x}"),
    *(b"../../etc/passwd", b"9" * 400, b"2026-11-24T12:00:30Z", b"\xef\xbb\xbf", b"/*", b"//"),
]


def void(rng):
    """A command as it should be, but for its time, which is long over."""
    fields = {"nonce": secrets.token_urlsafe(24), "expires": "2020-01-01T00:00:00Z"}
    if rng.random() < 0.5:
        return fields | {"minutes": rng.randrange(61)}
    return fields | {"alert_id": f"{rng.getrandbits(128):032x}"}


def nested(rng):
    depth = rng.choice([10, 200, 500, 1000, 10_000])
    opening, closing = rng.choice([(b"[", b"]"), (b'{"a":', b"}")])
    return opening * depth + (closing * depth if rng.random() < 0.5 else b"")


def mutated(rng):
    payload = bytearray(json.dumps(void(rng)).encode())
    for _ in range(rng.randrange(1, 8)):
        at = rng.randrange(len(payload) + 1)
        match rng.randrange(4):
            case 0:
                payload[at:at] = rng.choice(PIECES)
            case 1:
                del payload[at : at + rng.randrange(1, 20)]
            case 2:
                payload[at : at + 1] = bytes([rng.randrange(256)])
            case 3:
                payload[at:at] = payload[: rng.randrange(40)]
    return bytes(payload)


def odd_fields(rng):
    values = [None, True, -1, 1.5, 10**300, "", "x" * 2000, [], {}, [[]], "2026-11-24T12:00:30"]
    fields = void(rng)
    for _ in range(rng.randrange(1, 4)):
        key = rng.choice([*fields, "more", "\x00", "nonce"])
        fields[key] = rng.choice(values)
    return json.dumps(fields).encode()


def encoded(rng):
    text = json.dumps(void(rng))
    return text.encode(rng.choice(["utf-16", "utf-32", "utf-16-le", "utf-7", "utf-8-sig"]))


def noise(rng):
    return rng.randbytes(rng.choice([0, 1, 7, 100, MAX_COMMAND_BYTES, MAX_COMMAND_BYTES + 1]))


def large(rng):
    return json.dumps(void(rng) | {"pad": "x" * rng.choice([2_000, 60_000])}).encode()


KINDS = {f.__name__: f for f in (nested, mutated, odd_fields, encoded, noise, large)}
TOPICS = ["ack", "mute", "", "set", "ack/ack", "x" * 500, "\x00", "ack\n", "../ack", "\ud800"]


class Bystander:
    """A desk and everything that a command could have an effect on."""

    def __init__(self):
        self.effects, self.answers, self.spent = [], [], {"replayed-nonce-0"}
        self.desk = CommandDesk(
            topic=SET,
            acknowledge=self._acknowledge,
            mute=lambda until: self.effects.append(until),  # noqa: PLW0108 - is replaced
            spend=self._spend,
            answer=lambda command, payload: self.answers.append(payload),
            now=lambda: NOW,
        )

    async def _acknowledge(self, alert_id):
        self.effects.append(alert_id)
        return True

    async def _spend(self, nonce, until):
        is_new = nonce not in self.spent
        self.spent.add(nonce)
        return is_new


@pytest.mark.fault(34)
@pytest.mark.parametrize("n", MANY)
async def test_no_payload_makes_the_desk_fall_over_or_do_anything(n, measured, caplog):
    caplog.set_level("CRITICAL")
    rng = random.Random(20261124)
    by = Bystander()
    work = asyncio.create_task(by.desk.work())
    soon = (NOW + timedelta(seconds=30)).isoformat()
    replayed = {"nonce": "replayed-nonce-0", "expires": soon, "minutes": 5}
    longest_s = 0.0
    for i in range(n):
        kind = rng.choice([*KINDS, "replayed", "retained"])
        topic = f"{SET}/{rng.choice(TOPICS[:2] if rng.random() < 0.8 else TOPICS)}"
        if kind == "replayed":
            topic, payload = f"{SET}/mute", json.dumps(replayed).encode()
        elif kind == "retained":
            topic = f"{SET}/mute"
            payload = json.dumps(replayed | {"nonce": secrets.token_urlsafe(24)}).encode()
        else:
            payload = KINDS[kind](rng)
        begun_s = time.perf_counter()
        by.desk.take(Incoming(topic, payload, kind == "retained"))
        while len(by.answers) <= i:  # noqa: ASYNC110 - there is nothing to wait for but its turn
            await asyncio.sleep(0)
        longest_s = max(longest_s, time.perf_counter() - begun_s)
        assert not by.effects, (kind, topic, payload[:200])
    assert not work.done()
    assert by.desk.n_refused == len(by.answers) == n
    for payload in by.answers:
        answer = json.loads(payload)
        assert answer["done"] is False
        assert len(payload) < 1_000
        assert answer["reason"].isprintable()
    assert by.spent == {"replayed-nonce-0"}
    good = json.dumps(replayed | {"nonce": secrets.token_urlsafe(24)}).encode()
    by.desk.take(Incoming(f"{SET}/mute", good, False))
    while not by.effects:  # noqa: ASYNC110 - the desk is as good as new
        await asyncio.sleep(0)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    measured(f"{n:,} hostile commands: effects", 0)
    measured("the longest took", 1e3 * longest_s, "ms")


def properties(response_topic=None, correlation=None):
    made = Properties(PacketTypes.PUBLISH)
    if response_topic is not None:
        made.ResponseTopic = response_topic
    if correlation is not None:
        made.CorrelationData = correlation
    return made


@pytest.mark.slow
@pytest.mark.lsl
@pytest.mark.broker
@pytest.mark.timeout(180)
@pytest.mark.fault(34)
async def test_a_running_classifier_does_nothing_of_it_and_answers_only_below_its_own_topic(
    story, measured
):
    story.device()
    more = ("--set", "mqtt.commands=true", "--set", "alarm.latched=true")
    pipeline = await asyncio.to_thread(story.pipeline, *more)
    await asyncio.to_thread(story.until_now, "health", lambda m: m["state"] == "ok")
    rng = random.Random(34)
    broker = story.broker.settings
    v5 = aiomqtt.ProtocolVersion.V5
    heard = []

    async def listen(client):
        async for message in client.messages:
            heard.append((str(message.topic), bytes(message.payload)))  # noqa: PERF401 - as it comes

    def replies():
        return [text for topic, text in heard if topic.startswith(f"{PREFIX}/answer")]

    async with (
        aiomqtt.Client(broker.host, broker.port, identifier="ear", protocol=v5) as ear,
        aiomqtt.Client(broker.host, broker.port, identifier="mouth", protocol=v5) as mouth,
    ):
        await ear.subscribe("#", qos=1)
        listening = asyncio.create_task(listen(ear))
        n_sent = 0
        for n in range(400):
            payload = KINDS[rng.choice(list(KINDS))](rng)
            what = rng.choice(["ack", "mute", "ack", "mute", "", "x", "ack/ack", "ä"])
            await mouth.publish(f"{SET}/{what}", payload, qos=1, retain=n % 40 == 0)
            n_sent += 1
            if n % 10 == 9:  # no faster than they are read, or some are only counted
                await until(lambda n=n: len(replies()) >= n + 1 - 20)
        soon = (datetime.now(UTC) + timedelta(seconds=30)).isoformat()
        good = {"nonce": secrets.token_urlsafe(24), "expires": soon, "minutes": 7}
        elsewhere = [
            "stream_classifier/bed4/alert",
            f"{PREFIX}/alert",
            f"{PREFIX}/answer/../alert",
            f"{PREFIX}/answer/a/b/c",
            f"{PREFIX}/answer/" + "x" * 2_000,
            f"{PREFIX}/answers",
            "$SYS/broker",
            "homeassistant/x",
        ]
        for topic in elsewhere:
            await mouth.publish(f"{SET}/mute", b"{}", qos=1, properties=properties(topic))
        await mouth.publish(f"{SET}/mute", b"{}", qos=1, properties=properties(None, b"y" * 60_000))
        below = properties(f"{PREFIX}/answer/mouth-1", b"mine")
        await until(lambda: len(replies()) >= n_sent + len(elsewhere) + 1)
        # All of that did nothing; what is right still does what it says.
        assert all(not json.loads(text)["done"] for text in replies())
        assert not [m for m in story.heard("alert") if m["muted_until"] or m["acknowledged"]]
        await mouth.publish(f"{SET}/mute", json.dumps(good).encode(), qos=1, properties=below)
        await until(lambda: any(topic == f"{PREFIX}/answer/mouth-1" for topic, _ in heard))
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    topics = {topic for topic, _ in heard}
    assert {t for t in topics if "answer" in t} == {f"{PREFIX}/answer", f"{PREFIX}/answer/mouth-1"}
    assert all(t.startswith(f"{PREFIX}/") for t in topics)
    state = await asyncio.to_thread(
        eventually, lambda: [m for m in story.heard("alert") if m["muted_until"]], within_s=5.0
    )
    assert state
    assert pipeline.process.poll() is None
    assert story.heard("status") == ["online"]
    assert story.heard("health")[-1]["state"] == "ok"
    assert "Traceback" not in pipeline.said
    assert await asyncio.to_thread(pipeline.stop) == 0
    measured(f"{n_sent:,} to a running classifier: effects", 0)


@pytest.fixture
def mosquitto(tmp_path):
    broker = Mosquitto(tmp_path / "mosquitto").start()
    yield broker
    broker.kill()


@pytest.mark.broker
@pytest.mark.timeout(60)
@pytest.mark.fault(34)
async def test_a_flood_of_commands_holds_up_no_alert(mosquitto, tmp_path, measured):
    settings = mosquitto.settings
    longest_s, n_sent = 0.0, 0

    def answered(command):
        for _ in range(50):  # a machine that is slower than who floods it: there are always more
            sink.answer(command, b'{"done":false}')

    async def flood(mouth):
        nonlocal n_sent
        while True:
            for _ in range(20):
                await mouth.publish(f"{BED.commands}/mute", b"x", qos=0)
                n_sent += 1
            await asyncio.sleep(0.01)

    async with (
        publisher(settings, tmp_path, on_command=answered) as sink,
        aiomqtt.Client(settings.host, settings.port, identifier="mouth") as mouth,
        subscriber(settings) as inbox,
    ):
        await inbox.until(lambda: inbox.statuses)
        flooding = asyncio.create_task(flood(mouth))
        await inbox.until(lambda: len(inbox.of("answer")) > 200)
        for seq in range(10):
            begun_s = time.monotonic()
            await sink.event(event(seq))
            sink.alert_state(alert("ok" if seq % 2 else "poor"))
            await inbox.until(lambda n=seq + 1: len(inbox.of("event")) >= n)
            longest_s = max(longest_s, time.monotonic() - begun_s)
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
    assert longest_s < 2.0
    measured(f"an alert's way through a flood of {n_sent:,} commands, at most", longest_s, "s")


@pytest.mark.broker
@pytest.mark.fault(34)
async def test_a_message_of_many_megabytes_never_reaches_a_classifier(mosquitto, tmp_path):
    settings, heard = mosquitto.settings, []
    async with (
        publisher(settings, tmp_path, on_command=heard.append) as sink,
        aiomqtt.Client(settings.host, settings.port, identifier="mouth") as mouth,
    ):
        await until(lambda: sink.counters.published >= 3)
        await mouth.publish(f"{BED.commands}/mute", b"x" * 20_000_000, qos=1)
        await mouth.publish(f"{BED.commands}/mute", b"small", qos=1)
        await until(lambda: heard)
        assert sink.connected
    assert [len(command.payload) for command in heard] == [len(b"small")]
    assert MAX_PACKET_BYTES < 100_000


async def test_a_flood_of_refusals_is_logged_once_a_second_with_their_number(caplog):
    by = Bystander()
    for _ in range(1_000):
        by.desk.take(Incoming(f"{SET}/mute", b"{}", True))
    assert by.desk.n_refused == len(by.answers) == 1_000
    assert len(caplog.records) <= 3


async def until(holds, *, within_s=20.0):
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while not holds():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert holds()
