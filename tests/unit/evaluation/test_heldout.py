"""What is scored is what the detector says, window by window."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from stream_classifier.bundle import FilterSpec
from stream_classifier.engines.reference import classify_windows
from stream_classifier.evaluation.heldout import (
    condition,
    held_out_probabilities,
    row_probabilities,
    score_rows,
    smooth,
    smoothed_figures,
)
from stream_classifier.evaluation.timelines import play, splice
from stream_classifier.evaluation.windows import score

HIGH_PASS = FilterSpec(
    sos=((0.9875889380903246, -1.9751778761806491, 0.9875889380903246, 1.0, -1.9750238448785156,
          0.9753319074827826),),
    settle_s=1.0,
    describes="0.5 Hz high-pass",
)  # fmt: skip
MAINS_60 = replace(HIGH_PASS, mains_hz=60.0)
VARIANTS = {
    "as shipped": {},
    "filters": {"filters": (HIGH_PASS, MAINS_60)},
    "continuous": {"mode": "continuous"},
    "resampled": {"provenance": {"data_rate_hz": 173.61}},
    "all of it": {
        "filters": (HIGH_PASS,),
        "mode": "continuous",
        "provenance": {"data_rate_hz": 173.61},
    },
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_probabilities_are_the_detector_s_to_the_bit(bonn, table_of, changes):
    bundle, rows = replace(bonn, **changes), table_of((4, 1, 2))
    done = []
    found = held_out_probabilities(bundle, rows, rows.keys, on_done=done.append)
    assert list(found) == list(rows.keys)
    assert sum(done) == 3
    rate_hz = bundle.provenance.get("data_rate_hz", 178.0)
    for key, (ends, probabilities) in found.items():
        played = play(bundle, splice(rows, (key,), seed=0, rate_hz=rate_hz))
        np.testing.assert_array_equal(probabilities, played.probabilities)
        np.testing.assert_allclose(ends / 178, played.at_s)


def test_a_window_a_row_is_the_one_that_single_windows_are_scored_by(bonn, table_of):
    rows = table_of((4, 1, 2))
    numbers = np.arange(5, 60)
    classify = partial(classify_windows, bonn)
    plain = score(classify, rows, numbers, window_samples=120, seed=7)
    report, probabilities = score_rows(bonn, rows, numbers, seed=7)
    np.testing.assert_array_equal(report.decided, plain.decided)
    np.testing.assert_array_equal(report.truth, plain.truth)
    assert probabilities.shape == (55, 3)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_the_decided_window_lies_within_its_row(bonn, table_of, changes):
    bundle, rows = replace(bonn, **(changes | {"filters": ()})), table_of((4, 1))
    numbers = np.array([30, 3, 45, 0, 22])  # of both recordings, with their first and last rows
    plain = row_probabilities(bundle, rows, numbers, seed=0)
    rate = bundle.provenance.get("data_rate_hz", 178.0)
    # What lies outside of a row does not change it, save what the resampler's kernel reaches;
    # what lies before it is in the state of a continuous engine.
    for place, number in enumerate(numbers):
        reach = 0 if rate == 178 else 13
        end = int(rows.chunks[number]) * 178 + reach
        begin = end - 178 - 2 * reach if bundle.mode == "windowed" else 0

        def erase(x, begin=begin, end=end):
            x = x.copy()
            x[: max(0, begin)] = x[end:] = 0
            return x

        erased = row_probabilities(bundle, rows, numbers, seed=0, distort=erase)
        np.testing.assert_array_equal(erased[place], plain[place])


def test_filters_of_other_mains_are_left_out(bonn):
    noise = np.random.default_rng(0).normal(0, 50, (500, 2)).astype(np.float32)
    _, with_other = condition(replace(bonn, filters=(MAINS_60,)), noise, rate_hz=178.0)
    np.testing.assert_array_equal(with_other, noise)


def test_a_mean_is_taken_once_its_time_is_filled():
    p = np.eye(3, dtype=np.float32)[[0, 0, 1, 1, 1]]
    np.testing.assert_allclose(smooth(p, n_windows=3)[:, 0], [2 / 3, 1 / 3, 0], atol=1e-6)
    assert len(smooth(p, n_windows=6)) == 0


def test_smoothing_mends_lone_mistakes():
    mistaken = np.tile(np.float32([[0.8, 0.2, 0.0], [0.8, 0.2, 0.0], [0.4, 0.6, 0.0]]), (4, 1))
    one, mean = smoothed_figures({"a": mistaken}, {"a": 0}, hop_s=0.5, smoothing_s=(0.0, 1.5))
    assert (one.n_decisions, mean.n_decisions) == (12, 10)
    assert one.figures.accuracy == pytest.approx(8 / 12)
    assert mean.figures.accuracy == 1
    assert mean.as_json()["smoothing_s"] == 1.5
    with pytest.raises(ValueError, match="as long as 99 s"):
        smoothed_figures({"a": mistaken}, {"a": 0}, hop_s=0.5, smoothing_s=(99.0,))
