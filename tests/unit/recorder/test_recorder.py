"""Nobody waits for the recorder."""

import logging
import threading
import time

import pytest

from stream_classifier.config import RecordSettings
from stream_classifier.errors import ConfigError
from stream_classifier.recorder import recorder as recorder_module
from stream_classifier.recorder.bdf import open_bdf
from stream_classifier.recorder.recorder import Recorder
from stream_classifier.recorder.tape import Tape

from .test_tape import BUILDER, CLOCK, SPEC, chunk


def recorder_in(folder, **more):
    return Recorder(RecordSettings(folder=folder, min_free_gb=0), **more)


def eventually(holds, within_s=10.0):
    deadline_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@pytest.fixture
def hanging(monkeypatch):
    """A disk that takes nothing until it is told to."""
    goes_on = threading.Event()
    real = Tape.take

    def take(self, item):
        assert goes_on.wait(20)
        real(self, item)

    monkeypatch.setattr(Tape, "take", take)
    yield goes_on
    goes_on.set()


def test_a_disk_that_hangs_costs_the_reader_nothing_and_what_is_lost_is_counted(
    tmp_path, hanging, monkeypatch, caplog
):
    monkeypatch.setattr(recorder_module, "MAX_WAITING_BYTES", 60 * 8 * 10)  # 10 s
    recorder = recorder_in(tmp_path)
    recorder.begin(SPEC, CLOCK)
    started_s = time.monotonic()
    for second in range(100):
        recorder.take(chunk(second * 60, 60))
    assert time.monotonic() - started_s < 5.0
    assert recorder.counters["recording_lost_samples"] > 80 * 60
    assert sum("the disk is too slow" in line for line in caplog.messages) == 1
    hanging.set()
    recorder.close()
    counters = recorder.counters
    assert counters["recorded_samples"] + counters["recording_lost_samples"] == 6000
    assert counters["recorded_samples"] >= 600
    # What was lost is a gap, behind which a new file begins, where there was room again meanwhile.
    kept_s = sum(open_bdf(path).duration_s for path in (tmp_path / "bed3").glob("*.bdf"))
    assert kept_s == counters["recorded_samples"] / 60


def test_a_recording_that_is_played_waits_for_the_disk_and_loses_nothing(
    tmp_path, hanging, monkeypatch
):
    monkeypatch.setattr(recorder_module, "MAX_WAITING_BYTES", 60 * 8 * 10)
    recorder = recorder_in(tmp_path, patient=True)
    recorder.begin(SPEC, CLOCK)
    player = threading.Thread(
        target=lambda: [recorder.take(chunk(second * 60, 60)) for second in range(50)]
    )
    player.start()
    eventually(lambda: recorder._bytes > 60 * 8 * 10)
    hanging.set()
    player.join(20)
    recorder.close()
    assert recorder.counters == {"recorded_samples": 3000, "recording_lost_samples": 0}


def test_a_defect_of_the_recorder_ends_the_recording_and_nothing_else(
    tmp_path, monkeypatch, caplog
):
    def fail(_self, _item):
        raise ZeroDivisionError

    monkeypatch.setattr(Tape, "take", fail)
    caplog.set_level(logging.ERROR)
    recorder = recorder_in(tmp_path, patient=True)
    recorder.begin(SPEC, CLOCK)
    recorder.take(chunk(0, 60))
    eventually(lambda: "nothing more is recorded; alerts go on" in caplog.text)
    for second in range(100):
        recorder.take(chunk(second * 60, 60))  # neither waits nor keeps
    assert not recorder._items
    recorder.close()


def test_a_state_is_taken_when_it_is_news(tmp_path, hanging):
    recorder = recorder_in(tmp_path)
    for signal in ("ok", "ok", "ok", "none", "none", "ok"):
        recorder.alert_state(
            BUILDER.alert(at_s=0, prediction=None, latest=None, signal=signal, decided=None)
        )
    assert [item.signal for item in recorder._items] == ["ok", "none", "ok"]


def test_a_stream_of_any_name_has_a_folder_of_its_own_below_the_one_that_was_named(tmp_path):
    from dataclasses import replace

    for name in ("../../etc/passwd", "C:\\x\x00y", "bed3"):
        recorder = recorder_in(tmp_path / "kept")
        recorder.begin(replace(SPEC, name=name), CLOCK)
        recorder.take(chunk(0, 60))
        recorder.close()
    folders = list((tmp_path / "kept").iterdir())
    assert len(folders) == 3
    assert all(len(list(folder.glob("*.bdf"))) == 1 for folder in folders)


def test_a_folder_that_cannot_be_made_is_the_users_to_mend(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="Try: --record with a folder of yours"):
        recorder_in(tmp_path / "file").begin(SPEC, CLOCK)
