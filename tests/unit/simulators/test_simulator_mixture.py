import dataclasses

import numpy as np
import pytest

from simulators.blocks import OFFSET, ONSET
from simulators.mixture import (
    EDGE_S,
    RMS_UV,
    SEIZURE_S,
    Mixture,
    draw,
    mix,
    neighbours,
    onsets,
    play,
    shape,
)
from stream_classifier.datasets import RECORDING_RATE_HZ, RECORDING_SAMPLES

EPOC = ("AF3", "AF4", "F3", "F4", "F7", "F8", "FC5", "FC6", "O1", "O2", "P7", "P8", "T7", "T8")
HEADSET_HZ = 128.0


def sine(hz, *, amplitude_uv=300.0, offset_uv=50.0):
    times = np.arange(RECORDING_SAMPLES) / RECORDING_RATE_HZ
    return (offset_uv + amplitude_uv * np.sin(2 * np.pi * hz * times)).astype(np.float32)


def drawn(seed, n_channels=2):
    return draw(
        np.random.default_rng(seed),
        background="someone",
        labels=EPOC,
        seizures=("V1", "V2", "V3"),
        n_channels=n_channels,
        onsets_s=np.arange(60.0, 200.0),
    )


def test_one_seed_draws_one_mixture_and_another_seed_another():
    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(50)}) == 50


def test_the_number_of_channels_changes_nothing_else_of_a_draw():
    one, two, four = (drawn(7, n_channels) for n_channels in (1, 2, 4))
    assert one.channels == two.channels[:1] == four.channels[:1]
    assert two.channels == four.channels[:2]
    assert dataclasses.replace(one, channels=()) == dataclasses.replace(four, channels=())


def test_amplitudes_cover_their_whole_range_and_no_more():
    found = [drawn(seed).rms_uv for seed in range(300)]
    low, high = RMS_UV
    assert low <= min(found) < low + 2
    assert high - 2 < max(found) <= high


@pytest.mark.parametrize(
    ("centre", "expected"),
    [("O1", {"O1", "O2"}), ("T8", {"T8", "FC6"}), ("EEG T8", {"EEG T8", "EEG FC6"})],
)
def test_a_seizure_on_two_channels_is_on_electrodes_side_by_side(centre, expected):
    labels = tuple(f"EEG {label}" for label in EPOC) if "EEG" in centre else EPOC
    assert set(neighbours(labels, centre, 2)) == expected


def test_four_channels_stay_on_one_side_around_a_temporal_electrode():
    assert set(neighbours(EPOC, "FC5", 4)) <= {"FC5", "F7", "F3", "T7", "AF3"}


def test_channels_without_a_position_are_refused_rather_than_guessed():
    with pytest.raises(ValueError, match="10-10 system"):
        draw(
            np.random.default_rng(0), background="b", labels=("left", "right"), seizures=("V1",),
            n_channels=1, onsets_s=(60.0,),
        )  # fmt: skip


def test_more_channels_than_there_are_is_an_error():
    with pytest.raises(ValueError, match="3 or more"):
        neighbours(("T7", "T8", "left"), "T7", 3)


@pytest.mark.parametrize("rate_hz", [HEADSET_HZ, 250.0, RECORDING_RATE_HZ])
def test_a_seizure_keeps_its_frequency_at_the_rate_of_the_background(rate_hz):
    shaped = shape(sine(5.0), rate_hz=rate_hz)
    spectrum = np.abs(np.fft.rfft(shaped))
    assert np.fft.rfftfreq(len(shaped), 1 / rate_hz)[spectrum.argmax()] == pytest.approx(
        5.0, abs=0.05
    )
    assert len(shaped) == round(SEIZURE_S * rate_hz)


def test_a_seizure_has_the_rms_that_was_drawn_whatever_its_own_amplitude_and_offset():
    edge = round(EDGE_S * HEADSET_HZ)
    quiet, loud = (
        shape(sine(5.0, amplitude_uv=a, offset_uv=o), rate_hz=HEADSET_HZ)
        for a, o in ((10.0, 0.0), (900.0, -200.0))
    )
    assert np.sqrt(np.mean(quiet[edge:-edge] ** 2)) == pytest.approx(1.0, abs=0.01)
    np.testing.assert_allclose(quiet, loud, atol=1e-4)


