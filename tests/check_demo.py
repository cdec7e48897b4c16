"""Check the figures that ``stream-classifier demo --json`` printed: ``check_demo.py FILE``.

Sample to subscriber is bounded loosely here (a busy machine is not a wrong program); the
measured figures stand in the README.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path


def failures(result: dict) -> list[str]:
    """Return what is wrong with a demo's result, as sentences."""
    latency_ms = result["sample_to_subscriber_ms"]
    raised = [alert for alert in result["alerts"] if alert["event_type"] == "raised"]
    checks = {
        "a known source of data": result["data"] in ("epileptic_seizure_recognition", "synthetic"),
        "windows were classified": result["windows"] > 500,
        "a seizure was played": result["seizures_true"] >= 1,
        "every seizure was detected": result["seizures_detected"] == result["seizures_true"],
        "no false alarm": result["false_alarms"] == 0,
        "one latency a detected seizure": len(result["detection_latency_s"])
        == result["seizures_detected"],
        "median detection latency at most 3 s": bool(result["detection_latency_s"])
        and statistics.median(result["detection_latency_s"]) <= 3,
        "the subscriber received predictions and alerts": latency_ms["n"] >= 20,
        "sample to subscriber p50 at most 50 ms": latency_ms["p50"] <= 50,
        "the subscriber received each alert's start": len(raised) == result["seizures_detected"],
    }
    return [check for check, holds in checks.items() if not holds]


if __name__ == "__main__":
    shown = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print({key: value for key, value in shown.items() if key != "alerts"})
    wrong = failures(shown)
    print("\n".join(f"FAILED: {check}" for check in wrong) or "the demo's figures hold")
    sys.exit(bool(wrong))
