"""One training, from the data set to a bundle."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING, Final

import numpy as np

from stream_classifier import __version__
from stream_classifier.bundle import AlarmSpec, Bundle, NetworkSpec, save_bundle
from stream_classifier.evaluation.windows import draw_windows, score, split_rows
from stream_classifier.training.calibration import (
    DEFAULT_ALARM,
    RAISE_THRESHOLDS,
    AlarmTrial,
    choose_alarm,
    smooth_recordings,
    try_alarm,
)
from stream_classifier.training.card import ATTRIBUTION, write_card
from stream_classifier.training.material import split_data
from stream_classifier.training.network import classify, export_weights, import_weights
from stream_classifier.training.recipe import Epoch, Recipe, deterministic_torch, train

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from stream_classifier.datasets import SeizureRows
    from stream_classifier.evaluation.windows import Classify, WindowReport
    from stream_classifier.training.material import Protocol

WINDOW_SAMPLES: Final = 120
HOP_SAMPLES: Final = 8
RATE_HZ: Final = 178.0
REPORT_SEED: Final = 0
"""Picks the windows of the figures on the card; the default seed of ``evaluate``."""

SELFTEST_WINDOWS_PER_CLASS: Final = 12


def train_bundle(
    path: Path,
    rows: SeizureRows,
    *,
    name: str,
    protocol: Protocol,
    split_seed: int = 0,
    recipe: Recipe | None = None,
    spec: NetworkSpec | None = None,
    replace_existing: bool = False,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> Bundle:
    """Train, calibrate, measure once on the test side, and write the bundle.

    The same arguments give the same bundle, to the digest, on one machine.

    Args:
        path: Folder to make.
        rows: The data set.
        name: Of the model.
        protocol: How the data is split.
        split_seed: Of the split.
        recipe: Settings of the training; None for the shipped models' ones.
        spec: Shape of the network; None for the shipped models' one.
        replace_existing: Whether a bundle that is already there may go.
        on_epoch: Called after every epoch.

    Raises:
        FileExistsError: As ``save_bundle``.
    """
    recipe = Recipe() if recipe is None else recipe
    spec = NetworkSpec() if spec is None else spec
    split = split_data(rows, protocol=protocol, seed=split_seed)
    trained = train(
        rows, split, recipe=recipe, spec=spec, window_samples=WINDOW_SAMPLES, on_epoch=on_epoch
    )
    weights = export_weights(trained.network, temperature=trained.temperature)
    network = import_weights(spec, weights)  # from here on exactly what the bundle will hold

    def classify_uv(windows_uv: NDArray[np.float32]) -> NDArray[np.float32]:
        with deterministic_torch(recipe.seed):
            return classify(network, windows_uv, mean_uv=trained.mean_uv, std_uv=trained.std_uv)

    alarm: AlarmSpec = DEFAULT_ALARM
    trials: tuple[AlarmTrial, ...] = ()
    if protocol == "recordings":  # shuffled rows do not make recordings to try an alarm on
        trials = _try_alarms(classify_uv, rows, split.validation, RAISE_THRESHOLDS)
        alarm = choose_alarm(trials)

    # Everything is decided: now, and once, the test side.
    test = split_rows(rows, split.test)

    def score_at(gain: float) -> WindowReport:
        return score(
            lambda windows_uv: classify_uv(np.float32(gain) * windows_uv),
            rows,
            test,
            window_samples=WINDOW_SAMPLES,
            seed=REPORT_SEED,
        )

    report = score_at(1.0)
    accuracy_by_gain = {f"{gain:g}": score_at(gain).figures.accuracy for gain in (0.5, 2.0)}
    alarm_test: AlarmTrial | None = None
    if protocol == "recordings":
        alarm_test = _try_alarms(classify_uv, rows, split.test, (alarm.raise_threshold,))[0]
    selftest = _selftest_windows(rows, test)
    command = (
        f"stream-classifier train --protocol {protocol} --name {name} --out {name} "
        f"--split-seed {split_seed} --seed {recipe.seed} --epochs {recipe.epochs} "
        f"--patience {recipe.patience_epochs}"
    )
    return save_bundle(
        path,
        name=name,
        version=__version__,
        network=spec,
        scaler_mean_uv=trained.mean_uv,
        scaler_std_uv=trained.std_uv,
        alarm=alarm,
        weights=weights,
        selftest_windows=selftest,
        selftest_probabilities=classify_uv(selftest),
        split=split,
        provenance={
            "command": command,
            "recipe": recipe.as_json(),
            "best_epoch": trained.best.number,
            "n_epochs": trained.n_epochs,
            "temperature": trained.temperature,
            "alarm_trials": [asdict(trial) for trial in trials],
            "data": {
                "name": "Epileptic Seizure Recognition (UCI 388)",
                "sha256": rows.digest,
                "source": "Andrzejak et al. 2001, doi 10.34810/data490",
                "licence": "CC BY 4.0",
            },
            "versions": {
                "python": platform.python_version(),
                **{package: version_of(package) for package in ("numpy", "scikit-learn", "torch")},
            },
        },
        metrics={
            **report.as_json(),
            "interval_95": {name: list(ends) for name, ends in report.intervals().items()},
            "accuracy_by_gain": dict(accuracy_by_gain),
            "alarm": None if alarm_test is None else asdict(alarm_test),
            "validation": {"accuracy": trained.best.accuracy, "macro_f1": trained.best.macro_f1},
        },
        card=write_card(
            name=name,
            version=__version__,
            split=split,
            spec=spec,
            recipe=recipe,
            trained=trained,
            alarm=alarm,
            trials=trials,
            alarm_test=alarm_test,
            report=report,
            accuracy_by_gain=accuracy_by_gain,
            command=command,
        ),
        attribution=ATTRIBUTION,
        rate_hz=RATE_HZ,
        window_samples=WINDOW_SAMPLES,
        hop_samples=HOP_SAMPLES,
        replace=replace_existing,
    )


def _try_alarms(
    classify_uv: Classify,
    rows: SeizureRows,
    keys: tuple[int, ...] | tuple[str, ...],
    thresholds: tuple[float, ...],
) -> tuple[AlarmTrial, ...]:
    """Try raise thresholds on whole recordings."""
    smoothed = smooth_recordings(
        classify_uv,
        rows,
        [str(key) for key in keys],
        smoothing_s=DEFAULT_ALARM.smoothing_s,
        window_samples=WINDOW_SAMPLES,
        hop_samples=HOP_SAMPLES,
        rate_hz=RATE_HZ,
    )
    return tuple(
        try_alarm(
            smoothed,
            rows,
            alarm=replace(DEFAULT_ALARM, raise_threshold=threshold),
            hop_s=HOP_SAMPLES / RATE_HZ,
            rate_hz=RATE_HZ,
        )
        for threshold in thresholds
    )


def _selftest_windows(rows: SeizureRows, test: NDArray[np.intp]) -> NDArray[np.float32]:
    """A few held-out windows of each class, shape ``(36, window_samples)``, µV."""
    rng = np.random.default_rng(REPORT_SEED)
    chosen = [
        rng.choice(test[rows.classes[test] == kind], SELFTEST_WINDOWS_PER_CLASS, replace=False)
        for kind in np.unique(rows.classes)
    ]
    return draw_windows(
        rows, np.concatenate(chosen), window_samples=WINDOW_SAMPLES, seed=REPORT_SEED
    )
