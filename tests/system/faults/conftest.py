"""The fault matrix: which row a test keeps, what it measured, and the table made of both.

A test names its rows (``@pytest.mark.fault(7)``) and says what it measured (``measured``). With
``RELIABILITY_TABLE`` set to a file, as ``make test-faults`` sets it, the table is written there.
"""

from __future__ import annotations

import os
import platform
import tomllib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

MATRIX = Path(__file__).with_name("matrix.toml")
HEAD = """# Reliability: what goes wrong, what is promised, what was measured

Written by `make test-faults` on {when}, {machine}; never by hand. Each row is
injected for real (signals, a real broker, a real file system, real LSL streams) by the tests in
`tests/system/faults/`.

| # | fault | promise | measured | holds |
|---|---|---|---|---|
"""


@dataclass
class Row:
    figures: list[str] = field(default_factory=list)
    short: list[str] = field(default_factory=list)
    outcomes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


ROWS: dict[int, Row] = {}


@pytest.fixture
def measured(record_property):
    """Say what a test measured: ``measured("no data said after", 1.52, "s")``.

    With ``falls_short`` the row is marked as not kept, and why; the test itself then asserts what
    does hold.
    """

    def say(what, value=None, unit="", *, falls_short=""):
        number = f"{value:.3g}" if isinstance(value, float) else str("" if value is None else value)
        record_property("figure", " ".join(filter(None, (what, number, unit))))
        if falls_short:
            record_property("short", falls_short)

    return say


def pytest_collection_modifyitems(items):
    for item in items:
        for mark in item.iter_markers("fault"):
            item.user_properties += [("fault", number) for number in mark.args]


def pytest_runtest_logreport(report):
    numbers = [value for name, value in report.user_properties if name == "fault"]
    for number in numbers:
        row = ROWS.setdefault(number, Row())
        if report.when == "call":
            row.outcomes.append(report.outcome)
            row.figures += [v for name, v in report.user_properties if name == "figure"]
            row.short += [v for name, v in report.user_properties if name == "short"]
        elif report.outcome != "passed":
            row.outcomes.append(report.outcome)
        if report.outcome == "skipped":
            row.skipped.append(str(report.longrepr[-1] if report.longrepr else ""))


def pytest_sessionfinish():
    target = os.environ.get("RELIABILITY_TABLE")
    if target and ROWS:
        machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}"
        when = f"{datetime.now(UTC):%Y-%m-%d}"
        lines = [_line(row) for row in tomllib.loads(MATRIX.read_text(encoding="utf-8"))["row"]]
        text = HEAD.format(when=when, machine=machine) + "\n".join(lines) + "\n"
        Path(target).write_text(text, encoding="utf-8")


def _line(row):
    seen = ROWS.get(row["number"], Row())
    figures = "; ".join(dict.fromkeys(seen.figures)) or "-"
    return f"| {row['number']} | {row['fault']} | {row['promise']} | {figures} | {_verdict(seen)} |"


def _verdict(row):
    if "failed" in row.outcomes:
        return "**no**: a test fails"
    if row.short:
        return "**falls short**: " + "; ".join(dict.fromkeys(row.short))
    if "passed" in row.outcomes:
        not_run = "; ".join(dict.fromkeys(row.skipped))
        return f"yes, in part; not run: {not_run}" if not_run else "yes"
    return f"not run: {'; '.join(dict.fromkeys(row.skipped)) or 'no test'}"
