"""Others write while we write, without locks: nothing of theirs is lost, and nothing leads outside.

Each race lasts about a second, because what it proves is a matter of how often the paths cross.
"""

from __future__ import annotations

import os
import time

import pytest
from tests.survival import rivals

from hdev_memory import durable
from hdev_memory.backends.base import Drifted, Put, Remove, Removed, Stored
from hdev_memory.backends.filesystem import FilesystemBackend
from hdev_memory.core.entry import Absent, Entry, Normalisation

NORMAL = Normalisation()
SECONDS = 1.0


def put(key: str, content: bytes, found: Entry | Absent) -> Put:
    """The change from what was found to this content, without metadata."""
    before = NORMAL.state(found.content, {}) if isinstance(found, Entry) else None
    after = NORMAL.state(content, {})
    return Put(key=key, content=content, metadata={}, sidecar=b"", before=before, after=after)


def kept_in(folder) -> set[bytes]:
    return {path.read_bytes() for path in folder.glob(f"{durable.KEPT_PREFIX}*")}


def test_no_update_of_somebody_else_is_lost(tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    (store / "k.md").write_bytes(b"first")
    changes, stored, drifted = {}, set(), 0
    with (
        FilesystemBackend(str(store), must_exist=True, sync=False) as backend,
        rivals.beside(rivals.replacing, str(store), "k.md") as stop,
    ):
        end = time.monotonic() + SECONDS
        number = 0
        while time.monotonic() < end:
            (found,) = backend.read(["k"])
            assert isinstance(found, Entry)
            number += 1
            change = put("k", f"ours {number}".encode(), found)
            changes[change.content] = found.content
            (receipt,) = backend.write([change], NORMAL)
            if isinstance(receipt, Stored):
                stored.add(change.content)
            drifted += isinstance(receipt, Drifted)
        displaced = set(stop())
    last = (store / "k.md").read_bytes()
    theirs = {f"rival {number}".encode() for number in range(len(displaced))}
    # What stood there when the rival came, or stands there now, or was stored, has displaced what
    # it was to displace: that was planned.
    stood = {content for content in changes if content in displaced | stored | {last}}
    planned = {changes[content] for content in stood}

    assert theirs - planned - displaced - {last} - kept_in(store) == set(), "an update was lost"
    assert stored - planned - displaced - {last} == set(), "what was acknowledged never stood there"
    assert len(stored) > 20
    assert drifted > 0, "the paths never crossed"
    assert [path for path in store.iterdir() if durable.STAGED_PREFIX in path.name] == []


class Meddling(durable.Disk):
    """A disk on which somebody writes on into a file that we displaced, at a chosen moment."""

    def __init__(self, moment: str, path) -> None:
        self._moment = moment
        self._open = os.open(path, os.O_WRONLY)
        self.done = False

    def _meddle(self, moment: str) -> None:
        if moment == self._moment and not self.done:
            self.done = True
            os.pwrite(self._open, b"LATE", 0)
            os.close(self._open)

    def exchange(self, folder: int, one: str, other: str) -> None:
        super().exchange(folder, one, other)
        if "probe" not in one:
            self._meddle("exchange")

    def replace(self, folder: int, old: str, new: str) -> None:
        super().replace(folder, old, new)
        self._meddle("replace")

    def unlink(self, folder: int, name: str) -> None:
        super().unlink(folder, name)
        if "probe" not in name:
            self._meddle("unlink")

    def sync(self, descriptor: int) -> None:
        if self._moment == "sync" and not os.path.isdir(f"/proc/self/fd/{descriptor}"):
            return  # of files: what is staged
        self._meddle("sync")


def changes(store):
    (store / "k.md").write_bytes(b"first text")
    before = NORMAL.state(b"first text", {})
    found = Entry(key="k", content=b"first text", metadata={})
    return {"exchange": put("k", b"ours", found), "replace": Remove(key="k", before=before)}


@pytest.mark.parametrize("way", ["exchange", "replace"])
@pytest.mark.parametrize("late", [False, True])
def test_what_somebody_writes_into_a_displaced_file_is_kept(tmp_path, monkeypatch, way, late):
    change = changes(tmp_path)[way]
    with FilesystemBackend(str(tmp_path), must_exist=True) as backend:
        with backend.hold("test"):
            pass  # tries out the filesystem
        # Late: after it was hashed, while the folder is being synced.
        disk = Meddling("sync" if late else way, tmp_path / "k.md")
        if late:
            monkeypatch.setattr(backend, "_named", True)
        monkeypatch.setattr(durable, "disk", disk)
        (receipt,) = backend.write([change], NORMAL)
    now = (tmp_path / "k.md").read_bytes() if (tmp_path / "k.md").exists() else b""

    assert disk.done
    assert b"LATEt text" in kept_in(tmp_path) | {now}
    if late:
        assert isinstance(receipt, Stored | Removed)
        assert (tmp_path / receipt.kept).read_bytes() == b"LATEt text"
    else:
        assert isinstance(receipt, Drifted)


def test_a_link_that_flips_never_leads_a_write_outside(tmp_path):
    store, outside = tmp_path / "store", tmp_path / "outside"
    (store / "a").mkdir(parents=True)
    outside.mkdir()
    written = refused = 0
    with (
        FilesystemBackend(str(store), must_exist=True, sync=False) as backend,
        rivals.beside(rivals.flipping, str(store), str(outside)) as stop,
    ):
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            number = written + refused
            change = put(f"a/k{number}", b"ours", Absent(key=""))
            (receipt,) = backend.write([change], NORMAL)
            written += isinstance(receipt, Stored)
            refused += not isinstance(receipt, Stored)
        flips = stop()

    assert list(outside.iterdir()) == []
    assert written > 0
    assert refused > 0, "the paths never crossed"
    assert flips > 100
