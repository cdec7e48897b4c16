"""The shell hands on what the detector decides, and knows when there is nothing to decide."""

import asyncio
import threading

import numpy as np
import pytest

from stream_classifier import pipeline as pipeline_module
from stream_classifier.bundle import AlarmSpec, load_bundle
from stream_classifier.detection.detector import Detector, DetectorSettings
from stream_classifier.engines.reference import ReferenceEngine
from stream_classifier.errors import StreamChangedError, StreamNotFoundError
from stream_classifier.health import SILENT_AFTER_S, SinkCondition
from stream_classifier.pipeline import Pipeline, Reader
from stream_classifier.signals import (
    AlertEvent,
    Calibrated,
    Chunk,
    Prediction,
    SourceHealth,
    SourceState,
    StreamSpec,
)
from stream_classifier.sinks.messages import MessageBuilder, ModelRef, WallClock

BUNDLE = load_bundle("bonn")
EEG = np.ascontiguousarray(BUNDLE.selftest_windows.ravel(), dtype=np.float32)[:, None]
SPEC = StreamSpec(name="bed 3", source_id="amp-1", rate_hz=178.0, labels=("C3",))
RULE = AlarmSpec(
    raise_threshold=0.3, clear_threshold=0.2, smoothing_s=0.2, persistence_s=0, refractory_s=0.1
)


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s


class ScriptedSource:
    """Yields what it is given; then ends, fails, or stays silent until it is closed."""

    def __init__(self, chunks=(), *, error=None, refuses=None, silent=False):
        self.chunks = chunks
        self.error = error
        self.refuses = refuses
        self.silent = silent
        self.stop = threading.Event()
        self.closed = threading.Event()
        self.silence = threading.Event()
        self.health = SourceHealth(state=SourceState.ATTACHED, samples=1)

    def open(self):
        if self.refuses is not None:
            raise self.refuses
        return SPEC

    def __iter__(self):
        yield from self.chunks
        self.silence.set()
        while self.silent and not self.stop.wait(0.01):
            yield None
        if self.error is not None:
            raise self.error

    def close(self):
        self.closed.set()


class RecordingSink:
    def __init__(self):
        self.events, self.states, self.predictions, self.qualities = [], [], [], []
        self.healths = []
        self.condition = SinkCondition()
        self.changed = asyncio.Event()

    async def event(self, message):
        self.events.append(message)

    def alert_state(self, message):
        self.states.append(message)
        self.changed.set()

    def prediction(self, message):
        self.predictions.append(message)

    def quality(self, message):
        self.qualities.append(message)

    def health(self, message):
        self.healths.append(message)
        self.changed.set()

    async def until(self, condition):
        async with asyncio.timeout(10):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


def chunks(n_samples=2000, *, size=89, received_s=100.0):
    return [
        Chunk(samples=EEG[i : i + size], first_index=i, origin_s=100.0, received_s=received_s)
        for i in range(0, n_samples, size)
    ]


def make_detector(spec):
    engine = ReferenceEngine(BUNDLE, hop_samples=8)
    settings = DetectorSettings(rule=RULE)
    return Detector(bundle=BUNDLE, spec=spec, engine=engine, settings=settings)


def make_reader(source, clock=None, make=make_detector):
    return Reader(source, make, clock=clock or Clock(), stop=source.stop)


def make_pipeline(reader, sink, clock=None, **more):
    builder = MessageBuilder(
        spec=SPEC,
        model=ModelRef(name="bonn", sha256="0" * 64, raise_threshold=0.3, clear_threshold=0.2),
        clock=WallClock(offset_s=1_700_000_000.0),
    )
    return Pipeline(reader=reader, builder=builder, sink=sink, clock=clock or Clock(), **more)


async def run_to_the_end(source):
    sink = RecordingSink()
    async with make_reader(source) as reader:
        pipeline = make_pipeline(reader, sink)
        await pipeline.run()
    return sink, pipeline


async def test_live_equals_offline():
    sink, pipeline = await run_to_the_end(ScriptedSource(chunks()))
    detector = make_detector(SPEC)
    offline = [item for chunk in chunks() for item in detector.feed(chunk)]
    events = [item for item in offline if isinstance(item, AlertEvent)]
    assert events
    assert [(m.alert_id, m.event_type) for m in sink.events] == [
        (e.alert_id, e.type) for e in events
    ]
    assert pipeline.counters.predictions == sum(isinstance(x, Prediction) for x in offline)
    assert len(sink.predictions) == pipeline.counters.predictions


