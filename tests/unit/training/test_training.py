"""A training can be repeated, chooses on validation only, and ends in a bundle."""

import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: [torch] extra")
pytest.importorskip("sklearn", reason="scikit-learn is not installed: [torch] extra")

from stream_classifier.bundle import (  # noqa: E402
    AlarmSpec,
    ConvSpec,
    NetworkSpec,
    load_bundle,
)
from stream_classifier.cli import main  # noqa: E402
from stream_classifier.datasets import SeizureRows  # noqa: E402
from stream_classifier.engines.selftest import TOLERANCE, selftest_deviation  # noqa: E402
from stream_classifier.errors import ConfigError  # noqa: E402
from stream_classifier.evaluation.timelines import play, pool, splice  # noqa: E402
from stream_classifier.evaluation.windows import split_rows  # noqa: E402
from stream_classifier.training import calibration  # noqa: E402
from stream_classifier.training.augmentation import Augmentation  # noqa: E402
from stream_classifier.training.calibration import (  # noqa: E402
    DEFAULT_ALARM,
    EASED_BY,
    LATENCY_BUDGET_S,
    RAISE_THRESHOLDS,
    AlarmTrial,
    choose_alarm,
    fit_temperature,
    try_alarms,
)
from stream_classifier.training.front_end import front_end  # noqa: E402
from stream_classifier.training.material import gather, split_data  # noqa: E402
from stream_classifier.training.network import StreamNetwork, export_weights  # noqa: E402
from stream_classifier.training.recipe import (  # noqa: E402
    UNSURE_SAMPLES,
    Recipe,
    _Batch,
    _draw_batch,
    _loss,
    train,
)
from stream_classifier.training.run import train_bundle  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("small_sides")]

SPEC = NetworkSpec(stem=(ConvSpec(3, 8, 2), ConvSpec(3, 8, 2)), hidden=4)
WINDOWED = Recipe(
    network=SPEC, seed=1, epochs=2, stretches_per_epoch=640, batch_stretches=64, validation_draws=1
)
CONTINUOUS = replace(WINDOWED, mode="continuous", stretch_samples=300, batch_stretches=32)
HEADSET = replace(CONTINUOUS, signal="headset", augmentation=Augmentation())
RECIPES = {
    "windowed": WINDOWED,
    "windowed, headset": replace(HEADSET, mode="windowed"),
    "continuous": CONTINUOUS,
    "continuous, headset": HEADSET,
}
every_recipe = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


def run(rows, *, protocol="recordings", recipe=WINDOWED, on_epoch=lambda _: None):
    split = split_data(rows, protocol=protocol, seed=0)
    return train(rows, split, recipe=recipe, on_epoch=on_epoch)


def with_values(rows, numbers, value):
    """The same table with other samples in some of its rows."""
    values = rows.values.copy()
    values[numbers] = value
    return SeizureRows(
        values=values,
        labels=rows.labels,
        recordings=rows.recordings,
        chunks=rows.chunks,
        digest=rows.digest,
    )


def same_weights(one, other):
    a, b = export_weights(one.network), export_weights(other.network)
    return all(np.array_equal(a[name], b[name]) for name in a)


@every_recipe
def test_training_twice_gives_the_same_weights_to_the_bit(noise_rows, recipe):
    torch.manual_seed(17)
    first = run(noise_rows, recipe=recipe)
    torch.manual_seed(99)  # whatever the caller's random state is
    second = run(noise_rows, recipe=recipe)
    assert same_weights(first, second)
    assert (first.mean_uv, first.std_uv) == (second.mean_uv, second.std_uv)
    assert (first.temperature, first.history) == (second.temperature, second.history)


@every_recipe
def test_another_seed_gives_other_weights(noise_rows, recipe):
    other = run(noise_rows, recipe=replace(recipe, seed=2))
    assert not same_weights(other, run(noise_rows, recipe=recipe))


def test_training_leaves_torch_as_it_was(noise_rows):
    torch.manual_seed(5)
    n_threads = torch.get_num_threads()
    run(noise_rows)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))
    assert torch.get_num_threads() == n_threads
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("refit", [False, True])
@every_recipe
def test_the_test_side_has_no_influence_at_all(noise_rows, recipe, refit):
    recipe = replace(recipe, refit=refit)
    hidden = split_rows(noise_rows, split_data(noise_rows, protocol="recordings", seed=0).test)
    plain = run(noise_rows, recipe=recipe)
    blind = run(with_values(noise_rows, hidden, 1000), recipe=recipe)
    assert same_weights(plain, blind)
    assert plain.temperature == blind.temperature


