"""The engine benchmark compares like with like, says what it left out, and never asserts a time."""

import argparse
import dataclasses
import json
import os
import sys

import numpy as np
import pytest

from benchmarks import engine, engine_table, peer_names, pictures
from benchmarks.machine import one_core
from stream_classifier.bundle import Bundle, load_bundle
from stream_classifier.engines import make_engine

QUICK = ("--streams", "2", "--rounds", "1", "--budget-s", "0.001", "--cold-s", "0")
OURS = ("--engines", "native", "reference")


def run(*arguments: str) -> dict:
    parser = argparse.ArgumentParser()
    engine.add_arguments(parser)
    return engine.measure(parser.parse_args([*QUICK, *arguments]))


@pytest.fixture(scope="module")
def plain() -> Bundle:
    return load_bundle(engine.PLAIN)


@pytest.fixture(scope="module")
def figures() -> dict:
    return run(*OURS, "--networks", "plain", "headset", "--channels", "3", "--hops", "8")


def test_the_figures_have_the_promised_keys(figures):
    assert {
        "machine", "versions", "engines", "fma_peak_gflops", "networks", "checked", "rows",
        "ratios", "skipped",
    } == figures.keys()  # fmt: skip
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    for row in figures["rows"]:
        assert {
            "network", "mode", "engine", "streams", "channels_each", "hop", "windows_per_s",
            "fraction_of_peak", "latency_us", "latency_cold_us", "channels_per_core",
        } == row.keys()  # fmt: skip
        assert row["windows_per_s"] > 0
        assert row["latency_us"]["p50"] <= row["latency_us"]["p99"]
    measured = {(row["network"], row["streams"], row["channels_each"]) for row in figures["rows"]}
    assert measured == {(name, *load) for name in ("plain", "headset") for load in ((2, 1), (1, 3))}


def test_every_engine_is_compared_with_the_reference(figures):
    for errors in figures["checked"].values():
        assert errors.keys() == figures["engines"].keys()
        assert max(errors.values()) <= engine.TOLERANCE


def test_ratios_are_those_of_the_rows(figures):
    for ratio in figures["ratios"]:
        key = {k: ratio[k] for k in ("network", "streams", "channels_each", "hop")}
        rows = {
            row["engine"]: row["windows_per_s"]
            for row in figures["rows"]
            if key.items() <= row.items()
        }
        expected = rows["native"] / rows[ratio["against"]]
        assert ratio["throughput"] == pytest.approx(expected, abs=0.01)


def test_the_table_names_everybody_and_every_promise(figures):
    said = engine.table(figures)
    assert all(row["engine"] in said for row in figures["rows"])
    assert said.splitlines()[-7:] == engine_table.promises(figures)


def test_a_picture_is_drawn_from_saved_figures(figures, tmp_path):
    pytest.importorskip("matplotlib")
    saved, picture = tmp_path / "figures.json", tmp_path / "made" / "picture.png"
    saved.write_text(json.dumps(figures))
    pictures.measure(argparse.Namespace(figures=saved, picture=picture))
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_cold_latency_is_measured_where_it_is_asked_for():
    rows = run(
        *OURS, "--networks", "plain", "--streams", "1", "--hops", "4", "8", "--cold-s", "0.2"
    )["rows"]
    assert [row["latency_cold_us"] is not None for row in rows] == [row["hop"] == 8 for row in rows]


def test_an_engine_that_differs_is_not_measured(monkeypatch):
    def crooked(bundle, *, name, hop_samples=None):
        head = {"head.bias": bundle.weights["head.bias"] + np.eye(1, 5, dtype=np.float32)[0]}
        wrong = dataclasses.replace(bundle, weights=bundle.weights | head)
        return make_engine(wrong if name == "torch" else bundle, hop_samples=hop_samples,
                           name="reference")  # fmt: skip

    monkeypatch.setattr(engine, "make_engine", crooked)
    found = run("--networks", "plain", "--engines", "torch", "--hops", "8")
    assert not found["rows"]
    assert "differ" in found["skipped"]["torch, plain"]


