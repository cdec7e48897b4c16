"""What is scored in parts is what would be scored whole; a card that promises too much is told."""

import json
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest

from stream_classifier.engines.reference import classify_windows
from stream_classifier.errors import BundleInvalidError, UnseenDataError
from stream_classifier.evaluation.scoring import compare_with_card, pool_scored, score_bundle
from stream_classifier.evaluation.timelines import pool
from stream_classifier.evaluation.windows import WindowReport, score

LABELS = (1, 2, 3, 4, 5, 1, 4, 5)
MODES = ["windowed", "continuous"]


@pytest.fixture(scope="module")
def rows(table_of):
    return table_of(LABELS)


@pytest.fixture(scope="module", params=MODES)
def bundle(request, bonn):
    return replace(bonn, mode=request.param)


@pytest.fixture(scope="module")
def scored(bundle, rows):
    return score_bundle(bundle, rows, np.arange(len(rows.labels)), seed=5)


def numbers_of(rows, keys):
    return np.concatenate([rows.rows_of(key) for key in keys])


def part_of(scored, rows, keys):
    """What was scored of some of the recordings."""
    inside = np.isin(scored.report.recordings, keys)
    report = scored.report
    return replace(
        scored,
        report=WindowReport(
            report.truth[inside], report.decided[inside], report.recordings[inside], report.seed
        ),
        probabilities=scored.probabilities[inside],
        row_means=scored.row_means[inside],
        decided={key: scored.decided[key] for key in keys},
        classes={key: scored.classes[key] for key in keys},
        played=(),
    )


def test_parts_pooled_have_the_figures_of_the_whole(scored, rows):
    whole = replace(scored, played=())
    parts = [part_of(whole, rows, keys) for keys in (rows.keys[:3], rows.keys[3:4], rows.keys[4:])]
    pooled = pool_scored(parts)
    assert pooled.as_json() == whole.as_json()
    assert pooled.headline == whole.headline
    for mine, theirs in zip(pooled.smoothed, whole.smoothed, strict=True):
        assert mine.as_json() == theirs.as_json()
    assert pooled.calibration.as_json() == whole.calibration.as_json()


def test_a_recording_is_decided_the_same_whoever_else_is_scored(scored, bundle, rows):
    keys = rows.keys[2:5]
    alone = score_bundle(bundle, rows, numbers_of(rows, keys), seed=5, with_timeline=False)
    for key in keys:
        np.testing.assert_array_equal(alone.decided[key][0], scored.decided[key][0])
        np.testing.assert_array_equal(alone.decided[key][1], scored.decided[key][1])
    inside = np.isin(scored.report.recordings, keys)
    np.testing.assert_array_equal(alone.row_means, scored.row_means[inside])


def test_timelines_pooled_count_every_seizure_and_all_background(bundle, rows):
    halves = [rows.keys[:4], rows.keys[4:]]
    parts = [score_bundle(bundle, rows, numbers_of(rows, keys), seed=1) for keys in halves]
    pooled = pool_scored(parts).streaming
    assert pooled == pool([part.played[0] for part in parts])
    assert pooled.n_seizures == sum(part.streaming.n_seizures for part in parts) == 2
    assert pooled.background_hours * 3600 == pytest.approx(6 * 23.0)


def test_all_windows_of_a_row_are_averaged(scored, rows, bundle):
    per_row = scored.row_means
    assert per_row.shape == (len(rows.labels), 3)
    np.testing.assert_allclose(per_row.sum(axis=1), 1, atol=1e-5)
    for number in (0, 1, 30, 183):
        ends, p = scored.decided[str(rows.recordings[number])]
        first = (int(rows.chunks[number]) - 1) * 178
        inside = (ends >= first + 60) & (ends < first + 178)
        np.testing.assert_allclose(per_row[number], p[inside].mean(axis=0), atol=1e-6)
    right = per_row.argmax(axis=1) == rows.classes
    assert scored.averaged.accuracy == pytest.approx(right.mean())


def test_calibration_is_of_every_decision_on_whole_recordings(scored, rows):
    calibration = scored.calibration
    p = np.concatenate([p for _, p in scored.decided.values()])
    truth = np.repeat(
        [rows.class_of(key) for key in scored.decided], [len(p) for _, p in scored.decided.values()]
    )
    brier = ((p - np.eye(3)[truth]) ** 2).sum(axis=1).mean()
    assert calibration.brier == pytest.approx(brier, rel=1e-5)
    assert 0 <= calibration.ece <= 1
    told = scored.as_json()["calibration"]
    assert set(told) == {"ece", "brier", "ece_seizure", "brier_seizure", "intervals"}
    low, high = told["intervals"]["ece"]
    assert 0 <= low <= high <= 1


