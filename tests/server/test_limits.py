"""Bodies that are too long, heads and bodies that never end: refused or dropped in bounded time."""

import http.client
import socket
import time

import httpx
import pytest

from hdev_memory.backends.base import Secret
from hdev_memory.backends.ephemeral import EphemeralBackend
from hdev_memory.server.app import create_app
from hdev_memory.server.limits import Limits
from hdev_memory.server.run import serve_in_thread

KEY = "key-of-the-limits"
LONG = 20.0
"""Seconds after which a test gives up; whatever is dropped is dropped long before."""


def serving(**limits):
    app = create_app(
        EphemeralBackend(),
        store_id="limits",
        api_key=Secret(KEY),
        limits=Limits(entry_bytes=1000, **limits),
    )
    return serve_in_thread(app)


@pytest.fixture(scope="module")
def url():
    """A server with the deadlines that users have."""
    with serving() as url:
        yield url


@pytest.fixture(scope="module")
def hasty_url():
    with serving(head_seconds=0.6, body_seconds=0.6) as url:
        yield url


def connected(url):
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=LONG)


@pytest.fixture
def connection(url):
    with connected(url) as connection:
        yield connection


@pytest.fixture
def hasty(hasty_url):
    """A connection to a server that does not wait for long."""
    with connected(hasty_url) as connection:
        yield connection


def head(*lines, method="PUT", key=KEY):
    first = f"{method} /api/memory/entry/a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
    return (first + "".join(f"{line}\r\n" for line in lines) + "\r\n").encode()


def status(connection):
    """The status of the next answer, which is read to its end."""
    with http.client.HTTPResponse(connection) as answer:
        answer.begin()
        answer.read()
        return answer.status


def dropped(connection, drip=b""):
    """Whether the other side ends the connection while `drip` is sent again and again."""
    connection.settimeout(0.02)
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        try:
            if connection.recv(65536) == b"":
                return True
        except TimeoutError:
            if drip:
                try:
                    connection.send(drip)
                except ConnectionError:
                    return True
        except ConnectionError:
            return True
    return False


def test_too_long_a_body_is_refused_before_any_of_it_is_sent(connection):
    connection.sendall(head("Content-Length: 1000000000000"))

    assert status(connection) == 413


def test_who_asks_first_is_not_told_to_send_too_long_a_body(connection):
    connection.sendall(head("Content-Length: 10000000", "Expect: 100-continue"))

    assert status(connection) == 413


def test_a_body_without_a_length_is_cut_at_the_limit(connection):
    connection.sendall(head("Transfer-Encoding: chunked") + b"200000\r\n" + b"x" * 0x200000)

    assert status(connection) == 413


def test_the_limit_does_not_refuse_what_just_fits(url):
    body = {"content": "\x01" * 1000, "metadata": {"k": "\x01" * 160}}
    answer = httpx.put(
        f"{url}/api/memory/entry/a",
        json=body,
        headers={"Authorization": f"Bearer {KEY}"},
        trust_env=False,
    )

    assert answer.json()["success"] is True


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: ten",),
        ("Content-Length: -1",),
        ("Content-Length: 1, 2",),
        ("Content-Length: 1", "Content-Length: 2"),
        ("Transfer-Encoding: gzip",),
    ],
)
def test_a_length_that_is_none_is_refused(connection, lines):
    connection.sendall(head(*lines))

    assert status(connection) in (400, 501)


def test_no_body_at_all_is_a_bad_body(connection):
    connection.sendall(head())

    assert status(connection) == 422


def test_a_connection_that_sends_nothing_is_dropped(hasty):
    assert dropped(hasty)


@pytest.mark.parametrize("drip", [b"", b"x"])
def test_half_a_head_is_dropped_also_when_it_goes_on(hasty, drip):
    hasty.sendall(b"GET /api/health HTTP/1.1\r\nX-Slow: ")

    assert dropped(hasty, drip)


def test_half_a_second_head_is_dropped(hasty):
    hasty.sendall(b"GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n")
    assert status(hasty) == 200
    hasty.sendall(b"GET /api/health HTTP/1.1\r\nX-Slow: ")

    assert dropped(hasty, b"x")


@pytest.mark.parametrize("drip", [b"", b" "])
def test_half_a_body_is_answered_and_dropped_also_when_it_goes_on(hasty, drip):
    hasty.sendall(head("Content-Length: 1000") + b"{")
    hasty.settimeout(0.02)
    end = time.monotonic() + LONG
    answer = b""
    while not answer and time.monotonic() < end:
        try:
            answer = hasty.recv(65536)
        except TimeoutError:
            hasty.sendall(drip)

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert dropped(hasty)


def test_a_body_that_nobody_wants_is_not_read_for_ever(hasty):
    hasty.sendall(head("Transfer-Encoding: chunked", key="wrong"))
    assert status(hasty) == 401

    assert dropped(hasty, b"1\r\nx\r\n")


def test_a_connection_is_used_again_after_a_body_that_was_refused(connection):
    connection.sendall(head("Content-Length: 500000") + b"x" * 500_000)
    assert status(connection) == 413
    connection.sendall(b"GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n")

    assert status(connection) == 200


def test_a_head_without_end_is_refused_at_its_limit(connection):
    connection.sendall(b"GET /api/health HTTP/1.1\r\nX-Long: " + b"x" * 20_000)

    assert status(connection) == 400
