"""An apply that fails or stops at any of its system calls leaves what must hold, and is resumed."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.survival.power import PowerCut, QuietDisk
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

from hdev_memory import durable
from hdev_memory.errors import HdevError, PartialError

KINDS = (
    "create",
    "write",
    "truncate",
    "sync",
    "sync_filesystem",
    "make_folder",
    "rename_new",
    "exchange",
    "replace",
    "link",
    "unlink",
)
"""Every call that changes a disk."""

ERRNOS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EMFILE, errno.EINTR)


class FailingDisk(QuietDisk):
    """A disk whose call number `at`, and none but that one, raises `error`; a PowerCut stays."""

    def __init__(self, at: int | None = None, error: BaseException | None = None) -> None:
        self.calls: list[str] = []
        self.fired = False
        self._at = at
        self._error = error

    def __getattribute__(self, name: str) -> object:
        found = object.__getattribute__(self, name)
        if name not in KINDS:
            return found

        def call(*rest: object) -> object:
            self.calls.append(name)
            here = len(self.calls) - 1
            stays = isinstance(self._error, PowerCut)
            if self._at is not None and (here == self._at or (stays and here > self._at)):
                self.fired = True
                assert self._error is not None
                raise self._error
            return found(*rest)

        return call


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build(tmp_path_factory.mktemp("world"))


@contextlib.contextmanager
def on(disk: durable.Disk, group: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "disk", disk)
        patch.setattr(durable, "GROUP", group)
        yield


def calls_of_a_run(world: World, place: Path, group: int) -> list[str]:
    copy(world, place)
    disk = FailingDisk()
    with on(disk, group):
        apply(place, world.place / "source")
    shutil.rmtree(place)
    return disk.calls


def stopped(world: World, place: Path, group: int, at: int, error: BaseException) -> bool:
    """Run into an error at one call; whether that happened."""
    disk = FailingDisk(at, error)
    complete = False
    before = entries(place)
    with on(disk, group):
        try:
            outcome = apply(place, world.place / "source")
            complete = outcome is None or outcome.complete
        except (PartialError, PowerCut):
            pass
        except (HdevError, KeyboardInterrupt):
            assert entries(place) == before, "it said that nothing was written"
    files = read_tree(place)
    if complete:
        check_end(world, files, swept=False)
    else:
        check_any_time(world, files)
    return disk.fired


def entries(place: Path) -> dict[str, bytes]:
    """The files of the target, without those that are nobody's entries."""
    files = below(read_tree(place), "t")
    return {name: text for name, text in files.items() if durable.STAGED_PREFIX not in name}


def resumed(world: World, place: Path, group: int) -> None:
    """Run again without errors: then everything is as planned."""
    with on(QuietDisk(), group):
        outcome = apply(place, world.place / "source")
    assert outcome is None or outcome.complete, outcome
    check_end(world, read_tree(place), swept=outcome is not None)
    shutil.rmtree(place)


GROUPS = {"each": 10_000, "grouped": 1}


def some(calls: list[str], step: int) -> list[int]:
    """Numbers of calls: all, or every `step`-th and the first of each kind."""
    if THOROUGH:
        return list(range(len(calls)))
    return sorted({*range(0, len(calls), step), *(calls.index(kind) for kind in set(calls))})


@pytest.mark.parametrize("shape", GROUPS)
def test_a_run_that_is_killed_at_a_call_is_resumed(world, memory, shape):
    group = GROUPS[shape]
    calls = calls_of_a_run(world, memory / "whole", group)
    for at in some(calls, 4):
        place = copy(world, memory / "run").place
        assert stopped(world, place, group, at, PowerCut()), at
        resumed(world, place, group)


@pytest.mark.parametrize("shape", GROUPS)
def test_a_run_that_is_killed_is_resumed_after_its_resume_was_killed_too(world, memory, shape):
    group = GROUPS[shape]
    calls = calls_of_a_run(world, memory / "whole", group)
    chance = random.Random(11)
    pairs = list(itertools.product(range(len(calls)), range(0, len(calls), 7)))
    fired = 0
    for at, again in pairs if THOROUGH else chance.sample(pairs, 20):
        place = copy(world, memory / "run").place
        assert stopped(world, place, group, at, PowerCut())
        fired += stopped(world, place, group, again, PowerCut())
        resumed(world, place, group)

    assert fired > 10


@pytest.mark.parametrize("shape", GROUPS)
def test_a_run_that_is_interrupted_at_a_call_is_resumed(world, memory, shape):
    group = GROUPS[shape]
    calls = calls_of_a_run(world, memory / "whole", group)
    for at in some(calls, 5):
        place = copy(world, memory / "run").place
        assert stopped(world, place, group, at, KeyboardInterrupt()), at
        resumed(world, place, group)


@pytest.mark.parametrize("shape", GROUPS)
def test_a_call_that_fails_is_told_or_made_good_and_the_run_is_resumed(world, memory, shape):
    group = GROUPS[shape]
    calls = calls_of_a_run(world, memory / "whole", group)
    for at in some(calls, 3):
        for number in ERRNOS if THOROUGH else [ERRNOS[at % len(ERRNOS)]]:
            place = copy(world, memory / "run").place
            assert stopped(world, place, group, at, OSError(number, os.strerror(number))), at
            resumed(world, place, group)


@pytest.mark.skipif(sys.platform != "linux", reason="only there all files are synced at once")
def test_the_calls_of_a_run_are_of_every_kind_that_a_run_needs(world, memory):
    each, grouped = (calls_of_a_run(world, memory / shape, GROUPS[shape]) for shape in GROUPS)

    assert set(KINDS) - set(each) == {"sync_filesystem", "truncate", "link"}
    assert set(KINDS) - set(grouped) == {"truncate", "link"}
