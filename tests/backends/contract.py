"""The suite that every backend must pass: the promises of `backends/base.py`.

A test module takes it with `from tests.backends.contract import *` and a fixture `backend`, which
gives an empty, open backend.
"""

import threading

import pytest

from hdev_memory.backends.base import (
    EVERYTHING,
    Drifted,
    Failed,
    Put,
    Remove,
    Removed,
    Scope,
    Stored,
)
from hdev_memory.core.entry import Absent, Entry, Normalisation, Unreadable

NORMAL = Normalisation()


def put(key, content=b"x", metadata=None, before=None):
    metadata = metadata or {}
    after = NORMAL.state(content, metadata)
    return Put(key=key, content=content, metadata=metadata, before=before, after=after)


def write(backend, *changes):
    return list(backend.write(changes, NORMAL))


def read(backend, key):
    return next(iter(backend.read([key])))


CONTENTS = [b"", b"a\r\nb\rc", b"\xef\xbb\xbfbom\n", "astral \U0001f600".encode(), b"no newline"]


@pytest.mark.parametrize("content", CONTENTS)
def test_content_comes_back_byte_for_byte(backend, content):
    write(backend, put("a/b", content))

    assert read(backend, "a/b").content == content


def test_metadata_comes_back_with_its_bookkeeping(backend):
    metadata = {"k": [1, {"ü": None}], "version": 7, "created": "then"}
    write(backend, put("a", metadata=metadata))

    assert read(backend, "a").metadata == metadata


def test_an_overwrite_replaces_metadata_and_leaves_no_old_key(backend):
    first = put("a", metadata={"old": 1})
    write(backend, first)
    write(backend, put("a", metadata={"new": 2}, before=first.after))

    assert read(backend, "a").metadata == {"new": 2}


def test_snapshots_are_complete_and_sorted_by_whole_key(backend):
    keys = ["a", "a-b", "a.b", "a/b", "a0", "b/c/d"]
    write(backend, *(put(key) for key in reversed(keys)))

    assert [found.key for found in backend.snapshot(EVERYTHING, NORMAL)] == sorted(keys)
    assert list(backend.keys()) == sorted(keys)


def test_the_scope_limits_snapshots_and_keys(backend):
    write(backend, *(put(key) for key in ("a/x", "b/x", "b/y.draft")))
    scope = Scope(include=["b/"], exclude=["*.draft"])

    assert [found.key for found in backend.snapshot(scope, NORMAL)] == ["b/x"]
    assert list(backend.keys(scope)) == ["b/x"]


def test_reading_answers_each_key_in_order(backend):
    write(backend, put("here"), put("d/here"))
    kinds = [type(found) for found in backend.read(["here", "gone", "d/gone", "d/here", "d"])]

    assert kinds == [Entry, Absent, Absent, Entry, Absent]


@pytest.mark.parametrize("key", ["../x", "/etc/x", "a//b", "a\\b", "a\nb"])
def test_keys_that_escape_are_refused_for_reading_and_writing(backend, key):
    (receipt,) = write(backend, put(key))

    assert isinstance(receipt, Failed)
    assert not isinstance(read(backend, key), Entry)
    assert list(backend.keys()) == []


def test_a_create_over_an_existing_entry_drifts_and_changes_nothing(backend):
    write(backend, put("a", b"theirs"))
    (receipt,) = write(backend, put("a", b"ours"))

    assert isinstance(receipt, Drifted)
    assert receipt.found == NORMAL.state(b"theirs", {})
    assert read(backend, "a").content == b"theirs"


def test_an_overwrite_and_a_delete_of_a_changed_entry_drift_and_change_nothing(backend):
    write(backend, put("a", b"theirs"))
    stale = NORMAL.state(b"what we saw", {})
    receipts = write(backend, put("a", b"ours", before=stale))
    receipts += write(backend, Remove(key="a", before=stale))

    assert [type(receipt) for receipt in receipts] == [Drifted, Drifted]
    assert read(backend, "a").content == b"theirs"


def test_a_delete_removes_the_entry_and_nothing_below_its_name(backend):
    first = put("a")
    write(backend, first, put("a/b"))
    (receipt,) = write(backend, Remove(key="a", before=first.after))

    assert isinstance(receipt, Removed)
    assert list(backend.keys()) == ["a/b"]


def test_receipts_come_in_order_and_one_bad_entry_stays_one(backend):
    receipts = write(backend, put("a"), put("../b"), put("c"))

    assert [type(receipt) for receipt in receipts] == [Stored, Failed, Stored]
    assert [receipt.key for receipt in receipts] == ["a", "../b", "c"]


@pytest.mark.parametrize(
    "key", ["notes/v1.2", "c#", "c?x", "100%41", "ä/日本", "a b", "+", "x" * 241]
)
def test_unusual_names_keep_their_own_text(backend, key):
    write(backend, put(key, key.encode()))

    assert read(backend, key).content == key.encode()
    assert list(backend.keys()) == [key]


def test_of_many_writers_of_one_new_key_exactly_one_wins(backend):
    receipts = []
    start = threading.Barrier(8)

    def contend(number):
        start.wait()
        receipts.extend(write(backend, put("a", b"%d" % number)))

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    winners = [receipt for receipt in receipts if isinstance(receipt, Stored)]
    assert len(winners) == 1
    assert read(backend, "a").content in [b"%d" % number for number in range(8)]
    assert NORMAL.state(read(backend, "a").content, {}) == winners[0].state


def test_nothing_is_unreadable_in_a_healthy_store(backend):
    write(backend, *(put(f"k{number:03}") for number in range(70)))

    assert not [s for s in backend.snapshot(EVERYTHING, NORMAL) if isinstance(s, Unreadable)]