def test_without_a_refit_the_validation_side_only_chooses(noise_rows):
    recipe = replace(WINDOWED, epochs=1)
    chosen_on = split_rows(
        noise_rows, split_data(noise_rows, protocol="recordings", seed=0).validation
    )
    changed = with_values(noise_rows, chosen_on, 1000)
    assert same_weights(run(noise_rows, recipe=recipe), run(changed, recipe=recipe))
    recipe = replace(recipe, refit=True)
    assert not same_weights(run(noise_rows, recipe=recipe), run(changed, recipe=recipe))


def test_a_refit_keeps_what_was_chosen_and_the_scaler(noise_rows):
    plain = run(noise_rows)
    again = run(noise_rows, recipe=replace(WINDOWED, refit=True))
    assert (again.best, again.history, again.temperature) == (
        plain.best, plain.history, plain.temperature,
    )  # fmt: skip
    assert (again.mean_uv, again.std_uv) == (plain.mean_uv, plain.std_uv)
    assert not same_weights(again, plain)
    assert not again.network.training


@every_recipe
def test_the_scaler_is_one_mean_and_one_deviation_of_the_training_samples(noise_rows, recipe):
    trained = run(noise_rows, recipe=replace(recipe, epochs=1))
    prepare = front_end(recipe.signal).prepare
    keys = split_data(noise_rows, protocol="recordings", seed=0).train
    samples = np.concatenate([prepare(noise_rows.recording(key)) for key in keys]).astype(float)
    assert trained.mean_uv == pytest.approx(samples.mean(), rel=1e-5, abs=1e-5)
    assert trained.std_uv == pytest.approx(samples.std(), rel=1e-5)
    assert trained.mean_uv == np.float32(trained.mean_uv)


@every_recipe
def test_the_best_epoch_is_kept_and_training_stops_when_nothing_improves(noise_rows, recipe):
    seen = []
    recipe = replace(recipe, epochs=40, patience_epochs=2, learning_rate=1e-9)
    trained = run(noise_rows, recipe=replace(recipe, stretches_per_epoch=64), on_epoch=seen.append)
    assert trained.history == tuple(seen)
    assert len(seen) == trained.best.number + 2 < 40
    assert trained.best.macro_f1 == max(epoch.macro_f1 for epoch in seen)
    assert [epoch.number for epoch in seen] == list(range(1, len(seen) + 1))


@every_recipe
def test_training_learns(noise_rows, recipe):
    # Of loudness alone; an augmentation that blurs it is no part of this.
    n = 2560 if recipe.mode == "windowed" else 1280  # which is asked more often a stretch
    recipe = replace(recipe, epochs=8, stretches_per_epoch=n, augmentation=None)
    assert run(noise_rows, recipe=recipe).best.accuracy > 0.9


def test_stretches_longer_than_the_signal_are_refused_before_training(noise_rows):
    recipe = replace(CONTINUOUS, stretch_samples=5000)
    with pytest.raises(
        ConfigError, match=r"stretch_samples 5000: .* 4094 samples\. Try: a smaller"
    ):
        run(noise_rows, recipe=recipe)
    with pytest.raises(ConfigError, match="stretch_samples 4000"):
        run(noise_rows, recipe=replace(CONTINUOUS, stretch_samples=4000), protocol="rows")


def numbered_material(*, stretch_samples):
    """Signal in which every sample says which recording it is from; its labels by recording."""
    keys = np.repeat([f"V{n}" for n in range(10)], 23)
    labels = np.repeat(np.tile(np.arange(1, 6), 2), 23)
    rows = SeizureRows(
        values=np.repeat(np.arange(10), 23)[:, None].repeat(178, axis=1).astype(np.int16),
        labels=labels.astype(np.int8),
        recordings=keys,
        chunks=np.tile(np.arange(1, 24), 10).astype(np.int8),
        digest="numbered",
    )
    return gather(rows, np.arange(230), stretch_samples=stretch_samples), labels[::23]


