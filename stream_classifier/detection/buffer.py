"""The recent past of one stream."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stream_classifier.errors import SamplesExpiredError, ShapeError


class RingBuffer:
    """The last samples of one run, addressed by absolute sample index.

    A sample keeps its index for life. The buffer remembers the newest ``capacity``
    samples since the last ``restart``; asking for an older one is an error, never stale
    data, so nothing read from it can span a gap.

    Not thread-safe: one thread appends and reads.

    Args:
        capacity: How many samples to remember, at least 1.
        n_channels: Values in each sample, at least 1.

    Raises:
        ValueError: If either argument is below 1.

    Example:
        >>> buffer = RingBuffer(capacity=4, n_channels=1)
        >>> buffer.append(np.arange(6, dtype=np.float32).reshape(6, 1))
        >>> buffer.held
        range(2, 6)
        >>> buffer.read(range(3, 5)).ravel().tolist()
        [3.0, 4.0]
        >>> buffer.restart(100)
        >>> buffer.held
        range(100, 100)
    """

    def __init__(self, *, capacity: int, n_channels: int) -> None:
        if capacity < 1 or n_channels < 1:
            raise ValueError(
                f"capacity and n_channels must be at least 1, got {capacity}, {n_channels}"
            )
        self.capacity = capacity
        self.n_channels = n_channels
        # Twice as many, so that samples are moved to the front but once every so many.
        self._rows = np.zeros((2 * capacity, n_channels), dtype=np.float32)
        self._first = 0
        self._end = 0
        self._row = 0  # that the next sample goes to

    @property
    def held(self) -> range:
        """Absolute indices of the samples that can still be read."""
        return range(max(self._first, self._end - self.capacity), self._end)

    def restart(self, first_index: int) -> None:
        """Forget everything; the next sample appended has this index."""
        self._first = self._end = first_index

    def append(self, samples: NDArray[np.float32]) -> None:
        """Add the newest samples, forgetting the oldest ones when full.

        Args:
            samples: Shape ``(n_samples, n_channels)``, µV, oldest first. May be
                empty, or longer than the capacity.

        Raises:
            ShapeError: If the channels do not match.
        """
        if samples.shape[1:] != (self.n_channels,):
            raise ShapeError(expected=f"(n, {self.n_channels})", actual=samples.shape)
        kept = samples[-self.capacity :]
        if self._row + len(kept) > len(self._rows):
            n_left = self.capacity - len(kept)
            self._rows[:n_left] = self._rows[self._row - n_left : self._row]
            self._row = n_left
        self._rows[self._row : self._row + len(kept)] = kept
        self._row += len(kept)
        self._end += len(samples)

    def read(self, wanted: range) -> NDArray[np.float32]:
        """Copy out consecutive samples.

        Args:
            wanted: Absolute sample indices, a step of 1.

        Returns:
            Shape ``(len(wanted), n_channels)``, µV, oldest first; a copy, so it
            may go to another thread.

        Raises:
            SamplesExpiredError: If any of them is not held.
        """
        held = self.held
        if wanted.start < held.start or wanted.stop > held.stop:
            raise SamplesExpiredError(asked=wanted, held=held)
        stop = self._row - (held.stop - wanted.stop)
        return self._rows[stop - len(wanted) : stop].copy()
