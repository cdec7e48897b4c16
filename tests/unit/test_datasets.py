"""The data set: found where it is said to be, and refused where it is not what it should be."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_classifier import dataset_sources, datasets
from stream_classifier.datasets import SeizureRows, load_recordings, load_rows, parse_rows
from stream_classifier.errors import DatasetInvalidError, DatasetNotFoundError

N_KEYS, N_CHUNKS, N_SAMPLES = 500, 23, 178


# -- a table of the right shape, made of noise -------------------------------------------------


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """A header and 11,500 rows that pass every check but the digest, in a random order."""
    rng = np.random.default_rng(7)
    values = rng.integers(-300, 300, (N_KEYS * N_CHUNKS, N_SAMPLES))
    rows = [
        f"X{chunk}.V{key % 7}.{key}," + ",".join(map(str, row)) + f",{key % 5 + 1}"
        for (key, chunk), row in zip(
            ((key, chunk) for key in range(N_KEYS) for chunk in range(1, N_CHUNKS + 1)),
            values.tolist(),
            strict=True,
        )
    ]
    header = "Unnamed," + ",".join(f"X{n}" for n in range(1, N_SAMPLES + 1)) + ",y"
    return [header, *rng.permutation(rows).tolist()]


def as_csv(lines: list[str], end: str = "\r\n") -> bytes:
    return "".join(line + end for line in lines).encode()


@pytest.fixture
def published(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The noise, held to be the published table."""
    raw = as_csv(lines)
    monkeypatch.setattr(datasets, "TABLE_SHA256", hashlib.sha256(raw).hexdigest())
    return raw


def test_a_table_as_published_is_read_in_file_order(published: bytes, lines: list[str]) -> None:
    rows = parse_rows(published)
    assert rows.values.shape == (11_500, 178)
    assert rows.values.dtype == np.int16
    first_id, *first = lines[1].split(",")
    assert rows.values[0].tolist() == [int(value) for value in first[:-1]]
    assert rows.labels[0] == int(first[-1])
    assert f"X{rows.chunks[0]}.{rows.recordings[0]}" == first_id
    assert len(rows.keys) == N_KEYS
    assert rows.digest == hashlib.sha256(published).hexdigest()


def test_the_three_classes_are_seizure_tumour_and_the_rest(published: bytes) -> None:
    rows = parse_rows(published)
    assert [set(rows.classes[rows.labels == label]) for label in range(1, 6)] == [
        {0}, {1}, {2}, {2}, {2},
    ]  # fmt: skip
    assert np.bincount(rows.classes).tolist() == [2_300, 2_300, 6_900]


@pytest.mark.parametrize("first_column", ["", '""', "Unnamed"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_spelling_of_header_and_line_ends_does_not_matter(
    published: bytes, lines: list[str], first_column: str, end: str
) -> None:
    header = first_column + lines[0].removeprefix("Unnamed")
    rows = parse_rows(as_csv([header, *lines[1:]], end))
    assert rows.digest == hashlib.sha256(published).hexdigest()


def test_a_table_that_differs_in_one_digit_is_refused_with_both_digests(
    published: bytes, lines: list[str]
) -> None:
    changed = [*lines]
    row_id, _, others = changed[5].split(",", 2)
    changed[5] = f"{row_id},301,{others}"  # 301 is in none of the rows
    with pytest.raises(DatasetInvalidError, match="SHA-256") as caught:
        parse_rows(as_csv(changed))
    assert hashlib.sha256(published).hexdigest() in str(caught.value)
    assert hashlib.sha256(as_csv(changed)).hexdigest() in str(caught.value)


def edited(lines: list[str], row: int, text: str) -> list[str]:
    return [*lines[:row], text, *lines[row + 1 :]]


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda lines: [], "found nothing"),
        (lambda lines: ["<!doctype html>", "<p>"], "found <!doctype html>"),
        (lambda lines: lines[:-1], "expected 11,500 rows, found 11,499"),
        (lambda lines: edited(lines, 9, lines[9] + ",1"), "line 10: expected 180 columns"),
        (lambda lines: edited(lines, 9, lines[9].rpartition(",")[0]), "found 179"),
        (lambda lines: edited(lines, 9, lines[9].replace(",", ",x", 1)), "line 10: expected int"),
        (lambda lines: edited(lines, 9, lines[9].replace(",", ",,", 1)[:-2]), "line 10"),
        (lambda lines: edited(lines, 9, lines[9].replace(",", ",0.5", 1)), "line 10"),
        (lambda lines: edited(lines, 9, lines[9].replace(",", ",99999", 1)), "16 bits"),
        (lambda lines: edited(lines, 9, lines[9][:-1] + "7"), "1 with 7"),
        (lambda lines: edited(lines, 9, "Y" + lines[9][1:]), "an id like"),
        (lambda lines: edited(lines, 9, "X99" + lines[9][lines[9].index(".") :]), "chunks"),
    ],
)
def test_what_is_wrong_is_said_rather_than_that_the_digest_differs(
    lines: list[str], edit, told: str
) -> None:
    with pytest.raises(DatasetInvalidError, match=told) as caught:
        parse_rows(as_csv(edit(lines)))
    assert "SHA-256" not in str(caught.value)


