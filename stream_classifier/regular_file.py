"""Files that people name, read without trusting what they are.

A name may lead to a pipe that nobody writes to, to a device that never ends, or to a file of ten
gigabytes; none of them may make us wait or fill the memory. Links are followed: where secrets and
data sets lie is their owners' business.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from io import BufferedReader
    from pathlib import Path

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading, and never wait for it.

    Raises:
        OSError: If it cannot be opened, or is no regular file; ``strerror`` says why.
    """
    try:
        file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115 - Path has no opener
    except ValueError as error:  # a name that no file can have
        raise OSError(errno.EINVAL, str(error), str(path)) from error
    mode = os.fstat(file.fileno()).st_mode
    if not stat.S_ISREG(mode):
        file.close()
        found = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise OSError(errno.EINVAL, f"expected a regular file, found {found}", str(path))
    return file


def read_regular(path: Path, *, limit_bytes: int) -> bytes:
    """Return the content of a file that must not be larger than a limit.

    Raises:
        OSError: As ``open_regular``, or if it is larger; ``strerror`` says why.
    """
    with open_regular(path) as file:
        raw = file.read(limit_bytes + 1)
    if len(raw) > limit_bytes:
        raise OSError(errno.EFBIG, f"expected at most {limit_bytes:,} bytes, found more", str(path))
    return raw


def _open_at_once(name: str, flags: int) -> int:
    # Without O_NONBLOCK, opening a pipe waits for somebody who writes to it.
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))
