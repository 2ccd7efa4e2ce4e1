"""`hdev-memory/1` from the client's side: what is sent, how often, over how many connections."""

import base64
import gzip
import hashlib
import json
import socket
import threading

import msgspec
import pytest
from tests.hostile.scene import KEY, NORMAL, put, remove, state
from tests.hostile.server import (
    NDJSON,
    READ,
    SNAPSHOT,
    WRITE,
    HostileServer,
    listed,
    proved,
    snapshot_head,
)
from tests.hostile.server import http as answer

from hdev_memory.backends.base import (
    EVERYTHING,
    Drifted,
    Failed,
    Scope,
    Secret,
    Session,
    Stored,
    Where,
)
from hdev_memory.backends.http import HttpBackend
from hdev_memory.backends.http_transport import AnswerTooLarge, RequestFailed, Transport
from hdev_memory.core.entry import Absent, Entry, EntryState, Unreadable


@pytest.fixture
def server():
    with HostileServer(KEY, ours=True, batches=True) as server:
        yield server


@pytest.fixture
def backend(server):
    with HttpBackend(Where("http", server.url, Secret(KEY))) as backend:
        yield backend


def creates(count):
    return [put(f"k{number:04}", before=None) for number in range(count)]


def requests(server, path):
    return [one for one in server.seen if one.path.partition("?")[0] == path]


def lines(request):
    return [json.loads(line) for line in request.body.splitlines()]


def test_a_thousand_creates_are_ten_requests_of_which_none_looks_before(server, backend):
    receipts = backend.write(creates(1000), NORMAL)

    assert [type(receipt) for receipt in receipts] == [Stored] * 1000
    assert len(requests(server, WRITE)) == 10  # the server takes a hundred
    first = next(one for one in server.seen if one.path in (READ, WRITE))
    assert first.path == WRITE
    assert server.count("GET", "/api/memory/entry/*") == 0


def test_what_is_written_is_read_back_whatever_the_receipts_say(server, backend):
    backend.write(creates(150), NORMAL)

    read = [key for one in requests(server, READ) for key in json.loads(one.body)["keys"]]
    assert sorted(read) == [change.key for change in creates(150)]


def test_a_write_carries_its_digest_its_plan_and_its_states(server, backend):
    plan = "sha256:" + "0" * 64
    backend.write([put("a"), remove("b")], NORMAL, Session(run="r1", plan=plan))

    (request,) = requests(server, WRITE)
    digest = base64.b64encode(hashlib.sha256(request.body).digest()).decode()
    before = {"content": state(b"old").content, "metadata": state(b"").metadata, "bytes": 3}
    assert request.headers["content-digest"] == f"sha-256=:{digest}:"
    assert request.headers["content-type"] == "application/x-ndjson"
    assert (request.headers["hdev-plan"], request.headers["hdev-run"]) == (plan, "r1")
    assert lines(request) == [
        {"protocol": "hdev-memory/1", "kind": "write", "line_ends": "lf", "changes": 2},
        {"put": "a", "before": before, "content": "new", "metadata": {}},
        {"remove": "b", "before": before},
    ]


def test_many_batches_take_no_more_connections_than_requests_at_once(server):
    accepted = []
    server.on("", "", lambda exchange: accepted.append(exchange), times=None, at="accept")
    where = Where("http", server.url, Secret(KEY), parallelism=1)
    with HttpBackend(where) as backend:
        before = len(accepted)  # the handshake has a thread, and so a connection, of its own
        for number in range(20):
            backend.write([put(f"k{number}", before=None)], NORMAL)
        list(backend.snapshot(EVERYTHING, NORMAL))

    assert server.count("POST") == 40
    assert len(accepted) - before == 1


def test_nothing_is_sent_before_the_intent_which_names_all_that_is_sent(server, backend):
    told = []

    def intend(ready):
        assert requests(server, WRITE) == []
        told.append([change.key for change in ready])

    refused = put("a\nb", before=None)
    receipts = backend.write([*creates(250), refused], NORMAL, Session(intend=intend))

    assert told == [[change.key for change in creates(250)]]
    assert isinstance(receipts[-1], Failed)
    assert receipts[-1].intact


def test_nothing_is_sent_where_the_intent_raises(server, backend):
    def intend(ready):
        raise KeyError

    with pytest.raises(KeyError):
        backend.write(creates(3), NORMAL, Session(intend=intend))
    assert server.entries == {}


def test_no_request_is_larger_than_the_server_takes(server, backend):
    changes = [put(f"k{number}", b"x" * 90_000, before=None) for number in range(30)]
    receipts = backend.write([*changes, put("big", b"x" * 1_000_001, before=None)], NORMAL)

    assert [type(receipt) for receipt in receipts] == [Stored] * 30 + [Failed]
    assert receipts[-1].reason == "Content too large for target backend"
    assert max(len(one.body) for one in requests(server, WRITE)) <= 1_000_000
    assert len(requests(server, WRITE)) == 3


def resumed(change):
    return msgspec.structs.replace(change, resumed=True)


def test_a_change_that_was_cut_off_goes_on_from_what_is_there(server, backend):
    server.entries |= {"a": ("new", {"k": 1}), "b": ("old", {}), "c": ("theirs", {})}
    changes = [resumed(put(key, metadata={"k": 1})) for key in "abc"] + [resumed(remove("d"))]
    a, b, c, d = backend.write(changes, NORMAL)

    assert (a, b) == (
        Stored(key="a", state=state(b"new", {"k": 1})),
        Stored(key="b", state=state(b"new", {"k": 1})),
    )
    assert c == Drifted(key="c", found=state(b"theirs"))
    assert type(d).__name__ == "Removed"
    assert server.entries["c"] == ("theirs", {})