def test_a_missing_extension_is_said_and_not_an_error(monkeypatch):
    monkeypatch.setattr(engine, "instruction_sets", tuple)
    found = run(*OURS, "--networks", "plain", "--hops", "8")
    assert found["skipped"] == {"native": "it was not built here"}
    assert found["fma_peak_gflops"] is None
    assert {row["fraction_of_peak"] for row in found["rows"]} == {None}
    assert not found["ratios"]


def test_useful_arithmetic_is_counted_by_hand(plain, bonn):
    """Two for each multiply-add; what windows share, once a hop."""
    states = 120 * (2 * 256 * 64 + 2 * 256 * 128)
    assert engine.useful_flop(plain, hop_samples=1) == states + 2 * 256 + 2 * 5 * 192
    assert engine.useful_flop(plain, hop_samples=8) == states + 8 * 2 * 256 + 2 * 5 * 192
    # Per step of 4 samples: two outputs of the first convolution, one of the others.
    stem = 2 * (2 * 32 * 2 * 8) + 2 * 48 * 32 * 8 + 2 * 48 * 48 * 5
    step, state = stem + 2 * 256 * 48, 2 * 256 * 64
    assert engine.useful_flop(bonn, hop_samples=8) == 2 * step + 21 * state + 2 * 5 * 192
    running = dataclasses.replace(bonn, mode="continuous")
    assert engine.useful_flop(running, hop_samples=8) == 2 * (step + state) + 2 * 5 * 192


def test_peers_are_left_out_of_a_network_whose_state_runs_on():
    found = run("--networks", "headset", "--engines", "torch,", "--hops", "8")
    assert not found["rows"]
    assert "peers, headset" in found["skipped"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_one_core_is_given_back():
    before = os.sched_getaffinity(0)
    with one_core() as core:
        assert os.sched_getaffinity(0) == {core}
    assert os.sched_getaffinity(0) == before


@pytest.mark.torch
@pytest.mark.parametrize("name", ["plain", "bonn"])
def test_torch_peers_agree_with_the_reference(name):
    pytest.importorskip("torch", reason="torch is not installed: [torch] extra")
    found = run("--networks", name, "--engines", "torch,", "--hops", "8")
    assert {row["engine"] for row in found["rows"]} == {
        peer_names.TORCH_ONE, peer_names.TORCH_BATCHED
    }  # fmt: skip
    assert max(found["checked"][name].values()) <= engine.TOLERANCE


@pytest.mark.torch
def test_a_peer_that_is_not_installed_is_skipped_with_the_reason(plain, monkeypatch):
    pytest.importorskip("torch", reason="torch is not installed: [torch] extra")
    from benchmarks.peers import Peers

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "openvino", None)
    peers = Peers(plain, names=(peer_names.ONNX_ONE, peer_names.OPENVINO_BATCHED))
    assert not peers.for_batch(4)
    assert peers.skipped == {
        peer_names.ONNX_ONE: "onnxruntime is not installed",
        peer_names.OPENVINO_BATCHED: "openvino is not installed",
    }


@pytest.mark.torch
@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("onnxruntime", (peer_names.ONNX_ONE, peer_names.ONNX_BATCHED)),
        ("openvino", (peer_names.OPENVINO_ONE, peer_names.OPENVINO_BATCHED)),
    ],
)
def test_other_peers_agree_with_the_reference_where_they_are(bonn, module, names):
    pytest.importorskip("torch", reason="torch is not installed: [torch] extra")
    pytest.importorskip("onnx", reason="onnx, a peer, is not installed")
    pytest.importorskip(module, reason=f"{module}, a peer, is not installed")
    found = run("--networks", "bonn", "--engines", *names, "--hops", "8")
    assert {row["engine"] for row in found["rows"]} == set(names)
    assert not found["skipped"]
