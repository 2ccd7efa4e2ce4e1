"""The store by itself: one writer's batches, and readers beside it."""

import contextlib
import dataclasses
import errno
import threading
from datetime import UTC, datetime

import pytest

from hdev_memory import durable
from hdev_memory.backends.base import Drifted, Failed, Overtaken, Put, Stored
from hdev_memory.backends.ephemeral import EphemeralBackend
from hdev_memory.backends.filesystem import FilesystemBackend
from hdev_memory.core.entry import Entry, Normalisation, tag_of
from hdev_memory.errors import BackendError, StoreError
from hdev_memory.server.audit import ServerLog
from hdev_memory.server.conditions import Conditions, PreconditionFailed
from hdev_memory.server.journal import JOURNAL_FILE, RUN, Journal
from hdev_memory.server.lease import Fences, LeaseLock, Superseded
from hdev_memory.server.store import NORMAL, Refused, Store

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
        with pytest.raises(BackendError):
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


def test_what_a_killed_server_has_staged_goes_also_where_there_is_no_entry_yet(root):
    (root / "new/empty").mkdir(parents=True)
    staged = root / "new/empty" / f"{durable.STAGED_PREFIX}{RUN}-0123456789abcdef0c-1"
    staged.write_bytes(b"half of it")
    (root / JOURNAL_FILE).write_bytes(b"")
    with (
        FilesystemBackend(str(root), must_exist=True) as folder,
        contextlib.closing(Journal(root)) as journal,
    ):
        recovered = journal.recover(folder, NORMAL)

    assert not staged.exists()
    assert recovered.kept == ()


def test_a_journal_that_was_closed_lets_nothing_be_written(root):
    journal = Journal(root)
    with FilesystemBackend(str(root), must_exist=True) as backend:
        store = Store(backend, LeaseLock(lambda: 0.0, Fences()), journal)
        journal.close()
        with pytest.raises(StoreError):
            put(store, "k", 1).result(timeout=30)

    assert list(root.iterdir()) == []


# Many entries at once


def changes(keys, number=1, before=None):
    content, metadata = str(number).encode() * 500, {"number": number}
    after = NORMAL.state(content, metadata)
    return [
        Put(key=key, content=content, metadata=metadata, before=before, after=after) for key in keys
    ]


class Syncing(durable.Disk):
    """A disk that counts what makes it durable."""

    count = 0

    def sync(self, descriptor):
        self.count += 1
        super().sync(descriptor)

    def sync_filesystem(self, descriptor):
        self.count += 1
        super().sync_filesystem(descriptor)


def test_a_batch_costs_as_many_syncs_however_many_changes_it_has(tmp_path, monkeypatch):
    counted = []
    for size in (150, 600):
        root = tmp_path / f"store{size}"
        root.mkdir()
        with (
            FilesystemBackend(str(root), must_exist=True) as backend,
            ServerLog(root / "log", lambda: datetime.now(UTC)) as log,
        ):
            store = Store(backend, LeaseLock(lambda: 0.0, Fences()), Journal(root), log)
            with monkeypatch.context() as patch:
                disk = Syncing()
                patch.setattr(durable, "disk", disk)
                store.write(changes(f"k{n}" for n in range(size))).result(timeout=30)
                counted.append(disk.count)

    assert counted[0] == counted[1] > 0


def test_batches_of_several_clients_share_what_makes_them_durable(root, monkeypatch):
    disk = Counting()
    monkeypatch.setattr(durable, "disk", disk)
    with FilesystemBackend(str(root), must_exist=True) as backend:
        store = Store(backend, LeaseLock(lambda: 0.0, Fences()), Journal(root))
        go = held_up(store)
        batches = [store.write(changes(f"c{client}/{key}" for key in KEYS)) for client in range(8)]
        alone = put(store, "alone", 1)
        go.set()
        for batch in batches:
            assert all(isinstance(one, Stored) for one in batch.result(timeout=30))
        alone.result(timeout=30)

    assert disk.batches == 1


def test_a_single_write_does_not_wait_for_all_batches_before_it(store, monkeypatch):
    monkeypatch.setattr("hdev_memory.server.store.TURN", len(KEYS))
    ended = []
    go = held_up(store)
    for client in range(6):
        batch = store.write(changes(f"c{client}/{key}" for key in KEYS))
        batch.add_done_callback(lambda _, client=client: ended.append(client))
    put(store, "alone", 1).add_done_callback(lambda _: ended.append("alone"))
    last = store.exclusively(lambda: None)
    go.set()
    last.result(timeout=30)

    assert ended.index("alone") <= 1
    assert [each for each in ended if each != "alone"] == list(range(6))


def test_of_batches_that_wait_each_precondition_has_one_winner(store):
    go = held_up(store)
    batches = [store.write(changes(KEYS, number)) for number in range(3)]
    go.set()
    first, *others = [batch.result(timeout=30) for batch in batches]

    assert all(isinstance(receipt, Stored) for receipt in first)
    for receipts in others:
        assert [receipt.found for receipt in receipts] == [first[0].state] * len(KEYS)


class Breaks(EphemeralBackend):
    """A store that fails at a key, so many times seen: before anything took effect, or then."""

    def __init__(self, error, *, began, seen=1):
        super().__init__()
        self._error = error
        self._began = began
        self._left = seen

    def write(self, batch, normalisation, session):
        self._left -= any(change.key == "broken" for change in batch)
        broken = self._left == 0
        if broken and not self._began:
            raise self._error
        receipts = super().write(batch, normalisation, session)
        if broken:
            raise self._error
        return receipts


FULL = OSError(errno.ENOSPC, "No space left on device")


