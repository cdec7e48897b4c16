"""The fault matrix: which row a test keeps, what it measured, and the table made of both.

A test names its rows (``@pytest.mark.fault(7)``) and says what it measured (``measured``). With
``RELIABILITY_TABLE`` set to a file, as ``make test-faults`` sets it, the table is written there;
what each test found last is kept in a JSON file beside it, so that a part may be run again.
"""

from __future__ import annotations

import json
import os
import platform
import tomllib
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import pytest

MATRIX = Path(__file__).with_name("matrix.toml")
HEAD = """# Reliability: what goes wrong, what is promised, what was measured

Written by `make test-faults` on {when}, {machine}; never by hand. Each row is
injected for real (signals, a real broker, a real file system, real LSL streams) by the tests in
`tests/system/faults/`; a figure is the range over its tests.

| # | fault | promise | measured | holds |
|---|---|---|---|---|
"""

FOUND: dict[str, dict] = {}  # by test: what it found
COLLECTED: set[str] = set()


@pytest.fixture
def measured(record_property):
    """Say what a test measured: ``measured("no data said after", 1.52, "s")``.

    With ``falls_short`` the row is marked as not kept, and why; the test itself then asserts what
    does hold.
    """

    def say(what, value=None, unit="", *, falls_short=""):
        value = float(f"{value:.3g}") if isinstance(value, float) else value
        record_property("figure", json.dumps([what, value, unit]))
        if falls_short:
            record_property("short", falls_short)

    return say


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    COLLECTED.update(item.nodeid for item in items)
    for item in items:
        for mark in item.iter_markers("fault"):
            item.user_properties += [("fault", number) for number in mark.args]


def pytest_runtest_logreport(report):
    properties = defaultdict(list)
    for name, value in report.user_properties:
        properties[name].append(value)
    if not properties["fault"] or (report.when != "call" and report.outcome == "passed"):
        return
    why = report.longrepr[-1] if report.outcome == "skipped" and report.longrepr else ""
    FOUND[report.nodeid] = {
        "rows": sorted(set(properties["fault"])),
        "outcome": report.outcome,
        "figures": [json.loads(figure) for figure in properties["figure"]],
        "short": properties["short"],
        "skipped": str(why),
    }


def pytest_sessionfinish(session):
    target = os.environ.get("RELIABILITY_TABLE")
    if not target or not FOUND or hasattr(session.config, "workerinput"):
        return
    kept = Path(target).with_suffix(".json")
    found = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    files = {name.partition("::")[0] for name in COLLECTED}
    found = {
        name: what
        for name, what in (found | FOUND).items()
        if name in COLLECTED or name.partition("::")[0] not in files
    }
    kept.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    rows = tomllib.loads(MATRIX.read_text(encoding="utf-8"))["row"]
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}"
    text = HEAD.format(when=f"{datetime.now(UTC):%Y-%m-%d}", machine=machine)
    text += "".join(_line(row, list(found.values())) for row in rows)
    Path(target).write_text(text, encoding="utf-8")


def _line(row, found):
    mine = [test for test in found if row["number"] in test["rows"]]
    figures = defaultdict(list)
    for test in mine:
        for what, value, unit in test["figures"]:
            figures[what, unit].append(value)
    said = "; ".join(_range(*what, values) for what, values in figures.items()) or "-"
    return f"| {row['number']} | {row['fault']} | {row['promise']} | {said} | {_verdict(mine)} |\n"


def _range(what, unit, values):
    if not all(isinstance(value, int | float) for value in values):
        value = ", ".join(dict.fromkeys(str(value) for value in values if value is not None))
    else:
        least, most = f"{min(values):g}", f"{max(values):g}"
        value = least if least == most else f"{least} to {most}"
    return " ".join(filter(None, (what, value, unit)))


def _verdict(tests):
    outcomes = {test["outcome"] for test in tests}
    short = dict.fromkeys(why for test in tests for why in test["short"])
    not_run = "; ".join(dict.fromkeys(test["skipped"] for test in tests if test["skipped"]))
    if "failed" in outcomes:
        return "**no**: a test fails"
    if short:
        return "**falls short**: " + "; ".join(short)
    if "passed" in outcomes:
        return f"yes, in part; not run: {not_run}" if not_run else "yes"
    return f"not run: {not_run or 'no test'}"
