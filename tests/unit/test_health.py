"""The ladder says of each rung how it stands, since when, why and what to do; never too well."""

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_classifier import health
from stream_classifier.detection.quality import REASONS
from stream_classifier.errors import (
    BrokerUnavailableError,
    EngineError,
    OutboxError,
    ReaderStuckError,
    SamplesExpiredError,
    StreamChangedError,
)
from stream_classifier.health import (
    BROKER_START_S,
    RECENTLY_S,
    START_AT_MOST_S,
    Condition,
    Facts,
    Ladder,
    Rung,
    stopped_health,
)
from stream_classifier.signals import ChannelState, ChannelVerdict, SourceHealth, SourceState

ATTACHED = SourceHealth(state=SourceState.ATTACHED, measured_hz=250.0, samples=1000)
LOST = replace(ATTACHED, state=SourceState.LOST, detail="looking for source_id 'amp-1'")
GOOD = ChannelVerdict("C3", ChannelState.GOOD, ())
ALL_WELL = Facts(
    now_s=100.0,
    source=ATTACHED,
    last_sample_s=100.0,
    nominal_hz=250.0,
    channels=(GOOD, replace(GOOD, label="C4")),
    engine="native (AVX-512)",
)
ORDER = list(Condition)


def facts(now_s=100.0, *, silent_s=0.0, **more):
    return replace(ALL_WELL, now_s=now_s, last_sample_s=now_s - silent_s, **more)


def poor(*reasons, labels=("C3", "C4")):
    """Channels, each with its reason; "" is a good one."""
    return tuple(
        ChannelVerdict(label, ChannelState.POOR, (why,)) if why else replace(GOOD, label=label)
        for label, why in zip(labels, reasons, strict=True)
    )


def look(*looked, ladder=None):
    """The last of some looks, by rung."""
    ladder = ladder or Ladder()
    for one in looked:
        found = ladder.look(one)
    return {step.rung: step for step in found.steps}


def test_where_all_is_well_every_rung_is_ok_and_has_nothing_to_say():
    found = Ladder().look(ALL_WELL)
    assert [step.rung for step in found.steps] == list(Rung)
    assert {step.condition for step in found.steps} == {Condition.OK}
    assert {(step.reason, step.remedy) for step in found.steps} == {("", "")}
    assert found.condition is Condition.OK


