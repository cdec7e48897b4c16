"""What subscribers receive."""

import json
import math
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from stream_classifier.health import Condition, Health, Rung, Step
from stream_classifier.signals import (
    AlertEvent,
    ChannelQuality,
    ChannelState,
    EventType,
    Prediction,
    State,
    StreamSpec,
)
from stream_classifier.sinks.messages import (
    MAX_PAYLOAD_BYTES,
    AlertMessage,
    EventMessage,
    HealthMessage,
    InfoMessage,
    Message,
    MessageBuilder,
    ModelRef,
    PredictionMessage,
    QualityMessage,
    Threshold,
    WallClock,
    iso_utc,
    json_schema,
    shown,
    stamped,
    stamped_event,
    standing_alert,
)
from stream_classifier.sinks.topics import Topics

DECIDED = datetime(2026, 11, 23, 14, 32, 15, 100_000, UTC)
CLOCK = WallClock(offset_s=DECIDED.timestamp() - 1000)
TYPES: tuple[type[Message], ...] = (
    AlertMessage, EventMessage, PredictionMessage, QualityMessage, InfoMessage, HealthMessage,
)  # fmt: skip

# As in the documentation for subscribers: what they may rely on for ever.
DOCUMENTED_ALERT = """
{"schema":"stream_classifier/alert/1","stream":"bed3","seq":40213,
 "ts":"2026-11-23T14:32:15.112Z","state":"alert","signal":"ok","on":true,
 "priority":"high","alert_id":"9f3c1e","onset":"2026-11-23T14:32:12.400Z",
 "raised":"2026-11-23T14:32:15.100Z","ended":null,
 "p":0.94,"p_max":0.97,"threshold":{"raise":0.8,"clear":0.5},"channels":["C3","T7"],
 "quality":"fair","latched":true,"acknowledged":false,"late":false,"durable":true,"test":false,
 "decided":"2026-11-23T14:32:15.113Z","published":"2026-11-23T14:32:15.114Z",
 "model":{"name":"bonn","sha256":"00"},"source":{"kind":"lsl","source_id":"x"},
 "simulated":false,"intended_use":"research","muted_until":null}
"""


def builder(
    *, name: str = "bed3", labels: tuple[str, ...] = ("C3", "T7"), **more: Any
) -> MessageBuilder:
    return MessageBuilder(
        spec=StreamSpec(name, "amp-1", rate_hz=256.0, labels=labels, **more),
        model=ModelRef("bonn", "ab" * 32, raise_threshold=0.8, clear_threshold=0.5),
        clock=CLOCK,
    )


def event(kind: EventType = EventType.RAISED, **changed: Any) -> AlertEvent:
    facts: dict[str, Any] = {
        "type": kind,
        "alert_id": "9f3c1e",
        "seq": 0,
        "at_s": 1000.0,
        "onset_s": 997.3,
        "raised_s": 1000.0,
        "off_s": None,
        "p": 0.94,
        "p_max": 0.97,
        "channels": ("C3", "T7"),
    }
    return AlertEvent(**(facts | changed))


def prediction(
    n_channels: int = 2, *, value: float = 0.3, p: float | None = 0.3, state: State | None = None
) -> Prediction:
    return Prediction(
        end_index=119,
        at_s=1000.0,
        probabilities=np.full((n_channels, 3), value, np.float32),
        smoothed=np.full(n_channels, value, np.float32),
        reasons=("",) * n_channels,
        p=p,
        state=state,
    )


def quality(label: str, state: str = "poor", **changed: Any) -> ChannelQuality:
    facts: dict[str, Any] = {
        "label": label,
        "state": ChannelState(state),
        "reasons": () if state == "good" else ("out of range", "motion", "hold-off"),
        "rms_uv": 12345.678,
        "mains_share": 0.98765,
        "flat_share": 0.54321,
        "railed_share": 1.0,
        "gain": 2.34567,
    }
    return ChannelQuality(**(facts | changed))


