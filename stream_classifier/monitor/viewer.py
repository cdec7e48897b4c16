"""One viewer: what waits for it, and no more than it can ever need."""

from __future__ import annotations

import asyncio
from collections import deque

from stream_classifier.monitor.memory import News

MOST_FRAME_BYTES = 2_000_000
"""Samples that wait for a slow viewer; beyond it the oldest are left out."""

MOST_EVENTS = 200
"""Events that wait; beyond it the viewer is told everything anew."""


class Viewer:
    """What one viewer has not been sent yet. Belongs to the monitor's event loop.

    A slow viewer loses frames of samples, never state: of state the newest waits, events wait in
    order, and where they are too many the viewer is to be told everything anew.

    Attributes:
        is_behind: Whether it has to be told everything anew.
        n_left_out: Frames that it did not get so far.
    """

    def __init__(self) -> None:
        self.is_behind = True  # it knows nothing yet
        self.n_left_out = 0
        self._state: dict[str, str] = {}
        self._events: deque[str] = deque()
        self._frames: deque[bytes] = deque()
        self._n_bytes = 0
        self._wake = asyncio.Event()

    def tell(self, news: News) -> None:
        """Have something said to it."""
        if news.kind not in {"event", "answer"}:
            self._state[news.kind] = news.text
        elif len(self._events) < MOST_EVENTS:
            self._events.append(news.text)
        else:
            self.is_behind = True
        self._wake.set()

    def show(self, frame: bytes) -> None:
        """Have samples sent to it, if it keeps up."""
        self._frames.append(frame)
        self._n_bytes += len(frame)
        while self._n_bytes > MOST_FRAME_BYTES:
            self._n_bytes -= len(self._frames.popleft())
            self.n_left_out += 1
        self._wake.set()

    async def next(self) -> tuple[list[str], bytes | None]:
        """Wait for something to be sent: what is said, all of it, and one frame."""
        while not (self.is_behind or self._state or self._events or self._frames):
            self._wake.clear()
            await self._wake.wait()
        said = [*self._events, *self._state.values()]
        self._events.clear()
        self._state.clear()
        frame = self._frames.popleft() if self._frames else None
        self._n_bytes -= len(frame or b"")
        return said, frame