def test_a_seizure_rises_and_falls_without_a_step():
    shaped = shape(sine(5.0), rate_hz=HEADSET_HZ)
    edge = round(EDGE_S * HEADSET_HZ)
    assert abs(shaped[0]) < 1e-3
    assert abs(shaped[-1]) < 1e-3
    envelope = [np.abs(part).max() for part in np.array_split(shaped[:edge], 4)]
    assert envelope == sorted(envelope)


@pytest.mark.parametrize("recording", [np.zeros(RECORDING_SAMPLES), sine(5.0)[:3000]])
def test_a_flat_or_short_recording_is_refused(recording):
    with pytest.raises(ValueError, match="expected a"):
        shape(np.float32(recording), rate_hz=HEADSET_HZ)


@pytest.fixture
def background():
    rng = np.random.default_rng(0)
    return (4100 + 20 * rng.standard_normal((round(60 * HEADSET_HZ), 14))).astype(np.float32)


def mixed_at(onset_s, background, start_s=0.0):
    mixture = Mixture("someone", "V1", ("T7", "FC5"), 60.0, onset_s)
    shaped = shape(sine(5.0), rate_hz=HEADSET_HZ)
    mixed = mix(background, mixture, shaped, labels=EPOC, rate_hz=HEADSET_HZ, start_s=start_s)
    return mixed, shaped


def test_a_seizure_is_added_to_its_channels_in_its_time_and_nowhere_else(background):
    before = background.copy()
    mixed, shaped = mixed_at(20.0, background)
    first = round(20 * HEADSET_HZ)
    added = mixed - background
    for channel, label in enumerate(EPOC):
        expected = np.zeros(len(background))
        if label in {"T7", "FC5"}:
            expected[first : first + len(shaped)] = 60 * shaped
        np.testing.assert_allclose(added[:, channel], expected, atol=2e-3)
    assert np.array_equal(background, before)


def test_a_stretch_of_a_recording_gets_the_same_as_the_whole(background):
    whole, _ = mixed_at(30.0, background)
    stretch, _ = mixed_at(30.0, background[round(10 * HEADSET_HZ) :], start_s=10.0)
    assert np.array_equal(whole[round(10 * HEADSET_HZ) :], stretch)


@pytest.mark.parametrize("onset_s", [-1.0, 38.0])
def test_a_seizure_that_does_not_fit_in_is_refused(background, onset_s):
    with pytest.raises(ValueError, match="within"):
        mixed_at(onset_s, background)


def test_a_played_head_tells_the_truth_to_the_sample(background):
    mixtures = [
        Mixture("someone", "V1", ("T7",), 60.0, 30.0),
        Mixture("someone", "V2", ("O1", "O2"), 50.0, 2.0),
    ]
    seizures = {"V1": sine(5.0), "V2": sine(7.0)}
    (block,) = play(background, mixtures, seizures, labels=EPOC, rate_hz=HEADSET_HZ)
    assert block.events == (
        (256, "mixture/seizure/V2/channels/O1,O2/rms_uv/50.0"),
        (256, ONSET),
        (256 + 2944, OFFSET),
        (3840, "mixture/seizure/V1/channels/T7/rms_uv/60.0"),
        (3840, ONSET),
        (3840 + 2944, OFFSET),
    )
    changed = np.flatnonzero((block.samples != background).any(axis=1))
    assert 256 <= changed[0] <= 260
    assert 3840 + 2940 <= changed[-1] < 3840 + 2944


def test_seizures_within_one_another_are_refused(background):
    mixtures = [Mixture("someone", "V1", ("T7",), 60.0, onset_s) for onset_s in (5.0, 20.0)]
    with pytest.raises(ValueError, match="within another"):
        list(play(background, mixtures, {"V1": sine(5.0)}, labels=EPOC, rate_hz=HEADSET_HZ))


def test_a_played_seizure_leaves_time_to_calibrate_where_there_is_time():
    assert onsets(300.0).min() == 90.0
    assert onsets(300.0).max() + SEIZURE_S <= 300.0
    assert onsets(60.0).min() == 0.0
