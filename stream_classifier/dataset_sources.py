"""Where the data set can be had, and how what comes is checked before it is kept.

The addresses were public when they were written down and may be gone by now: the UCI
repository withdrew the table (its number 388), so copies are tried in turn. It does not
matter whose copy it is, since only the content that is known by its digest is accepted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from stream_classifier.datasets import (
    MAX_FILE_BYTES,
    SET_SHA256,
    TABLE_NAME,
    canonical_table,
    parse_recordings,
    parse_rows,
    read_zip,
)
from stream_classifier.errors import (
    DatasetInvalidError,
    DownloadError,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stream_classifier.download import Downloader


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSource:
    """One file of the data set, and where it is to be had.

    Attributes:
        title: What it is, for people.
        target: Where it belongs below the data folder.
        urls: Addresses, tried in turn; http or https. Each serves the file itself or, for
            the table, a zip archive that holds it as its only CSV file.
        page: Where a person finds it with a browser.
        keep: Checks a download, given its content and address, and returns what is to be
            written to the target.
    """

    title: str
    target: str
    urls: tuple[str, ...]
    page: str
    keep: Callable[[bytes, str], bytes]


def keep_table(raw: bytes, name: str) -> bytes:
    """Check a download of the table, and bring it to its canonical spelling.

    Args:
        raw: The CSV file, or a zip archive that holds it as its only CSV file.
        name: What to call it in an error.

    Raises:
        DatasetInvalidError: If it is anything else.
    """
    if raw.startswith(b"PK"):
        wanted = re.compile(r".*\.csv", re.IGNORECASE)
        tables = list(read_zip(raw, wanted=wanted, name=name, max_bytes=MAX_FILE_BYTES))
        if len(tables) != 1:
            raise DatasetInvalidError(
                path=name, expected="one CSV file in the archive", found=f"{len(tables)}"
            )
        raw = tables[0][1]
    parse_rows(raw, name=name)
    return canonical_table(raw)


def keep_recordings(*sets: str) -> Callable[[bytes, str], bytes]:
    """Make the check of an archive of raw recordings; the archive is kept as it came.

    Args:
        sets: Letters of the sets that it must hold, of ``ZONFS``.
    """

    def keep(raw: bytes, name: str) -> bytes:
        parse_recordings(raw, sets=sets, name=name)
        return raw

    return keep


ROWS: Final = DatasetSource(
    title="Epileptic Seizure Recognition table",
    target=f"epileptic_seizure_recognition/{TABLE_NAME}",
    urls=(
        # A zip archive; Kaggle serves public data sets there without an account.
        "https://www.kaggle.com/api/v1/datasets/download/harunshimanto/epileptic-seizure-recognition",
        # UCI's own file as archived in 2020 ("id_": as it was, without the archive's banner).
        "https://web.archive.org/web/20200318000445id_/http://archive.ics.uci.edu/ml/machine-learning-databases/00388/data.csv",
        # UCI's own address; withdrawn at the time of writing.
        "https://archive.ics.uci.edu/ml/machine-learning-databases/00388/data.csv",
    ),
    page="https://www.kaggle.com/datasets/harunshimanto/epileptic-seizure-recognition",
    keep=keep_table,
)

_UPF_BITSTREAMS: Final = {
    "Z": "bb2c41b0-6c8b-4c9c-b7c0-62f4f87c9b48",
    "O": "ca3563e5-09bb-4373-84b3-c707e724432a",
    "N": "8b2c6173-2538-41ac-bff9-d569755ade66",
    "F": "91342498-960f-410f-9df8-42f3c4da2b45",
    "S": "500b0f1d-aa9b-49c2-abd8-0410acd4b86c",
}

RECORDINGS: Final = tuple(
    DatasetSource(
        title=f"raw recordings, set {letter}",
        target=f"bonn/{letter}.zip",
        urls=(
            # Universitat Pompeu Fabra, the present home of the recordings (doi 10.34810/data490).
            f"https://repositori.upf.edu/server/api/core/bitstreams/{bitstream}/content",
            # Bonn, where they were first published.
            f"http://epileptologie-bonn.de/cms/upload/workgroup/lehnertz/{letter}.zip",
        ),
        page="https://doi.org/10.34810/data490",
        keep=keep_recordings(letter),
    )
    for letter, bitstream in _UPF_BITSTREAMS.items()
)


def rows_at(url: str) -> DatasetSource:
    """The table at an address of the user's own."""
    return replace(ROWS, urls=(url,))


def recordings_at(url: str) -> DatasetSource:
    """The archive of all five sets at an address of the user's own."""
    return replace(
        RECORDINGS[0],
        title="raw recordings, all sets",
        target="bonn/bonn_raw.zip",
        urls=(url,),
        keep=keep_recordings(*SET_SHA256),
    )


def fetch(source: DatasetSource, folder: Path, downloader: Downloader) -> Path:
    """Download one file of the data set into the data folder.

    Args:
        source: What, and from where; its addresses are tried in turn.
        folder: The data folder.
        downloader: How.

    Returns:
        Where it lies now, checked.

    Raises:
        DownloadError: If no address delivered it; says what each of them answered.
    """
    failures: list[DownloadError] = []
    for url in source.urls:
        try:
            return downloader.download(url, folder / source.target, keep=source.keep)
        except DatasetInvalidError as error:
            failures.append(
                DownloadError(
                    f"{url} does not serve the {source.title}: expected {error.expected}, "
                    f"found {error.found}. Nothing of it was kept"
                )
            )
        except DownloadError as error:
            failures.append(error)
    listed = "".join(f"\n  {failure}" for failure in failures)
    raise DownloadError(
        f"the {source.title} could not be downloaded:{listed}\n"
        f"Try: another address with --url; or save it from {source.page} "
        f"as {folder / source.target}"
    )
