"""What the trials of a comparison say: a Markdown table and a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy import stats

from stream_classifier.evaluation import palette
from stream_classifier.evaluation.pictures import DPI, style
from stream_classifier.signals import CLASS_NAMES
from stream_classifier.training.cells import CELLS, equal_hidden
from stream_classifier.training.compare import PROTOCOLS, SCALERS, Outcome, Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Outcomes = Mapping[Trial, Outcome]

_MODEL_NAMES: Final = {
    "rnn": "vanilla RNN",
    "gru": "GRU",
    "lstm": "LSTM",
    "svm": "RBF SVM on raw samples",
    "trees": "boosted trees on features",
}
_SCALER_NAMES: Final = {
    "standard": "standard",
    "min-max": "min-max",
    "moving-average": "moving average",
    "none": "none (µV)",
}
_ARM_NAMES: Final = {
    ("classes", "as-is"): "three classes, as is",
    ("classes", "weighted"): "three classes, weighted loss",
    ("classes", "sampled"): "three classes, balanced sampling",
    ("labels", "as-is"): "five labels, summed",
}
_PROTOCOL_NAMES: Final = {
    "rows": "rows shuffled (as published)",
    "recordings": "recordings held out",
}


def _recall(name: str, outcome: Outcome) -> float:
    return outcome.window.recall[name]


def _f1(name: str, outcome: Outcome) -> float:
    return outcome.window.f1[name]


_FIGURES: Final[dict[str, Callable[[Outcome], float]]] = {
    "accuracy": lambda o: o.window.accuracy,
    "macro F1": lambda o: o.window.macro_f1,
    **{f"recall {name}": partial(_recall, name) for name in CLASS_NAMES},
    **{f"F1 {name}": partial(_f1, name) for name in CLASS_NAMES},
    "row accuracy": lambda o: o.row.accuracy,
    "row macro F1": lambda o: o.row.macro_f1,
}

_SIZES: Final = (
    "Hidden units so that the networks have equally many parameters, to 1%: "
    + ", ".join(f"{_MODEL_NAMES[cell]} {equal_hidden(cell)}" for cell in CELLS)
    + "."
)
_READING: Final = (
    "Mean ± standard deviation over the seeds {seeds}; a seed is another split, other weights "
    "and other windows. One random 120-sample window of each held-out row; `row`: the "
    "probabilities of all 59 windows of the row averaged (SVM: its decision scores, every tenth "
    "window). Time is core-seconds of one training. A split by rows or recordings is not a split "
    "by person."
)


def comparison_markdown(outcomes: Outcomes) -> str:
    """Cells, scalers and references, a table for each protocol, then the LSTM against the rest."""
    parts = ["# Cell, scaler and protocol", "", _reading(outcomes), "", _SIZES, ""]
    for protocol, of_protocol in _by_protocol(outcomes):
        groups = _grouped(of_protocol, lambda t: (_MODEL_NAMES[t.model], _SCALER_NAMES[t.scaler]))
        ranked = sorted(groups.items(), key=lambda g: -np.mean(_of(g[1], "macro F1")))
        lines: dict[tuple[str, ...], _Group] = {
            (model, "its own" if group[0][0].model == "trees" else scaler): group
            for (model, scaler), group in ranked
        }
        parts += [f"## {_PROTOCOL_NAMES[protocol].capitalize()}", ""]
        parts += [*_table(("model", "scaler"), lines), ""]
    return "\n".join([*parts, *_lstm_against_the_rest(outcomes)])


def class_ratio_markdown(outcomes: Outcomes) -> str:
    """Arms of the class-ratio experiment, a table for each protocol, then their differences."""
    parts = ["# Does the class ratio of 1:1:3 hurt?", "", _reading(outcomes), ""]
    parts += ["LSTM 64 behind the standard scaler.", ""]
    for protocol, of_protocol in _by_protocol(outcomes):
        arms = _grouped(of_protocol, lambda t: (_ARM_NAMES[t.target, t.balance],))
        parts += [f"## {_PROTOCOL_NAMES[protocol].capitalize()}", ""]
        parts += [*_table(("arm",), arms), ""]
    parts += ["## Against the classes as they are", "", _PAIRED, ""]
    table = ["| protocol | arm | accuracy | macro F1 | recall tumour | recall normal |"]
    table += ["|---|---|---|---|---|---|"]
    for protocol, of_protocol in _by_protocol(outcomes):
        arms = _grouped(of_protocol, lambda t: (_ARM_NAMES[t.target, t.balance],))
        as_is = arms.pop((_ARM_NAMES["classes", "as-is"],), None)
        if as_is is None:
            continue
        for (name,), arm in arms.items():
            names = ("accuracy", "macro F1", "recall tumour", "recall normal")
            differences = {figure: _difference(arm, as_is, figure) for figure in names}
            cells = map(str, differences.values())
            table.append(f"| {protocol} | {name} | {' | '.join(cells)} |")
            parts.append(
                f"- {_PROTOCOL_NAMES[protocol].capitalize()}, {name}: "
                f"macro F1 {differences['macro F1'].verdict} ({differences['macro F1']}), "
                f"accuracy {differences['accuracy'].verdict} ({differences['accuracy']})."
            )
    return "\n".join([*parts, "", *table, ""])


_PAIRED: Final = (
    "Differences paired by seed (same split, same windows scored), with the 95% interval of "
    "their mean (Student's t). Where it holds 0, no difference is shown."
)


def _lstm_against_the_rest(outcomes: Outcomes) -> list[str]:
    lines = ["## Is the LSTM best?", "", _PAIRED, ""]
    table = ["| protocol | scaler | LSTM minus | accuracy | macro F1 |", "|---|---|---|---|---|"]
    for protocol, of_protocol in _by_protocol(outcomes):
        of_model = _grouped(of_protocol, lambda t: (t.model,))
        of_scaler = _grouped(of_protocol, lambda t: (t.scaler, t.model))
        for cell in ("gru", "rnn"):
            groups = {
                _SCALER_NAMES[scaler]: (
                    of_scaler.get((scaler, "lstm")),
                    of_scaler.get((scaler, cell)),
                )
                for scaler in SCALERS
            }
            groups["mean of all"] = (of_model.get(("lstm",)), of_model.get((cell,)))
            for name, (lstm, other) in groups.items():
                if lstm and other:
                    figures = [_difference(lstm, other, of) for of in ("accuracy", "macro F1")]
                    cells = (protocol, name, _MODEL_NAMES[cell], *map(str, figures))
                    table.append(f"| {' | '.join(cells)} |")
                    if name == "mean of all":
                        lines.append(
                            f"- {_PROTOCOL_NAMES[protocol].capitalize()}, against the "
                            f"{_MODEL_NAMES[cell]}, mean of all scalers: "
                            f"macro F1 {figures[1].verdict} ({figures[1]}), "
                            f"accuracy {figures[0].verdict} ({figures[0]})."
                        )
    return [*lines, "", *table, ""]


_Group = list[tuple[Trial, Outcome]]


def _reading(outcomes: Outcomes) -> str:
    seeds = ", ".join(map(str, sorted({trial.seed for trial in outcomes})))
    epochs = ", ".join(map(str, sorted({t.epochs for t in outcomes if t.epochs})))
    return f"{_READING.format(seeds=seeds)} Epochs: {epochs or 'none'}."


def _by_protocol(outcomes: Outcomes) -> Iterable[tuple[str, _Group]]:
    for protocol in PROTOCOLS:
        group = [(t, o) for t, o in outcomes.items() if t.protocol == protocol]
        if group:
            yield protocol, group


def _grouped(
    pairs: _Group, key: Callable[[Trial], tuple[str, ...]]
) -> dict[tuple[str, ...], _Group]:
    groups: dict[tuple[str, ...], _Group] = {}
    for trial, outcome in pairs:
        groups.setdefault(key(trial), []).append((trial, outcome))
    return groups


def _of(group: _Group, name: str) -> list[float]:
    return [_FIGURES[name](outcome) for _, outcome in group]


def _table(heads: tuple[str, ...], lines: Mapping[tuple[str, ...], _Group]) -> list[str]:
    columns = [*heads, *_FIGURES, "parameters", "s"]
    rows = []
    for names, group in lines.items():
        sizes = sorted({outcome.n_parameters for _, outcome in group})
        size = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
        seconds = np.mean([outcome.train_s for _, outcome in group])
        figures = [_with_deviation(_of(group, name)) for name in _FIGURES]
        rows.append(f"| {' | '.join([*names, *figures, size, f'{seconds:.0f}'])} |")
    return [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns), *rows]


def _with_deviation(values: Sequence[float]) -> str:
    mean = f"{np.mean(values):.3f}".removeprefix("0")
    if len(values) < 2:
        return mean
    return f"{mean} ±{np.std(values, ddof=1):.3f}".replace("±0", "±")


@dataclass(frozen=True, slots=True)
class _Difference:
    """Mean of a difference, and its 95% interval; None where one seed gives none."""

    mean: float
    interval: tuple[float, float] | None

    def __str__(self) -> str:
        if self.interval is None:
            return f"{self.mean:+.3f}"
        low, high = self.interval
        return f"{self.mean:+.3f} ({low:+.3f} to {high:+.3f})"

    @property
    def verdict(self) -> str:
        """What it shows, in words."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return "no difference shown"
        return "better" if self.mean > 0 else "worse"