async def test_the_state_starts_unknown_and_follows_the_decisions():
    sink, _ = await run_to_the_end(ScriptedSource(chunks()))
    assert (sink.states[0].signal, sink.states[0].state, sink.states[0].on) == (
        "starting",
        None,
        False,
    )
    assert {m.signal for m in sink.states} == {"starting", "ok"}
    assert any(m.on and m.state == "alert" for m in sink.states)
    assert all(m.state is None for m in sink.states if m.signal == "starting")


async def test_silence_is_no_signal_and_a_standing_alert_stays(monkeypatch):
    monkeypatch.setattr(pipeline_module, "WATCH_EVERY_S", 0.01)
    clock = Clock()
    detector = make_detector(SPEC)
    cut = next(  # end the samples while an alert stands
        i
        for i, chunk in enumerate(chunks(), start=1)
        if (events := [x for x in detector.feed(chunk) if isinstance(x, AlertEvent)])
        and events[-1].on
    )
    source = ScriptedSource(chunks()[:cut], silent=True)
    sink = RecordingSink()
    async with make_reader(source, clock) as reader:
        running = asyncio.create_task(make_pipeline(reader, sink, clock).run())
        assert await asyncio.to_thread(source.silence.wait, 10)
        await sink.until(lambda: sink.states and sink.states[-1].on)
        clock.now_s += SILENT_AFTER_S + 0.1
        await sink.until(lambda: sink.states[-1].signal == "none")
        assert sink.states[-1].on
        assert sink.states[-1].state is None
        assert sink.states[-1].p is None
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_a_signal_that_cannot_be_classified_is_poor_and_never_ok():
    flat = [
        Chunk(samples=np.zeros((89, 1), np.float32), first_index=i, origin_s=100.0)
        for i in range(0, 890, 89)
    ]
    sink, _ = await run_to_the_end(ScriptedSource(flat))
    assert sink.states[-1].signal == "poor"
    assert all(m.p is None and m.state is None for m in sink.states)


async def test_a_stream_that_is_not_found_is_said_on_entering():
    error = StreamNotFoundError(wanted="name 'x'", waited_s=1, seen=())
    source = ScriptedSource(refuses=error)
    with pytest.raises(StreamNotFoundError):
        async with make_reader(source):
            pytest.fail("entered without a stream")
    assert source.closed.is_set()


async def test_what_a_person_must_mend_ends_the_pipeline_after_all_decisions():
    error = StreamChangedError("x", before="1 ch", now="4 ch")
    sink = RecordingSink()
    async with make_reader(ScriptedSource(chunks(), error=error)) as reader:
        with pytest.raises(StreamChangedError):
            await make_pipeline(reader, sink).run()
    assert sink.events


async def test_leaving_stops_the_thread_and_closes_the_source():
    source = ScriptedSource(silent=True)
    async with make_reader(source) as reader:
        thread = reader._thread
    assert source.closed.is_set()
    assert not thread.is_alive()


async def test_a_stalled_loop_sheds_predictions_and_never_events(monkeypatch):
    monkeypatch.setattr(pipeline_module, "INBOX_LIMIT", 3)
    source = ScriptedSource(chunks(5000))
    detector = make_detector(SPEC)
    offline = [item for chunk in chunks(5000) for item in detector.feed(chunk)]
    async with make_reader(source) as reader:
        source.closed.wait(10)  # the loop does nothing while the thread works to the end
        decided = [item async for decision in reader.decisions() for item in decision.items]
    ids = [item for item in offline if isinstance(item, AlertEvent)]
    assert [item for item in decided if isinstance(item, AlertEvent)] == ids
    assert reader.shed == len(offline) - len(decided) > 0


async def test_a_stream_that_never_sends_a_sample_is_no_signal(monkeypatch):
    monkeypatch.setattr(pipeline_module, "WATCH_EVERY_S", 0.01)
    clock = Clock()
    sink = RecordingSink()
    async with make_reader(ScriptedSource(silent=True), clock) as reader:
        running = asyncio.create_task(make_pipeline(reader, sink, clock).run())
        await sink.until(lambda: sink.states)
        clock.now_s += SILENT_AFTER_S + 0.1
        await sink.until(lambda: sink.states[-1].signal == "none")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def calibrating_run(head, n_samples=3000, **more):
    """Play a bundle for heads until its gain is measured, and beyond; its alarms are eager."""

    def make(spec):
        engine = ReferenceEngine(head, hop_samples=8)
        settings = DetectorSettings(rule=RULE)
        return Detector(bundle=head, spec=spec, engine=engine, settings=settings)

    signal = np.tile(EEG * np.float32(0.3), (3, 1))
    parts = [
        Chunk(samples=signal[i : i + 89], first_index=i, origin_s=100.0, received_s=100.0)
        for i in range(0, n_samples, 89)
    ]
    source, sink = ScriptedSource(parts), RecordingSink()
    async with make_reader(source, make=make) as reader:
        await make_pipeline(reader, sink, **more).run()
    return sink


