"""The benchmarks of the pipeline keep the keys they promise, and never assert a time."""

import argparse

import numpy as np
import pytest

from benchmarks import footprint, latency, pictures, replay
from stream_classifier.bundle import load_bundle

ROW = {
    "channels": 8,
    "events": 5,
    "sample_to_subscriber_ms": {"p50": 3.0, "p99": 8.0},
    "parts_ms": {part: {"p50": 0.5, "p99": 1.0} for part in latency.PARTS},
}


def test_replay_says_how_many_times_real_time_each_bundle_runs():
    parser = argparse.ArgumentParser()
    replay.add_arguments(parser)
    arguments = ["--channels", "2", "--rounds", "1", "--seconds", "3", "--bundles", "headset"]
    result = replay.measure(parser.parse_args(arguments))
    [row] = result["rows"]
    assert row["times_real_time"] > 0
    assert row["bundle"] == "headset"
    assert 0 < row["engine_share"] < 1
    assert "headset" in replay.table(result)


def test_the_parts_of_the_latency_lie_end_to_end():
    ends = list(latency.PARTS.values())
    assert [stop for _, stop in ends] == list(latency.STAGES)
    assert [start for start, _ in ends] == ["pushed", *latency.STAGES[:-1]]


def test_the_threshold_of_the_latency_is_one_that_p_crosses_often():
    signal = np.resize(load_bundle("headset").selftest_windows.ravel(), (178 * 20, 1))
    level = latency._busiest_threshold(
        load_bundle("headset"), signal.astype(np.float32), latency._spec(1)
    )
    assert 0 < level < 1


def test_what_is_installed_counts_the_package_and_what_it_needs():
    closure = footprint._closure("stream_classifier")
    assert {"stream_classifier", "numpy", "pylsl", "aiomqtt", "paho-mqtt"} <= closure
    assert "torch" not in closure
    assert footprint.installed_mb()["base"] > 10


def test_the_latency_is_drawn_part_by_part(tmp_path):
    pytest.importorskip("matplotlib")
    figures = {"rows": [ROW], "peer": {"name": "peer", "rows": [ROW | {"parts_ms": {}}]}}
    pictures.draw_latency(figures | {"broker": "mosquitto"}, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000
