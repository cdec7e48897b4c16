"""Recordings of every format: what is read, in which unit, with which holes; how it is played."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

from stream_classifier.errors import (
    RecordingInvalidError,
    RecordingNotFoundError,
    StreamDescriptionError,
)
from stream_classifier.signals import Chunk
from stream_classifier.sources.recording import RecordingSource, annotated, open_recording
from stream_classifier.sources.recordings import material
from stream_classifier.sources.recordings.material import Ask, Seizure
from tests.recordings_on_disk import with_gap, write_csv, write_edf, write_xdf

RNG = np.random.default_rng(0)


def noise(seconds=4, rate_hz=256, n_channels=2):
    return RNG.normal(0, 30, (round(seconds * rate_hz), n_channels)).astype(np.float32)


def read(name, ask=None, **keywords):
    source = RecordingSource(open_recording(str(name), ask), **keywords)
    spec = source.open()
    chunks = [chunk for chunk in source if chunk is not None]
    return spec, chunks, source


def held(chunks):
    return [index for chunk in chunks for index in chunk.indices]


def joined(chunks):
    return np.concatenate([chunk.samples for chunk in chunks])


@pytest.fixture
def edf(tmp_path):
    pytest.importorskip("edfio", reason="needs the extra [recordings]")
    return tmp_path / "night.edf"


@pytest.fixture
def xdf(tmp_path):
    pytest.importorskip("pyxdf", reason="needs the extra [recordings]")
    return tmp_path / "lab.xdf"


@pytest.mark.parametrize("unit", ["uV", "mV", "V"])
@pytest.mark.parametrize("bdf", [False, True])
def test_edf_and_bdf_are_read_in_microvolts_whatever_their_unit(edf, unit, bdf):
    samples = noise()
    spec, chunks, _ = read(write_edf(edf, samples, rate_hz=256, unit=unit, bdf=bdf))
    assert (spec.rate_hz, spec.labels, spec.kind) == (256.0, ("C3", "C4"), "recording")
    assert not spec.simulated
    assert held(chunks) == list(range(len(samples)))
    np.testing.assert_allclose(joined(chunks), samples, atol=0.1)  # 16 bits of 6 mV


def test_chunks_are_the_same_however_much_is_read_at_once(edf, monkeypatch):
    write_edf(edf, noise(10), rate_hz=256, annotations=[])
    with_gap(edf, after_record=4, seconds=2)
    _, whole, _ = read(edf, chunk_samples=100)
    monkeypatch.setattr("stream_classifier.sources.recordings.edf.BLOCK_BYTES", 3000)
    _, in_pieces, _ = read(edf, chunk_samples=100)
    assert [c.first_index for c in whole] == [c.first_index for c in in_pieces]
    assert all(np.array_equal(a.samples, b.samples) for a, b in zip(whole, in_pieces, strict=True))


def test_time_that_an_edf_misses_is_a_hole_in_the_indices(edf):
    write_edf(edf, noise(6), rate_hz=256, annotations=[])
    _, chunks, source = read(with_gap(edf, after_record=2, seconds=3))
    assert held(chunks) == [*range(512), *range(512 + 768, 1536 + 768)]
    assert (source.n_gaps, source.n_missing, source.n_samples) == (1, 768, 1536)
    assert source.duration_s == 9.0


def test_records_that_overlap_are_refused(edf):
    write_edf(edf, noise(6), rate_hz=256, annotations=[])
    with pytest.raises(RecordingInvalidError, match="begin after the one before"):
        read(with_gap(edf, after_record=2, seconds=-1))


def test_seizures_are_read_from_the_annotations_of_an_edf(edf):
    marks = [(1, 2.5, "Seizure, left temporal"), (0, None, "eyes open"), (5, 1, "no seizure")]
    write_edf(edf, noise(6), rate_hz=256, annotations=marks)
    assert annotated(open_recording(str(edf))) == (Seizure(1.0, 3.5),)


def test_a_seizure_may_be_marked_by_its_start_and_its_end(edf):
    write_edf(edf, noise(6), rate_hz=256, annotations=[(1, None, "sz start"), (3, None, "sz end")])
    assert annotated(open_recording(str(edf))) == (Seizure(1.0, 3.0),)


def test_a_seizure_without_an_end_is_refused_and_never_guessed(edf):
    write_edf(edf, noise(6), rate_hz=256, annotations=[(1, None, "seizure onset")])
    with pytest.raises(RecordingInvalidError, match="duration"):
        annotated(open_recording(str(edf)))


def test_signals_that_are_no_eeg_are_left_out_and_named(edf):
    samples = noise(n_channels=3)
    labels = ["EEG C3", "ECG", "Resp chest"]
    recording = open_recording(str(write_edf(edf, samples, rate_hz=256, labels=labels)))
    assert recording.labels == ("EEG C3",)
    assert "ECG" in recording.notes[0]
    assert "Resp chest" in recording.notes[0]


@pytest.mark.parametrize("unit", ["", "furlong"])
def test_a_missing_unit_is_never_guessed(edf, unit):
    write_edf(edf, noise(), rate_hz=256, unit=unit)
    with pytest.raises(StreamDescriptionError):
        open_recording(str(edf))
    assert open_recording(str(edf), Ask(unit="uV", channels=("C3",))).labels == ("C3",)


@pytest.mark.parametrize("cut", [0, 100, 255, 700, 1500, -1])
def test_a_file_that_was_cut_off_is_refused(edf, cut):
    whole = write_edf(edf, noise(), rate_hz=256).read_bytes()
    edf.write_bytes(whole[:cut])
    with pytest.raises(RecordingInvalidError, match="expected"):
        read(edf)


def test_an_edf_without_records_is_refused(edf):
    raw = bytearray(write_edf(edf, noise(), rate_hz=256).read_bytes())
    raw[236:244] = b"0       "
    edf.write_bytes(raw[:768])
    with pytest.raises(RecordingInvalidError, match="at least one data record"):
        read(edf)


def test_a_range_that_cannot_be_scaled_is_refused(edf):
    raw = bytearray(write_edf(edf, noise(), rate_hz=256).read_bytes())
    at = 256 + 2 * (16 + 80 + 8)  # the physical minimum of both signals, then the maximum
    raw[at : at + 8] = raw[at + 16 : at + 24]
    edf.write_bytes(raw)
    with pytest.raises(RecordingInvalidError, match="scaled"):
        read(edf)


def test_time_stamps_that_jump_are_a_hole_in_the_indices(xdf):
    samples = noise(20)
    stamps = 1000 + np.arange(len(samples)) / 256
    stamps[2560:] += 2.0
    write_xdf(xdf, [("head", "EEG", 256, ["C3", "C4"], "microvolts", samples, stamps)])
    spec, chunks, source = read(xdf)
    assert (spec.rate_hz, spec.labels) == (256.0, ("C3", "C4"))
    assert source.n_missing == 512
    assert held(chunks) == [*range(2560), *range(2560 + 512, len(samples) + 512)]
    np.testing.assert_array_equal(joined(chunks), samples)


def test_streams_that_are_no_eeg_do_not_matter(xdf):
    samples = noise(3)
    stamps = np.arange(len(samples)) / 256 + 5
    motion = ("head", "ACC", 50, ["x"], "g", noise(3, 50, 1), np.arange(150) / 50 + 5)
    write_xdf(xdf, [motion, ("head", "EEG", 256, ["C3", "C4"], "mV", samples, stamps)])
    _, chunks, _ = read(xdf)
    np.testing.assert_allclose(joined(chunks), samples * 1000, rtol=1e-6)


def test_an_empty_eeg_stream_is_refused(xdf):
    write_xdf(xdf, [("head", "EEG", 256, ["C3"], "uV", noise(0, n_channels=1), [])])
    with pytest.raises(RecordingInvalidError, match="expected samples"):
        read(xdf)


def test_two_eeg_streams_are_told_apart_by_name_only(xdf):
    one, two = noise(2, n_channels=1), noise(2, n_channels=1)
    stamps = np.arange(len(one)) / 256 + 5
    write_xdf(xdf, [(n, "EEG", 256, ["C3"], "uV", s, stamps) for n, s in (("a", one), ("b", two))])
    with pytest.raises(StreamDescriptionError, match="2 such streams"):
        read(xdf)
    _, chunks, _ = read(xdf, Ask(stream="b"))
    np.testing.assert_array_equal(joined(chunks), two)


def test_an_xdf_that_was_cut_off_is_refused(xdf):
    samples = noise(2, n_channels=1)
    stamps = np.arange(len(samples)) / 256 + 5
    write_xdf(xdf, [("a", "EEG", 256, ["C3"], "uV", samples, stamps)])
    xdf.write_bytes(xdf.read_bytes()[:-7])
    with pytest.raises(RecordingInvalidError, match="cut off"):
        read(xdf)


def test_a_csv_says_its_rate_and_units_itself(tmp_path):
    samples = noise(3)
    path = write_csv(
        tmp_path / "a.csv", samples, labels=["C3 [mV]", "C4 [uV]"], top="# rate_hz: 256"
    )
    spec, chunks, _ = read(path)
    assert (spec.rate_hz, spec.labels) == (256.0, ("C3", "C4"))
    np.testing.assert_allclose(joined(chunks), samples * [1000, 1], rtol=1e-4)


def test_a_file_beside_a_csv_says_what_it_does_not(tmp_path):
    path = write_csv(tmp_path / "a.csv", noise(3), labels=["time", "C3", "C4"][1:])
    path.with_suffix(".json").write_text(json.dumps({"SamplingFrequency": 250, "Units": "uV"}))
    assert open_recording(str(path)).rate_hz == 250.0


def test_a_csv_without_a_rate_is_refused_unless_it_is_given(tmp_path):
    path = write_csv(tmp_path / "a.csv", noise(3), labels=["C3", "C4"])
    with pytest.raises(StreamDescriptionError, match="--rate"):
        open_recording(str(path), Ask(unit="uV"))
    with pytest.raises(StreamDescriptionError, match="--unit"):
        open_recording(str(path), Ask(rate_hz=256))
    assert open_recording(str(path), Ask(unit="uV", rate_hz=256)).labels == ("C3", "C4")


@pytest.mark.parametrize("rate", ["0", "nan", "-256", "1e9", "ten"])
def test_a_wrong_rate_is_refused(tmp_path, rate):
    path = write_csv(tmp_path / "a.csv", noise(3), labels=["C3"] * 2, top=f"# rate_hz: {rate}")
    with pytest.raises(StreamDescriptionError):
        open_recording(str(path), Ask(unit="uV"))


def test_missing_values_stay_missing(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("# rate_hz: 256, unit: uV\nC3,C4\n1,2\n,4\n5,n/a\n7,8\n")
    _, chunks, _ = read(path)
    np.testing.assert_array_equal(joined(chunks), [[1, 2], [np.nan, 4], [5, np.nan], [7, 8]])


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("C3,C4\n1,2\n3,four\n", "line 4"),
        ("C3,C4\n1,2\n3\n", "1 in line 4"),
        ("C3,C4\n", "a header alone"),
        ("", "none"),
        ("C3,C4\n1,\0\n", "lines of text"),
    ],
)
def test_what_is_no_table_of_numbers_is_refused_with_its_line(tmp_path, lines, said):
    path = tmp_path / "a.csv"
    path.write_text("# rate_hz: 256, unit: uV\n" + lines)
    with pytest.raises(RecordingInvalidError, match=said):
        read(path)


def test_a_file_of_the_openbci_gui_says_all_by_itself(tmp_path):
    path = tmp_path / "OpenBCI.txt"
    path.write_text(
        "%OpenBCI Raw EXG Data\n%Number of channels = 1\n%Sample Rate = 250 Hz\n"
        "Sample Index, EXG Channel 0, Accel Channel 0, Timestamp (Formatted)\n"
        "0, 61379.36, 0.040, 12:00:53.329\n1, 60973.46, 0.040, 12:00:53.336\n"
    )
    spec, chunks, _ = read(path)
    assert (spec.rate_hz, spec.labels) == (250.0, ("EXG Channel 0",))
    np.testing.assert_allclose(joined(chunks), [[61379.36], [60973.46]], rtol=1e-6)


def test_bids_tables_say_which_channels_count(edf):
    folder = edf.parent / "sub-01" / "ses-1" / "eeg"
    folder.mkdir(parents=True)
    (edf.parent / "dataset_description.json").write_text("{}")
    path = folder / "sub-01_ses-1_task-rest_run-1_eeg.edf"
    write_edf(path, noise(n_channels=4), rate_hz=256, labels=["C3", "C4", "X1", "Cz"], unit="")
    table = "name\ttype\tunits\tstatus\nC3\tEEG\tmV\tgood\nC4\tEEG\tuV\tbad\nX1\tEOG\tuV\tgood\n"
    beside = folder / "sub-01_ses-1_task-rest_run-1_channels.tsv"
    beside.write_text(table + "Cz\tEEG\tuV\tn/a\n")
    (folder / "sub-01_ses-1_task-rest_run-1_events.tsv").write_text(
        "onset\tduration\teventType\n0\t1\tbckg\n1\t2\tsz_foc_ia\n"
    )
    recording = open_recording(str(edf.parent))  # the only one in the folder
    assert recording.labels == ("C3", "Cz")
    assert "C4 (bad EEG)" in recording.notes[0]
    assert annotated(recording) == (Seizure(1.0, 3.0),)


def test_a_table_without_seizures_says_that_there_were_none(edf):
    write_edf(edf, noise(), rate_hz=256)
    assert annotated(open_recording(str(edf))) is None
    edf.with_suffix(".tsv").write_text("onset\tduration\teventType\n0\t4\tbckg\n")
    assert annotated(open_recording(str(edf))) == ()


def test_the_same_bytes_are_the_same_source_whatever_their_name(edf):
    write_edf(edf, noise(), rate_hz=256)
    other = edf.with_name("other.edf")
    other.write_bytes(edf.read_bytes())
    first, second = open_recording(str(edf)), open_recording(str(other))
    assert first.source_id == second.source_id
    assert first.name != second.name


@pytest.mark.dataset
def test_recordings_of_the_data_set_go_by_their_keys(data_folder):
    spec, chunks, _ = read("V1.791", Ask(data=data_folder))
    assert (spec.rate_hz, spec.labels, len(held(chunks))) == (178.0, ("EEG",), 4094)


@pytest.mark.parametrize("name", ["absent.edf", "no such key"])
def test_what_is_not_there_is_said(tmp_path, name, monkeypatch):
    monkeypatch.setenv("STREAM_CLASSIFIER_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecordingNotFoundError, match="no such file"):
        open_recording(name)


def test_a_format_that_is_not_read_is_said(tmp_path):
    (tmp_path / "a.fif").write_bytes(b"x")
    with pytest.raises(RecordingInvalidError, match=r"found \.fif"):
        open_recording(str(tmp_path / "a.fif"))


class Clock:
    """A clock that moves when somebody waits."""

    def __init__(self):
        self.now_s = 50.0

    def __call__(self):
        return self.now_s

    def wait(self, seconds):
        self.now_s += seconds


def source_of(runs, *, rate_hz=100.0, **keywords):
    recording = material.Recording(
        path="x",
        name="x",
        source_id="x",
        rate_hz=rate_hz,
        labels=("C3",),
        runs=lambda: iter([material.Run(i, np.zeros((n, 1), np.float32)) for i, n in runs]),
    )
    return RecordingSource(recording, **keywords)


def test_in_real_time_a_recording_takes_as_long_as_it_is():
    clock = Clock()
    source = source_of([(0, 250)], speed=1, monotonic=clock, wait=clock.wait)
    arrivals = [(c.indices.stop, clock.now_s - 50) for c in source if c is not None]
    assert arrivals[-1] == (250, pytest.approx(2.5))
    assert all(at_s == pytest.approx(stop / 100) for stop, at_s in arrivals)


def test_a_hole_is_waited_out_with_signs_of_life_and_a_clock_that_goes_on():
    clock = Clock()
    source = source_of([(0, 100), (500, 100)], speed=2, monotonic=clock, wait=clock.wait)
    silences, longest = 0, 0
    for chunk in source:
        silences = 0 if chunk is not None else silences + 1
        longest = max(longest, silences)
        if silences == 30:
            assert 1.5 < source.clock() < 5
    assert longest >= 39  # 4 s of signal at twice the speed, 50 ms at a time
    assert clock.now_s - 50 == pytest.approx(3.0)


def test_as_fast_as_it_goes_nothing_is_ever_late():
    source = source_of([(0, 100), (100_000, 300)], speed=0)
    for chunk in source:
        assert isinstance(chunk, Chunk)
        assert source.clock() == chunk.received_s == chunk.indices.stop / 100
    assert source.ended


def test_a_request_to_stop_ends_it():
    stop = threading.Event()
    source = source_of([(0, 10_000)], stop=stop)
    for n, _ in enumerate(source):
        if n == 3:
            stop.set()
    assert n == 3
    assert not source.ended


@pytest.mark.dataset
def test_recordings_of_consumer_headsets_are_read_as_they_are(data_folder):
    pytest.importorskip("pyxdf", reason="needs the extra [recordings]")
    folder = data_folder / "headset_misc"
    if not folder.is_dir():
        pytest.skip("headset_misc is not in the data folder")
    for path in sorted(folder.glob("muse_*.xdf")):  # other streams of theirs are empty
        spec, chunks, source = read(path)
        assert spec.labels == ("TP9", "AF7", "AF8", "TP10", "AUX_RIGHT")
        assert (spec.rate_hz, source.n_gaps) == (256.0, 0)
        assert np.abs(joined(chunks)).max() == 1000.0  # saturated, in uV
    (path,) = folder.glob("OpenBCI*.txt")
    spec, chunks, _ = read(path)
    assert (spec.rate_hz, spec.n_channels, len(held(chunks))) == (250.0, 8, 22_490)
