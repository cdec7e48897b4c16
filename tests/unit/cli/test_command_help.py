"""Help as a terminal shows it."""

from __future__ import annotations

import inspect
import itertools
import re

import pytest

from stream_classifier.cli import (
    ack,
    calibrate,
    compare,
    dataset,
    doctor,
    evaluate,
    infer,
    main,
    model,
    report,
    simulate,
    status,
    streams,
    study,
    subscribe,
    test_alarm,
    train,
)

COMMANDS = {
    "ack": ack.ack,
    "calibrate": calibrate.calibrate,
    "compare": compare.compare,
    "doctor": doctor.doctor,
    "evaluate": evaluate.evaluate,
    "infer": infer.infer,
    "study": study.study,
    "report": report.report,
    "simulate": simulate.simulate,
    "status": status.status,
    "streams": streams.streams,
    "subscribe": subscribe.subscribe,
    "test-alarm": test_alarm.test_alarm,
    "train": train.train,
    "dataset check": dataset.check,
    "dataset fetch": dataset.fetch,
    "dataset path": dataset.path,
    "dataset recordings": dataset.recordings,
    "model list": model.list_models,
    "model show": model.show,
    "model verify": model.verify,
}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_tells_all_that_its_docstring_does_and_breaks_lines_only_at_the_edge(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*name.split(), "--help"]) == 0
    shown = [line.strip() for line in capsys.readouterr().out.splitlines()]
    prose = "\n".join(shown[: next(n for n, line in enumerate(shown) if line.startswith("╭"))])
    paragraphs = [p for p in re.split(r"\n\n+", prose.strip()) if not p.startswith("Usage:")]
    wanted = [" ".join(p.split()) for p in str(inspect.getdoc(COMMANDS[name])).split("\n\n")]
    assert [" ".join(p.split()) for p in paragraphs] == wanted
    for paragraph in paragraphs:
        lines = paragraph.splitlines()
        for line, following in itertools.pairwise(lines):
            assert len(line) + 1 + len(following.split()[0]) > 78, line
