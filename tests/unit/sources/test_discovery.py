from __future__ import annotations

import pytest

from stream_classifier.sources.discovery import StreamSeen, Wanted

SEEN = StreamSeen(
    name="Muse",
    type="EEG",
    source_id="A1",
    n_channels=4,
    rate_hz=256.0,
    format="float32",
    host="ward7",
    uid="u",
    created_s=1.0,
    info=None,
)


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        (Wanted(), True),
        (Wanted(name="Muse"), True),
        (Wanted(name="muse"), False),
        (Wanted(name="Mus"), False),
        (Wanted(type="eeg"), True),
        (Wanted(type="Markers"), False),
        (Wanted(source_id="A1", name="Muse", type="EEG", host="ward7"), True),
        (Wanted(source_id="A1", host="ward8"), False),
        (Wanted(source_id=""), False),
    ],
)
def test_all_that_is_given_must_match(wanted, matches):
    assert wanted.matches(SEEN) is matches


def test_messages_show_names_without_what_a_terminal_would_obey():
    hostile = Wanted(name="a\x1b[31m\nb" + "x" * 1000)
    assert "\x1b" not in str(hostile)
    assert "\n" not in str(hostile)
    assert len(str(hostile)) < 120
    assert str(Wanted(name="a", type="EEG")) == "name 'a' and type 'EEG'"
    assert str(SEEN) == (
        "name 'Muse', type 'EEG', source_id 'A1', 4 channels, 256 Hz, host 'ward7'"
    )
