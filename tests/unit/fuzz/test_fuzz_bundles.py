"""Bundles that were forged with true digests: used as they say, or refused with the reason."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from stream_classifier.bundle import MANIFEST, canonical_json, load_bundle
from stream_classifier.engines.selftest import selftest_deviation

VALUES = (
    None, True, -1, 0, 1, 2**31, 2**70, 1e-320, 1e308, "", "x" * 300, "\x1b[2J", "\ud800", [], {},
    [[1.0] * 6], [[[[]]]], {"a": None}, 0.5, "windowed", "continuous",
)  # fmt: skip


def _seal(manifest, contents):
    for file, raw in contents.items():
        manifest["files"][file] = {"sha256": hashlib.sha256(raw).hexdigest(), "size": len(raw)}
    manifest.pop("digest", None)
    manifest["digest"] = hashlib.sha256(canonical_json(manifest, indent=1)).hexdigest()
    return canonical_json(manifest, indent=1)


def _places(value):
    if isinstance(value, dict | list):
        for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
            yield value, key
            yield from _places(inner)


@pytest.fixture(params=["bonn-continuous", "headset"])
def folder(request, tmp_path):
    return Path(shutil.copytree(load_bundle(request.param).path, tmp_path / "forged"))


def test_a_manifest_of_odd_values_with_true_digests_is_refused_or_used(
    folder, n_cases, rng, refused
):
    whole = (folder / MANIFEST).read_bytes()
    n_refused = 0
    for _ in range(n_cases // 2):
        manifest = json.loads(whole)
        manifest["metrics"] = {}  # free text: whatever stands there is taken
        manifest["provenance"] = {}
        holder, key = rng.choice(list(_places(manifest)))
        if rng.random() < 0.2:
            del holder[key]
        else:
            holder[key] = rng.choice(VALUES)
        (folder / MANIFEST).write_bytes(
            _seal(manifest, {}) if isinstance(manifest.get("files"), dict) else b"{}"
        )
        n_refused += refused(lambda: load_bundle(folder))
    assert n_refused > n_cases / 8


@pytest.mark.parametrize("file", ["weights.safetensors", "selftest.safetensors", "split.json"])
def test_damaged_parts_with_true_digests_are_refused_or_used(
    folder, n_cases, mutated, refused, file
):
    manifest = json.loads((folder / MANIFEST).read_bytes())
    whole = (folder / file).read_bytes()
    n_refused = 0
    for _ in range(n_cases // 10):
        raw = mutated(whole, reach=2000)
        (folder / file).write_bytes(raw)
        (folder / MANIFEST).write_bytes(_seal(manifest, {file: raw}))
        n_refused += refused(lambda: load_bundle(folder))
    assert n_refused


def test_metrics_without_end_are_refused_or_used(folder, refused):
    manifest = json.loads((folder / MANIFEST).read_bytes())
    for depth in (10, 100, 250, 500, 900):
        nested = {}
        for _ in range(depth):
            nested = {"a": nested}
        manifest["metrics"] = nested
        (folder / MANIFEST).write_bytes(_seal(manifest, {}))
        refused(lambda: load_bundle(folder))


@pytest.mark.parametrize("name", ["\0", "x" * 5000, "~nobody_of_this_name", "/dev/zero", "\ud800"])
def test_a_name_that_no_folder_has_is_refused(name, refused):
    assert refused(lambda: load_bundle(name))


def test_a_thousand_files_too_many_are_not_all_named(folder):
    for n in range(1000):
        (folder / f"extra-{n:04d}").touch()
    with pytest.raises(Exception, match="too many") as caught:
        load_bundle(folder)
    assert len(str(caught.value)) < 1500


def test_a_network_whose_weights_are_huge_numbers_fails_its_self_test_without_a_crash(folder):
    from safetensors.numpy import load, save

    file = "weights.safetensors"
    tensors = load((folder / file).read_bytes())
    for name, tensor in tensors.items():
        if name.endswith("weight"):
            tensors[name] = np.full_like(tensor, 3e38)
    raw = save(tensors)
    (folder / file).write_bytes(raw)
    manifest = json.loads((folder / MANIFEST).read_bytes())
    (folder / MANIFEST).write_bytes(_seal(manifest, {file: raw}))
    with np.errstate(all="ignore"):
        assert not selftest_deviation(load_bundle(folder)) < 0.01
