"""EDF, EDF+ and BDF, a few megabytes at a time.

Kemp et al., Electroencephalogr. Clin. Neurophysiol. 82:391 (1992); Kemp & Olivan, Clin.
Neurophysiol. 114:1755 (2003); BDF: www.biosemi.com/faq/file_format.htm. The layout of the file is
checked here, since a damaged header must not make us allocate or seek at its will; what the header
means and how numbers are scaled is edfio's business, which is handed the header and some records.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from stream_classifier.errors import (
    MissingExtraError,
    RecordingInvalidError,
    StreamDescriptionError,
)
from stream_classifier.recorder.bdf import MARK, MAX_UV
from stream_classifier.regular_file import open_regular
from stream_classifier.sources.channels import ChannelPlan, ChannelText, listed, uv_per_unit
from stream_classifier.sources.recordings import marks
from stream_classifier.sources.recordings.material import (
    BLOCK_BYTES,
    MAX_SPAN_S,
    Ask,
    Recording,
    Run,
    Seizure,
    check_rate,
    in_uv,
    plan,
    source_id,
    unreadable,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_SIGNALS: Final = 1024
MAX_RECORD_BYTES: Final = 64 * 2**20
"""The standard says 61,440; amplifiers with many channels write some megabytes."""

_BDF: Final = b"\xffBIOSEMI"
_ANNOTATIONS: Final = ("EDF Annotations", "BDF Annotations")
_OTHER_TYPES: Final = frozenset(
    {"ecg", "ekg", "eog", "erg", "emg", "meg", "mcg", "ep", "temp", "resp", "sao2", "light",
     "sound", "event", "status", "trigger", "pleth", "pulse"}
)  # fmt: skip
"""First words of labels that are no EEG: www.edfplus.info/specs/edftexts.html, and BDF's Status."""

_TIME: Final = re.compile(rb"([+-]\d{1,12}(?:\.\d{0,12})?)\x14")
_NOTE: Final = re.compile(
    rb"([+-]\d{1,12}(?:\.\d{0,12})?)(?:\x15(\d{1,12}(?:\.\d{0,12})?))?\x14(.*)\x14", re.DOTALL
)
_EDFIO_FAULTS: Final = (ValueError, LookupError, ArithmeticError, TypeError, NameError)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where things are in the file.

    Attributes:
        path: Of the file.
        head: Its header, as it is.
        n_records: Data records that are there.
        record_s: Seconds of each.
        record_bytes: Bytes of each.
        sample_bytes: 2 for EDF, 3 for BDF.
        labels: Of all signals, annotations included.
        samples: Of each signal, in a record.
        discontinuous: Whether time may be missing between records (EDF+D).
        filled: Whether it is one of our recordings: lowest values stand for samples that are none.
    """

    path: Path
    head: bytes
    n_records: int
    record_s: float
    record_bytes: int
    sample_bytes: int
    labels: tuple[str, ...]
    samples: tuple[int, ...]
    discontinuous: bool
    filled: bool

    @property
    def annotation_spans(self) -> list[slice]:
        """Where annotations are in a record's bytes."""
        ends = np.cumsum(self.samples) * self.sample_bytes
        return [
            slice(int(end) - n * self.sample_bytes, int(end))
            for label, n, end in zip(self.labels, self.samples, ends, strict=True)
            if label in _ANNOTATIONS
        ]


def open_edf(path: Path, ask: Ask) -> Recording:
    """Understand an EDF, EDF+ or BDF file without reading its samples.

    Channels of another rate than most of the EEG channels have are left out. In EDF+D, time that
    is missing between records becomes a hole in the indices.

    Raises:
        RecordingInvalidError: If it is damaged, cut off or empty.
        StreamDescriptionError: If units are missing, or channels that were asked for.
        MissingExtraError: Without edfio.
    """
    layout = _read_layout(path)
    signals = _interpret(layout, next(_blocks(layout, most=1))[1]).signals
    texts = [_text(signal) for signal in signals]
    rates = [signal.samples_per_data_record / layout.record_s for signal in signals]
    chosen = plan(path, texts, ask)
    rate_hz, chosen, notes = _one_rate(path, chosen, rates, wanted=ask.channels is not None)
    for column in chosen.columns:
        _check_scale(path, signals[column])
    return Recording(
        path=str(path),
        name=path.stem,
        source_id=source_id(path),
        rate_hz=check_rate(path, rate_hz),
        labels=chosen.labels,
        runs=partial(_runs, layout, chosen, rate_hz),
        seizures=partial(_seizures, layout),
        notes=(*chosen.notes, *notes),
    )


