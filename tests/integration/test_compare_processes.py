"""Trainings side by side in processes of their own are those of one process."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: [torch] extra")
pytest.importorskip("sklearn", reason="scikit-learn is not installed: [torch] extra")

from stream_classifier.datasets import SeizureRows
from stream_classifier.training.compare import (
    Ledger,
    Trial,
    run_trial,
    run_trials,
)

pytestmark = pytest.mark.torch


def test_processes_give_what_one_process_gives(tmp_path):
    labels = np.repeat(np.tile(np.arange(1, 6), 100), 23)
    noise = np.random.default_rng(0).normal(size=(11_500, 178))
    rows = SeizureRows(
        values=(noise * np.array([0, 400, 200, 100, 50, 25])[labels][:, None]).astype(np.int16),
        labels=labels.astype(np.int8),
        recordings=np.repeat([f"V{n}" for n in range(500)], 23),
        chunks=np.tile(np.arange(1, 24), 500).astype(np.int8),
        digest="noise",
    )
    trials = [
        Trial(model="trees", scaler="none", protocol="rows", seed=seed, epochs=0) for seed in (0, 1)
    ]
    ledger = Ledger(tmp_path / "results.jsonl", data_digest="noise")
    seen = []
    run_trials(rows, trials, ledger, jobs=2, on_done=lambda trial, _: seen.append(trial))
    assert sorted(trial.seed for trial in seen) == [0, 1]
    alone = run_trial(rows, trials[1])
    assert (ledger.done[trials[1]].window, ledger.done[trials[1]].row) == (alone.window, alone.row)