SAID = {
    "the device is looked for": (
        Rung.OUTLET,
        [facts(source=replace(ATTACHED, state=SourceState.LOOKING, detail="looking for it"))],
        Condition.STARTING,
        "looking for it",
    ),
    "the device is just gone": (
        Rung.OUTLET,
        [facts(silent_s=2.9, source=LOST)],
        Condition.DEGRADED,
        "amp-1",
    ),
    "the device is gone": (Rung.OUTLET, [facts(silent_s=3.1, source=LOST)], Condition.FAULT, "amp"),
    "no sample came yet": (
        Rung.SAMPLES,
        [facts(silent_s=1.0, source=SourceHealth(state=SourceState.NO_DATA))],
        Condition.STARTING,
        "first sample",
    ),
    "samples stopped": (Rung.SAMPLES, [facts(silent_s=1.6)], Condition.NO_DATA, "1.5 s"),
    "samples stay away": (Rung.SAMPLES, [facts(silent_s=4.1)], Condition.FAULT, "for 4 s"),
    "samples are old": (Rung.SAMPLES, [facts(is_old=True)], Condition.NO_DATA, "2 s old"),
    "the rate is not known": (
        Rung.RATE,
        [facts(source=replace(ATTACHED, measured_hz=None))],
        Condition.STARTING,
        "measured",
    ),
    "the rate is 2% off": (
        Rung.RATE,
        [facts(source=replace(ATTACHED, measured_hz=255.0))],
        Condition.DEGRADED,
        "declares 250 Hz and sends 255.00 Hz",
    ),
    "the rate is 6% off": (
        Rung.RATE,
        [facts(source=replace(ATTACHED, measured_hz=235.0))],
        Condition.FAULT,
        "235.00 Hz",
    ),
    "no window is complete": (
        Rung.QUALITY,
        [facts(has_decided=False)],
        Condition.STARTING,
        "first window",
    ),
    "filters settle": (
        Rung.QUALITY,
        [facts(100), facts(105, channels=poor("settling", "settling"))],
        Condition.STARTING,
        "first window",
    ),
    "no window is ever complete": (
        Rung.QUALITY,
        [facts(100, has_decided=False), facts(100 + START_AT_MOST_S, has_decided=False)],
        Condition.FAULT,
        "samples keep missing",
    ),
    "filters settle again and again": (
        Rung.QUALITY,
        [facts(t, channels=poor("settling", "settling")) for t in (100, 105, 111)],
        Condition.FAULT,
        "samples keep missing",
    ),
    "gains are measured": (Rung.QUALITY, [facts(calibrating=True)], Condition.STARTING, "gains"),
    "one channel is off": (
        Rung.QUALITY,
        [facts(channels=poor("", "flat"))],
        Condition.DEGRADED,
        "1 of 2 channels unusable (flat): C4",
    ),
    "all channels blink": (
        Rung.QUALITY,
        [facts(100), facts(100.5, channels=poor("pop", "pop"))],
        Condition.DEGRADED,
        "no channel can be classified: pop",
    ),
    "all channels are off": (
        Rung.QUALITY,
        [facts(100), facts(101.1, channels=poor("flat", "flat"))],
        Condition.FAULT,
        "no channel can be classified: flat",
    ),
    "the engine lags": (Rung.ENGINE, [facts(behind_s=1.2)], Condition.FAULT, "1.2 s behind"),
    "windows are shed": (Rung.ENGINE, [facts(n_shed=7)], Condition.DEGRADED, "7 windows left out"),
    "the gpu is lost": (
        Rung.ENGINE,
        [facts(engine_fault="the GPU was lost: ECC")],
        Condition.DEGRADED,
        "ECC",
    ),
    "the reader was restarted": (
        Rung.ENGINE,
        [facts(n_restarts=1, restart_reason="RuntimeError: x")],
        Condition.DEGRADED,
        "RuntimeError: x",
    ),
    "the disk is full": (Rung.OUTBOX, [facts(outbox_fault="is full")], Condition.FAULT, "is full"),
    "events were dropped": (
        Rung.OUTBOX,
        [facts(n_dropped=3)],
        Condition.DEGRADED,
        "3 events dropped",
    ),
    "the broker is not there yet": (
        Rung.BROKER,
        [facts(broker_fault="not connected yet")],
        Condition.STARTING,
        "not connected yet",
    ),
    "the broker is away": (
        Rung.BROKER,
        [facts(100), facts(100 + BROKER_START_S, broker_fault="does not answer")],
        Condition.FAULT,
        "does not answer",
    ),
    "the broker refuses": (
        Rung.BROKER,
        [facts(broker_fault="refused. Try: --username")],
        Condition.FAULT,
        "refused.",
    ),
}


@pytest.mark.parametrize(("rung", "looked", "condition", "reason"), SAID.values(), ids=SAID)
def test_a_rung_says_how_it_stands_and_why_and_what_to_do(rung, looked, condition, reason):
    ladder = Ladder()
    for one in looked:
        found = ladder.look(one)
    step = next(step for step in found.steps if step.rung is rung)
    assert step.condition is condition
    assert reason in step.reason
    assert step.remedy or condition is Condition.STARTING
    assert ORDER.index(found.condition) >= ORDER.index(condition)
    assert found.condition is not Condition.OK


@pytest.mark.parametrize("silent", [{"silent_s": 1.6}, {"silent_s": 60.0}, {"is_old": True}])
def test_nothing_is_said_of_what_only_samples_can_tell_while_none_come(silent):
    broken = facts(
        **silent,
        channels=poor("flat", "flat"),
        behind_s=9.0,
        source=replace(ATTACHED, measured_hz=1.0),
    )
    found = look(broken)
    for rung in (Rung.RATE, Rung.QUALITY, Rung.ENGINE):
        assert found[rung].condition is Condition.UNKNOWN
        assert "no samples" in found[rung].reason
    assert found[Rung.OUTBOX].condition is found[Rung.BROKER].condition is Condition.OK


