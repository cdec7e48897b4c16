"""``model verify`` says whether a model still is what it was."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from stream_classifier.bundle import load_bundle, save_bundle, shipped
from stream_classifier.cli import main
from stream_classifier.engines.reference import classify_windows
from stream_classifier.engines.selftest import TOLERANCE, selftest_deviation


def resaved(bonn, path, **changes):
    """The default bundle with some of its parts exchanged, and true digests."""
    parts = {
        part: getattr(bonn, part)
        for part in ("name", "version", "network", "scaler_mean_uv", "scaler_std_uv", "alarm",
                     "weights", "selftest_windows", "selftest_probabilities", "split",
                     "provenance", "metrics", "mode", "filters", "gain")
    }  # fmt: skip
    return save_bundle(path, card="card\n", attribution="terms\n", **(parts | changes))


@pytest.fixture
def running(bonn, tmp_path):
    """The default model as a continuous one, tested on stretches longer than a window."""
    stretches = bonn.selftest_windows.reshape(-1, 4 * bonn.window_samples)
    mode = replace(bonn, mode="continuous")
    return resaved(
        mode,
        tmp_path / "running",
        selftest_windows=stretches,
        selftest_probabilities=classify_windows(mode, stretches),
    )


@pytest.mark.parametrize("name", shipped())
def test_the_shipped_models_pass_their_self_test(name):
    bundle = load_bundle(name)
    assert selftest_deviation(bundle) <= TOLERANCE
    # A state that ran on is tested only by stretches in which it did.
    length = bundle.selftest_windows.shape[1]
    assert (length > bundle.window_samples) == (bundle.mode == "continuous")
    # And a network that says the same of everything would not do.
    assert set(bundle.selftest_probabilities.argmax(axis=1)) == {0, 1, 2}


def test_a_continuous_model_is_tested_on_its_running_state(running, tmp_path):
    assert running.mode == "continuous"
    assert selftest_deviation(running) == 0
    # The last window alone, from zero state, is another answer.
    windowed = replace(running, mode="windowed")
    windows = running.selftest_windows[:, -running.window_samples :]
    apart = np.abs(classify_windows(windowed, windows) - running.selftest_probabilities)
    assert apart.max() > TOLERANCE


def test_verify_refuses_a_continuous_model_whose_state_forgets(running, tmp_path, capsys):
    weights = dict(running.weights)
    hidden = running.network.hidden
    bias = weights["lstm.bias"].copy()
    bias[hidden : 2 * hidden] -= 0.05  # of the forget gate
    made = resaved(running, tmp_path / "other", weights=weights | {"lstm.bias": bias})
    assert main(["model", "verify", str(made.path)]) == 6
    assert "self-test windows within" in capsys.readouterr().err


@pytest.mark.parametrize("name", shipped())
def test_verify_says_what_it_checked(name, capsys):
    assert main(["model", "verify", name, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["bundle"] == load_bundle(name).digest
    assert said["n_windows"] == 36
    assert said["max_deviation"] <= said["tolerance"]


def test_verify_refuses_a_model_that_says_something_else(bonn, tmp_path, capsys):
    weights = dict(bonn.weights)
    weights["lstm.bias"] = weights["lstm.bias"] + np.float32(0.01)
    made = resaved(bonn, tmp_path / "other", weights=weights)
    assert main(["model", "verify", str(made.path)]) == 6
    captured = capsys.readouterr()
    assert "self-test windows within" in captured.err
    assert captured.out == ""


def test_verify_refuses_a_flipped_byte(bonn, tmp_path, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(bonn.path, folder)
    raw = bytearray((folder / "weights.safetensors").read_bytes())
    raw[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(raw)
    assert main(["model", "verify", str(folder), "--json"]) == 6
    captured = capsys.readouterr()
    assert "SHA-256" in captured.err
    assert captured.out == ""


def test_verify_of_an_unknown_model_names_the_shipped_ones(capsys):
    assert main(["model", "verify", "nosuch"]) == 6
    assert ", ".join(shipped()) in capsys.readouterr().err


def test_list_and_show_print_every_shipped_model(capsys):
    assert main(["model", "list"]) == 0
    listed = capsys.readouterr().out
    for name in shipped():
        assert load_bundle(name).digest[:12] in listed
        assert main(["model", "show", name]) == 0
        assert capsys.readouterr().out == (load_bundle(name).path / "CARD.md").read_text("utf-8")
