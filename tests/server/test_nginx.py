"""Two servers of one database behind the nginx that docs/deployment.md sets up."""

import base64
import hashlib
import http.client
import json
import os
import signal
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.conftest import put_entry
from tests.nginx import CONFIGURATION, Nginx, program
from tests.postgres import fresh_schema
from tests.processes import MemoryServer
from tests.survival.wire import Wire

from hdev_memory.backends.base import UNATTENDED, Put
from hdev_memory.backends.sqlite import SqliteBackend
from hdev_memory.core.entry import Normalisation
from hdev_memory.server.limits import DEFAULT

KEY = "key-behind-nginx"
NORMAL = Normalisation()
ENTRY = "/api/memory/entry/"
WRITE = "/api/hdev-memory/1/write"
SNAPSHOT = "/api/hdev-memory/1/snapshot"
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}


class Server(MemoryServer):
    """One of several servers of one database: an SQLite file, unless another one is named."""

    def __init__(self, place, name, storage=None):
        super().__init__(
            place / name, KEY, "--trusted-proxy", "127.0.0.1", "--log-format", "json",
            "--log-level", "info",
        )  # fmt: skip
        path = self._command.index("--storage-path")
        storage = storage or f"sqlite:{place / 'memory.sqlite'}"
        self._command[path : path + 2] = ["--storage", storage]

    def logged(self):
        """Its lines about requests, once it has ended."""
        lines = [json.loads(line) for line in self.err.splitlines()]
        return [line for line in lines if line["event"] == "request"]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@pytest.fixture
def place(tmp_path):
    program()
    (tmp_path / "nginx").mkdir()
    return tmp_path


@pytest.fixture
def storage(request):
    """What the servers keep the memory in; an SQLite file, unless PostgreSQL is asked for."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return None
    return request.getfixturevalue("postgres").url(fresh_schema())


@pytest.fixture
def pair(place, storage):
    with Server(place, "one", storage) as one, Server(place, "two", storage) as two:
        yield one, two


@pytest.fixture
def proxy(place, pair):
    with Nginx(place / "nginx", free_port(), tuple(server.url for server in pair)) as nginx:
        yield nginx


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The same for tests that do not mind each other; with 5,000 entries."""
    program()
    place = tmp_path_factory.mktemp("shared")
    (place / "nginx").mkdir()
    fill(place, 5_000)
    with (
        Server(place, "one") as one,
        Server(place, "two") as two,
        Nginx(place / "nginx", free_port(), (one.url, two.url)) as nginx,
    ):
        yield nginx


def connect(nginx, address="127.0.0.1"):
    """A connection from an address of this machine."""
    return http.client.HTTPSConnection(
        urlsplit(nginx.url).netloc, context=nginx.trust, timeout=60, source_address=(address, 0)
    )


def ask(nginx, method, path, body=None, headers=AUTHORIZED, address="127.0.0.1"):
    connection = connect(nginx, address)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def fill(place, count, size=300):
    """Put entries into the database of the servers."""
    with SqliteBackend(str(place / "memory.sqlite"), must_exist=False) as backend:
        content = b"x" * size
        state = NORMAL.state(content, {"k": 1})
        puts = [
            Put(key=f"n/{n:06}", content=content, metadata={"k": 1}, before=None, after=state)
            for n in range(count)
        ]
        backend.write(puts, NORMAL, UNATTENDED)


@pytest.fixture
def work(home, monkeypatch):
    work = home.parent / "work"
    for number in range(120):
        put_entry(work / "source", f"n{number % 7}/{number:04} ä%2F", f"new {number}\n" * 60)
    monkeypatch.setenv("HDEV_MEMORY_HTTP_API_KEY", KEY)
    return work


