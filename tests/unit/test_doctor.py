from __future__ import annotations

import socket
import threading

import pytest

from stream_classifier import doctor
from stream_classifier.config import ModelSettings, MqttSettings, Settings
from stream_classifier.doctor import Finding, examine
from stream_classifier.errors import StreamNotFoundError


@pytest.fixture
def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_check_that_hangs_is_a_failure_and_holds_up_nothing():
    never = threading.Event()

    def hang():
        never.wait(30.0)
        return Finding("broker", "ok", "late")

    finding = doctor._in_time("broker", hang, 0.05)
    never.set()
    assert (finding.state, finding.said) == ("fail", "no answer within 0.05 s")


def test_what_a_check_raises_is_its_finding():
    def fall_over():
        raise RuntimeError("no such thing")

    finding = doctor._in_time("model", fall_over, 5.0)
    assert finding == Finding("model", "fail", "RuntimeError: no such thing")


def test_an_error_of_ours_is_split_into_what_was_found_and_what_to_try():
    def fail():
        raise StreamNotFoundError(wanted="name 'a'", waited_s=1.0, seen=[])

    finding = doctor._in_time("lsl", fail, 5.0)
    assert finding.state == "fail"
    assert finding.said.endswith("Seen: no LSL stream at all.")
    assert finding.fix.startswith("stream-classifier streams")


def test_a_port_that_is_taken_is_noticed(closed_port):
    assert doctor._can_bind(closed_port)
    with socket.socket() as holder:
        holder.bind(("", closed_port))
        holder.listen()
        assert not doctor._can_bind(closed_port)


def test_too_few_ports_are_a_warning_and_none_a_failure(monkeypatch, closed_port):
    monkeypatch.setattr(doctor, "LSL_PORTS", range(closed_port, closed_port + 1))
    monkeypatch.setattr(doctor, "MULTICAST_PORT", 0)
    assert doctor._ports().state == "warn"
    with socket.socket() as holder:
        holder.bind(("", closed_port))
        holder.listen()
        finding = doctor._ports()
    assert (finding.state, finding.said.split()[0]) == ("fail", "0")
    assert "PortRange" in finding.fix


def test_a_broker_that_is_away_is_a_failure_only_if_somebody_chose_it(closed_port):
    mqtt = MqttSettings(broker=f"mqtt://127.0.0.1:{closed_port}")
    chosen = doctor._broker(mqtt, is_chosen=True)
    default = doctor._broker(mqtt, is_chosen=False)
    assert (chosen.state, default.state) == ("fail", "warn")
    assert str(closed_port) in chosen.said
    assert "detection runs without it" in default.said


def test_a_password_shows_nowhere(closed_port):
    url = f"mqtt://127.0.0.1:{closed_port}"
    mqtt = MqttSettings(broker=url, username="me", password="s3cret")  # noqa: S106
    finding = doctor._broker(mqtt, is_chosen=True)
    assert "s3cret" not in f"{finding}"


def test_a_state_folder_that_cannot_be_made_is_a_failure(tmp_path):
    (tmp_path / "file").write_text("in the way")
    finding = doctor._state_folder(tmp_path / "file" / "outbox.sqlite")
    assert finding.state == "fail"
    assert doctor._state_folder(tmp_path / "new" / "outbox.sqlite").state == "ok"
    assert list((tmp_path / "new").iterdir()) == []


def test_a_model_that_is_not_there_is_a_failure_and_the_shipped_one_is_well():
    absent = doctor._in_time("model", lambda: doctor._model("no-such-bundle"), 10.0)
    assert (absent.state, bool(absent.fix)) == ("fail", True)
    assert doctor._model("bonn").state == "ok"


def test_a_wall_clock_that_is_stepped_is_a_warning(monkeypatch):
    ticks = iter([1.8e9, 1.8e9 + 3600.8])
    monkeypatch.setattr(doctor.time, "time", lambda: next(ticks))
    finding = doctor._clock()
    assert finding.state == "warn"
    assert "+3600" in finding.said


def test_a_wall_clock_that_was_never_set_is_a_failure(monkeypatch):
    monkeypatch.setattr(doctor.time, "time", lambda: 86_400.0)
    assert doctor._clock().state == "fail"


def test_the_engine_that_would_run_is_named_and_tried():
    found = doctor._engine(ModelSettings(engine="reference"))
    assert found.state == "ok"
    assert found.said.startswith("reference (numpy), self-test off by")


def test_without_the_native_engine_the_engine_in_its_place_is_named(monkeypatch):
    monkeypatch.setattr("stream_classifier.engines.instruction_sets", lambda: ())
    found = doctor._engine(ModelSettings())
    assert found.state == "warn"
    assert "reference (numpy)" in found.said
    assert "was not built" in found.said
    assert "g++" in found.fix


def test_every_check_reports_once_and_each_in_time(monkeypatch):
    never = threading.Event()
    for name in ("_round_trip", "_broker", "_classifiers"):
        monkeypatch.setattr(doctor, name, lambda *_a, **_k: never.wait(30.0))
    findings = list(examine(Settings.model_construct(), broker_is_chosen=False, deadline_s=1.0))
    never.set()
    assert [finding.check for finding in findings] == [
        "python",
        "liblsl",
        "ports",
        "lsl round trip",
        "broker",
        "classifiers",
        "model",
        "engine",
        "clock",
        "state folder",
        "extras",
    ]
    assert [f.state for f in findings[3:6]] == ["fail"] * 3
    assert all(f.fix for f in findings if f.state != "ok")