def test_reading_gives_each_key_its_answer_in_order_in_a_few_requests(server, backend):
    server.entries = {f"k{number:04}": (f"text {number}", {}) for number in range(0, 500, 2)}
    keys = [f"k{number:04}" for number in range(500)]
    found = list(backend.read(iter([*keys, "../a", keys[0], keys[0]])))

    assert [item.key for item in found[:500]] == keys
    assert found[0] == Entry(key="k0000", content=b"text 0", metadata={})
    assert found[1] == Absent(key="k0001")
    assert isinstance(found[500], Unreadable)
    assert found[501] == found[502] == found[0]
    assert len(requests(server, READ)) <= 8


def test_only_what_is_in_scope_comes_of_a_snapshot(server, backend):
    server.entries = {"a/b": ("x", {}), "a/c": ("x", {}), "d": ("x", {})}
    scope = Scope(include=["a/"], exclude=["c"])

    assert [found.key for found in backend.snapshot(scope, NORMAL)] == ["a/b"]
    assert list(backend.keys(scope)) == ["a/b"]


def test_a_snapshot_is_asked_under_the_normalisation_and_gives_states_and_notes(server, backend):
    line = listed("a", "x", {"k": "v"}, note="odd")
    server.on("GET", SNAPSHOT, answer(200, proved(snapshot_head(), [line]), NDJSON))
    (found,) = backend.snapshot(EVERYTHING, NORMAL)

    assert found == EntryState(
        key="a", state=state(b"x", {"k": "v"}), metadata={"k": "v"}, note="odd"
    )
    assert "line_ends=lf" in requests(server, SNAPSHOT)[0].path


def test_the_next_page_is_on_its_way_while_one_is_taken(server, backend):
    server.page = 2
    server.entries = {f"k{number}": ("x", {}) for number in range(6)}
    second = threading.Event()

    def arrived(exchange):
        second.set()
        exchange.send(exchange.honest())

    server.on("GET", SNAPSHOT, arrived, skip=1)
    snapshot = backend.snapshot(EVERYTHING, NORMAL)

    assert next(snapshot).key == "k0"
    assert second.wait(20)
    assert [found.key for found in snapshot] == [f"k{number}" for number in range(1, 6)]


def test_a_snapshot_that_is_left_early_leaves_nothing_behind(server, backend):
    server.page = 1
    server.entries = {f"k{number:02}": ("x", {}) for number in range(50)}
    snapshot = backend.snapshot(EVERYTHING, NORMAL)
    next(snapshot)
    snapshot.close()

    assert list(backend.read(["k00"])) == [Entry(key="k00", content=b"x", metadata={})]
    assert server.count("GET", SNAPSHOT) <= 3


def test_on_loopback_nothing_is_packed(server, backend):
    backend.write([put("a", before=None)], NORMAL)

    assert {one.headers["accept-encoding"] for one in server.seen} == {"identity"}
    assert "content-encoding" not in requests(server, WRITE)[0].headers


@pytest.fixture
def elsewhere(server, monkeypatch):
    """The same server by a name that is not one of loopback's."""
    real = socket.create_connection

    def connect(address, *more):
        assert address[0] == "memory.example"
        return real(("127.0.0.1", address[1]), *more)

    monkeypatch.setattr(socket, "create_connection", connect)
    return Where("http", f"http://memory.example:{server.port}", Secret(KEY), insecure_http=True)


def test_to_another_machine_batches_are_packed_and_single_requests_are_not(server, elsewhere):
    def packed(exchange):
        exchange.request.body = gzip.decompress(exchange.request.body)
        raw = exchange.honest().partition(b"\r\n\r\n")[2]
        headers = {**NDJSON, "Content-Encoding": "gzip"}
        exchange.send(answer(200, gzip.compress(raw), headers))

    server.on("POST", WRITE, packed)
    with HttpBackend(elsewhere) as backend:
        (receipt,) = backend.write([put("a", before=None)], NORMAL)

    assert receipt == Stored(key="a", state=state(b"new"))
    (request,) = requests(server, WRITE)
    assert request.headers["content-encoding"] == "gzip"
    assert {one.headers["accept-encoding"] for one in requests(server, READ)} == {"gzip"}
    assert {one.headers["accept-encoding"] for one in server.seen if "memory/tree" in one.path} == {
        "identity"
    }


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (gzip.compress(b"\n" * 50_000_000), AnswerTooLarge),
        (gzip.compress(b"\n")[:-4], RequestFailed),
        (gzip.compress(b"\n") + b"more", RequestFailed),
        (b"no gzip at all", RequestFailed),
    ],
    ids=["bomb", "cut", "more", "none"],
)
def test_a_packed_answer_is_unpacked_up_to_its_limit_and_has_to_be_whole(
    server, elsewhere, raw, kind
):
    server.on("GET", "/x", answer(200, raw, {**NDJSON, "Content-Encoding": "gzip"}))
    transport = Transport(elsewhere)
    try:
        with pytest.raises(kind):
            transport.request("GET", "/x", lines=1_000_000)
    finally:
        transport.close()


def test_a_packed_answer_that_nobody_asked_for_is_refused_from_anywhere(server, elsewhere):
    raw = answer(200, gzip.compress(b"{}"), {"Content-Encoding": "gzip"})
    server.on("GET", "/x", raw)
    transport = Transport(elsewhere)
    try:
        with pytest.raises(RequestFailed, match="not asked for"):
            transport.request("GET", "/x")
    finally:
        transport.close()
