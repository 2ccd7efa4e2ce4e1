"""A server whose disk is full, in earnest: what it has acknowledged stands, nothing is half there,
and with room again the next apply does the rest."""

import json
import subprocess

import pytest
from tests.conftest import put_entry
from tests.processes import MemoryServer

from hdev_memory.backends import http_batches
from hdev_memory.backends.base import EVERYTHING, Secret, Where
from hdev_memory.backends.filesystem import FilesystemBackend
from hdev_memory.backends.http import HttpBackend
from hdev_memory.core.entry import Normalisation

KEY = "key-of-the-full-disk"
NORMAL = Normalisation()
COUNT = 150
EACH = 20_000


@pytest.fixture
def disk(tmp_path):
    """A filesystem of 1.5 MiB in memory, where this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1536k", "none", place], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no filesystem can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


class Server(MemoryServer):
    def __init__(self, disk, kind):
        super().__init__(disk / "store", KEY)
        if kind == "sqlite":
            path = self._command.index("--storage-path")
            self._command[path : path + 2] = ["--storage", f"sqlite:{disk / 'memory.sqlite'}"]


def states(backend):
    return {found.key: found.state for found in backend.snapshot(EVERYTHING, NORMAL)}


def held(url):
    with HttpBackend(Where("http", url, key=Secret(KEY))) as backend:
        return states(backend)


@pytest.mark.parametrize("kind", ["folder", "sqlite"])
def test_a_full_disk_leaves_each_entry_whole_or_away_and_a_run_to_resume(
    hdev, home, disk, kind, monkeypatch
):
    work = home.parent / "work"
    monkeypatch.setenv("HDEV_MEMORY_HTTP_API_KEY", KEY)
    monkeypatch.setattr(http_batches, "_REQUEST_ENTRIES", 10)
    for number in range(COUNT):
        put_entry(work / "source", f"n{number:03}", f"{number:>9}\n" * (EACH // 10))
    with FilesystemBackend(str(work / "source"), must_exist=True) as source:
        wanted = states(source)
    with Server(disk, kind) as server:
        planned = hdev("plan", "filesystem:source", server.url, "-o", "p")
        said = hdev("apply", "p", "--json")
        assert (planned.status, said.status) == (0, 4), said.err
        during = held(server.url)
    log = [json.loads(line) for line in (work / "p/audit.jsonl").read_text().splitlines()]
    done = {record["key"] for record in log if record["event"] == "done"}
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
    with Server(disk, kind) as again:
        after = held(again.url)
        resumed = hdev("apply", "p", "--target-url", again.url)
        end = held(again.url)

    assert len(done) > 0
    for stands in (during, after):
        assert done <= stands.keys() < wanted.keys()
        assert all(wanted[key] == state for key, state in stands.items())
    assert said.json["counts"]["created"] == len(done)
    assert resumed.status == 0, resumed.err
    assert end == wanted
