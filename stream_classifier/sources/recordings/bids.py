"""A folder of recordings: which files are some, and what lies beside them.

BIDS (bids-specification.readthedocs.io, Electroencephalography): ``sub-*/ses-*/eeg/*_eeg.edf`` with
the tables ``*_channels.tsv`` and ``*_events.tsv``, in the same folder or, by the inheritance
principle, further up. Any other folder will do, too; a table of events is then called as the
recording is (``night.edf``, ``night.tsv`` or ``night_events.tsv``), as in SzCORE.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from stream_classifier.regular_file import open_regular
from stream_classifier.sources.channels import ChannelText
from stream_classifier.sources.recordings import marks
from stream_classifier.sources.recordings.material import Seizure, Sidecar

SUFFIXES: Final = frozenset({".edf", ".bdf", ".xdf", ".csv"})
"""What is read, besides ``.txt`` of the OpenBCI GUI."""

UNREAD: Final = frozenset({".vhdr", ".set", ".fif", ".cnt", ".gdf", ".mef", ".nwb", ".xdfz"})
"""Other formats of EEG, so that leaving them out is said."""

DATASET: Final = "dataset_description.json"
_NOT_RAW: Final = frozenset({"derivatives", "sourcedata", "code", "stimuli"})
_PARTS: Final = ("eeg", "ieeg")
_MOST_LEVELS: Final = 4


def find(folder: Path) -> Iterator[Path]:
    """Yield files that are, or may be, recordings, in sorted order; hidden ones are passed over."""
    for place, folders, files in os.walk(folder):
        is_dataset = DATASET in files
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and not (is_dataset and name in _NOT_RAW)
        )
        for name in sorted(files):
            path = Path(place, name)
            suffix = path.suffix.lower()
            if name.startswith("."):
                continue
            if suffix in SUFFIXES or suffix in UNREAD or (suffix == ".txt" and is_openbci(path)):
                yield path


def is_openbci(path: Path) -> bool:
    """Whether a text file is one of the OpenBCI GUI."""
    try:
        with open_regular(path) as file:
            return file.read(8) == b"%OpenBCI"
    except OSError:
        return False


def sidecar(path: Path) -> Sidecar:
    """Read what BIDS says of a recording's channels.

    Raises:
        RecordingInvalidError: If the table is damaged.
    """
    table = _beside(path, "channels")
    if table is None:
        return Sidecar()
    channels: dict[str, ChannelText] = {}
    bad = set()
    for row in marks.read_tsv(table):
        label = row.get("name", "")
        channels[label] = ChannelText(
            label=label, unit=_said(row.get("units", "")), type=_said(row.get("type", ""))
        )
        if row.get("status", "").lower() == "bad":
            bad.add(label)
    return Sidecar(channels=channels, bad=frozenset(bad))


def seizures(path: Path) -> tuple[Seizure, ...] | None:
    """Read the seizures that a table beside a recording marks; None where there is none.

    Raises:
        RecordingInvalidError: If the table is damaged.
    """
    tables = (
        _beside(path, "events"),
        path.with_suffix(".tsv"),
        path.with_name(f"{path.stem}_events.tsv"),
    )
    for table in tables:
        if table is not None and os.path.isfile(table):  # noqa: PTH113 - its name may be too long
            found = marks.read_table(table)
            if found is not None:
                return found
    return None


def _beside(path: Path, kind: str) -> Path | None:
    """Find the table of a kind that belongs to a recording: the nearest, and most specific, one."""
    entities, _, part = path.stem.rpartition("_")
    if part not in _PARTS or not entities:
        return None
    mine = set(entities.split("_"))
    folder = path.parent
    for _ in range(_MOST_LEVELS):
        matches = [
            (len(theirs), table)
            for table in sorted(folder.glob(f"*_{kind}.tsv"))
            if (theirs := set(table.stem.split("_")[:-1])) <= mine
        ]
        if (own := folder / f"{kind}.tsv").is_file():
            matches.append((0, own))
        if matches:
            return max(matches, key=lambda match: match[0])[1]
        if (folder / DATASET).is_file() or folder.parent == folder:
            return None
        folder = folder.parent
    return None


def _said(cell: str) -> str:
    return "" if cell.lower() == "n/a" else cell