async def test_while_gains_are_measured_the_signal_says_so_and_the_state_is_live(head):
    told = []
    sink = await calibrating_run(head, on_calibrated=told.append)
    assert [type(item) for item in told] == [Calibrated]
    signals = list(dict.fromkeys(m.signal for m in sink.predictions if m.p is not None))
    assert signals == ["calibrating", "ok"]
    assert all(m.state is not None for m in sink.states if m.signal == "calibrating")


async def test_what_the_channels_are_worth_is_offered_once_a_second(head):
    sink = await calibrating_run(head)
    times = [m.ts for m in sink.qualities]
    apart_s = np.diff([at.timestamp() for at in times])
    assert len(times) >= 10
    assert (apart_s >= 0.99).all()
    assert sink.qualities[-1].channels[0].channel == "C3"
    assert sink.qualities[-1].channels[0].gain == pytest.approx(sink.qualities[-2].channels[0].gain)
    assert {m.quality for m in sink.states} <= {None, "good", "fair", "poor"}
    assert sink.states[-1].quality == "good"


async def test_a_signal_that_is_flat_is_told_as_poor_quality():
    flat = [
        Chunk(samples=np.zeros((600, 1), np.float32), first_index=0, origin_s=100.0,
              received_s=100.0)
    ]  # fmt: skip
    sink, _ = await run_to_the_end(ScriptedSource(flat))
    assert sink.qualities[-1].channels[0].reasons == ("flat",)
    assert (sink.qualities[-1].signal, sink.qualities[-1].poor) == ("poor", 1)
    assert sink.states[-1].quality == "poor"


async def test_old_data_is_never_shown_as_a_live_signal():
    clock = Clock()
    clock.now_s = 100.0 + 2000 / 178 + 30.0  # every sample is at least 30 s old
    sink = RecordingSink()
    async with make_reader(ScriptedSource(chunks()), clock) as reader:
        await make_pipeline(reader, sink, clock).run()
    assert {m.signal for m in sink.states} == {"starting", "none"}
    assert all(m.state is None and m.p is None for m in sink.states)
    assert sink.events  # an alert is an alert, however late


async def test_a_stop_hands_on_every_event_that_was_decided():
    class SlowSink(RecordingSink):
        async def event(self, message):
            self.changed.set()
            await asyncio.sleep(0.01)
            self.events.append(message)

    source = ScriptedSource(chunks(5000), silent=True)
    detector = make_detector(SPEC)
    offline = [item for chunk in chunks(5000) for item in detector.feed(chunk)]
    ids = [(e.alert_id, e.seq) for e in offline if isinstance(e, AlertEvent)]
    sink = SlowSink()
    async with make_reader(source) as reader:
        running = asyncio.create_task(make_pipeline(reader, sink).run())
        await asyncio.to_thread(source.silence.wait, 10)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    stored = list(dict.fromkeys(m.event_id for m in sink.events))
    assert stored == [f"{alert_id}.{seq}" for alert_id, seq in ids]


async def test_a_signal_watch_that_fails_ends_the_pipeline(monkeypatch):
    monkeypatch.setattr(pipeline_module, "WATCH_EVERY_S", 0.0)

    class BrokenClock(Clock):
        broken = False

        def __call__(self):
            if self.broken:
                raise OSError("no clock")
            return self.now_s

    clock = BrokenClock()
    async with make_reader(ScriptedSource(silent=True), clock) as reader:
        pipeline = make_pipeline(reader, RecordingSink(), Clock())
        pipeline._clock = clock
        clock.broken = True
        pipeline._publish_state = lambda: None
        with pytest.raises(OSError, match="no clock"):
            await pipeline.run()


async def test_the_loop_is_woken_for_news_and_seldom_for_predictions_alone():
    quiet = AlarmSpec(
        raise_threshold=0.9999, clear_threshold=0.9998, smoothing_s=0, persistence_s=0,
        refractory_s=0,
    )  # fmt: skip

    def make(spec):
        engine = ReferenceEngine(BUNDLE, hop_samples=8)
        return Detector(
            bundle=BUNDLE, spec=spec, engine=engine, settings=DetectorSettings(rule=quiet)
        )

    source = ScriptedSource(chunks(size=8), silent=True)
    reader = make_reader(source, make=make)
    n_woken = 0
    really = reader._call

    def call(function):
        nonlocal n_woken
        n_woken += not source.silence.is_set()
        really(function)

    reader._call = call
    sink = RecordingSink()
    async with reader:
        running = asyncio.create_task(make_pipeline(reader, sink).run())
        await asyncio.to_thread(source.silence.wait, 10)
        await sink.until(lambda: len(sink.predictions) == (2000 - 120) // 8 + 1)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    n_news = sum(
        before.state is not after.state
        for before, after in zip(sink.predictions, sink.predictions[1:], strict=False)
    )
    assert n_woken <= 3 + n_news  # attached, the first prediction, and no time passes here


