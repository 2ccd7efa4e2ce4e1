"""`hdev plan`: compare two memories and write a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hdev_memory.cli import options as flags


def plan(
    source_endpoint: Annotated[
        str | None, typer.Argument(metavar="SOURCE", help="Where entries come from, as --source.")
    ] = None,
    target_endpoint: Annotated[
        str | None, typer.Argument(metavar="TARGET", help="Where entries go, as --target.")
    ] = None,
    source: flags.Source = None,
    target: flags.Target = None,
    source_path: flags.SourcePath = None,
    source_url: flags.SourceUrl = None,
    target_path: flags.TargetPath = None,
    target_url: flags.TargetUrl = None,
    api_key: flags.ApiKey = None,
    source_api_key: flags.SourceApiKey = None,
    target_api_key: flags.TargetApiKey = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FOLDER", help="The plan's folder.")
    ] = None,
    overwrite: flags.Overwrite = False,
    delete: flags.Delete = False,
    max_delete: flags.MaxDelete = None,
    include: flags.Include = None,
    exclude: flags.Exclude = None,
    compare: Annotated[
        Literal["content", "all"],
        typer.Option(
            "--compare", help="What makes entries differ: also metadata, or only content."
        ),
    ] = "all",
    expires: Annotated[
        str, typer.Option("--expires", metavar="SPAN", help="7d, 12h, 30m or never.")
    ] = "7d",
    detailed_exitcode: Annotated[
        bool, typer.Option("--detailed-exitcode", help="Exit 2 when there is something to do.")
    ] = False,
    no_content: Annotated[
        bool,
        typer.Option(
            "--no-content",
            help="Leave what entries hold out of the review (differences of content and metadata).",
        ),
    ] = False,
    no_cache: Annotated[
        bool,
        typer.Option(
            "--no-cache",
            help="Read every file; else not those of a folder whose stats are as at the last plan.",
        ),
    ] = False,
    policy: flags.Policy = None,
    principal: flags.Author = None,
    insecure_http: flags.InsecureHttp = False,
    parallelism: flags.Parallelism = None,
    json: flags.Json = False,
    json_into: flags.JsonInto = None,
) -> int:
    """Compare SOURCE with TARGET and write a plan that can be reviewed, approved and applied.

    An endpoint is `filesystem`, `filesystem:PATH`, `http:https://HOST`, `https://HOST`, or the name
    of an environment from hdev.toml; the source is the local memory unless it is given. A PATTERN
    is one of gitignore, matched against keys. Nothing is written but the plan's folder. Where the
    policy has a hard finding the plan is written for review, and the exit is 5.
    """
    import contextlib

    from hdev_memory.cli import context, eventlines, policing, steps
    from hdev_memory.config import EndFlags, resolve
    from hdev_memory.errors import UsageError

    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(eventlines.told(json=json, into=json_into))
        if source_endpoint and source:
            raise UsageError("The source was given twice.", hint="Drop SOURCE, or --source.")
        if target_endpoint and target:
            raise UsageError("The target was given twice.", hint="Drop TARGET, or --target.")
        shared, own_source, own_target = steps.from_argv(api_key, source_api_key, target_api_key)
        settings = context.settings()
        resolved = resolve(
            settings,
            EndFlags(source_endpoint or source, None, source_path, source_url, own_source),
            EndFlags(target_endpoint or target, None, target_path, target_url, own_target),
            shared_api_key=shared,
            insecure_http=insecure_http,
            parallelism=parallelism,
        )
        for warning in resolved.warnings:
            context.warn(warning)
        wish = steps.Wish(
            overwrite,
            delete,
            max_delete,
            compare,
            tuple(include or ()),
            tuple(exclude or ()),
            expires,
            steps.author(settings, principal),
            policing.for_planning(settings, policy, resolved.target.endpoint),
        )
        index = None if no_cache else context.cache_folder()
        ends = stack.enter_context(steps.opened_ends(resolved.source, resolved.target, index=index))
        review = steps.Reviewer(ends, content=not no_content)
        opened = stack.enter_context(
            steps.make_plan(resolved, ends, wish, out, Path("plans"), review=review, lines=lines)
        )
        status = 2 if detailed_exitcode and opened.plan.tail.summary.writes else 0
        status = steps.status_of(opened, status)
        policing.emit(opened.plan.tail.findings, frozenset(), lines)
        steps.tell_plan(opened, review, settings, lines, status)
        return status
