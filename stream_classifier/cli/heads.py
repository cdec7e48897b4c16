"""``stream-classifier heads``: false alarms on real heads, and seizures mixed into them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from stream_classifier.cli.dataset import DataOption, JsonOption

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream_classifier.evaluation.alarm_rules import RuleFigures
    from stream_classifier.evaluation.heads import HeadsReport

SHOWN_RULES = 30
"""Rows of a table of rules; --json has all."""

_RAISE = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)
_SMOOTHING_S = (1.0, 2.0, 3.0)
_PERSISTENCE_S = (0.0, 0.5, 1.0, 2.0)
_CHANNELS = (1, 2)


class People(StrEnum):
    """Whose recordings."""

    TUNING = "tuning"
    REPORTING = "reporting"


def heads(
    bundle: Annotated[
        str, typer.Argument(help="Model bundle: a name or a folder.", show_default=True)
    ] = "headset",
    data: DataOption = None,
    people: Annotated[
        People, typer.Option(help="tuning: those of odd rank by file name; reporting: of even.")
    ] = People.REPORTING,
    seed: Annotated[int, typer.Option(min=0, help="Of all draws.")] = 0,
    cases: Annotated[
        int, typer.Option(min=1, help="Mixed seizures, at least, for each number of channels.")
    ] = 200,
    quick: Annotated[
        bool, typer.Option("--quick", help="Without the worst background and the gains.")
    ] = False,
    tune: Annotated[
        bool,
        typer.Option("--tune", help="Try other alarm rules on the tuning people. Implies --quick."),
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Processes at work.")] = 2,
    picture: Annotated[
        Path | None, typer.Option(help="Folder to write pictures to.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Play real heads through the detector: every alarm is false; then with mixed seizures.

    The people (headset_epoc in the data folder) had no seizure. Held-out seizures of the data set
    are added to 1, 2 or 4 neighbouring channels; docs/heads.md says what that can show.
    """
    from stream_classifier.bundle import load_bundle  # noqa: PLC0415 - numpy; not for --help
    from stream_classifier.evaluation import alarm_rules  # noqa: PLC0415
    from stream_classifier.evaluation.heads import (  # noqa: PLC0415
        HeadsPlan,
        find_people,
        find_seizures,
        try_heads,
    )

    whose = People.TUNING if tune else people
    model = load_bundle(bundle)
    seizures = find_seizures(model, data)
    files = find_people(data, whose.value)
    plan = HeadsPlan(seed=seed, n_cases=cases, jobs=jobs)
    if quick or tune:
        plan = HeadsPlan(seed=seed, n_cases=cases, gains=(), worst=False, jobs=jobs)
    with _progress("heads") as told:
        report = try_heads(model, files, seizures, plan, progress=told)
    if picture is not None:
        from stream_classifier.evaluation.head_pictures import draw_pictures  # noqa: PLC0415

        draw_pictures(report, seizures, picture)
    if tune:
        rules = alarm_rules.grid(
            model.alarm,
            raise_thresholds=_RAISE,
            smoothing_s=_SMOOTHING_S,
            persistence_s=_PERSISTENCE_S,
            channels_needed=_CHANNELS,
        )
        found = []
        with _progress("rules") as told:
            for figures in alarm_rules.tune(report, rules):
                found.append(figures)
                told(len(found), len(rules))
        # What the target asks for, in its order: no false alarm, then few missed, then early.
        found.sort(key=lambda f: (f.false_alarms, -sum(f.sensitivity.values())))
        if as_json:
            print(json.dumps({"people": whose.value, "rules": [f.as_json() for f in found]}))
        else:
            _show_rules(found)
    elif as_json:
        print(json.dumps({"ranks": whose.value, **report.as_json()}))
    else:
        _show(report, whose)


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, for a terminal only."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    with bar:
        task = bar.add_task(what, total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def _show(report: HeadsReport, people: People) -> None:
    figures: dict[str, Any] = report.as_json()
    console = Console()
    console.print(
        f"{report.bundle.name}: {len(report.heads)} people ({people.value}), "
        f"{figures['hours']:.2f} h, seed {report.plan.seed}\n"
        f"false alarms {figures['false_alarms']}, {figures['false_alarms_per_hour']:.2f} an hour "
        f"(at most {figures['false_alarms_per_hour_at_most']:.2f}, 95% confidence)\n"
        f"refused as poor {figures['refused_share']:.1%} of the channels' time; no usable signal "
        f"{figures['no_signal_share']:.1%}; calibrating {figures['calibrating_share']:.1%}"
    )
    table = Table(
        "seizure on", "cases", "detected", "95% interval, by person", "median s", "p90 s",
        title="mixed seizures", title_justify="left",
    )  # fmt: skip
    rows = [("", figures["cases"])]
    if figures["worst_background"]:
        rows.append(("worst background, ", figures["worst_background"]["cases"]))
    rows += [(f"x{gain}, ", scaled["cases"]) for gain, scaled in figures["gain"].items()]
    for what, by_count in rows:
        for count, summary in by_count.items():
            table.add_row(f"{what}{count}", *_cells(summary))
    console.print(table)
    for gain, scaled in {"1": figures, **figures["gain"]}.items():
        console.print(
            f"x{gain}, after calibration: {scaled['after_calibration']['false_alarms']} false "
            f"alarms, refused {scaled['after_calibration']['refused_share']:.1%}"
        )
    console.print("A mixed seizure is no seizure of a scalp: see docs/heads.md. For research only.")


def _cells(summary: dict[str, Any]) -> tuple[str, ...]:
    low, high = summary["interval"]
    latency = summary["latency_s"]
    return (
        str(summary["n"]),
        f"{summary['sensitivity']:.1%}",
        f"{low:.1%} to {high:.1%}",
        *("-" if value is None else f"{value:.1f}" for value in latency.values()),
    )


def _show_rules(found: list[RuleFigures]) -> None:
    table = Table(
        "raise", "smoothing s", "persistence s", "channels", "false alarms", "1", "2", "4",
        "median s", "p90 s", title=f"the best {SHOWN_RULES} of {len(found)} rules",
        title_justify="left",
    )  # fmt: skip
    for figures in found[:SHOWN_RULES]:
        rule, latency = figures.rule, figures.latency_s[2]
        table.add_row(
            f"{rule.raise_threshold:g}",
            f"{rule.smoothing_s:g}",
            f"{rule.persistence_s:g}",
            str(rule.channels_needed),
            str(figures.false_alarms),
            *(f"{share:.1%}" for share in figures.sensitivity.values()),
            *(("-", "-") if latency is None else (f"{value:.1f}" for value in latency)),
        )
    Console().print(table)