def _read_layout(path: Path) -> _Layout:
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(256)
            n_signals = _whole(path, head[252:256], "a number of signals", 1, MAX_SIGNALS)
            head += file.read(256 * n_signals)
    except OSError as error:
        raise unreadable(path, error) from error
    if head[:8] != _BDF and head[:8].strip() != b"0":
        raise _invalid(path, "an EDF or BDF file", f"one that begins with {head[:8]!r}")
    head_bytes = _whole(path, head[184:192], "the size of the header", 0, 10**8)
    if head_bytes != 256 * (n_signals + 1):
        raise _invalid(
            path, f"a header of {256 * (n_signals + 1)} bytes for {n_signals} signals",
            f"{head_bytes} bytes in the header",
        )  # fmt: skip
    if len(head) < head_bytes:
        raise _invalid(path, f"a header of {head_bytes} bytes", f"a file of {size} bytes: cut off")
    record_s = _number(path, head[244:252], "the duration of a record")
    n_declared = _whole(path, head[236:244], "a number of records", -1, 10**9)
    at = 256 + 216 * n_signals
    samples = tuple(
        _whole(path, head[at + 8 * n : at + 8 * n + 8], "samples in a record", 0, 10**8)
        for n in range(n_signals)
    )
    sample_bytes = 3 if head[:8] == _BDF else 2
    record_bytes = sum(samples) * sample_bytes
    if not (0 < record_s <= MAX_SPAN_S) or not 0 < record_bytes <= MAX_RECORD_BYTES:
        raise _invalid(
            path, f"records of more than 0 s and at most {MAX_RECORD_BYTES:,} bytes",
            f"{record_s:g} s and {record_bytes:,} bytes",
        )  # fmt: skip
    n_there = (size - head_bytes) // record_bytes
    if n_declared == 0 or n_there == 0:
        raise _invalid(path, "at least one data record", f"none (the header says {n_declared})")
    if n_there < n_declared:
        raise _invalid(
            path, f"{n_declared} data records, as the header says",
            f"{n_there}: the file was cut off",
        )  # fmt: skip
    return _Layout(
        path=path,
        head=head,
        n_records=n_there if n_declared < 0 else n_declared,
        record_s=record_s,
        record_bytes=record_bytes,
        sample_bytes=sample_bytes,
        labels=tuple(
            head[256 + 16 * n : 272 + 16 * n].decode("latin-1").strip() for n in range(n_signals)
        ),
        samples=samples,
        discontinuous=head[192:197] in {b"EDF+D", b"BDF+D"},
        filled=MARK.encode() in head[88:168].split(),
    )