def _difference(group: _Group, other: _Group, name: str) -> _Difference:
    """Differences by seed, each side being the mean of the seed's trials."""
    sides: list[dict[int, list[float]]] = [{}, {}]
    for side, pairs in zip(sides, (group, other), strict=True):
        for trial, outcome in pairs:
            side.setdefault(trial.seed, []).append(_FIGURES[name](outcome))
    by_seed = [
        float(np.mean(of_seed) - np.mean(sides[1][seed]))
        for seed, of_seed in sides[0].items()
        if seed in sides[1]
    ]
    mean = float(np.mean(by_seed))
    if len(by_seed) < 2:
        return _Difference(mean, None)
    half = float(stats.t.ppf(0.975, len(by_seed) - 1) * stats.sem(by_seed))
    return _Difference(mean, (mean - half, mean + half))


def draw_comparison(outcomes: Outcomes, path: Path) -> None:
    """Write a picture of macro F1 and accuracy by scaler and cell, one column a protocol.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    with style():
        _comparison_figure(outcomes).savefig(path, dpi=DPI)


def _comparison_figure(outcomes: Outcomes) -> Figure:
    protocols = dict(_by_protocol(outcomes))
    names = ("macro F1", "accuracy")
    drawing = _figure(width=5.6 * len(protocols) + 0.6, height=7.2)
    axes = drawing.subplots(len(names), len(protocols), squeeze=False, sharey="row", sharex=True)
    for column, (protocol, pairs) in enumerate(protocols.items()):
        for row, name in enumerate(names):
            _draw_cells(axes[row, column], pairs, name)
        axes[0, column].set_title(_PROTOCOL_NAMES[protocol])
        axes[-1, column].set_xlabel("scaler")
    for row, name in enumerate(names):
        axes[row, 0].set_ylabel(f"{name}, one window")
    seen = {trial.model for trial in outcomes}
    handles = [
        _handle(_MODEL_NAMES[cell], looks=_CELL_LOOKS[cell]) for cell in CELLS if cell in seen
    ]
    handles += [
        _handle(_MODEL_NAMES[model], looks=(palette.INK, ""), lw=1, ls=dashes)
        for model, dashes in _REFERENCE_DASHES.items()
        if model in seen
    ]
    drawing.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)
    seeds = len({trial.seed for trial in outcomes})
    drawing.suptitle(f"Cells of equal size by scaler: mean ± deviation, {seeds} seeds (small dots)")
    return drawing


def _draw_cells(ax: Axes, pairs: _Group, name: str) -> None:
    """One figure of all cells, by scaler, with the references as lines."""
    groups = _grouped(pairs, lambda t: (t.model, t.scaler))
    scalers = [s for s in SCALERS if any((cell, s) in groups for cell in CELLS)]
    for place, cell in enumerate(CELLS):
        for at, scaler in enumerate(scalers):
            if group := groups.get((cell, scaler)):
                _dots(ax, at + (place - 1) * 0.22, _of(group, name), *_CELL_LOOKS[cell])
    for model, dashes in _REFERENCE_DASHES.items():
        if group := [pair for pair in pairs if pair[0].model == model]:
            level = float(np.mean(_of(group, name)))
            ax.axhline(level, color=palette.INK, lw=1, ls=dashes, zorder=1)
    ax.set_xticks(range(len(scalers)), [_SCALER_NAMES[scaler] for scaler in scalers])
    ax.grid(visible=False, axis="x")


def draw_class_ratio(outcomes: Outcomes, path: Path) -> None:
    """Write a picture of each arm's recalls, accuracy and macro F1, one column a protocol.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    with style():
        _class_ratio_figure(outcomes).savefig(path, dpi=DPI)


