"""What a simulated wearer produces: blocks of samples, gaps between them, and the truth.

A source is any iterable of :class:`Block`. Sources know nothing of chunks, clocks or LSL;
:func:`cut` brings their blocks onto the device's sample grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

RATE_HZ: Final = 178.0
"""The rate of every simulated device: 178 samples of the data set are taken for a second."""

ONSET: Final = "seizure/onset"
OFFSET: Final = "seizure/offset"


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Consecutive samples, and what happens in them.

    Attributes:
        samples: Shape ``(n_samples, n_channels)``, µV, float32, oldest first.
        gap_before_samples: How many samples are missing between the previous block and
            this one, at least 0.
        events: Pairs of an offset in samples from the block's start, at least 0, and a
            label; in the order of time. An offset equal to the number of samples is the
            instant right after the last one.
    """

    samples: NDArray[np.float32]
    gap_before_samples: int = 0
    events: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Samples as a device sends them at once.

    Attributes:
        first_index: Absolute index of the first sample on the grid of the nominal rate;
            missing samples leave a hole in the indices.
        samples: Shape ``(n_samples, n_channels)``, µV; may be empty where there are events.
        events: Pairs of an absolute index and a label.
    """

    first_index: int
    samples: NDArray[np.float32]
    events: tuple[tuple[int, str], ...] = ()

    @property
    def last_index(self) -> int:
        """Absolute index of the last sample (of the one before, if there is none)."""
        return self.first_index + len(self.samples) - 1


def cut(blocks: Iterable[Block], *, chunk_samples: int) -> Iterator[Piece]:
    """Cut a source into the chunks of a device; samples, gaps and events stay as they are.

    Chunks run across the borders of blocks that continue each other. Only the last one
    before a gap, or of all, may be short. An event after the last sample comes alone, with
    no sample.

    Args:
        blocks: A source.
        chunk_samples: Samples a chunk, at least 1.

    Raises:
        ValueError: If ``chunk_samples`` is below 1.

    Example:
        >>> row = np.zeros((5, 1), np.float32)
        >>> blocks = [Block(row), Block(row), Block(row, gap_before_samples=100)]
        >>> [(piece.first_index, len(piece.samples)) for piece in cut(blocks, chunk_samples=4)]
        [(0, 4), (4, 4), (8, 2), (110, 4), (114, 1)]
    """
    if chunk_samples < 1:
        raise ValueError(f"chunk_samples must be at least 1, got {chunk_samples}")
    held: NDArray[np.float32] = np.empty((0, 0), np.float32)
    events: list[tuple[int, str]] = []
    index = 0  # of the first sample held

    def pieces(at_least: int) -> Iterator[Piece]:
        nonlocal held, events, index
        while len(held) >= at_least:
            samples, held = held[:chunk_samples], held[chunk_samples:]
            stop = index + len(samples)
            mine = tuple(event for event in events if event[0] < stop)
            events = [event for event in events if event[0] >= stop]
            yield Piece(first_index=index, samples=samples, events=mine)
            index = stop
        if at_least == 1 and events:  # right after the last sample
            yield Piece(first_index=index, samples=held, events=tuple(events))
            events = []

    for block in blocks:
        if block.gap_before_samples:
            yield from pieces(at_least=1)
            index += block.gap_before_samples
        start = index + len(held)
        events += [(start + offset, label) for offset, label in block.events]
        held = np.concatenate((held, block.samples)) if len(held) else block.samples
        yield from pieces(at_least=chunk_samples)
    yield from pieces(at_least=1)


def take(blocks: Iterable[Block], n_samples: int) -> Iterator[Block]:
    """The beginning of a source; a seizure that is cut off ends with it.

    Args:
        blocks: A source, which may be endless.
        n_samples: How much of it, gaps included, at least 0.
    """
    left = n_samples
    in_seizure = False
    for block in blocks:
        left -= block.gap_before_samples
        if left <= 0:
            return
        samples = block.samples[:left]
        left -= len(samples)
        # At the very end, an event right after the last sample would begin something new.
        n_seen = len(samples) + (left > 0)
        events = [(offset, label) for offset, label in block.events if offset < n_seen]
        for _, label in events:
            in_seizure = (in_seizure or label == ONSET) and label != OFFSET
        if not left and in_seizure:
            events.append((len(samples), OFFSET))
        yield Block(samples, block.gap_before_samples, tuple(events))
        if not left:
            return


def loop(make: Callable[[], Iterable[Block]], *, gap_samples: int) -> Iterator[Block]:
    """Repeat a source for ever, with a gap before each repetition.

    Args:
        make: Starts the source again.
        gap_samples: How many samples are missing in between, at least 0.
    """
    gap = 0
    while True:
        for block in make():
            yield Block(block.samples, block.gap_before_samples + gap, block.events)
            gap = 0
        gap = gap_samples
