"""A memory in an SQLite file: the file itself, what else may be in its place, and sudden ends."""

import contextlib
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading

import pytest
from tests.backends.contract import statements
from tests.backends.databases import NORMAL, put, state

from hdev_memory.backends.base import PERMISSION_DENIED, Failed, Stored
from hdev_memory.backends.sqlite import APPLICATION_ID, SqliteBackend
from hdev_memory.core.entry import Entry
from hdev_memory.errors import LockedError, StoreError


@pytest.fixture
def file(tmp_path):
    return tmp_path / "below" / "memory.db"


def opened(file, **more):
    return SqliteBackend(str(file), **{"must_exist": False, **more})


def write(file, *keys):
    with opened(file) as backend:
        return backend.write([put(key) for key in keys], NORMAL)


def test_the_file_is_for_its_owner_alone_and_nothing_stays_beside_it(file):
    write(file, "a")
    with opened(file, must_exist=True) as backend:
        assert list(backend.keys()) == ["a"]
        beside = sorted(path.name for path in file.parent.iterdir())

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert beside == ["memory.db", "memory.db-shm", "memory.db-wal"]
    assert [path.name for path in file.parent.iterdir()] == ["memory.db"]


@pytest.mark.parametrize(("sync", "level"), [(True, 2), (False, 0)])
def test_every_commit_is_synced_unless_durability_was_given_up(file, sync, level):
    with opened(file, sync=sync) as backend:
        backend.write([put("a")], NORMAL)

        assert backend.run("PRAGMA synchronous") == [(level,)]
        assert backend.run("PRAGMA journal_mode") == [("wal",)]
        assert backend.capabilities.durability == ("synced" if sync else "unknown")


def foreign_database(file):
    with statements(file) as run:
        run("CREATE TABLE theirs (a)")


def newer_database(file):
    with statements(file) as run:
        run(f"PRAGMA application_id = {APPLICATION_ID}")
        run("PRAGMA user_version = 2")
        run("CREATE TABLE store (id)")


def no_identity(file):
    write(file, "a")
    with statements(file) as run:
        run("DELETE FROM store")


OTHERS = {
    "text": (lambda file: file.write_text("# notes\n" * 500), "is no SQLite database"),
    "a short text": (lambda file: file.write_text("hello"), "is no SQLite database"),
    "a folder": (lambda file: file.mkdir(), "must be a file"),
    "a pipe": (os.mkfifo, "must be a file"),
    "another program's": (foreign_database, "is not a memory"),
    "a newer one": (newer_database, "made by a newer version"),
    "a damaged one": (no_identity, "is damaged"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_memory_is_refused_and_not_touched(file, name):
    make, what = OTHERS[name]
    file.parent.mkdir()
    make(file)
    before = file.read_bytes() if file.is_file() else None

    with pytest.raises(StoreError, match=what):
        opened(file)
    assert (file.read_bytes() if file.is_file() else None) == before


def no_table(file):
    with statements(file) as run:
        run("PRAGMA journal_mode = WAL")


@pytest.mark.parametrize("make", [lambda file: file.touch(), no_table])
def test_a_file_with_nothing_in_it_is_an_empty_target_and_no_source(file, make):
    file.parent.mkdir()
    make(file)

    with pytest.raises(StoreError, match="There is no memory"):
        opened(file, must_exist=True)
    assert write(file, "a") == [Stored(key="a", state=state())]


def test_who_looks_while_another_makes_the_memory_sees_all_of_it_or_nothing(file, monkeypatch):
    file.parent.mkdir()
    no_table(file)
    run = SqliteBackend._run

    def made_behind_the_first_look(self, connection, sql, *values):
        found = run(self, connection, sql, *values)
        if sql == "PRAGMA application_id":
            monkeypatch.undo()
            write(file, "a")
        return found

    monkeypatch.setattr(SqliteBackend, "_run", made_behind_the_first_look)
    with opened(file) as backend:
        assert list(backend.keys()) == ["a"]
        assert SqliteBackend._run is run


def test_who_makes_the_memory_waits_for_another_who_writes_into_the_file(file, monkeypatch):
    file.parent.mkdir()
    with statements(file) as run:
        run("CREATE TABLE t (x)")
        run("DROP TABLE t")
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        waited = []

        def wait(seconds):
            waited.append(seconds)
            other.rollback()

        monkeypatch.setattr("hdev_memory.backends.sqlite.time.sleep", wait)
        assert write(file, "a") == [Stored(key="a", state=state())]
        assert len(waited) == 1


def test_a_disk_without_room_fails_the_batch_and_keeps_what_was_there(file, monkeypatch):
    write(file, "old")
    with opened(file) as backend:
        ((pages,),) = backend.run("PRAGMA page_count")
        backend.run(f"PRAGMA max_page_count = {pages + 2}")
        full = backend.write([put("small"), put("large", b"x" * 500_000)], NORMAL)
        backend.run("PRAGMA max_page_count = 100000")
        again = backend.write([put("small"), put("large", b"x" * 500_000)], NORMAL)

    reason = "No space left for the database"
    assert full == [Failed(key=key, reason=reason, intact=True) for key in ("small", "large")]
    assert [type(receipt) for receipt in again] == [Stored, Stored]


def test_a_real_disk_without_room_does_as_well(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can make a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk]).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        with opened(disk / "m.db") as backend:
            assert [type(r) for r in backend.write([put("old")], NORMAL)] == [Stored]
            (full,) = backend.write([put("large", b"x" * 600_000)], NORMAL)
            found = list(backend.keys())
    finally:
        subprocess.run(["umount", disk], check=True)

    assert isinstance(full, Failed)
    assert full.intact
    assert found == ["old"]


WRITING = """
import sys
from hdev_memory.backends.base import Put
from hdev_memory.backends.sqlite import SqliteBackend
from hdev_memory.core.entry import Normalisation
NORMAL = Normalisation()
AFTER = NORMAL.state(b"x" * 3000, {})
def put(key):
    return Put(key=key, content=b"x" * 3000, metadata={}, before=None, after=AFTER)
with SqliteBackend(sys.argv[1], must_exist=False) as backend:
    for turn in range(100_000):
        backend.write([put(f"{turn:06}/{n}") for n in range(50)], NORMAL)
        print(turn, flush=True)
"""


def test_a_writer_that_is_killed_leaves_whole_batches_and_all_that_it_acknowledged(file):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITING, file], stdout=subprocess.PIPE, text=True
    )
    for _ in range(5):
        acknowledged = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    acknowledged = max([acknowledged, *map(int, process.communicate()[0].split())])
    with opened(file, must_exist=True) as backend:
        assert backend.run("PRAGMA integrity_check") == [("ok",)]
        turns = [key.partition("/")[0] for key in backend.keys()]  # noqa: SIM118 - no dict
        assert all(isinstance(found, Entry) for found in backend.read(backend.keys()))

    counts = {turn: turns.count(turn) for turn in set(turns)}
    assert set(counts.values()) == {50}
    assert len(counts) - 1 >= acknowledged
    assert write(file, "next") == [Stored(key="next", state=state())]


