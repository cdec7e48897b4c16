"""Two numbers chosen on validation data: how sure the network may be, and when to alarm."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from scipy.optimize import minimize_scalar

from stream_classifier.bundle import AlarmSpec
from stream_classifier.detection.alarm import Alarm
from stream_classifier.detection.smoother import Smoother
from stream_classifier.signals import EventType
from stream_classifier.training.network import class_log_probabilities

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stream_classifier.datasets import SeizureRows
    from stream_classifier.evaluation.windows import Classify
    from stream_classifier.training.network import WindowNetwork

DEFAULT_ALARM: Final = AlarmSpec(
    raise_threshold=0.9,
    clear_threshold=0.5,
    smoothing_s=1.0,
    persistence_s=0.5,
    refractory_s=90.0,
)
RAISE_THRESHOLDS: Final = (0.9, 0.95, 0.85, 0.8)
"""What is tried; a tie goes to the first. Not lower: with some minutes of background to count
false alarms on, a threshold that just had none of them says little."""


def fit_temperature(network: WindowNetwork, z: torch.Tensor, truth: torch.Tensor) -> float:
    """Find what to divide logits by so that probabilities are as sure as they are right.

    Minimises the cross-entropy over the classes (Guo et al., On calibration of modern neural
    networks, ICML 2017). The five outputs' order stays as it was.

    Args:
        network: The network, in evaluation mode.
        z: Validation windows, shape ``(n, window_samples)``, z-scores.
        truth: Their classes, shape ``(n,)``.

    Returns:
        The temperature, from 0.25 to 4.
    """
    with torch.inference_mode():
        logits = torch.cat([network(piece) for piece in torch.split(z, 1024)]).double()

        def cross_entropy(log_temperature: float) -> float:
            scaled = logits / float(np.exp(log_temperature))
            log_p = class_log_probabilities(scaled, network.spec.output_classes)
            return torch.nn.functional.nll_loss(log_p, truth).item()

        found = minimize_scalar(cross_entropy, bounds=(-np.log(4), np.log(4)), method="bounded")
    return float(np.exp(found.x))


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmTrial:
    """What one raise threshold did on whole recordings, each played by itself.

    Attributes:
        raise_threshold: The threshold.
        false_alarms: Alerts raised in recordings without a seizure.
        missed: Seizure recordings without an alert.
        latency_s: Median time from the start of a seizure recording to its alert; None if
            there was none.
        worst_latency_s: The longest of these times.
        background_s: Length of all recordings without a seizure.
        n_seizures: How many recordings were of a seizure.
    """

    raise_threshold: float
    false_alarms: int
    missed: int
    latency_s: float | None
    worst_latency_s: float | None
    background_s: float
    n_seizures: int


def smooth_recordings(
    classify: Classify,
    rows: SeizureRows,
    keys: Sequence[str],
    *,
    smoothing_s: float,
    window_samples: int,
    hop_samples: int,
    rate_hz: float,
) -> dict[str, list[tuple[float, float | None]]]:
    """Play whole recordings, each by itself, through the model and the stream's own smoother.

    Args:
        classify: The model.
        rows: The data set.
        keys: Which recordings.
        smoothing_s: Time over which p(seizure) is averaged.
        window_samples: Length of a window.
        hop_samples: Samples from one window to the next.
        rate_hz: Rate of the samples.

    Returns:
        For each recording, for each window: when it ended, in seconds from the start of the
        recording, and the smoothed p(seizure) then, None while too few windows are known.
    """
    smoothed: dict[str, list[tuple[float, float | None]]] = {}
    for key in keys:
        windows = sliding_window_view(rows.recording(key), window_samples)[::hop_samples]
        smoother = Smoother(
            smoothing_samples=round(smoothing_s * rate_hz),
            hop_samples=hop_samples,
        )
        ends = range(window_samples, len(rows.recording(key)) + 1, hop_samples)
        values = (
            smoother.add(end - 1, p[:1]).item()
            for end, p in zip(ends, classify(np.ascontiguousarray(windows)), strict=True)
        )
        smoothed[key] = [
            (end / rate_hz, None if np.isnan(value) else value)
            for end, value in zip(ends, values, strict=True)
        ]
    return smoothed


def try_alarm(
    smoothed: dict[str, list[tuple[float, float | None]]],
    rows: SeizureRows,
    *,
    alarm: AlarmSpec,
    hop_s: float,
    rate_hz: float,
) -> AlarmTrial:
    """Run the stream's own alarm over recordings, and count.

    Args:
        smoothed: What ``smooth_recordings`` gave.
        rows: The data set.
        alarm: The rule.
        hop_s: Seconds from one window to the next.
        rate_hz: Rate of the samples.
    """
    false_alarms, missed, background_s = 0, 0, 0.0
    latencies_s: list[float] = []
    for key, values in smoothed.items():
        stage = Alarm(rule=alarm, hop_s=hop_s, identity=key, rate_hz=rate_hz)
        raised_s = [
            event.at_s
            for at_s, p in values
            for event in stage.add(at_s, p)
            if event.type is EventType.RAISED
        ]
        if rows.label_of(key) != 1:
            false_alarms += len(raised_s)
            background_s += len(rows.recording(key)) / rate_hz
        elif raised_s:
            latencies_s.append(raised_s[0])
        else:
            missed += 1
    return AlarmTrial(
        raise_threshold=alarm.raise_threshold,
        false_alarms=false_alarms,
        missed=missed,
        latency_s=float(np.median(latencies_s)) if latencies_s else None,
        worst_latency_s=max(latencies_s, default=None),
        background_s=background_s,
        n_seizures=len(latencies_s) + missed,
    )


def choose_alarm(trials: Sequence[AlarmTrial]) -> AlarmSpec:
    """Choose the rule with the fewest false alarms, then fewest missed, then the quickest."""
    best = min(
        trials,
        key=lambda t: (t.false_alarms, t.missed, np.inf if t.latency_s is None else t.latency_s),
    )
    return replace(DEFAULT_ALARM, raise_threshold=best.raise_threshold)
