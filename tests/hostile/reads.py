"""Reads that are to be tried again, or not: statuses, `Retry-After`, redirects, keys refused."""

from __future__ import annotations

import pytest

from hdev_memory.core.entry import Entry, Unreadable
from hdev_memory.errors import BackendError
from tests.conftest import put_entry
from tests.hostile.scene import KEY, case
from tests.hostile.server import ENTRY, HEALTH, TREE, http

A = ENTRY + "a"
OLD = Entry(key="a", content=b"old", metadata={})
DEPTH_0 = TREE + "?depth=0"


def busy(scene, status, after, **limits):
    """Read once past an answer with this `Retry-After`."""
    headers = {} if after is None else {"Retry-After": after}
    scene.server.on("GET", A, http(status, {"detail": "busy"}, headers))
    return scene.read(**limits)


@case("retry-seconds", "503 with `Retry-After: 7`, then the entry", "waits 7 s; the entry is read")
def _(scene):
    assert busy(scene, 503, "7") == OLD
    assert scene.time.pauses == [7.0]


@case(
    "retry-date",
    "503 with a date 30 s ahead, then the entry",
    "waits 30 s; the entry is read",
)
def _(scene):
    assert busy(scene, 503, "Fri, 15 Jan 2027 08:00:30 GMT") == OLD
    assert scene.time.pauses == [30.0]


def shortly(scene):
    """Our own short pause, and no other."""
    (pause,) = scene.time.pauses
    return 0 < pause < 1


@case(
    "retry-date-in-the-past",
    "503 with a date that is over",
    "our own short pause; the entry is read",
)
def _(scene):
    assert busy(scene, 503, "Fri, 15 Jan 2010 08:00:30 GMT") == OLD
    assert shortly(scene)


@case(
    "retry-negative",
    "429 with `Retry-After: -5`",
    "our own short pause; the entry is read",
)
def _(scene):
    assert busy(scene, 429, "-5") == OLD
    assert shortly(scene)


@case(
    "retry-garbage",
    "503 with `Retry-After: soon, 1e9, ½`",
    "our own short pause; the entry is read",
)
def _(scene):
    assert busy(scene, 503, "soon, 1e9, \xbd") == OLD
    assert shortly(scene)


@case(
    "retry-huge",
    "429 with a `Retry-After` of five thousand digits",
    "nobody waits; the entry is unreadable",
)
def _(scene):
    assert isinstance(busy(scene, 429, "9" * 5000, budget=1e99), Unreadable)
    assert scene.time.pauses == []
    assert scene.server.count("GET", A) == 1


@case("retry-hour", "503 with `Retry-After: 3600`", "nobody waits; the entry is unreadable")
def _(scene):
    found = busy(scene, 503, "3600", budget=1e9)

    assert isinstance(found, Unreadable)
    assert "busy" in found.reason
    assert scene.time.pauses == []


@case("always-503", "503 to every read of the entry", "unreadable after 4 attempts, not absent")
def _(scene):
    scene.server.on("GET", A, http(503, {"detail": "busy"}), times=None)

    assert isinstance(scene.read(), Unreadable)
    assert scene.server.count("GET", A) == 4


@case(
    "dying-server",
    "503 with `Retry-After: 20` to each of 100 entries",
    "60 s of waiting in all, then no more; every entry is unreadable",
)
def _(scene):
    scene.server.entries = {f"k{number:03}": ("x", {}) for number in range(100)}
    scene.server.on("GET", ENTRY + "k*", http(503, b"", {"Retry-After": "20"}), times=None)
    found = scene.snapshot()

    assert len(found) == 100
    assert all(isinstance(one, Unreadable) for one in found.values())
    assert sum(scene.time.pauses) <= 60
    assert scene.server.count("GET", ENTRY + "k*") <= 103


@case("500-is-not-retried", "500 to the read of an entry", "unreadable, asked once")
def _(scene):
    scene.server.on("GET", A, http(500, {"detail": "boom"}))

    assert isinstance(scene.read(), Unreadable)
    assert scene.server.count("GET", A) == 1


@case("404-is-not-absence", "404 to the read of an entry", "unreadable, not absent")
def _(scene):
    scene.server.on("GET", A, http(404, {"detail": "Not Found"}))

    assert isinstance(scene.read(), Unreadable)


@case(
    "403-on-one-entry",
    "403 to the read of an entry that the source also has",
    "blocked, exit 4; it is not overwritten, the others are copied",
)
def _(scene):
    put_entry(scene.home / ".hdev/memory", "a", "ours")
    put_entry(scene.home / ".hdev/memory", "b", "ours")
    scene.server.on("GET", A, http(403, {"detail": "not yours"}), times=None)
    result = scene.migrate("--overwrite")

    assert result.status == 4
    assert "1 entries were copied, 0 skipped, 1 failed." in result.out
    assert "not yours" in result.out
    assert scene.server.entries["a"] == ("old", {})
    assert scene.server.count("PUT", A) == 0


