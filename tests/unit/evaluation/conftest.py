"""A table of recordings that needs no data set: the shipped self-test windows, end to end."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from stream_classifier.bundle import Bundle
from stream_classifier.datasets import ROW_SAMPLES, ROWS_PER_RECORDING, SeizureRows

TableMaker = Callable[[tuple[int, ...]], SeizureRows]


@pytest.fixture(scope="session")
def table_of(bonn: Bundle) -> TableMaker:
    """Make a table with one recording a label, keys ``K0``, ``K1``, and so on."""

    def make(labels: tuple[int, ...]) -> SeizureRows:
        n = ROW_SAMPLES * ROWS_PER_RECORDING
        seizure = bonn.selftest_probabilities[:, 0] > 0.9
        background = bonn.selftest_probabilities[:, 2] > 0.9
        recordings = []
        for place, label in enumerate(labels):
            windows = bonn.selftest_windows[seizure if label == 1 else background]
            recordings.append(np.resize(np.roll(windows, place, axis=0), n))
        return SeizureRows(
            values=np.stack(recordings).reshape(-1, ROW_SAMPLES).round().astype(np.int16),
            labels=np.repeat(labels, ROWS_PER_RECORDING).astype(np.int8),
            recordings=np.repeat([f"K{place}" for place in range(len(labels))], ROWS_PER_RECORDING),
            chunks=np.tile(np.arange(1, ROWS_PER_RECORDING + 1), len(labels)).astype(np.int8),
            digest="invented",
        )

    return make
