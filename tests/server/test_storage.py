"""What a server keeps its memory in: folders and databases, and several servers on one database."""

import contextlib
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import httpx
import pytest
from tests import postgres as real_postgres
from tests.backends.databases import KINDS, NORMAL, made, put
from tests.direct import DIRECT
from tests.processes import PROGRAM, MemoryServer

from hdev_memory.backends.base import Secret, Where
from hdev_memory.backends.postgres_url import parse
from hdev_memory.config import storage_of
from hdev_memory.core import audit
from hdev_memory.core.entry import tag_of
from hdev_memory.errors import AuditError, UsageError
from hdev_memory.server.app import create_app
from hdev_memory.server.limits import DEFAULT
from hdev_memory.server.run import serve_in_thread
from hdev_memory.server.storage import opened, shareable

KEY = "key-of-the-storage"
ENTRY, LOCK = "/api/memory/entry/", "/api/locks/target"
WRITERS = 32


def storage(where, **more):
    return opened(
        where,
        log_file=None,
        clock=time.monotonic,
        now=lambda: datetime.now(UTC),
        warn=lambda text: pytest.fail(text),
        **more,
    )


@contextlib.contextmanager
def serving(where):
    """One server of a memory, and a client of it."""
    with storage(where) as kept:
        app = create_app(
            kept.backend,
            store_id=kept.store_id,
            api_key=Secret(KEY),
            journal=kept.journal,
            log=kept.log,
            lock=kept.lock,
        )
        with serve_in_thread(app) as url, asking(url) as client:
            yield client


def asking(url):
    return httpx.Client(
        base_url=url, headers={"Authorization": f"Bearer {KEY}"}, **DIRECT, timeout=60
    )


@pytest.fixture(params=KINDS)
def database(request, tmp_path):
    return made(request.param, tmp_path, lambda: request.getfixturevalue("postgres"))


@pytest.fixture
def pair(database):
    """Two servers of one database."""
    with serving(database.where) as one, serving(database.where) as other:
        yield one, other


def records(client):
    """The whole log, page by page, checked as a chain; and the head that the server tells."""
    found, head = [], audit.EMPTY
    while True:
        page = client.get("/api/audit", params={"after": head.seq, "limit": DEFAULT.page_records})
        lines = [
            json.dumps(r, separators=(",", ":")).encode() + b"\n" for r in page.json()["records"]
        ]
        if not lines:
            return found, head, page.json()["head"]
        for record, behind in audit.chained(iter(lines), audit.Write, head):
            found.append(record)
            head = behind


def test_both_servers_tell_the_same_store_and_see_each_others_writes(pair):
    one, other = pair
    one.put(f"{ENTRY}a/b", json={"content": "text", "metadata": {"k": 1}})

    stores = [client.get("/api/health").json()["details"]["store"] for client in pair]
    assert stores[0] == stores[1]
    assert other.get(f"{ENTRY}a/b").json()["content"] == "text"


def test_of_clients_of_two_servers_with_one_tag_exactly_one_wins(pair):
    for server in pair:
        server.headers["Hdev-Metadata"] = "replace"
    pair[0].put(f"{ENTRY}a", json={"content": "same", "metadata": {"version": 0}})
    tag = pair[0].get(f"{ENTRY}a").headers["etag"]
    start = threading.Barrier(WRITERS)

    def contend(number):
        start.wait()
        body = {"content": "same", "metadata": {"version": number + 1}}
        headers = {"If-Match": tag}
        return pair[number % 2].put(f"{ENTRY}a", json=body, headers=headers).status_code

    with ThreadPoolExecutor(WRITERS) as threads:
        found = list(threads.map(contend, range(WRITERS)))

    assert sorted(found) == [200] + [412] * (WRITERS - 1)
    winner = found.index(200)
    assert pair[1].get(f"{ENTRY}a").json()["metadata"] == {"version": winner + 1}
    log, head, told = records(pair[0])
    assert [record.key for record in log] == ["a", "a"]
    assert str(head) == told


