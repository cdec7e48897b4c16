"""The network in PyTorch, for training: exactly what the engines run.

Shapes in comments: B stretches of signal, T steps, C channels of the stem, H hidden units, P
decisions. A window of 120 samples has W steps (25 for a stem of two convolutions of kernel 8 and
stride 2).

Nothing is padded, so the features of a step depend on the samples it covers and not on where
the window began; that is what lets an engine share the stem between overlapping windows.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from stream_classifier.bundle import NetworkSpec
from stream_classifier.engines.plan import lead_samples, n_steps

READOUT_DROPOUT = 0.3


class StreamNetwork(nn.Module):
    """Convolutions, an LSTM from zero state, and a head over its last states' summary.

    The steps end with the last sample of a stretch. One window long, a stretch gives one decision
    (``windowed`` mode); a longer one gives one for every step that has a window behind it, from a
    state that runs on (``continuous``).

    Args:
        spec: Shape of the network.
        window_samples: How far back the readout reaches.
        dropout: Share of the summary left out at random while training.
    """

    def __init__(
        self, spec: NetworkSpec, *, window_samples: int, dropout: float = READOUT_DROPOUT
    ) -> None:
        super().__init__()
        H = spec.hidden
        self.spec = spec
        self.window_samples = window_samples
        self.n_window_steps = n_steps(spec, window_samples)
        channels = [spec.n_features, *(conv.channels for conv in spec.stem)]
        self.stem = nn.ModuleList(
            nn.Conv1d(before, conv.channels, conv.kernel, stride=conv.stride)
            for before, conv in zip(channels, spec.stem, strict=False)
        )
        self.lstm = nn.LSTM(channels[-1], H, num_layers=spec.layers, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(3 * H, spec.outputs)
        # Gates are stacked i, f, g, o. A forget gate that starts open lets gradients reach the
        # first steps (Jozefowicz et al., ICML 2015). Torch has two biases where one suffices.
        biases = dict(self.lstm.named_parameters())
        for layer in range(spec.layers):
            nn.init.zeros_(biases[f"bias_hh_l{layer}"]).requires_grad_(False)
            with torch.no_grad():
                biases[f"bias_ih_l{layer}"][H : 2 * H] += 1

    def forward(self, z: Tensor) -> Tensor:
        """Logits (B, outputs) of the last decision on z-scores (B, n_samples)."""
        h = self.states(z)
        last = h.shape[1] - self.n_window_steps
        return self.decide(h, range(last, last + 1))[:, 0]

    def states(self, z: Tensor) -> Tensor:
        """Hidden states (B, T, H) of every step over z-scores (B, n_samples)."""
        lead = lead_samples(self.spec, z.shape[1])
        if self.spec.features == "raw":
            x = z[:, None, lead:]  # (B, 1, n_samples - lead)
        else:
            z = z[:, lead - 1 :]  # the first sample counts only through the difference
            u = torch.asinh(4 * z[:, 1:]) / 2  # asinh keeps spikes from drowning the rest
            v = torch.asinh(16 * (z[:, 1:] - z[:, :-1])) / 2
            x = torch.stack([u, v], dim=1)  # (B, 2, n_samples - lead)
        for conv in self.stem:
            x = torch.relu(conv(x))  # (B, C, ...), at last (B, C, T)
        h: Tensor = self.lstm(x.transpose(1, 2))[0]  # (B, T, C) -> (B, T, H)
        return h

    def decide(self, h: Tensor, positions: range) -> Tensor:
        """Logits (B, P, outputs) from states (B, T, H).

        Args:
            h: What ``states`` gave.
            positions: P of them, evenly spaced; 0 is the first step that has a window behind it.
        """
        W = self.n_window_steps
        seen = h[:, positions.start : positions[-1] + W].transpose(1, 2)  # (B, H, ...)
        summary = [
            seen[:, :, W - 1 :: positions.step],
            functional.avg_pool1d(seen, W, positions.step),
            functional.max_pool1d(seen, W, positions.step),
        ]
        readout = torch.cat(summary, dim=1).transpose(1, 2)  # (B, P, 3H)
        logits: Tensor = self.head(self.dropout(readout))  # (B, P, outputs)
        return logits

    def ends(self, n_samples: int) -> NDArray[np.intp]:
        """Index of the last sample of every decision on a stretch, shape ``(P,)``."""
        steps = n_steps(self.spec, n_samples)
        n_decisions = steps - self.n_window_steps + 1
        return n_samples - 1 - self.spec.stride_samples * np.arange(n_decisions - 1, -1, -1)


def class_log_probabilities(logits: Tensor, output_classes: tuple[int, ...]) -> Tensor:
    """Log-probabilities of the classes, (..., 3): the outputs of each class summed."""
    log_p = torch.log_softmax(logits, dim=-1)  # (..., outputs)
    of_class = torch.tensor(output_classes)
    return torch.stack(
        [
            torch.logsumexp(log_p[..., of_class == c], dim=-1)
            for c in range(max(output_classes) + 1)
        ],
        dim=-1,
    )


def export_weights(
    network: StreamNetwork, *, temperature: float = 1.0
) -> dict[str, NDArray[np.float32]]:
    """Weights by the names and layouts of a bundle.

    Args:
        network: The network.
        temperature: What logits are to be divided by; it goes into the head.
    """
    state = network.state_dict()
    weights = {name: state[_key(name)].numpy().copy() for name in network.spec.weight_shapes}
    for name in ("head.weight", "head.bias"):
        weights[name] /= np.float32(temperature)
    return weights


def import_weights(
    spec: NetworkSpec, weights: dict[str, NDArray[np.float32]], *, window_samples: int
) -> StreamNetwork:
    """Build the network that a bundle's weights describe, ready to classify."""
    network = StreamNetwork(spec, window_samples=window_samples)
    state = {_key(name): torch.tensor(weights[name]) for name in spec.weight_shapes}
    none = torch.zeros(4 * spec.hidden)
    network.load_state_dict(
        state | {f"lstm.bias_hh_l{layer}": none for layer in range(spec.layers)}
    )
    return network.eval()


def _key(name: str) -> str:
    """Return the module's name of a bundle's weight.

    Example:
        >>> _key("conv1.weight"), _key("lstm2.weight_ih"), _key("lstm.bias"), _key("head.bias")
        ('stem.0.weight', 'lstm.weight_ih_l1', 'lstm.bias_ih_l0', 'head.bias')
    """
    layer, _, kind = name.partition(".")
    if layer.startswith("conv"):
        return f"stem.{int(layer.removeprefix('conv')) - 1}.{kind}"
    if layer.startswith("lstm"):
        number = int(layer.removeprefix("lstm") or 1) - 1
        return f"lstm.{'bias_ih' if kind == 'bias' else kind}_l{number}"
    return name