def all_messages(made_by: MessageBuilder) -> list[Message]:
    n = made_by.spec.n_channels
    return [
        made_by.alert(
            at_s=1000.0,
            prediction=prediction(n, state=State.ALERT),
            latest=event(channels=made_by.spec.labels),
            signal="ok",
            decided=DECIDED,
            quality="fair",
        ),
        made_by.alert(at_s=0, prediction=None, latest=None, signal="starting", decided=None),
        made_by.event(
            event(channels=made_by.spec.labels), state=State.ALERT, signal="ok", decided=DECIDED
        ),
        made_by.prediction(prediction(n), signal="ok", decided=DECIDED),
        made_by.quality([quality(label) for label in made_by.spec.labels], at_s=1, signal="poor"),
        made_by.quality([], at_s=0, signal="starting"),
        made_by.health(
            Health(1.0, tuple(Step(rung, Condition.FAULT, 0.5, "é" * 9999, "x") for rung in Rung)),
            counters={"samples": 1},
        ),
        made_by.info(
            at=DECIDED,
            topics=Topics(made_by.spec.name).by_name(),
            versions={"stream_classifier": "0.1.0"},
            card={"accuracy": 0.86, "limits": "é" * 1000, "worst": math.nan},
        ),
    ]


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} in a payload")


def fields_of(message: Message) -> dict[str, Any]:
    return dict(json.loads(message.to_json(), parse_constant=refuse_constant))


def test_the_documented_alert_is_what_is_published() -> None:
    documented = json.loads(DOCUMENTED_ALERT)
    message = AlertMessage.model_validate_json(DOCUMENTED_ALERT)
    assert fields_of(message) == documented


@pytest.mark.parametrize("kind", TYPES)
def test_schemas_are_valid_json_schema_2020_12(kind: type[Message]) -> None:
    schema = json_schema(kind)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_every_message_satisfies_its_schema() -> None:
    for message in all_messages(builder()):
        validator = jsonschema.Draft202012Validator(
            json_schema(type(message)),
            format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER,
        )
        validator.validate(fields_of(message))
        assert type(message).model_validate_json(message.to_json()) == message


def test_a_subscriber_that_validates_survives_a_later_field() -> None:
    fields = json.loads(DOCUMENTED_ALERT) | {"battery": 0.5}
    jsonschema.Draft202012Validator(json_schema(AlertMessage)).validate(fields)


def test_we_ourselves_make_no_field_by_mistake() -> None:
    with pytest.raises(ValidationError):
        AlertMessage.model_validate(json.loads(DOCUMENTED_ALERT) | {"raisedd": None})


@pytest.mark.parametrize("n_channels", [1, 64, 512])
@pytest.mark.parametrize("label", ["EEG Fp1-Ref", '"\\' * 40_000, "\x00" * 300, "\U0001f9e0" * 300])
def test_every_payload_stays_small(n_channels: int, label: str) -> None:
    made_by = builder(name=label * 3, labels=(label,) * n_channels)
    for message in all_messages(made_by):
        payload = stamped(message.to_json(), published=iso_utc(DECIDED), seq=10**9)
        assert len(payload) < MAX_PAYLOAD_BYTES


@given(st.text(alphabet=st.characters(), max_size=300), st.integers(3, 200))
def test_foreign_text_is_made_short_and_printable(text: str, max_bytes: int) -> None:
    result = shown(text, max_bytes=max_bytes)
    assert len(json.dumps(result, ensure_ascii=False).encode()) - 2 <= max_bytes
    assert result.isprintable()
    if text.isprintable() and len(json.dumps(text, ensure_ascii=False).encode()) - 2 <= max_bytes:
        assert result == text


def test_an_unknown_probability_is_null_and_never_nan() -> None:
    message = builder().prediction(
        prediction(value=math.nan, p=None), signal="poor", decided=DECIDED
    )
    fields = fields_of(message)
    assert fields["window"] == fields["smoothed"] == [None, None]
    assert fields["p"] is None
    assert fields["state"] is None


@given(st.floats(), st.floats())
def test_no_number_whatever_makes_a_payload_that_is_no_json(value: float, p: float) -> None:
    with np.errstate(over="ignore"):
        made = prediction(value=value, p=p)
    fields_of(builder().prediction(made, signal="ok", decided=DECIDED))
    fields_of(builder().event(event(p=p, p_max=value), state=None, signal="ok", decided=DECIDED))


