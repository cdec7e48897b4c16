"""The published study's own questions about one model: what is misread, and by which window.

One random window of each held-out row is read, as published. In continuous mode, and behind
filters, the recording before the window counts too (see ``evaluation.heldout``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from stream_classifier.datasets import ROW_SAMPLES
from stream_classifier.errors import ConfigError
from stream_classifier.evaluation.features import band_features
from stream_classifier.evaluation.heldout import data_rate_hz, decide_rows
from stream_classifier.evaluation.windows import WindowReport, split_rows, unseen_rows
from stream_classifier.signals import CLASS_NAMES

if TYPE_CHECKING:
    from stream_classifier.bundle import Bundle, Split
    from stream_classifier.datasets import SeizureRows

F32 = NDArray[np.float32]

LABEL_NAMES: Final = {
    1: "seizure",
    2: "tumour area",
    3: "healthy area",
    4: "eyes closed",
    5: "eyes open",
}
"""What the data set's five labels stand for."""

N_PAIRS: Final = 6
"""Misread rows that are shown."""

REPEATS: Final = 20
_ROW_ID: Final = re.compile(r"X(\d{1,2})\.(.+)", re.ASCII)


def row_id(rows: SeizureRows, number: int) -> str:
    """Id of a row as in the data set's file, like ``X21.V1.791``."""
    return f"X{rows.chunks[number]}.{rows.recordings[number]}"


def find_row(rows: SeizureRows, text: str) -> int:
    """Find a row by its number, from 0 in the order of the file, or by its id.

    Args:
        rows: The data set.
        text: A number such as ``17``, or an id such as ``X21.V1.791``.

    Raises:
        ConfigError: If there is no such row.
    """
    n_rows = len(rows.labels)
    if re.fullmatch(r"\d{1,9}", text, re.ASCII):
        if int(text) < n_rows:
            return int(text)
    elif (match := _ROW_ID.fullmatch(text)) and match[2] in rows.keys:
        of_recording = rows.rows_of(match[2])
        chunk = int(match[1])
        if 1 <= chunk <= len(of_recording):
            return int(of_recording[chunk - 1])
    raise ConfigError(
        f"row {text!r}: expected a number from 0 to {n_rows - 1:,}, or an id of the table, found "
        f"neither. Try: 0, or {row_id(rows, 0)}"
    )


def side_of(split: Split, rows: SeizureRows, number: int) -> str:
    """Say on which side of a split a row is: train, validation, test; or unknown.

    Unknown where the split is of another table, or names what this one lacks.
    """
    if split.data_digest != rows.digest:
        return "unknown"
    sides = {"train": split.train, "validation": split.validation, "test": split.test}
    for name, members in sides.items():
        try:
            if number in split_rows(rows, members):
                return name
        except LookupError:
            return "unknown"
    return "unknown"


@dataclass(frozen=True, slots=True, eq=False)
class Readings:
    """Windows that a model has read.

    Attributes:
        rows: Shape ``(n,)``, number of the row that each lies in.
        starts: Shape ``(n,)``, its first sample within the row, in samples of the data set.
        n_samples: Samples of the data set in a window.
        truth: Shape ``(n,)``, index into ``CLASS_NAMES``.
        probabilities: Shape ``(n, 3)``.
    """

    rows: NDArray[np.intp]
    starts: NDArray[np.intp]
    n_samples: int
    truth: NDArray[np.intp]
    probabilities: F32

    @property
    def decided(self) -> NDArray[np.intp]:
        """The most probable class of each, shape ``(n,)``."""
        return np.asarray(self.probabilities.argmax(axis=1))

    @property
    def counts(self) -> dict[str, int]:
        """How often each class was decided."""
        decided = np.bincount(self.decided, minlength=len(CLASS_NAMES))
        return dict(zip(CLASS_NAMES, decided.tolist(), strict=True))


