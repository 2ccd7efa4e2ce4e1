"""A peer of our server: entries in a dict behind bare ASGI, with no key, no condition and no disk.

`python -m tests.benchmarks.bare PORT`
"""

from __future__ import annotations

import sys

import msgspec
import uvicorn
from starlette.types import Receive, Scope, Send

_PREFIX = len("/api/memory/entry/")
_HEADERS = [(b"content-type", b"application/json")]
_entries: dict[str, bytes] = {}


class _Write(msgspec.Struct):
    content: str
    metadata: dict[str, object] = {}


_decode = msgspec.json.Decoder(_Write).decode


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """PUT checks that the body is a write and keeps it; GET gives it back."""
    key, status = scope["path"][_PREFIX:], 200
    if scope["method"] == "PUT":
        body = b""
        more = True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        _decode(body)
        _entries[key] = body
        answer = b'{"success":true}'
    else:
        answer = _entries.get(key, b"")
        status = 200 if answer else 404
    headers = [*_HEADERS, (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), lifespan="off", access_log=False, log_level="error")
