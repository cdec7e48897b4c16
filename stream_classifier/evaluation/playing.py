"""A recording of a head through the real detector, and what it said of every window."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stream_classifier.detection.detector import Detector, DetectorSettings
from stream_classifier.engines import make_engine
from stream_classifier.errors import RecordingInvalidError
from stream_classifier.evaluation.recordings import CHUNK_SAMPLES, Alarm, AlarmLog
from stream_classifier.signals import AlertEvent, Chunk, Prediction, StreamSpec
from stream_classifier.sources.recording import open_recording

if TYPE_CHECKING:
    from stream_classifier.bundle import Bundle


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


@dataclass(frozen=True, slots=True, eq=False)
class Watched:
    """What the detector made of a stretch of one head.

    Attributes:
        end_index: Shape ``(n_windows,)``: the last sample of each window, at the bundle's rate.
        at_s: Shape ``(n_windows,)``, its time from the recording's first sample.
        seizure: Shape ``(n_windows, n_channels)``, p(seizure); NaN where refused.
        refused: Shape ``(n_windows, n_channels)``: whether the signal was too poor to decide.
        calibrating: Shape ``(n_windows,)``: whether the gains were still being measured.
        alarms: Each time an alarm came on; times from the recording's first sample.
        gains: One a channel, as frozen in the end; 1 where one never was.
        delay_s: Signal that must follow a sample before it can be decided on.
    """

    end_index: NDArray[np.int64]
    at_s: NDArray[np.float64]
    seizure: NDArray[np.float32]
    refused: NDArray[np.bool_]
    calibrating: NDArray[np.bool_]
    alarms: tuple[Alarm, ...]
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
        SourceError: If it is no recording that can be read, or not all of it is there.
        MissingExtraError: If its format needs a library that is not installed.
    """
    recording = open_recording(str(path))
    runs = list(recording.runs())
    n_samples = runs[-1].first_index + len(runs[-1].samples) if runs else 0
    n_there = sum(len(run.samples) for run in runs)
    if not runs or n_there != n_samples:
        raise RecordingInvalidError(
            path=str(path),
            expected="a recording without a hole: a seizure is mixed into it",
            found=f"{n_there:,} of {n_samples:,} samples",
            fix="another recording",
        )
    samples = np.concatenate([run.samples for run in runs])
    return Head(path.stem, samples, recording.labels, recording.rate_hz)


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
    alarms = AlarmLog()
    for start in range(0, len(head.samples), CHUNK_SAMPLES):
        samples = head.samples[start : start + CHUNK_SAMPLES]
        for item in detector.feed(Chunk(samples, first_index + start)):
            if isinstance(item, Prediction):
                windows.append(item)
                alarms.see(item.p)
            elif isinstance(item, AlertEvent):
                alarms.take(item)
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
        alarms=alarms.until((first_index + len(head.samples)) / head.rate_hz),
        gains=detector.gains,
        delay_s=detector.delay_s,
    )
