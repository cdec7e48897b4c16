"""Recordings as a person plays them: with a broker, without one, and as a device."""

import contextlib
import json
import subprocess
import sys

import pytest

from stream_classifier.bundle import load_bundle
from tests.live_broker import Mosquitto, mosquitto_binary
from tests.recordings_on_disk import BACKGROUND_S, SEIZURE_S, signal_uv, write_csv, write_edf

from .conftest import eventually

BROKER = """
import asyncio
from stream_classifier.sinks.embedded_broker import EmbeddedBroker

async def main():
    async with EmbeddedBroker() as broker:
        print(broker.url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def broker_url(tmp_path):
    """A broker of its own: mosquitto, or the embedded one where that is not installed."""
    if mosquitto_binary() is not None:
        mosquitto = Mosquitto(tmp_path).start()
        yield mosquitto.url
        mosquitto.kill()
        return
    pytest.importorskip("iotcore", reason="neither mosquitto nor the extra [demo] is installed")
    with subprocess.Popen([sys.executable, "-c", BROKER], stdout=subprocess.PIPE) as process:
        yield process.stdout.readline().decode().strip()
        process.kill()


@pytest.fixture
def night(tmp_path):
    """An EDF with one seizure."""
    pytest.importorskip("edfio", reason="needs the extra [recordings]")
    return write_edf(tmp_path / "night.edf", signal_uv(load_bundle("bonn")))


def play(start, *arguments):
    command = start("run", "--bundle", "bonn", "--recording", *arguments)
    code = command.process.wait(60)
    return code, [json.loads(line) for line in command.printed.splitlines()], command.said


def test_without_a_broker_the_alerts_are_printed_and_are_the_same_each_time(start, night):
    code, first, said = play(start, night, "--speed", "0", "--json")
    assert code == 0, said
    assert "nothing is published" in said
    *events, summary = first
    assert [event["event_type"] for event in events][:1] == ["raised"]
    assert BACKGROUND_S < events[0]["raised_s"] < BACKGROUND_S + SEIZURE_S
    assert events[0]["source"]["kind"] == "recording"
    assert events[0]["simulated"] is False
    assert summary["alerts"] == 1
    assert summary["windows_refused"] == summary["shed"] == 0
    assert play(start, night, "--speed", "0", "--json")[1] == first
    assert play(start, night, "--speed", "200", "--json")[1][:-1] == events


@pytest.mark.broker
def test_a_recording_is_published_like_a_stream_and_a_second_time_under_the_same_ids(
    start, broker_url, night, tmp_path
):
    subscriber = start("subscribe", "--broker", broker_url, "--json")

    def heard(topic):
        found = []
        for line in subscriber.printed.splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # the last line may be half written
                message = json.loads(line)
                if message["topic"] == f"stream_classifier/{topic}":
                    found.append(message["message"])
        return found

    # What is retained tells that the subscriber is there.
    where = ("--broker", broker_url, "--set", f"outbox.path={tmp_path / 'outbox.sqlite'}")
    play(start, night, *where, "--stream", "earlier", "--seconds", "1")
    eventually(lambda: heard("earlier/alert"), what="a subscriber")
    more = (*where, "--stream", "bed3", "--speed", "0", "--json")
    for runs in (1, 2):
        code, printed, said = play(start, night, *more)
        assert code == 0, said
        assert len(printed) == 1  # the summary: alerts went to the broker
        events = eventually(
            lambda runs=runs: (
                (found := heard("bed3/alert/event"))
                and sum(event["event_type"] == "raised" for event in found) == runs
                and found
            ),
            what=f"{runs} alert(s)",
        )
    ids = {event["alert_id"] for event in events}
    assert len(ids) == 1
    assert events[0]["source"]["kind"] == "recording"
    assert events[0]["signal"] == "ok"
    eventually(lambda: heard("bed3/alert")[-1]["signal"] == "stopped", what="the end")


def test_what_cannot_be_played_is_an_error_without_a_traceback(start, night, tmp_path):
    (tmp_path / "cut.edf").write_bytes(night.read_bytes()[:-50])
    top = "# rate_hz: 178, unit: uV"
    flat = write_csv(tmp_path / "flat.csv", [[5.0]] * 500, labels=["C3"], top=top)
    for name, word in {
        tmp_path / "cut.edf": "cut off",
        tmp_path / "nowhere.edf": "no such file",
        flat: "no usable signal",
    }.items():
        code, _, said = play(start, name, "--json")
        assert (code, word in said) == (4, True), said
        assert "Traceback" not in said


@pytest.mark.lsl
def test_a_file_becomes_a_device_of_its_own_rate_and_labels(start, night, source_id):
    start(
        *("simulate", "recording", "--recording", night, "--name", source_id),
        *("--wait-for-consumer", "20", "--speed", "4"),
    )
    pipeline = start(
        *("run", "--bundle", "bonn", "--source-id", source_id, "--wait", "30", "--json"),
        *("--broker", "embedded", "--seconds", "12"),
    )
    assert pipeline.process.wait(60) == 0, pipeline.said
    assert "2 channel(s) at 178 Hz (C3, C4)" in pipeline.said
    assert json.loads(pipeline.printed)["alerts"] == 1
