"""The data set on disk: finding it, checking it, reading it, grouping it by recording.

Two files are known:

* The *Epileptic Seizure Recognition* table (UCI 388): 11,500 rows of 178 samples, cut
  from 500 recordings of 23 rows each. Read by :func:`load_rows`.
* The recordings it was cut from (Andrzejak et al., Phys. Rev. E 64, 061907, 2001,
  doi 10.34810/data490): 500 text files of 4,097 samples at 173.61 Hz in one zip archive
  or five. Read by :func:`load_recordings`.

Nothing is read from either that its shape does not vouch for: a table that was cut,
shuffled by column or edited is refused, not trained on.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
import warnings
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

import numpy as np
import platformdirs

from stream_classifier.errors import DatasetInvalidError, DatasetNotFoundError
from stream_classifier.regular_file import read_regular

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

DATA_VARIABLE: Final = "STREAM_CLASSIFIER_DATA"
"""The environment variable that names the data folder."""

TABLE_NAME: Final = "Epileptic Seizure Recognition.csv"
TABLE_SHA256: Final = "5ac55c71de5df20d2f47c39300c5b61df18ac5d1c40315e586310b794c32a98b"
"""Of the table as spelled by its Kaggle copy: first column ``Unnamed``, CR LF line ends."""

N_ROWS: Final = 11_500
N_RECORDINGS: Final = 500
ROW_SAMPLES: Final = 178
ROWS_PER_RECORDING: Final = 23
ROW_RATE_HZ: Final = 178.0
"""The rate at which rows are replayed: 178 columns were published as one second."""

RECORDING_SAMPLES: Final = 4_097
RECORDING_RATE_HZ: Final = 173.61
"""The true rate of the recordings (Andrzejak et al. 2001)."""

SET_SHA256: Final = {
    "Z": "a5c47c552848fa55911f102fad4fcb18c09d5bfd92a9823937224155855e3928",
    "O": "2db43aad46c2049e621ec7dbb235034ede43b2de21479ce9526f80c429a0d660",
    "N": "5e0c6f76c1f5301871f0870ecf468f4c2a37213cb7bdb76fa292542d39004722",
    "F": "4a71eee1eb3256716d03e8ff8dbfcb5f6cbbe5e87e2e7a3ffa04ad3c511b1cd5",
    "S": "60e026b43f7886f7551669b97382d8c1c7811f52decddc3486b323da87256437",
}
"""Of each set's samples in the order of their files, as little-endian 16-bit integers: the
archives themselves differ by packer. Their first 4,094 samples are those of the table."""

_TABLE_PLACES: Final = (f"epileptic_seizure_recognition/{TABLE_NAME}", TABLE_NAME)
_SET_FOLDERS: Final = {"Z": "A_Z", "O": "B_O", "N": "C_N", "F": "D_F", "S": "E_S"}
_ARCHIVE_PLACES: Final = (("bonn_raw.zip",), tuple(f"{letter}.zip" for letter in _SET_FOLDERS))
_MEMBER_NAME: Final = re.compile(r"([ZONFS])(\d{3})\.txt", re.IGNORECASE)
_INTEGER: Final = re.compile(rb"\s*[-+]?\d+\s*")
_CLASS_OF_LABEL: Final = np.array([-1, 0, 1, 2, 2, 2], dtype=np.int8)

# Bounds on what a hostile or broken file may make us hold. The table has 7.6 MB, an
# archive's text files about 20 kB each.
MAX_FILE_BYTES: Final = 64 * 2**20
_MAX_MEMBER_BYTES: Final = 256 * 2**10
_MAX_MEMBERS: Final = 2_000
_MEMBER_SIGNATURE: Final = b"PK\x01\x02"
_INFLATABLE: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
"""Others are unpacked without a bound."""


@dataclass(frozen=True, slots=True, eq=False)
class SeizureRows:
    """The Epileptic Seizure Recognition table, its rows grouped by recording.

    Attributes:
        values: Shape ``(n_rows, 178)``, µV, int16, in file order.
        labels: Shape ``(n_rows,)``, 1..5 as in the file: 1 seizure, 2 tumour area,
            3 healthy area of the same brains, 4 eyes closed, 5 eyes open.
        recordings: Shape ``(n_rows,)``, the key of each row's recording: everything after
            the *first* dot of the id. The keys are irregular (``V1``, ``V11``, ``V1.1``):
            any cleverer reading merges different recordings.
        chunks: Shape ``(n_rows,)``, 1..23, the row's place in its recording.
        digest: SHA-256, in hexadecimal, of the file (in its canonical spelling).
        keys: The recordings' keys, in order of first appearance.

    Raises:
        ValueError: If a recording does not have the chunks 1..23 once each, all of one label.
    """

    values: NDArray[np.int16]
    labels: NDArray[np.int8]
    recordings: NDArray[np.str_]
    chunks: NDArray[np.int8]
    digest: str
    keys: tuple[str, ...] = field(init=False)
    _rows_by_key: dict[str, NDArray[np.intp]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        keys = tuple(dict.fromkeys(self.recordings.tolist()))
        place_of_key = {key: place for place, key in enumerate(keys)}
        places = np.array([place_of_key[key] for key in self.recordings.tolist()], dtype=np.intp)
        grouped = np.lexsort((self.chunks, places))  # by recording, then by chunk
        bounds = np.searchsorted(places[grouped], np.arange(len(keys) + 1))
        wanted = np.arange(1, ROWS_PER_RECORDING + 1)
        rows_by_key = {}
        for key, start, stop in zip(keys, bounds[:-1], bounds[1:], strict=True):
            rows = grouped[start:stop]
            if not np.array_equal(self.chunks[rows], wanted):
                chunks = self.chunks[rows].tolist()
                raise ValueError(f"recording {key!r} with the chunks {chunks}")
            if len(np.unique(self.labels[rows])) != 1:
                raise ValueError(f"recording {key!r} with more than one label")
            rows_by_key[key] = rows
        object.__setattr__(self, "keys", keys)
        object.__setattr__(self, "_rows_by_key", rows_by_key)

    @property
    def classes(self) -> NDArray[np.int8]:
        """Class of each row, shape ``(n_rows,)``: 0 seizure, 1 tumour, 2 normal."""
        return _CLASS_OF_LABEL[self.labels]

    def rows_of(self, key: str) -> NDArray[np.intp]:
        """Row numbers of one recording, shape ``(23,)``, in the order of time.

        Raises:
            KeyError: If there is no such recording.
        """
        return self._rows_by_key[key]

    def recording(self, key: str) -> NDArray[np.float32]:
        """One recording put together again, shape ``(4094,)``, µV.

        Raises:
            KeyError: If there is no such recording.
        """
        return self.values[self.rows_of(key)].ravel().astype(np.float32)

    def label_of(self, key: str) -> int:
        """Label 1..5 of one recording.

        Raises:
            KeyError: If there is no such recording.
        """
        return int(self.labels[self.rows_of(key)[0]])

    def class_of(self, key: str) -> int:
        """Class of one recording: 0 seizure, 1 tumour, 2 normal.

        Raises:
            KeyError: If there is no such recording.
        """
        return int(_CLASS_OF_LABEL[self.label_of(key)])


def places(data: Path | None = None) -> tuple[Path, ...]:
    """Where the data set is looked for, in order.

    Args:
        data: The folder or file the user named. It is then the only place, so that a
            misspelt path never silently falls back to other data.

    Returns:
        ``data`` alone, or the folder of ``STREAM_CLASSIFIER_DATA`` if set, then the
        user's cache.
    """
    if data is not None:
        return (data.expanduser(),)
    named = os.environ.get(DATA_VARIABLE)
    return (*((Path(named).expanduser(),) if named else ()), cache_folder())


def cache_folder() -> Path:
    """The user's own copy: where ``dataset fetch`` puts it."""
    return platformdirs.user_cache_path("stream_classifier", appauthor=False) / "data"


