"""Many entries in one request: what is answered is whole, and each change has a known outcome."""

import asyncio
import contextlib
import errno
import itertools
import json
import socket
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from tests.batches import PATH, Many, batch, digest, exact, lines, put, remove, shown, under_lf
from tests.conftest import put_entry, tree_of
from tests.direct import DIRECT

from hdev_memory import durable
from hdev_memory.backends import open_backend
from hdev_memory.backends.base import Secret, Where
from hdev_memory.backends.ephemeral import EphemeralBackend
from hdev_memory.backends.filesystem import FilesystemBackend
from hdev_memory.core.entry import Entry, tag_of
from hdev_memory.errors import StoreError
from hdev_memory.server.app import create_app
from hdev_memory.server.journal import Journal
from hdev_memory.server.limits import Limits
from hdev_memory.server.protocol import PIECE
from hdev_memory.server.run import serve_in_thread

OWNER, READER = "key-of-the-owner", "key-of-the-reader"
SMALL = Limits(entry_bytes=1000, batch_entries=40, batch_least_bytes=100_000)
EACH = ("ephemeral", "folder", "sqlite")


@contextlib.contextmanager
def serving(backend, limits=SMALL, **more):
    app = create_app(
        backend,
        store_id="many",
        api_key=Secret(OWNER),
        read_only_api_key=Secret(READER),
        limits=limits,
        **more,
    )
    with serve_in_thread(app) as url:
        yield url


@contextlib.contextmanager
def connected(backend, **more):
    with serving(backend, **more) as url, contextlib.closing(Many(url, OWNER)) as many:
        yield many


@pytest.fixture
def root(tmp_path):
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


@pytest.fixture
def backend(request, root):
    match getattr(request, "param", "ephemeral"):
        case "ephemeral":
            yield EphemeralBackend()
        case "folder":
            with FilesystemBackend(str(root), must_exist=True, index=str(root)) as folder:
                yield folder
        case "sqlite":
            with open_backend(Where("sqlite", str(root / "db")), must_exist=False) as database:
                database.prepare()
                yield database


@pytest.fixture
def url(backend):
    with serving(backend) as url:
        yield url


@pytest.fixture
def many(url):
    with contextlib.closing(Many(url, OWNER)) as many:
        yield many


def etag(content, metadata):
    return f'"{tag_of(content.encode(), metadata)}"'


def classic(many, method, key, body=None, **headers):
    content = json.dumps(body).encode() if body is not None else None
    status, found = many.request(method, f"/api/memory/entry/{key}", content, **headers)
    return status, json.loads(found)


# Finding it


def test_health_says_that_it_is_there_and_how_much_it_takes(many):
    _, body = many.request("GET", "/api/health")
    details = json.loads(body)["details"]

    assert details["protocols"] == ["hdev-memory/1"]
    assert details["batch"] == {"entries": 40, "bytes": 100_000}


def test_a_batch_always_has_room_for_the_largest_entry():
    limits = Limits(entry_bytes=4 * 1024 * 1024)
    largest = batch([put("k" * 1024, "\x01" * limits.entry_bytes, {"k": "\x01" * 1000})])

    assert len(largest) < limits.batch_bytes


def test_a_key_that_may_read_reads_many_and_writes_none(url):
    with contextlib.closing(Many(url, READER)) as many:
        assert many.read("a") == [{"key": "a", "absent": True}]
        assert many.snapshot() == []
        status, _ = many.send(batch([put("a")]))

    assert status == 403


# Snapshots


@pytest.mark.parametrize("backend", EACH, indirect=True)
def test_a_snapshot_has_each_entry_once_in_order_as_it_is(many):
    kept = {"k": 1, "version": 4, "created": "1.5"}
    entries = {"b": "two\r\n", "a/b": "one", "a.b": "dot", "ä/😀": "far"}
    many.write(*(put(key, content, kept) for key, content in entries.items()))
    found = many.snapshot()

    assert [line["key"] for line in found] == sorted(entries)
    for line in found:
        content = entries[line["key"]]
        expected = shown(exact(content, kept))
        assert {name: line[name] for name in expected} == expected
        assert line["values"] == {"k": 1}
        assert line["etag"] == etag(content, kept)


