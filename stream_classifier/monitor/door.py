"""Connections to the monitor page: no more than a few, and none that only sits there.

uvicorn takes every connection, and waits for ever for what it asks. Each costs a file descriptor,
and with the last of them gone the classifier could open no file and reach no broker any more.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import RequestResponseCycle

MOST_CONNECTIONS: Final = 128

ASKS_WITHIN_S: Final = 10.0
"""A connection has so long to ask for something, and so long to take the answer."""


class Door(H11Protocol):
    """One connection, until it is a WebSocket; let go of if it is too many or does nothing."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, if there are not too many."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        else:
            self._look_again(None)

    def _look_again(self, seen: RequestResponseCycle | None) -> None:
        asyncio.get_running_loop().call_later(ASKS_WITHIN_S, self._look, seen)

    def _look(self, seen: RequestResponseCycle | None) -> None:
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            return
        if self.cycle is seen:
            self.transport.abort()
        else:
            self._look_again(self.cycle)
