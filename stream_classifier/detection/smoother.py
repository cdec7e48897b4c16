"""Window probabilities to what a channel says now."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray


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
        self._needed = math.ceil(math.ceil(self._reach / hop_samples) / 2)
        self._recent: deque[tuple[int, NDArray[np.float32]]] = deque()

    def add(self, end_index: int, seizure: NDArray[np.float32]) -> NDArray[np.float32]:
        """Add one window and return the smoothed p(seizure) of each channel.

        Args:
            end_index: Absolute index of the window's last sample.
            seizure: Shape ``(n_channels,)``, p(seizure); NaN where no decision was made.

        Returns:
            Shape ``(n_channels,)``; NaN where too few windows are known.
        """
        self._recent.append((end_index, seizure))
        while self._recent[0][0] <= end_index - self._reach:
            self._recent.popleft()
        values = np.stack([p for _, p in self._recent])  # (n_windows, n_channels)
        known = np.isfinite(values)
        n_known = known.sum(axis=0)
        total = np.where(known, values, 0).sum(axis=0, dtype=np.float64)
        mean = total / np.maximum(n_known, 1)
        return np.where(n_known >= self._needed, mean, np.nan).astype(np.float32)
