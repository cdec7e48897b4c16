"""Recordings that are damaged or forged: an error that says why, or a recording that plays."""

from __future__ import annotations

import json
import os
import struct

import numpy as np
import pytest

from stream_classifier.errors import RecordingError, RecordingInvalidError, StreamClassifierError
from stream_classifier.sources.recording import RecordingSource, annotated, open_recording
from stream_classifier.sources.recordings import bids, marks
from stream_classifier.sources.recordings.material import Ask
from tests.recordings_on_disk import with_gap, write_csv, write_edf, write_xdf

RATE_HZ = 128
SAMPLES = np.random.default_rng(0).normal(0, 30, (256, 2)).astype(np.float32)
STAMPS = 5 + np.arange(256) / RATE_HZ

OPENBCI = (
    "%OpenBCI Raw EXG Data\n%Number of channels = 2\n%Sample Rate = 250 Hz\n%Board = x\n"
    "Sample Index, EXG Channel 0, EXG Channel 1, Accel Channel 0\n"
    + "".join(f"{n % 256}, {n * 0.5}, {-n * 0.25}, 0.1\n" for n in range(300))
)


def _samples(folder):
    pytest.importorskip("edfio", reason="needs the extra [recordings]")
    pytest.importorskip("pyxdf", reason="needs the extra [recordings]")
    notes = [(0.5, 0.5, "seizure"), (1, 0.5, "sz")]
    write_edf(folder / "edf.edf", SAMPLES, rate_hz=RATE_HZ, annotations=notes)
    write_edf(folder / "gap.edf", SAMPLES, rate_hz=RATE_HZ, annotations=[])
    with_gap(folder / "gap.edf", after_record=1, seconds=1)
    write_edf(folder / "bdf.bdf", SAMPLES, rate_hz=RATE_HZ, bdf=True)
    write_csv(folder / "csv.csv", SAMPLES, labels=["C3 [uV]", "C4 [uV]"], top=f"# fs: {RATE_HZ}")
    (folder / "openbci.txt").write_text(OPENBCI)
    stream = ("a", "EEG", RATE_HZ, ["C3", "C4"], "uV", SAMPLES, STAMPS)
    write_xdf(folder / "xdf.xdf", [stream, ("m", "Markers", 0, ["x"], "", [], [])])
    return {path.stem: path for path in folder.iterdir()}


def _play(path, ask=None):
    recording = open_recording(str(path), ask)
    for chunk in RecordingSource(recording):
        assert chunk is not None
        assert chunk.samples.shape[1] == len(recording.labels)
        assert chunk.samples.dtype == np.float32
    annotated(recording)


