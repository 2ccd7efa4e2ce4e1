"""The review in a terminal: summary first and last, a block for each kind, never colour alone."""

from __future__ import annotations

import io

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hdev_memory.review.document import KINDS, SYMBOLS, Document, cut, rest, sizes, totals

STYLES = {
    "create": "green",
    "overwrite": "yellow",
    "delete": "red",
    "skip": "dim",
    "blocked": "magenta",
}


def render(document: Document, *, width: int, colour: bool, stat: bool = False) -> str:
    """The review as text for a terminal `width` columns wide; `stat` leaves the rows out."""
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=colour,
        color_system="standard" if colour else None,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    draw(document, console, stat=stat)
    assert isinstance(console.file, io.StringIO)
    lines = (line.rstrip() for line in console.file.getvalue().splitlines())
    return "\n".join(lines) + "\n"


def draw(document: Document, console: Console, *, stat: bool = False) -> None:
    """Print the review on a console; the README's picture is made by giving one that records."""
    console.print(Text(totals(document.heading.summary), style="bold"))
    if not stat and cut(document):
        console.print(Text(cut(document), style="bold red"))
    console.print(_head(document))
    if not stat:
        for kind in KINDS:
            if document.rows[kind] or document.omitted[kind]:
                console.print()
                _block(document, kind, console)
    for finding in document.heading.findings:
        console.print()
        console.print(Text(f"Note: {finding.text}"))
    console.print()
    console.print(Text(totals(document.heading.summary), style="bold"))
    console.print(Text(rest(document.heading.summary)))
    console.print(Text(f"Plan id {document.heading.plan_id}"), soft_wrap=True)


def _head(document: Document) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for side, end in (("source", document.heading.source), ("target", document.heading.target)):
        table.add_row(side, Text(f"{end.kind:10}  {end.location}"))
    table.add_row("", Text(document.heading.target.promises, style="dim"))
    table.add_row("options", Text(document.heading.options))
    until = (
        f", expires {document.heading.expires}" if document.heading.expires else ", does not expire"
    )
    table.add_row("made", Text(f"{document.heading.created}{until}"))
    return table


def _block(document: Document, kind: str, console: Console) -> None:
    count = len(document.rows[kind]) + document.omitted[kind]
    console.print(Text(f"{SYMBOLS[kind]} {kind} ({count})", style=f"bold {STYLES[kind]}"))
    table = Table.grid(padding=(0, 2), expand=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", ratio=3)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold", ratio=2)
    for row in document.rows[kind]:
        symbol = Text(f"  {SYMBOLS[kind]}", style=STYLES[kind])
        table.add_row(
            symbol,
            Text(row.key, style=STYLES[kind]),
            Text(sizes(row)),
            Text(row.reason, style="dim"),
        )
    if document.rows[kind]:
        console.print(table)
    if document.omitted[kind]:
        left = f"  … and {document.omitted[kind]} more to {kind}; show them with --full"
        console.print(Text(left, style="bold"))
