"""Detections on the demo's timeline over many seeds, offline, and a picture of one of them.

Each seed splices other held-out recordings into the shipped scenario ``demo``: two seizures of 23 s
in 156 s. The real detector runs over the whole timeline with the bundle's own alarm rule, except
that the refractory time is the demo's 10 s, so that both seizures can be told apart.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe
from simulators import scenario
from simulators.blocks import OFFSET, ONSET, RATE_HZ
from stream_classifier.bundle import load_bundle
from stream_classifier.cli.demo import REFRACTORY_S
from stream_classifier.config import AlarmSettings
from stream_classifier.datasets import load_rows
from stream_classifier.demo import GRACE_S
from stream_classifier.detection.detector import Detector
from stream_classifier.engines import make_engine
from stream_classifier.service import detector_settings
from stream_classifier.signals import AlertEvent, Chunk, EventType, Prediction, StreamSpec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--bundle", default="bonn")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--picture", type=Path, help="write a picture of the scenario's own seed")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    table = load_rows(arguments.data)
    bundle = load_bundle(arguments.bundle)
    shipped = scenario.load("demo")
    latencies, false_alarms, n_seizures, hours = [], 0, 0, 0.0
    for seed in range(arguments.seeds):
        timeline = _play(dataclasses.replace(shipped, seed=seed), table, bundle)
        raised = [
            e.at_s
            for e in timeline.items
            if isinstance(e, AlertEvent) and e.type is EventType.RAISED
        ]
        for onset_s, offset_s in timeline.seizures:
            within = [at_s for at_s in raised if onset_s <= at_s <= offset_s + GRACE_S]
            latencies += [within[0] - onset_s] if within else []
            raised = [at_s for at_s in raised if at_s not in within]
        false_alarms += len(raised)
        n_seizures += len(timeline.seizures)
        hours += len(timeline.samples) / RATE_HZ / 3600
        if arguments.picture and seed == shipped.seed:
            _draw(timeline, bundle, arguments.picture)
    return {
        "machine": describe(),
        "bundle": bundle.digest,
        "hours": round(hours, 2),
        "seizures": n_seizures,
        "detected": len(latencies),
        "false_alarms": false_alarms,
        "latency_s": {
            name: round(float(np.percentile(latencies, q)), 2)
            for name, q in (("median", 50), ("p90", 90), ("max", 100))
        },
    }


def table(result: dict[str, Any]) -> str:
    late = result["latency_s"]
    return (
        f"{result['detected']} of {result['seizures']} seizures in {result['hours']} h, "
        f"{result['false_alarms']} false alarms; latency median {late['median']} s, "
        f"p90 {late['p90']} s, worst {late['max']} s"
    )


@dataclasses.dataclass(frozen=True)
class _Timeline:
    samples: np.ndarray
    seizures: list[tuple[float, float]]
    items: list[Prediction | AlertEvent]


def _play(played: Any, rows: Any, bundle: Any) -> _Timeline:
    blocks = list(scenario.play(played, n_channels=1, table=rows, keys=bundle.split.test))
    starts = np.cumsum([0, *(len(block.samples) for block in blocks)])
    marks = [
        (event, (start + offset) / RATE_HZ)
        for start, block in zip(starts, blocks, strict=False)
        for offset, event in block.events
    ]
    onsets = [at_s for event, at_s in marks if event == ONSET]
    offsets = [at_s for event, at_s in marks if event == OFFSET]
    samples = np.concatenate([block.samples for block in blocks])
    detector = Detector(
        bundle=bundle,
        spec=StreamSpec(name="timeline", source_id="timeline", rate_hz=RATE_HZ, labels=("EEG",)),
        engine=make_engine(bundle),
        settings=detector_settings(bundle, AlarmSettings(refractory_s=REFRACTORY_S)),
    )
    items = detector.feed(Chunk(samples=samples, first_index=0))
    return _Timeline(samples, list(zip(onsets, offsets, strict=True)), items)


def _draw(timeline: _Timeline, bundle: Any, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    known = [p for p in timeline.items if isinstance(p, Prediction) and p.p is not None]
    events = [e for e in timeline.items if isinstance(e, AlertEvent)]
    figure, (eeg, probability) = plt.subplots(
        2, 1, sharex=True, figsize=(11, 4.6), height_ratios=(1.2, 1), layout="constrained"
    )
    t = np.arange(len(timeline.samples)) / RATE_HZ
    eeg.plot(t, timeline.samples[:, 0], color="#1f2937", linewidth=0.35)
    eeg.set_ylabel("EEG (µV)")
    probability.plot([p.at_s for p in known], [p.p for p in known], color="#1d4ed8", linewidth=1.2)
    for value, name in (
        (bundle.alarm.raise_threshold, "raise"),
        (bundle.alarm.clear_threshold, "clear"),
    ):
        probability.axhline(value, color="#6b7280", linewidth=0.8, linestyle="--")
        probability.text(t[-1], value, f" {name}", va="center", fontsize=8, color="#374151")
    for axis in (eeg, probability):
        for i, (start, stop) in enumerate(timeline.seizures):
            label = "seizure (truth)" if i == 0 else None
            axis.axvspan(start, stop, color="#f59e0b", alpha=0.25, linewidth=0, label=label)
    for i, event in enumerate(e for e in events if e.type is EventType.RAISED):
        label = "alert raised" if i == 0 else None
        probability.plot(event.at_s, event.p, "v", color="#b91c1c", markersize=9, label=label)
    for i, event in enumerate(e for e in events if e.type is EventType.ENDED):
        label = "alert ended" if i == 0 else None
        probability.plot(event.at_s, event.p, "s", color="#047857", markersize=6, label=label)
    probability.set(
        ylabel=f"p(seizure), {bundle.alarm.smoothing_s:g} s mean",
        xlabel="time (s)",
        ylim=(-0.04, 1.08),
    )
    probability.set_xlim(0, t[-1])
    probability.legend(loc="center right", fontsize=8, framealpha=0.9)
    figure.suptitle(
        "Held-out recordings spliced into the demo's timeline, through the real detector",
        fontsize=10,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
