"""Where results go when nothing is published: events to whoever called, the rest nowhere."""

from __future__ import annotations

from collections.abc import Callable

from stream_classifier.health import SinkCondition
from stream_classifier.sinks.messages import (
    AlertMessage,
    EventMessage,
    HealthMessage,
    PredictionMessage,
    QualityMessage,
)


class ConsoleSink:
    """Hands every step of an alert to a function, in order.

    Args:
        tell: Called on the event loop; has to return at once.
    """

    def __init__(self, tell: Callable[[EventMessage], None]) -> None:
        self._tell = tell

    async def event(self, message: EventMessage) -> None:
        """Hand it on."""
        self._tell(message)

    def alert_state(self, message: AlertMessage) -> None:
        """Say nothing: the events say it all."""

    def prediction(self, message: PredictionMessage) -> None:
        """Say nothing: there are twenty a second."""

    def quality(self, message: QualityMessage) -> None:
        """Say nothing: it is for looking at."""

    def health(self, message: HealthMessage) -> None:
        """Say nothing: the log names what is wrong."""

    @property
    def condition(self) -> SinkCondition:
        """Nothing is published, so nothing can fail."""
        return SinkCondition(publishes=False)