def test_a_snapshot_is_under_the_line_ends_that_were_asked_for(many):
    many.write(put("a", "x\r\ny\rz"))
    (line,) = many.snapshot("?line_ends=lf")

    assert line["content"] == under_lf("x\ny\nz").content
    assert line["bytes"] == 5
    assert many.request("GET", f"{PATH}/snapshot?line_ends=crlf")[0] == 422


@pytest.mark.parametrize("limit", [1, 3, 6, 7, 8])
def test_pages_have_together_what_the_whole_has(many, limit):
    many.write(*(put(f"k{number}") for number in range(7)))
    pages = []
    query = ""
    while True:
        _, found, end = many.page(f"?limit={limit}{query}")
        pages.append(found)
        if end["next"] is None:
            break
        assert (len(found), end["next"]) == (limit, found[-1]["key"])
        query = f"&after={end['next']}"

    assert list(itertools.chain(*pages)) == many.snapshot()
    assert len(pages) == -(-7 // limit)


@pytest.mark.parametrize("backend", ["folder"], indirect=True)
def test_what_cannot_be_read_is_said_in_its_place(many, root):
    put_entry(root, "a", "fine")
    put_entry(root, "b", b"\xff\xfe")
    put_entry(root, "c", "no metadata", ...)
    found = many.snapshot()

    assert [line["key"] for line in found] == ["a", "b", "c"]
    assert set(found[1]) == {"key", "unreadable"}
    assert "metadata" in found[2]["note"]


class Breaking(EphemeralBackend):
    """A store that fails behind so many entries."""

    good = 9000
    error: Exception = StoreError("The storage is gone.")

    def read(self, keys):
        for number, found in enumerate(super().read(keys)):
            if number == self.good:
                raise self.error
            yield found


def test_an_answer_that_breaks_has_no_end(caplog):
    backend = Breaking()
    many_entries = {f"k{number}": (b"x", {}) for number in range(10_000)}
    backend._entries.update(many_entries)
    with connected(backend) as many:
        status, body = many.request("GET", f"{PATH}/snapshot")
        backend.good = 0
        at_once, _ = many.request("GET", f"{PATH}/snapshot")
        backend.error = OSError(errno.EIO, "Input/output error")
        by_the_disk, _ = many.request("POST", f"{PATH}/read", b'{"keys":["k1"]}')

    assert (status, at_once, by_the_disk) == (200, 500, 500)
    assert b'"kind":"snapshot"' in body
    assert b'"end"' not in body


@pytest.mark.parametrize(
    ("accepted", "zipped"),
    [("gzip", True), ("br, GZIP;q=0.5", True), ("gzip;q=0", False), ("identity", False)],
)
def test_an_answer_is_gzip_where_that_is_asked_for(many, accepted, zipped):
    many.write(*(put(f"k{number}", "x" * 900) for number in range(40)))
    body = json.dumps({"keys": [f"k{number}" for number in range(40)]}).encode()
    many.connection.request(
        "POST", f"{PATH}/read", body, {**many.headers, "Accept-Encoding": accepted}
    )
    answer = many.connection.getresponse()
    raw = answer.read()

    assert (answer.headers.get("Content-Encoding") == "gzip") == zipped
    assert answer.headers["Vary"] == "Accept-Encoding"
    assert (len(raw) < 10_000) == zipped
    assert many.snapshot(Accept_Encoding=accepted) == many.snapshot()


def test_a_head_request_reads_nothing():
    class Untouched(EphemeralBackend):
        def read(self, keys):
            raise AssertionError("nobody asked for an entry")

    with connected(Untouched()) as head:
        assert head.request("HEAD", f"{PATH}/snapshot") == (200, b"")


class Endless(EphemeralBackend):
    """A store whose listing never ends, and that knows how far it was read."""

    def __init__(self):
        super().__init__()
        self.made = 0
        self.closed = threading.Event()

    def keys(self, scope=None):
        return (f"k{number:09}" for number in itertools.count())

    def read(self, keys):
        try:
            for key in keys:
                self.made += 1
                yield Entry(key=key, content=b"x", metadata={"filler": "y" * 300})
        finally:
            self.closed.set()


def test_a_client_that_goes_away_ends_the_reading_of_the_store():
    backend = Endless()
    with serving(backend) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            request = f"GET {PATH}/snapshot HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {OWNER}"
            connection.sendall(f"{request}\r\n\r\n".encode())
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")

        assert backend.closed.wait(timeout=30)


def test_no_more_of_an_answer_is_made_than_is_taken():
    backend = Endless()
    app = create_app(backend, store_id="many")

    async def taken(pieces):
        """How many entries were read when this many pieces are taken, and the next is not."""
        reached, never = asyncio.Event(), asyncio.Event()
        left = pieces

        async def send(message):
            nonlocal left
            if message["type"] == "http.response.body":
                left -= 1
                if left == 0:
                    reached.set()
                    await never.wait()

        async def receive():
            await never.wait()

        scope = {
            "type": "http",
            "method": "GET",
            "path": f"{PATH}/snapshot",
            "query_string": b"",
            "headers": [],
        }
        running = asyncio.create_task(app(scope, receive, send))
        await reached.wait()
        made = backend.made
        for _ in range(50):  # whoever makes more would have had time for it
            await asyncio.to_thread(lambda: None)
        assert backend.made == made
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        return made

    for pieces in (1, 40):
        backend.made = 0
        # A line has more than 512 bytes, and so many entries are looked at together.
        assert asyncio.run(taken(pieces)) <= pieces * PIECE // 512 + 4096


# Reading


@pytest.mark.parametrize("backend", EACH, indirect=True)
def test_entries_are_read_in_the_order_asked_each_with_its_outcome(many, backend, root):
    many.write(put("b", "two\r\n", {"k": [1.5]}), put("a", "one"))
    if isinstance(backend, FilesystemBackend):
        put_entry(root, "bad", b"\xff")
        assert set(many.read("bad")[0]) == {"key", "unreadable"}

    assert many.read("b", "no", "a") == [
        {
            "key": "b",
            "content": "two\r\n",
            "metadata": {"k": [1.5]},
            "etag": etag("two\r\n", {"k": [1.5]}),
        },
        {"key": "no", "absent": True},
        {"key": "a", "content": "one", "metadata": {}, "etag": etag("one", {})},
    ]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"[]", 422),
        (b'{"keys":["a"],"more":1}', 422),
        (b'{"keys":["a","a"]}', 422),
        (b'{"keys":["\\ud800"]}', 422),
        (b'{"keys":[1]}', 422),
        (b'{"keys":' + b"[" * 5000, 422),
        (json.dumps({"keys": [f"k{n}" for n in range(41)]}).encode(), 413),
    ],
)
def test_a_list_of_keys_that_is_none_is_refused(many, body, status):
    assert many.request("POST", f"{PATH}/read", body)[0] == status


