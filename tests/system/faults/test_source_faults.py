"""The device that dies, comes back, comes back as another, hangs: rows 1 to 4 and 7."""

import dataclasses
import itertools
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from stream_classifier.bundle import load_bundle
from stream_classifier.signals import Prediction, StreamSpec

from ..conftest import eventually
from . import invariants
from .journal import JOURNAL, chunks_of

pytestmark = [pytest.mark.lsl, pytest.mark.broker, pytest.mark.slow]

BUSY = 1.5
"""What a busy machine may add to a promise before a test fails; what was measured is told."""

ALWAYS = """
seed = 3
[[part]]
state = "background"
seconds = 6
[[part]]
state = "seizure"
seconds = 14
"""


@pytest.fixture
def promised(measured):
    """Say a measured time and whether it keeps its promise; fail where it is far off."""

    def say(what, took_s, at_most_s):
        late = f"{what} {took_s:.2f} s, promised {at_most_s:g} s" if took_s > at_most_s else ""
        measured(what, took_s, "s", falls_short=late)
        assert took_s <= BUSY * at_most_s, what

    return say


class Watched:
    """A story whose pipeline writes down what it accepts, so that it can be replayed."""

    def __init__(self, story, tmp_path):
        self.story = story
        self.journal = tmp_path / "journal"
        self.scenario = tmp_path / "always.toml"
        self.scenario.write_text(ALWAYS)
        self.started = []

    def ready(self, *, labels="Cz", rate_hz=178):
        """A device that starts at once when told to."""
        device = self.story._start(
            *(self.story.source_id, self.scenario, labels, rate_hz),
            module="tests.system.faults.ready_device",
            stdin=subprocess.PIPE,
        )
        eventually(lambda: "ready" in device.printed, what="a device that is ready")
        return device

    def begin(self, device):
        """Start it, and return when its first sample was."""
        device.tell("go")
        eventually(lambda: "started" in device.printed, what="a device that has started")
        return float(device.printed.split("started ")[1])

    def pipeline(self, *more):
        return self.story.pipeline(
            *more, module="tests.system.faults.journal", environment={JOURNAL: str(self.journal)}
        )

    def first(self, what, condition, *, after, within_s=20.0):
        """When the first message after a time that fulfils a condition was received."""

        def look():
            for line in self.story.received(what):
                if invariants.seconds(line["received"]) > after and condition(line["message"]):
                    return line
            return None

        line = eventually(look, within_s=within_s, what=f"a message on {what}")
        return invariants.seconds(line["received"])

    def check(self, pipeline):
        """Stop, and hold what was heard against a replay of what was accepted."""
        assert pipeline.stop() == 0
        self.story.until_now("status", lambda m: m == "stopped")
        chunks = chunks_of(self.journal)
        bundle = load_bundle("bonn")
        spec = StreamSpec(self.story.source_id, self.story.source_id, 178.0, ("Cz",))
        rule = dataclasses.replace(bundle.alarm, refractory_s=4.0)
        items = invariants.replay(chunks, bundle=bundle, spec=spec, rule=rule)
        predictions = [item for item in items if isinstance(item, Prediction)]
        accepted = [index for chunk in chunks for index in chunk.indices]
        invariants.no_window_spans_a_gap(predictions, accepted, rate_hz=178.0, bundle=bundle)
        heard, alerts = self.story.heard("alert/event"), self.story.heard("alert")
        invariants.alerts_are_those_of_a_replay(heard, invariants.events_in(items))
        invariants.old_data_is_never_shown_as_live(alerts)
        invariants.a_standing_alert_stays_on(alerts, heard)
        invariants.nothing_is_nan([*heard, *alerts, *self.story.heard("prediction")])
        return chunks


@pytest.fixture
def watched(story, tmp_path):
    return Watched(story, tmp_path)


def is_none(message):
    return message["signal"] == "none" and message["state"] is None


def is_ok(message):
    return message["signal"] == "ok" and message["state"] is not None


def rung(message, name):
    return next(step for step in message["rungs"] if step["rung"] == name)


# Row 1


