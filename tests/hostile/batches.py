"""Answers of `hdev-memory/1` that are cut, lie or never end, and batches of an unknown outcome."""

from __future__ import annotations

import gzip
import hashlib
import json
import tracemalloc

import pytest

from hdev_memory.backends.base import Drifted, Failed, Removed, Stored
from hdev_memory.core.entry import Absent, Entry, Unreadable
from hdev_memory.errors import BackendError, KeyRefusedError
from tests.hostile.scene import case, put, remove, state
from tests.hostile.server import (
    HEALTH,
    NDJSON,
    READ,
    SNAPSHOT,
    WRITE,
    http,
    listed,
    proved,
    snapshot_head,
)

LATER = "may still be done later"
OLD = Entry(key="a", content=b"old", metadata={})


def lines(*given, head=None, end=None):
    """A snapshot of these lines, in one page."""
    return http(
        200, proved(head or snapshot_head(), list(given), {"next": None, **(end or {})}), NDJSON
    )


def unlisted(scene, raw, about, **limits):
    """A snapshot with this answer is an error, and not one entry comes of it."""
    scene.server.forget()
    scene.server.on("GET", SNAPSHOT, raw, times=None)
    with pytest.raises(BackendError, match=about):
        scene.snapshot(**limits)


def unread(scene, raw, about, **limits):
    """A read with this answer is an error: neither an entry nor an absence."""
    scene.server.forget()
    scene.server.on("POST", READ, raw, times=None)
    with pytest.raises(BackendError, match=about):
        scene.read(**limits)


def settled(scene, raw, *, sent=1):
    """What comes of a write with this answer, which was not done."""
    scene.server.forget()
    scene.server.on("POST", WRITE, raw)
    receipt = scene.write(put("a"))
    assert isinstance(receipt, Failed), receipt
    assert receipt.intact
    assert scene.server.entries["a"] == ("old", {})
    return receipt.reason


# Snapshots


@case("pages", "gives a snapshot in pages of three", "all of it, in order", batches=True)
def _(scene):
    scene.server.page = 3
    scene.server.entries = {f"k{number:02}": ("x", {}) for number in range(10)}

    assert list(scene.snapshot()) == [f"k{number:02}" for number in range(10)]
    assert scene.server.count("GET", SNAPSHOT) == 4


@case(
    "snapshot-without-end",
    "a snapshot without its last line, and one that ends within a line",
    "an error, never a short snapshot",
    batches=True,
)
def _(scene):
    whole = proved(snapshot_head(), [listed("a"), listed("b")], {"next": None})
    for cut in (whole[: whole.rindex(b'{"end"')], whole[:-3], whole[:-1], whole[:100], b"\n"):
        unlisted(scene, http(200, cut, NDJSON), "it is cut")


@case(
    "snapshot-cut-once",
    "a snapshot whose connection breaks in the middle, then a whole one",
    "asked again: all of it",
    batches=True,
)
def _(scene):
    raw = lines(listed("a"), listed("b"))
    scene.server.on("GET", SNAPSHOT, lambda e: (e.send(raw[:-200]), e.close()))

    assert list(scene.snapshot()) == ["a"]
    assert scene.server.count("GET", SNAPSHOT) == 2


@case(
    "snapshot-cut-in-a-page",
    "breaks off in the second page, for ever",
    "an error; the first page makes no snapshot",
    batches=True,
)
def _(scene):
    scene.server.page = 1
    scene.server.entries["b"] = ("x", {})
    scene.server.on("GET", SNAPSHOT, lambda e: e.reset(), skip=1, times=None)
    with pytest.raises(BackendError, match="cannot be reached"):
        scene.snapshot()


@case(
    "snapshot-proof-wrong",
    "a wrong digest, a wrong count, an end that is false",
    "an error each time",
    batches=True,
)
def _(scene):
    unlisted(scene, lines(listed("a"), end={"digest": "0" * 64}), "its digest is wrong")
    unlisted(scene, lines(listed("a"), end={"entries": 2}), "its end says 2")
    unlisted(scene, lines(listed("a"), end={"end": False}), "its last line is no end")
    changed = lines(listed("a", "x"), listed("b")).replace(b'"b"', b'"c"')
    unlisted(scene, changed, "its digest is wrong")


