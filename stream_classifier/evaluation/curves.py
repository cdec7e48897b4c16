"""Receiver operating characteristic and precision over recall, of one class against the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """What each threshold gives, from the highest to the lowest; equal scores fall together.

    Attributes:
        thresholds: Shape ``(n,)``: a score from here on is called positive.
        recall: Shape ``(n,)``, share of the positives called so.
        false_positive_rate: Shape ``(n,)``, share of the negatives called so.
        precision: Shape ``(n,)``, share of those called so that are.
    """

    thresholds: F64
    recall: F64
    false_positive_rate: F64
    precision: F64

    @property
    def area(self) -> float:
        """Area under recall over false positive rate, trapezoids, from the corner (0, 0)."""
        x = np.concatenate([[0.0], self.false_positive_rate])
        y = np.concatenate([[0.0], self.recall])
        return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum())

    @property
    def average_precision(self) -> float:
        """Precision weighted by the recall that each threshold adds, without interpolation."""
        return float((np.diff(self.recall, prepend=0.0) * self.precision).sum())

    def at(self, threshold: float) -> tuple[float, float, float] | None:
        """Recall, false positive rate and precision at a threshold; None if nothing reaches it."""
        n = int((self.thresholds >= threshold).sum())
        if not n:
            return None
        place = n - 1
        return (
            float(self.recall[place]),
            float(self.false_positive_rate[place]),
            float(self.precision[place]),
        )


def curve(score: NDArray[np.floating[Any]], positive: NDArray[np.bool_]) -> Curve:
    """Work out the curve.

    Args:
        score: Shape ``(n,)``, higher is more likely positive.
        positive: Shape ``(n,)``, with both kinds in it.

    Raises:
        ValueError: If there is only one kind.

    Example:
        >>> made = curve(np.array([0.9, 0.6, 0.5, 0.1]), np.array([True, False, True, False]))
        >>> made.area, round(made.average_precision, 3)
        (0.75, 0.833)
    """
    n_positive, n = int(positive.sum()), len(positive)
    if not 0 < n_positive < n:
        raise ValueError(f"expected positives and negatives, found {n_positive} of {n} positive")
    order = np.argsort(-score, kind="stable")
    right = np.cumsum(positive[order])
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, [True]))  # of equal scores
    right, called = right[last].astype(np.float64), (last + 1).astype(np.float64)
    return Curve(
        thresholds=score[order][last].astype(np.float64),
        recall=right / n_positive,
        false_positive_rate=(called - right) / (n - n_positive),
        precision=right / called,
    )
