"""``stream-classifier study``: the published study's pictures, of one model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from stream_classifier.cli.dataset import DataOption
from stream_classifier.errors import ConfigError


def study(
    bundle: Annotated[str, typer.Argument(help="Model bundle: a name or a folder.")] = "bonn",
    out: Annotated[
        Path, typer.Option("--out", help="Folder for pictures and study.md; may exist.")
    ] = Path("study"),
    seed: Annotated[int, typer.Option(min=0, help="Picks the window of each row.")] = 0,
    data: DataOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Draw curves, classification report, confusion, misread rows, and one row read many times.

    Scored is one random window of each row that the bundle has not seen.
    """
    from stream_classifier.bundle import load_bundle  # noqa: PLC0415 - numpy; not for --help
    from stream_classifier.datasets import load_rows  # noqa: PLC0415
    from stream_classifier.evaluation.pictures import style  # noqa: PLC0415
    from stream_classifier.evaluation.study import make_study  # noqa: PLC0415
    from stream_classifier.evaluation.study_pictures import (  # noqa: PLC0415
        NO_HISTORY,
        write_study,
    )

    with style():  # says at once if matplotlib is absent, not after the reading
        pass
    model = load_bundle(bundle)
    rows = load_rows(data)
    made = make_study(model, rows, seed=seed)
    out = out.expanduser()
    try:
        written = write_study(made, rows, out)
    except OSError as error:
        raise ConfigError(
            f"--out {out}: expected a folder to write to, found: {error.strerror}. "
            "Try: another folder"
        ) from error
    if not made.history:
        Console(stderr=True).print(f"{model.path}: {NO_HISTORY}", highlight=False)
    if as_json:
        print(
            json.dumps(
                {
                    "bundle": model.digest,
                    "protocol": made.protocol,
                    **made.report.as_json(),
                    "paths": [str(path) for path in written],
                }
            )
        )
    else:
        print(*written, sep="\n")
