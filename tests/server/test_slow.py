"""Clients that are slow, many or both take nothing away from those that are not."""

import contextlib
import http.client
import socket
import time

import httpx
import pytest
from tests.direct import DIRECT
from tests.processes import MemoryServer

from hdev_memory.backends.ephemeral import EphemeralBackend
from hdev_memory.server.app import create_app
from hdev_memory.server.limits import Limits
from hdev_memory.server.run import serve_in_thread

ENTRY = "/api/memory/entry/"
LONG = 40.0
"""Seconds after which a test gives up."""

LARGE = 6 * 1024 * 1024
"""Bytes of content: more than the sockets of both sides keep."""


def connected(url):
    host, port = url.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(LONG)
    connection.connect((host, int(port)))
    return connection


@contextlib.contextmanager
def serving(**limits):
    app = create_app(
        EphemeralBackend(), store_id="slow", limits=Limits(entry_bytes=2 * LARGE, **limits)
    )
    with serve_in_thread(app) as url:
        yield url


def put(url, key, content):
    return httpx.put(f"{url}{ENTRY}{key}", json={"content": content}, **DIRECT, timeout=LONG)


def get(url, path):
    return httpx.get(url + path, **DIRECT, timeout=LONG)


def answer_of(connection):
    with http.client.HTTPResponse(connection) as answer:
        answer.begin()
        answer.read()
    return answer


HALF_A_HEAD = b"GET /healthz HTTP/1.1\r\nX-Slow: "
HALF_A_BODY = b'PUT /api/memory/entry/b HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{"con'
A_LONG_ANSWER = b"GET /api/memory/entry/large HTTP/1.1\r\nHost: x\r\n\r\n"


def test_a_quick_client_is_answered_beside_two_hundred_slow_ones():
    with serving() as url, contextlib.ExitStack() as stack:
        put(url, "large", "x" * LARGE)
        slow = []
        for text, count in ((HALF_A_HEAD, 90), (HALF_A_BODY, 90), (A_LONG_ANSWER, 20)):
            for _ in range(count):
                connection = stack.enter_context(connected(url))
                connection.sendall(text)
                slow.append(connection)
        for reader in slow[-20:]:
            assert reader.recv(1) == b"H"  # its answer has begun, and is never read on
        written = put(url, "quick", "y")
        read = get(url, f"{ENTRY}quick")

        assert len(slow) == 200
        assert (written.json()["success"], read.json()["content"]) == (True, "y")
        for connection in slow[:180:30]:
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):
                connection.recv(1)  # it was not dropped to make room


def test_an_answer_that_nobody_takes_is_cut_off_in_its_middle():
    with serving(linger_seconds=0.3) as url:
        put(url, "large", "x" * LARGE)
        with connected(url) as connection:
            connection.sendall(A_LONG_ANSWER)
            assert connection.recv(1) == b"H"
            end = time.monotonic() + LONG
            while 'cut_off_total{reason="untaken"} 1.0' not in get(url, "/metrics").text:
                assert time.monotonic() < end
            taken = 0
            with contextlib.suppress(ConnectionResetError):
                while piece := connection.recv(1 << 20):
                    taken += len(piece)

    assert taken < LARGE


def test_one_connection_too_many_is_told_so_and_those_who_watch_are_answered():
    with serving(connections=2, spare=1, head_seconds=LONG) as url, contextlib.ExitStack() as stack:
        first, second, third = (stack.enter_context(connected(url)) for _ in range(3))
        ask = b"GET /api/memory/tree HTTP/1.1\r\nHost: x\r\n\r\n"
        for connection in (first, second):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert answer_of(connection).status == 200
        third.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
        watching = answer_of(third).status
        third.sendall(ask)
        refused = answer_of(third)

        assert watching == 200
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        assert refused.headers["Connection"] == "close"
        assert refused.headers["X-Request-Id"]
        assert third.recv(1) == b""
        first.sendall(ask)  # there are two again
        assert answer_of(first).status == 200


def test_a_connection_beyond_the_spare_ones_is_cut_off_at_once():
    with serving(connections=1, spare=1, head_seconds=LONG) as url, contextlib.ExitStack() as stack:
        for _ in range(2):
            connection = stack.enter_context(connected(url))
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert answer_of(connection).status == 200
        third = stack.enter_context(connected(url))
        with contextlib.suppress(ConnectionResetError):
            assert third.recv(1) == b""
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        text = b"".join(iter(lambda: connection.recv(65536), b""))

        assert b'hdev_connections_cut_off_total{reason="too many"} 1.0' in text


@pytest.mark.parametrize(("hard", "has", "warned"), [(2000, 1200, ""), (700, 700, "500 of 1000")])
def test_a_server_takes_the_descriptors_that_its_connections_need(tmp_path, hard, has, warned):
    server = MemoryServer(tmp_path / "s")
    limited = f'ulimit -Sn 300; ulimit -Hn {hard}; exec "$@"'
    server._command = ["bash", "-c", limited, "bash", *server._command]
    with server:
        found = get(server.url, "/metrics").text

    assert f"process_max_fds {has}.0\n" in found
    assert warned in server.err
    assert bool(warned) == bool(server.err)
