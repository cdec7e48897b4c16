"""TOML that people write, read without trusting it: the settings, recipes and scenarios."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any, Final

from stream_classifier.regular_file import read_regular

if TYPE_CHECKING:
    from pathlib import Path

MAX_TOML_BYTES: Final = 32 * 2**10
"""Ten times the template of all settings. The parser's time grows with the square of a dotted key:
the worst document of this size takes some seconds."""

MAX_TOML_DEPTH: Final = 16
"""Tables in tables; dotted keys nest them without end, and whatever walks over them recurses."""


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        OSError: If it cannot be read, is no regular file, or is larger than ``MAX_TOML_BYTES``.
        ValueError: If it is not UTF-8, not TOML, or nested too deeply.
    """
    return parse_toml(read_regular(path, limit_bytes=MAX_TOML_BYTES).decode("utf-8"))


def parse_toml(text: str) -> dict[str, Any]:
    """Read a TOML document.

    Raises:
        ValueError: If it is not TOML, or nested more than ``MAX_TOML_DEPTH`` deep.
    """
    try:
        document = tomllib.loads(text)
    except RecursionError as error:
        raise ValueError(f"nested more than {MAX_TOML_DEPTH} deep") from error
    level: list[Any] = [document]  # tables and arrays of one depth
    for _ in range(MAX_TOML_DEPTH):
        level = [
            inner
            for value in level
            for inner in (value.values() if isinstance(value, dict) else value)
            if isinstance(inner, dict | list)
        ]
    if level:
        raise ValueError(f"nested more than {MAX_TOML_DEPTH} deep")
    return document
