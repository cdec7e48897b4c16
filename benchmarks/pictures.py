"""Pictures of saved figures: ``python -m benchmarks picture figures.json picture.png``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.peer_names import ONNX_BATCHED, OPENVINO_BATCHED, TORCH_BATCHED, TORCH_ONE
from stream_classifier.evaluation.palette import (
    BLUE,
    GREEN,
    MUTED,
    ORANGE,
    PURPLE,
    STYLE,
    VERMILION,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOOKS: Final[dict[str, dict[str, Any]]] = {
    "native": {"color": BLUE, "marker": "o", "linewidth": 2.6, "zorder": 3},
    TORCH_BATCHED: {"color": VERMILION, "marker": "s"},
    OPENVINO_BATCHED: {"color": PURPLE, "marker": "^", "linestyle": "-."},
    ONNX_BATCHED: {"color": GREEN, "marker": "D", "linestyle": "--"},
    "torch": {"color": VERMILION, "marker": "x", "linestyle": ":"},
    "reference": {"color": MUTED, "marker": "v", "linestyle": "--"},
    TORCH_ONE: {"color": ORANGE, "marker": "P", "linestyle": "-"},
}
"""Who is drawn, and how; the rest of the peers is in the figures only, or one could not see."""

_LABELS: Final = {
    "native": "native engine",
    "reference": "reference engine (numpy)",
    "torch": "torch engine",
    TORCH_ONE: "torch, one at a time",
}
_PART_NAMES: Final = {
    "lsl": "LSL",
    "detector": "detector and engine",
    "outbox": "into asyncio and onto the disk",
    "sink": "message made and sent",
    "broker": "broker, to the subscriber",
}
_LABEL_GAP: Final = 0.062
"""Least distance of two labels, as a share of the height of a panel."""
_LABEL_TOP: Final = 0.98


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare this command's options."""
    parser.add_argument("figures", type=Path, help="what a benchmark printed with --json")
    parser.add_argument("picture", type=Path, help="PNG or SVG to write")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Draw the figures of the engine or the latency benchmark."""
    figures = json.loads(arguments.figures.read_text(encoding="utf-8"))
    if {"networks", "rows"} <= figures.keys():
        draw_engine(figures, arguments.picture)
    elif {"peer", "rows"} <= figures.keys():
        draw_latency(figures, arguments.picture)
    else:
        raise SystemExit(f"{arguments.figures}: expected figures of engine or latency")
    return {"picture": str(arguments.picture)}


def table(result: dict[str, Any]) -> str:
    """Return where the picture is."""
    return str(result["picture"])


def draw_engine(figures: dict[str, Any], path: Path) -> None:
    """Draw throughput and latency by number of streams, a column for each network.

    Args:
        figures: What ``engine.measure`` returned.
        path: File to write; its ending says how.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    networks = figures["networks"]
    with mpl.rc_context(STYLE):
        figure, panels = plt.subplots(
            2, len(networks), sharex=True, sharey="row", squeeze=False,
            figsize=(4.9 * len(networks), 7.4), layout="constrained",
        )  # fmt: skip
        for (name, network), (rates, latencies) in zip(networks.items(), panels.T, strict=True):
            hop = network["hop_samples"]
            rows = [
                row
                for row in figures["rows"]
                if row["network"] == name and row["hop"] == hop and row["channels_each"] == 1
            ]
            _draw_lines(rates, rows, _rate)
            _draw_lines(latencies, rows, _latency)
            layers = f"{network['layers']}-layer " if network["layers"] > 1 else ""
            stem = "convolutions and " if network["convolutions"] else ""
            rates.set_title(f"{name}: {stem}{layers}LSTM {network['hidden']}, {network['mode']}")
            latencies.set_xlabel("streams of one channel")
            if peak := figures["fma_peak_gflops"]:
                most = peak * 1e9 / network["useful_flop"][str(hop)]
                _draw_guide(rates, most, "as much as the core can multiply")
            _draw_guide(latencies, hop / network["rate_hz"] * 1e3, "the next hop is due")
        panels[0, 0].set_ylabel("windows a second, one core")
        panels[1, 0].set_ylabel("newest sample to probabilities, ms (median; warm)")
        figure.canvas.draw()  # places the panels, and so their limits are final
        for panel in panels.flat:
            _label(panel)
        processor = figures["machine"]["processor"]
        figure.suptitle(
            f"One core of {processor}, one thread; every stream due every hop",
            x=0.01, ha="left", fontsize=10, color=MUTED,
        )  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
        plt.close(figure)


