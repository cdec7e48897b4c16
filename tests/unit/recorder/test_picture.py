"""The picture of an alert shows what was kept, whatever is missing of it."""

import json
import os
from datetime import UTC, datetime

import numpy as np
import pytest

from stream_classifier.recorder.evidence import keep
from stream_classifier.recorder.picture import _read_p, draw, main
from stream_classifier.signals import EventType

from .test_tape import Cases, chunk, event, prediction, shelf_in, tape_in

matplotlib = pytest.importorskip("matplotlib", reason="needs the extra [report]")


@pytest.fixture
def facts_file(tmp_path):
    cases = Cases()
    tape = tape_in(tmp_path, evidence=cases)
    for second in range(115):
        if second not in (80, 81, 82):
            tape.take(chunk(second * 60, 60))
        tape.take(prediction(second, 0.9 if 60 <= second <= 75 else 0.1))
        if second == 61:
            tape.take(event(EventType.RAISED, 61))
    tape.take(event(EventType.ENDED, 80, seq=1, off_s=75.0))
    tape.close()
    return keep(cases[0], shelf_in(tmp_path))


def pixels(path):
    from matplotlib.image import imread

    return imread(path)


def ink(path):
    """Share of the picture that is not white."""
    return float(np.mean(pixels(path)[..., :3].min(axis=2) < 0.9))


def test_it_is_drawn_once_and_for_its_owner_alone(facts_file):
    assert main(facts_file.parent) == 0
    path = facts_file.with_suffix(".png")
    assert ink(path) > 0.02
    assert path.stat().st_mode & 0o077 == 0
    before = path.stat().st_mtime_ns
    assert main(facts_file.parent) == 0
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize("gone", [".csv", ".bdf"])
def test_what_was_not_kept_is_said_and_the_rest_is_drawn(facts_file, gone):
    whole = ink(draw(facts_file))
    facts_file.with_suffix(gone).unlink()
    assert 0.005 < ink(draw(facts_file)) < whole


def test_facts_that_are_damaged_are_an_error_and_keep_no_other_picture_from_being_drawn(
    facts_file, capsys
):
    (facts_file.parent / "2026-11-24T00-00-00Z-broken.json").write_text('{"alert_id": 3}')
    (facts_file.parent / "2026-11-24T00-00-01Z-broken.json").write_text("nonsense")
    assert main(facts_file.parent) == 1
    assert capsys.readouterr().err.count("broken.json") == 2
    assert facts_file.with_suffix(".png").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_among_the_facts_is_not_waited_for(facts_file):
    os.mkfifo(facts_file.parent / "2026-11-24T00-00-00Z-pipe0000.json")
    table = facts_file.with_suffix(".csv")
    table.unlink()
    os.mkfifo(table)
    assert main(facts_file.parent) == 0
    assert facts_file.with_suffix(".png").exists()
    stem = shelf_in(facts_file.parents[2]).evidence_stem(datetime.now(UTC), "pipe" + "0" * 28)
    assert stem.name.endswith("-pipe0000")


def test_a_channel_called_p_is_not_taken_for_the_p_of_the_stream(facts_file):
    table = facts_file.with_suffix(".csv")
    before = _read_p(table)
    table.write_text(table.read_text().replace("C3,C4", "p,seconds", 1))
    assert "p,seconds" in table.read_text()
    for now, then in zip(_read_p(table), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_names_that_a_terminal_would_obey_are_drawn_without(facts_file):
    facts = json.loads(facts_file.read_text())
    facts["event"]["stream"] = "bed\x1b[2J\u202e3 $\\nothing{$"
    facts_file.write_text(json.dumps(facts))
    assert ink(draw(facts_file)) > 0.02
