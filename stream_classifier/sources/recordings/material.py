"""What every format is read into, and what may be asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_classifier.errors import (
    RecordingInvalidError,
    RecordingNotFoundError,
    StreamDescriptionError,
)
from stream_classifier.regular_file import open_regular
from stream_classifier.sources.channels import (
    MAX_CHANNELS,
    MAX_RATE_HZ,
    MAX_TEXT,
    MIN_RATE_HZ,
    ChannelPlan,
    ChannelText,
    plan_channels,
)

BLOCK_BYTES: Final = 4 * 2**20
"""About what is read at once: memory does not grow with the recording."""

MAX_SPAN_S: Final = 366 * 86_400.0
"""Time stamps that say more than a year are not of one recording."""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Consecutive samples of a recording.

    Attributes:
        first_index: Absolute index of the first sample on the grid of the nominal rate. Where it
            exceeds the end of the run before, samples are missing.
        samples: Shape ``(n_samples, n_channels)``, µV, float32; NaN where a value is missing.
    """

    first_index: int
    samples: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Seizure:
    """A seizure that a person marked, seconds from the recording's first sample."""

    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """A recording that was found, checked and understood, but not read yet.

    Attributes:
        path: Where it lies, for people.
        name: What its stream is called.
        source_id: Made of the SHA-256 of its bytes: the same bytes, the same identity.
        rate_hz: Nominal sampling rate.
        labels: One a channel that is used.
        runs: Reads it from the beginning, a few megabytes at a time.
        seizures: Reads what people marked in the file itself; None where it marks no seizures.
        notes: What a person should know: channels left out, labels made up.
        simulated: Whether it says that its samples were invented.
    """

    path: str
    name: str
    source_id: str
    rate_hz: float
    labels: tuple[str, ...]
    runs: Callable[[], Iterator[Run]]
    seizures: Callable[[], tuple[Seizure, ...] | None] = lambda: None
    notes: tuple[str, ...] = ()
    simulated: bool = False


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What files beside a recording say of its channels.

    Attributes:
        channels: By label: unit and type; "" where nothing is said.
        bad: Labels of channels that somebody marked as bad.
    """

    channels: Mapping[str, ChannelText] = field(default_factory=dict)
    bad: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Ask:
    """How a recording is to be read.

    Attributes:
        channels: Labels to use, in this order; None for every EEG channel.
        unit: Unit of all channels; goes over what the file says.
        rate_hz: Sampling rate, for a text file that does not say.
        stream: Name of the stream, where a file holds several (XDF).
        data: Folder of the data set, for its recordings by key; None: the usual places.
        sidecar: What lies beside the file.
    """

    channels: tuple[str, ...] | None = None
    unit: str | None = None
    rate_hz: float | None = None
    stream: str | None = None
    data: Path | None = None
    sidecar: Sidecar = field(default_factory=Sidecar)


def plan(path: Path, texts: list[ChannelText], ask: Ask) -> ChannelPlan:
    """Decide which columns of a recording are read, and in which unit.

    The file's own unit counts: it says how its numbers are scaled. A side-car's is taken where
    the file gives none.

    Args:
        path: Of the recording, for messages.
        texts: What the file says of its columns.
        ask: How it is to be read.

    Raises:
        StreamDescriptionError: As ``plan_channels``.
        RecordingInvalidError: If the columns are more than an amplifier has, or their text is.
    """
    if len(texts) > MAX_CHANNELS:
        raise RecordingInvalidError(
            path=str(path), expected=f"at most {MAX_CHANNELS} channels", found=f"{len(texts)}"
        )
    if any(len(part) > MAX_TEXT for t in texts for part in (t.label, t.unit, t.type)):
        raise RecordingInvalidError(
            path=str(path),
            expected=f"labels of at most {MAX_TEXT} characters",
            found="a longer one",
        )
    beside, bad = ask.sidecar.channels, ask.sidecar.bad
    known = []
    for text in texts:
        said = beside.get(text.label, ChannelText())
        kind = said.type or text.type
        known.append(
            ChannelText(
                label=text.label,
                unit=text.unit or said.unit,
                type=f"bad {kind}".strip() if text.label in bad else kind,
            )
        )
    return plan_channels(
        path.name,
        described=known,
        n_channels=len(texts),
        wanted=ask.channels,
        unit=ask.unit,
        kind="recording",
    )


def check_rate(path: Path, rate_hz: float) -> float:
    """Return a sampling rate that EEG can have.

    Raises:
        StreamDescriptionError: If this is none.
    """
    if MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:  # False for NaN
        return rate_hz
    raise StreamDescriptionError(
        f"recording {path.name!r}: {rate_hz:g} Hz is no sampling rate of EEG: expected "
        f"{MIN_RATE_HZ:g} to {MAX_RATE_HZ:g} Hz"
    )


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal.

    Raises:
        RecordingNotFoundError: If it cannot be read.
    """
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from error


def source_id(path: Path) -> str:
    """Return the identity of a recording: of its bytes, not of its name."""
    return f"recording-{digest(path)[:24]}"


def unreadable(path: Path, error: OSError) -> RecordingNotFoundError:
    """Return the error for a file that the system does not let us read."""
    return RecordingNotFoundError(
        str(path), looked_for=error.strerror or str(error), fix="a file that can be read"
    )


def in_uv(values: NDArray[np.floating], chosen: ChannelPlan) -> NDArray[np.float32]:
    """Return samples in microvolts.

    Args:
        values: Shape ``(n_samples, n_channels)``, of the channels used, in their own units.
        chosen: How they are read.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # hostile numbers become inf or NaN
        scaled: NDArray[np.float32] = (values * np.array(chosen.uv_per_unit)).astype(np.float32)
    return scaled
