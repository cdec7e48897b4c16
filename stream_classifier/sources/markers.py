"""Event markers of an LSL stream: the ground truth that a simulated device sends."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pylsl

from stream_classifier.errors import StreamLostError, StreamNotFoundError

PULL_S = 0.1
"""How long one pull waits; a request to stop is noticed within it."""


def read_markers(
    source_id: str,
    *,
    on_marker: Callable[[str, float], None],
    wait_s: float,
    stop: threading.Event,
) -> None:
    """Read a ``Markers`` stream until ``stop`` is set or the stream is gone. Blocks.

    Args:
        source_id: Of the marker stream.
        on_marker: Given each marker's text and its time on this machine's LSL clock.
        wait_s: How long to look for the stream, seconds.
        stop: Set from another thread to end it.

    Raises:
        StreamNotFoundError: If the stream does not appear in time.
        StreamLostError: If it does not answer.
    """
    deadline_s = pylsl.local_clock() + wait_s
    found: list[pylsl.StreamInfo] = []
    while not found and not stop.is_set() and pylsl.local_clock() < deadline_s:
        found = [s for s in pylsl.resolve_streams(0.5) if s.source_id() == source_id]
    if stop.is_set():
        return
    if not found:
        raise StreamNotFoundError(wanted=f"source_id {source_id!r}", waited_s=wait_s, seen=())
    inlet = pylsl.StreamInlet(found[0], recover=False)
    try:
        inlet.open_stream(timeout=5.0)
        offset_s = inlet.time_correction(timeout=5.0)
        while not stop.is_set():
            marker, stamp_s = inlet.pull_sample(timeout=PULL_S)
            if marker is not None:
                on_marker(str(marker[0]), stamp_s + offset_s)
    except pylsl.util.LostError:
        return  # the device has finished
    except pylsl.util.TimeoutError as error:
        raise StreamLostError(source_id) from error
