"""How the models are trained. The loop is the file.

Every choice (when to stop, temperature, alarm threshold) is made on the validation side. The
test side is looked at once, when all is decided, for the figures on the model card.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from stream_classifier.bundle import AlarmSpec, ConvSpec, Mode, NetworkSpec
from stream_classifier.datasets import SeizureRows
from stream_classifier.errors import ConfigError
from stream_classifier.evaluation.windows import count, draw_windows, split_rows, summarise
from stream_classifier.toml_file import read_toml
from stream_classifier.training.augmentation import Augmentation, augment
from stream_classifier.training.calibration import fit_temperature
from stream_classifier.training.front_end import FrontEndName, front_end
from stream_classifier.training.material import Material, gather
from stream_classifier.training.network import StreamNetwork, class_log_probabilities

if TYPE_CHECKING:
    from stream_classifier.bundle import Split

WINDOW_SAMPLES: Final = 120
HOP_SAMPLES: Final = 8

NETWORK: Final = NetworkSpec(stem=(ConvSpec(32, 8, 2), ConvSpec(48, 8, 2), ConvSpec(48, 5, 1)))
"""A stem costs little, since overlapping windows share it; a larger LSTM is paid for by each."""

RECIPES: Final = Path(__file__).parent / "recipes"

UNSURE_SAMPLES: Final = 60
"""After a splice of two recordings no answer is asked for until half of the window is new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Every setting of a training.

    Attributes:
        mode: ``windowed`` or ``continuous``, as ``Bundle.mode``.
        signal: What the recordings go through first; see ``front_end``.
        network: Shape of the network.
        seed: Of weights, windows and dropout; the split has its own.
        epochs: Passes of ``stretches_per_epoch`` random stretches, at most.
        patience_epochs: Stop when validation has not improved for so many.
        stretches_per_epoch: Random stretches in a pass; a windowed stretch is one window.
        batch_stretches: Stretches in a step of the optimiser.
        stretch_samples: Length of a stretch in continuous mode.
        decide_every: Steps from one decision that is learnt from to the next, in continuous mode;
            the first is drawn.
        splice_share: Share of the stretches that change to another recording half-way, in
            continuous mode.
        augmentation: What is done to the signal; None: nothing.
        alarm: The alarm rule; None chooses it on the validation side.
        learning_rate: Peak of the one-cycle schedule.
        weight_decay: Of AdamW.
        clip_norm: Largest norm of a gradient.
        ema_decay: Of the moving average of the weights; the average is what is kept.
        validation_draws: Random windows of each validation row, the same after every epoch.
        refit: Whether to train once more, when all is chosen, on training and validation side
            together, for as many epochs as were best.

    Raises:
        ValueError: If a number is out of range.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    mode: Mode = "windowed"
    signal: FrontEndName = "as published"
    network: NetworkSpec = NETWORK
    seed: int = 0
    epochs: int = 160
    patience_epochs: int = 60
    stretches_per_epoch: int = 9_000
    batch_stretches: int = 128
    stretch_samples: int = 480
    decide_every: int = 8
    splice_share: float = 0.3
    augmentation: Augmentation | None = None
    alarm: AlarmSpec | None = None
    learning_rate: float = 4e-3
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    ema_decay: float = 0.998
    validation_draws: int = 4
    refit: bool = False

    def __post_init__(self) -> None:
        counts = (
            self.epochs, self.patience_epochs, self.stretches_per_epoch, self.batch_stretches,
            self.decide_every, self.validation_draws,
        )  # fmt: skip
        if min(counts) < 1 or self.seed < 0:
            raise ValueError("counts of a recipe must be at least 1, its seed at least 0")
        if not (0 <= self.splice_share <= 1 and 0 <= self.ema_decay < 1 and self.learning_rate > 0):
            raise ValueError("expected splice_share 0..1, ema_decay 0..1, learning_rate above 0")
        if HOP_SAMPLES % self.network.stride_samples:  # noticed only after the training otherwise
            raise ValueError(f"the strides of the stem must multiply to a divisor of {HOP_SAMPLES}")
        if self.network.receptive_samples >= WINDOW_SAMPLES:
            raise ValueError(f"the stem must see less than a window of {WINDOW_SAMPLES} samples")
        if self.mode == "continuous" and self.stretch_samples < 2 * WINDOW_SAMPLES:
            raise ValueError(f"stretch_samples must be at least {2 * WINDOW_SAMPLES}")

    def as_json(self) -> dict[str, Any]:
        """Settings by name, as ``load_recipe`` reads them."""
        settings: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return settings


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Read a recipe: the name of a shipped one, or a TOML file.

    Raises:
        ConfigError: If there is none, or a setting is unknown or out of range.
    """
    shipped = {path.stem: path for path in RECIPES.glob("*.toml")}
    path = shipped.get(str(name_or_path), Path(name_or_path).expanduser())
    try:
        settings = read_toml(path)
    except FileNotFoundError as error:
        raise ConfigError(
            f"recipe {name_or_path}: expected a TOML file, or one of the shipped recipes "
            f"{', '.join(sorted(shipped))}; found neither. Try: --recipe bonn"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"recipe {path}: expected a readable TOML file, found: {error}"
        ) from error
    try:
        # Through JSON: there a list is a tuple, even when strict.
        return TypeAdapter(Recipe).validate_json(json.dumps(settings, default=str))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its settings"
        raise ConfigError(
            f"recipe {path}: {where}: {first['msg']}. Try: compare it with {RECIPES / 'bonn.toml'}"
        ) from error


@dataclass(frozen=True, slots=True)
class Epoch:
    """How training stands after one pass.

    Attributes:
        number: From 1.
        loss: Mean cross-entropy over the five labels, with dropout.
        accuracy: Of the averaged weights on the validation decisions.
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
        history: All epochs.
    """

    network: StreamNetwork
    mean_uv: float
    std_uv: float
    temperature: float
    best: Epoch
    history: tuple[Epoch, ...]


def train(
    rows: SeizureRows,
    split: Split,
    *,
    recipe: Recipe,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> Trained:
    """Train a network on the training side of a split, and choose on its validation side.

    Twice the same on one machine: seeds, one thread and deterministic algorithms. The
    caller's torch settings are restored afterwards.

    Args:
        rows: The data set.
        split: Its sides; the test side is not touched.
        recipe: Settings.
        on_epoch: Called after every epoch.

    Raises:
        ConfigError: If the recipe needs longer contiguous signal than the training side has.
    """
    material = _gather(rows, split.train, recipe)
    scaler = StandardScaler().fit(material.signal_uv.astype(np.float64)[:, None])
    mean_uv, std_uv = np.float32(scaler.mean_[0]), np.float32(scaler.scale_[0])

    with deterministic_torch(recipe.seed):
        network = StreamNetwork(recipe.network, window_samples=WINDOW_SAMPLES)
        validation = _Validation(rows, split, recipe=recipe, mean_uv=mean_uv, std_uv=std_uv)
        history: list[Epoch] = []
        best, best_weights = Epoch(0, np.inf, 0.0, -1.0), network.state_dict()
        for number, loss, average in _fit(network, material, recipe, mean_uv, std_uv):
            logits = validation.logits(average)
            decided = class_log_probabilities(logits, recipe.network.output_classes).argmax(1)
            figures = summarise(count(validation.truth, decided.numpy()))
            epoch = Epoch(number, loss, figures.accuracy, figures.macro_f1)
            history.append(epoch)
            on_epoch(epoch)
            if epoch.macro_f1 > best.macro_f1:
                best, best_weights = epoch, copy.deepcopy(average.state_dict())
            elif number - best.number >= recipe.patience_epochs:
                break
        network.load_state_dict(best_weights)
        network.eval()
        temperature = fit_temperature(
            validation.logits(network),
            torch.from_numpy(validation.truth),
            recipe.network.output_classes,
        )
        if recipe.refit:
            everything = _gather(rows, (*split.train, *split.validation), recipe)
            again = StreamNetwork(recipe.network, window_samples=WINDOW_SAMPLES)
            for number, _, average in _fit(again, everything, recipe, mean_uv, std_uv):
                if number == best.number:
                    network = average
                    break
    return Trained(
        network=network,
        mean_uv=float(mean_uv),
        std_uv=float(std_uv),
        temperature=temperature,
        best=best,
        history=tuple(history),
    )


def _gather(
    rows: SeizureRows, members: tuple[int, ...] | tuple[str, ...], recipe: Recipe
) -> Material:
    return gather(
        rows,
        split_rows(rows, members),
        stretch_samples=WINDOW_SAMPLES if recipe.mode == "windowed" else recipe.stretch_samples,
        prepare=front_end(recipe.signal).prepare,
    )


def _fit(
    network: StreamNetwork,
    material: Material,
    recipe: Recipe,
    mean_uv: np.float32,
    std_uv: np.float32,
) -> Iterator[tuple[int, float, StreamNetwork]]:
    """Train a network; yield each epoch's number and mean loss, and the averaged network."""
    rng = np.random.default_rng(recipe.seed)
    average = copy.deepcopy(network).eval()
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    n_steps = -(-recipe.stretches_per_epoch // recipe.batch_stretches)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=recipe.learning_rate, total_steps=recipe.epochs * n_steps
    )
    for number in range(1, recipe.epochs + 1):
        network.train()
        losses = []
        for step in range(n_steps):
            batch = _draw_batch(material, rng, recipe, mean_uv=mean_uv, std_uv=std_uv)
            loss = _loss(network, batch, rng, recipe)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call] # torch's own annotation is missing
            nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
            optimizer.step()
            schedule.step()
            _follow(average, network, n_done=(number - 1) * n_steps + step, recipe=recipe)
            losses.append(loss.item())
        yield number, float(np.mean(losses)), average


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """Stretches to learn from; B of them."""

    z: Tensor  # (B, n_samples), z-scores
    targets: Tensor  # (B, 2): the label, from 0, before and after the splice
    splices: Tensor  # (B,): first sample of the second recording; n_samples: there is none


