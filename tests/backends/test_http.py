"""What is no memory server, and what a server may say that must not be believed."""

import contextlib
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hdev_memory.backends.base import EVERYTHING, Failed, Put, Secret, Where
from hdev_memory.backends.http import HttpBackend
from hdev_memory.core.entry import Absent, Normalisation, Unreadable
from hdev_memory.errors import BackendError, KeyRefusedError, UsageError

NORMAL = Normalisation(line_ends="lf")
HEALTH = {"healthy": True, "message": "", "details": {}}
TREE = {"type": "tree", "path": "", "items": {}, "success": True, "error": None}


@contextlib.contextmanager
def serving(answer):
    """A server whose answers are `answer(method, path) -> (status, body, headers)`."""

    class Handler(BaseHTTPRequestHandler):
        def _reply(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, body, headers = answer(self.command, self.path)
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_PUT = do_DELETE = _reply  # noqa: N815 - the names that http.server looks for

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def existing(entries):
    """The start of the existing dialect, with fixed answers for some paths."""

    def answer(method, path):
        if path == "/api/health":
            return 200, HEALTH, {}
        if path.startswith("/api/memory/tree"):
            return 200, entries.get("tree", TREE), {}
        status, body = entries.get((method, path), (200, {"success": False, "error": "no"}))
        return status, body, {}

    return answer


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (200, b"<html>hello</html>", {}),
        (200, {}, {}),
        (200, [], {}),
        (404, {"detail": "Not Found"}, {}),
        (302, b"", {"Location": "http://127.0.0.1:9/"}),
        (200, b"[" * 100_000, {}),
        (200, {"healthy": False, "message": "gone"}, {}),
    ],
)
def test_what_is_no_healthy_memory_server_is_refused(status, body, headers):
    with (
        serving(lambda method, path: (status, body, headers)) as url,
        pytest.raises(BackendError),
    ):
        HttpBackend(Where("http", url))


def test_a_refused_key_is_named_as_such_and_not_shown():
    def answer(method, path):
        return (200, HEALTH, {}) if "health" in path else (401, {"detail": "Invalid API key"}, {})

    with serving(answer) as url, pytest.raises(KeyRefusedError) as caught:
        HttpBackend(Where("http", url, Secret("canary-key")))

    assert "401 Invalid API key" in caught.value.why
    assert "canary-key" not in str(vars(caught.value))


def test_a_key_does_not_travel_in_the_clear_to_another_machine():
    with pytest.raises(UsageError):
        HttpBackend(Where("http", "http://192.0.2.1", Secret("k")))


def test_only_the_servers_own_sentence_means_absent():
    path = "/api/memory/entry/a"
    sentence = "Memory entry content at a.md does not exist"
    other = "Memory entry metadata at a.metadata.json does not exist"
    for reply, kind in (
        ((200, {"success": False, "error": sentence}), Absent),
        ((200, {"success": False, "error": other}), Unreadable),
        ((200, {"success": False, "type": "error", "error": "Error reading"}), Unreadable),
        ((500, {"detail": "x"}), Unreadable),
        ((403, {"detail": "x"}), Unreadable),
        ((404, {"detail": "Not Found"}), Unreadable),
        ((200, {"success": True, "type": "file", "path": "b", "content": "", "metadata": {}}),)
        + (Unreadable,),
        ((200, {"success": True, "type": "directory", "items": []}), Unreadable),
    ):
        with (
            serving(existing({("GET", path): reply})) as url,
            HttpBackend(Where("http", url)) as backend,
        ):
            (found,) = backend.read(["a"])

        assert isinstance(found, kind), reply


def test_keys_that_a_hostile_tree_names_are_reported_and_never_requested():
    asked = []
    tree = {**TREE, "items": {"..": {}, "a/../../b": {}, "ok": {}}}
    base = existing({"tree": tree})

    def answer(method, path):
        asked.append(path)
        return base(method, path)

    with serving(answer) as url, HttpBackend(Where("http", url)) as backend:
        found = {s.key: s for s in backend.snapshot(EVERYTHING, NORMAL)}

    assert all(isinstance(s, Unreadable) for s in found.values())
    assert len(found) == 3
    assert not [path for path in asked if ".." in path or "%2F" in path]


