"""How long to wait before trying again."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from stream_classifier.sinks.backoff import Backoff


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=30))
def test_waits_stay_within_their_doubling_range_and_the_cap(draws: list[float]) -> None:
    left = iter(draws)
    backoff = Backoff(first_s=0.25, cap_s=5.0, stable_s=10.0, draw=lambda: next(left))
    for n in range(len(draws)):
        range_s = min(0.25 * 2**n, 5.0)
        assert range_s / 2 <= backoff.next_s() <= range_s


def test_what_lasted_long_enough_starts_the_waits_again() -> None:
    backoff = Backoff(first_s=1.0, cap_s=8.0, stable_s=10.0, draw=lambda: 1.0)
    waits = [backoff.next_s() for _ in range(4)]
    assert all(later == 2 * earlier for earlier, later in pairwise(waits))
    assert backoff.next_s(lasted_s=9.9) == 8.0
    assert backoff.next_s(lasted_s=10.0) == 1.0
    assert backoff.next_s() == 2.0


def test_many_clients_do_not_come_back_together() -> None:
    waits = {Backoff(first_s=1.0, cap_s=8.0, stable_s=10.0).next_s() for _ in range(20)}
    assert len(waits) > 10
