"""One small memory server, written for each server stack that could carry ours.

`python -m tests.benchmarks.asgi_apps STACK PORT` runs one of them, with the interpreter of an
environment that holds the stack. The entries are in a dict, or in the folder or the SQLite file
named by BENCH_STORE, and then many can be written and listed in one request as well.
"""

# No `from __future__ import annotations`: fastapi and litestar read annotations of inner functions.

import asyncio
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

PREFIX = "/api/memory/entry/"
WRITE = "/api/hdev-memory/1/write"
SNAPSHOT = "/api/hdev-memory/1/snapshot"
HOST = "127.0.0.1"
JSON = "application/json"
NDJSON = "application/x-ndjson"


@dataclass
class Write:
    """The body of a PUT."""

    content: str
    metadata: dict[str, Any]


decode = msgspec.json.Decoder(Write).decode
encode = msgspec.json.Encoder().encode


class Workload(Protocol):
    """What every stack calls; the answers are the dialect's."""

    async def put(self, key: str, write: Write) -> dict[str, Any]: ...

    async def get(self, key: str) -> dict[str, Any]: ...

    async def write(self, body: bytes) -> bytes: ...

    def snapshot(self) -> Iterator[bytes]: ...


def _written(key: str) -> dict[str, Any]:
    message = f"Memory entry written successfully to {key}"
    return {"path": key, "success": True, "message": message, "error": None}


def _entry(key: str, content: str, metadata: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "file",
        "path": key,
        "content": content,
        "metadata": metadata,
        "items": None,
        "success": True,
        "error": None,
    }


class InMemory:
    """Entries in a dict: what is left is the stack's own cost."""

    def __init__(self) -> None:
        self._entries: dict[str, Write] = {}

    async def put(self, key: str, write: Write) -> dict[str, Any]:
        self._entries[key] = write
        return _written(key)

    async def get(self, key: str) -> dict[str, Any]:
        found = self._entries[key]
        return _entry(key, found.content, found.metadata)

    async def write(self, body: bytes) -> bytes:
        raise NotImplementedError

    def snapshot(self) -> Iterator[bytes]:
        raise NotImplementedError


class Stored:
    """Entries in one of our backends, as `hdev memory-server` keeps them, synced."""

    def __init__(self, place: str) -> None:
        from hdev_memory.backends.filesystem import FilesystemBackend
        from hdev_memory.backends.sqlite import SqliteBackend
        from hdev_memory.server.lease import Fences, LeaseLock
        from hdev_memory.server.store import Store

        folder = os.path.isdir(place)
        backend = (
            FilesystemBackend(place, must_exist=True)
            if folder
            else SqliteBackend(place, must_exist=False)
        )
        self._store = Store(backend, LeaseLock(lambda: 0.0, Fences()))

    async def put(self, key: str, write: Write) -> dict[str, Any]:
        call = self._store.put(key, write.content.encode(), write.metadata, merge=True)
        await asyncio.wrap_future(call)
        return _written(key)

    async def get(self, key: str) -> dict[str, Any]:
        found: Any = await asyncio.to_thread(self._store.read, key)
        return _entry(key, found.content.decode(), found.metadata)

    async def write(self, body: bytes) -> bytes:
        from hdev_memory.server import limits, protocol

        wanted = await asyncio.to_thread(protocol.decode_write, body, limits.DEFAULT)
        call = self._store.write(wanted.changes, wanted.normalisation)
        made = await asyncio.wrap_future(call)
        return await asyncio.to_thread(lambda: b"".join(protocol.receipts(wanted, made)))

    def snapshot(self) -> Iterator[bytes]:
        from hdev_memory.server import protocol
        from hdev_memory.server.store import NORMAL

        return protocol.snapshot(self._store, "bench", NORMAL, None, None)


def workload() -> Workload:
    """The one that the environment asks for."""
    place = os.environ.get("BENCH_STORE")
    return Stored(place) if place else InMemory()


