"""What more than one test folder needs."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from stream_classifier.bundle import Bundle, FilterSpec, GainSpec, load_bundle

settings.register_profile("ci", deadline=None, derandomize=True)
settings.register_profile("dev", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests run side by side, let those that live in real time run one after the other."""
    for item in items:
        if item.get_closest_marker("lsl") or "browser" in item.path.parts:
            item.add_marker(pytest.mark.xdist_group("streams"))
        elif item.get_closest_marker("broker"):
            item.add_marker(pytest.mark.xdist_group("brokers"))


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


@pytest.fixture(scope="session")
def head(bonn: Bundle) -> Bundle:
    """A bundle for heads, with the weights of another: band, notches, and a gain after 5 s."""
    signal = pytest.importorskip("scipy.signal")

    def spec(sos: Any, *, settle_s: float = 0.0, mains_hz: float | None = None) -> FilterSpec:
        sections = tuple(tuple(map(float, section)) for section in sos)
        return FilterSpec(sos=sections, settle_s=settle_s, describes="", mains_hz=mains_hz)

    def notch(mains_hz: float) -> FilterSpec:
        sos = signal.tf2sos(*signal.iirnotch(mains_hz, 10, fs=bonn.rate_hz))
        return spec(sos, mains_hz=mains_hz)

    band = (("highpass", 0.5, 1.5), ("lowpass", 40.0, 0.1))
    filters = [
        spec(signal.butter(2, at_hz, kind, fs=bonn.rate_hz, output="sos"), settle_s=settle_s)
        for kind, at_hz, settle_s in band
    ]
    return dataclasses.replace(
        bonn,
        filters=(*filters, notch(50.0), notch(60.0)),
        gain=GainSpec(target_uv=40.0, baseline_s=5.0),
    )


@pytest.fixture
def data_folder() -> Path:
    """The data set's folder, or a skip that says what is missing."""
    folder = os.environ.get("STREAM_CLASSIFIER_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("the data set is not at hand: set STREAM_CLASSIFIER_DATA to its folder")
    return Path(folder)
