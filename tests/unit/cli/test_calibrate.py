"""The calibrate command: measures, keeps, shows and forgets gains."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from stream_classifier import gain_store
from stream_classifier.bundle import AlarmSpec, Bundle, GainSpec
from stream_classifier.cli import main
from stream_classifier.cli.calibrate import measure
from stream_classifier.detection.detector import Detector, DetectorSettings
from stream_classifier.engines.reference import ReferenceEngine
from stream_classifier.errors import CalibrationError
from stream_classifier.gain_store import GainStore
from stream_classifier.signals import Chunk, StreamSpec

SPEC = StreamSpec("bed 3", "amp-1", 178.0, ("C3",))
RULE = AlarmSpec(
    raise_threshold=0.9, clear_threshold=0.5, smoothing_s=1, persistence_s=0.5, refractory_s=90
)


class Played:
    """A source that plays samples over and over, with silences between."""

    def __init__(self, samples: np.ndarray) -> None:
        self.samples = samples
        self.is_closed = False

    def open(self) -> StreamSpec:
        return SPEC

    def __iter__(self) -> Iterator[Chunk | None]:
        for first in range(0, 178 * 1000, len(self.samples)):
            yield Chunk(samples=self.samples, first_index=first)
            yield None

    def close(self) -> None:
        self.is_closed = True


class Ticking:
    """A clock that goes on by a second whenever it is looked at."""

    now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder where gains are kept, with those of one stream."""
    monkeypatch.setattr(gain_store.platformdirs, "user_state_path", lambda _name: tmp_path)
    GainStore(SPEC).save((2.5,), GainSpec(target_uv=40.0))
    return tmp_path


def make_detector(head: Bundle, spec: StreamSpec) -> Detector:
    return Detector(
        bundle=head,
        spec=spec,
        engine=ReferenceEngine(head, hop_samples=8),
        settings=DetectorSettings(rule=RULE),
    )


def test_it_measures_until_there_is_enough_good_signal(head: Bundle) -> None:
    samples = np.random.default_rng(1).normal(size=(178, 1)).cumsum(axis=0) * 2
    source = Played((samples - np.linspace(0, samples[-1], 178)).astype(np.float32))
    detector, calibrated = measure(
        source, lambda spec: make_detector(head, spec), at_most_s=100, clock_s=Ticking()
    )
    assert calibrated.gains == detector.gains != (1.0,)
    assert source.is_closed


def test_a_signal_that_is_never_good_is_told_with_its_reasons(head: Bundle) -> None:
    source = Played(np.zeros((178, 1), np.float32))
    with pytest.raises(CalibrationError, match=r"has 0% .*C3: flat.*Try: look at the electrodes"):
        measure(source, lambda spec: make_detector(head, spec), at_most_s=5, clock_s=Ticking())
    assert source.is_closed


def test_what_is_stored_is_shown(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "--show"]) == 0
    said = capsys.readouterr().out
    assert "bed 3" in said
    assert "2.50" in said
    assert main(["calibrate", "--show", "--name", "bed 3", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["channels"]["C3"]["gain"] == 2.5
    assert Path(found["path"]).parent == stored


def test_what_is_forgotten_is_gone(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "--forget", "--source-id", "another"]) == 1
    assert list(stored.iterdir())
    assert main(["calibrate", "--forget", "--source-id", "amp-1"]) == 0
    assert not list(stored.iterdir())
    assert main(["calibrate", "--show"]) == 0
    assert "no gains are stored" in capsys.readouterr().out


@pytest.mark.usefixtures("stored")
def test_to_forget_takes_a_name_and_shows_nothing_meanwhile(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["calibrate", "--forget"]) == 3
    assert "--name or --source-id" in capsys.readouterr().err
    assert main(["calibrate", "--forget", "--show", "--name", "bed 3"]) == 3


def test_a_bundle_without_a_gain_has_none_to_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pylsl")
    monkeypatch.chdir(tmp_path)
    assert main(["calibrate", "--bundle", "bonn"]) == 3
    assert "no gain to measure" in capsys.readouterr().err
