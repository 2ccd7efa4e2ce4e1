"""`hdev backups`: the pre-images that plans have kept, and how to be rid of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hdev_memory.cli import options as flags

if TYPE_CHECKING:
    from hdev_memory.plandir import Kept, OpenPlan

Plans = Annotated[
    Path, typer.Argument(metavar="[FOLDER]", help="The folder of the plans, or one plan's folder.")
]


def backups_list(plans: Plans = Path("plans"), json: flags.Json = False) -> int:
    """List the plans below FOLDER that keep pre-images: how many, and whether they are finished."""
    from hdev_memory.cli import context
    from hdev_memory.review.document import size

    found = [kept for _, kept in _kept(plans)]
    if json:
        context.print_json({"type": "version", "format": "hdev-backups/1"})
        for kept in found:
            context.print_json({"type": "backup", **_shape(kept)})
        context.print_json({"type": "summary", "backups": len(found)})
        return 0
    for kept in found:
        state = f"finished {kept.finished}" if kept.finished else "unfinished"
        context.say_foreign(f"{kept.folder}  {_counted(kept)}, {size(kept.bytes)}  {state}")
    if not found:
        context.say("No plan keeps pre-images here.")
    return 0


def backups_prune(
    plans: Plans = Path("plans"),
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="SPAN", help="Finished so long ago: 30d, 12h.")
    ] = "30d",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be removed.")
    ] = False,
) -> int:
    """Remove the pre-images of plans that were finished long enough ago.

    Those of an unfinished run are never removed: it may still have to be resumed or rolled back. A
    plan without its pre-images cannot be rolled back; its log says when they were removed.
    """
    from datetime import datetime

    from hdev_memory import plandir
    from hdev_memory.cli import context, steps
    from hdev_memory.errors import LockedError, UsageError

    span = steps.parse_expiry(older_than, flag="--older-than")
    if span is None:
        raise UsageError("Pre-images are always older than never.", hint="Give for example 30d.")
    removed = 0
    for opened, kept in _kept(plans):
        if not kept.finished:
            context.say_foreign(f"{kept.folder}: left alone, its run is not finished")
            continue
        if datetime.fromisoformat(kept.finished) + span > context.now():
            continue
        if not dry_run:
            try:
                with steps.held(opened) as journal:
                    if plandir.finished(journal.records) != kept.finished:
                        continue  # another run has begun since it was looked at
                    steps.record_pruned(opened, journal, kept)
                    plandir.prune(opened.folder)
            except LockedError:
                context.say_foreign(f"{kept.folder}: left alone, an apply is running")
                continue
        removed += 1
        verb = "would be removed" if dry_run else "removed"
        context.say_foreign(f"{kept.folder}: {_counted(kept)} {verb}")
    context.say(f"{removed} {'would be ' if dry_run else ''}pruned.")
    return 0


def _kept(plans: Path) -> Iterator[tuple[OpenPlan, Kept]]:
    from hdev_memory import plandir

    for folder in plandir.with_backups(plans):
        with plandir.load(folder) as opened:
            yield opened, plandir.kept(opened)


def _counted(kept: Kept) -> str:
    return f"{kept.entries} pre-image{'' if kept.entries == 1 else 's'}"


def _shape(kept: Kept) -> dict[str, object]:
    return {
        "plan": str(kept.folder),
        "entries": kept.entries,
        "bytes": kept.bytes,
        "finished": kept.finished,
    }
