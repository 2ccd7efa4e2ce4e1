"""A server that is killed in the middle of its writers loses nothing that it acknowledged."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import httpx
import pytest
from tests.batches import Many, exact, remove
from tests.batches import put as change
from tests.conftest import put_entry, tree_of
from tests.direct import DIRECT
from tests.processes import PROGRAM, MemoryServer

from hdev_memory.backends.base import EVERYTHING, Put, Remove, Stored
from hdev_memory.backends.filesystem import FilesystemBackend
from hdev_memory.core import audit
from hdev_memory.core.digest import sha256
from hdev_memory.core.entry import EntryState, Normalisation
from hdev_memory.errors import StoreError
from hdev_memory.server.audit import AUDIT_FILE, Author, ServerLog
from hdev_memory.server.journal import JOURNAL_FILE, Journal

KEY = "key-of-the-killed"
ENTRY = "/api/memory/entry/"
HEADERS = {"Authorization": f"Bearer {KEY}", "Hdev-Metadata": "replace"}
NORMAL = Normalisation()
WRITERS = 32
ROUNDS = 4


class Writer:
    """Writes, overwrites and deletes two keys of its own, and notes what was acknowledged."""

    def __init__(self, number):
        self.number = number
        self.requests = set()
        self.keys = [f"w{number % 4}/{number}", f"w{number % 4}/deep/{number}.x"]
        self.acknowledged = dict.fromkeys(self.keys)  # None: nothing stands there
        self.unanswered = {}
        self.count = 0

    def write(self, url, acknowledge):
        """Until the server is gone."""
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
        try:
            while True:
                self._one(connection)
                acknowledge()
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()

    def _one(self, connection):
        self.count += 1
        key = self.keys[self.count % 2]
        number = None if self.count % 7 > 4 else self.count
        self.unanswered = {key: number}
        request = f"{self.number}-{self.count}"
        headers = {**HEADERS, "X-Request-Id": request}
        if number is None:
            connection.request("DELETE", ENTRY + key, headers=headers)
        else:
            body = {"content": content(number), "metadata": {"number": number}}
            connection.request("PUT", ENTRY + key, json.dumps(body), headers)
        answer = connection.getresponse()
        body = json.loads(answer.read())
        assert answer.status == 200, body
        assert body["success"] or "does not exist" in body["error"], body
        if body["success"]:
            self.requests.add(request)
        self.acknowledged[key] = number
        self.unanswered = {}

    def check(self, found):
        """Compare with what stands there, which is what counts from now on."""
        for key in self.keys:
            allowed = {self.acknowledged[key], self.unanswered.get(key, self.acknowledged[key])}
            stands = found.get(key)
            assert stands in allowed, (key, allowed)
            self.acknowledged[key] = stands
        self.unanswered = {}


class BatchWriter(Writer):
    """The same by batches: each writes every key of its own anew, and removes every third one."""

    def __init__(self, number):
        super().__init__(number)
        self.keys = [f"b{number}/{n % 3}/{n}" for n in range(40)]
        self.acknowledged = dict.fromkeys(self.keys)
        self.acknowledged_batches = 0

    def write(self, url, acknowledge):
        many = Many(url, KEY)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(many):
            while True:
                self._batch(many)
                acknowledge()

    def _batch(self, many):
        self.count += 1
        wanted = {
            key: None if self.count % 3 == n % 3 and self.acknowledged[key] else self.count
            for n, key in enumerate(self.keys)
        }
        self.unanswered = wanted
        receipts = many.write(
            *(self._change(key, number) for key, number in wanted.items()),
            X_Request_Id=f"{self.number}-{self.count}",
        )
        assert all("stored" in receipt or "removed" in receipt for receipt in receipts), receipts
        self.acknowledged |= wanted
        self.unanswered = {}
        self.acknowledged_batches += 1

    def _change(self, key, number):
        before = self.acknowledged[key]
        state = exact(content(before), {"number": before}) if before is not None else None
        if number is None:
            return remove(key, state)
        return change(key, content(number), {"number": number}, state)


def content(number):
    return f"{number}\n" * 300


def killed_in_the_middle(server, writers, after):
    """Let all write at once, and kill the server when `after` writes were acknowledged."""
    enough = threading.Semaphore(0)
    with ThreadPoolExecutor(WRITERS) as threads:
        running = [threads.submit(writer.write, server.url, enough.release) for writer in writers]
        for _ in range(after):
            assert enough.acquire(timeout=60)
        server.process.send_signal(signal.SIGKILL)
        for each in running:
            each.result(timeout=60)
    server.process.wait(timeout=30)


def numbers(url):
    """What the writers' entries hold; an entry of two writes is none of them."""
    return {
        key: metadata["number"] if text == content(metadata["number"]) else (text[:9], metadata)
        for key, (text, metadata) in stored(url).items()
    }


