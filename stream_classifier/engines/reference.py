"""The network in numpy, as staggered states: readable, always there, exact.

Every window starts from a zero state, so overlapping windows cannot share a state. But the
work of a window need not be done at its end: each stream keeps one LSTM state for every window
that has begun (a *slot*), and each step of the convolutional stem (4 samples) advances all of
them at once. The stem's output and its product with the input weights depend on the samples
only, so all slots share them. A window is finished at its last sample with one step to do,
not 25, and its slot is taken by the next window.

    step of 4 samples   0 1 2 3 4 5 6 ...                 24 25 26
    window 0, slot 0    x x x x x x x ...                  x
    window 1, slot 1        x x x x x ...                  x  x  x
    window 2, slot 2            x x x ...                  x  x  x

Bit-equality. A result must not depend on how samples are cut or on who else is in the batch,
but BLAS rounds a row differently in matrices of other heights. So every product here is a
stack of equally shaped small ones, one a lane (a channel of a stream), each step is done by
itself, and a window's slot follows from its number alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream_classifier.bundle import Bundle, NetworkSpec
from stream_classifier.detection.scaler import FrozenScaler
from stream_classifier.errors import EngineError, ShapeError

F32 = NDArray[np.float32]


@dataclass(slots=True, eq=False)
class _Stream:
    """What one stream carries from step to step; L lanes (channels), S slots, H units."""

    pending: F32  # (n, L) z-scores not yet consumed by a step
    conv1: F32  # (L, kernel, C) the latest outputs of the first convolution
    n_conv1: int  # how many of them this run has made
    n_steps: int  # steps of this run done
    h: F32  # (L, S, H)
    c: F32  # (L, S, H)
    h_sum: F32  # (L, S, H) over the steps of the window so far
    h_max: F32  # (L, S, H)


class ReferenceEngine:
    """Numpy engine for any number of streams; see the module for how and why.

    Not thread-safe.

    Args:
        bundle: Network and weights; only ``windowed`` bundles.
        hop_samples: Samples from one window to the next: a multiple of the stem's stride,
            at most the window.

    Raises:
        EngineError: If the hop does not fit.
    """

    def __init__(self, bundle: Bundle, *, hop_samples: int) -> None:
        net = bundle.network
        check_hop(net, hop_samples=hop_samples, window_samples=bundle.window_samples)
        self.hop_samples = hop_samples
        self._net = net
        self._lead = lead_samples(net, bundle.window_samples)
        self._n_steps = n_steps(net, bundle.window_samples)
        self._steps_per_hop = hop_samples // net.stride_samples**2
        self._n_slots = math.ceil(self._n_steps / self._steps_per_hop)
        w = bundle.weights
        kernel, channels = net.kernel_samples, net.conv_channels
        # Convolutions as products: (out, in, kernel) -> (in * kernel, out).
        self._conv1 = np.ascontiguousarray(w["conv1.weight"].reshape(channels, 2 * kernel).T)
        self._conv1_bias = w["conv1.bias"]
        self._conv2 = np.ascontiguousarray(
            w["conv2.weight"].transpose(0, 2, 1).reshape(channels, kernel * channels).T
        )
        self._conv2_bias = w["conv2.bias"]
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
        self._streams[stream] = self._fresh(self._streams[stream].h.shape[0])

    def close(self, stream: int) -> None:
        """Remove a stream."""
        del self._streams[stream]

    def feed(self, samples: dict[int, F32]) -> dict[int, F32]:
        """Add z-scores to streams and return the windows they finish (``signals.Engine``)."""
        done: dict[int, list[F32]] = {handle: [] for handle in samples}
        for handle, new in samples.items():
            stream = self._streams[handle]
            if new.ndim != 2 or new.shape[1] != stream.pending.shape[1]:
                raise ShapeError(expected=f"(n, {stream.pending.shape[1]})", actual=new.shape)
            stream.pending = np.concatenate([stream.pending, new.astype(np.float32)])
        waiting = list(samples)
        while waiting := [handle for handle in waiting if self._ready(self._streams[handle])]:
            streams = [self._streams[handle] for handle in waiting]
            for handle, finished in zip(waiting, self._step(streams), strict=True):
                if finished is not None:
                    done[handle].append(finished)
        return {
            handle: np.stack(windows)
            if windows
            else np.empty((0, samples[handle].shape[1], self._n_classes), np.float32)
            for handle, windows in done.items()
        }

    def _fresh(self, n_lanes: int) -> _Stream:
        net = self._net
        state = (n_lanes, self._n_slots, net.hidden)
        return _Stream(
            pending=np.empty((0, n_lanes), np.float32),
            conv1=np.zeros((n_lanes, net.kernel_samples, net.conv_channels), np.float32),
            n_conv1=0,
            n_steps=0,
            h=np.zeros(state, np.float32),
            c=np.zeros(state, np.float32),
            h_sum=np.zeros(state, np.float32),
            h_max=np.full(state, -np.inf, np.float32),
        )

    def _ready(self, stream: _Stream) -> bool:
        return len(stream.pending) >= self._first_pending(stream) + self._net.kernel_samples

    def _first_pending(self, stream: _Stream) -> int:
        # One sample is kept before the next convolution, for the difference; a run's first
        # window leaves out its lead.
        return self._lead if stream.n_conv1 == 0 else 1

    def _step(self, streams: list[_Stream]) -> list[F32 | None]:
        """Advance each stream by one output of the first convolution.

        Every second one completes a step of the stem and so of the LSTM. Returns the window
        that each stream finished, or None.
        """
        net = self._net
        self._convolve(streams)
        moved = [
            s
            for s in streams
            if s.n_conv1 >= net.kernel_samples
            and (s.n_conv1 - net.kernel_samples) % net.stride_samples == 0
        ]
        if moved:
            self._advance(moved)
        return [self._finished(s) if s in moved else None for s in streams]

    def _convolve(self, streams: list[_Stream]) -> None:
        net = self._net
        taken = []
        for s in streams:
            first = self._first_pending(s)
            taken.append(s.pending[first - 1 : first + net.kernel_samples].T)  # (L, kernel + 1)
            s.pending = s.pending[first + net.stride_samples - 1 :]
        z = np.concatenate(taken)
        u = np.arcsinh(4 * z[:, 1:]) / np.float32(2)
        v = np.arcsinh(16 * np.diff(z, axis=1)) / np.float32(2)
        features = np.concatenate([u, v], axis=1)[:, None, :]  # (lanes, 1, 2 * kernel)
        out = np.maximum(features @ self._conv1 + self._conv1_bias, 0)  # (lanes, 1, C)
        for s, lanes in zip(streams, _lanes(streams), strict=True):
            s.conv1 = np.concatenate([s.conv1[:, 1:], out[lanes]], axis=1)
            s.n_conv1 += 1

    def _advance(self, streams: list[_Stream]) -> None:
        for s in streams:
            if s.n_steps % self._steps_per_hop == 0:  # a window starts: its slot from zero
                slot = s.n_steps // self._steps_per_hop % self._n_slots
                s.h[:, slot] = s.c[:, slot] = s.h_sum[:, slot] = 0
                s.h_max[:, slot] = -np.inf
        conv1 = np.concatenate([s.conv1 for s in streams])  # (lanes, kernel, C)
        x = conv1.reshape(len(conv1), 1, -1) @ self._conv2 + self._conv2_bias
        x = np.maximum(x, 0) @ self._w_in + self._bias  # (lanes, 1, 4H), shared by all slots
        h = np.concatenate([s.h for s in streams])  # (lanes, S, H)
        c = np.concatenate([s.c for s in streams])
        gates = np.tanh(h @ self._w_rec + x)  # (lanes, S, 4H)
        i, f, g, o = np.split(gates, 4, axis=2)
        c = (f + 1) * np.float32(0.5) * c + (i + 1) * np.float32(0.5) * g
        h = (o + 1) * np.float32(0.5) * np.tanh(c)
        for s, lanes in zip(streams, _lanes(streams), strict=True):
            s.h, s.c = h[lanes], c[lanes]
            s.h_sum += s.h
            np.maximum(s.h_max, s.h, out=s.h_max)
            s.n_steps += 1

    def _finished(self, s: _Stream) -> F32 | None:
        """Return the finished window's probabilities, shape ``(L, classes)``, if one is."""
        begun = s.n_steps - self._n_steps
        if begun < 0 or begun % self._steps_per_hop:
            return None
        slot = begun // self._steps_per_hop % self._n_slots
        mean = s.h_sum[:, slot] / np.float32(self._n_steps)
        readout = np.concatenate([s.h[:, slot], mean, s.h_max[:, slot]], axis=1)  # (L, 3H)
        logits = (readout[:, None, :] @ self._head + self._head_bias)[:, 0]  # (L, outputs)
        return to_classes(logits, self._net.output_classes, self._n_classes)


