"""`hdev show`: a plan, for people or programs."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from hdev_memory.cli import options as flags


def show(
    plan: flags.PlanPlace,
    form: Annotated[
        Literal["terminal", "markdown", "json"],
        typer.Option("--format", metavar="FORM", help="terminal, markdown or json."),
    ] = "terminal",
    stat: Annotated[bool, typer.Option("--stat", help="Only the totals.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Every action, however many.")] = False,
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
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write it there instead.")
    ] = None,
    detailed_exitcode: Annotated[
        bool, typer.Option("--detailed-exitcode", help="Exit 2 when there is something to do.")
    ] = False,
) -> int:
    """Show a plan for review. The plan is checked to its last byte before anything is shown."""
    from hdev_memory import plandir
    from hdev_memory.cli import context, steps
    from hdev_memory.errors import UsageError
    from hdev_memory.review import bounded, document, json, markdown, terminal

    if form == "json" and max_bytes is not None:
        raise UsageError(
            "--max-bytes is for reviews that people read.",
            why="JSON that was cut is not JSON.",
            hint="Drop it, or take --format terminal or markdown.",
        )

    with plandir.load(plan) as opened:
        if form == "json":
            text = json.render(opened)
        else:
            described = document.describe(
                opened,
                document.head(opened, name=opened.folder.name),
                steps.unread(opened),
                limit=None if full else 200,
                only=only,
                key=key,
            )
            render = markdown.render
            if form == "terminal":
                render = functools.partial(
                    terminal.render,
                    width=context.width(),
                    colour=out is None and context.colour(sys.stdout),
                    stat=stat,
                )
            if max_bytes is not None:
                text = bounded.fit(described, render, max_bytes)
            else:
                text = render(described)
        if out is not None:
            write_out(out.absolute(), text.encode())
        else:
            context.say(text.removesuffix("\n"))
        return 2 if detailed_exitcode and opened.plan.tail.summary.writes else 0


def write_out(path: Path, content: bytes) -> None:
    """Replace a file whole; what is no file (a pipe, /dev/stdout) is written to as it stands."""
    from hdev_memory import durable
    from hdev_memory.errors import HdevError

    try:
        if path.exists() and not path.is_file():
            path.write_bytes(content)
        else:
            durable.write_whole(path, content)
    except OSError as error:
        raise HdevError(
            "The review cannot be written.",
            why=f"{path}: {error.strerror}.",
            hint="Give another file with --out.",
        ) from None
