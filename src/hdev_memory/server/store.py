"""The dialect's view of a backend: trees, directories, merged metadata, conditional writes."""

from __future__ import annotations

import json
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, assert_never

from hdev_memory import durable
from hdev_memory.backends.base import (
    UNATTENDED,
    Backend,
    Change,
    Drifted,
    Failed,
    Put,
    Receipt,
    Remove,
    Removed,
    Session,
    Stored,
)
from hdev_memory.backends.filesystem import STORE_MARKER
from hdev_memory.core.digest import NotCanonical
from hdev_memory.core.entry import Absent, Entry, Metadata, Normalisation, State, Unreadable
from hdev_memory.errors import StoreError
from hdev_memory.server.audit import Author, ServerLog
from hdev_memory.server.conditions import NONE, Conditions, PreconditionFailed, etag
from hdev_memory.server.journal import RUN, Journal
from hdev_memory.server.lease import LeaseLock, Superseded
from hdev_memory.server.metrics import Metrics

T = TypeVar("T")

BATCH = 128
"""How many writes of clients are carried out together at most."""

NORMAL = Normalisation()

NOBODY = Author(by="anonymous", role="write")


class Refused(Exception):
    """The backend did not do it; the text says why."""


STRIPES = 256
"""Keys share this many counters of writes; sharing one costs a reader a second look, no more."""

TRIES = 5
"""How often a write looks again after somebody who ignores the server has changed the folder."""

Decide = Callable[[Entry | None, State | None], Change | None]


class _Write:
    """A client's wish to change one entry, and what came of it."""

    def __init__(
        self,
        key: str,
        conditions: Conditions,
        fence: int | None,
        author: Author,
        decide: Decide,
    ) -> None:
        self.key = key
        self.author = author
        self.conditions = conditions
        self.fence = fence
        self.decide = decide
        self.tries = 0
        self.outcome: Future[Change | None] = Future()