def _draw_batch(
    material: Material,
    rng: np.random.Generator,
    recipe: Recipe,
    *,
    mean_uv: np.float32,
    std_uv: np.float32,
) -> _Batch:
    signal, labels = material.draw(rng, recipe.batch_stretches)
    n_samples = material.stretch_samples
    targets = np.stack([labels, labels], axis=1).astype(np.int64) - 1
    splices = np.full(len(signal), n_samples)
    if recipe.mode == "continuous":
        n_spliced = round(recipe.splice_share * len(signal))
        others, other_labels = material.draw(rng, n_spliced)
        splices[:n_spliced] = rng.integers(
            WINDOW_SAMPLES // 2, n_samples - WINDOW_SAMPLES // 2, size=n_spliced
        )
        is_other = np.arange(n_samples) >= splices[:n_spliced, None]
        signal[:n_spliced] = np.where(is_other, others, signal[:n_spliced])
        targets[:n_spliced, 1] = other_labels.astype(np.int64) - 1
    if recipe.augmentation is not None:
        signal = augment(signal, targets, splices, recipe.augmentation, rng, material=material)
    return _Batch(
        z=torch.from_numpy((signal - mean_uv) / std_uv),
        targets=torch.from_numpy(targets),
        splices=torch.from_numpy(splices),
    )


