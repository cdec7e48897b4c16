"""The bundle's own causal filters, started in steady state.

By the native extension where it was built, else in numpy and plain Python:
``import scipy.signal`` would double the memory of a live stream.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

try:
    from stream_classifier.engines import _native  # type: ignore[attr-defined]
except ImportError:  # built without a compiler
    _native = None

FEW_CHANNELS = 16
"""Up to so many channels, numbers of Python's own are faster than arrays as short as these."""


class CausalFilters:
    """Second-order sections in cascade, one state a channel.

    A run starts as if its first sample had been there for ever (``steady_state``), so an
    electrode's offset does not ring. Values that are not finite pass as they are and leave the
    state alone: the last good value is held inside, because one NaN would otherwise stay for ever.

    Args:
        sections: One ``(n_sections, 6)`` array of second-order sections a filter, in order;
            none at all makes this an identity.
        n_channels: Values in each sample.
    """

    def __init__(self, sections: Sequence[Sequence[Sequence[float]]], *, n_channels: int) -> None:
        self._sos = np.array([row for sos in sections for row in sos], dtype=np.float64)
        self._last = np.zeros(n_channels)
        self._started = np.zeros(n_channels, dtype=bool)
        if len(self._sos):
            self._steady = steady_state(self._sos)  # (n_sections, 2)
            self._state = np.zeros((len(self._sos), 2, n_channels))

    def restart(self) -> None:
        """Forget the past; each channel's next finite sample sets its steady state."""
        self._started[:] = False

    def feed(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Filter the next samples, shape ``(n_samples, n_channels)``, float32."""
        if not len(self._sos) or not len(samples):
            return samples
        finite = np.isfinite(samples)
        if finite.all() and self._started.all():
            held = samples.astype(np.float64)
            self._last = held[-1]
            return sosfilt(self._sos, held, self._state).astype(np.float32)
        starting = np.flatnonzero(finite[0] & ~self._started)
        self._last[starting] = samples[0, starting]
        self._state[:, :, starting] = self._steady[:, :, None] * self._last[starting]
        self._started[starting] = True
        # A channel that starts later in this chunk starts a chunk of its own.
        later = (finite & ~self._started).any(axis=1)
        stop = int(np.argmax(later)) if later.any() else len(samples)
        held = samples[:stop].astype(np.float64)
        for row in np.flatnonzero(~finite[:stop].all(axis=1)):
            before = held[row - 1] if row else self._last
            held[row] = np.where(finite[row], held[row], before)
        self._last = held[-1].copy()
        passed = sosfilt(self._sos, held, self._state)
        out = np.where(finite[:stop], passed, np.nan).astype(np.float32)
        return np.concatenate([out, self.feed(samples[stop:])]) if stop < len(samples) else out


def steady_state(sos: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the state that a constant 1 leaves behind in each section, for ever on.

    What ``scipy.signal.sosfilt_zi`` gives (after Gustafsson, IEEE Trans. Signal Process. 44:988,
    1996): the state *z* of a section that its own recurrence maps onto itself.

    Args:
        sos: Shape ``(n_sections, 6)``: b0, b1, b2, 1, a1, a2.

    Returns:
        Shape ``(n_sections, 2)``.

    Example:
        >>> halves = np.array([[0.25, 0.0, 0.0, 1.0, -0.5, 0.0]])  # gain 1/2
        >>> steady_state(halves).tolist()
        [[0.25, 0.0]]
    """
    states = np.empty((len(sos), 2))
    level = 1.0  # what reaches this section
    for state, (b0, b1, b2, _, a1, a2) in zip(states, sos.tolist(), strict=True):
        onto_itself = np.array([[1.0 + a1, -1.0], [a2, 1.0]])
        state[:] = level * np.linalg.solve(onto_itself, [b1 - a1 * b0, b2 - a2 * b0])
        level *= (b0 + b1 + b2) / (1.0 + a1 + a2)
    return states


def sosfilt(
    sos: NDArray[np.float64], x: NDArray[np.float64], state: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Filter a stretch and carry the state on: transposed direct form II, section by section.

    Each number is the outcome of the same operations in the same order however the stretch is cut
    and however many channels there are; they are those of ``scipy.signal.sosfilt``.

    Args:
        sos: Shape ``(n_sections, 6)``: b0, b1, b2, 1, a1, a2.
        x: Shape ``(n_samples, n_channels)``.
        state: Shape ``(n_sections, 2, n_channels)``; changed.

    Returns:
        Shape ``(n_samples, n_channels)``.
    """
    if _native is not None:
        out = np.array(x, order="C")
        _native.sosfilt(sos, state, out)
        return out
    if x.shape[1] > FEW_CHANNELS:
        return _all_channels_at_once(sos, x, state)
    signals = x.T.tolist()
    states = state.transpose(2, 0, 1).tolist()  # by channel, section
    sections = sos.tolist()
    for signal, cascade in zip(signals, states, strict=True):
        for z, (b0, b1, b2, _, a1, a2) in zip(cascade, sections, strict=True):
            z0, z1 = z
            for n, now in enumerate(signal):
                y = b0 * now + z0
                z0 = b1 * now - a1 * y + z1
                z1 = b2 * now - a2 * y
                signal[n] = y
            z[:] = z0, z1
    state[:] = np.array(states).transpose(1, 2, 0)
    return np.array(signals).T


def _all_channels_at_once(
    sos: NDArray[np.float64], x: NDArray[np.float64], state: NDArray[np.float64]
) -> NDArray[np.float64]:
    """As ``sosfilt``: at step *t* section *s* is at sample *t - s*, so all can work at once."""
    n_sections, n_samples = len(sos), len(x)
    b0, b1, b2, _, a1, a2 = sos.T[:, :, None]  # each (n_sections, 1)
    z0, z1 = state[:, 0], state[:, 1]
    line = np.empty((n_sections + 1, x.shape[1]))  # what each section reads, then the last's output
    out = np.empty_like(x)
    for step in range(n_samples + n_sections - 1):
        if step < n_samples:
            line[0] = x[step]
        busy = slice(max(0, step - n_samples + 1), min(n_sections, step + 1))
        now = line[busy]
        y = b0[busy] * now + z0[busy]
        z0[busy] = b1[busy] * now - a1[busy] * y + z1[busy]
        z1[busy] = b2[busy] * now - a2[busy] * y
        line[busy.start + 1 : busy.stop + 1] = y
        if busy.stop == n_sections:
            out[step - n_sections + 1] = line[-1]
    return out
