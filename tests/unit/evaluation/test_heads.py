import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import butter

from simulators.mixture import SEIZURE_S, Mixture
from stream_classifier.bundle import FilterSpec, GainSpec, load_bundle
from stream_classifier.errors import (
    DatasetNotFoundError,
    RecordingInvalidError,
    RecordingNotFoundError,
    UnseenDataError,
)
from stream_classifier.evaluation import alarm_rules
from stream_classifier.evaluation.heads import (
    LEAD_S,
    N_INVOLVED,
    Case,
    HeadsPlan,
    HeadsReport,
    artefact_scores,
    draw_cases,
    find_people,
    find_seizures,
    judge_case,
    try_heads,
    worst_onsets,
)
from stream_classifier.evaluation.playing import Head, Watched, read_head, watch
from stream_classifier.evaluation.recordings import Alarm

LABELS = ("T7", "FC5", "F7", "P7", "O2")
HEADSET_HZ = 128.0


def background_uv(seconds, *, seed=0):
    """Noise with less of the high frequencies, as a head has, on the offset of a headset."""
    rng = np.random.default_rng(seed)
    noise = np.zeros((round(seconds * HEADSET_HZ), len(LABELS)))
    for i, step in enumerate(rng.standard_normal(noise.shape)):
        noise[i] = 0.9 * noise[i - 1] + 8 * step
    return (4100 + noise).astype(np.float32)


def head(seconds=60.0, *, name="someone", seed=0):
    return Head(name, background_uv(seconds, seed=seed), LABELS, HEADSET_HZ)


def watched(*alarms, n_windows=10, refused=0):
    """What a detector said: alarms, and how many windows it refused on all channels."""
    n_channels = len(LABELS)
    return Watched(
        end_index=np.arange(n_windows) * 8,
        at_s=np.arange(n_windows) * 8 / 178,
        seizure=np.zeros((n_windows, n_channels), np.float32),
        refused=np.repeat(np.arange(n_windows)[:, None] < refused, n_channels, axis=1),
        calibrating=np.zeros(n_windows, bool),
        alarms=tuple(Alarm(start, start, end, ("T7",), 0.9) for start, end in alarms),
        gains=(1.0,) * n_channels,
        delay_s=0.1,
    )


MIXTURE = Mixture("someone", "V1", ("T7",), 60.0, 100.0)


@pytest.fixture(scope="module")
def head_bundle(bonn):
    """The shipped network with a gain, behind filters; alarms come easily."""

    def spec(sos):
        rows = tuple(tuple(map(float, section)) for section in sos)
        return FilterSpec(sos=rows, settle_s=2.0, describes="for a test")

    return dataclasses.replace(
        bonn,
        mode="continuous",
        gain=GainSpec(target_uv=40.0, baseline_s=8.0),
        filters=(
            spec(butter(2, 0.5, "highpass", fs=178, output="sos")),
            spec(butter(4, 40, "lowpass", fs=178, output="sos")),
        ),
        alarm=dataclasses.replace(
            bonn.alarm, raise_threshold=0.5, clear_threshold=0.3, channels_needed=1
        ),
    )


