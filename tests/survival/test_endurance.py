"""Under a load of every kind, for a long time, a server leaks nothing and loses nothing.

Ten minutes with `nox -s endurance`; `ENDURANCE=20` takes so many seconds by hand.
"""

import os
import statistics
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.processes import MemoryServer
from tests.survival import load

from hdev_memory import durable
from hdev_memory.backends.base import EVERYTHING
from hdev_memory.core import audit
from hdev_memory.server.audit import AUDIT_FILE

SECONDS = float(os.environ.get("ENDURANCE", "600" if os.environ.get("SURVIVAL") == "all" else "0"))
WARM = 0.25
"""The part of the time after which caches and pools are as large as they get."""

MORE_MEMORY = 24 * 1024 * 1024
"""Bytes that the server may have more at the end than when it was warm."""

MOST_THREADS = 48
"""The pool for what waits on the disk has 40, and there are the loop's and the writer's."""

SETTLED = 30.0
"""Seconds after which the server must have let go of what it had for the clients."""

pytestmark = pytest.mark.skipif(
    not SECONDS, reason="only in nox -s endurance, or with ENDURANCE=20"
)


class Course:
    """What a process had, second by second."""

    def __init__(self, number):
        self.process = load.Watched(number)
        self.began = time.monotonic()
        self.memory = []
        self.handles = []
        self.threads = []

    def look(self):
        self.memory.append(self.process.memory)
        self.handles.append(self.process.handles)
        self.threads.append(self.process.threads)

    def middle(self, values, begin, end):
        """The median of a part of the course, which is told as shares of the whole."""
        count = len(values)
        return statistics.median(values[int(begin * count) : max(1, int(end * count))])


@pytest.fixture
def fair():
    """Threads that only wait get their turn soon beside those that compute."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("fair")
@pytest.mark.timeout(SECONDS + 300)
def test_a_load_of_minutes_leaks_nothing_and_loses_nothing(tmp_path, record_property):
    root = tmp_path / "store"
    stop = threading.Event()
    told = Counter()
    models = [{} for _ in range(5)]
    with MemoryServer(root, load.KEY) as server:
        with load.opened(server.url) as backend:
            assert list(backend.snapshot(EVERYTHING, load.NORMAL)) == []
        settled(lambda: load.connections(server.url) == 0)
        course = Course(server.process.pid)
        idle = course.process.handles
        clients = [
            *((load.batches, f"batches{n}", models[n]) for n in range(3)),
            *((load.classic, f"classic{n}", models[3 + n]) for n in range(2)),
            (load.looking, "looking"),
            *((load.breaking, f"breaking{n}") for n in range(2)),
            *((load.slow, f"slow{n}") for n in range(8)),
        ]
        with ThreadPoolExecutor(len(clients)) as threads:
            try:
                running = [
                    threads.submit(client, server.url, name, stop, told, *model)
                    for client, name, *model in clients
                ]
                while time.monotonic() < course.began + SECONDS:
                    assert not stop.wait(min(1.0, SECONDS / 60))
                    course.look()
                    for each in running:
                        if each.done():
                            each.result()
            finally:
                stop.set()
            for each in running:
                each.result(timeout=60)
        settled(lambda: course.process.handles == idle and load.connections(server.url) == 0)
        after = course.process.handles, load.connections(server.url)
    warm = course.middle(course.memory, WARM, 2 * WARM)
    last = course.middle(course.memory, 0.9, 1)
    report = {
        **told,
        "seconds": SECONDS,
        "memory, MiB, warm and at the end": f"{warm / 2**20:.1f} {last / 2**20:.1f}",
        "handles, idle, highest and afterwards": f"{idle} {max(course.handles)} {after[0]}",
        "threads, highest": f"{max(course.threads)}",
    }
    for name, text in report.items():
        record_property(name, text)
        print(f"{name}: {text}")  # noqa: T201 - what a run by hand is for

    assert server.process.returncode == 0
    assert told["batches: Stored"] + told["batches: Removed"] == sum(
        count for name, count in told.items() if name.startswith("batches: ")
    )
    assert not any(name.startswith("classic:") and not name.endswith("200") for name in told)
    assert last < warm + MORE_MEMORY
    assert after == (idle, 0)
    assert max(course.threads) <= MOST_THREADS
    assert list(root.rglob(f"{durable.STAGED_PREFIX}*")) == []
    stands(root, models)


def settled(done):
    """Wait until it is so, or until it should have been so for long."""
    deadline = time.monotonic() + SETTLED
    while not done() and time.monotonic() < deadline:
        threading.Event().wait(0.05)


def stands(root, models):
    """Every acknowledged write is there, and none that was not; the log of writes is whole."""
    expected = {key: load.state(number) for model in models for key, number in model.items()}
    with MemoryServer(root, load.KEY) as server, load.opened(server.url) as backend:
        found = {
            one.key: one.state
            for one in backend.snapshot(EVERYTHING, load.NORMAL)
            if not one.key.startswith("breaking")
        }
    with (root / AUDIT_FILE).open("rb") as lines:
        records = sum(1 for _ in audit.chained(lines, audit.Write))

    assert found == expected
    assert records >= len(expected) > 0
