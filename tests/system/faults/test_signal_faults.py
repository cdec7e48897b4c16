"""What goes wrong with the signal: rows 5, 6, 9 to 14 and 42 of the fault matrix.

Most of it is played through the real timeline and detector as fast as it goes; what live adds is
in the tests with processes at the end.
"""

import itertools
import time

import numpy as np
import pytest

from stream_classifier.bundle import load_bundle
from stream_classifier.detection.detector import Detector, DetectorSettings
from stream_classifier.engines import make_engine
from stream_classifier.evaluation.playing import read_head
from stream_classifier.signals import Chunk, Prediction, StreamSpec

from ..conftest import eventually
from . import invariants
from .offline import START_S, Block, pink, play, synthetic

BUNDLES = ("bonn", "headset")


def slow(*case):
    """A case for `make test-faults`, beside those that every run has."""
    return pytest.param(*case, marks=pytest.mark.slow)


FOUR = ("C3", "C4", "O1", "O2")
SEIZURE = (("background", 8), ("seizure", 20), ("background", 12))


@pytest.fixture(scope="module", params=BUNDLES)
def bundle(request):
    return load_bundle(request.param)


def seconds_of(blocks):
    return np.concatenate([block.samples for block in blocks])


# Row 5: missing samples


@pytest.mark.fault(5)
@pytest.mark.parametrize(
    ("seconds", "chunk_samples"), [(1.7, 4), slow(1.0, 1), (3.0, 100), slow(10.0, 4), slow(10.0, 1)]
)
def test_missing_samples_are_counted_to_the_sample_and_nothing_is_invented(
    bonn, measured, seconds, chunk_samples
):
    whole = seconds_of(synthetic(("background", 30)))
    played = play(
        [Block(whole)],
        f"gap:at=10,seconds={seconds}",
        bundle=bonn,
        chunk_samples=chunk_samples,
    )
    n_lost = round(seconds * 178)
    assert (played.timeline.n_gaps, played.timeline.n_missing) == (1, n_lost)
    lost = range(1780, 1780 + n_lost)
    assert played.indices == [index for index in range(len(whole)) if index not in lost]
    np.testing.assert_array_equal(played.samples, whole[played.indices])
    invariants.all_of(played)
    measured("gaps of 1 to 10 s counted: error", 0, "samples")


@pytest.mark.fault(5)
@pytest.mark.parametrize("share", [slow(0.002), 0.02, slow(0.2)])
def test_single_lost_samples_are_counted_exactly_and_no_window_holds_a_hole(bonn, share):
    played = play(synthetic(("background", 30)), f"drop:at=5,share={share}", bundle=bonn)
    n_sent = 30 * 178
    last = max(played.indices)
    held = played.timeline.n_held
    assert held <= 178
    assert played.timeline.n_missing == last + 1 - len(played.indices)
    assert len(played.indices) == played.n_pushed - held
    assert last < n_sent
    invariants.all_of(played)


@pytest.mark.fault(5)
def test_after_a_gap_everything_begins_anew(bundle):
    whole = seconds_of(synthetic(("background", 30)))
    gains = None if bundle.gain is None else (1.0,)
    played = play([Block(whole)], "gap:at=10,seconds=2", bundle=bundle, gains=gains)
    fresh = Detector(
        bundle=bundle,
        spec=StreamSpec("bed3", "amp-1", 178.0, ("Cz",)),
        engine=make_engine(bundle),
        settings=DetectorSettings(rule=bundle.alarm, gains=gains),
    )
    behind = 12 * 178
    alone = [
        item
        for item in fresh.feed(Chunk(whole[behind:], behind, origin_s=START_S))
        if isinstance(item, Prediction)
    ]
    after = [p for p in played.predictions if p.end_index >= behind]
    assert [p.end_index for p in after] == [p.end_index for p in alone]
    np.testing.assert_array_equal(
        [p.probabilities for p in after], [p.probabilities for p in alone]
    )
    assert [p.reasons for p in after] == [p.reasons for p in alone]


