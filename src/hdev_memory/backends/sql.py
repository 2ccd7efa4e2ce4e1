"""What the memories in databases have in common: rows, conditional writes, transactions.

One table holds the entries, with the digests of each beside it, so that a snapshot reads no
content. A batch is one transaction. Each change is one statement whose condition names everything
that was looked at before, the content by its digest taken anew in the database: so also a row that
somebody edited by hand, past its digests, is not written over. What a statement has changed comes
back from it, and is what the receipt tells.
"""

from __future__ import annotations

import abc
import contextlib
import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import msgspec

from hdev_memory.backends.base import (
    EVERYTHING,
    MAX_ENTRY_BYTES,
    UNATTENDED,
    Change,
    Drifted,
    Endpoint,
    Failed,
    Holder,
    Overtaken,
    Put,
    Receipt,
    Remove,
    Removed,
    Scope,
    Session,
    Stored,
    Whole,
    parts_of,
)
from hdev_memory.backends.sql_lease import Hold, Leases
from hdev_memory.core.audit import Headmark
from hdev_memory.core.diff import TOO_LARGE, interrupted
from hdev_memory.core.digest import (
    NotCanonical,
    Plain,
    canonical_json,
    decode_bytes,
    sha256,
)
from hdev_memory.core.entry import (
    BOOKKEEPING,
    Absent,
    Capabilities,
    Entry,
    EntryState,
    InvalidKey,
    Metadata,
    Normalisation,
    Parts,
    State,
    Unreadable,
    check_key,
    display_name,
    metadata_digest,
    tag_of_digest,
)
from hdev_memory.errors import BackendError, HdevError, LockedError, StoreError

C = TypeVar("C")
T = TypeVar("T")

VERSION = 1
"""The version of the tables; a database of a later one is refused."""

INLINE_BYTES = 64 * 1024
"""Larger contents are fetched one by one, so that a read of many keys stays small in memory."""

_CHUNK = 256
"""Keys that are asked for in one statement."""

_CONNECTIONS, _STREAMS = 16, 8
"""How many connections one process has to one database at most: for statements that end soon, and
for snapshots, which last as long as whoever takes them. Those never keep the others waiting."""

_STREAM_PATIENCE = 1.0
"""Seconds that a snapshot waits for another one to end."""

_TRIES = 5
"""How often a change looks again in its transaction, and how often a transaction begins again."""

SETTLE_SECONDS = 10.0
"""How long to look for what became of a batch whose connection was lost."""

STATE_COLUMNS = (
    "key, metadata, content_digest, metadata_digest, size, lf_digest, lf_size, tag, length(content)"
)
"""A row without its content; the `lf_` columns are NULL where no CR is in the content."""

_DIGESTS = re.compile(r"[0-9a-f]{192}")
_spelled = json.JSONEncoder(separators=(",", ":")).encode
_fast = msgspec.json.Encoder().encode
_LF = Normalisation(line_ends="lf")
_EXACT = Normalisation()


class Row(NamedTuple):
    """An entry as a database has it; `content` None where it was not asked for.

    `size` stands beside the content as its digest does, `length` is how long it really is.
    """

    key: str
    metadata: str
    content_digest: str
    metadata_digest: str
    size: int
    lf_digest: str | None
    lf_size: int | None
    tag: str
    length: int
    content: bytes | None = None


_CONTENT = Row._fields.index("content")
"""What stands before the content in a row."""


@dataclass(frozen=True)
class Ready:
    """A change whose precondition was seen to hold: what was there then, and what shall be."""

    change: Change
    looked: Row | None
    wanted: Row | None


class NoEffect(Exception):
    """A transaction was taken back whole, for this reason; `again` when another try may succeed.

    `error` is what to raise where this cannot be the receipt of each change.
    """

    def __init__(self, error: HdevError, reason: str, *, again: bool = False) -> None:
        super().__init__(reason)
        self.error = error
        self.reason = reason
        self.again = again


class NotKnown(Exception):
    """Whether a transaction took effect, durably, is not known; the text says why.

    `readable` says that it has ended, so that what stands there tells how.
    """

    def __init__(self, why: str, *, readable: bool = False) -> None:
        super().__init__(why)
        self.readable = readable


