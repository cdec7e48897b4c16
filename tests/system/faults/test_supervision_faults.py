"""What watches the classifier itself: clocks, the event loop, threads, instances, unseen alerts."""

import asyncio
import json
import secrets
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from simulators.scenario import parse as parse_scenario
from simulators.scenario import play as play_scenario
from stream_classifier.errors import BrokerUnavailableError, OutboxError
from stream_classifier.signals import Prediction
from stream_classifier.sinks.connection import Connector
from stream_classifier.sinks.embedded_broker import EmbeddedBroker
from stream_classifier.sinks.outbox import Outbox
from tests.system.conftest import Command, eventually

from .invariants import seconds

pytestmark = [pytest.mark.lsl, pytest.mark.broker, pytest.mark.timeout(180)]

RATE_HZ = 178.0
SAMPLE_S = 1 / RATE_HZ

ONE_SEIZURE = """
title = "one"
seed = 3
[[part]]
state = "background"
seconds = 6
[[part]]
state = "seizure"
seconds = 8
[[part]]
state = "background"
seconds = 200
"""


class Broken(Command):
    """One of our commands with a fault in it: Python that is run before it."""

    def __init__(self, fault, *arguments, log):
        self.log = log
        self.out = log.with_suffix(".out")
        run = "import sys\nfrom stream_classifier.cli import main\nsys.exit(main(sys.argv[1:]))"
        with log.open("ab") as err, self.out.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", f"{fault}\n{run}", *map(str, arguments)],
                stdout=out,
                stderr=err,
            )


@pytest.fixture
def broken(story, tmp_path):
    """The story's pipeline with a fault in it; ``broken(fault, *more)``."""
    commands = []

    def begin(fault, *more):
        def start(*arguments):
            log = tmp_path / f"broken-{len(commands)}.log"
            commands.append(Broken(fault, *arguments, log=log))
            return commands[-1]

        normal, story._start = story._start, start
        try:
            return story.pipeline(*more)
        finally:
            story._start = normal

    yield begin
    for command in commands:
        if command.process.poll() is None:
            command.kill()


def rung(message, name):
    return next(r for r in message["rungs"] if r["rung"] == name)


# Health, end to end


@pytest.mark.slow
def test_health_is_kept_by_the_broker_and_true_from_the_device_to_the_end(story, start, measured):
    device = story.device()
    pipeline = story.pipeline()
    story.until_now("health", lambda m: m["state"] == "ok")
    assert status_of(start, story).process.wait(20) == 0

    device.kill()
    killed_s = time.time()
    silent = story.until("health", lambda m: rung(m, "samples")["state"] == "no_data")
    measured("health says no_data after", seconds(silent["published"]) - killed_s, "s")
    assert seconds(silent["published"]) - killed_s <= 2.0 + 1.0  # and what a busy machine takes
    assert {rung(silent, name)["state"] for name in ("rate", "quality", "engine")} == {"unknown"}
    fault = story.until("health", lambda m: rung(m, "outlet")["state"] == "fault")
    measured("fault after", seconds(fault["published"]) - killed_s, "s")
    assert seconds(fault["published"]) - killed_s <= 5.0 + 1.0
    assert story.source_id in rung(fault, "outlet")["reason"]
    assert "LSL app" in rung(fault, "outlet")["remedy"]
    ill = status_of(start, story)
    assert ill.process.wait(20) == 1
    assert "NOT OK (broken): outlet fault" in ill.printed
    assert story.heard("status")[-1] == "online"

    story.device()
    story.until_now("health", lambda m: m["state"] == "ok")
    assert status_of(start, story).process.wait(20) == 0

    assert pipeline.stop() == 0
    left = story.until_now("health", lambda m: m["state"] == "unknown")
    assert {r["state"] for r in left["rungs"]} == {"unknown"}
    stopped = status_of(start, story)
    assert stopped.process.wait(20) == 1
    assert "stopped, NOT OK" in stopped.printed
    told = start("doctor", "--broker", story.broker.url)
    told.process.wait(60)
    assert "bed3: somebody stopped it" in told.printed


def status_of(start, story):
    return start("status", "--broker", story.broker.url, "--stream", "bed3")