def read_rows(
    bundle: Bundle, rows: SeizureRows, numbers: NDArray[np.intp], *, seeds: Sequence[int]
) -> Readings:
    """Read random windows of rows: one of each row for each seed, seed after seed.

    Args:
        bundle: The model.
        rows: The data set.
        numbers: Numbers of the rows, shape ``(n,)``.
        seeds: Each picks one window of each row.
    """
    ends, probabilities = decide_rows(bundle, rows, numbers, seeds=seeds)
    # From the bundle's rate and the recording's start to the data set's samples in the row.
    ratio = data_rate_hz(bundle) / bundle.rate_hz
    row_starts = (rows.chunks[numbers].astype(np.intp) - 1) * ROW_SAMPLES
    starts = (ends + 1 - bundle.window_samples) * ratio - row_starts
    n_samples = round(bundle.window_samples * ratio)
    return Readings(
        rows=np.tile(numbers, len(seeds)),
        starts=np.clip(np.rint(starts), 0, ROW_SAMPLES - n_samples).astype(np.intp).ravel(),
        n_samples=n_samples,
        truth=np.tile(rows.classes[numbers].astype(np.intp), len(seeds)),
        probabilities=probabilities.reshape(-1, len(CLASS_NAMES)),
    )


def repeat_row(
    bundle: Bundle, rows: SeizureRows, number: int, *, repeats: int = REPEATS, seed: int = 0
) -> Readings:
    """Read random windows of one row, drawn with replacement.

    Args:
        bundle: The model.
        rows: The data set.
        number: Of the row.
        repeats: How many windows, at least 1.
        seed: Of the first; each further one has the next.
    """
    return read_rows(bundle, rows, np.array([number]), seeds=range(seed, seed + repeats))


@dataclass(frozen=True, slots=True)
class ClassLine:
    """One line of a classification report.

    Attributes:
        name: Of the class.
        precision: Share of the windows decided so that were; 0 if none was decided so.
        recall: Share of the class's windows that were decided so.
        f1: Their harmonic mean.
        n_windows: Of the class.
    """

    name: str
    precision: float
    recall: float
    f1: float
    n_windows: int


def classification_report(confusion: NDArray[np.intp]) -> tuple[ClassLine, ...]:
    """A line a class, then their plain mean and their mean weighted by number of windows.

    Args:
        confusion: Counts, shape ``(3, 3)``: rows are the truth, columns what was decided.

    Example:
        >>> lines = classification_report(np.array([[8, 0, 2], [0, 5, 5], [0, 1, 29]]))
        >>> [(line.name, round(line.recall, 2)) for line in lines[:3]]
        [('seizure', 0.8), ('tumour', 0.5), ('normal', 0.97)]
        >>> [(line.name, round(line.recall, 2)) for line in lines[3:]]
        [('macro mean', 0.76), ('weighted mean', 0.84)]
    """
    right, n = np.diagonal(confusion), confusion.sum(axis=1)
    decided = confusion.sum(axis=0)
    figures = np.stack(
        [
            right / np.maximum(decided, 1),
            right / np.maximum(n, 1),
            2 * right / np.maximum(n + decided, 1),
        ],
        axis=1,
    )  # (3 classes, 3 figures)
    named = [
        *zip(CLASS_NAMES, figures, n.tolist(), strict=True),
        ("macro mean", figures.mean(axis=0), int(n.sum())),
        ("weighted mean", np.average(figures, axis=0, weights=n), int(n.sum())),
    ]
    return tuple(
        ClassLine(name, float(precision), float(recall), float(f1), n_windows)
        for name, (precision, recall, f1), n_windows in named
    )


@dataclass(frozen=True, slots=True)
class Pair:
    """A misread window, and the nearest window of the predicted class that was read correctly.

    Attributes:
        misread: Its place among the readings.
        neighbour: Likewise.
        distance: Between them; see ``pair_misread``.
    """

    misread: int
    neighbour: int
    distance: float


