"""One training, from the data set to a bundle."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from stream_classifier import __version__
from stream_classifier.bundle import Bundle, save_bundle
from stream_classifier.engines.reference import classify_windows
from stream_classifier.evaluation.heldout import condition
from stream_classifier.evaluation.robustness import robustness
from stream_classifier.evaluation.scoring import score_bundle
from stream_classifier.evaluation.windows import draw_windows, split_rows
from stream_classifier.signals import CLASS_NAMES
from stream_classifier.training.calibration import (
    DEFAULT_ALARM,
    AlarmTrial,
    choose_alarm,
    try_alarms,
)
from stream_classifier.training.card import ATTRIBUTION, write_card
from stream_classifier.training.front_end import RATE_HZ, front_end
from stream_classifier.training.material import split_data
from stream_classifier.training.network import export_weights
from stream_classifier.training.recipe import (
    HOP_SAMPLES,
    WINDOW_SAMPLES,
    Epoch,
    Recipe,
    Trained,
    train,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stream_classifier.bundle import Split
    from stream_classifier.datasets import SeizureRows
    from stream_classifier.training.material import Protocol

REPORT_SEED: Final = 0
"""Picks the windows of the figures on the card; the default seed of ``evaluate``."""

SELFTEST_WINDOWS_PER_CLASS: Final = 12
SELFTEST_CONTINUOUS_SAMPLES: Final = 480
"""A self-test window of a continuous bundle: long enough for its state to matter."""


def train_bundle(
    path: Path,
    rows: SeizureRows,
    *,
    name: str,
    protocol: Protocol,
    split_seed: int = 0,
    recipe: Recipe | None = None,
    recipe_name: str = "bonn",
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
        recipe: Settings of the training; None for the defaults of ``Recipe``.
        recipe_name: What the recipe is called, for the command on the card.
        replace_existing: Whether a bundle that is already there may go.
        on_epoch: Called after every epoch.

    Raises:
        FileExistsError: As ``save_bundle``.
        ConfigError: As ``train``.
    """
    recipe = Recipe() if recipe is None else recipe
    split = split_data(rows, protocol=protocol, seed=split_seed)
    trained = train(rows, split, recipe=recipe, on_epoch=on_epoch)
    bundle, trials = assemble(rows, split, recipe, trained, name=name)

    # Everything is decided: now, and once, the test side.
    test = split_rows(rows, split.test)
    scored = score_bundle(bundle, rows, test, seed=REPORT_SEED)
    conditions = robustness(bundle, rows, test, seed=REPORT_SEED)
    selftest = _selftest_windows(bundle, rows, test)
    command = (
        f"stream-classifier train --recipe {recipe_name} --protocol {protocol} --name {name} "
        f"--out {name} --split-seed {split_seed} --seed {recipe.seed} --epochs {recipe.epochs}"
    )
    return save_bundle(
        path,
        name=name,
        version=__version__,
        mode=bundle.mode,
        network=bundle.network,
        filters=bundle.filters,
        gain=bundle.gain,
        scaler_mean_uv=bundle.scaler_mean_uv,
        scaler_std_uv=bundle.scaler_std_uv,
        alarm=bundle.alarm,
        weights=bundle.weights,
        selftest_windows=selftest,
        selftest_probabilities=classify_windows(bundle, selftest),
        split=split,
        provenance={**bundle.provenance, "command": command},
        metrics={
            **scored.as_json(),
            "robustness": [line.as_json() for line in conditions],
            "validation": {"accuracy": trained.best.accuracy, "macro_f1": trained.best.macro_f1},
        },
        card=write_card(
            bundle,
            recipe=recipe,
            trained=trained,
            trials=trials,
            scored=scored,
            robustness=conditions,
            command=command,
        ),
        attribution=ATTRIBUTION,
        rate_hz=RATE_HZ,
        window_samples=WINDOW_SAMPLES,
        hop_samples=HOP_SAMPLES,
        replace=replace_existing,
    )


