"""Where on the head the electrodes are, as far as their labels say."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

NEIGHBOUR_STEPS: Final = 1.8
"""Neighbours are within this many times the montage's own spacing: a step along a grid, one across
it (1.41), and some room for a head that is no grid. So each electrode has up to eight of them,
whether 19 cover the head or 64."""

FARTHEST_NEIGHBOUR: Final = math.radians(75)
"""Electrodes farther apart than this, seen from the centre of the head, are never neighbours."""

_ROWS: Final = {"AF": 1, "F": 2, "FC": 3, "C": 4, "CP": 5, "P": 6, "PO": 7}
_OLD_NAMES: Final = {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8", "M1": "TP9", "M2": "TP10"}
_RING_STEP: Final = math.radians(18)  # a tenth of half the head's circumference
_MIDLINE_STEP: Final = math.radians(22.5)  # a fourth of the way from the vertex to the ring


@cache
def positions() -> dict[str, tuple[float, float, float]]:
    """Return the electrodes of the 10-10 system on the unit sphere, by name in capitals.

    Axes point to the right, to the front and up. The head is a sphere, the ring Fpz-T7-Oz-T8 its
    equator, and a row divides the circle through its ends and its middle evenly (Jasper,
    Electroencephalogr. Clin. Neurophysiol. 10:371, 1958; Oostenveld & Praamstra, Clin.
    Neurophysiol. 112:713, 2001). Good for telling neighbours, not for locating sources.

    Example:
        >>> [round(x, 2) for x in positions()["C3"]]
        [-0.71, 0.0, 0.71]
    """
    found: dict[str, NDArray[np.float64]] = {}
    for step, name in enumerate(("FP", "AF", "F", "FT", "T", "TP", "P", "PO", "O"), start=1):
        along = step * _RING_STEP
        ends = {"FP": (1, 2), "O": (1, 2)}.get(name, (7, 8))
        found[f"{name}{ends[0]}"] = _on_sphere(math.pi / 2, math.pi / 2 + along)
        found[f"{name}{ends[1]}"] = _on_sphere(math.pi / 2, math.pi / 2 - along)
        if ends == (7, 8):  # one step below the ring
            low = math.pi / 2 + _MIDLINE_STEP
            found[f"{name}9"] = _on_sphere(low, math.pi / 2 + along)
            found[f"{name}10"] = _on_sphere(low, math.pi / 2 - along)
    for step, name in enumerate(("NZ", "FPZ", "AFZ", "FZ", "FCZ", "CZ", "CPZ", "PZ", "POZ", "OZ")):
        found[name] = _on_sphere((5 - step) * _MIDLINE_STEP, math.pi / 2)
    found["IZ"] = _on_sphere(-5 * _MIDLINE_STEP, math.pi / 2)
    ring = {"FC": "FT", "C": "T", "CP": "TP"}
    for row in _ROWS:
        left, right = f"{ring.get(row, row)}7", f"{ring.get(row, row)}8"
        arc = _arc(found[left], found[f"{row}Z"], found[right])
        for i, number in enumerate((5, 3, 1), start=1):
            found[f"{row}{number}"] = arc[i]
            found[f"{row}{number + 1}"] = arc[8 - i]
    found |= {old: found[new] for old, new in _OLD_NAMES.items()}
    return {name: (float(x), float(y), float(z)) for name, (x, y, z) in found.items()}


def position(label: str) -> tuple[float, float, float] | None:
    """Return where a channel's electrode is; of a bipolar channel, its first one; None: unknown.

    Example:
        >>> position("EEG Fp1-REF") == position("FP1-F7") == positions()["FP1"]
        True
        >>> position("EEG 1") is None
        True
    """
    known = positions()
    for word in re.findall(r"[A-Za-z0-9]+", label):
        if word.upper() in known:
            return known[word.upper()]
    return None


def groups(labels: Sequence[str], *, at_least: int = 1) -> tuple[tuple[int, ...], ...]:
    """Return which channels are side by side: each with its neighbours, once.

    A channel whose label tells no position is everybody's neighbour: it joins every group. Where no
    label tells any, all channels are one group.

    Args:
        labels: One a channel.
        at_least: Size of a group, where there are so many channels: the nearest ones join a
            channel that has too few neighbours.

    Returns:
        Column numbers, in ascending order, of each group.

    Example:
        >>> groups(["T7", "C3", "Cz", "C4", "T8"])
        ((0, 1), (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4))
        >>> groups(["left", "right"])
        ((0, 1),)
    """
    found = {i: place for i, label in enumerate(labels) if (place := position(label)) is not None}
    if not found:
        return (tuple(range(len(labels))),)
    places = np.array(list(found.values()))  # (n_known, 3)
    angles = np.arccos(np.clip(places @ places.T, -1, 1))
    near = angles <= min(NEIGHBOUR_STEPS * _spacing(angles), FARTHEST_NEIGHBOUR) + 1e-6
    near |= angles <= np.sort(angles, axis=1)[:, [min(at_least, len(found)) - 1]] + 1e-6
    unknown = set(range(len(labels))) - set(found)
    columns = np.array(list(found))
    members = (tuple(sorted({*columns[row].tolist(), *unknown})) for row in near)
    return tuple(dict.fromkeys(members))


def _spacing(angles: NDArray[np.float64]) -> float:
    """Return how far apart electrodes of this montage usually are, radians."""
    apart = np.where(angles > 1e-6, angles, np.inf).min(axis=1)
    apart = apart[np.isfinite(apart)]
    return float(np.median(apart)) if apart.size else 0.0


def _on_sphere(polar: float, azimuth: float) -> NDArray[np.float64]:
    return np.array(
        [
            math.sin(polar) * math.cos(azimuth),
            math.sin(polar) * math.sin(azimuth),
            math.cos(polar),
        ]
    )


def _arc(
    start: NDArray[np.float64], middle: NDArray[np.float64], end: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return nine points, evenly spaced, on the circle from start through middle to end."""
    axis = np.cross(middle - start, end - start)
    axis /= np.linalg.norm(axis)
    centre = axis * (axis @ start)  # of the circle that the plane cuts out of the sphere
    first = start - centre
    second = np.cross(axis, first)
    angle = math.atan2((end - centre) @ second, (end - centre) @ first) % (2 * math.pi)
    turns = np.linspace(0, angle, 9)[:, None]
    return np.asarray(centre + np.cos(turns) * first + np.sin(turns) * second)
