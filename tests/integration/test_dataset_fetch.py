"""Downloads from a server that misbehaves in every way a download meets in life."""

from __future__ import annotations

import hashlib
import os
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from stream_classifier import dataset_sources, datasets
from stream_classifier.cli import main
from stream_classifier.dataset_sources import DatasetSource
from stream_classifier.download import Downloader
from stream_classifier.errors import DatasetInvalidError, DownloadError

CONTENT = np.random.default_rng(1).bytes(300_000)
OTHER = np.random.default_rng(2).bytes(300_000)


@dataclass
class Answer:
    """What the server does to one request.

    ``stop_after`` breaks the connection after so many bytes of the body.
    """

    content: bytes = CONTENT
    status: int = 200
    stop_after: int | None = None
    etag: str = '"one"'
    speaks_range: bool = True
    says_length: bool = True
    location: str | None = None
    shift: int = 0  # of the resumed range: a server that counts wrongly


@dataclass
class Server:
    """An HTTP server on this machine that answers as told; the last answer is repeated."""

    answers: list[Answer] = field(default_factory=lambda: [Answer()])
    requests: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    def answer(self) -> Answer:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
def server() -> Iterator[Server]:
    script = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            script.requests.append(dict(self.headers))
            answer = script.answer()
            wanted = self.headers.get("Range")
            still_same = self.headers.get("If-Range", answer.etag) == answer.etag
            body, status = answer.content, answer.status
            if status == 200 and answer.speaks_range and wanted and still_same:
                start = int(wanted.removeprefix("bytes=").partition("-")[0]) + answer.shift
                status = 206 if start < len(body) else 416
                body = body[start:] if status == 206 else b""
            self.send_response(status)
            if status == 206:
                total = len(answer.content)
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            if answer.says_length:
                self.send_header("Content-Length", str(len(body)))
            if answer.etag:
                self.send_header("ETag", answer.etag)
            if answer.location is not None:
                self.send_header("Location", answer.location)
            self.end_headers()
            self.wfile.write(body[: answer.stop_after])
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    script.url = f"http://127.0.0.1:{http.server_port}/data.bin"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield script
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture
def naps() -> list[float]:
    """How long the downloader would have slept."""
    return []


@pytest.fixture
def downloader(naps: list[float], monkeypatch: pytest.MonkeyPatch) -> Downloader:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return Downloader(timeout_s=5.0, tries=3, max_bytes=1_000_000, sleep=naps.append)


def as_it_came(raw: bytes, _name: str) -> bytes:
    return raw


def only(content: bytes) -> Callable[[bytes, str], bytes]:
    """Accept that content alone, as the data set's own checks do."""

    def keep(raw: bytes, name: str) -> bytes:
        expected, found = (hashlib.sha256(data).hexdigest() for data in (content, raw))
        if expected != found:
            raise DatasetInvalidError(
                path=name, expected=f"SHA-256 {expected}", found=f"SHA-256 {found}"
            )
        return raw

    return keep


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def ranges(server: Server) -> list[str | None]:
    return [request.get("Range") for request in server.requests]


def test_a_file_arrives_whole_and_nothing_else_stays(
    server: Server, downloader: Downloader, tmp_path: Path
) -> None:
    target = downloader.download(server.url, tmp_path / "data.bin", keep=only(CONTENT))
    assert target.read_bytes() == CONTENT
    assert files(tmp_path) == ["data.bin"]


