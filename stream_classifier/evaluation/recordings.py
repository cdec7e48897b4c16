"""Recordings from anywhere, each through the real detector: alarms, false alarms, what was refused.

Each recording is a stream of its own, played as fast as it goes. Gains are measured within it, as
at the first start on a new head, and not kept. An alarm is counted each time it comes on. It is
false if it comes on outside of every annotated seizure, and where nothing is annotated every alarm
is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from stream_classifier.detection.detector import Detector, DetectorSettings
from stream_classifier.engines import make_engine
from stream_classifier.errors import (
    MissingExtraError,
    RecordingNotFoundError,
    RecordingUnusableError,
    SignalError,
    SourceError,
)
from stream_classifier.evaluation.events import STRICT, SZCORE, EventRules, add_up, score_events
from stream_classifier.signals import AlertEvent, Prediction
from stream_classifier.sources.recording import (
    RecordingSource,
    annotated,
    open_recording,
    spec_of,
)
from stream_classifier.sources.recordings import bids
from stream_classifier.sources.recordings.marks import merged
from stream_classifier.sources.recordings.material import Ask, Recording, Seizure

if TYPE_CHECKING:
    from stream_classifier.bundle import Bundle
    from stream_classifier.signals import Engine

CHUNK_SAMPLES: Final = 4096
NAMED_REASONS: Final = 3


@dataclass(frozen=True, slots=True)
class Alarm:
    """A time for which an alarm was on; all times are seconds from the recording's first sample.

    Attributes:
        onset_s: First window of the rise; of an alarm that comes on again under one id, when it
            did.
        raised_s: When it came on.
        ended_s: When it went off, or when the recording ended.
        channels: Labels of the channels that raised it.
        p_max: Highest smoothed p(seizure) while it was on.
    """

    onset_s: float
    raised_s: float
    ended_s: float
    channels: tuple[str, ...]
    p_max: float


@dataclass(frozen=True, slots=True)
class Played:
    """What the detector made of one recording.

    Attributes:
        path: Of the recording.
        duration_s: Its length, holes included.
        labels: Channels used.
        n_windows: Windows that there would be without holes.
        n_refused: Those without any usable channel, and those lost to holes.
        n_calibrating: Those decided while a gain was still being measured.
        delay_s: Signal that the detector waits for beyond a window's last sample.
        alarms: Each time an alarm came on.
        seizures: As annotated; None if nobody said.
        notes: What a person should know of how it was read.
    """

    path: str
    duration_s: float
    labels: tuple[str, ...]
    n_windows: int
    n_refused: int
    n_calibrating: int
    delay_s: float
    alarms: tuple[Alarm, ...]
    seizures: tuple[Seizure, ...] | None
    notes: tuple[str, ...]

    @property
    def true_seizures(self) -> tuple[Seizure, ...]:
        """Seizures within the recording; none where nobody said."""
        return merged(self.seizures or (), until_s=self.duration_s)

    @property
    def background_s(self) -> float:
        """Time that is not annotated as seizure."""
        return self.duration_s - sum(one.end_s - one.start_s for one in self.true_seizures)

    @property
    def n_false_alarms(self) -> int:
        """Alarms that came on outside of annotated seizures."""
        return sum(
            not any(one.start_s <= alarm.raised_s < one.end_s for one in self.true_seizures)
            for alarm in self.alarms
        )

    def latencies_s(self) -> Iterator[float]:
        """Of each seizure in which an alarm came on: from its start to when that could be known."""
        for one in self.true_seizures:
            raised = [a.raised_s for a in self.alarms if one.start_s <= a.raised_s < one.end_s]
            if raised:
                yield min(raised) - one.start_s + self.delay_s

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        found: dict[str, Any] = {
            "path": self.path,
            "hours": self.duration_s / 3600,
            "channels": list(self.labels),
            "refused_share": _share(self.n_refused, self.n_windows),
            "calibrating_share": _share(self.n_calibrating, self.n_windows),
            "alarms": [asdict(alarm) | {"channels": list(alarm.channels)} for alarm in self.alarms],
        }
        if self.seizures is not None:
            found["seizures"] = [asdict(one) for one in self.true_seizures]
        return found | ({"notes": list(self.notes)} if self.notes else {})


@dataclass(frozen=True, slots=True)
class Excluded:
    """A recording that was not counted, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class RecordingsReport:
    """All recordings together.

    Attributes:
        played: Those that count, by path.
        excluded: Those that do not.
    """

    played: tuple[Played, ...]
    excluded: tuple[Excluded, ...]

    @property
    def annotated(self) -> bool:
        """Whether any seizure is annotated."""
        return any(one.true_seizures for one in self.played)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values.

        With annotated seizures also ``sensitivity``, ``precision`` and ``f1`` by the SzCORE rules,
        over all recordings, ``strict`` (the same without their tolerances) and ``latency_s``.
        """
        n_windows = sum(one.n_windows for one in self.played)
        n_false = sum(one.n_false_alarms for one in self.played)
        background_h = sum(one.background_s for one in self.played) / 3600
        found: dict[str, Any] = {
            "hours": sum(one.duration_s for one in self.played) / 3600,
            "channels": len({label for one in self.played for label in one.labels}),
            "alarms": sum(len(one.alarms) for one in self.played),
            "false_alarms": n_false,
            "background_hours": background_h,
            "false_alarms_per_hour": n_false / background_h if background_h > 0 else None,
            "refused_share": _share(sum(one.n_refused for one in self.played), n_windows),
            "calibrating_share": _share(sum(one.n_calibrating for one in self.played), n_windows),
        }
        if self.annotated:
            found |= self._scores()
        return found | {
            "recordings": [one.as_json() for one in self.played],
            "excluded": [asdict(one) for one in self.excluded],
        }

    def _scores(self) -> dict[str, Any]:
        latencies_s = [latency for one in self.played for latency in one.latencies_s()]
        found: dict[str, Any] = {
            "latency_s": {
                "median": float(np.quantile(latencies_s, 0.5)),
                "p90": float(np.quantile(latencies_s, 0.9)),
            }
            if latencies_s
            else None
        }
        try:
            return self._score(SZCORE) | {"strict": self._score(STRICT)} | found
        except MissingExtraError as error:
            nothing = dict.fromkeys(("sensitivity", "precision", "f1", "strict"))
            return nothing | found | {"not_scored": str(error)}

    def _score(self, rules: EventRules) -> dict[str, Any]:
        score = add_up(
            [
                score_events(
                    [(seizure.start_s, seizure.end_s) for seizure in one.true_seizures],
                    [(alarm.raised_s, alarm.ended_s) for alarm in one.alarms],
                    duration_s=one.duration_s,
                    rules=rules,
                )
                for one in self.played
            ]
        )
        return {
            "sensitivity": score.sensitivity,
            "precision": score.precision,
            "f1": score.f1,
            "n_seizures": score.n_seizures,
            "n_detected": score.true_positives,
            "n_false": score.false_positives,
        }


def play(
    recording: Recording,
    bundle: Bundle,
    *,
    settings: DetectorSettings | None = None,
    engine: Engine | None = None,
) -> Played:
    """Feed one recording to the detector.

    Args:
        recording: What to play.
        bundle: The model.
        settings: Alarm rule and mains; None takes the bundle's rule.
        engine: What runs the model; None makes one.

    Raises:
        RecordingUnusableError: If no window of it could be classified.
        RecordingInvalidError: If it turns out to be damaged.
    """
    engine = make_engine(bundle) if engine is None else engine
    source = RecordingSource(recording, chunk_samples=CHUNK_SAMPLES)
    detector = Detector(
        bundle=bundle,
        spec=spec_of(recording),
        engine=engine,
        settings=settings or DetectorSettings(rule=bundle.alarm),
    )
    alarms = AlarmLog()
    reasons: Counter[str] = Counter()
    try:
        for chunk in source:
            for item in detector.feed(chunk) if chunk is not None else ():
                if isinstance(item, AlertEvent):
                    alarms.take(item)
                elif isinstance(item, Prediction):
                    alarms.see(item.p)
                    if item.p is None:
                        reasons.update(filter(None, item.reasons))
    finally:
        detector.close()
        source.close()
    n_windows, n_refused = detector.n_windows, detector.n_windows_refused
    if n_windows == n_refused:
        raise RecordingUnusableError(
            path=recording.path, why=_why(source.duration_s, n_windows, reasons)
        )
    if source.n_missing:
        hop_s = engine.hop_samples / bundle.rate_hz
        decidable_s = source.duration_s - bundle.window_samples / bundle.rate_hz
        n_lost = max(0, int((decidable_s - 2 * detector.delay_s) / hop_s) + 1 - n_windows)
        n_windows, n_refused = n_windows + n_lost, n_refused + n_lost
    return Played(
        path=recording.path,
        duration_s=source.duration_s,
        labels=recording.labels,
        n_windows=n_windows,
        n_refused=n_refused,
        n_calibrating=detector.n_windows_calibrating,
        delay_s=detector.delay_s,
        alarms=alarms.until(source.duration_s),
        seizures=annotated(recording),
        notes=recording.notes,
    )


def evaluate_recordings(
    place: Path,
    bundle: Bundle,
    *,
    ask: Ask | None = None,
    settings: DetectorSettings | None = None,
    n_jobs: int = 1,
    on_found: Callable[[int], None] = lambda _: None,
    on_done: Callable[[str], None] = lambda _: None,
) -> RecordingsReport:
    """Play all recordings of a folder, or one file.

    In a folder a recording that cannot be played is left out, and the report says why; of a single
    file the error is raised.

    Args:
        place: Folder, at any depth, or file.
        bundle: The model.
        ask: How recordings are read.
        settings: Alarm rule and mains; None takes the bundle's rule.
        n_jobs: Processes.
        on_found: Told how many files there are.
        on_done: Told each path that is through.

    Raises:
        RecordingNotFoundError: If there is no such place, or nothing in it.
        SourceError: If a single file cannot be played.
        MissingExtraError: If a format needs a library that is not installed.
    """
    work = _Work(bundle=bundle, ask=ask or Ask(), settings=settings)
    if not place.is_dir():
        on_found(1)
        alone = replace(work.play(place), path=place.name)
        on_done(place.name)
        return RecordingsReport(played=(alone,), excluded=())
    paths = list(bids.find(place))
    if not paths:
        raise RecordingNotFoundError(
            str(place),
            looked_for=f"no file in this folder ends in {', '.join(sorted(bids.SUFFIXES))}",
            fix="the folder that holds the recordings",
        )
    on_found(len(paths))
    played: list[Played] = []
    excluded: list[Excluded] = []
    for path, outcome in _outcomes(work, paths, n_jobs):
        name = str(path.relative_to(place))
        if isinstance(outcome, Played):
            played.append(replace(outcome, path=name))
        else:
            excluded.append(Excluded(path=name, reason=outcome))
        on_done(name)
    return RecordingsReport(played=tuple(played), excluded=tuple(excluded))


@dataclass(frozen=True, slots=True)
class _Work:
    """What a process needs to play a recording."""

    bundle: Bundle
    ask: Ask
    settings: DetectorSettings | None

    def play(self, path: Path) -> Played:
        return play(open_recording(str(path), self.ask), self.bundle, settings=self.settings)

    def outcome(self, path: Path) -> Played | str:
        """Play a recording, or say why it cannot be."""
        try:
            if path.suffix.lower() in bids.UNREAD:
                return f"a format that is not read: {path.suffix}"
            return self.play(path)
        except (SourceError, SignalError) as error:
            return str(error)


def _outcomes(
    work: _Work, paths: Sequence[Path], n_jobs: int
) -> Iterator[tuple[Path, Played | str]]:
    if n_jobs == 1:
        yield from ((path, work.outcome(path)) for path in paths)
        return
    with ProcessPoolExecutor(n_jobs, mp_context=get_context("spawn")) as pool:
        try:
            yield from zip(paths, pool.map(work.outcome, paths), strict=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class AlarmLog:
    """Collects each time an alarm was on."""

    def __init__(self) -> None:
        self._alarms: list[Alarm] = []
        self._on: Alarm | None = None
        self._ids: set[str] = set()
        self._p = 0.0

    def see(self, p: float | None) -> None:
        """Take a window's p(seizure); its events come after it."""
        self._p = 0.0 if p is None else p
        if self._on is not None:
            self._on = replace(self._on, p_max=max(self._on.p_max, self._p))

    def take(self, event: AlertEvent) -> None:
        """Take a step of an alert."""
        if event.on and self._on is None:
            again = event.alert_id in self._ids
            self._ids.add(event.alert_id)
            self._on = Alarm(
                onset_s=event.at_s if again else event.onset_s,
                raised_s=event.at_s,
                ended_s=event.at_s,
                channels=event.channels,
                p_max=self._p,
            )
        elif self._on is not None:
            self._on = replace(self._on, channels=event.channels)
            if not event.on:
                self._end(event.at_s)

    def until(self, ended_s: float) -> tuple[Alarm, ...]:
        """Return all of them; one that is still on ends with the recording."""
        self._end(ended_s)
        return tuple(self._alarms)

    def _end(self, ended_s: float) -> None:
        if self._on is not None:
            self._alarms.append(replace(self._on, ended_s=max(ended_s, self._on.raised_s)))
        self._on = None


def _why(duration_s: float, n_windows: int, reasons: Counter[str]) -> str:
    if not n_windows:
        return f"{duration_s:.1f} s, and no stretch without a gap is long enough for a decision"
    total = sum(reasons.values())
    named = ", ".join(
        f"{reason} ({n / total:.0%})" for reason, n in reasons.most_common(NAMED_REASONS)
    )
    return f"all {n_windows:,} windows ({duration_s:.1f} s) were refused: {named}"


def _share(n: int, of: int) -> float:
    return n / of if of else 0.0
