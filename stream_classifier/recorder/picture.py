"""The picture of an alert, for a person who was not there.

``python -m stream_classifier.recorder.picture FOLDER`` draws those that are missing in a folder of
evidence. It is a process of its own, and the last in the queue for the processor: detection does
not notice.
"""

from __future__ import annotations

import csv
import json
import os
import sys
import warnings
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.signal import butter, sosfiltfilt

from stream_classifier.errors import StreamClassifierError, printable
from stream_classifier.evaluation.palette import (
    ALARM,
    INK,
    MUTED,
    STYLE,
    TRUTH,
    VERMILION,
)
from stream_classifier.recorder.bdf import open_bdf

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

MAX_TRACES: Final = 16
"""More do not fit; those that raised the alert come first."""

BAND_HZ: Final = (0.5, 40.0)
"""What is drawn of the signal: without the electrodes' offsets."""

WIDTH_IN: Final = 12.0
SCALES_UV: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)


@dataclass(frozen=True, slots=True)
class _Story:
    """What is drawn; times in seconds from the alert's onset."""

    facts: dict[str, Any]
    labels: tuple[str, ...]
    at_s: NDArray[np.float64]
    uv: NDArray[np.float64]
    p_at_s: NDArray[np.float64]
    p: NDArray[np.float64]
    marks: dict[str, float]


