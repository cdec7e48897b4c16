"""A stream may call itself anything: it reaches no other topic, and no terminal obeys it."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stream_classifier.cli import streams as streams_command
from stream_classifier.errors import (
    AmbiguousStreamError,
    StreamChangedError,
    StreamDescriptionError,
    StreamLostError,
    StreamNotFoundError,
)
from stream_classifier.signals import StreamSpec
from stream_classifier.sinks.messages import (
    MAX_PAYLOAD_BYTES,
    MessageBuilder,
    ModelRef,
    WallClock,
)
from stream_classifier.sinks.topics import Topics, stream_level
from stream_classifier.sources.discovery import StreamSeen, Wanted
from stream_classifier.sources.lsl_runtime import quiet_liblsl
from tests.system.conftest import eventually

N_FAST, N_ALL = 500, 10_000
NASTY = (
    "", "+", "#", "/", "+/#", "../..", "$SYS", "$SYS/broker/clients", "$share/g/t", "a//b", "bed3",
    "bed3/alert", "nul\0nul", "\x1b[2J\x1b[H", "\x1b]0;title\x07", "\x9b2J", "\r\n\r\nalert",
    "\ud800", "\udfff\ud800", "\u202eevil\u2066", "\u2028", "\ufeff", "<script>alert(1)</script>",
    "[bold red]x[/]", "%s%n", "{0}", "'; DROP TABLE outbox; --", "\u0130" * 64, "x" * 65_536,
    "\u20ac" * 65_536, "e\u0301", "\u00e9", "-", "_", "A", "a", "a ", " a", "\U0010ffff",
)  # fmt: skip
NAMES = st.one_of(
    st.sampled_from(NASTY),
    st.text(alphabet=st.characters(), max_size=100),
    st.text(alphabet="aA0-_ +#/$\0\x1b[\x9b\ud800\udfff\u202e\u0130\u00e9", max_size=12),
    st.lists(st.sampled_from(NASTY[:26]), min_size=2, max_size=4).map("".join),
    st.from_regex(r"\A[a-z0-9_-]{1,70}(-[0-9a-f]{32})?\Z"),
)


def _is_valid_topic(topic):
    """MQTT 5, 4.7: what a publish may go to; and nothing that a broker keeps for itself."""
    raw = topic.encode()  # raises for unpaired surrogates
    return (
        1 <= len(raw) <= 65_535
        and not set(topic) & {"+", "#", "\0"}
        and not any(level.startswith("$") or not level for level in topic.split("/"))
        and topic.isprintable()
    )


def _obeyed(text):
    """What of a text a terminal would obey, line ends aside."""
    return {c for c in text if not c.isprintable() and c != "\n"}


def _check_topics(name, seen):
    topics = Topics(name).by_name()
    level = stream_level(name)
    for topic in topics.values():
        assert _is_valid_topic(topic), topic
        assert topic.split("/")[:2] == ["stream_classifier", level]
    assert seen.setdefault(level, name) == name, f"{seen[level]!r} and {name!r} share {level}"
    if not re.fullmatch(r"[a-z0-9_-]*", name):
        assert name not in level


def _check_payload(name):
    spec = StreamSpec(name=name, source_id=name, rate_hz=178.0, labels=(name, "C4"), kind="lsl")
    builder = MessageBuilder(
        spec=spec, model=ModelRef("bonn", "ab", 0.9, 0.5), clock=WallClock(offset_s=1e9)
    )
    message = builder.alert(at_s=1.0, prediction=None, latest=None, signal="starting", decided=None)
    raw = message.to_json()
    assert len(raw) < MAX_PAYLOAD_BYTES
    said = json.loads(raw.decode("utf-8"))
    assert not _obeyed(raw.decode())
    if name.isprintable() and len(name.encode()) < 100:
        assert said["stream"] == said["source"]["source_id"] == name
    else:
        assert not _obeyed(said["stream"])


def _check_words(name):
    """Whatever is printed or logged of a name, no terminal obeys it."""
    seen = StreamSeen(
        name=name, type=name, source_id=name, n_channels=1, rate_hz=178.0, format="float32",
        host=name, uid="u", created_s=0.0, info=None,
    )  # fmt: skip
    said = [
        str(seen),
        str(Wanted(name=name, source_id=name)),
        str(StreamLostError(name)),
        str(StreamChangedError(name, before=name, now=name)),
        str(StreamDescriptionError(f"LSL stream {name!r}: channel {name}")),
        str(AmbiguousStreamError(wanted=str(Wanted(name=name)), candidates=[str(seen)])),
        str(StreamNotFoundError(wanted=str(seen), waited_s=1.0, seen=[str(seen)])),
    ]
    row = {
        "name": name, "type": name, "source_id": name, "n_channels": 1, "rate_hz": 178.0,
        "format": "float32", "host": name, "uid": "u", "answers": True, "age_s": 1.0,
        "labels": [name], "units": [name],
    }  # fmt: skip
    lines = streams_command._lines([row])
    assert len(lines) == 2
    assert all(len(line) < 400 for line in lines)
    for text in (*said, *lines, json.dumps([row])):
        assert not _obeyed(text), text[:200]


def _property(seen):
    @given(name=NAMES)
    @example("")
    @example("x" * 65_536)
    @example("\ud800")
    def check(name):
        _check_topics(name, seen)
        _check_payload(name)
        _check_words(name)

    return check


@pytest.mark.fault(32)
def test_any_name_has_a_topic_of_its_own_and_no_terminal_obeys_it(caplog):
    caplog.set_level(logging.DEBUG)
    seen = {}
    settings(max_examples=N_FAST, deadline=None)(_property(seen))()
    assert len(seen) > N_FAST / 4
    for name in NASTY:
        _check_topics(name, seen)
        _check_payload(name)
        _check_words(name)
    assert not any(_obeyed(record.getMessage()) for record in caplog.records)


@pytest.mark.fault(32)
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_thousand_names_have_topics_of_their_own(measured):
    seen = {}
    settings(max_examples=N_ALL, deadline=None)(_property(seen))()
    measured(f"of {N_ALL:,} names different ones, each with a valid topic of its own", len(seen))


@pytest.mark.fault(32)
@pytest.mark.lsl
@pytest.mark.broker
@pytest.mark.slow
def test_real_streams_with_hostile_names_are_listed_and_published_safely(
    start, mosquitto, measured
):
    pylsl = pytest.importorskip("pylsl")
    quiet_liblsl()
    unique = uuid.uuid4().hex[:8]
    names = [f"{nasty}{unique}" for nasty in ("\x1b[2J\x1b[H", "$SYS/+/#", "\u202e\n", "[red]")]
    outlets = []
    for name in names:
        info = pylsl.StreamInfo(name, "EEG", 1, 178.0, "float32", f"source-{len(outlets)}{unique}")
        info.set_channel_labels(["\x1b[31mC3"])
        info.set_channel_units("microvolts")
        outlets.append(pylsl.StreamOutlet(info))
    listing = start("streams", "--wait", "3")
    assert listing.process.wait(40) == 0
    lines = [line for line in listing.printed.splitlines() if unique in line]
    assert len(lines) == len(names)
    runs = [
        start("run", "--source-id", f"source-{n}{unique}", "--broker", mosquitto.url)
        for n in range(len(names))
    ]
    watcher = start("subscribe", "--broker", mosquitto.url, "--json")
    eventually(lambda: watcher.said.count("listening"), what="the subscriber")
    began = time.monotonic()
    levels = {stream_level(name) for name in names}

    def heard():
        for outlet in outlets:
            outlet.push_sample([1.0])
        return {json.loads(line)["topic"].split("/")[1] for line in _whole(watcher)} >= levels

    eventually(heard, what="messages of every stream")
    assert time.monotonic() > began
    for line in _whole(watcher):
        message = json.loads(line)
        assert _is_valid_topic(message["topic"])
        assert message["topic"].split("/")[1] in levels
    for command in (*runs, watcher, listing):
        for text in (command.printed, command.said):
            assert not _obeyed(text), text[:300]
    measured("real streams with hostile names listed, attached to and published", len(names))


def _whole(command):
    return [line for line in command.printed.splitlines() if line.endswith("}")]
