"""Health, readiness, metrics, request ids, logs and the page: what whoever runs a server sees."""

import errno
import io
import json
import logging
import re
import shutil
import socket
import threading
from datetime import UTC, datetime

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.direct import DIRECT
from tests.processes import MemoryServer

from hdev_memory import durable
from hdev_memory.backends.base import Secret
from hdev_memory.backends.ephemeral import EphemeralBackend
from hdev_memory.backends.filesystem import FilesystemBackend
from hdev_memory.server import keysfile, logs
from hdev_memory.server.app import OPENAPI, create_app
from hdev_memory.server.audit import ServerLog
from hdev_memory.server.journal import Journal
from hdev_memory.server.limits import Limits
from hdev_memory.server.run import serve_in_thread

ENTRY = "/api/memory/entry/"
KEY = "key-of-the-operator"
OWNER = {"Authorization": f"Bearer {KEY}"}


def serving(backend, **more):
    return serve_in_thread(create_app(backend, store_id="operating", **more))


@pytest.fixture(scope="module")
def url():
    with serving(EphemeralBackend(), api_key=Secret(KEY)) as url:
        yield url


@pytest.fixture(scope="module")
def client(url):
    with httpx.Client(base_url=url, **DIRECT, timeout=30) as client:
        yield client


def counted(client):
    """Name of a sample and values of its labels, sorted -> value."""
    answer = client.get("/metrics", headers=OWNER)
    assert answer.status_code == 200
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_a_server_is_alive_and_ready_without_a_key(client):
    assert client.get("/healthz").json() == {"alive": True}
    assert client.get("/readyz").json() == {"ready": True}


def test_a_server_whose_folder_is_gone_is_alive_and_not_ready(tmp_path):
    root = tmp_path / "store"
    root.mkdir()
    with (
        FilesystemBackend(str(root), must_exist=True) as backend,
        serving(backend) as url,
        httpx.Client(base_url=url, **DIRECT, timeout=30) as client,
    ):
        before = client.get("/readyz").status_code
        shutil.rmtree(root)
        gone = client.get("/readyz")

        assert (before, gone.status_code) == (200, 503)
        assert gone.json() == {"ready": False, "detail": "The storage cannot be reached"}
        assert gone.headers["Retry-After"] == "1"
        assert client.get("/healthz").status_code == 200
        assert counted(client)["hdev_storage_up",] == 0
        assert counted(client)["hdev_ready",] == 0


def test_a_server_that_cannot_log_its_writes_any_more_is_not_ready(tmp_path, monkeypatch):
    def full(descriptor, line):
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        ServerLog(tmp_path / "log", lambda: datetime(2026, 1, 1, tzinfo=UTC)) as log,
        serving(EphemeralBackend(), log=log) as url,
        httpx.Client(base_url=url, **DIRECT, timeout=30) as client,
    ):
        monkeypatch.setattr(durable, "append", full)
        failed = client.put(f"{ENTRY}a", json={"content": "x"})

        assert failed.status_code == 500
        assert client.get("/readyz").json()["detail"].startswith("The storage takes no writes")


def test_a_journal_that_failed_makes_a_server_not_ready(tmp_path, monkeypatch):
    def failing(descriptor, length):
        raise OSError(errno.EIO, "Input/output error")

    root = tmp_path / "store"
    root.mkdir()
    journal = Journal(root)
    with (
        FilesystemBackend(str(root), must_exist=True) as backend,
        serving(backend, journal=journal) as url,
        httpx.Client(base_url=url, **DIRECT, timeout=30) as client,
    ):
        before = client.get("/readyz").status_code
        monkeypatch.setattr(durable.disk, "truncate", failing)
        client.put(f"{ENTRY}a", json={"content": "x"})

        assert (before, client.get("/readyz").status_code) == (200, 503)


