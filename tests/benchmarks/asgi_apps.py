"""One small memory server, written for each server stack that could carry ours.

`python -m tests.benchmarks.asgi_apps STACK PORT` runs one of them, with the interpreter of an
environment that holds the stack. The entries are in a dict, or in the folder named by BENCH_STORE.
"""

# No `from __future__ import annotations`: fastapi and litestar read annotations of inner functions.

import asyncio
import os
import sys
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import msgspec

PREFIX = "/api/memory/entry/"
HOST = "127.0.0.1"
JSON = "application/json"


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


class InFolder:
    """Entries in our folder backend, as `hdev memory-server` keeps them, synced."""

    def __init__(self, folder: str) -> None:
        from hdev_memory.backends.filesystem import FilesystemBackend
        from hdev_memory.server.store import Conditions, Store

        self._store = Store(FilesystemBackend(folder, must_exist=True))
        self._any = Conditions(None, None)

    async def put(self, key: str, write: Write) -> dict[str, Any]:
        call = partial(self._store.put, merge=True, conditions=self._any)
        await asyncio.to_thread(call, key, write.content.encode(), write.metadata)
        return _written(key)

    async def get(self, key: str) -> dict[str, Any]:
        found: Any = await asyncio.to_thread(self._store.read, key)
        return _entry(key, found.content.decode(), found.metadata)


def workload() -> Workload:
    """The one that the environment asks for."""
    folder = os.environ.get("BENCH_STORE")
    return InFolder(folder) if folder else InMemory()


def bare_app() -> Any:
    """No framework at all."""
    entries = workload()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        key = scope["path"].removeprefix(PREFIX)
        if scope["method"] == "PUT":
            body = b""
            while True:
                message = await receive()
                body += message["body"]
                if not message.get("more_body"):
                    break
            answer = encode(await entries.put(key, decode(body)))
        else:
            answer = encode(await entries.get(key))
        headers = [(b"content-type", JSON.encode()), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    return app


def starlette_app() -> Any:
    """Routes, requests and responses; JSON by msgspec."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    entries = workload()

    async def put(request: Request) -> Response:
        write = decode(await request.body())
        return Response(
            encode(await entries.put(request.path_params["path"], write)), media_type=JSON
        )

    async def get(request: Request) -> Response:
        return Response(encode(await entries.get(request.path_params["path"])), media_type=JSON)

    path = PREFIX + "{path:path}"
    return Starlette(routes=[Route(path, put, methods=["PUT"]), Route(path, get, methods=["GET"])])


def fastapi_app() -> Any:
    """Its own way: it validates the body and writes the answer."""
    from fastapi import FastAPI

    entries = workload()
    app = FastAPI()

    @app.put(PREFIX + "{path:path}")
    async def put(path: str, write: Write) -> dict[str, Any]:
        return await entries.put(path, write)

    @app.get(PREFIX + "{path:path}")
    async def get(path: str) -> dict[str, Any]:
        return await entries.get(path)

    return app


def litestar_app() -> Any:
    """The raw body, JSON by msgspec."""
    from litestar import Litestar, Request, Response
    from litestar import get as on_get
    from litestar import put as on_put

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

    return Litestar(route_handlers=[put, get], openapi_config=None)


def blacksheep_app() -> Any:
    """The raw body, JSON by msgspec."""
    from blacksheep import Application, Content, Request, Response

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

    return app


def _uvicorn(app: Any, port: int, *, fast: bool) -> None:
    import uvicorn

    loop, http = ("uvloop", "httptools") if fast else ("asyncio", "h11")
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

    app = web.Application()
    app.router.add_put(PREFIX + "{path:.+}", put)
    app.router.add_get(PREFIX + "{path:.+}", get)
    web.run_app(app, host=HOST, port=port, print=None, access_log=None)


RUN: dict[str, Any] = {
    "bare-uvicorn-fast": lambda port: _uvicorn(bare_app(), port, fast=True),
    "starlette-uvicorn": lambda port: _uvicorn(starlette_app(), port, fast=False),
    "starlette-uvicorn-fast": lambda port: _uvicorn(starlette_app(), port, fast=True),
    "starlette-granian": lambda port: _granian("starlette_app", port),
    "starlette-hypercorn": lambda port: _hypercorn(starlette_app(), port),
    "fastapi-uvicorn-fast": lambda port: _uvicorn(fastapi_app(), port, fast=True),
    "litestar-uvicorn-fast": lambda port: _uvicorn(litestar_app(), port, fast=True),
    "blacksheep-uvicorn-fast": lambda port: _uvicorn(blacksheep_app(), port, fast=True),
    "aiohttp": _aiohttp,
}
"""Stack -> how it is run on a port, until it is killed."""

if __name__ == "__main__":
    RUN[sys.argv[1]](int(sys.argv[2]))
