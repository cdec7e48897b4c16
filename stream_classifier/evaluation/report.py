"""Everything there is to say of how good a bundle is, gathered for one report.

Scored is what the bundle has not seen: the test side of its own split, after every choice was
made elsewhere. Shuffled rows make no timeline, so a bundle of that protocol has none of the parts
that need one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from stream_classifier.evaluation.calibration import CalibrationFigures, calibration_metrics
from stream_classifier.evaluation.curves import Curve, curve
from stream_classifier.evaluation.events import STRICT, SZCORE, EventScore, score_timelines
from stream_classifier.evaluation.heldout import (
    Smoothed,
    data_rate_hz,
    decide_rows,
    held_out_probabilities,
    row_means,
    smooth,
    smoothed_figures,
)
from stream_classifier.evaluation.robustness import CONDITIONS, RobustnessLine, robustness
from stream_classifier.evaluation.timelines import (
    Played,
    StreamingScore,
    play,
    pool,
    splice,
    sweep,
)
from stream_classifier.evaluation.windows import WindowReport, unseen_rows
from stream_classifier.signals import CLASS_NAMES

if TYPE_CHECKING:
    from stream_classifier.bundle import Bundle
    from stream_classifier.datasets import SeizureRows

THRESHOLDS: Final = (
    *(round(0.05 * n, 2) for n in range(1, 19)), 0.93, 0.95, 0.97, 0.98, 0.99, 0.995,
)  # fmt: skip
"""Raise thresholds that are tried beside the bundle's own."""

N_MISTAKES: Final = 3
"""Shown of each kind: seizures missed, background taken for one, tumour and normal confused."""

_N_CONDITIONS: Final = len(CONDITIONS)

OnStep = Callable[[str, float, float], None]
"""Told what is being done, how much of it has been added, and how much there is in all."""


