"""``stream-classifier dataset check | fetch | path | recordings``: the data set on this machine."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from stream_classifier.signals import CLASS_NAMES

if TYPE_CHECKING:
    from stream_classifier.dataset_sources import DatasetSource

app = typer.Typer(no_args_is_help=True)

DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Data folder, or the CSV file itself. Default: STREAM_CLASSIFIER_DATA, "
        "then the user's cache.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


class Part(StrEnum):
    """What can be fetched."""

    ROWS = "rows"
    RECORDINGS = "recordings"
    ALL = "all"


@app.command()
def path(data: DataOption = None, as_json: JsonOption = False) -> None:
    """Print where the table of rows and the raw recordings lie."""
    from stream_classifier import datasets  # noqa: PLC0415

    table = datasets.find(data)
    archives = _archives(data)
    if as_json:
        print(json.dumps({"rows": str(table), "recordings": [str(path) for path in archives]}))
    else:
        print(*(table, *archives), sep="\n")


@app.command()
def check(data: DataOption = None, as_json: JsonOption = False) -> None:
    """Read everything, and compare shape, labels, recordings and digests.

    The raw recordings are optional; where they are absent, that is said.
    """
    from stream_classifier import datasets  # noqa: PLC0415

    table = datasets.find(data)
    rows = datasets.load_rows(data)
    archives = _archives(data)
    n_recordings = len(datasets.load_recordings(data)) if archives else 0
    if as_json:
        found = {
            "rows": {
                "path": str(table),
                "sha256": rows.digest,
                "n_rows": len(rows.values),
                "n_recordings": len(rows.keys),
            },
            "recordings": {
                "paths": [str(path) for path in archives],
                "n_recordings": n_recordings,
            }
            if archives
            else None,
        }
        print(json.dumps(found))
        return
    print(f"rows: {len(rows.values):,} of {len(rows.keys)} recordings, good: {table}")
    if archives:
        print(f"raw recordings: {n_recordings}, good: {', '.join(map(str, archives))}")
    else:
        print("raw recordings: none here (needed to train for live streams only)")


@app.command()
def recordings(
    data: DataOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
) -> None:
    """List the recordings that the rows were cut from: key, label and class, one a line."""
    from stream_classifier import datasets  # noqa: PLC0415

    rows = datasets.load_rows(data)
    found = [(key, rows.label_of(key), CLASS_NAMES[rows.class_of(key)]) for key in rows.keys]
    if as_json:
        print(
            json.dumps([dict(zip(("key", "label", "class"), line, strict=True)) for line in found])
        )
        return
    for line in found:
        print(*line, sep="\t")


@app.command()
def fetch(
    part: Annotated[Part, typer.Argument(help="What to fetch.")] = Part.ROWS,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder to put it in. Default: the user's cache."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            help="Address to take it from: the CSV file or a zip archive of it; for "
            "recordings, one zip archive of all five sets. Default: dataset.url of the "
            "configuration (rows), else public copies.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Even if a good copy is there.")] = False,
    config: Annotated[
        Path | None, typer.Option("--config", help="Configuration file (TOML).", show_default=False)
    ] = None,
) -> None:
    """Download the data set; a broken download is resumed by the same command.

    The UCI repository, which first published the table, has withdrawn it.

    Public copies are tried in turn; only the published content is accepted, whoever serves it.
    """
    from stream_classifier import config as settings  # noqa: PLC0415
    from stream_classifier import dataset_sources, datasets  # noqa: PLC0415
    from stream_classifier.errors import DatasetError  # noqa: PLC0415

    if url is not None and part is Part.ALL:
        raise typer.BadParameter("one address serves rows or recordings, not all", param_hint="url")
    folder = data.expanduser() if data else datasets.cache_folder()
    console = Console(stderr=True)
    wanted: list[DatasetSource] = []
    if part in {Part.ROWS, Part.ALL}:
        address = url or settings.load(config).dataset.url
        wanted.append(dataset_sources.rows_at(address) if address else dataset_sources.ROWS)
    if part in {Part.RECORDINGS, Part.ALL}:
        wanted += (dataset_sources.recordings_at(url),) if url else dataset_sources.RECORDINGS
    for source in wanted:
        target = folder / source.target
        if target.is_file() and not force:
            try:
                source.keep(target.read_bytes(), str(target))
            except DatasetError as error:
                console.print(f"replaced, since it is damaged: {error}", highlight=False)
            else:
                console.print(f"there already, and good: {target}", highlight=False)
                print(target)
                continue
        _fetch_one(source, folder, console)
        print(target)


def _fetch_one(source: DatasetSource, folder: Path, console: Console) -> None:
    """Download one file under a progress bar."""
    from stream_classifier.dataset_sources import fetch as fetch_file  # noqa: PLC0415
    from stream_classifier.datasets import MAX_FILE_BYTES  # noqa: PLC0415
    from stream_classifier.download import Downloader  # noqa: PLC0415

    columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(source.title, total=None)

        def show(done: int, total: int | None) -> None:
            progress.update(task, completed=done, total=total)

        fetch_file(source, folder, Downloader(max_bytes=MAX_FILE_BYTES, progress=show))


def _archives(data: Path | None) -> tuple[Path, ...]:
    """The raw recordings' archives, or none: they are optional."""
    from stream_classifier import datasets  # noqa: PLC0415
    from stream_classifier.errors import DatasetNotFoundError  # noqa: PLC0415

    try:
        return datasets.find_recordings(data)
    except DatasetNotFoundError:
        return ()
