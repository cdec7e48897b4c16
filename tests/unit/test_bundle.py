"""A bundle is used whole and unchanged, or not at all."""

import hashlib
import json
import os
import shutil
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save as format_safetensors

from stream_classifier.bundle import (
    MANIFEST,
    MAX_BYTES,
    MAX_PARAMETERS,
    AlarmSpec,
    ConvSpec,
    FilterSpec,
    GainSpec,
    NetworkSpec,
    Split,
    canonical_json,
    default_bundle,
    load_bundle,
    save_bundle,
    shipped,
)
from stream_classifier.errors import BundleInvalidError

FILTER = {"sos": [[1.0, 0.0, 0.0, 1.0, 0.0, 0.0]], "settle_s": 0.0, "describes": ""}

# As small as the rules allow, so that every byte of it can be tried.
SPEC = NetworkSpec(stem=(ConvSpec(1, 8, 2), ConvSpec(1, 8, 2)), hidden=1)
RNG = np.random.default_rng(0)
PARTS = {
    "name": "tiny",
    "version": "1",
    "network": SPEC,
    "scaler_mean_uv": -7.5,
    "scaler_std_uv": 165.0,
    "alarm": AlarmSpec(0.9, 0.5, 1.0, 0.5, 90.0),
    "weights": {
        name: RNG.normal(size=shape).astype(np.float32)
        for name, shape in SPEC.weight_shapes.items()
    },
    "selftest_windows": RNG.normal(size=(1, 32)).astype(np.float32),
    "selftest_probabilities": np.float32([[0.25, 0.25, 0.5]]),
    "split": Split(
        protocol="rows", seed=3, train=(0, 1), validation=(2,), test=(3,), data_digest="ab"
    ),
    "provenance": {"seed": 3},
    "metrics": {"accuracy": 0.5},
    "card": "# Card µV\n",
    "attribution": "CC BY 4.0\n",
    "window_samples": 32,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_bundle(tmp_path_factory.mktemp("bundles") / "tiny", **PARTS)


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved.path, tmp_path / "copy"))


def seal(folder, **changes):
    """Change the manifest, and make every digest true again: what a careful forger does."""
    manifest = json.loads((folder / MANIFEST).read_bytes()) | changes
    if "files" not in changes:
        for file in manifest["files"]:
            raw = (folder / file).read_bytes()
            manifest["files"][file] = {
                "sha256": hashlib.sha256(raw).hexdigest(),
                "size": len(raw),
            }
    manifest.pop("digest")
    manifest["digest"] = hashlib.sha256(canonical_json(manifest, indent=1)).hexdigest()
    (folder / MANIFEST).write_bytes(canonical_json(manifest, indent=1))
    return folder


def test_what_was_saved_is_what_is_loaded(saved):
    loaded = load_bundle(saved.path)
    for part in ("name", "version", "network", "scaler_mean_uv", "scaler_std_uv", "alarm", "split",
                 "provenance", "metrics", "window_samples"):  # fmt: skip
        assert getattr(loaded, part) == PARTS[part]
    assert loaded.weights.keys() == PARTS["weights"].keys()
    for name, values in PARTS["weights"].items():
        np.testing.assert_array_equal(loaded.weights[name], values)
    np.testing.assert_array_equal(loaded.selftest_windows, PARTS["selftest_windows"])
    assert (loaded.path / "CARD.md").read_text(encoding="utf-8") == PARTS["card"]


def test_the_same_parts_give_the_same_digest(saved, tmp_path):
    assert save_bundle(tmp_path / "again", **PARTS).digest == saved.digest


def test_any_other_part_gives_another_digest(saved, tmp_path):
    for number, change in enumerate(
        (
            {"card": "# Other\n"},
            {"scaler_mean_uv": -7.6},
            {"alarm": replace(PARTS["alarm"], raise_threshold=0.8)},
            {"split": replace(PARTS["split"], seed=4)},
        )
    ):
        assert save_bundle(tmp_path / str(number), **(PARTS | change)).digest != saved.digest