def stored(url):
    """Every entry that the server lists, with what it answers."""
    found = {}
    with httpx.Client(base_url=url, headers=HEADERS, **DIRECT, timeout=30) as client:
        for key in leaves(client.get("/api/memory/tree").json()["items"]):
            answer = client.get(ENTRY + key).json()
            assert (answer["type"], answer["success"]) == ("file", True), answer
            found[key] = answer["content"], answer["metadata"]
    return found


def leaves(items, prefix=""):
    for name, below in items.items():
        if below:
            yield from leaves(below, f"{prefix}{name}/")
        else:
            yield prefix + name


def test_a_kill_in_the_middle_of_writers_loses_nothing_acknowledged(tmp_path):
    root = tmp_path / "store"
    writers = [Writer(number) for number in range(WRITERS)]
    for turn in range(ROUNDS):
        with MemoryServer(root, KEY) as server:
            check(writers, server.url)
            killed_in_the_middle(server, writers, after=40 + 23 * turn)
        assert server.process.returncode == -signal.SIGKILL
        assert any(writer.unanswered for writer in writers)
    with MemoryServer(root, KEY) as server:
        check(writers, server.url)

    assert (server.process.returncode, server.err) == (0, "")
    with FilesystemBackend(str(root), must_exist=True) as folder:
        states = list(folder.snapshot(EVERYTHING, NORMAL))
    assert all(isinstance(state, EntryState) for state in states)
    assert not (root / JOURNAL_FILE).exists()
    check_log(root / AUDIT_FILE, writers, {state.key: state.state for state in states})


def test_a_kill_in_the_middle_of_batches_leaves_each_entry_as_before_or_as_after(tmp_path):
    root = tmp_path / "store"
    writers = [BatchWriter(number) for number in range(6)]
    for turn in range(3):
        with MemoryServer(root, KEY) as server:
            check(writers, server.url)
            killed_in_the_middle(server, writers, after=8 + 5 * turn)
        assert any(writer.unanswered for writer in writers)
    with MemoryServer(root, KEY) as server:
        check(writers, server.url)

    assert (server.process.returncode, server.err) == (0, "")
    assert sum(writer.acknowledged_batches for writer in writers) > 30
    with (root / AUDIT_FILE).open("rb") as lines:
        records = [record for record, _ in audit.chained(lines, audit.Write)]
    last = {}
    for record in records:
        assert record.before == last.get(record.key), record
        last[record.key] = record.after
    with FilesystemBackend(str(root), must_exist=True) as folder:
        stands = {found.key: found.state for found in folder.snapshot(EVERYTHING, NORMAL)}
    assert {key: state for key, state in last.items() if state is not None} == stands


def check_log(path, writers, stands):
    """The log has each write that was acknowledged, once, and none that did not happen."""
    with path.open("rb") as lines:
        records = [record for record, _ in audit.chained(lines, audit.Write)]
    requests = [record.request for record in records]
    acknowledged = set().union(*(writer.requests for writer in writers))
    last = {}

    assert len(set(requests)) == len(requests)
    assert len(acknowledged) > WRITERS * ROUNDS
    assert acknowledged <= set(requests)
    assert {record.request for record in records if record.status != "done"} & acknowledged == set()
    for record in records:  # each goes on from where the one before it has left the entry
        assert record.before == last.get(record.key), record
        last[record.key] = record.after
    assert {key: state for key, state in last.items() if state is not None} == stands


def check(writers, url):
    found = numbers(url)
    for writer in writers:
        writer.check(found)
    assert set(found) <= {key for writer in writers for key in writer.keys}


class Killed(BaseException):
    """Stands for the end of the process: nothing after it runs."""


def cut_off(root, *changes, log=None, recorded=()):
    """The journal of a server that was killed when it had named these changes, and had a log with
    what became of the recorded ones."""
    journal = Journal(root)
    authors = {change.key: Author(by="ann", role="write", run="r1") for change in changes}
    head = log.head if log is not None else None
    with contextlib.suppress(Killed), journal.writing(authors, head) as intend:
        intend(changes)
        if log is not None:
            log.record(recorded, [Stored(key=c.key, state=NEW) for c in recorded], authors)
        raise Killed
    journal.close()
    assert (root / JOURNAL_FILE).stat().st_size > 0


@pytest.fixture
def root(tmp_path):
    put_entry(tmp_path / "store", "changed", "old", {"k": "old"})
    put_entry(tmp_path / "store", "removed", "old", {"k": "old"})
    return tmp_path / "store"


OLD = NORMAL.state(b"old", {"k": "old"})
NEW = NORMAL.state(b"new", {"k": "new"})


def put(key, before):
    return Put(key=key, content=b"new", metadata={"k": "new"}, before=before, after=NEW)


BATCH = (put("created", None), put("changed", OLD), Remove(key="removed", before=OLD))
DONE = {"created": ("new", {"k": "new"}), "changed": ("new", {"k": "new"})}


def half_created(root):
    (root / "created.metadata.json").write_text('{"k": "new"}')


def half_changed(root):
    (root / "changed.md").write_text("new")


def half_removed(root):
    (root / "removed.md").unlink()


