"""``stream-classifier model list | show | verify``: the model bundles at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stream_classifier.cli.dataset import DataOption
from stream_classifier.errors import BundleInvalidError, printable

if TYPE_CHECKING:
    from stream_classifier.bundle import Bundle

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

    card = (load_bundle(bundle).path / "CARD.md").read_text(encoding="utf-8")
    print("\n".join(map(printable, card.splitlines())))


@app.command()
def verify(
    bundle: BundleArgument = "bonn",
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Score it anew on its test data, and compare with its card."),
    ] = False,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check every digest, and that the model still says what it said when it was made.

    With --deep, also that it reaches the figures of its card (needs the data set).
    """
    from stream_classifier.bundle import load_bundle  # noqa: PLC0415 - numpy
    from stream_classifier.engines.selftest import (  # noqa: PLC0415
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
    figures = _reach_card(model, data) if deep else {}
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
                    **({"figures": figures} if deep else {}),
                }
            )
        )
    else:
        print(f"{model.name} {model.version} {model.digest}")
        print(f"{n_windows} self-test windows, largest deviation {deviation:.1e}: ok")
        for name, (on_card, found) in figures.items():
            print(f"{name}: {found:.4f}, on its card {on_card:.4f}: ok")


def _reach_card(model: Bundle, data: Path | None) -> dict[str, tuple[float, float]]:
    """Score a model anew; return what its card says and what was found, by figure."""
    from stream_classifier.datasets import load_rows  # noqa: PLC0415
    from stream_classifier.evaluation.scoring import compare_with_card  # noqa: PLC0415

    return compare_with_card(model, load_rows(data))