def _class_ratio_figure(outcomes: Outcomes) -> Figure:
    protocols = dict(_by_protocol(outcomes))
    names = ["accuracy", "macro F1", *(f"recall {name}" for name in CLASS_NAMES)]
    drawing = _figure(width=5.6 * len(protocols) + 0.6, height=4.8)
    axes = drawing.subplots(1, len(protocols), squeeze=False, sharey=True)[0]
    arms = [arm for arm in _ARM_NAMES if any((t.target, t.balance) == arm for t in outcomes)]
    looks = dict(zip(_ARM_NAMES, _SERIES, strict=True))
    for ax, (protocol, pairs) in zip(axes, protocols.items(), strict=True):
        for place, arm in enumerate(arms):
            group = [pair for pair in pairs if (pair[0].target, pair[0].balance) == arm]
            for at, name in enumerate(names):
                if group:
                    offset = (place - (len(arms) - 1) / 2) * 0.18
                    _dots(ax, at + offset, _of(group, name), *looks[arm])
        ax.set_xticks(range(len(names)), [name.replace(" ", "\n", 1) for name in names])
        ax.set_title(_PROTOCOL_NAMES[protocol])
        ax.grid(visible=False, axis="x")
    axes[0].set_ylabel("one window")
    handles = [_handle(_ARM_NAMES[arm], looks=looks[arm]) for arm in arms]
    drawing.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    seeds = len({trial.seed for trial in outcomes})
    drawing.suptitle(f"The class ratio of 1:1:3: mean ± deviation, {seeds} seeds (small dots)")
    return drawing


