"""What a person sees of streams in a terminal."""

import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_classifier.cli import main
from stream_classifier.cli.watch import ASCII_BLOCKS, Board
from stream_classifier.sinks.subscriber import Received
from tests.live_broker import Mosquitto

NOW = datetime(2026, 11, 24, 22, 0, 0, tzinfo=UTC)
RUNGS = ("outlet", "samples", "rate", "quality", "engine", "outbox", "broker")


def received(what, message, *, level="bed3", retained=False):
    is_text = isinstance(message, str)
    return Received(
        received_s=NOW.timestamp(),
        topic=f"stream_classifier/{level}/{what}",
        level=level,
        what=what,
        text=message if is_text else json.dumps(message),
        fields={} if is_text else message,
        retained=retained,
    )


def alert(*, on=False, signal="ok", published=NOW, **more):
    return {
        "stream": "bed3", "simulated": False, "on": on, "signal": signal, "p_max": 0.97,
        "priority": "high" if on else None, "onset": "2026-11-24T21:59:30.000Z",
        "channels": ["C3", "T7"], "threshold": {"raise": 0.8, "clear": 0.5},
        "published": published.isoformat(), **more,
    }  # fmt: skip


def health(**broken):
    rungs = [
        {"rung": rung, "state": "ok", "since": "2026-11-24T21:00:00.000Z", "reason": "",
         "remedy": ""} | broken.get(rung, {})
        for rung in RUNGS
    ]  # fmt: skip
    return {"stream": "bed3", "state": "ok", "rungs": rungs, "decision_latency_ms": {"p50": 4.2}}


def quality(n_channels=8, **poor):
    channels = [
        {"channel": f"C{n}", "state": "good", "reasons": [], "rms_uv": 12.3}
        | ({"state": "poor", "reasons": [poor[f"C{n}"]]} if f"C{n}" in poor else {})
        for n in range(n_channels)
    ]
    return {"good": n_channels - len(poor), "fair": 0, "poor": len(poor), "channels": channels}


def board_of(*messages, at_s=100.0, blocks="▁▂▃▄▅▆▇█"):
    board = Board("mqtt://127.0.0.1:1883", blocks=blocks)
    board.broker_is_there()
    for what, message in (("status", "online"), *messages):
        board.take(received(what, message), at_s=at_s)
    return board


def screen(board, *, now_s=100.0, width=80, height=24):
    lines = board.lines(width=width, height=height, now_s=now_s)
    assert len(lines) <= height
    assert all(line.cell_len <= width for line in lines)
    return "\n".join(line.plain.rstrip() for line in lines)


def test_one_stream_in_80_by_24_has_alert_p_channels_and_ladder():
    board = board_of(
        ("alert", alert(on=True)), ("quality", quality(C2="flat")), ("health", health())
    )
    for n in range(120):
        board.take(received("prediction", {"p": 0.9 if n > 60 else 0.05}), at_s=40 + n / 2)
    seen = screen(board)
    assert "SEIZURE ALERT since" in seen
    assert "p up to 0.97" in seen
    assert "C3, T7" in seen
    assert "p(seizure) 0.90   raises at 0.8, clears at 0.5" in seen
    assert "▁" * 30 in seen
    assert "▇" * 30 in seen or "█" * 30 in seen
    assert "channels: 7 good, 0 fair, 1 poor" in seen
    assert "poor flat" in seen
    assert "ok: outlet, samples, rate, quality, engine, outbox, broker" in seen


