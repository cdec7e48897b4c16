"""Is this window worth classifying? Channel by channel, before anything is decided on it.

A bundle without a gain gets the hard limits: what is refused can be no EEG at all. A bundle with
one is meant for heads and gets the full gate. It asks what FASTER (Nolan, Whelan & Reilly, J.
Neurosci. Methods 192:152, 2010) and PREP (Bigdely-Shamlo et al., Front. Neuroinform. 9:16, 2015)
ask of a recording (amplitude, flatness, mains, high frequencies, likeness to other channels), but
of one window, at once, and with a seizure in mind: large alone is no reason. A seizure is rhythmic
and goes from end to end several times a window; a moving electrode does so once or twice. Where it
is not said otherwise, limits were set on healthy people with a loosely fitting headset, and so
that less than 3% of the Epileptic Seizure Recognition data set's seizures is refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_classifier.bundle import Bundle
from stream_classifier.detection.measures import FLAT_UV, Basics, WindowMeter
from stream_classifier.signals import ChannelQuality, ChannelState, ChannelVerdict

RANGE_UV = 10_000.0
"""More than this peak to peak in one window: motion, a lost contact, or a wrong unit."""

OFFSET_UV = 500.0
"""A mean beyond this, for a bundle that does not remove offsets itself. Smaller ones degrade its
decisions, too; but the data set has means of up to 340 µV, so they are no reason to refuse."""

LARGE_UV = 1000.0
"""Peak to peak behind filters and gain: with the gain's usual 40 µV of background, 25 times its
standard deviation. A larger signal must be rhythmic."""

RHYTHMIC = 3.0
"""Traversals a window of a large signal. Of the headset's windows above 600 µV 84% have fewer, of
the data set's seizures 1.5%."""

EVERYWHERE_UV = 2000.0
"""Where half of at least ``MANY`` channels are larger than this at once, the head moves."""

ENORMOUS_UV = 5000.0
"""Peak to peak behind filters and gain that is refused whatever its shape. The data set's
seizures, as recorded, reach 3.7 mV."""

ALONE, SLOW_ALONE = 8.0, 5.0
"""A channel so many times larger than the median of at least ``MANY``. A focal seizure is alone,
too: so it must be larger than ``EVERYWHERE_UV`` besides, or larger than half of ``LARGE_UV`` and
not rhythmic."""

MANY = 4

POP_UV, POP_SHARE, POP_CREST = 500.0, 0.5, 5.0
"""A change within one sample that is so much of the peak to peak, and so much larger than the
others are: an electrode that jumps."""

DRIFT_UV, DRIFT_SHARE, DRIFT_TRAVERSALS = 250.0, 0.6, 1.8
"""A window that is one slow ramp, also when the filters ring behind something large."""

MAINS_SHARE = 0.99
"""Hum of ten times the EEG: an electrode is probably off. Three to four times are usual on
amplifiers without a notch of their own, and the bundle's filters take that out."""

MUSCLE_SHARE, MUSCLE_UV = 0.3, 150.0
"""Mostly fast (of white noise the half is), and that large (rms without mains, with the gain)."""

RAILED_SHARE = 0.25
"""Of a window's samples at its extremes: a clipped signal, which a network takes for a seizure."""

LOWEST_GAIN = 0.5
"""For these limits, so that a channel whose baseline was bad can not move them out of sight."""

FAIR_MAINS_SHARE, FAIR_FAST_SHARE, FAIR_SPAN_UV = 0.5, 0.2, 600.0
FAIR_LIKENESS = 0.1

HOLD_S = 0.5
"""No decision for so long behind a refused window: the filters ring, and motion comes in bursts."""

MAX_SETTLE_S = 10.0

REASONS: Final = (
    "not finite",
    "flat",
    "out of range",
    "offset",
    "railed",
    "mains",
    "pop",
    "drift",
    "alone",
    "motion",
    "muscle",
    "settling",
    "hold-off",
    "uncorrelated",
)
"""Why a window is refused or only fair, the weightiest first; bit *i* of a mask is the *i*-th."""

