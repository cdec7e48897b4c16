"""Trained networks on thousands of real windows: within 1e-5 of float64, and no class flips."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from stream_classifier.bundle import load_bundle
from stream_classifier.detection.scaler import FrozenScaler
from stream_classifier.engines import make_engine
from tests.unit.engines.test_engines import ENGINES, WINDOW, sigmoid

PLAIN = Path(__file__).parents[3] / "benchmarks" / "models" / "plain"
TRAINED = {name: load_bundle(name) for name in ("bonn", "headset")} | {"plain": load_bundle(PLAIN)}
N_WINDOWS = 3072
"""Real windows of each comparison, at least."""


N_COLUMNS = 8
N_EACH = N_WINDOWS // N_COLUMNS + 16
"""Decisions on each column that are computed in float64."""


def real_signal():
    """Held-out EEG of the shipped bundles, as the networks get it, shape ``(n, N_COLUMNS)``."""
    columns = []
    for seed in range(N_COLUMNS // 4):
        for bundle in map(load_bundle, ("bonn", "bonn-continuous", "bonn-rows", "headset")):
            scaler = FrozenScaler(mean_uv=bundle.scaler_mean_uv, std_uv=bundle.scaler_std_uv)
            stretches = scaler.scale(bundle.selftest_windows)
            order = np.random.default_rng(seed).permutation(len(stretches))
            columns.append(
                np.resize(stretches[order].ravel(), WINDOW + 16 * N_EACH).astype(np.float32)
            )
    return np.stack(columns, axis=1)


SIGNAL = real_signal()


def lstm(bundle, x):
    """Hidden states of the last layer, ``(n, steps, H)``, of inputs ``(n, steps, C)``; float64."""
    for layer in bundle.network.layer_names:
        w_in, w_rec, bias = (
            bundle.weights[f"{layer}.{kind}"].astype(np.float64)
            for kind in ("weight_ih", "weight_hh", "bias")
        )
        h = c = np.zeros((len(x), bundle.network.hidden))
        states = []
        for step in range(x.shape[1]):
            gates = x[:, step] @ w_in.T + h @ w_rec.T + bias
            i, f, g, o = np.split(gates, 4, axis=1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            states.append(h)
        x = np.stack(states, axis=1)
    return x


def stem(bundle, z):
    """Features of z-scores ``(n, samples)``, ``(n, steps, C)``, the last step at the end."""
    net = bundle.network
    z = z.astype(np.float64)
    x = z[:, None]
    if net.features == "asinh":
        x = np.stack([np.arcsinh(4 * z), np.arcsinh(16 * np.diff(z, prepend=np.nan))], axis=1) / 2
        x = x[:, :, 1:]
    x = x[:, :, (x.shape[2] - net.receptive_samples) % net.stride_samples :]
    for n, conv in enumerate(net.stem, start=1):
        w, bias = (
            bundle.weights[f"conv{n}.{kind}"].astype(np.float64) for kind in ("weight", "bias")
        )
        seen = np.lib.stride_tricks.sliding_window_view(x, conv.kernel, axis=2)[
            :, :, :: conv.stride
        ]
        x = np.maximum(np.einsum("bctk,ock->bot", seen, w) + bias[:, None], 0)
    return x.swapaxes(1, 2)


@lru_cache(maxsize=16)
def from_scratch(name, hop):
    """Every decision on every column in float64, ``(decisions, N_COLUMNS, 3)``."""
    bundle = TRAINED[name]
    starts = hop * np.arange(N_EACH)
    if bundle.mode == "windowed":
        windows = np.concatenate([SIGNAL[start : start + WINDOW].T for start in starts])
        states = lstm(bundle, stem(bundle, windows))
    else:
        whole = lstm(
            bundle, stem(bundle, SIGNAL[: starts[-1] + WINDOW].T)
        )  # its first step is the first window's
        stride = bundle.network.stride_samples
        n_steps = (WINDOW - 1 - bundle.network.receptive_samples) // stride + 1
        firsts = starts // stride
        states = np.concatenate([whole[:, first : first + n_steps] for first in firsts])
    readout = np.concatenate([states[:, -1], states.mean(axis=1), states.max(axis=1)], axis=1)
    head, bias = (bundle.weights[f"head.{kind}"].astype(np.float64) for kind in ("weight", "bias"))
    logits = readout @ head.T + bias
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return np.stack([p[:, 0], p[:, 1], p[:, 2:].sum(axis=1)], axis=1).reshape(
        len(starts), N_COLUMNS, 3
    )


SOME = {(4, 64), (8, 1), (8, 512), (16, 8)}
"""Hops and numbers of streams for the engines that the plain network takes long."""


@pytest.mark.parametrize("engine_name", ENGINES)
@pytest.mark.parametrize("n_streams", [1, 8, 64, 512])
@pytest.mark.parametrize("hop", [4, 8, 16])
@pytest.mark.parametrize("name", TRAINED)
def test_thousands_of_real_windows_are_within_1e_5_of_float64(name, hop, n_streams, engine_name):
    if name == "plain" and engine_name != "native" and (hop, n_streams) not in SOME:
        pytest.skip("minutes, for what the native engine shows in full and the stems, too")
    expected = from_scratch(name, hop)
    engine = make_engine(TRAINED[name], name=engine_name, hop_samples=hop)
    n_channels = N_COLUMNS if n_streams == 1 else 1
    n_decisions = -(-N_WINDOWS // (n_streams * n_channels))
    n_samples = WINDOW + (n_decisions - 1) * hop
    streams = {}
    for i in range(n_streams):
        # Each windowed stream begins elsewhere; a continuous one would have another past there.
        is_free = TRAINED[name].mode == "windowed"
        first = 7 * i % (len(expected) - n_decisions + 1) if is_free else 0
        columns = slice(i % N_COLUMNS, i % N_COLUMNS + n_channels)
        streams[engine.open(n_channels)] = (first, columns)
    got = {handle: [] for handle in streams}
    for start in range(0, n_samples, 997):
        fed = {
            handle: SIGNAL[first * hop + start : first * hop + min(start + 997, n_samples), columns]
            for handle, (first, columns) in streams.items()
        }
        for handle, decided in engine.feed(fed).items():
            got[handle].append(decided)
    n_compared = 0
    for handle, (first, columns) in streams.items():
        found = np.concatenate(got[handle])
        wanted = expected[first : first + n_decisions, columns]
        np.testing.assert_allclose(found, wanted, atol=1e-5)
        assert (found.argmax(axis=2) == wanted.argmax(axis=2)).all()
        n_compared += found[..., 0].size
    assert n_compared >= N_WINDOWS
