"""Whether what we publish comes back: the proof that the broker hands it on.

A broker that speaks MQTT 3.1.1 acknowledges what its access list then drops without a word.
"""

from __future__ import annotations

import math

READ_BACK_WITHIN_S = 3.0

LATE_OURSELVES_S = 0.25
"""Who looks this much later than agreed was held up, and may not have read what did come: that is
a reason to wait as long again, not to accuse the broker."""


class ReadBack:
    """A topic that one client both publishes on and is subscribed to.

    One message at a time is waited for; a newer one will do as well.

    Attributes:
        topic: Its name.
        missing: Whether a message did not come in time, and no newer one has come since.
        due_s: When to look again, in the time that ``sent`` and ``look`` are given.

    Example:
        >>> canary = ReadBack("stream_classifier/bed3/canary")
        >>> canary.sent(b"7f", now_s=10.0)
        >>> canary.look(now_s=13.0)
        >>> canary.missing
        True
        >>> canary.heard(b"7f")
        >>> canary.missing
        False
    """

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.missing = False
        self.due_s = math.inf
        self._awaited: bytes | None = None
        self._newest: bytes | None = None

    def sent(self, payload: bytes, *, now_s: float) -> None:
        """Wait for this message, unless an earlier one is still waited for."""
        self._newest = payload
        if self._awaited is None:
            self._awaited = payload
            self.due_s = now_s + READ_BACK_WITHIN_S

    def heard(self, payload: bytes) -> None:
        """Take what came on the topic, from whomever."""
        if payload in (self._awaited, self._newest):
            self.forget()
            self.missing = False

    def forget(self) -> None:
        """Wait for nothing: the connection is gone, or the broker said no."""
        self._awaited = None
        self.due_s = math.inf

    def look(self, *, now_s: float) -> None:
        """Conclude that the message is missing, if it is due."""
        if now_s < self.due_s:
            return
        if now_s - self.due_s > LATE_OURSELVES_S:
            self.due_s = now_s + LATE_OURSELVES_S
            return
        self.missing = True
        self.forget()
