"""A memory in one SQLite file: durable by its write-ahead log, shared by processes of one machine.

Beside the file there are `NAME-wal` and `NAME-shm` while it is open; they are a part of it, and go
when the last process closes it well.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from hdev_memory import durable
from hdev_memory.backends.base import PERMISSION_DENIED
from hdev_memory.backends.sql import (
    STATE_COLUMNS,
    VERSION,
    NoEffect,
    NotKnown,
    Ready,
    Row,
    SqlBackend,
)
from hdev_memory.backends.sql_lease import WriteRefused
from hdev_memory.core.audit import GENESIS
from hdev_memory.errors import LockedError, StoreError

APPLICATION_ID = 0x68646576
"""`hdev`: in the header of a file of ours, where `file` and others find it."""

_OLDEST = (3, 37, 0)  # STRICT tables; RETURNING is older

# The content last: what stands before it is read without it.
_ENTRIES = """CREATE TABLE entries (
    key TEXT NOT NULL PRIMARY KEY,
    metadata TEXT NOT NULL,
    content_digest TEXT NOT NULL,
    metadata_digest TEXT NOT NULL,
    size INTEGER NOT NULL,
    lf_digest TEXT,
    lf_size INTEGER,
    tag TEXT NOT NULL,
    content BLOB NOT NULL
) STRICT"""
_STORE = """CREATE TABLE store (
    id TEXT NOT NULL,
    log_seq INTEGER NOT NULL,
    log_digest TEXT NOT NULL
) STRICT"""
_TABLES = (
    _ENTRIES,
    _STORE,
    "CREATE TABLE lease (holder TEXT, fence INTEGER NOT NULL, ends REAL NOT NULL) STRICT",
    "CREATE TABLE log (seq INTEGER PRIMARY KEY, line BLOB NOT NULL) STRICT",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
)

_RETURNED = (
    "key, metadata, digest_of(content), metadata_digest, size, lf_digest, lf_size, tag,"
    " length(content)"
)
_AS_LOOKED_AT = (
    "key = ? AND content_digest = ? AND metadata = ? AND digest_of(content) = content_digest"
)
_CREATE = (
    "INSERT INTO entries (key, metadata, content_digest, metadata_digest, size, lf_digest, lf_size,"
    " tag, content) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING"
    f" RETURNING {_RETURNED}"
)
_OVERWRITE = (
    "UPDATE entries SET metadata = ?, content_digest = ?, metadata_digest = ?, size = ?,"
    f" lf_digest = ?, lf_size = ?, tag = ?, content = ? WHERE {_AS_LOOKED_AT} RETURNING {_RETURNED}"
)
_TOGETHER = 64
"""Keys that one statement asks for."""

_DELETE = f"DELETE FROM entries WHERE {_AS_LOOKED_AT} RETURNING key"

_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_CLOSED_TO_US = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH})


class SqliteBackend(SqlBackend[sqlite3.Connection]):
    """The memory in one file; the file need not exist for a target."""

    NOW = "((julianday('now') - 2440587.5) * 86400.0)"

    def __init__(
        self, location: str, *, must_exist: bool, sync: bool = True, timeout: float = 30.0
    ) -> None:
        """Raises StoreError when the file is missing (for a source), is closed to us, or is no
        memory.

        `sync=False` gives up durability, for targets that may be thrown away. `timeout` is how many
        seconds to wait for another process that writes.
        """
        super().__init__("sqlite", location, timeout=timeout)
        if sqlite3.sqlite_version_info < _OLDEST:
            raise StoreError(
                "This Python's SQLite is too old.",
                why=f"It is {sqlite3.sqlite_version}; 3.37 or later is needed.",
                hint="Use a Python with a newer one.",
            )
        self._path = Path(location)
        self._sync = sync
        self._timeout = timeout
        self._file: os.stat_result | None = None
        self.capabilities = msgspec.structs.replace(
            self.capabilities, durability="synced" if sync else "unknown"
        )
        self._open(must_exist=must_exist)

    def present(self) -> bool:
        """Whether the path still leads to the file that was opened."""
        if self._file is None:
            return True
        try:
            return os.path.samestat(os.stat(self._path), self._file)
        except OSError:
            return False

    # The file

    def _exists(self) -> bool:
        # Only looked at: closing any descriptor of a file ends all locks that this process has on
        # it (fcntl(2)), and those of other connections here are among them.
        try:
            found = os.stat(self._path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise StoreError(
                "The database file cannot be opened.", why=f"{self._path}: {error.strerror}."
            ) from None
        if not stat.S_ISREG(found.st_mode):
            raise StoreError(
                "A memory in SQLite must be a file.", why=f"{self._path} is something else."
            )
        self._file = found
        return found.st_size > 0

    def _identity(self, connection: sqlite3.Connection) -> str | None:
        if connection.in_transaction:
            return self._found(connection)
        # At one moment: who looks while another makes the memory would see a part of it.
        self._begin(connection, writing=False)
        try:
            return self._found(connection)
        finally:
            self._rollback(connection)

    def _found(self, connection: sqlite3.Connection) -> str | None:
        ((application,),) = self._run(connection, "PRAGMA application_id")
        ((version,),) = self._run(connection, "PRAGMA user_version")
        ((tables,),) = self._run(connection, "SELECT count(*) FROM sqlite_schema")
        if (application, version, tables) == (0, 0, 0):
            return None
        if application != APPLICATION_ID:
            raise StoreError(
                "This SQLite database is not a memory.",
                why=f"{self._path} belongs to another program.",
                hint="Give another file; nothing was changed.",
            )
        if version != VERSION:
            raise StoreError(
                "This memory was made by a newer version of this program.",
                why=f"The tables in {self._path} are of version {version}, this knows {VERSION}.",
                hint="Install the newer version.",
            )
        rows = self._run(connection, "SELECT id FROM store")
        if len(rows) != 1 or not rows[0][0].isprintable():
            raise StoreError(
                "This memory is damaged.", why=f"The table `store` of {self._path} names no store."
            )
        identity: str = rows[0][0]
        return identity

    def _create(self, identity: str) -> None:
        try:
            durable.make_folders(self._path.parent, sync=self._sync)
            with contextlib.suppress(FileExistsError):
                os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            if self._sync:
                with durable.opened_folder(self._path.parent) as folder:
                    durable.disk.sync(folder)
            self._file = os.stat(self._path)
        except OSError as error:
            raise StoreError(
                "The database file cannot be made.", why=f"{self._path}: {error.strerror}."
            ) from None
        with self._pool.borrowed() as connection:
            # Several entries of a usual size on a page, where pages of 4 KiB would hold one each.
            self._run(connection, "PRAGMA page_size = 16384")
            self._log_ahead(connection)
            self._begin(connection, writing=True)
            if self._identity(connection) is None:
                for statement in _TABLES:
                    self._run(connection, statement)
                self._run(connection, "INSERT INTO store VALUES (?, 0, ?)", identity, GENESIS)
                self._run(connection, "INSERT INTO lease VALUES (NULL, 0, 0)")
            self._commit(connection)

    def _log_ahead(self, connection: sqlite3.Connection) -> None:
        """Switch to a log ahead of the writes, as soon as nobody else is at it.

        SQLite has begun to read by then, and does not wait for another writer as it does elsewhere
        (btree.c: sqlite3BtreeSetVersion, sqlite3BtreeBeginTrans).
        """
        end = time.monotonic() + self._timeout
        while True:
            try:
                self._run(connection, "PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if _code(error) not in _BUSY or time.monotonic() > end:
                    raise
            time.sleep(0.002)

    def _connect(self) -> sqlite3.Connection:
        if not self.present():
            raise StoreError(
                "The database file is gone.", why=f"{self._path} was moved, removed or replaced."
            )
        with self._guarded():
            return self._connected("mode=rw") or self._connected("mode=ro") or self._immutable()

    def _immutable(self) -> sqlite3.Connection:
        """A file where nobody can write, read without the log that others would write into."""
        wal = Path(f"{self._path}-wal")
        if wal.exists() and wal.stat().st_size:
            raise StoreError(
                "The database cannot be read where it is.",
                why=f"A part of it is in {wal}, and no file can be made beside it.",
                hint="Copy both files to a folder that this user may write to.",
            )
        found = self._connected("immutable=1")
        if found is None:
            raise StoreError("The database file cannot be opened.", why=f"{self._path}.")
        return found

    def _connected(self, how: str) -> sqlite3.Connection | None:
        """A connection that has read something; None where this way of opening does not do."""
        connection = sqlite3.connect(
            f"file:{quote(str(self._path))}?{how}",
            timeout=self._timeout,
            isolation_level=None,
            check_same_thread=False,
            uri=True,
        )
        try:
            connection.create_function("digest_of", 1, _digest_of, deterministic=True)
            connection.execute(f"PRAGMA synchronous = {'FULL' if self._sync else 'OFF'}")
            if self._sync:  # on macOS a sync goes to the disk by these only
                connection.execute("PRAGMA fullfsync = 1")
                connection.execute("PRAGMA checkpoint_fullfsync = 1")
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        except sqlite3.OperationalError as error:
            connection.close()
            if _code(error) in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
                return None
            raise
        except BaseException:
            connection.close()
            raise
        return connection

    def _disconnect(self, connection: sqlite3.Connection) -> None:
        with contextlib.suppress(sqlite3.Error):
            connection.close()

    # Statements

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._told(error) from None

    def _told(self, error: sqlite3.Error) -> NoEffect:
        code = _code(error)
        if code in _BUSY:
            why = f"Another process has {self._path} for longer than {self._timeout:g} seconds"
            locked = LockedError(
                "Somebody else is writing to this memory.",
                why=f"{why}.",
                hint="Wait for it to end, then run the command again.",
            )
            return NoEffect(locked, why)
        if code in _CLOSED_TO_US:
            refused = WriteRefused("The database file lets us write nothing.", why=f"{self._path}.")
            return NoEffect(refused, PERMISSION_DENIED)
        if code == sqlite3.SQLITE_NOTADB:
            foreign = StoreError(
                "This file is no SQLite database.",
                why=f"{self._path} holds something else.",
                hint="Check the path; nothing was changed.",
            )
            return NoEffect(foreign, "the file is no SQLite database")
        # SQLite's own words name no content: they are of the program, not of the data.
        reason = _REASONS.get(code) or f"SQLite failed ({error})"
        return NoEffect(StoreError("The database failed.", why=f"{self._path}: {reason}."), reason)

    def _run(
        self, connection: sqlite3.Connection, sql: str, *values: object
    ) -> list[tuple[Any, ...]]:
        return connection.execute(sql, values).fetchall()

    def _stream(self, connection: sqlite3.Connection, sql: str) -> Iterator[tuple[Any, ...]]:
        return connection.execute(sql)

    def _begin(self, connection: sqlite3.Connection, *, writing: bool) -> None:
        if writing and not self.present():
            raise StoreError(
                "The database file is gone.", why=f"{self._path} was moved, removed or replaced."
            )
        connection.execute("BEGIN IMMEDIATE" if writing else "BEGIN")

    def _commit(self, connection: sqlite3.Connection) -> None:
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            # What cannot be written to the log has no effect. A failed sync leaves it open whether
            # what was written is there after a power cut: SQLite takes it back for now.
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_FSYNC:
                raise NotKnown("the disk failed to sync it") from None
            raise

    def _rollback(self, connection: sqlite3.Connection) -> None:
        with contextlib.suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _find(
        self, connection: sqlite3.Connection, keys: Sequence[str], inline: int
    ) -> Iterable[Row]:
        sql = (
            f"SELECT {STATE_COLUMNS}, CASE WHEN length(content) <= ? THEN content END FROM entries"
            " WHERE key IN"
        )
        for begin in range(0, len(keys), _TOGETHER):
            part = keys[begin : begin + _TOGETHER]
            # As many places as there are keys, but of few numbers: each is compiled once.
            if len(part) > 1:
                part = [*part, *[part[0]] * (_TOGETHER - len(part))]
            places = ",".join("?" * len(part))
            for found in connection.execute(f"{sql} ({places})", (inline, *part)):
                yield Row(*found)

    def _effect(
        self, connection: sqlite3.Connection, ready: Sequence[Ready]
    ) -> Iterable[Row | str]:
        for one in ready:
            looked, wanted = one.looked, one.wanted
            held = (one.change.key, looked.content_digest, looked.metadata) if looked else ()
            if wanted is None:
                found = connection.execute(_DELETE, held).fetchall()
                yield from (key for (key,) in found)
                continue
            stored = (
                wanted.metadata,
                wanted.content_digest,
                wanted.metadata_digest,
                wanted.size,
                wanted.lf_digest,
                wanted.lf_size,
                wanted.tag,
                wanted.content,
            )
            if looked is None:
                found = connection.execute(_CREATE, (wanted.key, *stored)).fetchall()
            else:
                found = connection.execute(_OVERWRITE, (*stored, *held)).fetchall()
            yield from (Row(*row) for row in found)

    def _log_lines(
        self, connection: sqlite3.Connection, lines: Sequence[tuple[int, bytes]]
    ) -> None:
        connection.executemany("INSERT INTO log VALUES (?, ?)", lines)


def _digest_of(content: object) -> str | None:
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else None


def _code(error: sqlite3.Error) -> int:
    """The primary code of an error (the lower byte of the extended one); 0 where it has none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


_REASONS = {
    sqlite3.SQLITE_FULL: "No space left for the database",
    sqlite3.SQLITE_CORRUPT: "the database is damaged",
    sqlite3.SQLITE_IOERR: "the disk failed",
    sqlite3.SQLITE_NOMEM: "SQLite has no memory left",
    sqlite3.SQLITE_TOOBIG: "an entry is larger than SQLite can hold",
}
