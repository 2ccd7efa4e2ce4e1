"""Databases as endpoints of every command; their passwords are shown nowhere."""

import os
from pathlib import Path

import pytest
from tests import postgres as real_postgres
from tests.conftest import put_entry, tree_of
from tests.processes import PROGRAM, MemoryServer

from hdev_memory.backends.postgres_url import parse

PASSWORD = real_postgres.PASSWORD
KEY = "key-of-the-databases"


@pytest.fixture(params=["sqlite", "postgres"])
def endpoint(request, monkeypatch):
    """A database that has no memory yet."""
    if request.param == "sqlite":
        return "sqlite:made/memory.db"
    return of_postgres(request.getfixturevalue("postgres"), monkeypatch)


def of_postgres(server, monkeypatch):
    monkeypatch.setenv("HDEV_MEMORY_POSTGRES_PASSWORD", PASSWORD)
    monkeypatch.setenv("PGUSER", real_postgres.USER)
    return parse(server.url(real_postgres.fresh_schema())).location


@pytest.fixture
def notes(home):
    for name in ("a", "b/c", "b/d"):
        put_entry(Path("notes"), name, f"text of {name}", {"k": 1})
    return Path("notes")


def made(hdev, *words):
    result = hdev("plan", *words)
    assert result.status == 0, result.err
    return result


def test_a_plan_is_applied_verified_and_rolled_back(hdev, notes, endpoint):
    made(hdev, f"filesystem:{notes}", endpoint, "-o", "first")
    applied = hdev("apply", "first")
    put_entry(notes, "a", "other text", {"k": 2})
    (notes / "b/d.md").unlink()
    (notes / "b/d.metadata.json").unlink()
    made(hdev, f"filesystem:{notes}", endpoint, "-o", "second", "--overwrite", "--delete")
    again = hdev("apply", "second")
    verified = hdev("verify", "second")
    undone = hdev("rollback", "second", "-o", "back")
    back = hdev("apply", "back")
    copy = made(hdev, endpoint, "filesystem:copy", "-o", "out")
    out = hdev("apply", "out")

    assert applied.out.startswith("Applied: 3 created, 0 overwritten, 0 deleted.")
    assert again.out.startswith("Applied: 0 created, 1 overwritten, 1 deleted.")
    statuses = [result.status for result in (verified, undone, back, copy, out)]
    assert statuses == [0] * 5, (verified.err, undone.err, back.err, out.err)
    assert Path("copy/a.md").read_text() == "text of a"
    assert Path("copy/b/d.md").read_text() == "text of b/d"


def test_a_plan_that_was_made_finds_what_it_shall_write_and_is_done_twice_by_nobody(
    hdev, notes, endpoint
):
    made(hdev, f"filesystem:{notes}", endpoint, "-o", "first")
    made(hdev, f"filesystem:{notes}", endpoint, "-o", "other")
    first = hdev("apply", "first")
    other = hdev("apply", "other")
    nothing = made(hdev, f"filesystem:{notes}", endpoint, "-o", "third")

    assert (first.status, other.status) == (0, 0)
    assert "Nothing to do." in nothing.out


def test_other_commands_take_it_as_well(hdev, notes, endpoint):
    migrated = hdev("migrate-memory", "--source-path", notes, "--target", endpoint)
    held = hdev("lock", "status", endpoint)

    assert "Migration completed. 3 entries were copied, 0 skipped, 0 failed." in migrated.out
    assert (held.status, held.out) == (0, "Nobody holds it.\n")


def test_a_memory_is_not_its_own_target_by_any_name(hdev, notes, endpoint, monkeypatch):
    hdev("migrate-memory", "--source-path", notes, "--target", endpoint)
    others = [endpoint]
    if endpoint.startswith("sqlite:"):
        os.link("made/memory.db", "linked.db")
        os.symlink("made", "folder")
        others += ["sqlite:linked.db", "sqlite:folder/memory.db"]
    else:
        others += [endpoint.replace("127.0.0.1", "localhost")]
    results = [hdev("plan", endpoint, other, "-o", f"p{n}") for n, other in enumerate(others)]

    assert {result.status for result in results} == {1}
    assert all("Source and target are the same memory" in result.err for result in results)


class Serving(MemoryServer):
    def __init__(self, root, storage):
        super().__init__(root, KEY)
        self._command = [*PROGRAM, "memory-server", "--port", "0", "--storage", storage]
        self._environ |= {n: os.environ[n] for n in os.environ if n.startswith(("HDEV_", "PG"))}


def test_a_memory_is_not_the_target_of_its_own_server(hdev, notes, endpoint, tmp_path):
    with Serving(tmp_path / "home", endpoint) as server:
        result = hdev("plan", endpoint, server.url, "--api-key", KEY, "-o", "p")

    assert result.status == 1
    assert "Source and target are the same memory" in result.err


