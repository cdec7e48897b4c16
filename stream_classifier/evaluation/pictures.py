"""The report's pictures, each one function from what was measured to a figure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from stream_classifier.errors import MissingExtraError
from stream_classifier.evaluation import palette
from stream_classifier.signals import CLASS_NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from stream_classifier.evaluation.calibration import ReliabilityBins
    from stream_classifier.evaluation.report import Report, Streaming

DPI: Final = 130
_WIDTH_IN: Final = 8.4
_ROW_S: Final = 600.0
"""Length of one row of the timeline."""


@contextmanager
def style() -> Iterator[None]:
    """Draw under the settings of the palette, and leave no trace of them.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            feature="drawing pictures", extra="report", module="matplotlib"
        ) from error
    with rc_context(palette.STYLE):
        yield


def draw_all(
    report: Report, folder: Path, *, on_drawn: Callable[[str], None] = lambda _: None
) -> dict[str, Path]:
    """Draw every picture that the report has the measurements for, as PNG files.

    Args:
        report: What was measured.
        folder: Is made if it is not there.
        on_drawn: Called with the name of each.

    Returns:
        Paths by name, in the order of the report.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name in names(report):
        with style():
            path = folder / f"{name}.png"
            PICTURES[name](report).savefig(path, dpi=DPI)
        paths[name] = path
        on_drawn(name)
    return paths


def names(report: Report) -> tuple[str, ...]:
    """Names of the pictures that can be drawn: without a timeline, fewer."""
    return tuple(
        name for name in PICTURES if report.streaming is not None or name not in _OF_STREAMS
    )


def confusion(report: Report) -> Figure:
    """Counts, and the share of each true class, side by side."""
    figure = _figure(3.9)
    counts = report.windows.confusion
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    panels = figure.subplots(1, 2)
    for axes, values, text, title in (
        (panels[0], counts / counts.max(), "{:,.0f}", "windows"),
        (panels[1], shares, "{:.1%}", "share of the true class (row)"),
    ):
        axes.imshow(values, cmap=palette.COUNTS, vmin=0, vmax=1)
        for i, row in enumerate(counts if axes is panels[0] else shares):
            for j, value in enumerate(row):
                ink = "white" if values[i, j] > 0.55 else palette.INK
                weight = "bold" if i == j else "normal"
                axes.text(j, i, text.format(value), ha="center", va="center", color=ink,
                          fontsize=12, fontweight=weight)  # fmt: skip
        axes.set_xticks(range(3), CLASS_NAMES)
        axes.set_yticks(range(3), CLASS_NAMES)
        axes.set(xlabel="decided", ylabel="truth", title=title)
        axes.grid(visible=False)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    figures = report.windows.figures
    figure.suptitle(
        f"One window of each held-out row: accuracy {figures.accuracy:.3f}, "
        f"macro F1 {figures.macro_f1:.3f} ({len(report.windows.truth):,} windows)",
        fontsize=10,
    )
    return figure


def roc_pr(report: Report) -> Figure:
    """Each class against the rest; for seizures also what the alarm looks at, and where it is."""
    figure = _figure(4.6)
    roc, precision = figure.subplots(1, 2)
    inset = roc.inset_axes((0.37, 0.36, 0.58, 0.5))
    for name, one in report.curves.items():
        looks = {"color": palette.CLASS_COLOURS[name], "ls": palette.CLASS_DASHES[name]}
        x, y = np.append(0, one.false_positive_rate), np.append(0, one.recall)
        roc.plot(x, y, label=f"{name}, area {one.area:.4f}", **looks)
        inset.plot(x, y, **looks)
        precision.plot(one.recall, one.precision,
                       label=f"{name}, average {one.average_precision:.4f}", **looks)  # fmt: skip
    shown, what = report.curves[CLASS_NAMES[0]], "one window"
    if report.streaming is not None:
        shown = report.streaming.seizure_smoothed
        what = f"{report.bundle.alarm.smoothing_s:g} s mean"
        looks = {"color": palette.PURPLE, "ls": "-."}
        x, y = np.append(0, shown.false_positive_rate), np.append(0, shown.recall)
        roc.plot(x, y, label=f"seizure, {what}, area {shown.area:.4f}", **looks)
        inset.plot(x, y, **looks)
        precision.plot(
            shown.recall, shown.precision,
            label=f"seizure, {what}, average {shown.average_precision:.4f}", **looks,
        )  # fmt: skip
    threshold = report.bundle.alarm.raise_threshold
    chosen = shown.at(threshold)
    if chosen is not None:
        recall, false_positive_rate, right = chosen
        mark = {"marker": "o", "ms": 7, "mfc": "white", "mec": palette.INK, "mew": 1.5, "ls": ""}
        label = f"raise threshold {threshold:g}, {what}"
        inset.plot(false_positive_rate, recall, **mark)
        roc.plot(false_positive_rate, recall, label=label, **mark)
        precision.plot(recall, right, label=label, **mark)
    roc.plot([0, 1], [0, 1], color=palette.MUTED, lw=0.8, ls=":")
    roc.set(xlabel="false positive rate", ylabel="recall", title="ROC, each class against the rest")
    precision.set(xlabel="recall", ylabel="precision", title="Precision over recall")
    inset.set(xlim=(-0.002, 0.1), ylim=(0.8, 1.005), title="the corner")
    inset.title.set_fontsize(8)
    inset.tick_params(labelsize=7)
    for axes in (roc, precision):
        axes.set(xlim=(-0.01, 1.01), ylim=(0, 1.02), aspect="equal")
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.16), fontsize=8)
    return figure


def reliability(report: Report) -> Figure:
    """How often it was so, over how sure it was said; and how many decisions that is."""
    figure = _figure(4.8)
    found = report.calibration
    panels = figure.subplots(2, 2, height_ratios=(3, 1), sharex="col")
    for column, bins, what, ece, brier in (
        (0, found.bins, "Probability of the decided class", "ece", "brier"),
        (1, found.bins_seizure, "p(seizure)", "ece_seizure", "brier_seizure"),
    ):
        colour = palette.BLUE if column == 0 else palette.CLASS_COLOURS[CLASS_NAMES[0]]
        above, below = panels[:, column]
        _reliability(above, bins, colour)
        note = "\n".join(
            f"{label} {getattr(found, key):.4f} "
            f"({found.intervals[key][0]:.4f} to {found.intervals[key][1]:.4f})"
            for label, key in (("ECE", ece), ("Brier", brier))
        )
        above.text(0.03, 0.97, note, transform=above.transAxes, va="top", fontsize=8)
        above.set_title(what)
        below.bar(bins.edges[:-1], bins.counts, np.diff(bins.edges), align="edge", color=colour,
                  edgecolor="white", linewidth=0.6)  # fmt: skip
        below.set_yscale("log")
        below.set(xlabel="probability said", ylim=(0.8, None))
    panels[0, 0].set_ylabel("share that was so")
    panels[1, 0].set_ylabel("windows")
    return figure


def _reliability(axes: Axes, bins: ReliabilityBins, colour: str) -> None:
    axes.plot([0, 1], [0, 1], color=palette.MUTED, lw=0.9, ls="--", label="as said")
    known = bins.counts > 0
    many = bins.counts >= 20
    axes.plot(bins.said[many], bins.so[many], "o", color=colour, ms=6, label="20 windows or more")
    few = known & ~many
    axes.plot(bins.said[few], bins.so[few], "o", mfc="white", mec=colour, ms=5, label="fewer")
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.02))
    axes.legend(loc="lower right", fontsize=8)


def tradeoff(report: Report) -> Figure:
    """What the raise threshold trades: seizures found and speed, against false alarms."""
    streaming = _streaming(report)
    figure = _figure(4.1)
    left, right = figure.subplots(1, 2)
    thresholds = list(streaming.by_threshold)
    scores = list(streaming.by_threshold.values())
    rates = [score.false_alarms_per_hour for score in scores]
    shares = [100 * (score.sensitivity or 0) for score in scores]
    own = streaming.played.rule.raise_threshold
    at = thresholds.index(own)
    mark = {"marker": "o", "ms": 7, "mfc": "white", "mec": palette.INK, "mew": 1.5, "ls": ""}

    bounds = streaming.score.intervals()
    low, high = (100 * bound for bound in bounds["sensitivity"])
    few, many = bounds["false_alarms_per_hour"]
    left.plot(rates, shares, ".-", color=palette.BLUE, ms=6)
    left.plot([few, many], [shares[at]] * 2, "|-", color=palette.MUTED, lw=1.2, label="95% bounds")
    left.plot([rates[at]] * 2, [low, high], "_-", color=palette.MUTED, lw=1)
    left.plot(rates[at], shares[at], label=f"{own:g}, the bundle's own", **mark)
    left.set_xscale("symlog", linthresh=1, linscale=0.7)
    left.set(
        xlabel="false alarms an hour", ylabel="seizures detected (%)",
        title="Raise threshold: seizures and false alarms",
        ylim=(min(low, *shares) - 4, 103), xlim=(-0.15, 1.6 * max(*rates, many)),
    )  # fmt: skip
    left.xaxis.set_major_formatter("{x:g}")
    left.minorticks_off()
    left.legend(loc="lower right", fontsize=8)
    for x, y, name in _named_places(rates, shares, thresholds):
        below = -11 if "to" not in name else 6
        left.annotate(name, (x, y), xytext=(4, below), textcoords="offset points", fontsize=7,
                      color=palette.MUTED)  # fmt: skip

    medians = [_or_nan(score.latency_s(0.5)) for score in scores]
    p90s = [_or_nan(score.latency_s(0.9)) for score in scores]
    right.plot(thresholds, p90s, ls="--", color=palette.VERMILION, label="90% are faster")
    right.plot(thresholds, medians, "-", color=palette.BLUE, label="median")
    right.axvline(own, color=palette.MUTED, lw=0.9, ls=":")
    right.plot([own, own], [medians[at], p90s[at]], label=f"{own:g}, the bundle's own", **mark)
    right.set(xlabel="raise threshold", ylabel="detection latency (s)", ylim=(0, None),
              xlim=(0, 1), title="Raise threshold: latency of what is detected")  # fmt: skip
    right.legend(loc="upper left", fontsize=8)
    return figure


def _named_places(
    x: list[float], y: list[float], thresholds: list[float]
) -> Iterator[tuple[float, float, str]]:
    """Each place with the highest threshold that leads there, the crowded ones left out.

    The first, where most of them meet, is named by their range.
    """
    ranges: dict[tuple[float, float], list[float]] = {}
    for place, threshold in zip(zip(x, y, strict=True), thresholds, strict=True):
        ranges.setdefault(place, []).append(threshold)
    last = -np.inf
    for (here_x, here_y), some in sorted(
        ranges.items(), key=lambda item: (item[0][0], -item[0][1])
    ):
        away = np.arcsinh(here_x)  # about as far apart as a symmetric logarithm draws them
        if away - last >= 0.55 or here_y < max(y):
            low, high = min(some), max(some)
            first = np.isneginf(last) and low < high
            yield here_x, here_y, f"{low:g} to {high:g}" if first else f"{high:g}"
            last = away


def latency(report: Report) -> Figure:
    """How long after the seizure's start the alarm came on."""
    score = _streaming(report).score
    figure = _figure(3.2)
    axes = figure.subplots()
    found = np.array(score.latencies_s)
    longest = max(5.0, np.ceil(found.max()) if len(found) else 5.0)
    bins = np.arange(0, longest + 0.25, 0.25)
    axes.hist(found, bins.tolist(), color=palette.BLUE, edgecolor="white", linewidth=0.6)
    for quantile, name, dash in ((0.5, "median", "-"), (0.9, "90% are faster", "--")):
        seconds = score.latency_s(quantile)
        if seconds is not None:
            axes.axvline(
                seconds, color=palette.INK, lw=1.2, ls=dash, label=f"{name}: {seconds:.1f} s"
            )
    axes.set(xlabel="time from the start of the seizure to the alarm (s)", ylabel="seizures",
             xlim=(0, longest),
             title=f"Detection latency: {score.n_detected} of {score.n_seizures} seizures detected"
             + (f", the slowest after {found.max():.1f} s" if len(found) else ""))  # fmt: skip
    axes.locator_params(axis="y", integer=True)
    axes.grid(visible=False, axis="x")
    if len(found):
        axes.legend(loc="upper right", fontsize=8)
    return figure