def classify_windows(bundle: Bundle, windows_uv: F32) -> F32:
    """Classify single windows, each from zero state, through the reference engine.

    Args:
        bundle: Network, weights and scaler. Its filters are not applied: a filter needs more
            past than one window has.
        windows_uv: Shape ``(n_windows, window_samples)``, µV.

    Returns:
        Shape ``(n_windows, n_classes)``, probabilities.

    Raises:
        ShapeError: If the windows have another length.
    """
    if windows_uv.ndim != 2 or windows_uv.shape[1] != bundle.window_samples:
        raise ShapeError(expected=f"(n, {bundle.window_samples})", actual=windows_uv.shape)
    scaler = FrozenScaler(mean_uv=bundle.scaler_mean_uv, std_uv=bundle.scaler_std_uv)
    engine = ReferenceEngine(bundle, hop_samples=bundle.window_samples)
    lanes = engine.open(len(windows_uv))  # one lane a window
    scaled = scaler.scale(np.ascontiguousarray(windows_uv.T, dtype=np.float32))
    probabilities: F32 = engine.feed({lanes: scaled})[lanes][0]
    return probabilities


def to_classes(logits: F32, output_classes: tuple[int, ...], n_classes: int) -> F32:
    """Softmax over the network's outputs, summed to the mission's classes (last axis)."""
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    classes = np.zeros((*logits.shape[:-1], n_classes), np.float32)
    for output, target in enumerate(output_classes):
        classes[..., target] += p[..., output]
    return classes