class DeviceInRealTime:
    """Has the samples that are due by the clock, which it moves on when there are none."""

    def __init__(self, clock, *, seconds):
        self.clock, self.seconds = clock, seconds
        self.stop = threading.Event()
        self.health = SourceHealth(state=SourceState.ATTACHED, samples=1)

    def open(self):
        self.begun_s = self.clock.now_s
        return SPEC

    def __iter__(self):
        n_sent = 0
        while n_sent < self.seconds * SPEC.rate_hz:
            n_due = int((self.clock.now_s - self.begun_s) * SPEC.rate_hz)
            if n_due == n_sent:
                self.clock.now_s += 0.001
                continue
            samples = np.take(EEG, range(n_sent, n_due), axis=0, mode="wrap")
            now_s = self.clock.now_s
            yield Chunk(samples, first_index=n_sent, origin_s=self.begun_s, received_s=now_s)
            n_sent = n_due
        self.n_sent = n_sent

    def close(self):
        pass


class SlowEngine(ReferenceEngine):
    """Takes its time on the clock for each window's worth of samples, for a while."""

    def __init__(self, clock, cost_s, *, slow_s):
        super().__init__(BUNDLE, hop_samples=8)
        self.clock, self.cost_s = clock, cost_s
        self.from_s, self.until_s = (clock.now_s + s for s in slow_s)

    def feed(self, samples):
        if self.from_s <= self.clock.now_s < self.until_s:
            self.clock.now_s += self.cost_s * sum(map(len, samples.values())) / self.hop_samples
        return super().feed(samples)


async def slowed_down(cost_s, *, slow_s=(3.0, 11.0), seconds=15.0, rule=RULE):
    """Return the reader, time, lag and p of each prediction, and how many windows were due."""
    clock = Clock()
    since_s = clock.now_s
    engine = SlowEngine(clock, cost_s, slow_s=slow_s)

    def make(spec):
        settings = DetectorSettings(rule=rule)
        return Detector(bundle=BUNDLE, spec=spec, engine=engine, settings=settings)

    source = DeviceInRealTime(clock, seconds=seconds)
    found = []
    async with Reader(source, make, clock=clock, stop=source.stop) as reader:
        async for decision in reader.decisions():
            found += [
                (p.at_s - since_s, decision.decided_s - p.at_s, p.p)
                for p in decision.items
                if isinstance(p, Prediction)
            ]
    assert reader.failure is None
    return reader, found, (source.n_sent - BUNDLE.window_samples) // 8 + 1


WINDOW_EVERY_S = 8 / SPEC.rate_hz


@pytest.mark.parametrize("slowness", [0.0, 0.5, 0.9, 1.2, 1.5, 1.9, 2.5, 2.9])
async def test_an_engine_that_is_too_slow_is_never_more_than_a_second_behind(slowness):
    reader, found, n_due = await slowed_down(slowness * WINDOW_EVERY_S)
    assert max(lag_s for _, lag_s, _ in found) <= 1.0
    assert reader.detector.n_windows == len(found)
    assert reader.detector.n_windows + reader.detector.n_windows_shed == n_due
    assert (reader.detector.n_windows_shed > 0) == (slowness > 1.0)


async def test_an_engine_that_hangs_for_seconds_sheds_what_waited_and_counts_it():
    reader, found, n_due = await slowed_down(3.0, slow_s=(3.0, 4.0))
    assert reader.detector.n_windows + reader.detector.n_windows_shed == n_due
    assert sum(lag_s > 1.0 for _, lag_s, _ in found) == 1  # the one it hung in


@pytest.mark.parametrize("slowness", [1.5, 2.9])
async def test_an_engine_that_is_fast_again_has_caught_up_within_two_seconds(slowness):
    rule = BUNDLE.alarm  # with its second of smoothing
    _, found, _ = await slowed_down(slowness * WINDOW_EVERY_S, rule=rule)
    later = [(lag_s, p) for at_s, lag_s, p in found if at_s >= 11.0 + 2.0]
    assert len(later) > 40
    assert all(lag_s < 0.1 and p is not None for lag_s, p in later)


async def test_an_engine_a_little_too_slow_still_decides_most_windows():
    reader, found, n_due = await slowed_down(1.2 * WINDOW_EVERY_S, slow_s=(0.0, 30.0), seconds=20.0)
    assert reader.detector.n_windows_shed
    assert len(found) > n_due / 2