def _blocks(layout: _Layout, *, most: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Yield records: the number of the first, and the bytes of some of them."""
    n_at_once = max(1, BLOCK_BYTES // layout.record_bytes)
    n_records = layout.n_records if most is None else min(most, layout.n_records)
    try:
        with open_regular(layout.path) as file:
            file.seek(len(layout.head))
            for first in range(0, n_records, n_at_once):
                n = min(n_at_once, n_records - first)
                raw = file.read(n * layout.record_bytes)
                if len(raw) < n * layout.record_bytes:
                    raise _invalid(layout.path, "the file as it was", "that it shrank meanwhile")
                yield first, raw
    except OSError as error:
        raise unreadable(layout.path, error) from error


def _interpret(layout: _Layout, records: bytes) -> Any:
    """Let edfio read the header and some records: an ``edfio.Edf`` or ``Bdf``."""
    try:
        import edfio  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            feature="reading EDF and BDF", extra="recordings", module="edfio"
        ) from error
    n_records = len(records) // layout.record_bytes
    head = layout.head[:236] + str(n_records).ljust(8).encode() + layout.head[244:]
    try:
        if layout.sample_bytes == 3:
            return edfio.read_bdf(head + records, header_encoding=_encoding(head))
        return edfio.read_edf(head + records, header_encoding=_encoding(head))
    except _EDFIO_FAULTS as error:
        raise _invalid(layout.path, "an EDF or BDF header", f"one that is damaged ({error})") from (
            error
        )


def _encoding(head: bytes) -> str:
    """Which encoding a header is in: meant to be ASCII, but the micro sign is common."""
    try:
        head[8:].decode("utf-8")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def _text(signal: Any) -> ChannelText:
    """What the header says of one signal; EDF has no types but a convention for labels."""
    label, unit = signal.label, signal.physical_dimension
    first = label.split(" ")[0].rstrip(":").lower()
    kind = first.upper() if first in _OTHER_TYPES else ""
    if not kind and unit and uv_per_unit(unit) is None:
        kind = f"in {unit}"
    return ChannelText(label=label, unit=unit, type=kind)


def _one_rate(
    path: Path, chosen: ChannelPlan, rates: list[float], *, wanted: bool
) -> tuple[float, ChannelPlan, tuple[str, ...]]:
    """Return the rate of most channels, the plan for those that have it, and what to say."""
    mine = [rates[column] for column in chosen.columns]
    rate_hz = max(dict.fromkeys(mine), key=lambda rate: (mine.count(rate), rate))
    odd = [label for label, rate in zip(chosen.labels, mine, strict=True) if rate != rate_hz]
    if not odd:
        return rate_hz, chosen, ()
    if wanted:
        raise StreamDescriptionError(
            f"recording {path.name!r}: the channels asked for have different rates: "
            f"{listed([f'{rate:g} Hz' for rate in dict.fromkeys(mine)])}. Try: channels of one rate"
        )
    kept = [n for n, rate in enumerate(mine) if rate == rate_hz]
    return (
        rate_hz,
        ChannelPlan(
            labels=tuple(chosen.labels[n] for n in kept),
            columns=tuple(chosen.columns[n] for n in kept),
            uv_per_unit=tuple(chosen.uv_per_unit[n] for n in kept),
            notes=chosen.notes,
        ),
        (f"channels left out, not at {rate_hz:g} Hz: {listed(odd)}",),
    )


def _check_scale(path: Path, signal: Any) -> None:
    try:
        digital, physical = signal.digital_range, signal.physical_range
    except _EDFIO_FAULTS as error:
        raise _invalid(path, f"a range of channel {signal.label!r}", str(error)) from error
    if digital.min >= digital.max or not 0 < abs(physical.max - physical.min) < math.inf:
        raise _invalid(
            path, f"a range of channel {signal.label!r} that can be scaled",
            f"digital {digital.min} to {digital.max} for {physical.min:g} to {physical.max:g}",
        )  # fmt: skip


def _runs(layout: _Layout, chosen: ChannelPlan, rate_hz: float) -> Iterator[Run]:
    per_record = round(rate_hz * layout.record_s)
    starts = _Starts(layout, rate_hz, per_record)
    for first, raw in _blocks(layout):
        read = _interpret(layout, raw)
        signals = read.signals
        try:
            columns = [signals[column].data for column in chosen.columns]
        except _EDFIO_FAULTS as error:
            raise _invalid(layout.path, "data records", f"damaged ones ({error})") from error
        samples = in_uv(np.stack(columns, axis=1), chosen)
        for run in _cut(samples, starts.of(first, raw), per_record):
            yield from _without_filling(run) if layout.filled else (run,)


def _cut(samples: NDArray[np.float32], starts: list[int], per_record: int) -> Iterator[Run]:
    """Yield records that follow each other as one run."""
    begin = 0
    for n in range(1, len(starts) + 1):
        if n == len(starts) or starts[n] != starts[n - 1] + per_record:
            yield Run(starts[begin], samples[begin * per_record : n * per_record])
            begin = n


def _without_filling(run: Run) -> Iterator[Run]:
    """Yield the stretches of a run that hold samples."""
    missing = np.asarray((run.samples <= -MAX_UV).all(axis=1))
    edges = np.flatnonzero(np.diff(missing)) + 1
    for start, samples in zip((0, *edges.tolist()), np.split(run.samples, edges), strict=True):
        if len(samples) and not missing[start]:
            yield Run(run.first_index + start, samples)


class _Starts:
    """Index of the first sample of each record; by its own time where the file has gaps."""

    def __init__(self, layout: _Layout, rate_hz: float, per_record: int) -> None:
        self._layout = layout
        self._rate_hz = rate_hz
        self._per_record = per_record
        self._origin_s: float | None = None
        self._next = 0

    def of(self, first: int, raw: bytes) -> list[int]:
        layout = self._layout
        n_records = len(raw) // layout.record_bytes
        if not layout.discontinuous:
            return [(first + n) * self._per_record for n in range(n_records)]
        starts = []
        for n in range(n_records):
            record = raw[n * layout.record_bytes : (n + 1) * layout.record_bytes]
            at_s = _record_time(layout, record, first + n)
            self._origin_s = at_s if self._origin_s is None else self._origin_s
            start = round((at_s - self._origin_s) * self._rate_hz)
            if not self._next <= start <= MAX_SPAN_S * self._rate_hz:
                raise _invalid(
                    layout.path, f"record {first + n + 1} to begin after the one before",
                    f"{at_s:g} s",
                )  # fmt: skip
            self._next = start + self._per_record
            starts.append(start)
        return starts


def _record_time(layout: _Layout, record: bytes, number: int) -> float:
    spans = layout.annotation_spans
    found = _TIME.match(record[spans[0]]) if spans else None
    if found is None:
        raise _invalid(layout.path, "a time in each record (EDF+D)", f"none in {number + 1}")
    return float(found[1])


def _seizures(layout: _Layout) -> tuple[Seizure, ...] | None:
    """Read seizures from EDF+ annotations; None where no text names any."""
    spans = layout.annotation_spans
    if not spans:
        return None
    found: list[marks.Mark] = []
    origin_s: float | None = None
    for _, raw in _blocks(layout):
        for at in range(0, len(raw), layout.record_bytes):
            record = raw[at : at + layout.record_bytes]
            if origin_s is None:
                origin_s = _first_time(record[spans[0]])
            for span in spans:
                found += _notes(record[span], origin_s)
    return marks.seizures_in(layout.path, found)


def _first_time(raw: bytes) -> float:
    found = _TIME.match(raw)
    return float(found[1]) if found else 0.0


def _notes(raw: bytes, origin_s: float) -> Iterator[marks.Mark]:
    # Cut first, so that each byte is looked at once: a pattern that searched would not.
    for note in raw.split(b"\0"):
        found = _NOTE.fullmatch(note)
        if found is None:
            continue
        onset, duration, texts = found.groups()
        for text in filter(None, texts.decode("utf-8", "replace").split("\x14")):
            yield marks.Mark(
                at_s=float(onset) - origin_s,
                duration_s=float(duration) if duration else None,
                text=text,
            )


def _whole(path: Path, raw: bytes, what: str, low: int, high: int) -> int:
    value = _number(path, raw, what)
    if not (low <= value <= high and value == int(value)):
        raise _invalid(path, f"{what} from {low} to {high:,}", f"{value:g}")
    return int(value)


def _number(path: Path, raw: bytes, what: str) -> float:
    try:
        value = float(raw.decode("ascii"))
    except ValueError as error:
        raise _invalid(path, f"{what} in the header", f"{raw!r}") from error
    if not math.isfinite(value):
        raise _invalid(path, f"{what} in the header", f"{raw!r}")
    return value


def _invalid(path: Path, expected: str, found: str) -> RecordingInvalidError:
    return RecordingInvalidError(path=str(path), expected=expected, found=found)