def timeline(report: Report) -> Figure:
    """Truth over alarms over p(seizure), the whole of it in rows of ten minutes."""
    played = _streaming(report).played
    duration_s = played.timeline.duration_s
    n_rows = max(1, int(np.ceil(duration_s / _ROW_S - 1e-9)))
    figure = _figure(0.9 + 1.35 * n_rows)
    for row, axes in enumerate(np.atleast_1d(figure.subplots(n_rows, 1))):
        start = row * _ROW_S
        shown = (played.at_s >= start - 1) & (played.at_s <= start + _ROW_S + 1)
        axes.plot(played.at_s[shown] / 60, played.p[shown], color=palette.INK, lw=0.7)
        axes.axhline(played.rule.raise_threshold, color=palette.MUTED, lw=0.8, ls=":")
        for intervals, bottom, colour, name in (
            (played.timeline.seizures, 1.38, palette.TRUTH, "truth"),
            (played.alarms, 1.12, palette.ALARM, "alarm"),
        ):
            axes.broken_barh(
                [(a / 60, max(b - a, 0.5) / 60) for a, b in intervals], (bottom, 0.2),
                facecolors=colour, linewidth=0,
            )  # fmt: skip
            axes.text(-0.008, bottom + 0.1, name, transform=axes.get_yaxis_transform(),
                      ha="right", va="center", fontsize=8, color=palette.INK)  # fmt: skip
        axes.set(xlim=(start / 60, (start + _ROW_S) / 60), ylim=(-0.03, 1.62))
        axes.set_yticks([0, 0.5, 1])
        axes.set_ylabel("p(seizure)", fontsize=8, y=0.3)
        axes.tick_params(labelsize=8)
        if start + _ROW_S > duration_s:
            axes.axvspan(duration_s / 60, (start + _ROW_S) / 60, color=palette.FAINT, lw=0)
    axes.set_xlabel("time (min)")
    figure.suptitle(
        f"Held-out recordings as one stream: truth over alarm over p(seizure), mean of "
        f"{played.rule.smoothing_s:g} s; dotted: raise threshold {played.rule.raise_threshold:g}",
        fontsize=10,
    )
    return figure


