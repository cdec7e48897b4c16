"""How long to wait before trying again."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Waiting times that double from try to try, jittered and bounded.

    Each is drawn from the upper half of its range, so that many clients of one broker do
    not come back at the same moment, and none hammers it.

    Args:
        first_s: Longest first wait, seconds.
        cap_s: Longest wait of all, seconds.
        stable_s: What lasted at least this long counts as a success, and the waits start
            again from the first.
        draw: Random numbers in ``[0, 1)``; tests pass their own.

    Example:
        >>> backoff = Backoff(first_s=0.5, cap_s=3.0, stable_s=10.0, draw=lambda: 1.0)
        >>> [backoff.next_s() for _ in range(4)]
        [0.5, 1.0, 2.0, 3.0]
        >>> backoff.next_s(lasted_s=60.0)
        0.5
    """

    def __init__(
        self,
        *,
        first_s: float,
        cap_s: float,
        stable_s: float,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.first_s = first_s
        self.cap_s = cap_s
        self.stable_s = stable_s
        self._draw = draw
        self._range_s = first_s

    def next_s(self, *, lasted_s: float = 0.0) -> float:
        """Return the next wait.

        Args:
            lasted_s: For how long the thing worked that has just failed, seconds.
        """
        if lasted_s >= self.stable_s:
            self._range_s = self.first_s
        range_s = self._range_s
        self._range_s = min(2 * range_s, self.cap_s)
        return range_s * (0.5 + 0.5 * self._draw())
