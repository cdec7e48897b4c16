"""The neural mass model: seeded, of the right size and rhythm, and quick."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulators.neural_mass import BACKGROUND, ICTAL, NeuralMass

RATE_HZ = 178


@pytest.fixture(scope="module")
def background() -> np.ndarray:
    """20 s of 16 channels, shape (n_samples, 16), µV."""
    return NeuralMass(n_channels=16, seed=11).run(20 * RATE_HZ)


@pytest.fixture(scope="module")
def ictal() -> np.ndarray:
    return NeuralMass(n_channels=16, seed=11, regime=ICTAL).run(20 * RATE_HZ)


def spectrum(signal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies and power of each channel, averaged over stretches of 2 s."""
    stretches = signal[: len(signal) // 356 * 356].reshape(-1, 356, signal.shape[1])
    window = np.hanning(356)[:, np.newaxis]
    power = (np.abs(np.fft.rfft(stretches * window, axis=1)) ** 2).mean(axis=0)
    return np.fft.rfftfreq(356, 1 / RATE_HZ), power


def test_background_has_the_size_of_scalp_eeg(background: np.ndarray) -> None:
    rms = background.std(axis=0)
    assert rms.min() > 30
    assert rms.max() < 60


def test_background_is_a_mixture_with_an_alpha_rhythm(background: np.ndarray) -> None:
    frequencies, power = spectrum(background)
    total = power[(frequencies >= 0.5)].sum(axis=0)
    alpha = power[(frequencies >= 8) & (frequencies < 13)].sum(axis=0) / total
    assert 0.15 < np.median(alpha) < 0.5
    largest_line = power.max(axis=0) / total
    assert largest_line.max() < 0.3  # irregular: no frequency stands out


def test_background_never_breaks_into_a_spike() -> None:
    quiet = NeuralMass(n_channels=32, seed=4).run(30 * RATE_HZ)
    assert np.abs(quiet).max() < 260  # spikes have 500 to 900 µV


def test_a_seizure_is_several_times_larger_than_background(
    background: np.ndarray, ictal: np.ndarray
) -> None:
    assert 200 < np.median(ictal.std(axis=0)) < 450
    assert (ictal.std(axis=0) > 4 * background.std(axis=0)).all()


def test_a_seizure_is_a_rhythmic_discharge_of_3_to_12_hz(ictal: np.ndarray) -> None:
    frequencies, power = spectrum(ictal)
    dominant = frequencies[power.argmax(axis=0)]
    assert ((dominant >= 3) & (dominant <= 12)).all()
    near = np.abs(frequencies[:, np.newaxis] - dominant) <= 1
    assert ((power * near).sum(axis=0) / power.sum(axis=0) > 0.4).all()


def test_a_seizure_has_the_steepness_of_the_recorded_ones(ictal: np.ndarray) -> None:
    line_length = np.abs(np.diff(ictal, axis=0)).mean(axis=0) / ictal.std(axis=0)
    assert ((line_length > 0.16) & (line_length < 0.31)).all()  # 10th and 90th percentile there


@settings(max_examples=10)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=8))
def test_however_a_run_is_cut_the_samples_are_the_same(lengths: list[int]) -> None:
    whole = NeuralMass(n_channels=3, seed=5).run(sum(lengths))
    model = NeuralMass(n_channels=3, seed=5)
    np.testing.assert_array_equal(np.concatenate([model.run(n) for n in lengths]), whole)


def test_the_seed_decides_everything() -> None:
    def run(seed: int) -> np.ndarray:
        return NeuralMass(n_channels=2, seed=seed).run(RATE_HZ)

    np.testing.assert_array_equal(run(1), run(1))
    assert not np.allclose(run(1), run(2))


def test_a_channel_does_not_depend_on_the_number_of_others() -> None:
    few = NeuralMass(n_channels=2, seed=1).run(RATE_HZ)
    many = NeuralMass(n_channels=5, seed=1).run(RATE_HZ)
    np.testing.assert_allclose(many[:, :2], few, rtol=0, atol=0.01)


def test_channels_are_not_copies_of_each_other(background: np.ndarray) -> None:
    correlation = np.corrcoef(background.T) - np.eye(16)
    assert np.abs(correlation).max() < 0.4


def test_regimes_are_entered_and_left_within_two_seconds_without_a_jump() -> None:
    model = NeuralMass(n_channels=8, seed=2)
    before = model.run(5 * RATE_HZ)
    model.set_regime(ICTAL)
    during = model.run(10 * RATE_HZ)
    model.set_regime(BACKGROUND)
    after = model.run(10 * RATE_HZ)
    assert (during[2 * RATE_HZ :].std(axis=0) > 3 * before.std(axis=0)).all()
    assert (after[2 * RATE_HZ :].std(axis=0) < 1.6 * before.std(axis=0)).all()
    steepest = np.abs(np.diff(during[2 * RATE_HZ :], axis=0)).max()
    for one, other in ((before, during), (during, after)):
        joint = np.concatenate((one[-10:], other[:100]))
        assert np.abs(np.diff(joint, axis=0)).max() <= 1.2 * steepest


def test_there_is_no_offset_beyond_what_an_amplifier_lets_through(ictal: np.ndarray) -> None:
    assert np.abs(ictal[5 * RATE_HZ :].mean(axis=0)).max() < 10


@pytest.mark.parametrize("bad", [{"n_channels": 0}, {"rate_hz": 20.0}, {"ramp_s": -1.0}])
def test_senseless_arguments_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        NeuralMass(**{"n_channels": 1, **bad})
