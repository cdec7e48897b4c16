"""A command does what it says, once, in time, or nothing at all; and its sender hears which."""

import asyncio
import contextlib
import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from stream_classifier.errors import ReaderError
from stream_classifier.sinks import commands
from stream_classifier.sinks.commands import (
    MAX_COMMAND_BYTES,
    WAITING_AT_MOST,
    Acknowledge,
    CommandDesk,
    CommandRefusedError,
    Mute,
    read_command,
)
from stream_classifier.sinks.connection import Incoming

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
SET = "stream_classifier/bed3/set"
NONCE = "0123456789abcdef"
ALERT = "9f3c1e" + "0" * 26


def command(*, expires_in_s=30.0, **fields):
    expires = (NOW + timedelta(seconds=expires_in_s)).isoformat()
    return {"nonce": NONCE, "expires": expires} | fields


def payload(**fields):
    return json.dumps(command(**fields)).encode()


def test_what_is_valid_is_read():
    ack = read_command("ack", payload(alert_id=ALERT), now=NOW)
    assert isinstance(ack, Acknowledge)
    assert (ack.alert_id, ack.nonce) == (ALERT, NONCE)
    mute = read_command("mute", payload(minutes=60), now=NOW)
    assert isinstance(mute, Mute)
    assert mute.minutes == 60


@pytest.mark.parametrize(
    ("expires_in_s", "said"),
    [(0, "0 s ago"), (-3600, "3600 s ago"), (121, "121 s"), (1e8, "ahead")],
)
def test_a_command_is_good_from_now_for_two_minutes_and_its_sender_hears_of_the_clocks(
    expires_in_s, said
):
    with pytest.raises(CommandRefusedError, match=said) as refused:
        read_command("mute", payload(minutes=1, expires_in_s=expires_in_s), now=NOW)
    assert refused.value.nonce == NONCE
    assert "clocks of both sides" in str(refused.value)


@pytest.mark.parametrize("expires_in_s", [0.001, 119.9])
def test_within_them_it_is_good(expires_in_s):
    read_command("mute", payload(minutes=1, expires_in_s=expires_in_s), now=NOW)


def test_a_time_of_day_counts_wherever_it_was_written():
    there = timezone(timedelta(hours=5, minutes=45))
    soon = (NOW + timedelta(seconds=5)).astimezone(there).isoformat()
    read_command("mute", payload(minutes=1, expires=soon), now=NOW)
    with pytest.raises(CommandRefusedError, match="5 s ago"):
        read_command("mute", payload(minutes=1, expires=soon), now=NOW + timedelta(seconds=10))


ODD = {
    "no nonce": {"nonce": None},
    "a short nonce": {"nonce": "abc"},
    "a long nonce": {"nonce": "a" * 65},
    "a nonce with a line break": {"nonce": NONCE + "\n"},
    "a nonce of other letters": {"nonce": "ä" * 20},
    "a number for a nonce": {"nonce": 1234567890123456},
    "no time zone": {"expires": "2026-11-24T12:00:30"},
    "a number for a time": {"expires": NOW.timestamp() + 30},
    "the end of time": {"expires": "9999-12-31T23:59:59-12:00"},
    "the beginning of time": {"expires": "0001-01-01T00:00:00+12:00"},
    "no time": {"expires": "soon"},
    "a text for a number": {"minutes": "5"},
    "a claim for a number": {"minutes": True},
    "a part of a minute": {"minutes": 1.5},
    "a negative quiet": {"minutes": -1},
    "an endless quiet": {"minutes": 61},
    "a number of many digits": {"minutes": 10**300},
    "something unknown": {"reason": "because"},
    "a key that a terminal would obey": {"\x1b[2J\n": 1},
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_what_is_no_command_is_refused_in_one_harmless_line(odd):
    with pytest.raises(CommandRefusedError) as refused:
        read_command("mute", json.dumps(command(minutes=5) | odd).encode(), now=NOW)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"nonce":' * 100,
        b"[" * 1000,
        b"NaN",
        b'"\\ud800"',
        payload(minutes=5)[:-1],
        payload(minutes=5) + b"{}",
        "ä".encode("utf-16"),
    ],
)
def test_what_is_no_json_object_of_ours_is_refused(text):
    with pytest.raises(CommandRefusedError):
        read_command("mute", text, now=NOW)


