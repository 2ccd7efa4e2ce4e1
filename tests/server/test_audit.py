"""The server's log of writes: who, what, for which plan; a chain that shows what was done to it."""

import json
import subprocess
from datetime import UTC, datetime

import httpx
import pytest
from tests.conftest import put_entry
from tests.direct import DIRECT
from tests.processes import PROGRAM, MemoryServer

from hdev_memory.backends.base import Drifted, Failed, Put, Stored
from hdev_memory.backends.ephemeral import EphemeralBackend
from hdev_memory.core import audit
from hdev_memory.core.entry import Normalisation
from hdev_memory.errors import LockedError, StoreError
from hdev_memory.server import keysfile
from hdev_memory.server.audit import AUDIT_FILE, Author, ServerLog
from hdev_memory.server.journal import Journal
from hdev_memory.server.lease import Fences, LeaseLock
from hdev_memory.server.store import Store

ENTRY = "/api/memory/entry/"
PLAN = "sha256:" + "a" * 64
NORMAL = Normalisation()
KEY = "key-of-the-audit"
CANARY = "canary of the audit"


def now():
    return datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.fixture
def server(tmp_path):
    keysfile.add(tmp_path / "keys.json", "ann", ("write",), "ann's", "2020-01-01T00:00:00Z", None)
    flags = ("--keys-file", str(tmp_path / "keys.json"))
    with MemoryServer(tmp_path / "store", KEY, *flags) as server:
        yield server


@pytest.fixture
def ask(server):
    with httpx.Client(base_url=server.url, **DIRECT, timeout=30) as client:

        def ask(method, path, key=KEY, headers=(), **more):
            sent = {"Authorization": f"Bearer {key}", **dict(headers)}
            return client.request(method, path, headers=sent, **more)

        yield ask


def logged(root):
    with (root / AUDIT_FILE).open("rb") as lines:
        return [record for record, _ in audit.chained(lines, audit.Write)]


def test_each_write_is_recorded_with_who_and_what_and_what_it_belongs_to(server, ask):
    about = {"Hdev-Plan": PLAN, "Hdev-Run": "r1", "X-Request-Id": "42"}
    exact = {"Hdev-Metadata": "replace"}
    second = {"content": "two", "metadata": {"k": 1}}
    answers = [
        ask("PUT", f"{ENTRY}a", json={"content": "one"}, headers={**exact, **about}),
        ask("PUT", f"{ENTRY}a", "ann's", json=second, headers=exact),
        ask("DELETE", f"{ENTRY}a", "ann's"),
    ]
    one, two = NORMAL.state(b"one", {}), NORMAL.state(b"two", {"k": 1})
    records = logged(server.root)

    assert [(r.by, r.role, r.key, r.status, r.before, r.after) for r in records] == [
        ("default", "write", "a", "done", None, one),
        ("ann", "write", "a", "done", one, two),
        ("ann", "write", "a", "done", two, None),
    ]
    assert [(r.plan, r.run) for r in records] == [(PLAN, "r1"), ("", ""), ("", "")]
    assert [r.request for r in records] == [answer.headers["X-Request-Id"] for answer in answers]
    assert records[0].request == "42"


def test_the_entries_of_a_folder_that_is_deleted_are_recorded_one_by_one(server, ask):
    for key in ("d/a", "d/b"):
        ask("PUT", ENTRY + key, json={"content": key})
    ask("DELETE", f"{ENTRY}d", headers={"X-Request-Id": "all"})

    assert [r.key for r in logged(server.root) if r.request == "all"] == ["d/a", "d/b"]


def test_what_was_refused_is_not_recorded(server, ask):
    put_entry(server.root, "there", "x")
    answers = [
        ask("PUT", f"{ENTRY}there", json={"content": "y"}, headers={"If-None-Match": "*"}),
        ask("PUT", f"{ENTRY}there", "wrong", json={"content": "y"}),
        ask("PUT", f"{ENTRY}a", json={"content": "y"}, headers={"Hdev-Plan": "no id"}),
        ask("PUT", f"{ENTRY}a", json={"content": "y"}, headers={"Hdev-Run": "a b"}),
        ask("DELETE", f"{ENTRY}missing"),
        ask("PUT", f"{ENTRY}..%2fx", json={"content": "y"}),
    ]

    assert [answer.status_code for answer in answers] == [412, 401, 400, 400, 200, 200]
    assert logged(server.root) == []


def test_neither_content_nor_metadata_nor_a_key_is_in_the_log(server, ask):
    body = {"content": CANARY, "metadata": {"k": CANARY}}
    ask("PUT", f"{ENTRY}a", json=body, headers={"X-Request-Id": CANARY})
    text = (server.root / AUDIT_FILE).read_text()

    assert len(logged(server.root)) == 1
    assert "canary" not in text
    assert KEY not in text
    assert (server.root / AUDIT_FILE).stat().st_mode & 0o077 == 0


