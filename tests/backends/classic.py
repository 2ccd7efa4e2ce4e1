"""Our server as one that does not announce `hdev-memory/1`: clients send one request per entry."""

from __future__ import annotations

import json

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Classic:
    """The app, but for two members of its health."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the app does; the health without `protocols` and `batch`."""
        if scope["type"] != "http" or scope["path"] != "/api/health":
            await self._app(scope, receive, send)
            return
        start: Message = {}

        async def quieter(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
                return
            health = json.loads(message["body"])
            assert health["details"].pop("protocols") == ["hdev-memory/1"]
            del health["details"]["batch"]
            raw = json.dumps(health).encode()
            others = [item for item in start["headers"] if item[0] != b"content-length"]
            start["headers"] = [*others, (b"content-length", str(len(raw)).encode())]
            await send(start)
            await send({**message, "body": raw})

        await self._app(scope, receive, quieter)
