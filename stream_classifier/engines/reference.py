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

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from stream_classifier.bundle import Bundle, NetworkSpec
from stream_classifier.detection.scaler import FrozenScaler
from stream_classifier.errors import EngineError, ShapeError

F32 = NDArray[np.float32]


@dataclass(slots=True, eq=False)
class _Stream:
    """What one stream carries from step to step; L lanes (channels), S states, H units."""

    n_lanes: int
    n_skipped: int  # samples of this run that no step covers, left out so far
    previous: F32  # (L,) the last z-score taken, for the difference
    waiting: list[F32]  # by convolution, (n, L, C): inputs that its next outputs need
    n_steps: int  # steps of this run done
    h: F32  # (L, S, H)
    c: F32  # (L, S, H)
    h_sum: F32  # (L, S, H) windowed: over the steps of the window so far
    h_max: F32  # (L, S, H)
    past: list[F32] = field(default_factory=list)  # continuous: h of the last window's steps


class ReferenceEngine:
    """Numpy engine for any number of streams; see the module for how and why.

    Not thread-safe.

    Args:
        bundle: Network, weights and mode.
        hop_samples: Samples from one decision to the next: a multiple of the stem's stride,
            at most the window.

    Raises:
        EngineError: If the hop does not fit.
    """

    def __init__(self, bundle: Bundle, *, hop_samples: int) -> None:
        net = bundle.network
        check_hop(net, hop_samples=hop_samples, window_samples=bundle.window_samples)
        self.hop_samples = hop_samples
        self._net = net
        self._is_windowed = bundle.mode == "windowed"
        self._lead = lead_samples(net, bundle.window_samples)
        self._n_steps = n_steps(net, bundle.window_samples)
        self._steps_per_hop = hop_samples // net.stride_samples
        self._n_states = math.ceil(self._n_steps / self._steps_per_hop) if self._is_windowed else 1
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
        self._w_in = np.ascontiguousarray(w["lstm.weight_ih"].T * half)  # (C, 4H)
        self._w_rec = np.ascontiguousarray(w["lstm.weight_hh"].T * half)  # (H, 4H)
        self._bias = w["lstm.bias"] * half
        self._head = np.ascontiguousarray(w["head.weight"].T)  # (3H, outputs)
        self._head_bias = w["head.bias"]
        self._n_classes = len(bundle.class_names)
        self._streams: dict[int, _Stream] = {}
        self._next_handle = 0

    def open(self, n_channels: int) -> int:
        """Add a stream and return its handle."""
        handle = self._next_handle
        self._next_handle += 1
        self._streams[handle] = self._fresh(n_channels)
        return handle

    def reset(self, stream: int) -> None:
        """Forget a stream's past; its next sample starts a new run."""
        self._streams[stream] = self._fresh(self._streams[stream].n_lanes)

    def close(self, stream: int) -> None:
        """Remove a stream."""
        del self._streams[stream]

    def feed(self, samples: dict[int, F32]) -> dict[int, F32]:
        """Add z-scores to streams and return the windows they finish (``signals.Engine``)."""
        for handle, new in samples.items():
            n_lanes = self._streams[handle].n_lanes
            if new.ndim != 2 or new.shape[1] != n_lanes:
                raise ShapeError(expected=f"(n, {n_lanes})", actual=new.shape)
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

    def _fresh(self, n_lanes: int) -> _Stream:
        channels = [2, *(conv.channels for conv in self._net.stem)]
        state = (n_lanes, self._n_states, self._net.hidden)
        return _Stream(
            n_lanes=n_lanes,
            n_skipped=0,
            previous=np.zeros(n_lanes, np.float32),
            waiting=[np.empty((0, n_lanes, c), np.float32) for c in channels[:-1]],
            n_steps=0,
            h=np.zeros(state, np.float32),
            c=np.zeros(state, np.float32),
            h_sum=np.zeros(state, np.float32),
            h_max=np.full(state, -np.inf, np.float32),
        )

    def _see(self, s: _Stream, z: F32) -> F32:
        """Run the stem over new samples; return the LSTM's inputs, shape ``(steps, L, 4H)``."""
        skipped = min(self._lead - s.n_skipped, len(z))
        if skipped:  # so that the last step of the first window ends with it
            s.n_skipped += skipped
            s.previous = z[skipped - 1]
            z = z[skipped:]
        change = np.diff(z, axis=0, prepend=s.previous[None])
        if len(z):
            s.previous = z[-1]
        x: F32 = np.stack([np.arcsinh(4 * z), np.arcsinh(16 * change)], axis=2)
        x *= np.float32(0.5)
        for layer, (conv, weight, bias) in enumerate(self._stem):
            seen = np.concatenate([s.waiting[layer], x])  # (n, L, C)
            n_out = max(0, (len(seen) - conv.kernel) // conv.stride + 1)
            s.waiting[layer] = seen[n_out * conv.stride :]
            if n_out:
                windows = sliding_window_view(seen, conv.kernel, axis=0)[:: conv.stride]
                x = np.maximum(_lane_products(windows[:n_out], weight) + bias, 0)
            else:
                x = np.empty((0, s.n_lanes, conv.channels), np.float32)
        return _lane_products(x, self._w_in) + self._bias

    def _advance(self, streams: list[_Stream], x: F32) -> None:
        """Take one step, inputs of shape ``(lanes, 4H)``."""
        if self._is_windowed:
            for s in streams:
                if s.n_steps % self._steps_per_hop == 0:  # a window starts: its slot from zero
                    slot = s.n_steps // self._steps_per_hop % self._n_states
                    s.h[:, slot] = s.c[:, slot] = s.h_sum[:, slot] = 0
                    s.h_max[:, slot] = -np.inf
        h = np.concatenate([s.h for s in streams])  # (lanes, S, H)
        c = np.concatenate([s.c for s in streams])
        gates = np.tanh(h @ self._w_rec + x[:, None])  # (lanes, S, 4H)
        i, f, g, o = np.split(gates, 4, axis=2)
        c = (f + 1) * np.float32(0.5) * c + (i + 1) * np.float32(0.5) * g
        h = (o + 1) * np.float32(0.5) * np.tanh(c)
        for s, lanes in zip(streams, _lanes(streams), strict=True):
            s.h, s.c = h[lanes], c[lanes]
            s.n_steps += 1
            if self._is_windowed:
                s.h_sum += s.h
                np.maximum(s.h_max, s.h, out=s.h_max)
            else:
                s.past = [*s.past[-(self._n_steps - 1) :], s.h[:, 0]]

    def _finished(self, s: _Stream) -> F32 | None:
        """Return the finished window's probabilities, shape ``(L, classes)``, if one is."""
        begun = s.n_steps - self._n_steps
        if begun < 0 or begun % self._steps_per_hop:
            return None
        if self._is_windowed:
            slot = begun // self._steps_per_hop % self._n_states
            last, total, highest = s.h[:, slot], s.h_sum[:, slot], s.h_max[:, slot]
        else:
            past = np.stack(s.past)  # (steps, L, H), summed oldest first
            last, total, highest = s.past[-1], past.sum(axis=0), past.max(axis=0)
        mean = total / np.float32(self._n_steps)
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


def classify_windows(bundle: Bundle, windows_uv: F32) -> F32:
    """Classify single stretches, each from zero state, through the reference engine.

    Args:
        bundle: Network, weights and scaler. Its filters are not applied: a filter needs more
            past than one window has.
        windows_uv: Shape ``(n_windows, n_samples)``, µV; for a windowed bundle as long as its
            window, for a continuous one at least so long.

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
    engine = ReferenceEngine(bundle, hop_samples=hop)
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


def n_steps(net: NetworkSpec, window_samples: int) -> int:
    """Steps of the LSTM in one window.

    Raises:
        EngineError: If the stem sees more than a window.
    """
    steps = (window_samples - 1 - net.receptive_samples) // net.stride_samples + 1
    if steps < 1:
        raise EngineError(
            f"the stem sees {net.receptive_samples + 1} samples, a window has {window_samples}. "
            "Try: another bundle"
        )
    return steps


def lead_samples(net: NetworkSpec, window_samples: int) -> int:
    """Samples of a window before the stem's first input, so that its last ends the window.

    At least one, for the first difference.
    """
    steps = n_steps(net, window_samples)
    return window_samples - net.receptive_samples - (steps - 1) * net.stride_samples


def check_hop(net: NetworkSpec, *, hop_samples: int, window_samples: int) -> None:
    """Refuse a hop that the stem cannot share between windows.

    Raises:
        EngineError: If ``hop_samples`` is no multiple of the stem's stride up to the window.
    """
    stride = net.stride_samples
    if hop_samples % stride or not stride <= hop_samples <= window_samples:
        raise EngineError(
            f"hop of {hop_samples} samples: expected a multiple of {stride}, from {stride} to "
            f"{window_samples} samples. Try: --set model.hop_samples=8"
        )


def _lanes(streams: list[_Stream]) -> list[slice]:
    ends = np.cumsum([s.n_lanes for s in streams]).tolist()
    return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
