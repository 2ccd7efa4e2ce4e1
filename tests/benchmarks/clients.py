"""HTTP clients against one fast loopback server: requests/s and processor time for each request.

Run by hand: `python -m tests.benchmarks.clients [--requests N] [--rounds N]`. aiohttp,
httpx-aiohttp and uvloop are measured where they are installed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import importlib.util
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from hdev_memory.backends.base import Secret, Where
from hdev_memory.backends.http_transport import Transport

CONNECTIONS = 8
KEY = "benchmark-key"
_HEADERS = {"Authorization": f"Bearer {KEY}", "Accept-Encoding": "identity"}
_ENTRY = json.dumps(
    {
        "type": "file", "path": "a/b/c", "content": "word " * 410, "metadata": {"author": "agent"},
        "items": None, "success": True, "error": None,
    }
).encode()  # fmt: skip
_WRITTEN = b'{"path":"a/b/c","success":true,"message":"written","error":null}'
_PUT = json.dumps({"content": "word " * 410, "metadata": {"author": "agent"}}).encode()
_BATCH = b'{"put":"a/b/c","before":null,"content":"%s","metadata":{}}\n' % (b"word " * 410) * 512
_RECEIPTS = b'{"key":"a/b/c","stored":{"content":"%s","metadata":"%s","bytes":2050}}\n' % (
    b"0" * 64,
    b"0" * 64,
)

Asked = tuple[str, bytes | None]
"""A method and a body."""

JOBS: dict[str, Asked] = {
    "GET an entry of 2 KB": ("GET", None),
    "PUT an entry of 2 KB": ("PUT", _PUT),
    "POST a batch of 512 entries of 2 KB": ("POST", _BATCH),
}

Client = Callable[[str, Asked, int], None]
"""Sends so many such requests to a URL, over CONNECTIONS connections, and reads the answers."""


class _Answering(asyncio.Protocol):
    """Answers each request as soon as it has come whole."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._got = bytearray()
        self._missing = -1

    def data_received(self, data: bytes) -> None:
        self._got += data
        while True:
            end = self._got.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._got[:end]).lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._got) < end + 4 + length:
                return
            del self._got[: end + 4 + length]
            kind, body = b"application/json", _ENTRY
            if head.startswith(b"put"):
                body = _WRITTEN
            elif head.startswith(b"post"):
                kind, body = b"application/x-ndjson", _RECEIPTS * 512
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
                % (kind, len(body))
                + body
            )


def _serve(told: Any) -> None:
    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(_Answering, "127.0.0.1", 0)
        told.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


@contextlib.contextmanager
def _server() -> Iterator[str]:
    spawning = multiprocessing.get_context("spawn")
    ours, theirs = spawning.Pipe()
    process = spawning.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}/api/memory/entry/a/b/c"
    finally:
        process.terminate()
        process.join()


