"""`hdev diff`: what changed between two plans."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer


def diff(
    first: Annotated[
        Path, typer.Argument(metavar="PLAN1", help="The plan that is known: its folder.")
    ],
    second: Annotated[
        Path, typer.Argument(metavar="PLAN2", help="The plan that is compared with it.")
    ],
    form: Annotated[
        Literal["terminal", "markdown", "json"],
        typer.Option("--format", metavar="FORM", help="terminal, markdown or json."),
    ] = "terminal",
    detailed_exitcode: Annotated[
        bool, typer.Option("--detailed-exitcode", help="Exit 2 when the effects differ.")
    ] = False,
) -> int:
    """Tell what changed from PLAN1 to PLAN2, for example since PLAN1 was approved.

    Both plans are checked to their last byte; neither end is opened. Two plans of the same effect
    do the same to the target, whatever else differs.
    """
    from hdev_memory import plandir
    from hdev_memory.cli import context
    from hdev_memory.review import between
    from hdev_memory.review.terminal import Look

    with plandir.load(first) as before, plandir.load(second) as after:
        comparison = between.compare(before, after)
        found = between.changes(before, after)
        match form:
            case "terminal":
                look = Look(context.width(), context.colour(sys.stdout))
                lines = between.as_terminal(comparison, found, look)
            case "markdown":
                lines = between.as_markdown(comparison, found)
            case "json":
                lines = between.as_json(comparison, found)
        context.say_parts(f"{line}\n" for line in lines)
    return 2 if detailed_exitcode and not comparison.same_effect else 0
