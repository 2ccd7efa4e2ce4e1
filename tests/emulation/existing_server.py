"""An emulation of the existing memory server, traps included, as a real process on a real socket.

It is written from the dialect's description, and is as unsafe as that server: for tests only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel
from starlette.types import Message, Receive, Scope, Send

BOILERPLATE = "Global memory storage for critical information"
DEEPEST = 254


class Write(BaseModel):
    """The body of a PUT."""

    content: str
    metadata: dict[str, Any] | None = None


class EntryAnswer(BaseModel):
    """The answer of a GET of an entry or a directory."""

    type: str
    path: str
    content: str | None = None
    metadata: dict[str, Any] | None = None
    items: list[dict[str, str]] | None = None
    success: bool = True
    error: str | None = None


@dataclass
class Faults:
    """Faults for tests; 0 and False mean none."""

    break_writes_after: int = 0
    lose_answer_of_write: int = 0
    say_yes_write_nothing: bool = False
    writes: int = field(default=0, init=False)


class Store:
    """The folder, handled as the existing server handles it."""

    def __init__(self, root: Path, faults: Faults) -> None:
        self.root = root
        self.faults = faults
        root.mkdir(parents=True, exist_ok=True)
        if not self.content("global").exists():
            self.write("global", BOILERPLATE, {})

    # The suffix is replaced, so that `v1.2` and `v1.3` both become `v1.md`: trap 1. Joining with
    # an absolute or `..` path leads outside: trap 11.
    def content(self, path: str) -> Path:
        return (self.root / path).with_suffix(".md")

    def metadata(self, path: str) -> Path:
        return (self.root / path).with_suffix(".metadata.json")

    def write(self, path: str, content: str, metadata: dict[str, Any]) -> None:
        """Not atomic, content first; a failure in between leaves a damaged entry: traps 9, 10."""
        faults = self.faults
        faults.writes += 1
        if faults.say_yes_write_nothing:
            return
        existing: dict[str, Any] = {}
        if self.metadata(path).exists():
            existing = json.loads(self.metadata(path).read_text())
        # The server takes the times from its home folder: useless for finding changes.
        now = str(Path.home().stat().st_mtime)
        created = {} if existing else {"created": now}
        merged = {
            **existing,
            "updated": now,
            "version": existing.get("version", 0) + 1,
            **created,
            **metadata,
        }
        self.content(path).parent.mkdir(parents=True, exist_ok=True)
        with self.content(path).open("w", encoding="utf-8") as file:
            if faults.break_writes_after and faults.writes >= faults.break_writes_after:
                raise OSError(28, "No space left on device")
            file.write(content)
        with self.metadata(path).open("w") as file:
            json.dump(merged, file, indent=2)

    def read(self, path: str) -> EntryAnswer:
        place = self.root / path
        if place.is_dir():  # a directory hides the entry of its name: trap 2
            return EntryAnswer(type="directory", path=path.rstrip("/"), items=self.listing(place))
        try:
            if not self.content(path).exists():
                raise FileNotFoundError(f"Memory entry content at {path}.md does not exist")
            if not self.metadata(path).exists():
                text = f"Memory entry metadata at {path}.metadata.json does not exist"
                raise FileNotFoundError(text)
        except FileNotFoundError as error:
            return EntryAnswer(type="file", path=path, success=False, error=str(error))
        # What FastAPI then cannot answer (metadata that is no object, a lone surrogate) becomes
        # its 500, and a NaN its null: trap 8.
        try:
            # Universal newlines: CRLF and CR come back as LF, trap 6.
            content = self.content(path).read_text(encoding="utf-8")
            metadata = json.loads(self.metadata(path).read_text())
        except (OSError, ValueError) as error:
            text = f"Error reading memory entry: {error}"
            return EntryAnswer(type="error", path=path, success=False, error=text)
        return EntryAnswer(type="file", path=path, content=content, metadata=metadata)

    def listing(self, place: Path) -> list[dict[str, str]]:
        items = []
        for child in place.iterdir():
            path = str(child.relative_to(self.root))
            if child.is_dir():
                items.append({"type": "node", "path": path})
            elif child.name.endswith(".md"):
                items.append({"type": "leaf", "path": path[: -len(".md")]})
        return items

    def tree(self, place: Path, depth: int | None, level: int = 0) -> dict[str, Any]:
        if level > DEEPEST:
            raise RecursionError
        items: dict[str, Any] = {}
        if depth is not None and (depth == 0 or level > depth):
            return items
        for child in place.iterdir():  # whichever comes later hides the other: trap 2
            if child.is_dir():
                items[child.name] = self.tree(child, depth, level + 1)
            elif child.name.endswith(".md"):
                items[child.name[: -len(".md")]] = {}
        return items

    def search(self, query: str, prefix: str) -> list[dict[str, Any]]:
        results = []
        for file in (self.root / prefix).rglob("*.md"):
            text = file.read_text(encoding="utf-8")
            at = text.lower().find(query.lower())
            if at < 0:
                continue
            start, end = max(0, at - 50), min(len(text), at + len(query) + 50)
            snippet = "..." * (start > 0) + text[start:end] + "..." * (end < len(text))
            path = str(file.relative_to(self.root))[: -len(".md")]
            score = text.lower().count(query.lower()) / len(text)
            results.append({"path": path, "snippet": snippet, "score": score})
        return sorted(results, key=lambda result: -result["score"])

    def delete(self, path: str) -> str:
        place = self.root / path
        if place.is_dir():  # the empty path is the whole store: trap 11
            shutil.rmtree(place)
            return f"Successfully deleted directory {path} and all its contents"
        if not self.content(path).exists():
            raise FileNotFoundError(f"Error: Memory entry at {path} does not exist")
        self.content(path).unlink()
        self.metadata(path).unlink(missing_ok=True)
        return f"Successfully deleted memory entry {path}"


def create_app(root: Path, api_key: str | None, faults: Faults) -> FastAPI:
    """The server's requests and answers."""
    store = Store(root, faults)
    app = FastAPI()

    async def authorised(authorization: Annotated[str | None, Header()] = None) -> None:
        if api_key is None:
            return
        if not authorization or not authorization.startswith("Bearer "):
            raise HTTPException(401, "API key required", {"WWW-Authenticate": "Bearer"})
        if authorization != f"Bearer {api_key}":
            raise HTTPException(401, "Invalid API key", {"WWW-Authenticate": "Bearer"})

    guard = [Depends(authorised)]

    @app.get("/api/health")
    async def health() -> dict[str, Any]:
        healthy = store.root.is_dir()
        return {
            "healthy": healthy,
            "message": "Backend is healthy" if healthy else "Storage path does not exist",
            "details": {"backend_type": "FilesystemMemoryBackend"},
            "timestamp": "2026-11-23T01:32:23.867375+00:00",
        }

    @app.get("/api/memory/tree", dependencies=guard)
    async def tree(prefix: str = "", depth: int | None = None) -> dict[str, Any]:
        place = store.root / prefix
        error = None if place.is_dir() else f"Path {prefix} does not exist"
        items = store.tree(place, depth) if error is None else {}
        return {
            "type": "tree",
            "path": prefix,
            "items": items,
            "success": error is None,
            "error": error,
        }

    @app.get("/api/memory/entry/{path:path}", dependencies=guard)
    async def get(path: str) -> EntryAnswer:
        return store.read(path)

    @app.put("/api/memory/entry/{path:path}", dependencies=guard)
    async def put(path: str, body: Write) -> dict[str, Any]:
        error = None
        try:
            store.write(path, body.content, body.metadata or {})
        except (OSError, ValueError, TypeError) as failed:
            error = f"Error writing memory entry: {failed}"
        message = f"Memory entry written successfully to {path}" if error is None else ""
        return {"path": path, "success": error is None, "message": message, "error": error}

    @app.delete("/api/memory/entry/{path:path}", dependencies=guard)
    async def delete(path: str) -> dict[str, Any]:
        try:
            message, error = store.delete(path), None
        except OSError as failed:
            message, error = "", str(failed)
        return {"path": path, "success": error is None, "message": message, "error": error}

    @app.get("/api/memory/search", dependencies=guard)
    async def search(q: str, prefix: str = "") -> dict[str, Any]:
        results = store.search(q, prefix)
        return {"query": q, "results": results, "success": True, "error": None}

    @app.post("/api/memory/backup", dependencies=guard)
    @app.post("/api/memory/restore", dependencies=guard)
    @app.get("/api/memory/backups", dependencies=guard)
    @app.delete("/api/memory/backup/{key:path}", dependencies=guard)
    async def s3() -> dict[str, Any]:
        return {
            "success": False,
            "message": "S3 backup is not configured or enabled",
            "error": "S3 backup not available",
        }

    return app