def receptive_samples(net: NetworkSpec) -> int:
    """Samples that one step of the stem sees: two unpadded convolutions in a row."""
    return net.kernel_samples + (net.kernel_samples - 1) * net.stride_samples


def n_steps(net: NetworkSpec, window_samples: int) -> int:
    """Steps of the LSTM in one window (25 for the shipped networks)."""
    return (window_samples - 1 - receptive_samples(net)) // net.stride_samples**2 + 1


def lead_samples(net: NetworkSpec, window_samples: int) -> int:
    """Samples of a window before the stem's first input, so that its last ends the window.

    At least one, for the first difference.
    """
    steps = n_steps(net, window_samples)
    return window_samples - receptive_samples(net) - (steps - 1) * net.stride_samples**2


def check_hop(net: NetworkSpec, *, hop_samples: int, window_samples: int) -> None:
    """Refuse a hop that the stem cannot share between windows.

    Raises:
        EngineError: If ``hop_samples`` is no multiple of the stem's stride up to the window.
    """
    stride = net.stride_samples**2
    if hop_samples % stride or not stride <= hop_samples <= window_samples:
        raise EngineError(
            f"hop of {hop_samples} samples: expected a multiple of {stride}, from {stride} to "
            f"{window_samples} samples. Try: --set model.hop_samples=8"
        )


def _lanes(streams: list[_Stream]) -> list[slice]:
    ends = np.cumsum([s.h.shape[0] for s in streams]).tolist()
    return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
