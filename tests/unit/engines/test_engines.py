"""Every engine gives the network's answer, whatever else it is doing."""

import importlib.util

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_classifier.bundle import load_bundle
from stream_classifier.detection.scaler import FrozenScaler
from stream_classifier.engines import make_engine
from stream_classifier.engines.reference import ReferenceEngine, classify_windows
from stream_classifier.errors import EngineError, MissingExtraError, ShapeError

HAS_TORCH = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="torch is not installed: [torch] extra")
ENGINES = [
    "reference",
    pytest.param("torch", marks=[pytest.mark.torch, needs_torch]),
]
BUNDLE = load_bundle("bonn")
Z = FrozenScaler(mean_uv=BUNDLE.scaler_mean_uv, std_uv=BUNDLE.scaler_std_uv).scale(
    np.ascontiguousarray(BUNDLE.selftest_windows.ravel(), dtype=np.float32)
)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def from_scratch(z):
    """One window, written out in float64 as the bundle's network is defined."""
    w = {name: value.astype(np.float64) for name, value in BUNDLE.weights.items()}
    z = z.astype(np.float64)
    u = np.arcsinh(4 * z) / 2
    v = np.concatenate([[0], np.arcsinh(16 * np.diff(z)) / 2])
    x = np.stack([u, v])[:, 2:]  # (2, 118): the last step ends with the window
    for layer in ("conv1", "conv2"):
        starts = range(0, x.shape[1] - 8 + 1, 2)
        x = np.stack(
            [
                np.maximum(
                    np.tensordot(w[f"{layer}.weight"], x[:, s : s + 8], 2) + w[f"{layer}.bias"], 0
                )
                for s in starts
            ],
            axis=1,
        )
    assert x.shape[1] == 25
    hidden = BUNDLE.network.hidden
    h = c = np.zeros(hidden)
    states = []
    for step in x.T:
        gates = w["lstm.weight_ih"] @ step + w["lstm.weight_hh"] @ h + w["lstm.bias"]
        i, f, g, o = gates.reshape(4, hidden)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        states.append(h)
    states = np.array(states)
    readout = np.concatenate([states[-1], states.mean(axis=0), states.max(axis=0)])
    logits = w["head.weight"] @ readout + w["head.bias"]
    p = np.exp(logits - logits.max())
    p /= p.sum()
    return np.array([p[0], p[1], p[2:].sum()])


def run(engine, z, cuts=()):
    handle = engine.open(z.shape[1])
    parts = np.split(z, sorted(c % len(z) for c in cuts))
    return np.concatenate([engine.feed({handle: part})[handle] for part in parts])


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("hop", [4, 8, 16, 120])
def test_every_window_is_the_network_s_answer_in_float64(name, hop):
    z = Z[:1500]
    out = run(make_engine(BUNDLE, name=name, hop_samples=hop), z[:, None])
    starts = range(0, len(z) - 120 + 1, hop)
    assert out.shape == (len(starts), 1, 3)
    expected = np.stack([from_scratch(z[s : s + 120]) for s in starts])
    np.testing.assert_allclose(out[:, 0], expected, atol=1e-5)
    assert (out[:, 0].argmax(axis=1) == expected.argmax(axis=1)).all()


@given(
    st.lists(st.integers(0, 10**6), max_size=30), st.sampled_from([4, 8, 12, 40]), st.integers(1, 5)
)
@settings(max_examples=40)
def test_the_reference_engine_does_not_care_how_samples_are_cut(cuts, hop, n_channels):
    z = np.stack([np.roll(Z[:600], 77 * c) for c in range(n_channels)], axis=1)
    whole = run(ReferenceEngine(BUNDLE, hop_samples=hop), z)
    cut = run(ReferenceEngine(BUNDLE, hop_samples=hop), z, cuts)
    assert whole.tobytes() == cut.tobytes()


@given(st.data())
@settings(max_examples=25)
def test_the_reference_engine_does_not_care_who_else_is_in_the_batch(data):
    engine = ReferenceEngine(BUNDLE, hop_samples=8)
    n_streams = data.draw(st.integers(1, 6))
    streams = {}
    for i in range(n_streams):
        n_channels = data.draw(st.integers(1, 4))
        z = np.stack([np.roll(Z[:400], 31 * i + 57 * c) for c in range(n_channels)], axis=1)
        streams[engine.open(n_channels)] = z
    place = dict.fromkeys(streams, 0)
    got = {handle: [] for handle in streams}
    for _ in range(30):  # each stream in a phase of its own
        some = data.draw(st.lists(st.sampled_from(list(streams)), unique=True))
        fed = {}
        for handle in some:
            n = data.draw(st.integers(0, 60))
            fed[handle] = streams[handle][place[handle] : place[handle] + n]
            place[handle] += len(fed[handle])
        for handle, out in engine.feed(fed).items():
            got[handle].append(out)
    for handle, z in streams.items():
        alone = run(ReferenceEngine(BUNDLE, hop_samples=8), z[: place[handle]])
        together = np.concatenate(got[handle]) if got[handle] else alone[:0]
        assert together.tobytes() == alone.tobytes()


