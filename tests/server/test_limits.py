"""Bodies that are too long, heads and bodies that never end: refused or dropped in bounded time."""

import contextlib
import dataclasses
import functools
import gzip
import http.client
import json
import re
import socket
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from tests.batches import PATH, Many, batch, digest, exact, put, shown
from tests.direct import DIRECT

from hdev_memory.backends.base import Put, Secret, Stored
from hdev_memory.backends.ephemeral import EphemeralBackend
from hdev_memory.server.app import create_app
from hdev_memory.server.audit import ServerLog
from hdev_memory.server.limits import DEFAULT, Limits
from hdev_memory.server.run import serve_in_thread

KEY = "key-of-the-limits"
LONG = 20.0
"""Seconds after which a test gives up; whatever is dropped is dropped long before."""


LIMITS = Limits(entry_bytes=1000, batch_entries=50, batch_least_bytes=200_000)


def serving(**limits):
    app = create_app(
        EphemeralBackend(),
        store_id="limits",
        api_key=Secret(KEY),
        limits=dataclasses.replace(LIMITS, **limits),
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


def connected_to(connection):
    """One more connection to the same server."""
    return socket.create_connection(connection.getpeername(), timeout=LONG)


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
        **DIRECT,
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


@pytest.mark.parametrize(("beyond", "expected"), [(0, 200), (1, 400)])
def test_a_head_without_end_is_refused_at_its_limit(connection, beyond, expected):
    begin = b"GET /api/health HTTP/1.1\r\nHost: x\r\nX-Long: "
    connection.sendall(begin + b"x" * (DEFAULT.head_bytes - len(begin) + beyond))
    with connected_to(connection) as other:  # what was sent before is looked at first
        other.sendall(b"GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert status(other) == 200
    connection.sendall(b"\r\n\r\n")

    assert status(connection) == expected


# Each limit, and one beyond


def asked(url, method, path, body=None, **headers):
    with contextlib.closing(Many(url, KEY)) as many:
        return many.request(method, path, body, **headers)[0]


def padded(body, length):
    """JSON of this length."""
    return body + b" " * (length - len(body))


@pytest.mark.parametrize(("beyond", "expected"), [(0, 200), (1, 413)])
def test_content_and_metadata_have_a_limit_each(url, beyond, expected):
    content = json.dumps({"content": "é" * 500 + "x" * beyond}).encode()
    metadata = json.dumps({"content": "", "metadata": {"k": "x" * (992 + beyond)}}).encode()

    assert len(b'{"k":"' + b"x" * 992 + b'"}') == LIMITS.entry_bytes
    assert asked(url, "PUT", "/api/memory/entry/a", content) == expected
    assert asked(url, "PUT", "/api/memory/entry/a", metadata) == expected


@pytest.mark.parametrize("beyond", [0, 1])
def test_in_a_batch_an_entry_beyond_the_limit_fails_alone(url, beyond):
    with contextlib.closing(Many(url, KEY)) as many:
        receipts = many.write(
            put(f"content{beyond}", "é" * 500 + "x" * beyond),
            put(f"metadata{beyond}", "", {"k": "x" * (991 + beyond)}),  # spelled with a space
            put(f"fine{beyond}"),
        )

    assert ["failed" in receipt for receipt in receipts] == [beyond == 1, beyond == 1, False]
    assert [receipt.get("intact") for receipt in receipts[:2]] == [True if beyond else None] * 2


@pytest.mark.parametrize(("beyond", "expected"), [(0, 200), (1, 413)])
def test_the_body_of_a_put_has_a_limit(url, beyond, expected):
    body = padded(b'{"content":"x"}', LIMITS.body_bytes + beyond)

    assert asked(url, "PUT", "/api/memory/entry/a", body) == expected


@pytest.mark.parametrize(("beyond", "expected"), [(0, 200), (1, 413)])
def test_a_request_of_many_has_a_limit_of_entries(url, beyond, expected):
    count = LIMITS.batch_entries + beyond
    keys = [f"many/{number}" for number in range(count)]
    body = batch([put(key, "x") for key in keys])

    written = asked(url, "POST", f"{PATH}/write", body, Content_Digest=digest(body))
    assert written == expected
    assert asked(url, "POST", f"{PATH}/read", json.dumps({"keys": keys}).encode()) == expected


@pytest.mark.parametrize(("beyond", "expected"), [(0, 200), (1, 413)])
def test_a_request_of_many_has_a_limit_of_bytes_packed_or_not(url, beyond, expected):
    head, _, rest = batch([{"remove": "no", "before": shown(exact("x"))}]).partition(b"\n")
    body = padded(head, LIMITS.batch_bytes - len(rest) - 1 + beyond) + b"\n" + rest
    packed = gzip.compress(body)
    send = functools.partial(asked, url, "POST", f"{PATH}/write")
    keys = padded(b'{"keys":["a"]}', LIMITS.batch_bytes + beyond)

    assert send(body, Content_Digest=digest(body)) == expected
    assert send(packed, Content_Digest=digest(packed), Content_Encoding="gzip") == expected
    assert asked(url, "POST", f"{PATH}/read", keys) == expected


def test_a_batch_that_is_too_large_is_refused_before_any_of_it_is_sent(url):
    with connected(url) as connection:
        connection.sendall(
            f"POST {PATH}/write HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
            f"Content-Length: {LIMITS.batch_bytes + 1}\r\n\r\n".encode()
        )

        assert status(connection) == 413


def test_all_bodies_that_wait_have_a_limit_together():
    limits = {"batch_least_bytes": 0, "waiting_least_bytes": 0}
    most = dataclasses.replace(LIMITS, **limits).waiting_bytes
    body = b'{"content":"x"}'
    with serving(**limits) as url, contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(connected(url)) for _ in range(4)]
        for connection in waiting:  # all but 5,000 bytes of what there is
            connection.sendall(head(f"Content-Length: {most // 4}") + b" " * (most // 4 - 1250))
        fits = asked(url, "PUT", "/api/memory/entry/a", padded(body, 5000))
        beyond = asked(url, "PUT", "/api/memory/entry/a", padded(body, 5001))
        unpacked = gzip.compress(batch([put("a", "x" * 900) for _ in range(6)]))
        packed = asked(
            url,
            "POST",
            f"{PATH}/write",
            unpacked,
            Content_Digest=digest(unpacked),
            Content_Encoding="gzip",
        )
        waiting[0].sendall(body.rjust(1250))
        done = status(waiting[0])
        again = asked(url, "PUT", "/api/memory/entry/a", padded(body, 5001))

    assert len(unpacked) < 1000
    assert (fits, beyond, packed, done, again) == (200, 503, 503, 200, 200)


@pytest.mark.parametrize(("beyond", "good"), [(0, True), (1, False)])
def test_a_lock_has_limits(url, beyond, good):
    def take(body):
        taken = asked(url, "PUT", "/api/locks/target", body)
        asked(url, "DELETE", "/api/locks/target?force=true")
        return taken

    lease = {"holder": "x", "ttl": 30}
    longest = {**lease, "holder": "é" * (DEFAULT.lock_holder + beyond)}
    shortest = {**lease, "ttl": DEFAULT.lock_least_seconds - beyond}
    most = {**lease, "ttl": DEFAULT.lock_most_seconds + beyond}
    large = padded(json.dumps(lease).encode(), DEFAULT.lock_bytes + beyond)

    assert take(large) == (200 if good else 413)
    for body in (longest, shortest, most):
        assert take(json.dumps(body).encode()) == (200 if good else 422)


@pytest.mark.parametrize(("beyond", "expected"), [(0, 200), (1, 422)])
def test_a_page_of_the_log_has_a_limit_of_records(tmp_path, beyond, expected):
    with (
        ServerLog(tmp_path / "log", lambda: datetime.now(UTC)) as log,
        serve_in_thread(create_app(EphemeralBackend(), store_id="limits", log=log)) as url,
    ):
        limit = DEFAULT.page_records + beyond

        assert asked(url, "GET", f"/api/audit?limit={limit}") == expected


def test_a_page_of_the_log_ends_with_the_record_that_reaches_its_bytes(tmp_path):
    change = Put(key="a", content=b"x", metadata={}, before=None, after=exact("x"))
    with ServerLog(tmp_path / "log", lambda: datetime.now(UTC)) as log:
        for _ in range(4):
            log.record([change], [Stored(key="a", state=change.after)], {})
        lines = (tmp_path / "log").read_bytes().splitlines()
        two = len(lines[0]) + len(lines[1])
        counts = [len(json.loads(log.page(0, 9, two + n))["records"]) for n in (-1, 0, 1)]

    assert counts == [2, 2, 3]


def test_the_table_of_limits_in_the_documentation_is_that_of_the_server():
    text = (Path(__file__).parents[2] / "docs/formats.md").read_text()
    table = text.partition("### Limits\n")[2]
    rows = re.findall(r"^\| `(\w+)` \| ([^|(]+?) (?:\([^|]*\) )?\|", table, re.MULTILINE)

    assert rows == [
        (field.name, spelled(field.name, field.default)) for field in dataclasses.fields(Limits)
    ]


def spelled(name, value):
    if name.endswith("seconds"):
        return f"{value:g} s"
    if name.endswith("bytes"):
        unit, word = (1 << 20, "MiB") if value >= 1 << 20 else (1 << 10, "KiB")
        return f"{value // unit:,} {word}"
    return f"{value:,}"
