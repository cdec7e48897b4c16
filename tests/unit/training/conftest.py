"""A small table that is shaped like the data set, and sides to match."""

from __future__ import annotations

import numpy as np
import pytest

from stream_classifier.datasets import SeizureRows

N_RECORDINGS = 50  # ten of each label


def noise_table(seed: int = 0) -> SeizureRows:
    """Recordings of noise whose labels differ in amplitude."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.tile(np.arange(1, 6), N_RECORDINGS // 5), 23)
    scale = np.array([0, 400, 200, 100, 50, 25])[labels]
    return SeizureRows(
        values=(rng.normal(size=(len(labels), 178)) * scale[:, None]).astype(np.int16),
        labels=labels.astype(np.int8),
        recordings=np.repeat([f"V{n}" for n in range(N_RECORDINGS)], 23),
        chunks=np.tile(np.arange(1, 24), N_RECORDINGS).astype(np.int8),
        digest="noise",
    )


@pytest.fixture(scope="session")
def noise_rows() -> SeizureRows:
    """50 recordings, each of one amplitude."""
    return noise_table()


@pytest.fixture(scope="module")
def small_sides() -> object:
    """Sides as large as the small table allows: 10 recordings for test and 10 for validation."""
    material = pytest.importorskip("stream_classifier.training.material")
    run = pytest.importorskip("stream_classifier.training.run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(material, "N_TEST", {"rows": 200, "recordings": 10})
        patch.setattr(material, "N_VALIDATION", {"rows": 100, "recordings": 10})
        patch.setattr(run, "SELFTEST_WINDOWS_PER_CLASS", 2)
        yield
