"""Which sample is which: from the stamps a device wrote to absolute sample indices.

A stamp may be late (Bluetooth bursts, chunks stamped when they arrived, a program that was
stopped for a while) but samples are rarely missing, and both look alike at first: the stamps
step forward. They differ in what follows. After a stall the stamps run faster than the rate
until they have caught up; after a loss they go on at the rate from their new level. So the
samples after a step are held until one of the two shows, and nothing is held otherwise::

    stamp - line                     late: caught up, no gap          lost: it stays, a gap
                                          .                                 . . . . . .
                                            .                     held for  |- 0.25 s -|
        . . . . . . . . . . . . . . . .       . . . . .         . . . . . .

The price is small: after a real loss the next window needs 0.67 s of signal anyway.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from stream_classifier.signals import Chunk
from stream_classifier.sources.stamps import (
    JITTER_MAX_S,
    STEADY_SAMPLES,
    SeenStamps,
    StampJitter,
    StampLine,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

HOLD_S = 0.25
"""A step is a loss once the stamps have not caught up for this long (in stamp time)."""

HOLD_LONG_S = 1.0
START_S = 2.0
"""... or for this long where that tells little: in the first seconds, and in long chunks."""

CAUTION_AT_START = 4.0
"""How many times the sway of the stamps a loss must then exceed; later once is enough."""

HOLD_MAX_S = 2.0
"""Stamps that are still catching up after this long are judged as they stand."""

HOLD_MAX_SAMPLES_S = 60.0
"""Samples held at most, as time at the nominal rate: the burst after a long stall."""

STEP_SAMPLES = 0.75
"""A smaller step cannot be a lost sample; what is left is for jitter and a wrong rate."""

JITTER_MARGIN = 2.0
"""A step must exceed this many times the usual backward steps, which only jitter can make."""

STAMP_MAX_S = 1e10
"""A later stamp (year 2286) is none."""

ORIGIN_EVERY_S = 0.125
"""How often the time of index 0 follows the line: at fixed samples, wherever calls are cut."""

GAP_MAX_S = 3600.0
"""A longer step on a living connection is no loss: somebody set the device's clock."""

MEASURED_AFTER_S = 5.0
"""The measured rate is not shown before."""


