"""Writes of which the answer does not say, or lies about, what was done."""

from __future__ import annotations

import json

import pytest

from hdev_memory.backends.base import Drifted, Failed, Removed, Stored
from hdev_memory.errors import KeyRefusedError
from tests.conftest import put_entry
from tests.hostile.scene import KEY, case, put, remove, state
from tests.hostile.server import ENTRY, JSON, http

A = ENTRY + "a"
YES = {"path": "a", "success": True, "message": "", "error": None}
LATER = "may still be done later"
NEW = ("new", {"version": 1})


def intact(scene, receipt, about, *, sent=1):
    """Not done, seen to be as before, sent so often, and the store is as it was."""
    assert isinstance(receipt, Failed), receipt
    assert receipt.intact
    assert about in receipt.reason
    assert scene.server.entries["a"] == ("old", {})
    assert scene.server.count("PUT") == sent
    assert (LATER in receipt.reason) == (about == LATER)


def damaged(receipt, found):
    """Not done, and neither as before nor as planned, which the receipt says."""
    assert isinstance(receipt, Failed), receipt
    assert not receipt.intact
    assert "damaged" in receipt.reason
    assert found in receipt.reason


# Done, and not answered


@case("applied-then-dropped", "performs a write, then drops the connection", "stored; sent once")
def _(scene):
    def drop(exchange):
        exchange.honest()
        exchange.close()

    scene.server.on("PUT", A, drop)

    assert scene.write(put("a")) == put_stored()
    assert scene.server.entries["a"] == NEW
    assert scene.server.count("PUT") == 1


def put_stored():
    return Stored(key="a", state=state(b"new"))


@case("applied-then-500", "performs a write, then answers 500", "stored; sent once")
def _(scene):
    def fail(exchange):
        exchange.honest()
        exchange.send(http(500, {"detail": "boom"}))

    scene.server.on("PUT", A, fail)

    assert scene.write(put("a")) == put_stored()
    assert scene.server.count("PUT") == 1


@case("applied-then-429", "performs a write, then answers 429", "stored; sent once")
def _(scene):
    def fail(exchange):
        exchange.honest()
        exchange.send(http(429, {"detail": "busy"}, {"Retry-After": "1"}))

    scene.server.on("PUT", A, fail)

    assert scene.write(put("a")) == put_stored()
    assert scene.server.count("PUT") == 1


@case("applied-then-no", "performs a write, then says that it failed", "stored; sent once")
def _(scene):
    def fail(exchange):
        exchange.honest()
        exchange.send(http(200, {"path": "a", "success": False, "error": "disk full"}))

    scene.server.on("PUT", A, fail)

    assert scene.write(put("a")) == put_stored()


@case("delete-then-dropped", "performs a delete, then drops the connection", "removed; sent once")
def _(scene):
    def drop(exchange):
        exchange.honest()
        exchange.close()

    scene.server.on("DELETE", A, drop)

    assert scene.write(remove("a")) == Removed(key="a")
    assert scene.server.count("DELETE") == 1


@case("written-twice", "performs one write twice", "stored; sent once")
def _(scene):
    scene.server.on("PUT", A, lambda e: (e.honest(), e.send(e.honest())))

    assert scene.write(put("a")) == put_stored()
    assert scene.server.count("PUT") == 1
    assert scene.server.entries["a"][1] == {"version": 2}


# Not done, or not yet


@case("500-to-a-write", "500 to a write, which is not done", "failed, intact, perhaps later")
def _(scene):
    scene.server.on("PUT", A, http(500, {"detail": "boom"}))
    receipt = scene.write(put("a"))

    intact(scene, receipt, LATER)
    assert "500 boom" in receipt.reason


@case(
    "503-to-a-write",
    "503 with `Retry-After: 1` to a write",
    "not sent again: failed, intact, perhaps later",
)
def _(scene):
    scene.server.on("PUT", A, http(503, b"", {"Retry-After": "1"}), times=None)
    intact(scene, scene.write(put("a")), LATER)
    assert scene.time.pauses == []


