"""The GPU benchmark says why it was skipped, and runs as it is where it is tried on a CPU."""

import argparse
import importlib.util

import pytest

from benchmarks import gpu


def arguments(*given):
    parser = argparse.ArgumentParser()
    gpu.add_arguments(parser)
    return parser.parse_args(given)


def test_without_a_gpu_it_is_skipped_with_a_reason(monkeypatch):
    if importlib.util.find_spec("torch") is not None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = gpu.measure(arguments())
    assert result["skipped"] in {"torch finds no CUDA device", "torch is not installed"}
    assert result["skipped"] in gpu.table(result)


@pytest.mark.torch
def test_tried_on_a_cpu_it_gives_a_row_for_each_network_and_load():
    pytest.importorskip("torch", reason="torch is not installed: [torch] extra")
    given = ("--device", "cpu", "--channels", "3", "--calls", "2", "--networks", "bonn", "headset")
    result = gpu.measure(arguments(*given))
    windowed, continuous = result["rows"]
    assert (windowed["network"], windowed["channels"]) == ("bonn", 3)
    assert windowed["windows_per_s"] > 0
    assert windowed["ratio"] > 0
    assert set(windowed["latency_ms"]) == {"p50", "p99"}
    assert continuous["ratio"] is None  # nothing plain runs a state that goes on
    assert "bonn" in gpu.table(result)