class Pool(Generic[C]):
    """Connections to one database, a bounded number of them, used again while they are sound."""

    def __init__(
        self,
        connect: Callable[[], C],
        close: Callable[[C], None],
        sound: Callable[[C], bool],
        most: int,
        patience: float,
    ) -> None:
        """`sound` tells whether an idle connection can still be used; `patience` is how many
        seconds to wait for one that others use, when they are `most`."""
        self._connect = connect
        self._close = close
        self._sound = sound
        self._patience = patience
        self._most = most
        self._free = threading.BoundedSemaphore(most)
        self._idle: list[C] = []

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[C]:
        """A connection for the time of the context; after an error it is not used again.

        Raises BackendError when none becomes free in time.
        """
        if not self._free.acquire(timeout=self._patience):
            raise BackendError(
                "Every connection to the database is in use.",
                why=f"None of {self._most} became free within {self._patience:g} seconds.",
                hint="Try again when less is going on.",
            )
        try:
            connection = self._taken() or self._connect()
            try:
                yield connection
            except BaseException:
                self._close(connection)
                raise
            self._idle.append(connection)
        finally:
            self._free.release()

    def _taken(self) -> C | None:
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread was faster
                return None
            if self._sound(connection):
                return connection
            self._close(connection)
        return None

    def clear(self) -> None:
        """Close every connection that nobody uses at the moment."""
        while self._idle:
            self._close(self._idle.pop())


