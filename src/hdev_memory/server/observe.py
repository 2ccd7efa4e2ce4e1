"""What is seen of every request: its id, its place in the metrics, and its line in the log."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hdev_memory.server.deadlines import Connections
from hdev_memory.server.logs import REQUEST_ID
from hdev_memory.server.metrics import Metrics

METHODS = frozenset(("GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"))
"""Others, which anybody may invent, count as `other`."""

OPERATING = frozenset(("/healthz", "/readyz", "/metrics"))
"""Answered also when there are too many connections: it is then that somebody looks."""

_REQUEST_ID = re.compile(b"[!-~]{1,128}")

log = logging.getLogger("hdev_memory.server.requests")


class Observed:
    """An app of which every answer carries `X-Request-Id`, is counted, and is logged.

    An id that a client or a proxy sends is taken when it is 1 to 128 visible ASCII characters, else
    one is made. It is in `request.state.request_id` for whoever records the request. Requests that
    come while there are too many connections are answered with 503.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        connections: Connections,
        new_id: Callable[[], str],
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._new_id = new_id
        self._connections = connections

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _sent_id(scope) or self._new_id()
        # Never reset: the task ends with the request, and uvicorn logs its failure after us.
        REQUEST_ID.set(request_id)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        taken = given = 0
        status = 500  # what uvicorn answers when nothing was
        whole = False

        async def receiving() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            return message

        async def sending(message: Message) -> None:
            nonlocal given, status, whole
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
                message = {**message, "headers": headers}
            else:
                given += len(message.get("body", b""))
            await send(message)
            whole = message["type"] == "http.response.body" and not message.get("more_body", False)

        app = self._app
        if self._connections.too_many and scope["path"] not in OPERATING:
            app = _too_many
        begin = time.perf_counter()
        self._metrics.begun()
        try:
            await app(scope, receiving, sending)
        finally:
            seconds = time.perf_counter() - begin
            method = scope["method"] if scope["method"] in METHODS else "other"
            route = _route_of(scope)
            self._metrics.answered(method, route, status, seconds, taken, given)
            level = _level(status)
            if log.isEnabledFor(level):
                client = state.get("client")
                address = scope["client"][0] if scope.get("client") else ""
                fields = {
                    "method": method,
                    "route": route,
                    "status": status,
                    "whole": whole,
                    "seconds": round(seconds, 6),
                    "bytes_in": taken,
                    "bytes_out": given,
                    "client": client.name if client is not None else None,
                    "address": address,
                }
                log.log(level, "request", extra={"event": "request", "fields": fields})


def _sent_id(scope: Scope) -> str:
    sent = [value for name, value in scope["headers"] if name == b"x-request-id"]
    if len(sent) == 1 and _REQUEST_ID.fullmatch(sent[0]):
        return str(sent[0], "ascii")
    return ""


def _route_of(scope: Scope) -> str:
    """The path as the document has it, never with what a client put into it."""
    route = scope.get("route")
    return route.path.replace(":path}", "}") if route is not None else "unmatched"


def _level(status: int) -> int:
    if status < 500:
        return logging.INFO
    return logging.WARNING if status == 503 else logging.ERROR


async def _too_many(scope: Scope, receive: Receive, send: Send) -> None:
    body = b'{"detail":"There are too many connections"}'
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
        (b"retry-after", b"1"),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
