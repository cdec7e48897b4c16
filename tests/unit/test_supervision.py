"""What fails is started again, what hangs ends the process, and what people ask for is done."""

import asyncio
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from stream_classifier import pipeline as pipeline_module
from stream_classifier import service
from stream_classifier.config import Settings
from stream_classifier.detection.detector import Detector, DetectorSettings
from stream_classifier.engines.reference import ReferenceEngine
from stream_classifier.errors import (
    ReaderError,
    ReaderFailedError,
    ReaderStuckError,
    StreamChangedError,
)
from stream_classifier.health import Condition, Rung
from stream_classifier.pipeline import Reader
from stream_classifier.signals import AlertEvent, SourceHealth, SourceState
from stream_classifier.sources.lsl import LslSource
from tests.unit.test_pipeline import (
    BUNDLE,
    RULE,
    SPEC,
    Clock,
    RecordingSink,
    ScriptedSource,
    chunks,
    make_detector,
    make_pipeline,
    make_reader,
)


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(pipeline_module, "WATCH_EVERY_S", 0.01)
    monkeypatch.setattr(service, "REVIVE_FIRST_S", 0.01)
    monkeypatch.setattr(service, "REVIVE_CAP_S", 0.01)


def until_an_alert_stands():
    """How many chunks lead to an alert that is on."""
    detector = make_detector(SPEC)
    for n, chunk in enumerate(chunks(), start=1):
        events = [x for x in detector.feed(chunk) if isinstance(x, AlertEvent)]
        if events and events[-1].on:
            return n
    return pytest.fail("the signal has no seizure")


def latched_detector(standing=None):
    def make(spec):
        return Detector(
            bundle=BUNDLE,
            spec=spec,
            engine=ReferenceEngine(BUNDLE, hop_samples=8),
            settings=DetectorSettings(rule=RULE, remind_every_s=60.0),
            standing=standing,
        )

    return make


class Supervised:
    """A pipeline whose reader is replaced by the next one of a list, as ``service`` does."""

    def __init__(self, *sources, make=make_detector, **more):
        self.sources = list(sources)
        self.make = make
        self.more = more
        self.sink = RecordingSink()
        self.clock = Clock()
        self.failures = []
        self.readers = []

    def reader(self, make):
        source = self.sources.pop(0)
        reader = make_reader(source, self.clock, make)
        self.readers.append(reader)
        return reader

    async def revive(self, failure):
        self.failures.append(failure)
        standing = self.pipeline.standing

        def make(spec):
            engine = ReferenceEngine(BUNDLE, hop_samples=8)
            settings = DetectorSettings(rule=RULE)
            return Detector(
                bundle=BUNDLE, spec=spec, engine=engine, settings=settings, standing=standing
            )

        return await self.reader(make).__aenter__()

    async def __aenter__(self):
        first = await self.reader(self.make).__aenter__()
        self.pipeline = make_pipeline(first, self.sink, self.clock, revive=self.revive, **self.more)
        self.running = asyncio.create_task(self.pipeline.run())
        await self.sink.until(lambda: self.sink.states and self.sink.healths)
        return self

    async def __aexit__(self, *_):
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        for reader in self.readers:
            await reader.__aexit__(None, None, None)


# A reader that fails


@pytest.mark.parametrize("error", [RuntimeError("a defect"), MemoryError(), SystemExit(3)])
async def test_a_reader_that_fails_is_started_again_and_its_alert_goes_on_under_its_id(error):
    cut = until_an_alert_stands()
    broken = ScriptedSource(chunks()[:cut], error=error)
    whole = ScriptedSource(chunks(), silent=True)
    async with Supervised(broken, whole) as run:
        await run.sink.until(lambda: any(m.event_type == "ended" for m in run.sink.events))
        assert len(run.failures) == 1
        raised, *others = run.sink.events
        assert raised.event_type == "raised"
        ended = next(m for m in others if m.event_type == "ended")
        assert ended.alert_id == raised.alert_id
        before = run.sink.events[: run.sink.events.index(ended)]
        assert {m.alert_id for m in before} == {raised.alert_id}
        ids = [m.event_id for m in run.sink.events]
        assert len(ids) == len(set(ids))
        assert not run.running.done()
        await run.sink.until(lambda: run.sink.healths[-1].counters["reader_restarts"] == 1)
    assert broken.closed.is_set()


