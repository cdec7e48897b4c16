"""More than the machine can do, and as much as it must: nothing is lost, all shed is counted."""

import asyncio
import dataclasses
import threading
import time

import numpy as np
import pytest

from benchmarks import load
from simulators.blocks import Block
from simulators.device import Device
from stream_classifier.bundle import load_bundle
from stream_classifier.detection.detector import Detector, DetectorSettings
from stream_classifier.engines import make_engine
from stream_classifier.pipeline import Reader
from stream_classifier.signals import Prediction
from stream_classifier.sources.lsl import LslSource, lsl_clock

from .invariants import no_window_spans_a_gap

pytestmark = pytest.mark.lsl

BUNDLE = load_bundle("bonn")
RATE_HZ = 178.0
LAG_S = 1.0
RECOVERS_S = 2.0


class SlowEngine:
    """An engine that takes its time for each window's worth of samples, while told to."""

    def __init__(self, engine, slowness):
        self._engine = engine
        self.slow = threading.Event()
        self.s_a_sample = slowness / RATE_HZ

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def feed(self, samples):
        if self.slow.is_set():
            time.sleep(self.s_a_sample * sum(map(len, samples.values())))
        return self._engine.feed(samples)


def signal():
    eeg = np.ascontiguousarray(BUNDLE.selftest_windows.ravel(), dtype=np.float32)[:, None]
    while True:
        yield Block(eeg)


async def slowed(engine, slow_s, stop):
    """Live through it, and return when it was over."""
    await asyncio.sleep(1.5)
    engine.slow.set()
    await asyncio.sleep(slow_s)
    engine.slow.clear()
    fast_s = lsl_clock()
    await asyncio.sleep(RECOVERS_S + 0.5)
    stop.set()
    return fast_s


@pytest.mark.fault(15)
@pytest.mark.parametrize(
    ("slowness", "slow_s"),
    [
        pytest.param(2.0, 2.5, id="twice too slow, briefly"),
        pytest.param(1.5, 15.0, id="half too slow", marks=pytest.mark.slow),
        pytest.param(2.8, 15.0, id="nearly three times too slow", marks=pytest.mark.slow),
    ],
)
async def test_an_engine_that_is_too_slow_for_a_live_stream(slowness, slow_s, source_id, measured):
    engine = SlowEngine(make_engine(BUNDLE), slowness)
    accepted, found = [], []

    def make(spec):
        settings = DetectorSettings(rule=dataclasses.replace(BUNDLE.alarm, persistence_s=0.0))
        return Detector(bundle=BUNDLE, spec=spec, engine=engine, settings=settings)

    device = Device(name=source_id, source_id=source_id, labels=("Cz",), played="a test")
    playing = threading.Thread(target=lambda: device.stream(signal()))
    stop = threading.Event()
    with device:
        playing.start()
        source = LslSource(source_id=source_id, wait_s=20.0, stop=stop)
        async with Reader(
            source, make, clock=lsl_clock, stop=stop, taps=[accepted.append]
        ) as reader:
            slowing = asyncio.create_task(slowed(engine, slow_s, stop))
            async for decision in reader.decisions():
                predictions = [item for item in decision.items if isinstance(item, Prediction)]
                found += [(p, decision.decided_s) for p in predictions]
            fast_s = await slowing
        device.stop.set()
        playing.join(10)
    assert reader.failure is None
    detector = reader.detector
    lag_s = max(decided_s - p.at_s for p, decided_s in found)
    back_s = next(
        decided_s - fast_s
        for p, decided_s in found
        if p.at_s > fast_s and p.p is not None and decided_s - p.at_s < LAG_S / 4
    )
    measured(f"engine {slowness} times too slow: lag at most", lag_s, "s")
    measured("windows shed", detector.n_windows_shed)
    measured("windows decided meanwhile", sum(p.at_s < fast_s for p, _ in found))
    measured("recovered after", back_s, "s")
    assert detector.n_windows_shed > 0
    assert detector.n_windows + detector.n_windows_shed == _n_due(accepted)
    no_window_spans_a_gap(
        [p for p, _ in found],
        [index for chunk in accepted for index in chunk.indices],
        rate_hz=RATE_HZ,
        bundle=BUNDLE,
    )
    assert lag_s <= LAG_S
    assert back_s <= RECOVERS_S


def _n_due(chunks):
    """Windows of a detector that had all the time: of each run of samples without a gap."""
    lengths = [0]
    for before, chunk in zip([None, *chunks], chunks, strict=False):
        if before is not None and before.indices.stop != chunk.first_index:
            lengths.append(0)
        lengths[-1] += len(chunk.samples)
    return sum(max(0, (n - BUNDLE.window_samples) // 8 + 1) for n in lengths)


@pytest.mark.fault(15)
@pytest.mark.broker
@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(6, marks=pytest.mark.slow),
        pytest.param(600, marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
)
def test_no_sample_of_64_channels_at_512_hz_is_lost(seconds, measured):
    found = load.stream(seconds)
    measured(f"64 channels x 512 Hz for {seconds} s: samples lost", found["samples_lost"])
    measured("of a core", found["cpu_percent_of_a_core"], "%")
    assert found["samples_lost"] == found["gaps"] == found["missing_samples"] == 0
    assert found["windows_shed"] == 0
    assert found["windows"] > 0


@pytest.mark.fault(19)
@pytest.mark.broker
@pytest.mark.parametrize(
    "seconds", [6, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(300)])]
)
def test_no_alert_is_lost_at_fifty_a_second_through_a_connection_that_flaps(seconds, measured):
    found = load.alerts(seconds)
    measured(f"50 alerts a second for {seconds} s, cuts", found["cuts"])
    measured("alerts lost", found["lost"])
    measured("sent again, under the same id", found["sent_again"])
    assert found["cuts"] >= seconds // 3
    assert found["lost"] == found["left"] == 0
    assert found["in_order"]
