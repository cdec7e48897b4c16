"""A recording of a head through the real detector, and what it said of every window."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from stream_classifier.detection.detector import Detector, DetectorSettings
from stream_classifier.engines import make_engine
from stream_classifier.signals import AlertEvent, Chunk, EventType, Prediction, StreamSpec

if TYPE_CHECKING:
    from stream_classifier.bundle import Bundle

_CHUNK_SAMPLES: Final = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """One person's recording.

    Attributes:
        name: Of the file, without its ending.
        samples: Shape ``(n_samples, n_channels)``, µV.
        labels: Electrodes, by their 10-10 positions.
        rate_hz: Of the samples.
    """

    name: str
    samples: NDArray[np.float32]
    labels: tuple[str, ...]
    rate_hz: float

    @property
    def duration_s(self) -> float:
        """Length of the recording."""
        return len(self.samples) / self.rate_hz


@dataclass(frozen=True, slots=True)
class AlarmInterval:
    """A time for which an alarm was on.

    Attributes:
        raised_s: When it came on, seconds from the recording's first sample.
        ended_s: When it went off; None if it was on at the end.
        channels: Labels of the channels that raised it.
        p_max: Highest smoothed p(seizure) of the alert up to its end.
    """

    raised_s: float
    ended_s: float | None
    channels: tuple[str, ...]
    p_max: float


@dataclass(frozen=True, slots=True, eq=False)
class Watched:
    """What the detector made of a stretch of one head.

    Attributes:
        end_index: Shape ``(n_windows,)``: the last sample of each window, at the bundle's rate.
        at_s: Shape ``(n_windows,)``, its time from the recording's first sample.
        seizure: Shape ``(n_windows, n_channels)``, p(seizure); NaN where refused.
        refused: Shape ``(n_windows, n_channels)``: whether the signal was too poor to decide.
        calibrating: Shape ``(n_windows,)``: whether the gains were still being measured.
        alarms: Times for which an alarm was on.
        gains: One a channel, as frozen in the end; 1 where one never was.
        delay_s: Signal that must follow a sample before it can be decided on.
    """

    end_index: NDArray[np.int64]
    at_s: NDArray[np.float64]
    seizure: NDArray[np.float32]
    refused: NDArray[np.bool_]
    calibrating: NDArray[np.bool_]
    alarms: tuple[AlarmInterval, ...]
    gains: tuple[float, ...]
    delay_s: float

    @property
    def calibrated_s(self) -> float:
        """When the gains were frozen; the end if they never were, 0 if there were none to be."""
        times = self.at_s[self.calibrating]
        return float(times[-1]) if len(times) else 0.0


def read_head(path: Path) -> Head:
    """Read one person's recording.

    Raises:
        DatasetInvalidError: If it is no recording of one rate, in microvolts.
    """
    import edfio  # noqa: PLC0415 - an extra

    edf = edfio.read_edf(path)
    samples = np.stack([s.data for s in edf.signals], axis=1).astype(np.float32)
    labels = tuple(s.label.removeprefix("EEG ") for s in edf.signals)
    return Head(path.stem, samples, labels, edf.signals[0].sampling_frequency)


def watch(
    head: Head,
    bundle: Bundle,
    *,
    gains: tuple[float, ...] | None = None,
    first_index: int = 0,
) -> Watched:
    """Play a head, or a stretch of one, through the real detector, as fast as it goes.

    Args:
        head: What to play.
        bundle: The model, with its alarm rule.
        gains: Measured before; None: they are measured, from the first sample on.
        first_index: Where in the whole recording its first sample lies.
    """
    detector = Detector(
        bundle=bundle,
        spec=StreamSpec(head.name, "", head.rate_hz, head.labels, kind="recording"),
        engine=make_engine(bundle),
        settings=DetectorSettings(rule=bundle.alarm, gains=gains),
    )
    windows: list[Prediction] = []
    events: list[AlertEvent] = []
    for start in range(0, len(head.samples), _CHUNK_SAMPLES):
        samples = head.samples[start : start + _CHUNK_SAMPLES]
        for item in detector.feed(Chunk(samples, first_index + start)):
            if isinstance(item, Prediction):
                windows.append(item)
            elif isinstance(item, AlertEvent):
                events.append(item)
    detector.close()
    n_channels = len(head.labels)
    return Watched(
        end_index=np.array([w.end_index for w in windows], dtype=np.int64),
        at_s=np.array([w.at_s for w in windows], dtype=np.float64),
        seizure=np.array([w.probabilities[:, 0] for w in windows], np.float32).reshape(
            -1, n_channels
        ),
        refused=np.array(
            [[bool(reason) for reason in w.reasons] for w in windows], np.bool_
        ).reshape(-1, n_channels),
        calibrating=np.array([w.calibrating for w in windows], np.bool_),
        alarms=tuple(alarm_intervals(events)),
        gains=detector.gains,
        delay_s=detector.delay_s,
    )


def alarm_intervals(events: Iterable[AlertEvent]) -> Iterator[AlarmInterval]:
    """Times for which an alarm was on; one that comes on again under its old id counts again."""
    raised_s: float | None = None
    latest: AlertEvent | None = None
    for event in events:
        if event.type not in {EventType.RAISED, EventType.UPDATED}:
            continue
        if event.on and raised_s is None:
            raised_s = event.at_s
        if not event.on and raised_s is not None:
            yield AlarmInterval(raised_s, event.off_s, event.channels, event.p_max)
            raised_s = None
        latest = event
    if raised_s is not None and latest is not None:
        yield AlarmInterval(raised_s, None, latest.channels, latest.p_max)
