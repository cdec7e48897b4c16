"""BDF+ files that can be read however the process that writes them ends.

The layout is EDF+ (Kemp & Olivan, Clin. Neurophysiol. 114:1755, 2003) with the 24-bit samples of
BDF (www.biosemi.com/faq/file_format.htm): 16 bits cannot hold both an electrode's offset of 100 mV
and a tenth of a microvolt. With each record the header's count of records is set, so that a file
whose writer was killed is whole but for what the last second held.

Files are continuous (BDF+C). BDF+D could jump in time, but MNE-Python reads it as if it were
continuous, and says nothing: all that follows a jump would be at a wrong time, alerts too. So a
short gap is filled with the lowest value, which no sample has, and marked ``bad: no samples``;
where more is missing, another file begins.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import numpy as np

from stream_classifier.errors import RecordingInvalidError, printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

STEPS_PER_UV: Final = 32
"""One step is 31.25 nV: below the noise of any amplifier for EEG."""

MAX_STEP: Final = 8_388_480
MAX_UV: Final = MAX_STEP // STEPS_PER_UV
"""What is beyond is written as this; a whole number, so that the header's scale is exact."""

NO_SAMPLE: Final = -MAX_STEP
"""Where there is no sample, or it is no number."""

NO_SAMPLES_TEXT: Final = "bad: no samples"
"""MNE-Python leaves stretches out whose annotation begins with "bad"."""

NO_NUMBER_TEXT: Final = "bad: not a number"

NOTE_SAMPLES: Final = 160
NOTE_BYTES: Final = 3 * NOTE_SAMPLES
MAX_TEXT_BYTES: Final = 300
MAX_WAITING_NOTES: Final = 1_000

MARK: Final = "stream_classifier"
"""Says in the header that the file is one of ours."""

