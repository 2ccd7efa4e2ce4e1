"""Answers that are too long, too slow, cut, packed, malformed, or about something else."""

from __future__ import annotations

import gzip
import json
import tracemalloc

import pytest

from hdev_memory.backends.base import EVERYTHING, Drifted, Failed, Stored
from hdev_memory.core.entry import Absent, Entry, Unreadable
from hdev_memory.errors import BackendError
from tests.hostile.reads import OLD, A
from tests.hostile.scene import NORMAL, case, put, remove
from tests.hostile.server import ENTRY, HEALTH, TREE, held, http, missing


def unreadable(scene, raw, about=None, **limits):
    """One read of this answer: the entry is unreadable, and its reason says so."""
    scene.server.forget()
    scene.server.on("GET", A, raw, times=None)
    found = scene.read(**limits)
    assert isinstance(found, Unreadable), found
    if about is not None:
        assert about in found.reason
    return found


def broken(scene, act, about, **limits):
    """Reads of this entry end with an error, whoever tries again."""
    scene.server.on("GET", A, act, times=None)
    with pytest.raises(BackendError, match=about) as caught:
        scene.read(**limits)
    scene.said.append(str(caught.value))


# Too slow


@case(
    "slow-drip",
    "sends its answer byte by byte, two in a second",
    "cut for its pace, tried again, an error; within the deadline of the request",
)
def _(scene):
    def drip(exchange):
        raw = http(200, held("a", "x" * 200))
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

    broken(scene, drip, "comes too slowly", timeout=1000.0, attempts=2)


@case(
    "over-the-deadline",
    "keeps the pace, and does not end within the deadline",
    "cut at the deadline of the whole request",
)
def _(scene):
    def long(exchange):
        exchange.send(http(200, b"", length=10_000_000))
        while exchange.send(b" " * 10_000):
            scene.time.pass_by(1.0)

    broken(scene, long, "takes too long", attempts=1, pace=0)


@case("silence", "takes the request and never answers", "cut at the deadline, an error")
def _(scene):
    broken(scene, lambda exchange: exchange.until_gone(), "takes too long", timeout=0.2, attempts=2)
    assert scene.server.count("GET", A) == 2


@case("slow-head", "sends a head without an end, a byte a second", "cut at the deadline, an error")
def _(scene):
    def head(exchange):
        exchange.send(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while exchange.send(b"1"):
            scene.time.pass_by(1.0)

    broken(scene, head, "takes too long", attempts=1, pace=0)


# Too long, or cut


@case(
    "truncated-once",
    "an answer cut in the middle, then a whole one",
    "tried again; the entry is read",
)
def _(scene):
    def cut(exchange):
        exchange.send(exchange.honest()[:-10])
        exchange.close()

    scene.server.on("GET", A, cut)

    assert scene.read() == OLD


@case("truncated-always", "every answer is cut in the middle", "an error, never a short entry")
def _(scene):
    def cut(exchange):
        exchange.send(exchange.honest()[:-10])
        exchange.close()

    broken(scene, cut, "closed in the middle of the answer")


@case(
    "too-short-a-length",
    "a `Content-Length` that ends before the body does",
    "unreadable: half an object is no JSON",
)
def _(scene):
    body = json.dumps(held("a", "old")).encode()
    unreadable(scene, http(200, body, length=len(body) - 10), "not valid JSON")


@case("length-negative", "`Content-Length: -1`", "an error")
def _(scene):
    broken(scene, http(200, held("a"), length=-1), "not one number")


@case("length-twice", "two different `Content-Length`", "an error")
def _(scene):
    broken(scene, http(200, held("a"), {"Content-length": "5"}), "not one number")


@case(
    "endless-body",
    "a chunked answer without an end",
    "cut at the size limit (here 1 MB), asked once, an error",
)
def _(scene):
    def endless(exchange):
        head = "HTTP/1.1 200 X\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked"
        exchange.send(f"{head}\r\n\r\n".encode())
        while exchange.send(b"10000\r\n" + b" " * 65536 + b"\r\n"):
            pass

    broken(scene, endless, "too large", answer_bytes=1_000_000)
    assert scene.server.count("GET", A) == 1


@case("long-body", "a `Content-Length` beyond the limit", "cut at the size limit, an error")
def _(scene):
    def long(exchange):
        exchange.send(http(200, b"", length=10**12))
        while exchange.send(b" " * 65536):
            pass

    broken(scene, long, "too large", answer_bytes=1_000_000)


@case("header-bomb", "five hundred headers", "an error")
def _(scene):
    broken(scene, http(200, held("a"), {f"X-{n}": "x" for n in range(500)}), "100 headers")


@case("header-long", "one header of a megabyte", "an error")
def _(scene):
    broken(scene, http(200, held("a"), {"X-Long": "x" * 1_000_000}), "HTTP request failed")


@case("1xx-flood", "endless `100 Continue`", "cut at the limit of a head, an error")
def _(scene):
    def flood(exchange):
        while exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000):
            pass

    broken(scene, flood, "too large")


