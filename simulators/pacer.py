"""When a sample is due: absolute deadlines, so that errors never add up."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Pacer:
    """Keeps a stream of samples to its rate for as long as it runs.

    Sample *i* is stamped ``start + i / rate`` and due at ``start + i / (rate * speed)``.
    Both are computed from *i*, never from the previous sample, so there is no drift; after
    a stall the samples that are overdue come at once, with their proper stamps.

    At a ``speed`` other than 1 the stamps stay those of the signal: they run ahead of the
    clock (or behind it), 1/rate apart. What a consumer derives from them (rate, gaps,
    frequencies, durations) is then right, and only the age of a sample is meaningless.
    Stamps squeezed to the time of delivery would instead announce a device of another rate.

    Args:
        rate_hz: Samples a second of signal, above 0.
        speed: Seconds of signal a second of the clock, above 0.
        clock: Says the time in seconds.
        sleep: Waits that many seconds; may return earlier (to stop), then so does ``wait``.

    Raises:
        ValueError: If the rate or the speed is not above 0.

    Example:
        >>> now = [100.0]
        >>> def sleep(seconds): now[0] += seconds
        >>> pacer = Pacer(rate_hz=178.0, clock=lambda: now[0], sleep=sleep)
        >>> pacer.start(); pacer.wait_for(178 * 3600); now[0]
        3700.0
    """

    def __init__(
        self,
        *,
        rate_hz: float,
        speed: float = 1.0,
        clock: Callable[[], float],
        sleep: Callable[[float], object],
    ) -> None:
        if not (rate_hz > 0 and speed > 0):
            raise ValueError(f"rate_hz and speed must be above 0, got {rate_hz}, {speed}")
        self.rate_hz = rate_hz
        self.speed = speed
        self.start_s = 0.0
        self._clock = clock
        self._sleep = sleep

    def start(self) -> None:
        """Sample 0 is now."""
        self.start_s = self._clock()

    def stamp_of(self, index: int) -> float:
        """Time of a sample, seconds on the clock (of the signal where speed is not 1)."""
        return self.start_s + index / self.rate_hz

    def wait_for(self, index: int, *, later_s: float = 0.0) -> None:
        """Wait until a sample is due, or as much signal later; not at all if it is overdue."""
        due_s = self.start_s + (index / self.rate_hz + later_s) / self.speed
        left_s = due_s - self._clock()
        if left_s > 0:
            self._sleep(left_s)
