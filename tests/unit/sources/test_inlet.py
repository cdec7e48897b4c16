"""What a session makes of a device's stamps, however wild."""

from types import SimpleNamespace

import numpy as np
import pytest

from stream_classifier.sources import inlet as inlet_module
from stream_classifier.sources.inlet import Session
from stream_classifier.sources.timeline import Timeline

RATE_HZ = 256.0
BLOCK = 16


class Device:
    """An inlet whose device stamps 16 samples at a time; what ``pylsl`` would give for it."""

    def __init__(self, monkeypatch):
        self.now_s = 1_000.0
        self.block = np.zeros((0, 1), np.float32), np.zeros(0)
        monkeypatch.setattr(inlet_module.pylsl, "local_clock", lambda: self.now_s)
        described = SimpleNamespace(
            device=SimpleNamespace(name="x", format="float32", n_channels=1, rate_hz=RATE_HZ),
            plan=SimpleNamespace(columns=(0,), uv_per_unit=(1.0,), labels=("C3",)),
            simulated=False,
        )
        self.session = Session(self, described)
        self.timeline = Timeline(RATE_HZ)

    def time_correction(self, **_):
        return 0.0

    def pull_chunk(self, **_):
        return self.block

    def plays(self, n_blocks, *, ahead_s=0.0):
        """Return how far ahead of the clock the last sample is placed; None: nowhere."""
        at_s = None
        for _ in range(n_blocks):
            self.now_s += BLOCK / RATE_HZ
            stamps = self.now_s - np.arange(BLOCK)[::-1] / RATE_HZ + ahead_s
            self.block = np.zeros((BLOCK, 1), np.float32), stamps
            for chunk in self.session.read(self.timeline) or []:
                last = chunk.first_index + len(chunk.samples)
                at_s = chunk.origin_s + last / RATE_HZ - self.now_s
        return at_s


@pytest.fixture
def device(monkeypatch):
    return Device(monkeypatch)


@pytest.mark.parametrize("ahead_s", [20.0, 2_000.0, 1e9])
@pytest.mark.parametrize("n_wild", [1, 300])
def test_a_clock_that_was_set_forward_and_is_put_right_leaves_nothing_behind(
    device, ahead_s, n_wild
):
    device.plays(300)
    assert device.plays(n_wild, ahead_s=ahead_s) == pytest.approx(0, abs=0.1)
    assert device.plays(600) == pytest.approx(0, abs=0.1)
    assert device.timeline.n_bad_stamps == 0
    assert device.timeline.n_samples == BLOCK * (900 + n_wild)
    before = device.timeline.n_missing
    device.now_s += 1.0  # a loss is seen again
    device.plays(20)
    assert device.timeline.n_missing - before == pytest.approx(RATE_HZ, abs=2)


@pytest.mark.parametrize("first_s", [0.0, 1e-6, 1.0, -5.0, -1e9, 1e9, float("nan"), float("inf")])
@pytest.mark.parametrize("n_wild", [1, 20])
def test_a_device_whose_first_stamps_are_of_no_clock_is_read_all_the_same(device, first_s, n_wild):
    device.plays(n_wild, ahead_s=first_s - device.now_s)
    assert device.plays(2_000) == pytest.approx(0, abs=0.1)
    assert device.timeline.n_samples > 0.95 * BLOCK * 2_000


@pytest.mark.parametrize("ahead_s", [1e9, float("inf")])
def test_a_clock_that_is_wild_for_ever_fills_no_log(device, caplog, ahead_s):
    for n in range(400):
        device.plays(1, ahead_s=ahead_s if n % 2 else 0.0)
    assert len(caplog.records) <= 5