@case("1xx-some", "100, 102 and 103 before its answer", "passed over; the entry is read")
def _(scene):
    def some(exchange):
        for status in (100, 102, 103):
            exchange.send(f"HTTP/1.1 {status} X\r\nLink: </x>\r\n\r\n".encode())
        exchange.send(exchange.honest())

    scene.server.on("GET", A, some)

    assert scene.read() == OLD


@case("101-switching", "`101 Switching Protocols` to a read", "an error")
def _(scene):
    def switch(exchange):
        exchange.send(b"HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
        exchange.close()

    broken(scene, switch, "switches to another protocol")


@case(
    "204", "204 to the read of an entry, with a body behind it", "unreadable; the next read works"
)
def _(scene):
    scene.server.entries["b"] = ("x", {})
    scene.server.on("GET", A, http(204, held("a")))
    with scene.client() as backend:
        first, second = backend.read(["a", "b"])

    assert isinstance(first, Unreadable)
    assert second == Entry(key="b", content=b"x", metadata={})


@case(
    "304",
    "304 to a read that was not conditional",
    "unreadable",
)
def _(scene):
    unreadable(scene, http(304, b"", {"ETag": '"x"'}), "304")


@case(
    "head-like",
    "the headers of a whole answer, as to HEAD, and no body",
    "an error, never an empty entry",
)
def _(scene):
    def head(exchange):
        exchange.send(http(200, b"", length=300))
        exchange.close()

    broken(scene, head, "closed in the middle of the answer")


@case(
    "junk-behind",
    "bytes that nobody asked for, behind a whole answer",
    "the answer is read; the connection is not believed any further",
)
def _(scene):
    scene.server.on("GET", A, lambda e: e.send(e.honest() + b"\x00\xffjunk\r\n\r\n"), times=8)
    with scene.client() as backend:
        for _ in range(8):
            assert list(backend.read(["a"])) == [OLD]


@case(
    "answer-behind",
    "a second answer behind the first: that another entry does not exist",
    "not taken for absence of what is asked next",
)
def _(scene):
    scene.server.entries["b"] = ("x", {})
    for _ in range(8):
        scene.server.on("GET", A, lambda e: e.send(e.honest() + http(200, missing("c"))))
    with scene.client() as backend:
        found = [next(iter(backend.read([key]))) for _ in range(8) for key in ("a", "b")]

    assert not [one for one in found if isinstance(one, Absent)]


# Packed


@case("gzip-bomb", "a gzip bomb as `Content-Encoding`", "refused unread; memory stays flat")
def _(scene):
    bomb = gzip.compress(b" " * 50_000_000)
    tracemalloc.start()
    broken(scene, http(200, bomb, {"Content-Encoding": "gzip"}), "encoded as gzip")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 5_000_000


@case(
    "encoded-write",
    "performs a write and answers it with `Content-Encoding: br`",
    "the answer is not believed; reading finds the entry stored",
)
def _(scene):
    def encoded(exchange):
        exchange.honest()
        exchange.send(http(200, b"\x0b\x02\x80", {"Content-Encoding": "br"}))

    scene.server.on("PUT", A, encoded)

    assert isinstance(scene.write(put("a")), Stored)
    assert scene.server.count("PUT") == 1


# JSON


@case("depth-bomb", "a hundred thousand `[`", "unreadable")
def _(scene):
    unreadable(scene, http(200, b"[" * 100_000))
    unreadable(scene, http(200, b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "nested too deep")


@case("deep-metadata", "metadata of 400 levels", "unreadable")
def _(scene):
    deep: object = 1
    for _ in range(400):
        deep = {"k": deep}
    unreadable(scene, http(200, held("a", metadata={"k": deep})), "nested too deep")


@case("breadth-bomb", "a list of a million empty lists", "unreadable, and not built in memory")
def _(scene):
    wide = b'{"items":[' + b"[]," * 1_000_000 + b"[]]}"
    unreadable(scene, http(200, wide), "too many values", values=500_000)


@case("duplicate-content", "an entry with `content` twice", "unreadable: no one of them is taken")
def _(scene):
    unreadable(scene, http(200, b'{"content":"x",' + json.dumps(held("a")).encode()[1:]), "twice")


@case(
    "duplicate-success",
    "that an entry does not exist, with `success` true and false",
    "unreadable, not absent",
)
def _(scene):
    body = json.dumps(missing("a")).replace("{", '{"success":true,', 1)
    unreadable(scene, http(200, body.encode()), "names a key twice")


@case("lone-surrogate", "half a surrogate pair in the content", "unreadable")
def _(scene):
    unreadable(scene, http(200, held("a", "\ud800")), "not valid Unicode")


@case("lone-surrogate-in-metadata", "half a surrogate pair in metadata", "unreadable in a snapshot")
def _(scene):
    scene.server.on("GET", A, http(200, held("a", metadata={"k": "\udfff"})))

    assert isinstance(scene.snapshot()["a"], Unreadable)


@case("nan", "NaN, and 1e999, in metadata", "unreadable")
def _(scene):
    unreadable(
        scene, http(200, json.dumps(held("a", metadata={"k": float("nan")})).encode()), "NaN"
    )
    body = json.dumps(held("a", metadata={"k": "BIG"})).replace('"BIG"', "1e999")
    scene.server.forget()
    scene.server.on("GET", A, http(200, body.encode()))

    assert isinstance(scene.snapshot()["a"], Unreadable)


@case("huge-numbers", "integers of 30 and of 10,000 digits in metadata", "unreadable")
def _(scene):
    for digits in (30, 10_000):
        body = json.dumps(held("a", metadata={"k": "BIG"})).replace('"BIG"', "9" * digits)
        scene.server.forget()
        scene.server.on("GET", A, http(200, body.encode()))
        assert isinstance(scene.snapshot()["a"], Unreadable)


@case("huge-limit", "a `max_entry_bytes` of 400 digits, and `true`", "no limit is known", ours=True)
def _(scene):
    for limit in (10**400, True, -1, "9"):
        health = scene.server.health()
        health["details"]["max_entry_bytes"] = limit
        scene.server.on("GET", HEALTH, http(200, health))
        with scene.client() as backend:
            assert backend.capabilities.max_entry_bytes is None


@case(
    "store-id-with-controls",
    "a store identity of control characters, and one of 10 KB",
    "no identity is known",
    ours=True,
)
def _(scene):
    for store in ("\x1b[2J", "x" * 10_000, 7):
        health = scene.server.health()
        health["details"]["store"] = store
        scene.server.on("GET", HEALTH, http(200, health))
        with scene.client() as backend:
            assert backend.endpoint.store is None


@case("utf-16", "JSON in UTF-16, and in UTF-8 that is broken", "unreadable")
def _(scene):
    unreadable(scene, http(200, json.dumps(held("a")).encode("utf-16")), "not UTF-8")
    unreadable(scene, http(200, b'{"content":"\xff"}'), "not UTF-8")
    unreadable(scene, http(200, held("a"), {"Content-Type": "application/json; charset=latin-1"}))


@case("html-page", "an HTML page for an entry, 200", "unreadable, not absent")
def _(scene):
    unreadable(scene, http(200, b"<html>", {"Content-Type": "text/html"}), "text/html, not JSON")


@case("html-at-the-handshake", "an HTML page for its health, 200", "exit 9: no memory server")
def _(scene):
    scene.server.on("GET", HEALTH, http(200, b"<html>", {"Content-Type": "text/html"}))
    result = scene.migrate()

    assert result.status == 9
    assert "not a memory server" in result.err


@case("wrong-type", "an entry as `text/plain`", "unreadable")
def _(scene):
    unreadable(scene, http(200, held("a"), {"Content-Type": "text/plain"}), "not JSON")


@case("empty-answer", "200 with nothing in it, and `{}`", "unreadable, not absent, not empty")
def _(scene):
    unreadable(scene, http(200), "is empty")
    unreadable(scene, http(200, {}))


@case(
    "wrong-types",
    "content that is a number, metadata that is a list, `success` that is a text",
    "unreadable, each of them",
)
def _(scene):
    for wrong in (
        held("a", 5), held("a", None), held("a") | {"metadata": []}, held("a", success="true"),
        held("a", type="leaf"), held("a") | {"path": ["a"]}, [held("a")], "a", None, 7,
        missing("a") | {"success": 0}, missing("a") | {"error": [missing("a")["error"]]},
    ):  # fmt: skip
        unreadable(scene, http(200, wrong))


@case("another-path", "gives another entry than the one asked for", "unreadable")
def _(scene):
    unreadable(scene, http(200, held("b")), "about something else")


@case(
    "absent-elsewhere",
    "that another path does not exist",
    "unreadable, not absent",
)
def _(scene):
    unreadable(scene, http(200, missing("b")))
    unreadable(scene, http(200, missing("a", path="b")))
    unreadable(scene, http(404, missing("a")))


@case(
    "nonsense-before-a-delete",
    "HTML for an entry that a delete is planned for",
    "failed and intact; the delete is not sent",
)
def _(scene):
    page = http(200, b"<html>", {"Content-Type": "text/html"})
    scene.server.on("GET", A, page)
    receipt = scene.write(remove("a"))

    assert isinstance(receipt, Failed)
    assert receipt.intact
    assert scene.server.count("DELETE") == 0


# Listings


def unlisted(scene, about, **limits):
    with pytest.raises(BackendError, match=about):
        scene.snapshot(**limits)


def folder(path, *items):
    listed = [{"type": kind, "path": name} for kind, name in items]
    return http(200, {"type": "directory", "path": path, "items": listed, "success": True})


@case("tree-escapes", "a tree that names `..` and more", "unreadable by name; never requested")
def _(scene):
    items = {"..": {}, "a": {}, "x\ud800": {}, "c:\\d": {}, "": {}, "d": {"..": {"e": {}}}}
    scene.server.on("GET", TREE, http(200, scene.server.tree(items)), times=None)
    scene.server.on("GET", ENTRY + "d", folder("d", ("node", "d/..")))
    scene.server.on("GET", ENTRY, folder("", ("leaf", "a"), ("node", "d"), ("leaf", "../up")))
    found = scene.snapshot()

    del found["a"]  # which is there, and read
    assert all(isinstance(one, Unreadable) for one in found.values())
    assert len(found) == 6
    assert not [one.path for one in scene.server.seen if ".." in one.path or "%5C" in one.path]


@case(
    "tree-repeats",
    "a tree with one name twice, and with `a/b` beside `a`: {`b`}",
    "an error, never a short snapshot",
)
def _(scene):
    body = json.dumps(scene.server.tree({"BIG": {}})).replace('"BIG"', '"b": {}, "a": {}, "b"')
    scene.server.on("GET", TREE, http(200, body.encode()))
    unlisted(scene, "names a key twice")
    scene.server.on("GET", TREE, http(200, scene.server.tree({"a/b": {}, "a": {"b": {}}})))
    unlisted(scene, "no tree at a/b")


@case(
    "tree-is-no-object",
    "a tree that is a list, null, `{}`, cut, or full of texts",
    "an error each time, never an empty snapshot",
)
def _(scene):
    whole = scene.server.tree({"a": {}})
    for wrong in (
        whole | {"items": ["a"]}, whole | {"items": None}, {}, [], b"", b'{"type":"tree","items":{',
        whole | {"success": False, "error": "no"}, whole | {"success": "true"},
        whole | {"type": "file"}, whole | {"items": {"a": "file"}}, whole | {"items": {"a": None}},
    ):  # fmt: skip
        scene.server.on("GET", TREE, http(200, wrong))
        unlisted(scene, "HTTP request failed: GET /api/memory/tree")


@case("tree-as-html", "an HTML page for the tree", "an error, exit 9, no plan")
def _(scene):
    scene.server.on("GET", TREE, http(200, b"<html>", {"Content-Type": "text/html"}))
    result = scene.migrate("--dry-run")

    assert result.status == 9
    assert "text/html" in result.err


@case("tree-forbidden", "403, and 404, to the tree", "an error, never an empty snapshot")
def _(scene):
    for status in (403, 404):
        scene.server.on("GET", TREE, http(status, {"detail": "no"}))
        unlisted(scene, "cannot list")


@case(
    "empty-source-with-delete",
    "as the source: an error for its tree, while `--delete` is on",
    "exit 9; nothing is deleted",
)
def _(scene):
    from tests.conftest import put_entry, tree_of

    target = scene.home / "target"
    put_entry(target, "kept", "x")
    before = tree_of(target)
    scene.server.on("GET", TREE, http(200, {"success": False, "type": "tree", "items": {}}))
    result = scene.run(
        "migrate-memory", "--source", "http", "--source-url", scene.server.url,
        "--api-key", "canary-key-of-the-hostile-server",
        "--target", "filesystem", "--target-path", target, "--delete",
    )  # fmt: skip

    assert result.status == 9
    assert tree_of(target) == before


@case("listing-loops", "folders that list themselves and their parent", "an error")
def _(scene):
    scene.server.on("GET", TREE, http(500, {"detail": "too deep"}), times=None)
    for loop in ("d", "", "d/d/d"):
        del scene.server.faults[1:]
        scene.server.on("GET", ENTRY, folder("", ("node", "d")))
        scene.server.on("GET", ENTRY + "d", folder("d", ("node", loop or "e"), ("node", "d")))
        unlisted(scene, "cannot list one of its folders")


@case(
    "listing-never-ends",
    "each folder holds two more, for ever",
    "an error at the limit of folders (here 500)",
)
def _(scene):
    def more(exchange):
        path = exchange.request.path.removeprefix(ENTRY)
        prefix = f"{path}/" if path else ""
        exchange.send(folder(path, ("node", f"{prefix}0"), ("node", f"{prefix}1")))

    scene.server.on("GET", TREE, http(500, {"detail": "too deep"}))
    scene.server.on("GET", ENTRY + "*", more, times=None)
    unlisted(scene, "more than", folders=500)


@case(
    "listing-too-deep",
    "each folder holds one more, for ever",
    "ends where names are too long, which is reported",
)
def _(scene):
    def more(exchange):
        path = exchange.request.path.removeprefix(ENTRY)
        exchange.send(folder(path, ("node", f"{path}/{'d' * 200}" if path else "d")))

    scene.server.on("GET", TREE, http(500, {"detail": "too deep"}))
    scene.server.on("GET", ENTRY + "*", more, times=None)
    found = scene.snapshot()

    assert [type(one) for one in found.values()] == [Unreadable]
    assert scene.server.count("GET", ENTRY + "*") < 10


@case(
    "listing-repeats",
    "a listing that names an entry twice, or one of another folder",
    "an error",
)
def _(scene):
    scene.server.entries["d/e"] = ("x", {})
    for wrong in (
        folder("", ("leaf", "a"), ("leaf", "a"), ("node", "d")),
        folder("", ("leaf", "d/e")),
        folder("d", ("leaf", "d/e")),
        folder("", ("file", "a")),
    ):
        scene.server.on("GET", ENTRY, wrong)
        unlisted(scene, "cannot list one of its folders")


@case(
    "listed-and-absent",
    "lists an entry, and says that it does not exist",
    "unreadable, not left out",
)
def _(scene):
    scene.server.on("GET", A, http(200, missing("a")))

    assert isinstance(scene.snapshot()["a"], Unreadable)


@case(
    "gone-meanwhile",
    "an entry that goes between the listing and its read",
    "left out, once the listing no longer names it",
)
def _(scene):
    def gone(exchange):
        del scene.server.entries["a"]
        exchange.send(exchange.honest())

    scene.server.entries["b"] = ("x", {})
    scene.server.on("GET", A, gone)

    assert list(scene.snapshot()) == ["b"]


@case(
    "listings-differ",
    "an entry that the tree leaves out and its folder's listing names",
    "it is in the snapshot",
)
def _(scene):
    scene.server.entries |= {"d/e": ("x", {}), "d/f/g": ("x", {})}
    tree = scene.server.tree({"a": {}, "d": {"f": {"g": {}}}})
    scene.server.on("GET", TREE, http(200, tree))

    assert list(scene.snapshot()) == ["a", "d/e", "d/f/g"]


@case(
    "tree-leaves-a-folder-out",
    "a tree without a folder that the listing above it names",
    "what that folder holds is in the snapshot",
)
def _(scene):
    scene.server.entries |= {"d/f/g": ("x", {}), "d/h/i/j": ("x", {})}
    scene.server.on("GET", TREE, http(200, scene.server.tree({"a": {}, "d": {"f": {"g": {}}}})))

    assert list(scene.snapshot()) == ["a", "d/f/g", "d/h/i/j"]


@case(
    "folder-as-entry",
    "a tree that shows a folder with entries as if it were an entry",
    "unreadable, and the reason says that what it holds was not listed",
)
def _(scene):
    scene.server.entries = {"d/e": ("x", {})}
    scene.server.on("GET", TREE, http(200, scene.server.tree({"d": {}})))

    assert "was not listed" in scene.snapshot()["d"].reason


@case(
    "listed-by-another-name",
    "lists a dotted name, by which it gives another entry",
    "unreadable, not left out",
)
def _(scene):
    scene.server.entries["v1.2"] = ("x", {})

    assert isinstance(scene.snapshot()["v1.2"], Unreadable)
    assert scene.server.count("GET", ENTRY + "v1.2") == 0


@case(
    "lying-folder-before-writes",
    "a listing of another folder, asked for before many creates",
    "not believed: each entry is read, and what is there is not overwritten",
)
def _(scene):
    scene.server.entries = {f"d/{name}": ("theirs", {}) for name in "xyz"}
    scene.server.on("GET", ENTRY + "d", folder("e"))
    receipts = scene.write(*(put(f"d/{name}", before=None) for name in "xyz"))

    assert not [receipt for receipt in receipts if isinstance(receipt, Stored)]
    assert {content for content, _ in scene.server.entries.values()} == {"theirs"}


@case(
    "empty-folder-before-writes",
    "an empty listing, before many creates, of a folder in which its tree named entries",
    "not believed: each entry is read, and what is there is not overwritten",
)
def _(scene):
    scene.server.entries = {f"d/{name}": ("theirs", {}) for name in "xyz"}
    with scene.client() as backend:
        assert len(list(backend.keys())) == 3
        scene.server.on("GET", ENTRY + "d", folder("d"))
        changes = [put(f"d/{name}", before=None) for name in "xyz"]
        receipts = backend.write(changes, NORMAL)

    assert [type(receipt) for receipt in receipts] == [Drifted] * 3
    assert {content for content, _ in scene.server.entries.values()} == {"theirs"}


@case("keys-only", "an HTML page where only names are asked for", "an error, never no names")
def _(scene):
    scene.server.on("GET", TREE, http(200, b"<html>", {"Content-Type": "text/html"}))
    with scene.client() as backend, pytest.raises(BackendError):
        list(backend.keys(EVERYTHING))
