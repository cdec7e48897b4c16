"""The network in PyTorch, for training: exactly what the engines run.

Shapes in comments: B windows, T = 25 steps, C channels of the stem, H hidden units.

Nothing is padded, so the features of a step depend on the samples it covers and not on where
the window began; that is what lets an engine share the stem between overlapping windows.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stream_classifier.bundle import NetworkSpec

READOUT_DROPOUT = 0.3

_STATE_KEYS = {
    "conv1.weight": "conv1.weight",
    "conv1.bias": "conv1.bias",
    "conv2.weight": "conv2.weight",
    "conv2.bias": "conv2.bias",
    "lstm.weight_ih": "lstm.weight_ih_l0",
    "lstm.weight_hh": "lstm.weight_hh_l0",
    "lstm.bias": "lstm.bias_ih_l0",
    "head.weight": "head.weight",
    "head.bias": "head.bias",
}
"""Name in a bundle to name in the module below."""


class WindowNetwork(nn.Module):
    """Two convolutions, an LSTM from zero state, and a head over its states' summary.

    Step *t* of 25 ends at sample 119 - 4 (24 - t) of a window of 120: samples 2 to 119 feed the
    stem, sample 1 counts only through the first difference, sample 0 not at all.

    Args:
        spec: Shape of the network.
        dropout: Share of the summary left out at random while training.
    """

    def __init__(self, spec: NetworkSpec, *, dropout: float = READOUT_DROPOUT) -> None:
        super().__init__()
        C, H = spec.conv_channels, spec.hidden
        self.spec = spec
        self.conv1 = nn.Conv1d(2, C, spec.kernel_samples, stride=spec.stride_samples)
        self.conv2 = nn.Conv1d(C, C, spec.kernel_samples, stride=spec.stride_samples)
        self.lstm = nn.LSTM(C, H, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(3 * H, spec.outputs)
        # Gates are stacked i, f, g, o. A forget gate that starts open lets gradients reach the
        # first steps (Jozefowicz et al., ICML 2015). Torch has two biases where one suffices.
        biases = dict(self.lstm.named_parameters())
        nn.init.zeros_(biases["bias_hh_l0"]).requires_grad_(False)
        with torch.no_grad():
            biases["bias_ih_l0"][H : 2 * H] += 1

    def forward(self, z: Tensor) -> Tensor:
        """Logits of shape (B, outputs) for z-scores of shape (B, window_samples)."""
        u = torch.asinh(4 * z[:, 1:]) / 2  # (B, 119): asinh keeps spikes from drowning the rest
        v = torch.asinh(16 * (z[:, 1:] - z[:, :-1])) / 2  # (B, 119)
        x = torch.stack([u, v], dim=1)  # (B, 2, 119), from sample 1 on
        x = x[:, :, self._lead(x.shape[2]) :]  # (B, 2, 118), so that the last step ends the window
        x = torch.relu(self.conv1(x))  # (B, C, 56)
        x = torch.relu(self.conv2(x))  # (B, C, T)
        h, _ = self.lstm(x.transpose(1, 2))  # (B, T, C) -> (B, T, H)
        readout = torch.cat([h[:, -1], h.mean(dim=1), h.amax(dim=1)], dim=1)  # (B, 3H)
        logits: Tensor = self.head(self.dropout(readout))  # (B, outputs)
        return logits

    def _lead(self, n_samples: int) -> int:
        """Leading samples that no step covers."""
        kernel, stride = self.spec.kernel_samples, self.spec.stride_samples
        covered_by_step = kernel + (kernel - 1) * stride  # 22
        return (n_samples - covered_by_step) % stride**2


def class_log_probabilities(logits: Tensor, output_classes: tuple[int, ...]) -> Tensor:
    """Log-probabilities of the classes, (B, 3): the outputs of each class summed."""
    log_p = torch.log_softmax(logits, dim=1)  # (B, outputs)
    of_class = torch.tensor(output_classes)
    return torch.stack(
        [torch.logsumexp(log_p[:, of_class == c], dim=1) for c in range(max(output_classes) + 1)],
        dim=1,
    )


def export_weights(
    network: WindowNetwork, *, temperature: float = 1.0
) -> dict[str, NDArray[np.float32]]:
    """Weights by the names and layouts of a bundle.

    Args:
        network: The network.
        temperature: What logits are to be divided by; it goes into the head.
    """
    state = network.state_dict()
    weights = {name: state[key].numpy().copy() for name, key in _STATE_KEYS.items()}
    for name in ("head.weight", "head.bias"):
        weights[name] /= np.float32(temperature)
    return weights


def import_weights(spec: NetworkSpec, weights: dict[str, NDArray[np.float32]]) -> WindowNetwork:
    """Build the network that a bundle's weights describe, ready to classify."""
    network = WindowNetwork(spec)
    state = {key: torch.tensor(weights[name]) for name, key in _STATE_KEYS.items()}
    network.load_state_dict(state | {"lstm.bias_hh_l0": torch.zeros(4 * spec.hidden)})
    return network.eval()


def classify(
    network: WindowNetwork, windows_uv: NDArray[np.float32], *, mean_uv: float, std_uv: float
) -> NDArray[np.float32]:
    """Class probabilities, shape ``(n, 3)``, of windows of shape ``(n, window_samples)``, µV."""
    network.eval()
    z = torch.from_numpy((windows_uv - np.float32(mean_uv)) / np.float32(std_uv))
    with torch.inference_mode():
        # In pieces, so that memory stays bounded whatever is asked.
        log_p = torch.cat(
            [
                class_log_probabilities(network(piece), network.spec.output_classes)
                for piece in torch.split(z, 2048)
            ]
        )
        return log_p.exp().numpy()