@pytest.mark.fault(1)
@pytest.mark.timeout(180)
@pytest.mark.parametrize("away_s", [0.5, 5.0, 60.0])
def test_a_device_that_is_killed_and_comes_back_is_taken_up_again(
    watched, promised, measured, away_s
):
    first, second = watched.ready(), watched.ready()
    watched.begin(first)
    pipeline = watched.pipeline()
    watched.story.until_now("alert", is_ok)
    first.kill()
    killed_at = time.time()
    if away_s > 2:
        heard_at = watched.first("alert", is_none, after=killed_at)
        promised("no data said after", heard_at - killed_at, 2.0)
        watched.first("health", lambda m: m["state"] in {"no_data", "fault"}, after=killed_at)
    while time.time() < killed_at + away_s:  # the outage is the input, not a wait for something
        time.sleep(0.01)
    back_at = watched.begin(second)
    ok_at = watched.first("alert", is_ok, after=back_at)
    promised(f"away for {away_s:g} s: ok again after", ok_at - back_at, 3.0 + 120 / 178)
    watched.story.until("alert/event", lambda m: m["event_type"] == "raised", within_s=60)
    watched.story.until_now("health", lambda m: rung(m, "samples")["state"] == "ok")
    chunks = watched.check(pipeline)
    holes = [
        (before.indices.stop, after.first_index)
        for before, after in itertools.pairwise(chunks)
        if after.first_index != before.indices.stop
    ]
    assert len(holes) == 1
    reattach_s = (holes[0][1] - holes[0][0]) / 178 - (back_at - killed_at)
    assert -0.3 < reattach_s < 3.0 * BUSY
    measured("of the new data, missed while attaching", max(0.0, reattach_s), "s")
    assert '"reconnects": 1' in pipeline.printed


@pytest.mark.fault(1)
@pytest.mark.timeout(120)
def test_an_alert_that_stands_when_the_device_dies_stays_on(watched):
    device = watched.ready()
    watched.begin(device)
    pipeline = watched.pipeline()
    on = watched.story.until_now("alert", lambda m: m["on"] and is_ok(m))
    device.kill()
    gone = watched.story.until_now("alert", is_none)
    assert (gone["on"], gone["alert_id"]) == (True, on["alert_id"])
    watched.story.until("health", lambda m: m["state"] == "fault")
    assert watched.story.heard("alert")[-1]["on"]
    watched.check(pipeline)
    assert watched.story.heard("alert")[-1]["on"]


# Row 2


@pytest.mark.fault(2)
def test_a_device_that_never_was_is_exit_4_after_the_wait(
    start, mosquitto, source_id, promised, measured
):
    begun_s = time.monotonic()
    command = start("run", "--broker", mosquitto.url, "--source-id", source_id, "--wait", "3")
    assert command.process.wait(30) == 4
    assert source_id in command.said
    assert re.search(r"within 3(\.\d)? s", command.said)
    promised("--wait 3, start and all: exit 4 after", time.monotonic() - begun_s, 3.0 + 3.0)


@pytest.mark.fault(2)
@pytest.mark.timeout(120)
def test_a_service_waits_for_ever_at_little_cost(start, mosquitto, source_id, measured):
    arguments = ("run", "--broker", mosquitto.url, "--source-id", source_id)
    command = start(*arguments, "--wait", "forever")
    eventually(lambda: "model bonn" in command.said or "model headset" in command.said)
    share = cpu_share(command.process.pid, over_s=12)
    assert command.process.poll() is None
    measured("looking at the start: CPU", share * 100, "% of a core")
    assert share < 0.05 * BUSY


@pytest.mark.fault(2)
@pytest.mark.timeout(120)
def test_a_device_that_is_gone_is_a_fault_looked_for_at_little_cost(watched, promised, measured):
    first, second = watched.ready(), watched.ready()
    watched.begin(first)
    pipeline = watched.pipeline()
    watched.story.until_now("alert", is_ok)
    first.kill()
    killed_at = time.time()
    heard_at = watched.first(
        "health", lambda m: rung(m, "outlet")["state"] == "fault", after=killed_at
    )
    promised("gone for good: FAULT after", heard_at - killed_at, 5.0)
    last = rung(watched.story.heard("health")[-1], "outlet")
    assert last["state"] == "fault"
    assert watched.story.source_id in last["reason"]
    assert last["remedy"]
    share = cpu_share(pipeline.process.pid, over_s=15)
    measured(
        "looking for it: CPU",
        share * 100,
        "% of a core",
        falls_short="" if share < 0.05 else f"CPU {share:.1%} while looking",
    )
    assert share < 0.05 * BUSY
    watched.begin(second)
    watched.story.until_now("alert", is_ok)
    watched.story.until_now("health", lambda m: rung(m, "outlet")["state"] == "ok")
    watched.check(pipeline)


