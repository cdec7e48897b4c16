"""From the pipeline's threads to the monitor's: appended here, and nothing waits."""

from __future__ import annotations

from collections import deque
from typing import TypeVar

from stream_classifier.health import SinkCondition
from stream_classifier.signals import Chunk
from stream_classifier.sinks.messages import (
    AlertMessage,
    EventMessage,
    HealthMessage,
    PredictionMessage,
    QualityMessage,
)

T = TypeVar("T")
Said = AlertMessage | EventMessage | HealthMessage | PredictionMessage | QualityMessage

MOST_CHUNKS = 4_000
MOST_SAID = 20_000
"""What waits for a monitor that hangs; beyond it the oldest is dropped."""


class Feed:
    """A sink for results and a tap for samples; the monitor takes out of it what it shows.

    Every method returns at once, whatever becomes of the monitor: an append to a bounded queue.
    """

    def __init__(self) -> None:
        self._chunks: deque[Chunk] = deque(maxlen=MOST_CHUNKS)
        self._said: deque[Said] = deque(maxlen=MOST_SAID)

    def samples(self, chunk: Chunk) -> None:
        """Take samples as they arrive. Called on the reader's thread."""
        self._chunks.append(chunk)

    async def event(self, message: EventMessage) -> None:
        """Take one step of an alert."""
        self._said.append(message)

    def alert_state(self, message: AlertMessage) -> None:
        """Take the alert state."""
        self._said.append(message)

    def prediction(self, message: PredictionMessage) -> None:
        """Take the newest prediction."""
        self._said.append(message)

    def quality(self, message: QualityMessage) -> None:
        """Take what the channels are worth."""
        self._said.append(message)

    def health(self, message: HealthMessage) -> None:
        """Take the state of health."""
        self._said.append(message)

    @property
    def condition(self) -> SinkCondition:
        """Nothing is published here, so nothing can fail."""
        return SinkCondition(publishes=False)

    def take_chunks(self) -> list[Chunk]:
        """Return what arrived since the last time, oldest first. Called on one thread only."""
        return _drained(self._chunks)

    def take_said(self) -> list[Said]:
        """Return what was said since the last time, oldest first. Called on one thread only."""
        return _drained(self._said)


def _drained(queue: deque[T]) -> list[T]:
    return [queue.popleft() for _ in range(len(queue))]
