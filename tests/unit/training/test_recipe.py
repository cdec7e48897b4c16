"""A recipe is read whole, or refused by the name of what is wrong with it."""

import json
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: [torch] extra")
pytest.importorskip("sklearn", reason="scikit-learn is not installed: [torch] extra")

from stream_classifier.bundle import (  # noqa: E402
    MAX_PARAMETERS,
    AlarmSpec,
    ConvSpec,
    NetworkSpec,
)
from stream_classifier.errors import ConfigError  # noqa: E402
from stream_classifier.training.augmentation import Augmentation  # noqa: E402
from stream_classifier.training.recipe import RECIPES, Recipe, load_recipe  # noqa: E402

pytestmark = pytest.mark.torch

WIDE = "{channels = 2, kernel = 61, stride = 1}"
SHIPPED = sorted(path.stem for path in RECIPES.glob("*.toml"))


def toml(settings, *, table=""):
    """Settings as TOML: what a person would write who copies them from a bundle."""
    plain = {k: v for k, v in settings.items() if not isinstance(v, dict) and v is not None}
    lines = [f"[{table}]"] if table else []
    lines += [f"{key} = {inline(value)}" for key, value in plain.items()]
    for key, value in settings.items():
        if isinstance(value, dict):
            lines += toml(value, table=f"{table}.{key}".lstrip("."))
    return lines


def inline(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(inline(one) for one in value) + "]"
    return json.dumps(value)


def written(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_there_is_a_recipe_for_each_kind_of_model():
    assert {"bonn", "bonn-rows", "bonn-continuous", "headset"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_can_be_used(name):
    recipe = load_recipe(name)
    assert load_recipe(RECIPES / f"{name}.toml") == recipe
    assert recipe.network.n_parameters <= MAX_PARAMETERS
    assert (recipe.signal == "headset") == name.startswith("headset")
    if name.endswith(("continuous", "windowed")):
        assert name.endswith(recipe.mode)


RECIPES_TO_TELL = {
    "defaults": Recipe(),
    "everything": Recipe(
        mode="continuous",
        signal="headset",
        network=NetworkSpec(stem=(ConvSpec(5, 4, 2), ConvSpec(6, 3, 1)), hidden=7),
        seed=3,
        augmentation=Augmentation(mix_rms_uv=(50.0, 75.0)),
        alarm=AlarmSpec(0.7, 0.3, 2.0, 0.5, 60.0, channels_needed=2),
        refit=True,
    ),
    **{name: load_recipe(name) for name in SHIPPED},
}


@pytest.mark.parametrize("recipe", RECIPES_TO_TELL.values(), ids=RECIPES_TO_TELL)
def test_what_a_bundle_says_of_its_recipe_makes_the_same_recipe_again(recipe, tmp_path):
    told = json.loads(json.dumps(recipe.as_json()))
    assert load_recipe(written(tmp_path, "\n".join(toml(told)))) == recipe


def test_an_empty_file_is_the_default_recipe(tmp_path):
    assert load_recipe(written(tmp_path, "")) == Recipe()


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("epoch = 3", "epoch: "),
        ("[network]\nconv_channels = 24", r"network\.conv_channels: "),
        ("[augmentation]\nloudness = 1.0", r"augmentation\.loudness: "),
        ("epochs = 3.5", "epochs: "),
        ('epochs = "3"', "epochs: "),
        ("epochs = true", "epochs: "),
        ("epochs = 2026-01-01", "epochs: "),
        ("learning_rate = nan", "learning_rate: "),
        ("refit = 1", "refit: "),
        ('mode = "sliding"', "mode: "),
        ('signal = "scalp"', "signal: "),
        ("[network]\nstem = [{channels = 3, kernel = 8}]", r"network\.stem\.0\.stride: "),
        ("[network]\nstem = 3", r"network\.stem: "),
        ("[augmentation]\nmix_rms_uv = [1.0]", r"augmentation\.mix_rms_uv"),
        ("augmentation = 3", "augmentation: "),
        ("[alarm]\nraise_threshold = 0.9", r"alarm\.clear_threshold: "),
    ],
)
def test_a_setting_that_is_unknown_or_of_another_type_is_named(tmp_path, text, key):
    with pytest.raises(ConfigError, match=rf"recipe .*mine\.toml: {key}.* Try: compare it with"):
        load_recipe(written(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("epochs = 0", "at least 1"),
        ("seed = -1", "seed at least 0"),
        ("splice_share = 1.5", r"splice_share 0\.\.1"),
        ("ema_decay = 1.0", r"ema_decay 0\.\.1"),
        ("learning_rate = 0.0", "learning_rate above 0"),
        ('mode = "continuous"\nstretch_samples = 239', "stretch_samples must be at least 240"),
        ("[network]\nhidden = 200", "parameters, at most 65,000"),
        ("[network]\nstem = [{channels = 3, kernel = 8, stride = 3}]", "divisor of 8"),
        (f"[network]\nstem = [{WIDE}, {WIDE}]", "less than a window of 120 samples"),
        ("[augmentation]\nmix_share = 2.0", "shares must be 0 to 1"),
        ("[augmentation]\nmix_rms_uv = [90.0, 60.0]", "mix_rms_uv low <= high"),
        ("[augmentation]\nnoise_uv = -1.0", "must not be negative"),
    ],
)
def test_a_setting_out_of_range_is_refused_before_anything_is_trained(tmp_path, text, why):
    with pytest.raises(ConfigError, match=rf"mine\.toml: .*{why}.* Try: "):
        load_recipe(written(tmp_path, text))


def test_a_recipe_that_is_not_there_leads_to_the_shipped_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"nosuch: .*bonn, bonn-continuous.* Try: --recipe bonn"):
        load_recipe("nosuch")
    assert ConfigError.exit_code == 3


@pytest.mark.parametrize("raw", [b"epochs = ", b"\xff\xfe", b"a = 1\na = 2"])
def test_a_file_that_is_no_toml_is_refused(tmp_path, raw):
    (tmp_path / "mine.toml").write_bytes(raw)
    with pytest.raises(ConfigError, match=r"mine\.toml: expected a readable TOML file, found: "):
        load_recipe(tmp_path / "mine.toml")


def test_a_folder_is_no_recipe(tmp_path):
    with pytest.raises(ConfigError, match="readable TOML file"):
        load_recipe(tmp_path)


def test_a_file_may_be_called_like_a_shipped_recipe_and_is_reached_by_its_path(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bonn").write_text("seed = 7", encoding="utf-8")
    assert load_recipe("bonn").seed == 0
    assert load_recipe(tmp_path / "bonn") == replace(Recipe(), seed=7)
