"""A snapshot read by a process of its own is the same snapshot, and leaves nothing behind."""

import contextlib
import os
import signal
import subprocess
import sys
import threading

import pytest
from tests.conftest import put_entry

from hdev_memory import planning
from hdev_memory.backends import abreast
from hdev_memory.backends.base import EVERYTHING, Scope
from hdev_memory.backends.filesystem import FilesystemBackend
from hdev_memory.core.entry import Normalisation, Unreadable
from hdev_memory.core.plan import Limits, Options, Provenance
from hdev_memory.core.stretch import Stretch
from hdev_memory.errors import StoreError

NORMAL = Normalisation()

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2,
    reason="there is a process of its own only on Linux with two cores",
)


@pytest.fixture(autouse=True)
def forks(monkeypatch):
    """Fork after three entries; the forks of the test, all of which must be gone after it."""
    monkeypatch.setattr(abreast, "ALONE", 3)
    made = []
    fork = os.fork

    def counted():
        pid = fork()
        if pid:
            made.append(pid)
        return pid

    monkeypatch.setattr(os, "fork", counted)
    handles = len(os.listdir("/proc/self/fd"))
    yield made
    for pid in made:
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    assert len(os.listdir("/proc/self/fd")) == handles


@pytest.fixture
def store(tmp_path):
    """Folders, plain and difficult entries, and what cannot be read, in turns."""
    root = tmp_path / "store"
    for number in range(40):
        put_entry(root, f"f{number % 4}/k{number:02}", f"text {number}", {"n": number})
    put_entry(root, "f1/nested", "x" * 50_000, {"a": {"b": [1.5, -0.0, "ü", None, 2**53 - 1]}})
    put_entry(root, "f1/bare", "x", ...)
    (root / "f2/k99.metadata.json").write_text("{}")
    (root / "f2/latin.md").write_bytes(b"\xff")
    (root / "f3/other.txt").write_text("x")
    (root / "f3/.hdev-store").write_text('{"store": "below"}')
    with open(os.fsencode(root) + b"/f3/caf\xe9.md", "wb"):
        pass
    return root


def opened(root):
    return FilesystemBackend(str(root), must_exist=True)


def entries_abreast(backend, scope=EVERYTHING):
    for item in backend.stretches(scope, NORMAL, aside=True):
        yield from item.entries() if isinstance(item, Stretch) else [item]


def test_the_states_and_what_was_learnt_beside_them_are_the_same(store, forks):
    scope = Scope(exclude=["k1*"])
    with opened(store) as backend, opened(store) as other:
        apart = list(entries_abreast(backend, scope))
        alone = list(other.snapshot(scope, NORMAL))

        assert len(forks) == 1
        assert apart == alone
        assert list(map(repr, apart)) == list(map(repr, alone))  # 1 and 1.0 are equal, not alike
        assert (backend.ignored, backend.stores) == (other.ignored, other.stores) == (1, {"below"})


def test_how_much_is_to_come_is_told_on_the_way(tmp_path, forks, monkeypatch):
    monkeypatch.setattr(abreast, "TOLD", 4)
    for number in range(200):
        put_entry(tmp_path, f"f{number // 5:02}/k{number:03}", "x")
    with opened(tmp_path) as backend:
        guesses = [backend.expected for _ in entries_abreast(backend)]

    assert len(forks) == 1
    assert set(guesses[50:]) == {200}  # all folders are alike, so it is no mere guess


def test_a_short_snapshot_is_read_without_a_process(tmp_path, forks):
    for number in range(2):
        put_entry(tmp_path, f"k{number}", "x")
    with opened(tmp_path) as backend:
        assert len(list(entries_abreast(backend))) == 2
    assert forks == []


def test_without_a_process_to_be_had_the_states_are_read_all_the_same(store, monkeypatch):
    def fork():
        raise BlockingIOError

    monkeypatch.setattr(os, "fork", fork)
    with opened(store) as backend:
        apart = list(entries_abreast(backend))
        assert apart == list(backend.snapshot(EVERYTHING, NORMAL))


def nothing_learnt():
    return abreast.Aside(ignored=0, stores=set())


def some(count, then=lambda: None):
    """So many states, then whatever `then` does in the process that reads on."""
    for number in range(count):
        yield Unreadable(key=f"k{number:04}", reason="x")
    then()


def raiser(error):
    def fail():
        raise error

    return fail