def test_an_answer_that_would_be_too_much_ends_early_with_one_entry_at_least(backend):
    limits = Limits(entry_bytes=10, batch_entries=40, batch_least_bytes=0)
    backend._entries.update({f"k{n}": (b"x" * 30_000, {}) for n in range(6)})
    backend._entries["k5"] = (b"x" * limits.batch_bytes, {})
    with connected(backend, limits=limits) as many:
        first = many.read(*(f"k{n}" for n in range(6)))
        rest = many.read(*(f"k{n}" for n in range(len(first), 6)))
        large = many.read("k5", "k0")

    assert [line["key"] for line in first] == ["k0", "k1"]
    assert [line["key"] for line in rest] == ["k2", "k3"]
    assert [line["key"] for line in large] == ["k5"]


# Writing


@pytest.mark.parametrize("backend", EACH, indirect=True)
def test_each_change_is_carried_out_by_itself_if_what_stands_there_is_as_before(many):
    many.write(put("same", "old"), put("changed", "old"), put("gone", "old"), put("left", "old"))
    old, new, other = exact("old"), exact("new", {"k": 1}), exact("other")
    receipts = many.write(
        put("created", "new", {"k": 1}),
        put("changed", "new", {"k": 1}, before=old),
        remove("gone", before=old),
        put("same", "new"),  # nothing was expected
        put("left", "new", before=other),
        remove("left/no", before=old),
    )

    tag = etag("new", {"k": 1})
    assert receipts == [
        {"key": "created", "stored": shown(new), "etag": tag},
        {"key": "changed", "stored": shown(new), "etag": tag},
        {"key": "gone", "removed": True},
        {"key": "same", "drifted": shown(old)},
        {"key": "left", "drifted": shown(old)},
        {"key": "left/no", "drifted": None},
    ]
    stands = {line["key"]: line.get("content") for line in many.read("created", "gone", "same")}
    assert stands == {"created": "new", "gone": None, "same": "old"}
    assert classic(many, "GET", "changed")[1]["metadata"] == {"k": 1}


