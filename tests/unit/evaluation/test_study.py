"""The study's questions, answered of a model that is known."""

import json

import numpy as np
import pytest

from stream_classifier.cli import main
from stream_classifier.datasets import SeizureRows
from stream_classifier.errors import ConfigError
from stream_classifier.evaluation import study as study_module
from stream_classifier.evaluation.features import band_features
from stream_classifier.evaluation.study import (
    Readings,
    classification_report,
    find_row,
    make_study,
    pair_misread,
    read_rows,
    repeat_row,
    row_id,
    side_of,
)
from stream_classifier.evaluation.windows import draw_windows, score


def noise_rows(digest):
    """A table shaped like the data set whose labels differ in amplitude."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.tile(np.arange(1, 6), 100), 23)
    scale = np.array([0, 400, 200, 100, 50, 25])[labels]
    keys = ["V1", "V11", "V1.1", *(f"V1.{n}" for n in range(100, 597))]
    return SeizureRows(
        values=(rng.normal(size=(11_500, 178)) * scale[:, None]).astype(np.int16),
        labels=labels.astype(np.int8),
        recordings=np.repeat(keys, 23),
        chunks=np.tile(np.arange(1, 24), 500).astype(np.int8),
        digest=digest,
    )


ROWS = noise_rows("noise")


@pytest.fixture
def unseen(bonn):
    """The shipped model's weights, as if trained under shuffled rows of the invented table."""
    from dataclasses import replace

    from stream_classifier.bundle import Split

    split = Split(
        protocol="rows", seed=0, train=tuple(range(1_000)), validation=(1_000,),
        test=tuple(range(2_000, 11_500, 40)), data_digest="noise",
    )  # fmt: skip
    return replace(bonn, split=split)


def test_a_row_is_found_by_number_and_by_id():
    assert find_row(ROWS, "0") == 0
    assert find_row(ROWS, "11499") == 11_499
    for number in (0, 24, 47, 70, 11_499):
        assert find_row(ROWS, row_id(ROWS, number)) == number
    assert find_row(ROWS, "X2.V1.1") == 47  # not V1, nor V11


@pytest.mark.parametrize("text", ["11500", "-1", "X24.V1", "X0.V1", "X1.V2", "V1", "", "1.5", "²"])
def test_a_row_that_is_not_there_is_an_error_that_says_what_is(text):
    with pytest.raises(ConfigError, match=r"0 to 11,499.*Try: 0, or X1\.V1"):
        find_row(ROWS, text)


def test_the_side_of_a_row_is_told_and_unknown_where_the_table_is_another(unseen):
    assert side_of(unseen.split, ROWS, 3) == "train"
    assert side_of(unseen.split, ROWS, 1_000) == "validation"
    assert side_of(unseen.split, ROWS, 2_040) == "test"
    assert side_of(unseen.split, ROWS, 2_041) == "unknown"
    assert side_of(unseen.split, noise_rows("other"), 3) == "unknown"


def test_windows_and_decisions_are_those_of_the_evaluation(unseen):
    from functools import partial

    from stream_classifier.engines.reference import classify_windows

    numbers = np.arange(2_000, 2_400, 7)
    readings = read_rows(unseen, ROWS, numbers, seeds=(5,))
    drawn = draw_windows(ROWS, numbers, window_samples=120, seed=5)
    for place, number in enumerate(numbers):
        start = readings.starts[place]
        np.testing.assert_array_equal(ROWS.values[number, start : start + 120], drawn[place])
    report = score(partial(classify_windows, unseen), ROWS, numbers, window_samples=120, seed=5)
    np.testing.assert_array_equal(readings.decided, report.decided)


def test_repeats_are_random_windows_of_one_row_and_their_counts_sum_to_them(unseen):
    readings = repeat_row(unseen, ROWS, 2_040, repeats=50, seed=3)
    assert sum(readings.counts.values()) == 50
    assert set(readings.rows) == {2_040}
    assert 0 <= readings.starts.min() < readings.starts.max() <= 58
    assert len(set(readings.starts)) > 20
    again = repeat_row(unseen, ROWS, 2_040, repeats=50, seed=3)
    np.testing.assert_array_equal(again.probabilities, readings.probabilities)


def test_the_report_of_a_confusion_is_precision_recall_and_f1():
    lines = {line.name: line for line in classification_report(
        np.array([[9, 1, 0], [0, 5, 5], [1, 0, 39]]))}  # fmt: skip
    assert lines["seizure"].precision == lines["seizure"].recall == 0.9
    assert lines["tumour"].precision == pytest.approx(5 / 6)
    assert lines["tumour"].f1 == pytest.approx(2 * 5 / (10 + 6))
    assert lines["weighted mean"].recall == pytest.approx(53 / 60)  # is the accuracy
    assert lines["macro mean"].n_windows == 60


def test_a_class_that_was_never_decided_has_no_precision_and_no_error():
    lines = classification_report(np.array([[3, 0, 0], [0, 0, 4], [0, 0, 9]]))
    assert (lines[1].precision, lines[1].recall, lines[1].f1) == (0, 0, 0)


def readings_of(decided, *, rows=ROWS, numbers):
    """Readings of the first windows of rows, decided as told, each surer than the one before."""
    sure = np.linspace(0.6, 0.99, len(numbers))
    probabilities = np.tile((1 - sure)[:, None] / 2, 3)
    probabilities[np.arange(len(numbers)), decided] = sure
    return Readings(
        rows=np.array(numbers), starts=np.zeros(len(numbers), np.intp), n_samples=120,
        truth=rows.classes[numbers].astype(np.intp), probabilities=probabilities.astype(np.float32),
    )  # fmt: skip


