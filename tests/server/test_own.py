"""Where our server is better than the existing one, over a socket."""

import json
import os
import signal
import socket
import subprocess

import httpx
import pytest
from tests.conftest import put_entry, tree_of
from tests.direct import DIRECT
from tests.processes import PROGRAM, MemoryServer

from hdev_memory.backends.base import Failed, Put, Secret, Where
from hdev_memory.backends.http import HttpBackend
from hdev_memory.core.entry import Normalisation

KEY = "full-key"
READER = "read-only-key"
ENTRY = "/api/memory/entry/"
NORMAL = Normalisation()


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    """One process for all: it takes a second to start."""
    root = tmp_path_factory.mktemp("own") / "storage"
    flags = ("--read-only-api-key", READER, "--max-entry-bytes", "1000")
    with MemoryServer(root, KEY, *flags) as running:
        yield running


@pytest.fixture
def server(process):
    process.root.joinpath("notes").mkdir(exist_ok=True)
    return process


@pytest.fixture
def ask(server):
    with httpx.Client(base_url=server.url, **DIRECT) as client:

        def ask(method, path, key=KEY, headers=(), **more):
            sent = {"Authorization": f"Bearer {key}", **dict(headers)}
            return client.request(method, path, headers=sent, **more)

        yield ask


def raw(server, text):
    """A request that no client library would send; the whole answer."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(text.encode())
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def test_dotted_names_keep_their_own_text(ask):
    for name in ("v1.2", "v1.3"):
        assert ask("PUT", f"{ENTRY}notes/{name}", json={"content": name}).json()["success"]

    assert [ask("GET", f"{ENTRY}notes/{name}").json()["content"] for name in ("v1.2", "v1.3")] == [
        "v1.2",
        "v1.3",
    ]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize(
    "path",
    [
        "../outside",
        "..",
        "/etc/passwd",
        "a/../../outside",
        "%2e%2e/outside",
        "..%2foutside",
        "a//b",
    ],
)
def test_no_path_leads_out_of_the_storage(server, method, path):
    put_entry(server.root.parent, "outside", "not yours")
    before = tree_of(server.root.parent)
    body = json.dumps({"content": "x"})
    answer = raw(
        server,
        f"{method} {ENTRY}{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        f"Connection: close\r\n\r\n{body}",
    )

    assert '"success":false' in answer or " 404 " in answer.splitlines()[0]
    assert "not yours" not in answer
    assert "root:" not in answer
    assert tree_of(server.root.parent) == before


@pytest.mark.parametrize("path", ["", "/", ".", "./"])
def test_the_whole_store_cannot_be_deleted(server, path):
    put_entry(server.root, "kept", "x")
    before = tree_of(server.root)
    answer = raw(
        server,
        f"DELETE {ENTRY}{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        "Connection: close\r\n\r\n",
    )

    assert '"success":true' not in answer
    assert tree_of(server.root) == before


def test_an_entry_beside_a_folder_of_its_name_is_read_and_deleted_alone(ask):
    for path in ("foo", "foo/inner"):
        ask("PUT", ENTRY + path, json={"content": path})

    assert ask("GET", f"{ENTRY}foo").json()["content"] == "foo"
    assert ask("GET", f"{ENTRY}foo/").json()["type"] == "directory"
    assert ask("DELETE", f"{ENTRY}foo").json()["message"].endswith("memory entry foo")
    assert ask("GET", f"{ENTRY}foo/inner").json()["content"] == "foo/inner"


def test_too_large_an_entry_is_413_and_changes_nothing(ask, server):
    ask("PUT", f"{ENTRY}large", json={"content": "x" * 1000})
    before = tree_of(server.root)

    for body in (
        {"content": "x" * 1001},
        {"content": "é" * 501},
        {"content": "", "metadata": {"k": "x" * 1000}},
        {"content": "x" * 10_000_000},
    ):
        assert ask("PUT", f"{ENTRY}large", json=body).status_code == 413
    assert tree_of(server.root) == before


def test_a_read_only_key_reads_and_does_not_write(ask, server):
    ask("PUT", f"{ENTRY}readable", json={"content": "x"})
    before = tree_of(server.root)

    assert ask("GET", f"{ENTRY}readable", READER).json()["content"] == "x"
    assert ask("PUT", f"{ENTRY}readable", READER, json={"content": "y"}).status_code == 403
    assert ask("DELETE", f"{ENTRY}readable", READER).status_code == 403
    assert tree_of(server.root) == before


@pytest.mark.parametrize(
    ("key", "content", "reason"),
    [
        (KEY, b"x" * 1001, "Content too large for target backend"),
        (READER, b"x", "Permission denied on target"),
    ],
)
def test_our_client_reports_both_in_the_promised_words(server, key, content, reason):
    change = Put(
        key="refused", content=content, metadata={}, before=None, after=NORMAL.state(content, {})
    )
    with HttpBackend(Where("http", server.url, Secret(key))) as client:
        (receipt,) = client.write([change], NORMAL)

    assert isinstance(receipt, Failed)
    assert receipt.intact
    assert reason in receipt.reason


def test_conditional_writes(ask):
    path = f"{ENTRY}conditional"
    create = {"If-None-Match": "*"}

    first = ask("PUT", path, headers=create, json={"content": "one"})
    again = ask("PUT", path, headers=create, json={"content": "two"})
    right = ask("PUT", path, headers={"If-Match": first.headers["etag"]}, json={"content": "three"})
    stale = ask("PUT", path, headers={"If-Match": first.headers["etag"]}, json={"content": "four"})
    gone = ask("DELETE", path, headers={"If-Match": first.headers["etag"]})

    assert [answer.status_code for answer in (first, again, right, stale, gone)] == [
        200, 412, 200, 412, 412
    ]  # fmt: skip
    assert ask("GET", path).json()["content"] == "three"
    assert ask("GET", path).headers["etag"] == right.headers["etag"] == stale.headers["etag"]
    assert ask("DELETE", path, headers={"If-Match": right.headers["etag"]}).json()["success"]


def test_metadata_is_replaced_when_asked_for(ask):
    path = f"{ENTRY}replaced"
    ask("PUT", path, json={"content": "x", "metadata": {"old": 1}})
    ask("PUT", path, headers={"Hdev-Metadata": "replace"}, json={"content": "x", "metadata": {}})

    assert ask("GET", path).json()["metadata"] == {}


def test_rubbish_is_answered_and_the_server_lives_on(server, ask):
    before = tree_of(server.root)
    for text in (
        "GET / HTTP/1.1\r\n\r\n",
        "\x00\x01\x02\r\n\r\n",
        f"PUT {ENTRY}x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{{",
        (
            f"GET {ENTRY}%ff%fe HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
            "Connection: close\r\n\r\n"
        ),
        (
            f"GET {ENTRY}{'d/' * 2000}x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
            "Connection: close\r\n\r\n"
        ),
    ):
        assert " 500 " not in raw(server, text).partition("\r\n")[0]
    lone = ask("PUT", f"{ENTRY}x", content=b'{"content":"\\ud800"}')
    deep = ask("PUT", f"{ENTRY}x", content=b'{"content":"","metadata":' + b'{"k":' * 5000)

    assert (lone.status_code, deep.status_code) == (422, 422)
    assert ask("GET", "/api/health").json()["healthy"] is True
    assert tree_of(server.root) == before


def started(home, *flags, **environ):
    return subprocess.run(
        [*PROGRAM, "memory-server", *flags],
        capture_output=True,
        text=True,
        timeout=30,
        env={"PATH": os.environ["PATH"], "HOME": str(home), **environ},
        check=False,
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
def test_an_address_that_others_can_reach_needs_a_key(tmp_path, host):
    done = started(tmp_path, "--host", host, "--port", "0")

    assert done.returncode == 64
    assert "needs a key" in done.stderr
    assert not (tmp_path / ".hdev").exists()


@pytest.mark.parametrize("flags", [("--port", "70000"), ("--backend", "s3"), ("--log-level", "x")])
def test_bad_flags_are_usage_errors(tmp_path, flags):
    assert started(tmp_path, *flags).returncode == 64


def test_a_port_in_use_is_said_plainly(tmp_path, server):
    done = started(tmp_path, PORT=server.url.rpartition(":")[2])

    assert done.returncode == 1
    assert "Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_on_a_signal_and_keeps_the_default_store(tmp_path, number):
    with subprocess.Popen(
        [*PROGRAM, "memory-server", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
    ) as process:
        url = process.stdout.readline().split()[4]
        httpx.put(f"{url}{ENTRY}a", json={"content": "kept"}, **DIRECT)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)

    assert (process.returncode, out, err) == (0, "", "")
    assert (tmp_path / ".hdev/memory/a.md").read_text() == "kept"


def test_an_ephemeral_server_keeps_nothing(tmp_path):
    with MemoryServer(tmp_path / "unused", KEY, "--backend", "ephemeral") as server:
        headers = {"Authorization": f"Bearer {KEY}"}
        url = f"{server.url}{ENTRY}a"
        httpx.put(url, json={"content": "x"}, headers=headers, **DIRECT)
        found = httpx.get(url, headers=headers, **DIRECT).json()

    assert found["content"] == "x"
    assert not (tmp_path / "unused").exists()


def test_keys_show_up_nowhere(tmp_path):
    with MemoryServer(tmp_path / "s", "canary-of-server", "--log-level", "debug") as server:
        for key in ("canary-of-server", "canary-of-client"):
            httpx.get(
                f"{server.url}/api/memory/tree",
                headers={"Authorization": f"Bearer {key}"},
                **DIRECT,
            )

    assert "method=GET route=/api/memory/tree status=401" in server.err
    assert "canary" not in server.out + server.err + str(tree_of(server.root))
