"""Whether a model is as often right as it says: reliability, calibration error, Brier score.

Two questions are asked of each decision, side by side. *Top class*: is the most probable class
the true one as often as its probability says (Guo et al., On calibration of modern neural
networks, ICML 2017)? *Seizure*: is it a seizure as often as p(seizure) says?
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream_classifier.evaluation.intervals import (
    Bounds,
    draw_sums,
    quantile_bounds,
    sum_by_recording,
)

N_BINS: Final = 15
"""Of equal width over 0..1, as in Guo et al.; a bin holds its upper edge, the first one 0 too."""

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class ReliabilityBins:
    """What was said and what was so, bin by bin.

    Attributes:
        edges: Shape ``(n_bins + 1,)``, of the probability said.
        counts: Shape ``(n_bins,)``, decisions in each.
        said: Shape ``(n_bins,)``, their mean probability; NaN in an empty bin.
        so: Shape ``(n_bins,)``, the share of them that was so; NaN in an empty bin.
    """

    edges: F64
    counts: NDArray[np.intp]
    said: F64
    so: F64

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance of the bins, weighted by their counts."""
        total, said, so = self.counts, self.said * self.counts, self.so * self.counts
        return float(_error(total[None], np.nan_to_num(said)[None], np.nan_to_num(so)[None])[0])

    def as_json(self) -> dict[str, Any]:
        """Return the bins as JSON values, None for what an empty bin lacks."""
        return {
            "edges": self.edges.round(6).tolist(),
            "counts": self.counts.tolist(),
            "said": [None if np.isnan(x) else round(x, 6) for x in self.said.tolist()],
            "so": [None if np.isnan(x) else round(x, 6) for x in self.so.tolist()],
        }


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationFigures:
    """How far probabilities are from what they promise; 0 is perfect for all figures.

    Attributes:
        ece: Expected calibration error of the top class, over ``N_BINS`` bins.
        brier: Mean over decisions of the squared error summed over the classes, 0..2 (Brier,
            Monthly Weather Review 78:1, 1950).
        ece_seizure: Expected calibration error of p(seizure).
        brier_seizure: Mean squared error of p(seizure), 0..1.
        bins: Reliability of the top class.
        bins_seizure: Reliability of p(seizure).
        intervals: 95% bounds of the four figures by name, drawn by recording; empty if the
            recordings were not given.
    """

    ece: float
    brier: float
    ece_seizure: float
    brier_seizure: float
    bins: ReliabilityBins
    bins_seizure: ReliabilityBins
    intervals: dict[str, Bounds]

    def as_json(self) -> dict[str, Any]:
        """Return figures, intervals and bins as JSON values."""
        return {
            "ece": self.ece,
            "brier": self.brier,
            "ece_seizure": self.ece_seizure,
            "brier_seizure": self.brier_seizure,
            "intervals": {name: list(bounds) for name, bounds in self.intervals.items()},
            "bins": self.bins.as_json(),
            "bins_seizure": self.bins_seizure.as_json(),
        }


def calibration_metrics(
    probabilities: NDArray[np.floating[Any]],
    truth: NDArray[np.integer[Any]],
    recordings: NDArray[np.str_] | None = None,
    *,
    seed: int = 0,
) -> CalibrationFigures:
    """Compare what was said with what was so.

    Args:
        probabilities: Shape ``(n, 3)``, in the order of ``CLASS_NAMES``.
        truth: Shape ``(n,)``, index into ``CLASS_NAMES``.
        recordings: Shape ``(n,)``, the recording of each decision; for the intervals.
        seed: Of the intervals' draws.

    Raises:
        ValueError: If there is nothing to compare, or the shapes do not fit.

    Example:
        Who says 0.9 and is right half of the time is off by 0.4.

        >>> sure = np.array([[0.9, 0.1, 0.0], [0.9, 0.0, 0.1]])
        >>> round(calibration_metrics(sure, np.array([0, 2])).ece, 3)
        0.4
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2 or not len(p) or truth.shape != (len(p),):
        raise ValueError(f"expected (n, 3) and (n,), n above 0, got {p.shape} and {truth.shape}")
    is_class = np.arange(p.shape[1]) == truth[:, None]  # (n, 3)
    top, seizure = p.max(axis=1), p[:, 0]
    right, is_seizure = p.argmax(axis=1) == truth, is_class[:, 0]
    squared = np.stack([((p - is_class) ** 2).sum(axis=1), (seizure - is_seizure) ** 2], axis=1)
    terms = np.hstack([_terms(top, right), _terms(seizure, is_seizure), squared])
    figures = _figures(terms.sum(axis=0, keepdims=True))
    drawn = (
        {}
        if recordings is None
        else _figures(draw_sums(sum_by_recording(terms, recordings), seed=seed))
    )
    return CalibrationFigures(
        **{name: float(value[0]) for name, value in figures.items()},
        bins=reliability(top, right),
        bins_seizure=reliability(seizure, is_seizure),
        intervals={name: quantile_bounds(values) for name, values in drawn.items()},
    )


def reliability(said: F64, so: NDArray[np.bool_]) -> ReliabilityBins:
    """Sort what was said, shape ``(n,)``, into bins, and count how often it was so."""
    counts, sum_said, sum_so = _terms(said, so).sum(axis=0).reshape(3, N_BINS)
    with np.errstate(invalid="ignore"):
        return ReliabilityBins(
            edges=np.linspace(0, 1, N_BINS + 1),
            counts=counts.astype(np.intp),
            said=sum_said / counts,
            so=sum_so / counts,
        )


def _terms(said: F64, so: NDArray[np.bool_]) -> F64:
    """What each decision adds to each bin's count, probability and truth, ``(n, 3 * N_BINS)``."""
    # A probability that misses an edge by a rounding of float32 belongs on that edge.
    place = np.ceil(np.round(said * N_BINS, 5)).astype(np.intp) - 1
    in_bin = np.eye(N_BINS)[np.clip(place, 0, N_BINS - 1)]
    return np.hstack([in_bin, in_bin * said[:, None], in_bin * so[:, None]])


def _figures(sums: F64) -> dict[str, F64]:
    """Figures of sums of terms, for any number of draws at once: ``(draws, terms)``."""
    top, seizure = sums[:, : 3 * N_BINS], sums[:, 3 * N_BINS : 6 * N_BINS]
    n = top[:, :N_BINS].sum(axis=1)
    return {
        "ece": _error(*np.split(top, 3, axis=1)),
        "brier": sums[:, -2] / n,
        "ece_seizure": _error(*np.split(seizure, 3, axis=1)),
        "brier_seizure": sums[:, -1] / n,
    }


def _error(counts: NDArray[Any], said: F64, so: F64) -> F64:
    """Sum over bins of share times distance, which is the distance of the bins' sums."""
    return np.asarray(np.abs(said - so).sum(axis=1) / counts.sum(axis=1))
