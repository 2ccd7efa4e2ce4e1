"""What a database promises beside the suite: transactions, fences, rows edited by hand."""

import contextlib
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.backends.databases import KINDS, NORMAL, made, put, remove, state

from hdev_memory.backends.base import (
    EVERYTHING,
    MAX_ENTRY_BYTES,
    Drifted,
    Failed,
    Overtaken,
    Removed,
    Session,
    Stored,
)
from hdev_memory.backends.sql import INLINE_BYTES
from hdev_memory.core.audit import EMPTY, Headmark
from hdev_memory.core.entry import Absent, Entry, Normalisation, Unreadable, tag_of
from hdev_memory.errors import LockedError, StoreError

WRITERS = 32


@pytest.fixture(params=KINDS)
def database(request, tmp_path):
    return made(request.param, tmp_path, lambda: request.getfixturevalue("postgres"))


@pytest.fixture
def backend(database):
    with database.opened() as backend:
        yield backend


def one(backend, change, session=None):
    (receipt,) = backend.write([change], NORMAL, *([session] if session else []))
    return receipt


def read(backend, key):
    (found,) = backend.read([key])
    return found


def test_looking_makes_nothing_and_the_first_write_makes_the_memory(database):
    with database.opened() as backend:
        looked = (list(backend.keys()), read(backend, "a"), backend.holder(), backend.release())
        before = backend.endpoint.store
        with database.opened() as other:
            assert other.endpoint.store is None
        one(backend, put("a"))

        assert looked == ([], Absent(key="a"), None, False)
        assert before is None
        assert backend.endpoint.store is not None
        with database.opened(must_exist=True) as other:
            assert other.endpoint == backend.endpoint


def test_a_source_that_is_not_there_is_an_error(database):
    with pytest.raises(StoreError, match="There is no memory in the source database"):
        database.opened(must_exist=True)


def test_many_who_make_the_memory_at_once_make_one(database):
    with ThreadPoolExecutor(8) as threads:

        def write(number):
            with database.opened() as backend:
                one(backend, put(f"k{number}"))
                return backend.endpoint.store

        stores = set(threads.map(write, range(8)))

    assert len(stores) == 1
    with database.opened() as backend:
        assert len(list(backend.keys())) == 8


STRANGE = {
    "nul in content": (b"a\0b", {}),
    "nul in metadata": (b"x", {"k": "a\0b"}),
    "percent and question mark": (b"%s ? :x $1", {"%s": "?"}),
    "astral": ("\U0001f600".encode(), {"\U0001f600": ["\U0001f600"]}),
    "floats and depth": (b"x", {"f": 1.5, "d": {"e": [1, None, True, {"g": -0.25}]}}),
    "bookkeeping": (b"x", {"created": "then", "updated": 1.5, "version": 3, "k": 1}),
}


@pytest.mark.parametrize("name", STRANGE)
def test_strange_contents_come_back_with_the_tag_of_what_was_stored(backend, name):
    content, metadata = STRANGE[name]
    receipt = one(backend, put("a", content, metadata))
    ((seen, tag),) = backend.tagged(EVERYTHING, NORMAL)

    assert receipt == Stored(key="a", state=state(content, metadata))
    assert read(backend, "a") == Entry(key="a", content=content, metadata=metadata)
    assert (seen.state, tag) == (receipt.state, tag_of(content, metadata))


def test_keys_are_sorted_by_their_code_points(backend):
    keys = [
        "a",
        "a-b",
        "a/b",
        "a0",
        "B",
        "%",
        "?",
        "'",
        '"',
        "é",
        "e\u0301",
        "\uffff",
        "\U00010000",
    ]
    backend.write([put(key) for key in keys], NORMAL)

    assert list(backend.keys()) == sorted(keys)
    assert [item.key for item in backend.snapshot(EVERYTHING, NORMAL)] == sorted(keys)


