"""What is chosen on validation data: how sure the network may be, and when to alarm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from stream_classifier.bundle import AlarmSpec, Bundle
from stream_classifier.evaluation.heldout import data_rate_hz
from stream_classifier.evaluation.timelines import play, pool, splice
from stream_classifier.training.network import class_log_probabilities

if TYPE_CHECKING:
    from stream_classifier.datasets import SeizureRows

DEFAULT_ALARM: Final = AlarmSpec(
    raise_threshold=0.9,
    clear_threshold=0.5,
    smoothing_s=1.0,
    persistence_s=0.5,
    refractory_s=90.0,
)

RAISE_THRESHOLDS: Final = (0.9, 0.95, 0.85, 0.8)
SMOOTHING_AND_PERSISTENCE_S: Final = ((1.0, 0.5), (0.75, 0.5), (1.0, 0.25), (0.75, 0.25))
"""What is tried; a tie goes to the first."""

LATENCY_BUDGET_S: Final = 1.4
"""Median time to an alarm that a rule may take. What is within it is not bought with safety: some
minutes of background without a false alarm say little, so of the rules that had none the slowest
within the budget is taken, which waits for the most evidence."""

EASED_BY: Final = 0.15
"""For the same reason a rule is better if it has no false alarm at a threshold that much lower."""


def fit_temperature(
    logits: torch.Tensor, truth: torch.Tensor, output_classes: tuple[int, ...]
) -> float:
    """Find what to divide logits by so that probabilities are as sure as they are right.

    Minimises the cross-entropy over the classes (Guo et al., On calibration of modern neural
    networks, ICML 2017). The outputs' order stays as it was.

    Args:
        logits: Of validation decisions, shape ``(n, outputs)``.
        truth: Their classes, shape ``(n,)``.
        output_classes: As in ``NetworkSpec``.

    Returns:
        The temperature, from 0.25 to 4.
    """
    with torch.inference_mode():
        exact = logits.double()

        def cross_entropy(log_temperature: float) -> float:
            log_p = class_log_probabilities(exact / float(np.exp(log_temperature)), output_classes)
            return torch.nn.functional.nll_loss(log_p, truth).item()

        found = minimize_scalar(cross_entropy, bounds=(-np.log(4), np.log(4)), method="bounded")
    return float(np.exp(found.x))


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmTrial:
    """What one rule did on a spliced timeline of validation recordings.

    Attributes:
        raise_threshold: See ``AlarmSpec``.
        smoothing_s: See ``AlarmSpec``.
        persistence_s: See ``AlarmSpec``.
        false_alarms: Times an alarm came on outside of a seizure.
        false_alarms_eased: The same at a raise threshold lower by ``EASED_BY``.
        missed: Seizures during which none came on.
        latency_s: Median time from the start of a seizure to its alarm; None without one.
        worst_latency_s: The longest of these times.
        background_s: Time without a seizure.
        n_seizures: How many seizures there were.
    """

    raise_threshold: float
    smoothing_s: float
    persistence_s: float
    false_alarms: int
    false_alarms_eased: int
    missed: int
    latency_s: float | None
    worst_latency_s: float | None
    background_s: float
    n_seizures: int


def try_alarms(
    bundle: Bundle, rows: SeizureRows, keys: Sequence[str], *, seed: int
) -> tuple[AlarmTrial, ...]:
    """Play recordings, spliced, through the detector, under every rule to choose from.

    Args:
        bundle: The model; its own rule is not used, but for the clear threshold and refractory
            time.
        rows: The data set.
        keys: Validation recordings.
        seed: Of their order.
    """
    timeline = splice(rows, keys, seed=seed, rate_hz=data_rate_hz(bundle))
    trials = []
    played = {
        smoothing_s: play(bundle, timeline, rule=replace(bundle.alarm, smoothing_s=smoothing_s))
        for smoothing_s in dict.fromkeys(s for s, _ in SMOOTHING_AND_PERSISTENCE_S)
    }
    for smoothing_s, persistence_s in SMOOTHING_AND_PERSISTENCE_S:
        for threshold in RAISE_THRESHOLDS:
            rule = replace(
                played[smoothing_s].rule, raise_threshold=threshold, persistence_s=persistence_s
            )
            eased = replace(rule, raise_threshold=threshold - EASED_BY)
            score = pool([played[smoothing_s].under(rule)])
            trials.append(
                AlarmTrial(
                    raise_threshold=threshold,
                    smoothing_s=smoothing_s,
                    persistence_s=persistence_s,
                    false_alarms=score.false_alarms,
                    false_alarms_eased=pool([played[smoothing_s].under(eased)]).false_alarms,
                    missed=score.n_seizures - score.n_detected,
                    latency_s=score.latency_s(0.5),
                    worst_latency_s=score.latency_s(1.0),
                    background_s=score.background_hours * 3600,
                    n_seizures=score.n_seizures,
                )
            )
    return tuple(trials)


def choose_alarm(trials: Sequence[AlarmTrial]) -> AlarmTrial:
    """Choose the rule with the fewest errors; of those within the budget the safest."""

    def worth(trial: AlarmTrial) -> tuple[float, ...]:
        latency_s = np.inf if trial.latency_s is None else trial.latency_s
        over_s = max(0.0, latency_s - LATENCY_BUDGET_S)
        return (trial.false_alarms + trial.missed, over_s, trial.false_alarms_eased, -latency_s)

    return min(trials, key=worth)
