"""Locks are a courtesy that people can see: who holds a memory, and what another apply is told."""

import os

import pytest
from tests.conftest import put_entry
from tests.emulation.existing_server import ExistingServer
from tests.processes import MemoryServer

from hdev_memory.backends.base import Failed, Put, Secret, Where
from hdev_memory.backends.filesystem import FilesystemBackend
from hdev_memory.backends.http import HttpBackend
from hdev_memory.core.entry import Normalisation

NORMAL = Normalisation()
KEY = ("--api-key", "key")


@pytest.fixture
def planned(hdev, home):
    """A plan from a folder into a folder."""
    work = home.parent / "work"
    put_entry(work / "source", "a", "x")
    put_entry(work / "target", "b", "y")
    assert hdev("plan", "filesystem:source", "filesystem:target", "-o", "p").status == 0
    return work


def test_an_apply_to_a_folder_that_is_held_is_refused_and_writes_nothing(hdev, planned):
    with (
        FilesystemBackend(str(planned / "target"), must_exist=True) as other,
        other.hold("somebody"),
    ):
        refused = hdev("apply", "p")
        status = hdev("lock", "status", "filesystem:target")
        release = hdev("lock", "release", "filesystem:target")

    assert refused.status == 7
    assert not (planned / "target/a.md").exists()
    assert status.out == f"Held by process {os.getpid()}.\n"
    assert release.status == 64
    assert "refused" in hdev("audit", "show", "p").out
    assert hdev("lock", "status", "filesystem:target").out == "Nobody holds it.\n"
    assert hdev("apply", "p").status == 0


def test_planning_takes_no_lock(hdev, planned):
    with (
        FilesystemBackend(str(planned / "target"), must_exist=True) as other,
        other.hold("somebody"),
    ):
        assert hdev("plan", "filesystem:source", "filesystem:target", "-o", "q").status == 0


def test_a_server_has_one_holder_and_its_lock_can_be_broken(hdev, planned):
    with MemoryServer(planned / "served", "key") as server:
        hdev("plan", "filesystem:source", server.url, "-o", "q", *KEY)
        where = Where("http", server.url, Secret("key"))
        change = Put("z", b"late", {}, None, NORMAL.state(b"late", {}))
        with HttpBackend(where) as other, other.hold("night job"):
            refused = hdev("apply", "q", *KEY)
            status = hdev("lock", "status", server.url, *KEY)
            told = hdev("lock", "status", server.url, *KEY, "--json").json
            released = hdev("lock", "release", server.url, *KEY)
            applied = hdev("apply", "q", *KEY)
            (late,) = other.write([change], NORMAL)
        after = hdev("lock", "status", server.url, *KEY)

    assert (refused.status, applied.status) == (7, 0), refused.err + applied.err
    assert "night job" in refused.err
    assert status.out.startswith("Held by night job, ")
    assert told["holder"] == "night job"
    assert told["expires_in"] > 0
    assert released.out == "Released.\n"
    assert isinstance(late, Failed)
    assert late.intact
    assert after.out == "Nobody holds it.\n"


def test_the_existing_server_has_no_lock_and_says_so(hdev, planned):
    with ExistingServer(planned / "served", "key") as server:
        result = hdev("lock", "status", server.url, *KEY)

    assert result.status == 64
    assert "has no lock" in result.err
