"""Named keys with roles: who may do what, taken up without a restart, and slow to be guessed."""

import os
import signal
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from starlette.exceptions import HTTPException
from tests.conftest import tree_of
from tests.direct import DIRECT
from tests.processes import MemoryServer

from hdev_memory.backends.base import Secret, Where
from hdev_memory.backends.http import HttpBackend
from hdev_memory.errors import BackendError, ConfigError
from hdev_memory.server import keysfile
from hdev_memory.server.access import Access
from hdev_memory.server.attempts import Attempts
from hdev_memory.server.limits import DEFAULT, Limits

ENTRY = "/api/memory/entry/"
LOCK = "/api/locks/target"
OWNER, READER = "key-of-the-owner", "key-of-the-reader"
PAST, LONG_AGO = "2020-02-02T00:00:00Z", "2020-01-01T00:00:00Z"


def fill(path):
    """A keys file with one key of each sort; the text of each is its name."""
    keysfile.add(path, "reads", ("read",), "reads", LONG_AGO, None)
    keysfile.add(path, "writes", ("write",), "writes", LONG_AGO, None)
    keysfile.add(path, "audits", ("audit",), "audits", LONG_AGO, None)
    keysfile.add(path, "all", ("read", "write", "audit"), "all", LONG_AGO, None)
    keysfile.add(path, "expired", ("read", "write", "audit"), "expired", LONG_AGO, PAST)
    keysfile.add(path, "revoked", ("read", "write", "audit"), "revoked", LONG_AGO, None)
    keysfile.revoke(path, "revoked", PAST)


def keyed(place):
    fill(place / "keys.json")
    flags = ("--keys-file", str(place / "keys.json"), "--read-only-api-key", READER)
    return MemoryServer(place / "store", OWNER, *flags)


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    with keyed(tmp_path_factory.mktemp("keys")) as running:
        yield running


def ask(url, method, path, key=None, **more):
    headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
    with httpx.Client(base_url=url, **DIRECT, timeout=30) as client:
        return client.request(method, path, headers=headers, **more)


READS = [
    ("GET", "/api/memory/tree"),
    ("GET", "/api/memory/search?q=x"),
    ("GET", f"{ENTRY}a"),
    ("GET", LOCK),
    ("GET", "/api/memory/backups"),
]
WRITES = [
    ("PUT", f"{ENTRY}a"),
    ("DELETE", f"{ENTRY}a"),
    ("PUT", LOCK),
    ("DELETE", f"{LOCK}?force=true"),
    ("POST", "/api/memory/backup"),
    ("POST", "/api/memory/restore"),
    ("DELETE", "/api/memory/backup/x"),
]
AUDITS = [("GET", "/api/audit")]
OPEN = [("GET", "/api/health"), ("GET", "/openapi.json")]
BODIES = {
    f"{ENTRY}a": {"content": "x"},
    LOCK: {"holder": "somebody", "ttl": 5},
}
MAY = {
    None: (401, 401, 401),
    "wrong": (401, 401, 401),
    "expired": (401, 401, 401),
    "revoked": (401, 401, 401),
    "reads": (200, 403, 403),
    "writes": (200, 200, 403),
    "audits": (403, 403, 200),
    "all": (200, 200, 200),
    OWNER: (200, 200, 200),
    READER: (200, 403, 403),
}
"""Key -> the status of its reads, its writes, and its look at the audit log."""


GOOD = [key for key, statuses in MAY.items() if 401 not in statuses]
BAD = [key for key in MAY if key not in GOOD]


@pytest.mark.parametrize("key", GOOD)
def test_each_role_may_do_what_it_says_and_nothing_else(process, key):
    check(process, key)


@pytest.mark.parametrize("key", BAD)
def test_without_a_good_key_nothing_may_be_done(tmp_path, key):
    """On a server of its own, because too many wrong keys make others wait."""
    with keyed(tmp_path) as server:
        check(server, key)


