"""A stream becomes files that hold every sample, at its time, with the alerts at theirs."""

import json
import logging
import os
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_classifier.recorder import tape as tape_module
from stream_classifier.recorder.alerts import alerts_in
from stream_classifier.recorder.bdf import NO_SAMPLES_TEXT, open_bdf
from stream_classifier.recorder.evidence import Evidence, keep
from stream_classifier.recorder.shelf import Shelf
from stream_classifier.recorder.tape import Tape
from stream_classifier.signals import AlertEvent, Chunk, EventType, Prediction, State, StreamSpec
from stream_classifier.sinks.messages import MessageBuilder, ModelRef, WallClock
from stream_classifier.sources.recording import open_recording

RATE_HZ = 60.0
ORIGIN_S = 5_000.0
NOON = datetime(2026, 11, 24, 12, 0, 0, 125_000, UTC)
CLOCK = WallClock(offset_s=NOON.timestamp() - ORIGIN_S)
SPEC = StreamSpec("bed3", "amp", RATE_HZ, ("C3", "C4"))
BUILDER = MessageBuilder(
    spec=SPEC, model=ModelRef("bonn", "ab", raise_threshold=0.8, clear_threshold=0.5), clock=CLOCK
)


class Cases(list):
    """Takes alerts whose evidence is to be kept, in the place of ``Evidence``."""

    keep = list.append


def shelf_in(folder, *, max_age_s=1e9, max_bytes=1e9):
    shelf = Shelf(folder, max_age_s=max_age_s, max_bytes=max_bytes)
    shelf.make()
    return shelf


def tape_in(folder, *, evidence=None, spec=SPEC, file_s=3600.0, **more):
    return Tape(
        shelf_in(folder),
        Cases() if evidence is None else evidence,
        spec=spec,
        clock=CLOCK,
        about="lsl bed3",
        file_s=file_s,
        min_free_bytes=0,
        **more,
    )


def values(indices, n_channels=2):
    """What the sample of an index is, so that each can be told from all others."""
    return (np.asarray(indices)[:, None] * 0.25 + np.arange(n_channels) * 1000).astype(np.float32)


def chunk(start, n_samples, **more):
    samples = values(range(start, start + n_samples))
    return Chunk(samples, start, **{"origin_s": ORIGIN_S, **more})


def recorded(folder):
    """Samples by index, as our own reader of recordings finds them, and files by their start."""
    found = {}
    for path in sorted(folder.glob("*.bdf")):
        offset = round((open_bdf(path).start - NOON).total_seconds() * RATE_HZ)
        for run in open_recording(str(path)).runs():
            for n, row in enumerate(run.samples):
                assert offset + run.first_index + n not in found
                found[offset + run.first_index + n] = row
    return found


def spans(folder):
    """Start and end of each alert, seconds from noon."""
    files = [open_bdf(path) for path in sorted(folder.glob("*.bdf"))]
    return [
        tuple((at - NOON).total_seconds() for at in (span.start, span.end))
        for span in alerts_in(files)
    ]


def event(kind, at_s, *, seq=0, off_s=None, onset_s=60.0, raised_s=61.0, builder=BUILDER, **more):
    return builder.event(
        AlertEvent(
            type=kind, alert_id="9f3c1e2a77", seq=seq, at_s=ORIGIN_S + at_s,
            onset_s=ORIGIN_S + onset_s, raised_s=ORIGIN_S + raised_s,
            off_s=None if off_s is None else ORIGIN_S + off_s, p=0.9, p_max=0.95,
            channels=("C3",), **more,
        ),
        state=State.ALERT, signal="ok", decided=NOON,
    )  # fmt: skip


def prediction(at_s, p):
    return BUILDER.prediction(
        Prediction(
            end_index=0, at_s=ORIGIN_S + at_s, probabilities=np.full((2, 3), p, np.float32),
            smoothed=np.array([p, np.nan], np.float32), reasons=("", "flat"), p=p, state=State.OK,
        ),
        signal="ok", decided=NOON,
    )  # fmt: skip


@given(
    steps=st.lists(st.tuples(st.integers(0, 150), st.integers(1, 200)), min_size=1, max_size=10),
    file_s=st.sampled_from([3.0, 5.5, 3600.0]),
)
@settings(deadline=None, max_examples=25)
def test_however_it_comes_every_sample_is_on_disk_at_its_time_and_nothing_else(
    tmp_path_factory, steps, file_s
):
    folder = tmp_path_factory.mktemp("tape")
    tape = tape_in(folder, file_s=file_s)
    index, expected = 0, set()
    for gap, n_samples in steps:
        index += gap
        tape.take(chunk(index, n_samples))
        expected |= set(range(index, index + n_samples))
        index += n_samples
    tape.close()
    found = recorded(folder)
    assert set(found) == expected
    indices = sorted(found)
    np.testing.assert_array_equal(np.stack([found[i] for i in indices]), values(indices))
    assert (tape.n_samples, tape.n_lost) == (len(expected), 0)