@case(
    "snapshot-order",
    "keys that repeat, and that descend",
    "an error, never a short or doubled snapshot",
    batches=True,
)
def _(scene):
    unlisted(scene, lines(listed("a"), listed("a")), "not in order")
    unlisted(scene, lines(listed("b"), listed("a")), "not in order")


@case(
    "snapshot-pages-loop",
    "pages that begin again, that leave keys out, and that hold nothing",
    "an error each time",
    batches=True,
)
def _(scene):
    unlisted(scene, lines(listed("a"), end={"next": "a"}), "not in order")
    unlisted(scene, lines(listed("a"), end={"next": "c"}), "do not fit together")
    unlisted(scene, lines(end={"next": "c"}), "do not fit together")


@case(
    "snapshot-never-ends",
    "a page behind each page, for ever",
    "an error at the limit of entries (here 50)",
    batches=True,
)
def _(scene):
    def more(exchange):
        key = f"k{scene.server.count('GET', SNAPSHOT):06}"
        exchange.send(lines(listed(key), end={"next": key}))

    scene.server.on("GET", SNAPSHOT, more, times=None)
    with pytest.raises(BackendError, match="more than 50 entries"):
        scene.snapshot(entries=50)


@case(
    "snapshot-endless-lines",
    "more lines than were asked for, and a page without an end",
    "cut at the limits (here 5 lines, 1 MB), and not built in memory",
    batches=True,
)
def _(scene):
    many = [listed(f"k{number}") for number in range(6)]
    unlisted(scene, lines(*many), "more than 5 lines", page_lines=5)

    def endless(exchange):
        exchange.send(b"HTTP/1.1 200 X\r\nContent-Type: application/x-ndjson\r\n")
        exchange.send(b"Transfer-Encoding: chunked\r\n\r\n")
        while exchange.send(b"1000\r\n" + b"\n" * 4096 + b"\r\n"):
            pass

    scene.server.forget()
    scene.server.on("GET", SNAPSHOT, endless, times=None)
    with pytest.raises(BackendError, match="too large"):
        scene.snapshot(page_bytes=1_000_000, page_lines=1)


@case(
    "snapshot-large-page",
    "a page that is larger than a page may be (here 12 kB)",
    "asked for with fewer lines; all of it",
    batches=True,
)
def _(scene):
    scene.server.entries = {f"k{n:02}": ("x", {"text": "y" * 900}) for n in range(20)}

    assert len(scene.snapshot(page_bytes=12_000, page_lines=64)) == 20
    assert scene.server.count("GET", SNAPSHOT) == 4


@case(
    "snapshot-of-another-kind",
    "a snapshot of another protocol version, kind, or normalisation",
    "an error each time",
    batches=True,
)
def _(scene):
    wrong = "not what it should be"
    unlisted(scene, lines(head=snapshot_head(protocol="hdev-memory/2")), wrong)
    unlisted(scene, lines(head=snapshot_head(kind="entries")), wrong)
    unlisted(scene, lines(head=snapshot_head(line_ends="exact")), "another normalisation")
    unlisted(scene, lines(head=snapshot_head(bookkeeping=["created"])), "another normalisation")
    unlisted(scene, lines(head={"kind": "snapshot"}), wrong)


@case(
    "snapshot-as-html",
    "200 and an HTML page, 200 and JSON, 500, 403 for a snapshot",
    "an error each time, never an empty snapshot",
    batches=True,
)
def _(scene):
    unlisted(scene, http(200, b"<html>", {"Content-Type": "text/html"}), "text/html")
    unlisted(scene, http(200, {"entries": []}), "HTTP request failed")
    unlisted(scene, http(200, b"", NDJSON), "HTTP request failed")
    unlisted(scene, http(500, {"detail": "The store cannot be read"}), "cannot be read")
    unlisted(scene, http(403, {"detail": "no"}), "no")