def pair_misread(
    rows: SeizureRows, readings: Readings, *, rate_hz: float, n_pairs: int = N_PAIRS
) -> tuple[Pair, ...]:
    """Pair the surest mistakes with what they were taken for.

    Near means alike to the eye: Euclidean distance over band powers and line length in dB, each
    divided by its deviation over all readings. Phase does not count, as it would in a correlation
    of waveforms, where two bursts of one rhythm are unlike when they are out of step. Nor is it
    the network's own hidden space, where a misread window lies among its predicted class by
    construction.

    Args:
        rows: The data set.
        readings: One window a row.
        rate_hz: Of the data set's samples.
        n_pairs: How many; one a recording, and each kind of mistake in turn.
    """
    cut = readings.starts[:, None] + np.arange(readings.n_samples)
    windows_uv = rows.values[readings.rows[:, None], cut].astype(np.float32)
    features = band_features(windows_uv, rate_hz=rate_hz)
    features /= np.maximum(features.std(axis=0), 1e-6)
    decided = readings.decided
    pairs = []
    for misread in _surest_mistakes(rows, readings)[:n_pairs]:
        alike = np.flatnonzero((decided == decided[misread]) & (readings.truth == decided))
        if len(alike):
            distances = np.linalg.norm(features[alike] - features[misread], axis=1)
            nearest = int(distances.argmin())
            pairs.append(Pair(misread, int(alike[nearest]), float(distances[nearest])))
    return tuple(pairs)


def _surest_mistakes(rows: SeizureRows, readings: Readings) -> list[int]:
    """Places of misread windows, surest first, one a recording, kinds of mistake in turn."""
    decided = readings.decided
    wrong = np.flatnonzero(decided != readings.truth)
    surest = wrong[np.argsort(-readings.probabilities.max(axis=1)[wrong], kind="stable")]
    seen: set[str] = set()
    kinds: dict[tuple[int, int], list[int]] = {}
    for place in surest.tolist():
        recording = str(rows.recordings[readings.rows[place]])
        if recording not in seen:
            seen.add(recording)
            kind = (int(readings.truth[place]), int(decided[place]))
            kinds.setdefault(kind, []).append(place)
    in_turn: list[int] = []
    while any(kinds.values()):
        in_turn += [places.pop(0) for _, places in sorted(kinds.items()) if places]
    return in_turn


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """All that the study shows of one model.

    Attributes:
        title: Model and data, for headings.
        protocol: How the data was split.
        readings: One window of each held-out row.
        report: The same, as figures.
        history: Of each training pass ``number``, ``loss``, ``accuracy``, ``macro_f1``; empty
            if the bundle does not say.
        best_epoch: The pass that was kept, or None.
        pairs: Misread windows beside their neighbours.
        repeated: Many windows of that of the misread rows whose windows agree least; None if
            none was misread.
    """

    title: str
    protocol: str
    readings: Readings
    report: WindowReport
    history: tuple[dict[str, Any], ...]
    best_epoch: int | None
    pairs: tuple[Pair, ...]
    repeated: Readings | None


def make_study(bundle: Bundle, rows: SeizureRows, *, seed: int = 0) -> Study:
    """Read one window of each row that the bundle has not seen, and gather what is shown of it.

    Args:
        bundle: The model.
        rows: The data set.
        seed: Picks the window of each row.

    Raises:
        UnseenDataError: If it is not certain that the rows are unseen.
    """
    numbers = unseen_rows(bundle.split, rows, protocol=bundle.split.protocol)
    readings = read_rows(bundle, rows, numbers, seeds=(seed,))
    pairs = pair_misread(rows, readings, rate_hz=data_rate_hz(bundle))
    repeated = [
        repeat_row(bundle, rows, int(readings.rows[pair.misread]), seed=seed) for pair in pairs
    ]
    best = bundle.provenance.get("best_epoch")
    return Study(
        title=f"{bundle.name} {bundle.version}, held-out {bundle.split.protocol}, seed {seed}",
        protocol=bundle.split.protocol,
        readings=readings,
        report=WindowReport(
            truth=readings.truth,
            decided=readings.decided,
            recordings=rows.recordings[numbers],
            seed=seed,
        ),
        history=tuple(bundle.provenance.get("history", ())),
        best_epoch=best if isinstance(best, int) else None,
        pairs=pairs,
        repeated=min(repeated, key=lambda r: max(r.counts.values()), default=None),
    )
