"""What a model may learn from: the split of the data, and stretches drawn within its sides."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from stream_classifier.bundle import Split
from stream_classifier.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from stream_classifier.datasets import SeizureRows

Protocol = Literal["rows", "recordings"]

N_TEST: Final = {"rows": 2_500, "recordings": 100}
N_VALIDATION: Final = {"rows": 1_000, "recordings": 50}

VALIDATION_SHARE: Final = 0.1
"""Of what a fold of a cross-validation does not test on."""


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
    labels = _labels(rows, protocol)
    rng = np.random.default_rng(seed)
    kinds = np.unique(labels)
    sides: tuple[list[int], ...] = ([], [], [])
    for kind in kinds:
        of_kind = rng.permutation(np.flatnonzero(labels == kind))
        ends = np.cumsum([N_TEST[protocol] // len(kinds), N_VALIDATION[protocol] // len(kinds)])
        for side, chosen in zip(sides, np.split(of_kind, ends), strict=True):
            side.extend(chosen.tolist())
    test, validation, train = sides
    return _split(rows, protocol, seed, train=train, validation=validation, test=test)


def split_folds(rows: SeizureRows, *, n_folds: int, seed: int) -> tuple[Split, ...]:
    """Divide the recordings for a cross-validation: each is on the test side of one fold.

    Args:
        rows: The data set.
        n_folds: How many folds, at least 2 and at most as many as a label has recordings.
        seed: Of the shuffle.

    Returns:
        One split a fold; each label in equal parts, as far as its number allows.

    Raises:
        ConfigError: If there cannot be so many folds.
    """
    labels = _labels(rows, "recordings")
    kinds, counts = np.unique(labels, return_counts=True)
    if not 2 <= n_folds <= counts.min():
        raise ConfigError(
            f"folds {n_folds}: expected 2 to {counts.min()}, the number of recordings of the "
            "rarest label. Try: --folds 5"
        )
    rng = np.random.default_rng(seed)
    fold_of = np.zeros(len(labels), np.intp)
    order = rng.permutation(len(labels))
    for kind in kinds:
        of_kind = order[labels[order] == kind]
        fold_of[of_kind] = np.arange(len(of_kind)) % n_folds
    splits = []
    for fold in range(n_folds):
        train: list[int] = []
        validation: list[int] = []
        for kind in kinds:
            rest = order[(labels[order] == kind) & (fold_of[order] != fold)]
            n_validation = max(1, round(VALIDATION_SHARE * len(rest)))
            # Others in each fold, so that no recording is left out of all training.
            chosen = np.roll(rest, -fold * n_validation)
            validation.extend(chosen[:n_validation].tolist())
            train.extend(chosen[n_validation:].tolist())
        test = np.flatnonzero(fold_of == fold).tolist()
        splits.append(
            _split(rows, "recordings", seed, train=train, validation=validation, test=test)
        )
    return tuple(splits)


def _labels(rows: SeizureRows, protocol: Protocol) -> NDArray[np.int8]:
    if protocol == "rows":
        return rows.labels
    return np.array([rows.label_of(key) for key in rows.keys])


def _split(
    rows: SeizureRows,
    protocol: Protocol,
    seed: int,
    *,
    train: list[int],
    validation: list[int],
    test: list[int],
) -> Split:
    def names(chosen: list[int]) -> tuple[int, ...] | tuple[str, ...]:
        chosen = sorted(chosen)
        return tuple(chosen) if protocol == "rows" else tuple(rows.keys[i] for i in chosen)

    return Split(
        protocol=protocol,
        seed=seed,
        train=names(train),
        validation=names(validation),
        test=names(test),
        data_digest=rows.digest,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """Contiguous runs of signal, and every stretch that lies wholly within one of them.

    Attributes:
        signal_uv: Shape ``(n_samples,)``, µV, float32: all runs one after the other.
        stretch_starts: Shape ``(n_stretches,)``: where in ``signal_uv`` a stretch may start.
        labels: Shape ``(n_stretches,)``, 1..5, of each of these stretches.
        stretch_samples: Length of a stretch.
    """

    signal_uv: NDArray[np.float32]
    stretch_starts: NDArray[np.intp]
    labels: NDArray[np.int8]
    stretch_samples: int

    def draw(
        self, rng: np.random.Generator, n_stretches: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
        """Draw stretches at random, with replacement.

        Returns:
            Stretches of shape ``(n_stretches, stretch_samples)``, µV, and their labels.
        """
        drawn = rng.integers(len(self.stretch_starts), size=n_stretches)
        stretches = sliding_window_view(self.signal_uv, self.stretch_samples)
        return stretches[self.stretch_starts[drawn]], self.labels[drawn]


def gather(
    rows: SeizureRows,
    numbers: NDArray[np.intp],
    *,
    stretch_samples: int,
    prepare: Callable[[NDArray[np.float32]], NDArray[np.float32]] = lambda run: run,
) -> Material:
    """Put rows that follow one another in a recording together again.

    A row is followed only by the next row of the same recording, and only if that row is
    among those given: so a training stretch never reaches into a row that was held out.

    Args:
        rows: The data set.
        numbers: Numbers of the rows that may be used.
        stretch_samples: Length of the stretches to be drawn; runs shorter than that are not used.
        prepare: What each run goes through, µV to µV: resampling, filters.

    Raises:
        ConfigError: If no run is long enough.
    """
    order = numbers[np.lexsort((rows.chunks[numbers], rows.recordings[numbers]))]
    follows = (rows.recordings[order[1:]] == rows.recordings[order[:-1]]) & (
        rows.chunks[order[1:]] == rows.chunks[order[:-1]] + 1
    )
    run_bounds = [0, *(np.flatnonzero(~follows) + 1).tolist(), len(order)]
    runs, starts, labels, n_before = [], [], [], 0
    for first, stop in pairwise(run_bounds):
        run = prepare(rows.values[order[first:stop]].ravel().astype(np.float32))
        n_starts = max(0, len(run) - stretch_samples + 1)
        runs.append(run)
        starts.append(n_before + np.arange(n_starts))
        labels.append(np.full(n_starts, rows.labels[order[first]]))
        n_before += len(run)
    stretch_starts = np.concatenate(starts)
    if not len(stretch_starts):
        raise ConfigError(
            f"stretch_samples {stretch_samples}: expected at most the longest contiguous stretch "
            f"of training signal, {max(map(len, runs))} samples. Try: a smaller one"
        )
    return Material(
        signal_uv=np.concatenate(runs),
        stretch_starts=stretch_starts,
        labels=np.concatenate(labels),
        stretch_samples=stretch_samples,
    )
