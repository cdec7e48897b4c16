"""One file over HTTP, in full or not at all: resumed, checked, then put in place at once.

What has arrived of a download lies beside its target, in a ``.part`` file of its own for
each address, so that the next try goes on where the last one broke. It becomes the target
only when all of it is there and passes the caller's check; the target itself never holds
half a file, not even after a power cut.
"""

from __future__ import annotations

import glob
import http.client
import json
import os
import random
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from stream_classifier.errors import DatasetInvalidError, DownloadError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import IO

BLOCK_BYTES: Final = 64 * 2**10
_RETRIED_STATUS: Final = {408, 425, 429, 500, 502, 503, 504}
_RANGE_NOT_SATISFIABLE: Final = 416


@dataclass(frozen=True, slots=True, kw_only=True)
class Downloader:
    """Downloads files over http and https, and nothing else.

    Attributes:
        timeout_s: Longest silence of the server that is borne, above 0.
        tries: How often one file is begun or resumed before giving up, at least 1. A try
            that brought something does not count.
        max_bytes: Largest file that is accepted.
        progress: Told the bytes that are there and those expected (None: unknown).
        sleep: Waits that many seconds between tries; tests pass their own.
    """

    timeout_s: float = 30.0
    tries: int = 3
    max_bytes: int = 64 * 2**20
    progress: Callable[[int, int | None], None] = lambda _done, _total: None
    sleep: Callable[[float], object] = time.sleep

    def download(self, url: str, target: Path, *, keep: Callable[[bytes, str], bytes]) -> Path:
        """Download one file into place.

        Args:
            url: Address, http or https.
            target: Where it is put; folders are made, an older file is replaced.
            keep: Checks the whole download, given its content and address, and returns what
                is written to the target.

        Returns:
            The target.

        Raises:
            DownloadError: If the address is refused, the server says no, or the connection
                broke once too often. What arrived is kept for the next try.
            DatasetInvalidError: As raised by ``keep``; what arrived is removed, since
                more of it would not help.
        """
        _refuse_scheme(url)
        part = target.with_name(f"{target.name}.{zlib.crc32(url.encode()):08x}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._fill(url, part)
            try:
                content = keep(part.read_bytes(), url)
            except DatasetInvalidError:
                _discard(part)
                raise
            _replace(target, content)
            for leftover in target.parent.glob(f"{glob.escape(target.name)}.*.part"):
                _discard(leftover)
        except OSError as error:
            raise DownloadError(f"{target} cannot be written: {error.strerror or error}") from error
        return target

    def _fill(self, url: str, part: Path) -> None:
        """Try until the part file is whole."""
        failures = 0
        while True:
            before = _size(part)
            try:
                self._try_once(url, part)
            except _BrokenError as error:
                failures = 1 if _size(part) > before else failures + 1
                if failures >= self.tries:
                    kept = _size(part)
                    hint = f". {kept:,} bytes are kept: the same command goes on there"
                    raise DownloadError(f"{url}: {error}{hint if kept else ''}") from error
                self.sleep(min(30.0, 2.0**failures) * random.uniform(0.5, 1.0))
            else:
                return

    def _try_once(self, url: str, part: Path) -> None:
        """Ask for what is missing and append what comes."""
        origin = _Origin.of(part)
        have = _size(part)
        if origin is None or not origin.validator:
            # Without a validator the server cannot say whether the file is still the same.
            _discard(part)
            have = 0
        elif have == origin.total:
            return
        request = urllib.request.Request(  # noqa: S310 - the opener knows http and https only
            url, headers={"Accept-Encoding": "identity", "User-Agent": "stream_classifier"}
        )
        if have and origin is not None:
            request.add_header("Range", f"bytes={have}-")
            request.add_header("If-Range", origin.validator)
        try:
            with _opener().open(request, timeout=self.timeout_s) as response:
                self._append(response, url, part, origin if have else None)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == _RANGE_NOT_SATISFIABLE:
                _discard(part)
                raise _BrokenError("the server's file is shorter than what was kept") from error
            if error.code in _RETRIED_STATUS:
                raise _BrokenError(f"the server answered {error.code} {error.reason}") from error
            raise DownloadError(
                f"{url}: the server answered {error.code} {error.reason}"
            ) from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise DownloadError(f"{url}: its certificate is refused: {error.reason}") from error
            raise _BrokenError(f"no connection ({error.reason})") from error
        except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
            raise _BrokenError(f"the connection broke ({_reason(error)})") from error

    def _append(self, response: Any, url: str, part: Path, origin: _Origin | None) -> None:
        have = _size(part) if origin else 0
        validator = _validator(response.headers)
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            start, total = _content_range(response.headers.get("Content-Range", ""))
            if origin is None or start != have or validator not in {"", origin.validator}:
                _discard(part)
                raise _BrokenError("the server resumed another file, or at another byte")
            validator = origin.validator
        else:  # the whole file: Range is not spoken there, or the file is another one by now
            _discard(part)
            have = 0
            length = response.headers.get("Content-Length")
            total = _whole_number(length or "")
        self._refuse_size(url, part, total)
        _Origin(validator=validator, total=total).write(part)
        done = have
        with part.open("ab") as file:
            self.progress(done, total)
            while block := _read(response):
                done += len(block)
                self._refuse_size(url, part, done)
                file.write(block)
                self.progress(done, total)
        if total is not None and done != total:
            raise _BrokenError(f"the connection broke after {done:,} of {total:,} bytes")

    def _refuse_size(self, url: str, part: Path, n_bytes: int | None) -> None:
        if n_bytes is not None and n_bytes > self.max_bytes:
            _discard(part)
            raise DownloadError(
                f"{url}: expected at most {self.max_bytes:,} bytes, the server sends {n_bytes:,} "
                "or more. Try: check the address"
            )


class _BrokenError(Exception):
    """A try failed in a way that another try may mend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Origin:
    """Which version of a file a part is of, as the server named it; kept beside the part."""

    validator: str
    total: int | None

    @classmethod
    def of(cls, part: Path) -> _Origin | None:
        try:
            noted = json.loads(_note(part).read_text(encoding="utf-8"))
            origin = cls(**noted)
        except (OSError, ValueError, TypeError, RecursionError):
            return None  # absent or damaged: as if there were no part
        is_one = isinstance(origin.validator, str) and isinstance(origin.total, int | None)
        return origin if is_one and part.is_file() else None

    def write(self, part: Path) -> None:
        _note(part).write_text(json.dumps(asdict(self)), encoding="utf-8")


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never to another scheme than http(s), nor out of https."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any,
        newurl: str,
    ) -> urllib.request.Request | None:  # fmt: skip
        _refuse_scheme(newurl)
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise DownloadError(f"{req.full_url}: refused to be sent on to plain http ({newurl})")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """An opener without the handlers for ``file:``, ``ftp:`` and ``data:`` addresses."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _SafeRedirects(),
    ):
        opener.add_handler(handler)
    return opener


