"""What a filesystem can do is tried out, and never believed of its kind alone."""

from __future__ import annotations

import errno
import os

import pytest

from hdev_memory import durable
from hdev_memory.backends.base import Put, Stored
from hdev_memory.backends.filesystem import FilesystemBackend
from hdev_memory.core.entry import Normalisation

NORMAL = Normalisation()


class WithoutExchange(durable.Disk):
    def exchange(self, folder: int, one: str, other: str) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


class LyingExchange(durable.Disk):
    def exchange(self, folder: int, one: str, other: str) -> None:
        pass


class ReplacingRename(durable.Disk):
    def rename_new(self, folder: int, old: str, new: str) -> None:
        self.replace(folder, old, new)


@pytest.mark.parametrize("disk", [WithoutExchange, LyingExchange, ReplacingRename])
def test_a_filesystem_that_does_not_keep_its_word_lowers_what_is_declared(
    tmp_path, monkeypatch, disk
):
    monkeypatch.setattr(durable, "disk", disk())
    after = NORMAL.state(b"x", {})
    with FilesystemBackend(str(tmp_path), must_exist=True) as backend:
        with backend.hold("test"):
            declared = backend.capabilities.cas
        change = Put(key="a", content=b"x", metadata={}, before=None, after=after)
        (receipt,) = backend.write([change], NORMAL)

    assert declared == "guarded"
    assert isinstance(receipt, Stored)
    assert {path.name for path in tmp_path.iterdir()} == {"a.md", "a.metadata.json"}