@case("429-to-a-write", "429 to a write", "not sent again: failed, intact")
def _(scene):
    scene.server.on("PUT", A, http(429, {"detail": "busy"}, {"Retry-After": "1"}))
    intact(scene, scene.write(put("a")), "429 busy")


@case(
    "late-write",
    "drops a write, and performs it after it was looked for",
    "failed, intact, perhaps later; the next run finds it done",
)
def _(scene):
    kept = []

    def hold(exchange):
        kept.append(exchange.request)
        exchange.close()

    scene.server.on("PUT", A, hold)
    intact(scene, scene.write(put("a")), LATER)

    scene.server.honest(kept[0])

    assert scene.write(put("a")) == Drifted(key="a", found=state(b"new"))
    assert scene.server.count("PUT") == 1


@case(
    "late-write-resumed",
    "drops a write under `migrate-memory`, and performs it later",
    "exit 4, perhaps later; `apply` again: exit 0, written once",
)
def _(scene):
    kept = []

    def hold(exchange):
        kept.append(exchange.request)
        exchange.close()

    put_entry(scene.home / ".hdev/memory", "n", "ours")
    scene.server.on("PUT", ENTRY + "n", hold)
    first = scene.migrate()
    scene.server.honest(kept[0])
    (plan,) = (scene.home.parent / "work/plans").iterdir()
    again = scene.run("apply", plan, "--target-api-key", KEY)

    assert first.status == 4
    assert LATER in first.out
    assert again.status == 0, again.err
    assert scene.server.count("PUT") == 1
    assert scene.server.entries["n"] == ("ours", {"version": 1})


@case(
    "damaged-through-the-command",
    "fails an overwrite under `migrate-memory`, and leaves the entry empty",
    "exit 4; the entry is named as damaged, with what was found",
)
def _(scene):
    def damage(exchange):
        scene.server.entries["a"] = ("", {})
        exchange.send(http(200, {"path": "a", "success": False, "error": "No space left"}))

    put_entry(scene.home / ".hdev/memory", "a", "ours")
    scene.server.on("PUT", A, damage)
    result = scene.migrate("--overwrite")

    assert result.status == 4
    assert "  a: the server says: No space left; the entry is damaged" in result.out
    assert "(0 bytes)" in result.out


@case(
    "slow-write",
    "takes a write and answers after the deadline, when it is done",
    "stored, by what is read",
)
def _(scene):
    def slow(exchange):
        exchange.until_gone()
        scene.server.honest(exchange.request)

    def patient(exchange):
        while scene.server.entries["a"][0] == "old":
            pass
        exchange.send(exchange.honest())

    scene.server.on("PUT", A, slow)
    scene.server.on("GET", A, patient, skip=1)

    assert scene.write(put("a"), timeout=0.3) == put_stored()


@case("yes-and-nothing", "confirms a write and does not do it", "failed, intact, no success")
def _(scene):
    scene.server.on("PUT", A, http(200, YES))
    intact(scene, scene.write(put("a")), "but the entry is as it was before")


@case("yes-to-a-create", "confirms a create and does not do it", "failed, no success")
def _(scene):
    scene.server.on("PUT", ENTRY + "n", http(200, YES | {"path": "n"}))
    receipt = scene.write(put("n", before=None))

    assert isinstance(receipt, Failed)
    assert receipt.intact
    assert "n" not in scene.server.entries


@case("yes-to-a-delete", "confirms a delete and does not do it", "failed, intact, no success")
def _(scene):
    scene.server.on("DELETE", A, http(200, YES))
    receipt = scene.write(remove("a"))

    assert isinstance(receipt, Failed)
    assert receipt.intact
    assert scene.server.entries["a"] == ("old", {})


