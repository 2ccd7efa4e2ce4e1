"""The server's own log of what its clients have written: a chain, durable before each answer."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, assert_never

import msgspec

from hdev_memory import durable
from hdev_memory.auditlog import AuditLog
from hdev_memory.backends.base import (
    Change,
    Drifted,
    Failed,
    Put,
    Receipt,
    Removed,
    Stored,
)
from hdev_memory.backends.sql import SqlBackend
from hdev_memory.core import audit
from hdev_memory.core.audit import Headmark, Write
from hdev_memory.core.entry import State, Value
from hdev_memory.errors import AuditError, LockedError

AUDIT_FILE = ".hdev-audit.jsonl"
"""Where the log is unless told otherwise: a file in the root of a served store, never an entry."""

_STRIDE = 256
"""Of every so many records the place in the file is kept in memory."""

_PIECE = 64 * 1024


Status = Literal["done", "recovered", "unknown"]


class Author(Value, frozen=True, omit_defaults=True):
    """Whose write it is: the members of a record that the request tells."""

    by: str
    role: str
    plan: str = ""
    run: str = ""
    request: str = ""


UNKNOWN = Author(by="unknown", role="unknown")
"""The author of a write that a server of before the log was cut off in."""


class WriteLog(Protocol):
    """The log of what the clients of a server have written, wherever it is kept."""

    @property
    def head(self) -> Headmark: ...

    @property
    def broken(self) -> bool:
        """Whether nothing more can be recorded by this process."""
        ...

    def record(
        self,
        changes: Sequence[Change],
        receipts: Sequence[Receipt],
        authors: Mapping[str, Author],
    ) -> None:
        """Record what became of a batch; nothing of the changes that were not made.

        Raises HdevError, and then nobody may be told that they were made.
        """
        ...

    def page(self, after: int, limit: int, most: int) -> bytes:
        """JSON with at most `limit` records behind `after`, as their lines are, and the head.

        The record with which they have `most` bytes is the last one. Raises OSError or HdevError.
        """
        ...


class DatabaseLog:
    """The same in a table beside the entries: a batch and its records take effect together.

    Servers that share the database share the log; each appends behind what the others have.
    """

    broken = False

    def __init__(self, backend: SqlBackend[Any], now: Callable[[], datetime]) -> None:
        """Check the whole chain. Raises AuditError, or HdevError when the database is away."""
        self._backend = backend
        self._now = now
        self._check()

    def _check(self) -> None:
        told = self._backend.log_head()
        found = audit.EMPTY
        for _, head in audit.chained(self._backend.log_lines(), Write):
            found = head
            if head.seq == told.seq and head != told:
                break
        if found.seq < told.seq or (found.seq == told.seq and found != told):
            raise AuditError(
                "Records were cut off the end of the audit log.",
                why=f"The database says that it ends at {told}; it ends at {found}.",
                hint="Keep the database as it is, and compare it with a backup.",
            )

    @property
    def head(self) -> Headmark:
        return self._backend.log_head()

    def record(
        self,
        changes: Sequence[Change],
        receipts: Sequence[Receipt],
        authors: Mapping[str, Author],
    ) -> None:
        """As of any log; in the transaction of the batch."""
        records = _records(_made(changes, receipts), authors, self._now())
        if not records:
            return

        def linked(head: Headmark) -> tuple[list[tuple[int, bytes]], Headmark]:
            lines, behind = audit.chain(records, head)
            return [(seq, line[:-1]) for seq, line in enumerate(lines, head.seq + 1)], behind

        self._backend.log_append(linked)

    def page(self, after: int, limit: int, most: int) -> bytes:
        """As of any log. Raises HdevError."""
        return _paged(*self._backend.log_page(after, limit, most))


class ServerLog(AuditLog[Write]):
    """The log of one server. One thread adds to it, while others read pages of it."""

    def __init__(self, path: Path, now: Callable[[], datetime]) -> None:
        """As of any log. Raises LockedError when another server has it."""
        self._now = now
        self._count = 0
        self._marks = [0]  # where the records 1, 1 + _STRIDE, … begin
        super().__init__(path, Write, mode=0o600)
        if not durable.try_lock(self._descriptor):
            self.close()
            raise LockedError(
                "Another server writes to this audit log.",
                why=f"It holds {path}.",
                hint="Give each server a log of its own with --audit-log.",
            )
        self._told = self.head, self._end

    def _note(self, record: Write, end: int) -> None:
        self._count += 1
        if self._count % _STRIDE == 0:
            self._marks.append(end)

    def record(
        self,
        changes: Sequence[Change],
        receipts: Sequence[Receipt],
        authors: Mapping[str, Author],
    ) -> None:
        """Record what became of a batch; nothing of the changes that were not made.

        Raises StoreError, and then nobody may be told that they were made.
        """
        self._add(_made(changes, receipts), authors)

    def recovered(
        self,
        changes: Sequence[Change],
        receipts: Sequence[Receipt],
        authors: Mapping[str, Author],
        head: Headmark | None,
    ) -> bool:
        """Record what became of a batch that an earlier server was cut off in.

        `head` was the end of the log when it began: what is recorded behind it is not recorded
        again. False when this log does not lead to `head`. Raises StoreError.
        """
        known = head is None or self._leads_to(head)
        after = head.seq if head is not None and known else self.head.seq
        there = {record.key for record in self._records(after)}
        told: list[Told] = []
        for change, receipt in zip(changes, receipts, strict=True):
            if change.key in there:
                continue
            match receipt:
                case Stored(state=state):
                    told.append((change, "recovered", state))
                case Removed():
                    told.append((change, "recovered", None))
                case Failed() | Drifted():  # somebody else wrote since; before that, who knows
                    told.append((change, "unknown", _wanted(change)))
                case _:
                    assert_never(receipt)
        self._add(told, authors)
        return known

    def _add(self, told: Sequence[Told], authors: Mapping[str, Author]) -> None:
        self.append(_records(told, authors, self._now()))
        self._told = self.head, self._end

    def _leads_to(self, head: Headmark) -> bool:
        if head in (audit.EMPTY, self.head):
            return True
        return any(record.prev == head.digest for record in self._records(head.seq, 1))

    def _records(self, after: int, limit: int | None = None) -> list[Write]:
        lines = list(islice(self._lines(after, *self._told), limit))
        return [msgspec.json.decode(line, type=Write) for line in lines]

    def page(self, after: int, limit: int, most: int) -> bytes:
        """JSON with at most `limit` records behind `after`, as their lines are, and the head.

        The record with which they have `most` bytes is the last one. Raises OSError.
        """
        head, end = self._told
        lines = []
        size = 0
        for line in self._lines(after, head, end):
            lines.append(line)
            size += len(line)
            if len(lines) >= limit or size >= most:
                break
        return _paged(lines, head)

    def _lines(self, after: int, head: Headmark, end: int) -> Iterator[bytes]:
        """The lines, each without its LF, of the records behind `after`, up to `head`."""
        if after >= head.seq:
            return
        place = self._marks[after // _STRIDE]
        skip = after % _STRIDE
        rest = b""
        while place < end:
            piece = os.pread(self._descriptor, min(_PIECE, end - place), place)
            if not piece:
                raise OSError(errno.EIO, "the audit log is shorter than it was")
            place += len(piece)
            *lines, rest = (rest + piece).split(b"\n")
            yield from lines[skip:]
            skip = max(0, skip - len(lines))


Told = tuple[Change, Status, State | None]
"""A change, what came of it, and what stands there then."""


def _made(changes: Sequence[Change], receipts: Sequence[Receipt]) -> list[Told]:
    """What is to be recorded of a batch: nothing of the changes that were not made."""
    told: list[Told] = []
    for change, receipt in zip(changes, receipts, strict=True):
        match receipt:
            case Stored(state=state):
                told.append((change, "done", state))
            case Removed():
                told.append((change, "done", None))
            case Failed(intact=False):
                told.append((change, "unknown", _wanted(change)))
            case Failed() | Drifted():
                pass
            case _:
                assert_never(receipt)
    return told


def _records(told: Sequence[Told], authors: Mapping[str, Author], moment: datetime) -> list[Write]:
    time = moment.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    records = []
    for change, status, after in told:
        author = authors.get(change.key, UNKNOWN)
        records.append(
            Write(
                seq=1,
                prev=audit.GENESIS,
                time=time,
                by=author.by,
                role=author.role,
                key=change.key,
                status=status,
                before=change.before,
                after=after,
                plan=author.plan,
                run=author.run,
                request=author.request,
            )
        )
    return records


def _paged(lines: Sequence[bytes], head: Headmark) -> bytes:
    return b'{"records":[%b],"head":"%b"}' % (b",".join(lines), str(head).encode())


def _wanted(change: Change) -> State | None:
    return change.after if isinstance(change, Put) else None
