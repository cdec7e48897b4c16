"""Alerts as annotations of a recording: how they are worded, and read back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from stream_classifier.recorder.bdf import BdfFile

Step = Literal["standing", "onset", "raised", "off", "on", "acknowledged", "ended", "retracted"]

MAX_CHANNELS_BYTES: Final = 150

_TEXT: Final = re.compile(
    r"seizure alert (standing|onset|raised|off|on|acknowledged|ended|retracted) id=([^\s=]+)"
    r"(?: p=([01]\.\d+))?(?: channels=(.*))?"
)


@dataclass(slots=True)
class AlertSpan:
    """One alert, as annotations tell of it.

    Attributes:
        alert_id: The same in every file; of a recording that is played again, too.
        start: First window of the rise; the start of the first file if it began before.
        seen_until: End of the last file that tells of it.
        end: When it went off, and did not come back; None if nothing says so.
        p: Highest p(seizure) that is known.
        channels: Labels of the channels that were above the raise threshold.
        retracted: Whether it turned out to be none.
    """

    alert_id: str
    start: datetime
    seen_until: datetime
    end: datetime | None = None
    p: float | None = None
    channels: tuple[str, ...] = ()
    retracted: bool = False

    @property
    def until(self) -> datetime:
        """When it ended, as far as anybody knows."""
        return self.end or self.seen_until


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


def alerts_in(files: Iterable[BdfFile]) -> list[AlertSpan]:
    """Find the alerts that the annotations of a stream's files tell of.

    Args:
        files: In the order of time. An alert may go on from one to the next.

    Returns:
        In the order in which they began.
    """
    lives: list[AlertSpan] = []
    newest: dict[str, AlertSpan] = {}
    for file in files:
        for note in file.notes():
            found = _TEXT.fullmatch(note.text)
            if found is None:
                continue
            step, alert_id, p, channels = found.groups()
            at = file.start + timedelta(seconds=note.at_s)
            if alert_id not in newest or (step == "onset" and at >= newest[alert_id].until):
                newest[alert_id] = AlertSpan(alert_id, min(at, file.end), file.end)
                lives.append(newest[alert_id])
            span = newest[alert_id]
            span.seen_until = file.end
            span.p = max(float(p or 0.0), span.p or 0.0) or None
            span.channels = tuple(channels.split(",")) if channels else span.channels
            span.retracted |= step == "retracted"
            if step in ("off", "ended"):
                span.end = max(at, span.start)
            elif step == "on":
                span.end = None
    return sorted(lives, key=lambda span: span.start)
