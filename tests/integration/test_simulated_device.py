"""A simulated device, read back over real Lab Streaming Layer as any consumer would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from stream_classifier.sources.lsl_runtime import quiet_liblsl

quiet_liblsl()

import pylsl  # noqa: E402 - liblsl reads its configuration once

from simulators.blocks import OFFSET, ONSET, Block, take  # noqa: E402
from simulators.device import Device, already_there  # noqa: E402
from simulators.faults import parse as parse_fault  # noqa: E402
from simulators.mixture import Mixture  # noqa: E402
from simulators.mixture import play as play_mixture  # noqa: E402
from simulators.scenario import parse, play  # noqa: E402

pytestmark = pytest.mark.lsl

PERIOD_S = 1 / 178


@dataclass
class Received:
    """What a consumer has."""

    samples: list[list[float]] = field(default_factory=list)
    stamps: list[float] = field(default_factory=list)
    markers: list[tuple[str, float]] = field(default_factory=list)
    took_s: float = 0.0


@pytest.fixture
def source_id() -> str:
    """An identity of this test's own: other tests and people share the network."""
    return f"test-{uuid.uuid4().hex}"


def inlet(source_id: str) -> pylsl.StreamInlet:
    """Open a stream. It is closed by letting go of it: ``close_stream`` first can abort."""
    (info,) = pylsl.resolve_byprop("source_id", source_id, timeout=10.0)
    opened = pylsl.StreamInlet(info, recover=False)
    opened.open_stream(timeout=10.0)
    return opened


def device(source_id: str, **changes: object) -> Device:
    settings = {
        "name": f"{source_id}-name",
        "source_id": source_id,
        "labels": ("C3", "C4"),
        "played": "a test",
        **changes,
    }
    return Device(**settings)  # type: ignore[arg-type]


@contextmanager
def streaming(sender: Device, blocks: list[Block]) -> Iterator[None]:
    """Stream on a thread of its own; always ended."""
    thread = threading.Thread(target=sender.stream, args=(blocks,), name="device")
    thread.start()
    try:
        yield
    finally:
        sender.stop.set()
        thread.join()


def receive(sender: Device, blocks: list[Block]) -> Received:
    """Stream everything, and return what arrives."""
    n_samples = sum(len(block.samples) for block in blocks)
    n_markers = sum(len(block.events) for block in blocks)
    got = Received()
    with sender:
        eeg = inlet(sender.source_id)
        markers = inlet(f"{sender.source_id}-markers")
        began_s = time.monotonic()
        with streaming(sender, blocks):
            deadline_s = began_s + 30
            while len(got.stamps) < n_samples or len(got.markers) < n_markers:
                assert time.monotonic() < deadline_s, f"only {len(got.stamps)} samples arrived"
                samples, stamps = eeg.pull_chunk(timeout=0.05, min_samples=1)
                got.samples += np.asarray(samples).tolist()
                got.stamps += stamps
                if len(got.stamps) == n_samples and not got.took_s:
                    got.took_s = time.monotonic() - began_s
                marker, stamp = markers.pull_sample(timeout=0.0)
                if marker is not None:
                    got.markers.append((marker[0], stamp))
    return got


def counting(n_samples: int, *, events: tuple[tuple[int, str], ...] = (), gap: int = 0) -> Block:
    values = np.arange(2 * n_samples, dtype=np.float32).reshape(n_samples, 2)
    return Block(values, gap, events)


def test_a_device_describes_itself_as_xdf_asks(source_id: str) -> None:
    with device(source_id, labels=("C3", "left ear"), played="rows"):
        reader = inlet(source_id)
        info = reader.info(timeout=5.0)
        assert info.type() == "EEG"
        assert info.nominal_srate() == 178.0
        assert info.source_id() == source_id
        assert info.channel_format() == pylsl.cf_float32
        assert info.get_channel_labels() == ["C3", "left ear"]
        assert info.get_channel_units() == ["microvolts", "microvolts"]
        assert info.get_channel_types() == ["EEG", "EEG"]
        assert info.desc().child_value("simulated") == "true"
        assert info.desc().child_value("played") == "rows"
        markers = inlet(f"{source_id}-markers")
        info = markers.info(timeout=5.0)
        assert info.type() == "Markers"
        assert info.nominal_srate() == pylsl.IRREGULAR_RATE
        assert info.channel_format() == pylsl.cf_string


