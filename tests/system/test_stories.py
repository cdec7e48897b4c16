"""Whole stories: a device, the pipeline, a broker and a subscriber, each a process of its own."""

import shutil
import signal
import time
from datetime import datetime

import pytest

from stream_classifier.bundle import load_bundle

from .conftest import eventually

pytestmark = [pytest.mark.lsl, pytest.mark.broker]


def test_a_seizure_becomes_an_alert_and_the_alert_has_an_end(story):
    story.device()
    pipeline = story.pipeline()
    raised = story.until("alert/event", lambda m: m["event_type"] == "raised")
    assert raised["simulated"] is True
    assert raised["p"] >= raised["threshold"]["raise"]
    assert raised["onset"] <= raised["raised"] == raised["ts"] <= raised["decided"]
    assert not raised["late"]
    assert story.until_now("alert", lambda m: m["on"])["alert_id"] == raised["alert_id"]
    ended = story.until("alert/event", lambda m: m["event_type"] == "ended")
    assert ended["alert_id"] == raised["alert_id"]
    assert not story.until_now("alert", lambda m: not m["on"])["on"]
    (info,) = story.heard("info")
    assert info["model"]["sha256"] == load_bundle("bonn").digest
    assert pipeline.stop() == 0
    assert story.until_now("status", lambda m: m == "stopped")
    assert '"windows"' in pipeline.printed


def test_a_live_stream_gets_the_model_for_heads_and_says_that_it_calibrates(story):
    story.device()
    story.pipeline(bundle=None)
    calibrating = story.until_now("alert", lambda m: m["signal"] == "calibrating")
    assert calibrating["state"] == "ok"  # the alarm is live meanwhile
    (info,) = story.heard("info")
    assert info["model"]["sha256"] == load_bundle("headset").digest
    quality = story.until("quality", lambda m: m["channels"])
    assert {channel["gain"] for channel in quality["channels"]} == {1.0}


def test_a_device_that_dies_is_said_at_once_and_its_return_is_noticed(story):
    device = story.device()
    pipeline = story.pipeline()
    story.until_now("alert", lambda m: m["signal"] == "ok")
    device.kill()
    killed_at = time.monotonic()
    story.until_now("alert", lambda m: m["signal"] == "none" and m["state"] is None)
    assert time.monotonic() - killed_at < 4.0  # promised: 2 s; the rest is for a busy machine
    assert story.heard("status")[-1] == "online"
    story.device()
    story.until_now("alert", lambda m: m["signal"] == "ok" and m["state"] is not None)
    story.until("alert/event", lambda m: m["event_type"] == "raised")
    assert pipeline.process.poll() is None
    assert pipeline.stop() == 0
    assert '"reconnects": 1' in pipeline.printed


def test_an_alert_raised_while_the_broker_is_dead_arrives_when_it_is_back(story):
    story.device()
    pipeline = story.pipeline()
    story.until_now("alert", lambda m: m["signal"] == "ok")
    assert not story.heard("alert/event")
    story.broker.kill()
    eventually(lambda: "raised:" in pipeline.said, what="an alert in the pipeline's log")
    time.sleep(5.5)  # past the time from which an event counts as late
    story.broker.start()
    story.until("alert/event", lambda m: m["event_type"] == "raised")
    raised = story.heard("alert/event")[0]
    assert raised["event_type"] == "raised"
    assert raised["late"] is True
    assert raised["durable"] is True
    story.until_now("status", lambda m: m == "online")
    story.until("alert/event", lambda m: m["event_type"] == "ended")
    heard = story.heard("alert/event")
    ids = [m["event_id"] for m in heard]
    assert len(ids) == len(set(ids))
    assert [m["ts"] for m in heard] == sorted(m["ts"] for m in heard)


def test_an_alert_outlives_a_pipeline_that_is_killed_and_restarted(story):
    story.device()
    pipeline = story.pipeline()
    story.until_now("alert", lambda m: m["on"])
    raised = story.until("alert/event", lambda m: m["event_type"] == "raised")
    pipeline.kill()
    story.until_now("status", lambda m: m == "offline")
    n_states = len(story.heard("alert"))
    story.pipeline()
    story.until_now("status", lambda m: m == "online")
    first = story.heard("alert")[n_states]  # comes before "online"
    assert (first["signal"], first["on"]) == ("starting", True)
    assert first["alert_id"] == raised["alert_id"]
    ended = story.until("alert/event", lambda m: m["event_type"] == "ended")
    assert ended["alert_id"] == raised["alert_id"]
    assert abs(iso_s(ended["onset"]) - iso_s(raised["onset"])) < 0.005
    ids = [m["event_id"] for m in story.heard("alert/event")]
    assert len(ids) == len(set(ids))
    one = [
        m["event_type"] for m in story.heard("alert/event") if m["alert_id"] == raised["alert_id"]
    ]
    assert one.count("raised") == one.count("ended") == 1


def iso_s(text):
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_two_signals_in_a_row_still_stop_cleanly(story, number, code):
    story.device()
    pipeline = story.pipeline()
    story.until_now("status", lambda m: m == "online")
    for _ in range(3):
        pipeline.process.send_signal(number)
    assert pipeline.process.wait(10) == code
    assert story.until_now("status", lambda m: m == "stopped")
    assert "Traceback" not in pipeline.said


def one_clear_line(command, exit_code, *words):
    """The command ended with this code, said these words, and showed no traceback."""
    assert command.process.wait(40) == exit_code, command.said
    assert "Traceback" not in command.said
    for word in words:
        assert word in command.said


def test_two_pipelines_on_one_outbox_are_one_too_many(story):
    story.device()
    story.pipeline()
    story.until_now("status", lambda m: m == "online")
    one_clear_line(story.pipeline(), 1, "outbox")
    assert story.heard("status")[-1] == "online"


def test_the_right_password_lets_in_and_is_never_shown(
    start, mosquitto_with_password, source_id, tmp_path
):
    command = start(
        *("run", "--broker", mosquitto_with_password.url, "--username", "nurse", "--wait", "30"),
        *("--source-id", source_id, "--set", f"outbox.path={tmp_path / 'o.sqlite'}"),
        environment={"STREAM_CLASSIFIER_MQTT__PASSWORD": "sesame"},
    )
    start("simulate", "synthetic", "--name", source_id)
    eventually(lambda: "connected to" in command.said, what="a connection in the log")
    assert "sesame" not in command.said


def test_an_absent_stream_is_exit_code_4(start, mosquitto, source_id):
    command = start("run", "--broker", mosquitto.url, "--source-id", source_id, "--wait", "1")
    one_clear_line(command, 4, source_id, "within 1 s", "stream-classifier streams")


def test_a_flipped_byte_in_the_bundle_is_exit_code_6(start, mosquitto, tmp_path):
    bundle = tmp_path / "bundle"
    shutil.copytree(load_bundle("bonn").path, bundle)
    weights = bundle / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    command = start("run", "--broker", mosquitto.url, "--bundle", bundle, "--wait", "1")
    one_clear_line(command, 6, "weights.safetensors")


def test_an_unknown_key_is_exit_code_3(start, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text("[mqtt]\nbrokr = 'x'\n")
    one_clear_line(start("run", "--config", config), 3, "c.toml:2", "'mqtt.broker'")


def test_an_unknown_option_is_exit_code_2(start):
    one_clear_line(start("run", "--no-such-option"), 2)
