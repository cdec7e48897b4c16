"""The published study, done again: which cell, which scaler, and does the class ratio hurt?

A *trial* is one model trained with one seed and measured once on data that it has not seen.
Trials are independent, so they may run on several processes; each finished one is a line of
a file, and a later run does only what is missing.

Every network has the same budget and no choice is made during training (no early stop, no best
epoch), so nothing of the validation or test side can have helped any of them.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from pydantic import ConfigDict, TypeAdapter, ValidationError
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits
from torch import nn

from stream_classifier.datasets import ROW_RATE_HZ, ROW_SAMPLES
from stream_classifier.evaluation.features import band_features
from stream_classifier.evaluation.windows import (
    Figures,
    count,
    draw_windows,
    split_rows,
    summarise,
)
from stream_classifier.signals import CLASS_NAMES
from stream_classifier.training.cells import CELLS, Cell, CellNetwork, equal_hidden
from stream_classifier.training.material import Material, Protocol, gather, split_data
from stream_classifier.training.recipe import deterministic_torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stream_classifier.datasets import SeizureRows

Model = Literal["rnn", "gru", "lstm", "svm", "trees"]
ScalerName = Literal["standard", "min-max", "moving-average", "none"]
Target = Literal["labels", "classes"]
Balance = Literal["as-is", "weighted", "sampled"]

SCALERS: Final[tuple[ScalerName, ...]] = ("standard", "min-max", "moving-average", "none")
PROTOCOLS: Final[tuple[Protocol, ...]] = ("rows", "recordings")

EXPERIMENT: Final = 1
"""Raised whenever the code changes so that the same trial would give other figures."""

EPOCHS: Final = 15
WINDOW_SAMPLES: Final = 120
WINDOWS_PER_EPOCH: Final = 9_000
BATCH_WINDOWS: Final = 128
LEARNING_RATE: Final = 4e-3
WEIGHT_DECAY: Final = 0.05
CLIP_NORM: Final = 1.0
EMA_DECAY: Final = 0.998
AVERAGED_SAMPLES: Final = 89
"""Length of the moving average: half a second."""

_CLASS_OF_LABEL: Final = np.array([-1, 0, 1, 2, 2, 2], dtype=np.intp)
_SVM_HOP: Final = 10
"""The SVM reads every tenth window of a row: it takes 100 times a network's time for each."""

_STRICT: Final = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One model, how its data is scaled and split, and the seed of all that is random.

    Attributes:
        model: A recurrent cell; or ``svm`` (RBF kernel on raw samples) or ``trees`` (gradient
            boosting on band power and line length), which do not stream.
        scaler: What becomes of µV before the network; see ``Scaler``.
        protocol: How the data is split.
        seed: Of split, weights, windows and dropout.
        epochs: Passes of 9,000 random windows; 0 for a reference.
        target: The data set's five ``labels``, probabilities summed to the three classes; or
            the three ``classes`` themselves, as in the study.
        balance: What is done about the classes' ratio of 1:1:3: nothing, the loss ``weighted``
            by the inverse, or windows ``sampled`` from each class equally often.
    """

    __pydantic_config__ = _STRICT

    model: Model
    scaler: ScalerName
    protocol: Protocol
    seed: int
    epochs: int
    target: Target = "labels"
    balance: Balance = "as-is"

    def __str__(self) -> str:
        """Short, for a progress bar."""
        named = (self.model, self.scaler, self.target, self.balance, self.protocol)
        return " ".join([*named, f"seed {self.seed}"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How good a trial's model is on the test side.

    Attributes:
        window: Of one random window a row, as published.
        row: Of the probabilities of ``n_row_windows`` windows of a row averaged.
        n_row_windows: All 59 of them; for the SVM every tenth.
        n_parameters: Numbers learnt; for an SVM its support vectors' samples, for trees their
            nodes.
        train_s: Core-seconds of the training.
    """

    __pydantic_config__ = _STRICT

    window: Figures
    row: Figures
    n_row_windows: int
    n_parameters: int
    train_s: float


