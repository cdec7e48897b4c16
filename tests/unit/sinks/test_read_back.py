"""What does not come back is missed, once it is due and not for our own delay."""

import pytest

from stream_classifier.sinks.read_back import LATE_OURSELVES_S, READ_BACK_WITHIN_S, ReadBack


@pytest.fixture
def back():
    return ReadBack("canary")


def test_a_message_that_comes_back_in_time_is_not_missing(back):
    back.sent(b"1", now_s=0.0)
    back.look(now_s=READ_BACK_WITHIN_S - 0.1)
    back.heard(b"1")
    back.look(now_s=READ_BACK_WITHIN_S)
    assert not back.missing


def test_a_message_that_does_not_come_is_missing_until_one_does(back):
    back.sent(b"1", now_s=0.0)
    back.look(now_s=back.due_s)
    assert back.missing
    back.forget()  # as at a new connection
    assert back.missing
    back.sent(b"2", now_s=10.0)
    back.heard(b"2")
    assert not back.missing


def test_a_message_that_comes_late_counts(back):
    back.sent(b"1", now_s=0.0)
    back.look(now_s=back.due_s)
    back.heard(b"1")
    assert not back.missing


def test_messages_of_others_do_not_count(back):
    back.sent(b"1", now_s=0.0)
    back.heard(b"0")
    back.look(now_s=back.due_s)
    assert back.missing


def test_sending_often_does_not_put_off_the_conclusion(back):
    for n in range(100):
        back.sent(b"%d" % n, now_s=n / 10)
        back.look(now_s=n / 10)
    assert back.missing


def test_a_newer_message_that_comes_back_is_as_good(back):
    back.sent(b"1", now_s=0.0)
    back.sent(b"2", now_s=1.0)
    back.heard(b"2")
    back.look(now_s=READ_BACK_WITHIN_S)
    assert not back.missing


def test_who_was_held_up_himself_looks_again_before_he_accuses(back):
    back.sent(b"1", now_s=0.0)
    back.look(now_s=10.0)
    assert not back.missing
    back.look(now_s=10.0 + LATE_OURSELVES_S)
    assert back.missing