USABLE: Final = ""
"""In place of a reason: this window can be classified."""

_BIT: Final = {reason: 1 << i for i, reason in enumerate(REASONS)}
_PASSING: Final = np.uint16(_BIT["drift"] | _BIT["not finite"])
"""These need no hold-off: nothing is left behind."""

Found = dict[str, NDArray[np.bool_]]
"""Where each reason was found; shapes ``(n_windows, n_channels)``."""


@dataclass(frozen=True, slots=True, eq=False)
class Verdicts:
    """What some windows are worth. Masks of reasons have shape ``(n_windows, n_channels)``."""

    poor: NDArray[np.uint16]
    fair: NDArray[np.uint16]

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Where a decision may be made."""
        return np.asarray(self.poor == 0)

    def reasons(self, i: int) -> tuple[str, ...]:
        """Say of each channel why window *i* cannot be classified, "" where it can."""
        return _reasons(self.poor[i].tobytes())

    def states(self, i: int) -> tuple[ChannelState, ...]:
        """Say what window *i* of each channel is worth."""
        return _states(self.poor[i].tobytes(), self.fair[i].tobytes())


@dataclass(frozen=True, slots=True, eq=False)
class _Newest:
    """The newest window: ``(n_samples, n_channels)``, and what was said of each channel."""

    raw: NDArray[np.float32]
    filtered: NDArray[np.float32]
    poor: NDArray[np.uint16]
    fair: NDArray[np.uint16]


class Gate:
    """Judges the windows of one stream, in order. Here: refuses only what can be no EEG at all.

    The limits leave a wide margin to the Epileptic Seizure Recognition data set, whose 11,500 rows
    range over: peak to peak in 30 samples at least 10 µV; in 120 samples at most 3.7 mV, 16%
    of them at a rail; mean of 120 samples at most 0.34 mV.

    Args:
        meter: Measures the windows.
        limit_offset: Whether an offset matters: True for a bundle without a high-pass.
    """

    def __init__(self, meter: WindowMeter, *, limit_offset: bool) -> None:
        self._meter = meter
        self._limit_offset = limit_offset
        self._newest: _Newest | None = None

    def restart(self, first_index: int) -> None:
        """Begin again after a gap."""

    def hold(self, channels: NDArray[np.bool_], index: int) -> None:
        """Make no decision on windows of these channels that hold samples before this index."""

    def judge(
        self,
        raw: NDArray[np.float32],
        filtered: NDArray[np.float32],
        *,
        ends: Sequence[int],
        gains: NDArray[np.float32],
    ) -> Verdicts:
        """Say what windows are worth.

        Args:
            raw: Shape ``(n_samples, n_channels)``, µV, before filters and gain, from the first
                sample of the first window to the last of the last one.
            filtered: The same, behind the filters.
            ends: Absolute index of the sample after each window.
            gains: Shape ``(n_channels,)``.
        """
        verdicts = self._judge(raw, filtered, np.array(ends, dtype=np.int64)[:, None], gains)
        n = self._meter.window_samples
        self._newest = _Newest(raw[-n:], filtered[-n:], verdicts.poor[-1], verdicts.fair[-1])
        return verdicts

    def verdicts(self, labels: Sequence[str]) -> tuple[ChannelVerdict, ...]:
        """Say whether the newest window could be classified; nothing before the first one."""
        newest = self._newest
        if newest is None:
            return ()
        poor, fair = newest.poor.tolist(), newest.fair.tolist()
        return tuple(
            ChannelVerdict(label, _state(*masks), _words(masks[0]) or _words(masks[1]))
            for label, *masks in zip(labels, poor, fair, strict=True)
        )

    def latest(self, labels: Sequence[str], gains: Sequence[float]) -> tuple[ChannelQuality, ...]:
        """Say what the newest window was worth; nothing before the first one."""
        newest = self._newest
        if newest is None:
            return ()
        m = self._meter.measure(newest.raw, newest.filtered)
        return tuple(
            ChannelQuality(
                label=label,
                state=_state(int(newest.poor[i]), int(newest.fair[i])),
                reasons=_words(int(newest.poor[i])) or _words(int(newest.fair[i])),
                rms_uv=float(m.rms_uv[0, i]) if m.finite[0, i] else math.nan,
                mains_share=float(m.mains_share[0, i]),
                flat_share=float(m.flat_share[0, i]),
                railed_share=float(m.railed_share[0, i]),
                gain=gain,
            )
            for i, (label, gain) in enumerate(zip(labels, gains, strict=True))
        )

    def _judge(
        self,
        raw: NDArray[np.float32],
        filtered: NDArray[np.float32],  # noqa: ARG002 - not looked at
        ends: NDArray[np.int64],  # noqa: ARG002 - each window is judged by itself
        gains: NDArray[np.float32],  # noqa: ARG002 - there are none
    ) -> Verdicts:
        poor = _masks(self._hard_limits(self._meter.basics(raw)))
        return Verdicts(poor, np.zeros_like(poor))

    def _hard_limits(self, m: Basics) -> Found:
        found = {
            "not finite": ~m.finite,
            "flat": m.flat_share > 0,
            "out of range": m.span_uv > RANGE_UV,
            # What never moves is flat; whether at a rail, nobody can say.
            "railed": (m.railed_share > RAILED_SHARE) & (m.span_uv >= FLAT_UV),
        }
        if self._limit_offset:
            found["offset"] = np.abs(m.mean_uv) > OFFSET_UV
        return found


class HeadGate(Gate):
    """Refuses what no decision should be made on, on a living head.

    Args:
        meter: Measures the windows.
        n_channels: Values in each sample.
        settle_samples: Until the filters can be trusted.
        hold_samples: No decision for so long behind a refused window.
    """

    def __init__(
        self, meter: WindowMeter, *, n_channels: int, settle_samples: int, hold_samples: int
    ) -> None:
        super().__init__(meter, limit_offset=False)
        self._settle = settle_samples
        self._hold = hold_samples
        self._settled_at = 0
        self._clear_from = np.zeros(n_channels, dtype=np.int64)

    def restart(self, first_index: int) -> None:
        """Begin again after a gap: the filters have to settle."""
        self._settled_at = first_index + self._settle
        self._clear_from[:] = first_index

    def hold(self, channels: NDArray[np.bool_], index: int) -> None:
        """Make no decision on windows of these channels that hold samples before this index."""
        clear_from = np.maximum(self._clear_from, index + self._meter.window_samples)
        self._clear_from = np.where(channels, clear_from, self._clear_from)

    def _judge(
        self,
        raw: NDArray[np.float32],
        filtered: NDArray[np.float32],
        ends: NDArray[np.int64],
        gains: NDArray[np.float32],
    ) -> Verdicts:
        m = self._meter.measure(raw, filtered)
        gain = np.maximum(gains.astype(np.float64), LOWEST_GAIN)
        span = m.clean_span_uv * gain  # (n_windows, n_channels), µV as the network sees them
        slow = m.traversals < RHYTHMIC
        large = span > LARGE_UV
        rms = m.rms_uv * np.sqrt(1 - m.mains_share) * gain
        jump = (m.step_share > POP_SHARE) & (m.step_crest > POP_CREST)
        ramp = (m.trend_share > DRIFT_SHARE) & (m.traversals < DRIFT_TRAVERSALS)
        poor = self._hard_limits(m) | {
            "mains": m.mains_share > MAINS_SHARE,
            "pop": jump & (m.span_uv * gain > POP_UV),
            "drift": ramp & (span > DRIFT_UV),
            "motion": (large & slow) | (span > ENORMOUS_UV),
            "muscle": (m.fast_share > MUSCLE_SHARE) & (rms > MUSCLE_UV),
        }
        fair = {
            "mains": m.mains_share > FAIR_MAINS_SHARE,
            "motion": slow & (span > FAIR_SPAN_UV),
            "muscle": m.fast_share > FAIR_FAST_SHARE,
        }
        half_large = span > LARGE_UV / 2
        if span.shape[1] >= MANY and half_large.any():
            middle = np.median(span, axis=1, keepdims=True)  # (n_windows, 1)
            poor["motion"] |= large & (middle > EVERYWHERE_UV)
            alone = (span > EVERYWHERE_UV) & (span > ALONE * middle)
            poor["alone"] = alone | (slow & half_large & (span > SLOW_ALONE * middle))
            likeness = self._meter.likeness(filtered)
            fair["uncorrelated"] = half_large & (np.abs(likeness) < FAIR_LIKENESS)
        return Verdicts(self._held(_masks(poor), ends), _masks(fair))

    def _held(self, poor: NDArray[np.uint16], ends: NDArray[np.int64]) -> NDArray[np.uint16]:
        """Refuse also what comes too soon after a gap, or after a refused window."""
        settled_from = self._settled_at + self._meter.window_samples
        if ends[0, 0] >= max(settled_from, int(self._clear_from.max())) and not poor.any():
            return poor
        settling = np.broadcast_to(ends < settled_from, poor.shape)
        wild = np.where(poor & ~_PASSING, ends + self._hold, 0)
        clear_from = np.maximum.accumulate(np.concatenate([self._clear_from[None], wild]))
        self._clear_from = clear_from[-1]
        held = _masks({"settling": settling, "hold-off": ends < clear_from[:-1]})
        return np.asarray(poor | held)


def make_gate(bundle: Bundle, *, n_channels: int, hop_samples: int, mains_hz: float) -> Gate:
    """Return the hard limits for a bundle without a gain, the full gate for one with it."""
    meter = WindowMeter(
        window_samples=bundle.window_samples,
        hop_samples=hop_samples,
        rate_hz=bundle.rate_hz,
        mains_hz=mains_hz,
    )
    if bundle.gain is None:
        return Gate(meter, limit_offset=not bundle.filters)
    settle_s = max((f.settle_s for f in bundle.filters), default=0.0)
    return HeadGate(
        meter,
        n_channels=n_channels,
        settle_samples=round(min(settle_s, MAX_SETTLE_S) * bundle.rate_hz),
        hold_samples=round(HOLD_S * bundle.rate_hz),
    )


def _masks(found: Found) -> NDArray[np.uint16]:
    """Make of where each reason was found one mask a window and channel."""
    flags = np.array(list(found.values()))  # (n_reasons, n_windows, n_channels)
    if not flags.any():
        return np.zeros(flags.shape[1:], dtype=np.uint16)
    bits = np.array([_BIT[reason] for reason in found], dtype=np.uint16)[:, None, None]
    return np.asarray(np.bitwise_or.reduce(np.where(flags, bits, np.uint16(0)), axis=0))


def _words(mask: int) -> tuple[str, ...]:
    return tuple(reason for i, reason in enumerate(REASONS) if mask >> i & 1)


# Of the masks of a window's channels, as bytes: nearly all windows are like one seen before.
@lru_cache(maxsize=1024)
def _reasons(poor: bytes) -> tuple[str, ...]:
    masks = np.frombuffer(poor, dtype=np.uint16).tolist()
    return tuple(_words(mask)[0] if mask else USABLE for mask in masks)


@lru_cache(maxsize=1024)
def _states(poor: bytes, fair: bytes) -> tuple[ChannelState, ...]:
    masks = (np.frombuffer(mask, dtype=np.uint16).tolist() for mask in (poor, fair))
    return tuple(map(_state, *masks))


def _state(poor: int, fair: int) -> ChannelState:
    if poor:
        return ChannelState.POOR
    return ChannelState.FAIR if fair else ChannelState.GOOD
