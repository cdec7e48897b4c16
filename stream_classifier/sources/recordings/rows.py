"""The data set's own recordings, by key."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from stream_classifier import datasets
from stream_classifier.errors import DatasetNotFoundError, StreamDescriptionError
from stream_classifier.sources.recordings.material import Ask, Recording, Run, Seizure

if TYPE_CHECKING:
    from numpy.typing import NDArray

LABEL = "EEG"
"""The data set names no electrode."""


def open_rows(key: str, ask: Ask) -> Recording | None:
    """Find a recording of the data set.

    Args:
        key: Of a recording in the table of rows (at 178 Hz, as published), or in the archive of raw
            recordings (``E_S/S001``; at their true 173.61 Hz).
        ask: How it is to be read; it has one channel and microvolts.

    Returns:
        None where there is no such recording, or no data set.

    Raises:
        DatasetInvalidError: If the data set is damaged.
        StreamDescriptionError: If another channel was asked for.
    """
    found = _find(key, ask)
    if found is None:
        return None
    samples, rate_hz, is_seizure = found
    if ask.channels not in {None, (LABEL,)}:
        raise StreamDescriptionError(
            f"recording {key!r} of the data set has one channel, {LABEL!r}. Try: no --channels"
        )
    digest = hashlib.sha256(samples.tobytes()).hexdigest()
    seizure = Seizure(0.0, len(samples) / rate_hz)
    return Recording(
        path=key,
        name=key,
        source_id=f"recording-{digest[:24]}",
        rate_hz=rate_hz,
        labels=(LABEL,),
        runs=partial(_runs, samples),
        seizures=lambda: (seizure,) if is_seizure else (),
    )


def _find(key: str, ask: Ask) -> tuple[NDArray[np.float32], float, bool] | None:
    try:
        if "_" in key:
            archive = datasets.load_recordings(ask.data)
            samples = archive.get(key)
            if samples is None:
                return None
            return samples, datasets.RECORDING_RATE_HZ, key.startswith("E_")
        table = datasets.load_rows(ask.data)
    except DatasetNotFoundError:
        if ask.data is not None:
            raise
        return None
    if key not in table.keys:
        return None
    return table.recording(key), datasets.ROW_RATE_HZ, table.class_of(key) == 0


def _runs(samples: NDArray[np.float32]) -> Iterator[Run]:
    yield Run(0, samples[:, None])