@pytest.mark.slow
def test_a_classifier_that_died_is_never_shown_as_ok(story, start):
    story.device()
    pipeline = story.pipeline()
    story.until_now("health", lambda m: m["state"] == "ok")
    pipeline.kill()
    story.until_now("status", lambda m: m == "offline")
    assert story.heard("health")[-1]["state"] == "ok"  # which the broker keeps
    dead = status_of(start, story)
    assert dead.process.wait(20) == 1
    assert "bed3: offline, NOT OK" in dead.printed
    assert "outlet   (ok)" in dead.printed
    assert "says nothing of now" in dead.printed
    told = start("doctor", "--broker", story.broker.url)
    told.process.wait(60)
    assert "warn  classifiers" in told.printed


@pytest.mark.slow
@pytest.mark.fault(3)
def test_a_device_that_comes_back_another_is_left_behind_as_a_fault_with_old_and_new(
    story, start, measured
):
    device = story.device()
    pipeline = story.pipeline()
    story.until_now("health", lambda m: m["state"] == "ok")
    device.kill()
    story.until_now("health", lambda m: rung(m, "samples")["state"] == "no_data")
    back_s = time.time()
    start(
        *("simulate", "synthetic", "--scenario", story.scenario, "--channels", "C3,C4,Pz,Oz"),
        *("--name", story.source_id, "--source-id", story.source_id),
    )
    left = story.until("health", lambda m: "came back different" in rung(m, "outlet")["reason"])
    measured("health names old and new after", seconds(left["published"]) - back_s, "s")
    assert seconds(left["published"]) - back_s <= 10.0
    assert rung(left, "outlet")["state"] == left["state"] == "fault"
    assert "1 channel" in rung(left, "outlet")["reason"]
    assert "4 channel" in rung(left, "outlet")["reason"]
    assert rung(left, "outlet")["remedy"].startswith("restart the classifier")
    assert pipeline.process.wait(20) == 4
    assert story.until_now("status", lambda m: m == "stopped")
    assert story.heard("health")[-1] == left


# 8: the wall clock

CLOCK_IS_SET = """
import os, time
really = time.time
time.time = lambda: really() + (3600.0 if os.path.exists({trigger!r}) else 0.0)
"""


@pytest.mark.slow
@pytest.mark.fault(8)
def test_a_wall_clock_that_is_set_by_an_hour_is_reported_and_times_go_on(
    story, broken, tmp_path, measured
):
    trigger = tmp_path / "set"
    story.scenario.write_text(ONE_SEIZURE)
    story.device()
    pipeline = broken(CLOCK_IS_SET.format(trigger=str(trigger)))
    raised = story.until("alert/event", lambda m: m["event_type"] == "raised")
    trigger.touch()
    set_s = time.time()
    counted = story.until("health", lambda m: m["counters"]["clock_steps"] == 1)
    measured("a step of the clock is in health after", seconds(counted["published"]) - set_s, "s")
    assert "the wall clock was set by +3600" in pipeline.said
    ended = story.until("alert/event", lambda m: m["event_type"] == "ended")
    assert ended["alert_id"] == raised["alert_id"]
    assert 4.0 < seconds(ended["ts"]) - seconds(raised["ts"]) < 30.0
    assert abs(seconds(ended["published"]) - time.time()) < 30.0


@pytest.mark.slow
@pytest.mark.fault(8)
def test_a_wall_clock_that_is_set_by_an_hour_moves_no_alert(tmp_path, measured):
    """The same recording in real time, by a clock that is set meanwhile and by one that is not."""
    recording, trigger = tmp_path / "seizure.csv", tmp_path / "set"
    blocks = play_scenario(parse_scenario(ONE_SEIZURE.replace("200", "14")))
    values = np.concatenate([block.samples[:, 0] for block in blocks])
    recording.write_text("# rate_hz: 178\nC3 [uV]\n" + "\n".join(map(str, values)) + "\n")
    play = ("run", "--recording", recording, "--speed", "1", "--bundle", "bonn", "--json")
    play += ("--set", "alarm.refractory_s=4")
    fault = CLOCK_IS_SET.format(trigger=str(trigger))
    jumps, steady = (
        Broken(code, *play, log=tmp_path / f"{name}.log")
        for name, code in (("jumps", fault), ("steady", ""))
    )
    try:
        eventually(lambda: '"raised"' in jumps.printed, what="an alert")
        trigger.touch()
        assert [command.process.wait(60) for command in (jumps, steady)] == [0, 0]
    finally:
        jumps.kill()
        steady.kill()
    assert "the wall clock was set by +3600" in jumps.said
    assert "wall clock" not in steady.said
    moved, still = (
        [json.loads(line) for line in command.printed.splitlines()[:-1]]
        for command in (jumps, steady)
    )
    assert [m["event_type"] for m in moved][-1] == "ended"
    assert [m["event_id"] for m in moved] == [m["event_id"] for m in still]
    apart_s = max(
        abs(one[key] - other[key])
        for one, other in zip(moved, still, strict=True)
        for key in ("at_s", "onset_s", "raised_s")
    )
    measured("alert times moved by", 1e3 * apart_s, f"ms (a sample: {1e3 * SAMPLE_S:.3g} ms)")
    assert apart_s <= SAMPLE_S


