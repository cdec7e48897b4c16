"""The network that is trained is the network that runs."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: [torch] extra")

from stream_classifier.bundle import NetworkSpec  # noqa: E402
from stream_classifier.training.network import (  # noqa: E402
    WindowNetwork,
    class_log_probabilities,
    classify,
    export_weights,
    import_weights,
)

pytestmark = pytest.mark.torch

SPEC = NetworkSpec()
MEAN_UV, STD_UV = -7.5, 165.0


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        # Louder than torch starts it, so that a wrong gate or step cannot hide.
        made = WindowNetwork(SPEC).eval()
        with torch.no_grad():
            for weights in made.parameters():
                if weights.requires_grad:
                    weights.mul_(3)
    return made


@pytest.fixture(scope="module")
def windows_uv():
    rng = np.random.default_rng(2)
    return (np.cumsum(rng.normal(size=(8, 120)), axis=1) * 60).astype(np.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def in_plain_numpy(weights, window_uv):
    """The bundle's network for one window, step by step in float64, from its description."""
    w = {name: values.astype(np.float64) for name, values in weights.items()}
    z = (window_uv.astype(np.float64) - MEAN_UV) / STD_UV
    h, c, states = np.zeros(64), np.zeros(64), []
    for t in range(25):
        end = 119 - 4 * (24 - t)  # this step's last sample

        def conv1(last):
            seen = range(last - 7, last + 1)
            features = [[np.arcsinh(4 * z[s]) / 2 for s in seen],
                        [np.arcsinh(16 * (z[s] - z[s - 1])) / 2 for s in seen]]  # fmt: skip
            return np.maximum(
                [np.sum(w["conv1.weight"][k] * features) + w["conv1.bias"][k] for k in range(24)], 0
            )

        below = np.stack([conv1(end - 2 * (7 - j)) for j in range(8)], axis=1)  # (24, 8)
        x = np.maximum(
            [np.sum(w["conv2.weight"][k] * below) + w["conv2.bias"][k] for k in range(24)], 0
        )
        gates = w["lstm.weight_ih"] @ x + w["lstm.weight_hh"] @ h + w["lstm.bias"]
        i, f, g, o = gates[:64], gates[64:128], gates[128:192], gates[192:]
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        states.append(h)
    summary = np.concatenate([h, np.mean(states, axis=0), np.max(states, axis=0)])
    logits = w["head.weight"] @ summary + w["head.bias"]
    p = np.exp(logits) / np.exp(logits).sum()
    return [p[0], p[1], p[2] + p[3] + p[4]]


def test_it_is_what_its_description_says_in_plain_numpy(network, windows_uv):
    found = classify(network, windows_uv, mean_uv=MEAN_UV, std_uv=STD_UV)
    weights = export_weights(network)
    expected = [in_plain_numpy(weights, window) for window in windows_uv]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert np.ptp(np.array(expected), axis=0).max() > 0.1  # and it does tell windows apart


def test_it_has_exactly_the_parameters_of_its_description(network):
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert trained == SPEC.n_parameters == 28_789
    assert {name: w.shape for name, w in export_weights(network).items()} == SPEC.weight_shapes


def test_nothing_before_the_window_s_second_sample_counts(network, windows_uv):
    z = torch.from_numpy(windows_uv / STD_UV)
    changed = z.clone()
    changed[:, 0] += 100
    with torch.no_grad():
        assert torch.equal(network(z), network(changed))


@pytest.mark.parametrize("sample", [1, 2, 60, 118, 119])
def test_every_other_sample_counts(network, windows_uv, sample):
    z = torch.from_numpy(windows_uv / STD_UV)
    changed = z.clone()
    changed[:, sample] += 1
    with torch.no_grad():
        assert not torch.equal(network(z), network(changed))


def test_what_lies_before_a_window_in_the_stream_changes_nothing_in_it(network):
    stream = torch.from_numpy(np.random.default_rng(3).normal(size=500).astype(np.float32))
    other = stream.clone()
    other[:200] = 9
    with torch.no_grad():
        assert torch.equal(network(stream[None, 200:320]), network(other[None, 200:320]))


def test_a_forget_gate_starts_open():
    bias = export_weights(WindowNetwork(SPEC))["lstm.bias"]
    assert bias[64:128].min() > 0.5
    assert np.abs(np.delete(bias, range(64, 128))).max() < 0.5


def test_exported_weights_make_the_same_network_again(network, windows_uv):
    again = import_weights(SPEC, export_weights(network))
    np.testing.assert_array_equal(
        classify(again, windows_uv, mean_uv=MEAN_UV, std_uv=STD_UV),
        classify(network, windows_uv, mean_uv=MEAN_UV, std_uv=STD_UV),
    )


def test_exporting_does_not_change_the_network(network):
    before = export_weights(network)
    export_weights(network, temperature=2.0)["lstm.bias"][:] = 0
    for name, values in export_weights(network).items():
        np.testing.assert_array_equal(values, before[name])


def test_a_temperature_in_the_head_divides_the_logits(network, windows_uv):
    z = torch.from_numpy((windows_uv - np.float32(MEAN_UV)) / np.float32(STD_UV))
    cooler = import_weights(SPEC, export_weights(network, temperature=2.0))
    with torch.no_grad():
        torch.testing.assert_close(cooler(z), network(z) / 2)


def test_class_probabilities_are_the_sums_of_their_outputs():
    logits = torch.tensor([[1.0, 2.0, 3.0, -1.0, 0.0], [500.0, 0.0, 0.0, 0.0, -500.0]])
    p = class_log_probabilities(logits, SPEC.output_classes).exp()
    five = torch.softmax(logits, dim=1)
    torch.testing.assert_close(p, torch.stack([five[:, 0], five[:, 1], five[:, 2:].sum(1)], dim=1))
    torch.testing.assert_close(p.sum(dim=1), torch.ones(2))


@pytest.mark.parametrize("name", ["bonn", "bonn-rows"])
def test_the_shipped_weights_give_their_self_test_in_torch_too(name):
    from stream_classifier.bundle import load_bundle

    bundle = load_bundle(name)
    found = classify(
        import_weights(bundle.network, bundle.weights),
        bundle.selftest_windows,
        mean_uv=bundle.scaler_mean_uv,
        std_uv=bundle.scaler_std_uv,
    )
    np.testing.assert_allclose(found, bundle.selftest_probabilities, atol=1e-6)