def _refuse_scheme(url: str) -> None:
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname
    except ValueError as error:
        raise DownloadError(f"{url!r} is no address: {error}") from error
    if parts.scheme not in {"http", "https"} or not host:
        raise DownloadError(f"expected an http:// or https:// address, found {url!r}")


def _read(response: Any) -> bytes:
    try:
        return bytes(response.read(BLOCK_BYTES))
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(f"the connection broke ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _validator(headers: Any) -> str:
    """What If-Range may carry (RFC 9110, 13.1.5): a strong ETag, or a date."""
    etag = headers.get("ETag", "")
    if etag and not etag.startswith("W/"):
        return str(etag)
    return str(headers.get("Last-Modified", ""))


def _content_range(text: str) -> tuple[int | None, int | None]:
    """First byte and whole size, from ``bytes 100-199/200``; None for what it does not say."""
    unit, _, rest = text.partition(" ")
    span, _, total = rest.partition("/")
    start = _whole_number(span.partition("-")[0])
    return (None, None) if unit != "bytes" or start is None else (start, _whole_number(total))


def _whole_number(text: str) -> int | None:
    """Read a size; None for what is none, such as one of thousands of digits."""
    return int(text) if text.isdecimal() and len(text) <= 18 else None


def _replace(target: Path, content: bytes) -> None:
    """Write a file so that it is either the old one or the new one, whatever happens."""
    fresh = target.with_name(target.name + ".new")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(target)
    if os.name == "posix":  # elsewhere a folder cannot be opened, and need not be synced
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)