_SAMPLE_BYTES: Final = 3
_COUNT_AT: Final = 236
_MONTHS: Final = "JANFEBMARAPRMAYJUNJULAUGSEPOCTNOVDEC"
_NOTE: Final = re.compile(rb"([+-]\d+(?:\.\d+)?)(?:\x15(\d+(?:\.\d+)?))?\x14(.*)\x14", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Note:
    """An annotation.

    Attributes:
        at_s: Seconds from the file's first sample; may be negative.
        text: What it says.
        duration_s: None for an instant.
    """

    at_s: float
    text: str
    duration_s: float | None = None


class BdfWriter:
    """Writes one file, a record of about a second at a time.

    Not thread-safe. A full record is written at once; what is less, and that the disk has it, takes
    a ``flush``. The rest of such a record is marked as missing, and when more samples come it is
    written again in its place.

    Args:
        path: Must not exist.
        labels: One a channel; shortened to the 16 characters that the header has.
        rate_hz: Of the samples.
        start: When the first sample was taken.
        about: What the header says of the recording, ASCII; cut off where it is too long.

    Raises:
        OSError: If the disk does not take it; also from the methods.
    """

    def __init__(
        self, path: Path, *, labels: Sequence[str], rate_hz: float, start: datetime, about: str = ""
    ) -> None:
        self.path = path
        self.n_channels = len(labels)
        self.record_samples, duration = record_of(rate_hz)
        self._period_s = float(duration) / self.record_samples
        start = start.astimezone(UTC)
        self._fraction_s = start.microsecond / 1e6
        head = _header(labels, self.record_samples, duration, start, about)
        self._head_bytes = len(head)
        self._record = np.full((self.record_samples, self.n_channels), NO_SAMPLE, "<i4")
        self._n_done = 0  # records before the one at hand
        self._n_filled = 0  # samples of the one at hand, those of gaps included
        self._notes = b""  # of the one at hand
        self._told_record = -1
        self._waiting: deque[bytes] = deque(maxlen=MAX_WAITING_NOTES)
        self._file = open(path, "xb", buffering=0, opener=_private)  # noqa: SIM115
        _lock(self._file.fileno())
        self._write(0, head)

    @property
    def n_samples(self) -> int:
        """Where the next sample comes, those of gaps included."""
        return self._n_done * self.record_samples + self._n_filled

    @property
    def room(self) -> int:
        """Samples that complete the record at hand; 0 where none is begun."""
        return (self.record_samples - self._n_filled) % self.record_samples

    def append(self, samples: NDArray[np.float32]) -> None:
        """Add samples.

        Args:
            samples: Shape ``(n_samples, n_channels)``, µV. What is no number counts as missing.
        """
        is_number = np.isfinite(samples)
        steps = np.rint(np.where(is_number, samples, 0.0).astype(np.float64) * STEPS_PER_UV)
        steps = np.clip(steps, NO_SAMPLE + 1, MAX_STEP)
        if not is_number.all() and self._told_record != self._n_done:
            self._told_record = self._n_done  # once a record: alerts need the room
            self.annotate(Note(self.n_samples * self._period_s, NO_NUMBER_TEXT))
        self._take(np.where(is_number, steps, NO_SAMPLE).astype("<i4"))

    def skip(self, n_samples: int) -> None:
        """Leave out samples that never came, and say so."""
        if n_samples > 0:
            duration_s = n_samples * self._period_s
            self.annotate(Note(self.n_samples * self._period_s, NO_SAMPLES_TEXT, duration_s))
            self._take(np.full((n_samples, self.n_channels), NO_SAMPLE, "<i4"))

    def annotate(self, note: Note) -> None:
        """Add an annotation, in this record or the next that has room."""
        self._waiting.append(_encoded(self._fraction_s + note.at_s, note.text, note.duration_s))
        self._take_notes()

    def flush(self) -> None:
        """Have all that was added on disk."""
        if self._n_filled or self._notes:
            self._write_record()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush, and let go of the file. May be called twice."""
        if self._file.closed:
            return
        try:
            self.flush()
            while self._waiting:
                self._next_record()
                self.flush()
        finally:
            self._file.close()

    def abandon(self) -> None:
        """Let go of the file as it is, because the disk does not take any more."""
        self._file.close()

    def _take(self, steps: NDArray[np.int32]) -> None:
        while len(steps):
            n = min(len(steps), self.record_samples - self._n_filled)
            self._record[self._n_filled : self._n_filled + n] = steps[:n]
            self._n_filled += n
            steps = steps[n:]
            if self._n_filled == self.record_samples:
                self._write_record()
                self._next_record()

    def _next_record(self) -> None:
        self._n_done += 1
        self._n_filled = 0
        self._notes = b""
        self._record[:] = NO_SAMPLE
        self._take_notes()

    def _take_notes(self) -> None:
        """Take the annotations that fit, leaving room for what says how much of it is filled."""
        room = NOTE_BYTES - 2 * len(self._time_of_record()) - len(NO_SAMPLES_TEXT) - 32
        while self._waiting and len(self._notes) + len(self._waiting[0]) <= room:
            self._notes += self._waiting.popleft()

    def _time_of_record(self) -> bytes:
        at_s = self._fraction_s + self._n_done * self.record_samples * self._period_s
        return _seconds(at_s).encode() + b"\x14\x14\0"

    def _write_record(self) -> None:
        notes = self._time_of_record() + self._notes
        if missing := self.record_samples - self._n_filled:
            at_s = self._fraction_s + self.n_samples * self._period_s
            notes += _encoded(at_s, NO_SAMPLES_TEXT, missing * self._period_s)
        by_channel = np.ascontiguousarray(self._record.T)  # (n_channels, record_samples)
        octets = by_channel.view(np.uint8).reshape(self.n_channels, -1, 4)[:, :, :_SAMPLE_BYTES]
        size = _record_bytes(self.n_channels, self.record_samples)
        at = self._head_bytes + self._n_done * size
        self._write(at, octets.tobytes() + notes.ljust(NOTE_BYTES, b"\0"))
        self._write(_COUNT_AT, str(self._n_done + 1).ljust(8).encode())

    def _write(self, at: int, data: bytes) -> None:
        self._file.seek(at)
        if self._file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))


@dataclass(frozen=True, slots=True)
class BdfFile:
    """A file of ours, as it is on disk now; it may be growing.

    Attributes:
        path: Where it is.
        start: When its first sample was taken.
        labels: One a channel.
        about: What the header says of the recording.
        n_records: Whole ones.
        record_samples: Samples of each.
        record_s: Seconds of each.
        head_bytes: Size of the header.
    """

    path: Path
    start: datetime
    labels: tuple[str, ...]
    about: str
    n_records: int
    record_samples: int
    record_s: float
    head_bytes: int

    @property
    def rate_hz(self) -> float:
        """Samples a second."""
        return self.record_samples / self.record_s

    @property
    def duration_s(self) -> float:
        """Seconds of its records."""
        return self.n_records * self.record_s

    @property
    def end(self) -> datetime:
        """When its last record ends."""
        return self.start + timedelta(seconds=self.duration_s)

    @property
    def simulated(self) -> bool:
        """Whether the device said that it invents its samples."""
        return "simulated" in self.about.split()

    def read(self, wanted: range | None = None) -> NDArray[np.float32]:
        """Read samples.

        Args:
            wanted: Their indices from the file's first sample; None: all. What is not there is left
                out.

        Returns:
            Shape ``(n_samples, n_channels)``, µV; NaN where there is no sample.
        """
        n_all = self.n_records * self.record_samples
        start, stop = (0, n_all) if wanted is None else (wanted.start, wanted.stop)
        start, stop = max(0, start), min(n_all, stop)
        if stop <= start:
            return np.empty((0, len(self.labels)), np.float32)
        first = start // self.record_samples
        records = list(self._records(first, -(-stop // self.record_samples)))
        rows = np.frombuffer(b"".join(records), np.uint8).reshape(len(records), -1)
        octets = rows[:, :-NOTE_BYTES].reshape(
            len(records), len(self.labels), self.record_samples, _SAMPLE_BYTES
        )
        wide = np.zeros((*octets.shape[:3], 4), np.uint8)
        wide[..., 1:] = octets
        steps = wide.view("<i4")[..., 0] >> 8  # the sign comes along: (records, channels, samples)
        uv = np.where(steps == NO_SAMPLE, np.nan, steps / STEPS_PER_UV).astype(np.float32)
        samples = uv.transpose(0, 2, 1).reshape(-1, len(self.labels))
        before = first * self.record_samples
        return samples[start - before : stop - before]

    def notes(self) -> Iterator[Note]:
        """Yield its annotations, in the order they were written."""
        fraction_s = self.start.microsecond / 1e6
        for record in self._records(0, self.n_records):
            for text in record[-NOTE_BYTES:].split(b"\0"):
                found = _NOTE.fullmatch(text)
                if found and found[3]:
                    yield Note(
                        float(found[1]) - fraction_s,
                        found[3].decode("utf-8", "replace"),
                        float(found[2]) if found[2] else None,
                    )

    def _records(self, start: int, stop: int) -> Iterator[bytes]:
        size = _record_bytes(len(self.labels), self.record_samples)
        with self.path.open("rb") as file:
            file.seek(self.head_bytes + start * size)
            for _ in range(start, stop):
                record = file.read(size)
                if len(record) < size:
                    return
                yield record


def open_bdf(path: Path) -> BdfFile:
    """Understand a file of ours.

    Raises:
        RecordingInvalidError: If it is no recording of ours, or holds no whole record.
    """
    found = _understand(path)
    if found.n_records < 1:
        raise _invalid(path, "at least one whole record", "none")
    return found


def mend(path: Path) -> bool:
    """Make the file of a killed process exact: whole records only, and their number in the header.

    What is not even a whole record long is deleted. A file that another process writes is left
    alone.

    Returns:
        Whether anything was done.

    Raises:
        RecordingInvalidError: If it is no file of ours.
        OSError: If the disk does not allow it.
    """
    with path.open("r+b") as file:
        if not _lock(file.fileno()):
            return False
        n_records, found = 0, None
        try:
            found = _understand(path)
        except RecordingInvalidError:
            if not _is_beginning(path):
                raise
        if found is not None:
            size = _record_bytes(len(found.labels), found.record_samples)
            n_records = found.n_records
            while n_records and not _has_time(file, found.head_bytes + n_records * size):
                n_records -= 1  # a machine that lost its power may have left zeros
        if found is not None and n_records:
            return _set_length(file, n_records, found.head_bytes + n_records * size)
    path.unlink()
    return True


def _set_length(file: BinaryIO, n_records: int, n_bytes: int) -> bool:
    count = str(n_records).ljust(8).encode()
    file.seek(_COUNT_AT)
    if file.read(8) == count and os.fstat(file.fileno()).st_size == n_bytes:
        return False
    file.truncate(n_bytes)
    file.seek(_COUNT_AT)
    file.write(count)
    file.flush()
    os.fsync(file.fileno())
    return True


def record_of(rate_hz: float) -> tuple[int, str]:
    """Return the samples of a record and how long the header says it is.

    As near to a second as makes the eight characters that the header has for it the most exact.

    Example:
        >>> record_of(178), record_of(250.5), record_of(173.61)
        ((178, '1'), (501, '2'), (217, '1.249928'))
    """

    def words(n_samples: int) -> str:
        return f"{n_samples / rate_hz:.6f}".rstrip("0").rstrip(".")

    def badness(n_samples: int) -> tuple[float, float]:
        off = abs(float(words(n_samples)) * rate_hz / n_samples - 1)
        return round(off, 9), abs(n_samples - rate_hz)

    low, high = max(1, round(rate_hz / 2)), max(1, round(rate_hz * 2))
    best = min(range(low, high + 1), key=badness)
    return best, words(best)


def _header(
    labels: Sequence[str], record_samples: int, duration: str, start: datetime, about: str
) -> bytes:
    month = _MONTHS[3 * start.month - 3 : 3 * start.month]  # not strftime: EDF+ wants English
    day = f"{start.day:02d}-{month}-{start.year}"
    signals = [
        (_ascii(label, 16), "uV", -MAX_UV, MAX_UV, -MAX_STEP, MAX_STEP, record_samples)
        for label in labels
    ]
    signals.append(("BDF Annotations", "", -1, 1, -8_388_608, 8_388_607, NOTE_SAMPLES))
    fields: list[tuple[object, int]] = [
        ("X X X X", 80),  # nobody's name
        (f"Startdate {day} X X {MARK} {_ascii(about, 200)}", 80),
        (f"{start:%d.%m.%y}", 8),
        (f"{start:%H.%M.%S}", 8),
        (256 * (len(signals) + 1), 8),
        ("BDF+C", 44),
        (0, 8),
        (duration, 8),
        (len(signals), 4),
    ]
    columns = list(zip(*signals, strict=True))
    empty = [""] * len(signals)
    for values, width in (
        (columns[0], 16), (empty, 80), (columns[1], 8), (columns[2], 8), (columns[3], 8),
        (columns[4], 8), (columns[5], 8), (empty, 80), (columns[6], 8), (empty, 32),
    ):  # fmt: skip
        fields += [(value, width) for value in values]
    return b"\xffBIOSEMI" + b"".join(
        str(value)[:width].ljust(width).encode("ascii") for value, width in fields
    )


def _understand(path: Path) -> BdfFile:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(256)
            if head[:8] != b"\xffBIOSEMI" or MARK not in head[88:168].decode("latin-1").split():
                raise _invalid(path, "a recording made by run --record", "another file")
            n_signals = int(head[252:256])
            if not 2 <= n_signals <= 1025:
                raise _invalid(path, "2 to 1025 signals", str(n_signals))
            head += file.read(256 * n_signals)
            if len(head) < 256 * (n_signals + 1):
                raise _invalid(path, f"a header of {256 * (n_signals + 1)} bytes", str(len(head)))
            n_channels = n_signals - 1
            at = 256 + 216 * n_signals
            record_samples, record_s = int(head[at : at + 8]), float(head[244:252])
            if not 0 < record_samples < 10**6 or not 0 < record_s < 10:
                raise _invalid(path, "a record of a second", f"{record_samples}, {record_s:g} s")
            record_bytes = _record_bytes(n_channels, record_samples)
            first = file.read(record_bytes)
        labels = head[256 : 256 + 16 * n_channels].decode("latin-1")
        start = datetime.strptime(head[168:184].decode("ascii"), "%d.%m.%y%H.%M.%S").replace(
            tzinfo=UTC
        )
        begins = re.match(rb"\+(\d+(?:\.\d+)?)\x14\x14\0", first[-NOTE_BYTES:])
        return BdfFile(
            path=path,
            start=start + timedelta(seconds=float(begins[1]) if begins else 0.0),
            labels=tuple(labels[n : n + 16].strip() for n in range(0, len(labels), 16)),
            about=head[88:168].decode("latin-1").partition(MARK)[2].strip(),
            n_records=(size - len(head)) // record_bytes,
            record_samples=record_samples,
            record_s=record_s,
            head_bytes=len(head),
        )
    except (ValueError, OverflowError) as error:
        raise _invalid(path, "a header of ours", f"a damaged one ({error})") from error
    except OSError as error:
        raise _invalid(path, "a file that can be read", error.strerror or str(error)) from error


def _is_beginning(path: Path) -> bool:
    """Whether a file may be one of ours whose header was not even written whole."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(256)
    if size < 256:
        return b"\xffBIOSEMI".startswith(head[:8])
    with contextlib.suppress(ValueError):
        return MARK.encode() in head[88:168] and size < 256 * (int(head[252:256]) + 1)
    return False


def _has_time(file: BinaryIO, end: int) -> bool:
    """Whether the record that ends there was written."""
    file.seek(end - NOTE_BYTES)
    return file.read(1) == b"+"


def _record_bytes(n_channels: int, record_samples: int) -> int:
    return n_channels * record_samples * _SAMPLE_BYTES + NOTE_BYTES


def _encoded(at_s: float, text: str, duration_s: float | None) -> bytes:
    said = printable(text).encode("utf-8", "replace")[:MAX_TEXT_BYTES].decode("utf-8", "ignore")
    lasting = "" if duration_s is None else "\x15" + _seconds(duration_s).lstrip("+")
    return f"{_seconds(at_s)}{lasting}\x14{said}\x14\0".encode()


def _seconds(value_s: float) -> str:
    return f"{value_s:+.6f}".rstrip("0").rstrip(".")


def _ascii(text: str, n_characters: int) -> str:
    kept = "".join(c if c.isascii() and c.isprintable() else "_" for c in text)
    return kept[:n_characters]


def _private(path: str, flags: int) -> int:
    """Open a file that only its owner may read: it is of somebody's head."""
    return os.open(path, flags, 0o600)


def _lock(descriptor: int) -> bool:
    """Say that the file is being written, for as long as it is open; False if another does."""
    try:
        import fcntl  # noqa: PLC0415 - not on Windows, where an open file cannot be truncated
    except ModuleNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _invalid(path: Path, expected: str, found: str) -> RecordingInvalidError:
    return RecordingInvalidError(path=str(path), expected=expected, found=found)
