"""``stream-classifier export``: the alerts of recordings, for other programs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


class Format(StrEnum):
    """What alerts can be exported to."""

    BIDS = "bids"
    SZCORE = "szcore"
    EDF = "edf"


def export(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="RECORDING...", help="Recordings, or the folder given to run --record."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    to: Annotated[
        Format,
        typer.Option(
            help="bids: a data set of the recordings with their events; szcore: a table of events "
            "for each; edf: a file of EDF+ annotations for each."
        ),
    ],
) -> None:
    """Write the alerts of recordings as BIDS, SzCORE or EDF+ annotations.

    What is exported was found by a classifier; no person has looked at it.
    """
    from stream_classifier.recorder.export import export as write  # noqa: PLC0415 - numpy

    paths = write(sources, to.value, out)
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    console.print(f"{len(paths)} recording(s) to {out}")
    for path in paths:
        print(path)
