"""What uvicorn does not have: an end for whoever sends half a request head, or takes no answer."""

from __future__ import annotations

import asyncio

from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from hdev_memory.server.metrics import Metrics

HEAD_SECONDS = 15.0
"""From the connect, or from the first byte after an answer, to the whole head of a request."""

IDLE_SECONDS = 5
"""Of silence between an answer and the next request (uvicorn's own keep-alive limit)."""

LINGER_SECONDS = 60.0
"""From the end of a connection on our side until what the client has not taken is thrown away."""

CONNECTIONS = 1000
"""Open at once; the requests of more are answered with 503."""

SPARE_CONNECTIONS = 100
"""So many more are heard; those beyond are cut off at once."""


class Connections:
    """How many are open in this process, and how many may be."""

    def __init__(self, metrics: Metrics, most: int = CONNECTIONS) -> None:
        self._metrics = metrics
        self.most = most
        self.count = 0

    @property
    def too_many(self) -> bool:
        return self.count > self.most

    def opened(self) -> bool:
        """There is one more; False where it is to be cut off."""
        self.count += 1
        self._metrics.connected()
        return self.count <= self.most + SPARE_CONNECTIONS

    def closed(self) -> None:
        self.count -= 1
        self._metrics.disconnected()

    def cut_off(self, reason: str) -> None:
        self._metrics.cut_off(reason)


class Watched(Config):
    """Uvicorn's settings, and the connections that its protocol tells of."""

    connections: Connections


class Deadlined(H11Protocol):
    """Uvicorn closes a connection that is silent after an answer. It waits for ever for the first
    request, and for the rest of a head: any byte stops its only timer. This one does not.

    The rest of a body that nobody wants (after a 413) counts as a head: it is read and dropped, so
    that the client gets to see the answer, but not for longer.
    """

    config: Watched
    head_seconds = HEAD_SECONDS
    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.config.connections.opened():
            self._start()
        else:
            self._cut_off("too many")

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # Uvicorn declares `cycle` without the None that it is before the first request.
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            self._stop()
        elif self._head is None and not self.transport.is_closing():
            self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self.config.connections.closed()
        super().connection_lost(exc)

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self.loop.call_later(LINGER_SECONDS, self._cut_off, "untaken")

    def _cut_off(self, reason: str) -> None:
        if self in self.connections:
            self.config.connections.cut_off(reason)
            self.transport.abort()

    def _start(self) -> None:
        self._head = self.loop.call_later(self.head_seconds, self._cut_off, "head")

    def _stop(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None
