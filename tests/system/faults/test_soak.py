"""A day in minutes: memory and files stay as they are, and nothing is miscounted."""

import pytest

from benchmarks.soak import HOUR_S, soak
from stream_classifier.bundle import load_bundle

pytestmark = [pytest.mark.fault(38), pytest.mark.broker]

SLOPE_PERCENT = 5.0


@pytest.mark.parametrize(
    "hours",
    [
        pytest.param(0.5, marks=pytest.mark.slow),
        pytest.param(24, marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
    ],
)
def test_a_day_of_running_leaks_nothing_and_miscounts_nothing(hours, measured):
    found = soak(hours * HOUR_S, bundle=load_bundle("headset"))
    measured(f"{hours:g} h at", found["times_real_time"], "times real time")
    # What half an hour adds says little of a day; a leak a window would still be seen.
    slope = "resident_slope_percent_a_day" if hours >= 24 else "resident_growth_percent"
    measured(slope.replace("_", " "), found[slope], "%")
    measured("file descriptors added", found["descriptors_growth"])
    measured("alerts", found["alerts"])
    assert found[slope] < SLOPE_PERCENT
    assert found["descriptors_growth"] <= 0
    for what in ("samples", "gaps", "windows"):
        assert found[what] == found[f"{what}_expected"], what
    assert found["predictions"] == found["windows"]
    assert found["predictions_shed"] == found["events_lost"] == found["events_left"] == 0
    assert found["missing_samples"] == 178 * found["gaps"]
    assert found["events_in_order"]
    assert found["alerts"] == hours * 6