def test_pages_lead_to_the_head_and_are_whole(server, ask):
    for number in range(7):
        ask("PUT", f"{ENTRY}n{number}", json={"content": "x"})
    seen, heads = [], set()
    while True:
        page = ask("GET", f"/api/audit?after={len(seen)}&limit=3").json()
        heads.add(page["head"])
        if not page["records"]:
            break
        seen += page["records"]
    lines = [json.dumps(record, separators=(",", ":")).encode() + b"\n" for record in seen]
    *_, (_, head) = audit.chained(lines, audit.Write)

    assert heads == {str(head)}
    assert b"".join(lines) == (server.root / AUDIT_FILE).read_bytes()


def test_a_page_that_cannot_be_is_422(ask):
    queries = ["after=-1", "after=x", "limit=0", "limit=1001", "after=99999999999999999"]
    answers = {query: ask("GET", f"/api/audit?{query}").status_code for query in queries}

    assert answers == dict.fromkeys(queries, 422)


def test_a_page_behind_the_end_is_empty_and_has_the_head(ask):
    page = ask("GET", "/api/audit?after=12345").json()

    assert page == {"records": [], "head": str(audit.EMPTY)}


# In this process

MOST = 1024 * 1024


def put(key, text=b"x"):
    return Put(key=key, content=text, metadata={}, before=None, after=NORMAL.state(text, {}))


def stored(change):
    return Stored(key=change.key, state=change.after)


def test_pages_start_anywhere_in_a_long_log_and_are_bounded(tmp_path):
    changes = [put(f"{'k' * 900}/{number}") for number in range(1500)]
    with ServerLog(tmp_path / "log", now) as log:
        log.record(changes, [stored(change) for change in changes], {})
    with ServerLog(tmp_path / "log", now) as log:  # the places are found again
        pages = {after: log.page(after, 1000, MOST) for after in (0, 255, 256, 257, 1023, 1499)}
    found = {after: json.loads(page)["records"] for after, page in pages.items()}

    assert {after: records[0]["seq"] for after, records in found.items()} == {
        after: after + 1 for after in found
    }
    assert 500 < len(found[0]) < 1000  # the limit on bytes came first
    assert all(len(page) < MOST + 4096 for page in pages.values())


def test_only_what_was_done_or_may_have_been_is_recorded(tmp_path):
    changes = [put("done"), put("drifted"), put("refused"), put("broken")]
    receipts = [
        stored(changes[0]),
        Drifted(key="drifted", found=None),
        Failed(key="refused", reason="no room", intact=True),
        Failed(key="broken", reason="nobody knows", intact=False),
    ]
    with ServerLog(tmp_path / AUDIT_FILE, now) as log:
        log.record(changes, receipts, {"done": Author(by="ann", role="write")})

    assert [(r.key, r.status, r.by, r.time) for r in logged(tmp_path)] == [
        ("done", "done", "ann", "2026-01-02T03:04:05.678Z"),
        ("broken", "unknown", "unknown", "2026-01-02T03:04:05.678Z"),
    ]


class Full(ServerLog):
    """A log on a disk without room."""

    def append(self, records):
        raise StoreError("The audit log cannot be written.")


def test_a_write_that_cannot_be_recorded_is_not_acknowledged_and_none_comes_after_it(tmp_path):
    journal = Journal(tmp_path)
    with Full(tmp_path / AUDIT_FILE, now) as log:
        store = Store(EphemeralBackend(), LeaseLock(lambda: 0.0, Fences()), journal, log)
        for key in ("a", "b"):
            with pytest.raises(StoreError):
                store.put(key, b"x", {}, merge=False).result(timeout=50)
    journal.close()

    assert (tmp_path / ".hdev-journal").stat().st_size > 0  # the next server finishes and records


def test_two_servers_do_not_share_a_log(tmp_path):
    with ServerLog(tmp_path / "log", now), pytest.raises(LockedError):
        ServerLog(tmp_path / "log", now)


def flip(lines):
    return [lines[0].replace(b'"by":"unknown"', b'"by":"unknowm"'), *lines[1:]]


def drop(lines):
    return lines[:1] + lines[2:]


def swap(lines):
    return [lines[1], lines[0], *lines[2:]]


def filled(root):
    root.mkdir()
    changes = [put(key) for key in "abc"]
    with ServerLog(root / AUDIT_FILE, now) as log:
        log.record(changes, [stored(change) for change in changes], {})
    return root / AUDIT_FILE


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (flip, "The audit log was edited or spliced."),
        (drop, "Records were cut out of the audit log."),
        (swap, "The records of the audit log are out of order."),
    ],
)
def test_a_log_that_was_edited_is_refused_at_the_start(tmp_path, tamper, words):
    path = filled(tmp_path / "store")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(tamper(lines)))
    before = path.read_bytes()
    command = [*PROGRAM, "memory-server", "--port", "0", "--storage-path", str(tmp_path / "store")]
    done = subprocess.run(
        command,
        env={"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert done.returncode == 8, done.stderr
    assert words in done.stderr
    assert path.read_bytes() == before


def test_a_torn_end_is_kept_aside_and_said(tmp_path):
    path = filled(tmp_path / "store")
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"seq":4,"prev":"')
    with MemoryServer(tmp_path / "store", KEY) as server:
        pass

    assert path.read_bytes() == whole
    assert path.with_name(f"{AUDIT_FILE}.torn-1").read_bytes() == b'{"seq":4,"prev":"'
    assert "torn last line" in server.err