_SERIES: Final = (
    (palette.ORANGE, "o"),
    (palette.BLUE, "s"),
    (palette.PURPLE, "D"),
    (palette.GREEN, "^"),
)
"""Colours and markers of up to four series."""

_CELL_LOOKS: Final = dict(zip(CELLS, _SERIES, strict=False))
_REFERENCE_DASHES: Final = {"trees": (0, (6, 2)), "svm": (0, (2, 2))}


def _dots(ax: Axes, at: float, values: Sequence[float], colour: str, marker: str) -> None:
    """Mean and deviation, and each seed as a small dot beside them."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    ax.errorbar(at, float(np.mean(values)), deviation, fmt=marker, ms=6, capsize=4, color=colour)
    ax.plot([at + 0.07] * len(values), values, ".", ms=4, color=colour, alpha=0.7)


def _figure(*, width: float, height: float) -> Figure:
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra, and no global state

    return Figure(figsize=(width, height), layout="constrained")


def _handle(label: str, *, looks: tuple[str, str], lw: float = 2, ls: Any = "-") -> Line2D:
    """Make an entry of a legend that stands for no line in particular."""
    from matplotlib.lines import Line2D  # noqa: PLC0415 - an extra

    colour, marker = looks
    return Line2D([], [], label=label, color=colour, lw=lw, marker=marker, ls=ls)
