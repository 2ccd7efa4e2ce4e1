"""`hdev migrate-memory`: plan and apply in one step; the plan's folder is kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hdev_memory.cli import options as flags

if TYPE_CHECKING:
    from hdev_memory.backends.base import Secret
    from hdev_memory.config import EndFlags, Settings
    from hdev_memory.core.plan import Summary


def migrate_memory(
    source: flags.Source = None,
    target: flags.Target = None,
    source_path: flags.SourcePath = None,
    source_url: flags.SourceUrl = None,
    target_path: flags.TargetPath = None,
    target_url: flags.TargetUrl = None,
    api_key: flags.ApiKey = None,
    source_api_key: flags.SourceApiKey = None,
    target_api_key: flags.TargetApiKey = None,
    dry_run: bool = typer.Option(False, "--dry-run", help="Plan only, and print the statistics."),
    overwrite: flags.Overwrite = False,
    delete: flags.Delete = False,
    max_delete: flags.MaxDelete = None,
    insecure_http: flags.InsecureHttp = False,
) -> int:
    """Plan and apply in one step. The plan's folder is kept below plans/, with its audit log."""
    from hdev_memory.cli import context, steps
    from hdev_memory.config import EndFlags

    shared, own_source, own_target = steps.from_argv(api_key, source_api_key, target_api_key)
    return run_migration(
        context.settings(),
        EndFlags(source, None, source_path, source_url, own_source),
        EndFlags(target, None, target_path, target_url, own_target),
        shared_api_key=shared,
        dry_run=dry_run,
        overwrite=overwrite,
        delete=delete,
        max_delete=max_delete,
        plans=Path("plans"),
        insecure_http=insecure_http,
    )


def run_migration(
    settings: Settings,
    source: EndFlags,
    target: EndFlags,
    *,
    shared_api_key: Secret | None,
    dry_run: bool,
    overwrite: bool,
    plans: Path,
    delete: bool = False,
    max_delete: str | None = None,
    insecure_http: bool = False,
) -> int:
    """Migrate, print the statistics, and return the exit status. Raises HdevError."""
    from hdev_memory import apply as engine
    from hdev_memory.cli import context, steps
    from hdev_memory.config import resolve
    from hdev_memory.core.diff import Blocked

    resolved = resolve(
        settings, source, target, shared_api_key=shared_api_key, insecure_http=insecure_http
    )
    for warning in resolved.warnings:
        context.warn(warning)
    wish = steps.Wish(overwrite=overwrite, delete=delete, max_delete=max_delete)
    with (
        steps.opened_ends(resolved.source, resolved.target) as ends,
        steps.make_plan(resolved, ends, wish, None, plans) as opened,
    ):
        summary = opened.plan.tail.summary
        errors = [(a.key, a.reason) for a in opened.actions() if isinstance(a, Blocked)]
        context.note(f"Plan: {opened.folder}")
        if not summary.found and not summary.writes:
            context.say("No entries found to migrate")
            return 4 if errors else 0
        if dry_run:
            _print(summary, summary.create + summary.overwrite, errors, conditional=True)
            return 4 if errors else 0
        with steps.held(opened) as journal:
            try:
                outcome, receipt = steps.carry_out(opened, ends, journal, keep_going=True)
            except engine.DriftFound as error:
                steps.print_drift(error, json=False)
                raise
        copied = outcome.created + outcome.overwritten
        errors += outcome.failures
        _print(summary, copied, errors, conditional=False)
        context.note(f"Audit head {receipt.head}")
        if not outcome.complete and outcome.left:
            context.note(f"Stopped: {outcome.stopped}. Next: hdev apply {opened.folder}")
        return 4 if errors or not outcome.complete else 0


def _print(
    summary: Summary, copied: int, errors: list[tuple[str, str]], *, conditional: bool
) -> None:
    """The statistics, in the words that scripts look for."""
    from hdev_memory.cli.context import say
    from hdev_memory.review.inert import inert

    skipped = summary.skip + summary.unchanged
    with_errors = " with errors" if errors else ""
    if conditional:
        say(
            f"Dry run completed{with_errors}. {copied} entries would be copied, "
            f"{skipped} skipped, {len(errors)} failed."
        )
    else:
        say(
            f"Migration completed{with_errors}. {copied} entries were copied, "
            f"{skipped} skipped, {len(errors)} failed."
        )
    would = "that would be " if conditional else ""
    fail = "that would fail" if conditional else "failed"
    say()
    say("Migration Statistics:")
    say(f"  Total entries found: {summary.found}")
    say(f"  Entries {would}copied: {copied}")
    say(f"  Entries {would}skipped: {skipped}")
    say(f"  Entries {fail}: {len(errors)}")
    if summary.delete:
        say(f"  Entries {would}deleted in the target: {summary.delete}")
    if errors:
        say()
        say("Errors:")
        for key, reason in errors:
            say(inert(f"  {key}: {reason}"))
