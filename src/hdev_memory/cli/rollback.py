"""`hdev rollback`: write a plan that undoes another one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hdev_memory.cli import options as flags


def rollback(
    plan: flags.PlanPlace,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FOLDER", help="The new plan's folder.")
    ] = None,
    skip_changed: Annotated[
        bool,
        typer.Option("--skip-changed", help="Leave alone what somebody has changed since."),
    ] = False,
    expires: Annotated[
        str, typer.Option("--expires", metavar="SPAN", help="7d, 12h, 30m or never.")
    ] = "7d",
    policy: flags.Policy = None,
    principal: flags.Author = None,
    target_path: flags.TargetPath = None,
    target_url: flags.TargetUrl = None,
    api_key: flags.ApiKey = None,
    target_api_key: flags.TargetApiKey = None,
    insecure_http: flags.InsecureHttp = False,
    json: flags.Json = False,
    json_into: flags.JsonInto = None,
) -> int:
    """Write a plan that puts back what PLAN has changed, from the pre-images that it kept.

    The new plan is reviewed and applied like any other, and can be rolled back itself. Entries that
    somebody has changed since are never overwritten: they are named, and no plan is made unless
    `--skip-changed` leaves them out.
    """
    import contextlib
    from dataclasses import replace

    from hdev_memory import apply as engine
    from hdev_memory import plandir
    from hdev_memory import rollback as undoing
    from hdev_memory.backends import open_backend
    from hdev_memory.backends.base import Where
    from hdev_memory.cli import context, eventlines, policing, steps
    from hdev_memory.config import EndFlags, Resolved, ResolvedEnd, resolve
    from hdev_memory.core.plan import Finding
    from hdev_memory.errors import HdevError
    from hdev_memory.planning import Request

    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(eventlines.told(json=json, into=json_into))
        opened = stack.enter_context(plandir.load(plan))
        shared, own = steps.from_argv(api_key, target_api_key)
        settings = context.settings()
        _, end = steps.ends_of(
            settings, opened, EndFlags(), EndFlags(path=target_path, url=target_url, api_key=own)
        )
        target_end = resolve(
            settings, EndFlags(), end, shared_api_key=shared, insecure_http=insecure_http
        ).target
        target = stack.enter_context(open_backend(target_end.where, must_exist=False))
        engine.check_end("target", opened.plan.head.target, target)
        backup = opened.folder / plandir.BACKUP
        if not backup.is_dir():
            raise HdevError(
                "There are no pre-images of this plan.",
                why="It was never applied from this folder, or they were pruned.",
                hint="hdev audit show tells what happened to it.",
            )
        place = str(backup.absolute())
        source_end = ResolvedEnd(Where("filesystem", place), undoing.LABEL)
        pre_images = stack.enter_context(open_backend(source_end.where, must_exist=True))
        with steps.held(opened) as journal:
            log = plandir.read_audit(opened.folder)
            intended = {record.key for record, _ in log if record.event == "intent"}
            undo = undoing.survey(opened, target, intended, journal.open)
        for changed in undo.changed:
            lines.emit(eventlines.Drift(side="target", **vars(changed)))
            context.note(f"Changed since: {changed.key}")
            steps.tell_states(changed.expected, changed.found, ())
        if undo.changed and not skip_changed:
            raise undoing.ChangedSince(undo.changed)
        readers = undoing.ends(opened, pre_images, target, undo)
        held = sum(1 for _ in readers[1].keys())  # noqa: SIM118 - no dict
        elsewhere = max(0, sum(1 for _ in target.keys()) - held)  # noqa: SIM118 - no dict
        about = Finding(
            rule="rollback",
            level="advisory",
            key=None,
            text=f"This undoes the plan {opened.plan.plan_id}.",
        )

        def adapt(request: Request) -> Request:
            return replace(request, findings=(about,), elsewhere=elsewhere, guarded=False)

        ends = (pre_images, target)
        reviewer = steps.Reviewer(ends)
        made = stack.enter_context(
            steps.make_plan(
                Resolved(source_end, target_end, ()),
                ends,
                steps.Wish(
                    overwrite=True,
                    delete=True,
                    expires=expires,
                    author=steps.author(settings, principal),
                    judge=policing.for_planning(settings, policy, target.endpoint),
                ),
                out,
                Path("plans"),
                review=reviewer,
                lines=lines,
                adapt=adapt,
                readers=readers,
            )
        )
        status = steps.status_of(made, 0)
        policing.emit(made.plan.tail.findings, frozenset(), lines)
        steps.tell_plan(made, reviewer, settings, lines, status, undoes=opened.plan.plan_id)
        return status
