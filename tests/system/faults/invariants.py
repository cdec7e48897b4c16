"""What holds after every fault, whatever it was."""

from __future__ import annotations

import itertools
import math
from datetime import datetime

from stream_classifier.detection.detector import Detector, DetectorSettings
from stream_classifier.engines import make_engine
from stream_classifier.signals import AlertEvent

OLD_S = 2.0
"""Older than this, data is never shown as a live signal."""


def no_window_spans_a_gap(predictions, accepted, *, rate_hz, bundle):
    """Every sample of every window was there; ``accepted`` are the indices of samples taken in."""
    accepted = set(accepted)
    scale = rate_hz / bundle.rate_hz
    for p in predictions:
        first = math.ceil((p.end_index - bundle.window_samples + 1) * scale)
        window = range(first, math.floor(p.end_index * scale) + 1)
        missing = [index for index in window if index not in accepted]
        assert not missing, f"the window {window} was decided on without samples {missing[:5]}"


def replay(chunks, *, bundle, spec, rule=None):
    """What the detector says of accepted samples, offline."""
    detector = Detector(
        bundle=bundle,
        spec=spec,
        engine=make_engine(bundle),
        settings=DetectorSettings(rule=rule or bundle.alarm),
    )
    items = [item for chunk in chunks for item in detector.feed(chunk)]
    detector.close()
    return items


def events_in(items):
    return [item for item in items if isinstance(item, AlertEvent)]


def alerts_are_those_of_a_replay(heard, events):
    """At the subscriber each step of each alert is there once, and no other.

    Args:
        heard: ``alert/event`` messages.
        events: Of the replay.
    """
    ids = [message["event_id"] for message in heard]
    assert len(ids) == len(set(ids)), f"heard twice: {ids}"
    assert ids == [f"{event.alert_id}.{event.seq}" for event in events]
    assert [m["event_type"] for m in heard] == [str(event.type) for event in events]


def old_data_is_never_shown_as_live(alerts, *, delay_s=0.0):
    """Args: ``alert`` messages; ``delay_s``: signal that a decision has to wait for."""
    for message in alerts:
        if message["signal"] in {"ok", "calibrating"}:
            age_s = seconds(message["decided"]) - seconds(message["ts"])
            assert age_s <= OLD_S + delay_s, f"{age_s:.2f} s old and shown as live: {message}"


def longest_live_age_s(received):
    """How old the data was, at most, in ``alert`` messages of a live signal as they arrived.

    Args: lines of ``subscribe --json``.
    """
    ages = [
        seconds(line["received"]) - seconds(line["message"]["ts"])
        for line in received
        if line["message"]["signal"] in {"ok", "calibrating"} and not line["retained"]
    ]
    return max(ages, default=0.0)


def a_standing_alert_stays_on(alerts, heard):
    """The state goes off only after an event has said that the alert is off, or ended."""
    off_at = [m["ts"] for m in heard if not m["on"]]
    for before, after in itertools.pairwise(alerts):
        if before["on"] and not after["on"]:
            assert any(before["ts"] <= ts <= after["ts"] for ts in off_at), (before, after)


def nothing_is_nan(payloads):
    """JSON knows no NaN; none is written as a text either."""
    for payload in payloads:
        for value in leaves(payload):
            assert not (isinstance(value, float) and not math.isfinite(value)), payload
            assert str(value).lower() not in {"nan", "inf", "infinity", "-inf"}, payload


def leaves(value):
    if isinstance(value, dict):
        for inner in value.values():
            yield from leaves(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from leaves(inner)
    else:
        yield value


def seconds(text):
    return datetime.fromisoformat(text).timestamp()


def all_of(played, *, rate_hz=178.0):
    """The invariants of an offline play; see ``offline.play``."""
    detector = played.detector
    no_window_spans_a_gap(
        played.predictions, played.indices, rate_hz=rate_hz, bundle=detector.bundle
    )
    nothing_is_nan(played.payloads)
    assert all(p.state is None for p in played.predictions if p.p is None)
    indices = played.indices
    assert len(indices) == len(set(indices)) == played.timeline.n_samples