@pytest.mark.parametrize("kind", ["edf", "gap", "bdf", "csv", "openbci", "xdf"])
@pytest.mark.filterwarnings("error")
def test_a_damaged_recording_is_refused_or_plays(tmp_path, n_cases, mutated, refused, kind):
    path = _samples(tmp_path)[kind]
    whole = path.read_bytes()
    _play(path)
    n_refused = 0
    for _ in range(n_cases // 2):
        path.write_bytes(mutated(whole, OPENBCI.encode(), reach=1100))
        n_refused += refused(lambda: _play(path, Ask(unit="uV")))
    assert 0 < n_refused < n_cases // 2  # damage is seen, and not everything is refused


@pytest.mark.parametrize("kind", ["channels", "events", "json"])
def test_damaged_files_beside_a_recording_are_refused_or_read(
    tmp_path, n_cases, mutated, refused, kind
):
    recording = write_csv(
        tmp_path / "sub-1_task-x_eeg.csv", SAMPLES[:64], labels=["C3", "C4"], top="# unit: uV"
    )
    beside = {
        "channels": tmp_path / "sub-1_task-x_channels.tsv",
        "events": tmp_path / "sub-1_task-x_events.tsv",
        "json": recording.with_suffix(".json"),
    }
    beside["channels"].write_text(
        "name\ttype\tunits\tstatus\nC3\tEEG\tuV\tgood\nC4\tEEG\tuV\tbad\n"
    )
    beside["events"].write_text(
        "onset\tduration\teventType\tconfidence\n0.1\t0.2\tsz_foc_ia\tn/a\n0.4\t0.1\tbckg\t1\n"
    )
    beside["json"].write_text(json.dumps({"SamplingFrequency": 128.0, "PowerLineFrequency": 50}))
    _play(recording)
    whole = beside[kind].read_bytes()
    n_refused = 0
    for _ in range(n_cases):
        beside[kind].write_bytes(mutated(whole))
        n_refused += refused(lambda: _play(recording))
    assert 0 < n_refused < n_cases


def test_any_bytes_under_any_ending_are_refused_or_play(tmp_path, n_cases, rng, refused):
    for n in range(n_cases):
        suffix = rng.choice((".edf", ".bdf", ".xdf", ".csv", ".tsv", ".txt"))
        path = tmp_path / f"x{suffix}"
        start = rng.choice((b"", b"XDF:", b"0       ", b"\xffBIOSEMI", b"%OpenBCI\n", b"a,b\n"))
        path.write_bytes(start + rng.randbytes(rng.choice((0, 3, 300, 3000))))
        refused(lambda path=path: _play(path))
        path.unlink()
        assert n >= 0


@pytest.mark.parametrize("value", ["9" * 400, "1e400", "true", "[]", '"x"', "{}", "-0", "NaN"])
def test_a_rate_in_a_side_car_that_is_none_is_refused(tmp_path, value):
    path = write_csv(tmp_path / "a.csv", SAMPLES[:8], labels=["C3 [uV]", "C4 [uV]"])
    path.with_suffix(".json").write_text(f'{{"SamplingFrequency": {value}}}')
    with pytest.raises(StreamClassifierError, match="rate"):
        open_recording(str(path))


NAMES = ["\0", "x" * 5000, "~nobody_of_this_name/x.edf", "/dev/zero", "/dev/null", "/proc/self/mem",
         "\x1b[2J", "a/\0/b.edf", "\ud800.edf", ""]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_name_that_is_no_recording_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((RecordingError, StreamClassifierError)):
        open_recording(name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
@pytest.mark.timeout(10)
@pytest.mark.parametrize("suffix", [".edf", ".bdf", ".xdf", ".csv", ".tsv", ".txt"])
def test_a_pipe_or_a_device_is_refused_without_waiting(tmp_path, suffix):
    pipe, device = tmp_path / f"pipe{suffix}", tmp_path / f"device{suffix}"
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    for path, found in ((pipe, "a pipe"), (device, "a device")):
        with pytest.raises(RecordingError, match=f"expected a regular file, found {found}"):
            open_recording(str(path))
    table = tmp_path / "night_channels.tsv"
    os.mkfifo(table)
    with pytest.raises(RecordingError, match="found a pipe"):
        marks.read_tsv(table)
    assert not bids.is_openbci(pipe)


@pytest.mark.parametrize("suffix", [".edf", ".bdf", ".xdf", ".csv", ".tsv", ".txt"])
def test_ten_sparse_gigabytes_are_refused_at_once(tmp_path, refused, suffix):
    path = tmp_path / f"huge{suffix}"
    with path.open("wb") as file:
        file.write(b"XDF:" if suffix == ".xdf" else b"C3 [uV]")
        file.truncate(10 * 2**30)
    assert refused(lambda: open_recording(str(path), Ask(rate_hz=256.0)))


def _edf_with_notes(path, note, n_bytes):
    """An EDF+ whose only record is full of annotations."""
    n_bytes = len(note) * (n_bytes // len(note)) // 2 * 2
    head = b"0".ljust(8) + b" " * 176 + b"512".ljust(8) + b"EDF+C".ljust(44)
    head += b"1".ljust(8) + b"1".ljust(8) + b"1".ljust(4)
    signal = b"EDF Annotations".ljust(16) + b" " * 80 + b" " * 8 + b"-1".ljust(8) + b"1".ljust(8)
    signal += (
        b"-32768".ljust(8) + b"32767".ljust(8) + b" " * 80 + str(n_bytes // 2).encode().ljust(8)
    )
    path.write_bytes(
        head + signal.ljust(256) + (note * (n_bytes // len(note))).ljust(n_bytes, b"\0")
    )
    return path


@pytest.mark.parametrize("note", [b"+1\x14", b"+1\x15", b"+1\x14\x14", b"+", b"+1\x14seizure"])
def test_annotations_are_read_in_a_time_that_grows_with_their_length(tmp_path, note, refused):
    from stream_classifier.sources.recordings import edf

    path = _edf_with_notes(tmp_path / "notes.edf", note, 2**20)
    layout = edf._read_layout(path)
    refused(lambda: edf._seizures(layout))


@pytest.mark.parametrize(
    "top",
    [
        "a" + " " * 60_000 + "b", "(" * 60_000, "time " * 12_000, "# sampl" + "_" * 60_000,
        "# rate" + " " * 60_000, '"' * 60_000, "," * 60_000, "# units" * 8_000,
    ],
    ids=lambda top: repr(top[:8]),
)  # fmt: skip
def test_the_top_of_a_text_is_understood_in_a_time_that_grows_with_its_length(
    tmp_path, refused, top
):
    path = tmp_path / "top.csv"
    path.write_text("\n".join([*[top] * (150 if top[0] == "#" else 1), "C3,C4", "1,2", "3,4"]))
    assert refused(lambda: _play(path))


def test_tables_of_many_rows_and_columns_are_refused_before_they_fill_the_memory(tmp_path):
    table = tmp_path / "events.tsv"
    for content, reason in (
        ("a\n" * (8 * 2**20 - 1), "rows"),
        ("\t".join("a" * 9_000) + "\n", "columns"),
        ("a" * 17 * 2**20, "bytes"),
        ("a\n" + "b" * 200_000 + "\n", None),
    ):
        table.write_text(content)
        if reason is None:
            assert len(marks.read_tsv(table)) == 1
        else:
            with pytest.raises(RecordingError, match=reason):
                marks.read_tsv(table)


LAUGHS = "".join(
    f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' if n else '<!ENTITY l0 "lol">' for n in range(10)
)


@pytest.mark.parametrize("tag", [1, 2, 6], ids=["file header", "stream header", "footer"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_in_any_header_of_an_xdf_are_refused_before_they_expand(tmp_path, tag, encoding):
    pytest.importorskip("pyxdf", reason="needs the extra [recordings]")
    stream = ("a", "EEG", RATE_HZ, ["C3", "C4"], "uV", SAMPLES, STAMPS)
    path = write_xdf(tmp_path / "x.xdf", [stream])
    text = (
        f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE info [{LAUGHS}]>'
        "<info><name>&l9;</name></info>"
    ).encode(encoding)
    content = (b"" if tag == 1 else struct.pack("<I", 1)) + text
    chunk = b"\x04" + struct.pack("<IH", len(content) + 2, tag) + content
    path.write_bytes(path.read_bytes() + chunk)
    with pytest.raises(RecordingInvalidError, match="header in XML"):
        open_recording(str(path))


def test_an_xdf_chunk_that_announces_more_samples_than_it_holds_is_refused(tmp_path):
    stream = ("a", "EEG", RATE_HZ, [f"C{n}" for n in range(512)], "uV", [], [])
    path = write_xdf(tmp_path / "x.xdf", [stream])
    n_bytes = 4 * 2**20
    content = struct.pack("<I", 1) + b"\x04" + struct.pack("<I", n_bytes // 2) + bytes(n_bytes)
    chunk = b"\x04" + struct.pack("<IH", len(content) + 2, 3) + content
    path.write_bytes(path.read_bytes() + chunk)
    with pytest.raises(RecordingInvalidError, match="as many samples as a chunk can hold"):
        open_recording(str(path))