# 16: the event loop

LOOP_BLOCKS = """
import os, time
from stream_classifier.pipeline import Pipeline

look = Pipeline.look

def a_call_that_should_not_be_made_here(seconds):
    time.sleep(seconds)

def blocking(self):
    if os.path.exists({trigger!r}):
        seconds = float(open({trigger!r}).read())
        os.remove({trigger!r})
        a_call_that_should_not_be_made_here(seconds)
        with open({trigger!r} + ".free", "a") as free:
            free.write(f"{{time.time()}}\\n")
    return look(self)

Pipeline.look = blocking
"""


@pytest.mark.slow
@pytest.mark.fault(16)
def test_a_blocked_event_loop_is_reported_and_costs_no_sample(story, broken, tmp_path, measured):
    trigger, free = tmp_path / "block", tmp_path / "block.free"
    story.device()
    pipeline = broken(LOOP_BLOCKS.format(trigger=str(trigger)))
    story.until_now("health", lambda m: m["state"] == "ok")
    for n, length_s in enumerate((0.1, 1.5, 10.0), start=1):
        said_before = len(pipeline.said)
        new = tmp_path / "new"
        new.write_text(str(length_s))
        new.rename(trigger)
        eventually(lambda n=n: free.exists() and len(free.read_text().split()) == n, within_s=30)
        free_s = float(free.read_text().split()[-1])
        eventually(
            lambda said=said_before: "event loop was blocked for" in pipeline.said[said:],
            within_s=5,
        )
        reported_s = time.time() - free_s
        measured(f"a block of {length_s:g} s: in the log after", reported_s, "s")
        assert reported_s <= 1.0 + 0.5  # half a second to see it from here
        if length_s > 1:
            said = pipeline.said[said_before:]
            assert "has been blocked for 1 s" in said
            assert "a_call_that_should_not_be_made_here" in said
        story.until_now("health", lambda m: m["state"] == "ok")
        time.sleep(5.0 if length_s < 1 else 0)  # the next one is no swarm
    story.until("health", lambda m: m["counters"]["loop_stalls"] >= 3)
    assert pipeline.stop() == 0
    summary = json.loads(pipeline.printed.splitlines()[-1])
    assert (summary["gaps"], summary["missing_samples"], summary["shed"]) == (0, 0, 0)
    # Every 8th sample from the 120th on ends a window; up to a chunk may wait to be worked on.
    due = [(summary["samples"] - late - 120) // 8 + 1 for late in (0, 8)]
    assert due[1] <= summary["windows"] <= due[0]
    measured("samples lost in 11.6 s of blocks", summary["missing_samples"])


# What a service manager hears


@pytest.mark.slow
def test_a_service_manager_hears_of_a_start_without_a_device_of_life_and_of_the_end(
    start, mosquitto, source_id, tmp_path
):
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(20)
        classifier = start(
            *("run", "--source-id", source_id, "--wait", "forever", "--broker", mosquitto.url),
            *("--bundle", "bonn", "--set", f"outbox.path={tmp_path / 'outbox.sqlite'}"),
            environment={"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "600000"},
        )
        assert manager.recv(4096) == b"READY=1\nSTATUS=looking for the stream"
        assert [manager.recv(4096) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        start("simulate", "synthetic", "--name", source_id, "--source-id", source_id)
        heard = []
        while b"STATUS=ok" not in heard:
            heard.append(manager.recv(4096))
        assert f"STATUS=attached to {source_id}".encode() in heard
        classifier.process.send_signal(signal.SIGTERM)
        while heard[-1] != b"STOPPING=1":
            heard.append(manager.recv(4096))
        assert classifier.process.wait(10) == 0


# 36: taken already


@pytest.mark.fault(36)
async def test_an_outbox_that_is_in_use_is_one_clear_error_at_once(tmp_path, measured):
    path = tmp_path / "outbox.sqlite"
    holder = subprocess.Popen(  # noqa: ASYNC220 - milliseconds
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert await asyncio.to_thread(holder.stdout.readline) == b"held\n"
        begun_s = time.monotonic()
        with pytest.raises(OutboxError, match="in use by another process") as refused:
            async with Outbox(path=path, max_age_s=1e6, max_rows=1000):
                pytest.fail("two processes on one outbox")
        took_s = time.monotonic() - begun_s
    finally:
        holder.kill()
        holder.communicate()
    assert "Try:" in str(refused.value)
    measured("an outbox in use: error after", took_s, "s")
    assert took_s <= 1.0


HOLDER = """
import asyncio, sys
from pathlib import Path
from stream_classifier.sinks.outbox import Outbox

async def main():
    async with Outbox(path=Path(sys.argv[1]), max_age_s=1e6, max_rows=1000):
        print("held", flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


@pytest.mark.fault(36)
async def test_a_port_that_is_taken_is_one_clear_error_at_once(measured):
    pytest.importorskip("iotcore", reason="the embedded broker is not installed: [demo] extra")
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        begun_s = time.monotonic()
        with pytest.raises(BrokerUnavailableError, match=f"port {port} on .* is taken") as refused:
            async with EmbeddedBroker(port=port):
                pytest.fail("two brokers on one port")
        took_s = time.monotonic() - begun_s
    assert "Try: another port" in str(refused.value)
    measured("a port taken: error after", took_s, "s")
    assert took_s <= 1.0


@pytest.mark.slow
@pytest.mark.fault(36)
def test_a_second_instance_ends_with_one_line_and_leaves_the_first_alone(story, measured):
    story.device()
    first = story.pipeline()
    story.until_now("health", lambda m: m["state"] == "ok")
    n_statuses = len(story.heard("status"))
    second = story.pipeline()
    eventually(lambda: "attached to LSL stream" in second.said, what="the second one attached")
    attached_s = time.monotonic()
    assert second.process.wait(30) == 1
    took_s = time.monotonic() - attached_s
    late = (
        "" if took_s <= 1.0 else f"a second instance takes {took_s:.1f} s from attaching to its end"
    )
    measured("a second instance has ended after it attached by", took_s, "s", falls_short=late)
    assert "in use by another process" in second.said
    assert "Traceback" not in second.said
    assert first.process.poll() is None
    assert story.heard("status")[n_statuses:] == []
    assert story.until_now("health", lambda m: m["state"] == "ok")


# 39: the GPU


@pytest.mark.fault(39)
@pytest.mark.parametrize("n_before", [3, 60])
async def test_a_gpu_that_is_lost_is_gone_on_without_and_health_says_so(n_before, measured):
    """No GPU is here: a device that is the CPU is taken for one, and raises what CUDA raises."""
    pytest.importorskip("torch", reason="torch is not installed: [torch] extra")
    from stream_classifier.detection.detector import Detector, DetectorSettings
    from tests.unit import test_pipeline as shell
    from tests.unit.engines.test_torch_engine import LOST, Fault, make, taken_for_a_gpu

    reference = shell.make_detector(shell.SPEC)
    decided = [item for chunk in shell.chunks() for item in reference.feed(chunk)]
    alone = [item for item in decided if isinstance(item, Prediction)]
    with taken_for_a_gpu() as patch:
        fault = Fault(patch)

        def detector(spec):
            return Detector(
                bundle=shell.BUNDLE,
                spec=spec,
                engine=make(shell.BUNDLE, "pretended gpu", 8),
                settings=DetectorSettings(rule=shell.RULE),
            )

        source = shell.ScriptedSource(shell.chunks(), silent=True)
        sink = shell.RecordingSink()
        fault.arm(LOST[0], n_before)
        async with shell.make_reader(source, make=detector) as reader:
            running = asyncio.create_task(shell.make_pipeline(reader, sink).run())
            await asyncio.to_thread(source.silence.wait, 60)
            await sink.until(lambda: len(sink.predictions) == len(alone))
            await sink.until(lambda: sink.healths[-1].rungs[4].state == "degraded")
            engine = sink.healths[-1].rungs[4]
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    assert "GPU" in engine.reason
    assert engine.remedy
    off = max(
        abs((m.window[0] or 0.0) - float(p.probabilities[0, 0]))
        for m, p in zip(sink.predictions, alone, strict=True)
    )
    measured(f"GPU lost at call {n_before}: probabilities off by", off, "(four decimals published)")
    assert off <= 1e-4
    assert sink.events


# 40: the reader

READER_DIES = """
import ctypes, os, threading, time

def kill():
    while True:
        time.sleep(0.02)
        if not os.path.exists({trigger!r}):
            continue
        os.remove({trigger!r})
        for thread in threading.enumerate():
            if thread.name == "reader":
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(thread.ident), ctypes.py_object({error})
                )

threading.Thread(target=kill, daemon=True).start()
"""


@pytest.mark.slow
@pytest.mark.fault(40)
@pytest.mark.parametrize("error", ["SystemExit", "RuntimeError"])
def test_a_reader_that_dies_is_started_again_and_the_alert_goes_on(
    story, broken, tmp_path, error, measured
):
    trigger = tmp_path / "kill"
    story.scenario.write_text(ONE_SEIZURE)
    story.device()
    pipeline = broken(READER_DIES.format(trigger=str(trigger), error=error))
    story.until_now("alert", lambda m: m["on"])
    raised = story.heard("alert/event")[0]
    trigger.touch()
    killed_s = time.monotonic()
    eventually(lambda: pipeline.said.count("attached to LSL stream") == 2, what="a new reader")
    took_s = time.monotonic() - killed_s
    measured(f"{error} in the reader: another one reads after", took_s, "s")
    if took_s > 2.0:
        measured(falls_short=f"restarted after {took_s:.1f} s", what=f"{error}: late")
    assert took_s <= 4.0
    restarted = story.until("health", lambda m: m["counters"]["reader_restarts"] == 1)
    assert restarted["counters"]["reader_restarts"] == 1
    ended = story.until("alert/event", lambda m: m["event_type"] == "ended")
    assert ended["alert_id"] == raised["alert_id"]
    heard = story.heard("alert/event")
    assert len({m["event_id"] for m in heard}) == len(heard)
    assert [m["event_type"] for m in heard].count("raised") == 1
    assert pipeline.stop() == 0


@pytest.mark.slow
@pytest.mark.fault(40)
def test_a_reader_that_dies_again_and_again_ends_the_process_for_the_service_manager(
    story, broken, measured
):
    story.device()
    dies = (
        "from stream_classifier.detection.detector import Detector\n"
        "def feed(self, chunk):\n    raise RuntimeError('a defect')\n"
        "Detector.feed = feed\n"
    )
    pipeline = broken(dies)
    begun_s = time.monotonic()
    code = pipeline.process.wait(90)
    measured("a reader that fails always: exit code", code)
    measured("after", time.monotonic() - begun_s, "s")
    assert code == 1
    assert "failed 6 times in a row" in pipeline.said
    assert "RuntimeError: a defect" in pipeline.said
    left = story.until_now("health", lambda m: m["state"] == "fault")
    assert "a defect" in rung(left, "engine")["reason"]
    assert story.until_now("status", lambda m: m == "stopped")


# 41: an alert that nobody acknowledges


def command(**fields):
    expires = (datetime.now(UTC) + timedelta(seconds=30)).isoformat()
    return {"nonce": secrets.token_urlsafe(24), "expires": expires} | fields


async def ask(broker, what, fields, *, prefix="stream_classifier/bed3"):
    """What a subscriber of ours would do: send a command, and wait for the answer to it."""
    async with Connector(broker.settings, client_id="ward").connect() as connection:
        await connection.subscribe(f"{prefix}/answer")
        await connection.publish(f"{prefix}/set/{what}", json.dumps(fields).encode(), qos=1)
        async with asyncio.timeout(10):
            async for message in connection.messages():
                answer = json.loads(message.payload)
                if answer["nonce"] in {fields["nonce"], None}:
                    return answer
    return None


@pytest.mark.slow
@pytest.mark.fault(41)
def test_an_alert_that_nobody_acknowledges_is_called_to_mind_until_somebody_does(
    story, start, measured
):
    story.scenario.write_text(ONE_SEIZURE)
    settings = ("alarm.latched=true", "alarm.remind_every_s=5", "mqtt.commands=true")
    more = [word for setting in settings for word in ("--set", setting)]
    story.device()
    pipeline = story.pipeline(*more)
    ended = story.until("alert/event", lambda m: m["event_type"] == "ended")
    assert (ended["on"], ended["latched"], ended["acknowledged"]) == (True, True, False)

    def reminders():
        heard = story.heard("alert/event")
        after = [m["event_type"] for m in heard].index("ended")
        return [m for m in heard[after + 1 :] if m["event_type"] == "updated"]

    eventually(lambda: len(reminders()) >= 2, what="reminders of an alert that is over")
    apart_s = seconds(reminders()[1]["decided"]) - seconds(reminders()[0]["decided"])
    measured("re-notified every", apart_s, "s (asked for 5 s)")
    assert 4.5 <= apart_s <= 6.5

    pipeline.kill()
    story.until_now("status", lambda m: m == "offline")
    n_reminders = len(reminders())
    story.pipeline(*more)
    story.until_now("status", lambda m: m == "online")
    state = story.until_now("alert", lambda m: m["alert_id"] == ended["alert_id"])
    assert (state["on"], state["acknowledged"]) == (True, False)
    eventually(lambda: len(reminders()) > n_reminders, what="a reminder after the restart")

    sent = command(alert_id=ended["alert_id"])
    sent_s = time.monotonic()
    answer = asyncio.run(ask(story.broker, "ack", sent))
    measured("acknowledged over MQTT: answered after", 1e3 * (time.monotonic() - sent_s), "ms")
    assert answer["done"] is True
    assert answer["nonce"] == sent["nonce"]
    acknowledged = story.until("alert/event", lambda m: m["event_type"] == "acknowledged")
    assert acknowledged["alert_id"] == ended["alert_id"]
    off = story.until_now("alert", lambda m: not m["on"])
    assert off["acknowledged"]
    again = asyncio.run(ask(story.broker, "ack", sent))
    assert again == {
        "schema": "stream_classifier/answer/1",
        "nonce": sent["nonce"],
        "done": False,
        "reason": "this nonce was used before",
    }
    n_beats = len(story.heard("alert"))
    eventually(lambda: len(story.heard("alert")) > n_beats, what="a heartbeat later")
    heard = story.heard("alert/event")
    assert heard[-1]["event_type"] == "acknowledged"
    assert [m["event_id"] for m in heard] == [f"{ended['alert_id']}.{n}" for n in range(len(heard))]
    assert [m["decided"] for m in heard] == sorted(m["decided"] for m in heard)


@pytest.mark.slow
@pytest.mark.fault(41)
def test_a_person_acknowledges_and_asks_for_quiet_by_our_own_command(story, start):
    story.scenario.write_text(ONE_SEIZURE)
    story.device()
    pipeline = story.pipeline("--set", "alarm.latched=true", "--set", "mqtt.commands=true")
    at_bed3 = ("--broker", story.broker.url, "--stream", "bed3")

    def ack(*more):
        asked = start("ack", *at_bed3, *more)
        return asked.process.wait(30), asked.printed + asked.said

    story.until_now("status", lambda m: m == "online")
    code, said = ack()
    assert (code, "no alert of stream 'bed3' stands" in said) == (1, True)
    raised = story.until("alert/event", lambda m: m["event_type"] == "raised")
    assert ack("--alert-id", "f" * 32) == (
        1,
        "stream-classifier: the classifier of 'bed3' refused: no alert ffffffff stands\n",
    )
    code, said = ack()
    assert code == 0, said
    assert said == f"alert {raised['alert_id'][:8]} is acknowledged\n"
    story.until_now("alert", lambda m: m["acknowledged"])
    code, said = ack("--mute", "15")
    assert code == 0, said
    muted = story.until_now("alert", lambda m: m["muted_until"], within_s=5.0)
    assert 800 < seconds(muted["muted_until"]) - time.time() < 901
    assert ack("--mute", "0")[0] == 0
    story.until_now("alert", lambda m: m["muted_until"] is None, within_s=5.0)
    assert pipeline.stop() == 0
    code, said = ack("--mute", "15")
    assert (code, "mqtt.commands" in said, "its status: stopped" in said) == (1, True, True)


@pytest.mark.slow
def test_commands_are_off_unless_somebody_wants_them_and_the_command_says_what_to_try(story, start):
    story.device()
    story.pipeline()
    story.until_now("status", lambda m: m == "online")
    asked = start("ack", "--broker", story.broker.url, "--stream", "bed3", "--mute", "5")
    assert asked.process.wait(30) == 1
    assert "mqtt.commands = true" in asked.said
    assert "access list" in asked.said
