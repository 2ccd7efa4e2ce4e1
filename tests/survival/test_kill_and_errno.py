"""Real processes that are killed, failed and lied to by the kernel at their system calls."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.processes import PROGRAM
from tests.survival.world import (
    THOROUGH,
    World,
    apply,
    below,
    build,
    check_any_time,
    check_end,
    copy,
    read_tree,
)

from hdev_memory.durable import STAGED_PREFIX

ERRNOS = ("ENOSPC", "EIO", "EACCES", "EMFILE", "EINTR")
TRACED = "openat,write,fsync,syncfs,renameat2,renameat,rename,linkat,unlinkat,mkdirat,ftruncate"
ENVIRON = {
    **{name: text for name, text in os.environ.items() if not name.startswith("HDEV_")},
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
}
"""Nothing but the run itself writes, and it makes the same calls each time."""


@dataclass(frozen=True)
class Call:
    """The `number`-th call of its name in a run, counted from one, as strace prints it."""

    name: str
    number: int
    text: str

    @property
    def changes(self) -> bool:
        """Whether it may change a disk: no reading, and no speaking to people."""
        if self.name == "openat":
            return "O_CREAT" in self.text
        return not self.text.startswith(("write(1,", "write(2,"))

    @property
    def result(self) -> int:
        return int(self.text.rpartition(" = ")[2].split()[0])


def command(place: Path, source: Path) -> list[str]:
    ends = ["--source-path", str(source), "--target-path", str(place / "t")]
    return [*PROGRAM, "apply", str(place / "p"), *ends, "--allow-unguarded"]


def trace(place: Path, source: Path, *inject: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run `hdev apply` under strace; what it came to, and strace's log."""
    log = place.parent / "strace.log"
    words = ["strace", "-f", "-qq", "-s", "4", "-o", str(log), "-e", f"trace={TRACED}"]
    for fault in inject:
        words += ["-e", f"inject={fault}"]
    done = subprocess.run(
        [*words, *command(place, source)],
        capture_output=True,
        text=True,
        timeout=60,
        env=ENVIRON,
        check=False,
    )
    return done, log.read_text()


def calls(log: str) -> list[Call]:
    """The calls of a log, each with its number among those of its name."""
    count: dict[str, int] = {}
    found = []
    for line in log.splitlines():
        text = line.partition(" ")[2].strip()
        name = text.partition("(")[0]
        if name in TRACED.split(","):
            count[name] = count.get(name, 0) + 1
            found.append(Call(name, count[name], text))
    return found


