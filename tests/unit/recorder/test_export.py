"""Alerts that were recorded reach other programs as they were."""

import json
import warnings
from datetime import timedelta

import pytest

from stream_classifier.cli import main
from stream_classifier.recorder import evidence, export
from stream_classifier.recorder.bdf import BdfWriter
from stream_classifier.signals import EventType
from stream_classifier.sources.recording import annotated, open_recording
from stream_classifier.sources.recordings import marks

from .test_tape import NOON, chunk, event, tape_in, values

edfio = pytest.importorskip("edfio", reason="needs the extra [recordings]")


@pytest.fixture
def kept(tmp_path):
    """A stream of three files: an alert across two of them, and none in the last."""
    tape = tape_in(tmp_path / "kept" / "bed3", file_s=65.0)
    tape.take(chunk(0, 64 * 60))
    tape.take(event(EventType.RAISED, 61))
    tape.take(chunk(64 * 60, 60 * 60))
    tape.take(event(EventType.ENDED, 110, seq=1, off_s=100))
    tape.take(chunk(124 * 60, 30 * 60))
    tape.close()
    return tmp_path / "kept"


def seizures(found):
    return [(seizure.start_s, seizure.end_s) for seizure in found or ()]


def test_bids_holds_the_recordings_and_what_the_classifier_found_in_each(kept, tmp_path, capsys):
    assert main(["export", str(kept), "--to", "bids", str(tmp_path / "out")]) == 0
    first, second, third = sorted((tmp_path / "out" / "sub-bed3" / "eeg").glob("*_eeg.bdf"))
    assert str(first.with_name(first.name.replace("eeg.bdf", "events.tsv"))) in (
        capsys.readouterr().out
    )
    assert seizures(annotated(open_recording(str(first)))) == [(60.0, 65.0)]
    assert seizures(annotated(open_recording(str(second)))) == [(0.0, pytest.approx(35.0))]
    assert annotated(open_recording(str(third))) == ()
    columns = (
        first.with_name(first.name.replace("eeg.bdf", "events.tsv")).read_text().split("\n")[0]
    )
    sidecar = json.loads(first.with_name(first.name.replace("eeg.bdf", "events.json")).read_text())
    assert set(columns.split("\t")) == set(sidecar)
    facts = json.loads(first.with_name(first.name.replace("eeg.bdf", "eeg.json")).read_text())
    assert facts["SamplingFrequency"] == 60
    assert open_recording(str(first)).labels == ("C3", "C4")


def test_szcore_tables_have_its_columns_and_say_where_there_is_no_seizure(kept, tmp_path):
    assert main(["export", str(kept), "--to", "szcore", str(tmp_path / "out")]) == 0
    first, second, third = sorted((tmp_path / "out" / "bed3").glob("*.tsv"))
    assert first.read_text() == (
        "onset\tduration\teventType\tconfidence\tchannels\tdateTime\trecordingDuration\n"
        "60.000\t5.000\tsz\t0.950\tC3\t2026-11-24 12:00:00\t65.000\n"
    )
    assert seizures(marks.read_table(second)) == [(0.0, pytest.approx(35.0))]
    (row,) = marks.read_tsv(third)
    assert (row["eventType"], row["onset"], row["duration"]) == ("bckg", "0.000", "24.000")


def test_szcore_tables_score_as_the_alerts_they_are(kept, tmp_path):
    timescoring = pytest.importorskip("timescoring", reason="needs the extra [report]")
    assert timescoring
    from timescoring.annotations import Annotation
    from timescoring.scoring import EventScoring

    main(["export", str(kept), "--to", "szcore", str(tmp_path / "out")])
    table = min((tmp_path / "out" / "bed3").glob("*.tsv"))
    found = Annotation(seizures(marks.read_table(table)), 10, 650)
    truth = Annotation([(61.0, 64.0)], 10, 650)
    scores = EventScoring(truth, found, EventScoring.Parameters())
    assert (scores.sensitivity, scores.precision) == (1.0, 1.0)


def test_edf_annotations_open_in_other_programs_with_their_durations(kept, tmp_path):
    assert main(["export", str(kept), "--to", "edf", str(tmp_path / "out")]) == 0
    first, _, third = sorted((tmp_path / "out" / "bed3").glob("*.edf"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        theirs = edfio.read_edf(first)
        assert not edfio.read_edf(third).annotations
    (note,) = theirs.annotations
    assert (note.onset, note.duration) == (pytest.approx(60.0), pytest.approx(5.0))
    assert note.text == "seizure; found by a classifier; p 0.950; C3"
    found = marks.seizures_in(first, [marks.Mark(note.onset, note.duration, note.text)])
    assert seizures(found) == [(pytest.approx(60.0), pytest.approx(65.0))]
    start = NOON.replace(tzinfo=None)
    assert theirs.startdate == start.date()
    assert theirs.starttime == start.time()
    mne = pytest.importorskip("mne", reason="mne is not installed")
    (again,) = mne.read_annotations(first)
    assert again["duration"] == pytest.approx(5.0)


def test_what_the_classifier_found_is_not_taken_for_what_a_person_marked(kept):
    for path in (kept / "bed3").glob("*.bdf"):
        assert annotated(open_recording(str(path))) is None


def test_an_alert_left_open_by_a_kill_lasts_to_the_end_of_its_file(tmp_path):
    tape = tape_in(tmp_path / "bed3")
    tape.take(chunk(0, 70 * 60))
    tape.take(event(EventType.RAISED, 61))
    tape.tick()
    tape._open.writer.abandon()
    later = BdfWriter(
        tmp_path / "bed3" / "later.bdf", labels=("C3", "C4"), rate_hz=60,
        start=NOON + timedelta(hours=1),
    )  # fmt: skip
    later.append(values(range(600)))
    later.close()
    assert main(["export", str(tmp_path / "bed3"), "--to", "szcore", str(tmp_path / "out")]) == 0
    first, second = sorted((tmp_path / "out" / "bed3").glob("*.tsv"))
    ((start_s, end_s),) = seizures(marks.read_table(first))
    assert (start_s, end_s) == (60.0, pytest.approx(71.0, abs=1.0))
    assert marks.read_table(second) == ()


def test_what_cannot_be_exported_is_said(kept, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert main(["export", str(kept), "--to", "bids", str(tmp_path / "full")]) == 3
    assert "expected a new or empty folder" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "none"), "--to", "bids", str(tmp_path / "out")]) == 4
    assert main(["export", str(tmp_path / "full"), "--to", "edf", str(tmp_path / "out")]) == 4
    (tmp_path / "other.bdf").write_bytes(b"\xffBIOSEMI" + b" " * 1000)
    assert main(["export", str(tmp_path / "other.bdf"), "--to", "edf", str(tmp_path / "o")]) == 4
    assert "a recording made by run --record" in capsys.readouterr().err


def test_no_label_becomes_a_formula_or_a_row_of_its_own_in_a_table():
    for label in ("=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "\t=1", "a\nb\tc,d"):
        cell = export._cell(label)
        assert cell[0] not in "=+-@"
        assert not set(cell) & set("\t\r\n,")
        assert evidence._heading(label)[0] not in "=+-@"
        assert evidence._heading(label).isprintable()
    assert export._cell("C3-A2") == evidence._heading("C3-A2") == "C3-A2"
