"""Windows a second and decision latency of the engines, beside torch, ONNX Runtime and OpenVINO.

Everything runs on one core with one thread and gets the same real signal (the held-out self-test
windows of a bundle, for every channel from another place on), with trained weights: on random ones
the states of overlapping windows merge, and what is measured is another problem. First all outputs
are compared with the reference engine's; who differs by more than 1e-4 is not measured.

*Throughput.* Streams are fed hop by hop, all in one call, as they would arrive at a busy
server; peers (``peers.py``) get every window that is due, ready-made. All take turns in each round,
so that a busy machine hits all alike, and the median round counts. What an engine puts off
until after a decision is within the time.

*Latency.* From the newest sample in hand to the probabilities of all streams. Warm: sample after
sample, back to back, and only the calls that decide count. Cold: one sample every 1/178 s, asleep
in between, as on a real stream. After each decision the engine may catch up, as it does in the
pipeline, outside the time. A peer's latency is that of all windows that are due.

*Useful arithmetic* is counted per window as two for each multiply-add that is left when nothing is
done twice: the stem and the first layer's product with its inputs once for each step of a hop, the
rest of the LSTM once for each step of the window (continuous: of the hop), and the head once.
``fraction_of_peak`` is that, times windows a second, over the multiply-adds that one core of this
machine was seen to do. A peer does the stem for every window anew; it is not useful twice.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks import peer_names
from benchmarks.engine_table import table
from benchmarks.machine import describe, load_average, one_core
from stream_classifier.bundle import Bundle, load_bundle
from stream_classifier.detection.scaler import FrozenScaler
from stream_classifier.engines import make_engine
from stream_classifier.engines.native import fma_peak_gflops, instruction_sets
from stream_classifier.engines.plan import Plan
from stream_classifier.engines.reference import classify_windows
from stream_classifier.errors import StreamClassifierError
from stream_classifier.signals import Engine

if TYPE_CHECKING:
    from benchmarks.peers import Peer, Peers

__all__ = ["add_arguments", "measure", "table"]

F32 = NDArray[np.float32]

PLAIN: Final = Path(__file__).parent / "models" / "plain"
"""A trained LSTM of two layers on the scaled samples, the shape of the published study."""

NETWORKS: Final = ("plain", "bonn", "headset")
ENGINES: Final = ("native", "reference", "torch")
STREAMS: Final = (1, 8, 64, 512, 4096)
OTHER_HOPS: Final = (1, 4, 16)
"""Measured, where the network allows, at a few loads only, unless hops are asked for."""

CHANNELS_A_STREAM: Final = 64
TOLERANCE: Final = 1e-4
MAX_ONE_AT_A_TIME: Final = 512
"""Windows in a call of a peer that takes one at a time: more would only take longer."""

MAX_REFERENCE_STATES: Final = 131_072
"""States beyond which the reference engine's intermediate results take gigabytes."""

COLD_STREAMS: Final = (1, 64)
MANY_CHANNELS: Final = 4096
"""From here on a call takes up to seconds, and three rounds do."""