def test_what_an_engine_lost_is_said_without_samples_too():
    found = look(facts(silent_s=9.0, engine_fault="the GPU was lost"))
    assert found[Rung.ENGINE].condition is Condition.DEGRADED


def test_a_silence_is_no_time_without_a_usable_channel():
    """After it the clock of "all channels are poor" starts again: the fault was another."""
    found = look(
        facts(100), facts(110, silent_s=9.0), facts(110.5, channels=poor("hold-off", "hold-off"))
    )
    assert found[Rung.QUALITY].condition is Condition.DEGRADED


@pytest.mark.parametrize("reason", list(health._REMEDIES))
def test_every_reason_of_the_quality_gate_has_a_remedy_of_its_own(reason):
    (step,) = [look(facts(channels=poor("", reason)))[Rung.QUALITY]]
    assert step.remedy == health._REMEDIES[reason]


def test_every_word_a_gate_has_for_a_refusal_has_a_remedy():
    assert set(REASONS) - set(health._REMEDIES) == {"uncorrelated"}  # which refuses nothing


def test_since_is_when_a_rung_came_to_be_as_it_is_and_not_when_its_words_changed():
    ladder = Ladder()
    look(facts(100), ladder=ladder)
    first = look(facts(110, source=replace(ATTACHED, measured_hz=255.0)), ladder=ladder)[Rung.RATE]
    later = look(facts(120, source=replace(ATTACHED, measured_hz=256.0)), ladder=ladder)[Rung.RATE]
    worse = look(facts(130, source=replace(ATTACHED, measured_hz=280.0)), ladder=ladder)[Rung.RATE]
    assert (first.since_s, later.since_s, worse.since_s) == (110, 110, 130)
    assert "256" in later.reason
    assert look(facts(140), ladder=ladder)[Rung.RATE].since_s == 140


def test_what_is_news_is_a_condition_and_not_the_numbers_in_its_reason():
    ladder = Ladder()
    ladder.look(facts(99))
    one, other = (ladder.look(facts(100 + n, broker_fault=f"away {n}")) for n in range(2))
    assert one.gist == other.gist
    assert one.gist != ladder.look(facts(103)).gist


@pytest.mark.parametrize(
    ("field", "rung"),
    [("n_shed", Rung.ENGINE), ("n_restarts", Rung.ENGINE), ("n_dropped", Rung.OUTBOX)],
)
def test_what_happened_is_remembered_for_a_while_and_then_forgiven(field, rung):
    ladder = Ladder()
    at = {}
    for t in (100, 101, 100 + RECENTLY_S - 0.1, 100 + RECENTLY_S + 0.1):
        at[t] = look(facts(t, **{field: 5}), ladder=ladder)[rung].condition
    assert list(at.values()) == [Condition.DEGRADED] * 3 + [Condition.OK]
    again = look(facts(200, **{field: 6}), ladder=ladder)[rung]
    assert again.condition is Condition.DEGRADED


def test_one_that_publishes_nowhere_has_no_broker_to_be_ill():
    away = facts(200, broker_fault="x", has_broker=False)
    assert look(facts(), away)[Rung.BROKER].condition is Condition.OK


def test_many_channels_are_named_in_part():
    labels = tuple(f"E{n}" for n in range(64))
    channels = poor(*["flat"] * 63, "", labels=labels)
    reason = look(facts(channels=channels))[Rung.QUALITY].reason
    assert "63 of 64" in reason
    assert reason.endswith("E7, ...")


