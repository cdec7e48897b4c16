"""What flows through the pipeline, and who may produce, classify and receive it.

Axes are always ``(n_samples, n_channels)``, batches ``(n_windows, n_samples, n_channels)``;
float32; microvolts before the scaler and z-scores after it.

Time. A source counts its samples on the grid of its nominal rate: sample *i*
keeps the absolute index *i* for life, and missing samples leave a hole in the
indices, never an invented value. ``origin_s + index / rate_hz`` is the time of a
sample on the source's clock (for LSL: ``local_clock()`` of this machine). Wall
clock time is a label put on at the very end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

CLASS_NAMES = ("seizure", "tumour", "normal")
"""The mission's classes, in the order of every probability axis."""


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """What a stream says of itself, once attached.

    Attributes:
        name: As announced; may hold any character, so never part of a topic as is.
        source_id: Stable identity of the device, or "" if it gave none.
        rate_hz: Nominal sampling rate, above 0.
        labels: One label a channel, in the order of the samples' columns.
        kind: What the source is: ``lsl`` or ``recording``.
        simulated: Whether the device says that it plays or invents its samples.
    """

    name: str
    source_id: str
    rate_hz: float
    labels: tuple[str, ...]
    kind: str = "lsl"
    simulated: bool = False

    @property
    def n_channels(self) -> int:
        """Values in each sample."""
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive samples, as they arrived.

    Attributes:
        samples: Shape ``(n_samples, n_channels)``, µV, float32, oldest first.
        first_index: Absolute index of the first sample on the nominal grid. Where it
            exceeds the end of the previous chunk, samples are missing (a gap).
        origin_s: Time of index 0 on the source's clock: sample *i* was taken at
            ``origin_s + i / rate_hz``. Moves slowly where the true rate differs.
        received_s: When the chunk was in hand, on the same clock; for latency only.
        anchor_s: Stamp of index 0 as the device wrote it, the same for the stream's whole life
            and however it was cut: what alert ids are made of. Never a time to show.
    """

    samples: NDArray[np.float32]
    first_index: int
    origin_s: float = 0.0
    received_s: float = 0.0
    anchor_s: float = 0.0

    @property
    def indices(self) -> range:
        """Absolute indices of the samples."""
        return range(self.first_index, self.first_index + len(self.samples))


class State(StrEnum):
    """What the detector makes of the signal; never says anything of the signal's health."""

    OK = "ok"
    WATCH = "watch"
    ALERT = "alert"


class ChannelState(StrEnum):
    """What a channel's signal is worth: decided on in full, decided on with care, or not at all."""

    GOOD = "good"
    FAIR = "fair"
    POOR = "poor"