@case(
    "snapshot-lines-that-lie",
    "lines that are no entry: no digest, a wrong one, no size, no metadata, a key that is none",
    "an error each time",
    batches=True,
)
def _(scene):
    for more in (
        {"content": None}, {"content": "0" * 63}, {"bytes": -1}, {"bytes": "5"}, {"metadata": 5},
        {"values": {"k": 1}}, {"key": "../a"}, {"key": "a//b"}, {"key": "a\\b"},
        {"key": "x\x1b[2J", "unreadable": "no"}, {"unreadable": None},
    ):  # fmt: skip
        unlisted(scene, lines(listed("a") | more), "HTTP request failed: GET")
    shorter = {name: text for name, text in listed("a").items() if name != "bytes"}
    unlisted(scene, lines(shorter), "no entry")


@case(
    "snapshot-unreadable-lines",
    "what it cannot read: an entry, and a name that can have no key",
    "unreadable in their places; nothing of their reasons acts on a terminal",
    batches=True,
)
def _(scene):
    given = ({"key": "a", "unreadable": "bad\x1b[2J"}, {"key": "b\\xff", "unreadable": "no"})
    scene.server.on("GET", SNAPSHOT, lines(*given))
    found = scene.snapshot()

    assert [type(one) for one in found.values()] == [Unreadable, Unreadable]
    assert list(found) == ["a", "b\\xff"]
    assert "\x1b" not in found["a"].reason


@case(
    "snapshot-odd-metadata",
    "metadata with a key twice, of 400 levels, with an integer of 30 digits",
    "unreadable, each of them",
    batches=True,
)
def _(scene):
    for values in ('{"k":1,"k":2}', '{"k":' * 400 + "1" + "}" * 400, '{"k":' + "9" * 30 + "}"):
        scene.server.forget()
        raw = proved(snapshot_head(), [listed("a", metadata={"k": "BIG"})], {"next": None})
        raw = raw.replace(b'{"k": "BIG"}', values.encode())
        scene.server.on("GET", SNAPSHOT, http(200, mended(raw), NDJSON))
        assert isinstance(scene.snapshot()["a"], Unreadable)


def mended(raw):
    """The same body with the digest that it should have."""
    start = raw.rindex(b'{"end"')
    end = json.loads(raw[start:]) | {"digest": hashlib.sha256(raw[:start]).hexdigest()}
    return raw[:start] + json.dumps(end).encode() + b"\n"


@case(
    "snapshot-slow-drip",
    "a snapshot byte by byte, two in a second",
    "cut for its pace, tried again, an error",
    batches=True,
)
def _(scene):
    def drip(exchange):
        raw = lines(*(listed(f"k{number:03}") for number in range(100)))
        exchange.send(raw[:150])
        for at in range(150, len(raw)):
            scene.time.pass_by(0.5)
            if not exchange.send(raw[at : at + 1]):
                break
            exchange.connection.settimeout(0.01)
            try:
                if not exchange.connection.recv(1):
                    break
            except TimeoutError:
                pass
        exchange.close()

    scene.server.on("GET", SNAPSHOT, drip, times=None)
    with pytest.raises(BackendError, match="too slowly"):
        scene.snapshot()


@case(
    "snapshot-gzip-bomb",
    "a snapshot as a gzip bomb, which was not asked for on loopback",
    "refused unread; memory stays flat",
    batches=True,
)
def _(scene):
    bomb = gzip.compress(b"\n" * 50_000_000)
    tracemalloc.start()
    packed = {**NDJSON, "Content-Encoding": "gzip"}
    unlisted(scene, http(200, bomb, packed), "encoded as gzip")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert most < 5_000_000


@case(
    "empty-snapshot-with-delete",
    "as the source: a snapshot without its end, while `--delete` is on",
    "exit 9; nothing is deleted",
    batches=True,
)
def _(scene):
    from tests.conftest import put_entry, tree_of

    target = scene.home / "target"
    put_entry(target, "kept", "x")
    before = tree_of(target)
    cut = lines().replace(b'{"end"', b'{"END"')
    scene.server.on("GET", SNAPSHOT, cut)
    result = scene.run(
        "migrate-memory", "--source", "http", "--source-url", scene.server.url,
        "--api-key", "canary-key-of-the-hostile-server",
        "--target", "filesystem", "--target-path", target, "--delete",
    )  # fmt: skip

    assert result.status == 9
    assert tree_of(target) == before


