"""The store by itself: one writer's batches, and readers beside it."""

import contextlib
import threading

import pytest

from hdev_memory import durable
from hdev_memory.backends.filesystem import FilesystemBackend
from hdev_memory.core.entry import Entry
from hdev_memory.errors import StoreError
from hdev_memory.server.conditions import Conditions, PreconditionFailed
from hdev_memory.server.journal import JOURNAL_FILE, Journal
from hdev_memory.server.lease import Fences, LeaseLock
from hdev_memory.server.store import Refused, Store

KEYS = [f"k{number}" for number in range(40)]


@pytest.fixture
def root(tmp_path):
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


@pytest.fixture
def store(root):
    with FilesystemBackend(str(root), must_exist=True, sync=False) as backend:
        yield Store(backend, LeaseLock(lambda: 0.0, Fences()))


def put(store, key, number, **more):
    content = str(number).encode() * 500
    return store.put(key, content, {"number": number}, merge=False, **more)


def test_a_reader_never_sees_the_content_of_one_write_with_the_metadata_of_another(store):
    put(store, "busy", 0).result()
    done = threading.Event()

    def write():
        for number in range(1, 400):
            put(store, "busy", number).result()
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        entry = store.read("busy")
        assert isinstance(entry, Entry)
        number = entry.metadata["number"]
        assert entry.content == str(number).encode() * 500
        seen.add(number)
    writer.join()

    assert len(seen) > 10


def held_up(store):
    """Keep the writer busy until the event that is returned is set, so that writes gather."""
    go, busy = threading.Event(), threading.Event()

    def wait():
        busy.set()
        assert go.wait(timeout=30)

    store.exclusively(wait)
    assert busy.wait(timeout=30)
    return go


class Counting(durable.Disk):
    """A disk that counts how often a journal was emptied, which is once for each batch."""

    batches = 0

    def truncate(self, descriptor, size):
        self.batches += 1
        super().truncate(descriptor, size)


def test_writes_that_wait_are_carried_out_as_one_batch(root, monkeypatch):
    disk = Counting()
    monkeypatch.setattr(durable, "disk", disk)
    with FilesystemBackend(str(root), must_exist=True) as backend:
        store = Store(backend, LeaseLock(lambda: 0.0, Fences()), Journal(root))
        go = held_up(store)
        outcomes = [put(store, key, 1) for key in KEYS]
        go.set()
        for outcome in outcomes:
            outcome.result(timeout=30)

    assert disk.batches == 1


def test_in_one_batch_each_precondition_has_one_winner_in_the_order_of_arrival(store):
    go = held_up(store)
    absent = Conditions(if_none_match="*")
    outcomes = [put(store, "raced", number, conditions=absent) for number in range(20)]
    go.set()

    assert outcomes[0].result(timeout=30) is not None
    for outcome in outcomes[1:]:
        with pytest.raises(PreconditionFailed):
            outcome.result(timeout=30)
    assert store.read("raced").metadata == {"number": 0}


def test_writes_of_one_key_in_one_batch_see_each_other_in_order(store):
    go = held_up(store)
    outcomes = [
        put(store, "k", 1),
        store.delete("k"),
        store.delete("k"),
        put(store, "k", 2),
    ]
    go.set()
    results = [outcome.result(timeout=30) for outcome in outcomes]

    assert [result is not None for result in results] == [True, True, False, True]
    assert store.read("k").metadata == {"number": 2}


def test_one_that_cannot_be_written_does_not_harm_the_others_of_its_batch(store, root):
    (root / "file").write_text("in the way of a folder")
    go = held_up(store)
    bad, good = put(store, "file/below", 1), put(store, "good", 1)
    go.set()

    assert good.result(timeout=30) is not None
    with pytest.raises(Refused):
        bad.result(timeout=30)


def test_a_store_that_is_gone_fails_every_write_and_none_waits_for_ever(store, root):
    go = held_up(store)
    outcomes = [put(store, key, 1) for key in KEYS]
    root.rename(root.with_name("aside"))
    go.set()

    for outcome in outcomes:
        with pytest.raises(StoreError):
            outcome.result(timeout=30)


def test_after_a_batch_that_ended_nobody_knows_how_no_other_is_begun(root):
    journal = Journal(root)
    with FilesystemBackend(str(root), must_exist=True) as backend:
        store = Store(backend, LeaseLock(lambda: 0.0, Fences()), journal)
        with contextlib.suppress(OSError), journal.writing() as intend:
            intend([])
            raise OSError("the disk failed")
        with pytest.raises(StoreError):
            put(store, "k", 1).result(timeout=30)

    assert (root / JOURNAL_FILE).stat().st_size > 0
    assert not (root / "k.md").exists()


def test_a_journal_that_was_closed_lets_nothing_be_written(root):
    journal = Journal(root)
    with FilesystemBackend(str(root), must_exist=True) as backend:
        store = Store(backend, LeaseLock(lambda: 0.0, Fences()), journal)
        journal.close()
        with pytest.raises(StoreError):
            put(store, "k", 1).result(timeout=30)

    assert list(root.iterdir()) == []
