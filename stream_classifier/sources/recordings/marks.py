"""Seizures that people marked: SzCORE and BIDS tables, and EDF+ annotations.

SzCORE's ``eventType`` (Dan et al., Epilepsia 2024, doi 10.1111/epi.18113) begins with ``sz`` for
every kind of seizure; ``bckg`` and ``impd`` are none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stream_classifier.errors import RecordingInvalidError
from stream_classifier.regular_file import read_regular
from stream_classifier.sources.recordings.material import MAX_SPAN_S, Seizure, unreadable

MAX_TABLE_BYTES: Final = 16 * 2**20
MAX_ROWS: Final = 200_000
MAX_COLUMNS: Final = 256
"""Of a table: a night with an event every 200 ms has fewer rows."""

_SEIZURE: Final = re.compile(r"\b(?:sz|seizures?)(?:\b|_)", re.IGNORECASE)
_NO_SEIZURE: Final = re.compile(
    r"\b(?:no|non|not|without|possible|\?)\W*(?:sz|seizure)|(?:sz|seizure)\W?free|\?"
    r"|seizure alert",  # what a classifier found is not what a person marked
    re.IGNORECASE,
)
_STARTS: Final = re.compile(r"\b(?:start|starts|begin|begins|onset|on)\b", re.IGNORECASE)
_ENDS: Final = re.compile(r"\b(?:stop|stops|end|ends|offset|off|over)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Mark:
    """A text at a time, seconds from the recording's first sample."""

    at_s: float
    duration_s: float | None
    text: str


def seizures_in(path: Path, marks: Iterable[Mark]) -> tuple[Seizure, ...] | None:
    """Find the seizures among annotations.

    A text that holds the word "seizure" or "sz" is one, unless it denies or doubts it. Where it has
    no duration it must say that a seizure begins or ends, and the two must pair.

    Args:
        path: Of the recording, for messages.
        marks: Annotations, in any order.

    Returns:
        In the order of time; None if no annotation names a seizure.

    Raises:
        RecordingInvalidError: If nobody can tell how long a marked seizure lasts.
    """
    named = sorted(
        (m for m in marks if _SEIZURE.search(m.text) and not _NO_SEIZURE.search(m.text)),
        key=lambda mark: mark.at_s,
    )
    if not named:
        return None
    found = []
    begun: Mark | None = None
    for mark in named:
        if mark.duration_s:
            found.append(Seizure(mark.at_s, mark.at_s + mark.duration_s))
        elif begun is None and _STARTS.search(mark.text):
            begun = mark
        elif begun is not None and _ENDS.search(mark.text):
            found.append(Seizure(begun.at_s, mark.at_s))
            begun = None
        else:
            raise _unending(path, mark)
    if begun is not None:
        raise _unending(path, begun)
    return tuple(sorted(found, key=lambda seizure: seizure.start_s))


def read_table(path: Path) -> tuple[Seizure, ...] | None:
    """Read seizures from a table of events, tab-separated (SzCORE, BIDS).

    Returns:
        In the order of time, none if the table says so; None where it has no ``eventType`` (and no
        ``trial_type`` that names a seizure), and so does not speak of seizures.

    Raises:
        RecordingInvalidError: If it is no table, or a time in it is no time.
    """
    rows = read_tsv(path)
    if not rows:
        return None
    columns = {name.lower(): name for name in rows[0]}
    kind = columns.get("eventtype") or columns.get("event_type")
    if kind is None:
        kind = columns.get("trial_type")
        if kind is None or not any(_is_seizure(row[kind]) for row in rows):
            return None
    if not {"onset", "duration"} <= set(columns):
        raise _invalid(path, "the columns onset and duration", ", ".join(rows[0]))
    found = []
    for row in rows:
        if _is_seizure(row[kind]):
            start_s = _seconds(path, row[columns["onset"]])
            duration_s = _seconds(path, row[columns["duration"]])
            if duration_s > 0:
                found.append(Seizure(start_s, start_s + duration_s))
    return tuple(sorted(found, key=lambda seizure: seizure.start_s))


def read_tsv(path: Path) -> list[dict[str, str]]:
    """Read a small tab-separated table with a header, as BIDS has them.

    Raises:
        RecordingInvalidError: If it is too large, no text, or rows differ in length.
    """
    try:
        text = read_regular(path, limit_bytes=MAX_TABLE_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _invalid(path, "a table in UTF-8", "other bytes") from error
    except OSError as error:
        raise unreadable(path, error) from error
    lines = (line.split("\t") for line in text.splitlines() if line.strip())
    names = [name.strip() for name in next(lines, [])]
    if len(names) > MAX_COLUMNS:
        raise _invalid(path, f"at most {MAX_COLUMNS} columns", f"{len(names)}")
    rows: list[dict[str, str]] = []
    for line in lines:
        if len(line) != len(names):
            raise _invalid(
                path, f"{len(names)} columns in each row", f"{len(line)} in row {len(rows) + 1}"
            )
        if len(rows) >= MAX_ROWS:
            raise _invalid(path, f"at most {MAX_ROWS:,} rows", "more")
        rows.append(dict(zip(names, map(str.strip, line), strict=True)))
    return rows


def merged(seizures: Sequence[Seizure], *, until_s: float) -> tuple[Seizure, ...]:
    """Return seizures within a recording, those that overlap or touch as one."""
    found: list[Seizure] = []
    for one in seizures:
        start_s, end_s = max(0.0, one.start_s), min(one.end_s, until_s)
        if end_s <= start_s:
            continue
        if found and start_s <= found[-1].end_s:
            found[-1] = Seizure(found[-1].start_s, max(found[-1].end_s, end_s))
        else:
            found.append(Seizure(start_s, end_s))
    return tuple(found)


def _is_seizure(text: str) -> bool:
    return text.strip().lower().startswith(("sz", "seiz"))


def _seconds(path: Path, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not -MAX_SPAN_S <= value <= MAX_SPAN_S:
        raise _invalid(path, "onset and duration of a seizure in seconds", repr(text))
    return value


def _unending(path: Path, mark: Mark) -> RecordingInvalidError:
    return _invalid(
        path,
        "a duration, or texts that say where a seizure starts and ends",
        f"the annotation {mark.text!r} at {mark.at_s:g} s alone",
    )


def _invalid(path: Path, expected: str, found: str) -> RecordingInvalidError:
    return RecordingInvalidError(
        path=str(path), expected=expected, found=found, fix="mend its annotations"
    )