@case(
    "announced-nonsense",
    "announces its protocol with limits that are none",
    "not believed: one request for each entry",
    batches=True,
)
def _(scene):
    for batch in ({}, {"entries": 0, "bytes": 5}, {"entries": True, "bytes": 5}, [1], {"bytes": 5}):
        health = scene.server.health()
        health["details"]["batch"] = batch
        scene.server.on("GET", HEALTH, http(200, health))
        assert scene.read() == OLD
    assert scene.server.count("POST") == 0


# Reads


@case(
    "read-early-end",
    "ends each answer to a read after one entry",
    "asked for the rest until all are there",
    batches=True,
)
def _(scene):
    def one(exchange):
        (key, *_) = json.loads(exchange.request.body)["keys"]
        exchange.send(http(200, proved({"kind": "entries"}, [scene.server.line(key)]), NDJSON))

    scene.server.on("POST", READ, one, times=None)
    with scene.client() as backend:
        assert list(backend.read(["a", "x", "y"])) == [OLD, Absent(key="x"), Absent(key="y")]


@case(
    "read-of-others",
    "answers a read about another key, in another order, about nothing, about more",
    "an error each time, never absence",
    batches=True,
)
def _(scene):
    absent = {"key": "b", "absent": True}
    for given, about in (
        ([absent], "another entry"),
        ([], "about no entry"),
        ([{"key": "a", "absent": True}, absent], "more than 1 lines"),
    ):
        unread(scene, http(200, proved({"kind": "entries"}, given), NDJSON), about)


@case(
    "read-contradicts-itself",
    "an entry that is absent and has content, is neither, has no metadata",
    "an error or unreadable, never absence",
    batches=True,
)
def _(scene):
    for line in (
        {"key": "a", "absent": True, "content": "x", "metadata": {}},
        {"key": "a", "absent": True, "unreadable": "no"},
        {"key": "a", "absent": False},
        {"key": "a"},
        {"key": "a", "content": 5, "metadata": {}},
    ):
        raw = http(200, proved({"kind": "entries"}, [line]), NDJSON)
        unread(scene, raw, "HTTP request failed: POST")
    for metadata in ([], None, "x"):
        line = {"key": "a", "content": "x", "metadata": metadata}
        scene.server.forget()
        scene.server.on("POST", READ, http(200, proved({"kind": "entries"}, [line]), NDJSON))
        assert isinstance(scene.read(), Unreadable)


@case(
    "read-is-retried",
    "503 and a RST to a read, then the entries",
    "asked again; the entry is read",
    batches=True,
)
def _(scene):
    scene.server.on("POST", READ, http(503, {"detail": "busy"}, {"Retry-After": "7"}))
    scene.server.on("POST", READ, lambda exchange: exchange.reset())

    assert scene.read() == OLD
    assert scene.time.pauses[0] == 7.0


@case(
    "redirect-a-batch",
    "307 of a read and of a write to another port",
    "not followed: an error, and failed intact; the other port hears nothing",
    batches=True,
)
def _(scene):
    place = {"Location": f"http://127.0.0.1:{scene.bystander.port}{READ}"}
    unread(scene, http(307, b"", place), "HTTP request failed: POST")
    scene.server.forget()

    assert "a write follows nowhere" in settled(scene, http(307, b"", place))


# Writes


def receipts(*given, **end):
    return http(200, proved({"kind": "receipts"}, list(given), end), NDJSON)


def yes(key="a", content="new"):
    """A receipt that says that it stands as planned."""
    found = state(content.encode())
    digests = {"content": found.content, "metadata": found.metadata, "bytes": found.bytes}
    return {"key": key, "stored": digests, "etag": '"1"'}


@case(
    "batch-carried-out",
    "honest: a create, an overwrite, a removal and a stale change in one batch",
    "each has its own receipt; one request",
    batches=True,
)
def _(scene):
    scene.server.entries |= {"b": ("old", {}), "c": ("theirs", {})}
    told = scene.write(put("a"), remove("b"), put("c"), put("d", before=None))

    assert told == [
        Stored(key="a", state=state(b"new")),
        Removed(key="b"),
        Drifted(key="c", found=state(b"theirs")),
        Stored(key="d", state=state(b"new")),
    ]
    assert scene.server.count("POST", WRITE) == 1
    assert scene.server.count("PUT") == 0