def test_a_storage_that_hangs_is_not_ready_and_takes_one_thread_however_often_it_is_asked():
    class Hanging(EphemeralBackend):
        asked = 0
        release = threading.Event()

        def present(self):
            self.asked += 1
            return self.release.wait(60)

    backend = Hanging()
    with (
        serving(backend, limits=Limits(ready_seconds=0.05)) as url,
        httpx.Client(base_url=url, **DIRECT, timeout=30) as client,
    ):
        answers = [client.get("/readyz").status_code for _ in range(3)]
        asked = backend.asked
        backend.release.set()

        assert (answers, asked) == ([503] * 3, 1)


def test_requests_are_counted_by_route_and_never_by_key(client):
    before = counted(client)
    client.put(f"{ENTRY}canary/key", json={"content": "12345"}, headers=OWNER)
    client.get(f"{ENTRY}canary/key", headers=OWNER)
    client.get("/canary/nowhere")
    client.request("CANARY", "/healthz")
    after = counted(client)
    route = "/api/memory/entry/{path}"

    def grown(*name):
        return after[name] - before.get(name, 0)

    assert grown("hdev_requests_total", route, "200", "PUT") == 1
    assert grown("hdev_requests_total", route, "200", "GET") == 1
    assert grown("hdev_requests_total", "404", "GET", "unmatched") == 1
    assert grown("hdev_requests_total", "/healthz", "405", "other") == 1
    assert grown("hdev_request_seconds_count", route, "PUT") == 1
    assert grown("hdev_entry_changes_total", "done", "put") == 1
    assert grown("hdev_entry_bytes_written_total") == 5
    assert grown("hdev_entries_read_total") == 1
    assert grown("hdev_commit_entries_sum") == grown("hdev_commit_entries_count") == 1
    assert after["hdev_requests_in_progress",] == after["hdev_connections",] == 1
    assert after["process_open_fds",] > 3
    assert "canary" not in str(after).lower()


def test_wrong_keys_are_counted(client):
    before = counted(client)["hdev_wrong_api_keys_total",]
    client.get(f"{ENTRY}a", headers={"Authorization": "Bearer wrong"})
    client.get(f"{ENTRY}a")  # none at all is none that is wrong

    assert counted(client)["hdev_wrong_api_keys_total",] == before + 1


def test_metrics_are_for_the_role_of_their_name_alone(tmp_path):
    file = tmp_path / "keys.json"
    for role in keysfile.ROLES:
        keysfile.add(file, role, (role,), role, "2020-01-01T00:00:00Z", None)
    with (
        serving(EphemeralBackend(), keys_file=file) as url,
        httpx.Client(base_url=url, **DIRECT, timeout=30) as client,
    ):
        answers = {
            role: client.get("/metrics", headers={"Authorization": f"Bearer {role}"}).status_code
            for role in keysfile.ROLES
        }
        other = client.get("/api/memory/tree", headers={"Authorization": "Bearer metrics"})

        assert answers == {"read": 403, "write": 403, "audit": 403, "metrics": 200}
        assert (client.get("/metrics").status_code, other.status_code) == (401, 403)


@pytest.mark.parametrize("path", ["/healthz", "/nowhere", "/api/memory/tree", f"{ENTRY}a"])
def test_an_id_that_is_sent_is_the_one_of_the_answer(client, path):
    assert (
        client.get(path, headers={"X-Request-Id": "a-1_b.c"}).headers["X-Request-Id"] == "a-1_b.c"
    )


@pytest.mark.parametrize("sent", ["", "x" * 129, "a b", "caf\xe9", "a\tb"])
def test_an_id_that_is_none_is_replaced(client, sent):
    answer = client.get("/healthz", headers=[("X-Request-Id", sent.encode("latin-1"))])

    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-Id"])


def test_of_two_ids_none_is_taken(client):
    answer = client.get("/healthz", headers=[("X-Request-Id", "a"), ("X-Request-Id", "b")])

    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-Id"])


def test_an_answer_to_a_failure_of_the_server_has_its_id_as_well():
    class Broken(EphemeralBackend):
        def present(self):
            raise ZeroDivisionError

    with serving(Broken()) as url:
        answer = httpx.get(f"{url}{ENTRY}a", headers={"X-Request-Id": "mine"}, **DIRECT, timeout=30)

    assert (answer.status_code, answer.json()) == (500, {"detail": "The server failed"})
    assert answer.headers["X-Request-Id"] == "mine"