async def in_thread(pieces: Iterator[bytes]) -> Any:
    """Each piece, made in a thread when the one before was taken."""
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        yield piece


def bare_app() -> Any:
    """No framework at all."""
    entries = workload()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == SNAPSHOT:
            headers = [(b"content-type", NDJSON.encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async for piece in in_thread(entries.snapshot()):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
            return
        key = scope["path"].removeprefix(PREFIX)
        if scope["method"] == "GET":
            answer = encode(await entries.get(key))
        else:
            body = bytearray()
            while True:
                message = await receive()
                body += message["body"]
                if not message.get("more_body"):
                    break
            if scope["path"] == WRITE:
                answer = await entries.write(bytes(body))
            else:
                answer = encode(await entries.put(key, decode(body)))
        headers = [(b"content-type", JSON.encode()), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    return app


def starlette_app() -> Any:
    """Routes, requests and responses; JSON by msgspec."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response, StreamingResponse
    from starlette.routing import Route

    entries = workload()

    async def put(request: Request) -> Response:
        write = decode(await request.body())
        return Response(
            encode(await entries.put(request.path_params["path"], write)), media_type=JSON
        )

    async def get(request: Request) -> Response:
        return Response(encode(await entries.get(request.path_params["path"])), media_type=JSON)

    async def write(request: Request) -> Response:
        return Response(await entries.write(await request.body()), media_type=NDJSON)

    async def snapshot(request: Request) -> Response:
        return StreamingResponse(in_thread(entries.snapshot()), media_type=NDJSON)

    path = PREFIX + "{path:path}"
    return Starlette(
        routes=[
            Route(path, put, methods=["PUT"]),
            Route(path, get, methods=["GET"]),
            Route(WRITE, write, methods=["POST"]),
            Route(SNAPSHOT, snapshot, methods=["GET"]),
        ]
    )


def fastapi_app() -> Any:
    """Its own way: it validates the body and writes the answer."""
    from fastapi import FastAPI, Request
    from fastapi.responses import Response, StreamingResponse

    entries = workload()
    app = FastAPI()

    @app.put(PREFIX + "{path:path}")
    async def put(path: str, write: Write) -> dict[str, Any]:
        return await entries.put(path, write)

    @app.get(PREFIX + "{path:path}")
    async def get(path: str) -> dict[str, Any]:
        return await entries.get(path)

    @app.post(WRITE)
    async def write(request: Request) -> Response:
        return Response(await entries.write(await request.body()), media_type=NDJSON)

    @app.get(SNAPSHOT)
    async def snapshot() -> StreamingResponse:
        return StreamingResponse(in_thread(entries.snapshot()), media_type=NDJSON)

    return app


def litestar_app() -> Any:
    """The raw body, JSON by msgspec."""
    from litestar import Litestar, Request, Response
    from litestar import get as on_get
    from litestar import post as on_post
    from litestar import put as on_put
    from litestar.response import Stream

    entries = workload()

    @on_put(PREFIX + "{path:path}")
    async def put(request: Request[Any, Any, Any]) -> Response[bytes]:
        key = request.scope["path"].removeprefix(PREFIX)
        write = decode(await request.body())
        return Response(encode(await entries.put(key, write)), media_type=JSON)

    @on_get(PREFIX + "{path:path}")
    async def get(request: Request[Any, Any, Any]) -> Response[bytes]:
        key = request.scope["path"].removeprefix(PREFIX)
        return Response(encode(await entries.get(key)), media_type=JSON)

    @on_post(WRITE, status_code=200)
    async def write(request: Request[Any, Any, Any]) -> Response[bytes]:
        return Response(await entries.write(await request.body()), media_type=NDJSON)

    @on_get(SNAPSHOT)
    async def snapshot() -> Stream:
        return Stream(in_thread(entries.snapshot()), media_type=NDJSON)

    return Litestar(
        route_handlers=[put, get, write, snapshot], openapi_config=None, request_max_body_size=None
    )


def blacksheep_app() -> Any:
    """The raw body, JSON by msgspec."""
    from blacksheep import Application, Content, Request, Response, StreamedContent

    entries = workload()
    app = Application()

    @app.router.put(PREFIX + "*")
    async def put(request: Request) -> Response:
        write = decode(await request.read())
        key = request.route_values["tail"]
        answer = encode(await entries.put(key, write))
        return Response(200, content=Content(JSON.encode(), answer))

    @app.router.get(PREFIX + "*")
    async def get(request: Request) -> Response:
        answer = encode(await entries.get(request.route_values["tail"]))
        return Response(200, content=Content(JSON.encode(), answer))

    @app.router.post(WRITE)
    async def write(request: Request) -> Response:
        return Response(
            200, content=Content(NDJSON.encode(), await entries.write(await request.read()))
        )

    @app.router.get(SNAPSHOT)
    async def snapshot(request: Request) -> Response:
        pieces = entries.snapshot()
        return Response(200, content=StreamedContent(NDJSON.encode(), lambda: in_thread(pieces)))

    return app


def _uvicorn(app: Any, port: int, loop: str = "uvloop", http: str = "httptools") -> None:
    import uvicorn

    uvicorn.run(
        app, host=HOST, port=port, loop=loop, http=http, log_level="critical", access_log=False
    )  # fmt: skip


def _granian(factory: str, port: int) -> None:
    from granian import Granian

    Granian(
        f"tests.benchmarks.asgi_apps:{factory}",
        factory=True,
        address=HOST,
        port=port,
        interface="asgi",
        workers=1,
        log_enabled=False,
    ).serve()


def _hypercorn(app: Any, port: int) -> None:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"{HOST}:{port}"]
    config.errorlog = None
    asyncio.run(serve(app, config))


def _aiohttp(port: int) -> None:
    from aiohttp import web

    entries = workload()

    async def put(request: web.Request) -> web.Response:
        write = decode(await request.read())
        answer = encode(await entries.put(request.match_info["path"], write))
        return web.Response(body=answer, content_type=JSON)

    async def get(request: web.Request) -> web.Response:
        answer = encode(await entries.get(request.match_info["path"]))
        return web.Response(body=answer, content_type=JSON)

    async def write(request: web.Request) -> web.Response:
        answer = await entries.write(await request.read())
        return web.Response(body=answer, content_type=NDJSON)

    async def snapshot(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        async for piece in in_thread(entries.snapshot()):
            await answer.write(piece)
        await answer.write_eof()
        return answer

    app = web.Application(client_max_size=1 << 30)
    app.router.add_post(WRITE, write)
    app.router.add_get(SNAPSHOT, snapshot)
    app.router.add_put(PREFIX + "{path:.+}", put)
    app.router.add_get(PREFIX + "{path:.+}", get)
    web.run_app(app, host=HOST, port=port, print=None, access_log=None)


RUN: dict[str, Any] = {
    "bare-uvicorn-fast": lambda port: _uvicorn(bare_app(), port),
    "starlette-uvicorn": lambda port: _uvicorn(starlette_app(), port, "asyncio", "h11"),
    "starlette-uvicorn-uvloop": lambda port: _uvicorn(starlette_app(), port, "uvloop", "h11"),
    "starlette-uvicorn-fast": lambda port: _uvicorn(starlette_app(), port),
    "starlette-granian": lambda port: _granian("starlette_app", port),
    "starlette-hypercorn": lambda port: _hypercorn(starlette_app(), port),
    "fastapi-uvicorn-fast": lambda port: _uvicorn(fastapi_app(), port),
    "litestar-uvicorn-fast": lambda port: _uvicorn(litestar_app(), port),
    "blacksheep-uvicorn-fast": lambda port: _uvicorn(blacksheep_app(), port),
    "aiohttp": _aiohttp,
}
"""Stack -> how it is run on a port, until it is killed."""

if __name__ == "__main__":
    RUN[sys.argv[1]](int(sys.argv[2]))
