"""The report as one HTML file: pictures and style inside it, nothing fetched from anywhere."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Final

from stream_classifier import __version__
from stream_classifier.evaluation.palette import css_variables
from stream_classifier.signals import CLASS_NAMES

if TYPE_CHECKING:
    from stream_classifier.evaluation.events import EventScore
    from stream_classifier.evaluation.intervals import Bounds
    from stream_classifier.evaluation.report import Report, Streaming

_PAGE: Final = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
$colours* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1.25rem 4rem; color: var(--ink);
  background: var(--card); font: 16px/1.5 var(--font); }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.8rem 0 .6rem; border-bottom: 1px solid var(--line); }
p { max-width: 46rem; }
.soft, figcaption, small { color: var(--muted); }
.note { background: var(--note); border-left: 4px solid var(--medium); padding: .6rem 1rem; }
code { overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--muted); padding-bottom: .3rem; }
th, td { padding: .25rem .9rem .25rem 0; text-align: right; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1.2rem 0; }
img { width: 100%; height: auto; background: #fff; border-radius: 6px; }
figcaption { font-size: .9rem; max-width: 46rem; }
@media print {
  :root:not([data-theme]) { color-scheme: light; --ink: #000; --muted: #444; --card: #fff;
    --line: #bbb; --note: #f3f5f7; }
  body { max-width: none; padding: 0; font-size: 11pt; }
  figure, table, .note { break-inside: avoid; }
  h2 { break-after: avoid; }
}
</style>
</head>
<body>
$body
</body>
</html>
""")

_CAPTIONS: Final = {
    "confusion": "What one random window of each held-out row was decided to be. Left: counts. "
    "Right: the share of each true class, so that each row adds up to 100%.",
    "roc-pr": "Each class against the other two, one window of each row. The ring is where the "
    "alarm's raise threshold lies.",
    "reliability": "Filled points on the dashed line: as often right as it says. Rings have "
    "fewer than 20 windows and say little. ECE: expected calibration error over 15 bins of equal "
    "width (Guo et al. 2017), its bootstrap leans upwards; Brier: mean squared error, "
    "left summed over the classes (0 to 2), right of p(seizure) alone (0 to 1).",
    "tradeoff": "The same p(seizure) under other raise thresholds, everything else as in the "
    "bundle. The bundle's own was chosen on validation data, not here.",
    "latency": "From the first sample of a seizure recording to the last sample of the window "
    "that raised the alarm, with what the detector has to wait for beyond it.",
    "timeline": "Every held-out recording once. The seams between recordings, where one person's "
    "signal jumps to another's, are part of it.",
    "robustness": "The same windows with the recordings changed first. The dotted line is the "
    "clean figure. No gain is calibrated and no window is refused here.",
    "mistakes": "Up to three of each kind: seizures missed, background taken for a seizure, and "
    "tumour and normal confused. Each panel has its own scale.",
}


def write_page(report: Report, pictures: Mapping[str, Path], path: Path) -> None:
    """Write the report.

    Args:
        report: What was measured.
        pictures: PNG files by name.
        path: The HTML file; replaced if it is there.
    """
    path.write_text(render(report, pictures), encoding="utf-8")


def render(report: Report, pictures: Mapping[str, Path]) -> str:
    """Return the report as HTML, with the pictures inside it."""
    bundle = report.bundle
    images = {name: _figure(name, file) for name, file in pictures.items()}
    title = f"Report: {bundle.name} {bundle.version}"
    body = [
        f"<h1>{escape(title)}</h1>",
        _head(report),
        "<h2>At a glance</h2>",
        _glance(report),
        "<h2>Single windows</h2>",
        _classes(report),
        images["confusion"],
        images["roc-pr"],
        "<h2>Calibration</h2>",
        images["reliability"],
        "<h2>Streams and alarms</h2>",
        _no_stream() if report.streaming is None else _stream(report.streaming, images),
        "<h2>Robustness</h2>",
        _robustness(report),
        images["robustness"],
        "<h2>Worst mistakes</h2>",
        images["mistakes"],
        "<h2>What these figures are not</h2>",
        _limits(report),
    ]
    return _PAGE.substitute(title=escape(title), colours=css_variables(), body="\n".join(body))


