"""A memory in a PostgreSQL database: for teams, and for several servers on one memory.

Nothing is sent but parameters and statements of this module, so an error never quotes content.
libpq reads PGPASSWORD, PGPASSFILE, PGSERVICE and its other variables by itself.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import msgspec
import psycopg
from psycopg import errors

from hdev_memory.backends.base import PERMISSION_DENIED, Secret
from hdev_memory.backends.postgres_url import PostgresUrl, parse
from hdev_memory.backends.sql import (
    STATE_COLUMNS,
    VERSION,
    NoEffect,
    NotKnown,
    Ready,
    Row,
    SqlBackend,
    patiently,
    unreachable,
)
from hdev_memory.backends.sql_lease import WriteRefused
from hdev_memory.core.audit import GENESIS
from hdev_memory.errors import HdevError, KeyRefusedError, LockedError, StoreError

Connection: TypeAlias = "psycopg.Connection[tuple[Any, ...]]"

_OLDEST = 130000  # pg_current_xact_id, by which an outcome can be told after a lost connection

_FETCH = 1000
"""Rows of a snapshot that are in memory at a time."""

_TABLES = (
    """CREATE TABLE IF NOT EXISTS entries (
        key text COLLATE "C" PRIMARY KEY CHECK (octet_length(key) BETWEEN 1 AND 1024),
        metadata text NOT NULL,
        content_digest text NOT NULL,
        metadata_digest text NOT NULL,
        size bigint NOT NULL,
        lf_digest text,
        lf_size bigint,
        tag text NOT NULL,
        content bytea NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS store (
        one boolean PRIMARY KEY DEFAULT true CHECK (one),
        version integer NOT NULL,
        id text NOT NULL,
        log_seq bigint NOT NULL,
        log_digest text NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS lease (
        one boolean PRIMARY KEY DEFAULT true CHECK (one),
        holder text,
        fence bigint NOT NULL,
        ends double precision NOT NULL
    )""",
    "CREATE TABLE IF NOT EXISTS log (seq bigint PRIMARY KEY, line bytea NOT NULL)",
)

_DIGEST = "encode(sha256(entries.content), 'hex')"
_RETURNED = (
    f"entries.key, entries.metadata, {_DIGEST}, entries.metadata_digest, entries.size,"
    " entries.lf_digest, entries.lf_size, entries.tag, length(entries.content)"
)
_AS_LOOKED_AT = (
    "entries.key = looked.key AND entries.content_digest = looked.digest"
    f" AND entries.metadata = looked.metadata AND {_DIGEST} = entries.content_digest"
)
_LOOKED = "unnest(%b::text[], %b::text[], %b::text[])"
_WANTED = (
    "unnest(%b::text[], %b::text[], %b::text[], %b::text[], %b::bigint[], %b::text[],"
    " %b::bigint[], %b::text[], %b::bytea[])"
)
_COLUMNS = "key, metadata, content_digest, metadata_digest, size, lf_digest, lf_size, tag, content"
_KEEP = "SELECT key FROM entries WHERE key = ANY(%b::text[]) ORDER BY key FOR UPDATE"
_CREATE = (
    f"INSERT INTO entries ({_COLUMNS}) SELECT * FROM {_WANTED}"
    f" ON CONFLICT (key) DO NOTHING RETURNING {_RETURNED}"
)
_OVERWRITE = (
    "UPDATE entries SET metadata = w.metadata, content_digest = w.content_digest,"
    " metadata_digest = w.metadata_digest, size = w.size, lf_digest = w.lf_digest,"
    " lf_size = w.lf_size, tag = w.tag, content = w.content"
    f" FROM {_LOOKED} AS looked(key, digest, metadata) JOIN {_WANTED} AS w({_COLUMNS})"
    f" USING (key) WHERE {_AS_LOOKED_AT} RETURNING {_RETURNED}"
)
_DELETE = (
    f"DELETE FROM entries USING {_LOOKED} AS looked(key, digest, metadata)"
    f" WHERE {_AS_LOOKED_AT} RETURNING entries.key"
)


class PostgresBackend(SqlBackend[Connection]):
    """The memory in one schema of a database; its tables need not exist for a target."""

    NOW = "extract(epoch FROM clock_timestamp())::float8"
    FOR_SHARE = " FOR SHARE"
    FOR_UPDATE = " FOR UPDATE"

    def __init__(
        self,
        location: str,
        *,
        must_exist: bool,
        user: str | None = None,
        password: Secret | None = None,
        sync: bool = True,
        timeout: float = 30.0,
        handshake: float = 10.0,
    ) -> None:
        """Raises BackendError when the database is out of reach, KeyRefusedError when it refuses
        the password, StoreError when it has no memory (for a source).

        `sync=False` gives up durability, for targets that may be thrown away. `timeout` is how many
        seconds a statement may take, and may wait for others; `handshake` those of a connect.
        """
        self._url = parse(location)
        self._user = user
        self._password = password
        self._sync = sync
        self._timeout = timeout
        self._handshake = handshake
        self._numbers: dict[int, str] = {}
        super().__init__("postgres", self._url.location, timeout=timeout)
        self._open(must_exist=must_exist)
        synced = sync and self._looked(self._durable)
        self.capabilities = msgspec.structs.replace(
            self.capabilities, durability="synced" if synced else "unknown"
        )

    def present(self) -> bool:
        """Whether the database answers, and holds the memory that was opened."""
        known = self._store
        try:
            found = self._looked(self._identity)
        except HdevError:
            return False
        return known is None or found == known

    # The database

    def _connect(self) -> Connection:
        asked = _arguments(self._url, self._user, self._password)
        # Zero is for ever and one is taken for two (libpq-connect).
        asked["connect_timeout"] = max(2, int(self._handshake))
        asked["tcp_user_timeout"] = int(self._timeout * 1000)
        asked["keepalives_idle"] = 10
        asked["client_encoding"] = "UTF8"
        asked["fallback_application_name"] = "hdev-memory"
        try:
            connection = psycopg.connect("", autocommit=True, prepare_threshold=None, **asked)
        except psycopg.Error as error:
            raise self._not_connected(error) from None
        try:
            self._prepare(connection)
        except BaseException:
            self._disconnect(connection)
            raise
        return connection

    def _prepare(self, connection: Connection) -> None:
        if connection.info.server_version < _OLDEST:
            raise StoreError(
                "This PostgreSQL is too old.",
                why=f"Version 13 or later is needed; {self._location} is older.",
                hint="Upgrade the database.",
            )
        ((encoding,),) = self._run(connection, "SHOW server_encoding")
        if encoding != "UTF8":
            raise StoreError(
                "The database cannot hold every key.",
                why=f"The encoding of {self._location} is {encoding}, not UTF8.",
                hint="Make a database with the encoding UTF8.",
            )
        timeout = f"{int(self._timeout * 1000)}ms"
        self._run(
            connection,
            "SELECT set_config('search_path', ?, false), set_config('statement_timeout', ?, false),"
            " set_config('lock_timeout', ?, false),"
            " set_config('synchronous_commit', CASE WHEN NOT ? THEN 'off'"
            " WHEN current_setting('synchronous_commit') = 'off' THEN 'on'"
            " ELSE current_setting('synchronous_commit') END, false)",
            f'"{self._url.schema}"',
            timeout,
            timeout,
            self._sync,
        )

    def _not_connected(self, error: psycopg.Error) -> HdevError:
        text = " ".join(str(error).split()).partition(" Is the server running")[0].rstrip(".")
        if self._password is not None:
            text = text.replace(self._password.reveal(), "***")
        refused = isinstance(
            error, errors.InvalidPassword | errors.InvalidAuthorizationSpecification
        ) or ("authentication failed" in text or "no password supplied" in text)
        if refused:
            return KeyRefusedError(
                "The database refused the user or the password.",
                why=f"{self._location}: {text[:300]}.",
                hint="Give the user in the URL (of a plan's end: with --target-url) or PGUSER, and "
                "the password with HDEV_MEMORY_POSTGRES_PASSWORD, PGPASSWORD or ~/.pgpass.",
            )
        return unreachable(self._location, text[:300])

    def _disconnect(self, connection: Connection) -> None:
        with contextlib.suppress(psycopg.Error):
            connection.close()

    def _usable(self, connection: Connection) -> bool:
        """A server that ends says so, or closes: either way there is something to be read."""
        if connection.closed or connection.broken:
            return False
        try:
            return not select.select([connection.fileno()], [], [], 0)[0]
        except (OSError, ValueError, psycopg.Error):
            return False

    def _durable(self, connection: Connection) -> bool:
        ((fsync,),) = self._run(connection, "SHOW fsync")
        return bool(fsync == "on")

    def _exists(self) -> bool:
        return True

    def _identity(self, connection: Connection) -> str | None:
        ((there,),) = self._run(
            connection, "SELECT to_regclass(?) IS NOT NULL", f'"{self._url.schema}".store'
        )
        if not there:
            return None
        try:
            rows = self._run(connection, "SELECT version, id FROM store")
        except (errors.UndefinedColumn, errors.InsufficientPrivilege) as error:
            why = "may not be read by this user"
            if isinstance(error, errors.UndefinedColumn):
                why = "belongs to another program"
            raise StoreError(
                "This database holds no memory that can be read.",
                why=f"The schema {self._url.schema} {why}.",
                hint="Give another schema with ?schema=NAME, or access to this one.",
            ) from None
        if len(rows) != 1:
            raise StoreError(
                "This memory is damaged.",
                why=f"The table {self._url.schema}.store names no store.",
            )
        version, identity = rows[0]
        if version != VERSION:
            raise StoreError(
                "This memory was made by a newer version of this program.",
                why=f"The tables in {self._location} are of version {version}, this knows "
                f"{VERSION}.",
                hint="Install the newer version.",
            )
        return str(identity)

    def _create(self, identity: str) -> None:
        with self._pool.borrowed() as connection:
            self._run(connection, "BEGIN")
            # CREATE IF NOT EXISTS is not safe against another one at the same time.
            self._run(connection, "SELECT pg_advisory_xact_lock(hashtext('hdev-memory'))")
            ((there,),) = self._run(
                connection, "SELECT to_regnamespace(?) IS NOT NULL", f'"{self._url.schema}"'
            )
            if not there:
                self._run(connection, f'CREATE SCHEMA "{self._url.schema}"')
            for statement in _TABLES:
                self._run(connection, statement)
            self._run(
                connection,
                "INSERT INTO store (version, id, log_seq, log_digest) VALUES (?, ?, 0, ?)"
                " ON CONFLICT DO NOTHING",
                VERSION,
                identity,
                GENESIS,
            )
            self._run(
                connection,
                "INSERT INTO lease (fence, ends) VALUES (0, 0) ON CONFLICT DO NOTHING",
            )
            self._run(connection, "COMMIT")

    # Statements

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise self._told(error) from None

    def _told(self, error: psycopg.Error) -> NoEffect:
        """What an error means. Its own text is not quoted: it may hold values of a row."""
        reason = f"the database refused it (SQLSTATE {error.sqlstate})"
        if isinstance(error, errors.DeadlockDetected | errors.SerializationFailure):
            return NoEffect(
                StoreError("The database was too busy.", why=reason), reason, again=True
            )
        if error.sqlstate is None or error.sqlstate[:2] in ("08", "57"):
            if not isinstance(error, errors.QueryCanceled):
                reason = "the connection to the database was lost before it took effect"
                return NoEffect(unreachable(self._location, "the connection was lost"), reason)
            reason = f"the database did not do it within {self._timeout:g} seconds"
        if isinstance(error, errors.LockNotAvailable):
            locked = LockedError(
                "Somebody else is writing to this memory.",
                why=f"It kept {self._location} for longer than {self._timeout:g} seconds.",
                hint="Wait for it to end, then run the command again.",
            )
            return NoEffect(locked, reason)
        if isinstance(error, errors.InsufficientPrivilege):
            refused = WriteRefused("The database does not let this user do that.", why=reason)
            return NoEffect(refused, PERMISSION_DENIED)
        if isinstance(error, errors.ReadOnlySqlTransaction):
            why = "the database takes no writes: it is a standby, or set to be read only"
            return NoEffect(WriteRefused("The database takes no writes.", why=f"{why}."), why)
        if isinstance(error, errors.DiskFull):
            reason = "No space left for the database"
        return NoEffect(
            StoreError("The database failed.", why=f"{self._location}: {reason}."), reason
        )

    def _run(self, connection: Connection, sql: str, *values: object) -> list[tuple[Any, ...]]:
        cursor = connection.execute(sql.replace("?", "%s"), values or None)
        return cursor.fetchall() if cursor.description is not None else []

    def _stream(self, connection: Connection, sql: str) -> Iterator[tuple[Any, ...]]:
        with connection.cursor("snapshot") as cursor:
            cursor.itersize = _FETCH
            cursor.execute(sql)
            yield from cursor

    def _begin(self, connection: Connection, *, writing: bool) -> None:
        if not writing:
            self._run(connection, "BEGIN READ ONLY")
            return
        # Whatever becomes of the connection, the outcome can be asked for by this number.
        cursor = connection.execute("BEGIN; SELECT pg_current_xact_id()::text")
        cursor.nextset()
        ((number,),) = cursor.fetchall()
        self._numbers[id(connection)] = number

    def _commit(self, connection: Connection) -> None:
        number = self._numbers.pop(id(connection))
        try:
            connection.execute("COMMIT")
        except psycopg.Error as error:
            if error.sqlstate is not None and error.sqlstate[:2] not in ("08", "57", "58", "XX"):
                raise
            self._disconnect(connection)
            self._settle(number)

    def _settle(self, number: str) -> None:
        """Find out what became of a transaction; nothing is raised where it took effect."""
        self._pool.clear()
        found = patiently(lambda: self._outcome(number))
        if found == "aborted":
            reason = "the connection to the database was lost before it took effect"
            raise NoEffect(unreachable(self._location, "the connection was lost"), reason)
        if found != "committed":
            raise NotKnown("the connection to the database was lost as it was committed")

    def _outcome(self, number: str) -> str | None:
        """`committed`, `aborted`, or None while nobody knows."""
        try:
            ((found,),) = self.run("SELECT pg_xact_status(?::text::xid8)", number)
        except HdevError:
            return None
        return None if found == "in progress" else str(found)

    def _rollback(self, connection: Connection) -> None:
        self._numbers.pop(id(connection), None)
        with contextlib.suppress(psycopg.Error):
            connection.execute("ROLLBACK")

    def _find(self, connection: Connection, keys: Sequence[str], inline: int) -> Iterable[Row]:
        found = connection.execute(
            f"SELECT {STATE_COLUMNS}, CASE WHEN length(content) <= %s THEN content END"
            " FROM entries WHERE key = ANY(%b::text[])",
            (inline, list(keys)),
            binary=True,
        )
        return [Row(*row) for row in found]

    def _effect(self, connection: Connection, ready: Sequence[Ready]) -> Iterable[Row | str]:
        """Each kind of change is one statement for all changes of its kind, sent together."""
        looked = [one for one in ready if one.looked is not None]
        created = [one for one in ready if one.looked is None]
        overwritten = [one for one in looked if one.wanted is not None]
        deleted = [one for one in looked if one.wanted is None]
        asked = []
        with connection.pipeline():
            if looked:
                connection.execute(_KEEP, ([one.change.key for one in looked],))
            if created:
                asked.append(connection.execute(_CREATE, _wanted(created), binary=True))
            if overwritten:
                values = (*_looked(overwritten), *_wanted(overwritten))
                asked.append(connection.execute(_OVERWRITE, values, binary=True))
            if deleted:
                asked.append(connection.execute(_DELETE, _looked(deleted), binary=True))
        for cursor in asked:
            for row in cursor:
                yield row[0] if len(row) == 1 else Row(*row)

    def _log_lines(self, connection: Connection, lines: Sequence[tuple[int, bytes]]) -> None:
        connection.execute(
            "INSERT INTO log SELECT * FROM unnest(%b::bigint[], %b::bytea[])",
            ([seq for seq, _ in lines], [line for _, line in lines]),
        )


def _arguments(url: PostgresUrl, user: str | None, password: Secret | None) -> dict[str, Any]:
    """The arguments of libpq; what is not said is left to it."""
    asked: dict[str, Any] = dict(url.parameters)
    if url.hosts:
        asked["host"] = ",".join(host for host, _ in url.hosts)
        asked["port"] = ",".join(port for _, port in url.hosts)
    if url.database:
        asked["dbname"] = url.database
    if user is not None:
        asked["user"] = user
    if password is not None:
        asked["password"] = password.reveal()
    return asked


def _looked(ready: Sequence[Ready]) -> tuple[list[str], ...]:
    rows = [one.looked for one in ready if one.looked is not None]
    keys = [row.key for row in rows]
    return keys, [row.content_digest for row in rows], [row.metadata for row in rows]


def _wanted(ready: Sequence[Ready]) -> tuple[list[Any], ...]:
    rows = [one.wanted for one in ready if one.wanted is not None]
    return (
        [row.key for row in rows],
        [row.metadata for row in rows],
        [row.content_digest for row in rows],
        [row.metadata_digest for row in rows],
        [row.size for row in rows],
        [row.lf_digest for row in rows],
        [row.lf_size for row in rows],
        [row.tag for row in rows],
        [row.content for row in rows],
    )
