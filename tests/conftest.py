"""What more than one test folder needs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from stream_classifier.bundle import Bundle, load_bundle

settings.register_profile("ci", deadline=None, derandomize=True)
settings.register_profile("dev", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(scope="session")
def bonn() -> Bundle:
    """The shipped default bundle."""
    return load_bundle("bonn")


@pytest.fixture(scope="session")
def real_signal(bonn: Bundle) -> np.ndarray:
    """Real EEG without the data set at hand: the bundle's self-test windows end to end.

    Shape ``(n_windows * 120,)``, µV.
    """
    return np.ascontiguousarray(bonn.selftest_windows.ravel())


@pytest.fixture
def data_folder() -> Path:
    """The data set's folder, or a skip that says what is missing."""
    folder = os.environ.get("STREAM_CLASSIFIER_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("the data set is not at hand: set STREAM_CLASSIFIER_DATA to its folder")
    return Path(folder)