def assemble(
    rows: SeizureRows,
    split: Split,
    recipe: Recipe,
    trained: Trained,
    *,
    name: str,
) -> tuple[Bundle, tuple[AlarmTrial, ...]]:
    """Make a bundle, in memory, of what a training made, and choose its alarm rule if need be.

    Args:
        rows: The data set.
        split: Its sides; the alarm is chosen on the validation side.
        recipe: Settings of the training.
        trained: What came out of it.
        name: Of the model.

    Returns:
        The bundle, and what its rule was chosen from: nothing if the recipe gives it, or if
        shuffled rows, which do not make recordings to try an alarm on, were held out.
    """
    front = front_end(recipe.signal)
    bundle = Bundle(
        name=name,
        version=__version__,
        digest="",
        mode=recipe.mode,
        rate_hz=RATE_HZ,
        window_samples=WINDOW_SAMPLES,
        hop_samples=HOP_SAMPLES,
        class_names=CLASS_NAMES,
        network=recipe.network,
        filters=front.filters,
        gain=front.gain,
        scaler_mean_uv=trained.mean_uv,
        scaler_std_uv=trained.std_uv,
        alarm=recipe.alarm or DEFAULT_ALARM,
        weights=export_weights(trained.network, temperature=trained.temperature),
        selftest_windows=np.empty((0, WINDOW_SAMPLES), np.float32),
        selftest_probabilities=np.empty((0, len(CLASS_NAMES)), np.float32),
        split=split,
        provenance=_provenance(rows, recipe, trained, data_rate_hz=front.data_rate_hz),
        metrics={},
        path=Path(),
    )
    if recipe.alarm is not None or split.protocol == "rows":
        return bundle, ()
    trials = try_alarms(bundle, rows, [str(key) for key in split.validation], seed=recipe.seed)
    best = choose_alarm(trials)
    rule = replace(
        bundle.alarm,
        raise_threshold=best.raise_threshold,
        smoothing_s=best.smoothing_s,
        persistence_s=best.persistence_s,
    )
    provenance = {**bundle.provenance, "alarm_trials": [asdict(trial) for trial in trials]}
    return replace(bundle, alarm=rule, provenance=provenance), trials


def _provenance(
    rows: SeizureRows, recipe: Recipe, trained: Trained, *, data_rate_hz: float
) -> dict[str, Any]:
    return {
        "recipe": recipe.as_json(),
        "data_rate_hz": data_rate_hz,
        "best_epoch": trained.best.number,
        "history": [asdict(epoch) for epoch in trained.history],
        "temperature": trained.temperature,
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
    }


def _selftest_windows(
    bundle: Bundle, rows: SeizureRows, test: NDArray[np.intp]
) -> NDArray[np.float32]:
    """A few held-out stretches of each class, as the scaler gets them, shape ``(36, n)``, µV."""
    rng = np.random.default_rng(REPORT_SEED)
    kinds = np.unique(rows.classes)
    if bundle.mode == "windowed" and not bundle.filters:
        chosen = [
            rng.choice(test[rows.classes[test] == kind], SELFTEST_WINDOWS_PER_CLASS, replace=False)
            for kind in kinds
        ]
        return draw_windows(
            rows, np.concatenate(chosen), window_samples=WINDOW_SAMPLES, seed=REPORT_SEED
        )
    n_samples = WINDOW_SAMPLES if bundle.mode == "windowed" else SELFTEST_CONTINUOUS_SAMPLES
    stretches = []
    for kind in kinds:
        keys = np.unique(rows.recordings[test[rows.classes[test] == kind]])
        for key in rng.choice(keys, SELFTEST_WINDOWS_PER_CLASS, replace=False).tolist():
            signal_uv = rows.recording(key)[:, None].astype(np.float32)
            _, prepared = condition(
                bundle, signal_uv, rate_hz=float(bundle.provenance["data_rate_hz"])
            )
            start = int(rng.integers(len(prepared) - n_samples + 1))
            stretches.append(prepared[start : start + n_samples, 0])
    return np.stack(stretches)
