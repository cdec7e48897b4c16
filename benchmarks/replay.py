"""How many times faster than real time a recording runs through the whole detector.

Chunks of a second, as a recording is played: resampler (equal rates), filters, quality gate, gain,
scaler, engine, smoother, fusion and alarm. The material is the neural mass model's, so no data
set is needed. Beside it the same hop by hop, as a live stream comes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np

from benchmarks.machine import describe
from simulators.blocks import RATE_HZ
from simulators.neural_mass import NeuralMass
from stream_classifier.bundle import Bundle, load_bundle
from stream_classifier.config import AlarmSettings
from stream_classifier.detection.detector import Detector
from stream_classifier.engines import make_engine
from stream_classifier.service import detector_settings
from stream_classifier.signals import Chunk, StreamSpec
from stream_classifier.sources.recording import CHUNK_S

BUNDLES = ("headset", "bonn", "bonn-continuous")
LIVE_CHUNK_SAMPLES = 8
SETTLE_S = 90.0
"""Of signal first: afterwards gains are measured and smoothing windows are full."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--channels", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--bundles", nargs="+", default=list(BUNDLES))
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--seconds", type=float, default=240.0, help="of signal a round")
    parser.add_argument("--rounds", type=int, default=3)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return a row for each bundle and number of channels; medians of the rounds."""
    rows = []
    for n_channels in arguments.channels:
        signal = _signal(n_channels, seconds=SETTLE_S + arguments.seconds)
        rows += [
            _row(name, arguments.engine, signal, arguments.rounds) for name in arguments.bundles
        ]
    return {"machine": describe(), "rows": rows}


def table(result: dict[str, Any]) -> str:
    lines = [
        str(result["machine"]),
        (
            f"{'bundle':16} {'engine':16} {'channels':>8} {'x real time':>11} {'us/window':>10} "
            f"{'of it engine':>12} {'live hop p50/p99, us':>22}"
        ),
    ]
    lines += [
        f"{row['bundle']:16} {row['engine']:16} {row['channels']:8} "
        f"{row['times_real_time']:11,.0f} {row['us_per_window']:10.1f} "
        f"{row['engine_share']:12.0%} "
        f"{row['live_hop_us']['p50']:13.0f} /{row['live_hop_us']['p99']:6.0f}"
        for row in result["rows"]
    ]
    return "\n".join(lines)


class _Timed:
    """An engine that says how long it took."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.took_s = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def feed(self, samples: Any) -> Any:
        start = time.perf_counter()
        finished = self._engine.feed(samples)
        self.took_s += time.perf_counter() - start
        return finished


def _row(bundle_name: str, engine_name: str, signal: np.ndarray, n_rounds: int) -> dict[str, Any]:
    bundle = load_bundle(bundle_name)
    chunk_samples = round(CHUNK_S * RATE_HZ)
    n_settle = round(SETTLE_S * RATE_HZ)
    seconds, windows, engine_s, hops_s = [], 0, [], []
    for _ in range(n_rounds):
        engine = _Timed(make_engine(bundle, name=engine_name))  # type: ignore[arg-type]
        detector = _detector(bundle, engine, signal.shape[1])
        _feed(detector, signal[:n_settle], 0, chunk_samples)
        windows, engine.took_s = -detector.n_windows, 0.0
        took_s = _feed(detector, signal[n_settle:], n_settle, chunk_samples)
        seconds.append(sum(took_s))
        engine_s.append(engine.took_s)
        windows += detector.n_windows
        # and as it comes live, from where the recording ended
        live = signal[: round(20 * RATE_HZ)]
        hops_s += _feed(detector, live, len(signal), LIVE_CHUNK_SAMPLES)
    took = statistics.median(seconds)
    return {
        "bundle": bundle.name,
        "engine": type(engine._engine).__name__,  # noqa: SLF001
        "channels": signal.shape[1],
        "times_real_time": round((len(signal) - n_settle) / RATE_HZ / took, 1),
        "us_per_window": round(took / windows * 1e6, 1),
        "engine_share": round(statistics.median(engine_s) / took, 3),
        "live_hop_us": {f"p{q}": round(float(np.percentile(hops_s, q)) * 1e6, 1) for q in (50, 99)},
    }


def _feed(detector: Detector, signal: np.ndarray, first: int, chunk: int) -> list[float]:
    """Feed chunk by chunk; return how long each took, seconds."""
    took = []
    for start in range(0, len(signal), chunk):
        begun = time.perf_counter()
        detector.feed(Chunk(signal[start : start + chunk], first + start))
        took.append(time.perf_counter() - begun)
    return took


def _detector(bundle: Bundle, engine: Any, n_channels: int) -> Detector:
    return Detector(
        bundle=bundle,
        spec=StreamSpec(
            name="replay",
            source_id="replay",
            rate_hz=RATE_HZ,
            labels=tuple(f"E{i + 1}" for i in range(n_channels)),
        ),
        engine=engine,
        settings=detector_settings(bundle, AlarmSettings()),
    )


def _signal(n_channels: int, *, seconds: float) -> np.ndarray:
    """Half a minute of background, again and again; shape ``(n_samples, n_channels)``, µV."""
    stretch = NeuralMass(n_channels=n_channels, seed=7).run(round(30 * RATE_HZ))
    return np.resize(stretch, (round(seconds * RATE_HZ), n_channels))
