"""Requests to one origin: with the key for it, within limits, and errors in our own words."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from hdev_memory.backends.base import Where
from hdev_memory.core.entry import display_name
from hdev_memory.errors import BackendError, KeyRefusedError, UsageError

CONNECTIONS = 8
"""Plain httpx gets slower beyond about this many connections."""

MAX_ANSWER_BYTES = 256 * 1024 * 1024

T = TypeVar("T")
R = TypeVar("R")


class RequestFailed(Exception):
    """No usable answer came; whether the server acted on the request is not known."""


@dataclass(frozen=True)
class Answer:
    """A status with the JSON object that came with it (empty when there was none) and the ETag."""

    status: int
    body: dict[str, Any]
    etag: str | None


def short(text: object) -> str:
    """Foreign text for a reason: one line, printable, at most 200 characters."""
    shown = display_name(str(text))
    return shown if len(shown) <= 200 else shown[:199] + "…"


def failure(method: str, path: str, cause: object) -> str:
    """The existing tool's wording, which people look for."""
    return f"HTTP request failed: {method} {path}: {short(cause)}"


class Transport:
    """A small pool of threads, each with a client of its own: their pools never contend."""

    def __init__(self, where: Where) -> None:
        """Raises UsageError for a key that would travel in the clear."""
        url = urlsplit(where.location)
        loopback = url.hostname in ("localhost", "127.0.0.1", "::1")
        if where.key is not None and url.scheme == "http" and not (loopback or where.insecure_http):
            raise UsageError(
                "The key would travel unencrypted to another machine.",
                why=f"{where.location} is plain http.",
                hint="Use https, or --insecure-http if the network is yours alone.",
            )
        self._base = where.location.rstrip("/")
        self._headers = {"Accept-Encoding": "identity"}
        if where.key is not None:
            self._headers["Authorization"] = f"Bearer {where.key.reveal()}"
        self._timeout = where.timeout
        self._handshake = min(where.handshake, where.timeout)
        self._connections = where.parallelism or CONNECTIONS
        self._loopback = loopback
        self._local = threading.local()
        self._clients: list[httpx.Client] = []
        self._guard = threading.Lock()
        self._pool = ThreadPoolExecutor(self._connections, thread_name_prefix="hdev-http")
        self.requests = 0

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        for client in self._clients:
            client.close()
        self._clients.clear()

    def _client(self) -> httpx.Client:
        client: httpx.Client | None = getattr(self._local, "client", None)
        if client is None:
            client = httpx.Client(
                headers=self._headers,
                follow_redirects=False,  # the key is for this origin only
                # The environment may name proxies, which a loopback server must not go through,
                # and a .netrc, which would add credentials that nobody asked for.
                trust_env=False,
            )
            self._local.client = client
            with self._guard:
                self._clients.append(client)
        return client

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        headers: dict[str, str] | None = None,
        seconds: float | None = None,
    ) -> Answer:
        """One request. Raises RequestFailed, or KeyRefusedError for 401.

        The whole answer has to come within the timeout (`seconds` where it is another than that
        of the transport) and the size limit.
        """
        content = None
        sent = dict(headers or {})
        if body is not None:
            content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
            sent["Content-Type"] = "application/json"
        self.requests += 1
        seconds = seconds if seconds is not None else self._timeout
        deadline = time.monotonic() + seconds
        raw = bytearray()
        try:
            with self._client().stream(
                method,
                self._base + path,
                content=content,
                headers=sent,
                timeout=httpx.Timeout(seconds, connect=min(self._handshake, seconds)),
            ) as response:
                for chunk in response.iter_raw():
                    raw += chunk
                    if len(raw) > MAX_ANSWER_BYTES:
                        raise RequestFailed(failure(method, path, "the answer is too large"))
                    if time.monotonic() > deadline:
                        raise RequestFailed(failure(method, path, "the answer takes too long"))
        except httpx.HTTPError as error:
            cause = str(error) or type(error).__name__
            raise RequestFailed(failure(method, path, cause)) from None
        if response.status_code == 401:
            raise KeyRefusedError(
                "The server refused the key.",
                why=failure(method, path, f"401 {_detail(bytes(raw))}".rstrip()) + ".",
                hint="Check the key: --api-key, HDEV_MEMORY_HTTP_API_KEY, or the configuration.",
            )
        if response.is_redirect:
            raise RequestFailed(
                failure(method, path, f"{response.status_code} redirects to another address")
            )
        return Answer(response.status_code, _object(bytes(raw)), response.headers.get("etag"))

    def shake_hands(self, *paths: str) -> list[Answer]:
        """The answers to the first reads, which share their time; raises as `request`.

        They run in a thread that is left behind when the time is up: the look-up of a name and a
        server that drips its answer know no timeout of their own.
        """
        outcome: list[list[Answer] | BaseException] = []
        longer = self._handshake + 1  # so that the thread left behind ends soon as well

        def run() -> None:
            try:
                outcome.append([self.request("GET", path, seconds=longer) for path in paths])
            except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
                outcome.append(error)

        thread = threading.Thread(target=run, name="hdev-handshake", daemon=True)
        thread.start()
        thread.join(self._handshake)
        if not outcome:
            raise RequestFailed(
                f"HTTP request failed: no answer within {self._handshake:g} seconds"
            )
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]

    def get(self, path: str) -> Answer:
        """A read, tried again where trying again can help: three times at most."""
        for attempt in (1, 2, 3):
            try:
                answer = self.request("GET", path)
            except RequestFailed:
                if attempt == 3:
                    raise
            else:
                if answer.status not in (429, 502, 503, 504) or attempt == 3:
                    return answer
            time.sleep(0.05 * attempt)
        raise AssertionError("three attempts have ended")

    def map(self, call: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """`call` for each item, several at a time, results in order, memory flat."""
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(self._pool.submit(call, item))
                if len(waiting) >= self._connections * 4:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _object(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _detail(raw: bytes) -> str:
    return str(_object(raw).get("detail", ""))


def unreachable(location: str, error: RequestFailed) -> BackendError:
    return BackendError(
        "The memory server cannot be reached.",
        why=f"{error}.",
        hint=f"Check that {location} is right and that the server runs. If it is only slow, give "
        "it longer with HDEV_MEMORY_HTTP_TIMEOUT, in seconds.",
    )