@pytest.mark.parametrize("chunk_samples", [1, 4, 37])
def test_samples_arrive_unchanged_with_ideal_stamps_whatever_the_chunk(
    source_id: str, chunk_samples: int
) -> None:
    blocks = [counting(89), counting(89)]
    got = receive(device(source_id, chunk_samples=chunk_samples), blocks)
    np.testing.assert_array_equal(got.samples, np.concatenate([b.samples for b in blocks]))
    np.testing.assert_allclose(np.diff(got.stamps), PERIOD_S, rtol=0, atol=1e-9)


def test_faults_of_the_sending_are_what_a_consumer_has(source_id: str) -> None:
    specs = ("rate:hz=200", "repeat:at=1,seconds=0.5", "backward:at=2,seconds=0.5,by=0.3")
    faults = [parse_fault(spec) for spec in specs]
    n_repeated = 89
    blocks = [counting(178 * 3), counting(n_repeated)]  # as many more as are sent twice
    got = receive(device(source_id, chunk_samples=1, faults=faults), blocks)
    stamps = np.array(got.stamps)
    rounded = np.round((stamps - stamps[0]) * 200, 3)
    # Of the first second nothing is sent twice; then each sample is, for half a second.
    np.testing.assert_array_equal(rounded[:178], np.arange(178))
    np.testing.assert_array_equal(rounded[178:356], np.repeat(np.arange(178, 267), 2))
    # From two seconds on the stamps are 0.3 s too early, for half a second.
    np.testing.assert_allclose(rounded[356 + 89], 356 - 0.3 * 200, atol=1e-3)
    assert (np.diff(stamps) < -0.2).sum() == 1


def test_a_stalled_device_is_silent_then_sends_all_at_once_with_its_proper_stamps(
    source_id: str,
) -> None:
    stalling = device(source_id, faults=[parse_fault("stall:at=0.2,seconds=1.5")])
    sent_at: list[float] = []
    push = stalling._send
    stalling._send = lambda piece: (sent_at.append(time.monotonic()), push(piece))  # type: ignore[method-assign]
    got = receive(stalling, [counting(356)])
    np.testing.assert_allclose(np.diff(got.stamps), PERIOD_S, rtol=0, atol=1e-9)
    assert 1.4 < np.diff(sent_at).max() < 1.9


def test_a_marker_carries_the_stamp_of_its_sample(source_id: str) -> None:
    block = counting(100, events=((0, "state/a"), (41, ONSET), (97, OFFSET)))
    got = receive(device(source_id), [block])
    stamp_of_marker = dict(got.markers)
    assert stamp_of_marker["state/a"] == pytest.approx(got.stamps[0], abs=1e-9)
    assert stamp_of_marker[ONSET] == pytest.approx(got.stamps[41], abs=1e-9)
    assert stamp_of_marker[OFFSET] == pytest.approx(got.stamps[97], abs=1e-9)


def test_a_marker_is_told_with_its_time_since_the_first_sample(source_id: str) -> None:
    told: list[tuple[float, str]] = []
    sender = device(source_id, on_marker=lambda at_s, marker: told.append((at_s, marker)))
    events = ((0, "state/background"), (89, "state/seizure"))
    with sender:
        assert sender.stream([counting(100, events=events)])
    assert told == [(0.0, "state/background"), (0.5, "state/seizure")]


def test_a_gap_is_a_hole_in_the_stamps(source_id: str) -> None:
    got = receive(device(source_id), [counting(50), counting(50, gap=178)])
    steps = np.diff(got.stamps)
    assert steps[49] == pytest.approx(179 * PERIOD_S, abs=1e-9)
    np.testing.assert_allclose(np.delete(steps, 49), PERIOD_S, rtol=0, atol=1e-9)


def test_two_seconds_of_signal_take_two_seconds(source_id: str) -> None:
    got = receive(device(source_id), [counting(356)])
    assert 1.9 < got.took_s < 3.0  # above: this machine may be busy


