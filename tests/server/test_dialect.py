"""The existing dialect, row by row: our server and the emulation give the same answers.

The emulation is written from the dialect's description; where it passes here, and our server does,
a client of the one can use the other. What differs on purpose is in `test_own.py`.
"""

import shutil
from datetime import datetime

import httpx
import pytest
from tests.conftest import put_entry, tree_of
from tests.direct import DIRECT
from tests.emulation.existing_server import ExistingServer
from tests.processes import MemoryServer

KEY = "key-of-the-dialect"


@pytest.fixture(scope="module", params=[ExistingServer, MemoryServer])
def process(request, tmp_path_factory):
    """One process for all: it takes a second to start."""
    with request.param(tmp_path_factory.mktemp("dialect") / "served", KEY) as running:
        yield running


@pytest.fixture
def server(process):
    for path in process.root.iterdir():
        if path.name != ".hdev-store":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    put_entry(process.root, "a/b/c", "hello\n", {"k": "v"})
    put_entry(process.root, "a/d", "Hello again, hello\n")
    put_entry(process.root, "global", "what everybody knows")
    return process


@pytest.fixture
def ask(server):
    with httpx.Client(
        base_url=server.url, headers={"Authorization": f"Bearer {KEY}"}, **DIRECT
    ) as client:

        def ask(method, path, **more):
            answer = client.request(method, path, **more)
            return answer.status_code, answer.json()

        yield ask


def entry(path, **more):
    answer = {
        "type": "file",
        "path": path,
        "content": None,
        "metadata": None,
        "items": None,
        "success": True,
        "error": None,
    }
    return 200, answer | more


def test_health_needs_no_key_and_ignores_a_wrong_one(server):
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        answer = httpx.get(f"{server.url}/api/health", headers=headers, **DIRECT)
        body = answer.json()
        assert answer.status_code == 200
        assert body["healthy"] is True
        assert body["message"] == "Backend is healthy"
        assert body["details"]["backend_type"].endswith("Backend")
        assert datetime.fromisoformat(body["timestamp"]).tzinfo is not None


TREE = {"global": {}, "a": {"b": {"c": {}}, "d": {}}}


@pytest.mark.parametrize(
    ("query", "path", "items"),
    [
        ("", "", TREE),
        ("?depth=0", "", {}),
        ("?depth=1", "", {"global": {}, "a": {"b": {}, "d": {}}}),
        ("?prefix=a", "a", TREE["a"]),
        ("?prefix=a/b", "a/b", {"c": {}}),
    ],
)
def test_the_tree(ask, query, path, items):
    answer = {"type": "tree", "path": path, "items": items, "success": True, "error": None}

    assert ask("GET", f"/api/memory/tree{query}") == (200, answer)


@pytest.mark.parametrize("prefix", ["nope", "a/d"])
def test_a_prefix_that_is_missing_or_an_entry_is_no_success(ask, prefix):
    status, body = ask("GET", f"/api/memory/tree?prefix={prefix}")

    assert (status, body["success"]) == (200, False)
    assert body["error"] == f"Path {prefix} does not exist"


def test_an_entry(ask):
    assert ask("GET", "/api/memory/entry/a/b/c") == entry(
        "a/b/c", content="hello\n", metadata={"k": "v"}
    )


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_directory_is_a_success_of_another_type(ask, slash):
    status, body = ask("GET", f"/api/memory/entry/a{slash}")
    body["items"].sort(key=lambda item: item["path"])

    assert (status, body) == entry(
        "a",
        type="directory",
        items=[{"type": "node", "path": "a/b"}, {"type": "leaf", "path": "a/d"}],
    )


def test_a_missing_entry_is_said_to_be_missing_in_these_words(ask):
    assert ask("GET", "/api/memory/entry/nope") == entry(
        "nope", success=False, error="Memory entry content at nope.md does not exist"
    )


def test_an_unreadable_entry_is_an_error_and_not_missing(ask, server):
    (server.root / "a/d.md").write_bytes(b"\xff")
    status, body = ask("GET", "/api/memory/entry/a/d")

    assert (status, body["type"], body["success"]) == (200, "error", False)
    assert body["error"].startswith("Error reading memory entry: ")


WRITTEN = "Memory entry written successfully to x/y"


def test_put_creates_merges_and_keeps_bookkeeping(ask):
    path = "/api/memory/entry/x/y"
    answer = (200, {"path": "x/y", "success": True, "message": WRITTEN, "error": None})

    assert ask("PUT", path, json={"content": "one", "metadata": {"k": 1, "kept": 2}}) == answer
    first = ask("GET", path)[1]["metadata"]
    assert ask("PUT", path, json={"content": "two", "metadata": {"k": 3}}) == answer
    second = ask("GET", path)[1]
    assert ask("PUT", path, json={"content": "three"}) == answer
    sent = {"version": 70, "created": "then", "updated": "now"}
    assert ask("PUT", path, json={"content": "four", "metadata": sent}) == answer
    fourth = ask("GET", path)[1]

    assert (first["version"], first["k"]) == (1, 1)
    assert float(first["created"]) == float(first["updated"])
    assert second["content"] == "two"
    assert (second["metadata"]["k"], second["metadata"]["kept"]) == (3, 2)
    assert second["metadata"]["version"] == 2
    assert second["metadata"]["created"] == first["created"]
    assert fourth["metadata"] == {"k": 3, "kept": 2} | sent


