"""Other alarm rules over what the detector has said of every window, without running it again.

What comes after a window's probability (smoothing, agreement of channels, thresholds, times) does
not change what comes before it. So each recording is played once, and any number of rules is then
tried with the detector's own stages: under the rule that it was played with, the same alarms come
out (a test holds them to that).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stream_classifier.detection.alarm import Alarm
from stream_classifier.detection.fusion import Fusion
from stream_classifier.detection.smoother import Smoother
from stream_classifier.evaluation.heads import N_INVOLVED, HeadsReport, judge_case
from stream_classifier.evaluation.playing import AlarmInterval, Watched, alarm_intervals

if TYPE_CHECKING:
    from stream_classifier.bundle import AlarmSpec, Bundle
    from stream_classifier.signals import AlertEvent


@dataclass(frozen=True, slots=True)
class RuleFigures:
    """What one rule would have done.

    Attributes:
        rule: The rule.
        false_alarms: On the people's own signal.
        false_alarms_per_hour: The same an hour.
        sensitivity: Share of the mixed seizures that was detected, by number of channels.
        latency_s: Median and 90th percentile by number of channels; None where none was detected.
    """

    rule: AlarmSpec
    false_alarms: int
    false_alarms_per_hour: float
    sensitivity: dict[int, float]
    latency_s: dict[int, tuple[float, float] | None]

    def as_json(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return dataclasses.asdict(self)


def grid(
    base: AlarmSpec,
    *,
    raise_thresholds: Iterable[float] = (),
    clear_thresholds: Iterable[float] = (),
    smoothing_s: Iterable[float] = (),
    persistence_s: Iterable[float] = (),
    channels_needed: Iterable[int] = (),
) -> list[AlarmSpec]:
    """Every combination of the values given, all else as in the base.

    Combinations that are no rule (to clear above what raises) are left out.

    Args:
        base: The rule to vary.
        raise_thresholds: See ``AlarmSpec``; so the others. None: as in the base.
        clear_thresholds: See above.
        smoothing_s: See above.
        persistence_s: See above.
        channels_needed: See above.
    """
    return [
        dataclasses.replace(
            base,
            raise_threshold=raise_threshold,
            clear_threshold=clear_threshold,
            smoothing_s=smoothing,
            persistence_s=persistence,
            channels_needed=needed,
        )
        for smoothing, needed, raise_threshold, clear_threshold, persistence in product(
            tuple(smoothing_s) or (base.smoothing_s,),
            tuple(channels_needed) or (base.channels_needed,),
            tuple(raise_thresholds) or (base.raise_threshold,),
            tuple(clear_thresholds) or (base.clear_threshold,),
            tuple(persistence_s) or (base.persistence_s,),
        )
        if clear_threshold <= raise_threshold
    ]


def tune(report: HeadsReport, rules: Sequence[AlarmSpec]) -> Iterator[RuleFigures]:
    """Try rules on what was played for a report, which must be one on the people to tune on.

    The artefact-laden background and the gains are left out.

    Args:
        report: Holds what the detector said of every window.
        rules: To try. Those that differ in thresholds and persistence only cost little.
    """
    bundle = report.bundle
    labels = [head.labels for head in report.heads]
    names = {head.name: number for number, head in enumerate(report.heads)}
    cases = report.cases[1.0]
    smoothings = list(dict.fromkeys((rule.smoothing_s, rule.channels_needed) for rule in rules))
    for smoothing_s, channels_needed in smoothings:
        fuse = dataclasses.replace(
            bundle.alarm, smoothing_s=smoothing_s, channels_needed=channels_needed
        )
        background = [
            stream_values(watched, own, fuse, bundle)
            for watched, own in zip(report.background[1.0], labels, strict=True)
        ]
        mixed = [
            stream_values(case.watched, labels[names[case.mixture.background]], fuse, bundle)
            for case in cases
        ]
        for rule in rules:
            if (rule.smoothing_s, rule.channels_needed) != (smoothing_s, channels_needed):
                continue
            n_false = sum(
                len(alarms_of(watched, p, rule, bundle))
                for watched, p in zip(report.background[1.0], background, strict=True)
            )
            judged = [
                judge_case(
                    case.mixture,
                    dataclasses.replace(
                        case.watched, alarms=alarms_of(case.watched, p, rule, bundle)
                    ),
                )
                for case, p in zip(cases, mixed, strict=True)
            ]
            latencies = {
                count: [c.latency_s for c in judged if c.n_involved == count]
                for count in N_INVOLVED
            }
            yield RuleFigures(
                rule=rule,
                false_alarms=n_false,
                false_alarms_per_hour=n_false / report.hours,
                sensitivity={
                    count: float(np.mean([value is not None for value in found]))
                    for count, found in latencies.items()
                },
                latency_s={count: _spread(found) for count, found in latencies.items()},
            )


def stream_values(
    watched: Watched, labels: tuple[str, ...], rule: AlarmSpec, bundle: Bundle
) -> NDArray[np.float64]:
    """The stream's p(seizure) of each window under a rule's smoothing and agreement.

    Args:
        watched: What the detector said of the windows.
        labels: Of the channels.
        rule: Of which ``smoothing_s`` and ``channels_needed`` are used.
        bundle: The model.

    Returns:
        Shape ``(n_windows,)``; NaN where nothing can be said.
    """
    smoother = Smoother(
        smoothing_samples=round(rule.smoothing_s * bundle.rate_hz), hop_samples=bundle.hop_samples
    )
    fusion = Fusion(labels, channels_needed=rule.channels_needed)
    values = np.full(len(watched.at_s), np.nan)
    for i, (end_index, seizure) in enumerate(
        zip(watched.end_index.tolist(), watched.seizure, strict=True)
    ):
        smoothed = smoother.add(end_index, seizure)
        if not watched.refused[i].all():
            p = fusion.agree(smoothed)
            values[i] = np.nan if p is None else p
    return values


def alarms_of(
    watched: Watched, values: NDArray[np.float64], rule: AlarmSpec, bundle: Bundle
) -> tuple[AlarmInterval, ...]:
    """Times for which an alarm would have been on, its channels left out.

    Args:
        watched: What was played.
        values: As ``stream_values`` makes them.
        rule: Of which thresholds and times are used.
        bundle: The model.
    """
    alarm = Alarm(
        rule=rule,
        hop_s=bundle.hop_samples / bundle.rate_hz,
        identity="",
        rate_hz=bundle.rate_hz,
    )
    events: list[AlertEvent] = []
    for at_s, p in zip(watched.at_s.tolist(), values.tolist(), strict=True):
        events += alarm.add(at_s, None if np.isnan(p) else p)
    return tuple(alarm_intervals(events))


def _spread(latencies: Sequence[float | None]) -> tuple[float, float] | None:
    known = [value for value in latencies if value is not None]
    if not known:
        return None
    median, p90 = np.percentile(known, (50, 90)).tolist()
    return median, p90
