"""The dialect's view of a backend: trees, directories, merged metadata, conditional writes."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, assert_never

import msgspec

from hdev_memory import durable
from hdev_memory.backends.base import (
    EVERYTHING,
    Backend,
    Change,
    Drifted,
    Failed,
    Overtaken,
    Put,
    Receipt,
    Remove,
    Removed,
    Session,
    Stored,
    Tagged,
    Transactional,
    Unknown,
    state_of,
)
from hdev_memory.backends.filesystem import STORE_MARKER
from hdev_memory.backends.filesystem_write import write_reason
from hdev_memory.core.digest import NotCanonical
from hdev_memory.core.entry import (
    Absent,
    Entry,
    EntryState,
    InvalidKey,
    Metadata,
    Normalisation,
    State,
    Unreadable,
    check_key,
    tag_of,
)
from hdev_memory.errors import BackendError, StoreError
from hdev_memory.server.audit import Author, WriteLog
from hdev_memory.server.conditions import NONE, Conditions, PreconditionFailed, etag
from hdev_memory.server.journal import RUN, Journal
from hdev_memory.server.lease import Lock, Superseded
from hdev_memory.server.metrics import Metrics

T = TypeVar("T")

BATCH = 128
"""How many writes of clients are carried out together at most."""

NORMAL = Normalisation()

NOBODY = Author(by="anonymous", role="write")


class Refused(Exception):
    """The backend did not do it; the text says why."""


_TOGETHER = 512
"""Entries of a snapshot that are looked at once more together, where others write meanwhile."""

STRIPES = 1 << 16
"""Keys share this many counters of writes; sharing one costs a reader a second look, no more."""

TRIES = 5
"""How often a write looks again after somebody who ignores the server has changed the folder."""

TURN = 2048
"""How many changes of batches are carried out together, unless one batch alone has more."""

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

    def failed(self, error: Exception, *, began: bool) -> None:
        """The write gets no other outcome."""
        self.outcome.set_exception(_of_the_store(error))


class _Batch:
    """A client's changes of many entries by what stands there, and what came of each.

    Their states are exact; where the client compares otherwise, `before` is under its own
    normalisation, and is looked at here.
    """

    def __init__(
        self,
        changes: Sequence[Change],
        normalisation: Normalisation,
        fence: int | None,
        author: Author,
    ) -> None:
        self.changes = changes
        self.normalisation = normalisation
        self.fence = fence
        self.author = author
        self.tries = 0
        self.receipts: dict[str, Receipt] = {}
        self.outcome: Future[Sequence[Receipt]] = Future()

    @property
    def exact(self) -> bool:
        return self.normalisation == NORMAL

    @property
    def left(self) -> Sequence[Change]:
        """What nothing is known of yet."""
        if not self.receipts:
            return self.changes
        return [change for change in self.changes if change.key not in self.receipts]

    def answered(self) -> bool:
        """Give the batch its outcome; False where something of it is left to do."""
        if len(self.receipts) < len(self.changes):
            return False
        self.outcome.set_result([self.receipts[change.key] for change in self.changes])
        return True

    def failed(self, error: Exception, *, began: bool) -> None:
        """No more of it is carried out. What has no receipt has not been written, unless `began`:
        then nothing is known of it."""
        known = not began and isinstance(error, OSError)
        if not self.receipts and not known:
            self.outcome.set_exception(_of_the_store(error))
            return
        reason = write_reason(error) if isinstance(error, OSError) else str(error)
        for change in self.left:
            failed = Failed(key=change.key, reason=reason, intact=not began)
            self.receipts[change.key] = failed
        self.answered()


class Store:
    """A backend behind one thread that writes, so that preconditions hold among its clients.

    What its clients want at the same time is written as one batch: each looks and writes in order,
    one winner for each key at a time, and the syncs of the batch are shared by all. A client is
    answered when its own batch is durable, and recorded in the audit log where there is one.
    """

    def __init__(
        self,
        backend: Backend,
        lock: Lock,
        journal: Journal | None = None,
        log: WriteLog | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.backend = backend
        self.lock = lock
        self.log = log
        self.about: int | None = None
        """How many entries the last whole snapshot had."""
        self._journal = journal
        self._metrics = metrics
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._waiting: deque[_Write] = deque()
        self._batches: deque[_Batch] = deque()
        self._writes = [0] * STRIPES  # odd while a batch with a key of the stripe takes effect
        self._began = False  # whether anything of the batch at hand may have taken effect

    def read(self, key: str) -> Entry | Absent | Unreadable:
        """One entry, whole: never the content of one write with the metadata of another.

        Raises StoreError when the store is gone, which is not absence.
        """
        (found,) = self.read_each([key])
        return found

    def read_each(self, keys: Sequence[str]) -> Iterator[Entry | Absent | Unreadable]:
        """The same for each of these keys, in order, one after another as they are taken."""
        self._require()
        before = [self._writes[_stripe(key)] for key in keys]
        given = 0
        try:
            for key, count, found in zip(keys, before, self.backend.read(keys), strict=True):
                if _quiet(count, self._writes[_stripe(key)]):
                    whole = found
                else:
                    whole = self._read_alone(key)
                given += isinstance(whole, Entry)
                yield whole
        finally:
            if self._metrics is not None:
                self._metrics.read(given)

    def _read_alone(self, key: str) -> Entry | Absent | Unreadable:
        return self.exclusively(lambda: next(iter(self.backend.read([key])))).result()

    @property
    def writable(self) -> bool:
        """Whether a write would be tried: nothing that it needs has failed for good."""
        if self.log is not None and self.log.broken:
            return False
        return self._journal is None or not self._journal.unwritable

    def tagged(
        self, normalisation: Normalisation, after: str | None = None
    ) -> Iterator[tuple[EntryState, str] | Unreadable]:
        """The state of every entry behind the key `after`, sorted by key, with its tag; each whole.

        An entry that is written meanwhile is as before or as after. Raises StoreError.
        """
        self._require()
        before = self._writes.copy()
        listed = self._tagged(normalisation, after)
        while part := list(islice(listed, _TOGETHER)):
            doubtful = [
                key
                for key in map(_key_of, part)
                if not _quiet(before[_stripe(key)], self._writes[_stripe(key)]) and _is_key(key)
            ]
            again = self._looked_at_again(doubtful, normalisation)
            for found in part:
                seen = again.get(_key_of(found), found)
                if seen is not None:
                    yield seen

    def _looked_at_again(
        self, keys: Sequence[str], normalisation: Normalisation
    ) -> dict[str, _Seen | None]:
        """What stands under each key, whole; None where nothing does.

        Those that a batch is writing now are waited for together: one after another each would wait
        for a batch of its own, and a snapshot would never end while others write.
        """
        found: dict[str, _Seen | None] = {}
        counts = [self._writes[_stripe(key)] for key in keys]
        for key, count, entry in zip(keys, counts, self.backend.read(keys), strict=True):
            if _quiet(count, self._writes[_stripe(key)]):
                found[key] = _known(entry, normalisation)
        late = [key for key in keys if key not in found]
        if late:

            def look() -> list[_Seen | None]:
                return [_known(entry, normalisation) for entry in self.backend.read(late)]

            found.update(zip(late, self.exclusively(look).result(), strict=True))
        return found

    def _tagged(
        self, normalisation: Normalisation, after: str | None
    ) -> Iterator[tuple[EntryState, str] | Unreadable]:
        if isinstance(self.backend, Tagged):
            for found in self.backend.tagged(EVERYTHING, normalisation):
                key = found.key if isinstance(found, Unreadable) else found[0].key
                if after is None or key > after:
                    yield found
            return
        keys = (key for key in self.backend.keys() if after is None or key > after)  # noqa: SIM118 - no dict
        for entry in self.backend.read(keys):
            if not isinstance(entry, Absent):  # removed since it was listed
                yield _with_tag(entry, normalisation)

    def exclusively(self, call: Callable[[], T]) -> Future[T]:
        """Call it when no write is on its way; any write that comes later sees what it did."""
        return self._writer.submit(call)

    def _require(self) -> None:
        if not self.backend.present():
            raise BackendError("The storage is gone.", hint="Put it back; it is looked for again.")

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
            return Put(
                key=key,
                content=content,
                metadata=stored,
                before=before,
                after=after,
                tag=_tag(entry),
            )

        write = _Write(key, conditions, fence, author, decide)
        self._waiting.append(write)
        self._writer.submit(self._write_waiting)
        return write.outcome

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
            return Remove(key=key, before=before, tag=_tag(entry)) if before is not None else None

        write = _Write(key, conditions, fence, author, decide)
        self._waiting.append(write)
        self._writer.submit(self._write_waiting)
        return write.outcome

    def write(
        self,
        changes: Sequence[Change],
        normalisation: Normalisation = NORMAL,
        *,
        fence: int | None = None,
        author: Author = NOBODY,
    ) -> Future[Sequence[Receipt]]:
        """Carry out each change whose precondition holds; the outcome has one receipt for each.

        No key is named twice. The states `after` are exact, `before` are under `normalisation`. It
        raises Superseded when nothing took effect, and StoreError when nothing is known of any.
        """
        batch = _Batch(changes, normalisation, fence, author)
        self._batches.append(batch)
        self._writer.submit(self._write_waiting)
        return batch.outcome

    # In the writer's thread

    def _write_waiting(self) -> None:
        """Carry out what waits, and answer it."""
        turn = [each for each in self._next() if each.outcome.set_running_or_notify_cancel()]
        while turn:
            try:
                turn = self._round(turn)
            except Overtaken as error:  # nothing took effect
                for each in turn:
                    if each.fence is not None and each.fence < error.fence:
                        each.outcome.set_exception(Superseded(error.fence))
                turn = [each for each in turn if not each.outcome.done()]
            except Exception as error:  # noqa: BLE001 - whoever waits raises it; none waits for ever
                for each in turn:
                    if not each.outcome.done():
                        each.failed(error, began=self._began)
                return

    def _next(self) -> list[_Write | _Batch]:
        """What shares the next turn. Single writes have a place in each, however many batches wait:
        so one of them waits for two turns at most."""
        singles = min(len(self._waiting), BATCH)
        turn: list[_Write | _Batch] = [self._waiting.popleft() for _ in range(singles)]
        room = TURN
        while self._batches and (room == TURN or len(self._batches[0].changes) <= room):
            batch = self._batches.popleft()
            room -= len(batch.changes)
            turn.append(batch)
        return turn

    def _round(self, turn: list[_Write | _Batch]) -> list[_Write | _Batch]:
        """Answer what can be answered now, with one batch; the rest, in order."""
        self._began = False
        self._require()
        turn = [each for each in turn if self._admitted(each)]
        keys = sorted({key for each in turn for key in _looked_at(each)})
        found = dict(zip(keys, self.backend.read(keys), strict=True)) if keys else {}
        chosen: dict[str, tuple[_Write | _Batch, Change]] = {}
        rest: list[_Write | _Batch] = []
        for each in turn:
            if isinstance(each, _Batch):
                self._choose(each, found, chosen)
            elif each.key in chosen:
                rest.append(each)
            elif (change := self._decided(each, found[each.key])) is not None:
                chosen[each.key] = each, change
        if chosen:
            changes = [change for _, change in chosen.values()]
            authors = {key: each.author for key, (each, _) in chosen.items()}
            fences = [each.fence for each, _ in chosen.values() if each.fence is not None]
            # A database refuses the whole batch where the oldest is overtaken: then it is told.
            receipts = self._carry_out(changes, authors, min(fences, default=None))
            again: list[_Write | _Batch] = []
            for (each, change), receipt in zip(chosen.values(), receipts, strict=True):
                if isinstance(each, _Batch):
                    _noted(each, change, receipt)
                elif not _answered(each, change, receipt):
                    again.append(each)
            rest = again + rest
        return rest + [each for each in turn if isinstance(each, _Batch) and not each.answered()]

    def _admitted(self, each: _Write | _Batch) -> bool:
        """Whether its fence still holds; else it has its outcome."""
        try:
            self.lock.check(each.fence)
        except Superseded as error:
            each.outcome.set_exception(error)
            return False
        return True

    def _choose(
        self,
        batch: _Batch,
        found: Mapping[str, Entry | Absent | Unreadable],
        chosen: dict[str, tuple[_Write | _Batch, Change]],
    ) -> None:
        """Take what no other client changes in this round."""
        for change in batch.left:
            if change.key in chosen:
                continue
            if batch.exact:
                chosen[change.key] = batch, change
            else:
                made = _exact(change, found[change.key], batch.normalisation)
                if isinstance(made, Put | Remove):
                    chosen[change.key] = batch, made
                else:
                    batch.receipts[change.key] = made

    def _decided(self, write: _Write, found: Entry | Absent | Unreadable) -> Change | None:
        """The change to make; None where the write has its outcome already."""
        try:
            if isinstance(found, Unreadable):
                raise Refused(found.reason)
            entry = found if isinstance(found, Entry) else None
            write.conditions.check(etag(entry) if entry is not None else None)
            before = NORMAL.state(entry.content, entry.metadata) if entry is not None else None
            change = write.decide(entry, before)
        except NotCanonical as error:
            write.outcome.set_exception(Refused(f"its metadata {error}"))
            return None
        except (Refused, PreconditionFailed) as error:
            write.outcome.set_exception(error)
            return None
        if change is None:
            write.outcome.set_result(None)
        return change

    def _carry_out(
        self, changes: list[Change], authors: Mapping[str, Author], fence: int | None
    ) -> Sequence[Receipt]:
        stripes = {_stripe(change.key) for change in changes}

        def begin(ready: Sequence[Change]) -> None:
            # Not before: while they are staged, readers see what stands there.
            self._began = True
            for stripe in stripes:
                self._writes[stripe] += 1

        try:
            if self._journal is None:
                return self._recorded(changes, authors, Session(run=RUN, intend=begin, fence=fence))
            head = self.log.head if self.log is not None else None
            # The journal lets go of a batch when the log has it: whatever comes in between, either
            # this server has recorded what it did, or the next one does.
            with self._journal.writing(authors, head) as intend:

                def journalled(ready: Sequence[Change]) -> None:
                    intend(ready)
                    begin(ready)

                session = Session(run=RUN, intend=journalled, fence=fence)
                return self._recorded(changes, authors, session)
        finally:
            if self._began:
                for stripe in stripes:
                    self._writes[stripe] += 1

    def _recorded(
        self, changes: list[Change], authors: Mapping[str, Author], session: Session
    ) -> Sequence[Receipt]:
        begin = time.perf_counter()
        with self._together():
            receipts = self.backend.write(changes, NORMAL, session)
            if self.log is not None:
                self.log.record(changes, receipts, authors)
        if self._metrics is not None:
            self._metrics.committed(changes, receipts, time.perf_counter() - begin)
        return receipts

    def _together(self) -> contextlib.AbstractContextManager[None]:
        """Where the log lies beside the entries, a batch and its records are one transaction."""
        if self.log is not None and isinstance(self.backend, Transactional):
            return self.backend.transaction()
        return contextlib.nullcontext()


def _is_key(name: str) -> bool:
    """Whether it is a key, and not only the name under which something unreadable is shown."""
    try:
        check_key(name)
    except InvalidKey:
        return False
    return True


_Seen = tuple[EntryState, str] | Unreadable
"""What a snapshot tells of an entry: its state with its tag, or why there is none."""


def _key_of(found: _Seen) -> str:
    return found.key if isinstance(found, Unreadable) else found[0].key


def _quiet(before: int, now: int) -> bool:
    """Whether nothing of a stripe was written between two looks at its count, nor while either."""
    return before % 2 == 0 and before == now


def _known(entry: Entry | Absent | Unreadable, normalisation: Normalisation) -> _Seen | None:
    return None if isinstance(entry, Absent) else _with_tag(entry, normalisation)


def _looked_at(each: _Write | _Batch) -> Sequence[str]:
    """The keys whose entries must be seen to know what to change."""
    if isinstance(each, _Write):
        return (each.key,)
    return () if each.exact else [change.key for change in each.left]


def _exact(
    change: Change, found: Entry | Absent | Unreadable, normalisation: Normalisation
) -> Change | Receipt:
    """The change from what stands there, where that is as before under the normalisation."""
    try:
        state = state_of(found, normalisation)
        exact = state_of(found, NORMAL)
    except Unknown as error:
        return Failed(key=change.key, reason=str(error), intact=True)
    if state != change.before:
        return Drifted(key=change.key, found=state)
    tag = _tag(found if isinstance(found, Entry) else None)
    return msgspec.structs.replace(change, before=exact, tag=tag)


def _noted(batch: _Batch, change: Change, receipt: Receipt) -> None:
    """Keep what became of a change, or that it has to look again."""
    if not batch.exact and isinstance(receipt, Stored) and isinstance(change, Put):
        state = batch.normalisation.state(change.content, change.metadata)
        receipt = msgspec.structs.replace(receipt, state=state)
    if not batch.exact and isinstance(receipt, Drifted):
        # Somebody edits the folder by hand between our look and our write.
        batch.tries += 1
        if batch.tries < TRIES:
            return
        reason = "somebody else keeps changing this entry"
        receipt = Failed(key=change.key, reason=reason, intact=True, kept=receipt.kept)
    batch.receipts[change.key] = receipt


def _with_tag(
    entry: Entry | Unreadable, normalisation: Normalisation
) -> tuple[EntryState, str] | Unreadable:
    if isinstance(entry, Unreadable):
        return entry
    try:
        return normalisation.entry_state(entry), tag_of(entry.content, entry.metadata)
    except NotCanonical as error:
        return Unreadable(key=entry.key, reason=f"its metadata {error}")


def _tag(entry: Entry | None) -> str:
    return tag_of(entry.content, entry.metadata) if entry is not None else ""


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
