"""The network in numpy, in both modes: readable, always there, exact.

The stem (convolutions) and its product with the LSTM's input weights depend on the samples
only, so they are done once, whatever reads them. Then, step by step (4 samples each):

*Windowed.* Every window starts from a zero state, so overlapping windows cannot share a state.
But the work of a window need not be done at its end: each stream keeps one LSTM state for every
window that has begun (a *slot*), and each step advances all of them at once. A window is
finished at its last sample with one step to do, not 21, and its slot is taken by the next one.

    step of 4 samples   0 1 2 3 4 5 6 ...                 20 21 22
    window 0, slot 0    x x x x x x x ...                  x
    window 1, slot 1        x x x x x ...                  x  x  x
    window 2, slot 2            x x x ...                  x  x  x

*Continuous.* One state runs on from the last gap, and the readout (last, mean and maximum) slides
over the hidden states of the last window. The mean is made anew from those states each time: a
running sum would drift in a day.

Bit-equality. A result must not depend on how samples are cut or on who else is in the batch,
but BLAS rounds a row differently in matrices of other heights. So every product here is a
stack of equally shaped small ones, one a lane (a channel of a stream) and step, and a window's
slot follows from its number alone.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from stream_classifier.bundle import Bundle
from stream_classifier.detection.scaler import FrozenScaler
from stream_classifier.engines.plan import Plan, check_samples
from stream_classifier.engines.snapshot import StreamState, pack, unpack
from stream_classifier.errors import ShapeError
from stream_classifier.signals import Engine

F32 = NDArray[np.float32]


class ReferenceEngine:
    """Numpy engine for any number of streams; see the module for how and why.

    Not thread-safe.

    Args:
        bundle: Network, weights and mode.
        hop_samples: Samples from one decision to the next: a multiple of the stem's stride,
            at most the window.

    Raises:
        EngineError: If the hop or the weights do not fit the network.
    """

    name = "reference (numpy)"

    def __init__(self, bundle: Bundle, *, hop_samples: int) -> None:
        net = bundle.network
        self.hop_samples = hop_samples
        self.fault: str | None = None
        self._bundle = bundle
        self._net = net
        self._plan = Plan.of(bundle, hop_samples=hop_samples)
        w = bundle.weights
        # Convolutions as products: (out, in, kernel) -> (in * kernel, out).
        self._stem = [
            (
                conv,
                np.ascontiguousarray(w[f"conv{n}.weight"].reshape(conv.channels, -1).T),
                w[f"conv{n}.bias"],
            )
            for n, conv in enumerate(net.stem, start=1)
        ]
        # Gates are stacked i, f, g, o. sigmoid(x) = (1 + tanh(x / 2)) / 2 cannot overflow, and
        # halving is exact, so the halves of the three sigmoid gates go into the weights.
        half = np.repeat(np.array([0.5, 0.5, 1, 0.5], np.float32), net.hidden)
        self._layers = [
            (
                np.ascontiguousarray(w[f"{layer}.weight_ih"].T * half),  # (C or H, 4H)
                np.ascontiguousarray(w[f"{layer}.weight_hh"].T * half),  # (H, 4H)
                w[f"{layer}.bias"] * half,
            )
            for layer in net.layer_names
        ]
        self._head = np.ascontiguousarray(w["head.weight"].T)  # (3H, outputs)
        self._head_bias = w["head.bias"]
        self._n_classes = len(bundle.class_names)
        self._streams: dict[int, StreamState] = {}
        self._next_handle = 0

    def open(self, n_channels: int) -> int:
        """Add a stream and return its handle."""
        return self._add(self._fresh(n_channels))

    def reset(self, stream: int) -> None:
        """Forget a stream's past; its next sample starts a new run."""
        self._streams[stream] = self._fresh(self._n_lanes(stream))

    def close(self, stream: int) -> None:
        """Remove a stream."""
        del self._streams[stream]

    def feed(self, samples: dict[int, F32]) -> dict[int, F32]:
        """Add z-scores to streams and return the windows they finish (``signals.Engine``)."""
        check_samples(samples, self._n_lanes)
        inputs = {
            handle: self._see(self._streams[handle], new.astype(np.float32, copy=False))
            for handle, new in samples.items()
        }  # by handle, (steps, L, 4H)
        done: dict[int, list[F32]] = {handle: [] for handle in samples}
        for step in range(max((len(x) for x in inputs.values()), default=0)):
            moving = [handle for handle, x in inputs.items() if step < len(x)]
            streams = [self._streams[handle] for handle in moving]
            self._advance(streams, np.concatenate([inputs[handle][step] for handle in moving]))
            for handle, stream in zip(moving, streams, strict=True):
                if (finished := self._finished(stream)) is not None:
                    done[handle].append(finished)
        return {
            handle: np.stack(windows)
            if windows
            else np.empty((0, samples[handle].shape[1], self._n_classes), np.float32)
            for handle, windows in done.items()
        }

    def catch_up(self) -> None:
        """Nothing is put off."""

    def snapshot(self, stream: int) -> bytes:
        """Return all that a stream carries."""
        return pack(self._streams[stream], self._bundle, hop_samples=self.hop_samples)

    def restore(self, snapshot: bytes) -> int:
        """Add a stream that goes on from a snapshot, and return its handle."""
        return self._add(unpack(snapshot, self._bundle, self._plan, hop_samples=self.hop_samples))

    def _add(self, state: StreamState) -> int:
        handle = self._next_handle
        self._next_handle += 1
        self._streams[handle] = state
        return handle

    def _n_lanes(self, stream: int) -> int:
        return len(self._streams[stream].previous)

    def _fresh(self, n_lanes: int) -> StreamState:
        inputs = [self._net.n_features, *(conv.channels for conv in self._net.stem)]
        state = (n_lanes, self._plan.n_states, self._net.hidden)
        windows = (n_lanes if self._plan.is_windowed else 0, *state[1:])
        return StreamState(
            n_skipped=0,
            n_steps=0,
            previous=np.zeros(n_lanes, np.float32),
            waiting=[np.empty((0, n_lanes, c), np.float32) for c in inputs[:-1]],
            h=[np.zeros(state, np.float32) for _ in range(self._net.layers)],
            c=[np.zeros(state, np.float32) for _ in range(self._net.layers)],
            h_sum=np.zeros(windows, np.float32),
            h_max=np.full(windows, -np.inf, np.float32),
            past=np.empty((0, n_lanes, self._net.hidden), np.float32),
        )

    def _see(self, s: StreamState, z: F32) -> F32:
        """Run the stem over new samples; return the LSTM's inputs, shape ``(steps, L, 4H)``."""
        n_lanes = len(s.previous)
        skipped = min(self._plan.lead_samples - s.n_skipped, len(z))
        if skipped:  # so that the last step of the first window ends with it
            s.n_skipped += skipped
            s.previous = z[skipped - 1]
            z = z[skipped:]
        x = self._features(s.previous, z)
        if len(z):
            s.previous = z[-1]
        for layer, (conv, weight, bias) in enumerate(self._stem):
            seen = np.concatenate([s.waiting[layer], x])  # (n, L, C)
            n_out = max(0, (len(seen) - conv.kernel) // conv.stride + 1)
            s.waiting[layer] = seen[n_out * conv.stride :]
            if n_out:
                windows = sliding_window_view(seen, conv.kernel, axis=0)[:: conv.stride]
                x = np.maximum(_lane_products(windows[:n_out], weight) + bias, 0)
            else:
                x = np.empty((0, n_lanes, conv.channels), np.float32)
        w_in, _, bias = self._layers[0]
        return _lane_products(x, w_in) + bias

    def _features(self, previous: F32, z: F32) -> F32:
        """Return shape ``(n, L, features)`` of z-scores ``(n, L)`` after the previous ones."""
        if self._net.features == "raw":
            return z[:, :, None]
        change = np.diff(z, axis=0, prepend=previous[None])
        x: F32 = np.stack([np.arcsinh(4 * z), np.arcsinh(16 * change)], axis=2)
        x *= np.float32(0.5)
        return x

    def _advance(self, streams: list[StreamState], x: F32) -> None:
        """Take one step, inputs of shape ``(lanes, 4H)``."""
        for s in streams:
            if (slot := self._plan.begins(s.n_steps)) is not None:  # its slot from zero
                for state in (*s.h, *s.c, s.h_sum):
                    state[:, slot] = 0
                s.h_max[:, slot] = -np.inf
        lanes = _lanes(streams)
        inputs = x[:, None]  # (lanes, 1, 4H): all windows see the same samples
        for layer, (_, w_rec, _) in enumerate(self._layers):
            h = np.concatenate([s.h[layer] for s in streams])  # (lanes, S, H)
            c = np.concatenate([s.c[layer] for s in streams])
            gates = np.tanh(h @ w_rec + inputs)  # (lanes, S, 4H)
            i, f, g, o = np.split(gates, 4, axis=2)
            c = (f + 1) * np.float32(0.5) * c + (i + 1) * np.float32(0.5) * g
            h = (o + 1) * np.float32(0.5) * np.tanh(c)
            for s, own in zip(streams, lanes, strict=True):
                s.h[layer], s.c[layer] = h[own], c[own]
            if layer + 1 < len(self._layers):
                w_in, _, bias = self._layers[layer + 1]
                inputs = h @ w_in + bias
        for s in streams:
            s.n_steps += 1
            if self._plan.is_windowed:
                s.h_sum += s.h[-1]
                np.maximum(s.h_max, s.h[-1], out=s.h_max)
            else:
                kept = s.past[1:] if len(s.past) == self._plan.n_steps else s.past
                s.past = np.concatenate([kept, s.h[-1][None, :, 0]])  # (n, L, H)

    def _finished(self, s: StreamState) -> F32 | None:
        """Return the finished window's probabilities, shape ``(L, classes)``, if one is."""
        if (slot := self._plan.ends(s.n_steps)) is None:
            return None
        last = s.h[-1][:, slot]
        if self._plan.is_windowed:
            total, highest = s.h_sum[:, slot], s.h_max[:, slot]
        else:  # summed oldest first
            total, highest = s.past.sum(axis=0), s.past.max(axis=0)
        mean = total / np.float32(self._plan.n_steps)
        readout = np.concatenate([last, mean, highest], axis=1)  # (L, 3H)
        logits = _lane_products(readout, self._head) + self._head_bias  # (L, outputs)
        return to_classes(logits, self._net.output_classes, self._n_classes)


def _lane_products(rows: F32, weight: F32) -> F32:
    """Multiply each row by itself: rounding must not depend on how many there are.

    Args:
        rows: Shape ``(..., n)``, or more trailing axes that hold ``n`` numbers together.
        weight: Shape ``(n, m)``.

    Returns:
        Shape ``(..., m)``.
    """
    outer = rows.shape[: 2 if rows.ndim == 4 else rows.ndim - 1]
    flat = np.ascontiguousarray(rows).reshape(-1, 1, len(weight))
    return (flat @ weight).reshape(*outer, weight.shape[1])


class Build(Protocol):
    """How an engine is made: an engine's class, or what makes one with more settings."""

    def __call__(self, bundle: Bundle, *, hop_samples: int) -> Engine:
        """Return an engine for a bundle."""
        ...


def classify_windows(bundle: Bundle, windows_uv: F32, *, build: Build = ReferenceEngine) -> F32:
    """Classify single stretches, each from zero state.

    Args:
        bundle: Network, weights and scaler. Its filters are not applied: a filter needs more
            past than one window has.
        windows_uv: Shape ``(n_windows, n_samples)``, µV; for a windowed bundle as long as its
            window, for a continuous one at least so long.
        build: Makes the engine that runs them.

    Returns:
        Shape ``(n_windows, n_classes)``, probabilities: the last decision on each.

    Raises:
        ShapeError: If the windows have another length.
    """
    n_samples = windows_uv.shape[1] if windows_uv.ndim == 2 else 0
    beyond = n_samples - bundle.window_samples
    if beyond < 0 or (beyond and bundle.mode == "windowed"):
        raise ShapeError(expected=f"(n, {bundle.window_samples})", actual=windows_uv.shape)
    scaler = FrozenScaler(mean_uv=bundle.scaler_mean_uv, std_uv=bundle.scaler_std_uv)
    stride = bundle.network.stride_samples
    one_window = bundle.window_samples // stride * stride
    hop = one_window if bundle.mode == "windowed" else stride
    engine = build(bundle, hop_samples=hop)
    windows_uv = windows_uv[:, beyond % stride :]  # so that the last decision is at the very end
    lanes = engine.open(len(windows_uv))  # one lane a window
    scaled = scaler.scale(np.ascontiguousarray(windows_uv.T, dtype=np.float32))
    probabilities: F32 = engine.feed({lanes: scaled})[lanes][-1]
    return probabilities


def to_classes(logits: F32, output_classes: tuple[int, ...], n_classes: int) -> F32:
    """Softmax over the network's outputs, summed to the mission's classes (last axis)."""
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    classes = np.zeros((*logits.shape[:-1], n_classes), np.float32)
    for output, target in enumerate(output_classes):
        classes[..., target] += p[..., output]
    return classes


def _lanes(streams: list[StreamState]) -> list[slice]:
    ends = np.cumsum([len(s.previous) for s in streams]).tolist()
    return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
