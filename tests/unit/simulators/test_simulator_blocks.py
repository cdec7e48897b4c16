"""Cutting a source into chunks changes neither samples, nor gaps, nor the truth."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulators.blocks import OFFSET, ONSET, Block, Piece, cut, loop, take


@st.composite
def sources(draw: st.DrawFn) -> list[Block]:
    """Blocks whose samples count up, with gaps and events."""
    blocks = []
    value = 0
    for _ in range(draw(st.integers(0, 6))):
        n = draw(st.integers(0, 12))
        events = sorted(draw(st.lists(st.integers(0, n), max_size=3)))
        blocks.append(
            Block(
                np.arange(value, value + n, dtype=np.float32)[:, np.newaxis],
                draw(st.sampled_from([0, 0, 1, 50])),
                tuple((offset, f"{value}+{offset}") for offset in events),
            )
        )
        value += n
    return blocks


def placed(pieces: list[Piece]) -> tuple[dict[int, float], list[tuple[int, str]]]:
    """Values by absolute index, and events."""
    values = {
        piece.first_index + n: float(value)
        for piece in pieces
        for n, value in enumerate(piece.samples[:, 0])
    }
    return values, [event for piece in pieces for event in piece.events]


@given(sources(), st.integers(1, 20))
def test_however_a_source_is_cut_its_samples_and_events_keep_their_places(
    blocks: list[Block], chunk_samples: int
) -> None:
    pieces = list(cut(blocks, chunk_samples=chunk_samples))
    values, events = placed(pieces)
    expected_values: dict[int, float] = {}
    expected_events = []
    index = 0
    for block in blocks:
        index += block.gap_before_samples
        expected_events += [(index + offset, label) for offset, label in block.events]
        for value in block.samples[:, 0]:
            expected_values[index] = float(value)
            index += 1
    assert values == expected_values
    assert sorted(events) == sorted(expected_events)


@given(sources(), st.integers(1, 20))
def test_a_chunk_is_short_only_before_a_gap_or_at_the_end(
    blocks: list[Block], chunk_samples: int
) -> None:
    pieces = [piece for piece in cut(blocks, chunk_samples=chunk_samples) if len(piece.samples)]
    for piece, following in itertools.pairwise(pieces):
        assert piece.last_index < following.first_index
        assert len(piece.samples) == chunk_samples or piece.last_index + 1 < following.first_index


def test_an_event_comes_with_the_chunk_of_its_sample() -> None:
    blocks = [Block(np.zeros((8, 1), np.float32), events=((0, "a"), (4, "b"), (8, "end")))]
    assert [piece.events for piece in cut(blocks, chunk_samples=4)] == [
        ((0, "a"),),
        ((4, "b"),),
        ((8, "end"),),
    ]


def test_a_chunk_has_at_least_one_sample() -> None:
    with pytest.raises(ValueError, match="chunk_samples"):
        next(cut([], chunk_samples=0))


@given(sources(), st.integers(0, 80))
def test_taking_keeps_exactly_the_beginning(blocks: list[Block], n_samples: int) -> None:
    whole, _ = placed(list(cut(blocks, chunk_samples=3)))
    taken, _ = placed(list(cut(take(blocks, n_samples), chunk_samples=3)))
    assert taken == {index: value for index, value in whole.items() if index < n_samples}


def seizure(n_before: int, n_during: int) -> list[Block]:
    samples = np.zeros((n_before + n_during, 1), np.float32)
    return [Block(samples, events=((n_before, ONSET), (n_before + n_during, OFFSET)))]


@pytest.mark.parametrize(
    ("n_taken", "expected"),
    [
        (5, []),
        (10, []),
        (12, [(10, ONSET), (12, OFFSET)]),
        (20, [(10, ONSET), (20, OFFSET)]),
        (99, [(10, ONSET), (20, OFFSET)]),
    ],
)
def test_a_seizure_that_is_cut_off_ends_there(
    n_taken: int, expected: list[tuple[int, str]]
) -> None:
    pieces = list(cut(take(seizure(10, 10), n_taken), chunk_samples=4))
    assert [event for piece in pieces for event in piece.events] == expected


def test_a_loop_repeats_for_ever_with_a_gap_in_between() -> None:
    block = Block(np.arange(3, dtype=np.float32)[:, np.newaxis])
    endless = cut(loop(lambda: [block, block], gap_samples=10), chunk_samples=100)
    assert [piece.first_index for piece in itertools.islice(endless, 4)] == [0, 16, 32, 48]