def _loss(
    network: StreamNetwork, batch: _Batch, rng: np.random.Generator, recipe: Recipe
) -> Tensor:
    """Mean cross-entropy over the decisions that are learnt from."""
    h = network.states(batch.z)
    ends = network.ends(batch.z.shape[1])
    first = int(rng.integers(min(recipe.decide_every, len(ends))))
    positions = range(first, len(ends), recipe.decide_every)
    logits = network.decide(h, positions)  # (B, P, outputs)
    since_splice = torch.from_numpy(ends[positions])[None] - batch.splices[:, None]  # (B, P)
    targets = torch.where(since_splice < 0, batch.targets[:, :1], batch.targets[:, 1:])
    losses = nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), reduction="none"
    ).reshape(targets.shape)
    asked = (since_splice < 0) | (since_splice >= UNSURE_SAMPLES)
    return (losses * asked).sum() / asked.sum()


class _Validation:
    """Decisions on the validation side, the same after every epoch.

    Windowed on the rows as published: random windows of each row. Else: the decisions on whole
    recordings, prepared as in training, one every quarter of a second.
    """

    def __init__(
        self,
        rows: SeizureRows,
        split: Split,
        *,
        recipe: Recipe,
        mean_uv: np.float32,
        std_uv: np.float32,
    ) -> None:
        numbers = split_rows(rows, split.validation)
        self._is_windowed = recipe.mode == "windowed"
        if self._is_windowed and recipe.signal == "as published":
            numbers = np.repeat(numbers, recipe.validation_draws)
            signal = draw_windows(rows, numbers, window_samples=WINDOW_SAMPLES, seed=recipe.seed)
            self.truth = rows.classes[numbers].astype(np.intp)
        else:
            prepare = front_end(recipe.signal).prepare
            keys = np.unique(rows.recordings[numbers]).tolist()
            runs = [prepare(rows.recording(key).astype(np.float32)) for key in keys]
            classes = np.array([rows.classes[rows.rows_of(key)[0]] for key in keys], np.intp)
            signal = np.stack([run[: min(map(len, runs))] for run in runs])
            if self._is_windowed:
                windows = np.lib.stride_tricks.sliding_window_view(signal, WINDOW_SAMPLES, axis=1)
                windows = windows[:, ::44]
                self.truth = np.repeat(classes, windows.shape[1])
                signal = windows.reshape(-1, WINDOW_SAMPLES)
            else:
                self._classes = classes
        self._z = torch.from_numpy(np.ascontiguousarray((signal - mean_uv) / std_uv))
        if not self._is_windowed:
            network = StreamNetwork(recipe.network, window_samples=WINDOW_SAMPLES)
            n_decisions = len(network.ends(self._z.shape[1]))
            self._positions = range(0, n_decisions, 11)
            self.truth = np.repeat(classes, len(self._positions))

    @torch.inference_mode()
    def logits(self, network: StreamNetwork) -> Tensor:
        """Logits of every decision, shape (n, outputs)."""
        if self._is_windowed:
            return torch.cat([network(piece) for piece in torch.split(self._z, 1024)])
        return torch.cat(
            [
                network.decide(network.states(piece), self._positions).flatten(0, 1)
                for piece in torch.split(self._z, 10)
            ]
        )


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
