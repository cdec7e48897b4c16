"""The bundle's own causal filters, started in steady state."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class CausalFilters:
    """Second-order sections in cascade, one state a channel.

    A run starts as if its first sample had been there for ever (``sosfilt_zi``; Gustafsson,
    IEEE Trans. Signal Process. 44:988, 1996, for the same idea), so an electrode's offset
    does not ring. Values that are not finite pass as they are and leave the state alone:
    the last good value is held inside, because one NaN would otherwise stay for ever.

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
            # Imported only by bundles that filter: scipy.signal alone costs 60 MB.
            from scipy.signal import sosfilt, sosfilt_zi  # noqa: PLC0415

            self._sosfilt = sosfilt
            self._steady = np.asarray(sosfilt_zi(self._sos))  # (n_sections, 2)
            self._state = np.zeros((len(self._sos), 2, n_channels))

    def restart(self) -> None:
        """Forget the past; each channel's next finite sample sets its steady state."""
        self._started[:] = False

    def feed(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Filter the next samples, shape ``(n_samples, n_channels)``, float32."""
        if not len(self._sos) or not len(samples):
            return samples
        finite = np.isfinite(samples)
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
        out, self._state = self._sosfilt(self._sos, held, axis=0, zi=self._state)
        out = np.where(finite[:stop], out, np.nan).astype(np.float32)
        return np.concatenate([out, self.feed(samples[stop:])]) if stop < len(samples) else out