def robustness(report: Report) -> Figure:
    """Three figures under each condition; the clean ones as guides."""
    lines = report.robustness
    figure = _figure(1.0 + 0.27 * len(lines))
    panels = figure.subplots(1, 3, sharey=True)
    places = np.arange(len(lines))[::-1]
    lowest = min(min(line.accuracy, line.macro_f1, line.seizure_recall) for line in lines)
    for axes, key, title, colour, marker in (
        (panels[0], "accuracy", "accuracy", palette.BLUE, "o"),
        (panels[1], "macro_f1", "macro F1", palette.GREEN, "s"),
        (panels[2], "seizure_recall", "seizure recall", palette.VERMILION, "D"),
    ):
        values = np.array([getattr(line, key) for line in lines])
        axes.hlines(places, values[0], values, color=colour, lw=1.2, alpha=0.5)
        axes.plot(values, places, marker, color=colour, ms=5)
        axes.axvline(values[0], color=palette.MUTED, lw=0.9, ls=":")
        for value, place in zip(values, places, strict=True):
            right = value >= values[0]
            axes.annotate(f"{value:.3f}".lstrip("0"), (value, place), fontsize=7,
                          xytext=(6 if right else -6, 0), textcoords="offset points",
                          ha="left" if right else "right", va="center")  # fmt: skip
        axes.set(title=title, xlim=(lowest - 0.18, 1.12))
        axes.set_xticks([tick for tick in (0, 0.2, 0.4, 0.6, 0.8, 1.0) if tick > lowest - 0.18])
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(places, [line.condition for line in lines])
    return figure


