"""Memories in databases for tests: each opened as often as wanted, and edited by hand."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.backends.contract import statements, statements_of
from tests.postgres import Server, fresh_schema

from hdev_memory.backends import open_backend
from hdev_memory.backends.base import Put, Remove, Where
from hdev_memory.backends.postgres_url import PostgresUrl, parse
from hdev_memory.backends.sql import SqlBackend
from hdev_memory.core.entry import Metadata, Normalisation, State

NORMAL = Normalisation()
KINDS = ("sqlite", "postgres")


@dataclass(frozen=True)
class Database:
    """Where a memory is, or will be."""

    where: Where
    url: PostgresUrl | None = None

    def opened(self, *, must_exist: bool = False) -> SqlBackend:
        backend = open_backend(self.where, must_exist=must_exist)
        assert isinstance(backend, SqlBackend)
        return backend

    @contextlib.contextmanager
    def by_hand(self) -> Iterator[Callable[..., list[tuple[object, ...]]]]:
        """Statements with `%s` for each value, past our program."""
        if self.url is not None:
            with statements_of(self.url) as run:
                yield run
        else:
            with statements(Path(self.where.location)) as plain:
                yield lambda sql, *values: plain(sql.replace("%s", "?"), *values)


def made(kind: str, folder: Path, server: Callable[[], Server]) -> Database:
    """A place where no memory is yet."""
    if kind == "sqlite":
        return Database(Where("sqlite", str(folder / "memory.db")))
    url = parse(server().url(fresh_schema()))
    return Database(Where("postgres", url.location, url.password, url.user), url)


def state(content: bytes = b"x", metadata: Metadata | None = None) -> State:
    return NORMAL.state(content, metadata or {})


def put(
    key: str,
    content: bytes = b"x",
    metadata: Metadata | None = None,
    before: State | None = None,
    tag: str = "",
) -> Put:
    metadata = metadata or {}
    after = state(content, metadata)
    return Put(key=key, content=content, metadata=metadata, before=before, after=after, tag=tag)


def remove(key: str, before: State, tag: str = "") -> Remove:
    return Remove(key=key, before=before, tag=tag)
