"""Recordings through the detector: counts that hold together, and exclusions that say why."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stream_classifier.cli import main
from stream_classifier.detection.detector import Detector, DetectorSettings
from stream_classifier.engines import make_engine
from stream_classifier.errors import RecordingNotFoundError, RecordingUnusableError
from stream_classifier.evaluation.recordings import evaluate_recordings, play
from stream_classifier.signals import AlertEvent
from stream_classifier.sources.recording import RecordingSource, open_recording, spec_of
from tests.recordings_on_disk import (
    BACKGROUND_S,
    RATE_HZ,
    SEIZURE_S,
    signal_uv,
    with_gap,
    write_csv,
    write_edf,
)

END_S = BACKGROUND_S + SEIZURE_S


@pytest.fixture(autouse=True)
def _extra():
    pytest.importorskip("edfio", reason="needs the extra [recordings]")


@pytest.fixture
def folder(tmp_path, bonn):
    """One recording with an annotated seizure, and one of background alone."""
    (tmp_path / "wards").mkdir()
    samples = signal_uv(bonn)
    path = write_edf(tmp_path / "wards" / "seizure.edf", samples)
    path.with_suffix(".tsv").write_text(
        f"onset\tduration\teventType\n{BACKGROUND_S}\t{SEIZURE_S}\tsz_gen_m_tonicClonic\n"
    )
    write_edf(tmp_path / "quiet.bdf", samples[: round(14 * RATE_HZ)], bdf=True)
    return tmp_path


def test_a_seizure_is_found_and_counted_once_with_all_that_was_annotated(folder, bonn):
    pytest.importorskip("timescoring", reason="needs the extra [report]")
    report = evaluate_recordings(folder, bonn).as_json()
    assert [one["path"] for one in report["recordings"]] == ["quiet.bdf", "wards/seizure.edf"]
    assert report["hours"] == pytest.approx((14 + END_S + BACKGROUND_S) / 3600)
    assert report["channels"] == 2
    assert report["alarms"] == 1
    assert report["false_alarms_per_hour"] == 0
    assert (report["sensitivity"], report["precision"], report["f1"]) == (1, 1, 1)
    assert (report["strict"]["sensitivity"], report["strict"]["n_seizures"]) == (1, 1)
    assert 0 < report["latency_s"]["median"] == report["latency_s"]["p90"] < 8
    (alarm,) = report["recordings"][1]["alarms"]
    assert BACKGROUND_S < alarm["onset_s"] <= alarm["raised_s"] < END_S < alarm["ended_s"]
    assert alarm["channels"] == ["C3", "C4"]
    assert 0.9 <= alarm["p_max"] <= 1
    assert report["refused_share"] == report["calibrating_share"] == 0
    assert report["excluded"] == []
    json.dumps(report, allow_nan=False)


def test_an_alarm_outside_of_what_is_annotated_is_false(folder, bonn):
    (folder / "wards" / "seizure.tsv").unlink()
    report = evaluate_recordings(folder, bonn).as_json()
    assert report["false_alarms"] == report["alarms"] == 1
    assert report["false_alarms_per_hour"] == pytest.approx(1 / report["hours"])
    assert "sensitivity" not in report


def test_what_cannot_be_played_is_left_out_with_its_reason(folder, bonn, tmp_path):
    whole = (folder / "quiet.bdf").read_bytes()
    (folder / "cut.bdf").write_bytes(whole[:-100])
    (folder / "empty.edf").write_bytes(b"")
    (folder / "other.vhdr").write_text("Brain Vision Data Exchange Header File Version 1.0")
    (folder / "gone.edf").symlink_to(folder / "nowhere")
    write_csv(folder / "no-rate.csv", np.zeros((10, 1)), labels=["C3 [uV]"])
    top = "# rate_hz: 178, unit: uV"
    (folder / "missing.csv").write_text(f"{top}\nC3\n" + "nan\n" * 400)
    write_csv(folder / "flat.csv", np.full((400, 1), 500.0), labels=["C3"], top=top)
    write_csv(folder / "short.csv", np.arange(60.0)[:, None], labels=["C3"], top=top)
    report = evaluate_recordings(folder, bonn)
    assert [one.path for one in report.played] == ["quiet.bdf", "wards/seizure.edf"]
    reasons = {one.path: one.reason for one in report.excluded}
    for path, word in {
        "cut.bdf": "cut off",
        "empty.edf": "number of signals",
        "other.vhdr": "not read",
        "gone.edf": "no such file",
        "no-rate.csv": "--rate",
        "missing.csv": "not finite",
        "flat.csv": "flat",
        "short.csv": "long enough",
    }.items():
        assert word in reasons.pop(path).lower()
    assert not reasons


def test_a_saturated_recording_alone_is_an_error(tmp_path, bonn):
    railed = np.full((round(6 * RATE_HZ), 2), 2999.0)
    path = write_edf(tmp_path / "railed.edf", railed)
    with pytest.raises(RecordingUnusableError, match="refused"):
        evaluate_recordings(path, bonn)
    assert main(["evaluate", "bonn", "--recordings", str(path), "--json"]) == 4


def test_a_folder_without_any_recording_is_an_error(tmp_path, bonn):
    (tmp_path / "README.txt").write_text("nothing here")
    with pytest.raises(RecordingNotFoundError, match="no file in this folder"):
        evaluate_recordings(tmp_path, bonn)
    with pytest.raises(RecordingNotFoundError, match="no such file"):
        evaluate_recordings(tmp_path / "nowhere", bonn)


def test_time_lost_to_holes_is_refused_time(tmp_path, bonn):
    path = write_edf(tmp_path / "a.edf", signal_uv(bonn, seizure_s=0), annotations=[])
    with_gap(path, after_record=10, seconds=30)
    played = play(open_recording(str(path)), bonn)
    assert played.duration_s == 60
    # 30 s, and one window less a hop until the next decision.
    assert played.n_refused / played.n_windows == pytest.approx(30.6 / 59.4, abs=0.005)


def test_alarms_are_those_of_the_detector_however_the_recording_is_cut(tmp_path, bonn):
    path = write_edf(tmp_path / "a.edf", signal_uv(bonn))
    recording = open_recording(str(path))
    played = play(recording, bonn)
    engine = make_engine(bonn)
    detector = Detector(
        bundle=bonn,
        spec=spec_of(recording),
        engine=engine,
        settings=DetectorSettings(rule=bonn.alarm),
    )
    events = [
        item
        for chunk in RecordingSource(recording, chunk_samples=7)
        for item in detector.feed(chunk)
        if isinstance(item, AlertEvent)
    ]
    assert [event.raised_s for event in events[:1]] == [one.raised_s for one in played.alarms]
    assert detector.n_windows == played.n_windows


def test_an_alarm_that_comes_on_again_is_counted_again(tmp_path, bonn):
    twice = np.concatenate([signal_uv(bonn, around_s=8), signal_uv(bonn, around_s=8)])
    played = play(open_recording(str(write_edf(tmp_path / "a.edf", twice))), bonn)
    assert len(played.alarms) == 2
    first, second = played.alarms
    assert first.ended_s < second.onset_s == second.raised_s


def test_an_alarm_that_never_goes_off_ends_with_the_recording(tmp_path, bonn):
    samples = signal_uv(bonn)[: round(END_S * RATE_HZ)]
    played = play(open_recording(str(write_edf(tmp_path / "a.edf", samples))), bonn)
    assert played.alarms[-1].ended_s == played.duration_s == END_S


def test_the_same_figures_come_from_several_processes(folder, bonn):
    def paths(report):
        return [replace(one, path=Path(one.path).name) for one in report.played]

    assert paths(evaluate_recordings(folder, bonn, n_jobs=2)) == paths(
        evaluate_recordings(folder, bonn)
    )


def test_the_command_prints_one_json_object(folder, capsys):
    assert main(["evaluate", "--bundle", "bonn", "--recordings", str(folder), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {"hours", "channels", "alarms", "false_alarms_per_hour", "refused_share"} <= set(printed)
    assert {"calibrating_share", "recordings", "excluded", "bundle"} <= set(printed)
    assert main(["evaluate", "--bundle", "bonn", "--recordings", str(folder)]) == 0
    assert "wards/seizure.edf" in capsys.readouterr().out