@dataclass(frozen=True, slots=True, eq=False)
class Mistake:
    """A window that was misread, with the signal around it.

    Attributes:
        recording: Key of its recording.
        row: Number of its row.
        truth: Index into ``CLASS_NAMES``.
        decided: Index into ``CLASS_NAMES``.
        probability: Of what was decided.
        at_s: Shape ``(n,)``, times from the start of the recording.
        signal_uv: Shape ``(n,)``, as recorded: before resampling, filters and scaler.
        window_s: From when to when the window lasts.
    """

    recording: str
    row: int
    truth: int
    decided: int
    probability: float
    at_s: NDArray[np.float64]
    signal_uv: NDArray[np.float32]
    window_s: tuple[float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Streaming:
    """What only whole recordings can show.

    Attributes:
        played: The held-out recordings as one timeline, through the detector.
        score: Of its alarms.
        by_threshold: The same under other raise thresholds, lowest first.
        events: Of its alarms, by the rules of SzCORE.
        events_strict: Without their tolerances.
        smoothed: Decisions averaged over some seconds, each recording by itself.
        seizure_smoothed: Seizure against the rest, by p(seizure) averaged as the alarm does.
    """

    played: Played
    score: StreamingScore
    by_threshold: dict[float, StreamingScore]
    events: EventScore
    events_strict: EventScore
    smoothed: tuple[Smoothed, ...]
    seizure_smoothed: Curve


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """What was measured.

    Attributes:
        bundle: Of which model.
        seed: Of windows, order of the timeline, noise.
        windows: One random window of each row.
        means: The same rows, by the mean of eight windows.
        curves: By class, one window, that class against the rest.
        calibration: Of these windows.
        robustness: The same windows under one condition after the other.
        mistakes: The surest wrong ones of each kind, one of a recording at most.
        streaming: None for a bundle of the protocol ``rows``.
    """

    bundle: Bundle
    seed: int
    windows: WindowReport
    means: WindowReport
    curves: dict[str, Curve]
    calibration: CalibrationFigures
    robustness: tuple[RobustnessLine, ...]
    mistakes: tuple[Mistake, ...]
    streaming: Streaming | None


def measure(
    bundle: Bundle, rows: SeizureRows, *, seed: int, on_step: OnStep = lambda *_: None
) -> Report:
    """Measure everything; a minute or so on one core.

    Raises:
        UnseenDataError: If what the bundle has seen of the data at hand is not certain.
        MissingExtraError: If ``timescoring`` is not installed.
    """
    numbers = unseen_rows(bundle.split, rows, protocol=bundle.split.protocol)
    truth, keys = rows.classes[numbers].astype(np.intp), rows.recordings[numbers]
    on_step("windows", 0, 2)
    ends, decided = decide_rows(bundle, rows, numbers, seeds=(seed,))
    probabilities = decided[0]
    on_step("windows", 1, 2)
    means = row_means(bundle, rows, numbers, seed=seed)
    on_step("windows", 1, 2)
    on_step("conditions", 0, _N_CONDITIONS)
    lines = robustness(
        bundle,
        rows,
        numbers,
        seed=seed,
        on_done=lambda n: on_step("conditions", n, _N_CONDITIONS),
    )
    return Report(
        bundle=bundle,
        seed=seed,
        windows=WindowReport(truth, probabilities.argmax(axis=1), keys, seed),
        means=WindowReport(truth, means.argmax(axis=1), keys, seed),
        curves={name: curve(probabilities[:, c], truth == c) for c, name in enumerate(CLASS_NAMES)},
        calibration=calibration_metrics(probabilities, truth, keys, seed=seed),
        robustness=lines,
        mistakes=_worst(bundle, rows, numbers, ends[0], probabilities),
        streaming=None
        if bundle.split.protocol == "rows"
        else _stream(bundle, rows, seed=seed, on_step=on_step),
    )


def _stream(bundle: Bundle, rows: SeizureRows, *, seed: int, on_step: OnStep) -> Streaming:
    keys = tuple(str(key) for key in bundle.split.test)
    classes = {key: rows.class_of(key) for key in keys}
    on_step("recordings", 0, len(keys))
    by_key = {
        key: probabilities
        for key, (_, probabilities) in held_out_probabilities(
            bundle, rows, keys, on_done=lambda n: on_step("recordings", n, len(keys))
        ).items()
    }
    timeline = splice(rows, keys, seed=seed, rate_hz=data_rate_hz(bundle))
    on_step("seconds of timeline", 0, timeline.duration_s)
    played = play(
        bundle,
        timeline,
        on_played_s=lambda s: on_step("seconds of timeline", s, timeline.duration_s),
    )
    n_windows = max(1, round(bundle.alarm.smoothing_s / played.hop_s))
    smoothed = {key: smooth(p, n_windows=n_windows)[:, 0] for key, p in by_key.items()}
    rule = played.rule
    return Streaming(
        played=played,
        score=pool([played]),
        by_threshold=sweep([played], sorted({*THRESHOLDS, rule.raise_threshold})),
        events=score_timelines([played], rules=SZCORE),
        events_strict=score_timelines([played], rules=STRICT),
        smoothed=smoothed_figures(by_key, classes, hop_s=played.hop_s),
        seizure_smoothed=curve(
            np.concatenate(list(smoothed.values())),
            np.concatenate([np.full(len(p), classes[key] == 0) for key, p in smoothed.items()]),
        ),
    )


def _worst(
    bundle: Bundle,
    rows: SeizureRows,
    numbers: NDArray[np.intp],
    ends: NDArray[np.intp],
    probabilities: NDArray[np.float32],
) -> tuple[Mistake, ...]:
    """Of each kind the mistakes that the model was surest of, one of a recording at most."""
    truth, decided = rows.classes[numbers], probabilities.argmax(axis=1)
    surest = np.argsort(-probabilities.max(axis=1), kind="stable")
    wrong = surest[truth[surest] != decided[surest]]
    missed, called = truth[wrong] == 0, decided[wrong] == 0
    found: list[Mistake] = []
    for kind in (missed, called, ~missed & ~called):
        by_recording: dict[str, int] = {}
        for place in wrong[kind].tolist():
            by_recording.setdefault(str(rows.recordings[numbers[place]]), place)
        for key, place in list(by_recording.items())[:N_MISTAKES]:
            signal = _around(bundle, rows.recording(key), int(ends[place]))
            found.append(
                Mistake(
                    recording=key,
                    row=int(numbers[place]),
                    truth=int(truth[place]),
                    decided=int(decided[place]),
                    probability=float(probabilities[place].max()),
                    at_s=signal[0],
                    signal_uv=signal[1],
                    window_s=signal[2],
                )
            )
    return tuple(found)


def _around(
    bundle: Bundle, recording: NDArray[np.float32], end: int
) -> tuple[NDArray[np.float64], NDArray[np.float32], tuple[float, float]]:
    """Times and samples from half a second before a window to half a second after, and its own."""
    rate_hz = data_rate_hz(bundle)
    end_s = (end + 1) / bundle.rate_hz
    start_s = end_s - bundle.window_samples / bundle.rate_hz
    first = max(0, round((start_s - 0.5) * rate_hz))
    shown = recording[first : round((end_s + 0.5) * rate_hz)]
    return (first + np.arange(len(shown))) / rate_hz, shown, (start_s, end_s)
