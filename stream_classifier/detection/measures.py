"""What the quality gate measures of each window: all windows of a chunk at once.

Windows overlap, so everything is first reduced over the blocks that they are made of, then from
blocks to windows. Each window's numbers come from its own samples, in an order that does not
depend on what else is in the chunk: they are the same however the stream is cut.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
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

RAIL_SAMPLES = 8
RAIL_SHARE = 0.005
"""A stretch of ``RAIL_SAMPLES`` that stays within this share of the window's peak to peak from its
maximum or minimum is at a rail. The crest of a 1 Hz wave is one such stretch at most."""

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
    """

    finite: NDArray[np.bool_]
    mean_uv: Measure
    span_uv: Measure
    flat_share: Measure


@dataclass(frozen=True, slots=True, eq=False)
class Measures(Basics):
    """What some windows are like.

    Of the signal as it comes, after its mean over the window (any offset) is taken out:

    Attributes:
        rms_uv: Root mean square, µV.
        step_share: Largest change from one sample to the next, of the peak to peak.
        step_crest: The same, of the root mean square of all changes: 1.4 for a wave, about 3 for
            noise, 6 to 11 for a step.
        railed_share: Share at its own extreme.
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
        likeness: Correlation with the median of all channels (after the correlation criterion of
            Bigdely-Shamlo et al., Front. Neuroinform. 9:16, 2015).
    """

    rms_uv: Measure
    step_share: Measure
    step_crest: Measure
    railed_share: Measure
    mains_share: Measure
    fast_share: Measure
    clean_span_uv: Measure
    traversals: Measure
    trend_share: Measure
    likeness: Measure


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
        finite = np.isfinite(raw.T)
        x = self._blocks(np.where(finite, raw.T, 0).astype(np.float64))
        highs, lows = x.max(axis=2), x.min(axis=2)  # of each block
        high, minus_low = self._most(highs, -lows)
        return Basics(
            finite=self._all_finite(finite),
            mean_uv=self._sums(x)[0].T / self._window,
            span_uv=np.maximum(high + minus_low, TINY).T,
            flat_share=self._flat_share(highs, lows).T,
        )

    def measure(self, raw: NDArray[np.float32], filtered: NDArray[np.float32]) -> Measures:
        """Measure the windows in a stretch, which begins and ends with one.

        Args:
            raw: Shape ``(n_samples, n_channels)``, µV, as it comes.
            filtered: The same behind the filters.
        """
        finite = np.isfinite(raw.T)
        x = self._blocks(np.where(finite, raw.T, 0).astype(np.float64))
        y = self._blocks(np.where(np.isfinite(filtered.T), filtered.T, 0).astype(np.float64))
        middle = np.median(y, axis=0, keepdims=True)  # of all channels
        xs, xx, ys, yy, ym, ms, mm = self._sums(x, x * x, y, y * y, y * middle, middle, middle**2)
        n = self._window
        mean = xs / n
        power = np.maximum(xx - n * mean * mean, TINY)
        mains = self._mains_power(x, mean)
        # What the mains make of the changes is taken out; what is left is muscle, or noise.
        change, length = self._changes(x), self._changes(y)
        changed, path = self._sums_inside(change * change, length)
        fast = changed / 4 - mains * self._mains_change
        step = self._most_inside(change)
        usual_step = np.sqrt(np.maximum(changed, TINY) / (n - 1))
        highs, lows = x.max(axis=2), x.min(axis=2)  # of each block
        extremes = (highs, -lows, y.max(axis=2), -y.min(axis=2))
        high, minus_low, clean_high, minus_clean_low = self._most(*extremes)
        span = np.maximum(high + minus_low, TINY)
        clean_span = np.maximum(clean_high + minus_clean_low, TINY)
        varied = np.maximum((yy - ys * ys / n) * (mm - ms * ms / n), TINY)
        return Measures(
            finite=self._all_finite(finite),
            mean_uv=mean.T,
            rms_uv=np.sqrt(power / n).T,
            span_uv=span.T,
            step_share=(step / span).T,
            step_crest=(step / usual_step).T,
            flat_share=self._flat_share(highs, lows).T,
            railed_share=self._railed_share(highs, lows, high, -minus_low).T,
            mains_share=np.minimum(mains / power, 1).T,
            fast_share=np.clip(fast / np.maximum(power - mains, TINY), 0, 1).T,
            clean_span_uv=clean_span.T,
            traversals=(path / clean_span).T,
            trend_share=(self._trend(y) / clean_span).T,
            likeness=np.clip((ym - ys * ms / n) / np.sqrt(varied), -1, 1).T,
        )

    def _blocks(self, x: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(x).reshape(len(x), -1, self._size)

    def _all_finite(self, finite: NDArray[np.bool_]) -> NDArray[np.bool_]:
        blocks = np.asarray(self._blocks(finite).all(axis=2))
        return np.asarray(self._in_windows(blocks).all(axis=2).T)

    def _in_windows(self, blocks: NDArray[Any], per: int | None = None) -> NDArray[Any]:
        """Return shape ``(n_channels, n_windows, per)``: a copy, so that sums have one order."""
        n_windows = (blocks.shape[1] - (per or self._per)) // self._step + 1
        first = np.arange(0, n_windows * self._step, self._step)[:, None]
        return np.take(blocks, first + np.arange(per or self._per), axis=1)

    def _sums(self, *signals: Measure) -> list[Measure]:
        """Sum each of some signals over each window; all at once, since calls cost more."""
        parts = self._in_windows(np.concatenate([signal.sum(axis=2) for signal in signals]))
        return _apart(parts.sum(axis=2), signals)

    def _sums_inside(self, *changes: Measure) -> list[Measure]:
        """Sum over each window, without the change from its last sample to one beyond it."""
        stacked = np.concatenate(changes)
        parts = self._in_windows(stacked.sum(axis=2))
        parts[..., -1] = stacked[..., :-1].sum(axis=2)[:, self._per - 1 :: self._step]
        return _apart(parts.sum(axis=2), changes)

    def _most(self, *blocks: Measure) -> list[Measure]:
        return _apart(self._in_windows(np.concatenate(blocks)).max(axis=2), blocks)

    def _most_inside(self, changes: Measure) -> Measure:
        parts = self._in_windows(changes.max(axis=2))
        inside = changes[..., :-1].max(axis=2, initial=0)
        parts[..., -1] = inside[:, self._per - 1 :: self._step]
        return np.asarray(parts.max(axis=2))

    def _changes(self, blocks: Measure) -> Measure:
        """Return how far it is from each sample to the next; 0 after the last."""
        flat = blocks.reshape(len(blocks), -1)
        changes = np.zeros_like(flat)
        np.abs(flat[:, 1:] - flat[:, :-1], out=changes[:, :-1])
        return self._blocks(changes)

    def _mains_power(self, x: Measure, mean: Measure) -> Measure:
        """Return the mains' power in each window: the Fourier sum at their frequency."""
        parts = self._in_windows((x * self._phases).sum(axis=2)) * self._block_phases
        at_mains = parts.sum(axis=2) - mean * self._offset_leak
        return np.asarray(2 * (at_mains.real**2 + at_mains.imag**2) / self._window)

    def _trend(self, y: Measure) -> Measure:
        """Return how far it is from the mean of a window's first third to that of its last."""
        levels = self._in_windows(y.sum(axis=2))
        third = max(1, self._per // 3)
        apart = levels[..., -third:].sum(axis=2) - levels[..., :third].sum(axis=2)
        return np.asarray(np.abs(apart) / (third * self._size))

    def _flat_share(self, highs: Measure, lows: Measure) -> Measure:
        n = min(max(1, FLAT_SAMPLES // self._size), self._per)
        high = sliding_window_view(highs, n, axis=1).max(axis=2)
        low = sliding_window_view(lows, n, axis=1).min(axis=2)
        return np.asarray(self._in_windows(high - low < FLAT_UV, self._per - n + 1).mean(axis=2))

    def _railed_share(self, highs: Measure, lows: Measure, high: Measure, low: Measure) -> Measure:
        n = -(-RAIL_SAMPLES // self._size)
        highs = sliding_window_view(highs, n, axis=1).max(axis=2)
        lows = sliding_window_view(lows, n, axis=1).min(axis=2)
        slack = (RAIL_SHARE * (high - low))[..., None]
        at_top = self._in_windows(lows, self._per - n + 1) >= high[..., None] - slack
        at_bottom = self._in_windows(highs, self._per - n + 1) <= low[..., None] + slack
        return np.asarray((at_top | at_bottom).mean(axis=2))


def _apart(stacked: Measure, parts: Sequence[Measure]) -> list[Measure]:
    ends = np.cumsum([len(part) for part in parts])[:-1]
    return np.split(stacked, ends)
