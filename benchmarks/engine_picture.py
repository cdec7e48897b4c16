"""The picture in docs/engine.md: ``python -m benchmarks.engine_picture docs/engine.png``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stream_classifier.bundle import load_bundle
from stream_classifier.engines.plan import Plan
from stream_classifier.evaluation.palette import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    STYLE,
    VERMILION,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HOP_SAMPLES: Final = 20
"""Not the shipped hop of 8, which needs 11 slots: these are as many as the palette has colours."""

SLOT_COLOURS: Final = (BLUE, ORANGE, GREEN, PURPLE, VERMILION)
N_WINDOWS: Final = 7
NOW: Final = 30
"""The step at which the picture stands; it finishes a window."""

GATES: Final = "ifgo"
N_ROWS: Final = 6
WIDTH: Final = 16


def draw(path: Path) -> None:
    """Draw how windows share the time, and how the registers are filled.

    Args:
        path: File to write; its ending says how.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    bundle = load_bundle("bonn")
    plan = Plan.of(bundle, hop_samples=HOP_SAMPLES)
    first_end = plan.lead_samples + bundle.network.receptive_samples - 1
    stride = bundle.network.stride_samples
    with mpl.rc_context(STYLE):
        figure, (windows, work, registers) = plt.subplots(
            3, 1, figsize=(10.5, 11.2), height_ratios=(3.5, 1.6, 4.5),
        )  # fmt: skip
        figure.subplots_adjust(left=0.075, right=0.985, top=0.965, bottom=0.012, hspace=0.13)
        _draw_windows(windows, plan, last_sample=first_end + NOW * stride)
        _draw_work(work, plan, first_end=first_end, stride=stride)
        _draw_registers(registers)
        low = registers.get_position()  # below the axis labels
        registers.set_position((low.x0, low.y0, low.width, low.height - 0.035))
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
        plt.close(figure)


