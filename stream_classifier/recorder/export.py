"""Alerts of recordings in the formats that others read: BIDS, SzCORE, EDF+.

* BIDS (bids-specification.readthedocs.io): a data set of the recordings with their events.
* SzCORE (Dan et al., Epilepsia 2024, doi 10.1111/epi.18113): a table of events a recording.
* EDF+: a file of annotations a recording, without a signal, as its standard allows.

What is exported was found by a classifier, and nobody has looked at it: each format says so where
it can.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

from stream_classifier import __version__
from stream_classifier.errors import ConfigError, RecordingNotFoundError, printable
from stream_classifier.recorder.alerts import AlertSpan, alerts_in
from stream_classifier.recorder.bdf import MARK, BdfFile, open_bdf

COLUMNS: Final = (
    "onset", "duration", "eventType", "confidence", "channels", "dateTime", "recordingDuration",
)  # fmt: skip
"""Of SzCORE's table; the first two are those of BIDS."""

NOTHING: Final = "n/a"
_EDF_RECORD_BYTES: Final = 4_096

_MEANINGS: Final[dict[str, dict[str, Any]]] = {
    "onset": {"Description": "Onset of the alert, from the recording's first sample", "Units": "s"},
    "duration": {"Description": "Until p(seizure) fell below the clear threshold", "Units": "s"},
    "trial_type": {
        "Description": "What a classifier found; no person has looked at it",
        "Levels": {"sz": "an alert for a seizure", "bckg": "no alert in the whole recording"},
    },
    "eventType": {"Description": "The same, as SzCORE calls it"},
    "confidence": {"Description": "Highest smoothed p(seizure) of the alert, 0 to 1"},
    "channels": {"Description": "Channels that were above the threshold; all where it says none"},
    "dateTime": {"Description": "Start of the recording, UTC"},
    "recordingDuration": {"Description": "Length of the recording", "Units": "s"},
}


Format = Literal["bids", "szcore", "edf"]


@dataclass(frozen=True, slots=True)
class Found:
    """One alert within one recording, seconds from its first sample."""

    onset_s: float
    duration_s: float
    p: float | None
    channels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Told:
    """One recording and the alerts in it."""

    stream: str
    file: BdfFile
    found: tuple[Found, ...]

    @property
    def stem(self) -> str:
        """What its files are called."""
        return self.file.path.stem


def export(sources: Sequence[Path], to: Format, out: Path) -> list[Path]:
    """Write the alerts of recordings.

    Args:
        sources: Recordings, folders of them, or the folder that was recorded to.
        to: In which format.
        out: A new or empty folder.

    Returns:
        The files that hold the events.

    Raises:
        RecordingNotFoundError: If there is no recording there.
        RecordingInvalidError: If one is damaged.
        ConfigError: If ``out`` holds something, or cannot be written.
    """
    recordings = _look_at(sources)
    write = {"bids": _as_bids, "szcore": _as_szcore, "edf": _as_edf}[to]
    try:
        if out.is_dir() and any(out.iterdir()):
            raise ConfigError(f"{out}: expected a new or empty folder. Try: another one")
        out.mkdir(parents=True, exist_ok=True)
        return write(recordings, out)
    except OSError as error:
        raise ConfigError(
            f"{error.filename or out} cannot be written: {error.strerror}. Try: another folder"
        ) from error


def _look_at(sources: Sequence[Path]) -> list[Told]:
    by_folder: dict[Path, list[Path]] = {}
    for source in sources:
        for path in _recordings(source):
            by_folder.setdefault(path.absolute().parent, []).append(path)
    told = []
    for folder, paths in by_folder.items():
        files = sorted((open_bdf(path) for path in dict.fromkeys(paths)), key=_start)
        spans = [span for span in alerts_in(files) if not span.retracted]
        told += [Told(folder.name, file, _within(file, spans)) for file in files]
    return told


