"""What the server is about to write, kept until it is written, so that a kill leaves no half entry.

An entry in a folder is two files. The journal has each batch, with all its bytes, on disk before
the first of them takes effect; after a crash the next server finishes what it names. So a crash
leaves each entry as before or as after, and an entry that was acknowledged as it was acknowledged.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import assert_never

import msgspec

from hdev_memory import durable
from hdev_memory.backends.base import (
    Change,
    Drifted,
    Failed,
    Put,
    Receipt,
    Remove,
    Removed,
    Session,
    Stored,
    Transition,
)
from hdev_memory.backends.filesystem import FilesystemBackend
from hdev_memory.core.audit import Headmark
from hdev_memory.core.digest import sha256
from hdev_memory.core.entry import Normalisation, Value
from hdev_memory.errors import StoreError
from hdev_memory.server.audit import Author, ServerLog

JOURNAL_FILE = ".hdev-journal"
"""A file in the root of a served store, empty or missing when nothing is being written."""

RUN = "server"
"""The name that staged files of the server carry."""


NOBODY: Mapping[str, Author] = MappingProxyType({})


class _Batch(Value, frozen=True, omit_defaults=True):
    """`head` is the end of the audit log when the batch began, `authors` are those of its keys."""

    puts: list[Put]
    removes: list[Remove]
    head: Headmark | None = None
    authors: dict[str, Author] = msgspec.field(default_factory=dict)


class Recovered(Value, frozen=True):
    """What a recovery could not decide: keys of entries that somebody else has changed since, which
    were left alone, and names under which bytes of somebody else were kept. `logged` says that the
    audit log is the one that the earlier server had."""

    left: tuple[str, ...]
    kept: tuple[str, ...]
    logged: bool = True


class Journal:
    """The journal of one folder; whoever opens it must hold the folder."""

    def __init__(self, root: Path) -> None:
        """Raises OSError."""
        self._path = root / JOURNAL_FILE
        self._unclean = self._path.exists()  # a server that stops well takes its journal along
        if not self._unclean:
            durable.write_whole(self._path, b"")
        flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file: int | None = os.open(self._path, flags)
        self._recorded = False
        self._lock = threading.Lock()

    @property
    def unwritable(self) -> bool:
        """Whether the next batch would be refused, as far as can be told without writing it."""
        spent = self._file is None or (self._recorded and not self._lock.locked())
        return spent or not os.access(self._path.parent, os.W_OK)

    @contextlib.contextmanager
    def writing(
        self, authors: Mapping[str, Author] = NOBODY, head: Headmark | None = None
    ) -> Iterator[Callable[[Sequence[Change]], None]]:
        """For the time of one batch: what to call with its changes before they take effect.

        `authors` and `head` are what the next server needs to record in the audit log what became
        of the batch, if this one does not come to that. Where a batch ends with an error after that
        call, nobody knows what took effect: its record stays for the next server, and this one
        writes no more. Raises StoreError then.
        """
        with self._lock:
            if self._file is None or self._recorded:
                raise StoreError(
                    "The server writes no more.",
                    why="It is stopping, or the disk failed it in the middle of a write.",
                    hint="Check the disk and start the server again: it finishes what it began.",
                )
            yield partial(self._record, authors, head)
            durable.disk.truncate(self._file, 0)
            self._recorded = False

    def _record(
        self, authors: Mapping[str, Author], head: Headmark | None, changes: Sequence[Change]
    ) -> None:
        assert self._file is not None
        body = msgspec.json.encode(
            _Batch(
                puts=[change for change in changes if isinstance(change, Put)],
                removes=[change for change in changes if isinstance(change, Remove)],
                head=head,
                authors={c.key: authors[c.key] for c in changes if c.key in authors},
            )
        )
        try:
            durable.append(self._file, sha256(body).encode() + b" " + body + b"\n")
        except BaseException:
            durable.disk.truncate(self._file, 0)  # half a line would spoil the next one
            raise
        self._recorded = True

    def recover(
        self,
        backend: FilesystemBackend,
        normalisation: Normalisation,
        log: ServerLog | None = None,
    ) -> Recovered:
        """Finish what an earlier server was cut off in, and record that in the audit log.

        Raises StoreError where that fails; the record here then stays.
        """
        with self._lock:
            assert self._file is not None
            left: list[str] = []
            kept: list[str] = []
            logged = True
            for batch in self._cut_off():
                changes: list[Change] = [*batch.puts, *batch.removes]
                changes = [msgspec.structs.replace(change, resumed=True) for change in changes]
                receipts = backend.write(changes, normalisation, Session(run=RUN))
                for receipt in receipts:
                    left.extend(_left_alone(receipt))
                    kept.extend([receipt.kept] if receipt.kept else [])
                keys = [change.key for change in changes]
                kept.extend(backend.tidy([RUN], keys, _transitions(changes), normalisation))
                if log is not None:
                    logged &= log.recovered(changes, receipts, batch.authors, batch.head)
            durable.disk.truncate(self._file, 0)
            if self._unclean:
                # Staged and not yet recorded, also in folders that have no entry yet. One that
                # cannot be listed keeps them: they are never taken for entries.
                inside = (f"{folder}/-" if folder else "-" for folder in backend.folders())
                kept.extend(backend.tidy([RUN], inside, {}, normalisation))
            return Recovered(left=tuple(left), kept=tuple(kept), logged=logged)

    def _cut_off(self) -> Iterator[_Batch]:
        """The batches whose record is whole; of a torn one nothing had taken effect."""
        with self._path.open("rb") as lines:
            for line in lines:
                digest, _, body = line.rstrip(b"\n").partition(b" ")
                if line.endswith(b"\n") and sha256(body).encode() == digest:
                    yield self._decoded(body)

    def _decoded(self, body: bytes) -> _Batch:
        try:
            return msgspec.json.decode(body, type=_Batch)
        except msgspec.DecodeError:
            raise StoreError(
                "What an earlier server was writing cannot be understood.",
                why=f"{self._path} is whole, and of another version of this program.",
                hint="Start the version that wrote it once; it finishes what it began.",
            ) from None

    def close(self) -> None:
        """Wait for the batch that is being written, and let none begin; may be called twice."""
        with self._lock:
            if self._file is None:
                return
            if not os.fstat(self._file).st_size:
                with contextlib.suppress(FileNotFoundError):
                    self._path.unlink()
            os.close(self._file)
            self._file = None


def _transitions(changes: Sequence[Change]) -> dict[str, Transition]:
    return {
        change.key: (change.before, change.after if isinstance(change, Put) else None)
        for change in changes
    }


def _left_alone(receipt: Receipt) -> Iterator[str]:
    """The key, where the change was not made. Raises StoreError where it may be half made."""
    match receipt:
        case Stored() | Removed():
            pass
        case Drifted(key=key) | Failed(key=key, intact=True):
            yield key
        case Failed(key=key, reason=reason):
            raise StoreError(
                "What an earlier server was writing cannot be finished.",
                why=f"{key}: {reason}.",
                hint="Make room for it, and start the server again.",
            )
        case _:
            assert_never(receipt)
