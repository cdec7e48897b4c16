"""Window probabilities to what a channel says now."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

NEVER = np.iinfo(np.int64).min // 2


class Smoother:
    """The mean of the last second of windows.

    A channel needs half of the windows that the smoothing time holds, else it says nothing:
    one lone window after a gap must not raise an alarm. A gap does not empty the smoother, it
    only ages it, so windows from before a short gap still count.

    Args:
        smoothing_samples: Time averaged, in samples at the bundle's rate; 0 takes each window
            as it comes.
        hop_samples: Samples from one window to the next.
    """

    def __init__(self, *, smoothing_samples: int, hop_samples: int) -> None:
        self._reach = max(smoothing_samples, 1)
        self._n_most = math.ceil(self._reach / hop_samples)  # windows the smoothing time holds
        self._needed = math.ceil(self._n_most / 2)
        self._ends = np.full(self._n_most - 1, NEVER)  # of the windows before, oldest first
        self._before: NDArray[np.float32] | None = None  # (n_most - 1, n_channels)

    def add(self, ends: ArrayLike, seizure: NDArray[np.float32]) -> NDArray[np.float32]:
        """Add windows and return the smoothed p(seizure) of each channel at each of them.

        Args:
            ends: Absolute index of each window's last sample, in ascending order.
            seizure: Shape ``(n_windows, n_channels)``, p(seizure); NaN where no decision was made.

        Returns:
            Shape ``(n_windows, n_channels)``; NaN where too few windows are known.
        """
        if self._before is None:
            self._before = np.full((self._n_most - 1, seizure.shape[1]), np.nan, dtype=np.float32)
        n_windows = len(seizure)
        all_ends = np.concatenate([self._ends, ends])
        values = np.concatenate([self._before, seizure])
        self._ends, self._before = all_ends[n_windows:], values[n_windows:]
        known = np.isfinite(values)
        values = np.where(known, values, 0).astype(np.float64)
        # The windows that each new one looks back on: as many a smoothing time holds, itself last.
        past = np.arange(n_windows)[:, None] + np.arange(self._n_most)  # (n_windows, n_most)
        fresh = all_ends[past] > all_ends[self._n_most - 1 :, None] - self._reach
        counts = (known[past] & fresh[..., None]).sum(axis=1)  # (n_windows, n_channels)
        total = np.where(fresh[..., None], values[past], 0).sum(axis=1)
        mean = total / np.maximum(counts, 1)
        return np.where(counts >= self._needed, mean, np.nan).astype(np.float32)
