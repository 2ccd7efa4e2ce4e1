"""`hdev lock`: who holds a memory, and how to break a lock that nobody gives back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from hdev_memory.cli import options as flags

if TYPE_CHECKING:
    from hdev_memory.backends.base import Backend

Place = Annotated[str, typer.Argument(metavar="ENDPOINT", help="The memory: an endpoint.")]


def lock_status(
    endpoint: Place,
    api_key: flags.ApiKey = None,
    insecure_http: flags.InsecureHttp = False,
    json: flags.Json = False,
    json_into: flags.JsonInto = None,
) -> int:
    """Tell who holds ENDPOINT: an apply, or the server that serves a folder."""
    from hdev_memory.cli import context, eventlines

    with eventlines.told(json=json, into=json_into) as lines:
        with _opened(endpoint, api_key, insecure_http) as backend:
            holder = backend.holder()
        name, expires_in = (holder.name, holder.expires_in) if holder is not None else (None, None)
        lines.emit(eventlines.LockEnding(exit=0, holder=name, expires_in=expires_in))
        if lines.on_stdout:
            return 0
        if name is None:
            context.say("Nobody holds it.")
        else:
            left = f", {expires_in} seconds left" if expires_in is not None else ""
            context.say_foreign(f"Held by {name}{left}.")
        return 0


def lock_release(
    endpoint: Place,
    api_key: flags.ApiKey = None,
    insecure_http: flags.InsecureHttp = False,
    json: flags.Json = False,
    json_into: flags.JsonInto = None,
) -> int:
    """Break the lock of the server ENDPOINT, whoever has it; its writes are refused from then on.

    The lock of a folder ends with the process that has it, and is never broken.
    """
    from hdev_memory.cli import context, eventlines

    with eventlines.told(json=json, into=json_into) as lines:
        with _opened(endpoint, api_key, insecure_http) as backend:
            released = backend.release()
        lines.emit(eventlines.ReleaseEnding(exit=0, released=released))
        if not lines.on_stdout:
            context.say("Released." if released else "Nobody held it.")
        return 0


@contextlib.contextmanager
def _opened(endpoint: str, api_key: str | None, insecure_http: bool) -> Iterator[Backend]:
    from hdev_memory.backends import open_backend
    from hdev_memory.cli import context, steps

    where = steps.one_end(context.settings(), endpoint, api_key, insecure_http=insecure_http)
    with open_backend(where, must_exist=True) as backend:
        yield backend