def comparison_trials(
    *,
    seeds: Sequence[int],
    epochs: int = EPOCHS,
    cells: Sequence[Cell] = CELLS,
    scalers: Sequence[ScalerName] = SCALERS,
    protocols: Sequence[Protocol] = PROTOCOLS,
    references: bool = True,
) -> list[Trial]:
    """List the trials of the comparison, seed after seed, so that a part of it is usable."""
    trials = []
    for seed in seeds:
        for protocol in protocols:
            if references:
                trials += [
                    Trial(model="svm", scaler="standard", protocol=protocol, seed=seed, epochs=0),
                    Trial(model="trees", scaler="none", protocol=protocol, seed=seed, epochs=0),
                ]
            trials += [
                Trial(model=cell, scaler=scaler, protocol=protocol, seed=seed, epochs=epochs)
                for scaler in scalers
                for cell in cells
            ]
    return trials


def class_ratio_trials(
    *, seeds: Sequence[int], epochs: int = EPOCHS, protocols: Sequence[Protocol] = PROTOCOLS
) -> list[Trial]:
    """List the trials of the question: does the 1:1:3 class ratio hurt?

    Three arms have the study's target, the three classes; the fourth is this project's, whose
    five labels are equally frequent.
    """
    arms: tuple[tuple[Target, Balance], ...] = (
        ("classes", "as-is"),
        ("classes", "weighted"),
        ("classes", "sampled"),
        ("labels", "as-is"),
    )
    return [
        Trial(
            model="lstm",
            scaler="standard",
            protocol=protocol,
            seed=seed,
            epochs=epochs,
            target=target,
            balance=balance,
        )
        for seed in seeds
        for protocol in protocols
        for target, balance in arms
    ]


