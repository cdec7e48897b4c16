"""Events are scored by the SzCORE rules, and more strictly without their tolerances."""

import sys

import pytest

from stream_classifier.errors import MissingExtraError, TimelineNeededError
from stream_classifier.evaluation.events import (
    STRICT,
    SZCORE,
    add_up,
    score_events,
    score_timelines,
)

SEIZURE = ((200.0, 223.0),)


@pytest.fixture(autouse=True)
def _library():
    pytest.importorskip("timescoring", reason="needs the [report] extra")


def test_an_alarm_in_a_seizure_is_true_under_any_rules():
    for rules in (SZCORE, STRICT):
        score = score_events(SEIZURE, ((202.0, 224.0),), duration_s=3600, rules=rules)
        assert (score.n_seizures, score.true_positives, score.false_positives) == (1, 1, 0)
        assert score.sensitivity == score.precision == score.f1 == 1
        assert score.false_positives_per_day == 0


@pytest.mark.parametrize("alarm", [(175.0, 180.0), (270.0, 275.0)])
def test_without_tolerances_an_alarm_beside_a_seizure_is_false(alarm):
    generous = score_events(SEIZURE, (alarm,), duration_s=3600)
    strict = score_events(SEIZURE, (alarm,), duration_s=3600, rules=STRICT)
    assert (generous.true_positives, generous.false_positives) == (1, 0)
    assert (strict.true_positives, strict.false_positives) == (0, 1)
    assert strict.false_positives_per_hour == 1
    assert strict.false_positives_per_day == 24


def test_without_merging_each_alarm_counts_by_itself():
    alarms = ((1000.0, 1005.0), (1050.0, 1055.0))
    assert score_events((), alarms, duration_s=3600).false_positives == 1
    strict = score_events((), alarms, duration_s=3600, rules=STRICT)
    assert strict.false_positives == 2
    assert strict.sensitivity is None
    assert strict.precision == 0


def test_a_shortest_alarm_is_counted_all_the_same():
    strict = score_events((), ((1000.01, 1000.02),), duration_s=3600, rules=STRICT)
    assert strict.false_positives == 1


def test_silence_has_neither_precision_nor_f1():
    score = score_events((), (), duration_s=60)
    assert (score.sensitivity, score.precision, score.f1) == (None, None, None)


def test_recordings_are_counted_together():
    true = score_events(SEIZURE, ((202.0, 224.0),), duration_s=3600)
    false = score_events(SEIZURE, ((900.0, 901.0),), duration_s=1800)
    both = add_up([true, false])
    assert (both.n_seizures, both.true_positives, both.false_positives) == (2, 1, 1)
    assert both.f1 == pytest.approx(2 * 1 / (2 + 1 + 1))
    assert both.as_json()["hours"] == 1.5


def test_single_rows_are_refused_with_the_reason():
    for refused in (lambda: score_events((), (), duration_s=0.0), lambda: score_timelines([])):
        with pytest.raises(TimelineNeededError, match="single rows"):
            refused()


def test_without_the_library_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timescoring.annotations", None)
    with pytest.raises(MissingExtraError, match=r"\[report\]"):
        score_events(SEIZURE, (), duration_s=60)
