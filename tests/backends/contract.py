"""The stores that the suite of promises runs on, each with somebody inside who can damage it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from tests.backends.classic import Classic
from tests.conftest import put_entry
from tests.emulation.existing_server import ExistingServer
from tests.postgres import Server, fresh_schema

from hdev_memory.backends import open_backend
from hdev_memory.backends.base import Backend, Put, Secret, Where
from hdev_memory.backends.ephemeral import EphemeralBackend
from hdev_memory.backends.filesystem import FilesystemBackend
from hdev_memory.backends.http import HttpBackend
from hdev_memory.backends.postgres_url import PostgresUrl, parse
from hdev_memory.backends.sqlite import SqliteBackend
from hdev_memory.conformance.subject import Faults, Subject
from hdev_memory.core.entry import Metadata, Normalisation
from hdev_memory.server.app import create_app
from hdev_memory.server.run import serve_in_thread

KEY = "contract-key"
KINDS = (
    "ephemeral",
    "filesystem",
    "sqlite",
    "postgres",
    "http-ephemeral",
    "http-filesystem",
    "http-filesystem-classic",
    "http-sqlite",
    "http-postgres",
    "http-existing",
)


class Reopened(EphemeralBackend):
    """A second connection to an ephemeral store."""

    def __init__(self, first: EphemeralBackend) -> None:
        super().__init__(first.endpoint.location)
        self._entries, self._lock = first._entries, first._lock


def faults_in(root: Path) -> Faults:
    """What somebody can do who has the store's folder."""

    @contextlib.contextmanager
    def damage(key: str) -> Iterator[None]:
        file = root / f"{key}.md"
        content = file.read_bytes()
        file.write_bytes(b"\xff" + content)
        yield
        assert file.read_bytes() == b"\xff" + content, "it was written over"
        file.write_bytes(content)

    @contextlib.contextmanager
    def vanish() -> Iterator[None]:
        away = root.with_name(root.name + "-away")
        os.rename(root, away)
        yield
        os.rename(away, root)

    return Faults(damage, vanish)


def faults_of_sqlite(file: Path) -> Faults:
    """What somebody can do who has the database file."""

    @contextlib.contextmanager
    def damage(key: str) -> Iterator[None]:
        with statements(file) as run:
            ((content,),) = run("SELECT content FROM entries WHERE key = ?", key)
            run("UPDATE entries SET content = ? WHERE key = ?", b"edited", key)
            yield
            assert run("SELECT content FROM entries WHERE key = ?", key) == [(b"edited",)]
            run("UPDATE entries SET content = ? WHERE key = ?", content, key)

    @contextlib.contextmanager
    def vanish() -> Iterator[None]:
        away = file.with_name(file.name + "-away")
        os.rename(file, away)
        yield
        os.rename(away, file)

    return Faults(damage, vanish)


def faults_of_postgres(url: PostgresUrl) -> Faults:
    """What somebody can do who is the owner of the tables."""

    @contextlib.contextmanager
    def damage(key: str) -> Iterator[None]:
        with statements_of(url) as run:
            ((content,),) = run("SELECT content FROM entries WHERE key = %s", key)
            run("UPDATE entries SET content = 'edited' WHERE key = %s", key)
            yield
            assert run("SELECT content FROM entries WHERE key = %s", key) == [(b"edited",)]
            run("UPDATE entries SET content = %s WHERE key = %s", content, key)

    @contextlib.contextmanager
    def vanish() -> Iterator[None]:
        with statements_of(url) as run:
            run(f"ALTER SCHEMA {url.schema} RENAME TO {url.schema}_away")
            yield
            run(f"ALTER SCHEMA {url.schema}_away RENAME TO {url.schema}")

    return Faults(damage, vanish)


@contextlib.contextmanager
def statements_of(url: PostgresUrl) -> Iterator[Callable[..., list[tuple[object, ...]]]]:
    """A way to run statements in a schema of a PostgreSQL by hand."""
    import psycopg

    assert url.password is not None
    with psycopg.connect(
        host=url.hosts[0][0],
        port=url.hosts[0][1],
        dbname=url.database,
        user=url.user,
        password=url.password.reveal(),
        autocommit=True,
        options=f"-c search_path={url.schema}",
    ) as connection:

        def run(sql: str, *values: object) -> list[tuple[object, ...]]:
            cursor = connection.execute(sql, values or None)
            return cursor.fetchall() if cursor.description else []

        yield run


@contextlib.contextmanager
def statements(file: Path) -> Iterator[Callable[..., list[tuple[object, ...]]]]:
    """A way to run statements in an SQLite file by hand."""
    connection = sqlite3.connect(file, isolation_level=None)
    try:
        yield lambda sql, *values: connection.execute(sql, values).fetchall()
    finally:
        connection.close()


def put(key: str, content: bytes, metadata: Metadata) -> Put:
    """The change that makes an entry."""
    after = Normalisation().state(content, metadata)
    return Put(key=key, content=content, metadata=metadata, before=None, after=after)


@contextlib.contextmanager
def inside(
    kind: str, root: Path, database: Callable[[], Server] | None = None
) -> Iterator[tuple[Callable[[], Backend], Faults]]:
    """A store without a server: how it is opened, and what can be done to it."""
    if kind == "ephemeral":
        first = EphemeralBackend("contract")
        yield lambda: Reopened(first), Faults()
    elif kind == "sqlite":
        file = root / "memory.db"
        yield lambda: SqliteBackend(str(file), must_exist=False), faults_of_sqlite(file)
    elif kind == "postgres":
        assert database is not None
        url = parse(database().url(fresh_schema()))
        where = Where("postgres", url.location, url.password, url.user)
        yield lambda: open_backend(where, must_exist=False), faults_of_postgres(url)
    else:
        put_entry(root, "theirs/a", "not to be touched", {"k": 1})
        yield lambda: FilesystemBackend(str(root), must_exist=True), faults_in(root)


@contextlib.contextmanager
def store(
    kind: str, root: Path, database: Callable[[], Server] | None = None
) -> Iterator[tuple[Callable[[], Backend], Faults]]:
    """A store that holds something already: how it is opened, and what can be done to it."""
    root.mkdir()
    protocol, _, behind = kind.removesuffix("-classic").rpartition("-")
    with contextlib.ExitStack() as stack:
        opened, faults = stack.enter_context(inside(behind, root, database))
        if behind in ("ephemeral", "sqlite", "postgres"):
            with opened() as first:
                first.write([put("theirs/a", b"not to be touched", {"k": 1})], Normalisation())
        if not protocol:
            yield opened, faults
            return
        if behind == "existing":
            url = stack.enter_context(ExistingServer(root, KEY)).url
        else:
            served = stack.enter_context(opened())
            app = create_app(served, store_id="contract", api_key=Secret(KEY))
            shown = Classic(app) if kind.endswith("-classic") else app
            url = stack.enter_context(serve_in_thread(shown))
        yield lambda: HttpBackend(Where("http", url, Secret(KEY))), faults


def subject(
    backend: Backend, again: Callable[[], Backend], faults: Faults, prefix: str = "check"
) -> Subject:
    """The backend below `prefix`, with what is outside of it looked at."""
    made = Subject(backend, again, prefix, Random(prefix), faults=faults)
    made.record.outside = made.outside()
    return made
