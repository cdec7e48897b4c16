"""Seizures as events, scored by the SzCORE rules through their own library.

SzCORE (Dan et al., Epilepsia 2024, doi 10.1111/epi.18113) counts an alarm that overlaps a seizure
as its detection and every other alarm as false, after it has merged alarms less than 90 s apart
and widened each seizure by 30 s before and 60 s after. On timelines of 23 s seizures every
115 s that is generous, so the same is scored without merging and widening as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from stream_classifier.errors import MissingExtraError, TimelineNeededError

if TYPE_CHECKING:
    from stream_classifier.evaluation.timelines import Interval, Played

_LABEL_RATE_HZ: Final = 10
"""Precision at which the library works."""


@dataclass(frozen=True, slots=True)
class EventRules:
    """What counts as the same event.

    Attributes:
        before_s: An alarm so long before a seizure still is its own.
        after_s: And so long after it.
        merge_s: Events closer than this are one.
        longest_s: A longer event is cut into several.
    """

    before_s: float = 30.0
    after_s: float = 60.0
    merge_s: float = 90.0
    longest_s: float = 300.0


SZCORE: Final = EventRules()
STRICT: Final = EventRules(before_s=0.0, after_s=0.0, merge_s=0.0)
"""Only an alarm during the seizure detects it; each alarm by itself."""


@dataclass(frozen=True, slots=True)
class EventScore:
    """Counts of events, and what follows from them.

    Attributes:
        n_seizures: Seizures, as the rules cut and merge them.
        true_positives: Those that were detected.
        false_positives: Alarms outside of seizures.
        hours: Length of the signal, seizures included.
    """

    n_seizures: int
    true_positives: int
    false_positives: int
    hours: float

    @property
    def sensitivity(self) -> float | None:
        """Share of the seizures that was detected; None if there was none."""
        return self.true_positives / self.n_seizures if self.n_seizures else None

    @property
    def precision(self) -> float | None:
        """Share of the alarms that was true; None if there was none."""
        n_alarms = self.true_positives + self.false_positives
        return self.true_positives / n_alarms if n_alarms else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of the two; None if there were neither seizures nor alarms."""
        n = self.n_seizures + self.true_positives + self.false_positives
        return 2 * self.true_positives / n if n else None

    @property
    def false_positives_per_hour(self) -> float:
        """Over the whole signal, as SzCORE has it."""
        return self.false_positives / self.hours

    @property
    def false_positives_per_day(self) -> float:
        """Over the whole signal, as SzCORE has it."""
        return 24 * self.false_positives_per_hour

    def as_json(self) -> dict[str, Any]:
        """Return counts and figures as JSON values."""
        return {
            **asdict(self),
            "sensitivity": self.sensitivity,
            "precision": self.precision,
            "f1": self.f1,
            "false_positives_per_hour": self.false_positives_per_hour,
            "false_positives_per_day": self.false_positives_per_day,
        }


def score_events(
    seizures: Sequence[Interval],
    alarms: Sequence[Interval],
    *,
    duration_s: float,
    rules: EventRules = SZCORE,
) -> EventScore:
    """Score the alarms of one timeline or recording.

    Args:
        seizures: From when to when there was one, seconds, in order.
        alarms: From when to when an alarm was on.
        duration_s: Length of the signal.
        rules: What counts as the same event.

    Raises:
        TimelineNeededError: If there is no time to speak of, as in single rows.
        MissingExtraError: If ``timescoring`` is not installed.
    """
    if duration_s * _LABEL_RATE_HZ < 1:
        raise TimelineNeededError
    try:
        from timescoring.annotations import Annotation  # noqa: PLC0415 - an extra
        from timescoring.scoring import EventScoring  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            feature="scoring events", extra="report", module="timescoring"
        ) from error
    n_labels = round(duration_s * _LABEL_RATE_HZ)
    truth, found = (
        Annotation(list(events), _LABEL_RATE_HZ, n_labels) for events in (seizures, alarms)
    )
    scored = EventScoring(
        truth,
        found,
        EventScoring.Parameters(
            toleranceStart=rules.before_s,
            toleranceEnd=rules.after_s,
            minOverlap=0,
            maxEventDuration=rules.longest_s,
            minDurationBetweenEvents=rules.merge_s,
        ),
    )
    return EventScore(
        n_seizures=int(scored.refTrue),
        true_positives=int(scored.tp),
        false_positives=int(scored.fp),
        hours=float(np.float64(duration_s) / 3600),
    )


def score_timelines(played: Sequence[Played], *, rules: EventRules = SZCORE) -> EventScore:
    """Score several timelines, and count them together.

    Raises:
        TimelineNeededError: If there is none.
        MissingExtraError: If ``timescoring`` is not installed.
    """
    if not played:
        raise TimelineNeededError
    return add_up(
        [
            score_events(
                one.timeline.seizures,
                one.alarms,
                duration_s=one.timeline.duration_s,
                rules=rules,
            )
            for one in played
        ]
    )


def add_up(scores: Sequence[EventScore]) -> EventScore:
    """Count several signals together."""
    return EventScore(
        n_seizures=sum(score.n_seizures for score in scores),
        true_positives=sum(score.true_positives for score in scores),
        false_positives=sum(score.false_positives for score in scores),
        hours=sum(score.hours for score in scores),
    )
