"""The review as Markdown, for `review.md`: foreign text stands in fenced blocks only."""

from __future__ import annotations

from hdev_memory.review.document import GRAVEST, SYMBOLS, Document, Row, cut, rest, sizes, totals

FENCE = "`" * 3


def render(document: Document) -> str:
    """Markdown that says what the plan does; no link, image, mention or HTML comes from content."""
    lines = [
        "# Review of a memory migration plan",
        "",
        f"**{totals(document.summary)}** {rest(document.summary)}",
        *(["", f"**{cut(document)}**"] if cut(document) else []),
        "",
        *_fenced(
            [
                f"source  {document.source.kind}  {document.source.location}",
                f"target  {document.target.kind}  {document.target.location}",
                f"        {document.target.promises}",
                f"options {document.options}",
                f"made    {document.created}, expires {document.expires or 'never'}",
                f"plan id {document.plan_id}",
                f"effect  sha256:{document.effect}",
            ]
        ),
    ]
    for kind in GRAVEST:
        rows = document.rows[kind]
        if not rows and not document.omitted[kind]:
            continue
        lines += ["", f"## {kind} ({len(rows) + document.omitted[kind]})", ""]
        if rows:
            lines += [*_fenced([line for row in rows for line in _lines(row)]), ""]
        if document.omitted[kind]:
            lines += [f"**{document.omitted[kind]} more to {kind} are not shown here.**", ""]
        lines.pop()
    if document.findings:
        lines += ["", "## Notes", "", *_fenced(list(document.findings))]
    lines += ["", "The plan id covers everything, also what is not shown here.", ""]
    return "\n".join(lines)


def _lines(row: Row) -> list[str]:
    first = f"{SYMBOLS[row.kind]} {row.key}  {sizes(row)}  ({row.reason})"
    return [first, *(f"    metadata  {line}" for line in row.details)]


def _fenced(lines: list[str]) -> list[str]:
    """The lines in a fence longer than any run of backticks in them."""
    fence = FENCE
    while any(fence in line for line in lines):
        fence += "`"
    return [f"{fence}text", *lines, fence]
