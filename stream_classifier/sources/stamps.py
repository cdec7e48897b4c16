"""What the stamps of a stream are like: the line they follow, their jitter, those seen before.

Pure, one stamp at a time, so that nothing depends on how a stream is cut into calls.
"""

from __future__ import annotations

import collections
import heapq
import math

MEMORY_S = 20.0
"""Memory of the fitted line."""

PRIOR_S = 0.1
PRIOR_JITTERY_S = 0.5
"""The nominal rate counts as much as this much signal; more where stamps jitter."""

STRETCH_S = 0.25
"""Over how much signal the earliest stamp is looked for."""

STEADY_SAMPLES = 0.05
"""Steps that differ by less are regular: rounding, or a rate that is not known yet."""

JITTER_MEMORY_S = 10.0
JITTER_MAX_S = 0.5
"""Bounds of what is taken for jitter: how long it is remembered, and how large it may be."""

DUPLICATE_MEMORY_S = 10.0
"""How far back an equal stamp is recognised as a repeated sample."""


class StampLine:
    """The straight line through stamp over index, fitted as it goes.

    An expanding-memory g-h filter: exactly the least-squares line through all samples so far
    (and a stretch of nominal ones before the first), until its memory is full; then the gains
    stay, and it forgets (Brookner, Tracking and Kalman Filtering Made Easy, 1998, 1.2.10).

    Args:
        rate_hz: Nominal rate.

    Attributes:
        at_s: The line at the newest sample.
        period_s: Its slope: seconds a sample.
        earliest_s: The earliest stamp against the line, in an average 0.25 s; 0 or less.
        n_followed: Stamps taken in.
    """

    def __init__(self, rate_hz: float) -> None:
        self.period_s = 1.0 / rate_hz
        self.at_s = 0.0
        self.n_followed = 0
        self.earliest_s = 0.0
        self._rate_hz = rate_hz
        self._n_stretch = max(1, round(STRETCH_S * rate_hz))
        self._earliest_now_s = math.inf
        self._n_most = MEMORY_S * rate_hz
        self._n_prior = max(2.0, PRIOR_S * rate_hz)
        self._n_level = self._n_rate = self._n_prior

    @property
    def next_s(self) -> float:
        """Where the next stamp is expected."""
        return self.at_s + self.period_s

    def restart(self, stamp: float) -> None:
        """Go through this stamp; the rate is still the device's, so it stays."""
        self.at_s = stamp
        self.earliest_s = 0.0
        self._earliest_now_s = math.inf
        self._n_level = self._n_prior

    def distrust(self) -> None:
        """Forget the rate: it was fitted to stamps that turn out to jitter."""
        self.period_s = 1.0 / self._rate_hz
        self._n_prior = max(2.0, PRIOR_JITTERY_S * self._rate_hz)
        self._n_level = self._n_rate = self._n_prior

    def advance(self, n: int) -> None:
        """Go on along the line."""
        self.at_s += n * self.period_s

    def follow(self, stamp: float) -> None:
        """Take in the next stamp."""
        off_s = stamp - self.next_s
        n = self._n_level
        m = self._n_rate
        self.at_s = self.next_s + off_s * (2 * (2 * n + 1)) / ((n + 1) * (n + 2))
        self.period_s += off_s * 6 / ((m + 1) * (m + 2))
        # Ten times off is no rate; bounded, so that the worst stamps cannot turn time around.
        self.period_s = min(max(self.period_s, 0.1 / self._rate_hz), 10.0 / self._rate_hz)
        self._n_level = min(n + 1, self._n_most)
        self._n_rate = min(m + 1, self._n_most)
        self.n_followed += 1
        self._earliest_now_s = min(self._earliest_now_s, off_s)
        if self.n_followed % self._n_stretch == 0:
            self.earliest_s += (self._earliest_now_s - self.earliest_s) / 4
            self._earliest_now_s = math.inf


class StampJitter:
    """How far stamps usually step back. A loss never makes one do so; jitter always does.

    The third largest backward step of the last 10 to 20 s: two wild stamps do not count.

    Attributes:
        usual_s: That step; 0 where stamps are regular.
    """

    def __init__(self, rate_hz: float) -> None:
        self.usual_s = 0.0
        self._older: list[float] = []
        self._newer: list[float] = []
        self._n_left = self._n_memory = max(1, round(JITTER_MEMORY_S * rate_hz))
        self._floor_s = STEADY_SAMPLES / rate_hz

    def learn(self, backward_s: float) -> None:
        """Take in the backward step before the next sample; negative if there was none."""
        self._n_left -= 1
        if self._n_left == 0:
            self._n_left = self._n_memory
            self._older, self._newer = self._newer, []
            self._update()
        if backward_s > self._floor_s:
            self._newer = heapq.nlargest(3, [*self._newer, min(backward_s, JITTER_MAX_S)])
            self._update()

    def _update(self) -> None:
        known = heapq.nlargest(3, self._older + self._newer)
        self.usual_s = known[2] if len(known) == 3 else 0.0


class SeenStamps:
    """The stamps of the last 10 s, to the nanosecond (liblsl deduces stamps by adding up)."""

    def __init__(self, rate_hz: float) -> None:
        self._newest = -math.inf
        self._order: collections.deque[int] = collections.deque()
        self._members: set[int] = set()
        self._n_most = max(1, round(DUPLICATE_MEMORY_S * rate_hz))

    def again(self, stamp: float) -> bool:
        """Remember a stamp, and say whether it was there already."""
        key = round(stamp * 1e9)
        if stamp <= self._newest + 2e-9 and not self._members.isdisjoint((key - 1, key, key + 1)):
            return True
        self._newest = max(self._newest, stamp)
        self._order.append(key)
        self._members.add(key)
        if len(self._order) > self._n_most:
            self._members.discard(self._order.popleft())
        return False
