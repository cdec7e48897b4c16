"""Damaged files: an error that says what is wrong, or a recording; never anything else."""

from __future__ import annotations

import random

import numpy as np
import pytest

from stream_classifier.errors import StreamClassifierError
from stream_classifier.sources.recording import RecordingSource, annotated, open_recording
from tests.recordings_on_disk import with_gap, write_csv, write_edf, write_xdf

N_TRIALS = 120


def _files(folder):
    samples = np.random.default_rng(0).normal(0, 30, (1024, 2)).astype(np.float32)
    stamps = 5 + np.arange(1024) / 256
    yield write_edf(folder / "a.edf", samples, rate_hz=256, annotations=[(1, 2, "seizure")])
    gap = write_edf(folder / "d.edf", samples, rate_hz=256, annotations=[])
    yield with_gap(gap, after_record=2, seconds=1)
    yield write_edf(folder / "b.bdf", samples, rate_hz=256, bdf=True)
    yield write_csv(folder / "c.csv", samples, labels=["C3 [uV]", "C4 [uV]"], top="# fs: 256")
    yield write_xdf(folder / "x.xdf", [("a", "EEG", 256, ["C3", "C4"], "uV", samples, stamps)])


def _damage(raw: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(raw)
    if rng.random() < 0.3:
        del damaged[rng.randrange(len(damaged)) :]
    if rng.random() < 0.1:
        at = rng.randrange(len(damaged) + 1)
        damaged[at:at] = rng.randbytes(rng.randrange(1, 40))
    reach = min(len(damaged), 1200) if rng.random() < 0.7 else len(damaged)  # mostly the header
    for _ in range(rng.choice([1, 2, 5, 30]) if reach else 0):
        damaged[rng.randrange(reach)] = rng.choice([rng.randrange(256), 0, 32, 45, 57, 255])
    return bytes(damaged)


@pytest.mark.parametrize("number", range(5), ids=["edf", "edf+d", "bdf", "csv", "xdf"])
def test_whatever_is_damaged_the_outcome_is_an_error_or_a_recording(tmp_path, number):
    pytest.importorskip("edfio", reason="needs the extra [recordings]")
    pytest.importorskip("pyxdf", reason="needs the extra [recordings]")
    path = list(_files(tmp_path))[number]
    whole = path.read_bytes()
    rng = random.Random(number)
    for _ in range(N_TRIALS):
        path.write_bytes(_damage(whole, rng))
        try:
            recording = open_recording(str(path))
            for chunk in RecordingSource(recording):
                assert chunk is not None
                assert chunk.samples.shape[1] == len(recording.labels)
            annotated(recording)
        except StreamClassifierError:
            continue
