"""Where entries live: one table of backends, and the function that opens one."""

from __future__ import annotations

from collections.abc import Callable

from hdev_memory.backends.base import Backend, Where
from hdev_memory.errors import UsageError


def _filesystem(where: Where, must_exist: bool) -> Backend:
    from hdev_memory.backends.filesystem import FilesystemBackend

    return FilesystemBackend(
        where.location,
        must_exist=must_exist,
        sync=where.durability == "full",
        index=where.index,
    )


def _http(where: Where, must_exist: bool) -> Backend:
    # httpcore costs a moment to import; commands that need no server never pay for it.
    from hdev_memory.backends.http import HttpBackend

    return HttpBackend(where)


def _sqlite(where: Where, must_exist: bool) -> Backend:
    from hdev_memory.backends.sqlite import SqliteBackend

    return SqliteBackend(
        where.location,
        must_exist=must_exist,
        sync=where.durability == "full",
        timeout=where.timeout,
    )


def _postgres(where: Where, must_exist: bool) -> Backend:
    try:
        from hdev_memory.backends.postgres import PostgresBackend
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("psycopg"):
            raise
        raise UsageError(
            "PostgreSQL needs a package that is not installed.",
            why="psycopg is missing.",
            hint="Run pip install 'hdev-memory[postgres]'.",
        ) from None

    return PostgresBackend(
        where.location,
        must_exist=must_exist,
        user=where.user,
        password=where.key,
        sync=where.durability == "full",
        timeout=where.timeout,
    )


def _ephemeral(where: Where, must_exist: bool) -> Backend:
    from hdev_memory.backends.ephemeral import EphemeralBackend

    return EphemeralBackend(where.location)


BACKENDS: dict[str, Callable[[Where, bool], Backend]] = {
    "filesystem": _filesystem,
    "http": _http,
    "postgres": _postgres,
    "sqlite": _sqlite,
    "ephemeral": _ephemeral,
}


def open_backend(where: Where, *, must_exist: bool) -> Backend:
    """Open a backend; `must_exist` for a source, which is never invented by a mistyped path.

    Raises StoreError, BackendError or UsageError. Nothing is created by opening.
    """
    opener = BACKENDS.get(where.kind)
    if opener is None:
        raise UsageError(
            "There is no such backend.",
            why=f"{where.kind!r} is none of {', '.join(sorted(BACKENDS))}.",
        )
    return opener(where, must_exist)