def test_a_file_ends_after_its_time_and_the_next_goes_on_with_the_next_sample(tmp_path):
    tape = tape_in(tmp_path, file_s=10.0)
    for start in range(0, 2100, 7):
        tape.take(chunk(start, 7))
    tape.close()
    files = [open_bdf(path) for path in sorted(tmp_path.glob("*.bdf"))]
    assert [file.duration_s for file in files] == [10.0, 10.0, 10.0, 5.0]
    assert set(recorded(tmp_path)) == set(range(2100))
    assert NO_SAMPLES_TEXT not in {note.text for file in files[:3] for note in file.notes()}


def test_a_clock_that_runs_away_gets_a_new_file_so_that_times_of_day_stay_right(tmp_path):
    tape = tape_in(tmp_path)
    for second in range(200):
        tape.take(chunk(second * 60, 60, origin_s=ORIGIN_S + 0.01 * second))  # 1% too slow
    tape.close()
    files = [open_bdf(path) for path in sorted(tmp_path.glob("*.bdf"))]
    assert len(files) == 2
    assert (files[1].start - NOON).total_seconds() == pytest.approx(102 * 1.01, abs=1.1)


def test_a_stream_that_begins_anew_gets_a_new_file(tmp_path):
    tape = tape_in(tmp_path)
    tape.take(chunk(0, 30))
    tape.take(chunk(30, 10, anchor_s=7.0))
    tape.take(chunk(0, 10, anchor_s=7.0))
    tape.close()
    assert len(list(tmp_path.glob("*.bdf"))) == 3


def test_an_alert_is_annotated_where_it_was_and_on_disk_at_once(tmp_path):
    tape = tape_in(tmp_path)
    tape.take(chunk(0, 61 * 60))
    tape.take(event(EventType.RAISED, 61))
    (path,) = tmp_path.glob("*.bdf")
    texts = {note.text: note.at_s for note in open_bdf(path).notes()}  # nothing closed, no tick
    assert texts["seizure alert onset id=9f3c1e2a77"] == pytest.approx(60.0)
    assert texts["seizure alert raised id=9f3c1e2a77 p=0.900 channels=C3"] == pytest.approx(61.0)
    tape.take(chunk(61 * 60, 20 * 60))
    tape.take(event(EventType.UPDATED, 75, seq=1, off_s=75))
    tape.take(event(EventType.ENDED, 80, seq=2, off_s=75))
    tape.close()
    ((start_s, end_s),) = spans(tmp_path)
    assert (start_s, end_s) == (pytest.approx(60.0), pytest.approx(75.0))
    (span,) = alerts_in([open_bdf(path)])
    assert span.channels == ("C3",)
    assert span.p == pytest.approx(0.95)


def test_an_alert_that_goes_on_is_one_across_files_and_in_each_of_them(tmp_path):
    tape = tape_in(tmp_path, file_s=65.0)
    tape.take(chunk(0, 64 * 60))
    tape.take(event(EventType.RAISED, 61))
    tape.take(chunk(64 * 60, 60 * 60))
    first, second = (open_bdf(path) for path in sorted(tmp_path.glob("*.bdf")))
    assert [alerts_in([file])[0].start for file in (first, second)] == [
        NOON + timedelta(seconds=60), NOON + timedelta(seconds=65)
    ]  # fmt: skip
    tape.take(chunk(124 * 60, 20 * 60))
    tape.take(event(EventType.ENDED, 120, seq=1, off_s=110))  # late: another file has begun
    tape.close()
    assert len(list(tmp_path.glob("*.bdf"))) == 3
    assert spans(tmp_path) == [(pytest.approx(60.0), pytest.approx(110.0))]


def test_a_recording_that_is_played_again_has_its_alerts_again(tmp_path):
    for offset_s in (0, 500):
        tape = tape_in(tmp_path)
        tape._clock = WallClock(CLOCK.offset_s + offset_s)
        tape.take(chunk(0, 70 * 60))
        with_offset = MessageBuilder(spec=SPEC, model=BUILDER.model, clock=tape._clock)
        tape.take(event(EventType.RAISED, 61, builder=with_offset))
        tape.take(event(EventType.ENDED, 68, seq=1, off_s=66.0, builder=with_offset))
        tape.close()
    assert spans(tmp_path) == [
        (pytest.approx(60.0), pytest.approx(66.0)),
        (pytest.approx(560.0), pytest.approx(566.0)),
    ]


