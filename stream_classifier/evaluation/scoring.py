"""All figures of a model on what it has not seen, and of the folds of a cross-validation.

Nothing is chosen here: thresholds, temperature and alarm rule come with the bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from stream_classifier.datasets import ROW_SAMPLES
from stream_classifier.engines.reference import classify_windows
from stream_classifier.errors import BundleInvalidError, MissingExtraError
from stream_classifier.evaluation.calibration import CalibrationFigures, calibration_metrics
from stream_classifier.evaluation.events import STRICT, SZCORE, score_timelines
from stream_classifier.evaluation.heldout import (
    Decided,
    Smoothed,
    data_rate_hz,
    held_out_probabilities,
    score_rows,
    smoothed_figures,
)
from stream_classifier.evaluation.timelines import Played, StreamingScore, play, pool, splice
from stream_classifier.evaluation.windows import (
    Figures,
    WindowReport,
    count,
    summarise,
    unseen_rows,
)
from stream_classifier.signals import CLASS_NAMES

if TYPE_CHECKING:
    from stream_classifier.bundle import Bundle
    from stream_classifier.datasets import SeizureRows

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """One model on its held-out side, or several on sides that do not overlap.

    Attributes:
        report: One random window of each row.
        probabilities: Shape ``(n_rows, 3)``, what it was decided by.
        row_means: Shape ``(n_rows, 3)``: the mean over all windows of each row.
        decided: By recording, what every window said; empty if single rows were held out.
        classes: By recording, index into ``CLASS_NAMES``.
        hop_s: Seconds from one window to the next.
        played: Spliced timelines through the detector; none if single rows were held out.
    """

    report: WindowReport
    probabilities: F32
    row_means: F32
    decided: dict[str, Decided]
    classes: dict[str, int]
    hop_s: float
    played: tuple[Played, ...]

    @property
    def averaged(self) -> Figures:
        """Figures when all windows of a row are averaged."""
        return summarise(count(self.report.truth, self.row_means.argmax(axis=1)))

    @property
    def smoothed(self) -> tuple[Smoothed, ...]:
        """Figures of decisions averaged over time, on whole recordings."""
        if not self.decided:
            return ()
        probabilities = {key: p for key, (_, p) in self.decided.items()}
        return smoothed_figures(probabilities, self.classes, hop_s=self.hop_s)

    @property
    def calibration(self) -> CalibrationFigures:
        """Of single decisions: of whole recordings if they were held out, else of the rows."""
        if not self.decided:
            return calibration_metrics(
                self.probabilities, self.report.truth, self.report.recordings
            )
        lengths = [len(p) for _, p in self.decided.values()]
        return calibration_metrics(
            np.concatenate([p for _, p in self.decided.values()]),
            np.repeat([self.classes[key] for key in self.decided], lengths),
            np.repeat(list(self.decided), lengths),
        )

    @property
    def streaming(self) -> StreamingScore | None:
        """What the alarm did on the timelines; None if there is none."""
        return pool(self.played) if self.played else None

    def as_json(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        calibration = self.calibration.as_json()
        out: dict[str, Any] = {
            **self.report.as_json(),
            "interval": {name: list(ends) for name, ends in self.report.intervals().items()},
            "averaged": asdict(self.averaged),
            "calibration": {
                name: calibration[name]
                for name in ("ece", "brier", "ece_seizure", "brier_seizure", "intervals")
            },
        }
        if self.decided:
            out["smoothed"] = {f"{s.smoothing_s:g}": s.as_json() for s in self.smoothed}
        if self.streaming is not None:
            out["streaming"] = self.streaming.as_json()
            out["events"] = self._events()
        return out

    def _events(self) -> dict[str, Any]:
        try:
            return {
                name: score_timelines(self.played, rules=rules).as_json()
                for name, rules in (("szcore", SZCORE), ("strict", STRICT))
            }
        except MissingExtraError as error:  # all other figures are there without it
            return {"not_scored": str(error)}

    @property
    def headline(self) -> dict[str, float]:
        """The figures that a card and a log line show."""
        return {
            "accuracy": self.report.figures.accuracy,
            "macro_f1": self.report.figures.macro_f1,
            **{f"recall.{name}": self.report.figures.recall[name] for name in CLASS_NAMES},
        }


def score_bundle(
    bundle: Bundle,
    rows: SeizureRows,
    numbers: NDArray[np.intp],
    *,
    seed: int,
    with_timeline: bool = True,
    on_played_s: Callable[[float], None] = lambda _: None,
) -> Scored:
    """Score a model on held-out rows: windows, rows, recordings and timelines.

    Args:
        bundle: The model.
        rows: The data set.
        numbers: Numbers of rows that the model has not seen. If its protocol is ``recordings``
            they must be those of whole recordings.
        seed: Picks the windows, and the order of the timeline.
        with_timeline: Whether to play one; only recordings make one.
        on_played_s: Called with the seconds of timeline played since the last call.
    """
    report, probabilities = score_rows(bundle, rows, numbers, seed=seed)
    whole = bundle.split.protocol == "recordings"
    keys = np.unique(rows.recordings[numbers]).tolist()
    decided = held_out_probabilities(bundle, rows, keys) if whole else {}
    played: tuple[Played, ...] = ()
    if whole and with_timeline:
        timeline = splice(rows, keys, seed=seed, rate_hz=data_rate_hz(bundle))
        played = (play(bundle, timeline, on_played_s=on_played_s),)
    return Scored(
        report=report,
        probabilities=probabilities,
        row_means=(
            _row_means(bundle, rows, numbers, decided)
            if decided
            else _means_of_single_rows(bundle, rows, numbers)
        ),
        decided=decided,
        classes={key: rows.class_of(key) for key in keys},
        hop_s=bundle.hop_samples / bundle.rate_hz,
        played=played,
    )


def pool_scored(parts: Sequence[Scored]) -> Scored:
    """Put models on sides that do not overlap together, such as the folds of a cross-validation."""
    return Scored(
        report=WindowReport(
            truth=np.concatenate([part.report.truth for part in parts]),
            decided=np.concatenate([part.report.decided for part in parts]),
            recordings=np.concatenate([part.report.recordings for part in parts]),
            seed=parts[0].report.seed,
        ),
        probabilities=np.concatenate([part.probabilities for part in parts]),
        row_means=np.concatenate([part.row_means for part in parts]),
        decided={key: value for part in parts for key, value in part.decided.items()},
        classes={key: value for part in parts for key, value in part.classes.items()},
        hop_s=parts[0].hop_s,
        played=tuple(one for part in parts for one in part.played),
    )


CARD_SLACK: Final = 0.002
"""How far a figure may lie below its card's: another processor rounds otherwise, and so may decide
a few of 2,500 windows otherwise."""


def compare_with_card(bundle: Bundle, rows: SeizureRows) -> dict[str, tuple[float, float]]:
    """Score a model anew on its test side, and hold it to what its card promises.

    Args:
        bundle: The model, with the figures of its making.
        rows: The data set.

    Returns:
        By figure: what the card says, and what was found.

    Raises:
        BundleInvalidError: If a figure falls short of the card's by more than ``CARD_SLACK``, a
            seizure that was detected is missed, or there are more false alarms.
        UnseenDataError: If the data at hand is not what the model was made with.
    """
    promised = bundle.metrics
    numbers = unseen_rows(bundle.split, rows, protocol=bundle.split.protocol)
    scored = score_bundle(bundle, rows, numbers, seed=int(promised["seed"]))
    found = scored.as_json()
    figures = {
        name: (float(promised[name]), float(found[name])) for name in ("accuracy", "macro_f1")
    }
    for name in CLASS_NAMES:
        figures[f"recall.{name}"] = (promised["recall"][name], found["recall"][name])
    # The better the larger, for all: so a calibration error counts downwards.
    figures["1 - ece"] = (1 - promised["calibration"]["ece"], 1 - found["calibration"]["ece"])
    for name, line in promised.get("smoothed", {}).items():
        figures[f"accuracy, {name} s"] = (line["accuracy"], found["smoothed"][name]["accuracy"])
    if "streaming" in promised:
        on_card, now = promised["streaming"], found["streaming"]
        figures["seizures detected"] = (on_card["n_detected"], now["n_detected"])
        figures["- false alarms"] = (-on_card["false_alarms"], -now["false_alarms"])
    short = [
        f"{name} {reached:.4f} instead of {on_card:.4f}"
        for name, (on_card, reached) in figures.items()
        if reached < on_card - CARD_SLACK
    ]
    if short:
        raise BundleInvalidError(
            path=str(bundle.path),
            expected="the figures of its card",
            found="; ".join(short),
            fix="train it again, or install the package again",
        )
    return figures


def _row_means(
    bundle: Bundle, rows: SeizureRows, numbers: NDArray[np.intp], decided: dict[str, Decided]
) -> F32:
    """Mean over the windows that end in each row with at least half of them in it."""
    per_row = ROW_SAMPLES / data_rate_hz(bundle) * bundle.rate_hz
    half = bundle.window_samples // 2
    means = []
    for number in numbers.tolist():
        ends, probabilities = decided[str(rows.recordings[number])]
        first = (rows.chunks[number] - 1) * per_row
        inside = (ends >= first + half) & (ends < first + per_row)
        means.append(probabilities[inside].mean(axis=0))
    return np.array(means, np.float32)


def _means_of_single_rows(bundle: Bundle, rows: SeizureRows, numbers: NDArray[np.intp]) -> F32:
    """Mean over the windows that lie wholly within each row, one every hop."""
    values = rows.values[numbers].astype(np.float32)
    windows = sliding_window_view(values, bundle.window_samples, axis=1)[:, :: bundle.hop_samples]
    n_rows, n_windows, n_samples = windows.shape
    probabilities = classify_windows(bundle, windows.reshape(-1, n_samples))
    return np.asarray(probabilities.reshape(n_rows, n_windows, -1).mean(axis=1))