def test_delete_of_an_entry_a_directory_and_nothing(ask, server):
    path = "/api/memory/entry"
    gone = {"success": True, "error": None}

    assert ask("DELETE", f"{path}/a/d") == (
        200,
        {"path": "a/d", "message": "Successfully deleted memory entry a/d", **gone},
    )
    assert ask("DELETE", f"{path}/a") == (
        200,
        {"path": "a", "message": "Successfully deleted directory a and all its contents", **gone},
    )
    status, body = ask("DELETE", f"{path}/a")
    assert (status, body["success"]) == (200, False)
    assert body["error"] == "Error: Memory entry at a does not exist"
    assert [name for name in tree_of(server.root) if name.endswith(".md")] == ["global.md"]


def test_search_counts_hits_by_length_best_first(ask):
    status, body = ask("GET", "/api/memory/search", params={"q": "HELLO", "prefix": "a"})

    assert status == 200
    assert (body["query"], body["success"], body["error"]) == ("HELLO", True, None)
    assert body["results"] == [
        {"path": "a/b/c", "snippet": "hello\n", "score": 1 / 6},
        {"path": "a/d", "snippet": "Hello again, hello\n", "score": 2 / 19},
    ]


def test_search_shows_fifty_characters_on_either_side(ask, server):
    put_entry(server.root, "long", "." * 60 + "needle" + "." * 60)
    (found,) = ask("GET", "/api/memory/search", params={"q": "Needle"})[1]["results"]

    assert found["snippet"] == "..." + "." * 50 + "needle" + "." * 50 + "..."


GUARDED = [
    ("GET", "/api/memory/tree"),
    ("GET", "/api/memory/search?q=x"),
    ("GET", "/api/memory/entry/a/d"),
    ("PUT", "/api/memory/entry/a/d"),
    ("DELETE", "/api/memory/entry/a/d"),
    ("POST", "/api/memory/backup"),
    ("GET", "/api/memory/backups"),
]


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_without_the_key_nothing_is_shown_or_changed(server, method, path):
    before = tree_of(server.root)
    for headers, detail in (
        ({}, "API key required"),
        ({"Authorization": "Bearer wrong"}, "Invalid API key"),
    ):
        answer = httpx.request(method, server.url + path, headers=headers, **DIRECT)
        assert (answer.status_code, answer.json()) == (401, {"detail": detail})
        assert answer.headers["www-authenticate"] == "Bearer"
    assert tree_of(server.root) == before


@pytest.mark.parametrize(
    "body",
    [
        {"content": b"{"},
        {"content": b""},
        {"json": {}},
        {"json": {"content": 1}},
        {"json": {"content": "x", "metadata": []}},
        {"json": []},
    ],
)
def test_a_bad_body_is_422_with_a_list(ask, server, body):
    before = tree_of(server.root)
    status, answer = ask("PUT", "/api/memory/entry/a/d", **body)

    assert status == 422
    assert {"type", "loc", "msg"} <= set(answer["detail"][0])
    assert tree_of(server.root) == before


def test_unknown_routes_and_methods(ask):
    assert ask("GET", "/api/nope") == (404, {"detail": "Not Found"})
    assert ask("POST", "/api/memory/tree") == (405, {"detail": "Method Not Allowed"})
    assert ask("GET", "/api/memory/search")[0] == 422
    assert ask("GET", "/api/memory/tree?depth=x")[0] == 422


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/memory/backup"),
        ("POST", "/api/memory/restore"),
        ("GET", "/api/memory/backups"),
        ("DELETE", "/api/memory/backup/some/key"),
    ],
)
def test_s3_is_not_configured(ask, method, path):
    assert ask(method, path) == (
        200,
        {
            "success": False,
            "message": "S3 backup is not configured or enabled",
            "error": "S3 backup not available",
        },
    )


def test_names_are_taken_decoded_and_echoed(ask):
    path = "/api/memory/entry/c%23%20%3F/%C3%A4%2541"
    ask("PUT", path, json={"content": "x"})

    assert ask("GET", path)[1]["path"] == "c# ?/ä%41"


def test_health_says_when_the_store_is_gone(server, ask):
    aside = server.root.with_name("aside")
    server.root.rename(aside)
    try:
        status, body = ask("GET", "/api/health")
        listing = ask("GET", "/api/memory/tree")
    finally:
        aside.rename(server.root)

    assert (status, body["healthy"]) == (200, False)
    assert listing[0] in (500, 503) or listing[1]["success"] is False
