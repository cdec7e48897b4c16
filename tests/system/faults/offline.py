"""What a faulty device sends, through the real timeline and detector, as fast as it goes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from simulators.blocks import RATE_HZ, Block, cut
from simulators.faults import Transport, inject, parse
from simulators.scenario import parse as parse_scenario
from simulators.scenario import play as play_scenario
from stream_classifier.detection.detector import Detector, DetectorSettings
from stream_classifier.engines import make_engine
from stream_classifier.health import Facts, Ladder, Rung
from stream_classifier.signals import (
    AlertEvent,
    Chunk,
    Prediction,
    SourceHealth,
    SourceState,
    StreamSpec,
)
from stream_classifier.sinks.messages import MessageBuilder, ModelRef, WallClock
from stream_classifier.sources.timeline import Timeline

START_S = 5_000.0
LOOK_EVERY_S = 0.25


class Looked(NamedTuple):
    """Two rungs of the health ladder, as often as the pipeline looks."""

    at_s: float
    rate: str
    quality: str
    reason: str


@dataclass
class Played:
    """What came of it. Times are seconds of signal from the device's first sample."""

    timeline: Timeline
    detector: Detector
    n_pushed: int = 0
    accepted: list[Chunk] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)
    events: list[AlertEvent] = field(default_factory=list)
    payloads: list[dict] = field(default_factory=list)
    health: list[Looked] = field(default_factory=list)

    @property
    def indices(self):
        return [index for chunk in self.accepted for index in chunk.indices]

    @property
    def samples(self):
        return np.concatenate([chunk.samples for chunk in self.accepted])

    @property
    def raised(self):
        return [event for event in self.events if event.type == "raised"]

    def times(self, condition):
        """When predictions were as asked, in seconds of signal."""
        return [p.at_s - START_S for p in self.predictions if condition(p)]


def synthetic(*parts, n_channels=1, seed=3, loop=False):
    """Blocks of the neural mass model: pairs of a state and its seconds."""
    text = "".join(f'[[part]]\nstate = "{state}"\nseconds = {s}\n' for state, s in parts)
    return play_scenario(parse_scenario(f"seed = {seed}\n{text}"), n_channels=n_channels, loop=loop)


def play(
    blocks,
    *specs,
    bundle,
    labels=("Cz",),
    rate_hz=RATE_HZ,
    seed=0,
    chunk_samples=16,
    gains=None,
    look_every_s=LOOK_EVERY_S,
):
    """Send blocks with faults, place the samples, detect, and make the messages now and then."""
    faults = tuple(map(parse, specs))
    transport = Transport(rate_hz, faults)
    spec = StreamSpec("bed3", "amp-1", rate_hz, labels, simulated=True)
    rule = bundle.alarm
    detector = Detector(
        bundle=bundle,
        spec=spec,
        engine=make_engine(bundle),
        settings=DetectorSettings(rule=rule, gains=gains),
    )
    builder = MessageBuilder(
        spec=spec,
        model=ModelRef(bundle.name, bundle.digest, rule.raise_threshold, rule.clear_threshold),
        clock=WallClock(offset_s=1.7e9),
    )
    out = Played(Timeline(rate_hz), detector)
    ladder = Ladder()
    out.health.append(look(ladder, out, at_s=START_S, has_decided=False))
    broken = inject(blocks, faults, labels=labels, rate_hz=rate_hz, seed=seed)
    for piece in cut(broken, chunk_samples=chunk_samples):
        for samples, stamps in transport.pushes(piece, lambda i: START_S + i / transport.true_hz):
            out.n_pushed += len(samples)
            chunks = out.timeline.place(samples, np.array(stamps), received_s=stamps[-1])
            for chunk in chunks:
                out.accepted.append(chunk)
                take(out, builder, ladder, detector.feed(chunk), look_every_s)
    detector.close()
    return out


def take(out, builder, ladder, items, look_every_s):
    for item in items:
        decided = builder.clock.utc(item.at_s)
        messages = []
        if isinstance(item, AlertEvent):
            out.events.append(item)
            messages = [builder.event(item, state=None, signal="ok", decided=decided)]
        elif isinstance(item, Prediction):
            out.predictions.append(item)
            if out.health[-1].at_s + look_every_s <= item.at_s - START_S:
                out.health.append(look(ladder, out, at_s=item.at_s))
                messages = [
                    builder.prediction(item, signal="ok", decided=decided),
                    builder.quality(out.detector.quality, at_s=item.at_s, signal="ok"),
                    builder.alert(
                        at_s=item.at_s, prediction=item, latest=None, signal="ok", decided=decided
                    ),
                ]
        out.payloads += [json.loads(m.model_dump_json(by_alias=True)) for m in messages]


def look(ladder, out, *, at_s, has_decided=True):
    """The health ladder's quality rung, as the pipeline would ask for it."""
    timeline = out.timeline
    source = SourceHealth(
        state=SourceState.ATTACHED,
        detail="",
        last_received_s=at_s,
        lag_s=0.0,
        measured_hz=timeline.measured_hz,
        samples=timeline.n_samples,
        gaps=timeline.n_gaps,
        missing_samples=timeline.n_missing,
        duplicates=timeline.n_duplicates,
        reconnects=0,
    )
    health = ladder.look(
        Facts(
            now_s=at_s,
            source=source,
            last_sample_s=at_s,
            nominal_hz=timeline.rate_hz,
            has_decided=has_decided,
            calibrating=out.detector.calibrating,
            channels=out.detector.quality,
        )
    )
    steps = {step.rung: step for step in health.steps}
    rate, quality = steps[Rung.RATE], steps[Rung.QUALITY]
    return Looked(at_s - START_S, str(rate.condition), str(quality.condition), quality.reason)


@lru_cache(maxsize=8)
def pink(seconds, *, n_channels=4, rms_uv=15.0, rate_hz=RATE_HZ, seed=7):
    """A head at rest, as blocks of a second."""
    rng = np.random.default_rng(seed)
    n = round(seconds * rate_hz)
    spectrum = np.fft.rfft(rng.normal(size=(n, n_channels)), axis=0)
    hz = np.fft.rfftfreq(n, 1 / rate_hz)[:, None]
    x = np.fft.irfft(spectrum / np.maximum(hz, 2.0), n=n, axis=0)
    x = (x * rms_uv / x.std()).astype(np.float32)
    step = round(rate_hz)
    return tuple(Block(x[start : start + step]) for start in range(0, n, step))
