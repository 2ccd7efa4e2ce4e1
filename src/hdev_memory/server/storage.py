"""What a server keeps its memory in: opened, with the lock, the log and the journal it needs."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from hdev_memory.backends import open_backend
from hdev_memory.backends.base import Backend, Where
from hdev_memory.backends.ephemeral import EphemeralBackend
from hdev_memory.backends.filesystem import FilesystemBackend
from hdev_memory.backends.sql import SqlBackend
from hdev_memory.core.entry import Normalisation
from hdev_memory.errors import StoreError
from hdev_memory.server.audit import AUDIT_FILE, DatabaseLog, ServerLog, WriteLog
from hdev_memory.server.journal import Journal
from hdev_memory.server.lease import FENCE_FILE, DatabaseLock, Fences, LeaseLock, Lock
from hdev_memory.server.store import store_identity

DATABASES = frozenset({"sqlite", "postgres"})
"""The kinds that keep log and lock themselves, so that several servers may have one memory."""


@dataclass(frozen=True)
class Storage:
    """A memory, open to be served.

    store_id  its identity, the same as long as the memory is
    shown     where it is, for people
    log       what clients have written; None where nobody asked for it
    journal   for a folder only: a database has its own
    """

    backend: Backend
    store_id: str
    shown: str
    lock: Lock
    log: WriteLog | None = None
    journal: Journal | None = None


def shareable(where: Where) -> bool:
    """Whether several processes may serve this memory at the same time."""
    return where.kind in DATABASES


@contextlib.contextmanager
def opened(
    where: Where,
    *,
    log_file: Path | None,
    clock: Callable[[], float],
    now: Callable[[], datetime],
    warn: Callable[[str], None],
) -> Iterator[Storage]:
    """Open a memory, and make it where it is missing; `clock` is for leases that no database ends.

    `log_file` is where the log of writes goes: None for the memory's own place, and for none where
    the memory is ephemeral. What a server was cut off in is finished first; `warn` is told of what
    is odd. Raises HdevError.
    """
    with contextlib.ExitStack() as stack:
        if where.kind in DATABASES:
            yield _database(stack, where, now)
        elif where.kind == "filesystem":
            yield _folder(stack, where, log_file, clock, now, warn)
        else:
            shown = "this process, gone when it ends"
            lock = LeaseLock(clock, Fences())
            log = _log(stack, log_file, now, warn) if log_file is not None else None
            yield Storage(EphemeralBackend(), str(uuid.uuid4()), shown, lock, log)


def _database(stack: contextlib.ExitStack, where: Where, now: Callable[[], datetime]) -> Storage:
    backend = stack.enter_context(open_backend(where, must_exist=False))
    assert isinstance(backend, SqlBackend)
    identity = backend.prepare()
    shown = backend.endpoint.location
    lock = DatabaseLock(backend.leases)
    return Storage(backend, identity, shown, lock, DatabaseLog(backend, now))


def _folder(
    stack: contextlib.ExitStack,
    where: Where,
    log_file: Path | None,
    clock: Callable[[], float],
    now: Callable[[], datetime],
    warn: Callable[[str], None],
) -> Storage:
    root = Path(where.location)
    try:
        root.mkdir(parents=True, exist_ok=True)
        backend = stack.enter_context(
            FilesystemBackend(str(root), must_exist=True, index=str(root))
        )
        # Before anything of an earlier server is touched: it may still be running.
        stack.enter_context(backend.hold(f"hdev memory-server, process {os.getpid()}"))
        identity = store_identity(root)
        lock = LeaseLock(clock, Fences(root / FENCE_FILE))
        journal = stack.enter_context(contextlib.closing(Journal(root)))
    except OSError as error:
        raise StoreError(
            "The storage folder cannot be used.",
            why=f"{root}: {error.strerror}.",
            hint="Give a folder that this user may write to with --storage-path.",
        ) from None
    log_file = log_file if log_file is not None else root / AUDIT_FILE
    log = _log(stack, log_file, now, warn)
    recovered = journal.recover(backend, Normalisation(), log)
    for key in recovered.left:
        warn(f"{key} was changed since a server was cut off in it; left alone.")
    for name in recovered.kept:
        warn(f"bytes that nobody planned to replace were kept as {name}.")
    if not recovered.logged:
        warn(f"{log_file} is not the audit log of the server that was cut off.")
    return Storage(backend, identity, where.location, lock, log, journal)


def _log(
    stack: contextlib.ExitStack,
    path: Path,
    now: Callable[[], datetime],
    warn: Callable[[str], None],
) -> ServerLog:
    log = stack.enter_context(ServerLog(path, now))
    if log.torn:
        warn(f"a torn last line of {path} was kept aside as {log.torn}.")
    return log