def test_its_json_has_what_a_card_quotes(scored):
    told = json.loads(json.dumps(scored.as_json()))
    assert {"n_windows", "accuracy", "macro_f1", "recall", "f1", "confusion", "seed", "interval",
            "averaged", "calibration", "smoothed", "streaming", "events"} == set(told)  # fmt: skip
    assert {"1", "2", "5"} <= set(told["smoothed"])
    assert told["smoothed"]["5"]["smoothing_s"] == 5
    if find_spec("timescoring"):
        assert set(told["events"]) == {"szcore", "strict"}
    else:
        assert "not installed" in told["events"]["not_scored"]
    headline = scored.headline
    assert headline["accuracy"] == told["accuracy"]
    assert headline["recall.seizure"] == told["recall"]["seizure"]


def test_a_single_decision_is_that_of_the_plain_windows(bonn, rows):
    scored = score_bundle(bonn, rows, numbers_of(rows, rows.keys[:2]), seed=3, with_timeline=False)
    plain = score(
        partial(classify_windows, bonn),
        rows,
        numbers_of(rows, rows.keys[:2]),
        window_samples=120,
        seed=3,
    )
    np.testing.assert_array_equal(scored.report.decided, plain.decided)
    assert scored.streaming is None


def test_single_rows_have_no_recordings_no_timeline_and_windows_of_their_own(bonn, rows):
    by_rows = replace(
        bonn,
        split=replace(
            bonn.split, protocol="rows", train=(0,), validation=(1,), test=(2, 30, 50, 99)
        ),
    )
    numbers = np.array([2, 30, 50, 99])
    scored = score_bundle(by_rows, rows, numbers, seed=0)
    assert (scored.decided, scored.played, scored.streaming) == ({}, (), None)
    assert scored.smoothed == ()
    assert {"smoothed", "streaming", "events"}.isdisjoint(scored.as_json())
    for place, number in enumerate(numbers):
        windows = np.stack([rows.values[number][s : s + 120] for s in range(0, 59, 8)])
        expected = classify_windows(bonn, windows.astype(np.float32)).mean(axis=0)
        np.testing.assert_allclose(scored.row_means[place], expected, atol=1e-6)
    assert 0 <= scored.calibration.ece <= 1


@pytest.fixture(scope="module")
def few(table_of):
    return table_of((2, 1, 4))


@pytest.fixture(scope="module")
def promised(bonn, few):
    """A bundle whose card holds what it reaches on the table."""
    keys = few.keys
    split = replace(bonn.split, train=(), validation=(), test=tuple(keys), data_digest=few.digest)
    made = replace(bonn, split=split)
    scored = score_bundle(made, few, np.arange(len(few.labels)), seed=0)
    return replace(made, metrics=json.loads(json.dumps(scored.as_json())))


def test_a_model_that_reaches_its_card_passes_and_its_figures_are_told(promised, few):
    figures = compare_with_card(promised, few)
    assert figures
    for on_card, found in figures.values():
        assert found == pytest.approx(on_card)
    assert {"accuracy", "macro_f1", "recall.seizure", "1 - ece", "accuracy, 5 s"} <= set(figures)
    assert {"seizures detected", "- false alarms"} <= set(figures)


@pytest.mark.parametrize(
    ("place", "better"),
    [
        (("accuracy",), 0.01),
        (("macro_f1",), 0.01),
        (("recall", "tumour"), 0.01),
        (("calibration", "ece"), -0.01),
        (("smoothed", "5", "accuracy"), 0.01),
        (("streaming", "n_detected"), 1),
        (("streaming", "false_alarms"), -1),
    ],
)
def test_a_card_that_promises_more_than_is_reached_is_refused(promised, few, place, better):
    metrics = json.loads(json.dumps(promised.metrics))
    inner = metrics
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] += better
    with pytest.raises(BundleInvalidError, match=r"expected the figures of its card, found .* of"):
        compare_with_card(replace(promised, metrics=metrics), few)


def test_a_worse_model_does_not_pass_for_the_one_on_the_card(promised, few):
    weights = dict(promised.weights)
    weights["head.bias"] = weights["head.bias"] + np.float32([3, 0, 0, 0, 0])
    with pytest.raises(BundleInvalidError, match="instead of"):
        compare_with_card(replace(promised, weights=weights), few)


def test_a_card_is_not_held_to_other_data(promised, few):
    other = replace(promised, split=replace(promised.split, data_digest="another"))
    with pytest.raises(UnseenDataError):
        compare_with_card(other, few)
