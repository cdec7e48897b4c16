"""The figures of ``engine.py`` as text: a table a network and measure, the promises last."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from benchmarks.peer_names import NAMES, ONNX_BATCHED, TORCH_BATCHED, TORCH_ONE

Row = dict[str, Any]

_NAME_WIDTH: Final = 30
_CELL_WIDTH: Final = 19


def table(result: dict[str, Any]) -> str:
    """Return the figures as text."""
    machine, peak = result["machine"], result["fma_peak_gflops"]
    lines = [
        f"{machine['processor']}, one core of {machine['cores']}, one thread",
        f"load average {machine['load_average']} before, {machine['load_average_after']} after",
        ", ".join(f"{name} {version}" for name, version in result["versions"].items())
        + f"; one core does {f'{peak:g} GFLOP/s' if peak else 'an unknown number'} of FMA",
    ]
    lines.append("engines: " + ", ".join(result["engines"].values()))
    for name, network in result["networks"].items():
        rows = [row for row in result["rows"] if row["network"] == name]
        own = network["hop_samples"]
        lines += ["", _headline(name, network)]
        worst = max(result["checked"].get(name, {"": 0.0}).values())
        lines.append(f"largest difference from the reference engine: {worst:.1e}")
        hops = {row["hop"] for row in rows}
        hop = own if own in hops else min(hops, default=own)
        of_own = [row for row in rows if row["hop"] == hop]
        lines += _matrix(f"windows/s, hop {hop}", of_own, _rate)
        if any(row["fraction_of_peak"] for row in of_own):
            lines += _matrix("share of FMA peak", of_own, _fraction)
        lines += _matrix("latency p50 / p99, µs, warm", of_own, _warm)
        cold = [row for row in of_own if row["latency_cold_us"]]
        lines += _matrix(f"the same at {network['rate_hz']:g} Hz, cold", cold, _cold)
        others = [row for row in rows if row["hop"] != hop and row["engine"] not in NAMES]
        lines += _matrix("windows/s, other hops", others, _rate, with_hops=True)
        lines += _matrix("latency p50 / p99, µs, warm", others, _warm, with_hops=True)
    if result["skipped"]:
        lines += ["", "not measured"]
        lines += [f"  {name}: {reason}" for name, reason in result["skipped"].items()]
    return "\n".join([*lines, "", *promises(result)])


def promises(result: dict[str, Any]) -> list[str]:
    """One line for each figure that the engine is judged by."""
    rows = [row for row in result["rows"] if row["hop"] == 8]
    names = {row["engine"] for row in rows}
    subject = "native" if "native" in names else "reference"
    if subject not in names:
        return []
    ours = {_place(row): row for row in rows if row["engine"] == subject}

    def against(wanted: Iterable[str], better: Callable[[Row, Row], float | None]) -> str:
        """Ours over the best of those, by number of streams, on the plain network."""
        said = []
        for place, row in ours.items():
            others = [
                ratio
                for other in rows
                if other["engine"] in wanted and _place(other) == place
                if (ratio := better(row, other)) is not None
            ]
            if row["network"] == "plain" and others:
                said.append(f"{min(others):.2f} at {_streams(row)}")
        return ", ".join(said) or "not measured"

    def faster(row: Row, other: Row) -> float:
        return float(row["windows_per_s"] / other["windows_per_s"])

    def sooner(which: str, *, channels: int) -> Callable[[Row, Row], float | None]:
        def ratio(row: Row, other: Row) -> float | None:
            if _channels(row) != channels or row[which] is None or other[which] is None:
                return None
            return float(other[which]["p50"] / row[which]["p50"])

        return ratio

    of_peak = [
        f"{row['fraction_of_peak']:.0%} at {_streams(row)}"
        for row in ours.values()
        if row["network"] == "plain" and row["fraction_of_peak"] and 8 <= _channels(row) <= 64
    ]
    channels = [
        f"{network} ({row['mode']}) {row['channels_per_core']:,.0f} at {_streams(row)}"
        for (network, *_), row in ours.items()
        if network != "plain" and _channels(row) in {64, 512}
    ]
    one = against([TORCH_ONE], faster)
    batched = against([TORCH_BATCHED, ONNX_BATCHED], faster)
    warm = against([TORCH_BATCHED], sooner("latency_us", channels=64))
    cold = against([TORCH_ONE], sooner("latency_cold_us", channels=1))
    return [
        f"{subject} engine, hop 8; on the plain network where no other is named",
        f"  share of FMA peak: {', '.join(of_peak) or 'not measured'}",
        f"  throughput, times torch, one window at a time: {one}",
        f"  throughput, times the better of torch and ONNX Runtime, batched: {batched}",
        f"  decides sooner than torch batched, times: {warm}",
        f"  decides sooner than torch on one window, cold, times: {cold}",
        f"  real-time channels a core: {', '.join(channels) or 'not measured'}",
    ]


def _headline(name: str, network: dict[str, Any]) -> str:
    flop = network["useful_flop"].get(str(network["hop_samples"]))
    stem = f"{network['convolutions']} convolutions, " if network["convolutions"] else ""
    layers = f"{network['layers']}-layer " if network["layers"] > 1 else ""
    cost = f", {flop / 1e6:.2f} MFLOP a window at hop {network['hop_samples']}" if flop else ""
    return (
        f"== {name}: {network['mode']}; {network['features']} samples, {stem}{layers}LSTM "
        f"{network['hidden']}{cost}"
    )


def _matrix(
    title: str, rows: list[Row], cell: Callable[[Row], str], *, with_hops: bool = False
) -> list[str]:
    """Engines down, loads across."""
    if not rows:
        return []

    def column(row: Row) -> str:
        return f"{_streams(row)}, hop {row['hop']}" if with_hops else _streams(row)

    columns = list(dict.fromkeys(column(row) for row in rows))
    cells = {(row["engine"], column(row)): cell(row) for row in rows}
    lines = ["", f"{title:{_NAME_WIDTH}}{''.join(f'{head:>{_CELL_WIDTH}}' for head in columns)}"]
    for engine in dict.fromkeys(row["engine"] for row in rows):
        said = [cells.get((engine, head), "-") for head in columns]
        lines.append(f"  {engine:{_NAME_WIDTH - 2}}{''.join(f'{x:>{_CELL_WIDTH}}' for x in said)}")
    return lines


def _rate(row: Row) -> str:
    return f"{row['windows_per_s']:,.0f}"


def _fraction(row: Row) -> str:
    return f"{row['fraction_of_peak']:.1%}"


def _warm(row: Row) -> str:
    return _times(row["latency_us"])


def _cold(row: Row) -> str:
    return _times(row["latency_cold_us"])


def _times(latency: dict[str, float] | None) -> str:
    return "-" if latency is None else f"{latency['p50']:,.0f} / {latency['p99']:,.0f}"


def _place(row: Row) -> tuple[str, int, int]:
    return row["network"], row["streams"], row["channels_each"]


def _streams(row: Row) -> str:
    each = f"x{row['channels_each']}" if row["channels_each"] > 1 else ""
    return f"{row['streams']}{each}"


def _channels(row: Row) -> int:
    return int(row["streams"] * row["channels_each"])
