"""The demo's bookkeeping: what was played, what was said, and how late. Pure.

A seizure counts as detected if an alert is raised while it lasts (or within
``GRACE_S`` of its end); an alert that is raised at any other time is a false alarm. The
detection latency runs from the seizure's first sample to the alert's arrival at the subscriber.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

ONSET = "seizure/onset"
OFFSET = "seizure/offset"

GRACE_S = 2.0
"""The smoothing may still raise an alert this long after a seizure's end."""

TOO_SHORT_S = 5.0
"""A seizure that began less than this before the demo's end is not counted."""


@dataclass(slots=True)
class Seizure:
    """A seizure that was played, in Unix time.

    Attributes:
        onset_s: Of its first sample.
        offset_s: Of its end, or None while it lasts.
        alert_at_s: When the first alert for it reached the subscriber, or None.
    """

    onset_s: float
    offset_s: float | None = None
    alert_at_s: float | None = None


@dataclass(slots=True)
class Tally:
    """What the subscriber saw, beside what the device says that it played.

    All times are Unix time of this machine.
    """

    seizures: list[Seizure] = field(default_factory=list)
    alerts: list[dict[str, Any]] = field(default_factory=list)
    false_alarms: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    p: float | None = None
    state: str | None = None
    signal: str = "starting"
    status: str = "offline"

    def marker(self, text: str, at_s: float) -> None:
        """Take a marker of the device's ground truth."""
        if text == ONSET:
            self.seizures.append(Seizure(onset_s=at_s))
        elif text == OFFSET and self.seizures:
            self.seizures[-1].offset_s = at_s

    def prediction(self, message: Mapping[str, Any], received_s: float) -> None:
        """Take a prediction as it reached the subscriber."""
        self.p, self.state, self.signal = message["p"], message["state"], message["signal"]
        self.latencies_ms.append((received_s - unix_s(message["ts"])) * 1e3)

    def event(self, message: dict[str, Any], received_s: float) -> None:
        """Take a step in the life of an alert as it reached the subscriber."""
        self.alerts.append(message)
        self.latencies_ms.append((received_s - unix_s(message["ts"])) * 1e3)
        if message["event_type"] != "raised":
            return
        raised_s = unix_s(message["raised"])
        for seizure in self.seizures:
            ended_s = float("inf") if seizure.offset_s is None else seizure.offset_s + GRACE_S
            if seizure.onset_s <= raised_s <= ended_s:
                if seizure.alert_at_s is None:
                    seizure.alert_at_s = received_s
                return
        self.false_alarms += 1

    def result(self, *, data: str, n_windows: int, ended_s: float) -> dict[str, Any]:
        """Return the demo's figures as one JSON object.

        Args:
            data: What was played.
            n_windows: Windows that the pipeline classified.
            ended_s: When the demo ended.
        """
        counted = [
            s
            for s in self.seizures
            if s.alert_at_s is not None or ended_s - s.onset_s >= TOO_SHORT_S
        ]
        detected = [s for s in counted if s.alert_at_s is not None]
        latencies = np.array(self.latencies_ms)
        return {
            "data": data,
            "windows": n_windows,
            "seizures_true": len(counted),
            "seizures_detected": len(detected),
            "false_alarms": self.false_alarms,
            "detection_latency_s": [
                round(s.alert_at_s - s.onset_s, 3) for s in detected if s.alert_at_s is not None
            ],
            "sample_to_subscriber_ms": {
                "p50": round(float(np.percentile(latencies, 50)), 2) if latencies.size else None,
                "p99": round(float(np.percentile(latencies, 99)), 2) if latencies.size else None,
                "n": int(latencies.size),
            },
            "alerts": self.alerts,
        }


def unix_s(iso: str) -> float:
    """Return the Unix time of a payload's time stamp."""
    return datetime.fromisoformat(iso).timestamp()