def mistakes(report: Report) -> Figure:
    """Wrong windows that the model was surest of, with half a second around them."""
    kinds = [
        [m for m in report.mistakes if m.truth == 0],
        [m for m in report.mistakes if m.decided == 0],
        [m for m in report.mistakes if m.truth != 0 and m.decided != 0],
    ]
    kinds = [found for found in kinds if found]
    figure = _figure(0.6 + 1.75 * max(1, len(kinds)))
    if not kinds:
        figure.text(0.5, 0.5, "There was no mistake.", ha="center")
        return figure
    panels = figure.subplots(len(kinds), max(map(len, kinds)), squeeze=False)
    for row, found in zip(panels, kinds, strict=True):
        for axes, mistake in zip(row, found, strict=False):
            axes.axvspan(*mistake.window_s, color=palette.FAINT, alpha=0.7, lw=0)
            axes.plot(mistake.at_s, mistake.signal_uv, color=palette.INK, lw=0.8)
            truth, decided = CLASS_NAMES[mistake.truth], CLASS_NAMES[mistake.decided]
            axes.set_title(
                f"{truth}, read as {decided}, p {mistake.probability:.3f}\n"
                f"recording {mistake.recording}, row {mistake.row}",
                fontsize=8,
            )
            axes.tick_params(labelsize=7)
            axes.margins(x=0)
        for axes in row[len(found) :]:
            axes.set_visible(False)
        row[0].set_ylabel("µV", fontsize=8)
    for axes in panels[-1]:
        axes.set_xlabel("time in the recording (s)", fontsize=8)
    figure.suptitle("Surest mistakes of each kind; grey: the window", fontsize=10)
    return figure


PICTURES: Final[dict[str, Callable[[Report], Any]]] = {
    "confusion": confusion,
    "roc-pr": roc_pr,
    "reliability": reliability,
    "tradeoff": tradeoff,
    "latency": latency,
    "timeline": timeline,
    "robustness": robustness,
    "mistakes": mistakes,
}
_OF_STREAMS: Final = frozenset({"tradeoff", "latency", "timeline"})


def _figure(height_in: float) -> Figure:
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra, and no global state

    return Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")


def _streaming(report: Report) -> Streaming:
    if report.streaming is None:
        raise ValueError("single rows have no timeline to draw")
    return report.streaming


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value
