"""``stream-classifier infer``: one row of the data set, read many times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from stream_classifier.cli.dataset import DataOption
from stream_classifier.errors import ConfigError
from stream_classifier.signals import CLASS_NAMES


def infer(
    row: Annotated[
        str, typer.Option("--row", help="Number from 0 in file order, or an id: X21.V1.791.")
    ],
    repeats: Annotated[int, typer.Option(min=1, max=10_000, help="Random windows.")] = 20,
    bundle: Annotated[str, typer.Option(help="Model bundle: a name or a folder.")] = "bonn",
    seed: Annotated[int, typer.Option(min=0, help="Picks the windows.")] = 0,
    picture: Annotated[
        Path | None, typer.Option(help="PNG file for the row and its windows.")
    ] = None,
    data: DataOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Read random windows of one row: how often which class, and where.

    Also says whether the bundle has seen the row in training.
    """
    from stream_classifier.bundle import load_bundle  # noqa: PLC0415 - numpy; not for --help
    from stream_classifier.datasets import load_rows  # noqa: PLC0415
    from stream_classifier.evaluation.study import (  # noqa: PLC0415
        find_row,
        repeat_row,
        row_id,
        side_of,
    )
    from stream_classifier.evaluation.study_pictures import (  # noqa: PLC0415
        describe_repeats,
        draw_repeated,
    )

    model = load_bundle(bundle)
    rows = load_rows(data)
    number = find_row(rows, row.strip())
    readings = repeat_row(model, rows, number, repeats=repeats, seed=seed)
    side = side_of(model.split, rows, number)
    if picture is not None:
        picture = picture.expanduser()
        try:
            draw_repeated(readings, rows, picture)
        except OSError as error:
            raise ConfigError(
                f"--picture {picture}: expected a file to write to, found: {error.strerror}. "
                "Try: a file in a folder that is there"
            ) from error
    mean = readings.probabilities.mean(axis=0)
    if as_json:
        print(
            json.dumps(
                {
                    "row": number,
                    "id": row_id(rows, number),
                    "label": int(rows.labels[number]),
                    "class": CLASS_NAMES[int(rows.classes[number])],
                    "side": side,
                    "repeats": repeats,
                    "seed": seed,
                    "counts": readings.counts,
                    "mean": dict(zip(CLASS_NAMES, map(float, mean), strict=True)),
                    "windows": [
                        {
                            "start": int(start),
                            "decided": CLASS_NAMES[int(decided)],
                            "p": float(p[decided]),
                        }
                        for start, decided, p in zip(
                            readings.starts, readings.decided, readings.probabilities, strict=True
                        )
                    ],
                    "bundle": model.digest,
                    "picture": None if picture is None else str(picture),
                }
            )
        )
        return
    print(describe_repeats(readings, rows))
    print("mean " + ", ".join(f"{name} {p:.3f}" for name, p in zip(CLASS_NAMES, mean, strict=True)))
    known = {
        "test": f"{model.name} has not seen this row.",
        "unknown": f"Whether {model.name} has seen this row is unknown.",
    }
    print(known.get(side, f"{model.name} has seen this row: it is on the {side} side."))
    if picture is not None:
        print(picture)