class Timeline:
    """Places samples on the grid of their nominal rate, and counts what is missing.

    * A loss leaves a hole of as many indices as samples are missing: exact where the device
      stamps regularly; where stamps jitter, a loss shorter than twice the jitter is not seen.
    * Late stamps (bursts, stalls that catch up) leave no hole.
    * A sample whose stamp equals one of the last 10 s to the nanosecond is dropped and counted.
    * A stamp that is not a positive finite number says nothing: its sample is placed by
      counting, or dropped if it would be the first. A single wild stamp is taken for a late one.
    * Where the stamps stay behind, or are more than an hour ahead, the device's clock was set.
      Nobody knows what was lost meanwhile: one index is left out, so that nothing spans it.
    * Where each chunk has one stamp and the rest is deduced at a wrong nominal rate, the rate's
      error times the chunk must stay below 0.75 samples.

    However the stream is cut into calls, samples, indices, times and counters are the same.
    Pure: no clock, no I/O. Not thread-safe.

    Args:
        rate_hz: Nominal rate, above 0. The true one may differ by some per cent.

    Attributes:
        rate_hz: The nominal rate.
        n_samples: Samples placed.
        n_gaps: Holes in the indices.
        n_missing: Indices in those holes.
        n_duplicates: Samples dropped because their stamp was there already.
        n_bad_stamps: Stamps that were no positive finite number.
        n_clock_steps: Times the device's clock was found set.

    Example:
        >>> timeline = Timeline(100.0)
        >>> stamps = 5.0 + np.delete(np.arange(400), range(250, 253)) / 100.0
        >>> chunks = timeline.place(np.zeros((397, 1), np.float32), stamps)
        >>> held = {index for chunk in chunks for index in chunk.indices}
        >>> sorted(set(range(400)) - held), timeline.n_missing
        ([250, 251, 252], 3)
    """

    def __init__(self, rate_hz: float) -> None:
        self.n_samples = 0
        self.n_gaps = 0
        self.n_missing = 0
        self.n_duplicates = 0
        self.n_bad_stamps = 0
        self.n_clock_steps = 0
        self.rate_hz = rate_hz
        self._line = StampLine(rate_hz)
        self._jitter = StampJitter(rate_hz)
        self._seen = SeenStamps(rate_hz)
        self._next_index = 0
        self._anchor_s = 0.0  # stamp of the newest sample, or where it belongs if that was late
        self._last_stamp = 0.0
        self._first_stamp = 0.0  # of index 0
        self._origin_s = 0.0  # stamp of index 0 by the line, as of the latest update
        self._origin_due = 0  # index of the next update
        self._origin_every = max(1, round(ORIGIN_EVERY_S * rate_hz))
        self._correction_s = 0.0
        self._in_session = False  # a usable stamp of this session was taken in
        self._placed_any = False  # ... and placed
        self._held_stamps: list[float] = []
        self._held_samples: NDArray[np.float32] | None = None

    @property
    def measured_hz(self) -> float | None:
        """True rate by the stamps (0.1% after 10 s), or None in the first 5 s."""
        if self._line.n_followed < MEASURED_AFTER_S * self.rate_hz:
            return None
        return 1.0 / self._line.period_s

    @property
    def n_held(self) -> int:
        """Samples that wait for a step to be understood."""
        return len(self._held_stamps)

    def resume(self) -> None:
        """Say that what follows is another session of the same device.

        Its first index will lie as far ahead as time has passed, and at least one index is left
        out. Samples still held from the old session are given up; they lie in that hole.
        """
        self._seen = SeenStamps(self.rate_hz)
        self._jitter = StampJitter(self.rate_hz)
        self._held_stamps = []
        self._held_samples = None
        self._in_session = False
        self._placed_any = False

    def place(
        self,
        samples: NDArray[np.float32],
        stamps: NDArray[np.float64],
        *,
        correction_s: float = 0.0,
        received_s: float = 0.0,
    ) -> list[Chunk]:
        """Take in samples and return those whose place is known.

        Args:
            samples: Shape ``(n_samples, n_channels)``, µV, oldest first; not to be changed later,
                chunks are views of it.
            stamps: Shape ``(n_samples,)``, seconds, as the device wrote them.
            correction_s: What brings them to the clock of ``Chunk.origin_s``. Kept apart from
                the stamps, so that a better estimate of it never looks like a loss.
            received_s: Handed on.

        Returns:
            Consecutive samples a chunk, oldest first; a new one also where ``origin_s`` is
            updated. None while samples are held.
        """
        samples, pending = self._take_in(samples, stamps)
        chunks: list[Chunk] = []
        start = position = 0

        def cut() -> None:
            """Make a chunk of what was placed since the last cut."""
            nonlocal start
            if position > start:
                placed = samples[start:position]
                chunks.append(
                    Chunk(
                        samples=placed,
                        first_index=self._next_index - len(placed),
                        origin_s=self._origin_s + correction_s,
                        received_s=received_s,
                        anchor_s=self._first_stamp,
                    )
                )
            start = position

        while position < len(pending):
            stamp = pending[position]
            if not self._placed_any:
                cut()
                self._begin(stamp, correction_s)
                self._update_origin()
                position += 1
            elif not self._is_step(stamp):
                self._accept(stamp)
                position += 1
            else:
                verdict = self._judge(pending, position)
                if verdict is None:
                    break
                if verdict.n_missing or verdict.line_moved:
                    cut()
                self._follow(verdict, pending[position : position + verdict.n_late])
                position += verdict.n_late
                if verdict.line_moved:
                    self._update_origin()
            if self._next_index >= self._origin_due:
                cut()
                self._update_origin()
        cut()
        self._correction_s = correction_s
        self._held_stamps = pending[position:]
        self._held_samples = samples[position:] if self._held_stamps else None
        return chunks

    def _update_origin(self) -> None:
        self._origin_s = self._line.at_s - (self._next_index - 1) / self.rate_hz
        self._origin_due = (self._next_index // self._origin_every + 1) * self._origin_every

    def _take_in(
        self, samples: NDArray[np.float32], stamps: NDArray[np.float64]
    ) -> tuple[NDArray[np.float32], list[float]]:
        """Drop what was there already, and put the rest behind what is held."""
        kept: list[int] = []
        pending = self._held_stamps
        for row, stamp in enumerate(stamps.tolist()):
            usable = 0.0 < stamp < STAMP_MAX_S  # False for NaN
            if usable and self._seen.again(stamp):
                self.n_duplicates += 1
                continue
            self.n_bad_stamps += not usable
            if usable or self._in_session:
                self._in_session = True
                kept.append(row)
                pending.append(stamp if usable else math.nan)
        if len(kept) < len(samples):
            samples = samples[kept]
        if self._held_samples is not None:
            samples = np.concatenate((self._held_samples, samples))
        return samples, pending

    def _begin(self, stamp: float, correction_s: float) -> None:
        """Place the first sample of a session."""
        if self.n_samples:
            away_s = stamp + correction_s - (self._line.at_s + self._correction_s)
            self._skip(max(1, round(away_s / self._line.period_s) - 1))
        else:
            self._first_stamp = stamp
        self._placed_any = True
        self._start_anew(stamp)
        self._count(1)

    def _start_anew(self, stamp: float) -> None:
        self._line.restart(stamp)
        self._anchor_s = self._last_stamp = stamp

    def _count(self, n: int) -> None:
        self._next_index += n
        self.n_samples += n

    def _is_step(self, stamp: float) -> bool:
        """Whether this stamp leaves the line, and does so suddenly (a wrong rate creeps)."""
        threshold_s = self._threshold_s
        away_s = abs(stamp - self._expected_s)
        step_s = abs(stamp - self._last_stamp - self._line.period_s)
        return away_s > threshold_s and step_s > threshold_s  # False for NaN

    @property
    def _expected_s(self) -> float:
        """Where the next stamp belongs: after the last one if they are regular, else on the line.

        The line needs seconds to learn a wrong rate; regular stamps need no line.
        """
        return (self._line.at_s if self._jitter.usual_s else self._anchor_s) + self._line.period_s

    @property
    def _usually_earliest_s(self) -> float:
        """The earliest stamp of a hold, against where it is expected (the line runs mid-way)."""
        return self._line.earliest_s if self._jitter.usual_s else 0.0

    @property
    def _at_start(self) -> bool:
        return self._line.n_followed < START_S * self.rate_hz

    @property
    def _threshold_s(self) -> float:
        return max(STEP_SAMPLES * self._line.period_s, JITTER_MARGIN * self._jitter.usual_s)

    def _judge(self, pending: list[float], position: int) -> _Verdict | None:
        """Look at what follows a step; None while that does not suffice.

        Depends on no more samples than it needs, so that the cut into calls cannot matter.
        """
        expected_s, period_s = self._expected_s, self._line.period_s
        threshold_s = self._threshold_s
        first = previous = newest = lowest_at = pending[position]
        forward = first > expected_s
        lowest_s = settled_s = highest_s = abs(first - expected_s)
        backward_s = sway_s = 0.0
        n_unsteady = 0
        most = HOLD_MAX_SAMPLES_S * self.rate_hz
        for n, stamp in enumerate(pending[position + 1 :], start=1):
            if math.isnan(stamp):
                continue
            off_s = stamp - (expected_s + n * period_s)
            away_s = off_s if forward else -off_s
            if away_s <= threshold_s:
                return _Verdict(n_late=n)
            backward_s = max(backward_s, previous + period_s - stamp)
            n_unsteady += abs(previous + period_s - stamp) > STEADY_SAMPLES * period_s
            previous = stamp
            newest = max(newest, stamp)
            lowest_s, highest_s = min(lowest_s, away_s), max(highest_s, away_s)
            sway_s = max(sway_s, highest_s - away_s)  # downwards only: another loss steps up
            if away_s < settled_s - period_s:
                settled_s, lowest_at = away_s, newest
            # Chunks with one stamp each may be long: three of them, or the longer hold.
            few = self._at_start or (self._jitter.usual_s and n_unsteady < 3)
            hold_s = HOLD_LONG_S if few else HOLD_S
            if newest - lowest_at < hold_s and newest - first < HOLD_MAX_S and n < most:
                continue
            risen_s = lowest_s - self._usually_earliest_s
            caution = CAUTION_AT_START if self._at_start else 1.0
            jitter_s = max(backward_s, caution * sway_s / JITTER_MARGIN)
            jitter_s = min(jitter_s, JITTER_MAX_S / JITTER_MARGIN)
            if forward and risen_s <= JITTER_MARGIN * jitter_s:
                return _Verdict(n_late=n, jitter_s=jitter_s)
            if forward and lowest_s <= GAP_MAX_S:
                return _Verdict(n_missing=max(1, round(risen_s / period_s)))
            if not forward and lowest_s <= JITTER_MAX_S:
                return _Verdict(n_late=1, jitter_s=lowest_s, line_moved=True)
            return _Verdict(n_late=1, line_moved=True, n_missing=1)
        return None

    def _follow(self, verdict: _Verdict, late: list[float]) -> None:
        """Leave out what is missing, and place what a verdict is about."""
        if verdict.n_missing:
            self._skip(verdict.n_missing)
        self._learn_jitter(verdict.jitter_s)
        if verdict.line_moved:
            self.n_clock_steps += verdict.n_missing
            self._start_anew(late[0])
            self._count(1)
        else:
            self._go_on(verdict.n_missing)
            stalled = not verdict.jitter_s and len(late) > HOLD_S * self.rate_hz
            self._accept_late(late, stalled=stalled)

    def _skip(self, n_missing: int) -> None:
        self._next_index += n_missing
        self.n_missing += n_missing
        self.n_gaps += 1

    def _accept_late(self, stamps: list[float], *, stalled: bool) -> None:
        """Place samples that were late.

        Those of usual jitter must pull the line as the early ones do, or it would sink; those
        of a stall, and wild ones, must not.
        """
        for stamp in stamps:
            if not math.isnan(stamp):
                self._learn_jitter(self._backward_s(stamp))
                self._last_stamp = stamp
            if stalled or not abs(stamp - self._line.next_s) <= HOLD_S:  # True for NaN
                self._line.advance(1)
            else:
                self._line.follow(stamp)
            self._anchor_s += self._line.period_s
        self._count(len(stamps))

    def _accept(self, stamp: float) -> None:
        if math.isnan(stamp):
            self._go_on(1)
        else:
            self._learn_jitter(self._backward_s(stamp))
            self._line.follow(stamp)
            self._anchor_s = self._last_stamp = stamp
        self._count(1)

    def _go_on(self, n: int) -> None:
        """Pass over samples without a look at their stamps."""
        self._line.advance(n)
        self._anchor_s += n * self._line.period_s

    def _backward_s(self, stamp: float) -> float:
        return self._last_stamp + self._line.period_s - stamp

    def _learn_jitter(self, backward_s: float) -> None:
        were_regular = not self._jitter.usual_s
        self._jitter.learn(backward_s)
        if were_regular and self._jitter.usual_s and self._at_start:
            self._line.distrust()


class _Verdict(NamedTuple):
    """What a step was.

    Attributes:
        n_late: Samples to place without a hole, whatever their stamps say.
        n_missing: Indices to leave out before them.
        jitter_s: Backward step to remember.
        line_moved: The line starts anew at the step.
    """

    n_late: int = 0
    n_missing: int = 0
    jitter_s: float = 0.0
    line_moved: bool = False
