"""The study's networks: one stem and one readout around a vanilla RNN, a GRU or an LSTM.

Shapes in comments: B windows, C channels of the stem, T = 25 steps, H hidden units.
"""

from __future__ import annotations

from typing import Final, Literal

import torch
from torch import Tensor, nn

Cell = Literal["rnn", "gru", "lstm"]
CELLS: Final[tuple[Cell, ...]] = ("rnn", "gru", "lstm")

STEM_CHANNELS: Final = 24
KERNEL: Final = 8
STRIDE: Final = 2
LSTM_HIDDEN: Final = 64
READOUT_DROPOUT: Final = 0.3

_MODULES: Final[dict[Cell, type[nn.RNN | nn.GRU | nn.LSTM]]] = {
    "rnn": nn.RNN,
    "gru": nn.GRU,
    "lstm": nn.LSTM,
}


class CellNetwork(nn.Module):
    """Two unpadded convolutions, one recurrent layer from zero state, a head over its states.

    As the shipped network, with the cell exchanged. An LSTM and a vanilla RNN learn one bias a
    unit and gate (torch's second would only be added to it); a GRU learns both, since its
    candidate uses them apart.

    Args:
        cell: Which recurrent layer.
        hidden: Its units.
        outputs: What the head tells apart.
        squash: Whether inputs are ``asinh(4 z) / 2`` and ``asinh(16 dz) / 2``, which needs
            z-scores; else they are the values and their first difference, as they are.
    """

    def __init__(self, cell: Cell, *, hidden: int, outputs: int, squash: bool = True) -> None:
        super().__init__()
        self.squash = squash
        self.conv1 = nn.Conv1d(2, STEM_CHANNELS, KERNEL, stride=STRIDE)
        self.conv2 = nn.Conv1d(STEM_CHANNELS, STEM_CHANNELS, KERNEL, stride=STRIDE)
        self.cell = _MODULES[cell](STEM_CHANNELS, hidden, batch_first=True)
        self.dropout = nn.Dropout(READOUT_DROPOUT)
        self.head = nn.Linear(3 * hidden, outputs)
        biases = dict(self.cell.named_parameters())
        with torch.no_grad():
            if cell != "gru":
                biases["bias_hh_l0"].zero_().requires_grad_(False)
            if cell == "lstm":  # forget gates start open (Jozefowicz et al., ICML 2015)
                biases["bias_ih_l0"][hidden : 2 * hidden] += 1

    def forward(self, z: Tensor) -> Tensor:
        """Logits of shape (B, outputs) for scaled windows of shape (B, window_samples)."""
        x, dx = z[:, 1:], z[:, 1:] - z[:, :-1]  # (B, 119)
        if self.squash:
            x, dx = torch.asinh(4 * x) / 2, torch.asinh(16 * dx) / 2
        x = torch.stack([x, dx], dim=1)  # (B, 2, 119)
        covered = KERNEL + (KERNEL - 1) * STRIDE  # samples that one step sees: 22
        x = x[:, :, (x.shape[2] - covered) % STRIDE**2 :]  # (B, 2, 118): the last step ends it
        x = torch.relu(self.conv2(torch.relu(self.conv1(x))))  # (B, C, T)
        h, _ = self.cell(x.transpose(1, 2))  # (B, T, C) -> (B, T, H)
        readout = torch.cat([h[:, -1], h.mean(dim=1), h.amax(dim=1)], dim=1)  # (B, 3H)
        logits: Tensor = self.head(self.dropout(readout))  # (B, outputs)
        return logits

    @property
    def n_parameters(self) -> int:
        """How many numbers are learnt."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


def equal_hidden(cell: Cell, *, outputs: int = 5) -> int:
    """Hidden units with which a network has the most nearly as many parameters as LSTM 64.

    The whole network counts, stem and head too. One unit more or less is 1 to 2% of it, so the
    sizes are equal to within 1%.

    Example:
        >>> [equal_hidden(cell) for cell in CELLS]
        [135, 75, 64]
    """
    wanted = _count("lstm", LSTM_HIDDEN, outputs)
    return min(range(1, 4 * LSTM_HIDDEN), key=lambda h: abs(_count(cell, h, outputs) - wanted))


def _count(cell: Cell, hidden: int, outputs: int) -> int:
    """Parameters of ``CellNetwork``, without building it."""
    stem = STEM_CHANNELS * (2 * KERNEL + 1) + STEM_CHANNELS * (STEM_CHANNELS * KERNEL + 1)
    gates, biases = {"rnn": (1, 1), "gru": (3, 2), "lstm": (4, 1)}[cell]
    recurrent = gates * hidden * (STEM_CHANNELS + hidden + biases)
    return stem + recurrent + outputs * (3 * hidden + 1)