def test_the_log_of_two_servers_is_one_chain_with_every_write_in_it_once(pair):
    def write(number):
        return pair[number % 2].put(f"{ENTRY}k{number}", json={"content": "x"}).status_code

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(write, range(60))) == {200}

    log, head, told = records(pair[1])
    assert sorted(record.key for record in log) == sorted(f"k{number}" for number in range(60))
    assert str(head) == told == pair[0].get("/api/audit").json()["head"]


def test_a_lock_taken_at_one_server_is_held_at_the_other(pair):
    one, other = pair
    fence = one.put(LOCK, json={"holder": "the first", "ttl": 60}).json()["fence"]
    refused = other.put(LOCK, json={"holder": "the second", "ttl": 60})

    assert refused.status_code == 409
    assert refused.json()["holder"] == "the first"
    assert other.get(LOCK).json()["fence"] == fence
    assert other.delete(LOCK, headers={"Hdev-Fence": str(fence)}).json() == {"released": True}
    assert one.get(LOCK).json() == {"held": False, "fence": fence}


def test_a_fence_that_another_server_overtook_is_refused_and_the_rest_is_written(pair):
    one, other = pair
    fence = one.put(LOCK, json={"holder": "the first", "ttl": 60}).json()["fence"]
    headers = {"Hdev-Fence": str(fence)}
    before = one.put(f"{ENTRY}a", json={"content": "x"}, headers=headers)
    assert other.delete(LOCK, params={"force": "true"}).json() == {"released": True}
    refused = one.put(f"{ENTRY}b", json={"content": "x"}, headers=headers)
    unfenced = one.put(f"{ENTRY}c", json={"content": "x"})

    assert (before.status_code, refused.status_code, unfenced.status_code) == (200, 409, 200)
    assert refused.json()["fence"] > fence
    assert sorted(one.get("/api/memory/tree").json()["items"]) == ["a", "c"]


def test_an_entry_whose_record_cannot_be_written_is_not_written_either(database):
    with serving(database.where) as client, database.by_hand() as run:
        client.put(f"{ENTRY}a", json={"content": "x"})
        run("ALTER TABLE log RENAME TO away")
        refused = client.put(f"{ENTRY}b", json={"content": "x"})
        run("ALTER TABLE away RENAME TO log")
        after = client.put(f"{ENTRY}c", json={"content": "x"})

        assert refused.status_code == 500
        assert after.status_code == 200
        assert sorted(client.get("/api/memory/tree").json()["items"]) == ["a", "c"]
        assert [record.key for record in records(client)[0]] == ["a", "c"]


