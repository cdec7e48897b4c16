"""``stream-classifier evaluate``: how good a model is, on what it has not seen."""

from __future__ import annotations

import json
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from stream_classifier.cli.dataset import DataOption
from stream_classifier.cli.recordings import evaluate_recordings
from stream_classifier.signals import CLASS_NAMES

if TYPE_CHECKING:
    from stream_classifier.evaluation.windows import WindowReport


class Protocol(StrEnum):
    """How the data was split."""

    ROWS = "rows"
    RECORDINGS = "recordings"


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
    """Score a model on one random window of each held-out row.

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
    from stream_classifier.engines.reference import classify_windows  # noqa: PLC0415
    from stream_classifier.evaluation.windows import score, unseen_rows  # noqa: PLC0415

    model = load_bundle(bundle or _SHIPPED[protocol or Protocol.RECORDINGS])
    split_by = model.split.protocol if protocol is None else protocol.value
    rows = load_rows(data)
    report = score(
        partial(classify_windows, model),
        rows,
        unseen_rows(model.split, rows, protocol=split_by),
        window_samples=model.window_samples,
        seed=seed,
    )
    if as_json:
        print(json.dumps({"protocol": split_by, **report.as_json(), "bundle": model.digest}))
    else:
        _show(report, title=f"{model.name} {model.version} on held-out {split_by}, seed {seed}")


def _show(report: WindowReport, *, title: str) -> None:
    figures, intervals = report.figures, report.intervals()
    values = {"accuracy": figures.accuracy, "macro_f1": figures.macro_f1}
    values |= {f"recall.{name}": figures.recall[name] for name in CLASS_NAMES}
    values |= {f"f1.{name}": figures.f1[name] for name in CLASS_NAMES}
    table = Table("", "value", "95% interval, by recording", title=title, title_justify="left")
    for name, value in values.items():
        low, high = intervals[name]
        table.add_row(name, f"{value:.3f}", f"{low:.3f} to {high:.3f}")
    counts = Table("truth", *(f"decided {name}" for name in CLASS_NAMES), title="windows")
    for name, row in zip(CLASS_NAMES, report.confusion.tolist(), strict=True):
        counts.add_row(name, *map(str, row))
    console = Console()
    console.print(table, counts)
    console.print("A split by rows or recordings is not a split by person. For research only.")