@pytest.mark.parametrize(
    "alert_id", ["", "9f3c1e", ALERT.upper(), ALERT + "\n", None, 7, "../" * 9]
)
def test_an_alert_is_named_in_full_or_not_at_all(alert_id):
    with pytest.raises(CommandRefusedError):
        read_command("ack", payload(alert_id=alert_id), now=NOW)


def test_what_is_too_long_is_not_even_looked_at():
    long = payload(minutes=5) + b" " * MAX_COMMAND_BYTES
    with pytest.raises(CommandRefusedError, match="at most 1024 bytes, found"):
        read_command("mute", long, now=NOW)


@pytest.mark.parametrize("what", ["", "silence", "ack/", "x/ack", "ACK", "a\x1b[2J"])
def test_there_are_two_commands_and_no_others(what):
    with pytest.raises(CommandRefusedError, match="expected ack or mute") as refused:
        read_command(what, payload(alert_id=ALERT), now=NOW)
    assert str(refused.value).isprintable()


class Desk:
    """A desk, and what came of it."""

    def __init__(self):
        self.acknowledged, self.muted, self.answers, self.spent = [], [], [], set()
        self.answered = asyncio.Event()
        self.does = self._acknowledge
        self.desk = CommandDesk(
            topic=SET,
            acknowledge=lambda alert_id: self.does(alert_id),  # noqa: PLW0108 - it changes
            mute=self.muted.append,
            spend=self._spend,
            answer=self._answer,
            now=lambda: NOW,
        )

    async def _acknowledge(self, alert_id):
        if alert_id != ALERT:
            raise LookupError(alert_id)
        self.acknowledged.append(alert_id)
        return self.acknowledged.count(alert_id) == 1

    async def _spend(self, nonce, until):
        assert NOW.timestamp() < until <= NOW.timestamp() + 120
        is_new = nonce not in self.spent
        self.spent.add(nonce)
        return is_new

    def _answer(self, command, payload):
        fields = json.loads(payload)
        assert fields.pop("schema") == "stream_classifier/answer/1"
        self.answers.append((command, fields))
        self.answered.set()

    @contextlib.asynccontextmanager
    async def at_work(self):
        task = asyncio.create_task(self.desk.work())
        try:
            yield self
        finally:
            assert not task.done()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def send(self, what, payload, *, retained=False):
        """Returns the answer."""
        n = len(self.answers)
        self.desk.take(Incoming(f"{SET}/{what}", payload, retained))
        async with asyncio.timeout(5):
            while len(self.answers) == n:
                self.answered.clear()
                await self.answered.wait()
        return self.answers[-1][1]

    @property
    def untouched(self):
        return not self.acknowledged and not self.muted


async def test_an_acknowledgement_reaches_the_alert_once_and_says_so():
    async with Desk().at_work() as desk:
        answer = await desk.send("ack", payload(alert_id=ALERT))
        assert answer == {"nonce": NONCE, "done": True, "reason": "alert 9f3c1e00 is acknowledged"}
        again = await desk.send("ack", payload(alert_id=ALERT, nonce="another" * 3))
        assert again["done"] is True
        assert "was already" in again["reason"]
        assert (desk.desk.n_done, desk.desk.n_refused) == (2, 0)


async def test_quiet_is_asked_for_and_taken_back():
    async with Desk().at_work() as desk:
        answer = await desk.send("mute", payload(minutes=15))
        assert desk.muted == [NOW + timedelta(minutes=15)]
        assert "12:15 UTC" in answer["reason"]
        await desk.send("mute", payload(minutes=0, nonce="b" * 16))
        assert desk.muted[-1] is None


