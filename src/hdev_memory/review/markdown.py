"""The review as Markdown, for `review.md`: foreign text stands in fenced blocks only."""

from __future__ import annotations

from hdev_memory.review.document import GRAVEST, SYMBOLS, Document, Row, cut, rest, sizes, totals

FENCE = "`" * 3


def render(document: Document) -> str:
    """Markdown that says what the plan does; no link, image, mention or HTML comes from content."""
    lines = [
        "# Review of a memory migration plan",
        "",
        f"**{totals(document.heading.summary)}** {rest(document.heading.summary)}",
        *(["", f"**{cut(document)}**"] if cut(document) else []),
        "",
        *_fenced(
            [
                f"source  {document.heading.source.kind}  {document.heading.source.location}",
                f"target  {document.heading.target.kind}  {document.heading.target.location}",
                f"        {document.heading.target.promises}",
                f"options {document.heading.options}",
                f"made    {document.heading.created}",
                f"expires {document.heading.expires or 'never'}",
                f"plan id {document.heading.plan_id}",
                f"effect  sha256:{document.heading.effect}",
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
    if document.heading.findings:
        lines += [
            "",
            "## Notes",
            "",
            *_fenced([finding.text for finding in document.heading.findings]),
        ]
    lines += ["", "The plan id covers everything, also what is not shown here.", ""]
    return "\n".join(lines)


def _lines(row: Row) -> list[str]:
    return [f"{SYMBOLS[row.kind]} {row.key}  {sizes(row)}  ({row.reason})"]


def _fenced(lines: list[str]) -> list[str]:
    """The lines in a fence longer than any run of backticks in them."""
    fence = FENCE
    while any(fence in line for line in lines):
        fence += "`"
    return [f"{fence}text", *lines, fence]