def test_a_batch_that_is_sent_again_does_no_harm(many):
    body = batch([put("a", "new")])
    many.send(body)
    _, again = many.send(body)

    assert json.loads(again.splitlines()[1]) == {"key": "a", "drifted": shown(exact("new"))}


@pytest.mark.parametrize("backend", EACH, indirect=True)
def test_a_batch_may_compare_without_regard_to_line_ends(many):
    many.write(put("a", "x\r\ny"), put("b", "x\r\ny"))
    receipts = many.write(
        put("a", "z\r\n", {"k": 1}, before=under_lf("x\ny")),
        put("b", "z", before=under_lf("another")),
        remove("c", before=under_lf("x")),
        line_ends="lf",
    )

    assert receipts == [
        {"key": "a", "stored": shown(under_lf("z\n", {"k": 1})), "etag": etag("z\r\n", {"k": 1})},
        {"key": "b", "drifted": shown(under_lf("x\ny"))},
        {"key": "c", "drifted": None},
    ]
    assert many.read("a")[0]["content"] == "z\r\n"


@pytest.mark.parametrize("backend", EACH, indirect=True)
def test_what_can_never_be_written_fails_alone_and_touches_nothing(many, root):
    receipts = many.write(
        put("../a"),
        put("a\\b"),
        put("large", "x" * 1001),
        put("fits", "x" * 1000),
        put("deep", metadata={"k": 2**60}),
        put("fine"),
    )

    failed = [receipt for receipt in receipts if "failed" in receipt]
    assert [receipt["key"] for receipt in failed] == ["../a", "a\\b", "large", "deep"]
    assert all(receipt["intact"] is True for receipt in failed)
    assert [line["key"] for line in many.snapshot()] == ["fine", "fits"]
    assert not (root.parent / "a.md").exists()


def test_a_batch_of_which_nothing_can_be_done_is_answered(many):
    assert [receipt["key"] for receipt in many.write(put(".."))] == [".."]
    assert many.write() == []


