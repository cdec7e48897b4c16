"""A training can be repeated, chooses on validation only, and ends in a bundle."""

import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: [torch] extra")
pytest.importorskip("sklearn", reason="scikit-learn is not installed: [torch] extra")

from stream_classifier.bundle import NetworkSpec, load_bundle  # noqa: E402
from stream_classifier.cli import main  # noqa: E402
from stream_classifier.datasets import SeizureRows  # noqa: E402
from stream_classifier.evaluation.selftest import TOLERANCE, selftest_deviation  # noqa: E402
from stream_classifier.evaluation.windows import split_rows  # noqa: E402
from stream_classifier.training.calibration import (  # noqa: E402
    DEFAULT_ALARM,
    AlarmTrial,
    choose_alarm,
    fit_temperature,
    smooth_recordings,
    try_alarm,
)
from stream_classifier.training.material import split_data  # noqa: E402
from stream_classifier.training.network import WindowNetwork, export_weights  # noqa: E402
from stream_classifier.training.recipe import Recipe, train  # noqa: E402
from stream_classifier.training.run import train_bundle  # noqa: E402

pytestmark = pytest.mark.torch

SPEC = NetworkSpec(conv_channels=3, hidden=4)
QUICK = Recipe(seed=1, epochs=2, windows_per_epoch=640, validation_draws=1)