PEAK_S: Final = 0.05
"""Time to find a core's peak in each round: it changes with what else the machine does."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare this benchmark's options."""
    add = parser.add_argument
    add("--networks", nargs="+", default=list(NETWORKS), help="plain, or bundles' names or folders")
    add("--streams", type=int, nargs="+", help=f"of one channel; default {STREAMS}")
    add("--channels", type=int, nargs="+", help=f"in streams of {CHANNELS_A_STREAM}, rounded up")
    add("--hops", type=int, nargs="+", help="samples; default the bundle's, and a few of others")
    add("--engines", nargs="+", help=f"{ENGINES}, or how names of peers begin")
    add("--rounds", type=int, default=5)
    add("--budget-s", type=float, default=0.1, help="time of each in each round")
    add("--cold-s", type=float, default=3.0, help="seconds of each at real-time pace; 0: none")
    add("--quick", action="store_true", help="1, 8 and 64 streams, one hop, short rounds")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return machine, versions, networks, what was checked and skipped, rows and ratios."""
    loads = _loads(arguments)
    rounds, budget_s, cold_s = arguments.rounds, arguments.budget_s, arguments.cold_s
    hops = arguments.hops
    if arguments.quick:
        rounds, budget_s, cold_s = min(rounds, 3), min(budget_s, 0.03), min(cold_s, 1.0)
    session = _Session(
        wanted=arguments.engines, rounds=rounds, budget_s=budget_s, cold_s=cold_s, peak=_peak()
    )
    with one_core() as core:
        machine = {**describe(), "core": core}
        for name in arguments.networks:
            bundle = load_bundle(PLAIN if name == "plain" else name)
            session.measure_network(bundle, loads, hops=hops, only_own=arguments.quick)
        machine["load_average_after"] = load_average()
    peak = round(statistics.median(session.peaks), 1) if session.peaks else None
    _add_fractions(session.rows, session.networks, peak)
    if any((row["fraction_of_peak"] or 0) > 1 for row in session.rows):
        session.skipped["fraction_of_peak"] = f"{peak:g} GFLOP/s cannot be the peak: more was done"
        peak = None
        _add_fractions(session.rows, session.networks, None)
    return {
        "machine": machine,
        "versions": _versions(),
        "fma_peak_gflops": peak,
        "engines": session.engines,
        "networks": session.networks,
        "checked": session.checked,
        "rows": session.rows,
        "ratios": _ratios(session.rows),
        "skipped": session.skipped,
    }


def useful_flop(bundle: Bundle, *, hop_samples: int) -> int:
    """Floating-point operations that a window needs when nothing is done twice; see the module."""
    net, plan = bundle.network, Plan.of(bundle, hop_samples=hop_samples)
    H, a_step, inputs = net.hidden, 0, net.n_features
    outputs_a_step = net.stride_samples  # of each convolution, from one step to the next
    for conv in net.stem:
        outputs_a_step //= conv.stride
        a_step += outputs_a_step * 2 * conv.channels * inputs * conv.kernel
        inputs = conv.channels
    a_step += 2 * 4 * H * inputs
    a_state = 2 * 4 * H * H + (net.layers - 1) * 2 * 4 * H * 2 * H
    n_states = plan.n_steps if plan.is_windowed else plan.steps_per_hop
    return plan.steps_per_hop * a_step + n_states * a_state + 2 * net.outputs * 3 * H


@dataclass(frozen=True, slots=True)
class _Load:
    """So many streams of so many channels each, all in step."""

    streams: int
    channels_each: int = 1

    @property
    def channels(self) -> int:
        return self.streams * self.channels_each


class _Signal:
    """Endless real signal: z-scores of a bundle's self-test windows, elsewhere for each channel."""

    def __init__(self, bundle: Bundle, load: _Load) -> None:
        scaler = FrozenScaler(mean_uv=bundle.scaler_mean_uv, std_uv=bundle.scaler_std_uv)
        self._z = scaler.scale(bundle.selftest_windows.ravel())
        starts = 101 * np.arange(load.channels)  # a prime: far apart, and never the same place
        self._starts = starts.reshape(load.streams, 1, load.channels_each)

    def samples(self, first: int, n: int) -> F32:
        """Shape ``(streams, n, channels_each)``, from sample ``first`` on."""
        at = first + np.arange(n)[None, :, None] + self._starts
        return np.take(self._z, at, mode="wrap")

    def windows(self, first: int, n: int) -> F32:
        """Shape ``(channels, n)``, from sample ``first`` on."""
        return np.take(self._z, first + np.arange(n) + self._starts.reshape(-1, 1), mode="wrap")


def _no_pace() -> None:
    """Do not wait for the next sample."""