HEAD = {"protocol": "hdev-memory/1", "kind": "write", "line_ends": "exact", "changes": 1}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"\n", 422),
        (lines([HEAD]), 422),
        (lines([{**HEAD, "changes": 2}, put("a")]), 422),
        (lines([{**HEAD, "changes": 0}, put("a")]), 422),
        (lines([{**HEAD, "changes": -1}]), 422),
        (lines([HEAD, put("a")])[:-1], 422),
        (lines([HEAD, put("a")]) + b"\n", 422),
        (lines([HEAD]) + b"\n" + lines([put("a")]), 422),
        (lines([{**HEAD, "protocol": "hdev-memory/2"}, put("a")]), 422),
        (lines([{**HEAD, "kind": "receipts"}, put("a")]), 422),
        (lines([{**HEAD, "line_ends": "crlf"}, put("a")]), 422),
        (lines([{**HEAD, "more": 1}, put("a")]), 422),
        (lines([HEAD, {**put("a"), "more": 1}]), 422),
        (lines([HEAD, {**put("a"), "remove": "a"}]), 422),
        (lines([HEAD, {"put": "a", "before": None, "content": "x"}]), 422),
        (lines([HEAD, {"put": "a", "content": "x", "metadata": {}}]), 422),
        (lines([HEAD, {**put("a"), "metadata": []}]), 422),
        (lines([HEAD, {**put("a"), "content": 1}]), 422),
        (lines([HEAD, {**put("a"), "before": {"content": "x", "metadata": "y", "bytes": 1}}]), 422),
        (lines([HEAD, remove("a", None)]), 422),
        (lines([HEAD, {**remove("a", exact("x")), "content": "x"}]), 422),
        (lines([{**HEAD, "changes": 2}, put("a"), put("a", "other")]), 422),
        (lines([{**HEAD, "changes": 2}, put("a"), {"put": 1}]), 422),
        (lines([HEAD, put("a", "\ud800")]), 422),
        (lines([HEAD, put("a", "é")]).replace(b"\\u00e9", b"\xe9"), 422),
        (lines([HEAD, put("a", "x", {"k": "é"})]).replace(b"\\u00e9", b"\xe9"), 422),
        (lines([HEAD]) + b'{"put":"a","metadata":' + b'{"k":' * 10_000 + b"\n", 422),
        (lines([{**HEAD, "changes": 41}, *(put(f"k{n}") for n in range(41))]), 413),
    ],
)
def test_of_a_body_that_is_no_batch_nothing_takes_effect(many, body, status):
    assert many.send(body)[0] == status
    assert many.snapshot() == []


def test_a_body_that_is_not_the_one_that_was_sent_takes_no_effect(many):
    body = batch([put("a")])
    good = digest(body)

    assert many.send(body, Content_Digest=digest(b"other"))[0] == 400
    assert many.send(body, Content_Digest=good.replace("sha-256", "sha-512"))[0] == 400
    assert many.send(body, Content_Digest="sha-256=:####:")[0] == 400
    assert many.request("POST", f"{PATH}/write", body)[0] == 400
    assert many.snapshot() == []
    assert many.send(body, Content_Digest=f"sha-512=:AAAA:, {good}")[0] == 200


def test_a_body_without_a_length_is_refused(many):
    body = batch([put("a")])
    many.connection.request(
        "POST", f"{PATH}/write", iter([body]), {**many.headers, "Content-Digest": digest(body)}
    )
    answer = many.connection.getresponse()
    answer.read()

    assert answer.status == 411


def zipped(body):
    deflate = zlib.compressobj(9, wbits=31)
    return deflate.compress(body) + deflate.flush()


def test_a_body_may_be_gzip(many):
    body = zipped(batch([put("a", "x" * 900)]))

    assert many.send(body, Content_Encoding="gzip")[0] == 200
    assert many.read("a")[0]["content"] == "x" * 900


@pytest.mark.parametrize(
    ("body", "coding", "status"),
    [
        (zipped(b"x" * 50_000_000), "gzip", 413),
        (zipped(b"x" * 50_000_000)[:-4] + b"\x09\x00\x00\x00", "gzip", 400),
        (zipped(batch([put("a")]))[:-9] + b"\x99\x00\x00\x00", "gzip", 400),
        (zipped(batch([put("a")])) + b"\x99\x00\x00\x00", "gzip", 400),
        (b"", "gzip", 400),
        (zipped(batch([put("a")])) * 2, "gzip", 400),
        (batch([put("a")]), "gzip", 400),
        (batch([put("a")]), "br", 415),
    ],
)
def test_a_packed_body_that_is_none_is_refused_in_bounded_memory(many, body, coding, status):
    assert many.send(body, Content_Encoding=coding)[0] == status
    assert many.snapshot() == []


