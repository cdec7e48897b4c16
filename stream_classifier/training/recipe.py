"""How the shipped models are trained. The loop is the file.

Every choice (when to stop, temperature, alarm threshold) is made on the validation side. The
test side is looked at once, when all is decided, for the figures on the model card.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from torch import nn

from stream_classifier.bundle import NetworkSpec
from stream_classifier.datasets import SeizureRows
from stream_classifier.evaluation.windows import count, draw_windows, split_rows, summarise
from stream_classifier.training.calibration import fit_temperature
from stream_classifier.training.material import Material, gather
from stream_classifier.training.network import WindowNetwork, class_log_probabilities

if TYPE_CHECKING:
    from stream_classifier.bundle import Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Every setting of a training.

    Attributes:
        seed: Of weights, windows and dropout; the split has its own.
        epochs: Passes of ``windows_per_epoch`` random windows, at most.
        patience_epochs: Stop when validation has not improved for so many.
        windows_per_epoch: Random windows in a pass.
        batch_windows: Windows in a step of the optimiser.
        learning_rate: Peak of the one-cycle schedule.
        weight_decay: Of AdamW.
        clip_norm: Largest norm of a gradient.
        ema_decay: Of the moving average of the weights; the average is what is kept.
        validation_draws: Random windows of each validation row, the same after every epoch.
    """

    seed: int = 0
    epochs: int = 160
    patience_epochs: int = 60
    windows_per_epoch: int = 9_000
    batch_windows: int = 128
    learning_rate: float = 4e-3
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    ema_decay: float = 0.998
    validation_draws: int = 4

    def as_json(self) -> dict[str, Any]:
        """Settings by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Epoch:
    """How training stands after one pass.

    Attributes:
        number: From 1.
        loss: Mean cross-entropy over the five labels, with dropout.
        accuracy: Of the averaged weights on the validation windows.
        macro_f1: Likewise; the highest is kept.
    """

    number: int
    loss: float
    accuracy: float
    macro_f1: float


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """What a training made.

    Attributes:
        network: The averaged weights of the best epoch, ready to classify.
        mean_uv: Scaler's mean, representable in float32.
        std_uv: Scaler's deviation, likewise.
        temperature: What logits are to be divided by.
        best: The epoch that was kept.
        n_epochs: How many were run.
    """

    network: WindowNetwork
    mean_uv: float
    std_uv: float
    temperature: float
    best: Epoch
    n_epochs: int


def train(
    rows: SeizureRows,
    split: Split,
    *,
    recipe: Recipe,
    spec: NetworkSpec,
    window_samples: int,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> Trained:
    """Train a network on the training side of a split, and choose on its validation side.

    Twice the same on one machine: seeds, one thread and deterministic algorithms. The
    caller's torch settings are restored afterwards.

    Args:
        rows: The data set.
        split: Its sides; the test side is not touched.
        recipe: Settings.
        spec: Shape of the network.
        window_samples: Length of a window.
        on_epoch: Called after every epoch.
    """
    material = gather(rows, split_rows(rows, split.train), window_samples=window_samples)
    scaler = StandardScaler().fit(material.signal_uv.astype(np.float64)[:, None])
    mean_uv, std_uv = np.float32(scaler.mean_[0]), np.float32(scaler.scale_[0])

    validation = np.repeat(split_rows(rows, split.validation), recipe.validation_draws)
    held_out = draw_windows(rows, validation, window_samples=window_samples, seed=recipe.seed)
    held_out_z = torch.from_numpy((held_out - mean_uv) / std_uv)
    truth = rows.classes[validation].astype(np.intp)

    with deterministic_torch(recipe.seed):
        rng = np.random.default_rng(recipe.seed)
        network = WindowNetwork(spec)
        average = copy.deepcopy(network).eval()
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        n_steps = -(-recipe.windows_per_epoch // recipe.batch_windows)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=recipe.learning_rate, total_steps=recipe.epochs * n_steps
        )
        best, best_weights, number = Epoch(0, np.inf, 0.0, -1.0), average.state_dict(), 0
        for number in range(1, recipe.epochs + 1):
            network.train()
            losses = []
            for step in range(n_steps):
                z, labels = _draw_batch(material, rng, recipe, mean_uv=mean_uv, std_uv=std_uv)
                loss = nn.functional.cross_entropy(network(z), labels)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call] # torch's own annotation is missing
                nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
                optimizer.step()
                schedule.step()
                _follow(average, network, n_done=(number - 1) * n_steps + step, recipe=recipe)
                losses.append(loss.item())

            with torch.inference_mode():
                logits = torch.cat([average(piece) for piece in torch.split(held_out_z, 1024)])
                decided = class_log_probabilities(logits, spec.output_classes).argmax(1).numpy()
            figures = summarise(count(truth, decided))
            epoch = Epoch(number, float(np.mean(losses)), figures.accuracy, figures.macro_f1)
            on_epoch(epoch)
            if epoch.macro_f1 > best.macro_f1:
                best, best_weights = epoch, copy.deepcopy(average.state_dict())
            elif number - best.number >= recipe.patience_epochs:
                break

        average.load_state_dict(best_weights)
        temperature = fit_temperature(average, held_out_z, torch.from_numpy(truth))
    return Trained(
        network=average,
        mean_uv=float(mean_uv),
        std_uv=float(std_uv),
        temperature=temperature,
        best=best,
        n_epochs=number,
    )


def _draw_batch(
    material: Material,
    rng: np.random.Generator,
    recipe: Recipe,
    *,
    mean_uv: np.float32,
    std_uv: np.float32,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Z-scores (B, window_samples) and targets (B,), the labels counted from 0."""
    windows, labels = material.draw(rng, recipe.batch_windows)
    z = torch.from_numpy((windows - mean_uv) / std_uv)
    return z, torch.from_numpy(labels.astype(np.int64) - 1)


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, *, n_done: int, recipe: Recipe) -> None:
    """Move the averaged weights towards the present ones."""
    decay = min(recipe.ema_decay, (1 + n_done) / (10 + n_done))  # the random start fades early
    for slow, fast in zip(average.parameters(), network.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)


@contextmanager
def deterministic_torch(seed: int) -> Iterator[None]:
    """Seed torch, and keep it to one thread, within a block; it is as before afterwards.

    One thread, because a sum made of two threads' parts may be rounded differently.
    """
    n_threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(mode=True)
        try:
            yield
        finally:
            torch.set_num_threads(n_threads)
            torch.use_deterministic_algorithms(mode=deterministic)
