"""The small world that these tests break: two ends, a plan, and what must become of them.

What must hold is written here once, over plain trees of bytes, without any code of the product: the
frame (nothing but the plan), old or new, pre-image first, done means done, the chain, and the exact
end.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hdev_memory import apply as engine
from hdev_memory import plandir, planning
from hdev_memory.backends.filesystem import FilesystemBackend
from hdev_memory.cli import steps
from hdev_memory.core.plan import Limits, Options, Provenance
from hdev_memory.durable import STAGED_PREFIX

Files = Mapping[str, bytes]
"""Bytes by path below a folder."""

THOROUGH = os.environ.get("SURVIVAL") == "all"
"""Whether every case is to be tried; otherwise a part of them, always the same."""

PARTS = (".md", ".metadata.json")


def entry(key: str, content: str, metadata: object = ...) -> dict[str, bytes]:
    """The files of an entry; no metadata file for `...`."""
    files = {f"{key}.md": content.encode()}
    if metadata is not ...:
        files[f"{key}.metadata.json"] = json.dumps(metadata, indent=2).encode()
    return files


SOURCE: Files = {
    **entry("same", "same", {"k": 1}),
    **entry("fresh", "a new one\n", {"k": 1}),
    **entry("bare", "new, without metadata"),
    **entry("deep/er/one", "in new folders", {"d": [1, 2]}),
    **entry("deep/er/two", "beside it"),
    **entry("both", "our text", {"k": "ours"}),
    **entry("text", "our text", {"k": 1}),
    **entry("meta", "same text", {"k": "ours"}),
    **entry("nest/gains", "now with metadata", {"k": 1}),
    **entry("nest/loses", "now without metadata"),
}
FOREIGN: Files = {
    **entry("same", "same", {"k": 1}),
    **entry("kept/apart", "left out by a pattern", {"k": 1}),
    "readme.txt": b"no entry",
    f"{STAGED_PREFIX}0000000000000000-of-another-run": b"staged by somebody else",
    "nest/.hidden": b"no entry either",
}
"""What the target holds and the plan has nothing to do with."""
OLD: Files = {
    **entry("both", "their text", {"k": "theirs"}),
    **entry("text", "their longer text\r\n", {"k": 1}),
    **entry("meta", "same text", {"k": "theirs", "created": "2024"}),
    **entry("nest/gains", "once without metadata"),
    **entry("nest/loses", "once with metadata", {"k": 2}),
    **entry("gone", "to be deleted", {"k": 1}),
    **entry("nest/gone", "to be deleted, without metadata"),
}
"""What the target holds of the planned keys."""


def many(count: int) -> tuple[Files, Files]:
    """`count` entries more for either end: a third each to be created, overwritten, deleted."""
    source: dict[str, bytes] = {}
    old: dict[str, bytes] = {}
    for number in range(count):
        key = f"many/{number % 3}/{number:03}"
        if number % 3 != 2:
            source |= entry(key, f"new {number}", {"n": number})
        if number % 3 != 0:
            old |= entry(key, f"old {number}", {"n": -number})
    return source, old


@dataclass(frozen=True)
class World:
    """A planned change of a folder store; `place` holds `source`, the plan `p` and the target `t`.

    `before` and `after` are the target's files as they were and as they shall be.
    """

    place: Path
    before: Files
    after: Files

    @property
    def keys(self) -> list[str]:
        """The keys that the plan changes."""
        keys = {key_of(name) for name in self.before.keys() | self.after.keys()} - {None}
        return sorted(
            key
            for key in keys
            if key is not None and files_of(self.before, key) != files_of(self.after, key)
        )


def key_of(name: str) -> str | None:
    """The key to whose entry a file belongs."""
    return next((name.removesuffix(part) for part in PARTS if name.endswith(part)), None)


def files_of(files: Files, key: str) -> tuple[bytes | None, bytes | None]:
    """An entry's two files, None where one is missing."""
    return files.get(f"{key}.md"), files.get(f"{key}.metadata.json")


def build(place: Path, *, extra: int = 0) -> World:
    """Make both ends and the plan, as `hdev plan` does."""
    more_source, more_old = many(extra)
    source = {**SOURCE, **more_source}
    before = {**FOREIGN, **OLD, **more_old}
    write_tree(place / "source", source)
    write_tree(place / "t", before)
    request = planning.Request(
        options=Options(
            overwrite=True,
            delete=True,
            max_delete="100%",
            compare="all",
            include=(),
            exclude=("kept/",),
            limits=Limits(max_entry_bytes=1 << 20),
        ),
        source_label="source",
        target_label="target",
        provenance=Provenance(created="2026-01-01T00:00:00Z", expires=None, tool="test"),
        home="/nowhere",
    )
    with (
        FilesystemBackend(str(place / "source"), must_exist=True) as ours,
        FilesystemBackend(str(place / "t"), must_exist=True) as theirs,
        plandir.create(place / "p", planning.plan(ours, theirs, request), lambda plan: "") as made,
        plandir.Journal(place / "p") as journal,
    ):
        run = engine.Run(run="planning", actor="test", now=lambda: datetime.now(UTC))
        journal.append([engine.make_record("planned", plan_id=made.plan.plan_id, run=run)])
    return World(place=place, before=before, after={**FOREIGN, **source})


