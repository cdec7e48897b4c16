"""The LSL source against real outlets, in this process and in others that are killed."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pylsl
import pytest

from stream_classifier.errors import (
    AmbiguousStreamError,
    StreamChangedError,
    StreamDescriptionError,
    StreamNotFoundError,
)
from stream_classifier.sources.lsl import LslSource, SourceState, lsl_clock
from stream_classifier.sources.lsl_runtime import quiet_liblsl

pytestmark = pytest.mark.lsl

RATE_HZ = 178.0

DEVICE = """
import sys, time, pylsl
from stream_classifier.sources.lsl_runtime import quiet_liblsl
quiet_liblsl()
name, rate_hz = sys.argv[1], float(sys.argv[2])
info = pylsl.StreamInfo(name, "EEG", 2, rate_hz, "float32", name)
info.set_channel_labels(["C3", "C4"])
info.set_channel_units("microvolts")
outlet = pylsl.StreamOutlet(info)
print("up", flush=True)
start_s, n = pylsl.local_clock(), 0
while True:
    time.sleep(max(0.0, start_s + n / rate_hz - pylsl.local_clock()))
    outlet.push_sample([float(n), float(n)], start_s + n / rate_hz)
    n += 1
"""


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    quiet_liblsl()


@pytest.fixture
def name():
    """A stream name that no other test can see."""
    return f"test-{uuid.uuid4()}"


class Outlet:
    """An amplifier in this process; stamps are as regular as it says."""

    def __init__(
        self,
        name,
        *,
        labels=("C3", "C4"),
        units="uV",
        types="EEG",
        rate_hz=RATE_HZ,
        source_id=None,
        stream_type="EEG",
        channel_format="float32",
        simulated=None,
    ):
        source_id = name if source_id is None else source_id
        self.info = pylsl.StreamInfo(
            name, stream_type, len(labels), rate_hz, channel_format, source_id
        )
        if units is not None:
            self.info.set_channel_labels(list(labels))
            self.info.set_channel_units(units if isinstance(units, str) else list(units))
            self.info.set_channel_types(types if isinstance(types, str) else list(types))
        if simulated is not None:
            self.info.desc().append_child_value("simulated", simulated)
        self.n_channels = len(labels)
        self.rate_hz = rate_hz
        self.outlet = pylsl.StreamOutlet(self.info)
        self.start_s = pylsl.local_clock()
        self.n = 0

    def push(self, n, *, skip=0, stamps=None):
        """Send the next n samples at once, each holding its own number."""
        self.n += skip
        numbers = np.arange(self.n, self.n + n)
        if stamps is None:
            stamps = self.start_s + numbers / self.rate_hz
        self.outlet.push_chunk(np.repeat(numbers[:, None], self.n_channels, axis=1), list(stamps))
        self.n += n

    def end(self):
        self.outlet = None


class Reading:
    """A source that is being read, and everything that came."""

    def __init__(self, source):
        self.source = source
        self.chunks = []
        self._iterator = iter(source)

    def until(self, condition, within_s=10.0):
        deadline_s = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline_s, f"waited {within_s} s: {self.source.health}"
            chunk = next(self._iterator)
            if chunk is not None:
                self.chunks.append(chunk)
        return self

    def for_s(self, seconds):
        ends_s = time.monotonic() + seconds
        return self.until(lambda: time.monotonic() >= ends_s, seconds + 5)

    @property
    def state(self):
        return self.source.health.state

    @property
    def samples(self):
        return np.concatenate([chunk.samples for chunk in self.chunks] or [np.empty((0, 2))])

    @property
    def indices(self):
        return [index for chunk in self.chunks for index in chunk.indices]


@pytest.fixture
def make_source():
    with contextlib.ExitStack() as stack:

        def make(**keywords):
            source = LslSource(stop=keywords.pop("stop", threading.Event()), **keywords)
            stack.callback(source.close)
            return source

        yield make


@pytest.fixture
def attach(make_source):
    """Open a source and wait until its samples would be heard."""

    def attach(outlet, **keywords):
        source = make_source(name=outlet.info.name(), **keywords)
        spec = source.open()
        assert outlet.outlet.wait_for_consumers(5.0)
        return Reading(source), spec

    return attach


@pytest.fixture
def start_device():
    """Start a device as a process of its own; it can be stopped and killed."""
    running = []

    def start(name, rate_hz=RATE_HZ):
        process = subprocess.Popen(
            [sys.executable, "-c", DEVICE, name, str(rate_hz)], stdout=subprocess.PIPE
        )
        running.append(process)
        assert process.stdout.readline() == b"up\n"
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_stream_is_found_described_and_read(name, attach):
    outlet = Outlet(name)
    reading, spec = attach(outlet)
    assert (spec.name, spec.source_id, spec.rate_hz, spec.labels) == (
        name,
        name,
        178.0,
        ("C3", "C4"),
    )
    assert (spec.kind, spec.simulated) == ("lsl", False)
    for n in (1, 3, 50, 700):
        outlet.push(n)
    reading.until(lambda: len(reading.samples) == 754)
    assert reading.indices == list(range(754))
    assert reading.samples[:, 1].tolist() == list(range(754))
    assert reading.samples.dtype == np.float32
    newest = reading.chunks[-1]
    stamp_s = newest.origin_s + newest.indices[-1] / RATE_HZ
    assert stamp_s == pytest.approx(outlet.start_s + 753 / RATE_HZ, abs=1e-3)
    assert abs(lsl_clock() - newest.received_s) < 5.0
    health = reading.source.health
    assert (health.state, health.samples, health.gaps) == (SourceState.ATTACHED, 754, 0)


@pytest.mark.parametrize(
    ("unit", "channel_format", "factor"),
    [
        ("uV", "float32", 1.0),
        ("microvolts", "double64", 1.0),
        ("\u00b5V", "int32", 1.0),
        ("mV", "float32", 1e3),
        ("V", "double64", 1e6),
        ("nV", "int16", 1e-3),
    ],
)
def test_samples_are_in_microvolts_whatever_the_unit(name, attach, unit, channel_format, factor):
    outlet = Outlet(name, units=unit, channel_format=channel_format)
    reading, _ = attach(outlet)
    outlet.push(10)
    reading.until(lambda: len(reading.samples) == 10)
    expected = np.repeat(np.arange(10) * factor, 2).reshape(10, 2).astype(np.float32)
    assert reading.samples.tolist() == expected.tolist()


def test_channels_are_picked_by_label_and_scaled_each(name, attach):
    outlet = Outlet(
        name,
        labels=["C3", "C4", "X", "T7"],
        units=["uV", "mV", "g", "V"],
        types=["EEG", "EEG", "ACC", "EEG"],
    )
    reading, spec = attach(outlet, channels=("T7", "C3"))
    assert spec.labels == ("T7", "C3")
    outlet.push(2)
    reading.until(lambda: len(reading.samples) == 2)
    assert reading.samples[1].tolist() == [1e6, 1.0]


def test_channels_that_are_not_eeg_are_left_out_and_named(name, attach, caplog):
    outlet = Outlet(name, labels=["C3", "X"], units=["uV", "g"], types=["EEG", "ACC"])
    with caplog.at_level(logging.WARNING):
        _, spec = attach(outlet)
    assert spec.labels == ("C3",)
    assert "channels left out, not EEG: X (ACC)" in caplog.text


def test_a_stream_without_a_unit_is_refused_unless_it_is_given(name, make_source, attach):
    outlet = Outlet(name, units=None)
    with pytest.raises(StreamDescriptionError, match=r"gives no unit.*--unit"):
        make_source(name=name).open()
    _, spec = attach(outlet, unit="uV")
    assert spec.labels == ("ch1", "ch2")


def test_a_simulated_device_is_known_as_one(name, attach):
    _, spec = attach(Outlet(name, simulated="true"))
    assert spec.simulated


@pytest.mark.parametrize(
    ("keywords", "reason"),
    [
        ({"channel_format": "string"}, "holds string values"),
        ({"rate_hz": 0.0}, "no regular sampling rate"),
        ({"labels": [f"c{n}" for n in range(600)]}, "has 600 channels"),
    ],
)
def test_a_stream_that_cannot_be_eeg_is_refused(name, make_source, keywords, reason):
    outlet = Outlet(name, **keywords)
    with pytest.raises(StreamDescriptionError, match=reason):
        make_source(name=name).open()
    outlet.end()


def test_two_streams_that_match_are_refused_and_listed(name, make_source, attach):
    outlets = [Outlet(name, source_id=f"{name}-{n}") for n in (1, 2)]
    with pytest.raises(AmbiguousStreamError) as error:
        make_source(name=name).open()
    assert len(error.value.candidates) == 2
    assert all(f"{name}-{n}" in str(error.value) for n in (1, 2))
    assert error.value.exit_code == 4

    _, spec = attach(outlets[1], source_id=f"{name}-2")
    assert spec.source_id == f"{name}-2"


def test_the_type_tells_streams_of_one_name_apart(name, attach):
    outlet = Outlet(name)
    markers = Outlet(name, stream_type="Markers", rate_hz=0.0, channel_format="string")
    _, spec = attach(outlet, type="eeg")
    assert spec.rate_hz == 178.0
    markers.end()


def test_a_stream_that_is_not_there_is_given_up_in_time_naming_what_is(name, make_source):
    other = Outlet(name)
    started_s = time.monotonic()
    with pytest.raises(StreamNotFoundError) as error:
        make_source(name="no-such-stream", wait_s=1.0).open()
    assert time.monotonic() - started_s < 2.0
    assert name in str(error.value)
    assert error.value.exit_code == 4
    other.end()


def test_a_stop_ends_a_wait_for_ever(make_source):
    stop = threading.Event()
    source = make_source(name="no-such-stream", wait_s=float("inf"), stop=stop)
    failure = []

    def open_source():
        try:
            source.open()
        except StreamNotFoundError as error:
            failure.append(error)

    thread = threading.Thread(target=open_source)
    thread.start()
    stop.set()
    thread.join(2.0)
    assert not thread.is_alive()
    assert failure


HOSTILE = (
    'it\'s "quoted"',
    "' or '1'='1",
    "name='x'] | //*[",
    "+/#/$SYS",
    "line\nbreak\ttab \x1b[31m",
    "\u00e9\u4e2d\U0001f9e0",
    "&lt;&#x26;]]>",
    "x" * 10_000,
)


def test_a_hostile_name_is_a_name_and_nothing_else(name, make_source):
    names = [f"{hostile}{name}" for hostile in HOSTILE]
    outlets = [Outlet(hostile, source_id=f"{name}{n}") for n, hostile in enumerate(names)]
    sources = [make_source(name=hostile) for hostile in names]
    with ThreadPoolExecutor(len(sources)) as pool:
        specs = list(pool.map(LslSource.open, sources))
    assert [spec.name for spec in specs] == names
    assert [spec.source_id for spec in specs] == [f"{name}{n}" for n in range(len(outlets))]


def test_what_a_description_says_is_cut_to_what_an_amplifier_would_say(name, attach):
    outlet = Outlet(name, labels=["C" * 100_000, "C4"])
    _, spec = attach(outlet)
    assert spec.labels == ("C" * 256, "C4")


def test_lost_and_repeated_samples_are_counted(name, attach):
    outlet = Outlet(name)
    reading, _ = attach(outlet)
    outlet.push(500)
    reading.until(lambda: len(reading.samples) == 500)
    outlet.push(500, skip=89)
    outlet.push(20, skip=-20)  # once more
    outlet.push(100)
    reading.until(lambda: len(reading.samples) == 1100)
    assert reading.indices == [*range(500), *range(589, 1189)]
    health = reading.source.health
    assert (health.gaps, health.missing_samples, health.duplicates) == (1, 89, 20)


def test_stamps_of_another_clock_are_replaced_by_arrival_times(name, attach, caplog):
    outlet = Outlet(name)
    reading, _ = attach(outlet)
    with caplog.at_level(logging.WARNING):
        outlet.push(50, stamps=time.time() + np.arange(50) / RATE_HZ)
        reading.until(lambda: len(reading.samples) == 50)
    assert "away from now" in caplog.text
    assert abs(reading.source.health.lag_s) < 0.1


def test_a_clock_that_is_set_forward_is_no_loss_of_samples(name, attach, caplog):
    outlet = Outlet(name)
    reading, _ = attach(outlet)
    outlet.push(400)
    reading.until(lambda: len(reading.samples) == 400)
    outlet.start_s += 1200.0
    with caplog.at_level(logging.WARNING):
        outlet.push(200)
        outlet.push(200)
        reading.until(lambda: len(reading.samples) >= 700)
    assert "set forward by" in caplog.text
    assert reading.source.health.missing_samples <= 2 * RATE_HZ
    newest = reading.chunks[-1]
    assert abs(newest.origin_s + newest.indices[-1] / RATE_HZ - lsl_clock()) < 10.0


def test_none_comes_at_least_every_50_ms_while_nothing_arrives(name, attach):
    outlet = Outlet(name)
    reading, _ = attach(outlet)
    iterator = iter(reading.source)
    waits_s = []
    for _ in range(50):
        before_s = time.monotonic()
        assert next(iterator) is None
        waits_s.append(time.monotonic() - before_s)
    assert np.median(waits_s) < 0.06
    assert max(waits_s) < 0.5
    outlet.end()


def test_a_stop_ends_the_reading(name, attach):
    stop = threading.Event()
    outlet = Outlet(name)
    reading, _ = attach(outlet, stop=stop)
    stop.set()
    assert list(reading.source) == []


def test_a_device_that_is_killed_and_restarted_goes_on_after_a_gap(name, make_source, start_device):
    device = start_device(name)
    source = make_source(name=name)
    source.open()
    reading = Reading(source)
    reading.until(lambda: len(reading.samples) >= 178)
    device.kill()
    reading.until(lambda: reading.state is SourceState.LOST, within_s=2.0)
    killed_s = lsl_clock()
    n_before = len(reading.chunks)

    restarted_s = time.monotonic()
    start_device(name)
    reading.until(lambda: len(reading.chunks) > n_before)
    assert time.monotonic() - restarted_s < 5.0
    assert reading.state is SourceState.ATTACHED
    reading.until(lambda: len(reading.samples) >= 500)

    first = reading.chunks[n_before]
    away_s = first.origin_s + first.first_index / RATE_HZ - killed_s
    health = source.health
    assert (health.gaps, health.reconnects) == (1, 1)
    assert health.missing_samples == pytest.approx(away_s * RATE_HZ, abs=0.2 * RATE_HZ)
    assert len(np.unique(reading.indices)) == len(reading.indices)
    lost = first.first_index - reading.chunks[n_before - 1].indices.stop
    assert lost == health.missing_samples


def test_a_device_that_stalls_is_reported_and_goes_on_without_a_gap(
    name, make_source, start_device, caplog
):
    caplog.set_level(logging.INFO)
    device = start_device(name)
    source = make_source(name=name)
    source.open()
    reading = Reading(source)
    reading.until(lambda: len(reading.samples) >= 178)
    os.kill(device.pid, signal.SIGSTOP)
    stopped_s = time.monotonic()
    reading.until(lambda: reading.state is SourceState.NO_DATA, within_s=3.0)
    assert 1.0 < time.monotonic() - stopped_s < 2.0
    reading.for_s(1.0)
    os.kill(device.pid, signal.SIGCONT)
    reading.until(lambda: reading.state is SourceState.ATTACHED, within_s=1.0)
    n = len(reading.samples)
    reading.until(lambda: len(reading.samples) > n + 500)
    assert reading.samples[:, 0].tolist() == [
        reading.samples[0, 0] + k for k in range(len(reading.samples))
    ]
    assert reading.indices == list(range(len(reading.samples)))
    assert (source.health.gaps, source.health.reconnects) == (0, 0)
    told = [text.partition(f"LSL stream {name!r}: ")[2] for text in caplog.messages]
    first, arrive, stall, again = filter(None, told)
    assert (first, arrive, again) == (
        "waiting for the first sample", "samples arrive", "samples arrive"
    )  # fmt: skip
    assert stall.startswith("no sample for 1.")


def test_labels_that_hold_terminal_codes_are_logged_without_them(name, attach, caplog):
    outlet = Outlet(name, labels=("C3", "X\x1b[2J"), types=("EEG", "ACC"))
    with caplog.at_level(logging.INFO):
        attach(outlet)
    assert "channels left out, not EEG: X\ufffd[2J (ACC)" in caplog.text
    assert "\x1b" not in caplog.text


@pytest.mark.parametrize(
    ("keywords", "old", "new"),
    [
        ({"labels": ("C3", "C4", "T7", "T8")}, "2 channels (C3, C4)", "4 channels"),
        ({"labels": ("C4", "C3")}, "(C3, C4)", "(C4, C3)"),
        ({"rate_hz": 256.0}, "178 Hz", "256 Hz"),
        ({"units": "mV"}, "1 uV a unit", "1000 uV a unit"),
        ({"units": None}, "2 channels (C3, C4)", "gives no unit"),
    ],
)
def test_a_device_that_comes_back_different_is_refused(name, attach, keywords, old, new):
    outlet = Outlet(name)
    reading, _ = attach(outlet)
    outlet.push(10)
    reading.until(lambda: len(reading.samples) == 10)
    outlet.end()
    changed = Outlet(name, **keywords)
    with pytest.raises(StreamChangedError) as error:
        reading.for_s(10.0)
    assert old in str(error.value)
    assert new in str(error.value)
    changed.end()


def test_a_device_without_a_source_id_is_known_by_name_type_and_host(name, attach):
    outlet = Outlet(name, source_id="")
    reading, _ = attach(outlet)
    outlet.push(10)
    reading.until(lambda: len(reading.samples) == 10)
    outlet.end()
    again = Outlet(name, source_id="")
    reading.until(lambda: reading.source.health.reconnects == 1)
    assert again.outlet.wait_for_consumers(5.0)
    again.push(10)
    reading.until(lambda: len(reading.samples) == 20)


def test_another_device_of_the_same_name_is_not_taken_for_it(name, attach):
    outlet = Outlet(name)
    reading, _ = attach(outlet)
    outlet.push(10)
    reading.until(lambda: len(reading.samples) == 10)
    outlet.end()
    other = Outlet(name, source_id=f"{name}-of-somebody-else")
    reading.for_s(3.0)
    assert reading.state is SourceState.LOST
    other.end()


def test_two_devices_that_come_back_under_one_identity_are_refused(name, attach):
    outlet = Outlet(name)
    reading, _ = attach(outlet)
    outlet.end()
    twins = [Outlet(name), Outlet(name)]
    with pytest.raises(AmbiguousStreamError, match="2 LSL streams match"):
        reading.for_s(10.0)
    assert len(twins) == 2


def test_looking_for_a_lost_device_costs_little(name, attach):
    outlet = Outlet(name)
    reading, _ = attach(outlet)
    outlet.push(10)
    reading.until(lambda: len(reading.samples) == 10)
    outlet.end()
    reading.until(lambda: reading.state is SourceState.LOST)
    before_s = time.process_time()
    reading.for_s(3.0)
    assert time.process_time() - before_s < 0.05 * 3.0