async def test_a_restart_shows_in_health_with_its_reason_and_is_forgiven():
    broken = ScriptedSource(error=RuntimeError("a defect"))
    whole = ScriptedSource(chunks(), silent=True)
    async with Supervised(broken, whole) as run:

        def engine():
            return next(r for r in run.sink.healths[-1].rungs if r.rung is Rung.ENGINE)

        await run.sink.until(lambda: run.sink.healths and engine().state is Condition.DEGRADED)
        assert "RuntimeError: a defect" in engine().reason
        await asyncio.to_thread(whole.silence.wait, 10)
        run.clock.now_s += 11
        run.readers[-1].last_sample_s = run.clock.now_s
        await run.sink.until(lambda: engine().state is Condition.OK)


async def test_what_a_person_must_mend_is_no_failure_to_start_again_from():
    changed = StreamChangedError("x", before="8", now="4")
    async with Supervised(ScriptedSource(error=changed)) as run:
        with pytest.raises(StreamChangedError):
            await run.running
        assert not run.failures


async def test_a_station_gives_a_reader_after_each_failure_but_not_for_ever(monkeypatch):
    async def scripted(_settings, _stop):
        return ScriptedSource(silent=True)

    monkeypatch.setattr(service, "_source", scripted)
    station = await station_on(monkeypatch)
    for _ in range(service.MOST_FAILURES):
        reader = await station.next_reader(RuntimeError("a defect"), standing=None)
        assert isinstance(reader, Reader)
    with pytest.raises(ReaderFailedError) as ended:
        await station.next_reader(RuntimeError("a defect"), standing=None)
    assert ended.value.exit_code == 1
    assert f"{service.MOST_FAILURES + 1} times in a row" in str(ended.value)
    assert "RuntimeError: a defect" in str(ended.value)


async def test_failures_that_are_far_apart_are_not_counted_together(monkeypatch):
    async def scripted(_settings, _stop):
        return ScriptedSource(silent=True)

    monkeypatch.setattr(service, "_source", scripted)
    monkeypatch.setattr(service, "STABLE_S", 0.0)
    station = await station_on(monkeypatch)
    for _ in range(3 * service.MOST_FAILURES):
        await station.next_reader(RuntimeError("a defect"), standing=None)


async def test_a_recording_that_fails_would_fail_again(monkeypatch):
    station = await station_on(monkeypatch)
    station.is_recording = True
    with pytest.raises(ReaderFailedError, match="1 times in a row"):
        await station.next_reader(RuntimeError("a defect"), standing=None)


async def test_another_device_is_not_taken_for_the_one_that_was_read(monkeypatch):
    class Other(ScriptedSource):
        def open(self):
            return replace(SPEC, labels=("C3", "C4"))

    async def other(_settings, _stop):
        return Other(silent=True)

    monkeypatch.setattr(service, "_source", other)
    station = await station_on(monkeypatch)
    reader = await station.next_reader(RuntimeError("x"), standing=None)
    with pytest.raises(StreamChangedError) as changed:
        async with reader:
            pytest.fail("entered with another device")
    assert "('C3',)" in str(changed.value)
    assert "('C3', 'C4')" in str(changed.value)


async def station_on(monkeypatch):
    source = LslSource(name="x", stop=threading.Event())
    station = service._Station(Settings.model_construct(), BUNDLE, source, threading.Event())
    station.spec = SPEC
    return station


def test_a_stream_is_looked_for_again_by_what_it_is_and_for_as_long_as_it_takes():
    settings = Settings.model_construct().source.model_copy(update={"wait_s": 1.0})
    again = service._the_same(settings, SPEC)
    assert (again.source_id, again.wait_s) == ("amp-1", float("inf"))
    nameless = service._the_same(settings, replace(SPEC, source_id=""))
    assert (nameless.source_id, nameless.name) == (None, "bed 3")


async def test_while_nobody_reads_nothing_is_shown_as_live():
    broken = ScriptedSource(chunks(600), error=RuntimeError("a defect"))
    run = Supervised(broken)
    asked = asyncio.Event()

    async def revive(failure):
        asked.set()
        await asyncio.Event().wait()

    run.revive = revive
    async with run:
        async with asyncio.timeout(10):
            await asked.wait()
        assert "ok" in {m.signal for m in run.sink.states}
        assert (run.sink.states[-1].signal, run.sink.states[-1].p) == ("starting", None)


# A reader that hangs


class HangingSource(ScriptedSource):
    """Does not come back from a library's call, until the test ends."""

    def __init__(self):
        super().__init__()
        self.free = threading.Event()
        self.hangs = threading.Event()

    def __iter__(self):
        yield None
        self.hangs.set()
        self.free.wait(20)


