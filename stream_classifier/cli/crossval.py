"""``stream-classifier crossval``: a recipe, on all recordings, by models that never saw them."""

from __future__ import annotations

import json
from enum import StrEnum
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from stream_classifier.cli.dataset import DataOption
from stream_classifier.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from stream_classifier.training.crossval import CrossValidation
    from stream_classifier.training.recipe import Epoch


class Mode(StrEnum):
    """How the network runs."""

    WINDOWED = "windowed"
    CONTINUOUS = "continuous"


_SHIPPED = {Mode.WINDOWED: "bonn", Mode.CONTINUOUS: "bonn-continuous"}


def crossval(
    folds: Annotated[int, typer.Option(min=2, help="How many.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of the folds, windows and timelines.")] = 0,
    mode: Annotated[
        Mode | None,
        typer.Option(help="Which shipped recipe: bonn or bonn-continuous. Default: windowed."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Another recipe: a shipped one's name, or a TOML file.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs at most.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Folds trained side by side.")] = 2,
    data: DataOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train and score a recipe on all recordings: cross-validation, grouped by recording.

    Every choice is made on an inner validation split; each fold's test side is scored once.

    Needs the torch extra and the data set; 20 to 30 minutes on two cores.
    """
    for module in ("torch", "sklearn"):
        if find_spec(module) is None:
            raise MissingExtraError(feature="crossval", extra="torch", module=module)
    from dataclasses import replace  # noqa: PLC0415

    from stream_classifier.training.crossval import cross_validate  # noqa: PLC0415
    from stream_classifier.training.recipe import load_recipe  # noqa: PLC0415

    name = recipe or _SHIPPED[mode or Mode.WINDOWED]
    settings = load_recipe(name)
    if mode is not None and settings.mode != mode.value:
        raise ConfigError(
            f"--mode {mode.value}: expected the recipe's own, found that {name} is "
            f"{settings.mode}. Try: leave out --mode, or mode = {mode.value!r} in the recipe"
        )
    if epochs is not None:
        settings = replace(settings, epochs=epochs)

    columns = (
        TextColumn("epoch"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=folds * settings.epochs)

        def show(fold: int, epoch: Epoch) -> None:
            progress.update(
                bar,
                advance=1,
                description=f"fold {fold + 1}: validation accuracy {epoch.accuracy:.3f}",
            )

        result = cross_validate(
            data, recipe=settings, n_folds=folds, seed=seed, n_jobs=jobs, on_epoch=show
        )
    if as_json:
        print(json.dumps(result.as_json()))
    else:
        _show(result, title=f"{name}, {folds} folds by recording, seed {seed}")


def _show(result: CrossValidation, *, title: str) -> None:
    pooled = result.pooled
    figures, intervals = pooled.report.figures, pooled.report.intervals()
    headlines = [fold.scored.headline for fold in result.folds]
    table = Table("", "pooled", "95%, by recording", *(f"fold {n}" for n in range(len(headlines))))
    for name, value in pooled.headline.items():
        low, high = intervals[name]
        folds = (f"{line[name]:.3f}" for line in headlines)
        table.add_row(name, f"{value:.3f}", f"{low:.3f} to {high:.3f}", *folds)
    console = Console()
    console.print(title)
    console.print(table)
    console.print(f"accuracy {figures.accuracy:.3f} of {len(pooled.report.truth):,} windows")
    for line in pooled.smoothed:
        console.print(
            f"mean of {line.smoothing_s:g} s: accuracy {line.figures.accuracy:.3f}, "
            f"macro F1 {line.figures.macro_f1:.3f}"
        )
    console.print(f"expected calibration error {pooled.calibration.ece:.3f}")
    streaming = pooled.streaming
    if streaming is not None:
        bounds = streaming.intervals()
        console.print(
            f"alarm: {streaming.n_detected} of {streaming.n_seizures} seizures, "
            f"{streaming.false_alarms} false alarms in {streaming.background_hours:.2f} h "
            f"(95% at most {bounds['false_alarms_per_hour'][1]:.2f} an hour)"
        )
        if streaming.n_detected:
            console.print(
                f"latency: median {streaming.latency_s(0.5):.2f} s, "
                f"p90 {streaming.latency_s(0.9):.2f} s, worst {streaming.latency_s(1.0):.2f} s"
            )
    console.print("A split by recordings is not a split by person. For research only.")
