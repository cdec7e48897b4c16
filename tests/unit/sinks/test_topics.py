"""Where messages go: any name, a valid topic, and never two streams in one."""

import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from stream_classifier.sinks.topics import Topics, levels_meant, stream_level

ANY_NAME = st.one_of(
    st.text(alphabet=st.characters(), max_size=80),
    st.text(alphabet="aA0-_ +#/$\x00\ud800\udfff\u0130é", max_size=12),
    st.from_regex(r"\A[a-z0-9_-]{1,70}(-[0-9a-f]{32})?\Z"),
)


@given(ANY_NAME)
@example("")
@example("+/#")
@example("$SYS/broker")
@example("nul\x00")
@example("\ud800")
@example("x" * 65_536)
@example("\u0130" * 64)  # lower() makes two characters of each
def test_any_name_becomes_one_valid_level(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9_-]{1,97}", stream_level(name))


@given(ANY_NAME, ANY_NAME)
def test_two_names_never_share_a_level(one: str, other: str) -> None:
    assume(one != other)
    assert stream_level(one) != stream_level(other)


@given(ANY_NAME)
def test_a_stream_named_like_the_level_of_another_gets_a_level_of_its_own(name: str) -> None:
    level = stream_level(name)
    assert level == name or stream_level(level) != level


@given(st.text(alphabet=st.characters(), max_size=80))
def test_names_that_differ_only_in_case_are_kept_apart(name: str) -> None:
    assume(name.swapcase() != name)
    assert stream_level(name) != stream_level(name.swapcase())


def test_a_plain_name_is_its_own_level() -> None:
    assert stream_level("bed3") == "bed3"
    assert stream_level("a" * 64) == "a" * 64


@given(ANY_NAME)
def test_a_person_may_give_the_name_or_the_level(name: str) -> None:
    level = stream_level(name)
    assert level in levels_meant(name)
    assert level in levels_meant(level)


def test_all_topics_lie_below_base_and_stream() -> None:
    topics = Topics("bed3", base="ward/eeg")
    assert topics.by_name() == {
        "status": "ward/eeg/bed3/status",
        "alert": "ward/eeg/bed3/alert",
        "event": "ward/eeg/bed3/alert/event",
        "prediction": "ward/eeg/bed3/prediction",
        "quality": "ward/eeg/bed3/quality",
        "health": "ward/eeg/bed3/health",
        "info": "ward/eeg/bed3/info",
    }


@pytest.mark.parametrize("base", ["", "/", "a/", "/a", "a//b", "a/+/b", "#", "$SYS", "a b", "é"])
def test_a_base_that_is_no_plain_topic_is_refused(base: str) -> None:
    with pytest.raises(ValueError, match="base topic"):
        Topics("bed3", base=base)
