"""LSL descriptions that are damaged or odd: channels that can be read, or the reason why not."""

from __future__ import annotations

import ctypes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_classifier.errors import StreamDescriptionError
from stream_classifier.sources.channels import (
    MAX_CHANNELS,
    MAX_TEXT,
    ChannelText,
    plan_channels,
)

ANNOUNCED = (
    b'<?xml version="1.0"?><info><name>bed3</name><type>EEG</type><channel_count>2</channel_count>'
    b"<channel_format>float32</channel_format><source_id>x</source_id>"
    b"<nominal_srate>178.0</nominal_srate><version>1.1</version><created_at>1.0</created_at>"
    b"<uid>u</uid><session_id>default</session_id><hostname>h</hostname><desc><channels>"
    b"<channel><label>C3</label><unit>microvolts</unit><type>EEG</type></channel>"
    b"<channel><label>C4</label><unit>microvolts</unit><type>EEG</type></channel>"
    b"</channels><simulated>true</simulated></desc></info>"
)
TEXTS = st.one_of(
    st.sampled_from(["", "C3", "uV", "EEG", "V", "\x1b[2J", "\0", "\ud800", "x" * 300, "\u03bcV"]),
    st.text(max_size=8),
)


def _plans(n):
    @given(
        st.lists(st.builds(ChannelText, TEXTS, TEXTS, TEXTS), max_size=6),
        st.integers(1, 6),
        st.none() | st.lists(TEXTS, min_size=1, max_size=3),
        st.none() | TEXTS,
    )
    @settings(max_examples=n, deadline=None)
    def check(described, n_channels, wanted, unit):
        try:
            plan = plan_channels(
                "x", described=described, n_channels=n_channels, wanted=wanted, unit=unit
            )
        except StreamDescriptionError as error:
            said = str(error)
            if not said.isprintable():
                raise AssertionError(said) from error
            return
        assert len(plan.labels) == len(plan.columns) == len(plan.uv_per_unit) >= 1
        assert all(0 <= column < n_channels for column in plan.columns)
        assert all(factor > 0 for factor in plan.uv_per_unit)

    return check


def test_channels_of_any_text_are_read_or_refused(n_examples):
    _plans(n_examples)()


def _announced(raw):
    pylsl = pytest.importorskip("pylsl")
    from pylsl.lib import lib

    lib.lsl_streaminfo_from_xml.restype = ctypes.c_void_p
    handle = lib.lsl_streaminfo_from_xml(ctypes.c_char_p(raw))
    return pylsl.StreamInfo(handle=handle) if handle else None


@pytest.mark.lsl
def test_a_damaged_announcement_is_read_or_refused(n_cases, mutated, refused):
    from stream_classifier.sources import discovery, inlet
    from stream_classifier.sources.lsl_runtime import quiet_liblsl

    quiet_liblsl()
    n_refused = 0
    for _ in range(n_cases):
        info = _announced(mutated(ANNOUNCED))
        if info is None:
            continue
        seen = discovery._read(info)
        assert str(seen).isprintable()
        assert discovery.Wanted(name="bed3", type="EEG").matches(seen) in {True, False}
        texts, _ = inlet._read_description(info)
        assert len(texts) <= MAX_CHANNELS + 1
        assert all(len(part) <= MAX_TEXT for t in texts for part in (t.label, t.unit, t.type))

        def attach(seen=seen, texts=texts):
            inlet._refuse_unreadable(seen)
            plan_channels(seen.name, described=texts, n_channels=seen.n_channels)

        n_refused += refused(attach)
    assert n_refused