def test_a_misread_window_is_beside_the_nearest_correctly_read_one_of_the_predicted_class():
    values = ROWS.values.copy()
    t = np.arange(178) / 178
    waves = {0: 300 * np.sin(2 * np.pi * 3 * t), 46: 300 * np.sin(2 * np.pi * 3 * t + 2)}
    for number, wave in waves.items():  # one rhythm, out of step
        values[number] = wave
    rows = SeizureRows(values=values, labels=ROWS.labels, recordings=ROWS.recordings,
                       chunks=ROWS.chunks, digest="waves")  # fmt: skip
    # Row 0 is a seizure; 46 and 50 normal, read correctly; 54 normal too, but misread itself.
    numbers = [46, 50, 54, 0]
    found = pair_misread(rows, readings_of([2, 2, 1, 2], rows=rows, numbers=numbers), rate_hz=178.0)
    of_seizure = next(pair for pair in found if pair.misread == 3)
    assert of_seizure.neighbour == 0  # row 46, whatever its phase


def test_the_surest_mistakes_are_shown_one_a_recording_and_every_kind_in_turn():
    seizures, normals = [0, 1, 115, 230], [46, 47, 161]
    numbers = [*seizures, *normals, 345, 391]
    decided = [2, 2, 2, 2, 0, 0, 0, 0, 2]
    found = pair_misread(ROWS, readings_of(decided, numbers=numbers), rate_hz=178.0, n_pairs=4)
    shown = [numbers[pair.misread] for pair in found]
    assert shown == [230, 161, 115, 47]  # 47 is surer than 46 of the same recording


def test_nothing_is_paired_where_nothing_was_misread():
    assert pair_misread(ROWS, readings_of([0, 2], numbers=[0, 46]), rate_hz=178.0) == ()


def test_features_tell_rhythms_and_sizes_apart_and_not_phases():
    t = np.arange(120) / 178

    def wave(hz, phase=0.0, size=100):
        return (size * np.sin(2 * np.pi * hz * t + phase)).astype(np.float32)

    slow, shifted, fast, large, flat = band_features(
        np.stack([wave(6), wave(6, 2), wave(20), wave(6, size=200), np.zeros(120, np.float32)]),
        rate_hz=178.0,
    )
    assert np.abs(slow - shifted)[1:].max() < 1  # delta holds next to nothing of 6 Hz
    assert fast[3] - slow[3] > 20
    assert large[1] - slow[1] == pytest.approx(6.02, abs=0.1)
    assert np.isfinite(flat).all()


def test_infer_prints_counts_that_sum_to_the_repeats(bonn, monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: [report] extra")
    monkeypatch.setattr("stream_classifier.datasets.load_rows", lambda _: ROWS)
    path = tmp_path / "row.png"
    arguments = ["infer", "--row", "X3.V11", "--repeats", "7", "--picture", str(path)]
    assert main([*arguments, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["row"], said["id"], said["class"]) == (25, "X3.V11", "tumour")
    assert sum(said["counts"].values()) == len(said["windows"]) == 7
    assert said["side"] == "unknown"
    assert sum(said["mean"].values()) == pytest.approx(1, abs=1e-5)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert main(arguments) == 0
    assert "of 7 random windows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--row", "11500"], 3, "0 to 11,499"),
        (["--row", "0", "--repeats", "0"], 2, ""),
        (["--row", "0", "--bundle", "none"], 6, "none"),
        ([], 2, ""),
        (["--row", "0", "--picture", "/none/x.png"], 3, "--picture"),
    ],
)
def test_infer_says_in_one_line_what_is_wrong(arguments, code, said, monkeypatch, capsys):
    monkeypatch.setattr("stream_classifier.datasets.load_rows", lambda _: ROWS)
    assert main(["infer", *arguments]) == code
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_a_study_is_pictures_and_words_and_says_where_history_is_absent(unseen, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: [report] extra")
    from dataclasses import replace

    from stream_classifier.evaluation.study_pictures import write_study

    bare = replace(unseen, provenance={})
    made = make_study(bare, ROWS)
    names = [path.name for path in write_study(made, ROWS, tmp_path / "bare")]
    assert names == [
        "report.png", "confusion.png", "classes.png", "misread.png", "repeated.png", "study.md",
    ]  # fmt: skip
    text = (tmp_path / "bare/study.md").read_text(encoding="utf-8")
    assert "does not hold the history" in text
    assert f"accuracy {made.report.figures.accuracy:.3f}" in text
    assert text.count("| row ") >= 1

    history = [{"number": n, "loss": 1 / n, "accuracy": 0.8, "macro_f1": 0.7} for n in range(1, 4)]
    told = replace(unseen, provenance={"history": history, "best_epoch": 2})
    names = [path.name for path in write_study(make_study(told, ROWS), ROWS, tmp_path / "told")]
    assert names[0] == "curves.png"
    assert "does not hold the history" not in (tmp_path / "told/study.md").read_text("utf-8")


def test_a_study_shows_only_what_is_on_the_test_side(unseen):
    made = make_study(unseen, ROWS)
    assert set(made.readings.rows) == set(unseen.split.test)
    assert len(made.pairs) <= study_module.N_PAIRS
    assert {int(made.readings.rows[pair.neighbour]) for pair in made.pairs} <= set(
        unseen.split.test
    )


def test_a_study_of_another_table_is_refused(bonn, monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: [report] extra")
    monkeypatch.setattr("stream_classifier.datasets.load_rows", lambda _: ROWS)
    assert main(["study", "bonn", "--out", str(tmp_path / "x")]) == 6
    assert "the one at hand has noise" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