@pytest.mark.parametrize("storage", ["sqlite", "postgres"], indirect=True)
def test_a_plan_is_made_applied_and_verified_over_two_servers(
    hdev, work, place, pair, proxy, monkeypatch
):
    monkeypatch.setenv("SSL_CERT_FILE", str(proxy.authority))
    planned = hdev("plan", "filesystem:source", proxy.url, "-o", "p")
    applied = hdev("apply", "p", "--json")
    verified = hdev("verify", "p")
    both = {line[7] for line in proxy.access}
    log = json.loads(ask(proxy, "GET", "/api/audit?limit=1000")[2])["records"]

    assert (planned.status, applied.status, verified.status) == (0, 0, 0), applied.err
    assert applied.json["counts"]["created"] == len(log) == 120
    assert both == {server.url.removeprefix("http://") for server in pair}
    written = {line[-1] for line in proxy.access if line[2] == "POST"}
    assert {record["request"] for record in log} <= written
    assert not any("n0" in word or "entry" in word for line in proxy.access for word in line)
    assert proxy.errors == ""


def test_an_id_goes_through_and_one_is_made_where_there_is_none(shared):
    sent = ask(shared, "GET", "/api/health", headers={"X-Request-Id": "mine-1"})[1]
    made = ask(shared, "GET", "/api/health", headers={})[1]

    assert sent["x-request-id"] == "mine-1"
    assert len(made["x-request-id"]) > 8


def test_the_limit_on_wrong_keys_is_for_the_client_and_not_for_the_proxy(place, work):
    """The two addresses are both behind the proxy; what they claim to be is thrown away."""
    with Server(place, "one") as server:
        both = (server.url, server.url)
        with Nginx(place / "nginx", free_port(), both) as proxy:
            guessed = [
                ask(
                    proxy, "GET", "/api/memory/tree", address="127.0.0.2",
                    headers={"Authorization": f"Bearer wrong{n}", "X-Forwarded-For": f"10.0.0.{n}"},
                )[0]
                for n in range(12)
            ]  # fmt: skip
            other = ask(proxy, "GET", "/api/memory/tree", address="127.0.0.3")[0]
            held_up = ask(proxy, "GET", "/api/memory/tree", address="127.0.0.2")[0]

    assert guessed[0] in (401, 403)
    assert guessed[-1] == held_up == 429
    assert other == 200
    assert {line["address"] for line in server.logged()} == {"127.0.0.2", "127.0.0.3"}


def test_only_a_trusted_proxy_is_believed(place):
    with MemoryServer(
        place / "store", KEY, "--log-format", "json", "--log-level", "info"
    ) as server:
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=30)
        connection.request("GET", "/api/health", headers={"X-Forwarded-For": "192.0.2.7"})
        assert connection.getresponse().status == 200
        connection.close()
    lines = [json.loads(line) for line in server.err.splitlines()]

    assert {line["address"] for line in lines if line["event"] == "request"} == {"127.0.0.1"}


@pytest.mark.parametrize("network", ["*", "10.0.0.1/24", "proxy.example", "10.0.0.0/24,::1"])
def test_a_trusted_proxy_is_an_address_or_a_network(hdev, network):
    done = hdev("memory-server", "--trusted-proxy", network)

    assert done.status == 64
    assert "A trusted proxy is an address or a network." in done.err


NO_DIGEST = f"sha-256=:{base64.b64encode(bytes(32)).decode()}:"
MUCH = 17 * 1024 * 1024 + 1


@pytest.mark.parametrize(
    ("length", "by"),
    [(DEFAULT.batch_bytes + 1, "application/json"), (MUCH, "text/html")],
)
def test_a_body_beyond_the_limit_is_refused_before_any_of_it_is_sent(shared, length, by):
    """By the server in its own words, and by nginx what is much beyond."""
    connection = connect(shared)
    connection.putrequest("POST", WRITE)
    headers = {**AUTHORIZED, "Content-Length": str(length), "Content-Digest": NO_DIGEST}
    for name, text in headers.items():
        connection.putheader(name, text)
    connection.endheaders()
    answer = connection.getresponse()
    connection.close()

    assert (answer.status, answer.getheader("Content-Type")) == (413, by)


def test_the_largest_body_that_a_server_takes_goes_through(shared):
    body = b" " * DEFAULT.batch_bytes
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    headers = {**AUTHORIZED, "Content-Digest": f"sha-256=:{digest}:"}
    status, _, text = ask(shared, "POST", WRITE, body, headers)

    assert status in (400, 422), text  # it is no batch, which only who has read it can say


