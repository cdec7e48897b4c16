"""What is written can be read, by others too, however the writer ends."""

import warnings
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_classifier.errors import RecordingInvalidError
from stream_classifier.recorder.bdf import (
    MAX_UV,
    NO_SAMPLES_TEXT,
    STEPS_PER_UV,
    BdfWriter,
    Note,
    mend,
    open_bdf,
    record_of,
)

START = datetime(2026, 11, 24, 23, 0, 0, 250_000, UTC)
RATE_HZ = 10
edfio = pytest.importorskip("edfio", reason="needs the extra [recordings]")


def noise(n_samples, n_channels=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 3_000, (n_samples, n_channels)).astype(np.float32)


def begin(path, *, rate_hz=RATE_HZ, labels=("C3", "C4"), about="bed3"):
    return BdfWriter(path, labels=labels, rate_hz=rate_hz, start=START, about=about)


def strictly(read):
    """Read with every complaint an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read()


@given(
    cuts=st.lists(st.integers(1, 25), min_size=1, max_size=12),
    gaps=st.lists(st.integers(0, 9), min_size=12, max_size=12),
    flushes=st.sets(st.integers(0, 11)),
)
@settings(deadline=None, max_examples=60)
def test_however_samples_are_cut_the_file_holds_them_and_gaps_are_gaps(
    tmp_path_factory, cuts, gaps, flushes
):
    path = tmp_path_factory.mktemp("bdf") / "a.bdf"
    writer = begin(path)
    expected = []
    for n, (n_samples, gap) in enumerate(zip(cuts, gaps, strict=False)):
        writer.skip(gap)
        expected.append(np.full((gap, 2), np.nan, np.float32))
        expected.append(noise(n_samples, seed=n))
        writer.append(expected[-1])
        if n in flushes:
            writer.flush()
    writer.close()
    expected = np.concatenate(expected)
    found = open_bdf(path).read()
    assert len(found) - len(expected) < RATE_HZ  # the rest of the last record
    assert np.isnan(found[len(expected) :]).all()
    found = found[: len(expected)]
    assert (np.isnan(found) == np.isnan(expected)).all()
    assert np.nanmax(np.abs(found - expected)) <= 0.5 / STEPS_PER_UV + 1e-3  # float32 near 1e4
    theirs = strictly(lambda: edfio.read_bdf(path))
    columns = np.stack([signal.data for signal in theirs.signals], axis=1)[: len(expected)]
    gone = np.isnan(expected)
    assert (columns[gone] == -MAX_UV).all()
    assert np.abs(columns[~gone] - expected[~gone]).max() <= 0.5 / STEPS_PER_UV + 1e-9
    missing = [a for a in theirs.annotations if a.text == NO_SAMPLES_TEXT]
    marked_s = sum(a.duration for a in missing)
    n_missing = sum(gaps[: len(cuts)])
    n_rest = theirs.num_data_records * RATE_HZ - len(expected)
    assert marked_s * RATE_HZ == pytest.approx(n_missing + n_rest)


@given(share=st.floats(0, 1))
@settings(deadline=None, max_examples=60)
def test_a_file_cut_at_any_byte_opens_after_it_is_mended(tmp_path_factory, share):
    path = tmp_path_factory.mktemp("bdf") / "a.bdf"
    writer = begin(path)
    samples = noise(55)
    writer.append(samples)
    writer.close()
    whole = path.read_bytes()
    head = 256 * 4
    path.write_bytes(whole[: head + round(share * (len(whole) - head))])
    record = (len(whole) - head) // 6
    n_left = (path.stat().st_size - head) // record
    mend(path)
    assert path.exists() == bool(n_left)
    if n_left:
        theirs = strictly(lambda: edfio.read_bdf(path))
        assert theirs.num_data_records == n_left
        n = min(55, n_left * RATE_HZ)
        assert theirs.signals[1].data[:n] == pytest.approx(samples[:n, 1], abs=0.02)
        assert not mend(path)


def test_a_file_that_nobody_closed_is_whole_without_being_mended(tmp_path):
    writer = begin(tmp_path / "a.bdf")
    writer.append(noise(25))
    writer.annotate(Note(2.1, "seizure alert raised id=abc"))
    writer.flush()
    theirs = strictly(lambda: edfio.read_bdf(tmp_path / "a.bdf"))
    assert theirs.num_data_records == 3
    assert [a.onset for a in theirs.annotations if "raised" in a.text] == [pytest.approx(2.1)]
    writer.close()


def test_a_file_that_is_being_written_is_not_mended(tmp_path):
    pytest.importorskip("fcntl")
    path = tmp_path / "a.bdf"
    writer = begin(path)
    writer.append(noise(30))
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(b"half a record")
    assert not mend(path)
    assert path.stat().st_size == size + len(b"half a record")
    writer.close()
    assert mend(path)


def test_what_a_power_cut_left_as_zeros_is_cut_off(tmp_path):
    path = tmp_path / "a.bdf"
    writer = begin(path)
    writer.append(noise(30))
    writer.close()
    whole = path.read_bytes()
    record = (len(whole) - 1024) // 3
    path.write_bytes(whole[:-record] + bytes(record))
    assert mend(path)
    assert open_bdf(path).n_records == 2


@pytest.mark.parametrize("n_bytes", [0, 5, 300, 900])
def test_a_file_that_is_not_even_a_header_long_is_removed(tmp_path, n_bytes):
    path = tmp_path / "a.bdf"
    begin(path).close()
    path.write_bytes(path.read_bytes()[:n_bytes])
    assert mend(path)
    assert not path.exists()


def test_a_file_of_somebody_else_is_neither_mended_nor_removed(tmp_path):
    path = tmp_path / "a.bdf"
    path.write_bytes(b"\xffBIOSEMI" + b" " * 2000)
    with pytest.raises(RecordingInvalidError):
        mend(path)
    assert path.exists()


def test_the_header_names_nobody_and_says_when_and_what(tmp_path):
    begin(tmp_path / "a.bdf", about="simulated bed3").close()
    writer = begin(tmp_path / "b.bdf", about="simulated bed3")
    writer.append(noise(1))
    writer.close()
    theirs = strictly(lambda: edfio.read_bdf(tmp_path / "b.bdf"))
    assert theirs.local_patient_identification == "X X X X"
    words = theirs.local_recording_identification
    assert words == "Startdate 24-NOV-2026 X X stream_classifier simulated bed3"
    assert datetime.combine(theirs.startdate, theirs.starttime) == START.replace(tzinfo=None)
    ours = open_bdf(tmp_path / "b.bdf")
    assert (ours.start, ours.simulated, ours.labels) == (START, True, ("C3", "C4"))
    assert (tmp_path / "b.bdf").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("rate_hz", [60, 128, 173.61, 178, 250.5, 255.99, 1000])
def test_any_rate_is_kept_to_a_billionth(rate_hz):
    n_samples, duration = record_of(rate_hz)
    assert n_samples / float(duration) == pytest.approx(rate_hz, rel=2e-9)
    assert len(duration) <= 8


def test_what_is_no_number_is_marked_and_what_is_too_large_is_clipped(tmp_path):
    path = tmp_path / "a.bdf"
    writer = begin(path)
    writer.append(np.array([[1, np.nan], [np.inf, 1e9], [-1e9, 0]] + [[0, 0]] * 7, np.float32))
    writer.close()
    found = open_bdf(path)
    rows = found.read()
    assert np.isnan([rows[0, 1], rows[1, 0]]).all()
    assert rows[0, 0] == 1
    assert rows[1, 1] == MAX_UV
    assert rows[2, 0] == pytest.approx(-MAX_UV, abs=0.1)
    assert [note.text for note in found.notes()] == ["bad: not a number"]


def test_annotations_that_do_not_fit_into_a_record_come_in_the_next_and_none_is_lost(tmp_path):
    path = tmp_path / "a.bdf"
    writer = begin(path)
    texts = [f"number {n} " + "x" * 120 for n in range(9)]
    for n, text in enumerate(texts):
        writer.annotate(Note(n / 7, text))
    writer.append(noise(15))
    writer.annotate(Note(-3.5, "before \x14\x00\x1b the file \N{GREEK SMALL LETTER MU}" * 40, 2.0))
    writer.close()
    notes = [note for note in open_bdf(path).notes() if note.text != NO_SAMPLES_TEXT]
    assert [note.text for note in notes[:9]] == texts
    assert [note.at_s for note in notes[:9]] == pytest.approx([n / 7 for n in range(9)], abs=1e-5)
    assert notes[9].at_s == pytest.approx(-3.5)
    assert notes[9].duration_s == 2.0
    assert "\x00" not in notes[9].text
    assert len(strictly(lambda: edfio.read_bdf(path)).annotations) >= 10


def test_some_samples_are_read_as_they_are_among_all(tmp_path):
    path = tmp_path / "a.bdf"
    writer = begin(path)
    writer.append(noise(47))
    writer.close()
    found = open_bdf(path)
    everything = found.read()
    for wanted in (range(5), range(8, 33), range(30, 30), range(45, 90), range(-4, 3)):
        expected = everything[max(0, wanted.start) : wanted.stop]
        np.testing.assert_array_equal(found.read(wanted), expected)
    assert found.end == START + timedelta(seconds=5)


def test_mne_reads_the_samples_and_the_alert_where_they_were(tmp_path):
    mne = pytest.importorskip("mne", reason="mne is not installed")
    path = tmp_path / "a.bdf"
    writer = begin(path, rate_hz=178)
    samples = noise(178 * 4)
    writer.append(samples[:300])
    writer.skip(100)
    writer.annotate(Note(3.25, "seizure alert raised id=abc"))
    writer.append(samples[400:])
    raw = strictly(lambda: mne.io.read_raw_bdf(path, preload=True, verbose="warning"))
    assert raw.get_data("C4")[0, 400:712] * 1e6 == pytest.approx(samples[400:, 1], abs=0.02)
    at = {note["description"]: note["onset"] for note in raw.annotations}
    assert at["seizure alert raised id=abc"] == pytest.approx(3.25)
    assert at[NO_SAMPLES_TEXT] == pytest.approx(300 / 178, abs=1e-5)
    kept = raw.get_data("C3", reject_by_annotation="omit")
    assert kept.min() > -MAX_UV / 1e6
    writer.close()
