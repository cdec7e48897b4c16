"""The gains that were measured on a stream, kept for its next start: one small file a stream.

A gain belongs to an amplifier's channel and to the amplitude that a bundle wants, so that is what
it is found by. A file that cannot be read costs a new calibration, never a start.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal

import platformdirs
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from stream_classifier.bundle import GainSpec
from stream_classifier.errors import printable
from stream_classifier.regular_file import read_regular
from stream_classifier.signals import StreamSpec
from stream_classifier.sinks.topics import stream_level

LOG = logging.getLogger(__name__)

SUFFIX: Final = ".gains.json"
MAX_BYTES: Final = 2**20
"""Of a file: ten times what 512 channels take."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ChannelGain(_Part):
    """The gain of one channel."""

    gain: Annotated[float, Field(gt=0)]
    target_uv: Annotated[float, Field(gt=0)] = Field(description="robust deviation it leads to")
    measured: AwareDatetime


class StreamGains(_Part):
    """What is known of one stream."""

    format: Literal["stream_classifier/gains/1"] = "stream_classifier/gains/1"
    name: str
    source_id: str
    channels: dict[str, ChannelGain]


class GainStore:
    """The gains of one stream, on disk.

    A stream is known by its source_id, and by its name where it has none.

    Args:
        spec: The stream.
        folder: Where the files are; None: in the user's state folder.
    """

    def __init__(self, spec: StreamSpec, *, folder: Path | None = None) -> None:
        self._spec = spec
        level = stream_level(spec.source_id or spec.name)
        self.path = (gains_folder() if folder is None else folder) / f"{level}{SUFFIX}"

    def load(self, gain: GainSpec) -> tuple[float | None, ...] | None:
        """Return what was measured for a bundle's target, one a channel; None: nothing at all.

        Args:
            gain: How the bundle wants its channels; what is out of its bounds is measured again.
        """
        stored = read_gains(self.path)
        if stored is None:
            return None
        found = (stored.channels.get(key) for key in _keys(self._spec.labels))
        gains = tuple(
            known.gain
            if known and known.target_uv == gain.target_uv and gain.low <= known.gain <= gain.high
            else None
            for known in found
        )
        return gains if any(value is not None for value in gains) else None

    def save(self, gains: Sequence[float | None], gain: GainSpec) -> None:
        """Keep what was measured, beside what is known of other channels; None: not measured.

        A disk that takes nothing costs a calibration at the next start; it is logged.
        """
        stored = read_gains(self.path)
        channels = dict(stored.channels) if stored else {}
        now = datetime.now(UTC)
        for key, value in zip(_keys(self._spec.labels), gains, strict=True):
            known = channels.get(key)
            if value is None or (
                known and (known.gain, known.target_uv) == (value, gain.target_uv)
            ):
                continue
            channels[key] = ChannelGain(gain=value, target_uv=gain.target_uv, measured=now)
        content = StreamGains(
            name=printable(self._spec.name),
            source_id=printable(self._spec.source_id),
            channels=channels,
        )
        try:
            _write(self.path, content.model_dump_json(indent=1).encode())
        except OSError as error:
            LOG.warning(
                "the gains could not be kept (%s) and will be measured again at the next start. "
                "Try: make room, or look at the rights of %s",
                error,
                self.path.parent,
            )


def gains_folder() -> Path:
    """Return where gains are kept."""
    return platformdirs.user_state_path("stream_classifier")


def read_gains(path: Path) -> StreamGains | None:
    """Return what a file says, or None if it is not there or, with a warning, damaged."""
    try:
        return StreamGains.model_validate_json(read_regular(path, limit_bytes=MAX_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        why = "not what was written" if isinstance(error, ValidationError) else str(error)
        LOG.warning(
            "%s: %s: the gains in it are not used, and are measured again. "
            "Try: stream-classifier calibrate --show, or --forget to remove it",
            path,
            why,
        )
        return None


def find_gains(
    *, name: str | None = None, source_id: str | None = None, folder: Path | None = None
) -> list[tuple[Path, StreamGains | None]]:
    """Return the files of streams of that name and source_id, and what they say; None: damaged.

    Args:
        name: Of the stream; None: any.
        source_id: Of the stream; None: any.
        folder: Where the files are; None: in the user's state folder.
    """
    folder = gains_folder() if folder is None else folder
    found = [(path, read_gains(path)) for path in sorted(folder.glob(f"*{SUFFIX}"))]
    levels = {stream_level(text) + SUFFIX for text in (name, source_id) if text is not None}
    return [
        (path, gains)
        for path, gains in found
        if (
            path.name in levels or not levels
            if gains is None
            else name in (None, gains.name) and source_id in (None, gains.source_id)
        )
    ]


def _keys(labels: Sequence[str]) -> list[str]:
    """Return what channels are known by: the label, and the how-manieth it is where it comes again.

    Example:
        >>> _keys(["C3", "C4", "C3"])
        ['C3', 'C4', 'C3 (2)']
    """
    keys = []
    seen: dict[str, int] = {}
    for label in map(printable, labels):
        seen[label] = seen.get(label, 0) + 1
        keys.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return keys


def _write(path: Path, content: bytes) -> None:
    """Write a file so that at any time either the old or the new one is there, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