class Store:
    """A backend behind one thread that writes, so that preconditions hold among its clients.

    What its clients want at the same time is written as one batch: each looks and writes in order,
    one winner for each key at a time, and the syncs of the batch are shared by all. A client is
    answered when its own batch is durable, and recorded in the audit log where there is one.
    """

    def __init__(
        self,
        backend: Backend,
        lock: LeaseLock,
        journal: Journal | None = None,
        log: ServerLog | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.backend = backend
        self.lock = lock
        self.log = log
        self._journal = journal
        self._metrics = metrics
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._waiting: deque[_Write] = deque()
        self._writes = [0] * STRIPES  # odd while a batch with a key of the stripe takes effect

    def read(self, key: str) -> Entry | Absent | Unreadable:
        """One entry, whole: never the content of one write with the metadata of another.

        Raises StoreError when the store is gone, which is not absence.
        """
        self._require()
        stripe = _stripe(key)
        before = self._writes[stripe]
        if before % 2 == 0:
            (found,) = self.backend.read([key])
            if self._writes[stripe] == before:
                return found
        return self.exclusively(lambda: next(iter(self.backend.read([key])))).result()

    @property
    def writable(self) -> bool:
        """Whether a write would be tried: nothing that it needs has failed for good."""
        if self.log is not None and self.log.broken:
            return False
        return self._journal is None or not self._journal.unwritable

    def exclusively(self, call: Callable[[], T]) -> Future[T]:
        """Call it when no write is on its way; any write that comes later sees what it did."""
        return self._writer.submit(call)

    def _require(self) -> None:
        if not self.backend.present():
            raise StoreError("The storage is gone.", hint="Put it back, and start the server anew.")

    def keys(self, prefix: str) -> list[str]:
        """The keys below `prefix` (a folder without its slash, or empty for all)."""
        self._require()
        below = f"{prefix}/" if prefix else ""
        return [key for key in self.backend.keys() if key.startswith(below)]  # noqa: SIM118 - no dict

    def put(
        self,
        key: str,
        content: bytes,
        metadata: Metadata,
        *,
        merge: bool,
        conditions: Conditions = NONE,
        fence: int | None = None,
        author: Author = NOBODY,
    ) -> Future[Change | None]:
        """Write an entry; the outcome is the Put that was carried out.

        It raises PreconditionFailed, Superseded, Refused or StoreError.
        """

        def decide(entry: Entry | None, before: State | None) -> Change:
            stored = _merged(entry, metadata) if merge else metadata
            try:
                after = NORMAL.state(content, stored)
            except NotCanonical as error:
                raise Refused(f"the metadata {error}") from None
            return Put(key=key, content=content, metadata=stored, before=before, after=after)

        return self._submit(_Write(key, conditions, fence, author, decide))

    def delete(
        self,
        key: str,
        *,
        conditions: Conditions = NONE,
        fence: int | None = None,
        author: Author = NOBODY,
    ) -> Future[Change | None]:
        """Delete an entry; the outcome is the Remove, or None when there is nothing to delete.

        It raises PreconditionFailed, Superseded, Refused or StoreError.
        """

        def decide(entry: Entry | None, before: State | None) -> Change | None:
            return Remove(key=key, before=before) if before is not None else None

        return self._submit(_Write(key, conditions, fence, author, decide))

    def _submit(self, write: _Write) -> Future[Change | None]:
        self._waiting.append(write)
        self._writer.submit(self._write_waiting)
        return write.outcome

    # In the writer's thread

    def _write_waiting(self) -> None:
        """Carry out what waits, and answer it."""
        turn = [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH))]
        turn = [write for write in turn if write.outcome.set_running_or_notify_cancel()]
        while turn:
            try:
                turn = self._round(turn)
            except Exception as error:  # noqa: BLE001 - whoever waits raises it; none waits for ever
                for write in turn:
                    if not write.outcome.done():
                        write.outcome.set_exception(_of_the_store(error))
                return

    def _round(self, turn: list[_Write]) -> list[_Write]:
        """Answer what can be answered now, with one batch; the rest, in order."""
        self._require()
        keys = sorted({write.key for write in turn})
        found = dict(zip(keys, self.backend.read(keys), strict=True))
        chosen: dict[str, tuple[_Write, Change]] = {}
        rest = []
        for write in turn:
            if write.key in chosen:
                rest.append(write)
                continue
            change = self._decided(write, found[write.key])
            if change is not None:
                chosen[write.key] = write, change
        changes = [change for _, change in chosen.values()]
        again = []
        if changes:
            authors = {write.key: write.author for write, _ in chosen.values()}
            receipts = self._carry_out(changes, authors)
            for (write, change), receipt in zip(chosen.values(), receipts, strict=True):
                if not _answered(write, change, receipt):
                    again.append(write)
        return again + rest

    def _decided(self, write: _Write, found: Entry | Absent | Unreadable) -> Change | None:
        """The change to make; None where the write has its outcome already."""
        try:
            self.lock.check(write.fence)
            if isinstance(found, Unreadable):
                raise Refused(found.reason)
            entry = found if isinstance(found, Entry) else None
            write.conditions.check(etag(entry) if entry is not None else None)
            before = NORMAL.state(entry.content, entry.metadata) if entry is not None else None
            change = write.decide(entry, before)
        except NotCanonical as error:
            write.outcome.set_exception(Refused(f"its metadata {error}"))
            return None
        except (Refused, PreconditionFailed, Superseded) as error:
            write.outcome.set_exception(error)
            return None
        if change is None:
            write.outcome.set_result(None)
        return change

    def _carry_out(self, changes: list[Change], authors: Mapping[str, Author]) -> Sequence[Receipt]:
        stripes = {_stripe(change.key) for change in changes}
        for stripe in stripes:
            self._writes[stripe] += 1
        try:
            if self._journal is None:
                return self._recorded(changes, authors, UNATTENDED)
            head = self.log.head if self.log is not None else None
            # The journal lets go of a batch when the log has it: whatever comes in between, either
            # this server has recorded what it did, or the next one does.
            with self._journal.writing(authors, head) as intend:
                return self._recorded(changes, authors, Session(run=RUN, intend=intend))
        finally:
            for stripe in stripes:
                self._writes[stripe] += 1

    def _recorded(
        self, changes: list[Change], authors: Mapping[str, Author], session: Session
    ) -> Sequence[Receipt]:
        begin = time.perf_counter()
        receipts = self.backend.write(changes, NORMAL, session)
        if self.log is not None:
            self.log.record(changes, receipts, authors)
        if self._metrics is not None:
            self._metrics.committed(changes, receipts, time.perf_counter() - begin)
        return receipts


def _stripe(key: str) -> int:
    return hash(key) % STRIPES


def _answered(write: _Write, change: Change, receipt: Receipt) -> bool:
    """Give the write its outcome; False where it has to look again."""
    match receipt:
        case Stored() | Removed():
            write.outcome.set_result(change)
        case Failed(reason=reason):
            write.outcome.set_exception(Refused(reason))
        case Drifted():
            # Somebody edits the folder by hand between our look and our write.
            write.tries += 1
            if write.tries < TRIES:
                return False
            write.outcome.set_exception(Refused("somebody else keeps changing this entry"))
        case _:
            assert_never(receipt)
    return True


def _of_the_store(error: Exception) -> Exception:
    """An error of the whole batch as each of its clients gets it."""
    if isinstance(error, OSError):
        return StoreError("The storage failed.", why=f"{error.strerror}.")
    return error


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