class SqlBackend(Whole, abc.ABC, Generic[C]):
    """A memory in a database; what differs between databases is in the methods of a dialect."""

    batch = 2048
    ignored = 0

    NOW: ClassVar[str]
    """The database's clock, as an expression: seconds."""

    FOR_SHARE: ClassVar[str] = ""
    FOR_UPDATE: ClassVar[str] = ""

    def __init__(self, kind: str, location: str, *, timeout: float) -> None:
        self._kind = kind
        self._location = location
        how = (self._connect, self._disconnect, self._usable)
        self._pool: Pool[C] = Pool(*how, _CONNECTIONS, timeout)
        self._streams: Pool[C] = Pool(*how, _STREAMS, _STREAM_PATIENCE)
        self._store: str | None = None
        self._thread = threading.local()
        self._hold: Hold | None = None
        self.leases = Leases(self)
        self.capabilities = Capabilities(
            cas="atomic", durability="unknown", max_entry_bytes=MAX_ENTRY_BYTES
        )

    # What a dialect is

    @abc.abstractmethod
    def _connect(self) -> C:
        """A new connection. Raises HdevError."""

    @abc.abstractmethod
    def _disconnect(self, connection: C) -> None:
        """Close it; never raises."""

    def _usable(self, connection: C) -> bool:
        """Whether an idle connection is still one, told without asking the database."""
        return True

    @abc.abstractmethod
    def _guarded(self) -> contextlib.AbstractContextManager[None]:
        """Turns the errors of the database's library into NoEffect."""

    @abc.abstractmethod
    def _run(self, connection: C, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """One statement with `?` for each value, and all its rows."""

    @abc.abstractmethod
    def _stream(self, connection: C, sql: str) -> Iterator[tuple[Any, ...]]:
        """The rows of a query as of one moment, a few of them in memory at a time."""

    @abc.abstractmethod
    def _find(self, connection: C, keys: Sequence[str], inline: int) -> Iterable[Row]:
        """The rows of those keys that are there; with content up to `inline` bytes."""

    @abc.abstractmethod
    def _effect(self, connection: C, ready: Sequence[Ready]) -> Iterable[Row | str]:
        """Carry out each change whose row is as it was looked at, each in one statement.

        Gives the rows that were written, with the digest of the content that stands, and the keys
        that were removed. Of the others nothing was changed.
        """

    @abc.abstractmethod
    def _begin(self, connection: C, *, writing: bool) -> None: ...

    @abc.abstractmethod
    def _commit(self, connection: C) -> None:
        """Raises NoEffect or NotKnown."""

    @abc.abstractmethod
    def _rollback(self, connection: C) -> None:
        """Never raises."""

    @abc.abstractmethod
    def _identity(self, connection: C) -> str | None:
        """The identity of the memory in the database; None when there are no tables of ours.

        Raises StoreError for tables that are not understood.
        """

    @abc.abstractmethod
    def _exists(self) -> bool:
        """Whether there is a database that could hold a memory, without making one."""

    @abc.abstractmethod
    def _create(self, identity: str) -> None:
        """Make the tables, for a memory of this identity, unless they are there."""

    # Where it is

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(kind=self._kind, location=self._location, store=self._store)

    def _open(self, *, must_exist: bool) -> None:
        """Look at what is there. Raises HdevError."""
        try:
            there = self._there()
        except BaseException:
            self.close()
            raise
        if must_exist and not there:
            self.close()
            raise StoreError(
                "There is no memory in the source database.",
                why=f"{self._location} holds no tables of ours.",
                hint="Check the place; nothing was created.",
            )

    def _there(self) -> bool:
        """Whether the memory exists by now."""
        if self._store is None and self._exists():
            self._store = self._looked(self._identity)
        return self._store is not None

    def prepare(self) -> str:
        """Make the memory if it does not exist; its identity. Raises HdevError."""
        if not self._there():
            try:
                with self._guarded():
                    self._create(str(uuid.uuid4()))
            except NoEffect as error:
                raise error.error from None
            if not self._there():
                raise StoreError("The tables of the memory were made, and are gone again.")
        assert self._store is not None
        return self._store

    def close(self) -> None:
        self._pool.clear()
        self._streams.clear()

    # Looking

    def _looked(self, look: Callable[[C], T]) -> T:
        """What `look` finds, in the transaction of this thread where it is in one.

        Raises HdevError.
        """
        inside = self._inside()
        if inside is not None:
            return look(inside)
        try:
            with self._guarded(), self._pool.borrowed() as connection:
                return look(connection)
        except NoEffect as error:
            raise error.error from None

    def run(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """All rows of one statement, by itself or in the transaction of this thread.

        Raises HdevError.
        """
        return self._looked(lambda connection: self._run(connection, sql, *values))

    def _inside(self) -> C | None:
        """The connection of the transaction that this thread is in."""
        found: C | None = getattr(self._thread, "connection", None)
        return found

    def _streamed(self, sql: str) -> Generator[tuple[Any, ...], None, None]:
        if not self._there():
            return
        try:
            with self._guarded(), self._streams.borrowed() as connection:
                self._begin(connection, writing=False)
                yield from self._stream(connection, sql)
                self._rollback(connection)
        except NoEffect as error:
            raise error.error from None

    def keys(self, scope: Scope = EVERYTHING) -> Iterator[str]:
        for (key,) in self._streamed("SELECT key FROM entries ORDER BY key"):
            if scope.entry(_checked(key)):
                yield key

    def snapshot(
        self, scope: Scope, normalisation: Normalisation
    ) -> Generator[EntryState | Unreadable, None, None]:
        for (count,) in self._streamed("SELECT count(*) FROM entries"):
            self.expected = int(count)
        for found in self.tagged(scope, normalisation):
            yield found if isinstance(found, Unreadable) else found[0]

    def tagged(
        self, scope: Scope, normalisation: Normalisation
    ) -> Generator[tuple[EntryState, str] | Unreadable, None, None]:
        """As `base.Tagged` has it. The digests are those that stand beside the contents: whether
        they fit is looked at by `read`, and again by each write."""
        for found in self._streamed(f"SELECT {STATE_COLUMNS} FROM entries ORDER BY key"):
            row = Row(*found)
            if scope.entry(_checked(row.key)):
                try:
                    metadata = _metadata(row)
                    yield (
                        EntryState(
                            key=row.key,
                            state=_state(row, metadata, normalisation),
                            metadata=normalisation.metadata(metadata),
                        ),
                        row.tag,
                    )
                except NotCanonical as error:
                    yield Unreadable(key=row.key, reason=str(error))

    def read(self, keys: Iterable[str]) -> Iterator[Entry | Absent | Unreadable]:
        names = iter(keys)
        while chunk := list(islice(names, _CHUNK)):
            wrong = {key: reason for key in chunk if (reason := _wrong(key)) is not None}
            sound = [key for key in dict.fromkeys(chunk) if key not in wrong]
            rows = self._rows(sound) if sound and self._there() else {}
            for key in chunk:
                if key in rows:
                    yield self._whole(rows[key])
                elif key in wrong:
                    yield Unreadable(key=display_name(key), reason=wrong[key])
                else:
                    yield Absent(key=key)

    def _rows(self, keys: Sequence[str], inline: int = INLINE_BYTES) -> dict[str, Row]:
        found = self._looked(lambda c: list(self._find(c, keys, inline)))
        return {row.key: row for row in found}

    def _whole(self, row: Row) -> Entry | Absent | Unreadable:
        if row.length > MAX_ENTRY_BYTES:
            return Unreadable(key=row.key, reason=f"is larger than {MAX_ENTRY_BYTES} bytes")
        if row.content is None:
            rows = self._rows([row.key], MAX_ENTRY_BYTES)
            if row.key not in rows:  # removed since
                return Absent(key=row.key)
            row = rows[row.key]
        return _entry(row)

    def obstacle(self, key: str) -> str | None:
        return None

    def parts(self, key: str, normalisation: Normalisation) -> Parts | Unreadable:
        (found,) = self.read([key])
        return parts_of(found, normalisation)

    # Writing

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """As `base.Transactional` has it. Raises HdevError."""
        self.prepare()
        try:
            with self._transaction():
                yield
        except NoEffect as error:
            raise error.error from None
        except NotKnown as error:
            raise StoreError(
                "It is not known whether the database took what was written.",
                why=f"{error}.",
                hint="Look at what stands there before it is written again.",
            ) from None

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[C]:
        """A transaction of this thread. Raises NoEffect and NotKnown, beside what is raised in
        it."""
        with self._guarded(), self._pool.borrowed() as connection:
            self._begin(connection, writing=True)
            self._thread.connection = connection
            try:
                yield connection
            except BaseException:
                self._rollback(connection)
                raise
            finally:
                self._thread.connection = None
            self._commit(connection)

    def write(
        self,
        batch: Sequence[Change],
        normalisation: Normalisation,
        session: Session = UNATTENDED,
    ) -> Sequence[Receipt]:
        """As `base.Backend` has it. In a `transaction` an error of the database is raised, as
        nothing of the transaction stands then."""
        receipts: dict[str, Receipt] = {}
        wanted: dict[str, Row | None] = {}
        for change in batch:
            if change.key in wanted:
                raise AssertionError("a key twice in one batch")
            try:
                wanted[change.key] = _wanted(change)
            except _Refusal as error:
                wanted[change.key] = None
                receipts[change.key] = Failed(key=change.key, reason=str(error), intact=True)
        asked = [change for change in batch if change.key not in receipts]
        keys = [change.key for change in asked]
        rows = self._rows(keys, -1) if keys and self._there() else {}
        ready = []
        for change in asked:
            row = rows.get(change.key)
            refusal = _refusal(change, row, normalisation)
            if refusal is None:
                ready.append(Ready(change, row, wanted[change.key]))
            else:
                receipts[change.key] = refusal
        session.intend([one.change for one in ready])
        if ready:
            self.prepare()
            receipts |= self._written(ready, normalisation, session)
        return [receipts[change.key] for change in batch]

    def _written(
        self, ready: Sequence[Ready], normalisation: Normalisation, session: Session
    ) -> Mapping[str, Receipt]:
        hold = self._hold
        fence = session.fence if hold is None else hold.fence
        # In the order of the keys, whoever writes: so no two transactions wait for each other.
        ready = sorted(ready, key=lambda one: one.change.key)
        inside = self._inside()
        if inside is not None:
            try:
                with self._guarded():
                    return self._effects(inside, ready, normalisation, fence)
            except NoEffect as error:
                raise error.error from None
        tries = 0
        while True:
            try:
                with self._transaction() as connection:
                    return self._effects(connection, ready, normalisation, fence)
            except NoEffect as error:
                tries += 1
                if not error.again or tries == _TRIES:
                    return self._not_written(ready, normalisation, error)
            except NotKnown as error:
                return self._told_by_reading(ready, normalisation, error)
            except Overtaken:
                if session.fence is not None:
                    raise
                raise LockedError(
                    "The lock was given to somebody else, or broken, while this wrote.",
                    why=f"The lock of {self._location} has a later holder.",
                    hint="Look at `hdev lock status`, then run the command again.",
                ) from None

    def _not_written(
        self, ready: Sequence[Ready], normalisation: Normalisation, error: NoEffect
    ) -> Mapping[str, Receipt]:
        """The receipts of a transaction that had no effect: what stands there now.

        Raises LockedError where others only kept it waiting.
        """
        if isinstance(error.error, LockedError):
            raise error.error from None
        # A database that was started again is back in a moment.
        rows = self._standing(ready, patient=isinstance(error.error, BackendError))
        receipts: dict[str, Receipt] = {}
        for one in ready:
            key = one.change.key
            refusal = None
            if rows is not None:
                refusal = _refusal(one.change, rows.get(key), normalisation)
            receipts[key] = refusal or Failed(key=key, reason=error.reason, intact=rows is not None)
        return receipts

    def _told_by_reading(
        self, ready: Sequence[Ready], normalisation: Normalisation, error: NotKnown
    ) -> Mapping[str, Receipt]:
        """The receipts of a transaction that has ended, nobody knows how: what stands there."""
        rows = self._standing(ready, patient=True) if error.readable else None
        receipts: dict[str, Receipt] = {}
        for one in ready:
            key = one.change.key
            why = f"it is not known whether it was written: {error}"
            receipts[key] = Failed(key=key, reason=why, intact=False)
            if rows is None:
                continue
            row = rows.get(key)
            if row == (one.wanted._replace(content=None) if one.wanted is not None else None):
                receipts[key] = _receipt(one, row if row is not None else key, normalisation)
            elif _refusal(one.change, row, normalisation) is None:
                why = f"it was not written: {error}"
                receipts[key] = Failed(key=key, reason=why, intact=True)
        return receipts

    def _standing(self, ready: Sequence[Ready], *, patient: bool) -> dict[str, Row] | None:
        """The rows of these changes as they are now; None where they cannot be had."""
        keys = [one.change.key for one in ready]

        def look() -> dict[str, Row] | None:
            try:
                return self._rows(keys, -1)
            except HdevError:
                return None

        return patiently(look) if patient else look()

    def _effects(
        self,
        connection: C,
        ready: Sequence[Ready],
        normalisation: Normalisation,
        fence: int | None,
    ) -> Mapping[str, Receipt]:
        """Carry out what is as it was looked at; look again at the rest, in the transaction."""
        if fence is not None:
            latest = self.leases.fence_kept()
            if latest > fence:
                raise Overtaken(latest)
        receipts: dict[str, Receipt] = {}
        pending = list(ready)
        for _ in range(_TRIES):
            moving = [one for one in pending if one.looked is not None or one.wanted is not None]
            told = {
                row if isinstance(row, str) else row.key: row
                for row in self._effect(connection, moving)
            }
            again = []
            for one in pending:
                key = one.change.key
                if key in told:
                    receipts[key] = _receipt(one, told[key], normalisation)
                    continue
                rows = list(self._find(connection, [key], MAX_ENTRY_BYTES))
                row = rows[0] if rows else None
                refusal = _refusal(one.change, row, normalisation)
                if refusal is not None:
                    receipts[key] = refusal
                elif row is None and one.wanted is None:
                    receipts[key] = Removed(key=key)
                else:
                    again.append(replace(one, looked=row))
            if not again:
                return receipts
            pending = again
        for one in pending:
            key = one.change.key
            why = "somebody else keeps changing this entry"
            receipts[key] = Failed(key=key, reason=why, intact=False)
        return receipts

    # The lock

    @contextlib.contextmanager
    def hold(self, holder: str) -> Iterator[None]:
        """A lease that is renewed; a memory that does not exist yet cannot be held, nor one that
        does not let us write: each write will be refused in its own words."""
        if not self._there():
            yield
            return
        with Hold(self.leases, self._location, holder) as held:
            self._hold = held if held.fence is not None else None
            try:
                yield
            finally:
                self._hold = None

    def holder(self) -> Holder | None:
        lease = self.leases.status() if self._there() else None
        return Holder(name=lease.holder, expires_in=lease.expires_in) if lease else None

    def release(self) -> bool:
        return self._there() and self.leases.force() is not None

    # The log of a server

    def log_head(self) -> Headmark:
        """The end of the log. Raises HdevError."""
        return self._looked(self._head)

    def _head(self, connection: C) -> Headmark:
        ((seq, digest),) = self._run(connection, "SELECT log_seq, log_digest FROM store")
        return Headmark(seq=seq, digest=digest)

    def log_append(
        self, linked: Callable[[Headmark], tuple[Sequence[tuple[int, bytes]], Headmark]]
    ) -> None:
        """Append lines to the log, in the transaction of this thread.

        `linked` gets the end of the log, and gives the lines with their numbers and the new end;
        nobody else appends in between.
        """
        connection = self._inside()
        assert connection is not None
        sql = f"SELECT log_seq, log_digest FROM store{self.FOR_UPDATE}"
        with self._guarded():
            ((seq, digest),) = self._run(connection, sql)
            lines, head = linked(Headmark(seq=seq, digest=digest))
            self._log_lines(connection, lines)
            sql = "UPDATE store SET log_seq = ?, log_digest = ?"
            self._run(connection, f"{sql} RETURNING log_seq", head.seq, head.digest)

    @abc.abstractmethod
    def _log_lines(self, connection: C, lines: Sequence[tuple[int, bytes]]) -> None:
        """Add lines with their numbers to the table of the log."""

    def log_lines(self) -> Iterator[bytes]:
        """Every line of the log, in order, each with its LF. Raises HdevError."""
        for (line,) in self._streamed("SELECT line FROM log ORDER BY seq"):
            yield bytes(line) + b"\n"

    def log_page(self, after: int, limit: int, most: int) -> tuple[list[bytes], Headmark]:
        """At most `limit` lines behind `after`, until they have `most` bytes; and the log's end.

        Raises HdevError.
        """

        def look(connection: C) -> tuple[list[bytes], Headmark]:
            head = self._head(connection)
            lines: list[bytes] = []
            size = 0
            # Lines are never changed and never go: those up to the head are there in any case.
            while len(lines) < limit and size < most and after + len(lines) < head.seq:
                sql = "SELECT line FROM log WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
                there = after + len(lines)
                for (line,) in self._run(
                    connection, sql, there, head.seq, min(limit - len(lines), 100)
                ):
                    if size < most:
                        lines.append(bytes(line))
                        size += len(line)
                if after + len(lines) == there:
                    raise StoreError(
                        "The audit log in the database is shorter than it was.",
                        why=f"Record {there + 1} of {head.seq} is missing.",
                    )
            return lines, head

        return self._looked(look)


class _Refusal(Exception):
    """A change that can have no effect, whatever stands there; the text says why."""


def _wrong(key: str) -> str | None:
    try:
        check_key(key)
    except InvalidKey as error:
        return f"the key {error}"
    return None


def _checked(key: str) -> str:
    """A key from the database. Raises StoreError where it is none: the tables let none in."""
    try:
        return check_key(key)
    except InvalidKey as error:
        raise StoreError(
            "The database holds an entry that has no key, so it was edited by hand.",
            why=f"{display_name(key)[:100]} {error}.",
            hint="Correct or delete that row of the table `entries`.",
        ) from None


def _wanted(change: Change) -> Row | None:
    """The row that a change shall leave. Raises _Refusal."""
    wrong = _wrong(change.key)
    if wrong is not None:
        raise _Refusal(wrong)
    if isinstance(change, Remove):
        return None
    content = change.content
    if len(content) > MAX_ENTRY_BYTES:
        raise _Refusal(TOO_LARGE)
    metadata = change.metadata
    try:
        digest = metadata_digest(_EXACT.metadata(metadata))
        if type(metadata) is not Plain:
            canonical_json({k: v for k, v in metadata.items() if k in BOOKKEEPING})
    except NotCanonical as error:
        raise _Refusal(f"the metadata {error}") from None
    lf = _LF.content(content)
    hashed = sha256(content)
    return Row(
        key=change.key,
        metadata=_compact(metadata),
        content_digest=hashed,
        metadata_digest=digest,
        size=len(content),
        lf_digest=sha256(lf) if lf is not content else None,
        lf_size=len(lf) if lf is not content else None,
        tag=tag_of_digest(hashed, metadata),
        length=len(content),
        content=content,
    )


def _compact(metadata: Metadata) -> str:
    return _fast(metadata).decode() if type(metadata) is Plain else _spelled(metadata)


def _metadata(row: Row) -> Metadata:
    """The metadata of a row whose columns look as they must. Raises NotCanonical."""
    if not _DIGESTS.fullmatch(row.content_digest + row.metadata_digest + row.tag):
        raise NotCanonical("its row holds something else than digests")
    if row.length != row.size:
        raise NotCanonical("its content does not have the length that stands beside it")
    try:
        return decode_bytes(row.metadata.encode())
    except UnicodeEncodeError:
        raise NotCanonical("its metadata holds text that is not valid Unicode") from None
    except NotCanonical as error:
        raise NotCanonical(f"its metadata {error}") from None


def _state(row: Row, metadata: Metadata, normalisation: Normalisation) -> State:
    content, size = row.content_digest, row.size
    if normalisation.line_ends == "lf" and row.lf_digest is not None and row.lf_size is not None:
        content, size = row.lf_digest, row.lf_size
    digest = row.metadata_digest
    if normalisation.bookkeeping != BOOKKEEPING:
        digest = metadata_digest(normalisation.metadata(metadata))
    return State(content=content, metadata=digest, bytes=size)


def _sound(row: Row) -> Metadata:
    """The metadata of a row whose digests fit what it holds. Raises NotCanonical."""
    metadata = _metadata(row)
    tag = tag_of_digest(row.content_digest, metadata)
    if (row.metadata_digest, row.tag) != (metadata_digest(_EXACT.metadata(metadata)), tag):
        raise NotCanonical("its metadata does not have the digest that stands beside it")
    if row.content is not None:
        if sha256(row.content) != row.content_digest:
            raise NotCanonical("its content does not have the digest that stands beside it")
        try:
            if not row.content.isascii():
                row.content.decode()
        except UnicodeDecodeError:
            raise NotCanonical("its content is not UTF-8") from None
    return metadata


def _entry(row: Row) -> Entry | Unreadable:
    assert row.content is not None
    try:
        return Entry(key=row.key, content=row.content, metadata=_sound(row))
    except NotCanonical as error:
        return Unreadable(key=row.key, reason=str(error))


def _refusal(change: Change, row: Row | None, normalisation: Normalisation) -> Receipt | None:
    """Why what stands there is not what a change needs; None where it is."""
    found = None
    if row is not None:
        try:
            found = _state(row, _sound(row), normalisation)
        except NotCanonical as error:
            return Failed(key=change.key, reason=str(error), intact=False)
    if change.tag and (row is None or row.tag != change.tag):
        return Drifted(key=change.key, found=found)
    if found == change.before:
        return None
    parts = Parts(
        content=found.content if found is not None else None,
        metadata=found.metadata if found is not None else None,
    )
    after = change.after if isinstance(change, Put) else None
    if change.resumed and interrupted(change.before, after, parts):
        return None
    return Drifted(key=change.key, found=found)


def _receipt(one: Ready, told: Row | str, normalisation: Normalisation) -> Receipt:
    key = one.change.key
    if isinstance(told, str):
        return Removed(key=key)
    assert one.wanted is not None
    if told[:_CONTENT] != one.wanted[:_CONTENT]:
        why = "the database stored something else than it was sent"
        return Failed(key=key, reason=why, intact=False)
    assert isinstance(one.change, Put)
    return Stored(key=key, state=_state(told, one.change.metadata, normalisation))


def patiently(look: Callable[[], T | None]) -> T | None:
    """What `look` finds, asked again for a while as long as it finds nothing."""
    ends = time.monotonic() + SETTLE_SECONDS
    pause = 0.05
    while (found := look()) is None and time.monotonic() < ends:
        time.sleep(pause)
        pause = min(1.0, pause * 2)
    return found


def unreachable(location: str, why: str) -> BackendError:
    """The error of a database that does not answer."""
    return BackendError(
        "The database cannot be reached.",
        why=f"{location}: {why}.",
        hint="Check that it runs and that the address is right.",
    )