def test_what_is_wrong_is_said_with_what_to_do():
    fault = {
        "state": "fault", "since": "2026-11-24T21:59:00.000Z",
        "reason": "the disk takes nothing", "remedy": "make room on the disk",
    }  # fmt: skip
    seen = screen(board_of(("alert", alert()), ("health", health(outbox=fault))))
    assert "outbox: FAULT since" in seen
    assert "the disk takes nothing" in seen
    assert "do: make room on the disk" in seen
    assert "ok: outlet, samples, rate, quality, engine, broker" in seen


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (alert(signal="none"), "NO SIGNAL"),
        (alert(signal="poor"), "POOR SIGNAL"),
        (alert(signal="starting"), "nothing can be said yet"),
    ],
)
def test_no_alert_is_never_said_where_nothing_is_known(message, words):
    seen = screen(board_of(("alert", message)))
    assert words in seen
    assert "no alert" not in seen


def test_no_alert_is_said_while_a_stream_is_well_and_not_a_moment_longer():
    board = board_of(("alert", alert()), ("health", health()))
    assert "no alert   signal ok" in screen(board)
    stale = screen(board, now_s=131.0)
    assert "STALE: nothing heard for 31 s" in stale
    assert "no alert" not in stale
    assert "ok (as of the last that was heard)" in stale


def test_an_alert_stays_in_sight_when_the_stream_falls_silent():
    seen = screen(board_of(("alert", alert(on=True))), now_s=500.0)
    assert "SEIZURE ALERT" in seen
    assert "as of the last that was heard" in seen
    assert "STALE: nothing heard for 7 min" in seen


def test_p_that_is_old_is_no_p():
    board = board_of(("alert", alert()))
    board.take(received("prediction", {"p": 0.1}), at_s=100.0)
    assert "p(seizure) 0.10" in screen(board)
    assert "p(seizure) unknown: the last came 5 s ago" in screen(board, now_s=105.0)


@pytest.mark.parametrize(("status", "words"), [("offline", "OFFLINE"), ("stopped", "STOPPED")])
def test_a_classifier_that_is_gone_is_said(status, words):
    board = board_of(("alert", alert()))
    board.take(received("status", status), at_s=101.0)
    assert words in screen(board, now_s=101.0)
    assert "no alert " not in screen(board, now_s=101.0)


def test_a_broker_that_is_away_is_said_and_what_is_shown_is_old():
    board = board_of(("alert", alert()))
    board.broker_is_away("127.0.0.1:1883: connection refused")
    seen = screen(board)
    assert "BROKER AWAY: 127.0.0.1:1883: connection refused" in seen
    assert "no alert" not in seen
    board.broker_is_there()
    assert "no alert" in screen(board)


def test_what_the_broker_had_kept_is_as_old_as_it_is():
    board = Board("mqtt://127.0.0.1:1883")
    board.broker_is_there()
    board.take(received("status", "online", retained=True), at_s=100.0)
    kept = alert(published=NOW - timedelta(minutes=3))
    board.take(received("alert", kept, retained=True), at_s=100.0)
    assert "STALE: nothing heard for 3 min" in screen(board)


def test_predictions_do_not_make_an_old_no_alert_new():
    board = Board("mqtt://127.0.0.1:1883")
    board.broker_is_there()
    kept = alert(published=NOW - timedelta(hours=20))
    board.take(received("alert", kept, retained=True), at_s=100.0)
    board.take(received("status", "online"), at_s=100.0)
    board.take(received("prediction", {"p": 0.1}), at_s=100.0)
    seen = screen(board)
    assert "STALE: nothing heard for 20 h" in seen
    assert "no alert" not in seen


def test_an_alert_state_that_is_sent_again_is_as_old_as_it_says():
    board = board_of(("alert", alert(published=NOW - timedelta(minutes=3))))
    assert "STALE: nothing heard for 3 min" in screen(board)
    assert "no alert" not in screen(board)


def test_of_several_streams_those_with_an_alert_come_first_then_those_that_are_not_well():
    board = board_of(("alert", alert(stream="bed3")))
    for name, message in (
        ("bed1", alert(stream="bed1", signal="none")), ("bed9", alert(stream="bed9", on=True)),
    ):  # fmt: skip
        board.take(received("status", "online", level=name), at_s=100.0)
        board.take(received("alert", message, level=name), at_s=100.0)
    seen = screen(board)
    assert re.findall(r"^bed\d", seen, re.MULTILINE) == ["bed9", "bed1", "bed3"]
    assert "SEIZURE ALERT" in seen
    assert "NO SIGNAL" in seen


