"""Every state that a power cut could leave during an apply is repaired by running it again."""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pytest
from tests.survival import power
from tests.survival.world import (
    THOROUGH,
    Broken,
    World,
    apply,
    build,
    check_any_time,
    check_end,
    copy,
    read_tree,
    write_tree,
)

from hdev_memory import apply as engine
from hdev_memory import durable, plandir
from hdev_memory.backends import filesystem_write
from hdev_memory.backends.base import Put, Session
from hdev_memory.backends.filesystem import FilesystemBackend
from hdev_memory.backends.filesystem_files import Cursor


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def names(monkeypatch):
    """Names that would be drawn at random are counted, so that every run meets the same states."""
    counter = itertools.count(1000)
    monkeypatch.setattr("secrets.token_hex", lambda size: f"{next(counter):0{2 * size}x}")


SHAPES = ("each", "grouped", "batches")
"""How the syncs are done: one for each file, one for all of them, and batches of three changes."""


@contextlib.contextmanager
def shaped(shape: str) -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "GROUP", 1 if shape == "grouped" else 10_000)
        if shape == "batches":
            patch.setattr(FilesystemBackend, "batch", 3)
        yield patch


def record(world: World, place: Path, shape: str) -> power.Recorder:
    """One whole run in a copy of the world, and the record of it."""
    copy(world, place)
    shutil.rmtree(place / "source")
    with shaped(shape) as patch:
        disk = power.Recorder(place)
        patch.setattr(durable, "disk", disk)
        outcome = apply(place, world.place / "source")
    assert outcome is not None
    assert outcome.complete
    return disk


def run_again(world: World, tree: dict[str, bytes], place: Path, shape: str) -> None:
    """What stands after a cut holds what must hold, and running again comes to the exact end."""
    check_any_time(world, tree)
    write_tree(place, tree)
    with shaped(shape) as patch:
        patch.setattr(durable, "disk", power.QuietDisk())
        outcome = apply(place, world.place / "source")
    assert outcome is None or outcome.complete, outcome
    check_end(world, read_tree(place), swept=outcome is not None)
    shutil.rmtree(place)


SHARE = 0.15
"""Of all states, those from which a short campaign runs again."""

EVERY = (power.KILL, *power.CUTS)


def campaign(
    world: World,
    disk: power.Recorder,
    place: Path,
    shape: str,
    points: Collection[int],
    variants: Sequence[power.Variant] = EVERY,
    *,
    share: float = 1.0 if THOROUGH else SHARE,
) -> int:
    """Look at every state after these points, run again from them, and say how many there were.

    Running again from this share of them. Raises Broken with the first state that is not what it
    must be, or is not repaired.
    """
    count = 0
    chance = random.Random(len(points))
    for done, variant, tree in power.states(disk.operations, variants, points):
        count += 1
        try:
            if chance.random() < share:
                run_again(world, tree, place, shape)
            else:
                check_any_time(world, tree)
        except Exception as error:
            last = disk.operations[done - 1]
            raise Broken(
                f"{shape}, cut after operation {done} {last}, {variant}: {error}"
            ) from error
    return count


@pytest.mark.parametrize("shape", SHAPES)
def test_after_every_power_cut_running_again_comes_to_the_exact_end(
    world, tmp_path, shape, memory, record_property
):
    disk = record(world, tmp_path / "recorded", shape)
    check_end(world, read_tree(tmp_path / "recorded"))
    points = range(disk.begin, len(disk.operations) + 1)
    count = campaign(world, disk, memory / "again", shape, points)
    record_property("states", count)

    assert count > 100


def killed_and_resumed(world: World, place: Path, shape: str, at: int) -> power.Recorder | None:
    """A run that is killed at its operation `at`, and the run that goes on; None when it was over.

    What the first did is seen by the second, and is as durable as the first has made it.
    """
    copy(world, place)
    with shaped(shape) as patch:
        disk = power.Recorder(place)
        patch.setattr(durable, "disk", disk)
        disk.die_at = disk.begin + at
        try:
            apply(place, world.place / "source")
        except power.PowerCut:
            disk.die_at = None
            outcome = apply(place, world.place / "source")
            assert outcome is None or outcome.complete, (at, outcome)
            check_end(world, read_tree(place), swept=outcome is not None)
            return disk
        return None


def nested(world: World, memory: Path, shape: str, at: int, chance: random.Random | None) -> int:
    """Kill a run, cut the power while it is resumed, and run again; some cuts, or all of them."""
    disk = killed_and_resumed(world, memory / "killed", shape, at)
    shutil.rmtree(memory / "killed")
    if disk is None:
        return 0
    end = len(disk.operations)
    inside = range(disk.begin + at, end)
    points = [end, *(chance.choices(inside, k=3) if chance is not None else inside)]
    return campaign(world, disk, memory / "again", shape, points)


STRIDE = 1 if THOROUGH else 28
"""Between two of the operations at which a run is killed."""


@pytest.mark.parametrize("shape", SHAPES)
def test_a_run_that_was_killed_and_resumed_survives_a_power_cut(
    world, memory, shape, record_property
):
    chance = random.Random(5)
    some = None if THOROUGH else chance
    count = sum(
        nested(world, memory, shape, at, some)
        for at in range(chance.randrange(STRIDE), 250, STRIDE)
    )
    record_property("states", count)

    assert count > 50