def _head(report: Report) -> str:
    bundle, split = report.bundle, report.bundle.split
    held_out = f"{len(split.test):,} {'rows' if split.protocol == 'rows' else 'recordings'}"
    return f"""\
<p>Measured on the {held_out} that the model was neither trained nor tuned on
(protocol <em>{escape(split.protocol)}</em>, mode <em>{escape(bundle.mode)}</em>,
{bundle.network.n_parameters:,} parameters). Intervals are 95%: bootstrap over recordings, exact
ones for counts of alarms.</p>
<p class="soft"><small>stream_classifier {escape(__version__)}, bundle <code>{bundle.digest}</code>,
seed {report.seed}. Made with <code>stream-classifier report {escape(bundle.name)} --seed
{report.seed}</code>.</small></p>
<p class="note"><strong>For research. Not a medical device.</strong> Nobody's care may depend on
it. {_leak(split.protocol)}</p>"""


def _leak(protocol: str) -> str:
    if protocol == "rows":
        return (
            "Rows were shuffled, so rows of one recording lie on both sides of the split: these "
            "figures are for comparison with the literature, and overstate what to expect of an "
            "unseen recording."
        )
    return (
        "Whole recordings were held out, but not people: ten people gave all recordings, so the "
        "same ones are almost certainly on both sides."
    )


def _glance(report: Report) -> str:
    window, intervals = report.windows.figures, report.windows.intervals()
    mean, mean_intervals = report.means.figures, report.means.intervals()
    lines = [
        ("accuracy, one window", _with(window.accuracy, intervals["accuracy"])),
        ("macro F1, one window", _with(window.macro_f1, intervals["macro_f1"])),
        ("accuracy, eight windows of a row", _with(mean.accuracy, mean_intervals["accuracy"])),
        ("macro F1, eight windows of a row", _with(mean.macro_f1, mean_intervals["macro_f1"])),
        (
            "expected calibration error",
            _with(report.calibration.ece, report.calibration.intervals["ece"]),
        ),
    ]
    if report.streaming is not None:
        score, bounds = report.streaming.score, report.streaming.score.intervals()
        longest = report.streaming.smoothed[-1]
        lines += [
            (
                f"accuracy, mean of {longest.smoothing_s:g} s",
                f"{longest.figures.accuracy:.3f}",
            ),
            (
                "seizures detected",
                f"{score.n_detected} of {score.n_seizures}"
                + _bounds(bounds["sensitivity"], "{:.1%}"),
            ),
            (
                "false alarms an hour",
                f"{score.false_alarms_per_hour:.2f}"
                + _bounds(bounds["false_alarms_per_hour"], "{:.2f}"),
            ),
            ("detection latency, median", _seconds(score.latency_s(0.5))),
        ]
    return _table(("", "value (95%)"), lines)


def _classes(report: Report) -> str:
    figures, intervals = report.windows.figures, report.windows.intervals()
    return _table(
        ("", "recall", "F1"),
        [
            (
                name,
                _with(figures.recall[name], intervals[f"recall.{name}"]),
                _with(figures.f1[name], intervals[f"f1.{name}"]),
            )
            for name in CLASS_NAMES
        ],
        caption=f"One random window of each of {len(report.windows.truth):,} held-out rows",
    )


def _no_stream() -> str:
    return (
        '<p class="note">This model was trained on shuffled rows. Rows of one second that were '
        "held out one by one make no timeline: there is nothing before and after them that the "
        "model has not seen. So there are no alarms, false alarms, delays or events to score; for "
        "these, take a model whose protocol is <em>recordings</em>.</p>"
    )


