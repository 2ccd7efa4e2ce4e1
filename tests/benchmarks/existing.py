"""The existing server's emulation on a given port, which may record what it is asked.

`python -m tests.benchmarks.existing PORT STORE [RECORDED]`
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.benchmarks.measuring import API_KEY
from tests.emulation.existing_server import Faults, create_app


class Recording:
    """Passes requests on, and writes each as bytes that can be sent again, in order of arrival."""

    def __init__(self, app: ASGIApp, file: BinaryIO) -> None:
        self._app = app
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take the whole request first; then the app gets it."""
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        head = b"%s %s%s HTTP/1.1\r\nHost: memory\r\nAuthorization: Bearer %s\r\n" % (
            scope["method"].encode(),
            scope["raw_path"],
            query,
            API_KEY.encode(),
        )
        if body:
            head += b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
        whole = head + b"\r\n" + body
        self._file.write(b"%d\n%s" % (len(whole), whole))

        async def again() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, again, send)


def main(port: int, store: Path, recorded: Path | None) -> None:
    """Serve until SIGTERM; the server's settings are those of the emulation."""
    app: ASGIApp = create_app(store, API_KEY, Faults())
    file = recorded.open("wb") if recorded is not None else None
    if file is not None:
        app = Recording(app, file)
    uvicorn.run(
        app, port=port, loop="asyncio", http="h11", lifespan="off", access_log=False,
        log_level="critical",
    )  # fmt: skip
    if file is not None:
        file.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None)
