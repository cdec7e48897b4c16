"""Recordings as text: CSV with a declared rate, and the OpenBCI GUI's own format.

A sampling rate must be declared: in a comment line at the top (``# rate_hz: 256``, ``%Sample Rate
= 250 Hz``), in a file of the same name that ends in ``.json`` (``{"SamplingFrequency": 256}``, as
BIDS has it), or by the user. A unit must be declared, too: in a column's name (``C3 [uV]``), in a
comment line (``# unit: uV``), in that file (``"Units"``), or by the user. Each line is one sample;
an empty cell, ``nan`` and ``n/a`` are missing values.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from stream_classifier.errors import (
    RecordingInvalidError,
    StreamDescriptionError,
    printable,
)
from stream_classifier.regular_file import open_regular, read_regular
from stream_classifier.sources.channels import MAX_TEXT, ChannelPlan, ChannelText
from stream_classifier.sources.recordings.material import (
    Ask,
    Recording,
    Run,
    check_rate,
    in_uv,
    plan,
    source_id,
    unreadable,
)

if TYPE_CHECKING:
    from typing import TextIO

    from numpy.typing import NDArray

MAX_LINE: Final = 65_536
"""Characters; a longer line is no sample of any amplifier."""

LINES_AT_ONCE: Final = 8_192
MAX_COMMENTS: Final = 200
MAX_COMMENT: Final = 512
"""Characters of a comment that are looked at; the patterns' time grows with their square."""

MAX_SIDECAR_BYTES: Final = 2**20

OPENBCI: Final = "%OpenBCI"
"""How a text file of the OpenBCI GUI begins. Its EXG columns are microvolts by definition
(docs.openbci.com/Software/OpenBCISoftware/GUIDocs), and an index counts 0 to 255."""

_RATE: Final = re.compile(
    r"\b(?:sampl\w*[ _]*(?:rate|freq\w*)|rate(?:_hz)?|fs|sfreq)\s*[=:]\s*([^\s,;]+)", re.IGNORECASE
)
_UNIT: Final = re.compile(r"\bunits?\s*[=:]\s*([^\s,;]+)", re.IGNORECASE)
_UNIT_IN_NAME: Final = re.compile(r"^(.*?)\s*[\[(]([^\])]*)[\])]$")
_NO_SIGNAL: Final = re.compile(
    r"(?:^|.*[\W_])(?:time|timestamps?|date|index|samples?|counter|markers?|trigger|events?|labels?|"
    r"annotations?|accel|gyro|digital|analog|not used)(?:[\W_].*|$)|t|n|id|x?y",
    re.IGNORECASE,
)
"""Names of columns that are taken for something else than EEG unless they are asked for."""

_MISSING: Final = frozenset({"", "nan", "na", "n/a", "null", "none"})


@dataclass(frozen=True, slots=True)
class _Shape:
    """What the top of the file says.

    Attributes:
        path: Of the file.
        n_before: Lines before the first sample.
        delimiter: Between columns.
        texts: One a column.
        rate_hz: As declared in it; None if it is not.
    """

    path: Path
    n_before: int
    delimiter: str
    texts: tuple[ChannelText, ...]
    rate_hz: float | None


def open_text(path: Path, ask: Ask) -> Recording:
    """Understand a text file without reading all of it.

    Raises:
        RecordingInvalidError: If it is no table, or has no sample.
        StreamDescriptionError: If the rate or a unit is missing, or channels that were asked for.
    """
    shape = _read_top(path)
    beside = _read_beside(path)
    unit = beside.get("Units") or beside.get("unit") or ""
    texts = [text if text.unit else replace(text, unit=str(unit)) for text in shape.texts]
    rate_hz, notes = _rate(shape, beside, ask)
    chosen = plan(path, texts, ask)
    return Recording(
        path=str(path),
        name=path.stem,
        source_id=source_id(path),
        rate_hz=check_rate(path, rate_hz),
        labels=chosen.labels,
        runs=partial(_runs, shape, chosen),
        notes=(*chosen.notes, *notes),
    )


def _rate(shape: _Shape, beside: dict[str, Any], ask: Ask) -> tuple[float, tuple[str, ...]]:
    stated = beside.get("SamplingFrequency", beside.get("rate_hz", shape.rate_hz))
    try:
        declared = None if stated is None else float(stated)
    except (TypeError, ValueError, OverflowError):
        declared = math.nan
    if ask.rate_hz is not None:
        if declared in {None, ask.rate_hz}:
            return ask.rate_hz, ()
        return ask.rate_hz, (f"read at {ask.rate_hz:g} Hz, though it says {stated} Hz",)
    if declared is None:
        raise StreamDescriptionError(
            f"recording {shape.path.name!r} declares no sampling rate, and a guess would make "
            f"other waveforms of it. Try: --rate with samples a second; or {shape.path.stem}.json "
            'beside it with {"SamplingFrequency": 256}; or a first line "# rate_hz: 256"'
        )
    return declared, ()