def find(data: Path | None = None) -> Path:
    """Find the table of rows.

    Args:
        data: A folder, or the CSV file itself; None to look in the usual places.

    Raises:
        DatasetNotFoundError: If it is in none of the places.
    """
    return _find(data, what="the data set (Epileptic Seizure Recognition)", suffix=".csv",
                 file_sets=tuple((place,) for place in _TABLE_PLACES))[0]  # fmt: skip


def find_recordings(data: Path | None = None) -> tuple[Path, ...]:
    """Find the archive of raw recordings: ``bonn_raw.zip``, or the five sets' archives.

    Args:
        data: A folder, or one zip file that holds all sets; None to look in the usual places.

    Raises:
        DatasetNotFoundError: If it is in none of the places.
    """
    file_sets = tuple(
        tuple(f"{folder}{name}" for name in names)
        for names in _ARCHIVE_PLACES
        for folder in ("bonn/", "")
    )
    return _find(data, what="the archive of raw recordings", suffix=".zip", file_sets=file_sets)


def load_rows(data: Path | None = None) -> SeizureRows:
    """Read and check the table of rows; about 0.2 s.

    Args:
        data: A folder, or the CSV file itself; None to look in the usual places.

    Raises:
        DatasetNotFoundError: If it is in none of the places.
        DatasetInvalidError: If its shape, labels, recordings or digest are wrong.
    """
    path = find(data)
    return parse_rows(_read_bounded(path), name=str(path))