def draw_latency(figures: dict[str, Any], path: Path) -> None:
    """Draw where the time goes from a sample pushed to its alert received, by channels.

    Args:
        figures: What ``latency.measure`` returned.
        path: File to write; its ending says how.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    colors = dict(zip(_PART_NAMES, (MUTED, BLUE, GREEN, ORANGE, PURPLE), strict=True))
    bars = [(f"stream_classifier, {row['channels']}", row) for row in figures["rows"]]
    bars += [(f"{figures['peer']['name']}, {r['channels']}", r) for r in figures["peer"]["rows"]]
    with mpl.rc_context(STYLE):
        figure, panel = plt.subplots(figsize=(10, 1.3 + 0.45 * len(bars)), layout="constrained")
        for y, (_, row) in enumerate(bars):
            start = 0.0
            for part, ms in row.get("parts_ms", {}).items():
                label = _PART_NAMES[part] if y == 0 else None
                panel.barh(y, ms["p50"], left=start, height=0.6, color=colors[part], label=label)
                start += ms["p50"]
            whole = row["sample_to_subscriber_ms"]
            if not start:
                panel.barh(y, whole["p50"], height=0.6, color=VERMILION)
            panel.plot([whole["p50"]], [y], "|", color="black", markersize=16, zorder=3,
                       label="p50 of the whole" if y == 0 else None)  # fmt: skip
            panel.plot([whole["p99"]], [y], "k>", markersize=5,
                       label="p99 of the whole" if y == 0 else None)  # fmt: skip
        panel.set_yticks(range(len(bars)), [name for name, _ in bars])
        panel.invert_yaxis()
        panel.set(xlabel="ms; bars are the medians of the parts", xlim=(0, None))
        figure.legend(fontsize=8, loc="outside right upper")
        panel.set_title(
            f"Sample pushed to alert received, each event committed first; {figures['broker']}",
            loc="left", fontsize=10,
        )  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
        plt.close(figure)


def _draw_lines(panel: Axes, rows: list[dict[str, Any]], value: Any) -> None:
    for engine, look in _LOOKS.items():
        points = sorted(
            (row["streams"], value(row))
            for row in rows
            if row["engine"] == engine and value(row) is not None
        )
        if points:
            label = _LABELS.get(engine, engine)
            panel.plot(*zip(*points, strict=True), label=label, markersize=5, **look)
    panel.set(xscale="log", yscale="log")
    ticks = sorted({row["streams"] for row in rows})
    panel.set_xticks(ticks, [f"{n:,}" for n in ticks])
    panel.minorticks_off()
    panel.yaxis.set_major_formatter(lambda y, _: f"{y:,.0f}" if y >= 1 else f"{y:g}")
    # On the right there must be room for the labels.
    panel.set_xlim(0.8 * ticks[0], ticks[-1] * (ticks[-1] / ticks[0]) ** 0.62 * 2)


def _draw_guide(panel: Axes, y: float, text: str) -> None:
    """A dotted line over the loads, with its meaning; short of the lines' names."""
    ticks = panel.get_xticks()
    panel.plot(ticks[[0, -1]], [y, y], ":", color=MUTED, linewidth=1, label="_guide")
    panel.text(ticks[0], y, text, fontsize=7.5, color=MUTED, va="bottom")


def _label(panel: Axes) -> None:
    """Write the lines' names in a column on the right, none on another, as high as each leads."""
    to_axes = panel.transAxes.inverted()
    lines = [line for line in panel.get_lines() if not str(line.get_label()).startswith("_")]
    ends = [to_axes.transform(panel.transData.transform(line.get_xydata()[-2:])) for line in lines]
    right = max((end[-1, 0] for end in ends), default=0.0)
    leads = []
    for line, end in zip(lines, ends, strict=True):
        (x, y), run = end[-1], end[-1] - end[0]  # a line that stops early is led on
        leads.append((y + (right - x) * run[1] / run[0] if run[0] else y, line))
    leads.sort(key=lambda lead: lead[0])
    heights = [min(height, _LABEL_TOP) for height, _ in leads]
    for _ in range(200):  # push neighbours apart, each by half
        for i in range(len(heights) - 1):
            short = max(0.0, _LABEL_GAP - (heights[i + 1] - heights[i]))
            heights[i] -= short / 2
            heights[i + 1] = min(heights[i + 1] + short / 2, _LABEL_TOP)
    for height, (_, line) in zip(heights, leads, strict=True):
        panel.text(
            right + 0.025, height, line.get_label(), transform=panel.transAxes, va="center",
            fontsize=8, color=line.get_color(),
            weight="bold" if line.get_zorder() > 2 else "normal",
        )  # fmt: skip


def _rate(row: dict[str, Any]) -> float:
    return float(row["windows_per_s"])


def _latency(row: dict[str, Any]) -> float | None:
    """Milliseconds."""
    return None if row["latency_us"] is None else row["latency_us"]["p50"] / 1e3
