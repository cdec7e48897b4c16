"""One stream, from samples to predictions and alert events."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream_classifier.bundle import AlarmSpec, Bundle
from stream_classifier.detection.alarm import Alarm
from stream_classifier.detection.buffer import RingBuffer
from stream_classifier.detection.filters import CausalFilters
from stream_classifier.detection.quality import USABLE, judge
from stream_classifier.detection.resampler import Resampler
from stream_classifier.detection.scaler import FrozenScaler
from stream_classifier.detection.smoother import Smoother
from stream_classifier.detection.windows import WindowGrid
from stream_classifier.errors import ShapeError, SignalError
from stream_classifier.signals import AlertEvent, Chunk, Engine, Prediction, StreamSpec

MAX_BATCH_SAMPLES = 4096
"""A longer chunk is worked through in pieces, so that the ring buffer holds each window."""

MAX_UV = 1e9
"""Beyond this a value is no number: what follows would overflow."""


@dataclass(frozen=True, slots=True)
class DetectorSettings:
    """What may differ from stream to stream.

    Attributes:
        rule: Smoothing, thresholds and times; usually the bundle's.
        channel_share: Share of the usable channels that must agree.
    """

    rule: AlarmSpec
    channel_share: float = 0.25


class Detector:
    """The detector of one stream: pure, synchronous, no clock, no I/O.

    However the stream is cut into chunks, and whatever other streams share the engine, the
    output is the same (to the bit on the reference engine). A hole in the sample indices is
    a gap: filters, windows and LSTM states start again after it, and nothing is invented.

    Not thread-safe: one thread feeds it and its engine.

    Args:
        bundle: Model, scaler, filters.
        spec: What the stream is; its rate may be any.
        engine: Runs the bundle's network; may be shared with other detectors.
        settings: Alarm and smoothing.
        standing: Latest step of an alert that an earlier process left standing, to go on with.
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
        self.spec = spec
        self.bundle = bundle
        self.n_windows = 0
        self.n_windows_refused = 0  # windows in which no channel could be classified
        self._rate_hz = bundle.rate_hz
        self._resampler = Resampler(
            in_hz=spec.rate_hz, out_hz=bundle.rate_hz, n_channels=n_channels
        )
        self._filters = CausalFilters([f.sos for f in bundle.filters], n_channels=n_channels)
        self._limit_offset = not bundle.filters
        self._recent = RingBuffer(
            capacity=MAX_BATCH_SAMPLES + bundle.window_samples,
            n_channels=n_channels,
        )
        self._scaler = FrozenScaler(mean_uv=bundle.scaler_mean_uv, std_uv=bundle.scaler_std_uv)
        self._grid = WindowGrid(
            window_samples=bundle.window_samples, hop_samples=engine.hop_samples
        )
        self._engine = engine
        self._handle = engine.open(n_channels)
        self._smoother = Smoother(
            smoothing_samples=round(settings.rule.smoothing_s * bundle.rate_hz),
            hop_samples=engine.hop_samples,
            channel_share=settings.channel_share,
        )
        self._raise_threshold = settings.rule.raise_threshold
        self._alarm = Alarm(
            rule=settings.rule,
            hop_s=engine.hop_samples / bundle.rate_hz,
            identity=f"{spec.source_id or spec.name}\n{bundle.digest}",
            rate_hz=bundle.rate_hz,
        )
        if standing is not None:
            self._alarm.resume(standing)
        self.standing = standing
        self._next_index: int | None = None
        self._max_batch = max(1, int(MAX_BATCH_SAMPLES * spec.rate_hz / bundle.rate_hz))

    @property
    def delay_s(self) -> float:
        """Signal time that must follow a sample before it can be classified."""
        return self._resampler.delay_s

    def feed(self, chunk: Chunk) -> list[Prediction | AlertEvent]:
        """Take the next samples; return what they decide, in order.

        Each window gives one ``Prediction``, followed by the alert events it caused.

        Raises:
            ShapeError: If the channels do not match the stream's.
            SignalError: If the chunk begins before the end of the one before.
        """
        if chunk.samples.ndim != 2 or chunk.samples.shape[1] != self.spec.n_channels:
            raise ShapeError(expected=f"(n, {self.spec.n_channels})", actual=chunk.samples.shape)
        if self._next_index is not None and chunk.first_index < self._next_index:
            raise SignalError(
                f"samples go back in time: expected index {self._next_index} or later, "
                f"found {chunk.first_index}"
            )
        if not len(chunk.samples):
            return []
        if chunk.first_index != self._next_index:
            self._restart(chunk.first_index)
        self._next_index = chunk.indices.stop
        out: list[Prediction | AlertEvent] = []
        for start in range(0, len(chunk.samples), self._max_batch):
            out += self._classify(chunk, chunk.samples[start : start + self._max_batch])
        return out

    def close(self) -> None:
        """Give the engine's place back."""
        self._engine.close(self._handle)

    def _restart(self, first_index: int) -> None:
        self._resampler.restart(first_index)
        self._filters.restart()
        self._recent.restart(self._resampler.next_index)
        self._grid.restart(self._resampler.next_index)
        self._engine.reset(self._handle)
        self._alarm.interrupt()

    def _classify(
        self, chunk: Chunk, samples: NDArray[np.float32]
    ) -> list[Prediction | AlertEvent]:
        known = np.where(np.abs(samples) < MAX_UV, samples, np.float32(np.nan))
        resampled = self._resampler.feed(known)
        self._recent.append(resampled)
        scaled = self._scaler.scale(self._filters.feed(resampled))
        windows = self._engine.feed({self._handle: scaled})[self._handle]
        out: list[Prediction | AlertEvent] = []
        for probabilities, window in zip(windows, self._grid.take(len(windows)), strict=True):
            out += self._decide(chunk, probabilities, window)
        return out

    def _decide(
        self, chunk: Chunk, probabilities: NDArray[np.float32], window: range
    ) -> list[Prediction | AlertEvent]:
        end_index = window.stop - 1
        since_start_s = end_index / self._rate_hz
        at_s = chunk.origin_s + since_start_s
        reasons = judge(self._recent.read(window), limit_offset=self._limit_offset)
        usable = np.array([reason == USABLE for reason in reasons])
        probabilities = np.where(usable[:, None], probabilities, np.float32(np.nan))
        self.n_windows += 1
        self.n_windows_refused += not usable.any()
        smoothed = self._smoother.add(end_index, probabilities[:, 0])
        p = self._smoother.agree(smoothed) if usable.any() else None
        above = tuple(
            label
            for label, value in zip(self.spec.labels, smoothed, strict=True)
            if value >= self._raise_threshold
        )
        events = self._alarm.add(at_s, p, above, nominal_s=chunk.anchor_s + since_start_s)
        prediction = Prediction(
            end_index=end_index,
            at_s=at_s,
            probabilities=probabilities,
            smoothed=smoothed,
            reasons=reasons,
            p=p,
            state=self._alarm.state(p),
        )
        return [prediction, *events]
