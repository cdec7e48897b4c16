"""Figures are right, repeatable, and only of what the model has not seen."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from stream_classifier.bundle import Split, load_bundle
from stream_classifier.cli import main
from stream_classifier.datasets import SeizureRows, load_rows
from stream_classifier.errors import UnseenDataError
from stream_classifier.evaluation.windows import (
    WindowReport,
    count,
    draw_windows,
    score,
    summarise,
    unseen_rows,
)

N = 23 * 10
KEYS = ["V1", "V1.1", "V11", *(f"V2{n}" for n in range(7))]
ROWS = SeizureRows(
    values=np.arange(N * 178).reshape(N, 178).astype(np.int16),
    labels=np.repeat(np.tile(np.arange(1, 6), 2), 23).astype(np.int8),
    recordings=np.repeat(KEYS, 23),
    chunks=np.tile(np.arange(1, 24), 10).astype(np.int8),
    digest="invented",
)


def a_split(**changes):
    parts = {"protocol": "rows", "seed": 0, "train": (0, 1), "validation": (2,), "test": (3, 4)}
    return Split(**(parts | {"data_digest": "invented"} | changes))


def sure(kinds):
    """A model that knows the answers."""
    return lambda _: np.eye(3, dtype=np.float32)[kinds]


def test_figures_are_those_worked_out_by_hand():
    figures = summarise(np.array([[8, 1, 1], [0, 6, 4], [0, 2, 18]]))
    assert figures.accuracy == pytest.approx(32 / 40)
    assert figures.recall == pytest.approx({"seizure": 0.8, "tumour": 0.6, "normal": 0.9})
    assert figures.f1["seizure"] == pytest.approx(2 * 8 / (10 + 8))
    assert figures.f1["tumour"] == pytest.approx(2 * 6 / (10 + 9))
    assert figures.f1["normal"] == pytest.approx(2 * 18 / (20 + 23))
    assert figures.macro_f1 == pytest.approx(np.mean(list(figures.f1.values())))


def test_counts_have_the_truth_in_rows():
    counts = count(np.array([0, 0, 1, 2]), np.array([0, 2, 1, 2]))
    assert counts.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 1]]


@given(st_numpy.arrays(np.int64, (3, 3), elements=st.integers(0, 50)).filter(np.any))
def test_figures_of_any_counts_are_shares(counts):
    figures = summarise(counts)
    values = [figures.accuracy, figures.macro_f1, *figures.recall.values(), *figures.f1.values()]
    assert all(0 <= value <= 1 for value in values)


@given(seed=st.integers(0, 2**32))
def test_one_window_is_drawn_from_within_each_row(seed):
    numbers = np.array([5, 3, 200])
    windows = draw_windows(ROWS, numbers, window_samples=120, seed=seed)
    assert windows.shape == (3, 120)
    for window, row in zip(windows, numbers, strict=True):
        start = int(window[0] - ROWS.values[row, 0])
        assert 0 <= start <= 58
        np.testing.assert_array_equal(window, ROWS.values[row, start : start + 120])


def test_the_seed_picks_the_windows():
    numbers = np.arange(N)
    drawn = [draw_windows(ROWS, numbers, window_samples=120, seed=s) for s in (1, 1, 2)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    starts = drawn[0][:, 0] - ROWS.values[:, 0]
    assert starts.min() < 5
    assert starts.max() > 53


def test_a_model_that_knows_everything_is_scored_so():
    numbers = np.arange(N)
    report = score(sure(ROWS.classes), ROWS, numbers, window_samples=120, seed=0)
    assert report.figures.accuracy == report.figures.macro_f1 == 1
    assert report.confusion.tolist() == [[46, 0, 0], [0, 46, 0], [0, 0, 138]]


def test_the_interval_is_drawn_by_recording_not_by_window():
    # Every window of a recording is right or wrong with all others: 10 facts, not 230.
    truth = ROWS.classes.astype(np.intp)
    decided = np.where(np.isin(ROWS.recordings, KEYS[:5]), truth, (truth + 1) % 3)
    by_recording = WindowReport(truth, decided, ROWS.recordings, seed=0).intervals()
    by_window = WindowReport(truth, decided, np.arange(N).astype(str), seed=0).intervals()
    low, high = by_recording["accuracy"]
    assert low < 0.25
    assert high > 0.75
    assert by_window["accuracy"][1] - by_window["accuracy"][0] < 0.2


def test_intervals_hold_their_values_and_are_repeatable():
    truth = np.tile(np.arange(3), 100)
    decided = np.where(np.arange(300) % 10 == 0, 0, truth)
    report = WindowReport(truth, decided, np.repeat([str(n) for n in range(30)], 10), seed=4)
    figures = report.figures
    values = {"accuracy": figures.accuracy, "macro_f1": figures.macro_f1}
    values |= {f"recall.{name}": value for name, value in figures.recall.items()}
    values |= {f"f1.{name}": value for name, value in figures.f1.items()}
    intervals = report.intervals()
    assert intervals == report.intervals()
    assert intervals.keys() == values.keys()
    for name, value in values.items():
        low, high = intervals[name]
        assert low <= value <= high


def test_the_test_side_is_what_is_scored():
    np.testing.assert_array_equal(unseen_rows(a_split(), ROWS, protocol="rows"), [3, 4])
    split = a_split(protocol="recordings", train=("V1",), validation=("V11",), test=("V1.1",))
    numbers = unseen_rows(split, ROWS, protocol="recordings")
    assert set(ROWS.recordings[numbers]) == {"V1.1"}
    assert len(numbers) == 23


@pytest.mark.parametrize(
    ("split", "protocol", "reason"),
    [
        (a_split(), "recordings", "trained under the protocol 'rows'"),
        (a_split(data_digest="other"), "rows", "trained on the table with SHA-256 other"),
        (a_split(test=()), "rows", "0 test rows"),
        (a_split(test=(N,)), "rows", f"names {N}, which is not in the table"),
        (a_split(test=(-1,)), "rows", "names -1"),
        (
            a_split(protocol="recordings", train=("V1",), validation=(), test=("V9",)),
            "recordings",
            "names 'V9'",
        ),
    ],
)
def test_anything_that_may_have_been_seen_is_refused(split, protocol, reason):
    with pytest.raises(UnseenDataError, match=reason) as caught:
        unseen_rows(split, ROWS, protocol=protocol)
    assert caught.value.exit_code == 6
    assert "Try:" in str(caught.value)


@pytest.mark.dataset
@pytest.mark.parametrize(("protocol", "n"), [("rows", 2_500), ("recordings", 2_300)])
def test_evaluate_prints_one_object_with_exactly_these_fields(data_folder, capsys, protocol, n):
    arguments = ["evaluate", "--protocol", protocol, "--seed", "3", "--json"]
    assert main([*arguments, "--data", str(data_folder)]) == 0
    said = json.loads(capsys.readouterr().out)
    whole = {"smoothed", "streaming", "events"} if protocol == "recordings" else set()
    assert set(said) == {"protocol", "n_windows", "accuracy", "macro_f1", "recall", "f1",
                         "confusion", "seed", "bundle", "interval", "averaged",
                         "calibration"} | whole  # fmt: skip
    assert (said["protocol"], said["n_windows"], said["seed"]) == (protocol, n, 3)
    assert set(said["recall"]) == set(said["f1"]) == {"seizure", "tumour", "normal"}
    assert np.sum(said["confusion"]) == n
    assert said["bundle"] == load_bundle("bonn-rows" if protocol == "rows" else "bonn").digest


@pytest.mark.dataset
@pytest.mark.parametrize("seed", range(3))
def test_the_shipped_models_are_as_good_as_is_claimed(data_folder, capsys, seed):
    figures = {}
    for protocol in ("rows", "recordings"):
        arguments = ["evaluate", "--protocol", protocol, "--seed", str(seed), "--quick", "--json"]
        assert main([*arguments, "--data", str(data_folder)]) == 0
        figures[protocol] = json.loads(capsys.readouterr().out)
    # The published figures of this split: recalls 0.966, 0.652, 0.871, seizure F1 0.97.
    assert figures["rows"]["recall"]["seizure"] >= 0.966
    assert figures["rows"]["recall"]["tumour"] >= 0.652
    assert figures["rows"]["recall"]["normal"] >= 0.871
    assert figures["rows"]["f1"]["seizure"] >= 0.97
    assert figures["recordings"]["accuracy"] >= 0.85


@pytest.mark.dataset
def test_the_card_s_figures_are_what_evaluate_prints(data_folder, capsys):
    for name in ("bonn", "bonn-rows"):
        bundle = load_bundle(name)
        assert main(["evaluate", name, "--quick", "--data", str(data_folder), "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert said["accuracy"] == pytest.approx(bundle.metrics["accuracy"], abs=1e-3)
        assert said["macro_f1"] == pytest.approx(bundle.metrics["macro_f1"], abs=1e-3)


@pytest.mark.dataset
def test_evaluate_for_people_shows_counts_and_intervals(data_folder, capsys):
    assert main(["evaluate", "bonn", "--quick", "--data", str(data_folder)]) == 0
    shown = capsys.readouterr().out
    for words in ("recall.seizure", "95% interval, by recording", "decided tumour",
                  "not a split by person"):  # fmt: skip
        assert words in shown


@pytest.mark.dataset
@pytest.mark.parametrize(("name", "protocol"), [("bonn", "rows"), ("bonn-rows", "recordings")])
def test_evaluate_refuses_what_was_seen_with_exit_code_6(data_folder, capsys, name, protocol):
    arguments = ["evaluate", name, "--protocol", protocol, "--data", str(data_folder), "--json"]
    assert main(arguments) == 6
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "would be scored on what it has seen" in captured.err


@pytest.mark.dataset
def test_no_shipped_model_was_trained_on_what_it_is_scored_on(data_folder):
    rows = load_rows(data_folder)
    for name in ("bonn", "bonn-rows"):
        split = load_bundle(name).split
        assert split.data_digest == rows.digest
        unseen_rows(split, rows, protocol=split.protocol)
        if split.protocol == "recordings":
            assert len(split.test) == 100
            assert set(split.train) | set(split.validation) | set(split.test) == set(rows.keys)


@pytest.mark.dataset
def test_evaluate_needs_no_torch(data_folder):
    program = (
        "import sys; sys.modules['torch'] = sys.modules['sklearn'] = None; "
        "from stream_classifier.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["evaluate", "--quick", "--data", str(data_folder), "--json"]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["protocol"] == "recordings"
