"""How often a disk is synced: each number is a promise in both directions.

One sync less, and something that is called durable is not; one more, and every apply is slower.
"""

from __future__ import annotations

import sys

import pytest
from tests.survival.power import QuietDisk
from tests.survival.world import apply, build

from hdev_memory import durable
from hdev_memory.backends.base import Put, Remove
from hdev_memory.backends.filesystem import FilesystemBackend
from hdev_memory.core.entry import Normalisation

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere there is no one sync for many files"
)

NORMAL = Normalisation()
OLD, NEW = NORMAL.state(b"old", {"k": 1}), NORMAL.state(b"new", {"k": 2})


class CountingDisk(QuietDisk):
    """Counts the syncs: of files and folders, and of the whole filesystem."""

    def __init__(self) -> None:
        self.syncs = self.filesystem_syncs = 0

    def sync(self, descriptor: int) -> None:
        self.syncs += 1

    def sync_filesystem(self, descriptor: int) -> None:
        self.filesystem_syncs += 1

    @property
    def counts(self) -> tuple[int, int]:
        return self.syncs, self.filesystem_syncs


@pytest.fixture
def disk(monkeypatch):
    disk = CountingDisk()
    monkeypatch.setattr(durable, "disk", disk)
    return disk


def create(key: str) -> Put:
    return Put(key=key, content=b"new", metadata={"k": 2}, before=None, after=NEW)


def changes(kind: str, count: int) -> list[Put | Remove]:
    keys = [f"k{number}" for number in range(count)]
    match kind:
        case "create":
            return [create(key) for key in keys]
        case "overwrite":
            return [
                Put(key=key, content=b"new", metadata={"k": 2}, before=OLD, after=NEW)
                for key in keys
            ]
        case _:
            return [Remove(key=key, before=OLD) for key in keys]


def store(root, kind, count):
    for number in range(count if kind != "create" else 0):
        (root / f"k{number}.md").write_bytes(b"old")
        (root / f"k{number}.metadata.json").write_bytes(b'{"k": 1}')


@pytest.mark.parametrize(
    ("kind", "count", "expected"),
    [
        # Each staged file, the folder, and once the name of the store.
        ("create", 1, (2 + 1 + 1, 0)),
        ("overwrite", 1, (2 + 1 + 1, 0)),
        ("delete", 1, (0 + 1 + 1, 0)),
        ("create", 10, (20 + 1 + 1, 0)),
        ("overwrite", 10, (20 + 1 + 1, 0)),
        ("delete", 10, (0 + 1 + 1, 0)),
        # Once what is staged, once what took effect; and the name of the store.
        ("create", 100, (1, 2)),
        ("overwrite", 100, (1, 2)),
        ("delete", 100, (1, 2)),
    ],
)
def test_a_write_syncs_as_often_as_it_must(tmp_path, disk, kind, count, expected):
    store(tmp_path, kind, count)
    with FilesystemBackend(str(tmp_path), must_exist=True) as backend:
        receipts = backend.write(changes(kind, count), NORMAL)

    assert len(receipts) == count
    assert disk.counts == expected


def test_a_second_write_does_not_sync_the_name_of_the_store_again(tmp_path, disk):
    with FilesystemBackend(str(tmp_path), must_exist=True) as backend:
        backend.write([create("one")], NORMAL)
        first = disk.syncs
        backend.write([create("two")], NORMAL)

    assert disk.syncs - first == 2 + 1


def test_every_folder_on_the_way_to_a_changed_one_is_synced_once(tmp_path, disk):
    with FilesystemBackend(str(tmp_path), must_exist=True) as backend:
        backend.write([create("a/b/one"), create("a/b/two")], NORMAL)

    assert disk.syncs == 4 + 3 + 1


def test_a_throw_away_target_is_never_synced(tmp_path, disk):
    with FilesystemBackend(str(tmp_path), must_exist=True, sync=False) as backend:
        backend.write(changes("create", 3), NORMAL)

    assert disk.counts == (0, 0)


def test_a_large_apply_costs_no_more_syncs_than_its_batches(tmp_path, disk):
    world = build(tmp_path / "world", extra=300)
    disk.syncs = disk.filesystem_syncs = 0
    apply(world.place, world.place / "source")

    # Of each of two batches: two for the pre-images, two for the entries.
    assert disk.filesystem_syncs == 8
    # The log's name; started, intents and outcomes of two batches, finished; the names of the
    # target and of the backup, which is made and whose place is; the receipt and its name.
    assert disk.syncs == 1 + 6 + 2 + 2 + 2
