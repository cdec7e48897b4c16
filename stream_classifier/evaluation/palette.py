"""The colours of every picture and page: told apart by everybody, and in grey (Okabe & Ito, 2008).

Hue alone never carries a meaning: lines differ in dash or marker, and areas are labelled.
"""

from __future__ import annotations

from typing import Any, Final

from stream_classifier.signals import CLASS_NAMES

VERMILION: Final = "#d55e00"
BLUE: Final = "#0072b2"
GREEN: Final = "#009e73"
ORANGE: Final = "#e69f00"
PURPLE: Final = "#aa4499"

CLASS_COLOURS: Final = dict(zip(CLASS_NAMES, (VERMILION, BLUE, GREEN), strict=True))
CLASS_DASHES: Final[dict[str, Any]] = dict(
    zip(CLASS_NAMES, ("-", (0, (5, 1.5)), (0, (1.5, 1.2))), strict=True)
)

TRUTH: Final = ORANGE
"""A seizure that was there."""

ALARM: Final = BLUE
"""An alarm that was on."""

INK: Final = "#222222"
MUTED: Final = "#767676"
"""Of guides and notes: contrast 4.5 to 1 on white."""

FAINT: Final = "#d9d9d9"
"""Of grids."""

COUNTS: Final = "Blues"
"""Light to dark in one hue, for counts and shares."""

STYLE: Final[dict[Any, Any]] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
"""Settings of matplotlib under which pictures are drawn."""

FONT: Final = 'Inter, "Noto Sans", system-ui, sans-serif'
MONOSPACE: Final = '"Noto Sans Mono", "DejaVu Sans Mono", ui-monospace, monospace'

SCREEN: Final[dict[str, tuple[str, str]]] = {
    "page": ("#eef1f4", "#0f1419"),
    "card": ("#ffffff", "#192028"),
    "paper": ("#fdfefd", "#141a20"),
    "ink": ("#16212b", "#e6ebf0"),
    "muted": ("#566573", "#9caab7"),
    "line": ("#d5dce3", "#303a45"),
    "edge": ("#7d8a96", "#75828e"),
    "grid": ("#ecf2ee", "#1e2730"),
    "grid-strong": ("#c9d8cf", "#33414d"),
    "trace": ("#17324d", "#a9d0f5"),
    "trace-poor": ("#8a97a3", "#6f7c88"),
    "accent": ("#1f4e79", "#7db7ea"),
    "on-accent": ("#ffffff", "#0f1419"),
    "bar": ("#5f86b0", "#6f9ccb"),
    "high": ("#c40d1e", "#c40d1e"),
    "on-high": ("#ffffff", "#ffffff"),
    "high-ink": ("#b20a1a", "#ff8a8f"),
    "high-soft": ("#fdecec", "#3a1a1e"),
    "medium": ("#ffd21f", "#ffd21f"),
    "on-medium": ("#16212b", "#16212b"),
    "medium-ink": ("#7a5b00", "#ffd75e"),
    "low": ("#7fdcec", "#7fdcec"),
    "on-low": ("#16212b", "#16212b"),
    "low-ink": ("#00687d", "#7fdcec"),
    "ok": ("#2b6a4d", "#74c69d"),
    "none": ("#3d4955", "#46525e"),
    "on-none": ("#ffffff", "#ffffff"),
    "note": ("#e4e9ee", "#222b34"),
}
"""Of pages, light and dark. High, medium and low are the alarm colours of IEC 60601-1-8."""


def css_variables() -> str:
    """Return the pages' colours and fonts as CSS: as the system has it, or as ``data-theme`` says.

    Example:
        >>> "--high: #c40d1e;" in css_variables()
        True
    """
    fonts = f"--font: {FONT}; --monospace: {MONOSPACE};"
    light, dark = (
        " ".join(f"--{name}: {both[i]};" for name, both in SCREEN.items()) for i in (0, 1)
    )
    return (
        f":root {{ color-scheme: light; {fonts} {light} }}\n"
        "@media (prefers-color-scheme: dark) { :root:not([data-theme=light]) "
        f"{{ color-scheme: dark; {dark} }} }}\n"
        f":root[data-theme=dark] {{ color-scheme: dark; {dark} }}\n"
    )
