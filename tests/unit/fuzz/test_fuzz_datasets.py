"""The data set's files and what a server says of them: as published, or refused with a reason."""

from __future__ import annotations

import contextlib
import io
import json
import os
import zipfile

import numpy as np
import pytest

from stream_classifier import datasets, download
from stream_classifier.errors import DatasetError, DatasetInvalidError

N_ROWS = 23 * 5


def _table():
    rng = np.random.default_rng(0)
    header = ",".join(["Unnamed", *(f"X{n}" for n in range(1, 179)), "y"])
    lines = [
        f"X{row % 23 + 1}.V1.{row // 23}," + ",".join(map(str, [*values, row // 23 + 1]))
        for row, values in enumerate(rng.integers(-100, 100, (N_ROWS, 178)).tolist())
    ]
    return "\r\n".join([header, *lines, ""]).encode()


def _archive(compression=zipfile.ZIP_DEFLATED, n=5, text=b"12\n" * 4097):
    with io.BytesIO() as raw:
        with zipfile.ZipFile(raw, "w", compression) as archive:
            for number in range(1, n + 1):
                archive.writestr(f"S/S{number:03d}.txt", text)
        return raw.getvalue()


def test_a_damaged_table_is_refused(n_cases, mutated, refused, monkeypatch):
    monkeypatch.setattr(datasets, "N_ROWS", N_ROWS)
    whole = _table()
    reasons = set()
    for _ in range(n_cases):
        try:
            datasets.parse_rows(mutated(whole))
        except DatasetInvalidError as error:
            reasons.add(error.expected.split()[0])
        else:
            pytest.fail("a table that is not the published one was taken")
    assert len(reasons) > 3  # each is told what is wrong, not only that the digest is
    assert refused(lambda: datasets.parse_rows(b"\0" * 10**6))


def test_a_damaged_archive_is_refused(n_cases, mutated, refused):
    whole = _archive()
    other = _archive(zipfile.ZIP_BZIP2)
    for _ in range(n_cases):
        raw = mutated(whole, other)
        assert refused(lambda raw=raw: datasets.parse_recordings(raw, sets="S"))


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (_archive(text=b"1 " * 10**6), "bytes"),
        (_archive(zipfile.ZIP_BZIP2), "stored or deflated"),
        (_archive(zipfile.ZIP_LZMA), "stored or deflated"),
        (_archive(text=b"9" * 5000), "integers"),
        (_archive(text=b"9" * 20 + b" 1" * 4096), None),
        (_archive(text=b"\xff\0" * 100), "integers"),
        (_archive() + b"PK\1\2" * 3_000, "members"),
        (_archive().replace(b"S/S001.txt", b"S/S\xff01.txt"), None),
    ],
    ids=range(8),
)
def test_an_archive_that_would_unpack_to_more_or_to_nonsense_is_refused(raw, reason):
    with pytest.raises(DatasetInvalidError, match=reason):
        datasets.parse_recordings(raw, sets="S")


def test_a_name_in_an_archive_leads_nowhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with io.BytesIO() as raw:
        with zipfile.ZipFile(raw, "w") as archive:
            for name in ("../../S001.txt", "/etc/S002.txt", "S003.txt/../../x", "C:\\S004.txt"):
                archive.writestr(name, b"1 " * 4097)
        with pytest.raises(DatasetInvalidError):
            datasets.parse_recordings(raw.getvalue(), sets="S")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
@pytest.mark.timeout(20)
def test_a_pipe_a_device_or_ten_gigabytes_are_no_data_set(tmp_path):
    folder = tmp_path / "epileptic_seizure_recognition"
    folder.mkdir()
    table = folder / datasets.TABLE_NAME
    os.mkfifo(table)
    with pytest.raises(DatasetError):
        datasets.load_rows(tmp_path)
    table.unlink()
    table.symlink_to("/dev/zero")
    with pytest.raises(DatasetError):
        datasets.load_rows(tmp_path)
    table.unlink()
    with table.open("wb") as file:
        file.truncate(10 * 2**30)
    with pytest.raises(DatasetInvalidError, match="at most"):
        datasets.load_rows(tmp_path)


class _Response:
    """What a server answers."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self._body = status, headers, io.BytesIO(body)

    def read(self, n):
        return self._body.read(n)


HEADERS = ("ETag", "Last-Modified", "Content-Range", "Content-Length", "X")


def test_whatever_a_server_says_a_download_is_finished_or_refused(tmp_path, n_cases, rng, mutated):
    part = tmp_path / "x.part"
    downloader = download.Downloader(max_bytes=10_000)
    odd = (
        b"bytes 10-19/20",
        b"9" * 5000,
        b"bytes */20",
        b"-1",
        b"\xc2\xb2",
        b'W/"a"',
        b'"a"',
        b"20",
    )
    for _ in range(n_cases):
        origin = rng.choice((None, download._Origin(validator='"a"', total=20)))
        if origin:
            part.write_bytes(b"x" * 10)
            origin.write(part)
        headers = {
            name: mutated(rng.choice(odd)).decode("latin-1")
            for name in rng.sample(HEADERS, rng.randrange(4))
        }
        response = _Response(rng.choice((200, 206)), headers, b"x" * rng.choice((0, 10, 20_000)))
        with contextlib.suppress(DatasetError, download._BrokenError):
            downloader._append(response, "http://h/x", part, origin)
        assert not part.exists() or part.stat().st_size <= 10_000 + download.BLOCK_BYTES


def test_a_damaged_note_beside_a_download_is_as_none(tmp_path, n_cases, mutated):
    part = tmp_path / "x.part"
    part.touch()
    origin = download._Origin(validator='"abc"', total=20)
    origin.write(part)
    note = download._note(part)
    whole = note.read_bytes()
    assert download._Origin.of(part) == origin
    for raw in (b"[" * 10_000, b'{"validator":' * 5_000, b"9" * 5_000, b"\xff", b"null"):
        note.write_bytes(raw)
        assert download._Origin.of(part) is None
    for _ in range(n_cases):
        note.write_bytes(mutated(whole, json.dumps({"a": [1]}).encode()))
        found = download._Origin.of(part)
        assert found is None or isinstance(found.total, int | None)
