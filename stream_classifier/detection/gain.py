"""A channel's amplitude brought to that of the training data: measured once, then frozen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from stream_classifier.bundle import GainSpec

MAD_TO_STD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation (Rousseeuw &
Croux, J. Am. Stat. Assoc. 88:1273, 1993)."""

PATIENCE = 3
"""Signal in which an alert is on is no baseline: a seizure's amplitude would become the usual one.
But an amplifier that is far too loud may raise alerts that only the gain can end, so after so
many times the baseline's length it counts all the same."""

LIVELY_SHARE = 0.5
"""A channel with less good signal than this, so far, holds nobody up: the stream is calibrated
without it, and it goes on measuring by itself."""


class FrozenGains:
    """The gain of each channel: 1 until a baseline of good signal is gathered, then one for ever.

    A gain that followed the signal would normalise away the rise in amplitude that a seizure is.
    What was gathered outlives a gap. Gains change only between blocks of a second, counted from
    sample 0 of the stream, so the result does not depend on how the stream is cut.

    A seizure that goes unnoticed in the baseline lowers the gain; the median bears one that is much
    shorter than half of it.

    Args:
        spec: How to measure; None: the gain is 1 and nothing is measured.
        n_channels: Values in each sample.
        block_samples: Samples of a second.
        stored: Gains measured before, one a channel; None where a channel's is unknown.
        calibrate: Whether to measure what is not stored; else it stays 1.

    Attributes:
        values: The gains now, shape ``(n_channels,)``.
        seeks: Whether any is still being measured.
        calibrating: Whether the stream waits for one that is.
    """

    def __init__(
        self,
        spec: GainSpec | None,
        *,
        n_channels: int,
        block_samples: int,
        stored: Sequence[float | None] | None = None,
        calibrate: bool = True,
    ) -> None:
        self._spec = spec
        self._block = block_samples
        self.values = np.ones(n_channels, dtype=np.float32)
        self._measured = np.zeros(n_channels, dtype=bool)
        if spec is not None and stored is not None:
            known = np.array([gain is not None for gain in stored])
            self.values[known] = [gain for gain in stored if gain is not None]
            self._measured |= known
        self.seeks = spec is not None and calibrate and not self._measured.all()
        self.calibrating = self.seeks
        self._n_blocks = 0  # whole ones so far
        self._n_good = np.zeros(n_channels, dtype=np.intp)
        self._good = np.ones(n_channels, dtype=bool)  # the block at hand, so far
        self._pieces: list[NDArray[np.float32]] = []  # of the block at hand
        self._baseline = np.empty((n_channels, 0, block_samples), dtype=np.float32)
        if self.seeks and spec is not None:
            n_needed = round(spec.baseline_s)
            self._baseline = np.empty((n_channels, n_needed, block_samples), dtype=np.float32)

    @property
    def measured(self) -> tuple[float | None, ...]:
        """The gains that are known; None where one is still being measured."""
        return tuple(
            float(gain) if known else None
            for gain, known in zip(self.values, self._measured, strict=True)
        )

    @property
    def progress(self) -> float:
        """How much of its baseline the channel that has most of it has, 0 to 1."""
        if not self.seeks:
            return 1.0
        return float(self._n_good.max(initial=0)) / self._baseline.shape[1]

    def restart(self) -> None:
        """Forget the block at hand, which a gap has cut; not what was gathered."""
        self._pieces.clear()
        self._good[:] = True

    def split(
        self, samples: NDArray[np.float32], first_index: int
    ) -> Iterator[NDArray[np.float32]]:
        """Cut samples where a gain may change."""
        if not self.seeks:
            yield samples
            return
        start = 0
        while start < len(samples):
            stop = start + self._block - (first_index + start) % self._block
            yield samples[start:stop]
            start = stop

    def next_change(self, index: int) -> int | None:
        """Return the index after ``index`` where a gain may change; None if none will."""
        return index + self._block - index % self._block if self.seeks else None

    def add(
        self,
        filtered: NDArray[np.float32],
        usable: NDArray[np.bool_],
        end_index: int,
        *,
        alert_is_on: bool = False,
    ) -> NDArray[np.bool_]:
        """Take the next samples of the baseline, none of them beyond the end of a block.

        Args:
            filtered: Shape ``(n_samples, n_channels)``, µV, before the gain.
            usable: Shape ``(n_channels,)``: whether all windows that ended in them were.
            end_index: Absolute index of the sample after them.
            alert_is_on: Whether one was, in any of them.

        Returns:
            Shape ``(n_channels,)``: whose gain is another from ``end_index`` on.
        """
        changed = np.zeros_like(self._measured)
        if not self.seeks:
            return changed
        self._pieces.append(filtered)
        if not alert_is_on or self._n_blocks >= PATIENCE * self._baseline.shape[1]:
            self._good &= usable
        else:
            self._good[:] = False
        if end_index % self._block:
            return changed
        block = np.concatenate(self._pieces)
        good = self._good & ~self._measured & np.isfinite(block).all(axis=0)
        self.restart()
        if len(block) < self._block:  # it began in the middle, after a gap
            return changed
        self._n_blocks += 1
        for channel in np.flatnonzero(good):
            self._baseline[channel, self._n_good[channel]] = block[:, channel]
        self._n_good += good
        changed = np.asarray(good & (self._n_good == self._baseline.shape[1]))
        for channel in np.flatnonzero(changed):
            self.values[channel] = _gain(self._baseline[channel], self._spec)
        self._measured |= changed
        if changed.any() or self.calibrating:
            self._settle()
        return changed

    def _settle(self) -> None:
        lively = self._n_good >= LIVELY_SHARE * self._n_blocks
        if self._measured.any() and not (lively & ~self._measured).any():
            self.calibrating = False
        if self._measured.all():
            self.seeks = False
            self._baseline = np.empty((len(self.values), 0, self._block), dtype=np.float32)


def _gain(baseline: NDArray[np.float32], spec: GainSpec | None) -> float:
    if spec is None:
        return 1.0
    deviation = np.median(np.abs(baseline - np.median(baseline)))
    std_uv = MAD_TO_STD * float(deviation)
    return min(max(spec.target_uv / std_uv if std_uv > 0 else spec.high, spec.low), spec.high)
