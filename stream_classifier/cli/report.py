"""``stream-classifier report``: all that there is to say of a model, as one page with pictures."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from stream_classifier.cli.dataset import DataOption
from stream_classifier.errors import ConfigError, MissingExtraError


def report(
    out: Annotated[Path, typer.Option("--out", help="Folder for the page and its pictures.")],
    bundle: Annotated[str, typer.Argument(help="Model bundle: a name or a folder.")] = "bonn",
    seed: Annotated[
        int, typer.Option(min=0, help="Picks windows, order of recordings, noise.")
    ] = 0,
    data: DataOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure a model on what it has not seen, and write one HTML page and its pictures.

    Needs the report extra and the data set; takes about a minute.

    The page holds its pictures and needs nothing else: it can be sent, printed, read offline.
    """
    for module in ("matplotlib", "timescoring"):
        if find_spec(module) is None:
            raise MissingExtraError(feature="the report", extra="report", module=module)
    from stream_classifier.bundle import load_bundle  # noqa: PLC0415 - numpy; not for --help
    from stream_classifier.datasets import load_rows  # noqa: PLC0415
    from stream_classifier.evaluation.pictures import draw_all, names  # noqa: PLC0415
    from stream_classifier.evaluation.report import measure  # noqa: PLC0415
    from stream_classifier.evaluation.report_page import write_page  # noqa: PLC0415

    model = load_bundle(bundle)
    rows = load_rows(data)
    out = out.expanduser().absolute()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--out {out}: expected a folder that can be made, found: {error.strerror}. "
            "Try: another folder"
        ) from error

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bars: dict[str, TaskID] = {}

        def show(what: str, added: float, total: float) -> None:
            if what not in bars:
                bars[what] = progress.add_task(what, total=total)
            progress.advance(bars[what], added)

        measured = measure(model, rows, seed=seed, on_step=show)
        n_pictures = len(names(measured))
        pictures = draw_all(measured, out, on_drawn=lambda _name: show("pictures", 1, n_pictures))
    page = out / "report.html"
    write_page(measured, pictures, page)
    if as_json:
        print(
            json.dumps({"page": str(page), "pictures": [str(path) for path in pictures.values()]})
        )
    else:
        print(page)
