"""A recording on disk as a wearer: its own rate, labels and gaps, and the seizures marked in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simulators.blocks import OFFSET, ONSET, Block

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stream_classifier.sources.recordings.material import Recording, Seizure

BLOCK_S: Final = 1.0


def play(recording: Recording, seizures: Sequence[Seizure]) -> Iterator[Block]:
    """A recording in blocks of a second; samples in µV, whatever the file's unit.

    A seizure that begins or ends in a gap is announced with the next sample there is.

    Args:
        recording: What to play.
        seizures: As annotated, in order and apart.
    """
    marks = [
        (round(at_s * recording.rate_hz), label)
        for one in seizures
        for at_s, label in ((one.start_s, ONSET), (one.end_s, OFFSET))
    ]
    block_samples = max(1, round(BLOCK_S * recording.rate_hz))
    next_index = 0
    held: Block | None = None  # the last one also carries what is marked behind it
    for run in recording.runs():
        for start in range(0, len(run.samples), block_samples):
            if held is not None:
                yield held
            samples = run.samples[start : start + block_samples]
            index = run.first_index + start
            stop = index + len(samples)
            events = tuple((max(0, at - index), label) for at, label in marks if at < stop)
            marks = marks[len(events) :]
            held = Block(samples, gap_before_samples=index - next_index, events=events)
            next_index = stop
    if held is not None:
        left = tuple((len(held.samples), label) for _, label in marks)
        yield Block(held.samples, held.gap_before_samples, held.events + left)
