"""``streams`` and ``doctor`` as a person runs them, on real Lab Streaming Layer."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pylsl
import pytest

from stream_classifier.sources.lsl_runtime import quiet_liblsl

pytestmark = pytest.mark.lsl


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    quiet_liblsl()


def run(*arguments, home, **environment):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("STREAM_CLASSIFIER_")}
    return subprocess.run(
        [sys.executable, "-m", "stream_classifier", *arguments],
        cwd=home,
        env={
            **inherited,
            "HOME": str(home),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def outlet():
    name = f"listed-{uuid.uuid4()}"
    info = pylsl.StreamInfo(f"{name}\x1b[31m\n", "EEG", 2, 178.0, "float32", name)
    info.set_channel_labels(["C3", "C4"])
    info.set_channel_units("mV")
    return pylsl.StreamOutlet(info), name


def test_streams_lists_what_is_there(outlet, tmp_path):
    _, name = outlet
    done = run("streams", "--json", home=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    (listed,) = [stream for stream in json.loads(done.stdout) if stream["source_id"] == name]
    assert listed["labels"] == ["C3", "C4"]
    assert listed["units"] == ["mV"]
    assert (listed["type"], listed["n_channels"], listed["rate_hz"]) == ("EEG", 2, 178.0)
    assert 0.0 <= listed["age_s"] < 60.0


def test_the_table_of_streams_obeys_no_terminal_codes(outlet, tmp_path):
    _, name = outlet
    done = run("streams", home=tmp_path)
    lines = done.stdout.splitlines()
    assert lines[0].split() == [
        "name",
        "type",
        "channels",
        "rate",
        "unit",
        "age",
        "host",
        "source_id",
    ]
    assert len([line for line in lines if line.endswith(name)]) == 1
    assert "\x1b" not in done.stdout


def test_streams_says_plainly_when_nothing_is_there(tmp_path):
    (tmp_path / "lsl_api.cfg").write_text(f"[lab]\nSessionID = {uuid.uuid4()}\n")
    done = run("streams", "--wait", "1", home=tmp_path)
    assert done.returncode == 4
    assert done.stdout == ""
    assert "No LSL stream was found within 1 s" in done.stderr
    assert "firewall" in done.stderr


def test_doctor_finds_its_own_stream_and_a_good_model(tmp_path):
    done = run("doctor", "--json", home=tmp_path)
    report = json.loads(done.stdout)
    states = {finding["check"]: finding["state"] for finding in report["checks"]}
    assert states["lsl round trip"] == "ok", done.stdout
    assert states["model"] == "ok"
    assert report["ok"] == ("fail" not in states.values())
    assert done.returncode == (0 if report["ok"] else 1)
    assert done.stderr == ""


def test_doctor_names_one_thing_to_do_for_each_failure(tmp_path):
    done = run("doctor", "--broker", "mqtt://127.0.0.1:1", "--bundle", "absent", home=tmp_path)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    failed = [n for n, line in enumerate(lines) if line.startswith("fail")]
    assert [lines[n].split()[1] for n in failed] == ["broker", "model"]
    assert all(lines[n + 1].strip().startswith("try: ") for n in failed)


def test_doctor_checks_the_rest_though_the_configuration_is_wrong(tmp_path):
    (tmp_path / "stream-classifier.toml").write_text("[mqtt]\nbrokr = 'x'\n")
    done = run("doctor", "--json", home=tmp_path)
    report = json.loads(done.stdout)
    assert report["checks"][0]["check"] == "configuration"
    assert "brokr" in report["checks"][0]["said"]
    assert len(report["checks"]) > 5
    assert done.returncode == 1


@pytest.mark.broker
def test_doctor_is_let_in_by_a_real_broker(tmp_path):
    mosquitto = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if mosquitto is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with subprocess.Popen([mosquitto, "-p", str(port)], stderr=subprocess.DEVNULL) as broker:
        try:
            deadline_s = time.monotonic() + 5.0
            while time.monotonic() < deadline_s:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
            done = run("doctor", "--json", "--broker", f"mqtt://127.0.0.1:{port}", home=tmp_path)
        finally:
            broker.kill()
    findings = {finding["check"]: finding for finding in json.loads(done.stdout)["checks"]}
    assert findings["broker"]["state"] == "ok"
    assert "MQTT 5" in findings["broker"]["said"]