def apply(place: Path, source: Path) -> engine.Outcome | None:
    """What `hdev apply` does; None where there was nothing to do."""
    with (
        plandir.load(place / "p") as opened,
        steps.held(opened) as journal,
        FilesystemBackend(str(source), must_exist=True) as ours,
        FilesystemBackend(str(place / "t"), must_exist=False) as theirs,
    ):
        if steps.already_finished(opened, (ours, theirs), journal):
            return None
        return steps.carry_out(opened, (ours, theirs), journal, policy=str, approvals=tuple)[0]


def write_tree(folder: Path, files: Files) -> None:
    """Write files below a new folder; a path that ends in a slash is an empty folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def read_tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def below(files: Files, folder: str) -> dict[str, bytes]:
    """The files below one folder of a tree."""
    prefix = folder + "/"
    return {
        name.removeprefix(prefix): content
        for name, content in files.items()
        if name.startswith(prefix) and not name.endswith("/")
    }


def copy(world: World, place: Path) -> World:
    """The same world, untouched, somewhere else."""
    shutil.copytree(world.place, place)
    return World(place=place, before=world.before, after=world.after)


# What must hold


class Broken(AssertionError):
    """A promise was broken; the text says which, and for which key."""


def records(files: Files, *, torn: bool) -> list[dict[str, object]]:
    """The audit log of the plan in a tree, its chain checked; `torn` allows for a cut last line."""
    text = files.get("p/audit.jsonl", b"")
    lines = text.split(b"\n")
    if lines.pop() and not torn:
        raise Broken("the log ends in a torn line")
    previous = "0" * 64
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError:
            raise Broken(f"record {number} of the log is no record") from None
        if record["seq"] != number or record["prev"] != previous:
            raise Broken(f"record {number} of the log does not follow from the one before")
        previous = hashlib.sha256(line).hexdigest()
        found.append(record)
    return found


def outcomes(log: Iterable[Mapping[str, object]]) -> tuple[set[str], set[str]]:
    """The keys with an intent, and those whose last word is that they are done."""
    intended: set[str] = set()
    done: set[str] = set()
    for record in log:
        key = str(record.get("key", ""))
        match record["event"]:
            case "intent":
                intended.add(key)
                done.discard(key)
            case "done":
                done.add(key)
            case "failed" | "drift":
                done.discard(key)
    return intended, done


def check_any_time(world: World, files: Files) -> None:
    """What holds at every moment, whatever was cut off; `files` is the tree with `p` and `t`.

    Raises Broken.
    """
    target, backup = below(files, "t"), below(files, "p/backup")
    intended, done = outcomes(records(files, torn=True))
    keys = world.keys
    planned = {key + part for key in keys for part in PARTS}
    for name, content in world.before.items():
        if name not in planned and target.get(name) != content:
            raise Broken(f"{name} is no part of the plan and was touched")
    for name in target.keys() - world.before.keys() - planned:
        if not name.rpartition("/")[2].startswith(STAGED_PREFIX):
            raise Broken(f"{name} is no part of the plan and appeared")
    for key in keys:
        old, new, now = (files_of(tree, key) for tree in (world.before, world.after, target))
        for part, found, *ends in zip(PARTS, now, old, new, strict=True):
            if found not in ends:
                raise Broken(f"{key}{part} is neither as before nor as after: {found!r}")
        if now != old:
            if key not in intended:
                raise Broken(f"{key} changed without a record of the intent")
            if old != (None, None) and files_of(backup, key) != old:
                raise Broken(f"{key} changed and its pre-image is not in the backup")
        if key in done and now != new:
            raise Broken(f"{key} is recorded as done and is not")


def check_end(world: World, files: Files, *, swept: bool = True) -> None:
    """What holds when an apply has come to its end; `swept` as long as no power cut came after it,
    which may bring back the name of a file that was removed last. Raises Broken.
    """
    check_any_time(world, files)
    log = records(files, torn=False)
    target, backup = below(files, "t"), below(files, "p/backup")
    for key in world.keys:
        if files_of(target, key) != files_of(world.after, key):
            raise Broken(f"{key} is not as planned")
        old = files_of(world.before, key)
        if old != (None, None) and files_of(backup, key) != old:
            raise Broken(f"the pre-image of {key} is not in the backup")
    if log[-1]["event"] != "finished":
        raise Broken("the log does not end with the end of the run")
    runs = {str(record["run"]) for record in log if swept}
    for name in files:
        last = name.rpartition("/")[2]
        if last.startswith(tuple(f"{STAGED_PREFIX}{run}-" for run in runs)):
            raise Broken(f"{name} was left behind")
