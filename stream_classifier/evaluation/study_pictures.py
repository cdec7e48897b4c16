"""The published study's pictures, and their words as Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from stream_classifier.datasets import ROW_SAMPLES
from stream_classifier.evaluation import palette
from stream_classifier.evaluation.pictures import DPI, style
from stream_classifier.evaluation.study import (
    LABEL_NAMES,
    Readings,
    Study,
    classification_report,
    row_id,
)
from stream_classifier.signals import CLASS_NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from stream_classifier.datasets import SeizureRows
    from stream_classifier.evaluation.study import Pair

NO_HISTORY: Final = (
    "The bundle does not hold the history of its training, so there is no curve of accuracy and "
    "loss. Try: train it again with this version."
)
_WIDTH_IN: Final = 8.4
_HATCHES: Final = dict(zip(CLASS_NAMES, ("", "///", "..."), strict=True))


def write_study(study: Study, rows: SeizureRows, folder: Path) -> tuple[Path, ...]:
    """Write every picture, and ``study.md`` that shows them with their words.

    Args:
        study: What was measured.
        rows: The data set.
        folder: Is made if it is not there.

    Returns:
        What was written, the Markdown file last.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with style():
        pictures: dict[str, Figure] = {}
        if study.history:
            pictures["curves"] = _curves(study)
        pictures["report"] = _report(study)
        pictures["confusion"] = _confusion(study)
        pictures["classes"] = _classes(study, rows)
        if study.pairs:
            pictures["misread"] = _misread(study, rows)
        if study.repeated is not None:
            pictures["repeated"] = _repeated(study.repeated, rows)
        for name, picture in pictures.items():
            path = folder / f"{name}.png"
            picture.savefig(path, dpi=DPI)
            written.append(path)
    words = folder / "study.md"
    words.write_text(markdown(study, rows, [path.name for path in written]), encoding="utf-8")
    return (*written, words)