def send(url, text):
    """Bytes as they are, which no client would send; the whole answer."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(text)
        connection.settimeout(30)
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_request_is_one_line_of_the_log_without_its_key_or_content(tmp_path, form):
    flags = ("--log-level", "debug", "--log-format", form)
    with MemoryServer(tmp_path / "s", KEY, *flags) as server:
        with httpx.Client(base_url=server.url, headers=OWNER, **DIRECT) as client:
            sent = {"content": "canary", "metadata": {"canary": "canary"}}
            client.put(f"{ENTRY}canary", json=sent, headers={"X-Request-Id": "first"})
            client.get(f"{ENTRY}canary?canary=canary")
            client.get("/api/memory/search?q=canary")
        send(
            server.url,
            b"GET /canary%0a%1b[2J HTTP/1.1\r\nHost: x\r\nX-Request-Id: a b=c\r\n"
            b"User-Agent: canary\r\nConnection: close\r\n\r\n",
        )
    lines = [line for line in server.err.splitlines() if " request " in line or '"request"' in line]

    assert len(lines) == 4, server.err
    assert "canary" not in server.err
    assert KEY not in server.err
    assert all(" ~"[0] <= letter <= "~" or letter == "\n" for letter in server.err)
    if form == "json":
        found = [json.loads(line) for line in server.err.splitlines()]
        first = next(line for line in found if line["event"] == "request")
        taken = len(json.dumps(sent, separators=(",", ":")))
        assert first.pop("seconds") > 0
        assert first.pop("time").endswith("Z")
        assert first.pop("bytes_out") > 0
        assert first == {
            "level": "info",
            "event": "request",
            "request_id": "first",
            "method": "PUT",
            "route": "/api/memory/entry/{path}",
            "status": 200,
            "whole": True,
            "bytes_in": taken,
            "client": "default",
            "address": "127.0.0.1",
        }
    else:
        assert (
            " INFO request request_id=first method=PUT route=/api/memory/entry/{path} " in lines[0]
        )


@pytest.fixture
def written():
    """The messages of the server's loggers, as JSON; a server of another test may end a request."""
    stream = io.StringIO()
    before = {
        name: (list((one := logging.getLogger(name)).handlers), one.propagate, one.level)
        for name in logs.LOGGERS
    }
    logs.configure("info", "json", stream)

    def messages():
        lines = [json.loads(line) for line in stream.getvalue().splitlines()]
        return [line for line in lines if line["event"] == "message"]

    yield messages
    for name, (handlers, propagate, level) in before.items():
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def test_an_error_is_logged_with_its_kind_and_place_and_without_its_text(written):
    def fail():
        raise ValueError("canary")

    try:
        fail()
    except ValueError:
        logging.getLogger("hdev_memory.server").exception("Exception in ASGI application\n")
    (line,) = written()

    assert (line["message"], line["error"]) == ("Exception in ASGI application", "ValueError")
    assert re.fullmatch(r"test_operating\.py:\d+ fail", line["frames"][0])
    assert "canary" not in json.dumps(line)


def test_a_message_cannot_make_a_second_line(written):
    logging.getLogger("hdev_memory.server").warning('odd\n{"level":"error"}')

    assert [line["message"] for line in written()] == ['odd\n{"level":"error"}']


def test_the_page_describes_every_request_and_lets_nothing_run(client):
    answer = client.get("/docs")
    document = json.loads(OPENAPI.read_text())
    policy = answer.headers["Content-Security-Policy"]

    for path, operations in document["paths"].items():
        assert f"<code>{path}</code>" in answer.text
        for method in operations.keys() - {"parameters"}:
            assert f'<details id="{operations[method]["operationId"]}">' in answer.text
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "script" not in answer.text.lower().replace("description", "")
    assert re.findall(r'(?:src|href)="(?!#)([^"]*)"', answer.text) == ["openapi.json"]
