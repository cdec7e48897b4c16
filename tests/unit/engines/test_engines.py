"""Every engine gives the network's answer, whatever else it is doing."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_classifier.bundle import ConvSpec, NetworkSpec, load_bundle, shipped
from stream_classifier.detection.scaler import FrozenScaler
from stream_classifier.engines import make_engine
from stream_classifier.engines.native import NativeEngine, instruction_sets
from stream_classifier.engines.plan import check_samples
from stream_classifier.engines.reference import ReferenceEngine, classify_windows
from stream_classifier.errors import EngineError, MissingExtraError, NotFiniteError, ShapeError

HAS_TORCH = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="torch is not installed: [torch] extra")
INSTRUCTIONS = instruction_sets()
needs_native = pytest.mark.skipif(
    not INSTRUCTIONS, reason="the native engine was not built: it needs a C++ compiler"
)
ENGINES = [
    "reference",
    pytest.param("native", marks=needs_native),
    pytest.param("torch", marks=[pytest.mark.torch, needs_torch]),
]
BONN = load_bundle("bonn")
WINDOW = BONN.window_samples


def invented(mode, *stem, hidden=10, **others):
    """A network that nobody trained, louder than one starts, so that no mistake can hide."""
    spec = NetworkSpec(stem=tuple(ConvSpec(*conv) for conv in stem), hidden=hidden, **others)
    rng = np.random.default_rng(hidden)
    weights = {
        name: (2 * rng.normal(size=shape) / np.sqrt(shape[-1])).astype(np.float32)
        for name, shape in spec.weight_shapes.items()
    }
    return replace(BONN, mode=mode, network=spec, weights=weights)


BUNDLES = {
    "windowed": BONN,
    "continuous": replace(BONN, mode="continuous"),
    "three layers, windowed": invented("windowed", (6, 8, 2), (8, 5, 2), (7, 5, 1)),
    "three layers, continuous": invented("continuous", (6, 8, 2), (8, 5, 2), (7, 5, 1)),
    "one layer, continuous": invented("continuous", (6, 9, 4), hidden=5),
    "two LSTM layers, no stem, windowed": invented("windowed", hidden=9, layers=2, features="raw"),
    "two LSTM layers, continuous": invented("continuous", (7, 8, 4), hidden=20, layers=2),
}
WINDOWED, CONTINUOUS = BUNDLES["windowed"], BUNDLES["continuous"]
Z = FrozenScaler(mean_uv=BONN.scaler_mean_uv, std_uv=BONN.scaler_std_uv).scale(
    # Of each class in turn: they lie class by class.
    BONN.selftest_windows.reshape(3, -1, WINDOW).swapaxes(0, 1).reshape(-1)
)
every_bundle = pytest.mark.parametrize("bundle", BUNDLES.values(), ids=BUNDLES)
both_modes = pytest.mark.parametrize(
    "bundle", [WINDOWED, CONTINUOUS], ids=["windowed", "continuous"]
)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def hidden_states(bundle, z):
    """Every step's last sample and hidden state, in float64, as the network is described.

    A step's features end with its last sample; the first sample counts only by the difference.
    """
    w = {name: value.astype(np.float64) for name, value in bundle.weights.items()}
    z = z.astype(np.float64)
    if bundle.network.features == "raw":
        x = z[None]
    else:
        x = np.stack([np.arcsinh(4 * z), np.arcsinh(16 * np.diff(z, prepend=np.nan))]) / 2
        x[:, 0] = np.nan  # (channels, samples), by the last sample that is seen
    apart = 1
    for n, conv in enumerate(bundle.network.stem, start=1):
        reach = (conv.kernel - 1) * apart
        out = np.full((conv.channels, len(z)), np.nan)
        out[:, reach:] = w[f"conv{n}.bias"][:, None] + sum(
            w[f"conv{n}.weight"][:, :, k] @ x[:, k * apart : len(z) - reach + k * apart]
            for k in range(conv.kernel)
        )
        x = np.maximum(out, 0)
        apart *= conv.stride
    ends = [end for end in range((WINDOW - 1) % apart, len(z), apart) if np.isfinite(x[0, end])]
    inputs = x[:, ends].T
    for layer in bundle.network.layer_names:
        h = c = np.zeros(bundle.network.hidden)
        states = []
        for seen in inputs:
            gates = (
                w[f"{layer}.weight_ih"] @ seen + w[f"{layer}.weight_hh"] @ h + w[f"{layer}.bias"]
            )
            i, f, g, o = gates.reshape(4, -1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            states.append(h)
        inputs = np.array(states)
    return np.array(ends), inputs


def from_scratch(bundle, z, *, hop):
    """Every decision on a run of one channel, in float64, shape ``(n_decisions, 3)``."""
    starts = range(0, len(z) - WINDOW + 1, hop)
    if bundle.mode == "windowed":
        seen = [hidden_states(bundle, z[start : start + WINDOW])[1] for start in starts]
    else:
        ends, states = hidden_states(bundle, z)
        n_steps = np.searchsorted(ends, WINDOW)
        lasts = [int(np.flatnonzero(ends == start + WINDOW - 1)[0]) for start in starts]
        seen = [states[last - n_steps + 1 : last + 1] for last in lasts]
    head, bias = (bundle.weights[f"head.{kind}"].astype(np.float64) for kind in ("weight", "bias"))
    decided = []
    for states in seen:
        logits = head @ np.concatenate([states[-1], states.mean(axis=0), states.max(axis=0)]) + bias
        p = np.exp(logits - logits.max())
        p /= p.sum()
        decided.append([p[0], p[1], p[2:].sum()])
    return np.array(decided)


def run(engine, z, cuts=()):
    handle = engine.open(z.shape[1])
    parts = np.split(z, sorted(c % len(z) for c in cuts))
    return np.concatenate([engine.feed({handle: part})[handle] for part in parts])


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("hop", [4, 8, 16, 120])
@every_bundle
def test_every_decision_is_the_network_s_answer_in_float64(bundle, name, hop):
    z = Z[: 300 + 40 * hop]
    out = run(make_engine(bundle, name=name, hop_samples=hop), z[:, None])
    expected = from_scratch(bundle, z, hop=hop)
    assert out.shape == (len(expected), 1, 3)
    np.testing.assert_allclose(out[:, 0], expected, atol=1e-5)
    assert (out[:, 0].argmax(axis=1) == expected.argmax(axis=1)).all()
    assert np.ptp(expected, axis=0).max() > 0.1  # and it does tell one from the other


@pytest.mark.parametrize("name", ENGINES)
@every_bundle
def test_the_first_decision_falls_with_the_last_sample_of_the_first_window(bundle, name):
    engine = make_engine(bundle, name=name)
    handle = engine.open(1)
    counts = [len(engine.feed({handle: Z[n : n + 1, None]})[handle]) for n in range(WINDOW + 16)]
    assert np.flatnonzero(counts).tolist() == [WINDOW - 1, WINDOW + 7, WINDOW + 15]
    engine.reset(handle)  # and so it is after a gap
    counts = [len(engine.feed({handle: Z[n : n + 1, None]})[handle]) for n in range(WINDOW)]
    assert np.flatnonzero(counts).tolist() == [WINDOW - 1]


@pytest.mark.parametrize("name", ENGINES)
def test_a_run_s_first_window_is_the_same_in_both_modes_and_the_next_is_not(name):
    windowed, continuous = (
        run(make_engine(BUNDLES[f"three layers, {mode}"], name=name), Z[:200, None])
        for mode in ("windowed", "continuous")
    )
    np.testing.assert_allclose(windowed[0], continuous[0], atol=1e-6)
    assert np.abs(windowed[1:] - continuous[1:]).max() > 1e-3


def exact(bundle, name, hop):
    """An engine whose results are the same to the bit, by name or instruction set."""
    if name == "reference":
        return ReferenceEngine(bundle, hop_samples=hop)
    return NativeEngine(bundle, hop_samples=hop, instructions=name)


exact_engines = pytest.mark.parametrize("name", ["reference", *INSTRUCTIONS])


@given(
    st.lists(st.integers(0, 10**6), max_size=30), st.sampled_from([4, 8, 12, 40]), st.integers(1, 5)
)
@settings(max_examples=12)
@exact_engines
@every_bundle
def test_an_exact_engine_does_not_care_how_samples_are_cut(bundle, name, cuts, hop, n_channels):
    z = np.stack([np.roll(Z[:600], 77 * c) for c in range(n_channels)], axis=1)
    whole = run(exact(bundle, name, hop), z)
    cut = run(exact(bundle, name, hop), z, cuts)
    assert whole.tobytes() == cut.tobytes()


@given(data=st.data())
@settings(max_examples=10)
@exact_engines
@both_modes
def test_an_exact_engine_does_not_care_who_else_is_in_the_batch(bundle, name, data):
    engine = exact(bundle, name, 8)
    n_streams = data.draw(st.integers(1, 6))
    streams = {}
    for i in range(n_streams):
        n_channels = data.draw(st.integers(1, 4))
        z = np.stack([np.roll(Z[:400], 31 * i + 57 * c) for c in range(n_channels)], axis=1)
        streams[engine.open(n_channels)] = z
    place = dict.fromkeys(streams, 0)
    got = {handle: [] for handle in streams}
    for _ in range(15):  # each stream in a phase of its own
        some = data.draw(st.lists(st.sampled_from(list(streams)), unique=True))
        fed = {}
        for handle in some:
            n = data.draw(st.integers(0, 90))
            fed[handle] = streams[handle][place[handle] : place[handle] + n]
            place[handle] += len(fed[handle])
        for handle, out in engine.feed(fed).items():
            got[handle].append(out)
        if data.draw(st.booleans()):
            engine.catch_up()
    for handle, z in streams.items():
        alone = run(exact(bundle, name, 8), z[: place[handle]])
        together = np.concatenate(got[handle]) if got[handle] else alone[:0]
        assert together.tobytes() == alone.tobytes()


@pytest.mark.torch
@needs_torch
@given(st.lists(st.integers(0, 10**6), max_size=20), st.integers(1, 4))
@settings(max_examples=8)
@every_bundle
def test_the_torch_engine_differs_by_less_than_a_millionth_however_cut_and_batched(
    bundle, cuts, n_others
):
    z = Z[:500, None]
    whole = run(ReferenceEngine(bundle, hop_samples=8), z)
    engine = make_engine(bundle, name="torch")
    handle = engine.open(1)
    others = [engine.open(3) for _ in range(n_others)]
    got = []
    for part in np.split(z, sorted(c % len(z) for c in cuts)):
        fed = {other: np.repeat(part, 3, axis=1) for other in others}
        got.append(engine.feed({handle: part, **fed})[handle])
    np.testing.assert_allclose(np.concatenate(got), whole, atol=1e-6)


@pytest.mark.torch
@needs_torch
@both_modes
def test_the_torch_engine_decides_in_batches_and_channels_keep_their_places(bundle, monkeypatch):
    from stream_classifier.engines import torch as torch_engine

    monkeypatch.setattr(torch_engine, "MAX_BATCH_WINDOWS", 7)
    z = np.stack([np.roll(Z[:700], 50 * c) for c in range(3)], axis=1)
    batched = run(make_engine(bundle, name="torch"), z)
    np.testing.assert_allclose(batched, run(make_engine(bundle), z), atol=1e-6)


@pytest.mark.parametrize("name", ENGINES)
def test_what_lies_before_a_window_changes_nothing_in_it(name):
    z = Z[:240, None].copy()
    before = run(make_engine(WINDOWED, name=name), z)
    z[:40] = 50.0
    after = run(make_engine(WINDOWED, name=name), z)
    np.testing.assert_allclose(before[5:], after[5:], atol=1e-6)  # windows from sample 40 on
    assert not np.allclose(before[0], after[0], atol=1e-6)


@pytest.mark.parametrize("name", ENGINES)
def test_in_continuous_mode_what_lies_before_a_window_counts(name):
    z = Z[:240, None].copy()
    bundle = BUNDLES["three layers, continuous"]
    before = run(make_engine(bundle, name=name), z)
    z[:40] = 50.0
    after = run(make_engine(bundle, name=name), z)
    assert np.abs(before[5:] - after[5:]).max() > 1e-3


@pytest.mark.parametrize("name", ENGINES)
@both_modes
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_no_number_is_refused_and_nothing_is_changed(bundle, name, bad):
    z = np.repeat(Z[:480, None], 2, axis=1)
    engine = make_engine(bundle, name=name)
    handle, other = engine.open(2), engine.open(2)
    first = engine.feed({handle: z[:200]})[handle]
    spoilt = z[200:300].copy()
    spoilt[7, 1] = bad
    with pytest.raises(NotFiniteError, match=rf"row 7, channel 1 of stream {handle}: .*found -?"):
        engine.feed({other: z[:100], handle: spoilt})
    second = engine.feed({handle: z[200:]})[handle]
    whole = run(make_engine(bundle, name=name), z)
    np.testing.assert_allclose(np.concatenate([first, second]), whole, atol=1e-6)
    assert engine.feed({other: z[:150]})[other].shape == (4, 2, 3)  # it had none of its samples


@pytest.mark.parametrize("name", ENGINES)
@both_modes
def test_large_samples_are_numbers(bundle, name):
    large = np.full((300, 1), 1e30, np.float32)
    assert np.isfinite(run(make_engine(bundle, name=name), large * Z[:300, None])).all()
    check_samples({0: np.full((9, 1), 3e38, np.float32)}, lambda _stream: 1)  # nor is their sum


def test_weights_of_another_network_are_refused():
    with pytest.raises(EngineError, match=r"expected conv1.weight of shape \(6, 2, 8\).*found"):
        make_engine(replace(BUNDLES["three layers, windowed"], weights=BONN.weights))
    with pytest.raises(EngineError, match=r"found weights other\.weight"):
        make_engine(replace(BONN, weights={**BONN.weights, "other.weight": np.zeros(1)}))
    with pytest.raises(EngineError, match=r"expected head.bias .*found none"):
        make_engine(
            replace(BONN, weights={k: v for k, v in BONN.weights.items() if k != "head.bias"})
        )


@pytest.mark.parametrize("name", ENGINES)
@every_bundle
def test_after_a_gap_a_stream_is_as_a_fresh_one_to_the_bit(bundle, name):
    engine = make_engine(bundle, name=name)
    handle = engine.open(1)
    engine.feed({handle: Z[:333, None] * 5})
    engine.reset(handle)
    again = engine.feed({handle: Z[:200, None]})[handle]
    assert again.tobytes() == run(make_engine(bundle, name=name), Z[:200, None]).tobytes()


@pytest.mark.parametrize("name", ENGINES)
@both_modes
def test_a_stream_can_leave_without_disturbing_the_others(bundle, name):
    engine = make_engine(bundle, name=name)
    stays, leaves = engine.open(1), engine.open(2)
    first = engine.feed({stays: Z[:150, None], leaves: np.repeat(Z[:150, None], 2, axis=1)})[stays]
    engine.close(leaves)
    second = engine.feed({stays: Z[150:300, None]})[stays]
    with pytest.raises(KeyError):
        engine.feed({leaves: np.zeros((1, 2), np.float32)})
    whole = run(make_engine(bundle, name=name), Z[:300, None])
    np.testing.assert_allclose(np.concatenate([first, second]), whole, atol=1e-6)


@pytest.mark.parametrize("name", ENGINES)
@both_modes
def test_no_samples_are_no_windows(bundle, name):
    engine = make_engine(bundle, name=name)
    handle = engine.open(2)
    assert engine.feed({handle: np.empty((0, 2), np.float32)})[handle].shape == (0, 2, 3)


@pytest.mark.parametrize("name", ENGINES)
@both_modes
def test_other_channels_are_refused(bundle, name):
    engine = make_engine(bundle, name=name)
    handle = engine.open(2)
    with pytest.raises(ShapeError, match=r"\(n, 2\)"):
        engine.feed({handle: np.zeros((10, 3), np.float32)})


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("hop", [0, 1, 7, 124])
@both_modes
def test_a_hop_that_the_stem_cannot_share_is_refused(bundle, name, hop):
    with pytest.raises(EngineError, match=r"multiple of 4, from 4 to 120"):
        make_engine(bundle, name=name, hop_samples=hop)


@pytest.mark.parametrize("name", ENGINES)
def test_a_stem_that_sees_more_than_a_window_is_refused(name):
    wide = invented("windowed", (2, 60, 2), (2, 60, 2), hidden=2)
    with pytest.raises(EngineError, match=r"sees 179 samples, a window has 120"):
        make_engine(wide, name=name)


@pytest.mark.parametrize("name", shipped())
def test_single_windows_are_the_same_as_streamed_ones(name):
    bundle = load_bundle(name)
    out = classify_windows(bundle, bundle.selftest_windows)
    np.testing.assert_allclose(out, bundle.selftest_probabilities, atol=1e-5)


ODD = [
    invented(mode, (5, 7, 7), (4, 2, 1), hidden=4)  # 120 samples are no multiple of its stride
    for mode in ("windowed", "continuous")
]


@pytest.mark.parametrize("bundle", [*BUNDLES.values(), *ODD], ids=lambda b: b.mode)
@pytest.mark.parametrize("n_samples", [120, 121, 130, 480])
def test_a_single_stretch_s_answer_is_the_decision_at_its_very_end(bundle, n_samples):
    stretches = Z[: 4 * n_samples].reshape(4, n_samples)
    uv = (stretches * np.float32(bundle.scaler_std_uv)) + np.float32(bundle.scaler_mean_uv)
    if bundle.mode == "windowed" and n_samples > WINDOW:
        with pytest.raises(ShapeError, match=r"\(n, 120\)"):
            classify_windows(bundle, uv)
        return
    found = classify_windows(bundle, uv)
    stride = bundle.network.stride_samples
    for stretch, p in zip(stretches, found, strict=True):
        run_up = stretch[(n_samples - WINDOW) % stride :]  # to a decision at the end
        np.testing.assert_allclose(p, from_scratch(bundle, run_up, hop=stride)[-1], atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 119), (120,), (2, 3, 120)])
@both_modes
def test_stretches_shorter_than_a_window_are_refused(bundle, shape):
    with pytest.raises(ShapeError, match=r"\(n, 120\)"):
        classify_windows(bundle, np.zeros(shape, np.float32))


def test_the_reference_engine_does_not_pretend_to_run_on_a_gpu():
    with pytest.raises(EngineError, match="cpu only"):
        make_engine(BONN, name="reference", device="cuda")


@pytest.mark.torch
@needs_torch
def test_a_gpu_that_is_not_there_is_said_so():
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(EngineError, match="finds no CUDA device"):
        make_engine(BONN, device="cuda")


@pytest.mark.gpu
@pytest.mark.torch
@needs_torch
@every_bundle
def test_the_gpu_gives_the_same_probabilities(bundle):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    gpu = run(make_engine(bundle, device="cuda"), Z[:2000, None])
    cpu = run(ReferenceEngine(bundle, hop_samples=8), Z[:2000, None])
    np.testing.assert_allclose(gpu, cpu, atol=1e-4)


@pytest.mark.skipif(HAS_TORCH, reason="torch is installed")
def test_without_torch_the_missing_extra_is_named():
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[torch\]'"):
        make_engine(BONN, name="torch")