@pytest.mark.torch
@needs_torch
@given(st.lists(st.integers(0, 10**6), max_size=20), st.integers(1, 4))
@settings(max_examples=20)
def test_the_torch_engine_differs_by_less_than_a_millionth_however_cut_and_batched(cuts, n_others):
    z = Z[:500, None]
    whole = run(ReferenceEngine(BUNDLE, hop_samples=8), z)
    engine = make_engine(BUNDLE, name="torch")
    handle = engine.open(1)
    others = [engine.open(3) for _ in range(n_others)]
    got = []
    for part in np.split(z, sorted(c % len(z) for c in cuts)):
        fed = {other: np.repeat(part, 3, axis=1) for other in others}
        got.append(engine.feed({handle: part, **fed})[handle])
    np.testing.assert_allclose(np.concatenate(got), whole, atol=1e-6)


@pytest.mark.parametrize("name", ENGINES)
def test_what_lies_before_a_window_changes_nothing_in_it(name):
    z = Z[:240, None].copy()
    before = run(make_engine(BUNDLE, name=name), z)
    z[:40] = 50.0
    after = run(make_engine(BUNDLE, name=name), z)
    np.testing.assert_allclose(before[5:], after[5:], atol=1e-6)  # windows from sample 40 on
    assert not np.allclose(before[0], after[0], atol=1e-6)


@pytest.mark.parametrize("name", ENGINES)
def test_a_bad_sample_spoils_its_windows_and_no_other(name):
    z = Z[:480, None].copy()
    clean = run(make_engine(BUNDLE, name=name), z)
    z[200] = np.nan
    out = run(make_engine(BUNDLE, name=name), z)
    starts = np.arange(len(out)) * 8
    # The first sample of a window is not looked at: its difference has no sample before it.
    holds = (starts < 200) & (starts + 120 > 200)
    assert np.isnan(out[holds]).all()
    np.testing.assert_allclose(out[~holds], clean[~holds], atol=1e-6)


@pytest.mark.parametrize("name", ENGINES)
def test_a_reset_starts_a_new_run(name):
    engine = make_engine(BUNDLE, name=name)
    handle = engine.open(1)
    engine.feed({handle: Z[:333, None] * 5})
    engine.reset(handle)
    again = engine.feed({handle: Z[:200, None]})[handle]
    np.testing.assert_allclose(again, run(make_engine(BUNDLE, name=name), Z[:200, None]), atol=1e-6)


@pytest.mark.parametrize("name", ENGINES)
def test_a_stream_can_leave_without_disturbing_the_others(name):
    engine = make_engine(BUNDLE, name=name)
    stays, leaves = engine.open(1), engine.open(2)
    first = engine.feed({stays: Z[:150, None], leaves: np.repeat(Z[:150, None], 2, axis=1)})[stays]
    engine.close(leaves)
    second = engine.feed({stays: Z[150:300, None]})[stays]
    with pytest.raises(KeyError):
        engine.feed({leaves: np.zeros((1, 2), np.float32)})
    whole = run(make_engine(BUNDLE, name=name), Z[:300, None])
    np.testing.assert_allclose(np.concatenate([first, second]), whole, atol=1e-6)


@pytest.mark.parametrize("name", ENGINES)
def test_no_samples_are_no_windows(name):
    engine = make_engine(BUNDLE, name=name)
    handle = engine.open(2)
    assert engine.feed({handle: np.empty((0, 2), np.float32)})[handle].shape == (0, 2, 3)


@pytest.mark.parametrize("name", ENGINES)
def test_other_channels_are_refused(name):
    engine = make_engine(BUNDLE, name=name)
    handle = engine.open(2)
    with pytest.raises(ShapeError, match=r"\(n, 2\)"):
        engine.feed({handle: np.zeros((10, 3), np.float32)})


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("hop", [0, 1, 7, 124])
def test_a_hop_that_the_stem_cannot_share_is_refused(name, hop):
    with pytest.raises(EngineError, match=r"multiple of 4, from 4 to 120"):
        make_engine(BUNDLE, name=name, hop_samples=hop)


def test_single_windows_are_the_same_as_streamed_ones():
    out = classify_windows(BUNDLE, BUNDLE.selftest_windows)
    np.testing.assert_allclose(out, BUNDLE.selftest_probabilities, atol=1e-5)


def test_the_reference_engine_does_not_pretend_to_run_on_a_gpu():
    with pytest.raises(EngineError, match="cpu only"):
        make_engine(BUNDLE, name="reference", device="cuda")


@pytest.mark.torch
@needs_torch
def test_a_gpu_that_is_not_there_is_said_so():
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(EngineError, match="finds no CUDA device"):
        make_engine(BUNDLE, device="cuda")


@pytest.mark.gpu
@pytest.mark.torch
@needs_torch
def test_the_gpu_gives_the_same_probabilities():
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    gpu = run(make_engine(BUNDLE, device="cuda"), Z[:2000, None])
    cpu = run(ReferenceEngine(BUNDLE, hop_samples=8), Z[:2000, None])
    np.testing.assert_allclose(gpu, cpu, atol=1e-4)


@pytest.mark.skipif(HAS_TORCH, reason="torch is installed")
def test_without_torch_the_missing_extra_is_named():
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[torch\]'"):
        make_engine(BUNDLE, name="torch")