def _stream(streaming: Streaming, images: Mapping[str, str]) -> str:
    score, rule = streaming.score, streaming.played.rule
    bounds = score.intervals()
    hours = streaming.played.timeline.duration_s / 3600
    counted = f"{score.false_alarms} in {score.background_hours:.2f} h"
    alarms = _table(
        ("", "value", "95% bounds"),
        [
            (
                "seizures detected",
                f"{score.n_detected} of {score.n_seizures}",
                _bounds(bounds["sensitivity"], "{:.1%}").strip(" ()"),
            ),
            (
                "false alarms an hour",
                f"{score.false_alarms_per_hour:.2f} ({counted})",
                _bounds(bounds["false_alarms_per_hour"], "{:.2f}").strip(" ()"),
            ),
            *(
                (
                    f"latency, {name}",
                    _seconds(score.latency_s(quantile)),
                    _bounds(bounds[key], "{:.2f}").strip(" ()") + " s" if key in bounds else "",
                )
                for name, quantile, key in (
                    ("median", 0.5, "latency_median_s"),
                    ("90% are faster", 0.9, "latency_p90_s"),
                    ("slowest", 1.0, ""),
                )
            ),
        ],
        caption=f"The alarm on {hours:.2f} h of held-out recordings as one stream; "
        f"{streaming.played.refused_share:.1%} of the windows refused by the quality gate",
    )
    events = _table(
        ("", "sensitivity", "precision", "F1", "false an hour", "false a day"),
        [
            _events("SzCORE: 30 s before, 60 s after, merged under 90 s", streaming.events),
            _events("without these tolerances", streaming.events_strict),
        ],
        caption="Alarms as events, by the timescoring library",
    )
    smoothed = _table(
        ("mean of", "accuracy", "macro F1", *(f"recall, {name}" for name in CLASS_NAMES)),
        [
            (
                f"{one.smoothing_s:g} s" if one.smoothing_s else "one window",
                f"{one.figures.accuracy:.3f}",
                f"{one.figures.macro_f1:.3f}",
                *(f"{one.figures.recall[name]:.3f}" for name in CLASS_NAMES),
            )
            for one in streaming.smoothed
        ],
        caption="Decisions at every hop, by the mean of the class probabilities; each "
        "recording by itself",
    )
    rule_text = (
        f"<p>The rule: p(seizure), mean of {rule.smoothing_s:g} s, at or above "
        f"{rule.raise_threshold:g} for {rule.persistence_s:g} s; off below "
        f"{rule.clear_threshold:g}; ended after {rule.refractory_s:g} s below it. Every seizure "
        "recording comes after background recordings. A seizure is detected if the alarm comes "
        "on while it lasts; coming on at any other time is a false alarm, also when it comes on "
        "again under the same id.</p>"
    )
    return "\n".join(
        [rule_text, alarms, events, images["tradeoff"], images["latency"], images["timeline"],
         smoothed]
    )  # fmt: skip


def _events(name: str, score: EventScore) -> tuple[str, ...]:
    return (
        name,
        *("-" if x is None else f"{x:.3f}" for x in (score.sensitivity, score.precision, score.f1)),
        f"{score.false_positives_per_hour:.2f}",
        f"{score.false_positives_per_day:.1f}",
    )


def _robustness(report: Report) -> str:
    return _table(
        ("condition", "accuracy", "macro F1", "seizure recall", "seizure precision"),
        [
            (
                line.condition,
                f"{line.accuracy:.3f}",
                f"{line.macro_f1:.3f}",
                f"{line.seizure_recall:.3f}",
                "-" if line.seizure_precision is None else f"{line.seizure_precision:.3f}",
            )
            for line in report.robustness
        ],
    )


def _limits(report: Report) -> str:
    scalp = (
        "The recordings were chosen, by eye, to be free of artefacts; sets C, D and E were "
        "recorded inside the skull. A seizure on the scalp is two to five times smaller."
    )
    tumour = (
        "<em>Tumour</em> means: recorded in the epileptogenic area, between seizures. It is no "
        "finding about a living person."
    )
    limits = ["Not a split by person, and nobody outside the data set.", scalp, tumour]
    if report.streaming is not None:
        limits.append(
            "A seizure recording starts within the seizure, so the latency is that of a sudden "
            "change, not that of a seizure that builds up. With "
            f"{report.streaming.score.background_hours:.1f} h of background, no false alarm "
            "still allows several an hour: see the bounds."
        )
    return "<ul>" + "".join(f"<li>{limit}</li>" for limit in limits) + "</ul>"


def _figure(name: str, file: Path) -> str:
    data = base64.b64encode(file.read_bytes()).decode("ascii")
    caption = escape(_CAPTIONS[name])
    return (
        f'<figure id="{name}"><img alt="{caption}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _table(head: Sequence[str], lines: Iterable[Sequence[str]], *, caption: str = "") -> str:
    cells = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in lines
    )
    above = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll"><table>{above}<thead><tr>{cells}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _with(value: float, bounds: Bounds) -> str:
    return f"{value:.3f}{_bounds(bounds, '{:.3f}')}"


def _bounds(bounds: Bounds, form: str) -> str:
    low, high = (form.format(bound) for bound in bounds)
    return f" ({low} to {high})"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"
