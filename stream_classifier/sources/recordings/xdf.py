"""XDF, as LabRecorder writes it: one EEG stream of a file, its gaps told from its time stamps.

Specification: github.com/sccn/xdf/wiki/Specifications. The chunks' lengths are checked here, since
pyxdf takes them as they are and repairs silently what it can; a file that is cut or damaged is
refused. pyxdf reads the whole stream into memory: a file may have at most ``MAX_FILE_BYTES``.
"""

from __future__ import annotations

import logging
import os
import re
import struct
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from stream_classifier.errors import (
    MissingExtraError,
    RecordingInvalidError,
    StreamDescriptionError,
    printable,
)
from stream_classifier.regular_file import open_regular
from stream_classifier.sources.channels import MAX_CHANNELS, ChannelPlan, ChannelText, listed
from stream_classifier.sources.recordings.material import (
    MAX_SPAN_S,
    Ask,
    Recording,
    Run,
    check_rate,
    in_uv,
    plan,
    source_id,
    unreadable,
)
from stream_classifier.sources.timeline import Timeline

if TYPE_CHECKING:
    from typing import BinaryIO

    from numpy.typing import NDArray

MAX_FILE_BYTES: Final = 2 * 2**30
MAX_HEADER_BYTES: Final = 4 * 2**20
SAMPLES_AT_ONCE: Final = 8_192

