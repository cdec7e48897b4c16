"""The demo, as a newcomer starts it."""

import contextlib
import json
from pathlib import Path

import pytest

from .conftest import eventually

pytestmark = [pytest.mark.lsl, pytest.mark.broker, pytest.mark.timeout(120)]


def test_the_demo_shows_an_alert_for_the_seizure_it_plays(start):
    pytest.importorskip("iotcore", reason="the embedded broker is not installed: [demo] extra")
    command = start("demo", "--synthetic", "--seconds", "32", "--json")
    assert command.process.wait(90) == 0, command.said
    (line,) = command.printed.splitlines()
    result = json.loads(line)
    assert result["data"] == "synthetic"
    assert result["seizures_true"] == result["seizures_detected"] == 1
    assert result["false_alarms"] == 0
    assert 0 < result["detection_latency_s"][0] < 10
    assert result["windows"] > 300
    assert result["sample_to_subscriber_ms"]["n"] > 20
    (raised,) = [alert for alert in result["alerts"] if alert["event_type"] == "raised"]
    assert raised["simulated"] is True
    assert "mosquitto_sub" in command.said


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_a_demo_that_is_terminated_takes_its_processes_with_it(start):
    pytest.importorskip("iotcore", reason="the embedded broker is not installed: [demo] extra")
    command = start("demo", "--synthetic", "--seconds", "60")
    mark = f"stream-classifier-demo-{command.process.pid}"
    eventually(lambda: len(running(mark)) >= 2, what="device and pipeline")
    assert command.stop() == 0
    assert not running(mark)


def running(mark):
    """Processes with this mark in their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            if mark in (folder / "cmdline").read_text():
                found.append(folder.name)
    return found
