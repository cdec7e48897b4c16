"""Pictures of the test on heads: what an alarm costs, how late it is, what a case is like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stream_classifier.evaluation import palette
from stream_classifier.evaluation.alarm_rules import agree, grid, smooth, tune
from stream_classifier.evaluation.heads import LEAD_S, N_INVOLVED, Case, HeadsReport, stretch
from stream_classifier.evaluation.pictures import DPI, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_COLOURS = {1: palette.VERMILION, 2: palette.BLUE, 4: palette.GREEN}
_MARKERS = {1: "o", 2: "s", 4: "^"}
_DASHES = {1: "-", 2: "--", 4: ":"}
_RAISE_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99)


def draw_pictures(
    report: HeadsReport, seizures: dict[str, NDArray[np.float32]], folder: Path
) -> tuple[Path, ...]:
    """Write all pictures as PNG files.

    Args:
        report: What to show.
        seizures: Those of the report, by key, at 173.61 Hz.
        folder: Is made if it is not there.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with style():
        pictures = {
            "heads-tradeoff.png": _tradeoff(report),
            "heads-latency.png": _latencies(report),
            "heads-case.png": _case(report, _example(report.cases[1.0]), seizures),
        }
        for name, figure in pictures.items():
            figure.savefig(folder / name, dpi=DPI)
    return tuple(folder / name for name in pictures)


def _figure(width_in: float, height_in: float) -> Figure:
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra; style() has asked for it

    return Figure(figsize=(width_in, height_in), layout="constrained")


def _tradeoff(report: HeadsReport) -> Figure:
    """Sensitivity against false alarms an hour, over the raise threshold."""
    figure = _figure(7, 4.5)
    axes = figure.subplots()
    rule = report.bundle.alarm
    thresholds = sorted({*_RAISE_THRESHOLDS, rule.raise_threshold})
    rules = [
        one
        for threshold in thresholds
        for one in grid(
            rule,
            raise_thresholds=[threshold],
            clear_thresholds=[min(rule.clear_threshold, threshold)],
        )
    ]
    found = list(tune(report, rules))
    rates = [figures.false_alarms_per_hour for figures in found]
    for count in N_INVOLVED:
        shares = [figures.sensitivity[count] for figures in found]
        label = f"{count} channel{'s' if count > 1 else ''}"
        axes.plot(
            rates, shares, marker=_MARKERS[count], ms=4, ls=_DASHES[count], color=_COLOURS[count],
            label=label,
        )  # fmt: skip
        chosen = thresholds.index(rule.raise_threshold)
        axes.plot(rates[chosen], shares[chosen], "o", ms=11, mfc="none", color=_COLOURS[count])
    axes.set(
        xlabel="false alarms an hour",
        ylabel="share of mixed seizures detected",
        ylim=(0, 1.03),
        xscale="symlog",
        xlim=(-0.1, None),
        title=f"{report.bundle.name}: raise threshold {thresholds[0]:g} to {thresholds[-1]:g}; "
        f"circles: {rule.raise_threshold:g}, as shipped",
    )
    axes.legend(title="seizure on", loc="lower right")
    return figure


def _latencies(report: HeadsReport) -> Figure:
    """How long after the seizure's onset the alarm came on."""
    figure = _figure(7, 4)
    axes = figure.subplots()
    bins = np.arange(0, 24.5, 0.5).tolist()
    for count in N_INVOLVED:
        mine = [case for case in report.cases[1.0] if case.n_involved == count]
        known = [case.latency_s for case in mine if case.latency_s is not None]
        median = f", median {np.median(known):.1f} s" if known else ""
        label = f"{count}: {len(known)} of {len(mine)}{median}"
        axes.hist(
            known, bins, histtype="step", ls=_DASHES[count], color=_COLOURS[count], label=label
        )
    axes.set(
        xlabel="seconds from the seizure's onset to the alarm",
        ylabel="cases",
        xlim=(0, 24),
        title=f"{report.bundle.name}: detection latency",
    )
    axes.legend(title="channels with the seizure")
    return figure


def _example(cases: Sequence[Case]) -> Case:
    """The case of two channels whose latency is the median; the first one if none was detected."""
    some = [case for case in cases if case.n_involved == N_INVOLVED[1]]
    known = sorted(
        (case for case in some if case.latency_s is not None), key=lambda c: c.latency_s or 0.0
    )
    return known[len(known) // 2] if known else some[0]


def _case(report: HeadsReport, case: Case, seizures: dict[str, NDArray[np.float32]]) -> Figure:
    """The mixed signal of all channels, p(seizure) of the channels and the stream, the alarm."""
    mixture, watched, bundle = case.mixture, case.watched, report.bundle
    head = next(one for one in report.heads if one.name == mixture.background)
    played = stretch(head, mixture, seizures[mixture.seizure])
    times = mixture.onset_s - LEAD_S + np.arange(len(played.samples)) / played.rate_hz
    centred = played.samples - np.median(played.samples, axis=0)
    step_uv = 250.0
    figure = _figure(11, 8)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for row, label in enumerate(head.labels):
        colour = palette.VERMILION if label in mixture.channels else palette.INK
        trace = np.clip(centred[:, row], -step_uv, step_uv) - row * step_uv
        above.plot(times, trace, lw=0.5, color=colour)
    above.set_yticks([-row * step_uv for row in range(len(head.labels))], head.labels)
    above.set_title(
        f"{mixture.seizure} at {mixture.rms_uv:.0f} µV rms on {', '.join(mixture.channels)} of "
        f"{mixture.background}; a row is {step_uv:.0f} µV, beyond it is cut off"
    )
    smoothed = smooth(watched, bundle.alarm.smoothing_s, bundle)
    for row, label in enumerate(head.labels):
        involved = label in mixture.channels
        below.plot(
            watched.at_s,
            smoothed[:, row],
            lw=1.2 if involved else 0.5,
            color=palette.VERMILION if involved else palette.MUTED,
            zorder=2 if involved else 1,
        )
    stream = agree(watched, smoothed, head.labels, bundle.alarm.channels_needed)
    below.plot(watched.at_s, stream, color=palette.INK, lw=1, ls=":", label="the stream's")
    below.axhline(bundle.alarm.raise_threshold, color=palette.PURPLE, lw=0.8, label="raise")
    for number, alarm in enumerate(watched.alarms):
        label = "_" if number else "alarm on"  # named once
        below.axvspan(alarm.raised_s, alarm.ended_s, color=palette.ALARM, alpha=0.3, label=label)
    for axes in (above, below):
        axes.axvspan(mixture.onset_s, mixture.offset_s, color=palette.TRUTH, alpha=0.12, lw=0)
    below.set(ylim=(0, 1.02), ylabel="smoothed p(seizure)", xlabel="s")
    below.set_xlim(times[0], times[-1])
    below.legend(loc="center left")
    return figure
