"""``stream-classifier evaluate``: how good a model is, on what it has not seen."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from stream_classifier.cli.dataset import DataOption
from stream_classifier.cli.recordings import evaluate_recordings

if TYPE_CHECKING:
    from stream_classifier.evaluation.scoring import Scored


class Protocol(StrEnum):
    """How the data was split."""

    ROWS = "rows"
    RECORDINGS = "recordings"


_ROW_S = 1.0
"""Length of a row; the recordings of a timeline are made of them."""

_SHIPPED = {Protocol.ROWS: "bonn-rows", Protocol.RECORDINGS: "bonn"}


def evaluate(
    bundle: Annotated[
        str | None,
        typer.Argument(
            help="Model bundle: a name or a folder. Default: the protocol's shipped one."
        ),
    ] = None,
    protocol: Annotated[
        Protocol | None,
        typer.Option(help="How the data was split. Default: the bundle's own; recordings."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Picks the window of each row.")] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="Without the timeline, which takes most of the time.")
    ] = False,
    data: DataOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    recordings: Annotated[
        Path | None,
        typer.Option(
            help="Instead: play the recordings in this folder (EDF, BDF, XDF, CSV, BIDS), or one "
            "file, and count alarms.",
            show_default=False,
        ),
    ] = None,
    named: Annotated[
        str | None, typer.Option("--bundle", help="The same as BUNDLE.", show_default=False)
    ] = None,
    channels: Annotated[
        str | None, typer.Option(help="With --recordings: labels to use, e.g. C3,C4.")
    ] = None,
    unit: Annotated[
        str | None, typer.Option(help="With --recordings: unit, whatever they say.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="With --recordings: sampling rate of text files, Hz.")
    ] = None,
    mains_hz: Annotated[
        float, typer.Option(help="With --recordings: frequency of the mains, 50 or 60.")
    ] = 50.0,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="With --recordings: processes.")] = 1,
) -> None:
    """Score a model on what it has not seen: windows, rows, whole recordings, a timeline.

    With --recordings: play recordings from anywhere through the detector.

    What cannot be played is left out, and why is said (exit code 4 if all is).

    Only what the bundle has not seen is scored; anything else is refused (exit code 6).
    """
    bundle = named or bundle
    if recordings is not None:
        evaluate_recordings(
            recordings,
            bundle=bundle,
            channels=channels,
            unit=unit,
            rate_hz=rate,
            mains_hz=mains_hz,
            n_jobs=jobs,
            as_json=as_json,
        )
        return

    from stream_classifier.bundle import load_bundle  # noqa: PLC0415 - numpy; not for --help
    from stream_classifier.datasets import load_rows  # noqa: PLC0415
    from stream_classifier.evaluation.scoring import score_bundle  # noqa: PLC0415
    from stream_classifier.evaluation.windows import unseen_rows  # noqa: PLC0415

    model = load_bundle(bundle or _SHIPPED[protocol or Protocol.RECORDINGS])
    split_by = model.split.protocol if protocol is None else protocol.value
    rows = load_rows(data)
    numbers = unseen_rows(model.split, rows, protocol=split_by)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("windows, recordings, timeline", total=len(numbers) * _ROW_S)
        scored = score_bundle(
            model,
            rows,
            numbers,
            seed=seed,
            with_timeline=not quick,
            on_played_s=lambda s: progress.advance(bar, s),
        )
    if as_json:
        print(json.dumps({"protocol": split_by, **scored.as_json(), "bundle": model.digest}))
    else:
        _show(scored, title=f"{model.name} {model.version} on held-out {split_by}, seed {seed}")


def _show(scored: Scored, *, title: str) -> None:
    from stream_classifier.signals import CLASS_NAMES  # noqa: PLC0415 - numpy

    figures, intervals = scored.report.figures, scored.report.intervals()
    calibration = scored.calibration
    values = {"accuracy": figures.accuracy, "macro_f1": figures.macro_f1}
    values |= {f"recall.{name}": figures.recall[name] for name in CLASS_NAMES}
    values |= {f"f1.{name}": figures.f1[name] for name in CLASS_NAMES}
    table = Table("", "value", "95% interval, by recording", title=title, title_justify="left")
    for name, value in values.items():
        low, high = intervals[name]
        table.add_row(name, f"{value:.3f}", f"{low:.3f} to {high:.3f}")
    low, high = calibration.intervals["ece"]
    table.add_row("calibration error", f"{calibration.ece:.3f}", f"{low:.3f} to {high:.3f}")
    counts = Table("truth", *(f"decided {name}" for name in CLASS_NAMES), title="windows")
    for name, row in zip(CLASS_NAMES, scored.report.confusion.tolist(), strict=True):
        counts.add_row(name, *map(str, row))
    console = Console()
    console.print(table, counts)
    averaged = scored.averaged
    console.print(
        f"all windows of a row averaged: accuracy {averaged.accuracy:.3f}, "
        f"macro F1 {averaged.macro_f1:.3f}"
    )
    for line in scored.smoothed[1:]:
        console.print(
            f"decisions averaged over {line.smoothing_s:g} s: accuracy "
            f"{line.figures.accuracy:.3f}, macro F1 {line.figures.macro_f1:.3f}"
        )
    if (streaming := scored.streaming) is not None:
        bound = streaming.intervals()["false_alarms_per_hour"][1]
        median = streaming.latency_s(0.5)
        after = "" if median is None else f", {median:.2f} s after its start in the median"
        console.print(
            f"alarm, on a timeline of these recordings: {streaming.n_detected} of "
            f"{streaming.n_seizures} seizures{after}; {streaming.false_alarms} false alarms in "
            f"{streaming.background_hours:.2f} h (95% at most {bound:.1f} an hour)"
        )
    console.print("A split by rows or recordings is not a split by person. For research only.")
