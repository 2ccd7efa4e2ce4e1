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


def backups_list(
    plans: Plans = Path("plans"), json: flags.Json = False, json_into: flags.JsonInto = None
) -> int:
    """List the plans below FOLDER that keep pre-images: how many, and whether they are finished."""
    from hdev_memory.cli import context, eventlines
    from hdev_memory.review.document import size

    with eventlines.told(json=json, into=json_into) as lines:
        count = 0
        for _, kept in _kept(plans):
            count += 1
            lines.emit(
                eventlines.Backup(kept.folder, kept.entries, kept.bytes, kept.finished or None)
            )
            if not lines.on_stdout:
                state = f"finished {kept.finished}" if kept.finished else "unfinished"
                context.say_foreign(f"{kept.folder}  {_counted(kept)}, {size(kept.bytes)}  {state}")
        lines.emit(eventlines.BackupsEnding(exit=0, backups=count))
        if not count and not lines.on_stdout:
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
    json: flags.Json = False,
    json_into: flags.JsonInto = None,
) -> int:
    """Remove the pre-images of plans that were finished long enough ago.

    Those of an unfinished run are never removed: it may still have to be resumed or rolled back. A
    plan without its pre-images cannot be rolled back; its log says when they were removed.
    """
    from datetime import datetime

    from hdev_memory import plandir
    from hdev_memory.cli import context, eventlines, steps
    from hdev_memory.errors import LockedError, UsageError

    with eventlines.told(json=json, into=json_into) as lines:

        def spare(kept: Kept, why: str) -> None:
            lines.emit(eventlines.Spared(plan=kept.folder, why=why))
            if not lines.on_stdout:
                context.say_foreign(f"{kept.folder}: left alone, {why}")

        span = steps.parse_expiry(older_than, flag="--older-than")
        if span is None:
            raise UsageError(
                "Pre-images are always older than never.", hint="Give for example 30d."
            )
        removed = 0
        for opened, kept in _kept(plans):
            if not kept.finished:
                spare(kept, "its run is not finished")
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
                    spare(kept, "an apply is running")
                    continue
            removed += 1
            lines.emit(eventlines.Pruned(kept.folder, kept.entries, kept.bytes))
            if not lines.on_stdout:
                verb = "would be removed" if dry_run else "removed"
                context.say_foreign(f"{kept.folder}: {_counted(kept)} {verb}")
        lines.emit(eventlines.PruneEnding(exit=0, dry_run=dry_run, pruned=removed))
        if not lines.on_stdout:
            context.say(f"{removed} {'would be ' if dry_run else ''}pruned.")
        return 0


def _kept(plans: Path) -> Iterator[tuple[OpenPlan, Kept]]:
    from hdev_memory import plandir

    for folder in plandir.with_backups(plans):
        with plandir.load(folder) as opened:
            yield opened, plandir.kept(opened)


def _counted(kept: Kept) -> str:
    return f"{kept.entries} pre-image{'' if kept.entries == 1 else 's'}"
