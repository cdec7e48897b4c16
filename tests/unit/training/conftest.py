"""Small tables that are shaped like the data set, and sides to match."""

from __future__ import annotations

import numpy as np
import pytest

from stream_classifier.datasets import SeizureRows


def noise_table(n_recordings: int, *, seed: int = 0) -> SeizureRows:
    """Recordings of noise whose labels differ in amplitude."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.tile(np.arange(1, 6), n_recordings // 5), 23)
    scale = np.array([0, 400, 200, 100, 50, 25])[labels]
    return SeizureRows(
        values=(rng.normal(size=(len(labels), 178)) * scale[:, None]).astype(np.int16),
        labels=labels.astype(np.int8),
        recordings=np.repeat([f"V{n}" for n in range(n_recordings)], 23),
        chunks=np.tile(np.arange(1, 24), n_recordings).astype(np.int8),
        digest="noise",
    )


@pytest.fixture(scope="session")
def noise_rows() -> SeizureRows:
    """50 recordings, each of one amplitude."""
    return noise_table(50)


@pytest.fixture(scope="session")
def few_noise_rows() -> SeizureRows:
    """20 recordings, four of each label."""
    return noise_table(20)


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
