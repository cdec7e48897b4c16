"""Each recording is scored once, by a model that has never seen it, and all of it adds up."""

import json
import queue

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: [torch] extra")
pytest.importorskip("sklearn", reason="scikit-learn is not installed: [torch] extra")

from stream_classifier.bundle import ConvSpec, NetworkSpec  # noqa: E402
from stream_classifier.cli import main  # noqa: E402
from stream_classifier.errors import ConfigError  # noqa: E402
from stream_classifier.signals import CLASS_NAMES  # noqa: E402
from stream_classifier.training import crossval  # noqa: E402
from stream_classifier.training.crossval import CrossValidation, cross_validate  # noqa: E402
from stream_classifier.training.material import split_folds  # noqa: E402
from stream_classifier.training.recipe import Recipe  # noqa: E402

pytestmark = pytest.mark.torch

N_RECORDINGS = 20  # of the table
SPEC = NetworkSpec(stem=(ConvSpec(3, 8, 2), ConvSpec(3, 8, 2)), hidden=4)
QUICK = Recipe(
    network=SPEC, seed=4, epochs=1, stretches_per_epoch=640, batch_stretches=64, validation_draws=1
)


@pytest.fixture(scope="module")
def result(few_noise_rows):
    """A cross-validation whose folds run here, on the small table, and what was told meanwhile."""
    told = queue.Queue()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crossval, "load_rows", lambda _: few_noise_rows)
        folds = tuple(crossval._run_fold(None, QUICK, 2, 7, number, told) for number in range(2))
    return CrossValidation(folds=folds, recipe=QUICK, seed=7), [told.get() for _ in range(2)]


def test_each_recording_is_scored_once_by_the_fold_that_tests_it(few_noise_rows, result):
    found = result[0]
    for fold, split in zip(
        found.folds, split_folds(few_noise_rows, n_folds=2, seed=7), strict=True
    ):
        assert set(fold.scored.decided) == set(split.test)
        assert set(fold.scored.report.recordings) == set(split.test)
    pooled = found.pooled
    assert set(pooled.decided) == set(few_noise_rows.keys)
    assert len(pooled.decided) == N_RECORDINGS
    assert len(pooled.report.truth) == N_RECORDINGS * 23


def test_its_json_has_every_figure_of_evaluate_and_those_of_each_fold(result):
    told = json.loads(json.dumps(result[0].as_json()))
    figures = {"n_windows", "accuracy", "macro_f1", "recall", "f1", "confusion", "seed"}
    assert figures | {"interval", "folds", "smoothed", "streaming", "calibration"} <= set(told)
    assert (told["protocol"], told["mode"], told["seed"]) == ("recordings", "windowed", 7)
    assert told["n_windows"] == N_RECORDINGS * 23 == np.sum(told["confusion"])
    assert set(told["recall"]) == set(told["f1"]) == set(CLASS_NAMES)
    assert {"1", "2", "5"} <= set(told["smoothed"])
    for line in told["smoothed"].values():
        assert 0 <= line["macro_f1"] <= 1
        assert line["n_decisions"] > 0
    low, high = told["interval"]["accuracy"]
    assert low <= told["accuracy"] <= high
    assert 0 <= told["calibration"]["ece"] <= 1
    assert 0 <= told["calibration"]["brier"] <= 2
    assert told["recipe"] == QUICK.as_json()
    assert told["streaming"]["n_seizures"] == N_RECORDINGS // 5
    expected_h = N_RECORDINGS * 4 / 5 * 4094 / 178 / 3600
    assert told["streaming"]["background_hours"] == pytest.approx(expected_h)


def test_the_folds_add_up_to_the_whole_and_their_spread_is_theirs(result):
    told = result[0].as_json()
    folds = told["folds"]
    assert [fold["fold"] for fold in folds] == [0, 1]
    assert told["accuracy"] == pytest.approx(np.mean([fold["accuracy"] for fold in folds]))
    for name, spread in told["spread"].items():
        values = [fold[name] for fold in folds]
        assert (spread["min"], spread["max"]) == (min(values), max(values))
        assert spread["sd"] == pytest.approx(np.std(values, ddof=1))
    for count in ("n_seizures", "n_detected", "false_alarms"):
        assert told["streaming"][count] == sum(fold["streaming"][count] for fold in folds)
    n = [line["n_decisions"] for line in told["smoothed"].values()]
    assert n == sorted(n, reverse=True)  # a longer mean is filled later


def test_every_choice_of_a_fold_is_told(result):
    for fold in result[0].as_json()["folds"]:
        assert fold["best_epoch"] == 1
        assert 0.25 <= fold["temperature"] <= 4
        assert 0 < fold["alarm"]["clear_threshold"] <= fold["alarm"]["raise_threshold"] < 1
        assert {"1", "2", "5"} <= set(fold["smoothed"])


def test_each_fold_tells_of_its_epochs_under_its_number(result):
    assert [(fold, epoch.number) for fold, epoch in result[1]] == [(0, 1), (1, 1)]


def test_folds_start_from_other_weights(result):
    one, other = (fold.scored.probabilities for fold in result[0].folds)
    assert not np.array_equal(one, other)
    assert len({fold.temperature for fold in result[0].folds}) == 2


@pytest.mark.dataset
def test_folds_that_cannot_be_are_refused_before_anything_is_trained(data_folder, monkeypatch):
    monkeypatch.setattr(crossval, "ProcessPoolExecutor", None)  # not even started
    with pytest.raises(ConfigError, match="folds 101: expected 2 to 100"):
        cross_validate(data_folder, recipe=QUICK, n_folds=101)


@pytest.mark.dataset
def test_what_goes_wrong_in_a_fold_s_process_is_said_here(data_folder):
    recipe = Recipe(network=SPEC, mode="continuous", stretch_samples=5000)
    with pytest.raises(ConfigError, match="stretch_samples 5000"):
        cross_validate(data_folder, recipe=recipe, n_folds=2, n_jobs=2)


def test_a_mode_that_is_not_the_recipe_s_is_refused(capsys):
    assert main(["crossval", "--recipe", "bonn", "--mode", "continuous"]) == 3
    assert "expected the recipe's own" in capsys.readouterr().err


def test_an_unknown_recipe_is_refused(capsys):
    assert main(["crossval", "--recipe", "nosuch"]) == 3
    assert "--recipe bonn" in capsys.readouterr().err
