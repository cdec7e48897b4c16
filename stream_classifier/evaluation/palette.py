"""The colours of every picture: told apart by everybody, and in grey (Okabe & Ito, 2008).

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
