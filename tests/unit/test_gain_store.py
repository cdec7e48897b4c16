"""Gains outlive the process: kept by stream, channel and target; damage costs a calibration."""

import logging
from pathlib import Path

import pytest

from stream_classifier import gain_store
from stream_classifier.bundle import GainSpec
from stream_classifier.config import AlarmSettings
from stream_classifier.gain_store import GainStore, find_gains, read_gains
from stream_classifier.service import detector_settings, with_known_gains
from stream_classifier.signals import StreamSpec

GAIN = GainSpec(target_uv=40.0)
NEGATIVE = (
    b'{"format":"stream_classifier/gains/1","name":"a","source_id":"b","channels":'
    b'{"C3":{"gain":-1,"target_uv":40,"measured":"2026-01-01T00:00:00Z"}}}'
)


def spec(*, name="bed 3", source_id="amp-1", labels=("C3", "C4")):
    return StreamSpec(name=name, source_id=source_id, rate_hz=128.0, labels=labels)


def test_what_was_measured_is_found_at_the_next_start(tmp_path):
    GainStore(spec(), folder=tmp_path).save((2.0, None), GAIN)
    assert GainStore(spec(), folder=tmp_path).load(GAIN) == (2.0, None)
    GainStore(spec(), folder=tmp_path).save((2.0, 3.5), GAIN)
    assert GainStore(spec(), folder=tmp_path).load(GAIN) == (2.0, 3.5)
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]  # nothing half written


def test_a_channel_is_found_by_its_label_wherever_it_is(tmp_path):
    GainStore(spec(), folder=tmp_path).save((2.0, 3.5), GAIN)
    other = spec(labels=("Cz", "C4", "C3"))
    assert GainStore(other, folder=tmp_path).load(GAIN) == (None, 3.5, 2.0)
    GainStore(other, folder=tmp_path).save((1.5, 3.5, 2.0), GAIN)
    stored = read_gains(GainStore(other, folder=tmp_path).path)
    assert stored is not None
    assert set(stored.channels) == {"Cz", "C4", "C3"}


def test_two_channels_of_one_label_are_two(tmp_path):
    twins = spec(labels=("EEG", "EEG"))
    GainStore(twins, folder=tmp_path).save((2.0, 3.5), GAIN)
    assert GainStore(twins, folder=tmp_path).load(GAIN) == (2.0, 3.5)


@pytest.mark.parametrize(
    "other",
    [spec(source_id="amp-2"), spec(source_id="", name="bed 4"), spec(source_id="../amp-1")],
)
def test_another_stream_has_gains_of_its_own(tmp_path, other):
    GainStore(spec(), folder=tmp_path).save((2.0, 3.5), GAIN)
    assert GainStore(other, folder=tmp_path).load(GAIN) is None
    assert GainStore(other, folder=tmp_path).path.parent == tmp_path


def test_a_stream_without_a_source_id_is_known_by_its_name(tmp_path):
    GainStore(spec(source_id=""), folder=tmp_path).save((2.0, 3.5), GAIN)
    assert GainStore(spec(source_id=""), folder=tmp_path).load(GAIN) == (2.0, 3.5)


def test_gains_for_another_target_or_out_of_bounds_are_measured_again(tmp_path):
    store = GainStore(spec(), folder=tmp_path)
    store.save((2.0, 9.0), GAIN)
    assert store.load(GainSpec(target_uv=50.0)) is None
    assert store.load(GainSpec(target_uv=40.0, high=5.0)) == (2.0, None)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\x00", b'{"format":"stream_classifier/gains/9"}', NEGATIVE],
)  # fmt: skip
def test_a_damaged_file_is_told_and_measured_over(tmp_path, caplog, content):
    store = GainStore(spec(), folder=tmp_path)
    store.path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert store.load(GAIN) is None
    assert str(store.path) in caplog.text
    assert "measured again" in caplog.text
    store.save((2.0, 3.5), GAIN)
    assert store.load(GAIN) == (2.0, 3.5)


def test_a_disk_that_takes_nothing_is_told_and_leaves_what_was_there(tmp_path, caplog, monkeypatch):
    store = GainStore(spec(), folder=tmp_path)
    store.save((2.0, 3.5), GAIN)

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gain_store.os, "fsync", full)
    store.save((1.0, 1.0), GAIN)
    assert "No space left" in caplog.text
    assert store.load(GAIN) == (2.0, 3.5)
    assert len(list(tmp_path.iterdir())) == 1


def test_streams_are_found_by_name_or_source_id(tmp_path):
    GainStore(spec(), folder=tmp_path).save((2.0, 3.5), GAIN)
    GainStore(spec(name="bed 4", source_id=""), folder=tmp_path).save((1.0, 1.5), GAIN)
    Path(tmp_path / "amp-3.gains.json").write_text("{")

    def names(**wanted):
        return [gains and gains.name for _, gains in find_gains(folder=tmp_path, **wanted)]

    assert sorted(map(str, names())) == ["None", "bed 3", "bed 4"]
    assert names(name="bed 4") == ["bed 4"]
    assert names(source_id="amp-1") == ["bed 3"]
    assert names(source_id="amp-1", name="bed 4") == []
    assert names(source_id="amp-3") == [None]  # damaged, but called like it


def test_the_next_start_takes_up_what_was_measured(tmp_path, monkeypatch, head, bonn):
    monkeypatch.setattr(gain_store.platformdirs, "user_state_path", lambda _name: tmp_path)
    GainStore(spec()).save((2.0, None), head.gain)
    given = detector_settings(head, AlarmSettings())
    assert with_known_gains(given, head, spec()).gains == (2.0, None)
    assert with_known_gains(given, head, spec(source_id="amp-2")) == given
    assert with_known_gains(given, bonn, spec()) == given  # it wants none