def test_an_alert_that_stood_before_the_process_began_is_told_of(tmp_path):
    tape = tape_in(tmp_path)
    tape.take(chunk(0, 10))
    standing = AlertEvent(
        EventType.UPDATED, "left-behind", 3, ORIGIN_S, ORIGIN_S - 60, ORIGIN_S - 59, None, 0.9, 0.9,
        ("C4",),
    )  # fmt: skip
    tape.take(
        BUILDER.alert(at_s=ORIGIN_S, prediction=None, latest=standing, signal="ok", decided=None)
    )
    tape.close()
    (path,) = tmp_path.glob("*.bdf")
    (span,) = alerts_in([open_bdf(path)])
    assert (span.alert_id, span.start, span.end) == ("left-behind", NOON, None)


def test_signal_that_is_lost_and_comes_back_is_annotated(tmp_path):
    tape = tape_in(tmp_path)
    tape.take(chunk(0, 200))
    for at_s, signal in ((2, "ok"), (10, "none"), (30, "starting"), (32, "ok"), (33, "ok")):
        tape.take(
            BUILDER.alert(
                at_s=ORIGIN_S + at_s, prediction=None, latest=None, signal=signal, decided=None
            )
        )
    tape.close()
    (path,) = tmp_path.glob("*.bdf")
    notes = [(n.text, n.at_s) for n in open_bdf(path).notes() if n.text.startswith("signal")]
    assert notes == [("signal ok", 2.0), ("signal lost", 10.0), ("signal ok", 32.0)]


class Disk:
    """A disk that can be full."""

    def __init__(self):
        self.free = 10**9
        self.now_s = 0.0

    def tape(self, folder):
        tape = tape_in(folder, free_bytes=lambda _: self.free, monotonic=lambda: self.now_s)
        tape._min_free_bytes = 10**6
        return tape


def test_a_full_disk_is_said_once_tried_again_and_what_is_missing_is_counted(tmp_path, caplog):
    disk = Disk()
    tape = disk.tape(tmp_path)
    caplog.set_level(logging.WARNING)
    tape.take(chunk(0, 300))
    disk.free = 0
    tape.tick()
    assert "No space left" in tape.fault
    for second in range(5, 10):
        disk.now_s += 1
        tape.take(chunk(second * 60, 60))
        tape.tick()
    assert tape.n_lost == 300
    tape.take(event(EventType.RAISED, 61, onset_s=9.0, raised_s=9.5))
    disk.free = 10**9
    disk.now_s += 10
    tape.take(chunk(600, 300))
    tape.close()
    assert tape.fault is None
    said = [record.message for record in caplog.records]
    assert sum("recording stopped" in line for line in said) == 1
    assert sum("recording goes on; 300 samples" in line for line in said) == 1
    second = open_bdf(max(tmp_path.glob("*.bdf")))
    assert set(recorded(tmp_path)) == {*range(300), *range(600, 900)}
    (span,) = alerts_in([second])  # raised meanwhile
    assert span.start == NOON + timedelta(seconds=9)


def test_a_write_that_fails_half_way_leaves_a_file_that_opens(tmp_path, monkeypatch):
    tape = tape_in(tmp_path)
    tape.take(chunk(0, 100))
    real = tape_module.BdfWriter._write

    def half(self, at, data):
        real(self, at, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tape_module.BdfWriter, "_write", half)
        tape.take(chunk(100, 120))
    assert tape.fault == "No space left on device"
    (path,) = tmp_path.glob("*.bdf")
    assert open_bdf(path).n_records >= 1
    assert set(recorded(tmp_path)) >= set(range(60))


def test_what_is_old_or_too_much_is_deleted_clips_of_alerts_last(tmp_path):
    shelf = shelf_in(tmp_path, max_age_s=100, max_bytes=3_000)
    names = [f"2026-11-24T1{n}-00-00Z.bdf" for n in range(5)]
    for name in names:
        (tmp_path / name).write_bytes(bytes(1_000))
    for kind in ("bdf", "csv", "json", "png"):
        (shelf.alerts / f"2026-11-24T09-00-00Z-9f3c1e2a.{kind}").write_bytes(bytes(100))
        (shelf.alerts / f"2026-11-24T10-00-00Z-aa3c1e2a.{kind}").write_bytes(bytes(100))
    (tmp_path / "mine.bdf").write_bytes(bytes(9_000))
    (shelf.alerts / "notes.txt").write_bytes(bytes(9_000))
    shelf.tidy(keep=tmp_path / names[4])
    assert sorted(p.name for p in tmp_path.glob("*.bdf")) == [*names[3:], "mine.bdf"]
    assert len(list(shelf.alerts.iterdir())) == 9
    os.utime(tmp_path / names[3], (time.time() - 200, time.time() - 200))
    shelf.tidy(keep=tmp_path / names[4])
    assert not (tmp_path / names[3]).exists()
    Shelf(tmp_path, max_age_s=1e9, max_bytes=1_500).tidy(keep=tmp_path / names[4])
    left = sorted(p.name for p in shelf.alerts.iterdir())
    assert left[0].startswith("2026-11-24T10")  # the older clip went, as a whole
    assert len(left) == 5
    assert (tmp_path / names[4]).exists()


