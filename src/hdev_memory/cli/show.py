"""`hdev show`: a plan, for people or programs."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hdev_memory.cli import options as flags

if TYPE_CHECKING:
    from hdev_memory.review.document import Document, Heading


def show(
    plan: flags.PlanPlace,
    form: Annotated[
        Literal["terminal", "markdown", "html", "json"],
        typer.Option("--format", metavar="FORM", help="terminal, markdown, html or json."),
    ] = "terminal",
    stat: Annotated[
        bool, typer.Option("--stat", help="Only the totals; no end is opened.")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Every action and all that it changes, however many.")
    ] = False,
    only: Annotated[
        Literal["create", "overwrite", "delete", "skip", "blocked"] | None,
        typer.Option(
            "--only",
            metavar="KIND",
            help="Only one kind of action: create, overwrite, delete, skip or blocked.",
        ),
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="GLOB", help="Only keys that match.")
    ] = None,
    max_bytes: Annotated[
        int | None,
        typer.Option(
            "--max-bytes",
            metavar="N",
            min=1,
            help="Keep a terminal or markdown review within N bytes; what is cut is counted.",
        ),
    ] = None,
    no_content: Annotated[
        bool,
        typer.Option("--no-content", help="Open neither end; leave out what entries hold."),
    ] = False,
    source_path: flags.SourcePath = None,
    source_url: flags.SourceUrl = None,
    target_path: flags.TargetPath = None,
    target_url: flags.TargetUrl = None,
    api_key: flags.ApiKey = None,
    source_api_key: flags.SourceApiKey = None,
    target_api_key: flags.TargetApiKey = None,
    insecure_http: flags.InsecureHttp = False,
    out: flags.Out = None,
    detailed_exitcode: Annotated[
        bool, typer.Option("--detailed-exitcode", help="Exit 2 when there is something to do.")
    ] = False,
) -> int:
    """Show a plan for review. The plan is checked to its last byte before anything is shown.

    What its entries hold is read from both ends, and compared with the plan's digests. Where an end
    is out of reach, the review says so. The paths and URLs tell where the ends lie on this machine.
    """
    from hdev_memory import plandir
    from hdev_memory.cli import context, outfile, steps
    from hdev_memory.config import EndFlags
    from hdev_memory.errors import UsageError
    from hdev_memory.review import document, json, reading

    if max_bytes is not None and form in ("json", "html"):
        raise UsageError(
            "--max-bytes is for reviews that are text.",
            why=f"{form} that was cut is not {form}.",
            hint="Drop it, or take --format terminal or markdown.",
        )
    shared, own_source, own_target = steps.from_argv(api_key, source_api_key, target_api_key)

    with plandir.load(plan) as opened:

        def described() -> document.Document:
            if stat:
                return document.bare(heading)
            if no_content:
                looked = steps.unread(opened)
            else:
                looked = steps.look(
                    opened,
                    context.settings(),
                    EndFlags(path=source_path, url=source_url, api_key=own_source),
                    EndFlags(path=target_path, url=target_url, api_key=own_target),
                    shared_api_key=shared,
                    insecure_http=insecure_http,
                    bounds=reading.FULL if full else reading.BRIEF,
                    only=only,
                    key=key,
                )
            return document.describe(
                opened, heading, looked, limit=None if full else 200, only=only, key=key
            )

        if form == "json":
            # Its document holds nothing of the log and the approvals: they are not read for it.
            parts = json.render(opened, json.Filter(only, key, stat))
        else:
            heading = steps.heading(opened, context.settings())
            if form == "html":
                parts = iter([_html(described())])
            elif form == "markdown":
                parts = _markdown(described(), max_bytes)
            else:
                colour = out is None and context.colour(sys.stdout)
                parts = _terminal(heading, described, colour, max_bytes)
        if out is not None:
            outfile.write(out, parts, what="The review")
        else:
            context.say_parts(parts)
        return 2 if detailed_exitcode and opened.plan.tail.summary.writes else 0


def _terminal(
    heading: Heading,
    described: Callable[[], Document],
    colour: bool,
    max_bytes: int | None,
) -> Iterator[str]:
    """The head first: what the entries hold takes its time."""
    from hdev_memory.cli import context
    from hdev_memory.review import bounded, terminal

    look = terminal.Look(context.width(), colour)
    if max_bytes is not None:
        render = functools.partial(terminal.render, width=look.width, colour=colour)
        yield bounded.fit(described(), render, max_bytes)
        return
    for line in terminal.head(heading, look):
        yield line + "\n"
    for line in terminal.body(described(), look):
        yield line + "\n"


def _markdown(described: Document, max_bytes: int | None) -> Iterator[str]:
    from hdev_memory.review import bounded, markdown

    if max_bytes is None:
        yield markdown.render(described)
    else:
        yield bounded.fit(described, markdown.render, max_bytes)


def _html(described: Document) -> str:
    from hdev_memory.review import html

    return html.render(described)
