"""The dialect's view of a backend: trees, directories, merged metadata, ETags, preconditions."""

from __future__ import annotations

import hashlib
import json
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hdev_memory import durable
from hdev_memory.backends.base import Backend, Change, Drifted, Failed, Put, Remove
from hdev_memory.backends.filesystem import STORE_MARKER
from hdev_memory.core.digest import NotCanonical
from hdev_memory.core.entry import Absent, Entry, Metadata, Normalisation, State, Unreadable
from hdev_memory.errors import StoreError

NORMAL = Normalisation()


class PreconditionFailed(Exception):
    """If-Match or If-None-Match did not hold; `etag` is what stands there, None for nothing."""

    def __init__(self, etag: str | None) -> None:
        super().__init__("precondition failed")
        self.etag = etag


class Refused(Exception):
    """The backend did not do it; the text says why."""


def etag(entry: Entry) -> str:
    """A strong ETag over everything that a GET of the entry returns."""
    metadata = json.dumps(entry.metadata, sort_keys=True, ensure_ascii=True).encode()
    digest = hashlib.sha256(hashlib.sha256(entry.content).digest() + metadata)
    return f'"{digest.hexdigest()}"'


class Conditions:
    """The preconditions of a request."""

    def __init__(self, if_match: str | None, if_none_match: str | None) -> None:
        self.if_match = if_match
        self.absent = if_none_match is not None and if_none_match.strip() == "*"

    @property
    def any(self) -> bool:
        return self.if_match is not None or self.absent

    def check(self, entry: Entry | None) -> None:
        """Raises PreconditionFailed."""
        current = etag(entry) if entry is not None else None
        if self.absent and entry is not None:
            raise PreconditionFailed(current)
        if self.if_match is not None:
            allowed = [tag.strip() for tag in self.if_match.split(",")]
            if entry is None or (current not in allowed and "*" not in allowed):
                raise PreconditionFailed(current)


class Store:
    """A backend behind one lock for its writers, so that preconditions hold among its clients."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._lock = threading.Lock()

    def read(self, key: str) -> Entry | Absent | Unreadable:
        """One entry. Raises StoreError when the store is gone, which is not absence."""
        self._require()
        (found,) = self.backend.read([key])
        return found

    def _require(self) -> None:
        if not self.backend.present():
            raise StoreError("The storage is gone.", hint="Put it back, and start the server anew.")

    def keys(self, prefix: str) -> list[str]:
        """The keys below `prefix` (a folder without its slash, or empty for all)."""
        self._require()
        below = f"{prefix}/" if prefix else ""
        return [key for key in self.backend.keys() if key.startswith(below)]  # noqa: SIM118 - no dict

    def put(
        self, key: str, content: bytes, metadata: Metadata, *, merge: bool, conditions: Conditions
    ) -> str:
        """Write an entry and return its ETag. Raises PreconditionFailed, Refused."""

        def change(entry: Entry | None, before: State | None) -> Change:
            stored = _merged(entry, metadata) if merge else metadata
            try:
                after = NORMAL.state(content, stored)
            except NotCanonical as error:
                raise Refused(f"the metadata {error}") from None
            return Put(key=key, content=content, metadata=stored, before=before, after=after)

        self._change(key, change, conditions)
        written = self.read(key)
        return etag(written) if isinstance(written, Entry) else ""

    def delete(self, key: str, conditions: Conditions) -> bool:
        """Delete an entry; False when there is none. Raises PreconditionFailed, Refused."""

        def change(entry: Entry | None, before: State | None) -> Change | None:
            return Remove(key=key, before=before) if before is not None else None

        return self._change(key, change, conditions)

    def _change(
        self,
        key: str,
        change: Callable[[Entry | None, State | None], Change | None],
        conditions: Conditions,
    ) -> bool:
        # Somebody may edit the folder by hand between our look and our write: look again.
        for _ in range(5):
            with self._lock:
                found = self.read(key)
                if isinstance(found, Unreadable):
                    raise Refused(found.reason)
                entry = found if isinstance(found, Entry) else None
                conditions.check(entry)
                before = NORMAL.state(entry.content, entry.metadata) if entry else None
                wanted = change(entry, before)
                if wanted is None:
                    return False
                (receipt,) = self.backend.write([wanted], NORMAL)
            if isinstance(receipt, Failed):
                raise Refused(receipt.reason)
            if not isinstance(receipt, Drifted):
                return True
        raise Refused("somebody else keeps changing this entry")


def _merged(entry: Entry | None, sent: Metadata) -> Metadata:
    """What the existing server stores: bookkeeping renewed, its own keys kept, sent ones on top."""
    now = str(time.time())
    if entry is None:
        return {"updated": now, "version": 1, "created": now, **sent}
    version = entry.metadata.get("version")
    count = version if isinstance(version, int) and not isinstance(version, bool) else 0
    return {**entry.metadata, "updated": now, "version": count + 1, **sent}


def tree(keys: list[str], prefix: str, depth: int | None) -> dict[str, Any]:
    """The dialect's nested tree; `{}` is an entry, or a folder at the depth limit."""
    root: dict[str, Any] = {}
    skip = len(prefix) + 1 if prefix else 0
    for key in keys:
        node = root
        parts = key[skip:].split("/")
        # depth=0 gives nothing and depth=1 two levels, as the existing server has it.
        limit = len(parts) if depth is None else (depth + 1 if depth else 0)
        for part in parts[:limit]:
            node = node.setdefault(part, {})
    return root


def listing(keys: list[str], prefix: str) -> list[dict[str, str]]:
    """The direct children of a folder: `node` is a folder, `leaf` an entry; a name may be both."""
    below = f"{prefix}/" if prefix else ""
    items: dict[tuple[str, str], None] = {}
    for key in keys:
        name, slash, _ = key[len(below) :].partition("/")
        items["node" if slash else "leaf", below + name] = None
    return [{"type": kind, "path": path} for kind, path in items]


def search(store: Store, query: str, prefix: str) -> list[dict[str, Any]]:
    """Case-insensitive hits, best first; the score is the count divided by the length."""
    wanted = query.lower()
    results: list[dict[str, Any]] = []
    for found in store.backend.read(store.keys(prefix)):
        if not isinstance(found, Entry) or not wanted:
            continue
        text = found.content.decode()
        lower = text.lower()
        at = lower.find(wanted)
        if at < 0:
            continue
        start, end = max(0, at - 50), min(len(text), at + len(query) + 50)
        snippet = ("..." if start else "") + text[start:end] + ("..." if end < len(text) else "")
        score = lower.count(wanted) / len(text)
        results.append({"path": found.key, "snippet": snippet, "score": score})
    results.sort(key=lambda hit: (-hit["score"], hit["path"]))
    return results


def store_identity(root: Path) -> str:
    """The identity of the store in a folder, made and kept there at the first call."""
    path = root / STORE_MARKER
    try:
        found = json.loads(path.read_text())["store"]
        if isinstance(found, str) and found:
            return found
    except (OSError, ValueError, KeyError, TypeError):
        pass
    made = str(uuid.uuid4())
    durable.write_whole(path, json.dumps({"store": made}).encode() + b"\n")
    return made