def all_done(root):
    put_entry(root, "created", "new", {"k": "new"})
    put_entry(root, "changed", "new", {"k": "new"})
    for path in root.glob("removed.*"):
        path.unlink()


@pytest.mark.parametrize(
    "effects",
    [
        (),
        (half_created,),
        (half_changed,),
        (half_removed,),
        (all_done,),
    ],
)
def test_the_next_server_finishes_what_was_cut_off(root, effects):
    for effect in effects:
        effect(root)
    cut_off(root, *BATCH)
    with MemoryServer(root, KEY) as server:
        found = stored(server.url)

    assert found == DONE
    assert [name for name in tree_of(root) if name.startswith("removed")] == []


def test_what_somebody_changed_since_is_left_alone_and_said(root):
    cut_off(root, put("changed", OLD))
    put_entry(root, "changed", "by hand", {"k": "old"})
    with MemoryServer(root, KEY) as server:
        found = stored(server.url)

    assert found["changed"] == ("by hand", {"k": "old"})
    assert "changed was changed since a server was cut off in it; left alone" in server.err


def logged(root):
    with (root / AUDIT_FILE).open("rb") as lines:
        return [record for record, _ in audit.chained(lines, audit.Write)]


def told(records):
    return {(record.key, record.status, record.by, record.run): record.after for record in records}


@pytest.mark.parametrize("recorded", [0, 1, 2])
def test_what_was_cut_off_is_recorded_once_whether_the_log_had_it_or_not(root, recorded):
    with ServerLog(root / AUDIT_FILE, lambda: datetime.now(UTC)) as log:
        cut_off(root, *BATCH, log=log, recorded=BATCH[:recorded])
    all_done(root)
    with MemoryServer(root, KEY) as server:
        pass

    records = logged(root)
    assert server.err == ""
    assert len(records) == 3
    assert told(records) == {
        (change.key, "done" if number < recorded else "recovered", "ann", "r1"): (
            None if change.key == "removed" else NEW
        )
        for number, change in enumerate(BATCH)
    }


def test_what_somebody_changed_since_is_recorded_as_unknown(root):
    cut_off(root, put("changed", OLD))
    put_entry(root, "changed", "by hand", {"k": "old"})
    with MemoryServer(root, KEY):
        pass

    assert told(logged(root)) == {("changed", "unknown", "ann", "r1"): NEW}


def test_a_log_that_is_not_that_of_the_server_that_was_cut_off_is_said(root, tmp_path):
    with ServerLog(tmp_path / "other", lambda: datetime.now(UTC)) as log:
        log.record(BATCH[:1], [Stored(key="created", state=NEW)], {})
        cut_off(root, *BATCH, log=log)
    with MemoryServer(root, KEY) as server:
        pass

    assert "is not the audit log of the server that was cut off" in server.err
    assert len(logged(root)) == 3


@pytest.mark.parametrize("cut", [1, 60, -1])
def test_of_a_torn_record_nothing_is_done(root, cut):
    cut_off(root, *BATCH)
    journal = root / JOURNAL_FILE
    journal.write_bytes(journal.read_bytes()[:cut])
    with MemoryServer(root, KEY) as server:
        found = stored(server.url)

    assert found == {key: ("old", {"k": "old"}) for key in ("changed", "removed")}


def test_a_record_that_is_not_understood_is_kept_and_nothing_is_served(root):
    body = b'{"puts":[{"later":1}],"removes":[]}'
    record = sha256(body).encode() + b" " + body + b"\n"
    (root / JOURNAL_FILE).write_bytes(record)
    before = tree_of(root)
    with FilesystemBackend(str(root), must_exist=True) as folder, pytest.raises(StoreError):
        Journal(root).recover(folder, NORMAL)

    assert tree_of(root) == before


def test_a_batch_that_ended_leaves_no_record(tmp_path):
    journal = Journal(tmp_path)
    with journal.writing() as intend:
        intend(BATCH)
    assert (tmp_path / JOURNAL_FILE).read_bytes() == b""
    journal.close()

    assert list(tmp_path.iterdir()) == []


def test_two_servers_do_not_serve_one_folder(tmp_path):
    with MemoryServer(tmp_path / "store", KEY) as server:
        second = subprocess.run(
            [*PROGRAM, "memory-server", "--port", "0", "--storage-path", str(server.root)],
            capture_output=True,
            text=True,
            timeout=30,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
            check=False,
        )

    assert second.returncode == 7
    assert "Traceback" not in second.stderr


def test_what_was_staged_and_not_recorded_is_removed_when_the_server_starts_again(tmp_path):
    put_entry(tmp_path, "d/a", "x")
    (tmp_path / ".hdev-journal").touch()  # the server before did not stop well
    (tmp_path / "d/.hdev-tmp-server-0123456789abcdefc-aabbccddeeff").write_text("half")
    with MemoryServer(tmp_path):
        pass

    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} >= {"a.md"}
    assert not list(tmp_path.rglob(".hdev-tmp-*"))
    assert not (tmp_path / ".hdev-journal").exists()
