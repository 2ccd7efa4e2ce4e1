"""Several processes of one server: one port, one memory, one end."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.direct import DIRECT
from tests.postgres import fresh_schema
from tests.processes import PROGRAM, MemoryServer

from hdev_memory.server import keysfile
from hdev_memory.server.workers import DEATHS

ENTRY = "/api/memory/entry/"
LONG = 40.0
"""Seconds after which a test gives up."""

WORKERS = 2


class Server(MemoryServer):
    """A server of several workers on an SQLite file of its own, unless a database is named."""

    def __init__(self, place, *flags, storage=None):
        super().__init__(place / "unused", None, *flags)
        path = self._command.index("--storage-path")
        storage = storage or f"sqlite:{place / 'memory.sqlite'}"
        self._command[path : path + 2] = ["--storage", storage]
        self._command += ["--workers", str(WORKERS)]

    def workers(self):
        """The process ids of those that live."""
        pid = self.process.pid
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return {int(child) for child in found}

    def replaced(self, gone):
        """The workers, once there is another one in the place of `gone`."""
        return until(lambda: len(now := self.workers() - {gone}) == WORKERS and now)


def until(looks):
    """What `looks` gives once it is true."""
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        if found := looks():
            return found
        time.sleep(0.01)
    raise AssertionError("it never came to that")


def descriptors(pid):
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def alive(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def get(server, path):
    return httpx.get(server.url + path, **DIRECT, timeout=LONG)


def put(server, key, content, **more):
    sent = {"json": {"content": content}, "timeout": LONG, **DIRECT, **more}
    return httpx.put(f"{server.url}{ENTRY}{key}", **sent)


def counted(server, name):
    """The samples of a metric, by the values of their labels."""
    return {
        tuple(sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(get(server, "/metrics").text)
        for sample in family.samples
        if sample.name == name
    }


def test_workers_share_a_memory_count_together_and_end_together(tmp_path):
    with Server(tmp_path) as server:
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda n: put(server, f"k{n}", str(n)), range(40)))
        workers = server.workers()
        shown = server.url
        counts = counted(server, "hdev_requests_total")
        memory = counted(server, "process_resident_memory_bytes")
        changes = counted(server, "hdev_entry_changes_total")
        server.process.terminate()
        status = server.process.wait(LONG)
        rest = server.process.stdout.read()

    assert shown.startswith("http://127.0.0.1:")
    assert len(workers) == WORKERS
    assert all(answer.json()["success"] for answer in answers)
    assert counts["/api/memory/entry/{path}", "200", "PUT"] == 40
    assert changes["done", "put"] == 40
    assert {int(pid) for (pid,) in memory} == workers
    assert (status, rest, server.err) == (0, "", "")
    assert not any(alive(pid) for pid in workers)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_of_many_writers_over_all_workers_one_wins(tmp_path, request, kind):
    shared = kind == "postgres" and request.getfixturevalue("postgres").url(fresh_schema())
    with Server(tmp_path, storage=shared or None) as server:
        only_new = {"If-None-Match": "*"}
        with ThreadPoolExecutor(32) as threads:
            answers = list(
                threads.map(lambda n: put(server, "one", str(n), headers=only_new), range(32))
            )
        found = get(server, f"{ENTRY}one").json()["content"]

    won = [n for n, answer in enumerate(answers) if answer.status_code == 200]
    assert [str(n) for n in won] == [found]
    assert {answer.status_code for answer in answers} == {200, 412}


def test_a_worker_that_dies_is_replaced_and_what_it_counted_stays(tmp_path):
    with Server(tmp_path) as server:
        for number in range(8):
            put(server, f"k{number}", "x")
        before = server.workers()
        gone = min(before)
        os.kill(gone, signal.SIGKILL)
        after = server.replaced(gone)
        changes = counted(server, "hdev_entry_changes_total")
        read = get(server, f"{ENTRY}k0").json()

    assert len(before & after) == WORKERS - 1
    assert changes["done", "put"] == 8
    assert read["content"] == "x"
    assert f"worker {gone} ended with -9" in server.err


def test_workers_that_keep_dying_end_the_server(tmp_path):
    with Server(tmp_path) as server:
        for _ in range(DEATHS - 1):
            gone = min(server.workers())
            os.kill(gone, signal.SIGKILL)
            server.replaced(gone)
        workers = server.workers()
        os.kill(min(workers), signal.SIGKILL)
        status = server.process.wait(LONG)

    assert status == 1
    assert f"{DEATHS} workers died within 60 s: the server ends" in server.err
    assert not any(alive(pid) for pid in workers)


def test_what_keeps_the_first_worker_from_starting_is_said_once(tmp_path):
    (tmp_path / "memory.sqlite").write_bytes(b"no database, but long enough to be read as one" * 99)
    done = subprocess.run(
        [*PROGRAM, "memory-server", "--port", "0", "--workers", "3"]
        + ["--storage", f"sqlite:{tmp_path / 'memory.sqlite'}"],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("Error") == 1
    assert "Traceback" not in done.stderr


def test_a_signal_to_every_process_of_the_group_is_one_signal(tmp_path):
    """As an init system sends it, and a terminal."""
    body = json.dumps({"content": "kept"}).encode()
    with Server(tmp_path) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=LONG) as half:
            head = f"PUT {ENTRY}half HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
            half.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
            assert half.recv(1024).startswith(b"HTTP/1.1 100 ")
            workers = server.workers()
            for number in (signal.SIGINT, signal.SIGTERM):
                for pid in workers:
                    os.kill(pid, number)
            server.process.terminate()
            until(lambda: sum(map(alive, workers)) == 1)  # the one that has something to finish
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((host, int(port)), timeout=LONG)
            half.sendall(body)
            answer = half.recv(65536)
        status = server.process.wait(LONG)

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert status == 0


def test_a_second_signal_kills_the_workers(tmp_path):
    with Server(tmp_path, "--drain", "3600") as server:
        workers = server.workers()
        server.process.terminate()
        until(lambda: get(server, "/readyz").status_code == 503)
        server.process.terminate()
        status = server.process.wait(LONG)

    assert status == 128 + signal.SIGTERM
    assert not any(alive(pid) for pid in workers)


def test_workers_end_when_the_process_above_them_is_killed(tmp_path):
    with Server(tmp_path) as server:
        workers = server.workers()
        server.process.kill()
        server.process.wait(LONG)
        until(lambda: not any(alive(pid) for pid in workers))


def test_a_hup_reaches_the_workers_and_ends_none(tmp_path):
    file = tmp_path / "keys.json"
    keysfile.add(file, "first", ("read",), "first-key", "2020-01-01T00:00:00Z", None)
    headers = {"Authorization": "Bearer second-key"}
    with Server(tmp_path, "--keys-file", str(file)) as server:
        before = server.workers()
        tree = f"{server.url}/api/memory/tree"
        keysfile.add(file, "second", ("read",), "second-key", "2020-01-01T00:00:00Z", None)
        server.process.send_signal(signal.SIGHUP)
        until(lambda: httpx.get(tree, headers=headers, **DIRECT).status_code == 200)

        assert server.workers() == before


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the workers share one queue")
def test_connections_are_shared_out_among_the_workers(tmp_path):
    with Server(tmp_path) as server, contextlib.ExitStack() as stack:
        place = server.url.removeprefix("http://").split(":")
        before = {pid: descriptors(pid) for pid in server.workers()}
        for _ in range(64):
            one = stack.enter_context(socket.create_connection((place[0], int(place[1])), LONG))
            one.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert one.recv(1024).startswith(b"HTTP/1.1 200 ")
        grown = [descriptors(pid) - count for pid, count in before.items()]

    assert min(grown) >= 8  # fewer of 64 by chance: once in 10^10 runs


def test_a_port_that_others_share_is_in_use_nevertheless(tmp_path):
    (tmp_path / "other").mkdir()
    with Server(tmp_path) as server:
        done = subprocess.run(
            [*PROGRAM, "memory-server", "--workers", "2", "--port", server.url.rpartition(":")[2]]
            + ["--storage", f"sqlite:{tmp_path / 'other' / 'memory.sqlite'}"],
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=LONG,
            check=False,
        )

    assert done.returncode == 1
    assert "Address already in use" in done.stderr


@pytest.mark.parametrize("flags", [("--backend", "ephemeral"), ("--storage-path", "s")])
def test_a_storage_of_one_process_has_one(hdev, flags):
    done = hdev("memory-server", "--workers", "2", *flags)

    assert done.status == 64
    assert "This storage is served by one process." in done.err
    assert "sqlite:PATH" in done.err
    assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ
