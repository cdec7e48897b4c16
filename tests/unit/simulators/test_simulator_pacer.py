"""Samples come when they are due, for as long as it takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulators.pacer import Pacer


class Clock:
    """Time that passes only while somebody sleeps; sleeping is as sloppy as told."""

    def __init__(self, *, at_s: float = 5_000.0, oversleep_s: float = 0.0) -> None:
        self.now_s = at_s
        self.oversleep_s = oversleep_s
        self.n_sleeps = 0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds + self.oversleep_s
        self.n_sleeps += 1


def test_after_an_hour_of_late_wake_ups_the_rate_is_exact() -> None:
    clock = Clock(oversleep_s=0.004)  # a busy machine: every sleep 4 ms too long
    pacer = Pacer(rate_hz=178.0, clock=clock, sleep=clock.sleep)
    pacer.start()
    last = 178 * 3600
    for index in range(3, last + 1, 4):
        pacer.wait_for(index)
        assert clock.now_s >= pacer.stamp_of(index) - 1e-9
    took_s = clock.now_s - pacer.start_s
    assert last / took_s == pytest.approx(178.0, rel=1e-4)
    assert took_s - 3600 < 0.005  # the last lateness, not the sum of all
    assert pacer.stamp_of(last) - pacer.start_s == pytest.approx(3600.0, abs=1e-9)


def test_after_a_stall_what_is_overdue_comes_at_once_with_its_own_stamps() -> None:
    clock = Clock()
    pacer = Pacer(rate_hz=100.0, clock=clock, sleep=clock.sleep)
    pacer.start()
    pacer.wait_for(10)
    clock.now_s += 2.0
    n_sleeps = clock.n_sleeps
    for index in range(11, 210):
        pacer.wait_for(index)
    assert clock.n_sleeps == n_sleeps
    assert pacer.stamp_of(209) - pacer.stamp_of(10) == pytest.approx(1.99)
    pacer.wait_for(300)
    assert clock.now_s == pytest.approx(pacer.stamp_of(300))


@given(st.floats(0.1, 100))
def test_speed_changes_delivery_but_never_the_spacing_of_stamps(speed: float) -> None:
    clock = Clock()
    pacer = Pacer(rate_hz=178.0, speed=speed, clock=clock, sleep=clock.sleep)
    pacer.start()
    pacer.wait_for(1780)
    assert clock.now_s - pacer.start_s == pytest.approx(10 / speed)
    assert pacer.stamp_of(1780) - pacer.stamp_of(0) == pytest.approx(10.0)


@pytest.mark.parametrize(("rate_hz", "speed"), [(0.0, 1.0), (178.0, 0.0), (178.0, float("nan"))])
def test_a_rate_or_speed_that_is_not_above_zero_is_refused(rate_hz: float, speed: float) -> None:
    clock = Clock()
    with pytest.raises(ValueError, match="above 0"):
        Pacer(rate_hz=rate_hz, speed=speed, clock=clock, sleep=clock.sleep)


def test_a_sample_that_is_held_back_is_waited_for_and_the_next_ones_catch_up() -> None:
    clock = Clock()
    pacer = Pacer(rate_hz=100.0, clock=clock, sleep=clock.sleep)
    pacer.start()
    pacer.wait_for(100, later_s=2.0)
    assert clock.now_s == pytest.approx(pacer.start_s + 3.0)
    pacer.wait_for(200)
    assert clock.now_s == pytest.approx(pacer.start_s + 3.0)
    assert pacer.stamp_of(100) == pytest.approx(pacer.start_s + 1.0)