def test_a_loaded_bundle_cannot_be_changed(saved):
    with pytest.raises(FrozenInstanceError):
        saved.name = "other"
    for array in (*saved.weights.values(), saved.selftest_windows, saved.selftest_probabilities):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


@pytest.mark.parametrize("file", MAX_BYTES)
def test_flipping_a_bit_of_any_byte_is_refused(folder, file):
    path = folder / file
    original = path.read_bytes()
    for place in range(len(original)):
        changed = bytearray(original)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(BundleInvalidError):
            load_bundle(folder)
    path.write_bytes(original)
    load_bundle(folder)


@given(data=st.data())
def test_any_other_bytes_in_the_manifest_are_refused(saved, tmp_path_factory, data):
    folder = Path(shutil.copytree(saved.path, tmp_path_factory.mktemp("fuzz") / "copy"))
    original = (folder / MANIFEST).read_bytes()
    start = data.draw(st.integers(0, len(original)))
    stop = data.draw(st.integers(start, min(start + 8, len(original))))
    raw = original[:start] + data.draw(st.binary(max_size=8)) + original[stop:]
    (folder / MANIFEST).write_bytes(raw)
    if raw == original:
        load_bundle(folder)
    else:
        with pytest.raises(BundleInvalidError):
            load_bundle(folder)