@pytest.mark.fault(5)
@pytest.mark.parametrize("seconds", [slow(1), 10])
def test_a_gap_in_a_seizure_holds_the_alert_and_says_nothing_until_half_a_mean_is_there(
    bundle, measured, seconds
):
    played = play(synthetic(*SEIZURE), f"gap:at=16,seconds={seconds}", bundle=bundle)
    ends_s = 16 + seconds
    (raised,) = played.raised
    assert raised.at_s - START_S < 16
    steps = [e for e in played.events if 15.9 < e.at_s - START_S < ends_s + 1.0]
    assert all(step.on for step in steps)
    assert {event.alert_id for event in played.events} == {raised.alert_id}
    unknown = played.times(lambda p: p.p is None and ends_s < p.at_s - START_S < 30)
    known = played.times(lambda p: p.p is not None and p.at_s - START_S > ends_s)
    assert unknown, "p was known at once"
    n_needed = np.ceil(np.ceil(bundle.alarm.smoothing_s * 178 / 8) / 2)
    n_known_before = sum(not p.reasons[0] for p in played.predictions
                         if ends_s < p.at_s - START_S < known[0])  # fmt: skip
    assert n_known_before + 1 == n_needed
    measured(f"p known again after a gap ({bundle.name})", known[0] - ends_s, "s")
    invariants.all_of(played)


# Row 6: duplicates


@pytest.mark.fault(6)
@pytest.mark.parametrize(
    ("span", "chunk_samples"),
    [("at=0", 32), slow("at=5,seconds=20", 1), slow("at=5,seconds=20", 4)],
)
def test_repeated_samples_are_dropped_counted_and_change_nothing(
    bundle, measured, chunk_samples, span
):
    clean = play(synthetic(*SEIZURE), bundle=bundle, chunk_samples=chunk_samples)
    doubled = play(
        synthetic(*SEIZURE), f"repeat:{span}", bundle=bundle, chunk_samples=chunk_samples
    )
    n_extra = doubled.n_pushed - clean.n_pushed
    assert n_extra >= 20 * 178 - chunk_samples
    assert doubled.timeline.n_duplicates == n_extra
    assert (doubled.timeline.n_gaps, clean.timeline.n_duplicates) == (0, 0)
    assert doubled.indices == clean.indices
    assert doubled.events == clean.events
    assert doubled.raised
    for one, other in zip(doubled.predictions, clean.predictions, strict=True):
        assert one.end_index == other.end_index
        assert one.at_s == other.at_s
        np.testing.assert_array_equal(one.probabilities, other.probabilities)
    measured("duplicates counted: error", 0, "samples; the same events, to the bit")


# Row 7, what needs no process: stamps that go back


@pytest.mark.fault(7)
@pytest.mark.parametrize(
    "spec", ["seconds=0.1,by=0.02", slow("seconds=2,by=0.3"), slow("seconds=0.03,by=4.9")]
)
def test_stamps_that_go_back_for_a_while_lose_no_sample(bonn, spec):
    clean = play(synthetic(*SEIZURE), bundle=bonn)
    played = play(synthetic(*SEIZURE), f"backward:at=11.003,{spec}", bundle=bonn)
    assert played.timeline.n_samples + played.timeline.n_duplicates == played.n_pushed
    assert [e.type for e in played.events] == [e.type for e in clean.events]
    assert [e.alert_id for e in played.events] == [e.alert_id for e in clean.events]
    invariants.all_of(played)


@pytest.mark.fault(7)
def test_a_clock_that_is_set_back_is_one_index_left_out_and_time_never_goes_back(bonn):
    played = play(synthetic(*SEIZURE), "backward:at=11.003,by=3600", bundle=bonn)
    assert (played.timeline.n_gaps, played.timeline.n_missing) == (1, 1)
    ends = [p.end_index for p in played.predictions]
    assert ends == sorted(set(ends))
    assert played.raised
    invariants.all_of(played)


# Row 9: a wrong rate


@pytest.mark.fault(9)
@pytest.mark.parametrize(
    ("said_hz", "true_hz", "rung"),
    [
        slow(178.0, 177.0, "ok"),
        (178.0, 179.0, "ok"),
        slow(178.0, 178.0, "ok"),
        (250.0, 256.0, "degraded"),
        slow(250.0, 245.0, "degraded"),
        (178.0, 188.0, "fault"),
        slow(256.0, 240.0, "fault"),
    ],
)
def test_a_wrong_rate_is_measured_in_10_s_and_judged(bonn, measured, said_hz, true_hz, rung):
    played = play(
        pink(12, n_channels=1, rate_hz=said_hz),
        f"rate:hz={true_hz}",
        bundle=bonn,
        rate_hz=said_hz,
    )
    error = abs(played.timeline.measured_hz / true_hz - 1)
    assert error < 1e-3
    assert (played.timeline.n_gaps, played.timeline.n_duplicates) == (0, 0)
    assert next(look.rate for look in played.health if look.at_s > 10) == rung
    invariants.all_of(played, rate_hz=said_hz)
    measured(f"{true_hz:g} Hz said to be {said_hz:g}: measured, error", max(error * 100, 1e-4), "%")


