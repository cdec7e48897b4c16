"""What a model may learn from: the split of the data, and windows drawn within its sides."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from stream_classifier.bundle import Split
from stream_classifier.datasets import ROW_SAMPLES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stream_classifier.datasets import SeizureRows

Protocol = Literal["rows", "recordings"]

N_TEST: Final = {"rows": 2_500, "recordings": 100}
N_VALIDATION: Final = {"rows": 1_000, "recordings": 50}


def split_data(rows: SeizureRows, *, protocol: Protocol, seed: int) -> Split:
    """Divide the data into training, validation and test side, each label in equal parts.

    Args:
        rows: The data set.
        protocol: ``rows`` shuffles the rows, so that one recording lies on all sides;
            ``recordings`` keeps each recording on one side.
        seed: Of the shuffle.

    Returns:
        The split: 8,000 / 1,000 / 2,500 rows, or 350 / 50 / 100 recordings.
    """
    labels = (
        rows.labels if protocol == "rows" else np.array([rows.label_of(key) for key in rows.keys])
    )
    rng = np.random.default_rng(seed)
    kinds = np.unique(labels)
    sides: tuple[list[int], ...] = ([], [], [])
    for kind in kinds:
        of_kind = rng.permutation(np.flatnonzero(labels == kind))
        ends = np.cumsum([N_TEST[protocol] // len(kinds), N_VALIDATION[protocol] // len(kinds)])
        for side, chosen in zip(sides, np.split(of_kind, ends), strict=True):
            side.extend(chosen.tolist())
    test, validation, train = (sorted(side) for side in sides)
    return Split(
        protocol=protocol,
        seed=seed,
        train=_name(rows, protocol, train),
        validation=_name(rows, protocol, validation),
        test=_name(rows, protocol, test),
        data_digest=rows.digest,
    )


def _name(
    rows: SeizureRows, protocol: Protocol, chosen: list[int]
) -> tuple[int, ...] | tuple[str, ...]:
    return tuple(chosen) if protocol == "rows" else tuple(rows.keys[i] for i in chosen)


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """Contiguous stretches of signal, and every window that lies wholly within one of them.

    Attributes:
        signal_uv: Shape ``(n_samples,)``, µV, float32: all stretches one after the other.
        window_starts: Shape ``(n_windows,)``: where in ``signal_uv`` a window may start.
        labels: Shape ``(n_windows,)``, 1..5, of each of these windows.
        window_samples: Length of a window.
    """

    signal_uv: NDArray[np.float32]
    window_starts: NDArray[np.intp]
    labels: NDArray[np.int8]
    window_samples: int

    def draw(
        self, rng: np.random.Generator, n_windows: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
        """Draw windows at random, with replacement.

        Returns:
            Windows of shape ``(n_windows, window_samples)``, µV, and their labels.
        """
        drawn = rng.integers(len(self.window_starts), size=n_windows)
        windows = sliding_window_view(self.signal_uv, self.window_samples)
        return windows[self.window_starts[drawn]], self.labels[drawn]


def gather(rows: SeizureRows, numbers: NDArray[np.intp], *, window_samples: int) -> Material:
    """Put rows that follow one another in a recording together again.

    A row is followed only by the next row of the same recording, and only if that row is
    among those given: so a training window never reaches into a row that was held out.

    Args:
        rows: The data set.
        numbers: Numbers of the rows that may be used.
        window_samples: Length of the windows to be drawn.
    """
    order = numbers[np.lexsort((rows.chunks[numbers], rows.recordings[numbers]))]
    follows = (rows.recordings[order[1:]] == rows.recordings[order[:-1]]) & (
        rows.chunks[order[1:]] == rows.chunks[order[:-1]] + 1
    )
    run_bounds = [0, *(np.flatnonzero(~follows) + 1).tolist(), len(order)]
    starts, labels = [], []
    for first, stop in pairwise(run_bounds):
        n_starts = (stop - first) * ROW_SAMPLES - window_samples + 1
        starts.append(first * ROW_SAMPLES + np.arange(n_starts))
        labels.append(np.full(n_starts, rows.labels[order[first]]))
    return Material(
        signal_uv=rows.values[order].ravel().astype(np.float32),
        window_starts=np.concatenate(starts),
        labels=np.concatenate(labels),
        window_samples=window_samples,
    )