@pytest.mark.parametrize("file", MAX_BYTES)
def test_cutting_or_lengthening_any_file_is_refused(folder, file):
    original = (folder / file).read_bytes()
    for raw in (b"", original[:-1], original[: len(original) // 2], original + b"\n"):
        (folder / file).write_bytes(raw)
        with pytest.raises(BundleInvalidError):
            load_bundle(folder)


@pytest.mark.parametrize("file", MAX_BYTES)
def test_a_missing_file_is_refused_by_name(folder, file):
    (folder / file).unlink()
    with pytest.raises(BundleInvalidError, match=f"absent: '{file}'"):
        load_bundle(folder)


def test_an_extra_file_is_refused_by_name(folder):
    (folder / "weights.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(BundleInvalidError, match=r"too many: 'weights\.pkl'"):
        load_bundle(folder)


def test_swapping_the_files_of_two_bundles_is_refused(folder, tmp_path):
    other = save_bundle(tmp_path / "other", **(PARTS | {"scaler_mean_uv": 0.0}))
    shutil.copy(other.path / "weights.safetensors", folder)
    with pytest.raises(BundleInvalidError, match=r"weights\.safetensors: expected SHA-256"):
        load_bundle(folder)


@pytest.mark.parametrize("file", MAX_BYTES)
def test_a_link_is_refused_even_to_the_right_file(folder, tmp_path, file):
    (folder / file).rename(tmp_path / "elsewhere")
    (folder / file).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleInvalidError, match="a regular file"):
        load_bundle(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_is_refused_without_waiting_for_a_writer(folder):
    (folder / "CARD.md").unlink()
    os.mkfifo(folder / "CARD.md")
    with pytest.raises(BundleInvalidError, match="a regular file"):
        load_bundle(folder)


@pytest.mark.parametrize("file", MAX_BYTES)
def test_an_oversize_file_is_refused_before_it_is_read_whole(folder, file):
    with (folder / file).open("r+b") as opened:
        opened.truncate(4 * 2**30)  # sparse: four gigabytes that take no room on disk
    with pytest.raises(BundleInvalidError, match="at most"):
        load_bundle(folder)


@pytest.mark.parametrize("where", ["../CARD.md", "/etc/passwd", "sub/CARD.md", "c:\\CARD.md"])
def test_a_manifest_that_names_files_elsewhere_is_refused(folder, where):
    files = json.loads((folder / MANIFEST).read_bytes())["files"]
    files[where] = files.pop("CARD.md")
    with pytest.raises(BundleInvalidError, match="digests of"):
        load_bundle(seal(folder, files=files))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": "stream_classifier/bundle/1"}, "format"),
        ({"format": "stream_classifier/bundle/3"}, "format"),
        ({"mode": "sliding"}, "mode"),
        ({"mode": None}, "mode"),
        ({"rate_hz": "178"}, "rate_hz"),
        ({"rate_hz": 0.0}, "a rate"),
        ({"window_samples": 7}, "a window"),
        ({"window_samples": 120.5}, "window_samples"),
        ({"hop_samples": 0}, "a hop"),
        ({"hop_samples": True}, "hop_samples"),
        ({"name": "../../etc"}, "a name"),
        ({"class_names": ["seizure", "normal", "tumour"]}, "the classes"),
        ({"colour": "blue"}, "colour"),
        ({"filters": [FILTER | {"sos": [[1, 2]]}]}, "six coefficients"),
        ({"filters": [FILTER | {"mains_hz": "50"}]}, "mains_hz"),
        ({"filters": [FILTER | {"order": 2}]}, "order"),
        ({"gain": {"target_uv": 0.0}}, "target_uv must be above 0"),
        ({"gain": {"target_uv": 40.0, "low": 2.0}}, "low <= 1 <= high"),
        ({"gain": {"target_uv": 40.0, "adaptive": True}}, "adaptive"),
        ({"network": {"layers": 0}}, "1 to 8 layers"),
        ({"network": {"features": "spectrum"}}, "features"),
        ({"network": {"stem": [{"channels": 1, "kernel": 8, "stride": 9}]}}, "stride"),
        ({"network": {"stem": [{"channels": 1, "kernel": 8}]}}, r"stem\.0\.stride"),
        ({"network": {"conv_channels": 24}}, "conv_channels"),
        ({"metrics": None}, "metrics"),
    ],
)
def test_a_manifest_with_true_digests_and_wrong_settings_is_refused(folder, changes, reason):
    with pytest.raises(BundleInvalidError, match=reason):
        load_bundle(seal(folder, **changes))


def test_a_manifest_in_another_spelling_is_refused(folder):
    manifest = json.loads((folder / MANIFEST).read_bytes())
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(BundleInvalidError, match="canonical"):
        load_bundle(folder)


@pytest.mark.parametrize("raw", [b"\xff", b"[]", b"null", b"[" * 200_000, b'{"a":NaN}'])
def test_a_manifest_that_is_no_json_object_is_refused(folder, raw):
    (folder / MANIFEST).write_bytes(raw)
    with pytest.raises(BundleInvalidError):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda w: w.update({"head.bias": w["head.bias"][:-1]}), "float32"),
        (lambda w: w.update({"conv1.weight": w["conv1.weight"].reshape(1, 8, 2)}), "float32"),
        (lambda w: w.update({"head.bias": w["head.bias"].astype(np.float64)}), "float64"),
        (lambda w: w.update({"head.bias": np.full(5, np.nan, np.float32)}), "NaN"),
        (lambda w: w.update({"lstm.bias": np.full(4, np.inf, np.float32)}), "infinity"),
        (lambda w: w.update({"scaler.std_uv": np.float32([0])}), "above 0"),
        (lambda w: w.pop("lstm.bias"), "arrays"),
        (lambda w: w.update({"extra": np.zeros(1, np.float32)}), "arrays"),
    ],
)
def test_weights_with_true_digests_that_do_not_fit_are_refused(folder, change, reason):
    weights = dict(PARTS["weights"])
    weights |= {"scaler.mean_uv": np.float32([0]), "scaler.std_uv": np.float32([1])}
    change(weights)
    (folder / "weights.safetensors").write_bytes(format_safetensors(weights))
    with pytest.raises(BundleInvalidError, match=reason):
        load_bundle(seal(folder))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        (2**63).to_bytes(8, "little"),
        (20_000).to_bytes(8, "little") + b" " * 20_000,
        (2).to_bytes(8, "little") + b"[]",
        b"\x80\x04\x95" + b"cos\nsystem\n(S'exit 1'\ntR.",
    ],
)
def test_weights_that_are_no_safetensors_are_refused(folder, raw):
    (folder / "weights.safetensors").write_bytes(raw)
    with pytest.raises(BundleInvalidError, match="safetensors"):
        load_bundle(seal(folder))


