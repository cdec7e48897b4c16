"""What is recorded is there, whatever happens to the process that records it."""

import json
import os
import signal
import warnings
from datetime import datetime

import pytest

from stream_classifier.bundle import load_bundle
from stream_classifier.recorder.alerts import alerts_in
from stream_classifier.recorder.bdf import open_bdf
from tests.recordings_on_disk import SEIZURE_S, signal_uv, write_edf

from .conftest import eventually

AROUND_S = 40.0
edfio = pytest.importorskip("edfio", reason="needs the extra [recordings]")


@pytest.fixture
def night(tmp_path):
    """An EDF with one seizure in its middle."""
    samples = signal_uv(load_bundle("bonn"), n_channels=3, around_s=AROUND_S)
    return write_edf(tmp_path / "night.edf", samples)


def play(start, night, tmp_path, *more):
    return start(
        *("run", "--bundle", "bonn", "--recording", night, "--record", tmp_path / "kept"),
        *("--set", "alarm.refractory_s=4", "--json", *more),
    )


def strictly(read):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read()


def raised_in(path):
    """Times of the alerts that another program finds in a recording."""
    found = strictly(lambda: edfio.read_bdf(path)).annotations
    return [note.onset for note in found if note.text.startswith("seizure alert raised")]


def test_a_played_recording_is_kept_with_its_alert_a_clip_and_a_picture(start, night, tmp_path):
    pytest.importorskip("matplotlib", reason="needs the extra [report]")
    command = play(start, night, tmp_path)
    assert command.process.wait(60) == 0, command.said
    events = [json.loads(line) for line in command.printed.splitlines()][:-1]
    (recording,) = (tmp_path / "kept" / "night").glob("*.bdf")
    theirs = strictly(lambda: edfio.read_bdf(recording))
    original = edfio.read_edf(night)
    for mine, signal_ in zip(theirs.signals, original.signals, strict=True):
        assert mine.label == signal_.label
        assert mine.data == pytest.approx(signal_.data, abs=1 / 32)
    assert raised_in(recording) == [pytest.approx(events[0]["raised_s"], abs=0.01)]
    (facts_file,) = (tmp_path / "kept" / "night" / "alerts").glob("*.json")
    facts = json.loads(facts_file.read_text())
    assert facts["alert_id"] == events[0]["alert_id"]
    assert facts["event"]["event_type"] == "ended"
    clip = edfio.read_bdf(facts_file.with_suffix(".bdf"))
    assert clip.duration == pytest.approx(30 + SEIZURE_S + 30, abs=3)
    rows = facts_file.with_suffix(".csv").read_text().splitlines()
    assert len(rows) > (30 + SEIZURE_S + 30) * 178 / 8 * 0.9
    assert max(float(row.split(",")[2] or 0) for row in rows[1:]) > 0.85
    assert facts_file.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    assert all(p.stat().st_mode & 0o077 == 0 for p in facts_file.parent.iterdir())


def test_a_recording_killed_in_an_alert_opens_with_the_alert_in_it(start, night, tmp_path):
    """... in edfio and in MNE-Python, as it is, and again after the next start has mended it."""
    mne = pytest.importorskip("mne", reason="mne is not installed")
    command = play(start, night, tmp_path, "--speed", "20")
    folder = tmp_path / "kept" / "night"
    eventually(lambda: '"raised"' in command.printed, what="the alert")
    (recording,) = folder.glob("*.bdf")
    eventually(lambda: open_bdf(recording).n_records > AROUND_S + 3, what="3 s of the alert")
    command.process.send_signal(signal.SIGKILL)
    command.process.wait()
    (raised,) = [json.loads(line) for line in command.printed.splitlines()][:1]
    for state in ("as it was left", "mended"):
        if state == "mended":
            again = play(start, night, tmp_path, "--seconds", "0.5", "--speed", "1")
            assert again.process.wait(60) == 0, again.said
        (onset_s,) = raised_in(recording)
        assert onset_s == pytest.approx(raised["raised_s"], abs=0.01)
        raw = strictly(lambda: mne.io.read_raw_bdf(recording, preload=True, verbose="warning"))
        at_s = {a["description"].split(" id=")[0]: a["onset"] for a in raw.annotations}
        assert at_s["seizure alert raised"] == pytest.approx(raised["raised_s"], abs=0.01)
        assert raw.times[-1] > AROUND_S
        (span,) = alerts_in([open_bdf(recording)])
        assert span.end is None
    kept = [json.loads(path.read_text()) for path in (folder / "alerts").glob("*.json")]
    assert {facts["alert_id"] for facts in kept} == {raised["alert_id"]}


@pytest.mark.lsl
@pytest.mark.broker
@pytest.mark.slow
def test_a_full_disk_stops_the_recording_and_not_one_alert(story, tmp_path):
    """The disk has room for some seconds; it gets room again later."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    import subprocess

    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        filler = disk / "filler"
        filler.write_bytes(bytes(397_000))
        story.device()
        pipeline = story.pipeline("--record", disk / "kept", "--set", "record.min_free_gb=0")
        eventually(lambda: "recording stopped" in pipeline.said, what="a full disk")
        story.until("alert/event", lambda event: event["event_type"] == "raised")
        assert pipeline.said.count("recording stopped") == 1
        filler.unlink()
        eventually(lambda: "recording goes on" in pipeline.said, what="room again")
        assert pipeline.stop() == 0
        recordings = sorted((disk / "kept" / "bed3").glob("*.bdf"))
        assert len(recordings) >= 2
        for path in recordings:
            assert strictly(lambda path=path: edfio.read_bdf(path)).num_data_records > 0
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.lsl
@pytest.mark.broker
@pytest.mark.slow
def test_an_alert_that_outlives_its_process_is_one_alert_with_one_clip(story, tmp_path):
    """The process is killed in the alert and started again; the alert ends in the second one."""
    folder = tmp_path / "kept" / "bed3"
    story.device()
    first = story.pipeline("--record", tmp_path / "kept")
    raised = story.until("alert/event", lambda event: event["event_type"] == "raised")
    (recording,) = folder.glob("*.bdf")
    eventually(lambda: alerts_in([open_bdf(recording)]), what="the alert on disk")
    first.kill()
    second = story.pipeline("--record", tmp_path / "kept")
    ended = story.until(
        "alert/event",
        lambda event: event["event_type"] == "ended" and event["alert_id"] == raised["alert_id"],
    )
    assert second.stop() == 0
    files = [open_bdf(path) for path in sorted(folder.glob("*.bdf"))]
    assert len(files) == 2
    (span,) = [s for s in alerts_in(files) if s.alert_id == raised["alert_id"]]
    assert abs((span.start - datetime.fromisoformat(raised["onset"])).total_seconds()) < 0.1
    assert abs((span.end - datetime.fromisoformat(ended["ended"])).total_seconds()) < 0.1
    (facts_file,) = (folder / "alerts").glob(f"*-{raised['alert_id'][:8]}.json")
    assert json.loads(facts_file.read_text())["ended"] is not None
    clip = open_bdf(facts_file.with_suffix(".bdf"))
    assert clip.start < span.start
    assert clip.end > span.end
