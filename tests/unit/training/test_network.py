"""The network that is trained is the network that runs."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: [torch] extra")

from stream_classifier.bundle import (  # noqa: E402
    ConvSpec,
    NetworkSpec,
    load_bundle,
    shipped,
)
from stream_classifier.engines.reference import ReferenceEngine  # noqa: E402
from stream_classifier.training.network import (  # noqa: E402
    StreamNetwork,
    class_log_probabilities,
    export_weights,
    import_weights,
)

pytestmark = pytest.mark.torch

WINDOW = 120
SPEC = NetworkSpec()
DEEP = NetworkSpec(stem=(ConvSpec(8, 8, 2), ConvSpec(12, 8, 2), ConvSpec(10, 5, 1)), hidden=16)
SPECS = {"two layers": SPEC, "three layers": DEEP}
MEAN_UV, STD_UV = -7.5, 165.0


def loud(spec):
    """A network louder than torch starts it, so that a wrong gate or step cannot hide."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = StreamNetwork(spec, window_samples=WINDOW).eval()
        with torch.no_grad():
            for weights in made.parameters():
                if weights.requires_grad:
                    weights.mul_(3)
    return made


@pytest.fixture(scope="module", params=SPECS.values(), ids=SPECS)
def network(request):
    return loud(request.param)


@pytest.fixture(scope="module")
def windows_uv():
    rng = np.random.default_rng(2)
    return (np.cumsum(rng.normal(size=(8, WINDOW)), axis=1) * 60).astype(np.float32)


@pytest.fixture(scope="module")
def stretches_uv():
    rng = np.random.default_rng(4)
    return (np.cumsum(rng.normal(size=(3, 333)), axis=1) * 60).astype(np.float32)


def scaled(uv, *, mean_uv=MEAN_UV, std_uv=STD_UV):
    return torch.from_numpy((uv - np.float32(mean_uv)) / np.float32(std_uv))


@torch.inference_mode()
def classify(network, windows_uv, **scaler):
    """Class probabilities of the last decision on each stretch, (n, 3)."""
    logits = network(scaled(windows_uv, **scaler))
    return class_log_probabilities(logits, network.spec.output_classes).exp().numpy()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def in_plain_numpy(network, stretch_uv, *, decided_at):
    """One decision, step by step in float64, from the network's description."""
    spec, weights = network.spec, export_weights(network)
    w = {name: values.astype(np.float64) for name, values in weights.items()}
    z = (stretch_uv.astype(np.float64) - MEAN_UV) / STD_UV

    def features(n_layers, last, cache):
        """Outputs of the first layers whose last seen sample is ``last``; None before the first."""
        if (n_layers, last) not in cache:
            if n_layers == 0:
                ok = last >= 1
                made = [np.arcsinh(4 * z[last]) / 2, np.arcsinh(16 * (z[last] - z[last - 1])) / 2]
            else:
                conv = spec.stem[n_layers - 1]
                apart = int(np.prod([c.stride for c in spec.stem[: n_layers - 1]]))
                lasts = [last - apart * (conv.kernel - 1 - k) for k in range(conv.kernel)]
                below = [features(n_layers - 1, t, cache) if t >= 1 else None for t in lasts]
                ok = all(one is not None for one in below)
                made = ok and np.maximum(
                    np.tensordot(w[f"conv{n_layers}.weight"], np.stack(below, axis=1), 2)
                    + w[f"conv{n_layers}.bias"],
                    0,
                )
            cache[n_layers, last] = np.asarray(made) if ok else None
        return cache[n_layers, last]

    H, cache = spec.hidden, {}
    h, c, states = np.zeros(H), np.zeros(H), {}
    for last in range((len(z) - 1) % spec.stride_samples, decided_at + 1, spec.stride_samples):
        x = features(len(spec.stem), last, cache) if last >= 1 else None
        if x is None:
            continue
        gates = w["lstm.weight_ih"] @ x + w["lstm.weight_hh"] @ h + w["lstm.bias"]
        i, f, g, o = gates[:H], gates[H : 2 * H], gates[2 * H : 3 * H], gates[3 * H :]
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        states[last] = h
    # The readout's steps are those that a window, by itself, would have.
    first = decided_at - WINDOW + 1
    seen = [s for last, s in states.items() if last - spec.receptive_samples >= first]
    summary = np.concatenate([h, np.mean(seen, axis=0), np.max(seen, axis=0)])
    logits = w["head.weight"] @ summary + w["head.bias"]
    p = np.exp(logits - logits.max())
    p /= p.sum()
    return [p[0], p[1], p[2] + p[3] + p[4]]


def test_it_is_what_its_description_says_in_plain_numpy(network, windows_uv):
    found = classify(network, windows_uv)
    expected = [in_plain_numpy(network, window, decided_at=WINDOW - 1) for window in windows_uv]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert np.ptp(np.array(expected), axis=0).max() > 0.1  # and it does tell windows apart


@pytest.mark.parametrize("n_samples", [120, 121, 333])
def test_every_decision_on_a_stretch_is_what_its_description_says(network, stretches_uv, n_samples):
    z = scaled(stretches_uv[:, :n_samples])
    ends = network.ends(n_samples)
    assert ends[-1] == n_samples - 1
    assert WINDOW - 1 <= ends[0] < WINDOW - 1 + network.spec.stride_samples
    assert set(np.diff(ends)) <= {network.spec.stride_samples}
    for step in (1, 3):
        with torch.inference_mode():
            logits = network.decide(network.states(z), range(0, len(ends), step))
            p = class_log_probabilities(logits, network.spec.output_classes).exp().numpy()
        assert p.shape == (3, len(ends[::step]), 3)
        for place in range(0, len(ends[::step]), 7):
            expected = [
                in_plain_numpy(network, uv[:n_samples], decided_at=ends[::step][place])
                for uv in stretches_uv
            ]
            np.testing.assert_allclose(p[:, place], expected, atol=5e-6)