async def test_a_reader_that_hangs_ends_the_process(monkeypatch):
    monkeypatch.setattr(pipeline_module, "STUCK_AFTER_S", 0.1)
    monkeypatch.setattr(pipeline_module, "JOIN_WITHIN_S", 0.05)
    source = HangingSource()
    async with Supervised(source) as run:
        with pytest.raises(ReaderStuckError) as stuck:
            await asyncio.wait_for(run.running, 10)
        assert stuck.value.exit_code == 1
        assert run.sink.healths[-1].state is Condition.FAULT
        assert "sign of life" in str([r.reason for r in run.sink.healths[-1].rungs])
        source.free.set()


async def test_a_process_that_was_stopped_for_a_while_has_no_reader_that_hangs(monkeypatch):
    """SIGSTOP, a machine that sleeps: reader and loop stand still together."""
    monkeypatch.setattr(pipeline_module, "STUCK_AFTER_S", 0.2)
    source = HangingSource()
    async with Supervised(source) as run:
        await asyncio.to_thread(source.hangs.wait, 10)
        for _ in range(3):
            time.sleep(0.3)  # noqa: ASYNC251 - that is the fault
            await asyncio.sleep(0)
        assert not run.running.done()
        source.free.set()
        await asyncio.wait_for(run.running, 10)


# What people ask for


async def test_an_acknowledgement_is_an_event_and_ends_the_latch():
    source = ScriptedSource(chunks(), silent=True)
    async with Supervised(source, make=latched_detector()) as run:
        await run.sink.until(lambda: run.sink.events and run.sink.events[-1].state != "alert")
        await asyncio.to_thread(source.silence.wait, 10)
        await run.sink.until(lambda: any(m.event_type == "ended" for m in run.sink.events))
        await run.sink.until(lambda: run.sink.states[-1].ended is not None)
        state = run.sink.states[-1]
        assert (state.on, state.latched, state.acknowledged) == (True, True, False)
        assert await run.pipeline.acknowledge(state.alert_id) is True
        await run.sink.until(lambda: not run.sink.states[-1].on)
        assert run.sink.events[-1].event_type == "acknowledged"
        assert run.sink.states[-1].acknowledged
        assert await run.pipeline.acknowledge(state.alert_id) is False
        with pytest.raises(LookupError):
            await run.pipeline.acknowledge("f" * 32)


async def test_nobody_waits_for_a_reader_that_has_ended():
    async with Supervised(ScriptedSource()) as run:
        await run.running
        with pytest.raises(ReaderError, match="in some seconds"):
            await asyncio.wait_for(run.pipeline.acknowledge("f" * 32), 5)


async def test_what_was_asked_of_a_reader_that_ends_meanwhile_is_answered():
    source = HangingSource()
    async with make_reader(source) as reader:
        await asyncio.to_thread(source.hangs.wait, 10)
        given_up = asyncio.create_task(reader.ask(lambda detector: detector.acknowledge("x")))
        asked = asyncio.create_task(reader.ask(lambda detector: detector.acknowledge("x")))
        await asyncio.sleep(0)
        given_up.cancel()
        source.free.set()
        with pytest.raises(ReaderError):
            await asyncio.wait_for(asked, 5)
        assert reader.failure is None


async def test_quiet_is_shown_hides_nothing_and_ends_by_itself():
    cut = until_an_alert_stands()
    async with Supervised(ScriptedSource(chunks()[:cut], silent=True)) as run:
        await run.sink.until(lambda: run.sink.states[-1].on)
        until = datetime.now(UTC) + timedelta(seconds=0.3)
        run.pipeline.mute(until)
        assert run.sink.states[-1].muted_until is not None
        assert run.sink.states[-1].on
        await run.sink.until(lambda: run.sink.states[-1].muted_until is None)
        assert datetime.now(UTC) >= until
        run.pipeline.mute(until + timedelta(minutes=5))
        run.pipeline.mute(None)
        assert run.sink.states[-1].muted_until is None


async def test_a_new_alert_ends_quiet():
    source = ScriptedSource(chunks(), silent=True)
    release = threading.Event()
    source.chunks = waiting(release)
    async with Supervised(source) as run:
        run.pipeline.mute(datetime.now(UTC) + timedelta(minutes=5))
        release.set()
        await run.sink.until(lambda: run.sink.states[-1].on)
        assert run.sink.states[-1].muted_until is None


def waiting(release):
    release.wait(10)
    yield from chunks()