@dataclass(frozen=True, slots=True)
class ChannelVerdict:
    """Whether the newest window of one channel could be classified, and why not.

    Attributes:
        label: Of the channel.
        state: ``poor``: no decision is made on it.
        reasons: One word each, the weightiest first; none where it is good.
    """

    label: str
    state: ChannelState
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ChannelQuality:
    """What the newest window of one channel is worth, and why.

    Attributes:
        label: Of the channel.
        state: ``poor``: no decision is made on it.
        reasons: One word each, the weightiest first; none where it is good.
        rms_uv: Root mean square about the window's mean, before the bundle's filters and gain,
            µV; NaN where a sample is missing.
        mains_share: Power at the mains' frequency and its harmonics, of all power, 0 to 1.
        flat_share: Share of the window in which nothing moves, 0 to 1.
        railed_share: Share of the window at its own extreme value, 0 to 1.
        gain: What its samples are multiplied by; 1 until it is measured.
    """

    label: str
    state: ChannelState
    reasons: tuple[str, ...]
    rms_uv: float
    mains_share: float
    flat_share: float
    railed_share: float
    gain: float


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What one window says, and what the stream says with it.

    Attributes:
        end_index: Absolute index, at the bundle's rate, of the window's last sample.
        at_s: Time of that sample on the source's clock.
        probabilities: Shape ``(n_channels, n_classes)``; NaN where no decision was made.
        smoothed: Shape ``(n_channels,)``, smoothed p(seizure); NaN while unknown.
        reasons: One word a channel: why this window could not be classified, "" if it was.
        p: The stream's p(seizure) in 0..1, or None while nothing can be said.
        state: ``ok``, ``watch`` or ``alert``; None while nothing can be said.
        calibrating: Whether the stream's gains are still being measured; decisions are live, but
            made at gain 1.
        quality: State of each channel's signal: ``good``, ``fair`` or ``poor``.
    """

    end_index: int
    at_s: float
    probabilities: NDArray[np.float32]
    smoothed: NDArray[np.float32]
    reasons: tuple[str, ...]
    p: float | None
    state: State | None
    calibrating: bool = False
    quality: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Calibrated:
    """The gains of a stream are measured: of all channels that are any good, from here on.

    Emitted again whenever a channel that was no good by then has its gain, too.

    Attributes:
        end_index: Absolute index, at the bundle's rate, of the last sample before they apply.
        at_s: Time of that sample on the source's clock.
        gains: One a channel; None where it is not measured yet, and 1 is used.
    """

    end_index: int
    at_s: float
    gains: tuple[float | None, ...]


class EventType(StrEnum):
    """A step in the life of one alert."""

    RAISED = "raised"
    UPDATED = "updated"
    ENDED = "ended"
    ACKNOWLEDGED = "acknowledged"
    RETRACTED = "retracted"


@dataclass(frozen=True, slots=True)
class AlertEvent:
    """One step in the life of one alert; all steps carry the same ``alert_id``.

    Times are seconds on the source's clock, of the last sample of a window.

    Attributes:
        type: Which step.
        alert_id: One id from onset to end; the same for the same samples, always.
        seq: 0 for ``raised``, then counting up within this alert.
        at_s: When this step happened.
        onset_s: First window of the rise that became this alert.
        raised_s: When thresholds and persistence were met.
        off_s: Since when p has been below the clear threshold, or None while it is on.
        p: Smoothed p(seizure) at this step.
        p_max: Highest so far.
        channels: Labels of the channels that were above the raise threshold.
        latched: Whether it stands until a person acknowledges it.
        acknowledged: Whether a person has.
        over: Whether it had ended by this step.
    """

    type: EventType
    alert_id: str
    seq: int
    at_s: float
    onset_s: float
    raised_s: float
    off_s: float | None
    p: float
    p_max: float
    channels: tuple[str, ...]
    latched: bool = False
    acknowledged: bool = False
    over: bool = False

    @property
    def on(self) -> bool:
        """Whether it stands after this step: the seizure goes on, or nobody has seen it yet."""
        if self.type is EventType.RETRACTED:
            return False
        if self.latched and not self.acknowledged:
            return True
        return self.off_s is None and not self.over and self.type is not EventType.ENDED


class SourceState(StrEnum):
    """How a source stands."""

    LOOKING = "looking"
    """Not found yet."""
    ATTACHED = "attached"
    """Samples arrive."""
    NO_DATA = "no_data"
    """Connected, but no sample for a while."""
    LOST = "lost"
    """The device went away; it is being looked for."""


@dataclass(frozen=True, slots=True)
class SourceHealth:
    """How a source is doing, at one moment.

    Attributes:
        state: See ``SourceState``.
        detail: What it waits for, for a person; "" while samples arrive.
        last_received_s: When the newest sample arrived, on ``lsl_clock()``; None before.
        lag_s: How old that sample was when it arrived, by its own stamp.
        measured_hz: True rate; None in the first 5 s.
        samples: Samples handed on.
        gaps: Holes in their indices.
        missing_samples: Indices in those holes.
        duplicates: Samples dropped because they were there already.
        reconnects: Times a device was attached to again.
    """

    state: SourceState
    detail: str = ""
    last_received_s: float | None = None
    lag_s: float | None = None
    measured_hz: float | None = None
    samples: int = 0
    gaps: int = 0
    missing_samples: int = 0
    duplicates: int = 0
    reconnects: int = 0


class Source(Protocol):
    """A stream of EEG, read by one thread that owns it.

    ``open`` once, then iterate. Iteration yields a ``Chunk``, or None at least every
    50 ms when nothing arrived, so that the owner can notice a request to stop.
    A source that loses its device keeps looking for it and goes on with a gap; it ends
    only when the material ends (a recording), and raises only for what a person must mend.
    """

    @property
    def health(self) -> SourceHealth:
        """How it is doing now. May be read from any thread."""
        ...

    def open(self) -> StreamSpec:
        """Attach, and say what is there."""
        ...

    def __iter__(self) -> Iterator[Chunk | None]:
        """Yield what arrives."""
        ...

    def close(self) -> None:
        """Let go of the device. May be called twice."""
        ...


class Engine(Protocol):
    """The LSTM over sliding windows, for any number of streams.

    Results do not depend on how samples are cut, nor on which other streams share
    the engine. Not thread-safe: one thread feeds one engine. What is refused changes nothing.

    Attributes:
        name: Which engine it is, and where it runs, for people: ``native (AVX-512)``.
        hop_samples: Samples from one window to the next.
        fault: What it lost and does without, such as its GPU, for people; None if nothing.
    """

    name: str
    hop_samples: int
    fault: str | None

    def open(self, n_channels: int) -> int:
        """Add a stream; its first window ends at its 120th sample. Returns its handle."""
        ...

    def reset(self, stream: int) -> None:
        """Forget the stream's past (after a gap); the next sample starts a new run."""
        ...

    def close(self, stream: int) -> None:
        """Remove a stream."""
        ...

    def feed(self, samples: dict[int, NDArray[np.float32]]) -> dict[int, NDArray[np.float32]]:
        """Add samples to streams and return the windows they finish.

        Args:
            samples: By handle, shape ``(n_samples, n_channels)``, z-scores. May be empty.

        Returns:
            By handle, shape ``(n_windows, n_channels, n_classes)``, softmax probabilities,
            oldest window first.

        Raises:
            KeyError: If there is no such stream.
            ShapeError: If the channels do not match.
            NotFiniteError: If a sample is NaN or infinite.
        """
        ...

    def catch_up(self) -> None:
        """Do what ``feed`` put off so as to decide sooner. The next ``feed`` would, too."""
        ...

    def snapshot(self, stream: int) -> bytes:
        """Return all that a stream carries; ``restore`` makes it go on from there.

        Raises:
            KeyError: If there is no such stream.
        """
        ...

    def restore(self, snapshot: bytes) -> int:
        """Add a stream that goes on from a snapshot, of whatever engine. Returns its handle.

        Raises:
            EngineError: If the snapshot is damaged, or of another bundle, mode or hop.
        """
        ...