def test_progress_is_told_up_to_the_last_byte(server: Server, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    downloader = Downloader(progress=lambda done, total: told.append((done, total)))
    downloader.download(server.url, tmp_path / "data.bin", keep=as_it_came)
    assert told[0] == (0, len(CONTENT))
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert told == sorted(told)


def test_a_broken_download_goes_on_where_it_broke(
    server: Server, downloader: Downloader, tmp_path: Path
) -> None:
    server.answers = [Answer(stop_after=100_000), Answer(stop_after=50_000), Answer()]
    target = downloader.download(server.url, tmp_path / "data.bin", keep=only(CONTENT))
    assert target.read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=100000-", "bytes=150000-"]
    assert server.requests[1]["If-Range"] == '"one"'


def test_what_arrived_is_kept_for_the_next_command(
    server: Server, downloader: Downloader, tmp_path: Path
) -> None:
    server.answers = [Answer(stop_after=100_000), Answer(status=503)]
    with pytest.raises(DownloadError, match="100,000 bytes are kept"):
        downloader.download(server.url, tmp_path / "data.bin", keep=only(CONTENT))
    assert "data.bin" not in files(tmp_path)
    server.answers = [Answer()]
    downloader.download(server.url, tmp_path / "data.bin", keep=only(CONTENT))
    assert ranges(server)[-1] == "bytes=100000-"
    assert files(tmp_path) == ["data.bin"]


def test_a_download_that_only_lacked_its_check_is_not_fetched_again(
    server: Server, downloader: Downloader, tmp_path: Path
) -> None:
    def power_cut(_raw: bytes, _name: str) -> bytes:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        downloader.download(server.url, tmp_path / "data.bin", keep=power_cut)
    downloader.download(server.url, tmp_path / "data.bin", keep=only(CONTENT))
    assert len(server.requests) == 1


def test_a_server_that_ignores_ranges_sends_it_all_again(
    server: Server, downloader: Downloader, tmp_path: Path
) -> None:
    server.answers = [Answer(stop_after=100_000), Answer(speaks_range=False)]
    target = downloader.download(server.url, tmp_path / "data.bin", keep=only(CONTENT))
    assert target.read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=100000-"]


def test_a_stale_part_of_another_version_is_given_up(
    server: Server, downloader: Downloader, tmp_path: Path
) -> None:
    server.answers = [
        Answer(content=OTHER, etag='"old"', stop_after=100_000),
        Answer(etag='"new"'),
    ]
    target = downloader.download(server.url, tmp_path / "data.bin", keep=only(CONTENT))
    assert target.read_bytes() == CONTENT


def test_a_resumed_range_of_another_version_is_given_up(
    server: Server, downloader: Downloader, tmp_path: Path
) -> None:
    class Careless(str):
        """Equal to every validator: a server that ignores If-Range."""

        __slots__ = ()

        def __eq__(self, _other: object) -> bool:
            return True

        __hash__ = str.__hash__

    server.answers = [
        Answer(content=OTHER, etag='"old"', stop_after=100_000),
        Answer(etag=Careless('"new"')),
        Answer(etag='"new"'),
    ]
    target = downloader.download(server.url, tmp_path / "data.bin", keep=only(CONTENT))
    assert target.read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=100000-", None]


def test_without_a_validator_nothing_is_resumed(
    server: Server, downloader: Downloader, tmp_path: Path
) -> None:
    server.answers = [Answer(etag="", stop_after=100_000), Answer(etag="")]
    target = downloader.download(server.url, tmp_path / "data.bin", keep=only(CONTENT))
    assert target.read_bytes() == CONTENT
    assert ranges(server) == [None, None]


def test_a_server_that_resumes_at_the_wrong_byte_is_not_believed(
    server: Server, downloader: Downloader, tmp_path: Path
) -> None:
    server.answers = [Answer(stop_after=100_000), Answer(shift=-7), Answer()]
    target = downloader.download(server.url, tmp_path / "data.bin", keep=only(CONTENT))
    assert target.read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_given_up(
    server: Server, downloader: Downloader, tmp_path: Path
) -> None:
    server.answers = [Answer(stop_after=100_000), Answer(content=CONTENT[:50_000])]
    target = downloader.download(server.url, tmp_path / "data.bin", keep=only(CONTENT[:50_000]))
    assert target.read_bytes() == CONTENT[:50_000]


def test_a_damaged_note_of_the_part_means_starting_again(
    server: Server, downloader: Downloader, tmp_path: Path
) -> None:
    server.answers = [Answer(stop_after=100_000), Answer(status=503)]
    with pytest.raises(DownloadError):
        downloader.download(server.url, tmp_path / "data.bin", keep=only(CONTENT))
    (note,) = tmp_path.glob("*.json")
    note.write_text("[")
    server.answers = [Answer()]
    target = downloader.download(server.url, tmp_path / "data.bin", keep=only(CONTENT))
    assert target.read_bytes() == CONTENT
    assert ranges(server)[-1] is None


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_server_that_says_no_is_asked_once(
    server: Server, downloader: Downloader, naps: list[float], tmp_path: Path, status: int
) -> None:
    server.answers = [Answer(status=status)]
    with pytest.raises(DownloadError, match=str(status)):
        downloader.download(server.url, tmp_path / "data.bin", keep=as_it_came)
    assert len(server.requests) == 1
    assert not naps


def test_a_server_that_is_busy_is_asked_again_ever_more_patiently(
    server: Server, downloader: Downloader, naps: list[float], tmp_path: Path
) -> None:
    server.answers = [Answer(status=503), Answer(status=429), Answer()]
    target = downloader.download(server.url, tmp_path / "data.bin", keep=only(CONTENT))
    assert target.read_bytes() == CONTENT
    assert 1.0 <= naps[0] <= 2.0 <= naps[1] <= 4.0


def test_a_server_that_is_not_there_is_a_clear_error(
    downloader: Downloader, naps: list[float], tmp_path: Path
) -> None:
    with pytest.raises(DownloadError, match="no connection"):
        downloader.download("http://127.0.0.1:1/x", tmp_path / "data.bin", keep=as_it_came)
    assert len(naps) == 2


def test_a_wrong_digest_leaves_neither_file_nor_part_and_says_both_digests(
    server: Server, downloader: Downloader, tmp_path: Path
) -> None:
    server.answers = [Answer(content=OTHER)]
    target = tmp_path / "data.bin"
    target.write_bytes(b"the old one")
    with pytest.raises(DatasetInvalidError) as caught:
        downloader.download(server.url, target, keep=only(CONTENT))
    for content in (CONTENT, OTHER):
        assert hashlib.sha256(content).hexdigest() in str(caught.value)
    assert files(tmp_path) == ["data.bin"]
    assert target.read_bytes() == b"the old one"


@pytest.mark.parametrize("says_length", [True, False])
def test_a_file_larger_than_allowed_is_refused_as_soon_as_it_shows(
    server: Server, downloader: Downloader, tmp_path: Path, says_length: bool
) -> None:
    server.answers = [Answer(content=bytes(1_100_000), says_length=says_length)]
    with pytest.raises(DownloadError, match="at most 1,000,000 bytes"):
        downloader.download(server.url, tmp_path / "data.bin", keep=as_it_came)
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "/etc/passwd", "http://", "http://["],
)
def test_only_http_is_spoken(downloader: Downloader, tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadError):
        downloader.download(url, tmp_path / "data.bin", keep=as_it_came)