def noise_rows(seed=0):
    """A table shaped like the data set whose labels differ in amplitude."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.tile(np.arange(1, 6), 100), 23)
    scale = np.array([0, 400, 200, 100, 50, 25])[labels]
    return SeizureRows(
        values=(rng.normal(size=(11_500, 178)) * scale[:, None]).astype(np.int16),
        labels=labels.astype(np.int8),
        recordings=np.repeat([f"V{n}" for n in range(500)], 23),
        chunks=np.tile(np.arange(1, 24), 500).astype(np.int8),
        digest="noise",
    )


ROWS = noise_rows()


def run(rows=ROWS, *, protocol="recordings", recipe=QUICK, on_epoch=lambda _: None):
    split = split_data(rows, protocol=protocol, seed=0)
    return train(rows, split, recipe=recipe, spec=SPEC, window_samples=120, on_epoch=on_epoch)


def test_training_twice_gives_the_same_weights_to_the_bit():
    torch.manual_seed(17)
    first = run()
    torch.manual_seed(99)  # whatever the caller's random state is
    second = run()
    for name, values in export_weights(first.network).items():
        np.testing.assert_array_equal(export_weights(second.network)[name], values)
    assert (first.mean_uv, first.std_uv) == (second.mean_uv, second.std_uv)
    assert (first.temperature, first.best) == (second.temperature, second.best)


def test_another_seed_gives_other_weights():
    other = run(recipe=replace(QUICK, seed=2))
    assert not np.array_equal(
        export_weights(other.network)["head.weight"], export_weights(run().network)["head.weight"]
    )


def test_training_leaves_torch_as_it_was():
    torch.manual_seed(5)
    n_threads = torch.get_num_threads()
    run()
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))
    assert torch.get_num_threads() == n_threads
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_test_side_has_no_influence_at_all():
    hidden = split_rows(ROWS, split_data(ROWS, protocol="recordings", seed=0).test)
    values = ROWS.values.copy()
    values[hidden] = 1000
    changed = SeizureRows(
        values=values,
        labels=ROWS.labels,
        recordings=ROWS.recordings,
        chunks=ROWS.chunks,
        digest=ROWS.digest,
    )
    plain, blind = run(), run(changed)
    for name, weights in export_weights(plain.network).items():
        np.testing.assert_array_equal(export_weights(blind.network)[name], weights)
    assert plain.temperature == blind.temperature


def test_the_scaler_is_one_mean_and_one_deviation_of_the_training_samples():
    trained = run()
    numbers = split_rows(ROWS, split_data(ROWS, protocol="recordings", seed=0).train)
    samples = ROWS.values[numbers].astype(np.float64)
    assert trained.mean_uv == pytest.approx(samples.mean(), rel=1e-6)
    assert trained.std_uv == pytest.approx(samples.std(), rel=1e-6)


def test_the_best_epoch_is_kept_and_training_stops_when_nothing_improves():
    seen = []
    recipe = replace(QUICK, epochs=40, patience_epochs=2, learning_rate=1e-9)
    trained = run(recipe=recipe, on_epoch=seen.append)
    assert trained.n_epochs == len(seen) < 40
    assert trained.n_epochs == trained.best.number + 2
    assert trained.best.macro_f1 == max(epoch.macro_f1 for epoch in seen)
    assert [epoch.number for epoch in seen] == list(range(1, len(seen) + 1))


def test_training_learns():
    trained = run(recipe=replace(QUICK, epochs=8, windows_per_epoch=2560))
    assert trained.best.accuracy > 0.9


def test_a_temperature_makes_an_overconfident_network_less_sure():
    network = WindowNetwork(SPEC).eval()
    z = torch.randn(2000, 120, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        network.head.weight.mul_(50)
        truth = torch.randint(3, (2000,), generator=torch.Generator().manual_seed(1))
    assert fit_temperature(network, z, truth) > 2


def trial(threshold, *, false=0, missed=0, latency_s=1.0):
    return AlarmTrial(
        raise_threshold=threshold,
        false_alarms=false,
        missed=missed,
        latency_s=latency_s,
        worst_latency_s=latency_s,
        background_s=60.0,
        n_seizures=10,
    )


@pytest.mark.parametrize(
    ("trials", "chosen"),
    [
        ([trial(0.9, false=1, latency_s=1.0), trial(0.95, latency_s=2.0)], 0.95),
        ([trial(0.95, missed=1, latency_s=1.0), trial(0.9, latency_s=2.0)], 0.9),
        ([trial(0.95, latency_s=2.0), trial(0.9, latency_s=1.5)], 0.9),
        ([trial(0.95), trial(0.9)], 0.95),
        ([trial(0.95, missed=10, latency_s=None), trial(0.9, missed=10, latency_s=None)], 0.95),
    ],
)
def test_the_fewest_false_alarms_win_then_the_fewest_missed_then_the_quickest(trials, chosen):
    alarm = choose_alarm(trials)
    assert alarm == replace(DEFAULT_ALARM, raise_threshold=chosen)


def alarm_on(p_by_key):
    """Try the default rule where p(seizure) of each window is given."""
    values = iter(p_by_key.values())

    def classify(windows):
        p = next(values)[: len(windows)]
        return np.stack([p, 1 - p, 0 * p], axis=1)

    smoothed = smooth_recordings(
        classify,
        ROWS,
        list(p_by_key),
        smoothing_s=1.0,
        window_samples=120,
        hop_samples=8,
        rate_hz=178.0,
    )
    return try_alarm(smoothed, ROWS, alarm=DEFAULT_ALARM, hop_s=8 / 178, rate_hz=178.0)


def test_an_alarm_is_tried_as_the_stream_would_run_it():
    seizure, background = "V0", "V3"  # labels 1 and 4
    rising = (np.arange(497) >= 100).astype(np.float32)
    flickering = (np.arange(497) % 40 == 0).astype(np.float32)
    found = alarm_on({seizure: rising, background: flickering})
    assert (found.false_alarms, found.missed, found.n_seizures) == (0, 0, 1)
    assert found.background_s == pytest.approx(4094 / 178)
    onset_s = (120 + 100 * 8) / 178
    # 0.9 of the last second of windows, then half a second of persistence.
    assert onset_s + 1.2 < found.latency_s == found.worst_latency_s < onset_s + 1.6

    found = alarm_on({seizure: flickering, background: rising})
    assert (found.false_alarms, found.missed, found.latency_s) == (1, 1, None)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return train_bundle(
        tmp_path_factory.mktemp("trained") / "quick",
        ROWS,
        name="quick",
        protocol="recordings",
        recipe=QUICK,
        spec=SPEC,
    )


def test_a_training_ends_in_a_sound_bundle(bundle):
    assert load_bundle(bundle.path).digest == bundle.digest
    assert bundle.split.data_digest == "noise"
    assert bundle.provenance["recipe"]["seed"] == 1
    assert bundle.metrics["n_windows"] == 2_300
    assert bundle.selftest_windows.shape == (36, 120)


def test_the_engine_says_of_the_self_test_what_torch_said(bundle):
    assert selftest_deviation(bundle) <= TOLERANCE


def test_the_same_training_gives_the_same_digest(bundle, tmp_path):
    again = train_bundle(
        tmp_path / "again", ROWS, name="quick", protocol="recordings", recipe=QUICK, spec=SPEC
    )
    assert again.digest == bundle.digest


def test_the_card_tells_the_measured_figures_and_the_limits(bundle):
    card = (bundle.path / "CARD.md").read_text(encoding="utf-8")
    assert f"| accuracy | {bundle.metrics['accuracy']:.3f} |" in card
    assert bundle.provenance["command"] in card
    text = " ".join(card.split())
    for limit in ("Not a medical device", "173.61 Hz", "hum", "not a split by person"):
        assert limit in text


def test_shuffled_rows_keep_the_default_alarm_and_say_that_rows_leak(tmp_path):
    made = train_bundle(
        tmp_path / "rows", ROWS, name="rows", protocol="rows", recipe=QUICK, spec=SPEC
    )
    assert made.alarm == DEFAULT_ALARM
    assert "lie on both sides" in (made.path / "CARD.md").read_text(encoding="utf-8")


def test_train_refuses_a_folder_that_is_taken_before_it_trains(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    assert main(["train", "--out", str(tmp_path / "mine")]) == 3
    assert "expected a new folder" in capsys.readouterr().err


def test_train_refuses_a_name_that_cannot_be_a_topic(tmp_path, capsys):
    assert main(["train", "--out", str(tmp_path / "x"), "--name", "Big Model"]) == 3
    assert "lower-case" in capsys.readouterr().err


@pytest.mark.dataset
def test_train_writes_a_bundle_that_evaluate_scores_the_same(data_folder, tmp_path, capsys):
    out = tmp_path / "mine"
    arguments = ["train", "--out", str(out), "--epochs", "1", "--data", str(data_folder), "--json"]
    assert main(arguments) == 0
    trained = json.loads(capsys.readouterr().out)
    assert main(["evaluate", str(out), "--data", str(data_folder), "--json"]) == 0
    scored = json.loads(capsys.readouterr().out)
    assert scored["bundle"] == trained["bundle"]
    assert scored["accuracy"] == pytest.approx(trained["accuracy"], abs=1e-3)
