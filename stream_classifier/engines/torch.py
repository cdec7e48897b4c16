"""The network in torch: windows that are due in one batch, or a state that runs on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_classifier.bundle import Bundle
from stream_classifier.engines.plan import Plan, check_samples
from stream_classifier.engines.reference import to_classes
from stream_classifier.errors import EngineError, MissingExtraError

try:
    import torch
    from torch import Tensor
    from torch.nn import functional
except ModuleNotFoundError as error:  # pragma: no cover - the tests without torch check the text
    raise MissingExtraError(feature="the torch engine", extra="torch", module="torch") from error

F32 = NDArray[np.float32]

MAX_BATCH_WINDOWS = 4096
"""Larger batches are cut, so that memory stays bounded however long the chunk was."""


class TorchEngine:
    """Both modes in torch; for GPUs, for long recordings, and for checking the other engines.

    Windowed bundles: every due window from scratch, batched. Continuous ones: the samples that
    arrived in one call of the LSTM, its state kept. Within 1e-6 of the reference engine on a CPU
    (on a GPU not measured yet); not bit-equal to it, nor to itself in other batches.

    Not thread-safe.

    Args:
        bundle: Network, weights and mode.
        hop_samples: As for the reference engine.
        device: ``cpu`` or ``cuda``.

    Raises:
        EngineError: If the hop does not fit, or there is no CUDA device.
    """

    def __init__(self, bundle: Bundle, *, hop_samples: int, device: str = "cpu") -> None:
        plan = Plan.of(bundle, hop_samples=hop_samples)
        if device == "cuda" and not torch.cuda.is_available():
            raise EngineError(
                "device cuda: torch finds no CUDA device. Try: --device cpu, or install a CUDA "
                "build of torch"
            )
        self.hop_samples = hop_samples
        self._is_windowed = bundle.mode == "windowed"
        self._window = bundle.window_samples
        self._net = bundle.network
        self._lead = plan.lead_samples
        self._n_steps = plan.n_steps
        self._n_classes = len(bundle.class_names)
        self._device = torch.device(device)
        self._weights = {
            name: torch.from_numpy(value.copy()).to(self._device)
            for name, value in bundle.weights.items()
        }
        self._lstm = _lstm(self._weights, bundle.network.hidden).to(self._device)
        self._streams: dict[int, _Stream] = {}
        self._next_handle = 0

    def open(self, n_channels: int) -> int:
        """Add a stream and return its handle."""
        handle = self._next_handle
        self._next_handle += 1
        self._streams[handle] = _Stream(np.empty((0, n_channels), np.float32))
        return handle

    def reset(self, stream: int) -> None:
        """Forget a stream's past."""
        self._streams[stream] = _Stream(self._streams[stream].held[:0])

    def close(self, stream: int) -> None:
        """Remove a stream."""
        del self._streams[stream]

    def feed(self, samples: dict[int, F32]) -> dict[int, F32]:
        """Add z-scores to streams and return the windows they finish (``signals.Engine``)."""
        check_samples(samples, lambda handle: self._streams[handle].held.shape[1])
        for handle, new in samples.items():
            stream = self._streams[handle]
            stream.held = np.concatenate([stream.held, new.astype(np.float32)])
        if self._is_windowed:
            return self._feed_windows(list(samples))
        return {handle: self._run_on(self._streams[handle]) for handle in samples}

    def _feed_windows(self, handles: list[int]) -> dict[int, F32]:
        due: list[F32] = []
        counts: dict[int, tuple[int, int]] = {}
        for handle in handles:
            held = self._streams[handle].held  # from the next window's start
            n_windows = max(0, (len(held) - self._window) // self.hop_samples + 1)
            counts[handle] = (n_windows, held.shape[1])
            if n_windows:
                views = np.lib.stride_tricks.sliding_window_view(held, self._window, axis=0)
                windows = views[:: self.hop_samples][:n_windows]  # (windows, channels, samples)
                due.append(windows.reshape(-1, self._window))
            self._streams[handle].held = held[n_windows * self.hop_samples :].copy()
        if not due:
            none = np.empty((0, 0, self._n_classes), np.float32)
            return {h: none.reshape(0, c, self._n_classes) for h, (_, c) in counts.items()}
        probabilities = self._classify(np.concatenate(due))
        out = {}
        start = 0
        for handle, (n_windows, n_channels) in counts.items():
            stop = start + n_windows * n_channels
            out[handle] = probabilities[start:stop].reshape(n_windows, n_channels, -1)
            start = stop
        return out

    def _classify(self, windows: F32) -> F32:
        batches = [
            self._forward(windows[i : i + MAX_BATCH_WINDOWS])
            for i in range(0, len(windows), MAX_BATCH_WINDOWS)
        ]
        return np.concatenate(batches)

    # TF32 would keep 10 bits of each factor; without it a GPU rounds as a CPU does.
    @torch.inference_mode()
    @torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    def _forward(self, windows: F32) -> F32:
        x = self._see(torch.from_numpy(windows[:, self._lead - 1 :]).to(self._device))
        h, _ = self._lstm(x)  # (B, steps, H)
        return self._decide(torch.cat([h[:, -1], h.mean(dim=1), h.amax(dim=1)], dim=1))

    @torch.inference_mode()
    @torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    def _run_on(self, stream: _Stream) -> F32:
        """Take the steps that the held samples allow, and decide wherever that is due."""
        net, n_channels = self._net, stream.held.shape[1]
        # The first step of a run leaves out the lead; each later one needs a sample before it.
        first = self._lead - 1 if stream.n_steps == 0 else 0
        n_new = (len(stream.held) - first - 1 - net.receptive_samples) // net.stride_samples + 1
        if n_new < 1:
            return np.empty((0, n_channels, self._n_classes), np.float32)
        needed = 1 + net.receptive_samples + (n_new - 1) * net.stride_samples
        z = torch.from_numpy(np.ascontiguousarray(stream.held[first : first + needed].T))
        stream.held = stream.held[first + n_new * net.stride_samples :].copy()
        h, stream.state = self._lstm(self._see(z.to(self._device)), stream.state)
        past = h if stream.past is None else torch.cat([stream.past, h], dim=1)  # (L, n, H)
        # Decisions are due after the first window's steps, then once a hop.
        per_hop = self.hop_samples // net.stride_samples
        due = [
            past.shape[1] - n_new + k
            for k in range(n_new)
            if (beyond := stream.n_steps + k + 1 - self._n_steps) >= 0 and beyond % per_hop == 0
        ]
        stream.n_steps += n_new
        stream.past = past[:, -(self._n_steps - 1) :].clone() if self._n_steps > 1 else past[:, :0]
        if not due:
            return np.empty((0, n_channels, self._n_classes), np.float32)
        per_batch = max(1, MAX_BATCH_WINDOWS // n_channels)
        ends = torch.tensor(due, device=self._device)
        batches = torch.split(ends, per_batch)
        return np.concatenate([self._decide_at(past, some) for some in batches])

    def _decide_at(self, past: Tensor, ends: Tensor) -> F32:
        """Class probabilities, (windows, L, classes), of states (L, n, H) up to each end."""
        steps = ends[:, None] + torch.arange(1 - self._n_steps, 1, device=self._device)
        seen = past[:, steps].transpose(0, 1)  # (windows, L, steps, H)
        readout = torch.cat([seen[:, :, -1], seen.mean(dim=2), seen.amax(dim=2)], dim=2)
        decided = self._decide(readout.flatten(0, 1))
        return decided.reshape(len(ends), -1, self._n_classes)

    def _see(self, z: Tensor) -> Tensor:
        """Run the stem: z-scores (B, T), the first only for the difference, to (B, steps, C)."""
        u = torch.asinh(4 * z[:, 1:]) / 2
        v = torch.asinh(16 * z.diff(dim=1)) / 2
        x = torch.stack([u, v], dim=1)  # (B, 2, T - 1)
        for n, conv in enumerate(self._net.stem, start=1):
            weight, bias = self._weights[f"conv{n}.weight"], self._weights[f"conv{n}.bias"]
            x = functional.conv1d(x, weight, bias, stride=conv.stride).relu()
        return x.transpose(1, 2)

    def _decide(self, readout: Tensor) -> F32:
        """Class probabilities, (B, classes), of readouts (B, 3H)."""
        logits = readout @ self._weights["head.weight"].T + self._weights["head.bias"]
        return to_classes(logits.cpu().numpy(), self._net.output_classes, self._n_classes)


@dataclass(slots=True, eq=False)
class _Stream:
    """What one stream carries from call to call; L channels, H hidden units."""

    held: F32  # (n, L): from the next window's start; continuous: from the next step's start
    n_steps: int = 0  # continuous, as all below
    state: tuple[Tensor, Tensor] | None = None
    past: Tensor | None = None  # (L, steps - 1, H)


def _lstm(weights: dict[str, Any], hidden: int) -> torch.nn.LSTM:
    lstm = torch.nn.LSTM(weights["lstm.weight_ih"].shape[1], hidden, batch_first=True)
    lstm.load_state_dict(
        {
            "weight_ih_l0": weights["lstm.weight_ih"],
            "weight_hh_l0": weights["lstm.weight_hh"],
            "bias_ih_l0": weights["lstm.bias"],
            "bias_hh_l0": torch.zeros_like(weights["lstm.bias"]),
        }
    )
    return lstm.eval()