def check(server, key):
    reads, writes, audits = MAY[key]
    before = tree_of(server.root)
    found = {
        (method, path): ask(
            server.url, method, path, key, json=BODIES.get(path) if method == "PUT" else None
        ).status_code
        for method, path in READS + WRITES + AUDITS + OPEN
    }

    if writes != 200:
        assert tree_of(server.root) == before
    wanted = {
        **dict.fromkeys(READS, reads),
        **dict.fromkeys(WRITES, writes),
        **dict.fromkeys(AUDITS, audits),
    }
    # Of so many wrong keys the last ones may be too many: see below.
    found = {place: 401 if status == 429 else status for place, status in found.items()}
    assert found == {**wanted, **dict.fromkeys(OPEN, 200)}


def test_a_key_is_good_and_useless_without_a_restart(tmp_path):
    path = tmp_path / "keys.json"
    with keyed(tmp_path) as server:
        keysfile.add(path, "late", ("read",), "late", LONG_AGO, None)
        server.process.send_signal(signal.SIGHUP)
        made = until(lambda: ask(server.url, "GET", "/api/memory/tree", "late").status_code, 200)
        keysfile.revoke(path, "late", PAST)
        gone = until(lambda: ask(server.url, "GET", "/api/memory/tree", "late").status_code, 401)

    assert (made, gone) == (200, 401)
    assert server.process.returncode == 0


def until(look, wanted, tries=2000):
    for _ in range(tries):
        if (found := look()) == wanted:
            return found
    return found


def test_whoever_has_to_wait_is_told_so_by_the_client(tmp_path):
    with keyed(tmp_path) as server:
        for number in range(DEFAULT.wrong_keys):
            ask(server.url, "GET", "/api/memory/tree", f"guess {number}")
        with pytest.raises(BackendError) as refused:
            HttpBackend(Where("http", server.url, Secret("reads"), handshake=50.0, timeout=50.0))

    assert refused.value.what == "The memory server asks to come later."


# In this process, with clocks of our own


class World:
    """A keys file, a clock and a calendar, and who may do what by them."""

    def __init__(self, place):
        self.path = place / "keys.json"
        self.seconds = 0.0
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def access(self, api_key=None):
        secret = Secret(api_key) if api_key is not None else None
        return Access(secret, None, self.path, lambda: self.seconds, lambda: self.now)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def name(access, key, address="192.0.2.1"):
    """The name of the client, or the status of its refusal."""
    try:
        return access.client(f"Bearer {key}" if key is not None else None, address).name
    except HTTPException as error:
        return error.status_code


def test_a_changed_file_is_taken_up_after_a_second_and_not_before(world):
    fill(world.path)
    access = world.access()
    keysfile.add(world.path, "late", ("read",), "late", LONG_AGO, None)
    world.seconds = 0.9
    early = name(access, "late")
    world.seconds = 1.0

    assert (early, name(access, "late")) == (401, "late")


def test_being_told_to_look_again_takes_no_second(world):
    fill(world.path)
    access = world.access()
    keysfile.revoke(world.path, "reads", PAST)
    before = name(access, "reads")
    access.look_again()

    assert (before, name(access, "reads")) == ("reads", 401)


def test_a_key_expires_while_the_server_runs(world):
    keysfile.add(world.path, "soon", ("read",), "soon", LONG_AGO, "2026-01-01T00:00:10Z")
    access = world.access()
    before = name(access, "soon")
    world.now += timedelta(seconds=10)

    assert (before, name(access, "soon")) == ("soon", 401)


def broken(path):
    path.write_text("{")


def of_another_format(path):
    path.write_text('{"format":"hdev-server-keys/2","keys":[]}')


def with_more_than_it_may_hold(path):
    path.write_text('{"format":"hdev-server-keys/1","keys":[],"later":1}')


def the_same_name_twice(path):
    one, two = (
        f'{{"name":"a","roles":["read"],"digest":"{digit * 64}","created":"{LONG_AGO}"}}'
        for digit in "ab"
    )
    path.write_text(f'{{"format":"hdev-server-keys/1","keys":[{one},{two}]}}')