@pytest.mark.parametrize(
    ("windows", "probabilities"),
    [
        (np.zeros((2, 32)), [[0, 0, 1]]),
        (np.zeros((0, 32)), np.zeros((0, 3))),
        (np.zeros((1, 31)), [[0, 0, 1]]),
        (np.zeros((1, 33)), [[0, 0, 1]]),  # a longer one is for continuous mode
        (np.zeros((1, 32)), [[0, 0, 0.9]]),
        (np.zeros((1, 32)), [[-1, 1, 1]]),
        (np.full((1, 32), np.nan), [[0, 0, 1]]),
    ],
)
def test_a_self_test_that_cannot_be_run_is_refused(folder, windows, probabilities):
    tensors = {"windows": np.float32(windows), "probabilities": np.float32(probabilities)}
    (folder / "selftest.safetensors").write_bytes(format_safetensors(tensors))
    with pytest.raises(BundleInvalidError):
        load_bundle(seal(folder))


@pytest.mark.parametrize(
    "change",
    [
        {"test": [0]},
        {"train": [0, 0]},
        {"train": ["V1"]},
        {"protocol": "recordings"},
        {"protocol": "people"},
        {"seed": "3"},
        {"extra": 1},
    ],
)
def test_a_split_that_contradicts_itself_is_refused(folder, change):
    split = json.loads((folder / "split.json").read_bytes()) | change
    (folder / "split.json").write_bytes(canonical_json(split))
    with pytest.raises(BundleInvalidError):
        load_bundle(seal(folder))


@pytest.mark.parametrize(
    "change",
    [
        {"stem": (ConvSpec(1, 2, 1),) * 9},
        {"layers": 0},
        {"layers": 9, "hidden": 4},
        {"stem": (ConvSpec(200, 8, 2), ConvSpec(200, 8, 2))},
        {"hidden": 0},
        {"hidden": 200},
        {"output_classes": (0, 1, 2, 2)},
        {"output_classes": (0, 1, 1, 1, 1)},
        {"output_classes": (0, 1, 2, 3, 3)},
    ],
)
def test_a_network_out_of_bounds_cannot_be_described(change):
    with pytest.raises(ValueError, match=r"must|at most"):
        NetworkSpec(**change)


@pytest.mark.parametrize(
    "values", [(0, 8, 2), (257, 8, 2), (1, 0, 0), (1, 65, 2), (1, 8, 0), (1, 8, 9), (-1, 8, 2)]
)
def test_a_convolution_out_of_range_cannot_be_described(values):
    with pytest.raises(ValueError, match=r"1 to 256 channels|1 to its kernel"):
        ConvSpec(*values)


def test_the_default_network_has_exactly_so_many_parameters():
    conv = 24 * 2 * 8 + 24 + 24 * 24 * 8 + 24
    lstm = 4 * 64 * 24 + 4 * 64 * 64 + 4 * 64
    head = 5 * 3 * 64 + 5
    assert NetworkSpec().n_parameters == conv + lstm + head == 28_789 <= MAX_PARAMETERS


@pytest.mark.parametrize(
    ("stem", "stride", "receptive"),
    [
        ((ConvSpec(3, 8, 2), ConvSpec(3, 8, 2)), 4, 8 + 7 * 2),
        ((ConvSpec(3, 8, 2), ConvSpec(4, 5, 2), ConvSpec(5, 3, 1)), 4, 8 + 4 * 2 + 2 * 4),
        ((ConvSpec(3, 9, 3),), 3, 9),
    ],
)
def test_a_stem_of_any_depth_is_described_layer_by_layer(stem, stride, receptive):
    spec = NetworkSpec(stem=stem, hidden=6)
    assert (spec.stride_samples, spec.receptive_samples) == (stride, receptive)
    shapes = spec.weight_shapes
    before = 2
    for n, conv in enumerate(stem, start=1):
        assert shapes[f"conv{n}.weight"] == (conv.channels, before, conv.kernel)
        assert shapes[f"conv{n}.bias"] == (conv.channels,)
        before = conv.channels
    assert shapes["lstm.weight_ih"] == (24, before)
    assert f"conv{len(stem) + 1}.weight" not in shapes
    assert spec.n_parameters == sum(int(np.prod(shape)) for shape in shapes.values())