_FORMATS: Final = {"float32": 4, "double64": 8, "int8": 1, "int16": 2, "int32": 4, "int64": 8}
_FILE_HEADER, _HEADER, _SAMPLES, _FOOTER, _WITH_STREAM = 1, 2, 3, 6, (2, 3, 4, 6)
_PYXDF_FAULTS: Final = (
    ValueError, LookupError, ArithmeticError, TypeError, AttributeError, RuntimeError,
    struct.error, ET.ParseError, OSError, MemoryError, EOFError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Stream:
    """One stream of the file.

    Attributes:
        number: Its id in the file.
        info: The root of its header.
        n_samples: As its chunks announce.
    """

    number: int
    info: ET.Element
    n_samples: int

    def says(self, tag: str) -> str:
        """What the header says under a tag, "" if nothing."""
        return (self.info.findtext(tag) or "").strip()

    @property
    def sample_bytes(self) -> int:
        """Bytes that a sample takes at the least: the length of a stamp, and its values."""
        n_channels = self.says("channel_count")
        if not re.fullmatch(r"\d{1,9}", n_channels):
            return 2
        return 1 + int(n_channels) * _FORMATS.get(self.says("channel_format"), 1)

    def __str__(self) -> str:
        return printable(
            f"{self.says('name')!r} (type {self.says('type')}, {self.n_samples:,} samples)"
        )


def open_xdf(path: Path, ask: Ask) -> Recording:
    """Understand the EEG stream of an XDF file without reading its samples.

    Raises:
        RecordingInvalidError: If it is damaged, cut off, too large, or its EEG stream is empty.
        StreamDescriptionError: If it has no EEG stream, or several; or one without a regular rate,
            numbers, units or the channels asked for.
    """
    streams = _survey(path)
    stream = _choose(path, streams, ask.stream)
    try:
        rate_hz, n_channels = float(stream.says("nominal_srate")), int(stream.says("channel_count"))
    except ValueError as error:
        raise _invalid(path, "a rate and a number of channels", str(error)) from error
    if not 0 < n_channels <= MAX_CHANNELS:
        raise _invalid(path, f"1 to {MAX_CHANNELS} channels", f"{n_channels}")
    if stream.says("channel_format") not in _FORMATS:
        raise StreamDescriptionError(
            f"recording {path.name!r}: the samples of stream {stream} are "
            f"{stream.says('channel_format') or 'of no format'}, not numbers"
        )
    texts = [
        ChannelText(*((one.findtext(tag) or "").strip() for tag in ("label", "unit", "type")))
        for one in stream.info.findall("desc/channels/channel")
    ]
    if len(texts) != n_channels:
        texts = [ChannelText() for _ in range(n_channels)]
    chosen = plan(path, texts, ask)
    return Recording(
        path=str(path),
        name=path.stem,
        source_id=source_id(path),
        rate_hz=check_rate(path, rate_hz),
        labels=chosen.labels,
        runs=partial(_runs, path, stream, chosen, rate_hz),
        notes=chosen.notes,
        simulated=stream.info.findtext("desc/simulated", "").strip().lower() == "true",
    )


def _choose(path: Path, streams: list[_Stream], name: str | None) -> _Stream:
    there = listed([str(stream) for stream in streams]) or "none"
    matches = [
        stream
        for stream in streams
        if (stream.says("name") == name if name else stream.says("type").lower() == "eeg")
    ]
    if not matches:
        wanted = f"named {name!r}" if name else "of type EEG"
        raise StreamDescriptionError(
            f"recording {path.name!r} has no stream {wanted}. It has: {there}"
        )
    matches = [stream for stream in matches if stream.n_samples] or matches
    if len(matches) > 1 and name:
        matches = [s for s in matches if s.says("type").lower() == "eeg"] or matches
    if len(matches) > 1:
        raise StreamDescriptionError(
            f"recording {path.name!r} has {len(matches)} such streams: "
            f"{listed([str(stream) for stream in matches])}. Try: --name with one of them"
        )
    if not matches[0].n_samples:
        raise _invalid(path, "samples", f"none in stream {matches[0]}")
    return matches[0]


def _survey(path: Path) -> list[_Stream]:
    """Walk over the chunks: all of them must be whole."""
    found: dict[int, _Stream] = {}
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE_BYTES:
                raise _invalid(path, f"at most {MAX_FILE_BYTES:,} bytes", f"{size:,}")
            if file.read(4) != b"XDF:":
                raise _invalid(path, "an XDF file", "one that does not begin with XDF:")
            while (length := _length(path, file)) is not None:
                start = file.tell()
                if not 2 <= length <= size - start:
                    raise _invalid(
                        path, f"{length:,} bytes in the chunk at byte {start:,}",
                        f"{size - start:,}: the file was cut off or is damaged",
                    )  # fmt: skip
                _take(path, file, length, found)
                file.seek(start + length)
    except OSError as error:
        raise unreadable(path, error) from error
    except struct.error as error:
        raise _invalid(path, "whole chunks", str(error)) from error
    return list(found.values())


def _take(path: Path, file: BinaryIO, length: int, found: dict[int, _Stream]) -> None:
    """Look at one chunk, whose tag comes next; headers of all kinds, since pyxdf reads them too."""
    (tag,) = struct.unpack("<H", file.read(2))
    if tag == _FILE_HEADER:
        _header(path, file, length - 2)
    if tag not in _WITH_STREAM:
        return
    if length < 6:
        raise _invalid(path, "a stream's number in its chunk", "none")
    (number,) = struct.unpack("<I", file.read(4))
    if tag in {_HEADER, _FOOTER}:
        info = _header(path, file, length - 6)
        if tag == _HEADER:
            found[number] = _Stream(number, info, 0)
    elif tag == _SAMPLES and (stream := found.get(number)) is not None:
        n = _n_samples(path, file, (length - 6) // stream.sample_bytes)
        found[number] = replace(stream, n_samples=stream.n_samples + n)


def _n_samples(path: Path, file: BinaryIO, most: int) -> int:
    n = _length(path, file)
    if n is None or n > most:
        raise _invalid(path, "as many samples as a chunk can hold", f"{n}")
    return n


def _length(path: Path, file: BinaryIO) -> int | None:
    """Read a number of variable length; None at the end of the file."""
    n_bytes = file.read(1)
    if not n_bytes:
        return None
    if n_bytes[0] not in {1, 4, 8}:
        raise _invalid(path, "the length of a chunk", f"byte {n_bytes[0]} at {file.tell() - 1:,}")
    return int.from_bytes(file.read(n_bytes[0]), "little")


def _header(path: Path, file: BinaryIO, length: int) -> ET.Element:
    if length > MAX_HEADER_BYTES:
        raise _invalid(path, f"stream headers of at most {MAX_HEADER_BYTES:,} bytes", f"{length:,}")
    text = file.read(length).decode("utf-8", "replace")
    try:
        return ET.XML(text, ET.XMLParser(target=_PlainTree()))  # noqa: S314 - see there
    except (ET.ParseError, ValueError) as error:
        raise _invalid(path, "a stream header in XML", str(error)) from error


class _PlainTree(ET.TreeBuilder):
    """Refuses a document type as it begins, before it can name entities to expand."""

    def doctype(self, _name: str, _pubid: str, _system: str) -> None:
        raise ValueError("a document type")


def _runs(path: Path, stream: _Stream, chosen: ChannelPlan, rate_hz: float) -> Iterator[Run]:
    samples, stamps = _load(path, stream)
    timeline = Timeline(rate_hz)
    for start in range(0, len(stamps), SAMPLES_AT_ONCE):
        some = slice(start, start + SAMPLES_AT_ONCE)
        values = in_uv(samples[some][:, list(chosen.columns)], chosen)
        for chunk in timeline.place(values, stamps[some]):
            if chunk.first_index > MAX_SPAN_S * rate_hz:
                raise _invalid(path, "time stamps within a year", "later ones")
            yield Run(chunk.first_index, chunk.samples)


def _load(path: Path, stream: _Stream) -> tuple[NDArray[Any], NDArray[np.float64]]:
    try:
        import pyxdf  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            feature="reading XDF", extra="recordings", module="pyxdf"
        ) from error
    with _overheard("pyxdf") as complaints:
        try:
            streams, _ = pyxdf.load_xdf(
                path,
                select_streams=[stream.number],
                synchronize_clocks=False,  # one stream: its own stamps, as the device wrote them
                dejitter_timestamps=False,  # which would hide gaps
            )
        except _PYXDF_FAULTS as error:
            raise _invalid(path, "a stream that can be read", f"{error!r}") from error
    if complaints:
        raise _invalid(path, "a whole file", complaints[0])
    read: Mapping[str, Any] = streams[0] if streams else {}
    stamps = np.asarray(read.get("time_stamps", ()), dtype=np.float64)
    samples = np.asarray(read.get("time_series", ()))
    if samples.ndim != 2 or len(samples) != len(stamps) or len(stamps) != stream.n_samples:
        raise _invalid(path, f"{stream.n_samples:,} samples", f"{len(samples):,}")
    return samples, stamps


@contextmanager
def _overheard(logger: str) -> Iterator[list[str]]:
    """Collect a library's warnings instead of letting it print them."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    heard: list[str] = []
    collector = Collector(logging.WARNING)
    log = logging.getLogger(logger)
    was_passed_on = log.propagate
    log.addHandler(collector)
    log.propagate = False
    try:
        yield heard
    finally:
        log.removeHandler(collector)
        log.propagate = was_passed_on


def _invalid(path: Path, expected: str, found: str) -> RecordingInvalidError:
    return RecordingInvalidError(path=str(path), expected=expected, found=found)
