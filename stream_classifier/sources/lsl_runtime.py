"""How liblsl is started: found or not, and quiet or not."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from stream_classifier.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator

FATAL_ONLY = b"\n[log]\nlevel = -3\n"
"""liblsl's own scale: -3 fatal, -2 error, -1 warning, 0 info (its default).

Errors are silenced too: a lost stream reaches us as an exception, and liblsl's line
about it would be printed across the live view.
"""


def quiet_liblsl(debug: bool = False) -> None:
    """Keep liblsl's own log off the terminal.

    Call it before anything else of LSL: liblsl reads its configuration once, at its first
    use, so a later call changes nothing. The user's own configuration file keeps every
    setting it has; only a log level is added, and only if the file has no ``[log]``
    section. liblsl older than 1.17.7 cannot be configured from a program and stays chatty.

    Args:
        debug: Leave liblsl as talkative as it is.

    Raises:
        SourceError: If liblsl is not installed or cannot be loaded.
    """
    try:
        import pylsl.util  # noqa: PLC0415  loads liblsl, which may be absent
    except (RuntimeError, OSError, AttributeError) as error:
        raise SourceError(
            f"Lab Streaming Layer's library liblsl could not be loaded ({error}). "
            "Try: pip install --force-reinstall pylsl; where its wheel brings no liblsl "
            "(Linux on ARM), install liblsl and set PYLSL_LIB to the file"
        ) from error
    if debug or not hasattr(pylsl.util.lib, "lsl_set_config_content"):
        return
    content = _user_configuration()
    # An invalid key would make liblsl drop the whole text, so nothing but the level is added;
    # bytes, because the user's file may be in any encoding.
    if not re.search(rb"^\s*\[\s*log\s*\]", content, flags=re.MULTILINE):
        pylsl.util.lib.lsl_set_config_content(content + FATAL_ONLY)


def _user_configuration() -> bytes:
    """Content of the configuration file that liblsl would read, empty if there is none."""
    for path in _configuration_paths():
        try:
            return path.read_bytes()
        except OSError:  # as liblsl does: what cannot be read is passed over
            continue
    return b""


def _configuration_paths() -> Iterator[Path]:
    """The places liblsl looks at, in its order."""
    if named := os.environ.get("LSLAPICFG"):
        yield Path(named)
    yield Path("lsl_api.cfg")
    yield Path("~/lsl_api/lsl_api.cfg").expanduser()
    yield Path("/etc/lsl_api/lsl_api.cfg")
