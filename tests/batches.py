"""A small client of `hdev-memory/1` that believes nothing: every answer is proved whole."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

from hdev_memory.core.entry import Normalisation, State

PATH = "/api/hdev-memory/1"


def lines(items: Iterable[Any]) -> bytes:
    return b"".join(json.dumps(item).encode() + b"\n" for item in items)


def batch(changes: Sequence[Any], line_ends: str = "exact") -> bytes:
    """The body of a write."""
    head = {"protocol": "hdev-memory/1", "kind": "write", "line_ends": line_ends}
    return lines([{**head, "changes": len(changes)}, *changes])


def digest(body: bytes) -> str:
    """The Content-Digest of a body."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def put(key: str, content: str = "text", metadata: Any = None, before: State | None = None) -> Any:
    return {"put": key, "before": shown(before), "content": content, "metadata": metadata or {}}


def remove(key: str, before: State | None) -> Any:
    return {"remove": key, "before": shown(before)}


def exact(content: str, metadata: Any = None) -> State:
    return Normalisation().state(content.encode(), metadata or {})


def under_lf(content: str, metadata: Any = None) -> State:
    return Normalisation(line_ends="lf").state(content.encode(), metadata or {})


def shown(state: State | None) -> Any:
    if state is None:
        return None
    return {"content": state.content, "metadata": state.metadata, "bytes": state.bytes}


def proven(body: bytes, kind: str) -> tuple[Any, list[Any], Any]:
    """Head, lines and end of an answer that is whole."""
    *before, last = body.splitlines(keepends=True)
    head, *items = (json.loads(line) for line in before)
    end = json.loads(last)
    assert (head["protocol"], head["kind"]) == ("hdev-memory/1", kind)
    assert (end["end"], end["entries"]) == (True, len(items))
    assert end["digest"] == hashlib.sha256(b"".join(before)).hexdigest()
    return head, items, end


class Many:
    """One connection to a server."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self.connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
        self.headers = {"Authorization": f"Bearer {key}"} if key is not None else {}

    def request(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, bytes]:
        """The status and the body, which is unpacked where it is gzip."""
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        self.connection.request(method, path, body, {**self.headers, **named})
        answer = self.connection.getresponse()
        found = answer.read()
        if answer.headers.get("Content-Encoding") == "gzip":
            found = zlib.decompress(found, wbits=31)
        return answer.status, found

    def send(self, body: bytes, **headers: str) -> tuple[int, bytes]:
        """A body to `write`, with its digest unless another is given."""
        headers = {"Content_Digest": digest(body), **headers}
        return self.request("POST", f"{PATH}/write", body, **headers)

    def write(self, *changes: Any, line_ends: str = "exact", **headers: str) -> list[Any]:
        """The receipts."""
        status, body = self.send(batch(changes, line_ends), **headers)
        assert status == 200, body
        return proven(body, "receipts")[1]

    def read(self, *keys: str, **headers: str) -> list[Any]:
        body = json.dumps({"keys": keys}).encode()
        status, found = self.request("POST", f"{PATH}/read", body, **headers)
        assert status == 200, found
        return proven(found, "entries")[1]

    def page(self, query: str = "", **headers: str) -> tuple[Any, list[Any], Any]:
        status, found = self.request("GET", f"{PATH}/snapshot{query}", **headers)
        assert status == 200, found
        return proven(found, "snapshot")

    def snapshot(self, query: str = "", **headers: str) -> list[Any]:
        return self.page(query, **headers)[1]

    def close(self) -> None:
        self.connection.close()