@pytest.mark.parametrize(
    "change",
    [
        {"target_uv": 0.0},
        {"target_uv": -40.0},
        {"target_uv": float("nan")},
        {"baseline_s": 0.0},
        {"baseline_s": 3601.0},
        {"low": 0.0},
        {"low": 1.1},
        {"high": 0.9},
    ],
)
def test_a_gain_out_of_range_cannot_be_described(change):
    with pytest.raises(ValueError, match=r"must be|expected"):
        GainSpec(**({"target_uv": 40.0} | change))


@pytest.mark.parametrize("count", [0, -1, 513])
def test_an_alarm_needs_at_least_one_channel(count):
    with pytest.raises(ValueError, match="channels_needed must be 1 to 512"):
        replace(PARTS["alarm"], channels_needed=count)


@pytest.mark.parametrize(
    "values", [(0.5, 0.9, 1, 1, 1), (1.0, 0.5, 1, 1, 1), (0.9, 0, 1, 1, 1), (0.9, 0.5, -1, 1, 1)]
)
def test_an_alarm_rule_out_of_range_cannot_be_described(values):
    with pytest.raises(ValueError, match=r"expected|must"):
        AlarmSpec(*values)


def test_filters_travel_with_the_bundle(tmp_path):
    high_pass = FilterSpec(
        sos=((1.0, -2.0, 1.0, 1.0, -1.9, 0.9),), settle_s=1.5, describes="0.5 Hz high-pass"
    )
    notches = tuple(
        FilterSpec(
            sos=((1.0, 0.25, 1.0, 1.0, 0.25, 0.75),),
            settle_s=0.2,
            describes=f"{mains_hz:g} Hz notch",
            mains_hz=mains_hz,
        )
        for mains_hz in (50.0, 60.0)
    )
    filters = (high_pass, *notches)
    saved = save_bundle(tmp_path / "filtered", **PARTS, filters=filters)
    assert load_bundle(saved.path).filters == filters


def test_mode_gain_and_a_deep_stem_travel_with_the_bundle(tmp_path):
    spec = NetworkSpec(stem=(ConvSpec(2, 4, 2), ConvSpec(3, 4, 1), ConvSpec(1, 3, 2)), hidden=2)
    gain = GainSpec(target_uv=38.5, baseline_s=30.0, low=0.25, high=8.0)
    alarm = replace(PARTS["alarm"], channels_needed=4)
    weights = {
        name: RNG.normal(size=shape).astype(np.float32)
        for name, shape in spec.weight_shapes.items()
    }
    changes = {"network": spec, "weights": weights, "alarm": alarm}
    made = save_bundle(tmp_path / "deep", **(PARTS | changes), mode="continuous", gain=gain)
    loaded = load_bundle(made.path)
    assert (loaded.mode, loaded.gain, loaded.network, loaded.alarm) == (
        "continuous", gain, spec, alarm,
    )  # fmt: skip
    for name, values in weights.items():
        np.testing.assert_array_equal(loaded.weights[name], values)


def test_without_being_said_a_bundle_is_windowed_and_without_a_gain(saved):
    assert (saved.mode, saved.gain, saved.alarm.channels_needed) == ("windowed", None, 1)


@pytest.mark.parametrize("n_samples", [32, 100, 64 * 32])
def test_a_continuous_bundle_may_test_itself_on_longer_stretches(tmp_path, n_samples):
    stretches = RNG.normal(size=(3, n_samples)).astype(np.float32)
    parts = PARTS | {
        "selftest_windows": stretches,
        "selftest_probabilities": np.float32([[0.25, 0.25, 0.5]] * 3),
    }
    made = save_bundle(tmp_path / "running", **parts, mode="continuous")
    np.testing.assert_array_equal(load_bundle(made.path).selftest_windows, stretches)


