"""A server that is told to end finishes what it took, in bounded time, and loses nothing."""

import http.client
import json
import signal
import socket
import time

import httpx
import pytest
from tests.direct import DIRECT
from tests.processes import MemoryServer

ENTRY = "/api/memory/entry/"
LONG = 40.0
"""Seconds after which a test gives up."""

BODY = json.dumps({"content": "kept"}).encode()


def connected(server):
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    connection.settimeout(LONG)
    try:
        connection.connect((host, int(port)))
    except OSError:
        connection.close()
        raise
    return connection


def half_sent(server):
    """A connection with half of a PUT."""
    connection = connected(server)
    head = f"PUT {ENTRY}half HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n"
    # The interim answer shows that the server has begun to read the body.
    connection.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
    assert connection.recv(1024).startswith(b"HTTP/1.1 100 ")
    connection.sendall(BODY[:5])
    return connection


def status_of(connection):
    with http.client.HTTPResponse(connection) as answer:
        answer.begin()
        answer.read()
        return answer.status


def refusing(server):
    """Wait until the server takes no new connection."""
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        try:
            connected(server).close()
        except ConnectionError:
            return
    raise AssertionError("it goes on taking connections")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_body_that_is_half_received_is_taken_whole_and_its_write_is_answered(tmp_path, number):
    with MemoryServer(tmp_path / "s") as server, half_sent(server) as half:
        with connected(server) as idle:
            server.process.send_signal(number)
            assert idle.recv(1) == b""
        refusing(server)
        half.sendall(BODY[5:])

        assert status_of(half) == 200
        assert server.process.wait(LONG) == 0
        assert (server.root / "half.md").read_text() == "kept"
    assert server.err == ""


def test_a_long_answer_is_given_to_its_end(tmp_path):
    large = "x" * (6 * 1024 * 1024)
    with MemoryServer(tmp_path / "s", None, "--max-entry-bytes", "10000000") as server:
        httpx.put(f"{server.url}{ENTRY}a", json={"content": large}, **DIRECT, timeout=LONG)
        with connected(server) as reader:
            reader.sendall(f"GET {ENTRY}a HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            with http.client.HTTPResponse(reader) as answer:
                answer.begin()
                begun = answer.read(10)
                server.process.terminate()
                refusing(server)
                rest = answer.read()
        status = server.process.wait(LONG)

    assert json.loads(begun + rest)["content"] == large
    assert status == 0


def test_what_does_not_come_in_time_is_cut_off_and_the_end_is_a_good_one(tmp_path):
    with (
        MemoryServer(tmp_path / "s", None, "--grace", "0.2") as server,
        half_sent(server) as half,
    ):
        server.process.terminate()
        status = server.process.wait(LONG)
        assert status_of(half) == 500

    assert status == 0
    assert "1 connections were cut off" in server.err
    assert "Traceback" not in server.err
    assert not (server.root / "half.md").exists()


def test_a_second_signal_ends_it_at_once_and_what_was_acknowledged_stays(tmp_path):
    with MemoryServer(tmp_path / "s") as server, half_sent(server):
        put = httpx.put(f"{server.url}{ENTRY}a", json={"content": "x"}, **DIRECT)
        server.process.terminate()
        refusing(server)
        server.process.terminate()
        status = server.process.wait(LONG)
    with MemoryServer(tmp_path / "s") as server:
        found = httpx.get(f"{server.url}{ENTRY}a", **DIRECT).json()

    assert put.json()["success"]
    assert status == -signal.SIGTERM
    assert found["content"] == "x"


def test_while_it_drains_it_answers_everything_and_is_not_ready(tmp_path):
    with MemoryServer(tmp_path / "s", None, "--drain", "3600") as server:
        with httpx.Client(base_url=server.url, **DIRECT, timeout=LONG) as client:
            before = client.get("/readyz").status_code
            server.process.terminate()
            end = time.monotonic() + LONG
            while (found := client.get("/readyz")).status_code == 200:
                assert time.monotonic() < end
            put = client.put(f"{ENTRY}a", json={"content": "x"})
        new = httpx.get(f"{server.url}{ENTRY}a", **DIRECT, timeout=LONG)
        server.process.terminate()
        server.process.wait(LONG)

    assert before == 200
    assert found.json() == {"ready": False, "detail": "The server is stopping"}
    assert (put.json()["success"], new.json()["content"]) == (True, "x")