def test_an_older_fence_stops_the_whole_batch(many):
    lease = json.dumps({"holder": "one", "ttl": 60}).encode()
    many.request("PUT", "/api/locks/target", lease)
    many.request("DELETE", "/api/locks/target?force=true")
    status, body = many.send(batch([put("a")]), Hdev_Fence="1")

    assert (status, json.loads(body)["fence"]) == (409, 2)
    assert many.snapshot() == []
    assert "stored" in many.write(put("a"), Hdev_Fence="2")[0]


def test_a_connection_that_is_cut_in_the_body_leaves_nothing(url, many):
    body = batch([put("a"), put("b")])
    host, port = url.removeprefix("http://").split(":")
    for length in (1, len(body) // 2, len(body) - 1):
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            head = (
                f"POST {PATH}/write HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {OWNER}\r\n"
                f"Content-Digest: {digest(body)}\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            connection.sendall(head.encode() + body[:length])
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass

    assert many.snapshot() == []


def test_a_store_that_demands_preconditions_takes_batches_which_always_have_them(backend):
    with connected(backend, require_preconditions=True) as many:
        assert "stored" in many.write(put("a"))[0]
        assert classic(many, "PUT", "b", {"content": "x"})[0] == 428


@pytest.mark.parametrize("backend", EACH, indirect=True)
def test_of_32_writers_of_one_key_by_batches_and_alone_exactly_one_wins(url, backend):
    together = threading.Barrier(32)

    def attempt(number):
        with contextlib.closing(Many(url, OWNER)) as many:
            together.wait(timeout=30)
            if number % 2:
                body = {"content": f"{number}"}
                return classic(many, "PUT", "one", body, If_None_Match="*")[0] == 200
            others = [put(f"own/{number}/{n}") for n in range(5)]
            receipts = many.write(*others, put("one", f"{number}"))
            assert all("stored" in receipt for receipt in receipts[:-1])
            return "stored" in receipts[-1]

    with ThreadPoolExecutor(32) as threads:
        won = [number for number, won in enumerate(threads.map(attempt, range(32))) if won]

    assert len(won) == 1
    (entry,) = backend.read(["one"])
    assert entry.content == f"{won[0]}".encode()
    assert len(list(backend.keys())) == 1 + 16 * 5


class Full(durable.Disk):
    """A disk on which nothing can be appended any more."""

    def write(self, descriptor, data):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("backend", ["folder"], indirect=True)
def test_on_a_full_disk_each_entry_is_known_to_be_intact(backend, root, monkeypatch):
    put_entry(root, "a", "old")
    with contextlib.closing(Journal(root)) as journal, connected(backend, journal=journal) as many:
        before = tree_of(root)
        with monkeypatch.context() as patch:
            patch.setattr(durable, "disk", Full())
            receipts = many.write(put("a", "new", before=exact("old")), put("b"))

        assert [set(receipt) for receipt in receipts] == [{"key", "failed", "intact"}] * 2
        assert "No space left" in receipts[0]["failed"]
        assert tree_of(root) == before
        assert "stored" in many.write(put("b"))[0]


def test_a_read_only_client_of_httpx_gets_the_same(url, many):
    many.write(put("a"))
    with httpx.Client(base_url=url, headers=many.headers, **DIRECT) as client:
        answer = client.get(f"{PATH}/snapshot")

    assert answer.headers["content-encoding"] == "gzip"
    assert [json.loads(line) for line in answer.text.splitlines()][1]["key"] == "a"