@case("401-at-once", "401 to the handshake", "exit 9, asked once, nothing written")
def _(scene):
    put_entry(scene.home / ".hdev/memory", "b", "ours")
    scene.server.on("GET", DEPTH_0, http(401, {"detail": "Invalid API key"}))
    result = scene.migrate()

    assert result.status == 9
    assert "401 Invalid API key" in result.err
    assert len(scene.server.seen) == 2


@case(
    "401-during-a-snapshot",
    "401 to one entry in the middle of a snapshot",
    "exit 9, no plan; asked once",
)
def _(scene):
    scene.server.on("GET", A, http(401, {"detail": "revoked"}))
    result = scene.migrate("--dry-run")

    assert result.status == 9
    assert "401 revoked" in result.err
    assert scene.server.count("GET", A) == 1
    assert not list((scene.home.parent / "work").glob("plans/*"))


@case(
    "unhealthy",
    "`healthy: false` in its health",
    "exit 9 with the server's message",
)
def _(scene):
    scene.server.on("GET", HEALTH, http(200, {"healthy": False, "message": "disk on fire"}))
    result = scene.migrate()

    assert result.status == 9
    assert "disk on fire" in result.err


@case("healthy-in-words", "`healthy: 'true'`, a text", "refused at the handshake")
def _(scene):
    scene.server.on("GET", HEALTH, http(200, {"healthy": "true"}))

    with pytest.raises(BackendError, match="not healthy"):
        scene.read()


# Redirects


def redirect(scene, place, status=302, path=A):
    scene.server.on("GET", path, http(status, b"", {"Location": place}), times=None)


@case(
    "redirect-same-origin",
    "redirects a read within its origin",
    "followed, with the key; the entry is read",
)
def _(scene):
    redirect(scene, f"/moved{A}")
    scene.server.on("GET", f"/moved{A}", lambda exchange: exchange.send(moved(exchange)))

    assert scene.read() == OLD


def moved(exchange):
    assert exchange.request.headers["authorization"] == f"Bearer {KEY}"
    exchange.request.path = exchange.request.path.removeprefix("/moved")
    return exchange.honest()


@case(
    "redirect-other-port",
    "redirects a read to another port",
    "an error; the other port hears nothing",
)
def _(scene):
    redirect(scene, f"http://127.0.0.1:{scene.bystander.port}{A}", 307)

    with pytest.raises(BackendError, match="redirects to another address"):
        scene.read()


@case(
    "redirect-other-host",
    "redirects a read to another name of its own address",
    "an error; a name is not trusted for its address",
)
def _(scene):
    redirect(scene, f"http://localhost:{scene.server.port}{A}", 301)

    with pytest.raises(BackendError, match="redirects to another address"):
        scene.read()
    assert scene.server.count("GET", A) == 1


@case(
    "redirect-no-scheme",
    "redirects a read to `//127.0.0.1:PORT/…` of another server",
    "an error; the other server hears nothing",
)
def _(scene):
    redirect(scene, f"//127.0.0.1:{scene.bystander.port}{A}")

    with pytest.raises(BackendError, match="redirects to another address"):
        scene.read()


@case(
    "redirect-userinfo",
    "redirects a read to `http://ITSELF@OTHER/…`, and to itself with a user",
    "an error both times; the other server hears nothing",
)
def _(scene):
    itself = f"127.0.0.1:{scene.server.port}"
    other = f"127.0.0.1:{scene.bystander.port}"
    for place in (f"http://{itself}@{other}{A}", f"http://user:word@{itself}{A}"):
        scene.server.forget()
        redirect(scene, place)
        with pytest.raises(BackendError, match="redirects to another address"):
            scene.read()


@case(
    "redirect-https",
    "redirects a read to https on its own port",
    "an error: another scheme is another origin",
)
def _(scene):
    redirect(scene, f"https://127.0.0.1:{scene.server.port}{A}")

    with pytest.raises(BackendError, match="redirects to another address"):
        scene.read()


@case("redirect-nowhere", "302 without a `Location`, and with a broken one", "an error")
def _(scene):
    for headers in ({}, {"Location": "http://[:::"}, {"Location": "http://x:99999/"}):
        scene.server.forget()
        scene.server.on("GET", A, http(302, b"", headers))
        with pytest.raises(BackendError, match="redirects to another address"):
            scene.read()


@case("redirect-loop", "redirects a read to itself, for ever", "an error after 3 redirects")
def _(scene):
    redirect(scene, A)

    with pytest.raises(BackendError, match="redirects without an end"):
        scene.read()
    assert scene.server.count("GET", A) == 4


@case(
    "redirect-at-the-handshake",
    "redirects the health check to another port",
    "exit 9; the other port hears nothing",
)
def _(scene):
    redirect(scene, f"http://127.0.0.1:{scene.bystander.port}/", path=HEALTH)
    result = scene.migrate()

    assert result.status == 9
    assert "redirects to another address" in result.err
