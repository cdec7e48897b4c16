"""Alerts as annotations of a recording: how they are worded, and read back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from stream_classifier.recorder.bdf import BdfFile, Note

Step = Literal["standing", "onset", "raised", "off", "on", "acknowledged", "ended", "retracted"]

MAX_CHANNELS_BYTES: Final = 150

_TEXT: Final = re.compile(
    r"seizure alert (standing|onset|raised|off|on|acknowledged|ended|retracted) id=([^\s=]+)"
    r"(?: p=([01]\.\d+))?(?: channels=(.*))?"
)


@dataclass(frozen=True, slots=True)
class AlertSpan:
    """One alert, as far as one file holds it.

    Attributes:
        alert_id: The same in every file.
        start_s: First window of the rise, from the file's first sample; 0 if it began before.
        end_s: When it went off, and did not come back; None if that is not in the file.
        p: Highest p(seizure) that is known.
        channels: Labels of the channels that were above the raise threshold.
        retracted: Whether it turned out to be none.
    """

    alert_id: str
    start_s: float
    end_s: float | None = None
    p: float | None = None
    channels: tuple[str, ...] = ()
    retracted: bool = False


def alert_text(
    step: Step, alert_id: str, *, p: float | None = None, channels: Sequence[str] = ()
) -> str:
    """Word one step of an alert.

    Example:
        >>> alert_text("raised", "9f3c", p=0.94, channels=("C3", "C4"))
        'seizure alert raised id=9f3c p=0.940 channels=C3,C4'
    """
    text = f"seizure alert {step} id={alert_id}"
    if p is not None:
        text += f" p={p:.3f}"
    kept = ",".join(label.replace(",", ";") for label in channels).encode()
    if kept:
        text += f" channels={kept[:MAX_CHANNELS_BYTES].decode(errors='ignore')}"
    return text


def alerts_in(file: BdfFile) -> list[AlertSpan]:
    """Find the alerts that a file's annotations tell of, in the order they began."""
    spans: dict[str, AlertSpan] = {}
    for note in file.notes():
        found = _TEXT.fullmatch(note.text)
        if found is None:
            continue
        step, alert_id, p, channels = found.groups()
        span = spans.get(alert_id) or AlertSpan(alert_id, start_s=max(0.0, note.at_s))
        spans[alert_id] = _after(span, step, note, float(p) if p else None, channels)
    return sorted(spans.values(), key=lambda span: span.start_s)


def _after(
    span: AlertSpan, step: str, note: Note, p: float | None, channels: str | None
) -> AlertSpan:
    """Return what is known of an alert after one more annotation."""
    start_s, end_s = span.start_s, span.end_s
    if step == "onset":
        start_s = max(0.0, note.at_s)
    elif step == "standing":
        start_s = 0.0
    elif step in ("off", "ended"):
        end_s = max(start_s, note.at_s)
    elif step == "on":
        end_s = None
    return replace(
        span,
        start_s=start_s,
        end_s=end_s,
        p=max(p or 0.0, span.p or 0.0) or None,
        channels=tuple(channels.split(",")) if channels else span.channels,
        retracted=span.retracted or step == "retracted",
    )
