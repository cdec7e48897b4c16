"""One stream, from samples to predictions and alert events."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream_classifier.bundle import AlarmSpec, Bundle
from stream_classifier.detection.alarm import Alarm
from stream_classifier.detection.buffer import RingBuffer
from stream_classifier.detection.filters import CausalFilters
from stream_classifier.detection.fusion import Fusion
from stream_classifier.detection.gain import FrozenGains
from stream_classifier.detection.quality import Verdicts, make_gate
from stream_classifier.detection.resampler import Resampler
from stream_classifier.detection.scaler import FrozenScaler
from stream_classifier.detection.smoother import Smoother
from stream_classifier.detection.windows import WindowGrid
from stream_classifier.errors import ShapeError, SignalError
from stream_classifier.signals import (
    AlertEvent,
    Calibrated,
    ChannelQuality,
    ChannelVerdict,
    Chunk,
    Engine,
    Prediction,
    State,
    StreamSpec,
)

MAX_BATCH_SAMPLES = 4096
"""A longer chunk is worked through in pieces, so that the ring buffer holds each window."""

MAX_UV = 1e9
"""Beyond this a value is no number: what follows would overflow."""

Decided = Prediction | AlertEvent | Calibrated
"""What a detector says."""


@dataclass(frozen=True, slots=True)
class DetectorSettings:
    """What may differ from stream to stream.

    Attributes:
        rule: Smoothing, thresholds, times, and how many channels must agree; usually the bundle's.
        mains_hz: Frequency of the mains where the stream is recorded, 50 or 60.
        gains: Measured before, one a channel, None where a channel's is unknown; for a bundle with
            a gain. None: nothing is known.
        calibrate: Whether to measure the gains that are not known; else they are 1.
        remind_every_s: Alerts are latched, and called to mind this often until acknowledged; None:
            not latched.
    """

    rule: AlarmSpec
    mains_hz: float = 50.0
    gains: tuple[float | None, ...] | None = None
    calibrate: bool = True
    remind_every_s: float | None = None


class Detector:
    """The detector of one stream: pure, synchronous, no clock, no I/O.

    However the stream is cut into chunks, and whatever other streams share the engine, the
    output is the same (to the bit on the reference engine). A hole in the sample indices is
    a gap: filters, windows and LSTM states start again after it, and nothing is invented.

    Not thread-safe: one thread feeds it and its engine. ``quality``, ``gains``, ``calibrating`` and
    the counters may be looked at from another.

    Args:
        bundle: Model, scaler, filters, gain.
        spec: What the stream is; its rate may be any.
        engine: Runs the bundle's network; may be shared with other detectors.
        settings: Alarm, smoothing, mains, gains.
        standing: Latest step of an alert that an earlier process left standing, to go on with.

    Raises:
        ShapeError: If the gains given are not one a channel.
    """

    def __init__(
        self,
        *,
        bundle: Bundle,
        spec: StreamSpec,
        engine: Engine,
        settings: DetectorSettings,
        standing: AlertEvent | None = None,
    ) -> None:
        n_channels = spec.n_channels
        rate_hz, hop_samples = bundle.rate_hz, engine.hop_samples
        if settings.gains is not None and len(settings.gains) != n_channels:
            raise ShapeError(expected=f"({n_channels},) gains", actual=(len(settings.gains),))
        self.spec = spec
        self.bundle = bundle
        self.n_windows = 0
        self.n_windows_refused = 0  # windows in which no channel could be classified
        self.n_windows_calibrating = 0
        self.n_windows_shed = 0  # left out for want of speed
        self._rate_hz = rate_hz
        self._resampler = Resampler(in_hz=spec.rate_hz, out_hz=rate_hz, n_channels=n_channels)
        filters = [f for f in bundle.filters if f.mains_hz in (None, settings.mains_hz)]
        self._filters = CausalFilters([f.sos for f in filters], n_channels=n_channels)
        self._gate = make_gate(
            bundle, n_channels=n_channels, hop_samples=hop_samples, mains_hz=settings.mains_hz
        )
        self._gains = FrozenGains(
            bundle.gain,
            n_channels=n_channels,
            block_samples=round(rate_hz),
            stored=settings.gains,
            calibrate=settings.calibrate,
        )
        capacity = MAX_BATCH_SAMPLES + bundle.window_samples + hop_samples
        self._raw = RingBuffer(capacity=capacity, n_channels=n_channels)
        self._filtered = RingBuffer(capacity=capacity, n_channels=n_channels)
        self._scaler = FrozenScaler(mean_uv=bundle.scaler_mean_uv, std_uv=bundle.scaler_std_uv)
        self._grid = WindowGrid(window_samples=bundle.window_samples, hop_samples=hop_samples)
        self.engine = engine
        self._handle = engine.open(n_channels)
        self._smoother = Smoother(
            smoothing_samples=round(settings.rule.smoothing_s * rate_hz), hop_samples=hop_samples
        )
        self._fusion = Fusion(spec.labels, channels_needed=settings.rule.channels_needed)
        self._raise_threshold = settings.rule.raise_threshold
        self._alarm = Alarm(
            rule=settings.rule,
            hop_s=hop_samples / rate_hz,
            identity=f"{spec.source_id or spec.name}\n{bundle.digest}",
            rate_hz=rate_hz,
            remind_every_s=settings.remind_every_s,
        )
        if standing is not None:
            self._alarm.resume(standing)
        self.standing = standing
        self._next_index: int | None = None
        self._run_from = 0  # index, at the bundle's rate, of the first sample the engine is to have
        self._waiting: list[Chunk] = []  # consecutive, and too little to decide anything
        self._due = 0  # index of the input after which there is enough
        self._max_batch = max(1, int(MAX_BATCH_SAMPLES * spec.rate_hz / rate_hz))

    @property
    def gains(self) -> tuple[float, ...]:
        """What each channel is multiplied by now; 1 while it is not measured."""
        return tuple(self._gains.values.tolist())

    @property
    def calibrating(self) -> bool:
        """Whether gains are still being measured on channels that are good enough for it."""
        return self._gains.calibrating

    @property
    def calibration_progress(self) -> float:
        """How much of its baseline the channel that has most of it has, 0 to 1."""
        return self._gains.progress

    @property
    def quality(self) -> tuple[ChannelQuality, ...]:
        """What the newest window of each channel is worth; empty before the first one."""
        return self._gate.latest(self.spec.labels, self.gains)

    @property
    def verdicts(self) -> tuple[ChannelVerdict, ...]:
        """Whether the newest window of each channel could be classified; costs next to nothing."""
        return self._gate.verdicts(self.spec.labels)

    @property
    def delay_s(self) -> float:
        """Signal time that must follow a sample before it can be classified."""
        return self._resampler.delay_s

    def feed(self, chunk: Chunk) -> list[Decided]:
        """Take the next samples; return what they decide, in order.

        Each window gives one ``Prediction``, followed by the alert events it caused; gains that are
        measured give a ``Calibrated``.

        Raises:
            ShapeError: If the channels do not match the stream's.
            SignalError: If the chunk begins before the end of the one before.
        """
        self._check(chunk)
        if not len(chunk.samples):
            return []
        out: list[Decided] = []
        follows = chunk.first_index == self._next_index
        if self._waiting and not (follows and chunk.origin_s == self._waiting[0].origin_s):
            out += self._work()
        if not follows:
            self._restart(chunk.first_index)
        self._waiting.append(chunk)
        self._next_index = chunk.indices.stop
        # A few samples cost nearly as much as many: those that decide nothing wait for the rest.
        return out if self._next_index < self._due else out + self._work()

    def skip(self, chunk: Chunk) -> None:
        """Take the next samples without classifying them, for want of speed.

        Filters go on, so that they need not settle again, and so do the windows: those that begin
        before the end of these samples are left out and counted in ``n_windows_shed``, those that
        follow are what they would have been. For the alarm, and for an LSTM whose state runs on,
        it is a gap.

        Raises:
            ShapeError: As for ``feed``.
            SignalError: As for ``feed``.
        """
        self._check(chunk)
        waiting, self._waiting = self._waiting, []
        for each in (*waiting, chunk):
            if each is chunk and chunk.first_index != self._next_index:
                self._restart(chunk.first_index)
            for start in range(0, len(each.samples), self._max_batch):
                raw = self._resampled(each.samples[start : start + self._max_batch])
                self._raw.append(raw)
                self._filtered.append(self._filters.feed(raw))
        self._next_index = chunk.indices.stop
        self._gains.restart()
        self.n_windows_shed += self._grid.leave_out(self._raw.held.stop)
        self._run_from = self._grid.next_start
        self.engine.reset(self._handle)
        self._alarm.interrupt()
        self._look_ahead()

    def acknowledge(self, alert_id: str) -> list[AlertEvent]:
        """A person has seen an alert; see ``Alarm.acknowledge``."""
        return self._alarm.acknowledge(alert_id)

    def remind(self, now_s: float) -> list[AlertEvent]:
        """Call a latched alert to mind where that is due; see ``Alarm.remind``."""
        return self._alarm.remind(now_s)

    def catch_up(self) -> None:
        """Let the engine do what it put off so as to decide sooner."""
        self.engine.catch_up()

    def close(self) -> None:
        """Give the engine's place back."""
        self.engine.close(self._handle)

    def _check(self, chunk: Chunk) -> None:
        if chunk.samples.ndim != 2 or chunk.samples.shape[1] != self.spec.n_channels:
            raise ShapeError(expected=f"(n, {self.spec.n_channels})", actual=chunk.samples.shape)
        if self._next_index is not None and chunk.first_index < self._next_index:
            raise SignalError(
                f"samples go back in time: expected index {self._next_index} or later, "
                f"found {chunk.first_index}"
            )

    def _restart(self, first_index: int) -> None:
        self._resampler.restart(first_index)
        first_index = self._resampler.next_index
        self._filters.restart()
        self._gate.restart(first_index)
        self._gains.restart()
        self._raw.restart(first_index)
        self._filtered.restart(first_index)
        self._grid.restart(first_index)
        self._run_from = first_index
        self.engine.reset(self._handle)
        self._alarm.interrupt()
        self._look_ahead()

    def _look_ahead(self) -> None:
        """Find how far the input must reach for the next window, or for a gain to change.

        No further than a hop: the work of a run's first window is not left to its end.
        """
        n_held = self._raw.held.stop
        hop_end = n_held + self._grid.hop_samples
        ends = (self._grid.next_end, hop_end, self._gains.next_change(n_held) or hop_end)
        self._due = self._resampler.needs(min(ends) - 1)

    def _work(self) -> list[Decided]:
        """Take what waits."""
        waiting, self._waiting = self._waiting, []
        samples = waiting[0].samples
        if len(waiting) > 1:
            samples = np.concatenate([chunk.samples for chunk in waiting])
        out: list[Decided] = []
        for start in range(0, len(samples), self._max_batch):
            out += self._take(waiting[-1], samples[start : start + self._max_batch])
        self._look_ahead()
        return out

    def _take(self, chunk: Chunk, samples: NDArray[np.float32]) -> list[Decided]:
        resampled = self._resampled(samples)
        out: list[Decided] = []
        for piece in self._gains.split(resampled, self._raw.held.stop):
            out += self._classify(chunk, piece)
        return out

    def _resampled(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        plausible = np.abs(samples) < MAX_UV
        if not plausible.all():
            samples = np.where(plausible, samples, np.float32(np.nan))
        return self._resampler.feed(samples)

    def _classify(self, chunk: Chunk, raw: NDArray[np.float32]) -> list[Decided]:
        """Decide on the windows that end in samples of one gain."""
        n_before = self._run_from - self._raw.held.stop  # of these, after samples were skipped
        filtered = self._filters.feed(raw)
        self._raw.append(raw)
        self._filtered.append(filtered)
        # A missing value is none the network can bear; no decision is made on a window with one.
        finite = np.isfinite(filtered)
        known = filtered if finite.all() else np.where(finite, filtered, np.float32(0))
        scaled = self._scaler.scale(known * self._gains.values)
        finished = self.engine.feed({self._handle: scaled[max(0, n_before) :]})[self._handle]
        out: list[Decided] = []
        usable: NDArray[np.bool_] = np.ones(self.spec.n_channels, dtype=np.bool_)
        if len(finished):
            windows = self._grid.take(len(finished))
            seen = range(windows[0].start, windows[-1].stop)
            verdicts = self._gate.judge(
                self._raw.read(seen),
                self._filtered.read(seen),
                ends=[window.stop for window in windows],
                gains=self._gains.values,
            )
            usable = np.asarray(verdicts.usable.all(axis=0))
            out = self._decide(chunk, finished, [window.stop - 1 for window in windows], verdicts)
        return out + self._calibrate(chunk, filtered, usable, decided=out)

    def _calibrate(
        self,
        chunk: Chunk,
        filtered: NDArray[np.float32],
        usable: NDArray[np.bool_],
        *,
        decided: list[Decided],
    ) -> list[Decided]:
        if not self._gains.seeks:
            return []
        alert_is_on = any(isinstance(x, Prediction) and x.state is State.ALERT for x in decided)
        was_calibrating = self._gains.calibrating
        end_index = self._raw.held.stop
        changed = self._gains.add(filtered, usable, end_index, alert_is_on=alert_is_on)
        if not changed.any() and self._gains.calibrating == was_calibrating:
            return []
        # A window of two gains has a step in its amplitude, as a seizure has.
        self._gate.hold(changed, end_index)
        if self._gains.calibrating:
            return []
        at_s = chunk.origin_s + (end_index - 1) / self._rate_hz
        return [Calibrated(end_index=end_index - 1, at_s=at_s, gains=self._gains.measured)]

    def _decide(
        self,
        chunk: Chunk,
        probabilities: NDArray[np.float32],
        ends: list[int],
        verdicts: Verdicts,
    ) -> list[Decided]:
        """Decide on windows, given the last index and ``(n_channels, n_classes)`` of each."""
        usable = verdicts.usable  # (n_windows, n_channels)
        if not usable.all():
            probabilities = np.where(usable[..., None], probabilities, np.float32(np.nan))
        smoothed = self._smoother.add(ends, probabilities[..., 0])
        agreed = self._fusion.agree(smoothed)
        above = np.asarray(smoothed >= self._raise_threshold)
        is_any_above: list[bool] = np.asarray(above.any(axis=1)).tolist()
        is_any_usable: list[bool] = np.asarray(usable.any(axis=1)).tolist()
        calibrating = self.calibrating
        self.n_windows += len(ends)
        self.n_windows_refused += is_any_usable.count(False)
        self.n_windows_calibrating += len(ends) * calibrating
        out: list[Decided] = []
        for i, end_index in enumerate(ends):
            since_start_s = end_index / self._rate_hz
            at_s = chunk.origin_s + since_start_s
            p = agreed[i] if is_any_usable[i] else None
            labels = self._labels_where(above[i]) if is_any_above[i] else ()
            events = self._alarm.add(at_s, p, labels, nominal_s=chunk.anchor_s + since_start_s)
            out.append(
                Prediction(
                    end_index=end_index,
                    at_s=at_s,
                    probabilities=probabilities[i],
                    smoothed=smoothed[i],
                    reasons=verdicts.reasons(i),
                    p=p,
                    state=self._alarm.state(p),
                    calibrating=calibrating,
                    quality=verdicts.states(i),
                )
            )
            out += events
        return out

    def _labels_where(self, channels: NDArray[np.bool_]) -> tuple[str, ...]:
        return tuple(self.spec.labels[i] for i in np.flatnonzero(channels))