# Row 10: no numbers


@pytest.mark.fault(10)
@pytest.mark.parametrize(("kind", "share"), [("nan", 0.01), ("inf", 0.01), ("nan", 1.0)])
def test_windows_with_a_value_that_is_no_number_are_skipped_counted_and_never_published(
    bundle, measured, kind, share
):
    played = play(synthetic(*SEIZURE), f"{kind}:at=10,seconds=3,share={share}", bundle=bundle)
    wild = {
        index
        for index, row in zip(played.indices, played.samples, strict=True)
        if not np.isfinite(row).all()
    }
    assert wild
    n_hit = 0
    for p in played.predictions:
        window = range(p.end_index - bundle.window_samples + 1, p.end_index + 1)
        hit = not wild.isdisjoint(window)
        n_hit += hit
        if hit:
            assert p.reasons == ("not finite",)
            assert np.isnan(p.probabilities).all()
    refused = sum(bool(p.reasons[0]) for p in played.predictions)
    assert played.detector.n_windows_refused == refused >= n_hit > 0
    assert played.times(lambda p: not p.reasons[0])[-1] > 38  # the filters have recovered
    assert played.raised
    invariants.all_of(played)
    measured("windows with NaN or Inf that were decided on", 0)


@pytest.mark.fault(10)
def test_a_channel_of_nan_leaves_the_others_at_work(bundle):
    played = play(synthetic(*SEIZURE, n_channels=4), "nan:channels=C3", bundle=bundle, labels=FOUR)
    assert all(p.reasons[0] for p in played.predictions)
    (raised,) = played.raised
    assert "C3" not in raised.channels
    invariants.all_of(played)


# Rows 11 and 12: flat, saturated, clipped


def alarm_after(played, at_s):
    """How long after a time the technical alarm came; and it is the whole stream's."""
    return next(
        look.at_s - at_s for look in played.health if look.at_s > at_s and look.quality == "fault"
    )


MATERIAL = ["model", slow("noise")]
TECHNICAL = [
    pytest.param("flat:at=10", marks=pytest.mark.fault(11)),
    pytest.param("flat:at=10,uv=300", marks=pytest.mark.fault(11)),
    pytest.param("flat:at=10,uv=187500", marks=pytest.mark.fault(12)),
    pytest.param("flat:at=10,uv=-187500", marks=pytest.mark.fault(12)),
    pytest.param("clip:at=10,uv=200,gain=50", marks=pytest.mark.fault(12)),
    pytest.param("clip:at=10,uv=4000,gain=2000", marks=pytest.mark.fault(12)),
]


@pytest.mark.parametrize("spec", TECHNICAL)
@pytest.mark.parametrize("material", MATERIAL)
def test_a_signal_that_is_none_is_a_technical_alarm_and_never_a_seizure(
    bundle, measured, spec, material
):
    blocks = synthetic(("background", 20), n_channels=4) if material == "model" else pink(20)
    played = play(blocks, spec, bundle=bundle, labels=FOUR)
    took_s = alarm_after(played, 10)
    assert took_s <= 3.0
    assert not played.events
    late = [p for p in played.predictions if p.at_s - START_S > 10 + 1.5]
    assert all(all(p.reasons) and p.p is None and p.state is None for p in late)
    invariants.all_of(played)
    measured(
        f"{spec.replace('at=10,', '').replace(':at=10', '')}: technical alarm after", took_s, "s"
    )


@pytest.mark.parametrize("spec", TECHNICAL[1:4:2])
def test_it_does_not_end_an_alert_that_stands(bundle, spec):
    played = play(synthetic(*SEIZURE), spec.replace("at=10", "at=16"), bundle=bundle)
    (raised,) = played.raised
    after = [e for e in played.events if e.at_s - START_S > 16.5]
    assert raised.at_s - START_S < 16
    assert all(event.on for event in after)
    assert alarm_after(played, 16) <= 3.0
    assert {p.state for p in played.predictions if p.at_s - START_S > 18} == {None}