def test_nor_after_a_redirect(server: Server, downloader: Downloader, tmp_path: Path) -> None:
    server.answers = [Answer(status=302, location="file:///etc/passwd")]
    with pytest.raises(DownloadError, match="http"):
        downloader.download(server.url, tmp_path / "data.bin", keep=as_it_came)
    assert files(tmp_path) == []


def test_a_redirect_is_followed(server: Server, downloader: Downloader, tmp_path: Path) -> None:
    server.answers = [Answer(status=302, location=server.url + "?again"), Answer()]
    target = downloader.download(server.url, tmp_path / "data.bin", keep=only(CONTENT))
    assert target.read_bytes() == CONTENT


def test_redirects_in_a_circle_end(server: Server, downloader: Downloader, tmp_path: Path) -> None:
    server.answers = [Answer(status=302, location=server.url)]
    with pytest.raises(DownloadError):
        downloader.download(server.url, tmp_path / "data.bin", keep=as_it_came)


@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_a_clear_error(
    server: Server, downloader: Downloader, tmp_path: Path
) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DownloadError, match="cannot be written"):
        downloader.download(server.url, tmp_path / "data.bin", keep=as_it_came)


def test_a_target_whose_folder_is_a_file_is_a_clear_error(
    server: Server, downloader: Downloader, tmp_path: Path
) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(DownloadError, match="cannot be written"):
        downloader.download(server.url, tmp_path / "data" / "data.bin", keep=as_it_came)