class _LoadedEngine:
    """One of our engines under a load: every stream past its first window, in the steady state."""

    def __init__(self, name: str, engine: Engine, load: _Load, bundle: Bundle) -> None:
        self.name = name
        self.hop: int | None = engine.hop_samples
        self._engine = engine
        self._hop = engine.hop_samples
        self._load = load
        self._signal = _Signal(bundle, load)
        self._now = bundle.window_samples
        # One stream warms up, the others go on from it: thousands would take minutes.
        first = engine.open(load.channels_each)
        engine.feed({first: self._signal.samples(0, self._now)[0]})
        packed = engine.snapshot(first)
        self._handles = [first, *(engine.restore(packed) for _ in range(load.streams - 1))]

    def call(self) -> tuple[float, int]:
        """Feed all streams one hop; return seconds and windows."""
        samples = self._next(self._hop)
        start = time.perf_counter()
        self._engine.feed(samples)
        self._engine.catch_up()
        return time.perf_counter() - start, self._load.channels

    def decide(self, *, hop: int, pace: Callable[[], None] = _no_pace) -> float:
        """Feed samples singly until windows are finished; return the seconds of that last call."""
        took = 0.0
        for _ in range(hop):
            samples = self._next(1)
            pace()
            start = time.perf_counter()
            self._engine.feed(samples)
            took = time.perf_counter() - start
        self._engine.catch_up()
        return took

    def _next(self, n: int) -> dict[int, F32]:
        samples = self._signal.samples(self._now, n)
        self._now += n
        return dict(zip(self._handles, samples, strict=True))