def test_what_a_channel_is_worth_is_published_channel_by_channel() -> None:
    channels = [quality("C3", "good"), quality("T7", rms_uv=math.nan)]
    fields = fields_of(builder().quality(channels, at_s=1000.0, signal="ok"))
    assert (fields["good"], fields["fair"], fields["poor"], fields["left_off"]) == (1, 0, 1, 0)
    assert fields["ts"] == "2026-11-23T14:32:15.100Z"
    assert [c["channel"] for c in fields["channels"]] == ["C3", "T7"]
    assert fields["channels"][0]["rms_uv"] == 12345.7
    assert fields["channels"][1] == {
        "channel": "T7", "state": "poor", "reasons": ["out of range", "motion", "hold-off"],
        "rms_uv": None, "mains_share": 0.988, "flat_share": 0.543, "railed_share": 1.0,
        "gain": 2.346,
    }  # fmt: skip


def test_of_more_channels_than_fit_the_worst_are_listed_and_all_are_counted() -> None:
    channels = [quality(f"E{i}", "poor" if i % 100 == 99 else "good") for i in range(512)]
    message = builder().quality(channels, at_s=1000.0, signal="ok")
    assert (message.good, message.poor) == (507, 5)
    assert {c.channel for c in message.channels if c.state == "poor"} == {
        f"E{i}" for i in range(99, 512, 100)
    }
    assert [c.state for c in message.channels[:6]] == ["poor"] * 5 + ["good"]
    assert len(message.channels) + message.left_off == 512


def test_64_channels_are_all_listed() -> None:
    channels = [quality(f"EEG CP{i}-REF") for i in range(64)]
    assert builder().quality(channels, at_s=1000.0, signal="ok").left_off == 0


def test_p_of_seizure_is_published_and_the_other_classes_are_not() -> None:
    made = prediction()
    made.probabilities[:] = [0.7, 0.2, 0.1]
    text = builder().prediction(made, signal="ok", decided=DECIDED).to_json().decode()
    assert json.loads(text)["window"] == [0.7, 0.7]
    everything = text + "".join(json.dumps(json_schema(kind)) for kind in TYPES)
    assert "tumo" not in everything


def test_times_are_utc_with_milliseconds_of_the_source_clock() -> None:
    fields = fields_of(builder().event(event(), state=None, signal="ok", decided=DECIDED))
    assert fields["ts"] == "2026-11-23T14:32:15.100Z"
    assert fields["onset"] == "2026-11-23T14:32:12.400Z"
    assert fields["decided"] == "2026-11-23T14:32:15.100Z"


def test_times_are_rounded_to_the_millisecond_and_not_cut() -> None:
    decided = DECIDED.replace(microsecond=999_600)
    fields = fields_of(builder().event(event(), state=None, signal="ok", decided=decided))
    assert fields["decided"] == "2026-11-23T14:32:16.000Z"


def test_another_time_zone_is_written_as_utc() -> None:
    assert iso_utc(DECIDED.astimezone()) == "2026-11-23T14:32:15.100Z"