def _read_top(path: Path) -> _Shape:
    comments: list[str] = []
    with _opened(path) as file:
        lines = _lines(path, file)
        first = next(lines, "")
        while first.startswith(("#", "%")) or (first and not first.strip()):
            if len(comments) >= MAX_COMMENTS:
                raise _invalid(path, f"at most {MAX_COMMENTS} comment lines", "more")
            comments.append(first[:MAX_COMMENT])
            first = next(lines, "")
        second = next(lines, "")
    if not first:
        raise _invalid(path, "lines of samples", "none")
    delimiter = max(",;\t", key=first.count)
    names = _cells(first, delimiter)
    if any(len(name) > MAX_TEXT for name in names):
        raise _invalid(path, f"cells of at most {MAX_TEXT} characters", "a longer one in the first")
    has_names = any(not _is_value(name) for name in names)
    if has_names and not second.strip():
        raise _invalid(path, "lines of samples", "a header alone")
    said = " ".join(comments)
    rate, unit = _RATE.search(said), _UNIT.search(said)
    is_openbci = bool(comments) and comments[0].startswith(OPENBCI)
    return _Shape(
        path=path,
        n_before=len(comments) + has_names,
        delimiter=delimiter,
        texts=tuple(
            _text(name if has_names else "", unit[1] if unit else "", is_openbci=is_openbci)
            for name in names
        ),
        rate_hz=_float(rate[1]) if rate else None,
    )


def _text(name: str, unit: str, *, is_openbci: bool) -> ChannelText:
    if is_openbci:
        is_signal = name.startswith(("EXG Channel", "EEG Channel"))
        return ChannelText(name, "uV" if is_signal else "", "EEG" if is_signal else "other")
    in_name = _UNIT_IN_NAME.match(name)
    label = in_name[1] if in_name else name
    return ChannelText(
        label=label,
        unit=in_name[2] if in_name else unit,
        type="by its name" if label and _NO_SIGNAL.fullmatch(label) else "",
    )


def _runs(shape: _Shape, chosen: ChannelPlan) -> Iterator[Run]:
    index = 0
    n_read = shape.n_before
    with _opened(shape.path) as file:
        lines = _lines(shape.path, file)
        for _ in islice(lines, shape.n_before):
            pass
        while block := list(islice(lines, LINES_AT_ONCE)):
            rows = _numbers(shape, block, list(chosen.columns), n_read)
            n_read += len(block)
            if len(rows):
                yield Run(index, in_uv(rows, chosen))
                index += len(rows)
    if not index:
        raise _invalid(shape.path, "lines of samples", "none")


def _numbers(
    shape: _Shape, block: list[str], columns: list[int], n_before: int
) -> NDArray[np.float64]:
    """Read lines: numpy's way where all is well, cell by cell where it is not."""
    width = len(shape.texts)
    if all(line.strip() and line.count(shape.delimiter) == width - 1 for line in block):
        try:
            return np.loadtxt(
                block, delimiter=shape.delimiter, usecols=columns, ndmin=2, comments=None,
                quotechar='"',
            )  # fmt: skip
        except ValueError:
            pass  # missing values, or text: told apart below
    rows = []
    for number, line in enumerate(block, start=n_before + 1):
        if not line.strip():
            continue
        cells = _cells(line, shape.delimiter)
        if len(cells) != len(shape.texts):
            raise _invalid(
                shape.path, f"{len(shape.texts)} columns", f"{len(cells)} in line {number}"
            )
        rows.append([_value(shape, cells[column], number) for column in columns])
    return np.array(rows, dtype=np.float64).reshape(-1, len(columns))


def _value(shape: _Shape, cell: str, line: int) -> float:
    if cell.lower() in _MISSING:
        return math.nan
    value = _float(cell)
    if value is None:
        raise _invalid(
            shape.path, "numbers", f"{printable(cell[:40])!r} in line {line}",
            fix="--channels with the labels of the EEG columns, and a decimal point in numbers",
        )  # fmt: skip
    return value


def _is_value(cell: str) -> bool:
    return cell.lower() in _MISSING or _float(cell) is not None


def _float(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _cells(line: str, delimiter: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]


def _opened(path: Path) -> TextIO:
    try:
        return io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise unreadable(path, error) from error


def _lines(path: Path, file: TextIO) -> Iterator[str]:
    try:
        while line := file.readline(MAX_LINE + 1):
            if len(line) > MAX_LINE or "\0" in line:
                raise _invalid(path, f"lines of text of at most {MAX_LINE:,} characters", "others")
            yield line.rstrip("\r\n") + "\n"
    except OSError as error:
        raise unreadable(path, error) from error


def _read_beside(path: Path) -> dict[str, Any]:
    """Read what a JSON file of the same name says, if there is one."""
    beside = path.with_suffix(".json")
    if not os.path.isfile(beside):  # noqa: PTH113 - its name may be too long
        return {}
    try:
        said = json.loads(read_regular(beside, limit_bytes=MAX_SIDECAR_BYTES))
    except OSError as error:
        raise unreadable(beside, error) from error
    except (ValueError, RecursionError) as error:
        raise _invalid(beside, "JSON", printable(str(error))) from error
    if not isinstance(said, dict):
        raise _invalid(beside, "a JSON object", type(said).__name__)
    return said


def _invalid(
    path: Path, expected: str, found: str, fix: str = "the original file"
) -> RecordingInvalidError:
    return RecordingInvalidError(path=str(path), expected=expected, found=found, fix=fix)
