"""What errors and notes make of foreign text, and what they advise."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stream_classifier.errors import (
    MissingExtraError,
    StreamChangedError,
    StreamDescriptionError,
    printable,
)

HOSTILE = "C3\x1b[2J\n\u202e"


@given(st.text(st.characters(exclude_categories=())))
def test_nothing_a_terminal_would_obey_is_left_of_any_text(text: str) -> None:
    clean = printable(text)
    assert clean.isprintable() or not clean
    assert len(clean) == len(text)


@given(st.text(st.characters(categories=["L", "N", "P", "S"])))
def test_names_in_any_script_stay_as_they_are(text: str) -> None:
    assert printable(text) == text


def test_errors_that_quote_a_stream_are_one_harmless_line() -> None:
    for error in (
        StreamDescriptionError(f"it has: {HOSTILE}"),
        StreamChangedError(HOSTILE, before=HOSTILE, now=HOSTILE),
    ):
        assert str(error).isprintable()


def test_a_missing_extra_is_installed_from_the_projects_own_folder() -> None:
    said = str(MissingExtraError(feature="the demo", extra="demo", module="iotcore"))
    assert said.endswith(
        "Try: install the extra [demo]: pip install '.[demo]' in the project's folder"
    )