def _draw_windows(panel: Axes, plan: Plan, *, last_sample: int) -> None:
    """One row a window, one cell a step, in the colour of its slot."""
    from matplotlib.patches import Rectangle

    panel.axvspan(NOW - 0.5, NOW + 0.5, color=FAINT, alpha=0.55, linewidth=0)
    for window in range(N_WINDOWS):
        begins = window * plan.steps_per_hop
        ends = begins + plan.n_steps - 1
        slot = window % plan.n_states
        for step in range(begins, ends + 1):
            finishes = step == ends
            panel.add_patch(
                Rectangle(
                    (step - 0.43, window - 0.31), 0.86, 0.62,
                    facecolor=SLOT_COLOURS[slot],
                    alpha=1 if step <= NOW else 0.2,
                    linewidth=0,
                    zorder=2,
                )
            )  # fmt: skip
            if finishes or step == NOW:
                panel.add_patch(
                    Rectangle(
                        (step - 0.43, window - 0.31), 0.86, 0.62, fill=False, edgecolor=INK,
                        linewidth=1.8 if finishes else 0.8,
                        linestyle="-" if step <= NOW else ":", zorder=3,
                    )
                )  # fmt: skip
        panel.text(begins - 0.9, window, f"window {window}, slot {slot}", ha="right", va="center")
        if ends < NOW:
            panel.text(ends + 0.8, window, "decision", va="center", color=MUTED)
    finishing = (NOW + 1 - plan.n_steps) // plan.steps_per_hop
    others = range(finishing + 1, NOW // plan.steps_per_hop + 1)
    panel.annotate(
        f"decision on window {finishing}", (NOW + 0.5, finishing), (NOW + 3.4, finishing),
        va="center", weight="bold", arrowprops={"arrowstyle": "<-", "color": INK},
    )  # fmt: skip
    panel.text(
        NOW + 1.6, -0.62,
        f"At sample {last_sample}, the last of step {NOW}:\n"
        "1  the stem makes one input of the newest\n"
        "    samples, for all windows\n"
        f"2  window {finishing} takes its last step: decision out\n"
        f"3  windows {others[0]} to {others[-1]} take that step, too"
        " (catch_up)",
        va="top", linespacing=1.4,
    )  # fmt: skip
    for window, number in [(finishing, 2), *((other, 3) for other in others)]:
        panel.text(
            NOW, window, str(number), ha="center", va="center", weight="bold", fontsize=8.5,
            color=_on(SLOT_COLOURS[window % plan.n_states]), zorder=4,
        )  # fmt: skip
    panel.text(NOW, -0.62, "1", ha="center", va="center", weight="bold", fontsize=8.5)
    panel.set(xlim=(-7.6, 51), ylim=(N_WINDOWS - 0.4, -0.95), yticks=[])
    panel.set_title(
        f"Staggered states: every window from zero, all advanced together "
        f"(hop {HOP_SAMPLES}: a window begins every {plan.steps_per_hop} steps, "
        f"{plan.n_steps} steps, {plan.n_states} slots)"
    )
    panel.grid(visible=False)
    panel.tick_params(axis="x", length=0, labelbottom=False)
    for side in ("left", "bottom"):
        panel.spines[side].set_visible(False)


def _draw_work(panel: Axes, plan: Plan, *, first_end: int, stride: int) -> None:
    """LSTM steps done at each step of the time: all at the end, or as they come."""
    last = (N_WINDOWS - 1) * plan.steps_per_hop + plan.n_steps - 1
    steps = range(last + 1)
    panel.axvspan(NOW - 0.5, NOW + 0.5, color=FAINT, alpha=0.55, linewidth=0)
    deciding = [step for step in steps if plan.ends(step + 1) is not None]
    panel.bar(
        [step - 0.22 for step in deciding], plan.n_steps, 0.4, facecolor="white", edgecolor=MUTED,
        hatch="////", linewidth=0.8, zorder=2,
    )  # fmt: skip
    begun = [step // plan.steps_per_hop + 1 for step in steps]
    over = [len([end for end in deciding if end < step]) for step in steps]
    busy = [n - m for n, m in zip(begun, over, strict=True)]
    panel.bar([step + 0.22 for step in steps], busy, 0.4, color=BLUE, zorder=2)
    panel.bar([step + 0.22 for step in deciding], 1, 0.4, color=INK, zorder=3)
    panel.text(
        -7.2, 19.6, f"plain: all {plan.n_steps} steps of a window\nafter its last sample (hatched)",
        va="top", color=MUTED,
    )  # fmt: skip
    panel.text(
        -7.2, 11, f"staggered: {busy[NOW - 1]} or {busy[NOW]} steps at a time;\n"
        "before the decision: one (black)",
        va="top", color=BLUE,
    )  # fmt: skip
    ticks = range(0, last + 1, plan.steps_per_hop)
    panel.set_xticks(list(ticks), [f"{step}\n{first_end + step * stride}" for step in ticks])
    panel.annotate(
        "step\nits last sample", (-1.2, 0), (0, -7), xycoords=("data", "axes fraction"),
        textcoords="offset points", ha="right", va="top",
    )  # fmt: skip
    panel.set(xlim=(-7.6, 51), ylim=(0, 22.5), yticks=[0, 5, 21])
    panel.set_title(
        "LSTM steps done when a step's last sample is there: as many in all, but spread"
    )
    panel.grid(visible=False, axis="x")


def _on(colour: str) -> str:
    """Colour of text that is read on a colour."""
    return INK if colour == ORANGE else "white"


def _draw_registers(panel: Axes) -> None:
    """The block of sums that stays in registers while the rows of the weights go by."""
    from matplotlib.patches import FancyArrowPatch, Rectangle

    def register(x: float, y: float, text: str, colour: str, width: float = 8.6) -> None:
        """One vector: what it is, and below that its 16 numbers."""
        panel.add_patch(Rectangle((x, y), width, 0.64, facecolor=colour, linewidth=0))
        panel.text(x + width / 2, y + 0.22, text, ha="center", va="center",
                   color=_on(colour), fontsize=8)  # fmt: skip
        each = width / WIDTH
        for i in range(WIDTH):
            panel.add_patch(
                Rectangle(
                    (x + (i + 0.12) * each, y + 0.43), 0.76 * each, 0.14, facecolor=_on(colour),
                    alpha=0.8, linewidth=0,
                )
            )  # fmt: skip

    def arrow(start: tuple[float, float], stop: tuple[float, float]) -> None:
        panel.add_patch(
            FancyArrowPatch(start, stop, arrowstyle="-|>", mutation_scale=10, color=INK)
        )

    left, apart = 17.0, 9.2
    gates = [left + apart * gate for gate in range(4)]
    for y, name, colour in [(-2.5, "k-2", MUTED), (-1.7, "k-1", MUTED), (-0.9, "k", ORANGE)]:
        for x, gate in zip(gates, GATES, strict=True):
            register(x, y, f"W[{name}]: gate {gate} of 16 units", colour)
    for x in gates:
        arrow((x + 4.3, -0.2), (x + 4.3, 1.0))
    for row in range(N_ROWS):
        y = 1.05 + 0.8 * row
        register(10.4, y, f"h[k] of row {row}", GREEN, 5.2)
        arrow((15.6, y + 0.32), (left, y + 0.32))
        for x, gate in zip(gates, GATES, strict=True):
            register(x, y, f"sums: row {row}, gate {gate}", BLUE)
    for y, text in [
        (
            -2.5,
            "in memory: the packed weights\nof one block of 16 units,\none row after another",
        ),
        (0.4, "1 register: the four vectors\nof W[k] in turn, each used\nfor all six rows"),
        (2.3, "6 registers: one\nnumber of each\nrow, 16 times"),
        (4.1, "24 registers: the\nsums, there until\nall k are done"),
    ]:
        panel.text(0, y, text, va="top", linespacing=1.3)
    panel.text(
        left, 6.02, "for each k, 24 times:  sums[row][gate] += h[row][k] * W[k][gate]",
        va="top", weight="bold",
    )  # fmt: skip
    panel.text(0, 6.02, "24 + 6 + 1 = 31 of 32 registers", va="top", weight="bold")
    panel.set(xlim=(-0.1, left + 3 * apart + 8.7), ylim=(6.5, -2.6))
    panel.set_title(
        "The register block (AVX-512): 6 rows (states that take a step) x 4 gates x 16 units"
    )
    panel.axis("off")


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path, help="PNG or SVG to write")
    draw(parser.parse_args().picture)


if __name__ == "__main__":
    main()
