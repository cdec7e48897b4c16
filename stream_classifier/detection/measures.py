"""What the quality gate measures of each window: all windows of a chunk at once.

Windows overlap, so everything is first reduced over the blocks that they are made of, then from
blocks to windows. Each window's numbers come from its own samples, in an order that does not
depend on what else is in the chunk: they are the same however the stream is cut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Measure = NDArray[np.float64]

FLAT_UV = 1.0
"""Less than this peak to peak for ``FLAT_SAMPLES``: an electrode off, a railed amplifier,
or volts taken for microvolts."""

FLAT_SAMPLES = 30
"""0.17 s at 178 Hz. A stretch of this length is sure to be noticed, one of 24 samples may be."""

RAIL_SHARE = 0.005
"""A sample within this share of the window's peak to peak from its maximum or minimum is at a rail.
Of a sine 9% are; of the Epileptic Seizure Recognition data set's windows at most 16%."""

MAX_BLOCK = 10
TINY = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Basics:
    """What the hard limits ask of some windows, of the signal as it comes.

    Attributes:
        finite: Whether every sample is a number. Shape ``(n_windows, n_channels)``, as all.
        mean_uv: Its mean, µV.
        span_uv: Peak to peak, µV.
        flat_share: Share in which nothing moves.
        railed_share: Share at its own extreme.
    """

    finite: NDArray[np.bool_]
    mean_uv: Measure
    span_uv: Measure
    flat_share: Measure
    railed_share: Measure


@dataclass(frozen=True, slots=True, eq=False)
class Measures(Basics):
    """What some windows are like.

    Of the signal as it comes, after its mean over the window (any offset) is taken out:

    Attributes:
        rms_uv: Root mean square, µV.
        step_share: Largest change from one sample to the next, of the peak to peak.
        step_crest: The same, of the root mean square of all changes: 1.4 for a wave, about 3 for
            noise, 6 to 11 for a step.
        mains_share: Power at the mains' frequency, of all power.
        fast_share: Mean of sin²(pi f / rate) over its power without the mains: 0.03 for a 10 Hz
            wave, 0.4 at 40 Hz; the mobility of Hjorth (Electroencephalogr. Clin. Neurophysiol.
            29:306, 1970), squared, over its largest value.

    And of the signal behind the filters:

    Attributes:
        clean_span_uv: Peak to peak, µV.
        traversals: Line length (Esteller et al., Proc. IEEE EMBS 2001) over peak to peak: how many
            times it goes from end to end; 1 for a step or a drift, 3 and more for a rhythm.
        trend_share: Difference of the means of its last and its first third, of the peak to peak.
    """

    rms_uv: Measure
    step_share: Measure
    step_crest: Measure
    mains_share: Measure
    fast_share: Measure
    clean_span_uv: Measure
    traversals: Measure
    trend_share: Measure