def _in_threads(call: Callable[[int], None], requests: int) -> None:
    """`call` with a share of the requests in each of CONNECTIONS threads."""
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(call, [requests // CONNECTIONS] * CONNECTIONS))


def ours(url: str, asked: Asked, requests: int) -> None:
    """The transport of this project, with all of its limits, and JSON read strictly."""
    parts = urlsplit(url)
    where = Where("http", f"http://{parts.netloc}", Secret(KEY), parallelism=CONNECTIONS)
    transport = Transport(where)
    method, sent = asked
    body = json.loads(sent) if method == "PUT" and sent is not None else sent
    lines = 1_000_000 if method == "POST" else None

    def one(_: int) -> None:
        transport.request(method, parts.path, body=body, lines=lines)

    for _ in transport.map(one, range(requests)):
        pass
    transport.close()


def httpcore_in_threads(url: str, asked: Asked, requests: int) -> None:
    """httpcore, the layer below httpx, by itself."""
    import httpcore

    method, body = asked

    def share(count: int) -> None:
        with httpcore.ConnectionPool(max_connections=1) as pool:
            for _ in range(count):
                pool.request(method, url, headers=_HEADERS, content=body)

    _in_threads(share, requests)


def httpx_in_threads(url: str, asked: Asked, requests: int) -> None:
    """httpx.Client, one for each thread."""
    import httpx

    method, body = asked

    def share(count: int) -> None:
        with httpx.Client(headers=_HEADERS, trust_env=False) as client:
            for _ in range(count):
                client.request(method, url, content=body)

    _in_threads(share, requests)


def http_client_in_threads(url: str, asked: Asked, requests: int) -> None:
    """The standard library's client."""
    method, body = asked
    parts = urlsplit(url)

    def share(count: int) -> None:
        connection = http.client.HTTPConnection(parts.netloc)
        for _ in range(count):
            connection.request(method, parts.path, body, _HEADERS)
            connection.getresponse().read()
        connection.close()

    _in_threads(share, requests)


def urllib3_in_threads(url: str, asked: Asked, requests: int) -> None:
    """urllib3, which is on top of the standard library's client."""
    import urllib3

    method, body = asked
    pool = urllib3.PoolManager(maxsize=CONNECTIONS)

    def share(count: int) -> None:
        for _ in range(count):
            pool.request(method, url, body=body, headers=_HEADERS, retries=False)

    _in_threads(share, requests)


def aiohttp_on_a_loop(url: str, asked: Asked, requests: int) -> None:
    """aiohttp on uvloop."""
    import aiohttp
    import uvloop

    method, body = asked

    async def share(session: aiohttp.ClientSession) -> None:
        for _ in range(requests // CONNECTIONS):
            async with session.request(method, url, data=body, headers=_HEADERS) as answer:
                await answer.read()

    async def run() -> None:
        connector = aiohttp.TCPConnector(limit=CONNECTIONS)
        async with aiohttp.ClientSession(connector=connector) as session:
            await asyncio.gather(*(share(session) for _ in range(CONNECTIONS)))

    uvloop.run(run())


def httpx_aiohttp_on_a_loop(url: str, asked: Asked, requests: int) -> None:
    """httpx over the transport of httpx-aiohttp, on uvloop."""
    import httpx_aiohttp
    import uvloop

    method, body = asked

    async def share(client: httpx_aiohttp.HttpxAiohttpClient) -> None:
        for _ in range(requests // CONNECTIONS):
            await client.request(method, url, content=body)

    async def run() -> None:
        async with httpx_aiohttp.HttpxAiohttpClient(headers=_HEADERS, trust_env=False) as client:
            await asyncio.gather(*(share(client) for _ in range(CONNECTIONS)))

    uvloop.run(run())


CLIENTS: dict[str, tuple[Client, tuple[str, ...]]] = {
    "ours": (ours, ()),
    "httpcore in threads": (httpcore_in_threads, ("httpcore",)),
    "httpx in threads": (httpx_in_threads, ("httpx",)),
    "http.client in threads": (http_client_in_threads, ()),
    "urllib3 in threads": (urllib3_in_threads, ("urllib3",)),
    "aiohttp on uvloop": (aiohttp_on_a_loop, ("aiohttp", "uvloop")),
    "httpx-aiohttp on uvloop": (httpx_aiohttp_on_a_loop, ("httpx_aiohttp", "uvloop")),
}


def _measured(client: Client, url: str, asked: Asked, requests: int) -> tuple[float, float]:
    """Requests/s, and microseconds of this process's processor time for each."""
    before, begun = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    client(url, asked, requests)
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return requests / seconds, spent / requests * 1e6


def main() -> None:
    """Print a table in Markdown; clients take turns, and each figure is a median."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    there = {
        name: client
        for name, (client, needs) in CLIENTS.items()
        if all(importlib.util.find_spec(module) for module in needs)
    }
    with _server() as url:
        for job, asked in JOBS.items():
            requests = given.requests if asked[0] != "POST" else max(80, given.requests // 40)
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in there}
            for _ in range(given.rounds):
                for name, client in there.items():
                    found[name].append(_measured(client, url, asked, requests))
            print(f"\n| {job}, {CONNECTIONS} connections | requests/s | µs of processor time |")
            print("|---|---|---|")
            for name, rounds in found.items():
                rate, spent = (statistics.median(column) for column in zip(*rounds, strict=True))
                print(f"| {name} | {rate:,.0f} | {spent:,.0f} |")


if __name__ == "__main__":
    main()
