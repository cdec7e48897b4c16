"""What comes from a broker, or lay in a file of ours: understood, or left out with a reason."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import random
import sqlite3
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_classifier import gain_store
from stream_classifier.bundle import GainSpec
from stream_classifier.cli import subscribe
from stream_classifier.errors import OutboxError
from stream_classifier.gain_store import GainStore, find_gains, read_gains
from stream_classifier.signals import AlertEvent, EventType, StreamSpec
from stream_classifier.sinks.connection import Incoming
from stream_classifier.sinks.messages import (
    MessageBuilder,
    ModelRef,
    WallClock,
    stamped_event,
    standing_alert,
)
from stream_classifier.sinks.outbox import Outbox, read_latest
from stream_classifier.sinks.subscriber import _read, _Seen

CLOCK = WallClock(offset_s=1.7e9)
SPEC = StreamSpec(name="bed3", source_id="x", rate_hz=178.0, labels=("C3", "C4"), kind="lsl")
BUILDER = MessageBuilder(spec=SPEC, model=ModelRef("bonn", "ab", 0.9, 0.5), clock=CLOCK)
EVENT = BUILDER.event(
    AlertEvent(
        type=EventType.RAISED, alert_id="9f3c1e", seq=0, at_s=10.0, onset_s=8.0, raised_s=10.0,
        off_s=None, p=0.95, p_max=0.97, channels=("C3",),
    ),
    state=None, signal="ok", decided=datetime(2026, 1, 1, tzinfo=UTC),
).to_json()  # fmt: skip
ALERT = BUILDER.alert(at_s=1.0, prediction=None, latest=None, signal="poor", decided=None).to_json()

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10)
    | st.sampled_from(["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.9999Z", "nan", "\x1b[2J"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
FIELDS = sorted({*json.loads(EVENT), *json.loads(ALERT)})
WHATS = ("status", "alert", "alert/event", "prediction", "quality", "info", "health", "x/y")


def _obeyed(text):
    return {c for c in text if not c.isprintable() and c != "\n"}


def _see(payload, what, capsys):
    """Take a message the way ``subscribe`` does."""
    incoming = Incoming(f"stream_classifier/bed\x1b3/{what}", payload, retained=False)
    received = _read(incoming, base="stream_classifier", at_s=1.7e9)
    if received is None:
        return False
    seen, heartbeats = _Seen(), subscribe.Heartbeats()
    assert not seen.before(received)
    heartbeats.take(received, at_s=1.0)
    for show in (subscribe.PlainLines(), subscribe.JsonLines()):
        show.take(received)
    assert not _obeyed(capsys.readouterr().out)
    return True


@pytest.mark.filterwarnings("error")
def test_damaged_messages_are_shown_or_left_out(n_cases, mutated, rng, capsys, caplog):
    n_shown = 0
    for _ in range(n_cases):
        payload = mutated(rng.choice((EVENT, ALERT)), EVENT, b"online", b"stopped")
        n_shown += _see(payload, rng.choice(WHATS), capsys)
    assert 0 < n_shown < n_cases
    assert not any(_obeyed(record.getMessage()) for record in caplog.records)


def test_messages_of_odd_values_are_shown_or_left_out(n_examples, capsys):
    @given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4), st.sampled_from(WHATS))
    @settings(max_examples=n_examples, deadline=None)
    def check(fields, what):
        payload = json.dumps({**json.loads(EVENT), **fields}).encode()
        _see(payload, what, capsys)
        standing_alert(payload, clock=CLOCK)
        with contextlib.suppress(ValueError):
            stamped_event(payload, published=datetime.now(UTC), seq=0, durable=True)

    check()


@pytest.mark.parametrize(
    "payload",
    [b"[" * 15_000, b'{"a":' * 3_000, b"9" * 5_000, b"", b"\xff", b"nan", b'"\\ud800"',
     b'{"event_id":"\\ud800"}', b"x" * 20_000, b"null", b"[]"],
    ids=lambda raw: repr(raw[:8]),
)  # fmt: skip
def test_payloads_that_are_no_message_are_left_out(payload, capsys):
    for what in WHATS:
        _see(payload, what, capsys)
    assert standing_alert(payload, clock=CLOCK) is None
    with pytest.raises(ValueError):
        stamped_event(payload, published=datetime.now(UTC), seq=0, durable=True)


@pytest.mark.parametrize("field", ["ts", "onset", "raised", "decided"])
@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.9999-14:00"])
def test_a_time_at_the_end_of_the_calendar_is_no_standing_alert_or_one(field, at):
    payload = json.dumps({**json.loads(EVENT), field: at}).encode()
    found = standing_alert(payload, clock=CLOCK)
    assert found is None or all(map(math.isfinite, (found.at_s, found.onset_s, found.raised_s)))
    with contextlib.suppress(ValueError):
        stamped_event(payload, published=datetime.now(UTC), seq=0, durable=True)


def test_a_damaged_event_is_a_standing_alert_or_none(n_cases, mutated):
    for _ in range(n_cases):
        payload = mutated(EVENT, ALERT)
        found = standing_alert(payload, clock=CLOCK)
        assert found is None or all(map(math.isfinite, (found.at_s, found.p, found.p_max)))
        with contextlib.suppress(ValueError):
            stamped_event(payload, published=datetime.now(UTC), seq=0, durable=True)


async def _use(path):
    """Open an outbox, put an event, see what waits and deliver it all."""
    async with Outbox(path=path, max_age_s=1e9, max_rows=1000) as outbox:
        await outbox.put("new", "stream_classifier/x/alert/event", b"{}")
        for _ in range(20):
            rows = await outbox.pending()
            if not rows:
                break
            for row in rows:
                assert isinstance(row.payload, bytes)
                assert isinstance(row.topic, str)
                await outbox.delivered(row.event_id)


def _version(path):
    return int.from_bytes(path.read_bytes()[60:64], "big", signed=True)


async def _fill(path):
    async with Outbox(path=path, max_age_s=1e9, max_rows=1000) as outbox:
        for n in range(20):
            await outbox.put(f"9f3c1e.{n}", "stream_classifier/bed3/alert/event", EVENT)


def _foreign(path, version, *statements):
    with contextlib.closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(statement)
        database.execute(f"PRAGMA user_version={version}")
        database.commit()


FOREIGN = {
    "other tables": ["CREATE TABLE moz_places (id INTEGER PRIMARY KEY, url TEXT)"],
    "other columns": ["CREATE TABLE outbox (a, b, c)", "INSERT INTO outbox VALUES (1, 2, 3)"],
    "other types": [
        "CREATE TABLE outbox (position, event_id, topic, payload, expendable, put_at)",
        "INSERT INTO outbox VALUES ('x', 1, NULL, 'text', 'y', NULL)",
        "CREATE TABLE latest (topic, payload)",
        "INSERT INTO latest VALUES ('t', 1000000000000)",
    ],
    "a view": ["CREATE VIEW outbox AS SELECT 1 AS position, 'x' AS event_id"],
    "a trigger": [
        "CREATE TABLE latest (topic TEXT PRIMARY KEY, payload BLOB NOT NULL)",
        "CREATE TRIGGER t AFTER INSERT ON latest BEGIN SELECT load_extension('x'); END",
    ],
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("version", [0, 1, -1, 2**31 - 1])
def test_a_foreign_database_is_no_outbox_or_one_that_works(tmp_path, refused, kind, version):
    path = tmp_path / "outbox.sqlite"
    _foreign(path, version, *FOREIGN[kind])
    refused(lambda: asyncio.run(_use(path)))
    for topic in ("t", "stream_classifier/x/alert/event"):
        assert isinstance(read_latest(path, topic), bytes | None)


def test_a_damaged_outbox_is_set_aside_or_works(tmp_path, n_cases, mutated, refused, caplog):
    path = tmp_path / "outbox.sqlite"
    asyncio.run(_fill(path))
    whole = path.read_bytes()
    for n in range(n_cases // 4):
        for old in tmp_path.iterdir():
            old.unlink()
        path.write_bytes(mutated(whole) if n % 5 else random.Random(n).randbytes(5000))
        latest = read_latest(path, "stream_classifier/bed3/alert/event")
        assert isinstance(latest, bytes | None)
        if latest is not None:
            standing_alert(latest, clock=CLOCK)
        # Detection goes on, but where a flipped bit makes it look like a later version's.
        assert not refused(lambda: asyncio.run(_use(path))) or _version(path) > 1
        caplog.clear()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"CREATE INDEX dropped_first", b"CREATE IND\xd9X dropped_first"),
        (b"CREATE INDEX dropped_first", b"CREATE INDEX dropped_\xd9irst"),
        (b"CREATE TABLE latest", b"CREATE TABLE l\xd9test"),
        (b"CREATE TABLE outbox", b"CREATE TABLE outb\xd9x"),
        (b"tableoutboxoutbox", b"tableoutb\xd9xoutbox"),
        (b"9f3c1e.7", b"9f3c1\xd9.7"),
        (b"stream_classifier/bed3", b"stream_classifier/b\xd9d3"),
    ],
)
def test_an_outbox_whose_text_is_no_text_is_set_aside_or_works(tmp_path, refused, old, new):
    path = tmp_path / "outbox.sqlite"
    asyncio.run(_fill(path))
    raw = path.read_bytes()
    assert old in raw
    path.write_bytes(raw.replace(old, new))
    assert isinstance(read_latest(path, "stream_classifier/bed3/alert/event"), bytes | None)
    assert not refused(lambda: asyncio.run(_use(path)))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
@pytest.mark.timeout(20)
def test_an_outbox_that_is_no_file_is_refused_without_waiting(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path):
        assert read_latest(path, "t") is None
        with pytest.raises(OutboxError):
            asyncio.run(_use(path))


GAIN = GainSpec(target_uv=40.0)


def test_damaged_gains_are_read_or_measured_again(tmp_path, n_cases, mutated, caplog):
    store = GainStore(SPEC, folder=tmp_path)
    store.save((2.0, 0.5), GAIN)
    whole = store.path.read_bytes()
    n_none = 0
    for _ in range(n_cases):
        store.path.write_bytes(mutated(whole))
        gains = store.load(GAIN)
        n_none += gains is None
        assert gains is None or all(g is None or GAIN.low <= g <= GAIN.high for g in gains)
        find_gains(folder=tmp_path)
        store.save((1.5, None), GAIN)
        caplog.clear()
    assert 0 < n_none < n_cases


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
@pytest.mark.timeout(20)
def test_gains_in_a_pipe_or_without_end_are_measured_again(tmp_path):
    os.mkfifo(tmp_path / f"a{gain_store.SUFFIX}")
    (tmp_path / f"b{gain_store.SUFFIX}").symlink_to("/dev/zero")
    with (tmp_path / f"c{gain_store.SUFFIX}").open("wb") as file:
        file.truncate(10 * 2**30)
    assert [gains for _, gains in find_gains(folder=tmp_path)] == [None] * 3
    assert read_gains(tmp_path / ("x" * 5000)) is None
    assert np.isfinite(GAIN.high)
