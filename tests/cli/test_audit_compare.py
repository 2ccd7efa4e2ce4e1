"""`hdev audit compare`: a plan's log against that of a real server, and what was done to either."""

import json

import httpx
import msgspec
import pytest
from tests.conftest import put_entry
from tests.direct import DIRECT
from tests.emulation import existing_server
from tests.emulation.existing_server import ExistingServer
from tests.processes import MemoryServer

from hdev_memory.backends.base import Secret
from hdev_memory.backends.filesystem import FilesystemBackend
from hdev_memory.core import audit
from hdev_memory.server import keysfile
from hdev_memory.server.app import create_app
from hdev_memory.server.audit import AUDIT_FILE
from hdev_memory.server.run import serve_in_thread

MADE = "2020-01-01T00:00:00Z"


@pytest.fixture
def world(home, hdev, monkeypatch):
    """A plan that was applied to a server; the server is started anew after each change of it."""
    for role in ("write", "audit"):
        keysfile.add(home / "keys.json", role, (role,), f"{role}-key", MADE, None)
    monkeypatch.setenv("HDEV_MEMORY_HTTP_API_KEY", "write-key")
    put_entry(home / "store", "changed", "old", {"k": 1})
    put_entry(home / "store", "gone", "old", {"k": 1})
    for key in ("new", "changed", "same"):
        put_entry(home / "source", key, key, {"k": 1})
    return World(home, hdev)


class World:
    def __init__(self, home, hdev):
        self.home, self.hdev = home, hdev
        self.log = home / "store" / AUDIT_FILE
        self.ours = home / "p/audit.jsonl"

    def server(self):
        flags = ("--keys-file", str(self.home / "keys.json"))
        return MemoryServer(self.home / "store", None, *flags)

    def apply(self, url):
        ends = (f"filesystem:{self.home / 'source'}", url)
        planned = self.hdev("plan", *ends, "-o", self.home / "p", "--overwrite", "--delete")
        applied = self.hdev("apply", self.home / "p", "--target-url", url)
        assert (planned.status, applied.status) == (0, 0), planned.err + applied.err

    def compare(self, url, *flags):
        key = ("--api-key", "audit-key")
        return self.hdev("audit", "compare", self.home / "p", url, *key, *flags)


def lines(path):
    return path.read_bytes().splitlines(keepends=True)


def rechained(lines, change):
    """The lines with changed records, in a chain that is whole again."""
    changed = [change(json.loads(line)) for line in lines]
    records = [msgspec.convert(one, audit.Write) for one in changed if one is not None]
    made, _ = audit.chain(records, audit.EMPTY)
    return b"".join(made)


def test_an_apply_and_its_server_tell_the_same(world):
    with world.server() as server:
        world.apply(server.url)
        compared = world.compare(server.url)
        told = world.compare(server.url, "--json")
    records = [json.loads(line) for line in lines(world.log)]

    assert (compared.status, told.status) == (0, 0), compared.err
    assert "Compared: 4 writes agree, 0 settled by the server, 0 disagree." in compared.out
    assert (told.json["agree"], told.json["disagree"], told.json["later"]) == (4, 0, 0)
    assert {record["by"] for record in records} == {"write"}
    assert {record["plan"] for record in records} == {told.json["plan_id"]}


def test_whoever_wrote_later_is_named_and_it_is_no_disagreement(world):
    with world.server() as server:
        world.apply(server.url)
        httpx.put(
            f"{server.url}/api/memory/entry/changed",
            json={"content": "later"},
            headers={"Authorization": "Bearer write-key"},
            **DIRECT,
            timeout=30,
        )
        told = world.compare(server.url, "--json")

    assert told.status == 0
    assert [(line["key"], line["by"]) for line in told.lines("later")] == [("changed", "write")]


def test_a_write_that_the_plans_log_has_lost_is_found(world):
    with world.server() as server:
        world.apply(server.url)
        cut = [line for line in lines(world.ours) if b'"event":"planned"' in line]
        world.ours.write_bytes(b"".join(cut))
        told = world.compare(server.url, "--json")

    assert told.status == 8
    assert {line["kind"] for line in told.lines("disagreement")} == {"missing here"}
    assert len(told.lines("disagreement")) == 4