DAMAGED = {
    "cut": ("DELETE FROM log WHERE seq = 3", "Records were cut off the end"),
    "emptied": ("DELETE FROM log", "Records were cut off the end"),
    "gap": ("DELETE FROM log WHERE seq = 2", "Records were cut out"),
    "edited": ("UPDATE log SET line = '{}' WHERE seq = 2", "edited or damaged"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_log_keeps_the_server_from_starting(database, name):
    statement, what = DAMAGED[name]
    if database.url is None:
        statement = statement.replace("'{}'", "x'7b7d'")
    with serving(database.where) as client:
        for number in range(3):
            client.put(f"{ENTRY}k{number}", json={"content": "x"})
    with database.by_hand() as run:
        run(statement)

    with pytest.raises(AuditError, match=what), storage(database.where):
        pass


def test_the_entries_and_the_log_are_there_after_a_restart(database):
    with serving(database.where) as client:
        client.put(f"{ENTRY}a", json={"content": "x"})
        store = client.get("/api/health").json()["details"]["store"]
    with serving(database.where) as client:
        client.put(f"{ENTRY}b", json={"content": "x"})
        again = client.get("/api/health").json()["details"]["store"]

        assert again == store
        assert [record.key for record in records(client)[0]] == ["a", "b"]


def test_a_store_can_be_shared_where_a_database_keeps_it(tmp_path):
    kinds = {kind: shareable(Where(kind, "x")) for kind in ("filesystem", "ephemeral", *KINDS)}

    assert kinds == {"filesystem": False, "ephemeral": False, "sqlite": True, "postgres": True}


PLACES = {
    "folder": ("store", ("filesystem", "/w/store")),
    "filesystem:store": ("filesystem:store", ("filesystem", "/w/store")),
    "home": ("~/store", ("filesystem", "/h/store")),
    "sqlite": ("sqlite:~/m.db", ("sqlite", "/h/m.db")),
    "postgres": ("postgresql://u@h/d?schema=s", ("postgres", "postgres://h/d?schema=s")),
    "ephemeral": ("ephemeral", ("ephemeral", "memory")),
}


@pytest.mark.parametrize("name", PLACES)
def test_the_storage_is_read_as_an_endpoint_or_as_a_folder(name, tmp_path):
    text, wanted = PLACES[name]
    cwd, home = (tmp_path.with_name(part) for part in ("w", "h"))
    where, warnings = storage_of(text, {}, cwd, home)

    location = where.location.replace(str(cwd), "/w").replace(str(home), "/h")
    assert (where.kind, location) == wanted
    assert warnings == ()


def test_a_server_is_no_storage_of_a_server(tmp_path):
    with pytest.raises(UsageError, match="does not serve another server"):
        storage_of("https://host", {}, tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--storage", "sqlite:a.db", "--storage-path", "x"], "Both --storage and --storage-path"),
        (["--storage", "sqlite:a.db", "--backend", "ephemeral"], "Both --storage and --backend"),
        (["--storage", "sqlite:a.db", "--audit-log", "log"], "keeps the log beside the entries"),
        (["--storage", "sqlite:"], "There is no path behind"),
        (["--storage", "postgres://h/d?password=x"], "It has `password`"),
    ],
)
def test_flags_that_contradict_are_a_usage_error(hdev, flags, why):
    result = hdev("memory-server", *flags)

    assert result.status == 64
    assert why in result.err


def test_the_program_serves_an_sqlite_file_and_two_of_it_do(tmp_path):
    flags = ["--storage", f"sqlite:{tmp_path / 'made' / 'memory.db'}"]
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(Sharing(tmp_path / "home", KEY, *flags)) for _ in range(2)]
        one, other = (stack.enter_context(asking(server.url)) for server in servers)
        one.put(f"{ENTRY}a", json={"content": "x"})

        assert other.get(f"{ENTRY}a").json()["content"] == "x"


class Sharing(MemoryServer):
    """A server whose storage is in its flags."""

    def __init__(self, root, api_key, *flags):
        super().__init__(root, api_key)
        self._command = [*PROGRAM, "memory-server", "--port", "0", *flags]


def test_a_database_that_goes_away_is_503_and_is_served_again_when_it_is_back():
    with real_postgres.own() as server:
        url = parse(server.url("served"))
        where = Where("postgres", url.location, url.password, url.user, timeout=5)
        with serving(where) as client:
            client.put(f"{ENTRY}a", json={"content": "x"})
            server.kill()
            health = client.get("/api/health")
            gone = [
                client.get(f"{ENTRY}a"),
                client.get("/api/memory/tree"),
                client.get("/api/audit"),
                client.put(f"{ENTRY}b", json={"content": "x"}),
                client.delete(f"{ENTRY}a"),
                client.put(LOCK, json={"holder": "x", "ttl": 60}),
            ]
            server.start_again()
            back = client.put(f"{ENTRY}c", json={"content": "x"})

            assert health.json()["healthy"] is False
            assert {answer.status_code for answer in gone} == {503}
            assert all(int(answer.headers["retry-after"]) > 0 for answer in gone)
            assert back.status_code == 200
            assert client.get("/api/health").json()["healthy"] is True
            assert sorted(client.get("/api/memory/tree").json()["items"]) == ["a", "c"]
            assert [record.key for record in records(client)[0]] == ["a", "c"]
            told = "".join(answer.text for answer in (health, *gone))
            assert real_postgres.PASSWORD not in told
            assert str(server.port) not in told


def test_a_direct_apply_and_a_server_keep_each_other_out(database):
    with serving(database.where) as client:
        client.put(f"{ENTRY}a", json={"content": "x"})
        with database.opened() as direct, direct.hold("an apply"):
            direct.write([put("b")], NORMAL)
            refused = client.put(LOCK, json={"holder": "x", "ttl": 60})

        assert refused.json()["holder"] == "an apply"
        assert client.get(f"{ENTRY}b").headers["etag"] == f'"{tag_of(b"x", {})}"'