def snapshot_of(url):
    with HttpBackend(Where("http", url)) as backend:
        return list(backend.snapshot(EVERYTHING, NORMAL))


def test_a_listing_that_fails_is_an_error_and_never_empty():
    tree = {"type": "tree", "success": False, "error": "disk on fire", "items": {}}
    for whole in (tree, TREE):  # the handshake asks for depth=0, the snapshot for all of it

        def answer(method, path, first=whole):
            return existing({"tree": first if "depth" in path else tree})(method, path)

        with serving(answer) as url, pytest.raises(BackendError, match="disk on fire"):
            snapshot_of(url)


def test_a_server_that_says_yes_and_writes_nothing_is_not_believed():
    path = "/api/memory/entry/a"
    gone = {"success": False, "error": "Memory entry content at a.md does not exist"}
    replies = {("GET", path): (200, gone), ("PUT", path): (200, {"success": True})}
    change = Put(key="a", content=b"x", metadata={}, before=None, after=NORMAL.state(b"x", {}))
    with serving(existing(replies)) as url, HttpBackend(Where("http", url)) as backend:
        (receipt,) = backend.write([change], NORMAL)

    assert isinstance(receipt, Failed)


@pytest.mark.parametrize(
    ("status", "reason"),
    [(413, "Content too large for target backend"), (403, "Permission denied on target")],
)
def test_refusals_are_reported_in_the_words_that_users_know(status, reason):
    path = "/api/memory/entry/a"
    gone = {"success": False, "error": "Memory entry content at a.md does not exist"}
    replies = {("GET", path): (200, gone), ("PUT", path): (status, {"detail": "x"})}
    change = Put(key="a", content=b"x", metadata={}, before=None, after=NORMAL.state(b"x", {}))
    with serving(existing(replies)) as url, HttpBackend(Where("http", url)) as backend:
        (receipt,) = backend.write([change], NORMAL)

    assert receipt == Failed(key="a", reason=reason, intact=True)


@contextlib.contextmanager
def slow(speak):
    """A server that runs `speak(connection)` for each connection, until it is told to end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept():
            with contextlib.suppress(OSError):  # the listener is closed, or the client has gone
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        speak(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def never(connection):
    """Take the request, and wait until the other side gives up."""
    while connection.recv(4096):
        pass


def drip(connection):
    """An answer of which one byte comes every hundredth of a second: no single wait is long."""
    connection.settimeout(0.01)
    with contextlib.suppress(OSError):
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            connection.sendall(b"x")
            with contextlib.suppress(TimeoutError):
                if not connection.recv(4096):
                    return


@pytest.mark.parametrize("speak", [never, drip])
def test_opening_gives_up_after_the_time_for_the_handshake_and_not_for_a_request(speak):
    begin = time.monotonic()
    with (
        slow(speak) as url,
        pytest.raises(BackendError, match=r"within 0\.2 seconds") as caught,
    ):
        HttpBackend(Where("http", url, timeout=30, handshake=0.2))

    assert time.monotonic() - begin < 10
    assert "HDEV_MEMORY_HTTP_TIMEOUT" in caught.value.hint


def test_both_requests_of_the_handshake_share_its_time():
    """Each alone would be soon enough."""

    def answer(method, path):
        time.sleep(0.2)
        return (200, HEALTH, {}) if "health" in path else (200, TREE, {})

    with serving(answer) as url, pytest.raises(BackendError, match=r"within 0\.3 seconds"):
        HttpBackend(Where("http", url, handshake=0.3))


def test_parallelism_is_the_number_of_connections():
    most, now, guard, full = 0, 0, threading.Lock(), threading.Barrier(3, timeout=10)
    base = existing({"tree": {**TREE, "items": {f"k{n}": {} for n in range(9)}}})

    def answer(method, path):
        nonlocal most, now
        if "/entry/k" in path:
            with guard:
                now += 1
                most = max(most, now)
            full.wait()  # goes on once three are here at the same time
            with guard:
                now -= 1
        return base(method, path)

    with serving(answer) as url, HttpBackend(Where("http", url, parallelism=3)) as backend:
        list(backend.snapshot(EVERYTHING, NORMAL))

    assert most == 3