A_CHANNEL = st.builds(
    ChannelVerdict,
    st.sampled_from(["C3", "C4"]),
    st.sampled_from(list(ChannelState)),
    st.lists(st.sampled_from(list(health._REMEDIES)), max_size=2).map(tuple),
)
A_SOURCE = st.builds(
    SourceHealth,
    state=st.sampled_from(list(SourceState)),
    detail=st.text(max_size=5),
    measured_hz=st.none() | st.floats(1, 1000),
    samples=st.integers(0, 5),
)
ANYTHING = st.builds(
    Facts,
    now_s=st.floats(0, 1000),
    source=A_SOURCE,
    last_sample_s=st.floats(0, 1000),
    nominal_hz=st.floats(1, 1000),
    is_old=st.booleans(),
    has_decided=st.booleans(),
    calibrating=st.booleans(),
    channels=st.lists(A_CHANNEL, max_size=3).map(tuple),
    engine=st.just("e"),
    engine_fault=st.none() | st.text(max_size=3),
    behind_s=st.floats(0, 5),
    n_shed=st.integers(0, 3),
    n_restarts=st.integers(0, 3),
    outbox_fault=st.none() | st.text(max_size=3),
    n_dropped=st.integers(0, 3),
    broker_fault=st.none() | st.text(max_size=3),
    has_broker=st.booleans(),
)


@given(st.lists(ANYTHING, min_size=1, max_size=6))
def test_the_whole_is_never_better_than_any_rung_and_whatever_is_broken_has_a_reason(looked):
    ladder = Ladder()
    for one in sorted(looked, key=lambda f: f.now_s):
        found = ladder.look(one)
        assert len(found.steps) == len(Rung)
        worst = max(ORDER.index(step.condition) for step in found.steps)
        assert ORDER.index(found.condition) == worst
        assert all(step.since_s <= one.now_s for step in found.steps)
        if one.now_s - one.last_sample_s > 1.5 or one.is_old:
            assert worst >= ORDER.index(Condition.NO_DATA)
        unknown = [s for s in found.steps if s.condition is Condition.UNKNOWN]
        assert not unknown or worst >= ORDER.index(Condition.STARTING)
        for step in found.steps:
            assert not (step.reason and step.condition is Condition.OK)


def test_the_ladder_knows_nothing_of_alerts():
    """Health and alert are two axes: what is not even told cannot be mixed up."""
    names = {field.name for kind in (Facts, health.Health, health.Step) for field in fields(kind)}
    assert not [name for name in names if "alert" in name or name in {"p", "state", "on"}]


# When nobody looks any more


def test_a_classifier_that_was_stopped_leaves_nothing_that_looks_as_if_somebody_still_looked():
    left = stopped_health(5.0)
    assert {step.condition for step in left.steps} == {Condition.UNKNOWN}
    assert left.condition is Condition.UNKNOWN
    assert all("stopped" in step.reason for step in left.steps)


@pytest.mark.parametrize(
    ("why", "rung", "said"),
    [
        (StreamChangedError("x", before="8 ch", now="4 ch"), Rung.OUTLET, "it was 8 ch, it is 4"),
        (SamplesExpiredError(asked=range(1), held=range(2, 3)), Rung.SAMPLES, "asked for"),
        (ReaderStuckError(silent_s=10), Rung.ENGINE, "sign of life"),
        (EngineError("no such"), Rung.ENGINE, "no such"),
        (OutboxError("in use"), Rung.OUTBOX, "in use"),
        (BrokerUnavailableError("gone"), Rung.BROKER, "gone"),
        (RuntimeError("a defect"), Rung.ENGINE, "a defect"),
        (RuntimeError(), Rung.ENGINE, "RuntimeError"),
    ],
)
def test_what_ended_it_is_left_behind_as_a_fault_on_its_rung(why, rung, said):
    left = stopped_health(5.0, why=why)
    assert left.condition is Condition.FAULT
    broken = [step for step in left.steps if step.condition is not Condition.UNKNOWN]
    assert [step.rung for step in broken] == [rung]
    assert said in broken[0].reason
    assert "Try:" not in broken[0].reason
    assert broken[0].remedy
