"""Channels to one stream: how many that lie side by side must agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stream_classifier.detection.montage import groups


class Fusion:
    """k of n neighbours: the stream has the highest value that k channels side by side reach.

    A seizure that matters is seen by electrodes next to each other; a loose contact by one. Where
    fewer than k of a group are known, all of those must reach the value: electrodes that
    fail must not silence the rest.

    Args:
        labels: One a channel; see ``montage.groups`` for who is whose neighbour.
        channels_needed: k, at least 1.

    Example:
        >>> fusion = Fusion(["T7", "C3", "Cz", "C4"], channels_needed=2)
        >>> either_side, side_by_side = [0.9, 0.2, 0.1, 0.8], [0.9, 0.7, 0.1, 0.8]
        >>> np.round(fusion.agree(np.float32([either_side, side_by_side])), 2).tolist()
        [0.2, 0.7]
    """

    def __init__(self, labels: Sequence[str], *, channels_needed: int) -> None:
        members = groups(labels, at_least=channels_needed)
        self._needed = channels_needed
        longest = max(map(len, members))
        # Short groups are filled up with a column that is never known. # (n_groups, longest)
        self._members = np.array([(*m, *(longest - len(m)) * (len(labels),)) for m in members])

    def agree(self, smoothed: NDArray[np.float32]) -> list[float | None]:
        """Return the stream's value at each window, None where no channel's is known.

        Args:
            smoothed: Shape ``(n_windows, n_channels)``, smoothed p(seizure); NaN where unknown.
        """
        known = np.where(np.isfinite(smoothed), smoothed, np.float32(-1))
        if self._needed == 1:
            best = known.max(axis=1)
        else:
            nobody = np.full((len(known), 1), np.float32(-1))
            groups = np.concatenate([known, nobody], axis=1)[:, self._members]
            values = np.sort(groups, axis=2)[..., ::-1]  # (n_windows, n_groups, longest)
            n_known = np.count_nonzero(values >= 0, axis=2, keepdims=True)
            rank = np.minimum(np.maximum(n_known, 1), self._needed) - 1
            best = np.take_along_axis(values, rank, axis=2).max(axis=(1, 2))
        return [value if value >= 0 else None for value in best.tolist()]
