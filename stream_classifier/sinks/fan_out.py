"""Several sinks in the place of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stream_classifier.health import SinkCondition
from stream_classifier.sinks.messages import (
    AlertMessage,
    EventMessage,
    HealthMessage,
    PredictionMessage,
    QualityMessage,
)

if TYPE_CHECKING:
    from stream_classifier.pipeline import Sink


class FanOut:
    """Hands everything to several sinks, in their order.

    Args:
        first: The one that alerts depend on: it has each event before the others, and its condition
            is the condition of all.
        others: For looking at and for keeping. What they are given costs the first one nothing.
    """

    def __init__(self, first: Sink, others: Sequence[Sink]) -> None:
        self._first = first
        self._all = (first, *others)

    async def event(self, message: EventMessage) -> None:
        """Hand it on."""
        for sink in self._all:
            await sink.event(message)

    def alert_state(self, message: AlertMessage) -> None:
        """Hand it on."""
        for sink in self._all:
            sink.alert_state(message)

    def prediction(self, message: PredictionMessage) -> None:
        """Hand it on."""
        for sink in self._all:
            sink.prediction(message)

    def quality(self, message: QualityMessage) -> None:
        """Hand it on."""
        for sink in self._all:
            sink.quality(message)

    def health(self, message: HealthMessage) -> None:
        """Hand it on."""
        for sink in self._all:
            sink.health(message)

    @property
    def condition(self) -> SinkCondition:
        """Of the first one."""
        return self._first.condition
