"""A batch whose connection, server or disk ends in the middle: each entry of it is as before or as
after, what was said to be done is done, and the next apply does the rest."""

import json
import os
import signal

import pytest
from tests.conftest import put_entry
from tests.processes import MemoryServer
from tests.survival.wire import Wire

from hdev_memory.backends import http_batches
from hdev_memory.backends.base import EVERYTHING, Secret, Where
from hdev_memory.backends.filesystem import FilesystemBackend
from hdev_memory.backends.http import HttpBackend
from hdev_memory.core.entry import Normalisation

KEY = "key-of-what-is-cut"
NORMAL = Normalisation()
OLD, NEW, GONE = 20, 60, 10
"""Entries that are overwritten, created and deleted."""

TOGETHER = 32
"""Entries in one request here, so that few of them are several requests."""


@pytest.fixture
def work(home, monkeypatch):
    """A source, and a target's folder that has some of it, and some that is to go."""
    work = home.parent / "work"
    for number in range(NEW + OLD):
        put_entry(work / "source", f"n{number % 7}/{number:04}", f"new {number}\n" * 60)
    for number in range(OLD):
        put_entry(work / "store", f"n{number % 7}/{number:04}", f"old {number}\n")
    for number in range(GONE):
        put_entry(work / "store", f"gone/{number}", "to be deleted")
    monkeypatch.setenv("HDEV_MEMORY_HTTP_API_KEY", KEY)
    monkeypatch.setattr(http_batches, "_REQUEST_ENTRIES", TOGETHER)
    return work


def states(backend):
    return {found.key: found.state for found in backend.snapshot(EVERYTHING, NORMAL)}


def planned(hdev, work, url):
    """Make the plan; the states before and after it."""
    made = hdev(
        "plan", "filesystem:source", url, "-o", "p", "--overwrite", "--delete",
        "--max-delete", GONE,
    )  # fmt: skip
    assert made.status == 0, made.err
    with FilesystemBackend(str(work / "source"), must_exist=True) as source:
        after = states(source)
    with HttpBackend(Where("http", url, key=Secret(KEY))) as target:
        before = states(target)
    assert len(before.keys() | after.keys()) == OLD + NEW + GONE
    return before, after


def each_is_known(work, before, after, url, said):
    """Compare what stands with what the run and its log have said of each entry."""
    with HttpBackend(Where("http", url, key=Secret(KEY))) as target:
        stands = states(target)
    for key in before.keys() | after.keys():
        assert stands.get(key) in (before.get(key), after.get(key)), key
    assert stands.keys() <= before.keys() | after.keys()
    log = [json.loads(line) for line in (work / "p/audit.jsonl").read_text().splitlines()]
    done = {record["key"] for record in log if record["event"] == "done"}
    told = {record["key"] for record in log if record["event"] in ("done", "failed", "drift")}
    assert all(stands.get(key) == after.get(key) for key in done)
    assert {record["key"] for record in log if record["event"] == "intent"} == told
    counts = said.json["counts"]
    assert sum(counts[name] for name in ("created", "overwritten", "deleted")) == len(done)
    assert len(done) + counts["failed"] + counts["left"] == OLD + NEW + GONE


def resumed(hdev, url, after):
    """Apply once more, over a wire that holds; the lock of a client that was cut off is broken."""
    assert hdev("lock", "release", url).status == 0
    done = hdev("apply", "p", "--target-url", url)
    assert done.status == 0, done.err
    with HttpBackend(Where("http", url, key=Secret(KEY))) as target:
        assert states(target) == after


CUTS = [("up", 0), ("up", 2_000), ("down", 0), ("down", 400)]


@pytest.mark.parametrize(("direction", "bytes_more"), CUTS)
def test_a_connection_that_ends_in_a_batch_is_settled_by_reading(hdev, work, direction, bytes_more):
    with MemoryServer(work / "store", KEY) as server:
        before, after = planned(hdev, work, server.url)
        with Wire(server.url, cut_in=2, direction=direction, after=bytes_more) as wire:
            said = hdev("apply", "p", "--json", "--target-url", wire.url)

            assert wire.cut.is_set()
        each_is_known(work, before, after, server.url, said)
        resumed(hdev, server.url, after)


@pytest.mark.parametrize(("direction", "bytes_more"), CUTS[1:3])
def test_a_server_that_is_out_of_reach_from_there_on_leaves_a_run_to_resume(
    hdev, work, direction, bytes_more
):
    with MemoryServer(work / "store", KEY) as server:
        before, after = planned(hdev, work, server.url)

        def gone():
            wire.dead = True

        with Wire(server.url, cut_in=2, direction=direction, after=bytes_more, then=gone) as wire:
            said = hdev("apply", "p", "--json", "--target-url", wire.url)

            assert wire.cut.is_set()
        assert said.status == 4
        each_is_known(work, before, after, server.url, said)
        resumed(hdev, server.url, after)


@pytest.mark.parametrize(("direction", "bytes_more"), CUTS[1:3])
def test_a_server_that_is_killed_in_a_batch_leaves_a_run_to_resume(
    hdev, work, direction, bytes_more
):
    """The next one finishes what its journal has; nothing that was acknowledged is lost."""
    with MemoryServer(work / "store", KEY) as first:
        before, after = planned(hdev, work, first.url)

        def killed():
            os.kill(first.process.pid, signal.SIGKILL)
            first.process.wait()

        with Wire(first.url, cut_in=2, direction=direction, after=bytes_more, then=killed) as wire:
            said = hdev("apply", "p", "--json", "--target-url", wire.url)

            assert wire.cut.is_set()
    assert said.status == 4
    with MemoryServer(work / "store", KEY) as second:
        each_is_known(work, before, after, second.url, said)
        resumed(hdev, second.url, after)