@case(
    "yes-through-the-command",
    "confirms every write and does none, under `migrate-memory`",
    "exit 4; 0 copied, every entry is named as failed",
)
def _(scene):
    for key in ("b", "c"):
        put_entry(scene.home / ".hdev/memory", key, "ours")
    scene.server.on("PUT", ENTRY + "*", http(200, YES), times=None)
    result = scene.migrate()

    assert result.status == 4
    assert "0 entries were copied, 0 skipped, 2 failed." in result.out
    assert list(scene.server.entries) == ["a"]


# Done, but not so


@case(
    "stores-something-else", "confirms a write and stores another text", "damaged, with its digest"
)
def _(scene):
    def other(exchange):
        scene.server.entries["a"] = ("ne", {})
        exchange.send(http(200, YES))

    scene.server.on("PUT", A, other)
    damaged(scene.write(put("a")), state(b"ne").content[:12])


@case("drops-metadata", "confirms a write and drops its metadata", "damaged")
def _(scene):
    def bare(exchange):
        scene.server.entries["a"] = ("new", {})
        exchange.send(http(200, YES))

    scene.server.on("PUT", A, bare)
    damaged(scene.write(put("a", metadata={"k": 1})), state(b"new").content[:12])


@case(
    "damages-on-failure",
    "fails a write, and leaves the entry empty (trap 9 of the existing server)",
    "damaged, with what was found",
)
def _(scene):
    def damage(exchange):
        scene.server.entries["a"] = ("", {})
        exchange.send(http(200, {"path": "a", "success": False, "error": "No space left"}))

    scene.server.on("PUT", A, damage)
    receipt = scene.write(put("a"))

    damaged(receipt, "(0 bytes)")
    assert "No space left" in receipt.reason


@case("loses-on-failure", "fails a write, and loses the entry", "damaged: no entry")
def _(scene):
    def lose(exchange):
        del scene.server.entries["a"]
        exchange.send(http(500, {"detail": "boom"}))

    scene.server.on("PUT", A, lose)
    damaged(scene.write(put("a")), "no entry")


@case(
    "half-written",
    "a read just after the write shows half of it",
    "looked at until two looks agree: stored",
)
def _(scene):
    def half(exchange):
        content, metadata = scene.server.entries["a"]
        scene.server.entries["a"] = (content[:2], metadata)
        exchange.send(exchange.honest())
        scene.server.entries["a"] = (content, metadata)

    scene.server.on("GET", A, half, skip=1)

    assert scene.write(put("a")) == put_stored()


@case(
    "unreadable-after",
    "confirms a write, and then answers 500 to its read",
    "failed, not known what stands there",
)
def _(scene):
    scene.server.on("GET", A, http(500, {"detail": "boom"}), skip=1)
    receipt = scene.write(put("a"))

    assert isinstance(receipt, Failed)
    assert not receipt.intact
    assert "not known what stands there" in receipt.reason


@case(
    "gone-after-a-write",
    "drops a write among forty, and every connection after it",
    "what was not sent is named so, intact; nobody tries forty times",
)
def _(scene):
    def gone(exchange):
        scene.server.on("GET", ENTRY + "*", lambda e: e.reset(), times=None)
        # Writes that were on their way beside it are answered, and no other need follow.
        scene.server.on("PUT", ENTRY + "*", lambda e: e.reset(), times=None, sure=False)
        exchange.reset()

    keys = [f"d/{number:02}" for number in range(40)]
    scene.server.on("PUT", ENTRY + "d/00", gone)
    receipts = scene.write(*(put(key, before=None) for key in keys))
    unsent = [r for r in receipts if isinstance(r, Failed) and "not sent" in r.reason]

    assert isinstance(receipts[0], Failed)
    assert not receipts[0].intact
    assert len(unsent) >= 15
    assert all(receipt.intact for receipt in unsent)
    assert scene.server.count("PUT") + len(unsent) == 40


