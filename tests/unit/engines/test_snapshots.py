"""A stream can be put down and taken up again, elsewhere and by another engine."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load, save

from stream_classifier.engines import make_engine
from stream_classifier.errors import EngineError
from tests.unit.engines.test_engines import BONN, BUNDLES, CONTINUOUS, ENGINES, Z, every_bundle, run

every_cut = pytest.mark.parametrize("n_before", [0, 1, 2, 3, 5, 119, 120, 121, 207, 333])


def taken_up(bundle, before, after, n_before, *, hop=8):
    """Feed some samples to one engine and the rest to another; return what the other decides."""
    z = np.stack([Z[:480], np.roll(Z[:480], 99)], axis=1)
    first = make_engine(bundle, name=before, hop_samples=hop)
    handle = first.open(2)
    first.feed({handle: z[:n_before]})
    second = make_engine(bundle, name=after, hop_samples=hop)
    second.open(1)
    taken = second.restore(first.snapshot(handle))
    whole = run(make_engine(bundle, name=after, hop_samples=hop), z)
    decided = second.feed({taken: z[n_before:]})[taken]
    return decided, whole[len(whole) - len(decided) :]


@pytest.mark.parametrize("name", ENGINES)
@every_bundle
@every_cut
def test_a_stream_that_is_taken_up_goes_on_as_if_it_had_never_been_put_down(name, bundle, n_before):
    decided, expected = taken_up(bundle, name, name, n_before)
    assert len(decided) == 46 - max(0, (n_before - 112) // 8)
    if name == "torch":
        np.testing.assert_allclose(decided, expected, atol=1e-6)
    else:
        assert decided.tobytes() == expected.tobytes()


@pytest.mark.parametrize("after", ENGINES)
@pytest.mark.parametrize("before", ENGINES)
@pytest.mark.parametrize("n_before", [3, 207])
@every_bundle
def test_any_engine_takes_up_what_any_other_put_down(bundle, before, after, n_before):
    decided, expected = taken_up(bundle, before, after, n_before)
    np.testing.assert_allclose(decided, expected, atol=2e-6)


@pytest.mark.parametrize("name", ENGINES)
@every_bundle
def test_a_stream_that_was_reset_is_put_down_as_a_fresh_one(name, bundle):
    engine = make_engine(bundle, name=name)
    handle, fresh = engine.open(1), engine.open(1)
    engine.feed({handle: Z[:333, None]})
    engine.reset(handle)
    assert engine.snapshot(handle) == engine.snapshot(fresh)
    reference = make_engine(bundle, name="reference")
    taken = reference.restore(engine.snapshot(handle))
    decided = reference.feed({taken: Z[:200, None]})[taken]
    whole = run(make_engine(bundle, name="reference"), Z[:200, None])
    assert decided.tobytes() == whole.tobytes()


@pytest.mark.parametrize("name", ENGINES)
@every_bundle
def test_putting_down_changes_nothing(name, bundle):
    engine = make_engine(bundle, name=name)
    handle = engine.open(1)
    parts = []
    for start in range(0, 400, 23):
        parts.append(engine.feed({handle: Z[start : min(start + 23, 400), None]})[handle])
        assert engine.snapshot(handle) == engine.snapshot(handle)
    whole = run(make_engine(bundle, name=name), Z[:400, None])
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-6)


def snapshot_of(bundle, *, hop=8, n=200):
    engine = make_engine(bundle, name="reference", hop_samples=hop)
    handle = engine.open(1)
    engine.feed({handle: Z[:n, None]})
    return engine.snapshot(handle)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize(
    "foreign",
    [
        snapshot_of(CONTINUOUS),
        snapshot_of(BONN, hop=16),
        snapshot_of(replace(BONN, digest="0" * 64)),
        b"",
        b"nonsense",
        snapshot_of(BONN)[:-1],
    ],
    ids=["another mode", "another hop", "another bundle", "nothing", "nonsense", "cut off"],
)
def test_a_foreign_or_damaged_snapshot_is_refused(name, foreign):
    engine = make_engine(BONN, name=name)
    with pytest.raises(EngineError, match=r"snapshot of a stream: expected .*found"):
        engine.restore(foreign)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize(
    "changes",
    [
        {"h0": lambda x: x[:, :1].copy()},
        {"c0": lambda x: np.full_like(x, np.nan)},
        {"h_max": lambda x: np.full_like(x, np.inf)},
        {"h_sum": lambda x: x.astype(np.float64)},
        {"run": lambda x: np.array([x[0], -1])},
        {"run": lambda x: np.array([x[0] + 1, x[1]])},
        {"run": lambda x: np.array([0, x[1]])},
        {"run": lambda x: x[:1].copy()},
        {"waiting1": lambda x: np.repeat(x, 50, axis=0)},
        {"previous": lambda x: np.zeros(0, np.float32)},
        {"extra": lambda x: x},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_snapshot_that_does_not_fit_the_network_is_refused(name, changes):
    tensors = load(snapshot_of(BONN))
    for key, change in changes.items():
        tensors[key] = change(tensors.get(key, np.zeros(1, np.float32)))
    engine = make_engine(BONN, name=name)
    with pytest.raises(EngineError, match=r"snapshot of a stream: expected .*found"):
        engine.restore(save(tensors))


def test_the_bundles_of_these_tests_differ():
    assert len({(b.mode, b.network) for b in BUNDLES.values()}) == len(BUNDLES)
