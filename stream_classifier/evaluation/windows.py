"""How well single windows are classified, on data that the model has not seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from stream_classifier.errors import UnseenDataError
from stream_classifier.evaluation.intervals import draw_sums, quantile_bounds, sum_by_recording
from stream_classifier.signals import CLASS_NAMES

if TYPE_CHECKING:
    from stream_classifier.bundle import Split
    from stream_classifier.datasets import SeizureRows

Classify = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Windows of shape ``(n, window_samples)``, µV, to probabilities of shape ``(n, 3)``."""


@dataclass(frozen=True, slots=True)
class Figures:
    """How often decisions were right.

    Attributes:
        accuracy: Share of all windows.
        macro_f1: Mean of the classes' F1.
        recall: By class name, share of its windows that were recognised.
        f1: By class name, harmonic mean of recall and precision.
    """

    accuracy: float
    macro_f1: float
    recall: dict[str, float]
    f1: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class WindowReport:
    """What became of one window of each held-out row.

    Attributes:
        truth: Shape ``(n_windows,)``, index into ``CLASS_NAMES``.
        decided: Shape ``(n_windows,)``, the most probable class.
        recordings: Shape ``(n_windows,)``, key of the recording each was cut from.
        seed: Which picked the windows.
    """

    truth: NDArray[np.intp]
    decided: NDArray[np.intp]
    recordings: NDArray[np.str_]
    seed: int

    @property
    def confusion(self) -> NDArray[np.intp]:
        """Counts, shape ``(3, 3)``: rows are the truth, columns what was decided."""
        return count(self.truth, self.decided)

    @property
    def figures(self) -> Figures:
        """Accuracy, macro F1, recall and F1."""
        return summarise(self.confusion)

    def as_json(self) -> dict[str, Any]:
        """Return the report's figures as JSON values."""
        return {
            "n_windows": len(self.truth),
            **asdict(self.figures),
            "confusion": self.confusion.tolist(),
            "seed": self.seed,
        }

    def intervals(self, *, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """Bootstrap intervals of all figures.

        Recordings are drawn with replacement, not windows; see ``evaluation.intervals``.

        Args:
            level: Share of the draws within an interval.

        Returns:
            Low and high end by name: ``accuracy``, ``macro_f1``, ``recall.<class>``,
            ``f1.<class>``.
        """
        n = len(CLASS_NAMES)
        cells = np.eye(n * n)[self.truth * n + self.decided]  # (n_windows, n * n)
        counts = sum_by_recording(cells, self.recordings)
        drawn = draw_sums(counts, seed=self.seed).reshape(-1, n, n)
        right = np.diagonal(drawn, axis1=1, axis2=2)  # (draws, classes)
        with np.errstate(invalid="ignore"):  # a draw may lack a class: NaN, left out below
            recall = right / drawn.sum(axis=2)
            f1 = 2 * right / (drawn.sum(axis=2) + drawn.sum(axis=1))
        figures = {
            "accuracy": right.sum(axis=1) / drawn.sum(axis=(1, 2)),
            "macro_f1": f1.mean(axis=1),
        }
        for c, name in enumerate(CLASS_NAMES):
            figures[f"recall.{name}"] = recall[:, c]
            figures[f"f1.{name}"] = f1[:, c]
        return {name: quantile_bounds(of, level=level) for name, of in figures.items()}


def summarise(confusion: NDArray[np.intp]) -> Figures:
    """Figures of counts with the truth in rows.

    A class that neither occurs nor is decided has a recall and F1 of 0.
    """
    right = np.diagonal(confusion)
    true, decided = confusion.sum(axis=1), confusion.sum(axis=0)
    recall = right / np.maximum(true, 1)
    f1 = 2 * right / np.maximum(true + decided, 1)
    return Figures(
        accuracy=float(right.sum() / confusion.sum()),
        macro_f1=float(f1.mean()),
        recall=dict(zip(CLASS_NAMES, recall.tolist(), strict=True)),
        f1=dict(zip(CLASS_NAMES, f1.tolist(), strict=True)),
    )


def count(truth: NDArray[np.intp], decided: NDArray[np.intp]) -> NDArray[np.intp]:
    """Count decisions, shape ``(3, 3)``: rows are the truth, columns what was decided."""
    n = len(CLASS_NAMES)
    return np.bincount(truth * n + decided, minlength=n * n).reshape(n, n)


def draw_windows(
    rows: SeizureRows, numbers: NDArray[np.intp], *, window_samples: int, seed: int
) -> NDArray[np.float32]:
    """One random window of each row.

    Args:
        rows: The data set.
        numbers: Numbers of the rows, shape ``(n,)``.
        window_samples: Length of a window, at most a row.
        seed: Which picks the windows.

    Returns:
        Shape ``(n, window_samples)``, µV.
    """
    windows = sliding_window_view(rows.values[numbers], window_samples, axis=1)
    starts = np.random.default_rng(seed).integers(windows.shape[1], size=len(numbers))
    return windows[np.arange(len(numbers)), starts].astype(np.float32)


def score(
    classify: Classify,
    rows: SeizureRows,
    numbers: NDArray[np.intp],
    *,
    window_samples: int,
    seed: int,
) -> WindowReport:
    """Classify one random window of each of the given rows.

    Args:
        classify: The model.
        rows: The data set.
        numbers: Numbers of the rows, shape ``(n,)``.
        window_samples: Length of a window.
        seed: Which picks the windows.
    """
    windows = draw_windows(rows, numbers, window_samples=window_samples, seed=seed)
    return WindowReport(
        truth=rows.classes[numbers].astype(np.intp),
        decided=classify(windows).argmax(axis=1),
        recordings=rows.recordings[numbers],
        seed=seed,
    )


def unseen_rows(split: Split, rows: SeizureRows, *, protocol: str) -> NDArray[np.intp]:
    """Numbers of the rows on the test side, once it is certain that they are unseen.

    Args:
        split: What the model was trained on.
        rows: The data set at hand.
        protocol: The protocol asked for.

    Raises:
        UnseenDataError: If the model was trained under another protocol or on another table,
            or the split does not fit the table.
    """
    if split.protocol != protocol:
        raise UnseenDataError(
            f"the bundle was trained under the protocol {split.protocol!r}: under {protocol!r} it "
            f"would be scored on what it has seen. Try: --protocol {split.protocol}, or train a "
            f"bundle with stream-classifier train --protocol {protocol}"
        )
    if split.data_digest != rows.digest:
        raise UnseenDataError(
            f"the bundle was trained on the table with SHA-256 {split.data_digest}, the one at "
            f"hand has {rows.digest}: what the model has seen of it is unknown. Try: --data with "
            "the same table"
        )
    try:
        sides = [
            set(split_rows(rows, side).tolist())
            for side in (split.test, split.train, split.validation)
        ]
    except LookupError as error:
        raise UnseenDataError(
            f"the bundle's split names {error}, which is not in the table. "
            "Try: train the bundle again"
        ) from error
    test, seen = sides[0], sides[1] | sides[2]
    if not test or test & seen:
        raise UnseenDataError(
            f"of the bundle's {len(test):,} test rows {len(test & seen):,} were seen in training. "
            "Try: train the bundle again"
        )
    return np.array(sorted(test), dtype=np.intp)


def split_rows(rows: SeizureRows, members: tuple[int, ...] | tuple[str, ...]) -> NDArray[np.intp]:
    """Row numbers, in order, of one side of a split, whichever its protocol.

    Raises:
        LookupError: If there is no such row or recording.
    """
    n_rows = len(rows.labels)
    numbers: list[int] = []
    for member in members:
        if isinstance(member, str):
            numbers += rows.rows_of(member).tolist()
        elif 0 <= member < n_rows:
            numbers.append(member)
        else:
            raise LookupError(member)
    return np.array(sorted(numbers), dtype=np.intp)
