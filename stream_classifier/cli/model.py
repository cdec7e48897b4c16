"""``stream-classifier model list | show | verify``: the model bundles at hand."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from stream_classifier.errors import BundleInvalidError

app = typer.Typer(no_args_is_help=True)

BundleArgument = Annotated[str, typer.Argument(help="Model bundle: a name or a folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("list")
def list_models() -> None:
    """List the shipped models."""
    from stream_classifier.bundle import load_bundle, shipped  # noqa: PLC0415 - numpy

    for name in shipped():
        bundle = load_bundle(name)
        print(
            f"{name}\t{bundle.version}\t{bundle.digest[:12]}\t"
            f"held-out {bundle.split.protocol}: accuracy {bundle.metrics['accuracy']:.3f}"
        )


@app.command()
def show(bundle: BundleArgument = "bonn") -> None:
    """Print a model's card."""
    from stream_classifier.bundle import load_bundle  # noqa: PLC0415 - numpy

    print((load_bundle(bundle).path / "CARD.md").read_text(encoding="utf-8"), end="")


@app.command()
def verify(bundle: BundleArgument = "bonn", as_json: JsonOption = False) -> None:
    """Check every digest, and that the model still says what it said when it was made."""
    from stream_classifier.bundle import load_bundle  # noqa: PLC0415 - numpy
    from stream_classifier.evaluation.selftest import (  # noqa: PLC0415
        TOLERANCE,
        selftest_deviation,
    )

    model = load_bundle(bundle)
    deviation = selftest_deviation(model)
    n_windows = len(model.selftest_windows)
    if not deviation <= TOLERANCE:
        raise BundleInvalidError(
            path=str(model.path),
            expected=f"its {n_windows} self-test windows within {TOLERANCE:g}",
            found=f"a deviation of {deviation:.2g} on this machine",
            fix="install numpy and the package again",
        )
    if as_json:
        print(
            json.dumps(
                {
                    "name": model.name,
                    "version": model.version,
                    "bundle": model.digest,
                    "n_windows": n_windows,
                    "max_deviation": deviation,
                    "tolerance": TOLERANCE,
                }
            )
        )
    else:
        print(f"{model.name} {model.version} {model.digest}")
        print(f"{n_windows} self-test windows, largest deviation {deviation:.1e}: ok")