@case(
    "silent-to-writes",
    "answers reads, and none of sixty writes",
    "after 8 without an answer the rest is not sent, and named so",
)
def _(scene):
    scene.server.on("PUT", ENTRY + "*", lambda exchange: exchange.until_gone(), times=None)
    receipts = scene.write(*(put(f"d/{n:02}", before=None) for n in range(60)), timeout=0.4)
    unsent = [receipt for receipt in receipts if "not sent" in receipt.reason]

    assert all(isinstance(receipt, Failed) and receipt.intact for receipt in receipts)
    assert len(unsent) >= 60 - 16
    assert scene.server.count("PUT") == 60 - len(unsent)
    assert list(scene.server.entries) == ["a"]


# Refused


@case("403-to-one-write", "403 to one write of three", "that one fails intact; two are stored")
def _(scene):
    scene.server.on("PUT", A, http(403, {"detail": "no"}))
    receipts = scene.write(put("a"), put("b", before=None), put("c", before=None))

    assert receipts[0] == Failed(key="a", reason="Permission denied on target", intact=True)
    assert [type(receipt) for receipt in receipts[1:]] == [Stored, Stored]


@case("401-at-the-first-write", "401 to the first write", "the key is refused; sent once, exit 9")
def _(scene):
    scene.server.on("PUT", A, http(401, {"detail": "revoked"}))

    with pytest.raises(KeyRefusedError, match="revoked"):
        scene.write(put("a"))
    assert scene.server.count("PUT") == 1
    assert scene.server.entries["a"] == ("old", {})


@case(
    "401-in-the-middle",
    "401 to every request after the first write of forty, under `migrate-memory`",
    "exit 4; the written one is counted, the rest is named as not sent",
)
def _(scene):
    for number in range(40):
        put_entry(scene.home / ".hdev/memory", f"k{number:02}", "ours")

    def revoke(exchange):
        exchange.send(exchange.honest())
        scene.server.on("PUT", ENTRY + "*", http(401, {"detail": "revoked"}), times=None)

    scene.server.on("PUT", ENTRY + "k00", revoke)
    result = scene.migrate()

    assert result.status == 4
    copied = sum(content == "ours" for content, _ in scene.server.entries.values())
    assert copied >= 1
    assert f"{copied} entries were copied, 0 skipped, {40 - copied} failed." in result.out
    assert "401 revoked" in result.out
    assert "not sent" in result.out
    assert scene.server.count("PUT") <= copied + 16


@case("422-to-a-write", "422 with a list as `detail`", "failed, intact, sent once")
def _(scene):
    scene.server.on("PUT", A, http(422, {"detail": [{"msg": "\x1b[2Jno"}]}))
    receipt = scene.write(put("a"))

    intact(scene, receipt, "422")
    assert "\x1b" not in receipt.reason


@case("204-to-a-write", "204, with nothing, to a write", "not believed: failed, intact")
def _(scene):
    scene.server.on("PUT", A, b"HTTP/1.1 204 X\r\n\r\n")
    intact(scene, scene.write(put("a")), LATER)


@case("html-to-a-write", "an HTML page, 200, to a write", "not believed: failed, intact")
def _(scene):
    scene.server.on("PUT", A, http(200, b"<html>", {"Content-Type": "text/html"}))
    intact(scene, scene.write(put("a")), LATER)


@case("empty-to-a-write", "200 and `{}`, and 200 and nothing, to a write", "failed, intact")
def _(scene):
    scene.server.on("PUT", A, http(200, {}))
    intact(scene, scene.write(put("a")), LATER)
    scene.server.on("PUT", A, http(200))
    intact(scene, scene.write(put("a")), LATER, sent=2)


@case(
    "yes-twice-over",
    "`success` twice in the answer to a write, false and true",
    "not believed: failed, intact",
)
def _(scene):
    scene.server.on("PUT", A, http(200, b'{"success":false,"success":true}'))
    intact(scene, scene.write(put("a")), LATER)


# Redirects


@case(
    "redirect-a-write",
    "307 and 302 of a write to another port",
    "not followed: failed, intact; the other port hears nothing",
)
def _(scene):
    for sent, status in enumerate((307, 302), 1):
        place = f"http://127.0.0.1:{scene.bystander.port}{A}"
        scene.server.on("PUT", A, http(status, b"", {"Location": place}))
        intact(scene, scene.write(put("a")), "a write follows nowhere", sent=sent)


