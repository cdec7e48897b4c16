"""``stream-classifier evaluate --recordings``: the detector on recordings from anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from stream_classifier.errors import printable

if TYPE_CHECKING:
    from stream_classifier.evaluation.recordings import RecordingsReport


def evaluate_recordings(
    place: Path,
    *,
    bundle: str | None,
    channels: str | None,
    unit: str | None,
    rate_hz: float | None,
    mains_hz: float,
    n_jobs: int,
    as_json: bool,
) -> None:
    """Play the recordings and say what the detector made of them."""
    from stream_classifier.bundle import default_bundle, load_bundle  # noqa: PLC0415 - numpy
    from stream_classifier.detection.detector import DetectorSettings  # noqa: PLC0415
    from stream_classifier.evaluation import recordings  # noqa: PLC0415
    from stream_classifier.sources.recordings.material import Ask  # noqa: PLC0415

    model = load_bundle(bundle or default_bundle("live"))
    wanted = tuple(label.strip() for label in channels.split(",")) if channels else None
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as progress:
        task = progress.add_task("recordings", total=None)
        report = recordings.evaluate_recordings(
            place,
            model,
            ask=Ask(channels=wanted, unit=unit, rate_hz=rate_hz),
            settings=DetectorSettings(rule=model.alarm, mains_hz=mains_hz),
            n_jobs=n_jobs,
            on_found=lambda n: progress.update(task, total=n),
            on_done=lambda name: progress.update(task, advance=1, description=printable(name)),
        )
    if as_json:
        print(json.dumps({**report.as_json(), "bundle": model.digest, "model": model.name}))
    else:
        _show(report, title=f"{model.name} {model.version} on {printable(str(place))}")
    if not report.played:
        raise typer.Exit(4)


def _show(report: RecordingsReport, *, title: str) -> None:
    found = report.as_json()
    table = Table("recording", "hours", "refused", "alarms", title=title, title_justify="left")
    for one in found["recordings"]:
        table.add_row(
            printable(one["path"]),
            f"{one['hours']:.2f}",
            f"{one['refused_share']:.1%}",
            ", ".join(f"{alarm['raised_s']:.1f} s" for alarm in one["alarms"]),
        )
    console = Console(markup=False, highlight=False)
    console.print(table)
    console.print(
        f"{found['hours']:.2f} h; {found['alarms']} alarm(s), {found['false_alarms']} false: "
        f"{_figure(found['false_alarms_per_hour'])} an hour"
    )
    console.print(
        f"without usable signal {found['refused_share']:.1%} of the time, "
        f"calibrating {found['calibrating_share']:.1%}"
    )
    if "sensitivity" in found:
        console.print(_said(found, "by the SzCORE rules"))
        if found["strict"]:
            console.print(_said(found["strict"], "without their tolerances"))
        if found["latency_s"]:
            latency = found["latency_s"]
            console.print(
                f"latency {latency['median']:.1f} s (median), {latency['p90']:.1f} s (p90)"
            )
        if "not_scored" in found:
            console.print(found["not_scored"])
    for one in found["excluded"]:
        console.print(f"left out: {printable(one['path'])}: {printable(one['reason'])}")
    console.print("Annotated by people, or not at all. For research only.")


def _said(found: dict[str, Any], rules: str) -> str:
    return (
        f"{rules}: sensitivity {_figure(found['sensitivity'])}, "
        f"precision {_figure(found['precision'])}, F1 {_figure(found['f1'])}"
    )


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"