async def test_a_wall_clock_that_is_set_back_does_not_lengthen_quiet(monkeypatch):
    async with Supervised(ScriptedSource(silent=True)) as run:
        run.pipeline.mute(datetime.now(UTC) + timedelta(seconds=0.2))
        really = time.time
        monkeypatch.setattr(time, "time", lambda: really() - 3600)
        await run.sink.until(lambda: run.sink.states[-1].muted_until is None)


# What is left behind, and what is noticed


async def test_one_that_is_stopped_leaves_unknown_and_one_that_fails_a_fault_with_its_reason():
    async with Supervised(ScriptedSource(silent=True)) as run:
        await run.sink.until(lambda: run.sink.healths)
    assert run.sink.healths[-1].state is Condition.UNKNOWN
    changed = StreamChangedError("x", before="8 channels", now="4 channels")
    async with Supervised(ScriptedSource(error=changed)) as run:
        await asyncio.gather(run.running, return_exceptions=True)
    assert run.sink.healths[-1].state is Condition.FAULT
    (outlet,) = [r for r in run.sink.healths[-1].rungs if r.state is Condition.FAULT]
    assert outlet.rung is Rung.OUTLET
    assert "8 channels" in outlet.reason
    assert "4 channels" in outlet.reason
    assert outlet.remedy.startswith("restart the classifier")


async def test_a_defect_of_the_sink_is_left_behind_as_a_fault_too():
    class BrokenSink(RecordingSink):
        async def event(self, message):
            raise RuntimeError("a defect")

    run = Supervised(ScriptedSource(chunks(), silent=True))
    run.sink = BrokenSink()
    async with run:
        with pytest.raises(RuntimeError):
            await run.running
    assert run.sink.healths[-1].state is Condition.FAULT
    assert run.sink.healths[-1].rungs[4].reason == "a defect"


async def test_samples_that_make_no_window_leave_no_old_decision_standing_as_live():
    """A link so poor that a sample is missing in every window: samples arrive all the time."""
    source = ScriptedSource(chunks(400), silent=True)
    async with Supervised(source) as run:
        await run.sink.until(lambda: run.sink.states[-1].signal == "ok")
        await asyncio.to_thread(source.silence.wait, 10)
        run.clock.now_s += 7
        run.readers[0].last_sample_s = run.clock.now_s
        await run.sink.until(lambda: run.sink.states[-1].signal == "starting")
        assert run.sink.states[-1].p is None
        assert run.sink.states[-1].state is None
        await run.sink.until(lambda: run.sink.healths[-1].rungs[3].state is Condition.STARTING)


async def test_a_wall_clock_that_is_set_is_counted_and_said(caplog):
    offset_s = 0.0

    def wall():
        return time.monotonic() + offset_s

    async with Supervised(ScriptedSource(silent=True), wall=wall) as run:
        await run.sink.until(lambda: len(run.sink.healths) > 2)
        assert run.sink.healths[-1].counters["clock_steps"] == 0
        offset_s = 3600.0
        await run.sink.until(lambda: run.sink.healths[-1].counters["clock_steps"] == 1)
        await run.sink.until(lambda: len(run.sink.healths) > 8)
        assert run.sink.healths[-1].counters["clock_steps"] == 1
    assert "the wall clock was set by +3600.0 s" in caplog.text


async def test_a_source_whose_clock_runs_as_it_likes_is_no_step_of_the_wall_clock():
    """A recording that is played as fast as it goes."""
    async with Supervised(ScriptedSource(silent=True)) as run:
        for _ in range(5):
            run.clock.now_s += 100
            n = len(run.sink.healths)
            await run.sink.until(lambda n=n: len(run.sink.healths) > n)
        assert run.sink.healths[-1].counters["clock_steps"] == 0


async def test_health_counts_what_happened():
    source = ScriptedSource(chunks(), silent=True)
    source.health = SourceHealth(state=SourceState.ATTACHED, samples=2000, gaps=1, duplicates=2)
    async with Supervised(source, count=lambda: {"loop_stalls": 4}) as run:
        await run.sink.until(
            lambda: run.sink.healths[-1:] and run.sink.healths[-1].counters["alerts"]
        )
        counters = run.sink.healths[-1].counters
    assert set(counters) >= {
        *("samples", "gaps", "missing_samples", "duplicates", "reconnects", "windows"),
        *("windows_refused", "windows_shed", "alerts", "reader_restarts", "clock_steps"),
    }
    assert (counters["samples"], counters["duplicates"], counters["loop_stalls"]) == (2000, 2, 4)
