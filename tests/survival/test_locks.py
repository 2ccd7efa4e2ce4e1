"""Two applies at once: with locks one waits its turn; without, nothing goes wrong unseen."""

from __future__ import annotations

import multiprocessing
import subprocess
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from tests.processes import PROGRAM
from tests.survival.world import (
    World,
    apply,
    below,
    build,
    check_any_time,
    check_end,
    copy,
    files_of,
    outcomes,
    read_tree,
    records,
)

from hdev_memory import durable, plandir
from hdev_memory.backends.filesystem import FilesystemBackend
from hdev_memory.core.audit import verify
from hdev_memory.errors import AuditError, HdevError

LOCKED = 7


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build(tmp_path_factory.mktemp("world"), extra=60)


def command(world: World, here: World) -> list[str]:
    ends = ["--source-path", str(world.place / "source"), "--target-path", str(here.place / "t")]
    return [*PROGRAM, "apply", str(here.place / "p"), *ends]


def test_of_two_applies_of_one_plan_each_ends_it_or_says_that_it_is_locked(world, tmp_path):
    here = copy(world, tmp_path / "run")
    both = [
        subprocess.Popen(
            command(world, here), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    ends = [process.communicate(timeout=60) for process in both]
    statuses = sorted(process.returncode for process in both)

    assert statuses in ([0, 0], [0, LOCKED]), ends
    check_end(world, read_tree(here.place))


def test_an_apply_is_refused_while_another_holds_the_plan_or_the_target(world, tmp_path, hdev):
    here = copy(world, tmp_path / "run")
    before = below(read_tree(here.place), "t")
    words = command(world, here)[len(PROGRAM) :]
    with plandir.Lock(here.place / "p"):
        of_plan = hdev(*words)
    with (
        FilesystemBackend(str(here.place / "t"), must_exist=True) as target,
        target.hold("another plan"),
    ):
        of_target = hdev(*words)

    assert (of_plan.status, of_target.status) == (LOCKED, LOCKED)
    assert below(read_tree(here.place), "t") == before
    assert hdev(*words).status == 0
    check_end(world, read_tree(here.place))


def unlocked(begin: Barrier, places: list[Path], source: Path, told) -> None:
    """Apply the plan in each place as if there were no locks, and tell what each came to."""
    durable.try_lock = lambda descriptor: True  # type: ignore[assignment]
    found = []
    for place in places:
        begin.wait(timeout=60)
        try:
            outcome = apply(place, source)
            found.append("complete" if outcome is None or outcome.complete else "partial")
        except HdevError as error:
            found.append(type(error).__name__)
    told.put(found)


def test_without_locks_two_applies_end_exactly_or_say_that_they_did_not(world, tmp_path):
    places = [copy(world, tmp_path / f"run{number}").place for number in range(6)]
    context = multiprocessing.get_context("spawn")
    begin, told = context.Barrier(2), context.Queue()
    both = [
        context.Process(target=unlocked, args=(begin, places, world.place / "source", told))
        for _ in range(2)
    ]
    for process in both:
        process.start()
    found = [told.get(timeout=60) for _ in both]
    for process in both:
        process.join(timeout=60)

    for place, *ends in zip(places, *found, strict=True):
        files = read_tree(place)
        target = below(files, "t")
        if "complete" in ends:
            wrong = [k for k in world.keys if files_of(target, k) != files_of(world.after, k)]
            assert wrong == [], ends
        if chain_holds(place):
            check_any_time(world, files)
            intended, _ = outcomes(records(files, torn=True))
            assert intended == set(world.keys) or "complete" not in ends
        else:
            with pytest.raises(AuditError):
                apply(place, world.place / "source")
            assert below(read_tree(place), "t") == target


def chain_holds(place: Path) -> bool:
    lines = (place / "p" / "audit.jsonl").read_bytes().splitlines(keepends=True)
    try:
        list(verify(lines))
    except AuditError:
        return False
    return True
