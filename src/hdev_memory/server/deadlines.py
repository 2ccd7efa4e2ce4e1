"""What uvicorn does not have: an end for whoever sends half a request head, or takes no answer."""

from __future__ import annotations

import asyncio

from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from hdev_memory.server.limits import DEFAULT, Limits
from hdev_memory.server.metrics import Metrics


class Connections:
    """How many are open in this process, and how many may be."""

    def __init__(self, metrics: Metrics, limits: Limits = DEFAULT) -> None:
        self._metrics = metrics
        self.limits = limits
        self.count = 0

    @property
    def too_many(self) -> bool:
        return self.count > self.limits.connections

    def opened(self) -> bool:
        """There is one more; False where it is to be cut off."""
        self.count += 1
        self._metrics.connected()
        return self.count <= self.limits.connections + self.limits.spare

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
    request, for the rest of a head (any byte stops its only timer), and for a client that takes
    nothing of a long answer. This one does not.

    The rest of a body that nobody wants (after a 413) counts as a head: it is read and dropped, so
    that the client gets to see the answer, but not for longer.
    """

    config: Watched
    _head: asyncio.TimerHandle | None = None
    _untaken: asyncio.TimerHandle | None = None

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

    def pause_writing(self) -> None:
        super().pause_writing()
        self._untaken = self._later(self._limits.linger_seconds, "untaken")

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._untaken is not None:
            self._untaken.cancel()
            self._untaken = None

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._later(self._limits.linger_seconds, "untaken")

    @property
    def _limits(self) -> Limits:
        return self.config.connections.limits

    def _later(self, seconds: float, reason: str) -> asyncio.TimerHandle:
        return self.loop.call_later(seconds, self._cut_off, reason)

    def _cut_off(self, reason: str) -> None:
        if self in self.connections:
            self.config.connections.cut_off(reason)
            self.transport.abort()

    def _start(self) -> None:
        self._head = self._later(self._limits.head_seconds, "head")

    def _stop(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None