@case(
    "batch-says-yes",
    "confirms a batch and does nothing of it",
    "failed, intact, no success",
    batches=True,
)
def _(scene):
    assert "as it was before" in settled(scene, receipts(yes()))


@case(
    "batch-stores-another",
    "confirms a batch and stores another text",
    "damaged, with its digest",
    batches=True,
)
def _(scene):
    def lie(exchange):
        scene.server.entries["a"] = ("other", {})
        exchange.send(receipts(yes()))

    scene.server.on("POST", WRITE, lie)
    receipt = scene.write(put("a"))

    assert isinstance(receipt, Failed)
    assert not receipt.intact
    assert state(b"other").content[:12] in receipt.reason


@case(
    "batch-stored-lies",
    "says that it stored another state than it was asked to, and has not",
    "failed, intact, perhaps later: the receipt is not believed",
    batches=True,
)
def _(scene):
    reason = settled(scene, receipts(yes(content="other")))

    assert "it stored another" in reason
    assert LATER in reason


@case(
    "batch-receipts-wrong",
    "fewer receipts, more, in another order, of another key, of two outcomes, of none",
    "not believed: failed, intact, perhaps later",
    batches=True,
)
def _(scene):
    for given in (
        [],
        [yes(), yes("b")],
        [yes("b")],
        [yes() | {"removed": True}],
        [yes() | {"failed": "no"}],
        [{"key": "a"}],
        [{"key": "a", "stored": {"content": "x"}}],
    ):
        assert LATER in settled(scene, receipts(*given))
    assert LATER in settled(scene, receipts(yes(), digest="0" * 64))


@case(
    "batch-as-html",
    "200 and an HTML page, and an answer without its end, to a batch",
    "not believed: failed, intact, perhaps later",
    batches=True,
)
def _(scene):
    assert LATER in settled(scene, http(200, b"<html>", {"Content-Type": "text/html"}))
    assert LATER in settled(scene, http(200, proved({"kind": "receipts"}, [yes()])[:-9], NDJSON))
    assert LATER in settled(scene, http(200, {"success": True}))


@case(
    "batch-drift-made-up",
    "says that an entry drifted which is as planned, and that one drifted which it wrote",
    "no drift is made up; what is as planned counts as done",
    batches=True,
)
def _(scene):
    reason = settled(scene, receipts({"key": "a", "drifted": None}))
    assert "but the entry is as it was planned" in reason

    def lie(exchange):
        exchange.honest()
        exchange.send(receipts({"key": "a", "drifted": None}))

    scene.server.on("POST", WRITE, lie)

    assert scene.write(put("a")) == Drifted(key="a", found=state(b"new"))


@case(
    "batch-dropped",
    "drops a batch before it does it, and another one when it is done",
    "each entry by what is read: failed and intact; stored. Each sent once",
    batches=True,
)
def _(scene):
    assert LATER in settled(scene, lambda exchange: exchange.reset())

    scene.server.on("POST", WRITE, lambda exchange: (exchange.honest(), exchange.close()))

    assert scene.write(put("a"), put("b", before=None)) == [
        Stored(key="a", state=state(b"new")),
        Stored(key="b", state=state(b"new")),
    ]
    assert scene.server.count("POST", WRITE) == 2


@case(
    "batch-half-done",
    "does half of a batch, and drops the connection",
    "each entry has its own outcome, by what is read",
    batches=True,
)
def _(scene):
    def half(exchange):
        _, first, *_ = exchange.request.body.splitlines()
        scene.server.change(json.loads(first))
        exchange.reset()

    scene.server.on("POST", WRITE, half)
    first, second = scene.write(put("a"), put("b", before=None))

    assert first == Stored(key="a", state=state(b"new"))
    assert isinstance(second, Failed)
    assert second.intact
    assert LATER in second.reason


