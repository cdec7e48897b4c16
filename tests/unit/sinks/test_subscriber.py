"""What a subscriber makes of what the broker sends, friendly or not."""

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_classifier.sinks.connection import Incoming
from stream_classifier.sinks.subscriber import REMEMBERED_EVENTS, Received, _read, _Seen


def read(topic: str, payload: bytes) -> Received | None:
    return _read(Incoming(topic, payload, retained=False), base="base", at_s=1.0)


def event(event_id: str, *, decided: str = "now", level: str = "bed3") -> Received:
    received = read(
        f"base/{level}/alert/event", json.dumps({"event_id": event_id, "decided": decided}).encode()
    )
    assert received is not None
    return received


@pytest.mark.parametrize("what", ["alert", "prediction", "info", "quality"])
def test_a_message_is_known_by_its_topic(what: str) -> None:
    received = read(f"base/bed3/{what}", b'{"p": 0.5}')
    assert received is not None
    assert (received.level, received.what, received.fields) == ("bed3", what, {"p": 0.5})


def test_an_event_is_told_from_the_alert_state() -> None:
    assert event("a").what == "event"


def test_status_is_plain_text() -> None:
    received = read("base/bed3/status", b"offline")
    assert received is not None
    assert (received.what, received.text, received.fields) == ("status", "offline", {})


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff\xfe",
        b"[1]",
        b"null",
        b'{"p":',
        b"[" * 15_000,
        b'{"x": "' + b"x" * 20_000 + b'"}',
        b"9" * 5_000,
        b'{"p": ' + b"9" * 400 + b"}",
        b'{"p": NaN}',
        b'{"p": -Infinity}',
        b'{"p": 1e999}',
    ],
)
def test_what_is_no_message_of_ours_is_left_out_and_logged(
    payload: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert read("base/bed3/alert", payload) is None
    assert "no message of ours" in caplog.text


@given(st.text(max_size=40), st.binary(max_size=200))
def test_no_topic_or_payload_whatever_stops_the_subscriber(topic: str, payload: bytes) -> None:
    read(topic, payload)
    read(f"base/{topic}", payload)


def test_an_event_that_is_delivered_twice_is_recognised() -> None:
    seen = _Seen()
    assert [seen.before(event(e)) for e in ("a", "b", "a")] == [False, False, True]


def test_the_same_event_of_another_stream_or_run_is_news() -> None:
    seen = _Seen()
    seen.before(event("a"))
    assert not seen.before(event("a", level="bed4"))
    assert not seen.before(event("a", decided="later"))


def test_states_may_repeat_as_often_as_they_like() -> None:
    seen = _Seen()
    alert = read("base/bed3/alert", b'{"event_id": "a"}')
    assert alert is not None
    assert not seen.before(alert)
    assert not seen.before(alert)


def test_memory_of_events_is_bounded() -> None:
    seen = _Seen()
    for n in range(REMEMBERED_EVENTS + 10):
        seen.before(event(str(n)))
    assert len(seen._newest) == REMEMBERED_EVENTS
    assert seen.before(event(str(REMEMBERED_EVENTS)))