def test_a_spliced_stretch_has_the_label_of_each_side():
    material, labels = numbered_material(stretch_samples=300)
    recipe = replace(CONTINUOUS, splice_share=0.5, batch_stretches=200)
    rng = np.random.default_rng(0)
    batch = _draw_batch(material, rng, recipe, mean_uv=np.float32(0), std_uv=np.float32(1))
    z, targets, splices = batch.z.numpy().astype(int), batch.targets.numpy(), batch.splices.numpy()
    assert z.shape == (200, 300)
    assert (splices < 300).sum() == 100
    assert splices[:100].min() >= 60
    assert splices[:100].max() < 240
    for stretch, (before, after), splice_at in zip(z, targets, splices, strict=True):
        assert set(labels[stretch[:splice_at]]) == {before + 1}
        assert set(labels[stretch[splice_at:]]) <= {after + 1}
        assert len(set(stretch[:splice_at])) == 1  # one recording on each side
        assert len(set(stretch[splice_at:])) <= 1


def test_windowed_training_never_splices():
    material, labels = numbered_material(stretch_samples=120)
    rng = np.random.default_rng(0)
    batch = _draw_batch(material, rng, WINDOWED, mean_uv=np.float32(0), std_uv=np.float32(1))
    assert (batch.splices == 120).all()
    z = batch.z.numpy().astype(int)
    np.testing.assert_array_equal(z[:, 0], z[:, -1])
    np.testing.assert_array_equal(labels[z[:, 0]] - 1, batch.targets[:, 0])


def test_after_a_splice_no_answer_is_asked_until_half_the_window_is_new():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = StreamNetwork(SPEC, window_samples=120).eval()
        z = torch.randn(3, 300)
    splices, targets = np.array([300, 130, 200]), np.array([[0, 4], [1, 2], [3, 0]])
    batch = _Batch(z=z, targets=torch.from_numpy(targets), splices=torch.from_numpy(splices))
    found = _loss(network, batch, np.random.default_rng(0), replace(CONTINUOUS, decide_every=1))

    ends = network.ends(300)
    with torch.no_grad():
        logits = network.decide(network.states(z), range(len(ends)))
        log_p = torch.log_softmax(logits, dim=-1).numpy()
    asked = []
    for stretch, (before, after) in enumerate(targets):
        for place, end in enumerate(ends):
            if end < splices[stretch]:
                asked.append(-log_p[stretch, place, before])
            elif end >= splices[stretch] + 60:
                asked.append(-log_p[stretch, place, after])
    assert UNSURE_SAMPLES == 60
    assert len(asked) == 3 * len(ends) - 2 * 15
    assert found.item() == pytest.approx(np.mean(asked), rel=1e-5)


def test_a_temperature_makes_an_overconfident_network_less_sure():
    generator = torch.Generator().manual_seed(0)
    logits = 10 * torch.randn(2000, 5, generator=generator)
    truth = torch.randint(3, (2000,), generator=generator)
    assert fit_temperature(logits, truth, SPEC.output_classes) > 2


def test_a_temperature_undoes_a_factor_on_logits_that_were_as_sure_as_right():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 5, generator=generator)
    outputs = torch.multinomial(torch.softmax(logits, dim=1), 1, generator=generator)[:, 0]
    truth = torch.tensor(SPEC.output_classes)[outputs]
    for factor in (0.5, 1.0, 3.0):
        found = fit_temperature(factor * logits, truth, SPEC.output_classes)
        assert found == pytest.approx(factor, rel=0.05)


def trial(threshold, *, false=0, eased=0, missed=0, latency_s=1.0):
    return AlarmTrial(
        raise_threshold=threshold,
        smoothing_s=1.0,
        persistence_s=0.5,
        false_alarms=false,
        false_alarms_eased=eased,
        missed=missed,
        latency_s=latency_s,
        worst_latency_s=latency_s,
        background_s=60.0,
        n_seizures=10,
    )


OVER_S = LATENCY_BUDGET_S + 0.2


