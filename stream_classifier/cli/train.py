"""``stream-classifier train``: from the data set to a model bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stream_classifier.cli.dataset import DataOption
from stream_classifier.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from stream_classifier.training.recipe import Epoch


class Protocol(StrEnum):
    """How the data is split."""

    ROWS = "rows"
    RECORDINGS = "recordings"


def train(
    out: Annotated[Path, typer.Option("--out", help="Folder of the bundle to make.")],
    recipe: Annotated[
        str,
        typer.Option(
            help="A shipped recipe's name (bonn, bonn-rows, bonn-continuous, "
            "headset) or a TOML file."
        ),
    ] = "bonn",
    protocol: Annotated[
        Protocol | None,
        typer.Option(
            help="Hold out whole recordings, or shuffled rows as published. Default: recordings, "
            "for the recipe bonn-rows rows."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the model. Default: the folder's.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Of weights, stretches and dropout. Default: 0."),
    ] = None,
    split_seed: Annotated[int, typer.Option(min=0, help="Of the split of the data.")] = 0,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs at most.")] = None,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Epochs without progress before stopping.")
    ] = None,
    data: DataOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train a model and write its bundle, with a model card.

    Needs the torch extra and the data set; takes five to ten minutes on one core.

    The same command gives the same bundle on the same machine.
    """
    for module in ("torch", "sklearn"):
        if find_spec(module) is None:
            raise MissingExtraError(feature="training", extra="torch", module=module)
    # Torch takes seconds to import: not for --help.
    from stream_classifier.bundle import BUNDLE_NAME, MANIFEST  # noqa: PLC0415
    from stream_classifier.datasets import load_rows  # noqa: PLC0415
    from stream_classifier.training.recipe import load_recipe  # noqa: PLC0415
    from stream_classifier.training.run import train_bundle  # noqa: PLC0415

    out = out.expanduser().absolute()
    name = out.name if name is None else name
    if not BUNDLE_NAME.fullmatch(name):
        raise ConfigError(
            f"name {name!r}: expected up to 64 lower-case letters, digits, - and _. Try: --name"
        )
    if out.exists() and not (force and (out / MANIFEST).is_file()):  # asked before the minutes
        hint = "--force" if (out / MANIFEST).is_file() else "another folder"
        raise ConfigError(f"--out {out}: expected a new folder, found something. Try: {hint}")
    given: dict[str, Any] = {"seed": seed, "epochs": epochs, "patience_epochs": patience}
    settings = replace(load_recipe(recipe), **{key: n for key, n in given.items() if n is not None})
    if protocol is None:
        protocol = Protocol.ROWS if recipe == "bonn-rows" else Protocol.RECORDINGS
    rows = load_rows(data)

    console = Console(stderr=True)
    columns = (
        TextColumn("epoch"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )  # fmt: skip
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=settings.epochs)

        def show(epoch: Epoch) -> None:
            progress.update(
                bar,
                completed=epoch.number,
                description=f"loss {epoch.loss:.3f}, validation accuracy {epoch.accuracy:.3f}, "
                f"macro F1 {epoch.macro_f1:.3f}",
            )

        bundle = train_bundle(
            out,
            rows,
            name=name,
            protocol=protocol.value,
            split_seed=split_seed,
            recipe=settings,
            recipe_name=recipe,
            replace_existing=force,
            on_epoch=show,
        )
    if as_json:
        print(
            json.dumps(
                {
                    "path": str(bundle.path),
                    "bundle": bundle.digest,
                    "best_epoch": bundle.provenance["best_epoch"],
                    "accuracy": bundle.metrics["accuracy"],
                    "macro_f1": bundle.metrics["macro_f1"],
                }
            )
        )
    else:
        print(f"{bundle.path}: {bundle.name} {bundle.digest[:12]}")
        print(
            f"held-out {protocol.value}: accuracy {bundle.metrics['accuracy']:.3f}, "
            f"macro F1 {bundle.metrics['macro_f1']:.3f}; more in {bundle.path / 'CARD.md'}"
        )