@pytest.fixture(scope="module")
def seizures(bonn):
    windows = bonn.selftest_windows[bonn.selftest_probabilities[:, 0] > 0.9]
    return {f"V{i}": np.resize(np.roll(windows, i, axis=0), 4097) for i in (1, 2)}


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Two people as EDF files."""
    edfio = pytest.importorskip("edfio")
    folder = tmp_path_factory.mktemp("heads")
    for number in (1, 2):
        samples = background_uv(50, seed=number).astype(float)
        edfio.Edf(
            [
                edfio.EdfSignal(
                    samples[:, i], HEADSET_HZ, label=f"EEG {label}", physical_dimension="uV",
                    physical_range=(3000, 5200),
                )
                for i, label in enumerate(LABELS)
            ]
        ).write(folder / f"person_{number}.edf")  # fmt: skip
    return sorted(folder.glob("*.edf"))


@pytest.fixture(scope="module")
def report(head_bundle, people, seizures):
    """One person through everything."""
    plan = HeadsPlan(seed=3, n_cases=1, gains=(0.5,))
    return try_heads(head_bundle, people[:1], seizures, plan)


def test_an_alarm_within_the_seizure_detects_it_and_its_delay_counts():
    case = judge_case(MIXTURE, watched((50.0, 60.0), (102.5, 110.0), (112.0, 120.0)))
    assert case.latency_s == pytest.approx(2.6)
    assert not case.standing


@pytest.mark.parametrize("raised_s", [99.9, 100.0 + SEIZURE_S + 0.1])
def test_an_alarm_before_or_after_the_seizure_does_not_detect_it(raised_s):
    assert judge_case(MIXTURE, watched((raised_s, 150.0))).latency_s is None


def test_an_alarm_that_stood_already_is_no_detection_until_it_comes_on_again():
    case = judge_case(MIXTURE, watched((95.0, 103.0)))
    assert (case.latency_s, case.standing) == (None, True)
    case = judge_case(MIXTURE, watched((95.0, 103.0), (104.0, 120.0)))
    assert (case.latency_s, case.standing) == (pytest.approx(4.1), True)


def test_odd_ranks_are_for_tuning_and_even_ones_for_reporting(tmp_path):
    folder = tmp_path / "headset_epoc"
    folder.mkdir()
    for name in ("control_10", "control_02", "control_07", "control_30", "control_29"):
        (folder / f"{name}.edf").touch()
    tuning, reporting = (
        [path.stem for path in find_people(tmp_path, ranks)] for ranks in ("tuning", "reporting")
    )
    assert tuning == ["control_02", "control_10", "control_30"]
    assert reporting == ["control_07", "control_29"]


def test_no_people_is_an_error_that_says_where_they_were_looked_for(tmp_path):
    with pytest.raises(DatasetNotFoundError, match="headset_epoc"):
        find_people(tmp_path, "tuning")


@pytest.mark.dataset
def test_the_headset_recordings_are_twelve_people_to_tune_on_and_eleven_to_report(data_folder):
    tuning, reporting = (find_people(data_folder, ranks) for ranks in ("tuning", "reporting"))
    assert (len(tuning), len(reporting)) == (12, 11)
    assert not set(tuning) & set(reporting)
    pytest.importorskip("edfio")
    one = read_head(reporting[0])
    assert (len(one.labels), one.rate_hz) == (14, HEADSET_HZ)
    assert 3900 < np.median(one.samples) < 4200


@pytest.mark.dataset
def test_only_seizures_that_the_bundle_has_not_seen_are_mixed_in(bonn, data_folder):
    found = find_seizures(bonn, data_folder)
    assert set(found) <= set(bonn.split.test)
    assert not set(found) & {*bonn.split.train, *bonn.split.validation}
    assert len(found) >= 20


@pytest.mark.dataset
def test_a_bundle_of_another_table_is_refused(bonn, data_folder):
    split = dataclasses.replace(bonn.split, data_digest="another")
    with pytest.raises(UnseenDataError, match="another"):
        find_seizures(dataclasses.replace(bonn, split=split), data_folder)


def test_a_bundle_trained_on_rows_is_refused():
    with pytest.raises(UnseenDataError, match="protocol recordings"):
        find_seizures(load_bundle("bonn-rows"), None)


def test_every_person_has_as_many_cases_and_no_seizure_twice_before_all_came():
    heads = [head(name=name) for name in ("a", "b", "c")]
    onsets = [np.arange(20.0, 36.0)] * 3
    keys = tuple(f"V{i}" for i in range(5))
    cases = draw_cases(heads, onsets, keys, HeadsPlan(seed=1, n_cases=20))
    for count in N_INVOLVED:
        for name in ("a", "b", "c"):
            mine = [c for c in cases if c.background == name and len(c.channels) == count]
            assert len(mine) == 7
            assert len({c.seizure for c in mine[:5]}) == 5
    assert cases == draw_cases(heads, onsets, keys, HeadsPlan(seed=1, n_cases=20))
    assert cases != draw_cases(heads, onsets, keys, HeadsPlan(seed=2, n_cases=20))


def test_people_too_short_for_a_seizure_are_an_error():
    with pytest.raises(RecordingInvalidError, match="none as long"):
        draw_cases([head()], [np.array([])], ("V1",), HeadsPlan())


def test_the_worst_background_is_where_the_artefacts_are():
    quiet, shaken = head(200.0, name="quiet"), head(200.0, name="shaken", seed=1)
    shaken.samples[round(100 * HEADSET_HZ) : round(110 * HEADSET_HZ) : 7] += 3000
    onsets = [np.arange(20.0, 170.0)] * 2
    kept_quiet, kept_shaken = worst_onsets([quiet, shaken], onsets)
    assert not len(kept_quiet)
    assert len(kept_shaken) == pytest.approx(30, abs=2)
    # Each of them holds some of the ten seconds.
    assert kept_shaken.min() > 100 - SEIZURE_S
    assert kept_shaken.max() < 110


def test_a_loose_contact_counts_no_more_than_its_cap():
    one, other = head(40.0), head(40.0)
    one.samples[round(10 * HEADSET_HZ), 0] += 2_000
    other.samples[round(10 * HEADSET_HZ), 0] += 13_000
    onsets = np.array([5.0])
    assert artefact_scores(one, onsets) == pytest.approx(artefact_scores(other, onsets))


def test_a_recording_that_is_not_there_is_an_error():
    with pytest.raises(RecordingNotFoundError):
        read_head(Path("nowhere.edf"))


def test_an_edf_is_read_in_microvolts_with_its_labels(people):
    one = read_head(people[0])
    assert (one.name, one.labels, one.rate_hz) == (
        "person_1", tuple(f"EEG {label}" for label in LABELS), HEADSET_HZ,
    )  # fmt: skip
    np.testing.assert_allclose(one.samples, background_uv(50, seed=1), atol=0.05)


def invented(bundle, *, detected, heads=("a", "b"), alarms=(), refused=0):
    """A report of cases that were detected or not, by person."""
    people = tuple(head(36.0, name=name) for name in heads)
    cases = tuple(
        Case(
            Mixture(name, "V1", LABELS[:count], 60.0, 100.0), 2.0 if hit else None, False, watched()
        )
        for name, hits in zip(heads, detected, strict=True)
        for hit in hits
        for count in N_INVOLVED
    )
    background = {1.0: (watched(*alarms, refused=refused), *(watched() for _ in heads[1:]))}
    plan = HeadsPlan(gains=(), worst=False)
    return HeadsReport(plan, bundle, people, background, {1.0: cases}, ())


def test_people_are_drawn_for_the_interval_not_cases(bonn):
    unlike = invented(bonn, detected=([True] * 50, [False] * 50)).as_json()["cases"]["2"]
    assert (unlike["n"], unlike["sensitivity"], unlike["interval"]) == (100, 0.5, (0.0, 1.0))
    alike = invented(bonn, detected=([True, False] * 25,) * 2).as_json()["cases"]["2"]
    assert alike["interval"] == (0.5, 0.5)


def test_no_false_alarm_still_allows_three_in_the_time(bonn):
    figures = invented(bonn, detected=([True], [True])).as_json()
    assert figures["hours"] == pytest.approx(0.02)
    assert (figures["false_alarms"], figures["false_alarms_per_hour"]) == (0, 0.0)
    assert figures["false_alarms_per_hour_at_most"] * 0.02 == pytest.approx(2.996, abs=1e-3)


def test_each_time_an_alarm_comes_on_is_a_false_alarm(bonn):
    found = invented(bonn, detected=([True], [True]), alarms=((1, 2), (3, 4))).as_json()
    assert found["false_alarms"] == 2
    assert [alarm["person"] for alarm in found["alarms"]] == ["a", "a"]
    assert found["false_alarms_per_hour"] == pytest.approx(100)


def test_a_detection_that_the_background_makes_by_itself_is_told(bonn):
    found = invented(bonn, detected=([True], [True]), alarms=((105.0, 106.0),)).as_json()
    assert found["cases"]["1"]["alarms_without_the_seizure"] == 1  # of a, not of b


def test_an_alarm_during_the_calibration_is_a_false_alarm_but_none_of_after_it(bonn):
    one = invented(bonn, detected=([True], [True]), alarms=((0.1, 0.2), (0.3, 0.4)))
    first = one.background[1.0][0]
    calibrating = first.at_s < 0.2
    one.background[1.0] = (
        dataclasses.replace(first, calibrating=calibrating), *one.background[1.0][1:],
    )  # fmt: skip
    figures = one.as_json()
    assert figures["false_alarms"] == 2
    assert figures["after_calibration"]["false_alarms"] == 1


def test_refused_time_is_told_by_channel_and_as_no_signal_at_all(bonn):
    figures = invented(bonn, detected=([True], [True]), refused=4).as_json()
    assert figures["refused_share"] == pytest.approx(0.2)
    assert figures["no_signal_share"] == pytest.approx(0.2)
    assert figures["calibrating_share"] == 0


def test_the_report_has_every_figure_and_is_json(report):
    figures = json.loads(json.dumps(report.as_json()))
    for by_count in (
        figures["cases"], figures["worst_background"]["cases"], figures["gain"]["0.5"]["cases"],
    ):  # fmt: skip
        assert set(by_count) == {"1", "2", "4"}
        assert all(
            {"n", "sensitivity", "interval", "latency_s"} <= set(one) for one in by_count.values()
        )
    assert 0 < figures["calibrating_share"] < 0.5
    assert figures["people"] == ["person_1"]


def test_cases_begin_after_the_calibration_and_are_played_long_enough_before(report):
    for case in report.cases[1.0]:
        assert case.mixture.onset_s >= report.background[1.0][0].calibrated_s
        settled_s = case.mixture.onset_s - case.watched.at_s[0]
        assert LEAD_S - 2 < settled_s <= LEAD_S
        assert case.watched.at_s[-1] > case.mixture.offset_s
        assert not case.watched.calibrating.any()


def test_a_mixed_seizure_changes_what_is_said_of_its_channels(report):
    case = next(case for case in report.cases[1.0] if case.n_involved == 1)
    labels = report.heads[0].labels
    during = (case.watched.at_s > case.mixture.onset_s + 3) & (
        case.watched.at_s < case.mixture.offset_s
    )
    involved = labels.index(case.mixture.channels[0])
    p = case.watched.seizure[during]
    others = np.delete(p, involved, axis=1)
    assert np.nanmean(p[:, involved]) > 0.5 > np.nanmean(others)


def test_measuring_the_gain_again_cancels_a_gain(report):
    plain, halved = report.background[1.0][0], report.background[0.5][0]
    np.testing.assert_allclose(np.array(halved.gains), 2 * np.array(plain.gains), rtol=1e-3)
    for before, after in zip(report.cases[1.0], report.cases[0.5], strict=True):
        assert after.mixture == before.mixture
        np.testing.assert_allclose(after.watched.seizure, before.watched.seizure, atol=2e-3)


def test_a_rule_tried_afterwards_gives_the_alarms_that_the_detector_gave(report):
    bundle, labels = report.bundle, report.heads[0].labels
    plays = [*report.background[1.0], *(case.watched for case in report.cases[1.0])]
    assert any(one.alarms for one in plays)
    for one in plays:
        smoothed = alarm_rules.smooth(one, bundle.alarm.smoothing_s, bundle)
        values = alarm_rules.agree(one, smoothed, labels, bundle.alarm.channels_needed)
        found = alarm_rules.alarms_of(one, values, bundle.alarm, bundle)
        assert [a.raised_s for a in found] == [a.raised_s for a in one.alarms]
        assert [a.p_max for a in found] == [a.p_max for a in one.alarms]


def test_another_rule_tried_afterwards_is_what_the_detector_does_under_it(report, people):
    bundle = report.bundle
    rule = dataclasses.replace(
        bundle.alarm, smoothing_s=2.0, persistence_s=1.0, raise_threshold=0.7, channels_needed=2
    )
    under = dataclasses.replace(bundle, alarm=rule)
    one = read_head(people[0])
    expected = watch(one, under)
    plain = report.background[1.0][0]
    smoothed = alarm_rules.smooth(plain, rule.smoothing_s, under)
    values = alarm_rules.agree(plain, smoothed, one.labels, rule.channels_needed)
    found = alarm_rules.alarms_of(plain, values, rule, under)
    assert [a.raised_s for a in found] == [a.raised_s for a in expected.alarms]


def test_tuning_gives_the_figures_of_the_report_for_its_own_rule(report):
    (figures,) = alarm_rules.tune(report, [report.bundle.alarm])
    told = report.as_json()
    assert figures.false_alarms == told["false_alarms"]
    assert figures.sensitivity == {n: told["cases"][str(n)]["sensitivity"] for n in N_INVOLVED}


def test_a_stricter_threshold_never_gives_more_detections(report):
    thresholds = (0.5, 0.9, 0.99)
    rules = alarm_rules.grid(report.bundle.alarm, raise_thresholds=thresholds)
    shares = [figures.sensitivity[2] for figures in alarm_rules.tune(report, rules)]
    assert shares == sorted(shares, reverse=True)


def test_a_grid_leaves_out_what_is_no_rule(bonn):
    rules = alarm_rules.grid(
        bonn.alarm, raise_thresholds=(0.4, 0.9), clear_thresholds=(0.3, 0.5), channels_needed=(1, 2)
    )
    assert len(rules) == 6
    assert all(rule.clear_threshold <= rule.raise_threshold for rule in rules)


def test_more_processes_give_the_same(head_bundle, people, seizures, report):
    plan = HeadsPlan(seed=3, n_cases=1, gains=(), worst=False, jobs=2)
    told = []
    other = try_heads(
        head_bundle, people[:1], seizures, plan, progress=lambda *done: told.append(done)
    )
    assert other.as_json()["cases"] == report.as_json()["cases"]
    assert told[-1][0] == told[-1][1]


def test_pictures_are_written(report, seizures, tmp_path):
    pytest.importorskip("matplotlib")
    from stream_classifier.evaluation.head_pictures import draw_pictures

    paths = draw_pictures(report, seizures, tmp_path / "pictures")
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    assert len(paths) == 3