class WindowMeter:
    """Measures windows.

    Args:
        window_samples: Length of a window.
        hop_samples: From one window to the next.
        rate_hz: Of the samples.
        mains_hz: Frequency of the mains.
    """

    def __init__(
        self, *, window_samples: int, hop_samples: int, rate_hz: float, mains_hz: float
    ) -> None:
        shared = math.gcd(window_samples, hop_samples)
        self.window_samples = self._window = window_samples
        self._size = max(n for n in range(1, MAX_BLOCK + 1) if shared % n == 0)  # of a block
        self._per = window_samples // self._size  # blocks in a window
        self._step = hop_samples // self._size  # blocks from one window to the next
        turn = 2 * math.pi * mains_hz / rate_hz
        self._phases = np.exp(-1j * turn * np.arange(self._size))
        self._block_phases = np.exp(-1j * turn * self._size * np.arange(self._per))
        self._offset_leak = np.exp(-1j * turn * np.arange(window_samples)).sum()
        self._mains_change = math.sin(turn / 2) ** 2

    def basics(self, raw: NDArray[np.float32]) -> Basics:
        """Measure what is quick, of the windows in a stretch; see ``measure``."""
        x = np.empty(raw.shape[::-1])
        finite = self._fill(x, raw)
        blocks = self._blocks(x)
        extremes = _extremes(blocks)
        most = self._in_windows(extremes).max(axis=2)
        high, minus_low = _apart(most, 2)
        return Basics(
            finite=finite,
            mean_uv=self._in_windows(blocks.sum(axis=2)).sum(axis=2).T / self._window,
            span_uv=np.maximum(high + minus_low, TINY).T,
            flat_share=self._flat_share(extremes).T,
            railed_share=self._railed_share(x, most).T,
        )

    def measure(self, raw: NDArray[np.float32], filtered: NDArray[np.float32]) -> Measures:
        """Measure the windows in a stretch, which begins and ends with one.

        Args:
            raw: Shape ``(n_samples, n_channels)``, µV, as it comes.
            filtered: The same behind the filters.
        """
        # Calls cost more than numbers do: x (raw) and y (filtered) go through them side by side.
        n, C = self._window, raw.shape[1]
        stacked = np.empty((3 * C, len(raw)))
        x, y, xx = _apart(stacked, 3)
        finite = self._fill(x, raw)
        self._fill(y, filtered)
        np.multiply(x, x, out=xx)
        sums = self._in_windows(self._blocks(stacked).sum(axis=2))
        in_x, _, in_xx = _apart(sums.sum(axis=2), 3)
        mean = in_x / n
        power = np.maximum(in_xx - n * mean * mean, TINY)
        mains = self._mains_power(x, mean)
        # What the mains make of the changes is taken out; what is left is muscle, or noise.
        changes = np.zeros((2 * C, len(raw)))  # from each sample to the next; 0 after the last
        both = stacked[: 2 * C]
        np.abs(both[:, 1:] - both[:, :-1], out=changes[:, :-1])
        step = self._most_inside(changes[:C])
        changes[:C] *= changes[:C]
        changed, path = _apart(self._sums_inside(changes), 2)
        fast = changed / 4 - mains * self._mains_change
        usual_step = np.sqrt(np.maximum(changed, TINY) / (n - 1))
        extremes = _extremes(self._blocks(both))  # of x and y, then again with the sign turned
        most = self._in_windows(extremes).max(axis=2)
        span, clean_span = _apart(np.maximum(most[: 2 * C] + most[2 * C :], TINY), 2)
        of_x = np.concatenate([extremes[:C], extremes[2 * C : 3 * C]])
        most_of_x = np.concatenate([most[:C], most[2 * C : 3 * C]])
        return Measures(
            finite=finite,
            mean_uv=mean.T,
            rms_uv=np.sqrt(power / n).T,
            span_uv=span.T,
            step_share=(step / span).T,
            step_crest=(step / usual_step).T,
            flat_share=self._flat_share(of_x).T,
            railed_share=self._railed_share(x, most_of_x).T,
            mains_share=np.minimum(mains / power, 1).T,
            fast_share=np.minimum(np.maximum(fast / np.maximum(power - mains, TINY), 0), 1).T,
            clean_span_uv=clean_span.T,
            traversals=(path / clean_span).T,
            trend_share=(self._trend(sums[C : 2 * C]) / clean_span).T,
        )

    def likeness(self, filtered: NDArray[np.float32]) -> Measure:
        """Return how each channel goes with the median of all.

        After the correlation criterion of Bigdely-Shamlo et al., Front. Neuroinform. 9:16, 2015.

        Args:
            filtered: As for ``measure``.

        Returns:
            Shape ``(n_windows, n_channels)``, -1 to 1.
        """
        n = self._window
        y = np.empty(filtered.shape[::-1])
        self._fill(y, filtered)
        middle = np.median(y, axis=0, keepdims=True)  # of all channels
        signals = (y, y * y, y * middle, middle, middle * middle)
        sums = [self._in_windows(self._blocks(s).sum(axis=2)).sum(axis=2) for s in signals]
        ys, yy, ym, ms, mm = sums
        varied = np.maximum((yy - ys * ys / n) * (mm - ms * ms / n), TINY)
        return np.asarray(np.clip((ym - ys * ms / n) / np.sqrt(varied), -1, 1).T)

    def _fill(self, x: Measure, samples: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Put samples into ``(n_channels, n_samples)``, 0 for what is none; say which windows are.

        Returns:
            Whether every sample of a window is a number, shape ``(n_windows, n_channels)``.
        """
        x[:] = samples.T
        if math.isfinite(np.add.reduce(x, axis=None)):
            n_windows = (len(samples) - self._window) // (self._step * self._size) + 1
            return np.ones((n_windows, len(x)), dtype=np.bool_)
        finite = np.isfinite(x)
        x[~finite] = 0
        blocks = np.asarray(self._blocks(finite).all(axis=2))
        return np.asarray(self._in_windows(blocks).all(axis=2).T)

    def _blocks(self, x: NDArray[Any]) -> NDArray[Any]:
        return x.reshape(len(x), -1, self._size)

    def _in_windows(self, blocks: NDArray[Any], per: int | None = None) -> NDArray[Any]:
        """Return shape ``(len(blocks), n_windows, per)``, each row whole: sums have one order."""
        per = per or self._per
        if blocks.shape[1] == per:
            return np.ascontiguousarray(blocks)[:, None]
        return blocks.take(_columns(blocks.shape[1], per, self._step), axis=1)

    def _sums_inside(self, changes: Measure) -> Measure:
        """Sum over each window, without the change from its last sample to one beyond it."""
        blocks = self._blocks(changes)
        parts = self._in_windows(blocks.sum(axis=2))
        parts[..., -1] = blocks[..., :-1].sum(axis=2)[:, self._per - 1 :: self._step]
        return np.asarray(parts.sum(axis=2))

    def _most_inside(self, changes: Measure) -> Measure:
        blocks = self._blocks(changes)
        parts = self._in_windows(blocks.max(axis=2))
        inside = blocks[..., :-1].max(axis=2, initial=0)
        parts[..., -1] = inside[:, self._per - 1 :: self._step]
        return np.asarray(parts.max(axis=2))

    def _mains_power(self, x: Measure, mean: Measure) -> Measure:
        """Return the mains' power in each window: the Fourier sum at their frequency."""
        parts = self._in_windows((self._blocks(x) * self._phases).sum(axis=2)) * self._block_phases
        at_mains = parts.sum(axis=2) - mean * self._offset_leak
        return np.asarray(2 * (at_mains.real**2 + at_mains.imag**2) / self._window)

    def _trend(self, levels: Measure) -> Measure:
        """Return how far it is from the mean of a window's first third to that of its last."""
        third = max(1, self._per // 3)
        apart = levels[..., -third:].sum(axis=2) - levels[..., :third].sum(axis=2)
        return np.asarray(np.abs(apart) / (third * self._size))

    def _flat_share(self, extremes: Measure) -> Measure:
        n = min(max(1, FLAT_SAMPLES // self._size), self._per)
        high, minus_low = _apart(_running_max(extremes, n), 2)
        still = self._in_windows(high + minus_low < FLAT_UV, self._per - n + 1)
        return np.asarray(still.sum(axis=2) / still.shape[2])

    def _railed_share(self, x: Measure, most: Measure) -> Measure:
        """Return the share of samples at an extreme; clipping need not be long to be often."""
        high, minus_low = _apart(most, 2)
        slack = RAIL_SHARE * (high + minus_low)
        windows = sliding_window_view(x, self._window, axis=1)[:, :: self._step * self._size]
        at_top = windows >= (high - slack)[..., None]
        at_bottom = windows <= (slack - minus_low)[..., None]
        return np.asarray((at_top | at_bottom).sum(axis=2) / self._window)


@lru_cache(maxsize=64)
def _columns(n_blocks: int, per: int, step: int) -> NDArray[np.intp]:
    """Blocks of each window, shape ``(n_windows, per)``."""
    return np.arange(0, n_blocks - per + 1, step)[:, None] + np.arange(per)


def _extremes(blocks: Measure) -> Measure:
    """Highest, then lowest with the sign turned, of each block: ``(2 len(blocks), n_blocks)``."""
    return np.concatenate([blocks.max(axis=2), -blocks.min(axis=2)])


def _running_max(x: Measure, n: int) -> Measure:
    """Highest of each *n* in a row, along the last axis."""
    highest = x[:, : x.shape[1] - n + 1]
    for start in range(1, n):
        highest = np.maximum(highest, x[:, start : x.shape[1] - n + 1 + start])
    return highest


def _apart(stacked: NDArray[Any], n: int) -> list[NDArray[Any]]:
    """Cut into *n* parts of equal length, which are views."""
    each = len(stacked) // n
    return [stacked[start : start + each] for start in range(0, len(stacked), each)]
