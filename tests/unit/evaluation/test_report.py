"""The report holds everything that it shows, shows what was measured, and says what it lacks."""

import base64
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from stream_classifier.bundle import Split
from stream_classifier.cli import main
from stream_classifier.evaluation.pictures import PICTURES, draw_all, names
from stream_classifier.evaluation.report import measure
from stream_classifier.evaluation.report_page import write_page

pytest.importorskip("matplotlib", reason="needs the [report] extra")
pytest.importorskip("timescoring", reason="needs the [report] extra")

OF_STREAMS = {"tradeoff", "latency", "timeline"}


@pytest.fixture(scope="module")
def rows(table_of):
    return table_of((1, 2, 3, 4, 5))


@pytest.fixture(scope="module")
def by_recordings(bonn, rows):
    split = Split("recordings", 0, (), (), rows.keys, rows.digest)
    return replace(bonn, split=split)


@pytest.fixture(scope="module")
def by_rows(bonn, rows):
    split = Split("rows", 0, (0,), (1,), tuple(range(2, 115)), rows.digest)
    return replace(bonn, split=split)


@pytest.fixture(scope="module")
def made(by_recordings, rows, tmp_path_factory):
    """A report of recordings: what was measured, the folder, and the page."""
    folder = tmp_path_factory.mktemp("report")
    measured = measure(by_recordings, rows, seed=0)
    pictures = draw_all(measured, folder)
    write_page(measured, pictures, folder / "report.html")
    return measured, folder, (folder / "report.html").read_text(encoding="utf-8")


def test_the_page_is_self_contained(made):
    _, _, page = made
    without_pictures = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert "http" not in without_pictures
    sources = re.findall(r'(?:src|href|srcset)="([^"]*)"', page)
    assert len(sources) == len(PICTURES)
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    for fetches in ("<script", "<link", "<iframe", "@import", "url("):
        assert fetches not in without_pictures


def test_every_picture_is_written_and_is_what_the_page_shows(made):
    measured, folder, page = made
    assert {path.name for path in folder.iterdir()} == {
        "report.html", *(f"{name}.png" for name in PICTURES)
    }  # fmt: skip
    for name in names(measured):
        raw = (folder / f"{name}.png").read_bytes()
        assert raw.startswith(b"\x89PNG\r\n")
        assert base64.b64encode(raw).decode() in page


def test_the_page_fits_light_dark_and_paper(made):
    _, _, page = made
    assert "color-scheme: light" in page
    assert "color-scheme: dark" in page
    assert "@media (prefers-color-scheme: dark)" in page
    assert "@media print" in page


def test_the_page_says_what_was_measured(made, by_recordings):
    measured, _, page = made
    score = measured.streaming.score
    for words in (
        by_recordings.digest,
        f"{measured.windows.figures.accuracy:.3f}",
        f"{score.n_detected} of {score.n_seizures}",
        f"{measured.streaming.smoothed[-1].figures.macro_f1:.3f}",
        "without these tolerances",
        "50 Hz hum, 20 µV amplitude",
        "Not a medical device",
        "not people",
    ):
        assert words in page


def test_what_was_measured_is_of_the_held_out_recordings_once_each(made, rows):
    measured, _, _ = made
    assert len(measured.windows.truth) == len(measured.means.truth) == 5 * 23
    assert sorted(measured.streaming.played.timeline.keys) == sorted(rows.keys)
    assert measured.streaming.score.n_seizures == 1
    own = measured.bundle.alarm.raise_threshold
    assert measured.streaming.by_threshold[own] == measured.streaming.score


def test_mistakes_are_wrong_and_shown_with_their_own_samples(made, rows):
    measured, _, _ = made
    assert measured.mistakes
    for mistake in measured.mistakes:
        assert mistake.truth != mistake.decided
        assert mistake.truth == rows.classes[mistake.row]
        assert mistake.recording == rows.recordings[mistake.row]
        start, end = mistake.window_s
        assert end - start == pytest.approx(120 / 178)
        row_start = (rows.chunks[mistake.row] - 1) * 1.0
        assert row_start - 1e-9 <= start <= end <= row_start + 1 + 1e-9
        first = round(mistake.at_s[0] * 178)
        wanted = rows.recording(mistake.recording)[first : first + len(mistake.signal_uv)]
        np.testing.assert_array_equal(mistake.signal_uv, wanted)


def test_shuffled_rows_have_no_timeline_and_the_page_says_why(by_rows, rows, tmp_path):
    measured = measure(by_rows, rows, seed=0)
    assert measured.streaming is None
    assert set(names(measured)) == set(PICTURES) - OF_STREAMS
    for name in OF_STREAMS:
        with pytest.raises(ValueError, match="no timeline"):
            PICTURES[name](measured)
    pictures = draw_all(measured, tmp_path)
    write_page(measured, pictures, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "make no timeline" in page
    assert "overstate what to expect" in page


def test_the_command_writes_the_page_and_says_where(by_rows, rows, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("stream_classifier.bundle.load_bundle", lambda _: by_rows)
    monkeypatch.setattr("stream_classifier.datasets.load_rows", lambda _: rows)
    assert main(["report", "any", "--out", str(tmp_path / "new" / "folder"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["page"] == str(tmp_path / "new" / "folder" / "report.html")
    assert len(said["pictures"]) == len(PICTURES) - len(OF_STREAMS)


def test_without_the_extra_the_command_names_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("stream_classifier.cli.report.find_spec", lambda _: None)
    assert main(["report", "--out", str(tmp_path)]) == 1
    assert "install the extra [report]" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_a_setting_to_mend(
    by_rows, rows, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("stream_classifier.bundle.load_bundle", lambda _: by_rows)
    monkeypatch.setattr("stream_classifier.datasets.load_rows", lambda _: rows)
    (tmp_path / "file").touch()
    assert main(["report", "--out", str(tmp_path / "file")]) == 3
    assert "Try: another folder" in capsys.readouterr().err
