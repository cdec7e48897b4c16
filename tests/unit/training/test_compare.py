"""Networks of one size, trials that can be repeated and resumed, tables that say what was found."""

import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: [torch] extra")
pytest.importorskip("sklearn", reason="scikit-learn is not installed: [torch] extra")

from stream_classifier.cli import main  # noqa: E402
from stream_classifier.datasets import SeizureRows  # noqa: E402
from stream_classifier.evaluation.windows import Figures, split_rows  # noqa: E402
from stream_classifier.training import compare as compare_module  # noqa: E402
from stream_classifier.training.cells import CELLS, CellNetwork, equal_hidden  # noqa: E402
from stream_classifier.training.compare import (  # noqa: E402
    SCALERS,
    Ledger,
    Outcome,
    Scaler,
    Trial,
    class_ratio_trials,
    comparison_trials,
    run_trial,
    run_trials,
)
from stream_classifier.training.comparison_table import (  # noqa: E402
    class_ratio_markdown,
    comparison_markdown,
)
from stream_classifier.training.material import gather, split_data  # noqa: E402
from stream_classifier.training.recipe import deterministic_torch  # noqa: E402

pytestmark = pytest.mark.torch


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
LSTM = Trial(model="lstm", scaler="standard", protocol="recordings", seed=0, epochs=1)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Trials of a second: few windows to train on, one window a row to score."""
    monkeypatch.setattr(compare_module, "WINDOWS_PER_EPOCH", 1_280)
    monkeypatch.setattr(compare_module, "ROW_SAMPLES", compare_module.WINDOW_SAMPLES + 1)


def outcome(accuracy=0.8, tumour=0.5):
    figures = Figures(
        accuracy=accuracy,
        macro_f1=accuracy - 0.05,
        recall={"seizure": 0.9, "tumour": tumour, "normal": 0.95},
        f1={"seizure": 0.9, "tumour": tumour, "normal": 0.9},
    )
    return Outcome(window=figures, row=figures, n_row_windows=59, n_parameters=28_000, train_s=9.5)


def test_networks_of_all_cells_have_equally_many_parameters_to_two_percent():
    for outputs in (3, 5):
        sizes = [
            CellNetwork(
                cell, hidden=equal_hidden(cell, outputs=outputs), outputs=outputs
            ).n_parameters
            for cell in CELLS
        ]
        assert max(sizes) / min(sizes) < 1.02
    assert CellNetwork("lstm", hidden=equal_hidden("lstm"), outputs=5).cell.hidden_size == 64


@pytest.mark.parametrize("cell", CELLS)
def test_a_network_reads_its_whole_window_but_for_the_first_sample(cell):
    network = CellNetwork(cell, hidden=8, outputs=5).eval()
    z = torch.zeros(1, 120, requires_grad=True)
    network(z).sum().backward()
    reached = z.grad[0] != 0
    assert reached[1:].all()
    assert not reached[0]


def test_the_comparison_is_every_cell_scaler_protocol_and_seed_with_two_references():
    trials = comparison_trials(seeds=[0, 1, 2])
    assert len(trials) == len(set(trials)) == 3 * 2 * (3 * 4 + 2)
    assert sum(trial.model in CELLS for trial in trials) == 72
    assert [t.seed for t in trials] == sorted(t.seed for t in trials)
    assert len(set(class_ratio_trials(seeds=[0, 1, 2]))) == 4 * 2 * 3


def test_scalers_do_what_they_say():
    train = split_rows(ROWS, split_data(ROWS, protocol="recordings", seed=0).train)
    material = gather(ROWS, train, stretch_samples=120)
    windows = ROWS.values[train[:500], :120].astype(np.float32)
    scaled = {name: Scaler.fit(name, material)(windows) for name in SCALERS}
    np.testing.assert_array_equal(scaled["none"], windows)
    np.testing.assert_allclose(
        scaled["standard"], (windows - material.signal_uv.mean()) / material.signal_uv.std(),
        atol=1e-4,
    )  # fmt: skip
    assert Scaler.fit("min-max", material)(material.signal_uv[None]).min() == 0
    assert Scaler.fit("min-max", material)(material.signal_uv[None]).max() == 1
    assert scaled["moving-average"].std() == pytest.approx(1, abs=0.2)


def test_a_moving_average_is_causal_and_removes_an_offset():
    train = np.arange(460)
    scaler = Scaler.fit("moving-average", gather(ROWS, train, stretch_samples=120))
    windows = ROWS.values[:4, :120].astype(np.float32)
    np.testing.assert_allclose(scaler(windows + 500), scaler(windows), atol=1e-3)
    later = windows.copy()
    later[:, 80:] = 0
    np.testing.assert_array_equal(scaler(later)[:, :80], scaler(windows)[:, :80])
    last = (windows[:, 119] - windows[:, 31:].mean(axis=1)) / scaler.scale  # 89 samples
    np.testing.assert_allclose(scaler(windows)[:, 119], last, rtol=1e-4, atol=1e-4)


def test_the_same_trial_gives_the_same_figures_and_another_seed_others():
    first, again = run_trial(ROWS, LSTM), run_trial(ROWS, LSTM)
    assert replace(first, train_s=0) == replace(again, train_s=0)
    assert run_trial(ROWS, replace(LSTM, seed=1)).window != first.window


@pytest.mark.parametrize("model", ["lstm", "trees"])
def test_neither_test_nor_validation_side_has_any_influence_on_a_training(model):
    split = split_data(ROWS, protocol="rows", seed=0)
    hidden = split_rows(ROWS, (*split.test, *split.validation))
    values = ROWS.values.copy()
    values[hidden] = 1000
    train = split_rows(ROWS, split.train)
    windows = ROWS.values[:300, :120].astype(np.float32)
    scores = []
    for rows in (ROWS, replace_values(values)):
        with deterministic_torch(0):
            if model == "lstm":
                fitted = compare_module._fit_network(rows, train, LSTM, cell="lstm")
            else:
                fitted = compare_module._fit_trees(rows, train, LSTM)
            scores.append(fitted.scores(windows))
    np.testing.assert_array_equal(*scores)


def replace_values(values):
    return SeizureRows(
        values=values, labels=ROWS.labels, recordings=ROWS.recordings, chunks=ROWS.chunks,
        digest=ROWS.digest,
    )  # fmt: skip


@pytest.mark.parametrize("model", ["rnn", "gru", "lstm", "trees"])
def test_every_model_learns_what_there_is_to_learn(model, monkeypatch):
    monkeypatch.setattr(compare_module, "WINDOWS_PER_EPOCH", 5_120)
    epochs = 0 if model == "trees" else 2
    found = run_trial(ROWS, replace(LSTM, model=model, epochs=epochs))
    assert found.window.accuracy > 0.85
    assert found.n_row_windows == 2
    assert found.train_s > 0


def test_balanced_sampling_and_weights_bring_the_rarer_classes_up(monkeypatch):
    values = np.random.default_rng(0).normal(size=ROWS.values.shape) * 50
    same = replace_values(values.astype(np.int16))  # no class can be told from another
    arms = {
        balance: run_trial(same, replace(LSTM, target="classes", balance=balance))
        for balance in ("as-is", "weighted", "sampled")
    }
    assert arms["as-is"].window.recall["normal"] > 0.9
    for balance in ("weighted", "sampled"):
        assert arms[balance].window.recall["normal"] < 0.9


def test_finished_trials_are_not_done_again(tmp_path, monkeypatch):
    path = tmp_path / "results.jsonl"
    trials = comparison_trials(seeds=[0], references=False, scalers=["standard"])
    monkeypatch.setattr(compare_module, "run_trial", lambda *_: outcome())
    run_trials(ROWS, trials[:2], Ledger(path, data_digest="noise"))
    done = []
    ledger = Ledger(path, data_digest="noise")
    run_trials(ROWS, trials, ledger, on_done=lambda trial, _: done.append(trial))
    assert done == trials[2:]
    assert ledger.done == dict.fromkeys(trials, outcome())


def test_a_file_cut_off_in_a_line_loses_that_trial_only(tmp_path, monkeypatch):
    path = tmp_path / "results.jsonl"
    trials = comparison_trials(seeds=[0], references=False, scalers=["standard"])
    monkeypatch.setattr(compare_module, "run_trial", lambda *_: outcome())
    run_trials(ROWS, trials, Ledger(path, data_digest="noise"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    ledger = Ledger(path, data_digest="noise")
    lines = whole[: len(whole) // 2].count(b"\n")
    assert ledger.damaged == (lines + 1,)
    assert list(ledger.done) == trials[:lines]
    run_trials(ROWS, trials, ledger)
    assert path.read_bytes() == whole
    assert Ledger(path, data_digest="noise").damaged == ()


def test_a_last_line_without_its_end_is_kept_and_nothing_is_glued_to_it(tmp_path):
    path = tmp_path / "results.jsonl"
    ledger = Ledger(path, data_digest="noise")
    ledger.add(LSTM, outcome())
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    again = Ledger(path, data_digest="noise")
    again.add(replace(LSTM, seed=1), outcome())
    assert len(Ledger(path, data_digest="noise").done) == 2


def test_results_of_other_data_or_code_are_kept_and_not_used(tmp_path, monkeypatch):
    path = tmp_path / "results.jsonl"
    Ledger(path, data_digest="noise").add(LSTM, outcome())
    assert Ledger(path, data_digest="other").done == {}
    assert Ledger(path, data_digest="other").damaged == ()
    monkeypatch.setattr(compare_module, "EXPERIMENT", compare_module.EXPERIMENT + 1)
    assert Ledger(path, data_digest="noise").done == {}
    assert path.read_bytes().count(b"\n") == 1


def test_the_table_has_mean_deviation_and_the_paired_difference_of_the_lstm():
    outcomes = {}
    for seed, (lstm, gru) in enumerate([(0.80, 0.81), (0.82, 0.83), (0.84, 0.85)]):
        outcomes[replace(LSTM, seed=seed)] = outcome(lstm)
        outcomes[replace(LSTM, seed=seed, model="gru")] = outcome(gru)
    text = comparison_markdown(outcomes)
    assert "| LSTM | standard | .820 ±.020 |" in text
    assert "| recordings | standard | GRU | -0.010 (-0.010 to -0.010) |" in text
    assert "against the GRU, mean of all scalers: macro F1 worse (-0.010" in text
    assert text.index("| GRU |") < text.index("| LSTM |")  # the better one first
    assert "not a split by person" in text
    assert "LSTM 64" in text


def test_a_difference_that_its_deviation_swallows_is_not_called_one():
    outcomes = {}
    for seed, (lstm, gru) in enumerate([(0.80, 0.82), (0.84, 0.80), (0.83, 0.81)]):
        outcomes[replace(LSTM, seed=seed)] = outcome(lstm)
        outcomes[replace(LSTM, seed=seed, model="gru")] = outcome(gru)
    assert "GRU, mean of all scalers: macro F1 no difference shown" in comparison_markdown(outcomes)
    one_seed = {trial: o for trial, o in outcomes.items() if trial.seed == 1}
    assert "macro F1 no difference shown (+0.040), accuracy no difference shown (+0.040)" in (
        comparison_markdown(one_seed)
    )


def test_the_class_ratio_table_compares_every_arm_with_the_classes_as_they_are():
    outcomes = {
        trial: outcome(0.8 + 0.01 * trial.seed, 0.5 + 0.1 * (trial.balance != "as-is"))
        for trial in class_ratio_trials(seeds=[0, 1])
    }
    text = class_ratio_markdown(outcomes)
    line = "| rows | three classes, weighted loss | +0.000 (+0.000 to +0.000) |"
    assert line in text
    assert "+0.100 (+0.100 to +0.100)" in text
    assert text.count("five labels, summed") == 6
    assert "Recordings held out, five labels, summed: macro F1 no difference shown" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seeds", "0,x"], "--seeds"),
        (["--seeds", ""], "--seeds"),
        (["--cells", "lstm,mlp"], "'mlp'"),
        (["--scalers", "robust"], "'robust'"),
        (["--protocols", "people"], "'people'"),
    ],
)
def test_a_slip_is_told_before_anything_is_trained(arguments, said, tmp_path, capsys):
    assert main(["compare", "--out", str(tmp_path), *arguments]) == 3
    error = capsys.readouterr().err
    assert said in error
    assert "Try:" in error
    assert not list(tmp_path.iterdir())


def test_the_command_writes_table_picture_and_results_and_goes_on_where_it_was(
    tmp_path, monkeypatch, capsys
):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: [report] extra")
    monkeypatch.setattr("stream_classifier.datasets.load_rows", lambda _: ROWS)
    trained = []

    def run(_, trial):
        trained.append(trial)
        return outcome(0.8 + 0.01 * trial.seed)

    monkeypatch.setattr(compare_module, "run_trial", run)
    arguments = ["compare", "--out", str(tmp_path / "new"), "--jobs", "1", "--json"]
    assert main([*arguments, "--seeds", "0,1", "--scalers", "standard,none"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["n_trials"] == len(trained) == 2 * 2 * (3 * 2 + 2)
    assert [p.rsplit("/")[-1] for p in said["paths"]] == [
        "compare.md", "compare.png", "results.jsonl",
    ]  # fmt: skip
    assert (tmp_path / "new/compare.png").read_bytes().startswith(b"\x89PNG")
    assert main([*arguments, "--seeds", "0,1,2", "--scalers", "standard,none"]) == 0
    assert len(trained) == 3 * 2 * (3 * 2 + 2)
    assert "32 of 48 were done before" in capsys.readouterr().err
    assert main([*arguments, "--experiment", "class-ratio"]) == 0
    assert (tmp_path / "new/class_ratio.png").exists()
