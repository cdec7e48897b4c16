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
"""A connection has so long to ask for something."""

MOST_LOOKS: Final = 6
"""So many times as long it has to take the answer."""


class Door(H11Protocol):
    """One connection, until it is a WebSocket; let go of if it is too many or does nothing."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, if there are not too many."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        else:
            self._look_later(None, 0)

    def _look_later(self, seen: RequestResponseCycle | None, n_looks: int) -> None:
        asyncio.get_running_loop().call_later(ASKS_WITHIN_S, self._look, seen, n_looks)

    def _look(self, seen: RequestResponseCycle | None, n_looks: int) -> None:
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            return
        is_idle = self.cycle is None or self.cycle.response_complete
        if self.cycle is not seen:
            self._look_later(self.cycle, 0)
        elif is_idle or n_looks >= MOST_LOOKS:
            self.transport.abort()
        else:
            self._look_later(seen, n_looks + 1)
