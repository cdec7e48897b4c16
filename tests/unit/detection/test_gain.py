"""A gain is measured once, on good signal, within bounds, and then never again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_classifier.bundle import GainSpec
from stream_classifier.detection.gain import FrozenGains

BLOCK = 178
SPEC = GainSpec(target_uv=40.0, baseline_s=4.0)
GOOD = np.array([True])


def gains(n_channels=1, **more):
    return FrozenGains(SPEC, n_channels=n_channels, block_samples=BLOCK, **more)


def noise(n_blocks, *, std_uv=10.0, n_channels=1, seed=1):
    shape = (n_blocks * BLOCK, n_channels)
    return (np.random.default_rng(seed).normal(size=shape) * std_uv).astype(np.float32)


def feed(g, samples, *, usable=None, first=0):
    """Feed block by block; return at which index a gain changed."""
    changed = []
    index = first
    for piece in g.split(samples, first):
        index += len(piece)
        ok = np.ones(samples.shape[1], dtype=bool) if usable is None else usable
        if g.add(piece, ok, index).any():
            changed.append(index)
    return changed


def test_it_brings_the_baselines_robust_deviation_to_the_target():
    g = gains()
    assert feed(g, noise(10)) == [4 * BLOCK]
    assert g.values[0] == pytest.approx(4.0, rel=0.05)
    assert not g.calibrating


def test_spikes_in_the_baseline_hardly_change_it():
    samples = noise(4)
    samples[::50] += 500
    g = gains()
    feed(g, samples)
    assert g.values[0] == pytest.approx(4.0, rel=0.08)


@pytest.mark.parametrize(("std_uv", "expected"), [(1e4, 0.1), (0.01, 10.0), (0.0, 10.0)])
def test_it_is_bounded(std_uv, expected):
    g = gains()
    feed(g, noise(4, std_uv=std_uv))
    assert g.values[0] == np.float32(expected)


def test_it_is_one_until_it_is_measured_and_frozen_afterwards():
    g = gains()
    feed(g, noise(3))
    assert g.values.tolist() == [1.0]
    assert g.calibrating
    assert g.progress == 0.75
    feed(g, noise(1), first=3 * BLOCK)
    frozen = g.values.copy()
    assert feed(g, noise(100, std_uv=1000.0), first=4 * BLOCK) == []
    assert (g.values == frozen).all()


def test_only_good_blocks_count():
    g = gains()
    feed(g, noise(50, std_uv=1000.0), usable=~GOOD)
    assert g.calibrating
    feed(g, noise(4), first=50 * BLOCK)
    assert g.values[0] == pytest.approx(4.0, rel=0.05)


def test_a_gap_costs_the_block_it_cuts_and_nothing_that_was_gathered():
    g = gains()
    feed(g, noise(3))
    feed(g, noise(1)[:50], first=3 * BLOCK)
    g.restart()
    samples = noise(2, seed=2)
    first = 5 * BLOCK - 20
    assert feed(g, samples, first=first) == [6 * BLOCK]


def test_a_dead_channel_holds_nobody_up_and_measures_on_by_itself():
    g = gains(2)
    feed(g, noise(4, n_channels=2), usable=np.array([True, False]))
    assert not g.calibrating
    assert g.measured == (pytest.approx(4.0, rel=0.1), None)
    assert g.values[1] == 1.0
    assert feed(g, noise(4, n_channels=2), first=4 * BLOCK) == [8 * BLOCK]
    assert None not in g.measured


def test_a_channel_that_is_good_most_of_the_time_is_waited_for():
    g = gains(2)
    feed(g, noise(1, n_channels=2), usable=np.array([True, False]))
    feed(g, noise(3, n_channels=2), first=BLOCK)
    assert g.measured[0] is not None
    assert g.calibrating
    feed(g, noise(1, n_channels=2), first=4 * BLOCK)
    assert not g.calibrating


def test_what_is_stored_is_used_from_the_first_sample_and_only_the_rest_is_measured():
    g = gains(2, stored=(2.5, None))
    assert g.values.tolist() == [2.5, 1.0]
    feed(g, noise(4, n_channels=2))
    assert g.values[0] == 2.5
    assert g.values[1] == pytest.approx(4.0, rel=0.1)
    assert not gains(2, stored=(2.5, 3.0)).calibrating


def test_nothing_is_measured_where_nothing_is_to_be():
    for g in (
        gains(calibrate=False),
        FrozenGains(None, n_channels=1, block_samples=BLOCK, stored=(3.0,)),
    ):
        assert not g.calibrating
        feed(g, noise(10))
        assert g.values.tolist() == [1.0]


def test_a_seizure_that_is_noticed_is_no_baseline_but_an_alert_for_ever_is():
    g = gains()
    for i in range(1, 13):
        g.add(noise(1, std_uv=300.0, seed=i), GOOD, i * BLOCK, alert_is_on=True)
    assert g.progress == 0.0
    for i in range(13, 17):
        g.add(noise(1, std_uv=300.0, seed=i), GOOD, i * BLOCK, alert_is_on=True)
    assert g.values[0] == pytest.approx(40 / 300, rel=0.1)


@given(st.lists(st.integers(1, 5 * BLOCK), max_size=20))
@settings(max_examples=30)
def test_cutting_the_stream_changes_no_gain(cuts):
    samples = noise(6)
    whole, cut = gains(), gains()
    feed(whole, samples)
    index = 0
    for part in np.split(samples, sorted(cuts)):
        feed(cut, part, first=index)
        index += len(part)
    assert (whole.values == cut.values).all()
    assert whole.values[0] != 1.0