def test_an_apply_to_its_server_is_in_the_log_of_the_database(hdev, notes, endpoint, tmp_path):
    with Serving(tmp_path / "home", endpoint) as server:
        made(hdev, f"filesystem:{notes}", server.url, "--api-key", KEY, "-o", "p")
        applied = hdev("apply", "p", "--api-key", KEY)
        compared = hdev("audit", "compare", "p", server.url, "--api-key", KEY)

    assert applied.status == 0, applied.err
    assert compared.status == 0, compared.out + compared.err


def test_the_password_is_nowhere_but_where_it_was_given(hdev, notes, postgres, monkeypatch):
    endpoint = of_postgres(postgres, monkeypatch)
    monkeypatch.delenv("HDEV_MEMORY_POSTGRES_PASSWORD")
    url = endpoint.replace("postgres://", f"postgres://{real_postgres.USER}:{PASSWORD}@")
    results = [
        hdev("plan", f"filesystem:{notes}", url, "-o", "p", "--json"),
        hdev("show", "p", "--target-url", url),
        hdev("apply", "p", "--target-url", url, "--json"),
        hdev("verify", "p", "--target-url", url),
        hdev("lock", "status", url),
        hdev("config", "show"),
        hdev("plan", url, url, "-o", "q"),
        hdev("plan", f"filesystem:{notes}", url.replace("postgres:", "postgrs:"), "-o", "q"),
        hdev("plan", f"filesystem:{notes}", url + "&what=x", "-o", "q"),
        hdev("plan", f"filesystem:{notes}", url.replace("127.0.0.1", "127.0.0.1:x"), "-o", "q"),
        hdev("plan", f"filesystem:{notes}", url.replace(PASSWORD, PASSWORD + "x"), "-o", "q"),
        hdev("plan", f"filesystem:{notes}", f"postgres://u:{PASSWORD}@127.0.0.1:1/d", "-o", "q"),
    ]

    statuses = [result.status for result in results]
    assert statuses == [0, 0, 0, 0, 0, 0, 1, 64, 64, 64, 9, 9]
    assert not any(PASSWORD in result.out + result.err for result in results)
    kept = {**tree_of(Path()), **tree_of(Path.home())}
    assert not [name for name, content in kept.items() if PASSWORD.encode() in content]
    warned = "a password in a URL can be seen in the list of processes"
    assert results[0].err.count(warned) == 1


def test_an_environment_may_lie_in_a_database(hdev, notes, postgres, monkeypatch):
    endpoint = of_postgres(postgres, monkeypatch)
    monkeypatch.setenv("THE_PASSWORD", PASSWORD)
    monkeypatch.delenv("HDEV_MEMORY_POSTGRES_PASSWORD")
    Path("hdev.toml").write_text(
        '[environments.local]\nendpoint = "sqlite:local.db"\n'
        f'[environments.staging]\nendpoint = "{endpoint}"\napi_key_env = "THE_PASSWORD"\n'
    )
    first = hdev("migrate-memory", "--source-path", notes, "--target", "local")
    made(hdev, "local", "staging", "-o", "p")
    applied = hdev("apply", "p")
    checked = hdev("config", "check", "--online")

    assert (first.status, applied.status, checked.status) == (0, 0, 0)
    assert '"label":"staging"' in Path("p/plan.json").read_text()
    assert PASSWORD not in Path("p/plan.json").read_text()


def test_a_password_in_a_committed_file_is_refused_and_not_shown(hdev, home):
    Path("hdev.toml").write_text(
        f'[environments.staging]\nendpoint = "postgres://u:{PASSWORD}@h/d"\n'
    )
    results = [hdev("config", "check"), hdev("config", "show"), hdev("plan", "staging", "x")]

    assert {result.status for result in results} == {1}
    assert all("must hold no password" in result.err for result in results)
    assert not any(PASSWORD in result.out + result.err for result in results)


def test_a_plan_names_no_persons_home_and_its_file_may_lie_elsewhere(hdev, notes, home):
    made(hdev, f"filesystem:{notes}", "sqlite:~/memory.db", "-o", "p")
    applied = hdev("apply", "p", "--target-path", "elsewhere.db")

    assert '"location":"~/memory.db"' in Path("p/plan.json").read_text()
    assert applied.status == 0, applied.err
    assert Path("elsewhere.db").is_file()
    assert not (home / "memory.db").exists()


@pytest.mark.parametrize(
    ("endpoint", "why"),
    [
        ("sqlite:", "There is no path behind"),
        ("sqlite", "There is no path behind"),
        ("postgres:", "There is no URL"),
        ("postgres://h:0/d", "Its host and port are none"),
        ("postgres://h/d?schema=Public", "Its schema is no plain name"),
        ("postgres://h/d?sslmode=", "has no value"),
        ("postgres://h/d?sslmode=a&sslmode=b", "a parameter twice"),
        ("postgres://h/d?passfile=x", "It has `passfile`"),
        ("postgres://h/d/e", "another form"),
        ("postgres://h/d#e", "another form"),
    ],
)
def test_what_is_no_place_of_a_database_is_a_usage_error(hdev, notes, endpoint, why):
    result = hdev("plan", f"filesystem:{notes}", endpoint)

    assert result.status == 64
    assert why in result.err