@pytest.mark.parametrize(
    ("trials", "chosen"),
    [
        ([trial(0.9, false=1, latency_s=1.0), trial(0.95, latency_s=2.0)], 0.95),
        ([trial(0.95, missed=1, latency_s=1.0), trial(0.9, latency_s=2.0)], 0.9),
        ([trial(0.95, false=1, missed=1), trial(0.9, missed=1, latency_s=OVER_S)], 0.9),
        # Over the budget the quickest, whatever it would do at a lower threshold.
        ([trial(0.95, latency_s=2.0), trial(0.9, latency_s=1.5)], 0.9),
        ([trial(0.95, latency_s=OVER_S), trial(0.9, eased=3, latency_s=1.3)], 0.9),
        # Within it the safest: the fewest at a lower threshold, then the longest look.
        ([trial(0.95, eased=1, latency_s=1.3), trial(0.9, latency_s=0.9)], 0.9),
        ([trial(0.95, latency_s=0.9), trial(0.9, latency_s=1.3)], 0.9),
        ([trial(0.95), trial(0.9)], 0.95),
        ([trial(0.95, missed=10, latency_s=None), trial(0.9, missed=10, latency_s=None)], 0.95),
        ([trial(0.95, missed=10, latency_s=None), trial(0.9, missed=9, latency_s=5.0)], 0.9),
    ],
)
def test_the_fewest_errors_win_then_the_latency_budget_then_the_safest(trials, chosen):
    assert choose_alarm(trials).raise_threshold == chosen
    assert choose_alarm(trials) in trials


@pytest.fixture(scope="module")
def told_apart(bonn):
    """Recordings of real windows that the model is sure of, one a label; and what it made."""
    n = 178 * 23
    p = bonn.selftest_probabilities[:, 0]
    labels = (4, 1, 5, 3)
    signal = [
        np.resize(np.roll(bonn.selftest_windows[(p > 0.9) if label == 1 else (p < 0.1)], k, 0), n)
        for k, label in enumerate(labels)
    ]
    rows = SeizureRows(
        values=np.stack(signal).reshape(-1, 178).round().astype(np.int16),
        labels=np.repeat(labels, 23).astype(np.int8),
        recordings=np.repeat(["K0", "K1", "K2", "K3"], 23),
        chunks=np.tile(np.arange(1, 24), 4).astype(np.int8),
        digest="told apart",
    )
    return rows, try_alarms(bonn, rows, rows.keys, seed=0)


def test_every_rule_is_tried_once_on_all_of_the_validation_side(told_apart):
    trials = told_apart[1]
    rules = {(t.smoothing_s, t.persistence_s, t.raise_threshold) for t in trials}
    assert len(rules) == len(trials) == 4 * len(RAISE_THRESHOLDS)
    seizure_s = 23.0
    for found in trials:
        assert (found.n_seizures, found.background_s) == (1, pytest.approx(3 * 23.0))
        assert found.missed == 0
        assert 0 < found.latency_s == found.worst_latency_s < seizure_s
        assert found.false_alarms <= found.false_alarms_eased


def test_a_rule_is_tried_as_the_stream_would_run_it(bonn, told_apart):
    rows, trials = told_apart
    timeline = splice(rows, rows.keys, seed=0)
    for found in trials[:: len(RAISE_THRESHOLDS) + 1]:  # one of each smoothing and persistence
        rule = replace(
            bonn.alarm,
            raise_threshold=found.raise_threshold,
            smoothing_s=found.smoothing_s,
            persistence_s=found.persistence_s,
        )
        score = pool([play(bonn, timeline, rule=rule)])
        assert score.latency_s(0.5) == found.latency_s
        assert score.false_alarms == found.false_alarms


def test_no_eased_threshold_reaches_the_clear_threshold():
    assert min(RAISE_THRESHOLDS) - EASED_BY > calibration.DEFAULT_ALARM.clear_threshold


def make(rows, path, recipe, *, protocol="recordings"):
    return train_bundle(path, rows, name=path.name, protocol=protocol, recipe=recipe)


BUNDLED = {"windowed": WINDOWED, "continuous, headset": HEADSET}


@pytest.fixture(scope="module", params=BUNDLED.values(), ids=BUNDLED)
def made(request, noise_rows, small_sides, tmp_path_factory):
    """A recipe and what was made by it."""
    path = tmp_path_factory.mktemp("trained") / "quick"
    return request.param, make(noise_rows, path, request.param)


def test_a_training_ends_in_a_sound_bundle(made):
    recipe, bundle = made
    assert load_bundle(bundle.path).digest == bundle.digest
    assert bundle.split.data_digest == "noise"
    assert bundle.provenance["recipe"] == recipe.as_json()
    assert bundle.metrics["n_windows"] == 230
    n_samples = 120 if recipe.mode == "windowed" else 480
    assert bundle.selftest_windows.shape == (6, n_samples)
    front = front_end(recipe.signal)
    assert (bundle.mode, bundle.network) == (recipe.mode, recipe.network)
    assert (bundle.filters, bundle.gain) == (front.filters, front.gain)
    assert bundle.provenance["data_rate_hz"] == front.data_rate_hz
    assert bundle.metrics["streaming"]["n_seizures"] == 2