@pytest.mark.parametrize(
    "error",
    [
        StoreError("What.", why="/a/b: \u00e4.", hint="Do this."),
        OSError(24, "Too many open files", "/a"),
        AssertionError("not sorted"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_comes_whole_and_behind_what_was_read_before(error, forks):
    states = abreast.abreast(some(9, raiser(error)), nothing_learnt, lambda _: None)
    seen = [next(states).key for _ in range(9)]
    with pytest.raises(type(error)) as caught:
        next(states)

    assert len(forks) == 1
    assert seen == [f"k{number:04}" for number in range(9)]
    assert caught.value.args == error.args
    assert vars(caught.value) == vars(error)


@pytest.mark.parametrize("taken", [3, 4, 5000])
def test_a_consumer_that_stops_early_leaves_no_process(taken, forks):
    states = abreast.abreast(some(10**9), nothing_learnt, lambda _: None)
    for _ in range(taken):
        next(states)
    states.close()

    assert len(forks) == (taken > 3)


def test_a_process_that_was_killed_is_an_error_and_never_a_short_snapshot(forks):
    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(StoreError, match="not read to its end"):
        list(abreast.abreast(some(5000, die), nothing_learnt, bool))
    assert len(forks) == 1


def test_a_thread_does_not_hinder_it(store, forks):
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        with opened(store) as backend:
            apart = list(entries_abreast(backend))
            assert apart == list(backend.snapshot(EVERYTHING, NORMAL))
    finally:
        done.set()
        thread.join()
    assert len(forks) == 1


_SCRIPT = """
import atexit, os, sys
from hdev_memory.backends import abreast
from hdev_memory.core.entry import Unreadable

atexit.register(print, "at exit")
sys.stderr.write("unflushed")
print("unflushed")
states = (Unreadable(key=f"{n:09}", reason="x") for n in range(int(sys.argv[1])))
try:
    for number, _ in enumerate(abreast.abreast(states, lambda: abreast.Aside(0, set()), bool)):
        if number == 2000 and sys.argv[2] == "die":
            os._exit(7)
        if number == 2000 and sys.argv[2] == "wait":
            os.write(1, b"reading\\n")
except KeyboardInterrupt:
    print("interrupted")
"""


@contextlib.contextmanager
def script(count, end):
    """A program that reads so many states; it is over when no process holds its streams."""
    with subprocess.Popen(
        [sys.executable, "-E", "-c", _SCRIPT, str(count), end],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as program:
        try:
            yield program
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)


def test_the_process_prints_nothing_and_runs_nothing_at_its_end():
    with script(5000, "go on") as program:
        out, err = program.communicate(timeout=60)

    assert (program.returncode, out, err) == (0, "unflushed\nat exit\n", "unflushed")


def test_the_process_ends_when_its_parent_has_died():
    with script(10**12, "die") as program:
        program.communicate(timeout=60)

    assert program.returncode == 7


def test_an_interrupt_ends_both_and_is_seen_once():
    with script(10**12, "wait") as program:
        assert program.stdout.readline() == "reading\n"
        os.killpg(program.pid, signal.SIGINT)  # as a terminal does
        out, err = program.communicate(timeout=60)

    assert (program.returncode, err) == (0, "unflushed")
    assert out == "unflushed\ninterrupted\nat exit\n"


def request():
    options = Options(
        overwrite=True,
        delete=True,
        max_delete="100%",
        compare="all",
        include=(),
        exclude=(),
        limits=Limits(max_entry_bytes=1),
    )
    return planning.Request(
        options=options,
        source_label="a",
        target_label="b",
        provenance=Provenance(created="2026-01-01T00:00:00Z", expires=None, tool="t"),
        home="",
    )


def planned(source, target):
    with opened(source) as ours, opened(target) as theirs:
        return b"".join(planning.plan(ours, theirs, request()))


def test_a_plan_has_the_same_bytes_with_the_process_and_without(
    store, tmp_path, forks, monkeypatch
):
    target = tmp_path / "target"
    for number in range(20, 60):
        put_entry(target, f"f{number % 4}/k{number:02}", f"text {number % 7}", {"n": number})
    apart = [planned(store, target), planned(target, store)]
    assert len(forks) == 2
    monkeypatch.setattr(abreast, "ALONE", 10**6)
    alone = [planned(store, target), planned(target, store)]

    assert len(forks) == 2
    assert apart == alone
    assert apart[0] != apart[1]


def test_a_plan_that_is_given_up_leaves_no_process(store, tmp_path, forks):
    (tmp_path / "target").mkdir()
    with opened(store) as ours, opened(tmp_path / "target") as theirs:
        lines = planning.plan(ours, theirs, request())
        while not forks:
            next(lines)
        lines.close()
    assert len(forks) == 1
