"""The data set as a wearer: its rows one by one, or whole recordings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from simulators.blocks import OFFSET, ONSET, RATE_HZ, Block

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stream_classifier.datasets import SeizureRows

GAP_SAMPLES: Final = round(RATE_HZ)
"""Missing between rows or recordings that do not continue each other: one second."""

_SEIZURE_CLASS: Final = 0


def rows(
    table: SeizureRows,
    *,
    shuffle: bool = False,
    seed: int = 0,
    join: bool = False,
    order: Sequence[int] | None = None,
) -> Iterator[Block]:
    """Rows of the data set, one after the other, on one channel.

    Rows do not continue each other, so a join is a gap of one second in the time stamps:
    a classifier must not see a window across it. Each row is announced as
    ``row/<number>/class/<class>``, numbered from 0 in file order.

    Args:
        table: The data set.
        shuffle: Whether to draw them in a random order, each once.
        seed: Of that order.
        join: Pretend that they do continue each other.
        order: Row numbers to send instead of all.
    """
    numbers = np.arange(len(table.values)) if order is None else np.asarray(order, dtype=np.intp)
    if shuffle:
        numbers = np.random.default_rng(seed).permutation(numbers)
    classes = table.classes
    in_seizure = False
    for place, number in enumerate(numbers.tolist()):
        samples = table.values[number].astype(np.float32)[:, np.newaxis]  # (178, 1)
        events = [(0, f"row/{number}/class/{classes[number]}")]
        is_seizure = bool(classes[number] == _SEIZURE_CLASS)
        if is_seizure != in_seizure:
            events.append((0, ONSET if is_seizure else OFFSET))
            in_seizure = is_seizure
        if in_seizure and place == len(numbers) - 1:
            events.append((len(samples), OFFSET))
        gap = GAP_SAMPLES if place and not join else 0
        yield Block(samples, gap, tuple(events))


def recording(table: SeizureRows, keys: Sequence[str]) -> Iterator[Block]:
    """Whole recordings of 23 s, side by side: one for each channel.

    Each is announced as ``recording/<key>/class/<class>/channel/<number>``, channels
    numbered from 0. It is a seizure if any of them is one.

    Args:
        table: The data set.
        keys: Keys of recordings, one for each channel, at least one.

    Raises:
        KeyError: If a recording is not in the data set.
    """
    samples = np.stack([table.recording(key) for key in keys], axis=1)  # (4094, n_channels)
    classes = [table.class_of(key) for key in keys]
    events = [
        (0, f"recording/{key}/class/{kind}/channel/{channel}")
        for channel, (key, kind) in enumerate(zip(keys, classes, strict=True))
    ]
    if _SEIZURE_CLASS in classes:
        events += [(0, ONSET), (len(samples), OFFSET)]
    yield Block(samples, events=tuple(events))
