"""Is this window worth classifying? Channel by channel, before anything is decided on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from stream_classifier.bundle import Bundle
from stream_classifier.signals import ChannelQuality, ChannelState

FLAT_UV = 1.0
"""Less than this peak to peak for ``FLAT_SAMPLES``: an electrode off, a railed amplifier,
or volts taken for microvolts."""

FLAT_SAMPLES = 30
"""0.17 s at 178 Hz."""

RANGE_UV = 10_000.0
"""More than this peak to peak in one window: motion, a lost contact, or a wrong unit."""

OFFSET_UV = 500.0
"""A mean beyond this, for a bundle that does not remove offsets itself. Smaller ones degrade its
decisions, too; but the data set has means of up to 340 µV, so they are no reason to refuse."""

MOTION_UV = 600.0
HOLD_S = 1.0
MAX_SETTLE_S = 10.0

REASONS: Final = (
    "not finite",
    "flat",
    "out of range",
    "offset",
    "motion",
    "settling",
    "hold-off",
)
"""Why a window is refused, the weightiest first; bit *i* of a verdict's masks is the *i*-th."""

USABLE: Final = ""
"""In place of a reason: this window can be classified."""

_BIT: Final = {reason: 1 << i for i, reason in enumerate(REASONS)}


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """What one window of each channel is worth. Arrays have shape ``(n_channels,)``."""

    poor: NDArray[np.uint16]
    fair: NDArray[np.uint16]

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Whether a decision may be made."""
        return np.asarray(self.poor == 0)

    @property
    def reasons(self) -> tuple[str, ...]:
        """One word a channel: why it cannot be classified, "" where it can."""
        return tuple(_words(mask)[0] if mask else "" for mask in self.poor.tolist())

    @property
    def states(self) -> tuple[str, ...]:
        """State of each channel."""
        return tuple(
            str(_state(poor, fair))
            for poor, fair in zip(self.poor.tolist(), self.fair.tolist(), strict=True)
        )


@dataclass(frozen=True, slots=True, eq=False)
class Verdicts:
    """What some windows are worth. Masks have shape ``(n_windows, n_channels)``."""

    poor: NDArray[np.uint16]
    fair: NDArray[np.uint16]

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Where a decision may be made."""
        return np.asarray(self.poor == 0)

    def at(self, i: int) -> Verdict:
        """Return what the *i*-th window is worth."""
        return Verdict(self.poor[i], self.fair[i])


class Gate(Protocol):
    """Judges the windows of one stream, in order."""

    def restart(self, first_index: int) -> None:
        """Begin again after a gap."""
        ...

    def hold(self, channels: NDArray[np.bool_], index: int) -> None:
        """Make no decision on windows of these channels that hold samples before this index."""
        ...

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
        ...

    def latest(self, labels: Sequence[str], gains: Sequence[float]) -> tuple[ChannelQuality, ...]:
        """Say what the newest window was worth."""
        ...


def make_gate(bundle: Bundle, *, n_channels: int, mains_hz: float) -> Gate:
    """Return the hard limits for a bundle without a gain, the full gate for one with it."""
    if bundle.gain is None:
        return HardLimits(window_samples=bundle.window_samples, limit_offset=not bundle.filters)
    settle_s = max((f.settle_s for f in bundle.filters), default=0.0)
    return QualityGate(
        window_samples=bundle.window_samples,
        rate_hz=bundle.rate_hz,
        n_channels=n_channels,
        settle_s=min(settle_s, MAX_SETTLE_S),
        mains_hz=mains_hz,
    )


class HardLimits:
    """Refuses only what can be no EEG at all.

    The limits leave a wide margin to the Epileptic Seizure Recognition data set, whose 11,500 rows
    range over: peak to peak in 30 samples at least 10 µV; in 120 samples at most 3.7 mV; mean of
    120 samples at most 0.34 mV.

    Args:
        window_samples: Length of a window.
        limit_offset: Whether an offset matters: True for a bundle without a high-pass.
    """

    def __init__(self, *, window_samples: int, limit_offset: bool) -> None:
        self._window = window_samples
        self._limit_offset = limit_offset
        self._newest: tuple[NDArray[np.float32], Verdict] | None = None

    def restart(self, first_index: int) -> None:
        """Each window is judged by itself."""

    def hold(self, channels: NDArray[np.bool_], index: int) -> None:
        """Each window is judged by itself."""

    def judge(
        self,
        raw: NDArray[np.float32],
        filtered: NDArray[np.float32],  # noqa: ARG002 - judged as it comes
        *,
        ends: Sequence[int],
        gains: NDArray[np.float32],  # noqa: ARG002 - there are none
    ) -> Verdicts:
        """Say what windows are worth; see ``Gate.judge``."""
        windows = _windows(raw, self._window, len(ends))  # (n_windows, n_channels, n_samples)
        finite = np.isfinite(windows)
        known = np.where(finite, windows, np.float32(0))
        poor = _mask("not finite", ~finite.all(axis=2))
        poor |= _mask("flat", _flat_share(known) > 0)
        poor |= _mask("out of range", np.asarray(np.ptp(known, axis=2) > RANGE_UV))
        if self._limit_offset:
            poor |= _mask("offset", np.abs(known.mean(axis=2)) > OFFSET_UV)
        verdicts = Verdicts(poor, np.zeros_like(poor))
        self._newest = (windows[-1], verdicts.at(len(ends) - 1))
        return verdicts

    def latest(self, labels: Sequence[str], gains: Sequence[float]) -> tuple[ChannelQuality, ...]:
        """Say what the newest window was worth."""
        return _described(self._newest, labels, gains)