def canonical_table(raw: bytes) -> bytes:
    """The file in the spelling whose digest is known: see ``TABLE_SHA256``."""
    header, *lines = raw.replace(b'"', b"").splitlines()
    _, _, columns = header.partition(b",")
    return b"\r\n".join([b"Unnamed," + columns, *lines, b""])


def parse_rows(raw: bytes, *, name: str = "table") -> SeizureRows:
    """Read and check the table of rows from the bytes of its CSV file.

    What is told first is what is most telling: shape, then labels, then recordings, and
    only then the digest, which says no more than that something differs.

    Args:
        raw: The file. Its first column may be called ``Unnamed`` or nothing at all and its
            lines may end in LF or CR LF; the digest is that of the canonical spelling.
        name: What to call the file in an error.

    Raises:
        DatasetInvalidError: If anything is not as published.
    """
    ids, numbers = _parse_csv(raw, name=name)
    labels = numbers[:, -1]
    counts = Counter(labels.tolist())
    if counts != dict.fromkeys(range(1, 6), N_ROWS // 5):
        raise DatasetInvalidError(
            path=name,
            expected=f"{N_ROWS // 5:,} rows for each label 1..5",
            found=", ".join(f"{n:,} with {label}" for label, n in sorted(counts.items())),
        )
    values = numbers[:, :-1]
    if np.abs(values).max() > np.iinfo(np.int16).max:
        raise DatasetInvalidError(
            path=name, expected="µV that fit 16 bits", found=f"{np.abs(values).max():,}"
        )
    chunk_of_row, key_of_row = _split_ids(ids, name=name)
    digest = hashlib.sha256(canonical_table(raw)).hexdigest()
    try:
        rows = SeizureRows(
            values=values.astype(np.int16),
            labels=labels.astype(np.int8),
            recordings=key_of_row,
            chunks=chunk_of_row,
            digest=digest,
        )
    except ValueError as error:
        raise DatasetInvalidError(
            path=name,
            expected="the chunks 1..23 of one label in each recording",
            found=str(error),
        ) from error
    if digest != TABLE_SHA256:
        raise DatasetInvalidError(
            path=name, expected=f"SHA-256 {TABLE_SHA256}", found=f"SHA-256 {digest}"
        )
    return rows


def load_recordings(data: Path | None = None) -> dict[str, NDArray[np.float32]]:
    """Read and check the raw recordings; about 0.3 s.

    Args:
        data: A folder, or one zip file that holds all sets; None to look in the usual places.

    Returns:
        500 recordings by key (``A_Z/Z001`` .. ``E_S/S100``, sorted), each of shape
        ``(4097,)``, µV, at 173.61 Hz. Sets A and B (labels 5 and 4) are scalp EEG of
        healthy people, C and D (3 and 2) intracranial between seizures, E (1) during them.

    Raises:
        DatasetNotFoundError: If the archive is in none of the places.
        DatasetInvalidError: If it is damaged or is not what was published.
    """
    recordings: dict[str, NDArray[np.float32]] = {}
    paths = find_recordings(data)
    for path, sets in zip(paths, ("ZONFS",) if len(paths) == 1 else "ZONFS", strict=True):
        recordings |= parse_recordings(_read_bounded(path), sets=sets, name=str(path))
    return dict(sorted(recordings.items()))


def parse_recordings(
    raw: bytes, *, sets: Iterable[str] = "ZONFS", name: str = "archive"
) -> dict[str, NDArray[np.float32]]:
    """Read and check raw recordings from the bytes of a zip archive.

    Args:
        raw: The archive. Recordings are known by their file names (``Z001.txt``), in
            whatever folders they lie; other files are passed over.
        sets: The letters of the sets that it must hold in full, of ``ZONFS``.
        name: What to call the archive in an error.

    Returns:
        As :func:`load_recordings`, in the archive's order.

    Raises:
        DatasetInvalidError: If anything is not as published.
    """
    recordings: dict[str, NDArray[np.float32]] = {}
    for key, samples in _read_archive(raw, name=name):
        if key in recordings:
            raise DatasetInvalidError(
                path=name, expected="each recording once", found=f"{key} twice"
            )
        recordings[key] = samples
    expected = {f"{_SET_FOLDERS[s]}/{s}{n:03d}" for s in sets for n in range(1, 101)}
    if differing := sorted(expected ^ recordings.keys()):
        raise DatasetInvalidError(
            path=name,
            expected=f"100 recordings in each of the sets {', '.join(sets)}",
            found=f"{len(differing)} absent or unknown ({', '.join(differing[:3])})",
        )
    for letter in sets:
        digest = hashlib.sha256()
        for number in range(1, 101):
            samples = recordings[f"{_SET_FOLDERS[letter]}/{letter}{number:03d}"]
            digest.update(samples.astype("<i2").tobytes())
        if digest.hexdigest() != SET_SHA256[letter]:
            raise DatasetInvalidError(
                path=name,
                expected=f"samples of set {letter} with SHA-256 {SET_SHA256[letter]}",
                found=f"SHA-256 {digest.hexdigest()}",
            )
    return recordings


def _find(
    data: Path | None, *, what: str, suffix: str, file_sets: tuple[tuple[str, ...], ...]
) -> tuple[Path, ...]:
    """The first place that holds all files of one of the sets."""
    looked_at: list[str] = []
    for place in places(data):
        if place.suffix.lower() == suffix and place.is_file():
            return (place,)
        for names in file_sets:
            candidates = tuple(place / name for name in names)
            if all(candidate.is_file() for candidate in candidates):
                return candidates
            looked_at.append(", ".join(map(str, candidates)))
    raise DatasetNotFoundError(what=what, looked_at=looked_at)


def _read_bounded(path: Path) -> bytes:
    try:
        return read_regular(path, limit_bytes=MAX_FILE_BYTES)
    except OSError as error:
        raise DatasetInvalidError(
            path=str(path), expected="a readable file", found=error.strerror or str(error)
        ) from error


def _parse_csv(raw: bytes, *, name: str) -> tuple[list[bytes], NDArray[np.int64]]:
    """Ids, and numbers of shape ``(11500, 179)``: 178 samples and the label."""
    header, *lines = raw.replace(b'"', b"").splitlines() or [b""]
    columns = header.split(b",")
    if columns[1:] != [b"X%d" % n for n in range(1, ROW_SAMPLES + 1)] + [b"y"]:
        raise DatasetInvalidError(
            path=name,
            expected=f"a header of an id, X1..X{ROW_SAMPLES} and y",
            found=header[:40].decode("ascii", "backslashreplace") or "nothing",
        )
    if len(lines) != N_ROWS:
        raise DatasetInvalidError(path=name, expected=f"{N_ROWS:,} rows", found=f"{len(lines):,}")
    ids, bodies = [], []
    for number, line in enumerate(lines, start=2):
        row_id, _, body = line.partition(b",")
        if body.count(b",") != ROW_SAMPLES:
            raise DatasetInvalidError(
                path=f"{name}, line {number}",
                expected=f"{ROW_SAMPLES + 2} columns",
                found=f"{line.count(b',') + 1}",
            )
        ids.append(row_id)
        bodies.append(body)
    try:
        flat = _parse_integers(b",".join(bodies), separator=",")
    except ValueError as error:
        for number, body in enumerate(bodies, start=2):
            for word in body.split(b","):
                if not _INTEGER.fullmatch(word):
                    raise DatasetInvalidError(
                        path=f"{name}, line {number}",
                        expected="integers",
                        found=repr(word[:40].decode("ascii", "backslashreplace")),
                    ) from error
        raise DatasetInvalidError(path=name, expected="integers", found=str(error)) from error
    return ids, flat.reshape(N_ROWS, ROW_SAMPLES + 1)


def _parse_integers(text: bytes, *, separator: str) -> NDArray[np.int64]:
    """Read integers, five times faster than ``np.loadtxt`` and without pandas.

    Raises:
        ValueError: If the text holds anything else.
    """
    with warnings.catch_warnings():
        # NumPy before 2.3 stops at the first thing that is no integer, and says so by a
        # deprecation; later ones raise a ValueError.
        warnings.simplefilter("error", DeprecationWarning)
        try:
            numbers: NDArray[np.int64] = np.fromstring(text, dtype=np.int64, sep=separator)
        except DeprecationWarning as warning:
            raise ValueError(str(warning)) from warning
    return numbers


def _split_ids(ids: list[bytes], *, name: str) -> tuple[NDArray[np.int8], NDArray[np.str_]]:
    """Chunk number and recording key of each row."""
    chunks, keys = [], []
    for row, row_id in enumerate(ids):
        chunk, _, key = row_id.decode("ascii", "backslashreplace").partition(".")
        if not re.fullmatch(r"X\d{1,2}", chunk, re.ASCII) or not key:
            raise DatasetInvalidError(
                path=f"{name}, line {row + 2}",
                expected="an id like X21.V1.791",
                found=repr(f"{chunk}.{key}"[:40]),
            )
        chunks.append(int(chunk[1:]))
        keys.append(key)
    return np.array(chunks, dtype=np.int8), np.array(keys, dtype=np.str_)


def _read_archive(raw: bytes, *, name: str) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Recordings of one zip archive, by key; nothing is ever unpacked to disk."""
    for member, text in read_zip(raw, wanted=_MEMBER_NAME, name=name):
        # The key comes from the bare file name, so a path in the archive leads nowhere.
        letter, number = member[0].upper(), member[1:4]
        yield (
            f"{_SET_FOLDERS[letter]}/{letter}{number}",
            _parse_recording(text, f"{name}, {member}"),
        )


def read_zip(
    raw: bytes, *, wanted: re.Pattern[str], name: str, max_bytes: int = _MAX_MEMBER_BYTES
) -> Iterator[tuple[str, bytes]]:
    """Members of a zip archive whose bare file name is wanted: that name, and the content.

    Raises:
        DatasetInvalidError: If the archive is damaged, encrypted, or would unpack to more
            than ``max_bytes`` a member.
    """
    # Counted before they are read: each takes more memory than it has bytes.
    n_members = raw.count(_MEMBER_SIGNATURE)
    if n_members > _MAX_MEMBERS:
        raise DatasetInvalidError(
            path=name, expected=f"at most {_MAX_MEMBERS:,} members", found=f"{n_members:,}"
        )
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            for member in archive.infolist():
                bare = PurePosixPath(member.filename).name
                if not wanted.fullmatch(bare):
                    continue  # folders, read-me files
                if member.compress_type not in _INFLATABLE:
                    raise DatasetInvalidError(
                        path=f"{name}, {member.filename}",
                        expected="members that are stored or deflated",
                        found=f"compression {member.compress_type}",
                    )
                if member.file_size > max_bytes:  # zipfile never inflates beyond this size
                    raise DatasetInvalidError(
                        path=f"{name}, {member.filename}",
                        expected=f"at most {max_bytes:,} bytes",
                        found=f"{member.file_size:,}",
                    )
                yield bare, archive.read(member)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OSError,
            OverflowError, struct.error) as error:  # fmt: skip
        # RuntimeError: encrypted, or of an unknown version; ValueError: names that are no text.
        raise DatasetInvalidError(
            path=name, expected="a readable zip archive", found=str(error)
        ) from error


def _parse_recording(text: bytes, name: str) -> NDArray[np.float32]:
    n_words = len(text.split())
    try:
        samples = _parse_integers(text, separator=" ")  # a blank stands for any white space
    except ValueError as error:
        raise DatasetInvalidError(
            path=name, expected=f"{RECORDING_SAMPLES:,} integers", found=str(error)
        ) from error
    if not len(samples) == n_words == RECORDING_SAMPLES:
        raise DatasetInvalidError(
            path=name, expected=f"{RECORDING_SAMPLES:,} integers", found=f"{n_words:,}"
        )
    return samples.astype(np.float32)
