"""`hdev audit show`: a plan's log as a timeline."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from hdev_memory.cli import options as flags

if TYPE_CHECKING:
    from hdev_memory.core.audit import Headmark, Record
    from hdev_memory.plandir import OpenPlan
    from hdev_memory.review.timeline.story import Totals, Wanted

Form = Literal["terminal", "json", "html", "csv"]


def audit_show(
    plan: flags.PlanPlace,
    form: Annotated[
        Form,
        typer.Option("--format", metavar="FORM", help="terminal, json, html or csv."),
    ] = "terminal",
    out: flags.Out = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="GLOB", help="Only records of keys that match.")
    ] = None,
    event: Annotated[
        str | None,
        typer.Option("--event", metavar="EVENT", help="Only this event, for example refused."),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option("--run", metavar="RUN", help="Only the runs whose name begins so."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> int:
    """Show the audit log as a timeline: run by run, who, when, and what became of each entry.

    The whole log is checked first; of one that was tampered with nothing is shown.
    """
    import msgspec

    from hdev_memory import plandir
    from hdev_memory.cli import context, outfile
    from hdev_memory.core.audit import Event
    from hdev_memory.errors import UsageError
    from hdev_memory.review.timeline import story

    try:
        wanted = story.Wanted(key=key, event=msgspec.convert(event, Event | None), run=run)
    except msgspec.ValidationError:
        raise UsageError(
            "There is no such event.",
            why=f"--event was {event!r}.",
            hint=f"Give one of {', '.join(get_args(Event))}.",
        ) from None
    with plandir.load(plan) as opened:
        taken = 0

        def counted() -> Iterator[tuple[Record, Headmark]]:
            nonlocal taken
            for record, head in plandir.read_audit(opened.folder, opened.plan.plan_id):
                taken += wanted.takes(record)
                yield record, head

        totals = story.totals(opened.plan.plan_id, counted())
        parts = _rendered(opened, totals, wanted, "json" if json else form, to_file=out is not None)
        if out is not None:
            outfile.write(out, parts, what="The timeline")
        else:
            context.say_parts(parts)
        if not taken and wanted != story.Wanted():
            context.note(f"Note: none of the {totals.records} records of the log matches.")
    return 0


def _rendered(
    opened: OpenPlan, totals: Totals, wanted: Wanted, form: Form, *, to_file: bool
) -> Iterator[str]:
    from hdev_memory.cli import context
    from hdev_memory.review.timeline import csv, html, json, story, terminal

    records = _records(opened, totals.records)
    match form:
        case "terminal":
            colour = not to_file and context.colour(sys.stdout)
            return terminal.render(totals, story.tell(records, wanted), colour=colour)
        case "html":
            return html.render(totals, story.tell(records, wanted))
        case "json":
            return json.render(totals, filter(wanted.takes, records))
        case "csv":
            return csv.render(filter(wanted.takes, records))


def _records(opened: OpenPlan, count: int) -> Iterator[Record]:
    """The records that were counted; a run that goes on meanwhile adds others behind them."""
    from itertools import islice

    from hdev_memory import plandir

    for record, _ in islice(plandir.read_audit(opened.folder, opened.plan.plan_id), count):
        yield record
