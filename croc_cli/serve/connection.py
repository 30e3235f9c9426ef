"""Connections that clients leave hanging: half a request, an answer that nobody reads, nonsense after an answer."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_LOOKS = 4
"""Times that a connection is looked at within the time that it may hang."""


class GuardedConnection(H11Protocol):
    """HTTP/1 whose client may keep the server waiting for so long, and no longer.

    A client keeps the server waiting while headers or a body are not whole, and while it does not read what was sent.
    """

    stall_seconds = 60.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, and look at it now and then."""
        super().connection_made(transport)
        self._hangs_since: float | None = None
        self._seen: Any = None
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let a connection go."""
        self._next_look.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; nonsense behind an answer ends the connection, as it has no answer of its own."""
        try:
            super().data_received(data)
        except h11.LocalProtocolError:
            self.transport.abort()

    def _look(self) -> None:
        now = self.loop.time()
        is_new = self.cycle is not self._seen
        hangs = self.flow.write_paused or self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        if not hangs or is_new or self._hangs_since is None:
            self._hangs_since = now if hangs else None
        elif now - self._hangs_since >= self.stall_seconds:
            self.transport.abort()
            return
        self._seen = self.cycle
        self._next_look = self.loop.call_later(self.stall_seconds / _LOOKS, self._look)


def guarded(stall_seconds: float) -> type[GuardedConnection]:
    """Return the connections of a server whose clients may hang for so many seconds."""
    return type("GuardedConnection", (GuardedConnection,), {"stall_seconds": stall_seconds})
