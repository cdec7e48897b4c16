"""Held-out recordings spliced into hours of stream, through the real detector, and what it raised.

A seizure recording of the data set begins and ends within the seizure. So transitions are made:
background recordings, then a seizure recording, and so on, without a gap between them. Seams that
no head makes are part of every timeline; an alarm at one of them is counted as any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from stream_classifier.detection.alarm import Alarm
from stream_classifier.detection.detector import Detector, DetectorSettings
from stream_classifier.engines import make_engine
from stream_classifier.errors import TimelineNeededError
from stream_classifier.evaluation.heldout import data_rate_hz
from stream_classifier.evaluation.intervals import (
    N_BOOTSTRAP,
    Bounds,
    quantile_bounds,
    rate_bounds,
    share_bounds,
)
from stream_classifier.signals import AlertEvent, Chunk, Prediction, StreamSpec

if TYPE_CHECKING:
    from stream_classifier.bundle import AlarmSpec, Bundle, Split
    from stream_classifier.datasets import SeizureRows
    from stream_classifier.signals import Engine

CHUNK_SAMPLES: Final = 4096

Interval = tuple[float, float]
"""Start and end, seconds from the start of the timeline."""


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """Recordings one after the other, without a gap.

    Attributes:
        samples_uv: Shape ``(n_samples,)``, µV.
        rate_hz: Their rate.
        keys: The recordings, in order.
        starts_s: When each of them starts.
        seizures: From when to when there is a seizure.
    """

    samples_uv: NDArray[np.float32]
    rate_hz: float
    keys: tuple[str, ...]
    starts_s: tuple[float, ...]
    seizures: tuple[Interval, ...]

    @property
    def duration_s(self) -> float:
        """Length of the whole."""
        return len(self.samples_uv) / self.rate_hz

    @property
    def background_s(self) -> float:
        """Length of all that is no seizure."""
        return self.duration_s - sum(end - start for start, end in self.seizures)


@dataclass(frozen=True, slots=True, eq=False)
class Played:
    """What the detector made of one timeline.

    Attributes:
        timeline: What was played.
        rule: When it alarms.
        hop_s: Seconds from one window to the next.
        delay_s: Signal time that the detector waits for beyond a window's last sample.
        at_s: Shape ``(n_windows,)``, time of each window's last sample.
        probabilities: Shape ``(n_windows, 3)``; NaN where no decision was made.
        p: Shape ``(n_windows,)``, smoothed p(seizure); NaN while nothing could be said.
        alarms: From when to when an alarm was on; one that goes off and on again under one id
            counts again.
    """

    timeline: Timeline
    rule: AlarmSpec
    hop_s: float
    delay_s: float
    at_s: NDArray[np.float64]
    probabilities: NDArray[np.float32]
    p: NDArray[np.float64]
    alarms: tuple[Interval, ...]

    @property
    def refused_share(self) -> float:
        """Share of the windows that the quality gate refused to decide."""
        return float(np.isnan(self.probabilities[:, 0]).mean())

    def under(self, rule: AlarmSpec) -> Played:
        """Run the alarm again over the same p(seizure), under another rule.

        Raises:
            ValueError: If the rule smooths over another time: that would be another p.
        """
        if rule.smoothing_s != self.rule.smoothing_s:
            raise ValueError(
                f"p was smoothed over {self.rule.smoothing_s:g} s, not {rule.smoothing_s:g} s"
            )
        alarm = Alarm(rule=rule, hop_s=self.hop_s, identity="", rate_hz=1 / self.hop_s)
        events = [
            event
            for at_s, p in zip(self.at_s.tolist(), self.p.tolist(), strict=True)
            for event in alarm.add(at_s, None if np.isnan(p) else p)
        ]
        return replace(self, rule=rule, alarms=on_intervals(events, self.timeline.duration_s))


@dataclass(frozen=True, slots=True)
class StreamingScore:
    """How an alarm did on timelines, all of them together.

    A seizure is detected if an alarm comes on while it lasts; one that was on before it began
    does not count. An alarm that comes on outside of seizures is false, however soon after one.

    Attributes:
        n_seizures: Seizures there were.
        latencies_s: Of each that was detected, in order: time from its start to the alarm, with
            what the detector waits for beyond the window.
        false_alarms: How many alarms were false.
        background_hours: Time without a seizure.
    """

    n_seizures: int
    latencies_s: tuple[float, ...]
    false_alarms: int
    background_hours: float

    @property
    def n_detected(self) -> int:
        """Seizures that were detected."""
        return len(self.latencies_s)

    @property
    def sensitivity(self) -> float | None:
        """Share of the seizures that was detected; None if there was none."""
        return self.n_detected / self.n_seizures if self.n_seizures else None

    @property
    def false_alarms_per_hour(self) -> float:
        """Over the time without a seizure."""
        return self.false_alarms / self.background_hours

    def latency_s(self, quantile: float) -> float | None:
        """Quantile of the latency of what was detected; None if nothing was."""
        return float(np.quantile(self.latencies_s, quantile)) if self.latencies_s else None

    def intervals(self, *, seed: int = 0, level: float = 0.95) -> dict[str, Bounds]:
        """Bounds of the figures.

        Exact ones for the counts (Clopper-Pearson, Garwood); of the latencies a bootstrap over
        seizures, of which there is one a recording. The longest latency has none.

        Returns:
            By name: ``sensitivity``, ``false_alarms_per_hour``, and, if anything was detected,
            ``latency_median_s`` and ``latency_p90_s``.
        """
        bounds = {
            "sensitivity": share_bounds(self.n_detected, self.n_seizures, level=level),
            "false_alarms_per_hour": rate_bounds(
                self.false_alarms, self.background_hours, level=level
            ),
        }
        if self.latencies_s:
            rng = np.random.default_rng(seed)
            drawn = rng.choice(self.latencies_s, size=(N_BOOTSTRAP, self.n_detected))
            for name, quantile in (("latency_median_s", 0.5), ("latency_p90_s", 0.9)):
                of_draws = np.quantile(drawn, quantile, axis=1)
                bounds[name] = quantile_bounds(of_draws, level=level)
        return bounds

    def as_json(self) -> dict[str, Any]:
        """Return the figures and their bounds as JSON values."""
        return {
            "n_seizures": self.n_seizures,
            "n_detected": self.n_detected,
            "sensitivity": self.sensitivity,
            "false_alarms": self.false_alarms,
            "background_hours": self.background_hours,
            "false_alarms_per_hour": self.false_alarms_per_hour,
            "latency_median_s": self.latency_s(0.5),
            "latency_p90_s": self.latency_s(0.9),
            "latency_max_s": self.latency_s(1.0),
            "intervals": {name: list(bounds) for name, bounds in self.intervals().items()},
        }


def held_out_keys(split: Split) -> tuple[str, ...]:
    """Recordings of a split's test side.

    Raises:
        TimelineNeededError: If single rows were held out, of which no timeline can be made.
    """
    if split.protocol == "rows":
        raise TimelineNeededError
    return tuple(str(key) for key in split.test)


def splice(
    rows: SeizureRows, keys: Sequence[str], *, seed: int, rate_hz: float = 178.0
) -> Timeline:
    """Put recordings one after the other: background, seizure, background, seizure, and so on.

    Every recording is used once, in an order drawn from the seed. The background is dealt out
    evenly: with four times as many background recordings as seizures, as the data set has, every
    seizure comes after 92 s of background. Background without any seizure is one stretch.

    Args:
        rows: The data set.
        keys: Which recordings.
        seed: Of the order.
        rate_hz: Rate at which the samples are played; see ``heldout.data_rate_hz``.

    Raises:
        ValueError: If there are no recordings.
    """
    if not keys:
        raise ValueError("no recordings to make a timeline of")
    rng = np.random.default_rng(seed)
    shuffled = [keys[place] for place in rng.permutation(len(keys))]
    seizures = [key for key in shuffled if rows.class_of(key) == 0]
    background = [key for key in shuffled if rows.class_of(key) != 0]
    dealt = np.array_split(np.arange(len(background)), max(1, len(seizures)))
    order: list[str] = []
    for place, some in enumerate(dealt):
        order += [background[i] for i in some]
        order += seizures[place : place + 1]
    recordings = [rows.recording(key) for key in order]
    bounds_s = np.cumsum([0, *map(len, recordings)]) / rate_hz
    return Timeline(
        samples_uv=np.concatenate(recordings),
        rate_hz=rate_hz,
        keys=tuple(order),
        starts_s=tuple(bounds_s[:-1].tolist()),
        seizures=tuple(
            (float(start), float(end))
            for key, start, end in zip(order, bounds_s[:-1], bounds_s[1:], strict=True)
            if rows.class_of(key) == 0
        ),
    )


def play_held_out(
    bundle: Bundle,
    rows: SeizureRows,
    *,
    seed: int = 0,
    engine: Engine | None = None,
    on_played_s: Callable[[float], None] = lambda _: None,
) -> Played:
    """Splice the recordings that a bundle was not trained on, and play them.

    Raises:
        TimelineNeededError: If single rows were held out, of which no timeline can be made.
    """
    timeline = splice(rows, held_out_keys(bundle.split), seed=seed, rate_hz=data_rate_hz(bundle))
    return play(bundle, timeline, engine=engine, on_played_s=on_played_s)


def play(
    bundle: Bundle,
    timeline: Timeline,
    *,
    rule: AlarmSpec | None = None,
    engine: Engine | None = None,
    on_played_s: Callable[[float], None] = lambda _: None,
) -> Played:
    """Feed a timeline to the detector, as one channel at gain 1.

    Args:
        bundle: The model.
        timeline: What to play.
        rule: When to alarm; None takes the bundle's. One channel is enough, whatever it says.
        engine: What runs the model; None makes one.
        on_played_s: Called with the seconds played since the last call.
    """
    rule = replace(bundle.alarm if rule is None else rule, channels_needed=1)
    engine = make_engine(bundle) if engine is None else engine
    detector = Detector(
        bundle=bundle,
        spec=StreamSpec(
            name="timeline",
            source_id="timeline",
            rate_hz=timeline.rate_hz,
            labels=("EEG",),
            kind="recording",
        ),
        engine=engine,
        settings=DetectorSettings(rule=rule)
        if bundle.gain is None
        else DetectorSettings(rule=rule, gains=(1.0,)),
    )
    predictions: list[Prediction] = []
    events: list[AlertEvent] = []
    samples = timeline.samples_uv[:, None]
    for start in range(0, len(samples), CHUNK_SAMPLES):
        some = samples[start : start + CHUNK_SAMPLES]
        for item in detector.feed(Chunk(samples=some, first_index=start)):
            if isinstance(item, Prediction):
                predictions.append(item)
            elif isinstance(item, AlertEvent):
                events.append(item)
        on_played_s(len(some) / timeline.rate_hz)
    detector.close()
    return Played(
        timeline=timeline,
        rule=rule,
        hop_s=engine.hop_samples / bundle.rate_hz,
        delay_s=detector.delay_s,
        at_s=np.array([item.at_s for item in predictions]),
        probabilities=np.stack([item.probabilities[0] for item in predictions]),
        p=np.array([np.nan if item.p is None else item.p for item in predictions]),
        alarms=on_intervals(events, timeline.duration_s),
    )


def on_intervals(events: Sequence[AlertEvent], duration_s: float) -> tuple[Interval, ...]:
    """From when to when an alarm was on, oldest first; each coming on counts, also under one id.

    Args:
        events: Steps of alerts, in order.
        duration_s: When the timeline ends, and with it an alarm that is still on.
    """
    alarms: list[Interval] = []
    on_since_s: float | None = None
    for event in events:
        if event.on and on_since_s is None:
            on_since_s = event.at_s
        elif not event.on and on_since_s is not None:
            alarms.append((on_since_s, event.at_s))
            on_since_s = None
    if on_since_s is not None:
        alarms.append((on_since_s, max(duration_s, on_since_s)))
    return tuple(alarms)


def pool(played: Sequence[Played]) -> StreamingScore:
    """Count over timelines together, such as those of all folds of a cross-validation."""
    latencies_s: list[float] = []
    false_alarms = 0
    for one in played:
        seizures = one.timeline.seizures
        onsets_s = np.array([start for start, _ in one.alarms])
        within = np.zeros(len(onsets_s), dtype=bool)
        for start, end in seizures:
            here = (start <= onsets_s) & (onsets_s < end)
            within |= here
            if here.any():
                latencies_s.append(float(onsets_s[here].min() - start) + one.delay_s)
        false_alarms += int((~within).sum())
    return StreamingScore(
        n_seizures=sum(len(one.timeline.seizures) for one in played),
        latencies_s=tuple(latencies_s),
        false_alarms=false_alarms,
        background_hours=sum(one.timeline.background_s for one in played) / 3600,
    )


def sweep(
    played: Sequence[Played], raise_thresholds: Sequence[float]
) -> dict[float, StreamingScore]:
    """Score the same p(seizure) under other raise thresholds, all else as in the rule.

    A clear threshold above the raise threshold is lowered to it.
    """
    return {
        threshold: pool(
            [
                one.under(
                    replace(
                        one.rule,
                        raise_threshold=threshold,
                        clear_threshold=min(one.rule.clear_threshold, threshold),
                    )
                )
                for one in played
            ]
        )
        for threshold in raise_thresholds
    }