def test_setting_the_wall_clock_moves_no_alert(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = WallClock.set_now(500.0)
    before = clock.utc(510.0)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert clock.utc(510.0) == before
    assert abs(clock.utc(500.0) - datetime.now(UTC)) < timedelta(seconds=60)


def test_an_alert_ended_when_p_went_low_and_not_when_that_was_certain() -> None:
    ended = event(EventType.ENDED, at_s=1090.0, off_s=1000.0, seq=2)
    fields = fields_of(builder().event(ended, state=State.OK, signal="ok", decided=DECIDED))
    assert fields["ended"] == "2026-11-23T14:32:15.100Z"
    assert (fields["on"], fields["priority"]) == (False, "low")


def test_an_alert_that_went_off_may_come_back_and_is_not_ended() -> None:
    off = event(EventType.UPDATED, off_s=1000.0, seq=1)
    fields = fields_of(builder().event(off, state=State.OK, signal="ok", decided=DECIDED))
    assert (fields["on"], fields["priority"], fields["ended"]) == (False, "low", None)


def test_a_standing_alert_stays_on_when_the_signal_goes() -> None:
    message = builder().alert(
        at_s=1003.0, prediction=None, latest=event(), signal="none", decided=DECIDED
    )
    assert message.on
    assert message.priority == "high"
    assert (message.state, message.signal) == (None, "none")


def test_a_retracted_alert_is_off() -> None:
    message = builder().event(
        event(EventType.RETRACTED, seq=1), state=None, signal="ok", decided=DECIDED
    )
    assert not message.on
    assert message.ended is not None


def test_the_same_step_always_has_the_same_id() -> None:
    ids = [
        builder().event(event(seq=seq), state=None, signal="ok", decided=DECIDED).event_id
        for seq in (0, 0, 1)
    ]
    assert ids == ["9f3c1e.0", "9f3c1e.0", "9f3c1e.1"]


def test_an_event_that_waited_is_sent_late_with_its_own_times() -> None:
    stored = builder().event(event(), state=None, signal="ok", decided=DECIDED).to_json()
    for waited_s, late in ((0.0, False), (5.0, False), (5.1, True), (3600.0, True)):
        published = DECIDED + timedelta(seconds=waited_s)
        sent = json.loads(stamped_event(stored, published=published, seq=7, durable=True))
        assert sent["late"] is late
        assert sent["published"] == iso_utc(published)
        unstamped = {"late", "published", "seq"}
        original = json.loads(stored)
        assert {k: v for k, v in sent.items() if k not in unstamped} == {
            k: v for k, v in original.items() if k not in unstamped
        }


def test_an_event_of_another_version_goes_out_with_every_field_it_had() -> None:
    stored = json.dumps({"decided": iso_utc(DECIDED), "from": "version 9"}).encode()
    sent = json.loads(stamped_event(stored, published=DECIDED, seq=0, durable=False))
    assert sent["from"] == "version 9"
    assert sent["durable"] is False


@pytest.mark.parametrize("damaged", [b"", b"\xff", b"{", b"[]", b"{}", b'{"decided": "soon"}'])
def test_a_damaged_payload_is_an_error_that_can_be_told(damaged: bytes) -> None:
    with pytest.raises(ValueError):
        stamped_event(damaged, published=DECIDED, seq=0, durable=True)


def test_a_hostile_name_is_in_the_payload_only_as_far_as_it_can_be_shown() -> None:
    fields = fields_of(all_messages(builder(name="bed\x00\ud800/+#"))[0])
    assert fields["stream"] == "bed\ufffd\ufffd/+#"


def test_a_simulated_stream_says_so_everywhere() -> None:
    for message in all_messages(builder(simulated=True)):
        assert message.simulated


def test_thresholds_keep_their_plain_names_on_the_wire() -> None:
    threshold = Threshold(raise_=0.8, clear=0.5)
    assert json.loads(threshold.model_dump_json(by_alias=True)) == {"raise": 0.8, "clear": 0.5}


@pytest.mark.parametrize("off_s", [None, 1002.0])
def test_an_alert_that_was_left_standing_is_read_back(off_s: float | None) -> None:
    left = event(EventType.UPDATED, off_s=off_s, at_s=1002.0, seq=7)
    message = builder().event(left, state=State.ALERT, signal="ok", decided=DECIDED)
    later = WallClock(offset_s=CLOCK.offset_s + 500.0)  # the machine was started again
    found = standing_alert(message.to_json(), clock=later)
    assert found is not None
    assert (found.alert_id, found.seq, found.on) == (left.alert_id, 7, left.on)
    assert found.channels == left.channels
    assert found.onset_s == pytest.approx(left.onset_s - 500.0, abs=0.002)
    assert found.raised_s == pytest.approx(left.raised_s - 500.0, abs=0.002)


def test_an_alert_that_is_over_or_a_test_or_nonsense_leaves_nothing_standing() -> None:
    made_by = builder()
    ended = made_by.event(event(EventType.ENDED), state=State.OK, signal="ok", decided=DECIDED)
    test = made_by.event(event(), state=State.OK, signal="ok", decided=DECIDED, test=True)
    for payload in (ended.to_json(), test.to_json(), b"{}", b"\xff", b"[]"):
        assert standing_alert(payload, clock=CLOCK) is None