def test_a_recording_with_two_labels_is_refused(lines: list[str]) -> None:
    one = next(n for n, line in enumerate(lines) if line.endswith(",1"))
    two = next(n for n, line in enumerate(lines) if line.endswith(",2"))
    swapped = edited(lines, one, lines[one][:-1] + "2")
    swapped = edited(swapped, two, lines[two][:-1] + "1")
    with pytest.raises(DatasetInvalidError, match="more than one label"):
        parse_rows(as_csv(swapped))


# -- grouping -----------------------------------------------------------------------------------


def small_table(keys: list[str], order: list[int]) -> SeizureRows:
    """One value a row tells recording and chunk; ``order`` is that of the rows."""
    recordings = np.repeat(np.array(keys), N_CHUNKS)[order]
    chunks = np.tile(np.arange(1, N_CHUNKS + 1, dtype=np.int8), len(keys))[order]
    marks = np.arange(len(keys) * N_CHUNKS, dtype=np.int16)[order]
    labels = np.repeat(np.arange(len(keys)) % 5 + 1, N_CHUNKS)[order].astype(np.int8)
    values = np.repeat(marks[:, np.newaxis], N_SAMPLES, axis=1)
    return SeizureRows(
        values=values, labels=labels, recordings=recordings, chunks=chunks, digest=""
    )


@given(st.permutations(range(4 * N_CHUNKS)))
def test_a_recording_is_put_together_in_time_whatever_the_order_of_the_rows(
    order: list[int],
) -> None:
    keys = ["V1", "V11", "V1.1", "V1.791"]  # a pattern V1.?<digits> would merge these
    table = small_table(keys, order)
    assert set(table.keys) == set(keys)
    assert table.keys == tuple(dict.fromkeys(table.recordings.tolist()))
    for place, key in enumerate(keys):
        expected = np.repeat(np.arange(place * N_CHUNKS, (place + 1) * N_CHUNKS), N_SAMPLES)
        np.testing.assert_array_equal(table.recording(key), expected)
        assert table.chunks[table.rows_of(key)].tolist() == list(range(1, N_CHUNKS + 1))
        assert table.label_of(key) == place + 1
        assert table.class_of(key) == (0, 1, 2, 2)[place]


def test_an_unknown_recording_is_an_error() -> None:
    with pytest.raises(KeyError):
        small_table(["V1"], list(range(N_CHUNKS))).recording("V2")


# -- finding ------------------------------------------------------------------------------------


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No data set anywhere; returns the user's cache."""
    monkeypatch.delenv(datasets.DATA_VARIABLE, raising=False)
    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets, "cache_folder", lambda: cache)
    return cache


