"""A memory in PostgreSQL: who may do what, and what is known of a batch when the server dies."""

import contextlib
import os
import sys
import threading
import traceback

import pytest
from tests import postgres as real_postgres
from tests.backends.contract import statements_of
from tests.backends.databases import NORMAL, Database, put, remove, state

from hdev_memory.backends import open_backend
from hdev_memory.backends.base import PERMISSION_DENIED, Drifted, Failed, Secret, Stored, Where
from hdev_memory.backends.postgres_url import parse
from hdev_memory.core.entry import Absent
from hdev_memory.errors import BackendError, KeyRefusedError, StoreError, UsageError

psycopg = pytest.importorskip("psycopg")

PASSWORD = real_postgres.PASSWORD


def memory(server, schema="", **more):
    url = parse(server.url(schema or real_postgres.fresh_schema()))
    return Database(Where("postgres", url.location, url.password, url.user, **more), url)


@pytest.fixture
def database(postgres):
    return memory(postgres)


@pytest.fixture
def role(postgres, database):
    """A user of its own, and statements of its owner about it."""
    name = f"r_{os.urandom(6).hex()}"
    with database.opened() as backend:
        backend.write([put("a")], NORMAL)
    with database.by_hand() as run:
        run(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
        where = Where("postgres", database.url.location, database.url.password, name)
        yield name, Database(where, database.url), run
        run(f"DROP OWNED BY {name}")
        run(f"DROP ROLE {name}")


def test_without_the_package_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "hdev_memory.backends.postgres", raising=False)

    with pytest.raises(UsageError) as refused:
        open_backend(Where("postgres", "postgres://h/d"), must_exist=True)
    assert refused.value.hint == "Run pip install 'hdev-memory[postgres]'."


def told(error):
    return "".join(traceback.format_exception(error)) + repr(error) + error.why + error.hint


@pytest.mark.parametrize("wrong", ["not-the-password-at-all", ""])
def test_a_refused_password_is_a_refused_key_and_is_shown_nowhere(postgres, wrong):
    url = parse(postgres.url())
    where = Where("postgres", url.location, Secret(wrong) if wrong else None, url.user)
    with pytest.raises(KeyRefusedError) as refused:
        open_backend(where, must_exist=False)

    assert "not-the-password-at-all" not in told(refused.value)


def test_a_server_that_is_not_there_is_out_of_reach():
    where = Where("postgres", "postgres://127.0.0.1:1/d", Secret(PASSWORD), "u")
    with pytest.raises(BackendError, match=r"cannot be reached.*refused") as refused:
        open_backend(where, must_exist=False)

    assert PASSWORD not in told(refused.value)


def arguments(location):
    from hdev_memory.backends.postgres import _arguments

    return _arguments(parse(location), "u", Secret(PASSWORD))


@pytest.mark.parametrize(
    ("location", "refused"),
    [
        ("postgres://h/d", True),
        ("postgres://h/d?sslmode=prefer", True),
        ("postgres://h/d?sslmode=verify-full", False),
        ("postgres://localhost/d", False),
    ],
)
def test_the_password_is_not_given_in_the_clear_to_another_machine(location, refused, monkeypatch):
    monkeypatch.delenv("PGSSLMODE", raising=False)

    assert (arguments(location).get("require_auth") == "!password") is refused