async def test_a_command_that_is_sent_a_second_time_does_nothing():
    async with Desk().at_work() as desk:
        await desk.send("mute", payload(minutes=15))
        answer = await desk.send("mute", payload(minutes=15))
        assert answer == {"nonce": NONCE, "done": False, "reason": "this nonce was used before"}
        assert len(desk.muted) == 1


async def test_a_command_that_the_broker_kept_does_nothing():
    async with Desk().at_work() as desk:
        answer = await desk.send("ack", payload(alert_id=ALERT), retained=True)
        assert (answer["done"], "retained" in answer["reason"]) == (False, True)
        assert desk.untouched
        assert not desk.spent


async def test_an_alert_that_is_not_there_is_said():
    async with Desk().at_work() as desk:
        answer = await desk.send("ack", payload(alert_id="f" * 32))
        assert answer == {"nonce": NONCE, "done": False, "reason": "no alert ffffffff stands"}


@pytest.mark.parametrize("topic", [f"{SET}/x/ack", f"{SET}", "stream_classifier/bed4/set/ack"])
async def test_a_command_is_right_below_its_topic_and_nowhere_else(topic):
    async with Desk().at_work() as desk:
        desk.desk.take(Incoming(topic, payload(alert_id=ALERT), False))
        answer = await desk.send("mute", payload(minutes=1))
        assert answer["done"] is True
        assert not desk.acknowledged
        assert desk.answers[0][1]["done"] is False


async def test_a_command_that_is_refused_leaves_its_nonce_to_be_used():
    async with Desk().at_work() as desk:
        await desk.send("ack", payload(alert_id="nonsense"))
        await desk.send("mute", payload(minutes=1, expires_in_s=-5))
        assert not desk.spent
        assert desk.untouched


async def test_an_expired_command_is_refused_under_its_nonce():
    async with Desk().at_work() as desk:
        answer = await desk.send("mute", payload(minutes=1, expires_in_s=-5))
        assert (answer["nonce"], answer["done"]) == (NONCE, False)
        assert (await desk.send("mute", b"{"))["nonce"] is None


async def test_commands_beyond_what_may_wait_are_refused_at_once_and_the_others_are_done():
    desk = Desk()
    for n in range(WAITING_AT_MOST + 5):
        message = Incoming(f"{SET}/mute", payload(minutes=1, nonce=f"{n:016d}"), False)
        desk.desk.take(message)
    assert [fields["done"] for _, fields in desk.answers] == [False] * 5
    assert f"{WAITING_AT_MOST} commands wait" in desk.answers[0][1]["reason"]
    async with desk.at_work():
        async with asyncio.timeout(5):
            while len(desk.answers) < WAITING_AT_MOST + 5:
                desk.answered.clear()
                await desk.answered.wait()
        answer = desk.answers[-1][1]
    assert answer["done"] is True
    assert len(desk.muted) == WAITING_AT_MOST


async def test_one_that_takes_too_long_is_given_up_and_holds_nobody_up(monkeypatch):
    monkeypatch.setattr(commands, "DONE_WITHIN_S", 0.05)
    async with Desk().at_work() as desk:
        desk.does = lambda _alert_id: asyncio.sleep(60)
        answer = await desk.send("ack", payload(alert_id=ALERT))
        assert answer == {"nonce": NONCE, "done": False, "reason": "not done within 0.05 s"}
        assert (await desk.send("mute", payload(minutes=1, nonce="b" * 16)))["done"] is True


@pytest.mark.parametrize("error", [ReaderError("it has ended"), RuntimeError("a defect")])
async def test_whatever_a_command_falls_over_is_answered_and_the_desk_goes_on(error):
    async def fail(_alert_id):
        raise error

    async with Desk().at_work() as desk:
        desk.does = fail
        answer = await desk.send("ack", payload(alert_id=ALERT))
        assert (answer["nonce"], answer["done"]) == (NONCE, False)
        assert answer["reason"]
        assert (await desk.send("mute", payload(minutes=1, nonce="b" * 16)))["done"] is True


async def test_no_command_says_anything_that_silences_ends_or_hides():
    """There is nothing a desk could call to that end."""
    assert set(commands._COMMANDS) == {"ack", "mute"}
