"""A head with a seizure that it never had: a recorded seizure added to recorded background.

The background is a person's own recording with a consumer device, artefacts and all, at that
device's rate. The seizure is one recording of the data set, brought to that rate with the
detector's own resampler, scaled to the amplitude that a scalp would show, and **added**, between
smooth edges, to a few neighbouring electrodes. So the background stays what it was, and the truth
is known to the sample.

It is a test of a detector, and no seizure of a scalp: an intracranial recording has not passed a
skull, and is the same on every electrode that it is added to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from simulators.blocks import OFFSET, ONSET, Block
from stream_classifier.datasets import RECORDING_RATE_HZ
from stream_classifier.detection.montage import position
from stream_classifier.detection.resampler import Resampler

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

SEIZURE_S: Final = 23.0
"""How long a seizure is added: a recording of the data set, but for what its resampling takes."""

EDGE_S: Final = 1.0
"""Rise and fall of a seizure, a raised cosine, both within ``SEIZURE_S``."""

QUIET_S: Final = 90.0
"""Background before a seizure of a head that is played, so that a detector can measure its gains
(60 s of good signal) first."""

RMS_UV: Final = (40.0, 100.0)
"""From which the amplitude of a seizure is drawn: what seizures reach on a scalp."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """One seizure in one head.

    Attributes:
        background: Whose: the name of the background recording.
        seizure: Key of the seizure's recording in the data set.
        channels: Labels of the channels that it is added to: one, and those nearest to it.
        rms_uv: Root mean square of what is added, before its edges, µV.
        onset_s: When it begins to rise, seconds from the background's first sample.
    """

    background: str
    seizure: str
    channels: tuple[str, ...]
    rms_uv: float
    onset_s: float

    @property
    def offset_s(self) -> float:
        """When it is over."""
        return self.onset_s + SEIZURE_S

    @property
    def marker(self) -> str:
        """What it is, as the marker of a simulated device."""
        where = ",".join(self.channels)
        return f"mixture/seizure/{self.seizure}/channels/{where}/rms_uv/{self.rms_uv:.1f}"


def draw(
    rng: np.random.Generator,
    *,
    background: str,
    labels: tuple[str, ...],
    seizures: Sequence[str],
    n_channels: int,
    onsets_s: Sequence[float] | NDArray[np.float64],
) -> Mixture:
    """Draw a mixture.

    The draws come in the same order whatever ``n_channels`` is: from generators in one state,
    the same seizure of the same amplitude comes at the same time around the same channel.

    Args:
        rng: Decides.
        background: Name of the background recording.
        labels: Of its channels, by their 10-10 positions.
        seizures: Keys to draw from, at least one.
        n_channels: How many channels are involved, 1 to all.
        onsets_s: Onsets to draw from, at least one.

    Raises:
        ValueError: If so many channels with a position are not there, or nothing to draw from.
    """
    if not len(seizures) or not len(onsets_s):
        raise ValueError("expected at least one seizure and one onset to draw from")
    seizure = str(seizures[int(rng.integers(len(seizures)))])
    onset_s = float(onsets_s[int(rng.integers(len(onsets_s)))])
    rms_uv = float(rng.uniform(*RMS_UV))
    located = [label for label in labels if position(label) is not None]
    centre = str(rng.choice(located)) if located else ""
    return Mixture(
        background=background,
        seizure=seizure,
        channels=neighbours(labels, centre, n_channels),
        rms_uv=rms_uv,
        onset_s=onset_s,
    )


def onsets(duration_s: float) -> NDArray[np.float64]:
    """Whole seconds at which a seizure may begin in a head that is played.

    After ``QUIET_S``, and so that it fits in; anywhere in a background that is shorter.

    Args:
        duration_s: Of the background.

    Example:
        >>> onsets(116.0).tolist(), onsets(25.0).tolist(), len(onsets(20.0))
        ([90.0, 91.0, 92.0, 93.0], [0.0, 1.0, 2.0], 0)
    """
    fitting = np.arange(np.floor(duration_s - SEIZURE_S) + 1)
    late = fitting[fitting >= QUIET_S]
    return late if len(late) else fitting


def neighbours(labels: Sequence[str], centre: str, count: int) -> tuple[str, ...]:
    """A channel and those whose electrodes are nearest to it, nearest first.

    Args:
        labels: Of all channels; those that name no position of the 10-10 system are left out.
        centre: One of them.
        count: How many are wanted, with the centre.

    Raises:
        ValueError: If there are not as many with a position.

    Example:
        >>> neighbours(["AF3", "F3", "T7", "O2", "FC5"], "T7", 2)
        ('T7', 'FC5')
    """
    places = {label: place for label in labels if (place := position(label)) is not None}
    if centre not in places or not 1 <= count <= len(places):
        raise ValueError(
            f"expected {count} or more electrodes of the 10-10 system, "
            f"found {', '.join(places) or 'none'} among {', '.join(labels)}"
        )
    # Rounded, so that of two equally near ones the first is taken, not the last bit.
    distance = {
        label: round(math.dist(places[centre], place), 6) for label, place in places.items()
    }
    return tuple(sorted(places, key=lambda label: (label != centre, distance[label])))[:count]


def shape(recording_uv: NDArray[np.float32], *, rate_hz: float) -> NDArray[np.float32]:
    """Bring a seizure's recording to the background's rate, to an rms of 1, between its edges.

    The rms is that of the ``SEIZURE_S`` seconds of the resampled recording that are used, about
    their mean, over all frequencies that this rate can hold, and before the edges.

    Args:
        recording_uv: Shape ``(n_samples,)`` at 173.61 Hz, as the data set has it.
        rate_hz: Of the background.

    Returns:
        Shape ``(round(23 * rate_hz),)``.

    Raises:
        ValueError: If the recording is too short, or flat.
    """
    resampler = Resampler(in_hz=RECORDING_RATE_HZ, out_hz=rate_hz, n_channels=1)
    resampler.restart(0)
    resampled = resampler.feed(recording_uv.astype(np.float32)[:, None])[:, 0].astype(np.float64)
    n_samples, n_edge = round(SEIZURE_S * rate_hz), round(EDGE_S * rate_hz)
    if len(resampled) < n_samples:
        raise ValueError(
            f"expected a recording of {SEIZURE_S:g} s and a little more at {RECORDING_RATE_HZ:g} "
            f"Hz, found {len(recording_uv)} samples"
        )
    used = resampled[:n_samples] - resampled[:n_samples].mean()
    rms_uv = float(np.sqrt(np.mean(used**2)))
    if not rms_uv > 0:
        raise ValueError("expected a seizure, found a flat recording")
    edges = np.ones(n_samples)
    rise = 0.5 - 0.5 * np.cos(np.pi * (np.arange(n_edge) + 0.5) / max(n_edge, 1))
    edges[:n_edge] = rise
    edges[n_samples - n_edge :] = rise[::-1]
    return np.asarray(used / rms_uv * edges, dtype=np.float32)


def mix(
    background_uv: NDArray[np.float32],
    mixture: Mixture,
    shaped: NDArray[np.float32],
    *,
    labels: tuple[str, ...],
    rate_hz: float,
    start_s: float = 0.0,
) -> NDArray[np.float32]:
    """Add a seizure to a stretch of background, which is left as it is.

    Args:
        background_uv: Shape ``(n_samples, n_channels)``, µV.
        mixture: What to add, where, when.
        shaped: The seizure as :func:`shape` makes it, at ``rate_hz``.
        labels: Of the background's channels.
        rate_hz: Of the background.
        start_s: Time of the stretch's first sample, on the clock of ``mixture.onset_s``.

    Returns:
        Shape of the background, µV, float32.

    Raises:
        ValueError: If the seizure does not lie within the stretch, or a channel is not there.
    """
    missing = [label for label in mixture.channels if label not in labels]
    first = round((mixture.onset_s - start_s) * rate_hz)
    if missing or first < 0 or first + len(shaped) > len(background_uv):
        raise ValueError(
            f"expected a seizure of {len(shaped)} samples on {', '.join(mixture.channels)} within "
            f"{len(background_uv)} samples of {', '.join(labels)}, found it at sample {first}"
        )
    mixed = np.array(background_uv, dtype=np.float32)
    involved = [labels.index(label) for label in mixture.channels]
    added = shaped * np.float32(mixture.rms_uv)
    mixed[first : first + len(shaped), involved] += added[:, None]
    return mixed


def play(
    background_uv: NDArray[np.float32],
    mixtures: Sequence[Mixture],
    seizures: Mapping[str, NDArray[np.float32]],
    *,
    labels: tuple[str, ...],
    rate_hz: float,
) -> Iterator[Block]:
    """The head as a wearer of a simulated device, with the truth as its events.

    Args:
        background_uv: Shape ``(n_samples, n_channels)``, µV.
        mixtures: What to add; none may begin before the one before is over.
        seizures: The data set's recordings by key, shape ``(n_samples,)`` at 173.61 Hz.
        labels: Of the background's channels.
        rate_hz: Of the background.

    Raises:
        ValueError: If a seizure does not fit in.
    """
    mixed = background_uv
    events: list[tuple[int, str]] = []
    for mixture in sorted(mixtures, key=lambda m: m.onset_s):
        shaped = shape(seizures[mixture.seizure], rate_hz=rate_hz)
        mixed = mix(mixed, mixture, shaped, labels=labels, rate_hz=rate_hz)
        first = round(mixture.onset_s * rate_hz)
        if events and first < events[-1][0]:
            raise ValueError(f"the seizure at {mixture.onset_s:g} s begins within another one")
        events += [(first, mixture.marker), (first, ONSET), (first + len(shaped), OFFSET)]
    yield Block(mixed, events=tuple(events))
