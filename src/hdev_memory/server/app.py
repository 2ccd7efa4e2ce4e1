"""The requests and answers of the memory server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from hdev_memory import __version__
from hdev_memory.backends.base import Backend, Put, Secret
from hdev_memory.core.digest import NotCanonical, canonical_json, decode_object
from hdev_memory.core.entry import (
    Entry,
    InvalidKey,
    Normalisation,
    Unreadable,
    check_key,
    display_name,
)
from hdev_memory.core.protocol import NDJSON, PATH, PROTOCOL
from hdev_memory.errors import BackendError, HdevError, LockedError, StoreError
from hdev_memory.server import protocol
from hdev_memory.server.access import Access, Client
from hdev_memory.server.audit import Author, WriteLog
from hdev_memory.server.conditions import (
    Conditions,
    Malformed,
    PreconditionFailed,
    etag,
    etag_of,
    parse,
)
from hdev_memory.server.deadlines import Connections
from hdev_memory.server.journal import Journal
from hdev_memory.server.keysfile import Role
from hdev_memory.server.lease import (
    Fences,
    Held,
    Lease,
    LeaseLock,
    Lock,
    Superseded,
)
from hdev_memory.server.limits import DEFAULT, Limits
from hdev_memory.server.metrics import Metrics
from hdev_memory.server.observe import Observed
from hdev_memory.server.operating import Operating, Readiness
from hdev_memory.server.protocol import Wanted
from hdev_memory.server.store import Refused, Store, listing, search, tree

OPENAPI = Path(__file__).with_name("openapi.json")
TOO_LARGE = 413
UNPROCESSABLE = 422
PRECONDITION_REQUIRED = 428

_ZERO = re.compile(r"[ \t]*[qQ]=0(\.0{0,3})?[ \t]*")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_PLAN = re.compile("sha256:[0-9a-f]{64}")
_RUN = re.compile("[0-9A-Za-z._-]{1,64}")

log = logging.getLogger("hdev_memory.server")

Handler = Callable[[Request], Awaitable[Response]]

P = ParamSpec("P")
T = TypeVar("T")


def answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Compact JSON as the existing server writes it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Response(text.encode("utf-8", "replace"), status, headers, media_type="application/json")


def _now() -> datetime:
    return datetime.now(UTC)


def _new_id() -> str:
    return secrets.token_hex(16)


def create_app(
    backend: Backend,
    *,
    store_id: str,
    api_key: Secret | None = None,
    read_only_api_key: Secret | None = None,
    keys_file: Path | None = None,
    limits: Limits = DEFAULT,
    require_preconditions: bool = False,
    journal: Journal | None = None,
    log: WriteLog | None = None,
    lock: Lock | None = None,
    clock: Callable[[], float] = time.monotonic,
    now: Callable[[], datetime] = _now,
    metrics: Metrics | None = None,
    new_id: Callable[[], str] = _new_id,
) -> Starlette:
    """The server as an ASGI app; without any key every request is allowed.

    `clock` gives seconds for the ends of leases, and for looking at the keys file again; `now` is
    the time that keys expire by. Without a journal a kill may leave an entry half written; without
    a log nobody can tell later who wrote what; without a `lock` its fences begin anew with each
    app. `new_id` makes an id for a request that brings none. `state.access` of the app is
    who may do what; `state.readiness` and `state.connections` are what `run` tells of. Raises
    ConfigError for a keys file that cannot be used.
    """
    metrics = metrics if metrics is not None else Metrics()
    access = Access(api_key, read_only_api_key, keys_file, clock, now, metrics.wrong_key, limits)
    lock = lock if lock is not None else LeaseLock(clock, Fences())
    store = Store(backend, lock, journal, log, metrics)
    readiness = Readiness(store, limits.ready_seconds)
    server = _Server(
        store,
        store_id,
        access,
        limits,
        require_preconditions=require_preconditions,
        now=now,
    )
    operating = Operating(readiness, metrics)
    app = _App(
        routes=[
            _route("/openapi.json", GET=server.openapi),
            _route("/docs", GET=server.docs),
            _route("/healthz", GET=operating.alive),
            _route("/readyz", GET=operating.ready),
            _route("/metrics", GET=server.guarded(operating.metrics, "metrics")),
            _route("/api/health", GET=server.health),
            _route("/api/memory/tree", GET=server.guarded(server.tree)),
            _route("/api/memory/search", GET=server.guarded(server.search)),
            _route(
                "/api/memory/entry/{path:path}",
                GET=server.guarded(server.entry),
                PUT=server.guarded(server.put, "write"),
                DELETE=server.guarded(server.delete, "write"),
            ),
            _route(f"{PATH}/snapshot", GET=server.guarded(server.snapshot)),
            _route(f"{PATH}/read", POST=server.guarded(server.read_many)),
            _route(f"{PATH}/write", POST=server.guarded(server.write_many, "write")),
            _route("/api/audit", GET=server.guarded(server.audit, "audit")),
            _route(
                "/api/locks/target",
                GET=server.guarded(server.lock),
                PUT=server.guarded(server.take_lock, "write"),
                DELETE=server.guarded(server.drop_lock, "write"),
            ),
            _route("/api/memory/backup", POST=server.guarded(_no_s3, "write")),
            _route("/api/memory/restore", POST=server.guarded(_no_s3, "write")),
            _route("/api/memory/backups", GET=server.guarded(_no_s3)),
            _route("/api/memory/backup/{key:path}", DELETE=server.guarded(_no_s3, "write")),
        ],
        exception_handlers={
            HTTPException: _detail,
            HdevError: _broken,
            PreconditionFailed: _precondition,
            Superseded: _superseded,
            ClientDisconnect: _gone,
            Exception: _unexpected,
        },
    )
    app.state.access = access
    app.state.readiness = readiness
    app.state.metrics = metrics
    app.state.new_id = new_id
    app.state.connections = Connections(metrics, limits)
    return app


class _App(Starlette):
    """Starlette, observed from outside of all that it does itself."""

    def build_middleware_stack(self) -> ASGIApp:
        state = self.state
        inner = super().build_middleware_stack()
        return Observed(inner, state.metrics, state.connections, state.new_id)


def _route(path: str, **handlers: Handler) -> Route:
    """All methods of a path as one route, so that a 405 names them all."""

    async def handle(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        return await handlers[method](request)

    return Route(path, handle, methods=list(handlers))


async def _detail(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return answer({"detail": error.detail}, error.status_code, dict(error.headers or {}))


async def _broken(request: Request, error: Exception) -> Response:
    log.error("%s", error)
    if isinstance(error, BackendError | LockedError):  # and perhaps well again in a moment
        return answer({"detail": "The storage is out of reach"}, 503, {"Retry-After": "1"})
    return answer({"detail": "The store cannot be read"}, 500)


async def _unexpected(request: Request, error: Exception) -> Response:
    return answer({"detail": "The server failed"}, 500)  # and the error goes on, into the log


async def _precondition(request: Request, error: Exception) -> Response:
    assert isinstance(error, PreconditionFailed)
    headers = {"ETag": error.etag} if error.etag is not None else None
    return answer({"detail": "The entry is not what was expected"}, 412, headers)


async def _superseded(request: Request, error: Exception) -> Response:
    assert isinstance(error, Superseded)
    detail = "The lock was given to somebody else, or broken, since this fence was given out"
    return answer({"detail": detail, "fence": error.fence}, 409)


async def _gone(request: Request, error: Exception) -> Response:
    return answer({"detail": "The body ended too early"}, 400)  # to nobody: the client has left


async def _no_s3(request: Request) -> Response:
    return answer(
        {
            "success": False,
            "message": "S3 backup is not configured or enabled",
            "error": "S3 backup not available",
        }
    )


class _Server:
    def __init__(
        self,
        store: Store,
        store_id: str,
        access: Access,
        limits: Limits,
        *,
        require_preconditions: bool,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._store_id = store_id
        self._access = access
        self._limits = limits
        self._strict = require_preconditions
        self._waiting = 0  # bytes of bodies that came in and are not done with
        self._now = now
        self._openapi = OPENAPI.read_bytes()

    def guarded(self, handler: Handler, role: Role = "read") -> Handler:
        """The handler behind the check of the key, before the body is looked at."""

        async def checked(request: Request) -> Response:
            address = request.client.host if request.client is not None else ""
            client = self._access.client(request.headers.get("authorization"), address)
            client.require(role)
            request.state.client = client
            return await handler(request)

        return checked

    async def openapi(self, request: Request) -> Response:
        return Response(self._openapi, media_type="application/json")

    async def docs(self, request: Request) -> Response:
        from hdev_memory.server import docs  # jinja2, which nothing else here needs

        page, policy = docs.page(self._openapi)
        headers = {"Content-Security-Policy": policy}
        return Response(page, headers=headers, media_type="text/html")

    async def health(self, request: Request) -> Response:
        backend = self._store.backend
        capabilities = backend.capabilities
        healthy = await run_in_threadpool(backend.present)
        return answer(
            {
                "healthy": healthy,
                "message": "Backend is healthy" if healthy else "The storage folder is gone",
                "details": {
                    "backend_type": type(backend).__name__,
                    "server": "hdev-memory",
                    "version": __version__,
                    "store": self._store_id,
                    "max_entry_bytes": self._limits.entry_bytes,
                    "capabilities": {
                        "cas": capabilities.cas,
                        "durability": capabilities.durability,
                    },
                    "lock": True,
                    "audit": self._store.log is not None,
                    "protocols": [PROTOCOL],
                    "batch": {
                        "entries": self._limits.batch_entries,
                        "bytes": self._limits.batch_bytes,
                    },
                },
                "timestamp": self._now().isoformat(),
            }
        )

    async def tree(self, request: Request) -> Response:
        prefix = request.query_params.get("prefix", "").strip("/")
        depth = _depth(request.query_params.get("depth"))
        keys = [] if depth == 0 else await run_in_threadpool(self._store.keys, prefix)
        if prefix and not keys and depth != 0:
            error = f"Path {prefix} does not exist"
            return answer(_tree_answer(prefix, {}, error))
        return answer(_tree_answer(prefix, tree(keys, prefix, depth), None))

    async def search(self, request: Request) -> Response:
        query = request.query_params.get("q")
        if query is None:
            raise _missing("query", "q")
        prefix = request.query_params.get("prefix", "").strip("/")
        results = await run_in_threadpool(search, self._store, query, prefix)
        return answer({"query": query, "results": results, "success": True, "error": None})

    async def entry(self, request: Request) -> Response:
        path = request.path_params["path"]
        conditions = _conditions(request)
        key = path.rstrip("/")
        if key and key == path:
            try:
                check_key(key)
            except InvalidKey as error:
                return answer(_entry_answer("error", path, f"Error reading memory entry: {error}"))
            found = await run_in_threadpool(self._store.read, key)
            if isinstance(found, Entry):
                tag = etag(found)
                if not conditions.matched(tag):
                    raise PreconditionFailed(tag)
                if conditions.not_modified(tag):
                    return Response(status_code=304, headers={"ETag": tag})
                shown = _entry_answer("file", key, None)
                shown["content"] = found.content.decode()
                shown["metadata"] = found.metadata
                return answer(shown, headers={"ETag": tag})
            if isinstance(found, Unreadable):
                reason = f"Error reading memory entry: {found.reason}"
                return answer(_entry_answer("error", key, reason))
        if not conditions.matched(None):  # a folder has no tag that could match
            raise PreconditionFailed(None)
        keys = await run_in_threadpool(self._store.keys, key)
        if keys or not key:
            shown = _entry_answer("directory", key, None)
            shown["items"] = listing(keys, key)
            return answer(shown)
        reason = f"Memory entry content at {key}.md does not exist"
        return answer(_entry_answer("file", key, reason))

    async def put(self, request: Request) -> Response:
        path = request.path_params["path"]
        conditions = self._required(_conditions(request))
        fence = _fence(request)
        author = _author(request)
        content, metadata = await self._body(request)
        try:
            check_key(path)
        except InvalidKey as error:
            return answer(_written(path, f"Error writing memory entry: the key {error}"))
        merge = request.headers.get("hdev-metadata") != "replace"
        try:
            written = await asyncio.wrap_future(
                self._store.put(
                    path,
                    content,
                    metadata,
                    merge=merge,
                    conditions=conditions,
                    fence=fence,
                    author=author,
                )
            )
        except Refused as error:
            return answer(_written(path, f"Error writing memory entry: {error}"))
        # The tag of what this request wrote, which another one may have replaced by now.
        assert isinstance(written, Put)
        tag = etag_of(written.content, written.metadata)
        return answer(_written(path, None), headers={"ETag": tag})

    async def delete(self, request: Request) -> Response:
        path = request.path_params["path"]
        conditions = self._required(_conditions(request))
        fence = _fence(request)
        author = _author(request)
        try:
            key = check_key(path.removesuffix("/"))
        except InvalidKey as error:
            return answer(_deleted(path, "", f"Error: the path {error}"))
        try:
            if key == path:
                call = self._store.delete(key, conditions=conditions, fence=fence, author=author)
                if await asyncio.wrap_future(call) is not None:
                    return answer(_deleted(path, f"Successfully deleted memory entry {path}", None))
            return await self._delete_below(path, key, conditions, fence, author)
        except Refused as error:
            return answer(_deleted(path, "", f"Error: {error}"))

    async def _delete_below(
        self, path: str, key: str, conditions: Conditions, fence: int | None, author: Author
    ) -> Response:
        """Delete what a folder holds, unless anything was asked of an entry that it is not."""
        conditions.check(None)
        below = await run_in_threadpool(self._store.keys, key)
        if below and self._strict:
            reason = "A folder cannot be deleted here: a precondition cannot speak of all it holds"
            raise HTTPException(PRECONDITION_REQUIRED, reason)
        if not below or conditions.any:
            return answer(_deleted(path, "", f"Error: Memory entry at {path} does not exist"))
        calls = [self._store.delete(inner, fence=fence, author=author) for inner in below]
        for call in calls:
            await asyncio.wrap_future(call)
        text = f"Successfully deleted directory {path} and all its contents"
        return answer(_deleted(path, text, None))

    def _required(self, conditions: Conditions) -> Conditions:
        """Raises HTTPException 428 for a write without conditions where the store demands them."""
        if self._strict and not conditions.any:
            reason = "This store takes writes with If-Match or If-None-Match only"
            raise HTTPException(PRECONDITION_REQUIRED, reason)
        return conditions

    async def audit(self, request: Request) -> Response:
        if self._store.log is None:
            raise HTTPException(404, "This server keeps no audit log")
        after = _count(request, "after", 0, 0, 2**53 - 1)
        limit = _count(request, "limit", 100, 1, self._limits.page_records)
        most = self._limits.page_bytes
        try:
            page = await run_in_threadpool(self._store.log.page, after, limit, most)
        except OSError as error:
            log.error("the audit log cannot be read: %s", error.strerror)
            raise HTTPException(500, "The audit log cannot be read") from None
        return Response(page, media_type="application/json")

    async def lock(self, request: Request) -> Response:
        lock = self._store.lock
        lease = await run_in_threadpool(lock.status)
        if lease is None:
            fence = await run_in_threadpool(lambda: lock.fence)
            return answer({"held": False, "fence": fence})
        return answer({"held": True, **_shown_lease(lease)})

    async def take_lock(self, request: Request) -> Response:
        fence = _fence(request)
        body = await self._json(request, self._limits.lock_bytes, "The body")
        holder, ttl = _lease_wanted(body, self._limits)
        lock = self._store.lock
        # Between two batches: no write with an older fence is on its way when a new one is given.
        call = self._store.exclusively(
            partial(lock.acquire, holder, ttl)
            if fence is None
            else partial(lock.renew, holder, ttl, fence)
        )
        try:
            return answer(_shown_lease(await asyncio.wrap_future(call)))
        except Held as error:
            detail = "Somebody else holds the lock"
            return answer({"detail": detail, **_shown_lease(error.lease)}, 409)

    async def drop_lock(self, request: Request) -> Response:
        lock = self._store.lock
        fence = _fence(request)
        match request.query_params.get("force", "false"):
            case "true":
                broken = await asyncio.wrap_future(self._store.exclusively(lock.force))
                return answer({"released": broken is not None})
            case "false" if fence is not None:
                await asyncio.wrap_future(self._store.exclusively(partial(lock.release, fence)))
                return answer({"released": True})
            case "false":
                raise HTTPException(400, "Hdev-Fence or force=true is missing")
            case _:
                kind = "Input should be true or false"
                raise _unprocessable("bool_parsing", ["query", "force"], kind)

    async def snapshot(self, request: Request) -> Response:
        line_ends = request.query_params.get("line_ends", "exact")
        if line_ends not in ("exact", "lf"):
            raise _unprocessable("enum", ["query", "line_ends"], "Input should be exact or lf")
        after = request.query_params.get("after")
        limit = _count(request, "limit", None, 1, 2**53 - 1)
        normalisation = Normalisation(line_ends="lf" if line_ends == "lf" else "exact")
        pieces = protocol.snapshot(self._store, self._store_id, normalisation, after, limit)
        return await _streamed(request, pieces)

    async def read_many(self, request: Request) -> Response:
        limit = self._limits.batch_bytes
        async with self._raw(request, limit, "The list of keys") as body:
            keys = await run_in_threadpool(_fitting, protocol.decode_read, body, self._limits)
        return await _streamed(request, protocol.entries(self._store, keys, limit))

    async def write_many(self, request: Request) -> Response:
        fence = _fence(request)
        author = _author(request)
        limit = self._limits.batch_bytes
        if _length(request, limit, "The batch") is None:
            raise HTTPException(411, "A batch needs a Content-Length")
        digest = _fitting(protocol.digest_wanted, request.headers.getlist("content-digest"))
        zipped = _zipped_body(request)

        def decoded(body: bytes) -> Wanted:
            protocol.check_digest(body, digest)
            plain = protocol.inflated(body, limit) if zipped else body
            return protocol.decode_write(plain, self._limits)

        async with self._raw(request, limit, "The batch") as body:
            with self._room() as take:
                if zipped:
                    take(_fitting(protocol.inflated_size, body, limit))
                wanted = await run_in_threadpool(_fitting, decoded, body)
                call = self._store.write(
                    wanted.changes, wanted.normalisation, fence=fence, author=author
                )
                made = await asyncio.wrap_future(call)
        return await _streamed(request, protocol.receipts(wanted, made))

    @contextlib.contextmanager
    def _room(self) -> Iterator[Callable[[int], None]]:
        """What takes so many more bytes of the room that the bodies of all clients share, and gives
        them back at the end. It raises HTTPException 503."""
        taken = 0

        def take(more: int) -> None:
            nonlocal taken
            taken += more
            self._waiting += more
            if self._waiting > self._limits.waiting_bytes:
                headers = {"Retry-After": "1", "Connection": "close"}
                raise HTTPException(503, "Too much is being sent at once", headers)

        try:
            yield take
        finally:
            self._waiting -= taken

    @contextlib.asynccontextmanager
    async def _raw(self, request: Request, limit: int, what: str) -> AsyncIterator[bytes]:
        """The body, which has its room for the time of the context.

        Raises HTTPException 408, 413 or 503.
        """
        length = _length(request, limit, what)
        chunks = []
        size = 0
        seconds = self._limits.body_time(length if length is not None else limit)
        with self._room() as take:
            try:
                async with asyncio.timeout(seconds):
                    async for chunk in request.stream():
                        take(len(chunk))
                        chunks.append(chunk)
                        size += len(chunk)
                        if size > limit:
                            raise HTTPException(TOO_LARGE, f"{what} is too large")
            except TimeoutError:
                headers = {"Connection": "close"}
                raise HTTPException(408, "The body did not come in time", headers) from None
            body = b"".join(chunks)
            chunks.clear()
            yield body

    async def _json(self, request: Request, limit: int, what: str) -> dict[str, Any]:
        """The JSON object in the body; raises HTTPException 408, 413, 422 or 503."""
        async with self._raw(request, limit, what) as raw:
            try:
                return decode_object(raw.decode())
            except (UnicodeDecodeError, NotCanonical) as error:
                text = f"JSON decode error: {error}"
                raise _unprocessable("json_invalid", ["body"], text) from None

    async def _body(self, request: Request) -> tuple[bytes, dict[str, Any]]:
        """The content and metadata of a PUT; raises HTTPException 408, 413 or 422."""
        body = await self._json(request, self._limits.body_bytes, "The entry")
        content, metadata = body.get("content"), body.get("metadata")
        if "content" not in body:
            raise _missing("body", "content")
        if not isinstance(content, str):
            raise _unprocessable("string_type", ["body", "content"], "Input should be a string")
        if metadata is not None and not isinstance(metadata, dict):
            kind = "Input should be a valid dictionary"
            raise _unprocessable("dict_type", ["body", "metadata"], kind)
        try:
            text = content.encode()
            size = len(canonical_json(metadata or {}))
        except UnicodeEncodeError:
            kind = "Input should be valid Unicode"
            raise _unprocessable("string_unicode", ["body", "content"], kind) from None
        except NotCanonical as error:
            raise _unprocessable("dict_type", ["body", "metadata"], f"It {error}") from None
        if max(len(text), size) > self._limits.entry_bytes:
            raise HTTPException(TOO_LARGE, "The entry is too large")
        return text, metadata or {}


def _conditions(request: Request) -> Conditions:
    """Raises HTTPException 400."""
    headers = request.headers
    try:
        return parse(headers.getlist("if-match"), headers.getlist("if-none-match"))
    except Malformed as error:
        raise HTTPException(400, str(error)) from None


def _fence(request: Request) -> int | None:
    """Raises HTTPException 400."""
    text = request.headers.get("hdev-fence")
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise HTTPException(400, "Hdev-Fence is not a number")
    return int(text)


def _author(request: Request) -> Author:
    """Who writes, and what they say that it belongs to. Raises HTTPException 400."""
    client: Client = request.state.client
    headers = request.headers
    plan, run = headers.get("hdev-plan", ""), headers.get("hdev-run", "")
    if plan and not _PLAN.fullmatch(plan):
        raise HTTPException(400, "Hdev-Plan is no plan id")
    if run and not _RUN.fullmatch(run):
        raise HTTPException(400, "Hdev-Run is no name of a run")
    return Author(
        by=client.name,
        role="write",
        plan=plan,
        run=run,
        request=request.state.request_id,
    )


def _length(request: Request, limit: int, what: str) -> int | None:
    """The length of the body, where it is said. Raises HTTPException 413, before anything is read:
    who waits for a 100 Continue need not send it at all."""
    text = request.headers.get("content-length")
    if text is None:
        return None
    if int(text) > limit:
        raise HTTPException(TOO_LARGE, f"{what} is too large")
    return int(text)


def _fitting(call: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
    """What the call gives. Raises HTTPException where the body is not what it should be."""
    try:
        return call(*args, **named)
    except protocol.Unfit as error:
        if error.status == UNPROCESSABLE:
            raise _unprocessable("value_error", ["body"], str(error)) from None
        raise HTTPException(error.status, str(error)) from None


def _zipped_body(request: Request) -> bool:
    """Whether the body is gzip. Raises HTTPException 415."""
    match request.headers.get("content-encoding", "identity").lower():
        case "gzip":
            return True
        case "identity":
            return False
        case _:
            raise HTTPException(415, "A body is gzip or as it is", {"Accept-Encoding": "gzip"})


async def _streamed(request: Request, pieces: Generator[bytes, None, None]) -> Response:
    """An answer whose pieces are made in a thread, each when the one before was taken.

    What goes wrong before the first one is an error as everywhere; later the answer ends without
    its end.
    """
    headers = {"Vary": "Accept-Encoding"}
    if request.method == "HEAD":
        return Response(headers=headers, media_type=NDJSON)
    if _takes_gzip(request):
        headers["Content-Encoding"] = "gzip"
        pieces = protocol.zipped(pieces)
    try:
        first = await run_in_threadpool(next, pieces, None)
    except OSError as error:
        raise StoreError("The storage failed.", why=f"{error.strerror}.") from None

    async def sent() -> AsyncIterator[bytes]:
        piece = first
        try:
            while piece is not None:
                yield piece
                piece = await run_in_threadpool(next, pieces, None)
        except (HdevError, OSError) as error:
            log.error("an answer was cut: %s", error)
        finally:
            pieces.close()

    return StreamingResponse(sent(), headers=headers, media_type=NDJSON)


def _takes_gzip(request: Request) -> bool:
    for item in ",".join(request.headers.getlist("accept-encoding")).split(","):
        name, _, rest = item.partition(";")
        if name.strip().lower() == "gzip":
            return not _ZERO.fullmatch(rest)
    return False


def _count(request: Request, name: str, default: T, least: int, most: int) -> int | T:
    """Raises HTTPException 422."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 16 or not least <= int(text) <= most:
        kind = f"Input should be an integer from {least} to {most}"
        raise _unprocessable("int_parsing", ["query", name], kind)
    return int(text)