def draw(facts_file: Path) -> Path:
    """Draw one alert's picture beside its facts.

    Args:
        facts_file: The JSON file of an alert's evidence.

    Returns:
        The picture, PNG.

    Raises:
        OSError: If a file cannot be read or written.
        ValueError: If the facts are damaged.
        RecordingInvalidError: If the clip is.
    """
    from matplotlib import rc_context  # noqa: PLC0415 - an extra
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    story = _read(facts_file)
    path = facts_file.with_suffix(".png")
    part = path.with_name(path.name + ".part")
    n_traces = max(1, min(MAX_TRACES, len(story.labels)))
    with rc_context({**STYLE, "text.parse_math": False}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a label in a script that no font here has
        figure = Figure(figsize=(WIDTH_IN, 3.6 + 0.42 * n_traces), layout="constrained")
        FigureCanvasAgg(figure)
        _fill(figure, story, n_traces)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            figure.savefig(file, dpi=110, format="png")
    part.replace(path)
    return path


def _fill(figure: Figure, story: _Story, n_traces: int) -> None:
    above, below = figure.subplots(
        2, 1, sharex=True, gridspec_kw={"height_ratios": [0.42 * n_traces + 0.6, 1.7]}
    )
    facts = story.facts
    event = facts.get("event") or {}
    marks = [str(event.get("stream") or ""), "SIMULATED" if facts.get("simulated") else ""]
    who = printable("   ".join(word for word in marks if word))
    figure.suptitle(
        f"Seizure alert {str(facts['alert_id'])[:8]}   {who}",
        x=0.01, ha="left", fontsize=13, fontweight="bold",
    )  # fmt: skip
    _draw_traces(above, story, n_traces)
    _draw_p(below, story, event.get("threshold") or {})
    if len(story.at_s):
        below.set_xlim(story.at_s[0], story.at_s[-1])
    for axes in (above, below):
        _draw_marks(axes, story.marks)
    _name_marks(above, story.marks)
    model = (event.get("model") or {}).get("name")
    below.set_xlabel(
        f"seconds from onset at {facts['onset']}"
        + (f"      model {printable(str(model))}" if model else "")
        + "      for research; not a medical device"
    )


def _draw_traces(axes: Axes, story: _Story, n_traces: int) -> None:
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    if not len(story.at_s):
        axes.text(0.5, 0.5, "the signal was not recorded", transform=axes.transAxes, ha="center")
        axes.set_yticks([])
        return
    named = [label for label in story.facts.get("channels") or () if label in story.labels]
    order = [*named, *(label for label in story.labels if label not in named)][:n_traces]
    chosen = [n for n, label in enumerate(story.labels) if label in order][:n_traces]
    step_uv = _step_uv(story.uv[:, chosen])
    for row, column in enumerate(chosen):
        raised = story.labels[column] in named
        axes.plot(
            story.at_s, story.uv[:, column] / step_uv - row,
            color=INK if raised or not named else MUTED, linewidth=0.7, clip_on=True,
        )  # fmt: skip
    labels = [printable(story.labels[column]) for column in chosen]
    axes.set_yticks([-row for row in range(len(chosen))], labels)
    axes.tick_params(axis="y", length=0)
    for tick, column in zip(axes.get_yticklabels(), chosen, strict=True):
        tick.set_fontweight("bold" if story.labels[column] in named else "normal")
    axes.set_ylim(-len(chosen) + 0.2, 0.8)
    missing = ~np.isfinite(story.uv).any(axis=1)
    if missing.any():
        axes.fill_between(
            story.at_s, 0, 1, where=missing, transform=axes.get_xaxis_transform(),
            facecolor="white", edgecolor=MUTED, hatch="////", linewidth=0,
        )  # fmt: skip
    bar_uv = max((s for s in SCALES_UV if s <= step_uv), default=1)
    left_out = len(story.labels) - len(chosen)
    notes = [f"{BAND_HZ[0]:g} to {BAND_HZ[1]:g} Hz"]
    if named:
        notes.append("bold: raised the alert")
    if left_out:
        notes.append(f"{left_out} more channels not drawn")
    if missing.any():
        notes.append("hatched: no samples")
    axes.set_title("EEG   " + ", ".join(notes), loc="left", color=MUTED, fontsize=9, pad=20)
    right = axes.get_yaxis_transform()
    top = 0.5 * (0.8 + 0.2 - len(chosen))
    half = bar_uv / step_uv / 2
    axes.plot([1.012] * 2, [top - half, top + half], transform=right, color=INK, clip_on=False)
    axes.text(1.018, top, f"{bar_uv:g} µV", transform=right, va="center", clip_on=False)


def _step_uv(uv: NDArray[np.float64]) -> float:
    """Return the distance of traces: between what all need and what the largest one does."""
    finite = uv[np.isfinite(uv).all(axis=1)]
    if not len(finite):
        return 1.0
    large = np.percentile(np.abs(finite), 97, axis=0)
    return 2.4 * max(1.0, float(np.sqrt(np.median(large) * large.max())))


def _draw_p(axes: Axes, story: _Story, threshold: dict[str, Any]) -> None:
    axes.set_ylim(-0.03, 1.08)
    axes.set_yticks([0, 0.5, 1])
    axes.set_ylabel("p(seizure)")
    if len(story.p):
        axes.plot(story.p_at_s, story.p, color=VERMILION, linewidth=1.6)
    else:
        axes.text(
            0.5, 0.5, "p(seizure) was not kept: the process ended before the alert did",
            transform=axes.transAxes, ha="center", va="center", color=MUTED,
        )  # fmt: skip
    for key, dash in (("raise", "--"), ("clear", ":")):
        level = threshold.get(key)
        if isinstance(level, int | float):
            axes.axhline(level, color=MUTED, linestyle=dash, linewidth=1)
            axes.text(
                1.005, level, f"{key}s at {level:g}", transform=axes.get_yaxis_transform(),
                va="center", fontsize=8, color=MUTED,
            )  # fmt: skip


_DASHES: Final[dict[str, Any]] = {
    "onset": (0, (1.5, 1.5)), "raised": "-", "off": (0, (5, 2)), "ended": (0, (5, 2)),
}  # fmt: skip


def _draw_marks(axes: Axes, marks: dict[str, float]) -> None:
    high = axes.get_xlim()[1]
    end_s = marks.get("ended", marks.get("off", high))
    axes.axvspan(marks["onset"], end_s, color=TRUTH, alpha=0.10, linewidth=0, zorder=0)
    for name, at_s in marks.items():
        axes.axvline(at_s, color=ALARM, linestyle=_DASHES[name], linewidth=1.2)


def _name_marks(axes: Axes, marks: dict[str, float]) -> None:
    """Name the marks above the traces; onset and raised are near each other."""
    for name, at_s in marks.items():
        words = "onset " if name == "onset" else f" {name} {at_s:+.1f} s"
        axes.text(
            at_s, 1.01, words, transform=axes.get_xaxis_transform(), color=ALARM, fontsize=9,
            ha="right" if name == "onset" else "left", va="bottom",
        )  # fmt: skip


def _read(facts_file: Path) -> _Story:
    facts = json.loads(facts_file.read_text(encoding="utf-8"))
    onset = datetime.fromisoformat(facts["onset"])
    marks = {
        name: (datetime.fromisoformat(facts[name]) - onset).total_seconds()
        for name in ("onset", "raised", "ended" if facts.get("ended") else "off")
        if facts.get(name)
    }
    start_s = (datetime.fromisoformat(facts["clip_start"]) - onset).total_seconds()
    p_at_s, p = _read_p(facts_file.with_suffix(".csv"))
    labels: tuple[str, ...] = ()
    at_s, uv = np.empty(0), np.empty((0, 0))
    if facts_file.with_suffix(".bdf").is_file():
        clip = open_bdf(facts_file.with_suffix(".bdf"))
        labels = clip.labels
        uv = clip.read().astype(np.float64)
        there = np.flatnonzero(np.isfinite(uv).any(axis=1))
        uv = uv[: there[-1] + 1 if len(there) else 0]  # the last record need not be full
        uv = _filtered(uv, clip.rate_hz)
        at_s = start_s + np.arange(len(uv)) / clip.rate_hz
    return _Story(facts, labels, at_s, uv, p_at_s + start_s, p, marks)


def _read_p(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if not path.is_file():
        return np.empty(0), np.empty(0)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]  # not by the heading: a channel may be called "p", too
    if any(len(row) < 3 for row in rows):
        raise ValueError(f"{path.name}: expected seconds, a time and p in each row, found less")
    at_s = np.array([float(row[0]) for row in rows])
    return at_s, np.array([float(row[2] or "nan") for row in rows])


def _filtered(uv: NDArray[np.float64], rate_hz: float) -> NDArray[np.float64]:
    """Keep what an electroencephalographer looks at; what is missing stays missing."""
    missing = ~np.isfinite(uv)
    middle = np.nanmedian(np.where(missing.all(axis=0), 0.0, uv), axis=0)
    filled = np.where(missing, middle, uv) - middle
    top_hz = min(BAND_HZ[1], 0.45 * rate_hz)
    sos = butter(2, (BAND_HZ[0], top_hz), "bandpass", fs=rate_hz, output="sos")
    if len(filled) > 3 * (2 * len(sos) + 1):
        filled = sosfiltfilt(sos, filled, axis=0)
    return np.where(missing, np.nan, filled)


def main(folder: Path) -> int:
    """Draw what is missing; what cannot be drawn is said, and does not keep the others."""
    n_failed = 0
    for facts_file in sorted(folder.glob("*.json")):
        if facts_file.with_suffix(".png").exists() or not facts_file.is_file():
            continue  # somebody's pipe would be waited for for ever
        try:
            draw(facts_file)
        except (OSError, ValueError, LookupError, TypeError, StreamClassifierError) as error:
            print(f"{facts_file}: {error}", file=sys.stderr)  # noqa: T201 - a program of its own
            n_failed += 1
    return 1 if n_failed else 0


if __name__ == "__main__":
    if hasattr(os, "nice"):  # not on Windows
        os.nice(19)
    sys.exit(main(Path(sys.argv[1])))