def test_line_ends_are_compared_as_they_are_asked_for(backend):
    lf = Normalisation(line_ends="lf")
    content = b"a\r\nb\rc\n"
    one(backend, put("a", content))
    (seen,) = backend.snapshot(EVERYTHING, lf)

    assert seen.state == lf.state(content, {})
    assert read(backend, "a").content == content
    (receipt,) = backend.write([put("a", b"new", before=lf.state(content, {}))], lf)
    assert receipt == Stored(key="a", state=lf.state(b"new", {}))


def test_other_bookkeeping_keys_than_ours_are_obeyed(backend):
    other = Normalisation(bookkeeping=("k",))
    one(backend, put("a", b"x", {"k": 1, "created": "then"}))
    (seen,) = backend.snapshot(EVERYTHING, other)

    assert seen.state == other.state(b"x", {"created": "then"})
    (receipt,) = backend.write([remove("a", seen.state)], other)
    assert receipt == Removed(key="a")


def test_contents_too_long_to_be_fetched_together_are_read_whole(backend):
    long = b"0123456789" * (INLINE_BYTES // 5)
    backend.write([put("a", long), put("b"), put("c", long)], NORMAL)

    assert [found.content for found in backend.read(["a", "b", "c"])] == [long, b"x", long]


def test_content_beyond_the_limit_is_not_sent(backend):
    too_long = b"x" * (MAX_ENTRY_BYTES + 1)
    receipts = backend.write([put("a", too_long), put("b")], NORMAL)

    assert receipts[0] == Failed(
        key="a", reason="Content too large for target backend", intact=True
    )
    assert list(backend.keys()) == ["b"]


def test_a_snapshot_is_of_one_moment(backend, database):
    backend.write([put(f"k{number:04}") for number in range(3000)], NORMAL)
    snapshot = backend.snapshot(EVERYTHING, NORMAL)
    first = next(snapshot)
    with database.opened() as other:
        other.write([remove("k2999", state()), put("k2999x")], NORMAL)
        assert one(other, put("k0001", b"new", before=state())) == Stored("k0001", state(b"new"))
    rest = list(snapshot)

    assert [first.key, *(item.key for item in rest)] == [f"k{n:04}" for n in range(3000)]
    assert rest[0].state == state()


def test_of_writers_that_saw_the_same_tag_one_wins_though_only_bookkeeping_differs(
    backend, database
):
    one(backend, put("a", b"x", {"version": 0}))
    tag = tag_of(b"x", {"version": 0})
    start = threading.Barrier(WRITERS)

    def contend(number):
        change = put("a", b"x", {"version": number + 1}, before=state(), tag=tag)
        with database.opened() if number % 4 == 0 else backend_kept() as own:
            start.wait()
            return one(own, change)

    def backend_kept():
        return contextlib.nullcontext(backend)

    with ThreadPoolExecutor(WRITERS) as threads:
        receipts = list(threads.map(contend, range(WRITERS)))

    winners = [number for number, found in enumerate(receipts) if isinstance(found, Stored)]
    assert len(winners) == 1
    assert read(backend, "a").metadata == {"version": winners[0] + 1}
    assert {type(found) for found in receipts} == {Stored, Drifted}


COUNTING = """
import sys, threading
from tests.backends.databases import NORMAL, put, state
from hdev_memory.backends import open_backend
from hdev_memory.backends.base import Secret, Stored, Where

kind, location, user = sys.argv[1:4]
password = sys.stdin.readline().strip()
acknowledged = []

def count():
    where = Where(kind, location, Secret(password) if password else None, user or None)
    with open_backend(where, must_exist=True) as backend:
        while len(acknowledged) < 40:
            (found,) = backend.read(["count"])
            number = int(found.content) + 1
            (receipt,) = backend.write(
                [put("count", b"%d" % number, before=state(found.content))], NORMAL
            )
            if isinstance(receipt, Stored):
                acknowledged.append(number)

threads = [threading.Thread(target=count) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(*acknowledged)
"""


def test_processes_and_threads_lose_no_update_to_each_other(backend, database):
    one(backend, put("count", b"0"))
    where = database.where
    command = [sys.executable, "-c", COUNTING, where.kind, where.location, where.user or ""]
    password = where.key.reveal() if where.key is not None else ""
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [process.communicate(f"{password}\n", timeout=60)[0].split() for process in running]

    counts = sorted(int(number) for numbers in told for number in numbers)
    assert all(len(numbers) >= 40 for numbers in told)
    assert counts == list(range(1, len(counts) + 1))
    assert read(backend, "count").content == b"%d" % len(counts)


EDITED = {
    "other content": ("content = %s", b"edited!", "its content does not have the"),
    "invalid JSON": ("metadata = %s", "{", "its metadata is not valid JSON"),
    "a key twice": ("metadata = %s", '{"k":1,"k":2}', "its metadata names a key twice"),
    "other metadata": ("metadata = %s", '{"k":2}', "its metadata does not have the digest"),
    "no digest": ("content_digest = %s", "nonsense", "something else than digests"),
    "another digest": ("metadata_digest = %s", "0" * 64, "its metadata does not have the digest"),
    "not UTF-8": ("content = %s", b"\xff1234567"[:7], "its content does not have the"),
}


@pytest.mark.parametrize("name", EDITED)
def test_a_row_that_was_edited_by_hand_is_unreadable_and_is_not_written_over(
    backend, database, name
):
    before = state(b"content", {"k": 1})
    one(backend, put("a", b"content", {"k": 1}))
    column, value, reason = EDITED[name]
    with database.by_hand() as run:
        run(f"UPDATE entries SET {column} WHERE key = 'a'", value)
        stands = run("SELECT * FROM entries")
        found = read(backend, "a")
        receipts = [
            one(backend, put("a", b"ours", before=before)),
            one(backend, put("a", b"ours")),
            one(backend, remove("a", before)),
        ]
        afterwards = run("SELECT * FROM entries")

    assert isinstance(found, Unreadable)
    assert reason in found.reason
    assert {type(receipt) for receipt in receipts} <= {Failed, Drifted}
    assert not any(isinstance(r, Failed) and r.intact for r in receipts)
    assert afterwards == stands


@pytest.mark.parametrize(
    ("column", "value"),
    [("content", b"longer than before"), ("metadata", "[]"), ("tag", "nonsense")],
)
def test_a_snapshot_tells_a_row_that_cannot_be_right(backend, database, column, value):
    backend.write([put("a"), put("b"), put("c")], NORMAL)
    with database.by_hand() as run:
        run(f"UPDATE entries SET {column} = %s WHERE key = 'b'", value)
    found = list(backend.snapshot(EVERYTHING, NORMAL))

    assert [item.key for item in found] == ["a", "b", "c"]
    assert [isinstance(item, Unreadable) for item in found] == [False, True, False]


def test_a_key_that_is_none_ends_the_listing_with_an_error(backend, database):
    one(backend, put("a"))
    with database.by_hand() as run:
        run("UPDATE entries SET key = %s", "../etc/passwd")

    with pytest.raises(StoreError, match="has no key"):
        list(backend.keys())
    with pytest.raises(StoreError, match="has no key"):
        list(backend.snapshot(EVERYTHING, NORMAL))


def test_what_is_written_in_a_transaction_takes_effect_at_its_end_or_not_at_all(backend, database):
    one(backend, put("old", b"old"))
    with database.opened() as other:
        with contextlib.suppress(ZeroDivisionError), backend.transaction():
            receipts = backend.write([put("new"), remove("old", state(b"old"))], NORMAL)
            meanwhile = list(other.keys())
            raise ZeroDivisionError
        taken_back = list(other.keys())
        with backend.transaction():
            backend.write([put("new"), remove("old", state(b"old"))], NORMAL)

        assert [type(receipt) for receipt in receipts] == [Stored, Removed]
        assert meanwhile == taken_back == ["old"]
        assert list(other.keys()) == ["new"]


def test_the_log_is_appended_to_with_the_entries_or_not_at_all(backend):
    head = Headmark(seq=2, digest="1" * 64)

    def append():
        backend.log_append(lambda found: ([(found.seq + 1, b"one"), (found.seq + 2, b"two")], head))

    with contextlib.suppress(ZeroDivisionError), backend.transaction():
        append()
        raise ZeroDivisionError
    assert (backend.log_head(), list(backend.log_lines())) == (EMPTY, [])
    with backend.transaction():
        append()

    assert (backend.log_head(), list(backend.log_lines())) == (head, [b"one\n", b"two\n"])
    assert backend.log_page(1, 10, 1000) == ([b"two"], head)
    assert backend.log_page(0, 1, 1000) == ([b"one"], head)


def test_a_log_with_a_gap_at_its_end_is_told(backend, database):
    head = Headmark(seq=1, digest="1" * 64)
    with backend.transaction():
        backend.log_append(lambda found: ([(1, b"one")], head))
    with database.by_hand() as run:
        run("DELETE FROM log")

    with pytest.raises(StoreError, match="shorter than it was"):
        backend.log_page(0, 10, 1000)


def test_a_write_with_an_overtaken_fence_has_no_effect(backend):
    backend.prepare()
    first = backend.leases.acquire("first", 30).fence
    assert isinstance(one(backend, put("a"), Session(fence=first)), Stored)
    backend.leases.force()

    with pytest.raises(Overtaken) as overtaken:
        backend.write([put("b"), put("c")], NORMAL, Session(fence=first))
    assert overtaken.value.fence > first
    assert list(backend.keys()) == ["a"]
    assert isinstance(one(backend, put("b"), Session(fence=overtaken.value.fence)), Stored)


def test_no_fence_is_given_while_a_write_under_an_older_one_is_on_its_way(backend, database):
    backend.prepare()
    first = backend.leases.acquire("first", 30).fence
    order = []
    with database.opened() as other:

        def overtake():
            other.leases.force()
            order.append("overtaken")

        thread = threading.Thread(target=overtake)
        with backend.transaction():
            backend.write([put("a")], NORMAL, Session(fence=first))
            thread.start()
            thread.join(0.3)
            order.append("written")
        thread.join(30)

    assert order == ["written", "overtaken"]
    assert list(backend.keys()) == ["a"]


def test_a_second_holder_is_kept_out_and_told_who_holds_it(backend, database):
    one(backend, put("a"))
    with database.opened() as other, backend.hold("the first"):
        holder = other.holder()
        with pytest.raises(LockedError, match="the first holds the lock"), other.hold("second"):
            pass

    assert holder.name == "the first"
    assert 0 < holder.expires_in <= 15
    assert backend.holder() is None


def test_who_was_shut_out_writes_no_more(backend, database):
    one(backend, put("a"))
    with database.opened() as other, backend.hold("the first"):
        assert isinstance(one(backend, put("b")), Stored)
        assert other.release()
        with pytest.raises(LockedError, match="given to somebody else, or broken"):
            one(backend, put("c"))

    assert list(backend.keys()) == ["a", "b"]


def test_a_lease_that_nobody_renews_ends(backend, database):
    backend.prepare()
    backend.leases.acquire("gone", 30)
    with database.by_hand() as run:
        run("UPDATE lease SET ends = ends - 31")

    assert backend.leases.status() is None
    assert backend.leases.acquire("next", 30).fence == 2


def test_a_memory_of_a_newer_version_is_refused(backend, database):
    one(backend, put("a"))
    with database.by_hand() as run:
        run("PRAGMA user_version = 2" if database.url is None else "UPDATE store SET version = 2")

    with pytest.raises(StoreError, match="made by a newer version"):
        database.opened()


def test_a_store_of_another_identity_is_not_the_one_that_was_opened(backend, database):
    one(backend, put("a"))
    assert backend.present()
    if database.url is not None:
        with database.by_hand() as run:
            run("UPDATE store SET id = 'another'")

        assert not backend.present()


def test_a_long_batch_is_written_whole_and_in_order(backend):
    changes = [put(f"k{n:05}", b"%d" % n, {"n": n}) for n in range(5000)]
    receipts = backend.write(changes, NORMAL)
    removed = backend.write([remove(c.key, c.after) for c in changes[::2]], NORMAL)

    assert receipts == [Stored(key=c.key, state=c.after) for c in changes]
    assert removed == [Removed(key=c.key) for c in changes[::2]]
    assert list(backend.keys()) == [c.key for c in changes[1::2]]