def without_the_last(record):
    return record if record["seq"] < 4 else None


def with_another_digest(record):
    if record["key"] == "new":
        record["after"]["content"] = "0" * 64
    return record


@pytest.mark.parametrize(
    ("change", "kind"), [(without_the_last, "missing there"), (with_another_digest, "differs")]
)
def test_a_server_log_that_was_rewritten_is_found(world, change, kind):
    with world.server() as server:
        world.apply(server.url)
    world.log.write_bytes(rechained(lines(world.log), change))
    with world.server() as server:
        told = world.compare(server.url, "--json")

    assert told.status == 8
    assert [line["kind"] for line in told.lines("disagreement")] == [kind]


def test_a_server_log_that_was_cut_is_found_by_the_head_that_was_noted(world):
    with world.server() as server:
        world.apply(server.url)
        head = world.compare(server.url, "--json").json["server_head"]
        noted = world.compare(server.url, "--server-head", head)
    world.log.write_bytes(b"".join(lines(world.log)[:-1]))
    with world.server() as server:
        cut = world.compare(server.url, "--server-head", head)

    assert (noted.status, cut.status) == (0, 8)
    assert "does not lead to the head that was noted" in cut.err


@pytest.mark.parametrize("place", ["log", "ours"])
def test_a_log_that_was_edited_while_the_server_runs_is_tampered_with(world, place):
    with world.server() as server:
        world.apply(server.url)
        path = getattr(world, place)
        path.write_bytes(path.read_bytes().replace(b'"key":"new"', b'"key":"nex"', 1))
        compared = world.compare(server.url)

    assert compared.status == 8
    assert "was edited or spliced" in compared.err


def test_a_plan_that_nobody_applied_is_vouched_for_by_nobody(world):
    with world.server() as server:
        ends = (f"filesystem:{world.home / 'source'}", server.url)
        world.hdev("plan", *ends, "-o", world.home / "p")
        compared = world.compare(server.url)

    assert compared.status == 10
    assert "neither holds a write of this plan" in compared.err


def test_a_key_without_the_role_is_refused_in_words(world):
    with world.server() as server:
        world.apply(server.url)
        compared = world.hdev("audit", "compare", world.home / "p", server.url)

    assert compared.status == 9
    assert "--role audit" in compared.err


def test_another_server_is_another_target(world, tmp_path):
    with world.server() as server:
        world.apply(server.url)
    with MemoryServer(tmp_path / "another", "audit-key") as other:
        compared = world.compare(other.url)

    assert compared.status == 8
    assert "The plan was made for another target" in compared.err


def test_a_server_without_a_log_and_a_folder_are_told_in_words(world, tmp_path):
    with world.server() as server:
        world.apply(server.url)
    with ExistingServer(tmp_path / "existing", "audit-key") as existing:
        without = world.compare(existing.url)
    folder = world.compare("filesystem:store")
    nowhere = world.compare("http://127.0.0.1:9")

    assert (without.status, folder.status, nowhere.status) == (9, 64, 9)
    assert "keeps no audit log" in without.err


def listening(app, heard):
    """The app, and in `heard` the names of the headers that it was sent."""

    async def heard_app(scope, receive, send):
        heard.extend(name for name, _ in scope.get("headers", ()))
        await app(scope, receive, send)

    return heard_app


@pytest.mark.parametrize("which", ["ours", "theirs"])
def test_only_our_server_is_told_of_the_plan(world, tmp_path, which):
    heard = []
    (tmp_path / "served").mkdir()
    if which == "ours":
        store = FilesystemBackend(str(tmp_path / "served"), must_exist=True)
        app = create_app(store, store_id="heard", api_key=Secret("write-key"))
    else:
        app = existing_server.create_app(tmp_path / "served", "write-key", existing_server.Faults())
    with serve_in_thread(listening(app, heard)) as url:
        world.apply(url)

    assert (b"hdev-plan" in heard, b"hdev-run" in heard) == ((which == "ours"),) * 2
