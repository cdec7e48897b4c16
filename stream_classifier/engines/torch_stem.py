"""The stem in torch: z-scores to the inputs of the LSTM, for any number of lanes at once.

A lane is one channel of one stream. The run of a lane is cut into *blocks* of the stem's stride
(4 samples): each block is one step of the LSTM, and after each the convolutions of every lane are
equally far, so that lanes of any age fit one batch. Where the first step does not end with a block,
zeros go ahead of the run. The blocks before the first step only fill the convolutions' queues.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from stream_classifier.bundle import NetworkSpec
from stream_classifier.engines.plan import Plan


@dataclass(frozen=True, slots=True)
class Blocks:
    """How a run is cut into blocks.

    Attributes:
        stride_samples: Samples in a block.
        pad_samples: Zeros ahead of a run's first sample, so that steps end where blocks do.
        n_warm: Blocks before the one that ends with the first step.
    """

    stride_samples: int
    pad_samples: int
    n_warm: int

    @classmethod
    def of(cls, net: NetworkSpec, plan: Plan) -> Self:
        """Cut the runs of a network."""
        stride = net.stride_samples
        first_end = plan.lead_samples + net.receptive_samples
        return cls(stride, -first_end % stride, -(-first_end // stride) - 1)

    def step(self, n_done: int) -> int:
        """Return the number of the step that the next block is; negative before the first.

        Args:
            n_done: Samples of the run so far, with the zeros ahead of it.
        """
        return n_done // self.stride_samples - self.n_warm


class Stem:
    """Features and convolutions of a network.

    What a lane carries from block to block is one row of floats: the last z-score, then for each
    convolution its newest ``kernel - 1`` inputs ``(kernel - 1, C)``, the newest last. How many of
    them its next output needs follows from where in a block the lane is.

    Args:
        net: The network.
        weights: Its weights by name, on the device it runs on.
    """

    def __init__(self, net: NetworkSpec, weights: Mapping[str, Tensor]) -> None:
        self._features = net.features
        self.layers = []  # (C inputs, convolution, weight (parts, n, outputs), bias)
        C = net.n_features
        for n, conv in enumerate(net.stem, start=1):
            weight = weights[f"conv{n}.weight"].permute(2, 1, 0)  # (kernel, C, outputs)
            by_part = weight.reshape(_n_parts(conv.kernel, C), -1, conv.channels).contiguous()
            self.layers.append((C, conv, by_part, weights[f"conv{n}.bias"]))
            C = conv.channels
        self.width = 1 + sum((conv.kernel - 1) * C for C, conv, _, _ in self.layers)

    def __call__(self, carried: Tensor, z: Tensor, phase: int) -> tuple[Tensor, Tensor]:
        """See new samples.

        Args:
            carried: Shape ``(B, width)``.
            z: Shape ``(B, n)``: z-scores.
            phase: Samples that the lanes have of the block that begins or goes on with these.

        Returns:
            The LSTM's inputs, shape ``(B, n_steps, C)``, and what is carried on.
        """
        n_lanes = len(z)
        x = self._see(carried[:, :1], z)  # (B, n, features)
        kept = [z[:, -1:] if z.shape[1] else carried[:, :1]]
        at = 1
        for (C, conv, weight, bias), n_waiting in zip(
            self.layers, self.waiting(phase), strict=True
        ):
            width = (conv.kernel - 1) * C
            seen = torch.cat([carried[:, at : at + width], x.flatten(1)], dim=1)
            kept.append(seen[:, seen.shape[1] - width :])
            seen = seen[:, width - n_waiting * C :]
            n_out = (n_waiting + x.shape[1] - conv.kernel) // conv.stride + 1
            if n_out > 0:
                # Samples lie one after the other, so that a kernel's view is a run of floats.
                views = seen.unfold(1, conv.kernel * C, conv.stride * C)  # (B, n_out, kernel * C)
                x = _product(views.reshape(-1, conv.kernel * C), weight)
                x = x.add_(bias).relu_().view(n_lanes, n_out, conv.channels)
            else:
                x = seen.new_empty((n_lanes, 0, conv.channels))
            at += width
        return x, torch.cat(kept, dim=1)

    def waiting(self, phase: int) -> list[int]:
        """Inputs of each convolution that its next outputs need, so far into a block."""
        counts, n_new = [], phase
        for _, conv, _, _ in self.layers:
            counts.append(conv.kernel - conv.stride + n_new % conv.stride)
            n_new //= conv.stride
        return counts

    def _see(self, previous: Tensor, z: Tensor) -> Tensor:
        """Return the features of each sample, shape ``(B, n, features)``."""
        if self._features == "raw":
            return z[:, :, None]
        change = z.diff(dim=1, prepend=previous)
        return torch.stack([4 * z, 16 * change], dim=2).asinh_().mul_(0.5)


def _n_parts(kernel: int, C: int) -> int:
    """Return into how many a convolution's sum is divided, which halves its rounding error."""
    return kernel if C > 16 else 1


def _product(rows: Tensor, weight: Tensor) -> Tensor:
    """Multiply rows ``(n, parts * m)`` by weights ``(parts, m, outputs)``, part by part."""
    if len(weight) == 1:
        return rows @ weight[0]
    parts = rows.view(len(rows), len(weight), -1).transpose(0, 1)  # (parts, n, m)
    return torch.bmm(parts, weight).sum(dim=0)
