"""Windows a second of each engine, beside torch run plainly on one window at a time.

Every engine is fed the same real windows (the bundle's self-test signal), hop by hop, as they
would arrive; rounds of all engines are interleaved, and the median round counts.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from typing import Any

import numpy as np

from benchmarks.machine import describe
from stream_classifier.bundle import Bundle, load_bundle
from stream_classifier.detection.scaler import FrozenScaler
from stream_classifier.engines import make_engine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare this benchmark's options."""
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--hops", type=int, nargs="+", default=[8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bundle", default="bonn")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return machine, versions, a row for each engine and load, and ratios to plain torch."""
    bundle = load_bundle(arguments.bundle)
    scaler = FrozenScaler(mean_uv=bundle.scaler_mean_uv, std_uv=bundle.scaler_std_uv)
    z = scaler.scale(bundle.selftest_windows.ravel())[:, None]
    names = ["reference"]
    versions = {}
    if importlib.util.find_spec("torch") is not None:
        import torch

        torch.set_num_threads(1)
        names += ["torch", "torch, one window at a time"]
        versions["torch"] = torch.__version__
    rows = []
    for hop in arguments.hops:
        for n_streams in arguments.streams:
            rounds: dict[str, list[float]] = {name: [] for name in names}
            latencies: dict[str, list[float]] = {name: [] for name in names}
            for _ in range(arguments.rounds):
                for name in names:
                    rate, late = _round(name, bundle, z, n_streams=n_streams, hop=hop)
                    rounds[name].append(rate)
                    latencies[name] += late
            rows += [
                {
                    "network": bundle.name,
                    "engine": name,
                    "streams": n_streams,
                    "hop": hop,
                    "windows_per_s": round(statistics.median(rounds[name]), 1),
                    "latency_us": {
                        "p50": round(float(np.percentile(latencies[name], 50)) * 1e6, 1),
                        "p99": round(float(np.percentile(latencies[name], 99)) * 1e6, 1),
                    },
                }
                for name in names
            ]
    plain = {
        (row["streams"], row["hop"]): row["windows_per_s"]
        for row in rows
        if row["engine"] == "torch, one window at a time"
    }
    for row in rows:
        if plain:
            base = plain[row["streams"], row["hop"]]
            row["times_plain_torch"] = round(row["windows_per_s"] / base, 2)
    return {"machine": describe(), "versions": versions, "rows": rows}


def table(result: dict[str, Any]) -> str:
    """Return the figures as text."""
    lines = [f"{result['machine']} {result['versions']}"]
    lines.append(
        f"{'engine':28} {'streams':>7} {'hop':>4} {'windows/s':>10} {'p50 us':>8} {'ratio':>6}"
    )
    lines += [
        f"{row['engine']:28} {row['streams']:7} {row['hop']:4} {row['windows_per_s']:10,.0f} "
        f"{row['latency_us']['p50']:8.0f} {row.get('times_plain_torch', '-'):>6}"
        for row in result["rows"]
    ]
    return "\n".join(lines)


def _round(
    name: str, bundle: Bundle, z: np.ndarray, *, n_streams: int, hop: int
) -> tuple[float, list[float]]:
    """Feed every stream hop by hop; return windows a second and seconds a call."""
    n_hops = max(40, 400 // n_streams)
    warm_up = 120
    z = np.resize(z, (warm_up + n_hops * hop, 1))
    if name == "torch, one window at a time":
        return _plain_torch(bundle, z, n_streams=n_streams, hop=hop, n_hops=n_hops)
    engine = make_engine(bundle, name=name, hop_samples=hop)  # type: ignore[arg-type]
    handles = [engine.open(1) for _ in range(n_streams)]
    engine.feed(dict.fromkeys(handles, z[:warm_up]))
    took = []
    for i in range(warm_up, len(z), hop):
        start = time.perf_counter()
        engine.feed(dict.fromkeys(handles, z[i : i + hop]))
        took.append(time.perf_counter() - start)
    return n_hops * n_streams / sum(took), took


def _plain_torch(
    bundle: Bundle, z: np.ndarray, *, n_streams: int, hop: int, n_hops: int
) -> tuple[float, list[float]]:
    """What one would write first: each due window of each stream through the network alone."""
    engine = make_engine(bundle, name="torch", hop_samples=hop)
    took = []
    for i in range(n_hops):
        window = z[i * hop : i * hop + 120, 0][None]
        start = time.perf_counter()
        for _ in range(n_streams):
            engine._forward(window)  # noqa: SLF001 - the network itself is what is measured
        took.append(time.perf_counter() - start)
    return n_hops * n_streams / sum(took), took