def _recordings(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    found = sorted((*source.glob("*.bdf"), *source.glob("*/*.bdf")))
    found = [path for path in found if path.parent.name != "alerts" or path.parent == source]
    if not found:
        raise RecordingNotFoundError(
            str(source),
            looked_for="there is no recording in it"
            if source.is_dir()
            else "there is no such file",
            fix="the folder given to run --record",
        )
    return found


def _start(file: BdfFile) -> datetime:
    return file.start


def _within(file: BdfFile, spans: Sequence[AlertSpan]) -> tuple[Found, ...]:
    """Return the parts of alerts that lie in a file."""
    found = []
    for span in spans:
        onset_s = max(0.0, (span.start - file.start).total_seconds())
        end_s = min(file.duration_s, (span.until - file.start).total_seconds())
        if end_s > onset_s:
            found.append(Found(onset_s, end_s - onset_s, span.p, span.channels))
    return tuple(found)


def _rows(told: Told) -> list[dict[str, str]]:
    """Return the table's rows; a recording without an alert has one that says so."""
    facts = {
        "dateTime": f"{told.file.start:%Y-%m-%d %H:%M:%S}",
        "recordingDuration": f"{told.file.duration_s:.3f}",
    }
    rows = [
        {
            "onset": f"{found.onset_s:.3f}",
            "duration": f"{found.duration_s:.3f}",
            "eventType": "sz",
            "confidence": NOTHING if found.p is None else f"{found.p:.3f}",
            "channels": ",".join(map(_cell, found.channels)) or NOTHING,
            **facts,
        }
        for found in told.found
    ]
    nothing = {"onset": "0.000", "duration": facts["recordingDuration"], "eventType": "bckg"}
    return rows or [{**nothing, "confidence": NOTHING, "channels": NOTHING, **facts}]


def _as_szcore(recordings: Sequence[Told], out: Path) -> list[Path]:
    paths = []
    for told in recordings:
        path = out / told.stream / f"{told.stem}.tsv"
        path.parent.mkdir(exist_ok=True)
        _put_table(path, COLUMNS, _rows(told))
        paths.append(path)
    return paths


def _as_bids(recordings: Sequence[Told], out: Path) -> list[Path]:
    description = {
        "Name": "Recordings of stream_classifier with its alerts",
        "BIDSVersion": "1.10.0",
        "DatasetType": "raw",
        "GeneratedBy": [{"Name": MARK, "Version": __version__}],
    }
    _put_json(out / "dataset_description.json", description)
    (out / "README").write_text(
        "EEG as stream_classifier recorded it. The events are what the classifier found; no person "
        "has looked at them.\nFor research; not from a medical device.\n"
    )
    subjects = _subjects([told.stream for told in recordings])
    _put_table(
        out / "participants.tsv",
        ("participant_id",),
        [{"participant_id": f"sub-{subject}"} for subject in subjects.values()],
    )
    runs: dict[str, int] = {}
    paths = []
    for told in recordings:
        subject = subjects[told.stream]
        runs[subject] = runs.get(subject, 0) + 1
        folder = out / f"sub-{subject}" / "eeg"
        folder.mkdir(parents=True, exist_ok=True)
        entities = f"sub-{subject}_task-monitoring_run-{runs[subject]:03d}"
        paths.append(_put_bids(told, folder / entities))
    return paths


def _put_bids(told: Told, stem: Path) -> Path:
    file = told.file

    def named(ending: str) -> Path:
        return stem.with_name(f"{stem.name}_{ending}")

    shutil.copyfile(file.path, named("eeg.bdf"))
    named("eeg.bdf").chmod(0o600)
    _put_json(
        named("eeg.json"),
        {
            "TaskName": "monitoring",
            "TaskDescription": "none: continuous monitoring",
            "SamplingFrequency": file.rate_hz,
            "EEGReference": NOTHING,
            "PowerLineFrequency": NOTHING,
            "SoftwareFilters": NOTHING,
            "EEGChannelCount": len(file.labels),
            "RecordingDuration": round(file.duration_s, 3),
            "RecordingType": "continuous",
        },
    )
    _put_table(
        named("channels.tsv"),
        ("name", "type", "units"),
        [{"name": _cell(label), "type": "EEG", "units": "uV"} for label in file.labels],
    )
    _put_json(named("events.json"), _MEANINGS)
    rows = [{**row, "trial_type": row["eventType"]} for row in _rows(told)]
    _put_table(named("events.tsv"), (*COLUMNS[:2], "trial_type", *COLUMNS[2:]), rows)
    return named("events.tsv")


def _subjects(streams: Sequence[str]) -> dict[str, str]:
    """Name each stream as BIDS does, with letters and digits alone, and no two alike."""
    names: dict[str, str] = {}
    for stream in streams:
        name = stem = re.sub(r"[^0-9A-Za-z]", "", stream) or "stream"
        n = 1
        while name in (names[other] for other in names if other != stream):
            n += 1
            name = f"{stem}x{n}"
        names.setdefault(stream, name)
    return names


def _as_edf(recordings: Sequence[Told], out: Path) -> list[Path]:
    paths = []
    for told in recordings:
        path = out / told.stream / f"{told.stem}.edf"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(_annotations_only(told))
        paths.append(path)
    return paths


def _annotations_only(told: Told) -> bytes:
    """Return an EDF+ file that holds annotations and nothing else: records last 0 s."""
    start = told.file.start
    fraction_s = start.microsecond / 1e6
    clock = f"+{fraction_s:.6f}".encode() + b"\x14\x14\0"
    records = [clock]
    for found in told.found:
        said = ["seizure", "found by a classifier"]
        said += [] if found.p is None else [f"p {found.p:.3f}"]
        said += [printable(", ".join(found.channels))] if found.channels else []
        text, at_s = "; ".join(said), fraction_s + found.onset_s
        note = f"+{at_s:.6f}\x15{found.duration_s:.6f}\x14{text}\x14\0".encode()
        if len(records[-1]) + len(note) > _EDF_RECORD_BYTES:
            records.append(clock)
        records[-1] += note
    with told.file.path.open("rb") as file:
        recording = file.read(168)[88:].decode("ascii")  # what it says of itself
    fields: list[tuple[object, int]] = [
        ("0", 8), ("X X X X", 80), (recording, 80), (f"{start:%d.%m.%y%H.%M.%S}", 16),
        (512, 8), ("EDF+C", 44), (len(records), 8), (0, 8), (1, 4), ("EDF Annotations", 16),
        ("", 80), ("", 8), (-1, 8), (1, 8), (-32768, 8), (32767, 8), ("", 80),
        (_EDF_RECORD_BYTES // 2, 8), ("", 32),
    ]  # fmt: skip
    header = "".join(str(value)[:width].ljust(width) for value, width in fields).encode("ascii")
    return header + b"".join(record.ljust(_EDF_RECORD_BYTES, b"\0") for record in records)


def _cell(text: str) -> str:
    """Return a label without what would end a table's cell, or make it a spreadsheet's formula."""
    return re.sub(r"[,\s]+|^[=+@-]", "_", printable(text)) or NOTHING


def _put_table(path: Path, columns: Sequence[str], rows: Sequence[dict[str, str]]) -> None:
    lines = ["\t".join(columns), *("\t".join(row[name] for name in columns) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _put_json(path: Path, fields: dict[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
