"""What the commands that need no stream print, and how they end."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from stream_classifier import doctor as doctor_checks
from stream_classifier.cli import main
from stream_classifier.cli.simulate import _tell_state
from stream_classifier.cli.streams import NOTHING
from stream_classifier.doctor import Finding


@pytest.fixture
def no_broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Address at which nothing listens, far from any configuration file."""
    monkeypatch.chdir(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"mqtt://127.0.0.1:{probe.getsockname()[1]}"


def test_a_test_alarm_without_a_broker_says_what_to_try(
    no_broker: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["test-alarm", "--broker", no_broker]) == 1
    said = capsys.readouterr().err
    assert "does not answer" in said
    assert f"Try: stream-classifier doctor --broker {no_broker}" in said


def test_who_never_reached_a_broker_is_told_so_and_ends_with_1(
    no_broker: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["subscribe", "--broker", no_broker, "--seconds", "0.5"]) == 1
    said = capsys.readouterr().err
    assert f"never connected to {no_broker} in 0.5 s" in said
    assert f"Try: stream-classifier doctor --broker {no_broker}" in said
    assert "listening" not in said


def test_who_waits_for_a_broker_is_told_once_what_to_try(
    no_broker: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream_classifier.cli.subscribe.ADVISE_AFTER_S", 0.0)
    monkeypatch.setattr("stream_classifier.cli.subscribe.CHECK_EVERY_S", 0.1)
    assert main(["subscribe", "--broker", no_broker, "--seconds", "0.5"]) == 1
    assert capsys.readouterr().err.count(f"no connection to {no_broker} yet") == 1


def test_a_finding_obeys_no_terminal_codes_and_keeps_its_lines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    finding = Finding("broker", "fail", "it said \x1b[2J\nand more", "mend \x1b]0;it")
    monkeypatch.setattr(doctor_checks, "examine", lambda *_a, **_k: [finding])
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 3
    assert "\x1b" not in out


def test_nothing_found_fits_a_terminal() -> None:
    assert max(map(len, NOTHING.format(wait=3600).splitlines())) <= 78


@pytest.mark.parametrize(
    ("at_s", "marker", "line"),
    [
        (0.0, "state/background", "00:00  background\n"),
        (20.4, "state/seizure", "00:20  seizure\n"),
        (6000.0, "state/background", "100:00  background\n"),
        (20.4, "seizure/onset", ""),
        (20.4, "recording/V1.1/class/seizure/channel/0", ""),
    ],
)
def test_each_part_of_a_scenario_is_one_line(
    at_s: float, marker: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _tell_state(at_s, marker)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", line)


@pytest.mark.dataset
def test_recordings_are_listed_one_a_line(
    data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dataset", "recordings", "--data", str(data_folder)]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 500
    assert {(label, kind) for _, label, kind in lines if kind == "seizure"} == {("1", "seizure")}
    assert main(["dataset", "recordings", "--data", str(data_folder), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [[r["key"], str(r["label"]), r["class"]] for r in listed] == lines


@pytest.mark.dataset
def test_an_unknown_recording_names_the_command_that_lists_them(
    data_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    arguments = ("simulate", "recording", "--recording", "Z001", "--data", str(data_folder))
    assert main(list(arguments)) == 2
    assert "stream-classifier dataset recordings" in capsys.readouterr().err