def test_its_rule_is_the_best_of_those_tried_on_the_validation_side(made):
    _, bundle = made
    trials = [AlarmTrial(**found) for found in bundle.provenance["alarm_trials"]]
    best = choose_alarm(trials)
    assert bundle.alarm == replace(
        DEFAULT_ALARM,
        raise_threshold=best.raise_threshold,
        smoothing_s=best.smoothing_s,
        persistence_s=best.persistence_s,
    )
    assert best.n_seizures == 2


def test_the_engine_says_of_the_self_test_what_torch_said(made):
    assert selftest_deviation(made[1]) <= TOLERANCE


def test_the_card_tells_the_measured_figures_and_the_limits(made):
    recipe, bundle = made
    card = (bundle.path / "CARD.md").read_text(encoding="utf-8")
    assert f"| accuracy | {bundle.metrics['accuracy']:.3f} |" in card
    assert bundle.provenance["command"] in card
    text = " ".join(card.split())
    for limit in ("Not a medical device", "not a split by person", "free of artefacts"):
        assert limit in text
    assert ("173.61 Hz" in text) or recipe.signal == "headset"
    assert ("hum" in text) or recipe.signal == "headset"
    assert ("gain is measured once" in text) == (recipe.signal == "headset")


@pytest.mark.parametrize("made", [WINDOWED], ids=["windowed"], indirect=True)
def test_the_same_training_gives_the_same_digest(noise_rows, made, tmp_path):
    recipe, bundle = made
    again = make(noise_rows, tmp_path / "quick", recipe)
    assert again.digest == bundle.digest


def test_shuffled_rows_keep_the_default_alarm_and_say_that_rows_leak(noise_rows, tmp_path):
    made = make(noise_rows, tmp_path / "rows", WINDOWED, protocol="rows")
    assert made.alarm == DEFAULT_ALARM
    assert "alarm_trials" not in made.provenance
    assert "streaming" not in made.metrics
    assert "lie on both sides" in (made.path / "CARD.md").read_text(encoding="utf-8")


def test_a_rule_that_the_recipe_gives_is_kept(noise_rows, tmp_path):
    rule = AlarmSpec(0.7, 0.3, 2.0, 0.0, 60.0, channels_needed=2)
    made = make(noise_rows, tmp_path / "given", replace(WINDOWED, alarm=rule), protocol="rows")
    assert made.alarm == rule
    assert "given to the training" in (made.path / "CARD.md").read_text(encoding="utf-8")


def test_train_refuses_a_folder_that_is_taken_before_it_trains(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    assert main(["train", "--out", str(tmp_path / "mine")]) == 3
    assert "expected a new folder" in capsys.readouterr().err


def test_train_refuses_a_name_that_cannot_be_a_topic(tmp_path, capsys):
    assert main(["train", "--out", str(tmp_path / "x"), "--name", "Big Model"]) == 3
    assert "lower-case" in capsys.readouterr().err


@pytest.mark.dataset
@pytest.mark.timeout(600)  # half an hour of held-out signal through the detector, several times
def test_train_writes_a_bundle_that_evaluate_scores_the_same(data_folder, tmp_path, capsys):
    out, recipe = tmp_path / "mine", tmp_path / "small.toml"
    stem = "[{channels = 3, kernel = 8, stride = 2}, {channels = 3, kernel = 8, stride = 2}]"
    recipe.write_text(f"stretches_per_epoch = 640\n[network]\nstem = {stem}\nhidden = 4\n")
    arguments = ["train", "--out", str(out), "--epochs", "1", "--data", str(data_folder), "--json"]
    arguments += ["--recipe", str(recipe)]
    assert main(arguments) == 0
    trained = json.loads(capsys.readouterr().out)
    assert main(["evaluate", str(out), "--data", str(data_folder), "--json"]) == 0
    scored = json.loads(capsys.readouterr().out)
    assert scored["bundle"] == trained["bundle"]
    assert scored["accuracy"] == pytest.approx(trained["accuracy"], abs=1e-3)