@pytest.mark.parametrize("n_samples", [31, 64 * 32 + 1])
def test_a_self_test_stretch_of_another_length_is_refused(tmp_path, n_samples):
    parts = PARTS | {"selftest_windows": np.zeros((1, n_samples), np.float32)}
    with pytest.raises(BundleInvalidError, match="self-test windows of 32 to 2048 samples"):
        save_bundle(tmp_path / "running", **parts, mode="continuous")
    assert not (tmp_path / "running").exists()


def test_saving_over_something_is_refused_unless_it_is_a_bundle_to_be_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    for allowed in (False, True):
        with pytest.raises(FileExistsError):
            save_bundle(tmp_path / "mine", **PARTS, replace=allowed)
    first = save_bundle(tmp_path / "bundle", **PARTS)
    with pytest.raises(FileExistsError):
        save_bundle(tmp_path / "bundle", **PARTS)
    second = save_bundle(tmp_path / "bundle", **(PARTS | {"version": "2"}), replace=True)
    assert (first.version, second.version) == ("1", "2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "mine"]


def test_saving_parts_that_do_not_fit_leaves_nothing_behind(tmp_path):
    with pytest.raises(BundleInvalidError):
        save_bundle(tmp_path / "bad", **(PARTS | {"scaler_std_uv": 0.0}))
    with pytest.raises(ValueError, match=r"[Nn]a[Nn]|finite|JSON"):
        save_bundle(tmp_path / "bad", **(PARTS | {"metrics": {"accuracy": float("nan")}}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["nosuch", "", "/dev/null", "bonn/manifest.json", "a\0b"])
def test_an_unknown_bundle_is_refused_naming_the_shipped_ones(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleInvalidError):
        load_bundle(name)


def test_a_folder_called_like_a_shipped_bundle_is_reached_by_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = save_bundle(tmp_path / "bonn", **PARTS)
    assert load_bundle("./bonn").digest == mine.digest
    assert load_bundle("bonn").digest != mine.digest


def test_the_models_of_both_protocols_are_shipped():
    assert {"bonn", "bonn-rows"} <= set(shipped())
    assert default_bundle("dataset") == "bonn"
    assert default_bundle("live") in shipped()


@pytest.mark.parametrize("name", shipped())
def test_the_shipped_bundles_are_sound_and_carry_their_papers(name):
    bundle = load_bundle(name)
    assert bundle.name == name
    assert (bundle.rate_hz, bundle.window_samples, bundle.hop_samples) == (178.0, 120, 8)
    assert bundle.hop_samples % bundle.network.stride_samples == 0
    assert bundle.network.n_parameters <= MAX_PARAMETERS
    assert bundle.split.protocol == ("rows" if name == "bonn-rows" else "recordings")
    card = (bundle.path / "CARD.md").read_text(encoding="utf-8")
    assert "Not a medical device" in card
    assert "split by person" in card or name == "bonn-rows"
    attribution = (bundle.path / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for word in ("Andrzejak", "10.34810/data490", "CC BY 4.0"):
        assert word in attribution


@pytest.mark.parametrize("name", shipped())
def test_only_a_model_for_heads_filters_and_it_is_calibrated_and_knows_both_mains(name):
    bundle = load_bundle(name)
    if name.startswith("bonn"):  # the data set as published
        assert (bundle.filters, bundle.gain) == ((), None)
    else:
        assert bundle.gain is not None
        assert {50.0, 60.0} <= {f.mains_hz for f in bundle.filters}


def test_who_must_act_depends_on_whose_bundle_it_is(folder, tmp_path, monkeypatch):
    (folder / "CARD.md").write_text("other")
    with pytest.raises(BundleInvalidError, match="Try: make it or copy it again"):
        load_bundle(folder)
    monkeypatch.setattr("stream_classifier.bundle._MODELS", tmp_path)
    with pytest.raises(BundleInvalidError, match="Try: install the package again"):
        load_bundle(folder.name)


def test_a_name_that_is_no_bundle_leads_to_the_list_of_those_there_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleInvalidError, match=r"bonn.*found neither\. Try: .* model list$"):
        load_bundle("nope")