def _lease_wanted(body: dict[str, Any], limits: Limits) -> tuple[str, int]:
    """The holder and the seconds; raises HTTPException 422."""
    for name in ("holder", "ttl"):
        if name not in body:
            raise _missing("body", name)
    holder, ttl = body["holder"], body["ttl"]
    most = limits.lock_holder
    if not isinstance(holder, str) or not 0 < len(holder) <= most or _CONTROL.search(holder):
        kind = f"Input should be a line of 1 to {most} characters"
        raise _unprocessable("string_type", ["body", "holder"], kind)
    least, longest = limits.lock_least_seconds, limits.lock_most_seconds
    if not isinstance(ttl, int) or isinstance(ttl, bool) or not least <= ttl <= longest:
        kind = f"Input should be an integer from {least} to {longest}"
        raise _unprocessable("int_type", ["body", "ttl"], kind)
    return holder, ttl


def _shown_lease(lease: Lease) -> dict[str, Any]:
    return {"holder": lease.holder, "fence": lease.fence, "expires_in": lease.expires_in}


def _depth(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise _unprocessable("int_parsing", ["query", "depth"], "Input should be a valid integer")
    return int(text)


def _missing(place: str, name: str) -> HTTPException:
    return _unprocessable("missing", [place, name], "Field required")


def _unprocessable(kind: str, place: list[str], text: str) -> HTTPException:
    return HTTPException(UNPROCESSABLE, [{"type": kind, "loc": place, "msg": text}])  # type: ignore[arg-type]


def _tree_answer(prefix: str, items: dict[str, Any], error: str | None) -> dict[str, Any]:
    return {
        "type": "tree",
        "path": prefix,
        "items": items,
        "success": error is None,
        "error": error,
    }


def _entry_answer(kind: str, path: str, error: str | None) -> dict[str, Any]:
    return {
        "type": kind,
        "path": _shown(path),
        "content": None,
        "metadata": None,
        "items": None,
        "success": error is None,
        "error": error,
    }


def _written(path: str, error: str | None) -> dict[str, Any]:
    message = f"Memory entry written successfully to {path}" if error is None else ""
    return {"path": _shown(path), "success": error is None, "message": message, "error": error}


def _deleted(path: str, message: str, error: str | None) -> dict[str, Any]:
    return {"path": _shown(path), "success": error is None, "message": message, "error": error}


def _shown(path: str) -> str:
    try:
        path.encode()
    except UnicodeEncodeError:
        return display_name(path)
    return path