@pytest.fixture(scope="module")
def strace():
    """Strace works here; where it does not, that is an error in CI, and elsewhere a gap."""
    if sys.platform != "linux":
        pytest.skip("strace is a tool of Linux")
    works = shutil.which("strace") is not None and (
        subprocess.run(["strace", "-o", os.devnull, "true"], check=False).returncode == 0
    )
    if not works:
        assert os.environ.get("CI") != "true", "strace is missing, or may not trace"
        pytest.skip("strace is missing, or may not trace")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A world whose batches are large enough to be synced at once."""
    return build(tmp_path_factory.mktemp("large"), extra=30)


def torn(world: World, place: Path) -> World:
    """The world after a power cut that left half a record in the log."""
    here = copy(world, place)
    with (place / "p" / "audit.jsonl").open("ab") as file:
        file.write(b'{"seq":2,"prev":"')
    return here


def entries(place: Path) -> dict[str, bytes]:
    files = below(read_tree(place), "t")
    return {name: text for name, text in files.items() if STAGED_PREFIX not in name}


def strike(
    world: World, place: Path, call: Call, fault: str, *always: str, prepare=copy, again: bool
) -> None:
    """Inject a fault at one call, look at what is left, and apply again: the exact end."""
    prepare(world, place)
    source = world.place / "source"
    before = entries(place)
    done, log = trace(place, source, *always, f"{call.name}:{fault}:when={call.number}")
    where = f"{fault} at {call.name} {call.number} ({call.text}): {done.returncode}\n{done.stderr}"
    hit = [one for one in calls(log) if (one.name, one.number) == (call.name, call.number)]

    assert len(hit) == 1, where
    assert hit[0].changes, where
    if "KILL" in fault:
        assert done.returncode == -signal.SIGKILL, where
    else:
        assert "(INJECTED)" in hit[0].text, where
        assert "Traceback" not in done.stderr, where
        assert "a bug in itself" not in done.stderr, where
    files = read_tree(place)
    if done.returncode == 0:
        check_end(world, files, swept=False)
    else:
        check_any_time(world, files)
    if done.returncode in (1, 3, 7, 8, 130):
        assert entries(place) == before, where
    if again:
        outcome = apply(place, source)
        assert outcome is None or outcome.complete, where
        check_end(world, read_tree(place), swept=outcome is not None)
    shutil.rmtree(place)


def lies(call: Call) -> list[str]:
    """What the kernel can say without doing it."""
    if call.name == "openat" or call.result < 0:
        return []
    return [f"retval={call.result}"]


def faults(call: Call, turn: int) -> list[str]:
    """What is done to a call: everything, or in turn one of the ways to fail."""
    ways = ["signal=KILL", *(f"error={name}" for name in ERRNOS), *lies(call)]
    return ways if THOROUGH else [ways[turn % len(ways)]]


def chosen(found: list[Call], name: str, count: int) -> list[Call]:
    """Calls of one kind that may change the disk: all, or some, always the same."""
    there = [call for call in found if call.name == name and call.changes]
    assert there, f"the run made no call of {name}"
    if THOROUGH or len(there) <= count:
        return there
    return random.Random(name).sample(there, count)


def campaign(world: World, tmp_path: Path, name: str, count: int, *always: str, prepare=copy):
    prepare(world, tmp_path / "count")
    done, log = trace(tmp_path / "count", world.place / "source", *always)
    assert done.returncode == 0, done.stderr
    for turn, call in enumerate(chosen(calls(log), name, count)):
        for fault in faults(call, turn):
            strike(world, tmp_path / "run", call, fault, *always, prepare=prepare, again=True)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("openat", 3),
        ("write", 4),
        ("fsync", 4),
        ("renameat2", 4),
        ("renameat", 2),
        ("unlinkat", 2),
        ("mkdirat", 2),
    ],
)
def test_a_call_that_is_the_last_or_fails_or_lies_ends_well(strace, world, tmp_path, name, count):
    campaign(world, tmp_path, name, count)


def test_a_sync_of_all_that_is_the_last_or_fails_or_lies_ends_well(strace, large, tmp_path):
    campaign(large, tmp_path, "syncfs", 3)


@pytest.mark.parametrize(("name", "count"), [("linkat", 4), ("renameat", 2)])
def test_without_exchanging_names_it_ends_well_too(strace, world, tmp_path, name, count):
    campaign(world, tmp_path, name, count, "renameat2:error=ENOSYS")


@pytest.mark.parametrize("name", ["ftruncate"])
def test_a_repair_of_the_log_that_is_cut_off_is_repaired(strace, world, tmp_path, name):
    campaign(world, tmp_path, name, 1, prepare=torn)


def test_a_log_of_strace_is_read_as_it_is():
    log = (
        '7 openat(AT_FDCWD, "a", O_RDONLY) = 3\n'
        '7 openat(3, "b", O_RDWR|O_CREAT, 0666) = -1 EIO (Input/output error) (INJECTED)\n'
        '7 write(1, "x"..., 9) = 9\n'
    )
    found = calls(log)

    assert [(call.name, call.number, call.changes) for call in found] == [
        ("openat", 1, False),
        ("openat", 2, True),
        ("write", 1, False),
    ]
    assert found[1].result == -1
    assert re.search("INJECTED", found[1].text)