def test_at_another_speed_delivery_is_faster_and_the_stamps_are_the_same(source_id: str) -> None:
    got = receive(device(source_id, speed=8.0), [counting(8 * 178)])
    assert 0.9 < got.took_s < 2.0
    np.testing.assert_allclose(np.diff(got.stamps), PERIOD_S, rtol=0, atol=1e-9)


def test_a_sample_is_never_sent_before_its_time(source_id: str) -> None:
    sender = device(source_id)
    early_s = []
    with sender:
        reader = inlet(source_id)
        with streaming(sender, [counting(178)]):
            n_seen = 0
            while n_seen < 178:
                samples, stamps = reader.pull_chunk(timeout=5.0, min_samples=1)
                assert len(samples), "the device went silent"
                n_seen += len(stamps)
                early_s.append(max(stamps) - pylsl.local_clock())
    assert max(early_s) <= 0


def test_the_truth_of_a_scenario_stands_where_the_signal_changes(source_id: str) -> None:
    timeline = parse(
        "[[part]]\nstate = 'background'\nseconds = 3\n[[part]]\nstate = 'seizure'\nseconds = 3\n"
    )
    blocks = list(play(timeline, n_channels=2))
    got = receive(device(source_id, speed=4.0), blocks)
    stamps = np.array(got.stamps)
    samples = np.array(got.samples)
    onset_s = dict(got.markers)[ONSET]
    before = samples[stamps < onset_s]
    during = samples[stamps >= onset_s + 1.0]
    assert len(before) == 3 * 178
    assert (during.std(axis=0) > 3 * before.std(axis=0)).all()


def test_a_mixed_head_comes_at_its_own_rate_with_its_seizure_where_the_markers_say(
    source_id: str,
) -> None:
    times = np.arange(4097) / 173.61
    seizures = {"V1": np.float32(200 * np.sin(2 * np.pi * 5 * times))}
    background = np.full((26 * 128, 2), 4100, np.float32)
    mixture = Mixture("someone", "V1", ("T8",), 60.0, 2.0)
    blocks = list(play_mixture(background, [mixture], seizures, labels=("T7", "T8"), rate_hz=128.0))
    got = receive(
        device(source_id, labels=("T7", "T8"), rate_hz=128.0, speed=100.0, chunk_samples=64), blocks
    )
    assert [label for label, _ in got.markers] == [mixture.marker, ONSET, OFFSET]
    stamps, samples = np.array(got.stamps), np.array(got.samples)
    assert np.diff(stamps) == pytest.approx(1 / 128, abs=1e-6)
    (_, onset_s), (_, offset_s) = got.markers[1:]
    inside = (stamps > onset_s - 1e-6) & (stamps < offset_s - 1e-6)
    assert inside.sum() == 23 * 128
    assert np.all(samples[:, 0] == 4100)
    assert np.all(samples[~inside, 1] == 4100)
    assert samples[inside, 1].std() == pytest.approx(60, rel=0.05)


def test_waiting_for_a_consumer_ends_with_the_first_or_in_time(source_id: str) -> None:
    with device(source_id) as sender:
        began_s = time.monotonic()
        assert not sender.wait_for_consumer(0.3)
        assert 0.3 <= time.monotonic() - began_s < 2.0
        readers = [inlet(source_id)]
        assert sender.wait_for_consumer(10.0)
        readers.clear()


def test_a_second_device_of_the_same_identity_is_noticed(source_id: str) -> None:
    assert already_there(source_id) == []
    with device(source_id):
        assert len(already_there(source_id)) == 1


def test_stopping_takes_no_longer_than_a_chunk(source_id: str) -> None:
    sender = device(source_id)
    finished: list[bool] = []
    with sender:
        endless = play(parse("[[part]]\nstate = 'background'\nseconds = 3600"), n_channels=2)
        thread = threading.Thread(target=lambda: finished.append(sender.stream(endless)))
        thread.start()
        reader = inlet(source_id)
        reader.pull_chunk(timeout=10.0, min_samples=1)
        began_s = time.monotonic()
        sender.stop.set()
        thread.join()
        assert time.monotonic() - began_s < 1.0
    assert finished == [False]