class _LoadedPeer:
    """A peer under a load; it is given each window ready-made."""

    hop = None
    """Its windows cost the same however far apart they are."""

    def __init__(self, peer: Peer, load: _Load, bundle: Bundle) -> None:
        self.name = peer.name
        self._peer = peer
        self._signal = _Signal(bundle, load)
        self._window = bundle.window_samples
        self._n = load.channels if peer.is_batched else min(load.channels, MAX_ONE_AT_A_TIME)
        self.is_whole = self._n == load.channels
        self._now = 0

    def call(self) -> tuple[float, int]:
        """Classify the windows that are due; return seconds and windows."""
        windows = self._next(self._window // 15)
        start = time.perf_counter()
        self._peer(windows)
        return time.perf_counter() - start, self._n

    def decide(self, *, hop: int, pace: Callable[[], None] = _no_pace) -> float:
        """Wait for a hop, classify what is due; return the seconds of that."""
        for _ in range(hop):
            windows = self._next(1)
            pace()
        start = time.perf_counter()
        self._peer(windows)
        return time.perf_counter() - start

    def _next(self, n: int) -> F32:
        self._now += n
        return self._signal.windows(self._now, self._window)[: self._n]


@dataclass(slots=True, eq=False)
class _Measured:
    """What the rounds gave for one of them."""

    rates: list[float] = field(default_factory=list)  # windows/s, a round each
    warm_s: list[float] = field(default_factory=list)
    cold_s: list[float] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Session:
    """Settings of the measurement, and what it has given so far."""

    wanted: list[str] | None
    rounds: int
    budget_s: float
    cold_s: float
    peak: Callable[[], float] | None
    engines: dict[str, str] = field(default_factory=dict)  # where each of ours runs
    networks: dict[str, Any] = field(default_factory=dict)
    checked: dict[str, dict[str, float]] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    peaks: list[float] = field(default_factory=list)

    def measure_network(
        self, bundle: Bundle, loads: list[_Load], *, hops: list[int] | None, only_own: bool
    ) -> None:
        """Measure all engines and peers on one network under every load."""
        own = bundle.hop_samples
        allowed = [h for h in (hops or [own, *OTHER_HOPS]) if _fits(bundle, h)]
        engines = self._engines(bundle, allowed)
        peers = self._peers(bundle)
        self.networks[bundle.name] = _describe(bundle, allowed)
        for load in loads:
            all_hops = hops is not None or (load.streams in COLD_STREAMS and not only_own)
            some = allowed if all_hops else [own]
            started_at = time.monotonic()
            self._measure_load(bundle, load, engines=engines, peers=peers, hops=some)
            print(
                f"{bundle.name}, {_said(load)}: {time.monotonic() - started_at:.0f} s",
                file=sys.stderr,
            )

    def _measure_load(
        self,
        bundle: Bundle,
        load: _Load,
        *,
        engines: list[str],
        peers: Peers | None,
        hops: list[int],
    ) -> None:
        entries: list[_LoadedEngine | _LoadedPeer] = []
        for hop in hops:
            states = load.channels * Plan.of(bundle, hop_samples=hop).n_states
            for name in engines:
                if name == "reference" and states > MAX_REFERENCE_STATES:
                    where = f"{name}, {bundle.name}, {_said(load)}, hop {hop}"
                    self.skipped[where] = f"{states:,} states would take gigabytes"
                    continue
                engine = make_engine(bundle, name=name, hop_samples=hop)  # type: ignore[arg-type]
                entries.append(_LoadedEngine(name, engine, load, bundle))
        if peers is not None:
            agreeing = [
                peer
                for peer in peers.for_batch(load.channels)
                if self._agrees(
                    peer.name, bundle, lambda peer=peer: _peer_error(peer, bundle, load)
                )
            ]
            self._note(peers.skipped, bundle)
            entries += [_LoadedPeer(peer, load, bundle) for peer in agreeing]
        measured = {id(entry): _Measured() for entry in entries}
        n_rounds = self.rounds if load.channels < MANY_CHANNELS else min(self.rounds, 3)
        for _ in range(n_rounds):
            if self.peak is not None:
                self.peaks.append(self.peak())
            for entry in entries:
                self._one_round(entry, measured[id(entry)])
        if load.channels_each == 1 and load.streams in COLD_STREAMS and self.cold_s:
            self._measure_cold(bundle, load, entries, measured)
        for entry in entries:
            hops_of_entry = hops if entry.hop is None else [entry.hop]
            self.rows += [
                _row(bundle, load, entry.name, hop, measured[id(entry)]) for hop in hops_of_entry
            ]

    def _one_round(self, entry: _LoadedEngine | _LoadedPeer, measured: _Measured) -> None:
        seconds, n_windows = 0.0, 0
        while not n_windows or seconds < self.budget_s:
            took, n = entry.call()
            seconds, n_windows = seconds + took, n_windows + n
            if isinstance(entry, _LoadedPeer) and entry.is_whole:
                measured.warm_s.append(took)
        measured.rates.append(n_windows / seconds)
        if isinstance(entry, _LoadedEngine):
            until = time.monotonic() + self.budget_s
            while True:
                measured.warm_s.append(entry.decide(hop=entry.hop or 1))
                if time.monotonic() > until:
                    break

    def _measure_cold(
        self,
        bundle: Bundle,
        load: _Load,
        entries: list[_LoadedEngine | _LoadedPeer],
        measured: dict[int, _Measured],
    ) -> None:
        """Pace the engines at the bundle's own hop, and the peers, in two turns each."""
        hop = bundle.hop_samples
        # Of one window a batch is the same; of many, one at a time is there for torch alone.
        skipped = "batched" if load.channels == 1 else "one at a time"
        chosen = [e for e in entries if e.hop in {None, hop} and not e.name.endswith(skipped)]
        late: dict[int, float] = {}
        for _ in range(2):
            for entry in chosen:
                n = max(1, round(self.cold_s / 2 * bundle.rate_hz / hop))
                pacer = _Pacer(bundle.rate_hz)
                took = [entry.decide(hop=hop, pace=pacer) for _ in range(n)]
                measured[id(entry)].cold_s += took
                late[id(entry)] = max(pacer.late_s, late.get(id(entry), 0.0))
        for entry in chosen:
            if late[id(entry)] > 2 * hop / bundle.rate_hz:
                measured[id(entry)].cold_s.clear()
                where = f"{entry.name}, {bundle.name}, {_said(load)}, cold"
                self.skipped[where] = f"too slow for real time: {late[id(entry)]:.2f} s behind"

    def _engines(self, bundle: Bundle, hops: list[int]) -> list[str]:
        """Names of our engines that are there, run this network, and agree with the reference."""
        found = []
        for name in filter(self._is_wanted, ENGINES):
            if name == "native" and not instruction_sets():
                self.skipped[name] = "it was not built here"
                continue
            if all(
                self._agrees(
                    name, bundle, lambda name=name, hop=hop: _engine_error(name, bundle, hop)
                )
                for hop in hops
            ):
                found.append(name)
                self.engines[name] = make_engine(bundle, name=name).name  # type: ignore[arg-type]
        return found

    def _agrees(self, name: str, bundle: Bundle, error: Callable[[], float]) -> bool:
        """Whether outputs are close enough to the reference's; if not, that is noted."""
        key = f"{name}, {bundle.name}"
        if key in self.skipped:
            return False
        try:
            worst = error()
        except Exception as failure:  # noqa: BLE001 - whatever it is: no comparison, and why
            self.skipped[key] = f"{type(failure).__name__}: {failure}"[:200]
            return False
        checked = self.checked.setdefault(bundle.name, {})
        checked[name] = max(worst, checked.get(name, 0.0))
        if not worst <= TOLERANCE:
            self.skipped[key] = f"its outputs differ from the reference's by {worst:.1e}"
        return worst <= TOLERANCE

    def _peers(self, bundle: Bundle) -> Peers | None:
        names = tuple(filter(self._is_wanted, peer_names.NAMES))
        if not names:
            return None
        if bundle.mode != "windowed":
            self._note({"peers": "they keep no state from window to window"}, bundle)
            return None
        if importlib.util.find_spec("torch") is None:
            self.skipped["peers"] = "torch is not installed"
            return None
        from benchmarks import peers

        return peers.Peers(bundle, names=names)

    def _is_wanted(self, name: str) -> bool:
        if self.wanted is None or name in self.wanted:
            return True
        return any(name.startswith(begin) for begin in self.wanted if begin not in ENGINES)

    def _note(self, reasons: dict[str, str], bundle: Bundle) -> None:
        for name, reason in reasons.items():
            # What is not installed is absent for every network.
            absent = reason.endswith("not installed")
            self.skipped[name if absent else f"{name}, {bundle.name}"] = reason


class _Pacer:
    """Waits for the instants of samples."""

    def __init__(self, rate_hz: float) -> None:
        self._period_s = 1 / rate_hz
        self._next_at = time.perf_counter()
        self.late_s = 0.0  # at the newest sample

    def __call__(self) -> None:
        self._next_at += self._period_s
        self.late_s = time.perf_counter() - self._next_at
        if self.late_s < 0:
            time.sleep(-self.late_s)


def _engine_error(name: str, bundle: Bundle, hop: int) -> float:
    """Largest difference of an engine from the reference, over a few windows of three streams."""
    load = _Load(streams=3)
    samples = _Signal(bundle, load).samples(0, bundle.window_samples + 5 * hop)
    outputs = []
    for engine_name in ("reference", name):
        engine = make_engine(bundle, name=engine_name, hop_samples=hop)  # type: ignore[arg-type]
        handles = [engine.open(1) for _ in samples]
        pieces = [
            engine.feed(dict(zip(handles, samples[:, i : i + hop], strict=True)))
            for i in range(0, samples.shape[1], hop)
        ]
        outputs.append([np.concatenate([piece[h] for piece in pieces]) for h in handles])
        engine.restore(engine.snapshot(handles[0]))  # a load is made with both
    return float(np.abs(np.subtract(*outputs)).max())


def _peer_error(peer: Peer, bundle: Bundle, load: _Load) -> float:
    """Largest difference of a peer from the reference, over the self-test windows."""
    scaler = FrozenScaler(mean_uv=bundle.scaler_mean_uv, std_uv=bundle.scaler_std_uv)
    n_known = len(bundle.selftest_windows)
    which = np.arange(load.channels if peer.is_batched else n_known) % n_known
    expected = classify_windows(bundle, bundle.selftest_windows)[which]
    return float(np.abs(peer(scaler.scale(bundle.selftest_windows[which])) - expected).max())


def _fits(bundle: Bundle, hop: int) -> bool:
    try:
        Plan.of(bundle, hop_samples=hop)
    except StreamClassifierError:
        return False
    return True


def _peak() -> Callable[[], float] | None:
    """Return the measurement of a core's multiply-adds, GFLOP/s, where the native engine is."""
    return (lambda: fma_peak_gflops(seconds=PEAK_S)) if instruction_sets() else None


def _loads(arguments: argparse.Namespace) -> list[_Load]:
    default = STREAMS[:3] if arguments.quick else STREAMS
    streams = arguments.streams or (() if arguments.channels else default)
    loads = [_Load(n) for n in streams]
    for n in arguments.channels or ():
        each = min(n, CHANNELS_A_STREAM)
        loads.append(_Load(-(-n // each), each))
    return loads


def _said(load: _Load) -> str:
    each = f" of {load.channels_each} channels" if load.channels_each > 1 else ""
    return f"{load.streams} stream{'s' if load.streams > 1 else ''}{each}"


def _describe(bundle: Bundle, hops: list[int]) -> dict[str, Any]:
    net = bundle.network
    return {
        "digest": bundle.digest,
        "mode": bundle.mode,
        "features": net.features,
        "convolutions": len(net.stem),
        "layers": net.layers,
        "hidden": net.hidden,
        "parameters": net.n_parameters,
        "hop_samples": bundle.hop_samples,
        "rate_hz": bundle.rate_hz,
        "useful_flop": {str(hop): useful_flop(bundle, hop_samples=hop) for hop in hops},
    }


def _row(bundle: Bundle, load: _Load, engine: str, hop: int, measured: _Measured) -> dict[str, Any]:
    rate = statistics.median(measured.rates)
    return {
        "network": bundle.name,
        "mode": bundle.mode,
        "engine": engine,
        "streams": load.streams,
        "channels_each": load.channels_each,
        "hop": hop,
        "windows_per_s": round(rate, 1),
        "latency_us": _latency(measured.warm_s),
        "latency_cold_us": _latency(measured.cold_s) if hop == bundle.hop_samples else None,
        "channels_per_core": round(rate / (bundle.rate_hz / hop), 1),
    }


def _latency(took_s: list[float]) -> dict[str, float] | None:
    """Median and 99th percentile in microseconds, and of how many."""
    if not took_s:
        return None
    p50, p99 = (round(float(np.percentile(took_s, q)) * 1e6, 1) for q in (50, 99))
    return {"p50": p50, "p99": p99, "n": len(took_s)}


def _add_fractions(
    rows: list[dict[str, Any]], networks: dict[str, Any], peak_gflops: float | None
) -> None:
    """Add to each row its useful arithmetic as a share of the peak; None without one."""
    for row in rows:
        gflop = networks[row["network"]]["useful_flop"][str(row["hop"])] / 1e9
        share = row["windows_per_s"] * gflop / peak_gflops if peak_gflops else None
        row["fraction_of_peak"] = share and round(share, 4)


def _ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The native engine against every other: above 1 it does more, or decides sooner."""
    key = ("network", "streams", "channels_each", "hop")
    native = {tuple(row[k] for k in key): row for row in rows if row["engine"] == "native"}
    ratios = []
    for row in rows:
        ours = native.get(tuple(row[k] for k in key))
        if ours is None or row is ours:
            continue
        ratios.append(
            {k: row[k] for k in key}
            | {
                "against": row["engine"],
                "throughput": round(ours["windows_per_s"] / row["windows_per_s"], 2),
                "latency": _sooner(ours, row, "latency_us"),
                "latency_cold": _sooner(ours, row, "latency_cold_us"),
            }
        )
    return ratios


def _sooner(ours: dict[str, Any], other: dict[str, Any], which: str) -> float | None:
    if ours[which] is None or other[which] is None:
        return None
    return round(other[which]["p50"] / ours[which]["p50"], 2)


def _versions() -> dict[str, str]:
    if importlib.util.find_spec("torch") is None:
        return {"stream_classifier": version("stream_classifier")}
    from benchmarks import peers

    return {"stream_classifier": version("stream_classifier"), **peers.versions()}