def as_nobody(call):
    """What a call prints in a process that may do nothing special."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        text = "died"
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
            text = repr(call())
        except BaseException as error:  # noqa: BLE001 - told to the test
            text = f"{type(error).__name__}: {error}"
        finally:
            os.write(writing, text.encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        text = told.read()
    os.waitpid(child, 0)
    return text


@pytest.fixture
def sealed(tmp_path_factory):
    """A file with an entry, in a folder where only its owner can write."""
    folder = tmp_path_factory.getbasetemp() / f"sealed-{os.urandom(4).hex()}"
    file = folder / "memory.db"
    write(file, "a")
    for place in (*list(folder.parents)[: len(folder.parents) - 2], folder):
        with contextlib.suppress(PermissionError):
            place.chmod(place.stat().st_mode | 0o111)
    file.chmod(0o444)
    folder.chmod(0o555)
    yield file
    folder.chmod(0o755)


def test_a_file_where_nothing_can_be_written_is_read_and_says_so_to_writes(sealed):
    def look():
        with opened(sealed, must_exist=True) as backend, backend.hold("somebody"):
            receipts = backend.write([put("b")], NORMAL)
            return list(backend.keys()), receipts

    wanted = (["a"], [Failed(key="b", reason=PERMISSION_DENIED, intact=True)])
    assert as_nobody(look) == repr(wanted)


def test_a_file_whose_log_cannot_be_read_there_is_not_read_without_it(sealed):
    sealed.parent.chmod(0o755)
    sealed.with_name("memory.db-wal").write_bytes(b"x" * 100)
    sealed.with_name("memory.db-wal").chmod(0o444)
    sealed.parent.chmod(0o555)

    def look():
        with opened(sealed, must_exist=True) as backend:
            return list(backend.keys())

    assert "cannot be read where it is" in as_nobody(look)


def test_a_file_that_was_moved_is_not_written_to_any_more(file):
    with opened(file) as backend:
        backend.write([put("a")], NORMAL)
        file.rename(file.with_name("away.db"))
        gone = backend.present()
        with pytest.raises(StoreError, match="The database file is gone"):
            backend.write([put("b")], NORMAL)
        file.with_name("away.db").rename(file)

        assert not gone
        assert backend.present()
        assert list(backend.keys()) == ["a"]


def test_a_writer_waits_for_another_one_and_then_says_that_it_is_locked(file):
    write(file, "a")
    with opened(file, timeout=0.1) as backend, statements(file) as run:
        run("BEGIN IMMEDIATE")
        with pytest.raises(LockedError, match="Somebody else is writing"):
            backend.write([put("b")], NORMAL)
        assert list(backend.keys()) == ["a"]
        run("ROLLBACK")
        assert backend.write([put("b")], NORMAL) == [Stored(key="b", state=state())]


def test_closing_one_backend_of_a_file_leaves_the_locks_of_another(file):
    write(file, "a")
    with opened(file) as backend:
        entered, done = threading.Event(), threading.Event()

        def hold():
            with backend.transaction():
                backend.write([put("b")], NORMAL)
                entered.set()
                done.wait(30)

        thread = threading.Thread(target=hold)
        thread.start()
        entered.wait(30)
        opened(file).close()
        begin = "sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
        code = f"import sqlite3, sys; {begin}"
        other = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True)
        done.set()
        thread.join()

    assert "database is locked" in other.stderr