def test_more_streams_and_channels_than_fit_are_counted():
    board = board_of(("alert", alert()), ("quality", quality(300, C250="flat")))
    seen = screen(board)
    assert seen.count("\n") == 23
    assert "C250" in seen  # the worst first
    assert re.search(r"and \d+ more, no worse", seen)
    for n in range(40):
        board.take(received("alert", alert(stream=f"s{n}"), level=f"s{n}"), at_s=100.0)
    assert re.search(r"and \d+ more stream", screen(board))


def test_a_terminal_without_unicode_has_a_curve_too():
    board = board_of(("alert", alert()), blocks=ASCII_BLOCKS)
    board.take(received("prediction", {"p": 1.0}), at_s=100.0)
    assert screen(board).isascii()
    assert "#" in screen(board)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
FIELDS = [
    *(
        "stream",
        "on",
        "signal",
        "p",
        "p_max",
        "onset",
        "channels",
        "threshold",
        "published",
        "ended",
    ),
    *("rungs", "decision_latency_ms", "good", "poor", "muted_until", "priority", "state"),
]


@given(
    messages=st.lists(
        st.tuples(
            st.sampled_from(["alert", "prediction", "quality", "health"]),
            st.dictionaries(st.sampled_from(FIELDS), ANYTHING),
            st.booleans(),
        ),
        max_size=6,
    ),
    size=st.tuples(st.integers(10, 200), st.integers(2, 60)),
)
@settings(deadline=None, max_examples=50)
def test_whatever_somebody_publishes_the_screen_holds_and_obeys_no_escape_code(messages, size):
    board = board_of()
    for what, fields, retained in messages:
        board.take(received(what, fields, retained=retained), at_s=100.0)
    seen = screen(board, width=size[0], height=size[1])
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", seen)


def test_without_a_terminal_it_says_what_to_use_instead(capsys):
    assert main(["watch"]) == 3
    assert "stream-classifier subscribe" in capsys.readouterr().err


@pytest.mark.broker
def test_in_a_terminal_it_shows_what_is_published_and_ends_with_q(tmp_path):
    """... of 80 by 24, and gives the terminal back as it was."""
    import fcntl
    import termios

    from paho.mqtt import publish

    broker = Mosquitto(tmp_path).start()
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    before = termios.tcgetattr(there)
    command = [sys.executable, "-m", "stream_classifier", "watch", "--broker", broker.url]
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
    seen = b""

    def until(words, within_s=20.0):
        nonlocal seen
        deadline_s = time.monotonic() + within_s
        while words not in seen:
            assert time.monotonic() < deadline_s, seen[-2000:].decode(errors="replace")
            if select.select([here], [], [], 0.1)[0]:
                seen += os.read(here, 65_536)

    with subprocess.Popen(
        command, stdin=there, stdout=there, stderr=there, env=environment, start_new_session=True
    ) as process:
        try:
            until(b"nothing heard of any stream yet")
            now = datetime.now(UTC)
            host, port = broker.url.removeprefix("mqtt://").split(":")
            for what, payload in (
                ("status", "online"),
                ("alert", json.dumps(alert(on=True, published=now))),
            ):
                topic = f"stream_classifier/bed3/{what}"
                publish.single(topic, payload, retain=True, hostname=host, port=int(port))
            until(b"SEIZURE ALERT since")
            broker.kill()
            until(b"BROKER AWAY")
            os.write(here, b"q")
            assert process.wait(10) == 0
            assert termios.tcgetattr(there) == before
        finally:
            if process.poll() is None:
                process.kill()
            broker.kill()
            os.close(here)
            os.close(there)
