"""What whoever runs the server asks it: `/healthz`, `/readyz` and `/metrics`."""

from __future__ import annotations

import asyncio

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hdev_memory.server.metrics import CONTENT_TYPE, Metrics
from hdev_memory.server.store import Store


class Readiness:
    """What `/readyz` says, and why."""

    def __init__(self, store: Store, seconds: float) -> None:
        self._store = store
        self._seconds = seconds
        self._looking: asyncio.Task[bool] | None = None
        self._stopping = False

    def stop(self) -> None:
        """The server was told to end: from now on it is not ready."""
        self._stopping = True

    async def storage_up(self) -> bool:
        """Whether the storage can be reached now.

        It is asked by one thread at a time, however many want to know: one that hangs would
        otherwise take a thread with each question, until there is none left to answer with.
        """
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(run_in_threadpool(self._store.backend.present))
        done, _ = await asyncio.wait((self._looking,), timeout=self._seconds)
        return bool(done) and self._looking.exception() is None and self._looking.result()

    async def missing(self, *, storage_up: bool) -> str | None:
        """Why no requests should be sent here; None when they should."""
        if self._stopping:
            return "The server is stopping"
        if not storage_up:
            return "The storage cannot be reached"
        if not self._store.writable:
            return "The storage takes no writes; the log of the server says why"
        return None


class Operating:
    def __init__(self, readiness: Readiness, metrics: Metrics) -> None:
        self._readiness = readiness
        self._metrics = metrics

    async def alive(self, request: Request) -> Response:
        """That the process answers, whatever its storage does: else it should be started anew."""
        return JSONResponse({"alive": True})

    async def ready(self, request: Request) -> Response:
        """Whether requests should be sent here."""
        missing = await self._readiness.missing(storage_up=await self._readiness.storage_up())
        if missing is None:
            return JSONResponse({"ready": True})
        return JSONResponse({"ready": False, "detail": missing}, 503, headers={"Retry-After": "1"})

    async def metrics(self, request: Request) -> Response:
        """For Prometheus."""
        up = await self._readiness.storage_up()
        ready = await self._readiness.missing(storage_up=up) is None
        text = self._metrics.text(storage_up=up, ready=ready)
        return Response(text, media_type=CONTENT_TYPE)
