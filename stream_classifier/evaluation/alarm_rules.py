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
from stream_classifier.evaluation.recordings import Alarm as AlarmTime
from stream_classifier.evaluation.recordings import AlarmLog

if TYPE_CHECKING:
    from stream_classifier.bundle import AlarmSpec, Bundle
    from stream_classifier.evaluation.playing import Watched


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
    labels = {head.name: head.labels for head in report.heads}
    background = [
        (watched, head.labels)
        for watched, head in zip(report.background[1.0], report.heads, strict=True)
    ]
    mixed = [(case.watched, labels[case.mixture.background]) for case in report.cases[1.0]]
    smoothed: dict[float, list[NDArray[np.float32]]] = {}
    for smoothing_s, needed in dict.fromkeys((r.smoothing_s, r.channels_needed) for r in rules):
        if smoothing_s not in smoothed:
            smoothed = {  # the last one is forgotten: one is large enough
                smoothing_s: [
                    smooth(watched, smoothing_s, bundle) for watched, _ in (*background, *mixed)
                ]
            }
        values = [
            agree(watched, one, own, needed)
            for (watched, own), one in zip(
                (*background, *mixed), smoothed[smoothing_s], strict=True
            )
        ]
        for rule in rules:
            if (rule.smoothing_s, rule.channels_needed) != (smoothing_s, needed):
                continue
            alarms = [
                alarms_of(watched, p, rule, bundle)
                for (watched, _), p in zip((*background, *mixed), values, strict=True)
            ]
            n_false = sum(map(len, alarms[: len(background)]))
            judged = [
                judge_case(case.mixture, dataclasses.replace(case.watched, alarms=found))
                for case, found in zip(report.cases[1.0], alarms[len(background) :], strict=True)
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


def smooth(watched: Watched, smoothing_s: float, bundle: Bundle) -> NDArray[np.float32]:
    """Each channel's smoothed p(seizure) at each window, shape ``(n_windows, n_channels)``.

    Args:
        watched: What the detector said of the windows.
        smoothing_s: See ``AlarmSpec``.
        bundle: The model.
    """
    smoother = Smoother(
        smoothing_samples=round(smoothing_s * bundle.rate_hz), hop_samples=bundle.hop_samples
    )
    return smoother.add(watched.end_index, watched.seizure)


def agree(
    watched: Watched, smoothed: NDArray[np.float32], labels: tuple[str, ...], channels_needed: int
) -> NDArray[np.float64]:
    """The stream's p(seizure) at each window, shape ``(n_windows,)``; NaN where unknown.

    Args:
        watched: What the detector said of the windows.
        smoothed: As ``smooth`` makes it.
        labels: Of the channels.
        channels_needed: See ``AlarmSpec``.
    """
    values = Fusion(labels, channels_needed=channels_needed).agree(smoothed)
    known = np.array([np.nan if value is None else value for value in values])
    return np.where(watched.refused.all(axis=1), np.nan, known)


def alarms_of(
    watched: Watched, values: NDArray[np.float64], rule: AlarmSpec, bundle: Bundle
) -> tuple[AlarmTime, ...]:
    """Times for which an alarm would have been on, its channels left out.

    Args:
        watched: What was played.
        values: As ``agree`` makes them.
        rule: Of which thresholds and times are used.
        bundle: The model.
    """
    alarm = Alarm(
        rule=rule,
        hop_s=bundle.hop_samples / bundle.rate_hz,
        identity="",
        rate_hz=bundle.rate_hz,
    )
    log = AlarmLog()
    for at_s, p in zip(watched.at_s.tolist(), values.tolist(), strict=True):
        known = None if np.isnan(p) else p
        log.see(known)
        for event in alarm.add(at_s, known):
            log.take(event)
    return log.until(float(watched.at_s[-1]) if len(watched.at_s) else 0.0)


def _spread(latencies: Sequence[float | None]) -> tuple[float, float] | None:
    known = [value for value in latencies if value is not None]
    if not known:
        return None
    median, p90 = np.percentile(known, (50, 90)).tolist()
    return median, p90