def draw_repeated(readings: Readings, rows: SeizureRows, path: Path) -> None:
    """Write the picture of one row read many times.

    Args:
        readings: Windows of one row.
        rows: The data set.
        path: PNG file.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    with style():
        _repeated(readings, rows).savefig(path, dpi=DPI, format="png")


def markdown(study: Study, rows: SeizureRows, pictures: Sequence[str]) -> str:
    """Say what the pictures show.

    Args:
        study: What was measured.
        rows: The data set.
        pictures: File names of the pictures that there are.
    """
    figures, intervals = study.report.figures, study.report.intervals()
    low, high = intervals["accuracy"]
    summary = (
        f"One random window of each of {len(study.report.truth):,} held-out rows: accuracy "
        f"{figures.accuracy:.3f} (95% by recording: {low:.3f} to {high:.3f}), macro F1 "
        f"{figures.macro_f1:.3f}. A split by {study.protocol} is not a split by person."
    )
    parts = [f"# {study.title}", "", summary, "", "## Classification report", ""]
    parts += ["| | precision | recall | F1 | windows |", "|---|---|---|---|---|"]
    parts += [
        f"| {line.name} | {line.precision:.3f} | {line.recall:.3f} | {line.f1:.3f} "
        f"| {line.n_windows:,} |"
        for line in classification_report(study.report.confusion)
    ]
    parts += ["", "## Confusion (counts)", ""]
    parts += ["| truth | " + " | ".join(f"decided {name}" for name in CLASS_NAMES) + " |"]
    parts += ["|---|---|---|---|"]
    parts += [
        f"| {name} | {' | '.join(f'{n:,}' for n in row)} |"
        for name, row in zip(CLASS_NAMES, study.report.confusion.tolist(), strict=True)
    ]
    if not study.history:
        parts += ["", NO_HISTORY]
    if study.pairs:
        parts += ["", "## Misread windows", ""]
        parts += ["| row | id | truth | decided | p | samples | nearest correct of that class |"]
        parts += ["|---|---|---|---|---|---|---|"]
        parts += [_pair_line(study.readings, rows, pair) for pair in study.pairs]
    if study.repeated is not None:
        parts += ["", "## One row, many windows", "", describe_repeats(study.repeated, rows)]
    parts += [""]
    for name in pictures:
        parts += [f"![{name.removesuffix('.png')}]({name})", ""]
    return "\n".join(parts)


def describe_repeats(readings: Readings, rows: SeizureRows) -> str:
    """Say how often which class was decided."""
    number = int(readings.rows[0])
    counts = ", ".join(f"{n} {name}" for name, n in readings.counts.items())
    return (
        f"Row {number} ({row_id(rows, number)}), {CLASS_NAMES[int(readings.truth[0])]}: of "
        f"{len(readings.rows)} random windows {counts}."
    )


def _pair_line(readings: Readings, rows: SeizureRows, pair: Pair) -> str:
    place, near = pair.misread, pair.neighbour
    number, other = int(readings.rows[place]), int(readings.rows[near])
    decided = int(readings.decided[place])
    first = int(readings.starts[place])
    cells = (
        str(number),
        row_id(rows, number),
        CLASS_NAMES[int(readings.truth[place])],
        CLASS_NAMES[decided],
        f"{readings.probabilities[place, decided]:.3f}",
        f"{first} to {first + readings.n_samples - 1}",
        f"row {other} ({row_id(rows, other)})",
    )
    return f"| {' | '.join(cells)} |"


def _curves(study: Study) -> Figure:
    """Loss while training; accuracy and macro F1 on the validation side."""
    figure = _figure(3.6)
    left, right = figure.subplots(1, 2)
    epochs = [epoch["number"] for epoch in study.history]
    left.plot(epochs, [epoch["loss"] for epoch in study.history], color=palette.INK)
    left.set(title="Training loss", xlabel="epoch", ylabel="cross-entropy, with dropout")
    left.set_ylim(bottom=0)
    for key, name, colour, dashes in (
        ("accuracy", "accuracy", palette.BLUE, "-"),
        ("macro_f1", "macro F1", palette.VERMILION, (0, (5, 1.5))),
    ):
        values = [epoch[key] for epoch in study.history]
        right.plot(epochs, values, color=colour, ls=dashes, label=name)
    right.set(title="Validation windows, averaged weights", xlabel="epoch")
    if study.best_epoch:
        for axes in (left, right):
            axes.axvline(study.best_epoch, color=palette.MUTED, lw=0.9, ls=":")
        right.plot([], [], color=palette.MUTED, lw=0.9, ls=":", label="kept epoch")
    right.legend(loc="lower right")
    figure.suptitle(study.title, fontsize=10)
    return figure


def _report(study: Study) -> Figure:
    """The classification report as a table."""
    figure = _figure(2.5)
    axes = figure.subplots()
    axes.axis("off")
    lines = classification_report(study.report.confusion)
    table = axes.table(
        [
            [line.name, *(f"{x:.3f}" for x in (line.precision, line.recall, line.f1)),
             f"{line.n_windows:,}"]
            for line in lines
        ],
        colLabels=["", "precision", "recall", "F1", "windows"],
        colWidths=[0.28, 0.18, 0.18, 0.18, 0.18],
        loc="center",
        edges="horizontal",
    )  # fmt: skip
    table.auto_set_font_size(False)
    table.set_fontsize(11)
    table.scale(1, 1.7)
    for (row, column), cell in table.get_celld().items():
        cell.set_edgecolor(palette.FAINT)
        cell.get_text().set_horizontalalignment("left" if column == 0 else "right")
        if row == 0:
            cell.get_text().set_fontweight("bold")
        elif column == 0 and row <= len(CLASS_NAMES):
            cell.get_text().set_color(palette.CLASS_COLOURS[lines[row - 1].name])
            cell.get_text().set_fontweight("bold")
    figures = study.report.figures
    figure.suptitle(f"{study.title}: accuracy {figures.accuracy:.3f}", fontsize=10)
    return figure


def _confusion(study: Study) -> Figure:
    """Counts, and the share of each true class, in one matrix."""
    figure = _figure(4.4)
    axes = figure.subplots()
    counts = study.report.confusion
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap=palette.COUNTS, vmin=0, vmax=1)
    for (i, j), share in np.ndenumerate(shares):
        ink = "white" if share > 0.55 else palette.INK
        text = f"{counts[i, j]:,}\n{share:.1%}"
        axes.text(j, i, text, ha="center", va="center", color=ink, fontsize=11)
    axes.set_xticks(range(3), CLASS_NAMES)
    axes.set_yticks(range(3), CLASS_NAMES)
    axes.set(xlabel="decided", ylabel="truth")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.85)
    figure.suptitle(f"{study.title}\nwindows, and their share of the true class", fontsize=10)
    return figure


def _classes(study: Study, rows: SeizureRows) -> Figure:
    """How many of each class were read right; and what each of the five labels was read as."""
    figure = _figure(3.9)
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    recall, intervals = study.report.figures.recall, study.report.intervals()
    for place, name in enumerate(CLASS_NAMES):
        low, high = intervals[f"recall.{name}"]
        left.bar(place, recall[name], 0.62, color=palette.CLASS_COLOURS[name], alpha=0.85)
        left.vlines(place, low, high, color=palette.INK, lw=1.4)
        left.text(place, high + 0.015, f"{recall[name]:.3f}", ha="center", fontsize=9)
    left.set_xticks(range(3), CLASS_NAMES)
    left.set(title="Accuracy of each class, 95% by recording", ylim=(0, 1.1))
    left.set_yticks(np.arange(0, 1.1, 0.2))
    left.grid(visible=False, axis="x")
    labels = rows.labels[study.readings.rows]
    base = np.zeros(len(LABEL_NAMES))
    for c, name in enumerate(CLASS_NAMES):
        share = np.array(
            [np.mean(study.readings.decided[labels == label] == c) for label in LABEL_NAMES]
        )
        right.barh(
            list(LABEL_NAMES.values()), share, 0.66, base, label=f"read as {name}",
            color=palette.CLASS_COLOURS[name], alpha=0.85, hatch=_HATCHES[name],
            edgecolor="white", lw=0.6,
        )  # fmt: skip
        for place, (part, start) in enumerate(zip(share, base, strict=True)):
            if part > 0.06:
                box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.85}
                right.text(start + part / 2, place, f"{part:.1%}", ha="center", va="center",
                           fontsize=8, bbox=box)  # fmt: skip
        base += share
    right.invert_yaxis()
    right.set(title="What each label was read as", xlim=(0, 1), xlabel="share of its windows")
    right.grid(visible=False, axis="y")
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, fontsize=8)
    figure.suptitle(study.title, fontsize=10)
    return figure


def _misread(study: Study, rows: SeizureRows) -> Figure:
    """Left the misread row, right its neighbour; the window that was read is marked."""
    readings = study.readings
    figure = _figure(0.9 + 1.35 * len(study.pairs))
    panels = figure.subplots(len(study.pairs), 2, sharex=True, squeeze=False)
    for axes, pair in zip(panels, study.pairs, strict=True):
        shown = [rows.values[readings.rows[place]] for place in (pair.misread, pair.neighbour)]
        low, high = min(map(np.min, shown)), max(map(np.max, shown))
        margin = 0.06 * max(high - low, 1)
        for ax, place in zip(axes, (pair.misread, pair.neighbour), strict=True):
            _window(ax, readings, rows, place)
            ax.set_ylim(low - margin, high + margin)
        decided = int(readings.decided[pair.misread])
        truth = int(readings.truth[pair.misread])
        p = readings.probabilities[pair.misread, decided]
        number, other = int(readings.rows[pair.misread]), int(readings.rows[pair.neighbour])
        axes[0].set_title(
            f"{CLASS_NAMES[truth]} read as {CLASS_NAMES[decided]}, p {p:.3f}: "
            f"row {number}, {row_id(rows, number)}", fontsize=8,
        )  # fmt: skip
        axes[1].set_title(
            f"{CLASS_NAMES[decided]}, read correctly: row {other}, {row_id(rows, other)}",
            fontsize=8,
        )
        axes[0].set_ylabel("µV", fontsize=8)
    for ax in panels[-1]:
        ax.set_xlabel("sample of the row")
    figure.suptitle(
        "Surest mistakes of each kind (left), and the correctly read window of the predicted class "
        "most alike\nin band power and line length (right); coloured: the window, by its decision",
        fontsize=10,
    )
    return figure


def _window(ax: Axes, readings: Readings, rows: SeizureRows, place: int) -> None:
    """One row, with the window that was read in the colour of what it was read as."""
    signal_uv: NDArray[np.int16] = rows.values[readings.rows[place]]
    first, n = int(readings.starts[place]), readings.n_samples
    colour = palette.CLASS_COLOURS[CLASS_NAMES[int(readings.decided[place])]]
    ax.axvspan(first, first + n - 1, color=colour, alpha=0.12, lw=0)
    ax.plot(signal_uv, color=palette.MUTED, lw=0.8)
    inside = np.arange(first, first + n)
    ax.plot(inside, signal_uv[inside], color=colour, lw=1.1)
    ax.tick_params(labelsize=7)
    ax.margins(x=0)


def _repeated(readings: Readings, rows: SeizureRows) -> Figure:
    """One row; below it every window that was drawn, and above all what was decided."""
    number, n = int(readings.rows[0]), readings.n_samples
    order = np.argsort(readings.starts, kind="stable")
    figure = _figure(3.2 + 0.11 * len(order))
    above, below = figure.subplots(
        2, 1, sharex=True, height_ratios=(2.2, max(1.0, 0.11 * len(order)))
    )
    above.plot(rows.values[number], color=palette.INK, lw=1)
    above.set_ylabel("µV")
    above.margins(x=0)
    decided = readings.decided
    for place, i in enumerate(order):
        name = CLASS_NAMES[int(decided[i])]
        start = int(readings.starts[i])
        below.barh(
            place, n, 0.8, start, color=palette.CLASS_COLOURS[name], alpha=0.85,
            hatch=_HATCHES[name], edgecolor="white", lw=0.4,
        )  # fmt: skip
        p = float(readings.probabilities[i, decided[i]])
        if len(order) <= 60:  # more would touch each other
            below.annotate(
                f"{p:.2f}", (min(start + n, ROW_SAMPLES), place), xytext=(3, 0),
                textcoords="offset points", fontsize=6.5, va="center", color=palette.MUTED,
                annotation_clip=False,
            )  # fmt: skip
    for name, count in readings.counts.items():
        below.bar(0, 0, color=palette.CLASS_COLOURS[name], alpha=0.85, hatch=_HATCHES[name],
                  edgecolor="white", label=f"{name} {count} of {len(order)}")  # fmt: skip
    below.set(xlabel="sample of the row", ylabel="windows by start", xlim=(0, ROW_SAMPLES - 1))
    below.set_yticks([])
    below.set_ylim(len(order) - 0.5, -0.5)
    below.grid(visible=False, axis="y")
    below.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14 - 0.9 / len(order)), ncols=3)
    truth = CLASS_NAMES[int(readings.truth[0])]
    label = LABEL_NAMES[int(rows.labels[number])]
    named = truth if label == truth else f"{truth} ({label})"
    figure.suptitle(
        f"Row {number}, {row_id(rows, number)}: {named}; {len(order)} random windows, "
        "what each was read as, and its probability", fontsize=10,
    )  # fmt: skip
    return figure


def _figure(height_in: float) -> Figure:
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra, and no global state

    return Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