# -- sources ------------------------------------------------------------------------------------


def source(*urls: str) -> DatasetSource:
    return DatasetSource(
        title="test data",
        target="sub/data.bin",
        urls=urls,
        page="https://example.org/page",
        keep=only(CONTENT),
    )


def test_addresses_are_tried_in_turn(
    server: Server, downloader: Downloader, tmp_path: Path
) -> None:
    server.answers = [Answer(status=404), Answer(content=OTHER), Answer()]
    urls = (server.url, f"{server.url}?2", f"{server.url}?3")
    target = dataset_sources.fetch(source(*urls), tmp_path, downloader)
    assert target == tmp_path / "sub/data.bin"
    assert target.read_bytes() == CONTENT
    assert files(target.parent) == ["data.bin"]


def test_when_none_delivers_each_answer_is_told_and_the_way_by_hand(
    server: Server, downloader: Downloader, tmp_path: Path
) -> None:
    server.answers = [Answer(status=404), Answer(content=OTHER)]
    urls = (server.url, f"{server.url}?2")
    with pytest.raises(DownloadError) as caught:
        dataset_sources.fetch(source(*urls), tmp_path, downloader)
    message = str(caught.value)
    assert "404" in message
    assert hashlib.sha256(OTHER).hexdigest() in message
    assert "https://example.org/page" in message
    assert str(tmp_path / "sub/data.bin") in message


# -- as a command -------------------------------------------------------------------------------


@pytest.fixture
def small_archive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> bytes:
    """An archive held for the published recordings."""
    text = b"1 2 3 " * 1365 + b"1 2"
    samples = np.array(text.split(), dtype="<i2").tobytes() * 100
    digest = hashlib.sha256(samples).hexdigest()
    monkeypatch.setattr(datasets, "SET_SHA256", dict.fromkeys("ZONFS", digest))
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for letter in "ZONFS":
            for number in range(1, 101):
                file.writestr(f"{letter}/{letter}{number:03d}.txt", text)
    return path.read_bytes()


def test_the_command_fetches_and_then_finds_that_it_has(
    server: Server,
    small_archive: bytes,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.answers = [Answer(content=small_archive)]
    folder = tmp_path / "data"
    command = ["dataset", "fetch", "recordings", "--data", str(folder), "--url", server.url]
    assert main(command) == 0
    target = folder / "bonn/bonn_raw.zip"
    assert target.read_bytes() == small_archive
    assert str(target) in capsys.readouterr().out
    assert main(command) == 0
    assert len(server.requests) == 1
    assert "there already" in capsys.readouterr().err.replace("\n", " ")
    target.write_bytes(b"damaged")
    assert main(command) == 0
    assert target.read_bytes() == small_archive


def test_a_page_instead_of_the_data_is_exit_code_3_and_says_what_came(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers = [Answer(content=b"<!doctype html><p>moved")]
    assert main(["dataset", "fetch", "--data", str(tmp_path), "--url", server.url]) == 3
    told = capsys.readouterr()
    assert told.out == ""
    assert "<!doctype html>" in told.err
    assert server.url in told.err
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.dataset
def test_the_real_table_is_fetched_checked_and_found(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], data_folder: Path
) -> None:
    table = datasets.find(data_folder)
    server.answers = [Answer(content=table.read_bytes(), stop_after=3_000_000), Answer()]
    server.answers[1].content = server.answers[0].content
    assert main(["dataset", "fetch", "--data", str(tmp_path), "--url", server.url]) == 0
    assert main(["dataset", "path", "--data", str(tmp_path)]) == 0
    assert str(tmp_path) in capsys.readouterr().out.splitlines()[-1]
    assert main(["dataset", "check", "--data", str(tmp_path), "--json"]) == 0
    assert datasets.TABLE_SHA256 in capsys.readouterr().out
    assert ranges(server) == [None, "bytes=3000000-"]
