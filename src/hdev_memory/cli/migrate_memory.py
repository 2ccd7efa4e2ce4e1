"""`hdev migrate-memory`: plan and apply in one step; the plan's folder is kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hdev_memory.cli import options as flags

if TYPE_CHECKING:
    from hdev_memory.backends.base import Secret
    from hdev_memory.cli.eventlines import Lines, MigrateEnding
    from hdev_memory.config import EndFlags, Settings


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
    policy: flags.Policy = None,
    insecure_http: flags.InsecureHttp = False,
    parallelism: flags.Parallelism = None,
    json: flags.Json = False,
    json_into: flags.JsonInto = None,
) -> int:
    """Plan and apply in one step. The plan's folder is kept below plans/, with its audit log."""
    from hdev_memory.cli import context, eventlines, steps
    from hdev_memory.config import EndFlags

    with eventlines.told(json=json, into=json_into) as lines:
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
            policy=policy,
            plans=Path("plans"),
            insecure_http=insecure_http,
            parallelism=parallelism,
            lines=lines,
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
    policy: Path | None = None,
    insecure_http: bool = False,
    parallelism: int | None = None,
    lines: Lines | None = None,
) -> int:
    """Migrate, print the statistics, and return the exit status. Raises HdevError."""
    from hdev_memory import apply as engine
    from hdev_memory.cli import context, eventlines, gate, policing, steps
    from hdev_memory.config import resolve
    from hdev_memory.core.diff import Blocked

    lines = lines if lines is not None else eventlines.Lines(json=False)
    resolved = resolve(
        settings,
        source,
        target,
        shared_api_key=shared_api_key,
        insecure_http=insecure_http,
        parallelism=parallelism,
    )
    judge = policing.for_planning(settings, policy, resolved.target.endpoint)
    if not dry_run:
        gate.refuse_one_step(settings, judge.policy if judge is not None else None)
    for warning in resolved.warnings:
        context.warn(warning)
    wish = steps.Wish(
        overwrite=overwrite,
        delete=delete,
        max_delete=max_delete,
        author=settings.get("principal"),
        judge=judge,
    )
    with (
        steps.opened_ends(resolved.source, resolved.target) as ends,
        steps.make_plan(resolved, ends, wish, None, plans, lines=lines) as opened,
    ):
        summary = opened.plan.tail.summary
        policing.emit(opened.plan.tail.findings, frozenset(), lines)
        errors = [(a.key, a.reason) for a in opened.actions() if isinstance(a, Blocked)]
        context.note(f"Plan: {opened.folder}")
        copied, deleted = summary.create + summary.overwrite, summary.delete
        head, complete = None, True
        if (summary.found or summary.writes) and not dry_run:
            with steps.held(opened) as journal:
                asked = gate.Asked(policy=policy)
                gates = policing.Gates(opened, ends, settings, asked, journal, lines)
                try:
                    outcome, receipt = steps.carry_out(
                        opened,
                        ends,
                        journal,
                        policy=gates.policy,
                        approvals=gates.approvals,
                        keep_going=True,
                        lines=lines,
                    )
                except engine.DriftFound as error:
                    steps.tell_drift(error, opened, ends, lines)
                    raise
            copied, deleted = outcome.created + outcome.overwritten, outcome.deleted
            errors += outcome.failures
            head, complete = str(receipt.head), outcome.complete
            context.note(f"Audit head {head}")
            if not complete and outcome.left:
                context.note(f"Stopped: {outcome.stopped}. Next: hdev apply {opened.folder}")
        for key, reason in errors:
            lines.emit(eventlines.Failed(key=key, reason=reason))
        ending = eventlines.MigrateEnding(
            exit=4 if errors or not complete else steps.status_of(opened, 0) if dry_run else 0,
            plan=str(opened.folder),
            plan_id=opened.plan.plan_id,
            dry_run=dry_run,
            total=summary.found,
            copied=copied,
            skipped=summary.skip + summary.unchanged,
            failed=len(errors),
            deleted=deleted,
            head=head,
        )
        lines.emit(ending)
        if not lines.on_stdout:
            if summary.found or summary.writes:
                _print(ending, errors)
            else:
                context.say("No entries found to migrate")
        return ending.exit


def _print(ending: MigrateEnding, errors: list[tuple[str, str]]) -> None:
    """The statistics, in the words that scripts look for."""
    from hdev_memory.cli.context import say
    from hdev_memory.review.inert import inert

    with_errors = " with errors" if errors else ""
    start, were = ("Dry run", "would be") if ending.dry_run else ("Migration", "were")
    say(
        f"{start} completed{with_errors}. {ending.copied} entries {were} copied, "
        f"{ending.skipped} skipped, {ending.failed} failed."
    )
    would = "that would be " if ending.dry_run else ""
    fail = "that would fail" if ending.dry_run else "failed"
    say()
    say("Migration Statistics:")
    say(f"  Total entries found: {ending.total}")
    say(f"  Entries {would}copied: {ending.copied}")
    say(f"  Entries {would}skipped: {ending.skipped}")
    say(f"  Entries {fail}: {ending.failed}")
    if ending.deleted:
        say(f"  Entries {would}deleted in the target: {ending.deleted}")
    if errors:
        say()
        say("Errors:")
        for key, reason in errors:
            say(inert(f"  {key}: {reason}"))
