"""What is done to a stretch leaves its label true."""

from dataclasses import replace

import numpy as np
import pytest

from stream_classifier.training.augmentation import Augmentation, artefact, augment
from stream_classifier.training.material import Material

N, N_SAMPLES = 60, 480
NOTHING = Augmentation(mix_share=0, artefact_share=0, gain_deviation=0, noise_uv=0)
SEIZURE = 0


def background_material(seed=0):
    """One run a label, of noise; that of the seizure is loud enough to be noticed if it leaks."""
    rng = np.random.default_rng(seed)
    n = 2000
    runs = [rng.normal(0, 1e6 if label == 1 else 20 + 10 * label, n) for label in range(1, 6)]
    starts = np.concatenate([k * n + np.arange(n - N_SAMPLES + 1) for k in range(5)])
    return Material(
        signal_uv=np.concatenate(runs).astype(np.float32),
        stretch_starts=starts,
        labels=np.repeat(np.arange(1, 6), n - N_SAMPLES + 1).astype(np.int8),
        stretch_samples=N_SAMPLES,
    )


MATERIAL = background_material()


@pytest.fixture
def batch():
    """A third whole stretches, a third that become a seizure, a third that end being one."""
    rng = np.random.default_rng(1)
    signal = rng.normal(0, 100, (N, N_SAMPLES)).astype(np.float32)
    targets = rng.integers(0, 5, (N, 2))
    splices = np.full(N, N_SAMPLES)
    splices[N // 3 :] = rng.integers(60, N_SAMPLES - 60, N - N // 3)
    targets[: N // 3, 1] = targets[: N // 3, 0]
    targets[N // 3 : 2 * N // 3] = [3, SEIZURE]
    targets[2 * N // 3 :] = [SEIZURE, 2]
    return signal, targets, splices


def is_seizure(targets, splices):
    before = np.arange(N_SAMPLES)[None] < splices[:, None]
    return np.where(before, targets[:, :1], targets[:, 1:]) == SEIZURE


def run(batch, how, seed=0):
    return augment(*batch, how, np.random.default_rng(seed), material=MATERIAL)


def test_nothing_to_do_is_nothing_done(batch):
    np.testing.assert_array_equal(run(batch, NOTHING), batch[0])


def test_what_is_given_is_left_as_it_was(batch):
    before = [part.copy() for part in batch]
    run(batch, Augmentation(mix_share=1, artefact_share=1))
    for part, was in zip(batch, before, strict=True):
        np.testing.assert_array_equal(part, was)


def test_a_seed_repeats_it_and_another_does_not(batch):
    first = run(batch, Augmentation())
    assert first.tobytes() == run(batch, Augmentation()).tobytes()
    assert not np.array_equal(first, run(batch, Augmentation(), seed=1))


@pytest.mark.parametrize("seed", range(5))
def test_it_is_finite_and_no_larger_than_a_head_delivers(batch, seed):
    how = Augmentation(mix_share=1, artefact_share=1)
    out = run(batch, how, seed=seed)
    assert (out.dtype, out.shape) == (np.float32, batch[0].shape)
    assert np.isfinite(out).all()
    # Five deviations of a 400 µV seizure and the background, blinks of 4 x 400 µV, gain 3 sigma.
    assert np.abs(out).max() < (5 * (400 + 60) + 1600) * np.exp(3 * how.gain_deviation)


def test_only_seizures_are_laid_over_a_background(batch):
    _, targets, splices = batch
    out = run(batch, replace(NOTHING, mix_share=1.0))
    ictal = is_seizure(targets, splices)
    np.testing.assert_array_equal(out[~ictal], batch[0][~ictal])
    assert (out[ictal] != batch[0][ictal]).mean() > 0.999


def test_the_share_of_seizures_that_is_mixed_is_the_share_asked_for():
    rng = np.random.default_rng(3)
    signal = rng.normal(0, 100, (1000, N_SAMPLES)).astype(np.float32)
    targets, splices = np.full((1000, 2), SEIZURE), np.full(1000, N_SAMPLES)
    out = run((signal, targets, splices), replace(NOTHING, mix_share=0.3))
    assert (out != signal).any(axis=1).mean() == pytest.approx(0.3, abs=0.05)


def test_a_mixed_seizure_has_the_size_asked_for_above_a_background_at_the_gains_target():
    rng = np.random.default_rng(4)
    t = np.arange(N_SAMPLES) / 178
    signal = (500 * np.sin(2 * np.pi * 4 * t) + rng.normal(0, 1, (300, N_SAMPLES))).astype("f4")
    targets, splices = np.full((300, 2), SEIZURE), np.full(300, N_SAMPLES)
    how = replace(NOTHING, mix_share=1.0, mix_rms_uv=(60.0, 400.0), background_uv=40.0)
    out = run((signal, targets, splices), how)
    basis = np.stack([np.sin(2 * np.pi * 4 * t), np.cos(2 * np.pi * 4 * t)], axis=1)
    coefficients = np.linalg.lstsq(basis, out.T, rcond=None)[0]
    rms_uv = np.hypot(*coefficients) / np.sqrt(2)
    assert 60 * 0.9 < rms_uv.min() < 90
    assert 300 < rms_uv.max() < 400 * 1.1
    beneath = out.T - basis @ coefficients
    robust = 1.4826 * np.median(np.abs(beneath), axis=0)
    # Never the material's own seizures, which are a thousand times as large.
    np.testing.assert_allclose(robust, 40, rtol=0.2)


def test_gain_and_noise_have_the_size_asked_for():
    signal = np.full((4000, 50), 100, np.float32)
    targets, splices = np.ones((4000, 2), int), np.full(4000, 50)
    gained = run((signal, targets, splices), replace(NOTHING, gain_deviation=0.3))
    assert np.ptp(gained, axis=1).max() == 0  # one gain a stretch
    assert np.log(gained[:, 0] / 100).std() == pytest.approx(0.3, rel=0.05)
    noisy = run((signal, targets, splices), replace(NOTHING, noise_uv=4.0)) - 100
    assert np.abs(noisy.mean()) < 0.1
    assert noisy.std(axis=1).max() < 4 * 1.5
    assert noisy.std() == pytest.approx(4 / np.sqrt(3), rel=0.05)  # evenly up to 4


def test_an_artefact_is_somewhere_in_its_stretch_and_of_a_size_that_was_seen():
    rng = np.random.default_rng(5)
    made = np.stack([artefact(N_SAMPLES, rng) for _ in range(400)])
    assert made.dtype == np.float32
    assert np.isfinite(made).all()
    assert np.abs(made).max() < 1700  # four blinks at once
    assert (np.abs(made).max(axis=1) > 10).mean() > 0.95


@pytest.mark.parametrize("n_samples", [1, 2, 120])
def test_an_artefact_fits_a_stretch_of_any_length(n_samples):
    rng = np.random.default_rng(6)
    for _ in range(40):
        assert artefact(n_samples, rng).shape == (n_samples,)


@pytest.mark.parametrize(
    "change",
    [
        {"mix_share": -0.1},
        {"artefact_share": 1.1},
        {"mix_rms_uv": (0.0, 10.0)},
        {"mix_rms_uv": (20.0, 10.0)},
        {"background_uv": 0.0},
        {"gain_deviation": -0.1},
        {"noise_uv": -1.0},
    ],
)
def test_an_augmentation_out_of_range_cannot_be_described(change):
    with pytest.raises(ValueError, match=r"must|expected"):
        Augmentation(**change)
