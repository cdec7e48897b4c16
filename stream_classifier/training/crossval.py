"""A recipe's figures on every recording, each scored by a model that has not seen it."""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from stream_classifier.datasets import load_rows
from stream_classifier.errors import StreamClassifierError
from stream_classifier.evaluation.scoring import Scored, pool_scored, score_bundle
from stream_classifier.evaluation.windows import split_rows
from stream_classifier.training.material import split_folds
from stream_classifier.training.recipe import Epoch, Recipe, train
from stream_classifier.training.run import assemble

if TYPE_CHECKING:
    from stream_classifier.bundle import AlarmSpec

_LOOK_EVERY_S: Final = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """One fold.

    Attributes:
        number: From 0.
        scored: Figures on its test side.
        alarm: The rule that was chosen on its validation side.
        temperature: Likewise.
        best_epoch: Likewise.
    """

    number: int
    scored: Scored
    alarm: AlarmSpec
    temperature: float
    best_epoch: int

    def as_json(self) -> dict[str, Any]:
        """Return the fold's figures as JSON values."""
        streaming, scored = self.scored.streaming, self.scored
        return {
            "fold": self.number,
            **scored.headline,
            "smoothed": {
                f"{s.smoothing_s:g}": [s.figures.accuracy, s.figures.macro_f1]
                for s in scored.smoothed
            },
            "ece": scored.calibration.ece,
            "streaming": None
            if streaming is None
            else {
                "n_seizures": streaming.n_seizures,
                "n_detected": streaming.n_detected,
                "false_alarms": streaming.false_alarms,
                "latency_median_s": streaming.latency_s(0.5),
            },
            "alarm": asdict(self.alarm),
            "temperature": self.temperature,
            "best_epoch": self.best_epoch,
        }


@dataclass(frozen=True, slots=True, eq=False)
class CrossValidation:
    """All folds of one cross-validation.

    Attributes:
        folds: In their order.
        recipe: What each was trained with.
        seed: Of the folds.
    """

    folds: tuple[Fold, ...]
    recipe: Recipe
    seed: int

    @property
    def pooled(self) -> Scored:
        """Every recording once."""
        return pool_scored([fold.scored for fold in self.folds])

    def as_json(self) -> dict[str, Any]:
        """Return the figures of all folds together, of each, and their spread."""
        headlines = [fold.scored.headline for fold in self.folds]
        return {
            "protocol": "recordings",
            "mode": self.recipe.mode,
            **self.pooled.as_json(),
            "seed": self.seed,
            "folds": [fold.as_json() for fold in self.folds],
            "spread": {
                name: {
                    "min": min(line[name] for line in headlines),
                    "max": max(line[name] for line in headlines),
                    "sd": float(np.std([line[name] for line in headlines], ddof=1)),
                }
                for name in headlines[0]
            },
            "recipe": self.recipe.as_json(),
        }


def cross_validate(
    data: Path | None,
    *,
    recipe: Recipe,
    n_folds: int = 5,
    seed: int = 0,
    n_jobs: int = 2,
    on_epoch: Callable[[int, Epoch], None] = lambda _fold, _epoch: None,
) -> CrossValidation:
    """Train one model a fold, choose on its validation side, score on its test side.

    Args:
        data: Folder of the data set, as for ``load_rows``.
        recipe: What to train; each fold adds its number to the seed.
        n_folds: How many.
        seed: Of the folds; also picks the windows and the order of the timelines.
        n_jobs: Folds that are trained side by side, each in a process of one thread.
        on_epoch: Called in this process after an epoch of a fold.

    Raises:
        ConfigError: If there cannot be so many folds, or the recipe does not fit the data.
        StreamClassifierError: If a process died.
    """
    split_folds(load_rows(data), n_folds=n_folds, seed=seed)  # asked before the minutes
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with context.Manager() as manager:
        told = manager.Queue()
        with ProcessPoolExecutor(n_jobs, mp_context=context) as pool:
            waiting = [
                pool.submit(_run_fold, data, recipe, n_folds, seed, fold, told)
                for fold in range(n_folds)
            ]
            try:
                while not all(future.done() for future in waiting):
                    if any(future.done() and future.exception() for future in waiting):
                        break
                    try:
                        on_epoch(*told.get(timeout=_LOOK_EVERY_S))
                    except queue.Empty:
                        continue
                while not told.empty():  # what came in with the last fold's end
                    on_epoch(*told.get())
                folds = tuple(future.result() for future in waiting)
            except BrokenProcessPool as error:
                raise StreamClassifierError(
                    "a process that trained a fold died, perhaps for want of memory. Try: --jobs 1"
                ) from error
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    return CrossValidation(folds=folds, recipe=recipe, seed=seed)


def _run_fold(
    data: Path | None, recipe: Recipe, n_folds: int, seed: int, number: int, told: Any
) -> Fold:
    rows = load_rows(data)
    split = split_folds(rows, n_folds=n_folds, seed=seed)[number]
    recipe = replace(recipe, seed=recipe.seed + number)
    trained = train(rows, split, recipe=recipe, on_epoch=lambda epoch: told.put((number, epoch)))
    bundle, _ = assemble(rows, split, recipe, trained, name=f"fold-{number}")
    scored = score_bundle(bundle, rows, split_rows(rows, split.test), seed=seed)
    return Fold(
        number=number,
        scored=scored,
        alarm=bundle.alarm,
        temperature=trained.temperature,
        best_epoch=trained.best.number,
    )
