"""The grid of windows does not depend on how many are taken at once."""

from hypothesis import given
from hypothesis import strategies as st

from stream_classifier.detection.windows import WindowGrid


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 120), st.integers(0, 10**9))
def test_windows_are_the_same_however_they_are_taken(counts, hop, first):
    grid = WindowGrid(window_samples=120, hop_samples=hop)
    grid.restart(first)
    taken = [window for n in counts for window in grid.take(n)]
    assert taken == [range(first + i * hop, first + i * hop + 120) for i in range(sum(counts))]


def test_a_restart_leaves_nothing_behind():
    grid = WindowGrid(window_samples=120, hop_samples=8)
    grid.restart(0)
    grid.take(3)
    grid.restart(1000)
    assert grid.take(1) == [range(1000, 1120)]
