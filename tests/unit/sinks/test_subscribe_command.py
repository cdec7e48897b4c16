"""What ``subscribe`` tells a person."""

import json
from typing import Any

import pytest

from stream_classifier.cli.subscribe import SILENCE_S, Heartbeats, JsonLines, PlainLines
from stream_classifier.sinks.subscriber import Received

EVENT = {
    "stream": "Bed 3",
    "event_type": "raised",
    "p": 0.94,
    "onset": "2026-11-23T14:32:12.400Z",
    "channels": ["C3", "T7"],
    "durable": True,
}


def received(
    what: str, *, text: str = "", retained: bool = False, level: str = "bed3", **fields: Any
) -> Received:
    return Received(0.0, f"base/{level}/{what}", level, what, text, fields, retained)


def test_silence_of_a_stream_that_is_online_is_reported_once() -> None:
    heartbeats = Heartbeats()
    heartbeats.take(received("status", text="online"), at_s=0.0)
    heartbeats.take(received("alert"), at_s=10.0)
    assert heartbeats.silent(at_s=10.0 + SILENCE_S) == []
    assert heartbeats.silent(at_s=40.0) == [("bed3", 30.0)]
    assert heartbeats.silent(at_s=41.0) == []


def test_what_is_sent_again_is_no_sign_of_life():
    heartbeats = Heartbeats()
    heartbeats.take(received("status", text="online"), at_s=0.0)
    for at_s in range(1, 40):
        heartbeats.take(received("status", text="online"), at_s=float(at_s))
        old = received("alert", published="1969-12-31T22:00:00Z", signal="ok")
        heartbeats.take(old, at_s=float(at_s))
    assert heartbeats.silent(at_s=40.0) == [("bed3", 40.0)]


def test_an_alert_state_that_is_sent_again_is_said_with_its_date(capsys):
    lines = PlainLines()
    lines.take(received("alert", published="1969-12-24T12:00:00Z", signal="ok", on=False))
    assert "signal ok (as of 1969-12-24" in capsys.readouterr().out


def test_silence_is_reported_again_after_heartbeats_came_back() -> None:
    heartbeats = Heartbeats()
    heartbeats.take(received("status", text="online"), at_s=0.0)
    assert heartbeats.silent(at_s=30.0)
    heartbeats.take(received("alert"), at_s=31.0)
    assert heartbeats.silent(at_s=32.0) == []
    assert heartbeats.silent(at_s=60.0)


@pytest.mark.parametrize("status", ["offline", "stopped"])
def test_a_stream_that_is_not_online_is_expected_to_be_silent(status: str) -> None:
    heartbeats = Heartbeats()
    heartbeats.take(received("status", text=status), at_s=0.0)
    heartbeats.take(received("alert", retained=True), at_s=0.0)  # in any order
    assert heartbeats.silent(at_s=100.0) == []


def test_predictions_are_no_heartbeat() -> None:
    heartbeats = Heartbeats()
    heartbeats.take(received("status", text="online"), at_s=0.0)
    heartbeats.take(received("prediction"), at_s=20.0)
    assert heartbeats.silent(at_s=30.0)


def test_each_stream_has_heartbeats_of_its_own() -> None:
    heartbeats = Heartbeats()
    for level in ("bed3", "bed4"):
        heartbeats.take(received("status", text="online", level=level), at_s=0.0)
    heartbeats.take(received("alert", level="bed4"), at_s=20.0)
    assert [level for level, _ in heartbeats.silent(at_s=30.0)] == ["bed3"]


def test_an_alert_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert PlainLines().take(received("event", **EVENT)) == 1
    [line] = capsys.readouterr().out.splitlines()
    for part in ("Bed 3", "SEIZURE ALERT raised", "p 0.94", "C3, T7"):
        assert part in line


@pytest.mark.parametrize(
    ("field", "value", "mark"),
    [
        ("test", True, "[TEST]"),
        ("simulated", True, "[SIMULATED]"),
        ("late", True, "[LATE]"),
        ("durable", False, "[NOT STORED]"),
    ],
)
def test_what_is_special_about_an_alert_is_marked(
    field: str, value: bool, mark: str, capsys: pytest.CaptureFixture[str]
) -> None:
    PlainLines().take(received("event", **EVENT))
    PlainLines().take(received("event", **(EVENT | {field: value})))
    plain, marked = capsys.readouterr().out.splitlines()
    assert mark not in plain
    assert mark in marked


def test_heartbeats_that_say_nothing_new_are_not_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = PlainLines()
    counts = [
        lines.take(received("alert", signal=signal, on=False))
        for signal in ("ok", "ok", "none", "none", "ok")
    ]
    assert counts == [1, 0, 1, 0, 1]
    assert "NO SIGNAL" in capsys.readouterr().out


def test_the_death_of_a_classifier_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    PlainLines().take(received("status", text="offline"))
    assert "WARNING" in capsys.readouterr().out


def test_hostile_fields_print_one_harmless_line(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b[2J\nfake: all is well" + "x" * 10_000
    for value in (hostile, None, 1e400, [hostile], {"a": hostile}):
        fields = dict.fromkeys(
            ("stream", "event_type", "p", "onset", "ended", "channels", "test", "signal"), value
        )
        for what in ("event", "alert"):
            PlainLines().take(received(what, on=True, **fields))
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 10
    assert "\x1b" not in out


def test_json_lines_hold_everything(capsys: pytest.CaptureFixture[str]) -> None:
    lines = JsonLines()
    assert lines.take(received("prediction", p=0.5)) == 1
    assert lines.take(received("status", text="online", retained=True)) == 1
    prediction, status = map(json.loads, capsys.readouterr().out.splitlines())
    assert prediction == {
        "received": "1970-01-01T00:00:00.000Z",
        "topic": "base/bed3/prediction",
        "retained": False,
        "message": {"p": 0.5},
    }
    assert (status["message"], status["retained"]) == ("online", True)


def test_p_is_told_with_two_decimals(capsys: pytest.CaptureFixture[str]) -> None:
    PlainLines().take(received("event", **(EVENT | {"p": 0.9367})))
    PlainLines().take(received("event", **(EVENT | {"p": None})))
    first, second = capsys.readouterr().out.splitlines()
    assert "  p 0.94  " in first
    assert "  p unknown  " in second


def test_an_alert_that_went_off_does_not_shout(capsys: pytest.CaptureFixture[str]) -> None:
    off = EVENT | {"event_type": "updated", "on": False, "ts": "2026-11-23T14:33:10Z"}
    PlainLines().take(received("event", **off))
    PlainLines().take(received("event", **(EVENT | {"event_type": "ended", "on": False})))
    PlainLines().take(received("event", **(EVENT | {"event_type": "updated", "on": True})))
    went_off, ended, on = capsys.readouterr().out.splitlines()
    assert "seizure alert off since " in went_off
    assert "seizure alert ended" in ended
    assert "SEIZURE ALERT updated" in on
    assert "SEIZURE" not in went_off + ended


def test_a_classifier_that_is_stopped_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    lines = PlainLines()
    counts = [
        lines.take(received("alert", signal="ok", on=False)),
        lines.take(received("alert", signal="stopped", on=False)),
        lines.take(received("status", text="stopped")),
        lines.take(received("alert", signal="ok", on=False)),
    ]
    assert counts == [1, 0, 1, 1]
    assert capsys.readouterr().out.count("stopped") == 1


def test_an_alert_that_stands_when_its_classifier_stops_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert PlainLines().take(received("alert", signal="stopped", on=True)) == 1
    assert "SEIZURE ALERT stands" in capsys.readouterr().out
