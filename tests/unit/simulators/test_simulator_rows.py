"""The data set as a wearer: rows keep apart, recordings hold together."""

from __future__ import annotations

import numpy as np
import pytest

from simulators.blocks import OFFSET, ONSET, Block, cut
from simulators.rows import GAP_SAMPLES, recording, rows
from stream_classifier.datasets import SeizureRows


@pytest.fixture(scope="module")
def table() -> SeizureRows:
    """Six recordings, one of each label and a second seizure, rows in a random order."""
    rng = np.random.default_rng(3)
    order = rng.permutation(6 * 23)
    return SeizureRows(
        values=rng.integers(-200, 200, (6 * 23, 178)).astype(np.int16)[order],
        labels=np.repeat(np.array([1, 2, 3, 4, 5, 1], np.int8), 23)[order],
        recordings=np.repeat(np.array(["a", "b", "c", "d", "e", "f"]), 23)[order],
        chunks=np.tile(np.arange(1, 24, dtype=np.int8), 6)[order],
        digest="",
    )


def signal(blocks: list[Block]) -> np.ndarray:
    return np.concatenate([block.samples for block in blocks])


def events(blocks: list[Block]) -> list[tuple[int, str]]:
    return [event for piece in cut(blocks, chunk_samples=4) for event in piece.events]


def test_rows_come_in_file_order_each_with_its_number_and_class(table: SeizureRows) -> None:
    blocks = list(rows(table))
    np.testing.assert_array_equal(signal(blocks)[:, 0], table.values.ravel())
    announced = [label for block in blocks for _, label in block.events if label.startswith("row")]
    assert announced == [f"row/{n}/class/{kind}" for n, kind in enumerate(table.classes)]


def test_between_rows_a_second_is_missing(table: SeizureRows) -> None:
    pieces = [piece for piece in cut(rows(table), chunk_samples=178) if len(piece.samples)]
    firsts = [piece.first_index for piece in pieces]
    assert firsts == [n * (178 + GAP_SAMPLES) for n in range(len(table.values))]


def test_joined_rows_have_no_gap(table: SeizureRows) -> None:
    assert all(block.gap_before_samples == 0 for block in rows(table, join=True))


def test_a_shuffle_sends_each_row_once_and_depends_on_the_seed_alone(table: SeizureRows) -> None:
    def numbers(seed: int) -> list[int]:
        return [
            int(label.split("/")[1])
            for block in rows(table, shuffle=True, seed=seed)
            for _, label in block.events
            if label.startswith("row")
        ]

    assert numbers(1) == numbers(1)
    assert numbers(1) != numbers(2)
    assert sorted(numbers(1)) == list(range(len(table.values)))


def test_onsets_and_offsets_enclose_exactly_the_rows_of_seizures(table: SeizureRows) -> None:
    in_seizure = False
    marked = []
    for block in rows(table):
        for offset, label in block.events:
            if offset == 0 and label in {ONSET, OFFSET}:
                assert (label == ONSET) != in_seizure
                in_seizure = label == ONSET
        marked.append(in_seizure)
    assert marked == (table.classes == 0).tolist()


def test_a_seizure_in_the_last_row_ends(table: SeizureRows) -> None:
    last_seizure = int(np.flatnonzero(table.classes == 0)[-1])
    assert events(list(rows(table, order=[last_seizure])))[-1] == (178, OFFSET)


def test_a_recording_is_its_rows_joined(table: SeizureRows) -> None:
    (block,) = recording(table, ["a"])
    assert block.samples.shape == (4_094, 1)
    np.testing.assert_array_equal(block.samples[:, 0], table.recording("a"))
    assert block.events == (
        (0, "recording/a/class/0/channel/0"),
        (0, ONSET),
        (4_094, OFFSET),
    )


def test_recordings_run_side_by_side_one_a_channel(table: SeizureRows) -> None:
    (block,) = recording(table, ["c", "f"])
    np.testing.assert_array_equal(block.samples[:, 1], table.recording("f"))
    assert (0, "recording/c/class/2/channel/0") in block.events
    assert (0, ONSET) in block.events  # one of them is a seizure


def test_a_recording_without_a_seizure_has_no_onset(table: SeizureRows) -> None:
    (block,) = recording(table, ["d"])
    assert block.events == ((0, "recording/d/class/2/channel/0"),)