def test_old_files_that_cannot_be_deleted_do_not_stop_the_recording(tmp_path, monkeypatch, caplog):
    def refuse(_self, *, keep):
        raise PermissionError(13, "Permission denied", str(keep))

    monkeypatch.setattr(Shelf, "tidy", refuse)
    tape = tape_in(tmp_path)
    tape.take(chunk(0, 120))
    tape.close()
    assert (tape.fault, tape.n_samples) == (None, 120)
    assert "old recordings cannot be deleted" in caplog.text


def test_evidence_holds_30_s_before_the_onset_to_30_s_after_the_end(tmp_path):
    cases = Cases()
    tape = tape_in(tmp_path, evidence=cases, file_s=50.0)
    for second in range(160):
        tape.take(chunk(second * 60, 60))
        tape.take(prediction(second, 0.9 if 60 <= second <= 75 else 0.1))
        if second == 61:
            tape.take(event(EventType.RAISED, 61))
        if second == 80:
            tape.take(event(EventType.ENDED, 80, seq=1, off_s=75.0))
        tape.tick()
        assert len(cases) == (second >= 104)  # by then there are 105 s
    facts_file = keep(cases[0], shelf_in(tmp_path))
    tape.close()
    assert len(cases) == 1
    clip = open_bdf(facts_file.with_suffix(".bdf"))
    assert (clip.start - NOON).total_seconds() == pytest.approx(30.0, abs=0.001)
    assert clip.duration_s == pytest.approx(75.0, abs=1.0)
    np.testing.assert_array_equal(clip.read()[: 74 * 60], values(range(1800, 1800 + 74 * 60)))
    facts = json.loads(facts_file.read_text())
    assert (facts["cut_short"], facts["event"]["event_type"]) == (False, "ended")
    rows = facts_file.with_suffix(".csv").read_text().splitlines()
    assert rows[0] == "seconds,utc,p,C3,C4"
    assert rows[1] == "0.000,2026-11-24T12:00:30.125Z,0.1000,0.1000,"
    assert len(rows) == 1 + 75  # one a second, and that of 105 s was not yet there
    (span,) = alerts_in([clip])
    assert abs(span.start - NOON - timedelta(seconds=60)) < timedelta(milliseconds=1)
    assert abs(span.end - NOON - timedelta(seconds=75)) < timedelta(milliseconds=1)


def test_of_an_alert_without_end_the_first_ten_minutes_are_kept(tmp_path):
    cases = Cases()
    tape = tape_in(tmp_path, evidence=cases)
    for second in range(0, 700, 10):
        tape.take(chunk(second * 60, 600))
        if second == 60:
            tape.take(event(EventType.RAISED, 61))
        tape.tick()
    tape.close()
    (case,) = cases
    assert (case.end - case.start).total_seconds() == 600
    facts = json.loads(keep(case, shelf_in(tmp_path)).read_text())
    assert facts["cut_short"] is True
    assert facts["clip_seconds"] == pytest.approx(600, abs=1)


def test_an_alert_that_a_killed_process_left_gets_its_clip_at_the_next_start(tmp_path):
    tape = tape_in(tmp_path)
    tape.take(chunk(0, 70 * 60))
    tape.take(event(EventType.RAISED, 61))
    tape.tick()
    tape._open.writer.abandon()  # as a kill does
    evidence = Evidence(shelf_in(tmp_path))
    evidence._draw = lambda: None
    evidence.start()
    evidence.close(within_s=10)
    (facts_file,) = (tmp_path / "alerts").glob("*.json")
    facts = json.loads(facts_file.read_text())
    assert (facts["alert_id"], facts["cut_short"]) == ("9f3c1e2a77", True)
    assert facts["clip_seconds"] == pytest.approx(40, abs=1)
    assert facts["onset"] == "2026-11-24T12:01:00.125Z"


def test_an_alert_of_which_nothing_was_recorded_keeps_its_facts(tmp_path):
    cases = Cases()
    tape = tape_in(tmp_path, evidence=cases)
    tape.take(event(EventType.RAISED, 61))
    tape.close()
    facts = json.loads(keep(cases[0], shelf_in(tmp_path)).read_text())
    assert facts["clip_seconds"] is None
    assert facts["onset"] == "2026-11-24T12:01:00.125Z"
    assert timedelta(0) == (cases[0].onset - NOON) - timedelta(seconds=60)