@case(
    "batch-then-gone",
    "drops a batch, and every connection after it",
    "not known what stands there; the rest is not sent, and named so",
    batches=True,
)
def _(scene):
    scene.server.on("POST", WRITE, lambda exchange: exchange.reset(), times=None)
    scene.server.on("POST", READ, lambda exchange: exchange.reset(), times=None)
    told = scene.write(*(put(f"d/{number:03}", before=None) for number in range(1000)))
    unsent = [receipt for receipt in told if "not sent" in receipt.reason]

    assert all(isinstance(receipt, Failed) for receipt in told)
    assert "not known what stands there" in told[0].reason
    assert not told[0].intact
    assert len(unsent) >= 600
    assert all(receipt.intact for receipt in unsent)


@case(
    "batch-put-off",
    "429 with `Retry-After: 5` to a batch, then takes it",
    "waits 5 s, sent again: stored",
    batches=True,
)
def _(scene):
    scene.server.on("POST", WRITE, http(429, {"detail": "busy"}, {"Retry-After": "5"}))

    assert scene.write(put("a")) == Stored(key="a", state=state(b"new"))
    assert scene.time.pauses == [5.0]


@case(
    "batch-put-off-but-done",
    "does a batch, and then answers 503",
    "sent again, which its conditions make harmless: it stands as planned",
    batches=True,
)
def _(scene):
    def lie(exchange):
        exchange.honest()
        exchange.send(http(503, {"detail": "busy"}))

    scene.server.on("POST", WRITE, lie)

    assert scene.write(put("a")) == Drifted(key="a", found=state(b"new"))
    assert scene.server.count("POST", WRITE) == 2


@case(
    "batch-500",
    "500 to a batch, which it has done",
    "not sent again: stored, by what is read",
    batches=True,
)
def _(scene):
    scene.server.on("POST", WRITE, lambda e: (e.honest(), e.send(http(500, {"detail": "boom"}))))

    assert scene.write(put("a")) == Stored(key="a", state=state(b"new"))
    assert scene.server.count("POST", WRITE) == 1


@case(
    "batch-too-large",
    "413 to every batch of more than three changes, as a proxy with its own limit",
    "sent in halves: all are stored",
    batches=True,
)
def _(scene):
    def small(exchange):
        many = exchange.request.body.count(b"\n") > 4
        exchange.send(
            http(413, b"<html>", {"Content-Type": "text/html"}) if many else exchange.honest()
        )

    scene.server.on("POST", WRITE, small, times=None)
    told = scene.write(*(put(f"k{number}", before=None) for number in range(10)))

    assert [type(receipt) for receipt in told] == [Stored] * 10
    assert len(scene.server.entries) == 11


@case(
    "batch-always-too-large",
    "413 to every batch, also of one change",
    "failed, intact: too large for the target",
    batches=True,
)
def _(scene):
    scene.server.on("POST", WRITE, http(413, {"detail": "too large"}), times=None)
    told = scene.write(put("a"), put("b", before=None))

    assert [receipt.reason for receipt in told] == ["Content too large for target backend"] * 2
    assert all(receipt.intact for receipt in told)


@case(
    "batch-refused",
    "409 (an older fence), 400, 403 and 404 to a batch of three hundred",
    "refused, intact; the rest is not sent, and named so",
    batches=True,
)
def _(scene):
    for status in (409, 400, 403, 404):
        scene.server.forget()
        scene.server.on("POST", WRITE, http(status, {"detail": "no"}), times=None)
        sent = scene.server.count("POST", WRITE)
        told = scene.write(*(put(f"d/{number:03}", before=None) for number in range(900)))
        assert all(isinstance(receipt, Failed) and receipt.intact for receipt in told)
        assert LATER not in told[0].reason
        assert scene.server.count("POST", WRITE) - sent <= 3
    assert scene.server.entries == {"a": ("old", {})}


@case(
    "batch-401",
    "401 to a batch",
    "the key is refused; sent once, exit 9",
    batches=True,
)
def _(scene):
    scene.server.on("POST", WRITE, http(401, {"detail": "revoked"}))

    with pytest.raises(KeyRefusedError, match="revoked"):
        scene.write(put("a"))
    assert scene.server.count("POST", WRITE) == 1