@pytest.mark.fault(11)
def test_one_electrode_off_is_said_and_the_others_still_raise(bundle, measured):
    played = play(
        synthetic(*SEIZURE, n_channels=4), "flat:at=3,channels=C4", bundle=bundle, labels=FOUR
    )
    told = [look for look in played.health if look.at_s > 3 and "C4" in look.reason]
    assert told[0].quality == "degraded"
    assert told[0].at_s - 3 <= 3.0
    (raised,) = played.raised
    assert "C4" not in raised.channels
    assert len(raised.channels) >= 1
    late = [p for p in played.predictions if p.at_s - START_S > 4.5]
    assert all(p.reasons[1] == "flat" and np.isnan(p.probabilities[1]).all() for p in late)
    measured("one electrode off, said after", told[0].at_s - 3, "s")


# Row 13: a wrong unit


@pytest.mark.fault(13)
@pytest.mark.parametrize("x", ["1e-6", "1e-3", "1e3", "1e6"])
@pytest.mark.parametrize("material", MATERIAL)
def test_a_wrong_unit_is_a_fault_and_no_gain_makes_up_for_it(bundle, measured, x, material):
    blocks = synthetic(*SEIZURE, n_channels=4) if material == "model" else pink(100)
    played = play(blocks, f"gain:x={x}", bundle=bundle, labels=FOUR)
    took_s = alarm_after(played, 0)
    assert took_s <= 5.0
    assert {look.quality for look in played.health if look.at_s > took_s} == {"fault"}
    assert not played.events
    assert all(p.p is None for p in played.predictions)
    assert played.detector.gains == (1.0,) * 4
    measured(f"x{x}: FAULT after", took_s, "s")


@pytest.mark.fault(13)
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("x", ["1e-6", "1e-3", "1e3", "1e6"])
def test_a_wrong_unit_of_real_heads_is_a_fault_all_the_time(heads, measured, x):
    bundle = load_bundle("headset")
    for head in heads[1::8]:
        played = play_head(head, f"gain:x={x}", bundle=bundle, seconds=100)
        assert alarm_after(played, 0) <= 5.0
        assert all(p.p is None for p in played.predictions)
        assert set(played.detector.gains) == {1.0}
    measured(f"x{x}, real heads: windows decided on", 0)


# Row 14: what heads and rooms add


@pytest.fixture
def heads(data_folder):
    """Recordings of healthy people with a headset: every alarm on them is a false one."""
    files = sorted((data_folder / "headset_epoc").glob("*.edf"))
    if not files:
        pytest.skip("no recordings of heads: headset_epoc in the data folder")
    return [read_head(file) for file in files]


def play_head(head, *specs, bundle, seconds=None):
    n = len(head.samples) if seconds is None else round(seconds * head.rate_hz)
    step = round(head.rate_hz)
    blocks = (Block(head.samples[at : min(at + step, n)]) for at in range(0, n, step))
    return play(
        blocks,
        *specs,
        bundle=bundle,
        labels=head.labels,
        rate_hz=head.rate_hz,
        chunk_samples=64,
    )


ARTEFACTS = ["hum:uv=300", "blink:uv=200", "chew:uv=300", "motion:uv=1500"]
EPOC = ("AF3", "F7", "F3", "FC5", "T7", "P7", "O1", "O2", "P8", "T8", "FC6", "F4", "F8", "AF4")


@pytest.mark.fault(14)
@pytest.mark.parametrize("spec", ARTEFACTS)
def test_artefacts_raise_no_alarm_and_are_told(measured, spec):
    headset = load_bundle("headset")
    played = play(pink(40), spec.replace(":", ":at=10,", 1), bundle=headset, labels=FOUR)
    assert not played.events
    invariants.all_of(played)
    told = [p for p in played.predictions if set(p.quality) != {"good"}]
    before, after = (
        float(np.mean([p in told for p in played.predictions if (p.at_s - START_S > 10) is late]))
        for late in (False, True)
    )
    kind = spec.partition(":")[0]
    if kind == "blink":  # not large enough to be a reason, and no alarm either
        measured(f"{spec}: not flagged, no alarm", falls_short="blinks are not flagged as such")
        return
    assert after > max(0.2, 2 * before)
    measured(f"{kind}: windows flagged", after * 100, "%, no alarm")