class LostAnswers:
    """The app, except that one write's answer breaks off: the client cannot know its outcome."""

    def __init__(self, app: FastAPI, faults: Faults) -> None:
        self._app = app
        self._faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on, but let the chosen write's connection end after the headers."""
        before = self._faults.writes
        lost = False

        async def passing(message: Message) -> None:
            nonlocal lost
            lost = lost or (
                message["type"] == "http.response.start"
                and before < self._faults.lose_answer_of_write <= self._faults.writes
            )
            if not lost or message["type"] == "http.response.start":
                await send(message)

        await self._app(scope, receive, passing)


class ExistingServer:
    """The server in a process of its own, on a free loopback port, while the context lasts."""

    def __init__(self, root: Path, api_key: str | None = None, *flags: str) -> None:
        self.root = root
        self.api_key = api_key
        self._flags = flags
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def __enter__(self) -> ExistingServer:
        command = [sys.executable, "-m", __spec__.name, "--storage-path", str(self.root)]
        if self.api_key is not None:
            command += ["--api-key", self.api_key]
        self._process = subprocess.Popen(
            [*command, *self._flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process is not None
        self._process.communicate(timeout=30)  # closes its stdin, and it ends


def _end_with_parent(server: uvicorn.Server) -> None:
    sys.stdin.read()
    server.should_exit = True


@contextlib.contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    # With the protocol named, asyncio sets TCP_NODELAY, as it does for uvicorn's own sockets.
    with socket.socket(proto=socket.IPPROTO_TCP) as opened:
        opened.bind(("127.0.0.1", port))
        opened.listen(128)
        yield opened


def main() -> None:
    """Run it from the command line; the port is the first line of stdout."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--storage-path", type=Path, required=True)
    parser.add_argument("--api-key")
    parser.add_argument("--break-writes-after", type=int, default=0)
    parser.add_argument("--lose-answer-of-write", type=int, default=0)
    parser.add_argument("--say-yes-write-nothing", action="store_true")
    given = parser.parse_args()
    faults = Faults(
        given.break_writes_after, given.lose_answer_of_write, given.say_yes_write_nothing
    )
    app = LostAnswers(create_app(given.storage_path, given.api_key, faults), faults)
    config = uvicorn.Config(
        app, loop="asyncio", http="h11", log_level="critical", lifespan="off", access_log=False
    )
    server = uvicorn.Server(config)
    with _listening(given.port) as opened:
        print(opened.getsockname()[1], flush=True)  # noqa: T201 - tells the parent the port
        threading.Thread(target=_end_with_parent, args=(server,), daemon=True).start()
        server.run(sockets=[opened])


if __name__ == "__main__":
    main()
