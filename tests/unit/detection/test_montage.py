"""Where electrodes are, and who is whose neighbour."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_classifier.detection.montage import groups, position, positions

EPOC = ["AF3", "F7", "F3", "FC5", "T7", "P7", "O1", "O2", "P8", "T8", "FC6", "F4", "F8", "AF4"]
TEN_TWENTY = ["Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "T7", "C3", "Cz", "C4", "T8"]
TEN_TWENTY += ["P7", "P3", "Pz", "P4", "P8", "O1", "O2"]
LABELS = st.lists(
    st.one_of(st.sampled_from(sorted(positions())), st.text(max_size=6)), min_size=1, max_size=20
)


@pytest.mark.parametrize(
    ("name", "polar", "azimuth"),
    [("CZ", 0, 90), ("F3", 60, 129), ("P4", 60, -51), ("C3", 46, 180), ("FC5", 72, 159),
     ("FP1", 92, 108), ("O2", 92, -72), ("T8", 92, 0)],
)  # fmt: skip
def test_electrodes_are_where_the_spherical_tables_have_them(name, polar, azimuth):
    x, y, z = positions()[name]  # those tables put the ring two degrees below the equator
    there = math.radians(polar), math.radians(azimuth)
    expected = np.array(
        [math.sin(there[0]) * math.cos(there[1]), math.sin(there[0]) * math.sin(there[1]),
         math.cos(there[0])]
    )  # fmt: skip
    assert np.degrees(np.arccos(np.clip(expected @ [x, y, z], -1, 1))) < 4


def test_all_electrodes_are_on_the_unit_sphere_and_left_mirrors_right():
    for name, place in positions().items():
        assert np.linalg.norm(place) == pytest.approx(1)
        number = name.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
        if number and int(number) % 2:
            x, y, z = positions()[name[: -len(number)] + str(int(number) + 1)]
            assert place == pytest.approx((-x, y, z), abs=1e-9)


@pytest.mark.parametrize(
    "label", ["Fp1", "FP1", "EEG Fp1", "EEG Fp1-Ref", "FP1-F7", "fp1-A1", "EEG FP1-LE"]
)
def test_a_label_tells_where_its_first_electrode_is(label):
    assert position(label) == positions()["FP1"]


@pytest.mark.parametrize("label", ["EEG1", "", "X3", "channel 7", "C3x7", "ECG"])
def test_a_label_that_names_no_electrode_tells_nothing(label):
    assert position(label) is None


def test_an_electrode_inside_the_grid_has_the_eight_around_it():
    near = {frozenset(TEN_TWENTY[i] for i in group) for group in groups(TEN_TWENTY)}
    assert frozenset(["C3", "F3", "Fz", "F7", "Cz", "T7", "P3", "Pz", "P7"]) in near


def test_both_sides_of_the_head_are_never_one_group():
    for montage in (EPOC, TEN_TWENTY):
        for group in groups(montage):
            names = {montage[i] for i in group}
            assert not ({"T7", "F7", "P7"} & names and {"T8", "F8", "P8"} & names)


@given(LABELS, st.integers(1, 5))
def test_every_channel_is_in_a_group_and_groups_are_large_enough(labels, at_least):
    found = groups(labels, at_least=at_least)
    assert set().union(*found) == set(range(len(labels)))
    n_known = sum(position(label) is not None for label in labels)
    assert all(len(group) >= min(at_least, n_known or len(labels)) for group in found)
    for i in range(len(labels)):
        if position(labels[i]) is None:
            assert all(i in group for group in found)


@given(LABELS, st.randoms())
def test_the_order_of_the_channels_changes_no_group(labels, random):
    labels = list(dict.fromkeys(labels))
    shuffled = labels.copy()
    random.shuffle(shuffled)
    named = [{frozenset(ls[i] for i in group) for group in groups(ls)} for ls in (labels, shuffled)]
    assert named[0] == named[1]