class QualityGate:
    """The full gate, for live signals of a head."""

    def __init__(
        self,
        *,
        window_samples: int,
        rate_hz: float,
        n_channels: int,
        settle_s: float,
        mains_hz: float,
    ) -> None:
        self._window = window_samples
        self._rate_hz = rate_hz
        self._mains_hz = mains_hz
        self._settle = round(settle_s * rate_hz)
        self._hold = round(HOLD_S * rate_hz)
        self._settled_at = 0
        self._clear_from = np.zeros(n_channels, dtype=np.int64)
        self._newest: tuple[NDArray[np.float32], Verdict] | None = None

    def restart(self, first_index: int) -> None:
        """Begin again after a gap: the filters have to settle."""
        self._settled_at = first_index + self._settle
        self._clear_from[:] = first_index

    def hold(self, channels: NDArray[np.bool_], index: int) -> None:
        """Make no decision on windows of these channels that hold samples before this index."""
        self._clear_from[channels] = np.maximum(self._clear_from[channels], index + self._window)

    def judge(
        self,
        raw: NDArray[np.float32],
        filtered: NDArray[np.float32],
        *,
        ends: Sequence[int],
        gains: NDArray[np.float32],  # noqa: ARG002
    ) -> Verdicts:
        """Say what windows are worth; see ``Gate.judge``."""
        windows = _windows(raw, self._window, len(ends))  # (n_windows, n_channels, n_samples)
        finite = np.isfinite(windows)
        known = np.where(finite, windows, np.float32(0))
        clean = np.nan_to_num(_windows(filtered, self._window, len(ends)))
        poor = _mask("not finite", ~finite.all(axis=2))
        poor |= _mask("flat", _flat_share(known) > 0)
        poor |= _mask("out of range", np.asarray(np.ptp(known, axis=2) > RANGE_UV))
        poor |= _mask("motion", np.ptp(clean, axis=2) > MOTION_UV)
        end = np.array(ends, dtype=np.int64)[:, None]  # (n_windows, 1)
        settling = np.broadcast_to(end - self._window < self._settled_at, poor.shape)
        # A refused window refuses those after it, until a second has passed.
        wild = np.where(poor != 0, end + self._hold, 0)
        before = np.concatenate([self._clear_from[None], wild])
        held = np.maximum.accumulate(before, axis=0)
        self._clear_from = held[-1]
        poor |= _mask("settling", settling) | _mask("hold-off", end < held[:-1])
        verdicts = Verdicts(poor, np.zeros_like(poor))
        self._newest = (windows[-1], verdicts.at(len(ends) - 1))
        return verdicts

    def latest(self, labels: Sequence[str], gains: Sequence[float]) -> tuple[ChannelQuality, ...]:
        """Say what the newest window was worth."""
        return _described(self._newest, labels, gains)


def _windows(samples: NDArray[np.float32], length: int, n_windows: int) -> NDArray[np.float32]:
    """Return the windows as a view of shape ``(n_windows, n_channels, length)``."""
    hop = (len(samples) - length) // (n_windows - 1) if n_windows > 1 else 1
    return np.asarray(sliding_window_view(samples, length, axis=0)[::hop])


def _mask(reason: str, where: NDArray[np.bool_]) -> NDArray[np.uint16]:
    return np.asarray(where * np.uint16(_BIT[reason]))


def _words(mask: int) -> tuple[str, ...]:
    return tuple(reason for i, reason in enumerate(REASONS) if mask >> i & 1)


def _state(poor: int, fair: int) -> ChannelState:
    if poor:
        return ChannelState.POOR
    return ChannelState.FAIR if fair else ChannelState.GOOD


def _flat_share(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the share of stretches of ``FLAT_SAMPLES`` in which nothing moves."""
    n_blocks = windows.shape[2] // FLAT_SAMPLES
    blocks = windows[:, :, -n_blocks * FLAT_SAMPLES :].reshape(*windows.shape[:2], n_blocks, -1)
    return np.asarray((np.ptp(blocks, axis=3) < FLAT_UV).mean(axis=2, dtype=np.float32))


def _described(
    newest: tuple[NDArray[np.float32], Verdict] | None,
    labels: Sequence[str],
    gains: Sequence[float],
) -> tuple[ChannelQuality, ...]:
    if newest is None:
        return ()
    window, verdict = newest  # (n_channels, n_samples)
    flat = _flat_share(window[None])[0]
    edge = (window == window.max(axis=1, keepdims=True)) | (
        window == window.min(axis=1, keepdims=True)
    )
    return tuple(
        ChannelQuality(
            label=label,
            state=_state(poor, fair),
            reasons=_words(poor) or _words(fair),
            rms_uv=float(window[i].std()),
            mains_share=0.0,
            flat_share=float(flat[i]),
            railed_share=float(edge[i].mean()),
            gain=gains[i],
        )
        for i, (label, poor, fair) in enumerate(
            zip(labels, verdict.poor.tolist(), verdict.fair.tolist(), strict=True)
        )
    )