def without_a_role(path):
    key = f'{{"name":"a","roles":[],"digest":"{"a" * 64}","created":"{LONG_AGO}"}}'
    path.write_text(f'{{"format":"hdev-server-keys/1","keys":[{key}]}}')


def linked(path):
    path.rename(path.with_name("real"))
    path.symlink_to("real")


def writable_by_others(path):
    path.chmod(0o620)


def of_another_user(path):
    os.chown(path, 12345, -1)


def a_folder(path):
    path.unlink()
    path.mkdir()


def gone(path):
    path.unlink()


DAMAGES = [
    broken,
    of_another_format,
    with_more_than_it_may_hold,
    the_same_name_twice,
    without_a_role,
    linked,
    writable_by_others,
    a_folder,
    *([of_another_user] if os.geteuid() == 0 else []),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_cannot_be_used_is_refused_at_the_start(world, damage):
    fill(world.path)
    damage(world.path)

    with pytest.raises(ConfigError):
        world.access()


@pytest.mark.parametrize("damage", [*DAMAGES, gone])
def test_a_file_that_breaks_later_changes_nothing_and_is_said(world, damage, caplog):
    fill(world.path)
    access = world.access()
    damage(world.path)
    world.seconds = 2.0
    found = [name(access, key) for key in ("reads", "all", "wrong", None)]

    assert found == ["reads", "all", 401, 401]
    assert "The keys of before stay in force" in caplog.text.replace("the keys", "The keys")


def test_a_file_that_is_put_right_again_is_taken_up(world):
    fill(world.path)
    access = world.access()
    good = world.path.read_bytes()
    broken(world.path)
    world.seconds = 2.0
    name(access, "reads")
    world.path.write_bytes(good)
    keysfile.revoke(world.path, "reads", PAST)
    world.seconds = 4.0

    assert name(access, "reads") == 401


@pytest.mark.parametrize("damage", [lambda path: None, broken])
def test_an_open_server_is_shut_by_a_file_and_never_opened_again(world, damage):
    access = world.access()
    before = name(access, None)
    fill(world.path)
    damage(world.path)
    world.seconds = 2.0
    shut = name(access, None)
    world.path.unlink()
    world.seconds = 4.0

    assert (before, shut, name(access, None)) == ("anonymous", 401, 401)


def test_a_file_in_which_every_key_is_revoked_lets_nobody_in(world):
    keysfile.add(world.path, "a", ("write",), "a", LONG_AGO, None)
    keysfile.revoke(world.path, "a", PAST)
    access = world.access()

    assert (name(access, None), name(access, "a")) == (401, 401)


def test_after_many_wrong_keys_a_right_one_that_was_not_seen_there_has_to_wait_too(world):
    fill(world.path)
    access = world.access()
    wrong = [name(access, f"guess {number}") for number in range(DEFAULT.wrong_keys + 2)]
    guessed = name(access, "reads")
    elsewhere = name(access, "reads", "192.0.2.2")
    world.seconds = DEFAULT.wrong_key_seconds

    assert wrong == [401] * DEFAULT.wrong_keys + [429] * 2
    assert (guessed, elsewhere, name(access, "reads")) == (429, "reads", "reads")


def test_whoever_was_good_at_an_address_works_on_beside_one_who_guesses(world):
    fill(world.path)
    access = world.access()
    name(access, "writes")
    for number in range(DEFAULT.wrong_keys):
        name(access, f"guess {number}")

    assert (name(access, "writes"), name(access, "reads"), name(access, "x")) == (
        "writes",
        429,
        429,
    )


def test_a_refusal_says_how_long_it_lasts(world):
    fill(world.path)
    access = world.access()
    for _ in range(DEFAULT.wrong_keys):
        name(access, "x")
    world.seconds = DEFAULT.wrong_key_seconds - 2
    with pytest.raises(HTTPException) as refused:
        access.client("Bearer x", "192.0.2.1")

    assert (refused.value.status_code, refused.value.headers) == (429, {"Retry-After": "2"})


def test_a_request_without_a_key_is_no_attempt(world):
    fill(world.path)
    access = world.access()

    assert [name(access, None) for _ in range(3 * DEFAULT.wrong_keys)] == [
        401
    ] * 3 * DEFAULT.wrong_keys


def test_what_is_remembered_of_addresses_is_bounded():
    attempts = Attempts(lambda: 0.0)
    for number in range(DEFAULT.addresses + 500):
        attempts.failed(f"address {number}")

    assert len(attempts._addresses) == DEFAULT.addresses


def test_so_many_good_keys_of_one_address_are_remembered_and_the_oldest_is_forgotten():
    attempts = Attempts(lambda: 0.0, Limits(proven_keys=3))
    for name in ("a", "b", "c"):
        attempts.succeeded("192.0.2.1", name)
    assert attempts.proven("192.0.2.1", "a")
    attempts.succeeded("192.0.2.1", "d")

    assert [attempts.proven("192.0.2.1", name) for name in "abcd"] == [False, True, True, True]


def test_the_addresses_of_one_network_of_ipv6_are_one():
    attempts = Attempts(lambda: 0.0)
    for number in range(DEFAULT.wrong_keys):
        attempts.failed(f"2001:db8::{number:x}")

    assert attempts.wait("2001:db8::ffff") > 0
    assert attempts.wait("2001:db8:0:1::1") == 0


# The commands


def test_a_key_is_shown_once_and_kept_as_a_digest(hdev, home):
    made = hdev("memory-server", "keys", "add", "ann", "--role", "write", "--expires", "90d")
    listed = hdev("memory-server", "keys", "list")
    text = (home / ".hdev/server-keys.json").read_text()
    key = made.out.strip()

    assert (made.status, listed.status) == (0, 0)
    assert key.startswith("hdev_")
    assert len(key) > 40
    assert key not in made.err + listed.out + text
    assert listed.out.startswith("ann  write  ")
    assert (home / ".hdev/server-keys.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "words",
    [
        ("add", "ann", "--role", "read"),  # a name is never given again
        ("add", "Ann", "--role", "read"),
        ("add", "default", "--role", "read"),
        ("add", "bob", "--role", "admin"),
        ("add", "bob"),
        ("add", "bob", "--role", "read", "--expires", "soon"),
        ("revoke", "bob"),
    ],
)
def test_what_cannot_be_done_changes_nothing(hdev, home, words):
    hdev("memory-server", "keys", "add", "ann", "--role", "write")
    hdev("memory-server", "keys", "revoke", "ann")
    before = tree_of(home)
    result = hdev("memory-server", "keys", *words)

    assert result.status == 64
    assert "Next: " in result.err
    assert tree_of(home) == before


def test_a_revoked_key_stays_in_the_list(hdev, home):
    hdev("memory-server", "keys", "add", "ann", "--role", "write", "--role", "audit")
    first = hdev("memory-server", "keys", "revoke", "ann")
    again = hdev("memory-server", "keys", "revoke", "ann")
    (found,) = [hdev("memory-server", "keys", "list", "--json").json]

    assert (first.out, again.out) == ("Revoked ann.\n", "ann was revoked before.\n")
    assert found["roles"] == ["write", "audit"]
    assert found["revoked"]


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--keys-file", "missing.json"), "There is no such file of keys"),
        (("--keys-file", "store/keys.json"), "There is no such file of keys"),
        (("--audit-log", "store/notes.md"), "inside the memory that is served"),
        (("--port", "0", "keys", "list"), "say nothing to this command"),
    ],
)
def test_flags_that_cannot_be_meant_start_no_server(hdev, home, flags, text):
    result = hdev("memory-server", "--storage-path", "store", *flags)

    assert result.status == 64
    assert text in result.err


def test_keys_inside_the_memory_are_refused(hdev, home):
    hdev("memory-server", "keys", "add", "a", "--role", "read", "--keys-file", "store/keys.json")
    result = hdev("memory-server", "--storage-path", "store", "--keys-file", "store/keys.json")

    assert result.status == 64
    assert "inside the memory that is served" in result.err
