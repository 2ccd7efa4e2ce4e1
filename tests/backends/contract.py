"""The stores that the suite of promises runs on, each with somebody inside who can damage it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from tests.backends.classic import Classic
from tests.conftest import put_entry
from tests.emulation.existing_server import ExistingServer

from hdev_memory.backends.base import Backend, Secret, Where
from hdev_memory.backends.ephemeral import EphemeralBackend
from hdev_memory.backends.filesystem import FilesystemBackend
from hdev_memory.backends.http import HttpBackend
from hdev_memory.conformance.subject import Faults, Subject
from hdev_memory.server.app import create_app
from hdev_memory.server.run import serve_in_thread

KEY = "contract-key"
KINDS = (
    "ephemeral",
    "filesystem",
    "http-ephemeral",
    "http-filesystem",
    "http-filesystem-classic",
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


@contextlib.contextmanager
def store(kind: str, root: Path) -> Iterator[tuple[Callable[[], Backend], Faults]]:
    """A store that holds something already: how it is opened, and what can be done to it."""
    root.mkdir()
    if "ephemeral" in kind:
        inner: Backend = EphemeralBackend("contract")
        faults = Faults()
    else:
        inner = FilesystemBackend(str(root), must_exist=True)
        faults = faults_in(root)
    put_entry(root, "theirs/a", "not to be touched", {"k": 1})
    if isinstance(inner, EphemeralBackend):
        inner._entries["theirs/a"] = (b"not to be touched", {"k": 1})
    with contextlib.ExitStack() as stack:
        if kind == "http-existing":
            url = stack.enter_context(ExistingServer(root, KEY)).url
        elif kind.startswith("http"):
            app = create_app(inner, store_id="contract", api_key=Secret(KEY))
            served = Classic(app) if kind.endswith("-classic") else app
            url = stack.enter_context(serve_in_thread(served))

        def opened() -> Backend:
            if kind.startswith("http"):
                return HttpBackend(Where("http", url, Secret(KEY)))
            if isinstance(inner, EphemeralBackend):
                return Reopened(inner)
            return FilesystemBackend(str(root), must_exist=True)

        with inner:
            yield opened, faults


def subject(
    backend: Backend, again: Callable[[], Backend], faults: Faults, prefix: str = "check"
) -> Subject:
    """The backend below `prefix`, with what is outside of it looked at."""
    made = Subject(backend, again, prefix, Random(prefix), faults=faults)
    made.record.outside = made.outside()
    return made
