"""What a case of the hostile server stands on: the server, a bystander, a clock, and the client."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field

from hdev_memory.backends.base import EVERYTHING, Put, Remove, Secret, Where
from hdev_memory.backends.http import HttpBackend
from hdev_memory.backends.http_transport import Clock, Limits
from hdev_memory.core.entry import Normalisation
from tests.hostile.server import Bystander, HostileServer

KEY = "canary-key-of-the-hostile-server"
NORMAL = Normalisation(line_ends="lf")
WALL = 1_800_000_000.0
"""Fri, 15 Jan 2027 08:00:00 GMT, which the clock of every case shows."""


def state(content, metadata=None):
    return NORMAL.state(content, metadata or {})


def put(key, content=b"new", before=b"old", metadata=None):
    """A change of what `before` says; None for a new entry."""
    return Put(
        key=key,
        content=content,
        metadata=metadata or {},
        before=None if before is None else state(before),
        after=state(content, metadata),
    )


def remove(key, before=b"old"):
    return Remove(key=key, before=state(before))


@dataclass
class Time:
    """The clock of a case: nobody sleeps, and the server can let time pass."""

    pauses: list = field(default_factory=list)
    ahead: float = 0.0

    def pass_by(self, seconds):
        self.ahead += seconds

    def clock(self):
        return Clock(
            now=lambda: time.monotonic() + self.ahead,
            wall=lambda: WALL,
            wait=lambda event, seconds: self.pauses.append(seconds),
            jitter=lambda: 0.5,
        )


@dataclass
class Scene:
    """One case's world. `time` belongs to the client; `run` is the command line."""

    server: HostileServer
    bystander: Bystander
    run: object
    home: object
    time: Time = field(default_factory=Time)
    said: list = field(default_factory=list)

    @contextlib.contextmanager
    def client(self, timeout=20.0, **limits):
        """An open backend."""
        where = Where("http", self.server.url, Secret(KEY), timeout=timeout)
        with HttpBackend(where, Limits(**limits), self.time.clock()) as backend:
            yield backend

    def read(self, key="a", timeout=20.0, **limits):
        with self.client(timeout, **limits) as backend:
            (found,) = backend.read([key])
        self.said.append(str(found))
        return found

    def write(self, *changes, timeout=20.0, **limits):
        """The receipts of one batch, or the one receipt of one change."""
        with self.client(timeout, **limits) as backend:
            receipts = list(backend.write(changes, NORMAL))
        self.said.append(str(receipts))
        return receipts[0] if len(changes) == 1 else receipts

    def snapshot(self, **limits):
        with self.client(**limits) as backend:
            return {found.key: found for found in backend.snapshot(EVERYTHING, NORMAL)}

    def migrate(self, *flags):
        """`hdev migrate-memory` from the folder at home to the server."""
        (self.home / ".hdev/memory").mkdir(parents=True, exist_ok=True)
        result = self.run(
            "migrate-memory", "--target", "http", "--target-url", self.server.url,
            "--api-key", KEY, *flags,
        )  # fmt: skip
        self.said += [result.out, result.err]
        return result


@dataclass(frozen=True)
class Case:
    """A name, what the server does, what comes of it, and the function that shows it."""

    name: str
    does: str
    outcome: str
    ours: bool
    batches: bool
    show: object

    @property
    def row(self):
        return f"| {self.name} | {self.does} | {self.outcome} |"


CASES: dict[str, Case] = {}


def case(name, does, outcome, *, ours=False, batches=False):
    """Add a case; the function gets the scene, sets the faults, and asserts the outcome."""

    def added(show):
        assert name not in CASES, f"two cases are called {name}"
        CASES[name] = Case(name, does, outcome, ours or batches, batches, show)
        return show

    return added


@contextlib.contextmanager
def played(chosen, run, home):
    """The scene of a case; afterwards: every fault fired, the key went nowhere else, and no
    thread of the client's is left."""
    before = {thread for thread in threading.enumerate() if thread.name.startswith("hdev-http")}
    with Bystander() as bystander:
        with HostileServer(KEY, chosen.ours, chosen.batches) as server:
            server.entries["a"] = ("old", {})
            scene = Scene(server, bystander, run, home)
            yield scene

        assert server.unfired() == []
        assert bystander.heard == []
        assert not [text for text in scene.said if KEY in text]
    after = {thread for thread in threading.enumerate() if thread.name.startswith("hdev-http")}
    assert after <= before