def test_when_a_store_fails_before_anything_took_effect_each_entry_is_known_to_be_intact():
    store = Store(Breaks(FULL, began=False), LeaseLock(lambda: 0.0, Fences()))
    receipts = store.write(changes(["a", "broken"])).result(timeout=30)

    reason = "No space left on target"
    assert receipts == [Failed(key=key, reason=reason, intact=True) for key in ("a", "broken")]


@pytest.mark.parametrize("error", [FULL, StoreError("The database is gone.")])
def test_when_a_store_fails_in_the_middle_nothing_is_claimed(error):
    store = Store(Breaks(error, began=True), LeaseLock(lambda: 0.0, Fences()))

    with pytest.raises(StoreError):
        store.write(changes(["a", "broken"])).result(timeout=30)
    assert isinstance(store.read("a"), Entry)  # and can be read again


def test_what_was_done_before_a_store_failed_is_told():
    store = Store(Breaks(FULL, began=True, seen=2), LeaseLock(lambda: 0.0, Fences()))
    go = held_up(store)
    other = store.write(changes(["broken"]))
    batch = store.write(changes(["a", "broken"]))
    go.set()
    (first,) = other.result(timeout=30)
    kept, broken = batch.result(timeout=30)

    assert isinstance(first, Stored)
    assert isinstance(kept, Stored)
    assert (broken.key, broken.intact) == ("broken", False)


class Superseding(EphemeralBackend):
    """A store that keeps the lease itself, and has given out a higher fence."""

    def write(self, batch, normalisation, session):
        if session.fence is not None and session.fence < 5:
            raise Overtaken(5)
        return super().write(batch, normalisation, session)


def test_a_store_that_knows_of_a_higher_fence_stops_only_those_below_it():
    store = Store(Superseding(), LeaseLock(lambda: 0.0, Fences()))
    go = held_up(store)
    old = store.write(changes(["old"]), fence=4)
    alone = put(store, "alone", 1, fence=3)
    free = store.write(changes(["free"]))
    go.set()

    for stopped in (old, alone):
        with pytest.raises(Superseded):
            stopped.result(timeout=30)
    assert isinstance(free.result(timeout=30)[0], Stored)
    assert [entry.key for entry in store.read_each(["free"])] == ["free"]
    assert list(store.backend.keys()) == ["free"]


def test_snapshots_and_reads_of_many_see_each_entry_whole_while_it_is_written(store):
    store.write(changes(KEYS, 0)).result()
    done = threading.Event()

    def write():
        before = NORMAL.state(b"0" * 500, {"number": 0})
        for number in range(1, 60):
            made = changes(KEYS, number, before)
            store.write(made).result()
            before = made[0].after
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        for entry in store.read_each(KEYS):
            number = entry.metadata["number"]
            assert entry.content == str(number).encode() * 500
        found = list(store.tagged(NORMAL))
        assert [state.key for state, _ in found] == sorted(KEYS)
        for state, tag in found:
            number = state.metadata["number"]
            content = str(number).encode() * 500
            assert state.state == NORMAL.state(content, {"number": number})
            assert tag == tag_of(content, {"number": number})
            seen.add(number)
    writer.join()

    assert len(seen) > 3


def test_a_snapshot_waits_for_one_batch_though_there_is_always_another(store, monkeypatch):
    """One turn for all that is being written, and not one for each: it would never end."""
    store.write(changes(KEYS, 0)).result()
    held, exclusively = store.backend.write, store.exclusively
    begun, released = threading.Semaphore(0), threading.Semaphore(0)
    numbers = iter(range(1, 1000))
    outcomes, turns = [], []

    def write(batch, normalisation, session):
        def intend(ready):
            session.intend(ready)
            begun.release()
            assert released.acquire(timeout=30)

        return held(batch, normalisation, dataclasses.replace(session, intend=intend))

    def another():
        number = next(numbers)
        before = NORMAL.state(str(number - 1).encode() * 500, {"number": number - 1})
        outcomes.append(store.write(changes(KEYS, number, before)))

    def taken(call):
        """Behind the turn there is another batch, which has begun before anybody looks."""
        turn = exclusively(call)
        another()
        released.release()
        turns.append(turn.result(timeout=30))
        assert begun.acquire(timeout=30)
        return turn

    monkeypatch.setattr(store.backend, "write", write)
    another()
    assert begun.acquire(timeout=30)
    monkeypatch.setattr(store, "exclusively", taken)
    found = list(store.tagged(NORMAL))
    monkeypatch.setattr(store, "exclusively", exclusively)
    released.release()

    assert len(turns) == 1
    assert [state.key for state, _ in found] == sorted(KEYS)
    assert {state.metadata["number"] for state, _ in found} == {1}
    for outcome in outcomes:
        assert all(isinstance(receipt, Stored) for receipt in outcome.result(timeout=30))


def test_a_batch_that_compares_otherwise_looks_again_when_somebody_else_was_faster(store, root):
    lf = Normalisation(line_ends="lf")
    store.write(changes(["k"])).result()
    held = store.backend.write
    raced = []

    def write(batch, normalisation, session):
        if not raced:  # between the look and the write, the line ends alone change
            raced.append(True)
            (root / "k.md").write_bytes(b"1" * 500 + b"\r\n")
        return held(batch, normalisation, session)

    store.backend.write = write
    (change,) = changes(["k"], 2, lf.state(b"1" * 500, {"number": 1}))
    (drifted,) = store.write([change], lf).result(timeout=30)
    stands = lf.state(b"1" * 500 + b"\n", {"number": 1})

    assert drifted == Drifted(key="k", found=stands)
    (again,) = changes(["k"], 2, stands)
    assert store.write([again], lf).result(timeout=30) == [Stored(key="k", state=again.after)]
