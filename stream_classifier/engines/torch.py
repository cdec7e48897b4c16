"""The network in torch: all windows that are due, of all streams, in one batch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_classifier.bundle import Bundle
from stream_classifier.engines.reference import check_hop, lead_samples, to_classes
from stream_classifier.errors import EngineError, MissingExtraError, ShapeError

try:
    import torch
    from torch.nn import functional
except ModuleNotFoundError as error:  # pragma: no cover - the tests without torch check the text
    raise MissingExtraError(feature="the torch engine", extra="torch", module="torch") from error

F32 = NDArray[np.float32]

MAX_BATCH_WINDOWS = 4096
"""Larger batches are cut, so that memory stays bounded however long the chunk was."""


class TorchEngine:
    """Every due window from scratch, batched; for GPUs and for checking the other engines.

    Within 1e-6 of the reference engine on a CPU (on a GPU not measured yet); not bit-equal to it,
    nor to itself in other batches.

    Not thread-safe.

    Args:
        bundle: Network and weights.
        hop_samples: As for the reference engine.
        device: ``cpu`` or ``cuda``.

    Raises:
        EngineError: If the hop does not fit, or there is no CUDA device.
    """

    def __init__(self, bundle: Bundle, *, hop_samples: int, device: str = "cpu") -> None:
        check_hop(bundle.network, hop_samples=hop_samples, window_samples=bundle.window_samples)
        if device == "cuda" and not torch.cuda.is_available():
            raise EngineError(
                "device cuda: torch finds no CUDA device. Try: --device cpu, or install a CUDA "
                "build of torch"
            )
        self.hop_samples = hop_samples
        self._window = bundle.window_samples
        self._net = bundle.network
        self._lead = lead_samples(bundle.network, bundle.window_samples)
        self._n_classes = len(bundle.class_names)
        self._device = torch.device(device)
        self._weights = {
            name: torch.from_numpy(value.copy()).to(self._device)
            for name, value in bundle.weights.items()
        }
        self._lstm = _lstm(self._weights, bundle.network.hidden).to(self._device)
        self._held: dict[int, F32] = {}  # by handle: (n, channels), from the next window's start
        self._next_handle = 0

    def open(self, n_channels: int) -> int:
        """Add a stream and return its handle."""
        handle = self._next_handle
        self._next_handle += 1
        self._held[handle] = np.empty((0, n_channels), np.float32)
        return handle

    def reset(self, stream: int) -> None:
        """Forget a stream's past."""
        self._held[stream] = self._held[stream][:0]

    def close(self, stream: int) -> None:
        """Remove a stream."""
        del self._held[stream]

    def feed(self, samples: dict[int, F32]) -> dict[int, F32]:
        """Add z-scores to streams and return the windows they finish (``signals.Engine``)."""
        due: list[F32] = []
        shapes: dict[int, tuple[int, int]] = {}
        for handle, new in samples.items():
            held = self._held[handle]
            if new.ndim != 2 or new.shape[1] != held.shape[1]:
                raise ShapeError(expected=f"(n, {held.shape[1]})", actual=new.shape)
            held = np.concatenate([held, new.astype(np.float32)])
            n_windows = max(0, (len(held) - self._window) // self.hop_samples + 1)
            shapes[handle] = (n_windows, held.shape[1])
            if n_windows:
                views = np.lib.stride_tricks.sliding_window_view(held, self._window, axis=0)
                windows = views[:: self.hop_samples][:n_windows]  # (windows, channels, samples)
                due.append(windows.reshape(-1, self._window))
            self._held[handle] = held[n_windows * self.hop_samples :].copy()
        if not due:
            return {
                h: np.empty((0, c, self._n_classes), np.float32) for h, (_, c) in shapes.items()
            }
        probabilities = self._classify(np.concatenate(due))
        out = {}
        start = 0
        for handle, (n_windows, n_channels) in shapes.items():
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
        w, stride = self._weights, self._net.stride_samples
        z = torch.from_numpy(windows).to(self._device)  # (B, T)
        z = z[:, self._lead - 1 :]
        u = torch.asinh(4 * z[:, 1:]) / 2
        v = torch.asinh(16 * z.diff(dim=1)) / 2
        x = torch.stack([u, v], dim=1)  # (B, 2, T - lead)
        x = functional.conv1d(x, w["conv1.weight"], w["conv1.bias"], stride=stride).relu()
        x = functional.conv1d(x, w["conv2.weight"], w["conv2.bias"], stride=stride).relu()
        h, _ = self._lstm(x.transpose(1, 2))  # (B, steps, H)
        readout = torch.cat([h[:, -1], h.mean(dim=1), h.amax(dim=1)], dim=1)  # (B, 3H)
        logits = readout @ w["head.weight"].T + w["head.bias"]  # (B, outputs)
        return to_classes(logits.cpu().numpy(), self._net.output_classes, self._n_classes)


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