def test_the_last_decision_on_a_stretch_is_the_forward_pass(network, stretches_uv):
    z = scaled(stretches_uv)
    with torch.inference_mode():
        n = len(network.ends(z.shape[1]))
        decided = network.decide(network.states(z), range(n))
        torch.testing.assert_close(decided[:, -1], network(z))


@pytest.mark.parametrize("mode", ["windowed", "continuous"])
def test_what_is_trained_is_what_the_engine_runs(network, stretches_uv, mode):
    stride = network.spec.stride_samples
    bundle = replace(
        load_bundle("bonn"), mode=mode, network=network.spec, weights=export_weights(network)
    )
    engine = ReferenceEngine(bundle, hop_samples=stride)
    handle = engine.open(len(stretches_uv))
    uv = stretches_uv[:, (stretches_uv.shape[1] - WINDOW) % stride :]  # ends with a decision
    streamed = engine.feed({handle: np.ascontiguousarray(scaled(uv).numpy().T)})[handle]
    if mode == "windowed":
        windows = [uv[:, end - WINDOW + 1 : end + 1] for end in network.ends(uv.shape[1])]
        trained = np.stack([classify(network, window) for window in windows])
    else:
        with torch.inference_mode():
            positions = range(len(network.ends(uv.shape[1])))
            logits = network.decide(network.states(scaled(uv)), positions)
            log_p = class_log_probabilities(logits, network.spec.output_classes)
        trained = log_p.exp().numpy().swapaxes(0, 1)
    np.testing.assert_allclose(streamed, trained, atol=2e-6)


def test_it_has_exactly_the_parameters_of_its_description(network):
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert trained == network.spec.n_parameters
    shapes = {name: w.shape for name, w in export_weights(network).items()}
    assert shapes == network.spec.weight_shapes


def test_only_what_the_steps_of_a_window_cover_counts_and_one_sample_before(network, windows_uv):
    spec = network.spec
    n_steps = (WINDOW - 1 - spec.receptive_samples) // spec.stride_samples + 1
    # The first sample counts only through the difference, where a step reaches so far back.
    first = WINDOW - spec.receptive_samples - (n_steps - 1) * spec.stride_samples - 1
    z = torch.from_numpy(windows_uv / STD_UV)
    for sample in (*range(first + 2), 60, 118, 119):
        changed = z.clone()
        changed[:, sample] += 1 if sample >= first else 100
        with torch.no_grad():
            assert torch.equal(network(z), network(changed)) == (sample < first)


def test_what_lies_before_a_window_in_the_stream_changes_nothing_in_it(network):
    stream = torch.from_numpy(np.random.default_rng(3).normal(size=500).astype(np.float32))
    other = stream.clone()
    other[:200] = 9
    with torch.no_grad():
        assert torch.equal(network(stream[None, 200:320]), network(other[None, 200:320]))


def test_a_forget_gate_starts_open():
    bias = export_weights(StreamNetwork(SPEC, window_samples=WINDOW))["lstm.bias"]
    assert bias[64:128].min() > 0.5
    assert np.abs(np.delete(bias, range(64, 128))).max() < 0.5


def test_exported_weights_make_the_same_network_again(network, windows_uv):
    again = import_weights(network.spec, export_weights(network), window_samples=WINDOW)
    np.testing.assert_array_equal(classify(again, windows_uv), classify(network, windows_uv))


def test_exporting_does_not_change_the_network(network):
    before = export_weights(network)
    export_weights(network, temperature=2.0)["lstm.bias"][:] = 0
    for name, values in export_weights(network).items():
        np.testing.assert_array_equal(values, before[name])


def test_a_temperature_in_the_head_divides_the_logits(network, windows_uv):
    z = scaled(windows_uv)
    cooler = import_weights(
        network.spec, export_weights(network, temperature=2.0), window_samples=WINDOW
    )
    with torch.no_grad():
        torch.testing.assert_close(cooler(z), network(z) / 2)


def test_class_probabilities_are_the_sums_of_their_outputs():
    logits = torch.tensor([[1.0, 2.0, 3.0, -1.0, 0.0], [500.0, 0.0, 0.0, 0.0, -500.0]])
    p = class_log_probabilities(logits, SPEC.output_classes).exp()
    five = torch.softmax(logits, dim=1)
    torch.testing.assert_close(p, torch.stack([five[:, 0], five[:, 1], five[:, 2:].sum(1)], dim=1))
    torch.testing.assert_close(p.sum(dim=1), torch.ones(2))


def test_dropout_is_for_training_only(windows_uv):
    network = loud(SPEC)
    z = scaled(windows_uv)
    with torch.no_grad():
        assert torch.equal(network(z), network(z))
        network.train()
        assert not torch.equal(network(z), network(z))


@pytest.mark.parametrize("name", shipped())
def test_the_shipped_weights_give_their_self_test_in_torch_too(name):
    bundle = load_bundle(name)
    network = import_weights(bundle.network, bundle.weights, window_samples=bundle.window_samples)
    found = classify(
        network,
        bundle.selftest_windows,
        mean_uv=bundle.scaler_mean_uv,
        std_uv=bundle.scaler_std_uv,
    )
    np.testing.assert_allclose(found, bundle.selftest_probabilities, atol=1e-6)