@pytest.mark.fault(14)
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_real_heads_raise_no_more_than_was_reported(heads, measured):
    """As ``evaluate --recordings`` does, all people; docs/heads.md tells of the two."""
    headset = load_bundle("headset")
    n_alarms, hours = 0, 0.0
    for head in heads:
        played = play_head(head, bundle=headset)
        on = [False, *(event.on for event in played.events)]
        n_alarms += sum(now and not before for before, now in itertools.pairwise(on))
        hours += head.duration_s / 3600
        invariants.nothing_is_nan(played.payloads[::50])
    assert n_alarms <= 2
    measured(
        f"false alarms in {hours:.2f} h of {len(heads)} real heads",
        n_alarms,
        falls_short=f"{n_alarms} false alarm(s) on real heads where the target is none"
        if n_alarms
        else "",
    )


@pytest.mark.fault(14)
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("spec", ARTEFACTS)
def test_artefacts_on_top_of_real_heads_raise_nothing_more(heads, measured, spec):
    headset = load_bundle("headset")
    n_more, minutes, flagged = 0, 0.0, []
    for head in heads[::6]:
        calm = play_head(head, bundle=headset, seconds=120)
        played = play_head(head, spec, bundle=headset, seconds=120)
        n_more += len(played.raised) - len(calm.raised)
        flagged += [set(p.quality) != {"good"} for p in played.predictions]
        minutes += 2
    late = ""
    if spec.startswith("chew"):  # bursts of muscle, 1.4 a second, look like a seizure to it
        assert n_more <= minutes * 60 / 90
        late = f"two minutes of {spec} on a head raise an alert" if n_more > 0 else ""
    else:
        assert n_more <= 0
    assert np.mean(flagged) > 0.2
    measured(
        f"{spec} on {minutes:.0f} min of real heads: more false alarms", n_more, falls_short=late
    )


# Row 42: chattering


@pytest.mark.fault(42)
@pytest.mark.slow
@pytest.mark.parametrize("period_s", [1.0, 1.5, 2.5, 6.0])
def test_a_chattering_probability_is_one_alert_in_90_s_at_most(bundle, measured, period_s):
    n_turns = round(200 / (2 * period_s))
    parts = (("background", 8), *(("seizure", period_s), ("background", period_s)) * n_turns)
    played = play(synthetic(*parts, ("background", 100)), bundle=bundle, look_every_s=10)
    p = np.array(
        [x.p for x in played.predictions if x.p is not None and 8 < x.at_s - START_S < 208]
    )
    crossings = int((np.diff(p >= bundle.alarm.clear_threshold) != 0).sum())
    assert crossings >= 4, "it does not chatter"
    starts = [event.raised_s for event in played.raised]
    assert 1 <= len(starts) <= 3
    assert all(later - sooner >= 90 for sooner, later in itertools.pairwise(starts))
    for ended in (event for event in played.events if event.type == "ended"):
        low = [x.p for x in played.predictions if ended.at_s - 90 < x.at_s < ended.at_s]
        assert max(p for p in low if p is not None) < bundle.alarm.clear_threshold
    assert played.events[-1].type == "ended"
    ids = {event.alert_id for event in played.raised}
    assert len(ids) == len(starts)
    measured(f"{bundle.name}: clear threshold crossed {crossings} times in 200 s: alerts", len(ids))


# The same live: a device, the classifier, a broker and a subscriber, each a process of its own

LIVE = [pytest.mark.lsl, pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(120)]


def live(number, *cases):
    """Cases of a row of the matrix that needs real processes."""
    return [pytest.param(*case, marks=[pytest.mark.fault(number), *LIVE]) for case in cases]


def heard_at(story, what, condition, *, within_s=40.0):
    """When the first message that fulfils a condition was received."""
    line = eventually(
        lambda: next((line for line in story.received(what) if condition(line["message"])), None),
        within_s=within_s,
        what=f"a message on {what}",
    )
    return invariants.seconds(line["received"])


def state_of(message, name):
    return next(step["state"] for step in message["rungs"] if step["rung"] == name)


def began_at(device, word):
    """When a fault began, from what the device says as it sends its first sample."""
    eventually(lambda: f"  {word}\n" in device.said, what=f"the fault {word}")
    return time.time()


@pytest.mark.parametrize("seconds", live(5, (1,), (3,)))
def test_live_a_gap_is_counted_exactly_and_an_alert_that_stands_is_held(story, measured, seconds):
    device = story.device("--wait-for-consumer", "30", "--fault", f"gap:at=12,seconds={seconds}")
    story.pipeline()
    on = story.until_now("alert", lambda m: m["on"])
    began_at(device, "gap/end")
    counters = story.until("health", lambda m: m["counters"]["gaps"])["counters"]
    assert (counters["gaps"], counters["missing_samples"]) == (1, seconds * 178)
    off = story.until("alert/event", lambda m: not m["on"])
    assert off["alert_id"] == on["alert_id"]
    assert invariants.seconds(off["ts"]) - invariants.seconds(on["onset"]) > seconds + 7
    alerts, heard = story.heard("alert"), story.heard("alert/event")
    assert None in {m["state"] for m in alerts if m["on"]}  # the gap itself
    invariants.a_standing_alert_stays_on(alerts, heard)
    invariants.old_data_is_never_shown_as_live(alerts)
    measured("live: gaps of 1 and 3 s counted: error", 0, "samples")