@pytest.mark.parametrize("shape", SHAPES)
def test_a_power_cut_while_another_is_repaired_is_repaired(world, memory, shape, record_property):
    chance = random.Random(7)
    first = record(world, memory / "recorded", shape)
    points = range(first.begin, len(first.operations) + 1)
    cuts = [tree for _, _, tree in power.states(first.operations, power.CUTS, points)]
    count = 0
    for tree in cuts if THOROUGH else chance.sample(cuts, 12):
        write_tree(memory / "cut", tree)
        with shaped(shape) as patch:
            disk = power.Recorder(memory / "cut")
            patch.setattr(durable, "disk", disk)
            apply(memory / "cut", world.place / "source")
        shutil.rmtree(memory / "cut")
        inside = range(disk.begin, len(disk.operations) + 1)
        count += campaign(world, disk, memory / "again", shape, chance.choices(inside, k=6))
    record_property("states", count)

    assert count > 50


# The simulator itself: it must find what is wrong


def a_folder_sync_that_does_nothing(patch):
    patch.setattr(power.Recorder, "syncs_folders", False)


def a_file_sync_that_does_nothing(patch):
    patch.setattr(power.Recorder, "syncs_files", False)


def a_filesystem_sync_that_does_nothing(patch):
    patch.setattr(power.Recorder, "syncs_all", False)


def a_log_that_is_not_synced(patch):
    patch.setattr(durable, "append", durable.write_all)


def a_pre_image_that_is_not_synced(patch):
    store = functools.partial(FilesystemBackend, sync=False)
    patch.setattr(plandir, "FilesystemBackend", store)


def a_pre_image_that_is_not_kept(patch):
    patch.setattr(plandir.Backup, "keep", lambda self, entries, run: {})
    patch.setattr(plandir.Backup, "holds", lambda self, key, state: True)


def a_pre_image_that_is_not_finished(patch):
    patch.setattr(plandir, "Put", lambda **fields: Put(**{**fields, "resumed": False}))


def an_intent_that_is_logged_after_the_effects(patch):
    commit = filesystem_write.Batch._commit

    def late(self, cursor, prepared, session, together):
        changes = []
        silent = Session(run=session.run, intend=changes.extend)
        misses = commit(self, cursor, prepared, silent, together)
        session.intend(changes)
        return misses

    patch.setattr(filesystem_write.Batch, "_commit", late)


def effects_that_are_not_synced(patch):
    patch.setattr(Cursor, "sync", lambda self: None)


def bytes_that_are_not_synced_before_they_have_a_name(patch):
    stage = durable.stage
    patch.setattr(durable, "stage", lambda *rest, **named: stage(*rest, **{**named, "sync": False}))


def one_sync_for_many_that_comes_only_after_the_effects(patch):
    def syncer(descriptor, files):
        calls = itertools.count()
        return lambda: durable.disk.sync_filesystem(descriptor) if next(calls) % 2 else None

    patch.setattr(durable, "syncer", syncer)


def an_overwrite_that_unlinks_first(patch):
    def trade(self, folder, name, step):
        aside = durable.staged_name(step.label)
        durable.disk.link(folder, name, aside)
        durable.disk.unlink(folder, name)
        durable.disk.rename_new(folder, step.staged, name)
        step.staged = aside

    patch.setattr(filesystem_write.Batch, "_trade", trade)


def a_resume_that_takes_what_was_cut_off_for_drift(patch):
    patch.setattr(engine, "_was_cut_off", lambda *rest: False)


def a_torn_line_that_is_not_cut(patch):
    patch.setattr(plandir.Journal, "_cut", lambda self, whole, torn: None)


def a_resume_that_leaves_staged_files(patch):
    patch.setattr(FilesystemBackend, "tidy", lambda self, *rest: ())


def a_new_folder_whose_name_is_left_to_the_next_run(patch):
    def dirty(self, path):
        self._changed = True
        self._remember(path, self.go(path))

    patch.setattr(Cursor, "dirty", dirty)


PLANTED = [
    (a_folder_sync_that_does_nothing, "each"),
    (a_file_sync_that_does_nothing, "each"),
    (a_filesystem_sync_that_does_nothing, "grouped"),
    (a_log_that_is_not_synced, "each"),
    (a_log_that_is_not_synced, "grouped"),
    (a_pre_image_that_is_not_synced, "each"),
    (a_pre_image_that_is_not_synced, "grouped"),
    (a_pre_image_that_is_not_kept, "each"),
    (a_pre_image_that_is_not_finished, "each"),
    (an_intent_that_is_logged_after_the_effects, "each"),
    (an_intent_that_is_logged_after_the_effects, "grouped"),
    (effects_that_are_not_synced, "each"),
    (effects_that_are_not_synced, "grouped"),
    (bytes_that_are_not_synced_before_they_have_a_name, "each"),
    (one_sync_for_many_that_comes_only_after_the_effects, "grouped"),
    (an_overwrite_that_unlinks_first, "each"),
    (a_resume_that_takes_what_was_cut_off_for_drift, "each"),
    (a_torn_line_that_is_not_cut, "each"),
    (a_resume_that_leaves_staged_files, "each"),
]


@pytest.mark.parametrize(
    ("plant", "shape"), PLANTED, ids=lambda value: getattr(value, "__name__", value)
)
def test_the_simulator_catches(world, memory, plant, shape):
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        disk = record(world, memory / "recorded", shape)
        points = range(disk.begin, 10_000)

        # Most are seen by looking, which costs a small part of what running again does.
        with pytest.raises(Broken):
            sum(
                campaign(world, disk, memory / "again", shape, points, share=share)
                for share in (0.0, SHARE)
            )


def test_the_simulator_catches_what_only_a_kill_and_a_cut_show(world, memory):
    with pytest.MonkeyPatch.context() as patch:
        a_new_folder_whose_name_is_left_to_the_next_run(patch)

        with pytest.raises(Broken, match=r"is recorded as done and is not|pre-image"):
            sum(nested(world, memory, "each", at, random.Random(5)) for at in range(0, 250, 5))
