"""``stream-classifier compare``: the published study, done again with more seeds."""

from __future__ import annotations

import json
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stream_classifier.cli.dataset import DataOption
from stream_classifier.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from stream_classifier.training.compare import Outcome, Trial


class Experiment(StrEnum):
    """What is compared."""

    CELLS = "cells"
    CLASS_RATIO = "class-ratio"


def compare(
    out: Annotated[
        Path, typer.Option("--out", help="Folder of results, table and picture; may exist.")
    ] = Path("compare"),
    experiment: Annotated[
        Experiment, typer.Option(help="Cells, scalers and references; or the class ratio.")
    ] = Experiment.CELLS,
    seeds: Annotated[str, typer.Option(help="Each is a split and a training.")] = "0,1,2",
    epochs: Annotated[int, typer.Option(min=1, help="Passes of each training.")] = 15,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Trainings at a time.")] = 2,
    cells: Annotated[str, typer.Option(help="Which cells.")] = "rnn,gru,lstm",
    scalers: Annotated[
        str, typer.Option(help="Which scalers.")
    ] = "standard,min-max,moving-average,none",
    protocols: Annotated[str, typer.Option(help="Which splits.")] = "rows,recordings",
    references: Annotated[
        bool, typer.Option(help="With SVM and boosted trees, which do not stream.")
    ] = True,
    data: DataOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train and table every cell, scaler and protocol, over several seeds.

    Stopped, it goes on by the same command: finished trainings are in results.jsonl.

    Needs the torch and report extras and the data set; takes about 40 minutes of one core.
    """
    for module, extra in (("torch", "torch"), ("sklearn", "torch"), ("matplotlib", "report")):
        if find_spec(module) is None:
            raise MissingExtraError(feature="the comparison", extra=extra, module=module)
    # Torch takes seconds to import: not for --help.
    from stream_classifier.datasets import load_rows  # noqa: PLC0415
    from stream_classifier.training import compare as trials_of  # noqa: PLC0415
    from stream_classifier.training import comparison_table as table  # noqa: PLC0415
    from stream_classifier.training.cells import CELLS  # noqa: PLC0415

    numbers = _numbers(seeds)
    chosen_protocols = _choices("--protocols", protocols, trials_of.PROTOCOLS)
    if experiment is Experiment.CLASS_RATIO:
        name = "class_ratio"
        trials = trials_of.class_ratio_trials(
            seeds=numbers, epochs=epochs, protocols=chosen_protocols
        )
    else:
        name = "compare"
        trials = trials_of.comparison_trials(
            seeds=numbers,
            epochs=epochs,
            cells=_choices("--cells", cells, CELLS),
            scalers=_choices("--scalers", scalers, trials_of.SCALERS),
            protocols=chosen_protocols,
            references=references,
        )
    rows = load_rows(data)
    out = out.expanduser()
    try:
        out.mkdir(parents=True, exist_ok=True)
        ledger = trials_of.Ledger(out / "results.jsonl", data_digest=rows.digest)
    except OSError as error:
        raise ConfigError(
            f"--out {out}: expected a folder to write to, found: {error.strerror}. "
            "Try: another folder"
        ) from error
    console = Console(stderr=True)
    for number in ledger.damaged:
        console.print(
            f"{ledger.path}, line {number} is damaged and was dropped: its training is done again",
            highlight=False,
        )
    n_done = sum(trial in ledger.done for trial in trials)
    if n_done:
        console.print(f"{n_done} of {len(trials)} were done before", highlight=False)

    columns = (
        MofNCompleteColumn(), BarColumn(), TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.description}"),
    )  # fmt: skip
    with Progress(*columns, console=console, speed_estimate_period=600) as progress:
        bar = progress.add_task("", total=len(trials), completed=n_done)

        def show(trial: Trial, outcome: Outcome) -> None:
            figures = outcome.window
            progress.update(
                bar,
                advance=1,
                description=f"{trial}: {figures.accuracy:.3f} / {figures.macro_f1:.3f}",
            )

        trials_of.run_trials(rows, trials, ledger, jobs=jobs, on_done=show)

    outcomes = {trial: ledger.done[trial] for trial in trials}
    if experiment is Experiment.CLASS_RATIO:
        markdown, draw = table.class_ratio_markdown(outcomes), table.draw_class_ratio
    else:
        markdown, draw = table.comparison_markdown(outcomes), table.draw_comparison
    (out / f"{name}.md").write_text(markdown, encoding="utf-8")
    draw(outcomes, out / f"{name}.png")
    paths = [out / f"{name}.md", out / f"{name}.png", ledger.path]
    if as_json:
        print(json.dumps({"n_trials": len(trials), "paths": [str(path) for path in paths]}))
    else:
        print(*paths, sep="\n")


def _numbers(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdecimal() and len(word) < 10 for word in words):
        raise ConfigError(
            f"--seeds: expected whole numbers from 0 with commas, found {text!r}. Try: 0,1,2"
        )
    return list(dict.fromkeys(map(int, words)))


_Choice = TypeVar("_Choice", bound=str)


def _choices(option: str, text: str, known: tuple[_Choice, ...]) -> list[_Choice]:
    words = [word.strip() for word in text.split(",")]
    chosen = [choice for choice in known if choice in words]
    if unknown := [word for word in words if word not in known]:
        raise ConfigError(
            f"{option}: expected some of {','.join(known)}, found {unknown[0]!r}. "
            f"Try: {option} {','.join(known)}"
        )
    return chosen