def files_of(proxy):
    """What its worker has open."""
    pid = proxy.process.pid
    (worker,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [os.readlink(file) for file in Path(f"/proc/{worker}/fd").iterdir()]


def test_a_long_answer_that_is_taken_slowly_is_whole_and_never_on_the_proxys_disk(shared):
    connection = connect(shared)
    connection.request("GET", SNAPSHOT, headers=AUTHORIZED)
    answer = connection.getresponse()
    digest, last, lines = hashlib.sha256(), b"", 0
    while line := answer.readline():
        digest.update(last)
        last, lines = line, lines + 1
        if lines % 500 == 0:
            assert not [file for file in files_of(shared) if "/nginx-" in file]
    connection.close()
    end = json.loads(last)

    assert (end["entries"], lines) == (5_000, 5_002)
    assert end["digest"] == digest.hexdigest()


def test_what_is_for_who_runs_the_servers_is_not_for_everybody(shared):
    for path in ("/metrics", "/readyz", "//metrics", "/%6detrics"):
        assert ask(shared, "GET", path)[0] == 404


class Answerless:
    """Takes requests, and closes every connection in the place of an answer."""

    def __init__(self):
        self.requests = []

    def __enter__(self):
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._take)
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join(timeout=30)
        self._listening.close()

    def _take(self):
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection:
                self.requests.append(connection.recv(64 * 1024).split(b" ")[0].decode())


@pytest.mark.parametrize(
    ("method", "path", "times"),
    [
        ("PUT", f"{ENTRY}a/b", 1),
        ("DELETE", f"{ENTRY}a/b", 1),
        ("POST", WRITE, 1),
        ("GET", f"{ENTRY}a/b", 2),
    ],
)
def test_a_write_is_never_sent_twice_and_a_get_goes_to_the_other_server(place, method, path, times):
    with (
        Answerless() as one,
        Answerless() as two,
        Nginx(place / "nginx", free_port(), (one.url, two.url)) as proxy,
    ):
        status, *_ = ask(proxy, method, path, "{}" if method != "GET" else None)

    assert status == 502
    assert one.requests + two.requests == [method] * times


def test_a_server_that_is_killed_in_a_batch_leaves_a_run_that_the_other_one_resumes(
    hdev, work, place, pair, monkeypatch
):
    one, two = pair

    def killed():
        wire.dead = True
        os.kill(one.process.pid, signal.SIGKILL)
        one.process.wait()

    with (
        Wire(one.url, cut_in=1, direction="down", then=killed) as wire,
        Nginx(place / "nginx", free_port(), (wire.url, two.url)) as proxy,
    ):
        monkeypatch.setenv("SSL_CERT_FILE", str(proxy.authority))
        assert hdev("plan", "filesystem:source", proxy.url, "-o", "p").status == 0
        said = hdev("apply", "p", "--json")
        resumed = hdev("apply", "p")
        verified = hdev("verify", "p")
        counts = said.json["counts"]
        log = [json.loads(line) for line in (work / "p/audit.jsonl").read_text().splitlines()]

    assert said.status in (0, 4), said.err  # both: what was done was found out by reading
    assert counts["created"] + counts["failed"] + counts["left"] == 120
    assert (resumed.status, verified.status) == (0, 0), resumed.err
    assert {r["key"] for r in log if r["event"] == "intent"} == {
        r["key"] for r in log if r["event"] in ("done", "failed", "drift")
    }


def test_the_limits_of_nginx_are_a_little_wider_than_those_of_the_server():
    text = CONFIGURATION.read_text()

    assert DEFAULT.batch_bytes < 17 * 1024 * 1024
    assert "client_max_body_size 17m;" in text
    assert f"keepalive_timeout {DEFAULT.idle_seconds - 1}s;" in text
    assert f"client_header_timeout {DEFAULT.head_seconds:.0f}s;" in text
    assert f"client_body_timeout {DEFAULT.body_seconds:.0f}s;" in text
    assert f"send_timeout {DEFAULT.linger_seconds:.0f}s;" in text