@case(
    "redirect-a-write-inside",
    "308 of a write, within its origin",
    "not followed: failed, intact",
)
def _(scene):
    scene.server.on("PUT", A, http(308, b"", {"Location": ENTRY + "b"}))
    intact(scene, scene.write(put("a")), "a write follows nowhere")
    assert "b" not in scene.server.entries


@case("redirect-a-delete", "303 of a delete to another entry", "not followed: failed, intact")
def _(scene):
    scene.server.entries["b"] = ("x", {})
    scene.server.on("DELETE", A, http(303, b"", {"Location": ENTRY + "b"}))
    receipt = scene.write(remove("a"))

    assert isinstance(receipt, Failed)
    assert receipt.intact
    assert "DELETE" in receipt.reason
    assert sorted(scene.server.entries) == ["a", "b"]


# Preconditions


@case(
    "412-and-nothing-else",
    "412 to a write, while the entry is as planned",
    "failed, intact: no drift is made up",
    ours=True,
)
def _(scene):
    scene.server.on("PUT", A, http(412, {"detail": "no"}))
    intact(scene, scene.write(put("a")), "but the entry is as it was planned")


@case(
    "412-but-done",
    "performs a write, then answers 412",
    "found as planned: counted as done",
    ours=True,
)
def _(scene):
    def lie(exchange):
        exchange.honest()
        exchange.send(http(412, {"detail": "no"}))

    scene.server.on("PUT", A, lie)

    assert scene.write(put("a")) == Drifted(key="a", found=state(b"new"))


@case(
    "412-then-silence",
    "412 to a write, and 500 to the read after it",
    "failed, not known what stands there",
    ours=True,
)
def _(scene):
    scene.server.on("PUT", A, http(412, {"detail": "no"}))
    scene.server.on("GET", A, http(500, {"detail": "boom"}), skip=1)
    receipt = scene.write(put("a"))

    assert isinstance(receipt, Failed)
    assert not receipt.intact


@case(
    "etag-changes",
    "another ETag at each read",
    "412 by its own rule: failed, intact",
    ours=True,
)
def _(scene):
    def changing(exchange):
        raw = exchange.honest()
        exchange.send(raw.replace(b'ETag: "', b'ETag: "%d-' % len(scene.server.seen)))

    scene.server.on("GET", A, changing, times=None)
    intact(scene, scene.write(put("a")), "but the entry is as it was planned")


@case(
    "etag-unusable",
    "no ETag, a weak one, several, one without quotes",
    "failed, intact: nothing is sent without its precondition",
    ours=True,
)
def _(scene):
    for etag in (
        {},
        {"ETag": 'W/"1"'},
        {"ETag": '"1"', "Etag": '"2"'},
        {"ETag": "1"},
        {"ETag": "*"},
    ):
        body = json.dumps(
            {"type": "file", "path": "a", "content": "old", "metadata": {}, "success": True}
        )
        scene.server.on("GET", A, http(200, body.encode(), {**JSON, **etag}))
        intact(scene, scene.write(put("a")), "no ETag", sent=0)


@case(
    "if-match-ignored",
    "ignores `If-Match`, and merges a foreign change with the write",
    "noticed by reading back: damaged, with what was found",
    ours=True,
)
def _(scene):
    def merge(exchange):
        scene.server.entries["a"] = ("theirs+new", {})
        exchange.send(http(200, YES))

    scene.server.on("PUT", A, merge)
    damaged(scene.write(put("a")), state(b"theirs+new").content[:12])


@case(
    "if-none-match-ignored",
    "ignores `If-None-Match` and keeps what it has",
    "noticed by reading back: failed, not counted as created",
    ours=True,
)
def _(scene):
    scene.server.on("PUT", A, http(200, YES))
    damaged(scene.write(put("a", before=None)), state(b"old").content[:12])
    assert scene.server.entries["a"] == ("old", {})


