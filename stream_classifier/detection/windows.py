"""Which stretches of signal are classified, and when they are due."""

from __future__ import annotations


class WindowGrid:
    """The sliding windows of one run: the first starts with the run, then one every hop.

    A run ends at a gap, so no window ever spans one.

    Args:
        window_samples: Length of a window.
        hop_samples: Samples from one window's start to the next one's.

    Example:
        >>> grid = WindowGrid(window_samples=120, hop_samples=8)
        >>> grid.restart(1000)
        >>> grid.take(2)
        [range(1000, 1120), range(1008, 1128)]
        >>> grid.next_end
        1136
        >>> grid.take(1)
        [range(1016, 1136)]
    """

    def __init__(self, *, window_samples: int, hop_samples: int) -> None:
        self.window_samples = window_samples
        self.hop_samples = hop_samples
        self._next_start = 0

    @property
    def next_start(self) -> int:
        """Absolute index of the next window's first sample."""
        return self._next_start

    @property
    def next_end(self) -> int:
        """Absolute index of the sample after the next window."""
        return self._next_start + self.window_samples

    def restart(self, first_index: int) -> None:
        """Begin a new run at this absolute sample index."""
        self._next_start = first_index

    def leave_out(self, until_index: int) -> int:
        """Leave out the windows that begin before this absolute sample index.

        Returns:
            How many those are, that were not taken.
        """
        n_windows = max(0, -(-(until_index - self._next_start) // self.hop_samples))
        self._next_start += n_windows * self.hop_samples
        return n_windows

    def take(self, n_windows: int) -> list[range]:
        """Return the absolute sample indices of the next windows, oldest first."""
        first = self._next_start
        self._next_start += n_windows * self.hop_samples
        return [
            range(start, start + self.window_samples)
            for start in range(first, self._next_start, self.hop_samples)
        ]