@pytest.mark.parametrize(
    ("true_hz", "state"), live(9, (177, "ok"), (179, "ok"), (182.272, "degraded"), (190, "fault"))
)
def test_live_a_wrong_rate_is_judged(story, measured, true_hz, state):
    story.device("--wait-for-consumer", "30", "--fault", f"rate:hz={true_hz}")
    story.pipeline()
    first_at = heard_at(story, "health", lambda m: m["counters"]["samples"])
    judged_at = heard_at(story, "health", lambda m: state_of(m, "rate") == state)
    assert judged_at - first_at < 15
    if state != "ok":
        health = story.until_now("health", lambda m: state_of(m, "rate") == state)
        reason = next(step["reason"] for step in health["rungs"] if step["rung"] == "rate")
        said_hz = float(reason.split("sends ")[1].split(" Hz")[0])
        assert "178 Hz" in reason
        error = abs(said_hz / true_hz - 1)
        measured(f"live: {true_hz:g} Hz {state} after", judged_at - first_at, "s")
        measured(f"live: {true_hz:g} Hz measured, error", error * 100, "%")
        assert error < 0.01
    assert story.heard("health")[-1]["counters"]["gaps"] == 0


@pytest.mark.parametrize(
    ("bundle_name", "spec"),
    [
        *live(11, ("bonn", "flat:at=4"), ("headset", "flat:at=4")),
        *live(12, ("bonn", "flat:at=4,uv=187500"), ("headset", "clip:at=4,uv=200,gain=50")),
    ],
)
def test_live_a_signal_that_is_none_is_a_fault_within_3_s_and_never_a_seizure(
    story, measured, bundle_name, spec
):
    device = story.device("--wait-for-consumer", "30", "--fault", spec)
    story.pipeline(bundle=bundle_name)
    begun_at = began_at(device, spec.partition(":")[0])
    fault_at = heard_at(story, "health", lambda m: state_of(m, "quality") == "fault")
    poor_at = heard_at(story, "alert", lambda m: m["signal"] == "poor")
    took_s = max(fault_at, poor_at) - begun_at
    late = "" if took_s <= 3 else f"technical alarm after {took_s:.1f} s"
    measured(f"live: {spec} a technical alarm after", took_s, "s", falls_short=late)
    assert took_s < 4.5  # promised: 3 s; the rest is for a busy machine
    began_at(device, "background")
    eventually(lambda: device.said.count("seizure") >= 2, what="the second seizure of the device")
    assert not story.heard("alert/event")
    assert {m["state"] for m in story.heard("alert") if m["signal"] == "poor"} == {None}
    invariants.nothing_is_nan(story.heard("prediction"))


@pytest.mark.parametrize(
    ("bundle_name", "x"),
    live(
        13,
        *(("bonn", x) for x in ("1e-6", "1e-3", "1e3", "1e6")),
        *(("headset", x) for x in ("1e-6", "1e-3", "1e3", "1e6")),
    ),
)
def test_live_a_wrong_unit_is_a_fault_within_5_s(story, measured, bundle_name, x):
    story.device("--wait-for-consumer", "30", "--fault", f"gain:x={x}")
    story.pipeline(bundle=bundle_name)
    first_at = heard_at(story, "health", lambda m: m["counters"]["samples"])
    fault_at = heard_at(story, "health", lambda m: state_of(m, "quality") == "fault")
    took_s = fault_at - first_at
    late = "" if took_s <= 5 else f"x{x}, {bundle_name}: FAULT after {took_s:.1f} s"
    measured(f"live: x{x}, {bundle_name}: FAULT after", took_s, "s", falls_short=late)
    assert took_s < 7.5  # promised: 5 s; the rest is for a busy machine
    health = story.heard("health")[-1]
    reason = next(step["reason"] for step in health["rungs"] if step["rung"] == "quality")
    assert "flat" in reason or "out of range" in reason
    assert not story.heard("alert/event")
