"""The bundle's filters start without ringing and do not care how the stream is cut."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import signal
from scipy.signal import butter

from stream_classifier.detection import filters
from stream_classifier.detection.filters import (
    FEW_CHANNELS,
    CausalFilters,
    sosfilt,
    steady_state,
)

HIGH_PASS = butter(2, 0.5, "highpass", fs=178.0, output="sos").tolist()
CASCADE = np.concatenate([HIGH_PASS, butter(5, 40.0, fs=178.0, output="sos")])


@pytest.fixture(params=["extension", "python"])
def way(request, monkeypatch):
    """With the native extension, where it was built, and without."""
    if request.param == "python":
        monkeypatch.setattr(filters, "_native", None)
    elif filters._native is None:
        pytest.skip("the native extension was not built: it needs a C++ compiler")


def test_no_filter_is_no_change():
    samples = np.float32([[1, np.nan], [2, 3]])
    assert CausalFilters([], n_channels=2).feed(samples) is samples


@given(st.lists(st.integers(0, 399), max_size=10))
def test_cutting_the_stream_changes_no_bit(cuts):
    samples = np.random.default_rng(1).normal(4000, 50, size=(400, 2)).astype(np.float32)
    samples[100:103, 1] = np.nan
    samples[0, 0] = np.nan
    whole = CausalFilters([HIGH_PASS], n_channels=2).feed(samples)
    filters = CausalFilters([HIGH_PASS], n_channels=2)
    cut = np.concatenate([filters.feed(part) for part in np.split(samples, sorted(cuts))])
    assert whole.tobytes() == cut.tobytes()


def test_an_offset_does_not_ring_at_the_start_nor_after_a_restart():
    filters = CausalFilters([HIGH_PASS], n_channels=1)
    assert np.abs(filters.feed(np.full((50, 1), 4100, np.float32))).max() < 1e-3
    filters.restart()
    assert np.abs(filters.feed(np.full((50, 1), -900, np.float32))).max() < 1e-3


def test_a_value_that_is_not_finite_is_passed_on_and_forgotten():
    samples = np.ones((300, 1), np.float32)
    samples[50] = np.nan
    out = CausalFilters([HIGH_PASS], n_channels=1).feed(samples)
    assert np.flatnonzero(~np.isfinite(out[:, 0])).tolist() == [50]


def test_it_is_the_filter_it_says():
    samples = np.random.default_rng(2).normal(size=(200, 1)).astype(np.float32)
    samples[0] = 0  # steady state of zero
    expected = signal.sosfilt(np.array(HIGH_PASS), samples.astype(float), axis=0)
    out = CausalFilters([HIGH_PASS], n_channels=1).feed(samples)
    np.testing.assert_allclose(out, expected, atol=1e-6)


@pytest.mark.parametrize("n_channels", [1, 3, FEW_CHANNELS, FEW_CHANNELS + 1, 64])
@pytest.mark.parametrize("n_samples", [1, 2, 3, 8, 200])
@pytest.mark.usefixtures("way")
def test_it_gives_what_scipy_gives_and_leaves_the_same_state(n_channels, n_samples):
    rng = np.random.default_rng(n_samples)
    x = rng.normal(size=(n_samples, n_channels)) * 100
    state = rng.normal(size=(len(CASCADE), 2, n_channels))
    expected, left = signal.sosfilt(CASCADE, x, axis=0, zi=state)
    np.testing.assert_allclose(sosfilt(CASCADE, x, state), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(state, left, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("way")
def test_a_channel_does_not_depend_on_how_many_others_there_are():
    x = np.random.default_rng(5).normal(size=(300, FEW_CHANNELS + 1))
    together = sosfilt(CASCADE, x, np.zeros((len(CASCADE), 2, x.shape[1])))
    for channel in (0, FEW_CHANNELS):
        alone = sosfilt(CASCADE, x[:, [channel]], np.zeros((len(CASCADE), 2, 1)))
        assert alone[:, 0].tobytes() == together[:, channel].tobytes()


def test_the_steady_state_is_the_one_that_scipy_gives():
    np.testing.assert_allclose(steady_state(CASCADE), signal.sosfilt_zi(CASCADE), rtol=1e-12)


def test_a_bundle_with_filters_needs_no_scipy():
    code = (
        "import sys; from stream_classifier.bundle import load_bundle;"
        "from stream_classifier.detection.filters import CausalFilters;"
        "import numpy as np; sos = [f.sos for f in load_bundle('headset').filters];"
        "CausalFilters(sos, n_channels=64).feed(np.ones((400, 64), np.float32));"
        "sys.exit('scipy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