# -- as a program -------------------------------------------------------------------------------


def start(*arguments: str) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k != "STREAM_CLASSIFIER_DATA"}
    return subprocess.Popen(
        [sys.executable, "-m", "stream_classifier", "simulate", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
    )


def test_a_finished_program_ends_with_0_and_leaves_stdout_and_liblsl_silent(
    source_id: str,
) -> None:
    program = start("synthetic", "--name", source_id, "--seconds", "0.5", "--channels", "C3,C4")
    out, err = program.communicate(timeout=60)
    assert program.returncode == 0, err
    assert out == ""
    streaming, state = err.splitlines()
    assert "2 channel(s) at 178 Hz" in streaming
    assert state == "00:00  background"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_program_ends_at_once_with_130(
    source_id: str, number: signal.Signals
) -> None:
    program = start("synthetic", "--name", source_id, "--loop")
    try:
        assert program.stderr is not None
        assert "streaming" in program.stderr.readline()
        reader = inlet(source_id)
        reader.pull_chunk(timeout=10.0, min_samples=1)
        program.send_signal(number)
        _, err = program.communicate(timeout=5)
    finally:
        program.kill()
        program.wait()
    assert program.returncode == 130
    assert "Traceback" not in err


def test_a_program_that_would_double_a_device_says_so(source_id: str) -> None:
    with device(source_id):
        program = start("synthetic", "--source-id", source_id, "--seconds", "0.5")
        _, err = program.communicate(timeout=60)
    assert "warning" in err
    assert source_id in err


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["rows", "--data", "/nowhere"], 3, "/nowhere"),
        (["scenario", "--scenario", "absent"], 3, "demo, quiet"),
        (["synthetic", "--channels", "65"], 2, "1 to 64"),
        (["synthetic", "--chunk", "0"], 2, "chunk"),
        (["rows", "--channels", "2"], 2, "one channel"),
        (["scenario", "--shuffle"], 2, "--shuffle has no meaning"),
        (["rows", "--recording", "V1"], 2, "--recording has no meaning"),
    ],
)
def test_a_mistake_is_one_screen_and_an_exit_code(
    arguments: list[str], code: int, told: str
) -> None:
    _, err = (program := start(*arguments)).communicate(timeout=60)
    assert program.returncode == code
    assert told in err
    assert "Traceback" not in err


@pytest.mark.dataset
@pytest.mark.parametrize(
    ("played", "told"),
    [
        (["scenario", "--channels", "2"], "recordings the model has not seen"),
        (["recording"], "1 channel(s) at 178 Hz, recording(s) V1"),
        (["recording", "--recording", "V1.791", "--recording", "V1.1"], "V1.791, V1.1"),
        (["rows", "--shuffle", "--join"], "rows of the data set, shuffled"),
    ],
)
def test_the_data_set_can_be_played(
    source_id: str, data_folder: Path, played: list[str], told: str
) -> None:
    program = start(*played, "--data", str(data_folder), "--name", source_id, "--seconds", "0.5")
    _, err = program.communicate(timeout=60)
    assert program.returncode == 0, err
    assert told in err


def test_a_head_with_a_seizure_can_be_played(source_id: str, data_folder: Path) -> None:
    pytest.importorskip("edfio")
    background = data_folder / "headset_epoc" / "control_06.edf"
    program = start(
        "mixture", "--background", str(background), "--channels-involved", "4", "--seed", "5",
        "--data", str(data_folder), "--name", source_id, "--seconds", "0.5",
    )  # fmt: skip
    _, err = program.communicate(timeout=60)
    assert program.returncode == 0, err
    assert "14 channel(s) at 128 Hz, control_06 with seizure V1" in err


def test_taking_part_of_a_scenario_sends_no_more(source_id: str) -> None:
    timeline = parse("[[part]]\nstate = 'background'\nseconds = 30")
    blocks = list(take(play(timeline, n_channels=2), 100))
    assert len(receive(device(source_id), blocks).stamps) == 100