def cpu_share(pid, *, over_s):
    """Share of a core that a process used, as the kernel counts."""

    def used_s():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before_s, begun_s = used_s(), time.monotonic()
    time.sleep(over_s)  # the time itself is what is measured over
    return (used_s() - before_s) / (time.monotonic() - begun_s)


# Row 3


@pytest.mark.fault(3)
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("labels", "rate_hz", "now"),
    [("C3,C4,O1,O2", 178, "4 channels"), ("Cz", 256, "256 Hz"), ("C3,C4,O1,O2", 256, "256 Hz")],
)
def test_a_device_that_comes_back_as_another_ends_it_with_both_named(
    watched, promised, labels, rate_hz, now
):
    first, second = watched.ready(), watched.ready(labels=labels, rate_hz=rate_hz)
    watched.begin(first)
    pipeline = watched.pipeline()
    watched.story.until_now("alert", is_ok)
    first.kill()
    watched.story.until_now("alert", is_none)
    back_at = watched.begin(second)
    assert pipeline.process.wait(20) == 4
    promised("another device: exit 4 after", time.time() - back_at, 10.0)
    for word in ("1 channels (Cz), 178 Hz", now):
        assert word in pipeline.said
    assert "Traceback" not in pipeline.said
    last = watched.story.until_now("health", lambda m: m["state"] == "fault")
    words = " ".join(step["reason"] for step in last["rungs"])
    assert "178 Hz" in words
    assert now in words
    watched.story.until_now("alert", lambda m: m["signal"] == "stopped" and m["state"] is None)


# Row 4


@pytest.mark.fault(4)
def test_two_streams_that_match_are_exit_4_with_both_listed_unless_one_is_pinned(
    start, mosquitto, source_id, measured
):
    ids = [f"{source_id}-a", f"{source_id}-b"]
    for one in ids:
        start("simulate", "synthetic", "--name", source_id, "--source-id", one, "--loop")
    arguments = ("run", "--broker", mosquitto.url, "--name", source_id, "--wait", "20")

    def refused():
        command = start(*arguments)
        return command.process.wait(40) == 4 and command

    command = eventually(refused, what="both devices on the network")
    for word in (*ids, "2 LSL streams match", "--source-id"):
        assert word in command.said
    pinned = start(*arguments, "--source-id", ids[1], "--stream", "bed3")
    eventually(lambda: "attached to LSL stream" in pinned.said, what="the pinned one")
    assert ids[1] in pinned.said
    assert pinned.stop() == 0
    measured("exit 4, both named; pinned: attached")


# Row 7


@pytest.mark.fault(7)
@pytest.mark.timeout(120)
@pytest.mark.parametrize("stall_s", [2.5, 4.0])
def test_a_stall_is_told_to_its_length_and_what_is_late_is_never_live(
    watched, promised, measured, stall_s
):
    device = watched.ready()
    watched.begin(device)
    pipeline = watched.pipeline()
    watched.story.until_now("alert", is_ok)
    stopped_at = time.time()
    device.process.send_signal(signal.SIGSTOP)
    heard_at = watched.first("alert", is_none, after=stopped_at)
    while time.time() < stopped_at + stall_s:  # the stall is the input
        time.sleep(0.005)
    resumed_at = time.time()
    device.process.send_signal(signal.SIGCONT)
    promised("stall: no data said after", heard_at - stopped_at, 2.0)
    ok_at = watched.first("alert", is_ok, after=resumed_at)
    measured("ok again after a stall", ok_at - resumed_at, "s")
    eventually(lambda: "samples arrive again" in pipeline.said, what="the stall's length")
    (told_s,) = map(float, re.findall(r"again after ([\d.]+) s", pipeline.said))
    promised("length of the stall: error", abs(told_s - (resumed_at - stopped_at)), 0.05)
    last = watched.story.heard("health")[-1]["counters"]
    assert (last["gaps"], last["missing_samples"], last["duplicates"]) == (0, 0, 0)
    watched.check(pipeline)
    age_s = invariants.longest_live_age_s(watched.story.received("alert"))
    promised("oldest data shown as live as it arrived", age_s, invariants.OLD_S)
