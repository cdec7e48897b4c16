"""What was held out is never trained on, down to the sample."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_classifier.datasets import SeizureRows, load_rows
from stream_classifier.errors import ConfigError
from stream_classifier.evaluation.windows import split_rows
from stream_classifier.training.material import VALIDATION_SHARE, gather, split_data, split_folds


def invented_rows(seed=0):
    """A table shaped like the data set, whose every sample says which row it is from."""
    keys = [f"V{n}" for n in range(400)] + [f"V1.{n}" for n in range(100)]
    recordings, chunks = np.repeat(keys, 23), np.tile(np.arange(1, 24), 500)
    labels = np.repeat(np.tile(np.arange(1, 6), 100), 23)
    order = np.random.default_rng(seed).permutation(11_500)
    values = np.repeat(np.arange(11_500)[:, None], 178, axis=1)
    return SeizureRows(
        values=values.astype(np.int16),
        labels=labels[order].astype(np.int8),
        recordings=recordings[order],
        chunks=chunks[order].astype(np.int8),
        digest="invented",
    )


ROWS = invented_rows()


@pytest.mark.parametrize("seed", range(3))
def test_no_recording_is_on_two_sides_of_a_split_by_recordings(seed):
    split = split_data(ROWS, protocol="recordings", seed=seed)
    assert [len(s) for s in (split.train, split.validation, split.test)] == [350, 50, 100]
    sides = [set(ROWS.recordings[split_rows(ROWS, s)])
             for s in (split.train, split.validation, split.test)]  # fmt: skip
    assert [len(side) for side in sides] == [350, 50, 100]
    assert len(set.union(*sides)) == 500


@pytest.mark.parametrize("seed", range(3))
def test_no_row_is_on_two_sides_of_a_split_by_rows(seed):
    split = split_data(ROWS, protocol="rows", seed=seed)
    assert [len(s) for s in (split.train, split.validation, split.test)] == [8_000, 1_000, 2_500]
    assert sorted((*split.train, *split.validation, *split.test)) == list(range(11_500))


@pytest.mark.parametrize("protocol", ["rows", "recordings"])
def test_each_side_has_each_label_in_equal_parts(protocol):
    split = split_data(ROWS, protocol=protocol, seed=5)
    for side in (split.train, split.validation, split.test):
        counts = np.bincount(ROWS.labels[split_rows(ROWS, side)], minlength=6)[1:]
        assert len(set(counts)) == 1


def test_a_split_depends_on_its_seed_and_on_nothing_else():
    first = split_data(ROWS, protocol="recordings", seed=1)
    assert split_data(ROWS, protocol="recordings", seed=1) == first
    assert split_data(ROWS, protocol="recordings", seed=2).test != first.test


@pytest.mark.parametrize("n_folds", [2, 3, 5, 7, 100])
def test_every_recording_is_tested_once_and_in_no_other_part_of_its_fold(n_folds):
    folds = split_folds(ROWS, n_folds=n_folds, seed=3)
    assert len(folds) == n_folds
    assert sorted(key for fold in folds for key in fold.test) == sorted(ROWS.keys)
    for fold in folds:
        assert (fold.protocol, fold.seed, fold.data_digest) == ("recordings", 3, "invented")
        everything = (*fold.train, *fold.validation, *fold.test)
        assert len(everything) == len(set(everything)) == 500


@pytest.mark.parametrize("n_folds", [2, 3, 5, 7, 100])
def test_every_side_of_every_fold_has_each_label_in_equal_parts_within_one(n_folds):
    for fold in split_folds(ROWS, n_folds=n_folds, seed=3):
        for side in (fold.train, fold.validation, fold.test):
            counts = np.bincount([ROWS.label_of(key) for key in side], minlength=6)[1:]
            assert np.ptp(counts) <= 1
            assert counts.min() >= 1
        n_rest = 500 - len(fold.test)
        assert len(fold.validation) == pytest.approx(VALIDATION_SHARE * n_rest, abs=3)


def test_folds_depend_on_their_seed_and_choose_on_other_recordings_each():
    folds = split_folds(ROWS, n_folds=5, seed=1)
    assert split_folds(ROWS, n_folds=5, seed=1) == folds
    assert split_folds(ROWS, n_folds=5, seed=2)[0].test != folds[0].test
    # No recording only ever chooses: each is trained on in some fold.
    assert set().union(*(fold.train for fold in folds)) == set(ROWS.keys)
    assert len({fold.validation for fold in folds}) == 5


@pytest.mark.parametrize("n_folds", [-1, 0, 1, 101])
def test_folds_that_cannot_be_are_refused(n_folds):
    with pytest.raises(ConfigError, match=rf"folds {n_folds}: expected 2 to 100.* Try: --folds 5"):
        split_folds(ROWS, n_folds=n_folds, seed=0)


def test_runs_are_prepared_one_by_one():
    seen = []

    def halve(run):
        seen.append(len(run))
        return run[::2]

    numbers = np.concatenate([ROWS.rows_of("V7")[[0, 1, 2, 5]], ROWS.rows_of("V8")])
    material = gather(ROWS, numbers, stretch_samples=120, prepare=halve)
    assert sorted(seen) == [178, 3 * 178, 23 * 178]
    assert len(material.signal_uv) == sum(seen) // 2
    # The run of one row is too short by then.
    assert len(material.stretch_starts) == (3 * 89 - 119) + (23 * 89 - 119)
    starts, length = material.stretch_starts, len(material.signal_uv)
    assert starts.min() >= 0
    assert starts.max() + 120 <= length


def test_stretches_longer_than_any_run_are_refused():
    with pytest.raises(ConfigError, match=r"stretch_samples 535: .* 534 samples\. Try: a smaller"):
        gather(ROWS, ROWS.rows_of("V7")[[0, 1, 2, 5]], stretch_samples=535)


def test_keys_that_look_alike_are_different_recordings():
    assert not set(ROWS.rows_of("V1")) & set(ROWS.rows_of("V1.1"))
    assert not set(ROWS.rows_of("V11")) & set(ROWS.rows_of("V1.1"))
    split = split_data(ROWS, protocol="recordings", seed=0)
    assert len(split_rows(ROWS, ("V1",))) == len(split_rows(ROWS, ("V1.1",))) == 23
    assert {"V1", "V1.1", "V11"} <= {*split.train, *split.validation, *split.test}


@given(chosen=st.sets(st.integers(0, 68), min_size=1), window=st.integers(1, 178))
def test_windows_hold_only_given_rows_in_their_order_in_one_recording(chosen, window):
    three = np.concatenate([ROWS.rows_of(key) for key in ("V1", "V1.1", "V11")])
    given_rows = three[sorted(chosen)]
    material = gather(ROWS, given_rows, stretch_samples=window)
    assert len(material.stretch_starts) == len(material.labels)
    for start, label in zip(material.stretch_starts[::37], material.labels[::37], strict=True):
        # Each sample is the number of its row.
        inside = material.signal_uv[start : start + window].astype(int)
        assert len(inside) == window
        assert set(inside) <= set(given_rows)
        assert len(set(ROWS.recordings[inside])) == 1
        assert set(ROWS.labels[inside]) == {label}
        assert set(np.diff(ROWS.chunks[inside])) <= {0, 1}
        assert len(set(inside)) <= 1 + (window + 176) // 178


def test_every_window_of_every_run_can_be_drawn_and_no_other():
    recording = ROWS.rows_of("V7")
    material = gather(ROWS, recording[[0, 1, 2, 5, 22]], stretch_samples=120)
    runs = [3, 1, 1]
    expected = [(0, 3 * 178 - 119), (3 * 178, 59), (4 * 178, 59)]
    assert len(runs) == len(expected)
    assert material.stretch_starts.tolist() == [
        s + n for s, count in expected for n in range(count)
    ]


def test_drawing_is_repeatable_and_keeps_windows_with_their_labels():
    material = gather(ROWS, np.arange(0, 11_500, 7), stretch_samples=120)
    first = material.draw(np.random.default_rng(1), 500)
    again = material.draw(np.random.default_rng(1), 500)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert first[0].shape == (500, 120)
    np.testing.assert_array_equal(ROWS.labels[first[0][:, 0].astype(int)], first[1])


@pytest.mark.dataset
@pytest.mark.parametrize("protocol", ["rows", "recordings"])
def test_real_training_windows_hold_no_sample_of_a_held_out_row(data_folder, protocol):
    rows = load_rows(data_folder)
    split = split_data(rows, protocol=protocol, seed=0)
    train = split_rows(rows, split.train)
    held_out = split_rows(rows, (*split.test, *split.validation))
    assert not set(train) & set(held_out)
    if protocol == "recordings":
        assert not set(rows.recordings[train]) & set(rows.recordings[held_out])
    material = gather(rows, train, stretch_samples=120)
    assert len(material.signal_uv) == len(train) * 178
    np.testing.assert_array_equal(
        np.sort(material.signal_uv.reshape(-1, 178), axis=0),
        np.sort(rows.values[train].astype(np.float32), axis=0),
    )