def put(folder: Path, name: str = f"epileptic_seizure_recognition/{datasets.TABLE_NAME}") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_the_named_folder_comes_first_then_the_environment_then_the_cache(
    empty_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_cache = put(empty_home)
    assert datasets.find() == in_cache
    in_environment = put(tmp_path / "environment")
    monkeypatch.setenv(datasets.DATA_VARIABLE, str(tmp_path / "environment"))
    assert datasets.find() == in_environment
    named = put(tmp_path / "named")
    assert datasets.find(tmp_path / "named") == named


def test_a_named_folder_without_the_data_never_falls_back_to_other_data(
    empty_home: Path, tmp_path: Path
) -> None:
    put(empty_home)
    with pytest.raises(DatasetNotFoundError, match="mistyped") as caught:
        datasets.find(tmp_path / "mistyped")
    assert str(empty_home) not in str(caught.value)


def test_the_table_may_be_named_itself_or_lie_directly_in_the_folder(
    empty_home: Path, tmp_path: Path
) -> None:
    direct = put(tmp_path, datasets.TABLE_NAME)
    assert datasets.find(tmp_path) == direct
    other = put(tmp_path, "copy.CSV")
    assert datasets.find(other) == other


def test_what_was_looked_at_is_said(
    empty_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(datasets.DATA_VARIABLE, str(tmp_path / "environment"))
    with pytest.raises(DatasetNotFoundError) as caught:
        load_rows()
    assert str(empty_home) in str(caught.value)
    assert str(tmp_path / "environment") in str(caught.value)
    assert "dataset fetch" in str(caught.value)


def test_five_archives_are_found_only_together(empty_home: Path) -> None:
    for letter in "ZONF":
        put(empty_home, f"bonn/{letter}.zip")
    with pytest.raises(DatasetNotFoundError):
        datasets.find_recordings()
    put(empty_home, "bonn/S.zip")
    assert [path.name for path in datasets.find_recordings()] == [
        "Z.zip", "O.zip", "N.zip", "F.zip", "S.zip",
    ]  # fmt: skip


# -- raw recordings -----------------------------------------------------------------------------


def recording_text(value: int) -> bytes:
    return b"".join(b"%d\r\n" % (value + n % 3) for n in range(4_097))


@pytest.fixture(scope="module")
def members() -> dict[str, bytes]:
    """File names as in the published archives, one set of them in capitals."""
    return {
        f"{folder}/{letter}{number:03d}.{ending}": recording_text(number)
        for folder, letter, ending in (
            ("A_Z", "Z", "txt"),
            ("B_O", "O", "txt"),
            ("C_N", "N", "TXT"),
            ("D_F", "F", "txt"),
            ("E_S", "S", "txt"),
        )
        for number in range(1, 101)
    }


@pytest.fixture
def any_samples_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold the samples of ``members`` for the published ones."""
    digest = hashlib.sha256()
    for number in range(1, 101):
        samples = np.array(recording_text(number).split(), dtype="<i2")
        digest.update(samples.tobytes())
    monkeypatch.setattr(datasets, "SET_SHA256", dict.fromkeys("ZONFS", digest.hexdigest()))


def archive(members: dict[str, bytes], path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


@pytest.mark.usefixtures("any_samples_do")
def test_recordings_come_under_their_set_and_number(
    members: dict[str, bytes], tmp_path: Path
) -> None:
    recordings = load_recordings(archive(members, tmp_path / "all.zip"))
    assert len(recordings) == 500
    assert next(iter(recordings)) == "A_Z/Z001"
    assert list(recordings)[-1] == "E_S/S100"
    assert recordings["C_N/N007"].shape == (4_097,)
    assert recordings["C_N/N007"][:4].tolist() == [7.0, 8.0, 9.0, 7.0]
    assert recordings["C_N/N007"].dtype == np.float32


@pytest.mark.usefixtures("any_samples_do")
def test_one_archive_or_five_make_no_difference(members: dict[str, bytes], tmp_path: Path) -> None:
    for letter in "ZONFS":
        one_set = {n: c for n, c in members.items() if f"/{letter}" in n}
        archive(one_set, tmp_path / f"{letter}.zip")
    from_five = load_recordings(tmp_path)
    from_one = load_recordings(archive(members, tmp_path / "all.zip"))
    assert list(from_five) == list(from_one)
    assert all(np.array_equal(from_five[key], from_one[key]) for key in from_one)


@pytest.mark.usefixtures("any_samples_do")
def test_a_path_in_an_archive_leads_nowhere(members: dict[str, bytes], tmp_path: Path) -> None:
    hostile = {f"../../../etc/{name}": content for name, content in members.items()}
    before = sorted(tmp_path.rglob("*"))
    path = archive(hostile, tmp_path / "all.zip")
    assert next(iter(load_recordings(path))) == "A_Z/Z001"
    assert sorted(tmp_path.rglob("*")) == [*before, path]


@pytest.mark.usefixtures("any_samples_do")
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"A_Z/Z001.txt": None}, "1 absent or unknown"),
        ({"A_Z/Z101.txt": recording_text(1)}, "A_Z/Z101"),
        ({"other/Z001.txt": recording_text(1)}, "A_Z/Z001 twice"),
        ({"A_Z/Z001.txt": b"1\n2\n"}, "4,097 integers"),
        ({"A_Z/Z001.txt": recording_text(1)[:-3] + b"x"}, "4,097 integers"),
        ({"A_Z/Z001.txt": b"0\n" * 4_097}, "SHA-256"),
        ({"A_Z/Z001.txt": b"0" * 300_000}, "at most 262,144 bytes"),
    ],
)
def test_an_archive_that_is_not_as_published_is_refused(
    members: dict[str, bytes], tmp_path: Path, change: dict[str, bytes | None], told: str
) -> None:
    changed = {**members, **change}
    kept = {name: content for name, content in changed.items() if content is not None}
    with pytest.raises(DatasetInvalidError, match=told):
        load_recordings(archive(kept, tmp_path / "all.zip"))


def test_a_damaged_archive_is_refused(members: dict[str, bytes], tmp_path: Path) -> None:
    path = archive(members, tmp_path / "all.zip")
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DatasetInvalidError, match="a readable zip archive"):
        load_recordings(path)


def test_a_flipped_byte_in_an_archive_is_refused(members: dict[str, bytes], tmp_path: Path) -> None:
    path = archive(members, tmp_path / "all.zip")
    raw = bytearray(path.read_bytes())
    raw[200] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(DatasetInvalidError, match=r"all\.zip"):
        load_recordings(path)


# -- what fetching accepts ----------------------------------------------------------------------


def test_a_download_of_the_table_is_kept_in_its_canonical_spelling(
    published: bytes, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = as_csv([lines[0].removeprefix("Unnamed"), *lines[1:]], "\n")
    assert dataset_sources.keep_table(other, "download") == published


def test_a_table_in_a_zip_archive_is_unpacked(published: bytes) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("any name.csv", published)
    assert dataset_sources.keep_table(buffer.getvalue(), "download") == published


# -- the real thing -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_rows() -> SeizureRows:
    try:
        return load_rows()
    except DatasetNotFoundError as error:
        pytest.skip(str(error))


@pytest.mark.dataset
def test_the_published_table_is_accepted(real_rows: SeizureRows) -> None:
    assert real_rows.digest == datasets.TABLE_SHA256
    assert len(real_rows.keys) == 500
    assert real_rows.keys[:3] == ("V1.791", "V1.924", "V1.1")
    assert {"V1", "V11", "V1.1"} <= set(real_rows.keys)


@pytest.mark.dataset
def test_every_recording_of_the_table_is_the_beginning_of_a_raw_one(
    real_rows: SeizureRows,
) -> None:
    try:
        recordings = load_recordings()
    except DatasetNotFoundError as error:
        pytest.skip(str(error))
    set_of_beginning = {raw[:4094].tobytes(): key[0] for key, raw in recordings.items()}
    set_of_label = {1: "E", 2: "D", 3: "C", 4: "B", 5: "A"}
    for key in real_rows.keys:
        found = set_of_beginning.pop(real_rows.recording(key).tobytes())
        assert found == set_of_label[real_rows.label_of(key)]
    assert not set_of_beginning