@case(
    "preconditions-ignored",
    "ignores `If-Match` and overwrites a change made since the look, without a trace",
    "stored: no client can notice this, only a check of the server",
    ours=True,
)
def _(scene):
    def ignore(exchange):
        assert exchange.request.headers["if-match"]
        scene.server.entries["a"] = ("theirs", {})
        scene.server.store("a", exchange.request)
        exchange.send(http(200, YES))

    scene.server.on("PUT", A, ignore)

    assert scene.write(put("a")) == put_stored()


@case(
    "changed-before-the-write",
    "honest: somebody changes the entry between the look and the write",
    "412, drift, not written",
    ours=True,
)
def _(scene):
    def change(exchange):
        scene.server.entries["a"] = ("theirs", {})
        exchange.send(exchange.honest())

    scene.server.on("PUT", A, change)

    assert scene.write(put("a")) == Drifted(key="a", found=state(b"theirs"))
    assert scene.server.entries["a"] == ("theirs", {})


# Connections


def lost(scene, at, act):
    scene.server.on("PUT", A, act, at=at)
    receipt = scene.write(put("a"))
    intact(scene, receipt, LATER)


@case("reset-at-accept", "a RST instead of taking the connection of a write", "failed, intact")
def _(scene):
    def arm(exchange):
        # The client's next request, which is the write, needs another connection. Its fault is set
        # before this answer lets it come.
        scene.server.on("", "", lambda e: e.reset(), at="accept")
        exchange.send(exchange.honest().replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        exchange.close()

    scene.server.on("GET", A, arm)
    receipt = scene.write(put("a"))

    intact(scene, receipt, LATER, sent=0)


@case(
    "reset-before-the-body", "a RST after the headers of a write", "failed, intact, perhaps later"
)
def _(scene):
    lost(scene, "head", lambda exchange: exchange.reset())


@case("reset-after-the-body", "a RST after the whole of a write", "failed, intact, perhaps later")
def _(scene):
    lost(scene, "request", lambda exchange: exchange.reset())


@case("reset-in-the-head", "a RST in the head of its answer", "failed, intact, perhaps later")
def _(scene):
    lost(scene, "request", lambda e: (e.send(http(200, YES)[:20]), e.reset()))


@case("reset-in-the-answer", "a RST in the body of its answer", "failed, intact, perhaps later")
def _(scene):
    lost(scene, "request", lambda e: (e.send(http(200, YES)[:-5]), e.reset()))


@case(
    "answer-before-the-request",
    "confirms a write before its body is read, and closes",
    "not believed: failed, intact",
)
def _(scene):
    def early(exchange):
        exchange.send(http(200, YES))
        exchange.close()

    big = b"n" * 3_000_000
    scene.server.on("PUT", A, early, at="head")
    receipt = scene.write(put("a", big))

    assert isinstance(receipt, Failed)
    assert receipt.intact
    assert scene.server.entries["a"] == ("old", {})


@case("reset-of-a-read", "a RST to the first read", "tried again; the entry is written")
def _(scene):
    scene.server.on("GET", A, lambda exchange: exchange.reset())

    assert scene.write(put("a")) == put_stored()


@case(
    "gone-at-the-handshake",
    "a RST to the health check",
    "exit 9 with the cause, and no key in it",
)
def _(scene):
    scene.server.on("GET", "/api/health", lambda exchange: exchange.reset())
    result = scene.migrate()

    assert result.status == 9
    assert "HTTP request failed: GET /api/health" in result.err
    assert KEY not in result.out + result.err


@case(
    "refuses-connections",
    "takes no connection any more after the look",
    "failed, not known what stands there; no write was sent",
)
def _(scene):
    def refuse(exchange):
        exchange.send(exchange.honest().replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        scene.server.on("", "", lambda e: e.reset(), at="accept", times=None)
        exchange.close()

    scene.server.on("GET", A, refuse)
    receipt = scene.write(put("a"))

    assert isinstance(receipt, Failed)
    assert not receipt.intact
    assert scene.server.count("PUT") == 0
