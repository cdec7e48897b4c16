"""``model verify`` says whether a model still is what it was."""

import json
import shutil

import numpy as np
import pytest

from stream_classifier.bundle import load_bundle, save_bundle
from stream_classifier.cli import main
from stream_classifier.evaluation.selftest import TOLERANCE, selftest_deviation


def resaved(bonn, path, **changes):
    """The default bundle with some of its parts exchanged, and true digests."""
    parts = {
        part: getattr(bonn, part)
        for part in ("name", "version", "network", "scaler_mean_uv", "scaler_std_uv", "alarm",
                     "weights", "selftest_windows", "selftest_probabilities", "split",
                     "provenance", "metrics")
    }  # fmt: skip
    return save_bundle(path, card="card\n", attribution="terms\n", **(parts | changes))


@pytest.mark.parametrize("name", ["bonn", "bonn-rows"])
def test_the_shipped_models_pass_their_self_test(name):
    assert selftest_deviation(load_bundle(name)) <= TOLERANCE


def test_verify_says_what_it_checked(capsys):
    assert main(["model", "verify", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["bundle"] == load_bundle("bonn").digest
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
    assert "bonn, bonn-rows" in capsys.readouterr().err


def test_list_and_show_print_every_shipped_model(capsys):
    assert main(["model", "list"]) == 0
    listed = capsys.readouterr().out
    for name in ("bonn", "bonn-rows"):
        assert load_bundle(name).digest[:12] in listed
        assert main(["model", "show", name]) == 0
        assert capsys.readouterr().out == (load_bundle(name).path / "CARD.md").read_text("utf-8")
