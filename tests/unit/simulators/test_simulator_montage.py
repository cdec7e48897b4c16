"""Channels are named as people ask for them."""

from __future__ import annotations

import pytest

from simulators import montage


@pytest.mark.parametrize("count", [1, 8, 19, 64])
def test_a_count_gives_that_many_different_positions(count: int) -> None:
    labels = montage.labels(str(count))
    assert len(set(labels)) == len(labels) == count


def test_nineteen_channels_are_the_ten_twenty_system() -> None:
    positions = "Fp1 Fp2 F7 F3 Fz F4 F8 T7 C3 Cz C4 T8 P7 P3 Pz P4 P8 O1 O2"
    assert set(montage.labels("19")) == set(positions.split())


def test_labels_are_taken_as_they_are() -> None:
    assert montage.labels(" C3 ,left ear") == ("C3", "left ear")


@pytest.mark.parametrize("channels", ["0", "65", "C3,,C4", "C3,C3", " ", ",".join("ab" * 40)])
def test_a_senseless_choice_is_refused(channels: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        montage.labels(channels)
