"""A memory server on a raw socket that is honest, except where a test gives it a fault.

It speaks the dialect of the existing server, or with `ours` that of our own, with conditional
requests; with `batches` also `hdev-memory/1`. Every byte of a faulty answer is the test's own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import struct
import threading
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote

ENTRY = "/api/memory/entry/"
TREE = "/api/memory/tree"
HEALTH = "/api/health"
BATCHES = "/api/hdev-memory/1/"
SNAPSHOT, READ, WRITE = BATCHES + "snapshot", BATCHES + "read", BATCHES + "write"
JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}


def http(status, body=b"", headers=None, *, length=None):
    """The bytes of an answer; `body` as bytes or as what is to be JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X"]
    lines += [f"{name}: {text}" for name, text in {**JSON, **(headers or {})}.items()]
    lines.append(f"Content-Length: {len(raw) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + raw


def missing(key, path=None):
    """The body that means that there is no such entry."""
    return {
        "type": "file",
        "path": key if path is None else path,
        "success": False,
        "error": f"Memory entry content at {key}.md does not exist",
    }


def held(key, content="x", metadata=None, **more):
    """The body that gives an entry."""
    return {
        "type": "file",
        "path": key,
        "content": content,
        "metadata": metadata or {},
        "items": None,
        "success": True,
        "error": None,
        **more,
    }


def state(content, metadata):
    """The state of an entry, by this server's own reckoning."""
    kept = {k: v for k, v in metadata.items() if k not in ("created", "updated", "version")}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    return {
        "content": hashlib.sha256(content.encode()).hexdigest(),
        "metadata": hashlib.sha256(text.encode()).hexdigest(),
        "bytes": len(content.encode()),
    }


def proved(head, lines, end=None):
    """A body of `hdev-memory/1` with a right end, but for what `end` says."""
    head = {"protocol": "hdev-memory/1", **head}
    raw = b"".join(json.dumps(line).encode() + b"\n" for line in [head, *lines])
    last = {"end": True, "entries": len(lines), "digest": hashlib.sha256(raw).hexdigest()}
    return raw + json.dumps(last | (end or {})).encode() + b"\n"


def snapshot_head(line_ends="lf", **more):
    """The first line of a snapshot."""
    bookkeeping = ["created", "updated", "version"]
    head = {"kind": "snapshot", "store": "s1", "line_ends": line_ends, "about": None}
    return head | {"bookkeeping": bookkeeping} | more


def listed(key, content="x", metadata=None, **more):
    """A line of a snapshot."""
    metadata = metadata or {}
    return {"key": key, **state(content, metadata), "etag": '"1"', "values": metadata, **more}


@dataclass
class Request:
    method: str
    path: str
    headers: dict
    body: bytes = b""


@dataclass
class Exchange:
    """One request on one connection, and what a fault may do with it."""

    server: HostileServer
    connection: socket.socket
    request: Request | None
    over: bool = False

    def send(self, raw):
        """Send raw bytes; False once the client has gone."""
        try:
            self.connection.sendall(raw)
        except OSError:
            self.over = True
        return not self.over

    def honest(self):
        """Do what was asked, and the bytes of the honest answer."""
        return self.server.honest(self.request)

    def close(self):
        self.over = True

    def reset(self):
        """End the connection with a RST."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.over = True

    def until_gone(self):
        """Wait until the client has closed the connection."""
        with contextlib.suppress(OSError):
            while self.connection.recv(65536):
                pass
        self.over = True


@dataclass
class Fault:
    """Something to do instead of the honest answer; `times` None is for ever.

    `at` is `accept` (no request yet), `head` (the body is not read yet) or `request`. One that may
    come too late to be reached is not `sure`.
    """

    method: str
    path: str
    act: object
    times: int | None
    at: str
    skip: int
    sure: bool = True
    fired: int = 0

    def fits(self, at, request):
        if at != self.at or (self.times is not None and self.fired >= self.times):
            return False
        if request is not None and (request.method != self.method or not self._same(request.path)):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.fired += 1
        return True

    def _same(self, path):
        if self.path.endswith("*"):
            return path.startswith(self.path[:-1])
        return path == self.path or (self.path == SNAPSHOT and path.startswith(SNAPSHOT + "?"))


@dataclass
class HostileServer:
    """Honest on a free loopback port, with the faults that were given."""

    key: str
    ours: bool = False
    batches: bool = False
    page: int = 1000
    entries: dict = field(default_factory=dict)
    faults: list = field(default_factory=list)
    seen: list = field(default_factory=list)

    def __enter__(self):
        self._guard = threading.Lock()
        self._open = set()
        self._threads = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()
        return self

    def __exit__(self, *error):
        # Shutting a listening socket down ends its accept at once.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        with self._guard:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def on(self, method, path, act, *, times=1, at="request", skip=0, sure=True):
        """Do `act(exchange)`, or send these bytes, instead of the honest answer; see Fault."""
        if isinstance(act, bytes):
            raw = act

            def act(exchange):
                exchange.send(raw)

        self.faults.append(Fault(method, path, act, times, at, skip, sure))

    def unfired(self):
        """The faults that were never reached."""
        return [
            (fault.method, fault.path) for fault in self.faults if fault.sure and not fault.fired
        ]

    def forget(self, kept=0):
        """Take the faults away, all but the first `kept`; each of them must have fired."""
        assert self.unfired() == []
        del self.faults[kept:]

    def count(self, method, path="*"):
        """How many such requests came."""
        probe = Fault(method, path, None, None, "request", 0)
        return sum(probe.fits("request", request) for request in self.seen)

    def _fault(self, at, request):
        with self._guard:
            return next((fault for fault in self.faults if fault.fits(at, request)), None)

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread = threading.Thread(target=self._serve, args=(connection,))
            with self._guard:
                self._open.add(connection)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection):
        with contextlib.suppress(OSError):
            exchange = Exchange(self, connection, None)
            if fault := self._fault("accept", None):
                fault.act(exchange)
            buffer = bytearray()
            while not exchange.over:
                exchange = self._one(connection, buffer)
        with self._guard:
            self._open.discard(connection)
        connection.close()

    def _one(self, connection, buffer):
        exchange = Exchange(self, connection, None)
        while b"\r\n\r\n" not in buffer:
            if not self._more(connection, buffer):
                exchange.close()
                return exchange
        head, _, rest = bytes(buffer).partition(b"\r\n\r\n")
        buffer[:] = rest
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        headers = {
            name.lower(): text.strip() for name, _, text in (line.partition(":") for line in lines)
        }
        exchange.request = request = Request(method, path, headers)
        with self._guard:
            self.seen.append(request)
        if fault := self._fault("head", request):
            fault.act(exchange)
            return exchange
        length = int(headers.get("content-length", 0))
        while len(buffer) < length:
            if not self._more(connection, buffer):
                exchange.close()
                return exchange
        request.body = bytes(buffer[:length])
        del buffer[:length]
        if fault := self._fault("request", request):
            fault.act(exchange)
        else:
            exchange.send(self.honest(request))
        return exchange

    @staticmethod
    def _more(connection, buffer):
        piece = connection.recv(65536)
        buffer += piece
        return bool(piece)

    # The honest server

    def honest(self, request):
        """Do what a request asks, and give the bytes of the answer."""
        path, _, query = request.path.partition("?")
        if path == HEALTH:
            return http(200, self.health())
        if request.headers.get("authorization") != f"Bearer {self.key}":
            return http(401, {"detail": "Invalid API key"})
        with self._guard:
            if path.startswith(BATCHES):
                return http(200, self.batch(path, query, request), NDJSON)
            if path == TREE:
                return http(200, self.tree({} if query == "depth=0" else self.items()))
            key = unquote(path.removeprefix(ENTRY))
            if request.method == "PUT":
                return self._put(key, request)
            if request.method == "DELETE":
                return self._delete(key, request)
            return self._get(key)

    def health(self):
        details = {"backend_type": "FilesystemMemoryBackend"}
        if self.ours:
            capabilities = {"cas": "atomic", "durability": "synced"}
            details = {"server": "hdev-memory", "store": "s1", "capabilities": capabilities}
        if self.batches:
            details["protocols"] = ["hdev-memory/1"]
            details["batch"] = {"entries": 100, "bytes": 1_000_000}
        return {"healthy": True, "message": "Backend is healthy", "details": details}

    def batch(self, path, query, request):
        """The body of the honest answer to a request of many entries."""
        if path == SNAPSHOT:
            return self._pages(parse_qs(query))
        if path == READ:
            keys = json.loads(request.body)["keys"]
            return proved({"kind": "entries"}, [self.line(key) for key in keys])
        _, *changes = [json.loads(line) for line in request.body.splitlines()]
        return proved({"kind": "receipts"}, [self.change(change) for change in changes])

    def _pages(self, asked):
        after = asked.get("after", [""])[0]
        limit = min(self.page, int(asked["limit"][0]))
        behind = sorted(key for key in self.entries if key > after)
        lines = [listed(key, *self.entries[key]) for key in behind[:limit]]
        following = behind[limit - 1] if len(behind) > limit else None
        return proved(snapshot_head(asked["line_ends"][0]), lines, {"next": following})

    def line(self, key):
        """What is said of an entry that is read."""
        if key not in self.entries:
            return {"key": key, "absent": True}
        content, metadata = self.entries[key]
        return {"key": key, "content": content, "metadata": metadata, "etag": self.etag(key)}

    def change(self, change):
        """Carry out one change where its condition holds, and its receipt."""
        key = change.get("put") or change["remove"]
        found = state(*self.entries[key]) if key in self.entries else None
        if found != change["before"]:
            return {"key": key, "drifted": found}
        if "remove" in change:
            del self.entries[key]
            return {"key": key, "removed": True}
        self.entries[key] = (change["content"], change["metadata"])
        return {"key": key, "stored": state(*self.entries[key]), "etag": self.etag(key)}

    @staticmethod
    def tree(items):
        return {"type": "tree", "path": "", "items": items, "success": True, "error": None}

    def items(self):
        """The tree of the entries."""
        tree = {}
        for key in self.entries:
            place = tree
            for segment in key.split("/"):
                place = place.setdefault(segment, {})
        return tree

    def listing(self, folder):
        """What a folder lists."""
        prefix = f"{folder}/" if folder else ""
        found = {}
        for key in self.entries:
            if key.startswith(prefix):
                name, _, below = key.removeprefix(prefix).partition("/")
                found[prefix + name] = "node" if below else "leaf"
        return [{"type": kind, "path": path} for path, kind in sorted(found.items())]

    def etag(self, key):
        text = json.dumps(self.entries[key], sort_keys=True)
        return '"' + hashlib.sha256(text.encode()).hexdigest()[:16] + '"'

    def _get(self, path):
        key = path.rstrip("/")
        if key == path and key in self.entries:
            content, metadata = self.entries[key]
            headers = {"ETag": self.etag(key)} if self.ours else {}
            return http(200, held(key, content, metadata), headers)
        listing = self.listing(key)
        if listing or not key:
            return http(200, {"type": "directory", "path": key, "items": listing, "success": True})
        return http(200, missing(key))

    def _refused(self, key, request):
        if not self.ours:
            return False
        match = request.headers.get("if-match")
        none = request.headers.get("if-none-match")
        there = key in self.entries
        return (match is not None and not (there and self.etag(key) == match)) or (
            none == "*" and there
        )

    def _put(self, key, request):
        if self._refused(key, request):
            return http(412, {"detail": "The entry is not what was expected"})
        self.store(key, request)
        return http(200, {"path": key, "success": True, "message": "", "error": None})

    def store(self, key, request):
        """Write as asked, without a look at any precondition."""
        body = json.loads(request.body)
        metadata = body.get("metadata") or {}
        if not self.ours:
            old = self.entries[key][1] if key in self.entries else {}
            metadata = {**old, "version": old.get("version", 0) + 1, **metadata}
        self.entries[key] = (body["content"], metadata)

    def _delete(self, key, request):
        if self._refused(key, request):
            return http(412, {"detail": "The entry is not what was expected"})
        if self.entries.pop(key, None) is None:
            text = f"Error: Memory entry at {key} does not exist"
            return http(200, {"path": key, "success": False, "error": text})
        return http(200, {"path": key, "success": True, "message": "", "error": None})


class Bystander:
    """Another server, to which nobody is to say anything."""

    def __enter__(self):
        self.heard = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _listen(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(2)
                with contextlib.suppress(OSError):
                    self.heard.append(connection.recv(65536))