def test_a_database_that_cannot_hold_every_key_is_refused(postgres, database):
    name = f"d_{os.urandom(6).hex()}"
    with database.by_hand() as run:
        run(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' TEMPLATE template0")
        try:
            location = database.url.location.replace("/postgres?", f"/{name}?")
            where = Where("postgres", location, database.url.password, database.url.user)
            with pytest.raises(StoreError, match=r"encoding of .* is SQL_ASCII"):
                open_backend(where, must_exist=False)
        finally:
            run(f"DROP DATABASE {name} WITH (FORCE)")


def test_tables_of_another_program_are_refused(database):
    with database.by_hand() as run:
        run(f"CREATE SCHEMA {database.url.schema}")
        run("CREATE TABLE store (theirs integer)")

        with pytest.raises(StoreError, match="belongs to another program"):
            database.opened()
        run(f"DROP SCHEMA {database.url.schema} CASCADE")


def test_a_user_who_may_only_read_reads_and_is_told_so_at_each_write(role):
    name, database, run = role
    run(f"GRANT USAGE ON SCHEMA {database.url.schema} TO {name}")
    run(f"GRANT SELECT ON ALL TABLES IN SCHEMA {database.url.schema} TO {name}")
    with database.opened(must_exist=True) as backend, backend.hold("reader"):
        receipts = backend.write([put("b"), remove("a", state())], NORMAL)

        denied = [Failed(key=key, reason=PERMISSION_DENIED, intact=True) for key in ("b", "a")]
        assert receipts == denied
        assert list(backend.keys()) == ["a"]


def test_a_user_who_may_not_even_read_is_told_so(role):
    _, database, _ = role
    with pytest.raises(StoreError, match="may not be read by this user"):
        database.opened(must_exist=True)


def test_a_database_that_takes_no_writes_says_so_at_each(role):
    name, database, run = role
    run(f"GRANT ALL ON SCHEMA {database.url.schema} TO {name}")
    run(f"GRANT ALL ON ALL TABLES IN SCHEMA {database.url.schema} TO {name}")
    run(f"ALTER ROLE {name} SET default_transaction_read_only = on")
    with database.opened(must_exist=True) as backend, backend.hold("standby"):
        (receipt,) = backend.write([put("b")], NORMAL)

    assert isinstance(receipt, Failed)
    assert receipt.intact
    assert "takes no writes" in receipt.reason


def test_commits_are_synced_where_the_user_is_set_not_to(role):
    name, database, run = role
    run(f"GRANT ALL ON SCHEMA {database.url.schema} TO {name}")
    run(f"GRANT ALL ON ALL TABLES IN SCHEMA {database.url.schema} TO {name}")
    run(f"ALTER ROLE {name} SET synchronous_commit = off")
    with database.opened() as backend:
        assert backend.run("SHOW synchronous_commit") == [("on",)]
        assert backend.capabilities.durability == "synced"


def test_commits_are_not_synced_where_durability_was_given_up(database):
    where = database.where
    given_up = Where(where.kind, where.location, where.key, where.user, durability="none")
    with Database(given_up, database.url).opened() as backend:
        assert backend.run("SHOW synchronous_commit") == [("off",)]
        assert backend.capabilities.durability == "unknown"


def test_a_connection_that_died_while_it_was_idle_is_replaced(database):
    with database.opened() as backend, database.by_hand() as run:
        backend.write([put("a")], NORMAL)
        ((number,),) = backend.run("SELECT pg_backend_pid()")
        run("SELECT pg_terminate_backend(%s, 5000)", number)

        assert list(backend.keys()) == ["a"]
        assert [type(r) for r in backend.write([put("b")], NORMAL)] == [Stored]


def lose(backend, monkeypatch, *, committed):
    """Let the connection of the next commit be lost, before it is sent or before it is answered."""
    commit = type(backend)._commit
    lost = []

    class Cut:
        """A connection whose answers do not arrive any more."""

        def __init__(self, real):
            self._real = real

        def __getattr__(self, name):
            return getattr(self._real, name)

        def execute(self, statement, *values):
            if committed:
                self._real.execute(statement, *values)
            self._real.close()
            lost.append(statement)
            raise psycopg.OperationalError("server closed the connection unexpectedly")

    def cut(connection):
        if lost:
            commit(backend, connection)
            return
        wrapped = Cut(connection)
        backend._numbers[id(wrapped)] = backend._numbers.pop(id(connection))
        commit(backend, wrapped)

    monkeypatch.setattr(backend, "_commit", cut)
    return lost


@pytest.mark.parametrize("committed", [True, False])
def test_a_commit_without_an_answer_is_settled_by_asking_what_became_of_it(
    database, monkeypatch, committed
):
    with database.opened() as backend:
        backend.write([put("old", b"old")], NORMAL)
        lost = lose(backend, monkeypatch, committed=committed)
        receipts = backend.write([put("new"), put("old", b"newer", before=state(b"old"))], NORMAL)
        found = list(backend.read(["new", "old"]))

    assert lost == ["COMMIT"]
    if committed:
        assert [type(receipt) for receipt in receipts] == [Stored, Stored]
        assert [entry.content for entry in found] == [b"x", b"newer"]
    else:
        assert [(type(receipt), receipt.intact) for receipt in receipts] == [(Failed, True)] * 2
        assert found[0] == Absent(key="new")
        assert found[1].content == b"old"


def test_a_transaction_whose_outcome_nobody_can_tell_is_no_success(database, monkeypatch):
    with database.opened() as backend:
        backend.write([put("old")], NORMAL)
        lose(backend, monkeypatch, committed=True)
        monkeypatch.setattr("hdev_memory.backends.sql.SETTLE_SECONDS", 0)
        monkeypatch.setattr(backend, "_over", lambda number: None)
        (receipt,) = backend.write([put("new")], NORMAL)

    assert isinstance(receipt, Failed)
    assert not receipt.intact
    assert "not known whether" in receipt.reason


@contextlib.contextmanager
def restarting(server, **settings):
    """Kill the server now, and start it again a moment later, while the context goes on."""
    server.kill()
    again = threading.Timer(0.3, server.start_again, kwargs=settings)
    again.start()
    try:
        yield
    finally:
        again.join()


def test_of_a_batch_that_a_killed_server_was_in_each_outcome_is_known(monkeypatch):
    with real_postgres.own() as server:
        with memory(server, "killed").opened() as backend, contextlib.ExitStack() as stack:
            backend.write([put("old", b"old")], NORMAL)
            effect = backend._effect

            def dying(connection, ready):
                told = list(effect(connection, ready))
                if "restarted" not in seen:
                    seen.append("restarted")
                    stack.enter_context(restarting(server))
                return told

            seen = []
            monkeypatch.setattr(backend, "_effect", dying)
            changes = [put("new"), put("old", b"newer", before=state(b"old")), put("old/x")]
            before = backend.write(changes, NORMAL)
            after = backend.write(changes, NORMAL)

        assert [(type(receipt), receipt.intact) for receipt in before] == [(Failed, True)] * 3
        assert [type(receipt) for receipt in after] == [Stored] * 3
        with restarting(server, fsync="off"):
            pass
        with memory(server, "killed").opened() as backend:
            assert [entry.content for entry in backend.read(["old", "new"])] == [b"newer", b"x"]
            assert backend.capabilities.durability == "unknown"


def test_a_deadlock_is_tried_again(database, monkeypatch):
    with database.opened() as backend:
        backend.write([put("a"), put("b")], NORMAL)
        effect = backend._effect
        tries = []

        def deadlocked(connection, ready):
            tries.append(len(ready))
            if len(tries) == 1:
                raise psycopg.errors.DeadlockDetected("deadlock detected")
            return effect(connection, ready)

        monkeypatch.setattr(backend, "_effect", deadlocked)
        receipts = backend.write([put("a", b"1", before=state()), remove("b", state())], NORMAL)

    assert tries == [2, 2]
    assert not any(isinstance(receipt, Failed | Drifted) for receipt in receipts)


def test_writers_of_the_same_entries_in_other_orders_do_not_block_each_other(database):
    with database.opened() as backend:
        keys = [f"k{n:03}" for n in range(200)]
        backend.write([put(key) for key in keys], NORMAL)

        def overwrite(order):
            with database.opened() as own:
                before = {key: state() for key in keys}
                for turn in range(4):
                    content = b"%d" % turn
                    batch = [put(k, content, before=before[k]) for k in order]
                    for receipt in own.write(batch, NORMAL):
                        assert isinstance(receipt, Stored | Drifted)
                        found = receipt.state if isinstance(receipt, Stored) else receipt.found
                        before[receipt.key] = found

        threads = [
            threading.Thread(target=overwrite, args=(order,)) for order in (keys, keys[::-1])
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        with statements_of(database.url) as run:
            ((deadlocks,),) = run(
                "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
            )

    assert deadlocks == 0