@dataclass(frozen=True, slots=True)
class Scaler:
    """What becomes of µV before a network, with constants of the training signal.

    * ``standard``: minus the mean, over the deviation.
    * ``min-max``: the training signal's least value becomes 0, its greatest 1.
    * ``moving-average``: minus the mean of the last half second (89 samples) up to and including
      the present one, over the deviation of that difference. A row stands alone, so the average
      begins with the window and is shorter at first.
    * ``none``: µV.

    Attributes:
        name: Which.
        offset: Subtracted, µV.
        scale: Then divided by, µV.
    """

    name: ScalerName
    offset: np.float32
    scale: np.float32

    @classmethod
    def fit(cls, name: ScalerName, material: Material) -> Scaler:
        """Measure the constants on the training signal."""
        signal_uv = material.signal_uv.astype(np.float64)
        offset, scale = 0.0, 1.0
        if name == "standard":
            offset, scale = float(signal_uv.mean()), float(signal_uv.std())
        elif name == "min-max":
            offset, scale = float(signal_uv.min()), float(np.ptp(signal_uv))
        elif name == "moving-average":
            every = sliding_window_view(material.signal_uv, material.stretch_samples)
            scale = float(_without_moving_average(every[material.stretch_starts[::97]]).std())
        return cls(name, np.float32(offset), np.float32(scale))

    def __call__(self, windows_uv: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scale windows of shape ``(n, window_samples)``, µV."""
        if self.name == "moving-average":
            windows_uv = _without_moving_average(windows_uv)
        return (windows_uv - self.offset) / self.scale


def _without_moving_average(windows_uv: NDArray[np.float32]) -> NDArray[np.float32]:
    n = windows_uv.shape[1]
    sums = np.zeros((len(windows_uv), n + 1))
    np.cumsum(windows_uv, axis=1, out=sums[:, 1:])
    ends = np.arange(1, n + 1)
    starts = np.maximum(ends - AVERAGED_SAMPLES, 0)
    averages = (sums[:, ends] - sums[:, starts]) / (ends - starts)
    differences: NDArray[np.float32] = (windows_uv - averages).astype(np.float32)
    return differences


Scores = Callable[["NDArray[np.float32]"], "NDArray[np.float32]"]
"""Windows of shape ``(n, window_samples)``, µV, to scores of the classes, ``(n, 3)``."""


@dataclass(frozen=True, slots=True)
class _Fitted:
    scores: Scores
    n_parameters: int
    row_hop: int = 1


def run_trial(rows: SeizureRows, trial: Trial) -> Outcome:
    """Train on the training side of the trial's split, then measure once on its test side.

    One thread; the same trial gives the same figures on one machine.
    """
    split = split_data(rows, protocol=trial.protocol, seed=trial.seed)
    train, test = split_rows(rows, split.train), split_rows(rows, split.test)
    with threadpool_limits(1), deterministic_torch(trial.seed):
        started_s = time.process_time()
        if trial.model == "svm":
            fitted = _fit_svm(rows, train, trial)
        elif trial.model == "trees":
            fitted = _fit_trees(rows, train, trial)
        else:
            fitted = _fit_network(rows, train, trial, cell=trial.model)
        train_s = time.process_time() - started_s
        drawn = draw_windows(rows, test, window_samples=WINDOW_SAMPLES, seed=trial.seed)
        truth = rows.classes[test].astype(np.intp)
        decided = fitted.scores(drawn).argmax(axis=1)
        starts = range(0, ROW_SAMPLES - WINDOW_SAMPLES + 1, fitted.row_hop)
        total = np.zeros((len(test), len(CLASS_NAMES)))
        for start in starts:  # one start at a time: memory stays that of one window a row
            windows = rows.values[test, start : start + WINDOW_SAMPLES].astype(np.float32)
            total += fitted.scores(windows)
    return Outcome(
        window=summarise(count(truth, decided)),
        row=summarise(count(truth, total.argmax(axis=1))),
        n_row_windows=len(starts),
        n_parameters=fitted.n_parameters,
        train_s=round(train_s, 2),
    )


def _fit_network(
    rows: SeizureRows, train: NDArray[np.intp], trial: Trial, *, cell: Cell
) -> _Fitted:
    """Train a recurrent network; every step of it is here."""
    material = gather(rows, train, stretch_samples=WINDOW_SAMPLES)
    scaler = Scaler.fit(trial.scaler, material)
    groups = material.labels.astype(np.intp) - 1
    n_outputs = 5
    if trial.target == "classes":
        groups, n_outputs = _CLASS_OF_LABEL[material.labels], len(CLASS_NAMES)
    network = CellNetwork(
        cell,
        hidden=equal_hidden(cell),
        outputs=n_outputs,
        squash=trial.scaler != "none",  # asinh needs a unit; µV have another one
    )
    average = copy.deepcopy(network).eval()
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    n_steps = trial.epochs * -(-WINDOWS_PER_EPOCH // BATCH_WINDOWS)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=LEARNING_RATE, total_steps=n_steps
    )
    weights = None
    if trial.balance == "weighted":  # mean 1 over the windows, so that the step size stays
        frequency = np.bincount(groups) / len(groups)
        weights = torch.tensor(1 / (n_outputs * frequency), dtype=torch.float32)
    windows = sliding_window_view(material.signal_uv, WINDOW_SAMPLES)
    rng = np.random.default_rng(trial.seed)
    members = [np.flatnonzero(groups == group) for group in range(n_outputs)]

    network.train()
    for step in range(n_steps):
        if trial.balance == "sampled":
            drawn_groups = rng.integers(n_outputs, size=BATCH_WINDOWS)
            drawn = np.array([rng.choice(members[group]) for group in drawn_groups])
        else:
            drawn = rng.integers(len(groups), size=BATCH_WINDOWS)
        z = torch.from_numpy(scaler(windows[material.stretch_starts[drawn]]))
        loss = nn.functional.cross_entropy(
            network(z), torch.from_numpy(groups[drawn]), weight=weights
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call] # torch's own annotation is missing
        nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
        optimizer.step()
        schedule.step()
        decay = min(EMA_DECAY, (1 + step) / (10 + step))  # the random start fades early
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), network.parameters(), strict=True):
                slow.lerp_(fast, 1 - decay)

    def scores(windows_uv: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            p = torch.cat(
                [
                    torch.softmax(average(piece), dim=1)
                    for piece in torch.split(torch.from_numpy(scaler(windows_uv)), 512)
                ]
            ).numpy()
        return _sum_labels(p) if trial.target == "labels" else p

    return _Fitted(scores, network.n_parameters)


def _fit_svm(rows: SeizureRows, train: NDArray[np.intp], trial: Trial) -> _Fitted:
    """RBF support vectors on the samples of one random window a training row."""
    drawn = draw_windows(rows, train, window_samples=WINDOW_SAMPLES, seed=trial.seed)
    scaler = Scaler.fit(trial.scaler, gather(rows, train, stretch_samples=WINDOW_SAMPLES))
    svm = SVC(kernel="rbf", C=10.0, gamma="scale", cache_size=500)
    svm.fit(scaler(drawn), rows.classes[train])

    def scores(windows_uv: NDArray[np.float32]) -> NDArray[np.float32]:
        decision: NDArray[np.float32] = svm.decision_function(scaler(windows_uv))
        return decision

    return _Fitted(scores, svm.support_vectors_.size, row_hop=_SVM_HOP)


def _fit_trees(rows: SeizureRows, train: NDArray[np.intp], trial: Trial) -> _Fitted:
    """Gradient-boosted trees on band power and line length of one random window a row."""
    drawn = draw_windows(rows, train, window_samples=WINDOW_SAMPLES, seed=trial.seed)
    trees = HistGradientBoostingClassifier(
        max_iter=150, learning_rate=0.07, l2_regularization=1.0, random_state=trial.seed
    )
    trees.fit(band_features(drawn, rate_hz=ROW_RATE_HZ), rows.labels[train])
    n_nodes = sum(len(tree.nodes) for round_ in trees._predictors for tree in round_)  # noqa: SLF001

    def scores(windows_uv: NDArray[np.float32]) -> NDArray[np.float32]:
        return _sum_labels(trees.predict_proba(band_features(windows_uv, rate_hz=ROW_RATE_HZ)))

    return _Fitted(scores, n_nodes)


def _sum_labels(p: NDArray[Any]) -> NDArray[np.float32]:
    """Probabilities of five labels, ``(n, 5)``, to those of three classes, ``(n, 3)``."""
    return np.stack([p[:, 0], p[:, 1], p[:, 2:].sum(axis=1)], axis=1).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """One finished trial in the file."""

    __pydantic_config__ = _STRICT

    trial: Trial
    data: str
    experiment: int
    outcome: Outcome


_LINES: Final = TypeAdapter(_Line)


class Ledger:
    """The finished trials, one JSON object a line, written as they finish.

    Lines of other data or of an earlier experiment are kept, and not used. A damaged line, as
    a power cut leaves it, is dropped, so that its trial is done again.

    One process writes; a line is on the disk before ``add`` returns.

    Args:
        path: The file; it need not be there yet.
        data_digest: SHA-256 of the table.
    """

    def __init__(self, path: Path, *, data_digest: str) -> None:
        self.path = path
        self.done: dict[Trial, Outcome] = {}
        self.damaged: tuple[int, ...] = ()
        self._data_digest = data_digest
        if not path.exists():
            return
        raw = path.read_bytes()
        sound: list[bytes] = []
        damaged: list[int] = []
        for number, text in enumerate(raw.splitlines(), start=1):
            try:
                line = _LINES.validate_json(text)
            except ValidationError:
                damaged.append(number)
                continue
            sound.append(text)
            if (line.data, line.experiment) == (data_digest, EXPERIMENT):
                self.done[line.trial] = line.outcome
        self.damaged = tuple(damaged)
        if self.damaged or (raw and not raw.endswith(b"\n")):
            with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
                file.write(b"".join(text + b"\n" for text in sound))
            Path(file.name).replace(path)

    def add(self, trial: Trial, outcome: Outcome) -> None:
        """Keep a finished trial."""
        line = _Line(trial=trial, data=self._data_digest, experiment=EXPERIMENT, outcome=outcome)
        with self.path.open("ab") as file:
            file.write(_LINES.dump_json(line) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.done[trial] = outcome


def run_trials(
    rows: SeizureRows,
    trials: Iterable[Trial],
    ledger: Ledger,
    *,
    jobs: int = 1,
    on_done: Callable[[Trial, Outcome], None] = lambda *_: None,
) -> None:
    """Run the trials that the ledger lacks, each on one thread.

    Args:
        rows: The data set.
        trials: What is wanted.
        ledger: Where each finished one goes at once.
        jobs: Processes at a time; 1 stays in this one.
        on_done: Called after each, in this process, in the order of finishing.
    """
    missing = [trial for trial in dict.fromkeys(trials) if trial not in ledger.done]
    for trial, outcome in _outcomes(rows, missing, jobs=jobs):
        ledger.add(trial, outcome)
        on_done(trial, outcome)


def _outcomes(
    rows: SeizureRows, trials: Sequence[Trial], *, jobs: int
) -> Iterator[tuple[Trial, Outcome]]:
    if jobs == 1 or len(trials) < 2:
        for trial in trials:
            yield trial, run_trial(rows, trial)
        return
    spawn = multiprocessing.get_context("spawn")  # a fork of a process with torch in it can hang
    pool = ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_live_with_parent)
    try:
        futures = {pool.submit(run_trial, rows, trial): trial for trial in trials}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _live_with_parent() -> None:
    """Make this worker end with its parent, and at once when interrupted at the terminal."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()
