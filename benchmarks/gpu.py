"""Streams in real time on a GPU, beside torch batched over the due windows on the same GPU.

Streams are fed one hop in a call, all of them, by the torch engine; in the same rounds the whole
network as one would write it (``peers.PlainNetwork``) classifies every due window in one batch.
Both times go from samples in the host's memory to probabilities there. Skipped, with a reason,
where there is no CUDA device; ``--device cpu`` runs the same code there, to try it.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from typing import Any, Final

import numpy as np

from benchmarks.engine import PLAIN, _Load, _LoadedEngine, _Signal
from benchmarks.machine import describe
from stream_classifier.bundle import Bundle, load_bundle
from stream_classifier.engines import make_engine

NETWORKS: Final = ("headset", "bonn", "plain")
CHANNELS: Final = (64, 1024, 16_384, 65_536)
CHANNELS_A_STREAM: Final = 64
WARM_UP_CALLS: Final = 3
"""Calls before the clock runs: they allocate, and capture the graph of the step."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare this benchmark's options."""
    add = parser.add_argument
    add("--networks", nargs="+", default=list(NETWORKS), help="plain, or bundles' names or folders")
    add("--channels", type=int, nargs="+", default=list(CHANNELS), help="in streams of up to 64")
    add("--hop", type=int, default=8, help="samples")
    add("--calls", type=int, default=50, help="of each, in turn")
    add("--device", default="cuda", choices=["cuda", "cpu"])


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return machine and rows, or why it was skipped."""
    result: dict[str, Any] = {"machine": describe()}
    if importlib.util.find_spec("torch") is None:
        return {**result, "skipped": "torch is not installed"}
    import torch

    result["versions"] = {"torch": torch.__version__, "cuda": torch.version.cuda}
    if arguments.device == "cuda" and not torch.cuda.is_available():
        return {**result, "skipped": "torch finds no CUDA device"}
    device = torch.device(arguments.device)
    result["device"] = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    result["rows"] = [
        _row(load_bundle(PLAIN if name == "plain" else name), n_channels, arguments)
        for name in arguments.networks
        for n_channels in arguments.channels
    ]
    return result


def table(result: dict[str, Any]) -> str:
    """Return the figures as text."""
    if "skipped" in result:
        return f"{result['machine']}\nskipped: {result['skipped']}"
    lines = [f"{result['machine']} {result['versions']} {result['device']}"]
    lines.append(
        f"{'network':10} {'channels':>8} {'windows/s':>12} {'real-time channels':>19} "
        f"{'p50 ms':>8} {'p99 ms':>8} {'torch batched':>14} {'ratio':>6}"
    )
    lines += [
        f"{row['network']:10} {row['channels']:8} {row['windows_per_s']:12,.0f} "
        f"{row['channels_in_real_time']:19,} {row['latency_ms']['p50']:8.2f} "
        f"{row['latency_ms']['p99']:8.2f} {row['torch_batched_windows_per_s'] or 0:14,.0f} "
        f"{row['ratio'] or '-':>6}"
        for row in result["rows"]
    ]
    return "\n".join(lines)


def _row(bundle: Bundle, n_channels: int, arguments: argparse.Namespace) -> dict[str, Any]:
    each = min(CHANNELS_A_STREAM, n_channels)
    load = _Load(max(1, n_channels // each), each)
    engine = make_engine(bundle, name="torch", device=arguments.device, hop_samples=arguments.hop)
    ours = _LoadedEngine("torch", engine, load, bundle)
    theirs = _batched(bundle, load, arguments.device) if bundle.mode == "windowed" else None
    for _ in range(WARM_UP_CALLS):
        ours.call()
        if theirs is not None:
            theirs()
    took_s: list[float] = []
    peer_s: list[float] = []
    for _ in range(arguments.calls):
        took_s.append(ours.call()[0])
        if theirs is not None:
            peer_s.append(theirs())
    rate = load.channels / statistics.median(took_s)
    peer_rate = load.channels / statistics.median(peer_s) if peer_s else None
    return {
        "network": bundle.name,
        "mode": bundle.mode,
        "channels": load.channels,
        "hop": arguments.hop,
        "windows_per_s": round(rate, 1),
        "channels_in_real_time": int(rate / (bundle.rate_hz / arguments.hop)),
        "latency_ms": {f"p{q}": round(float(np.percentile(took_s, q)) * 1e3, 3) for q in (50, 99)},
        "torch_batched_windows_per_s": None if peer_rate is None else round(peer_rate, 1),
        "ratio": None if peer_rate is None else round(rate / peer_rate, 2),
    }


def _batched(bundle: Bundle, load: _Load, device: str) -> Any:
    """Return what classifies every due window in one batch, and says how many seconds it took."""
    import torch

    from benchmarks.peers import PlainNetwork

    network = PlainNetwork(bundle).to(device)
    windows = _Signal(bundle, load).windows(0, bundle.window_samples)

    def call() -> float:
        start = time.perf_counter()
        # As the engine: TF32 would keep 10 bits of each factor.
        no_tf32 = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with torch.inference_mode(), no_tf32:
            network(torch.from_numpy(windows).to(device)).cpu()
        return time.perf_counter() - start

    return call
