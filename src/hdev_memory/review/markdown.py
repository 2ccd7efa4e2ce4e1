"""The review as Markdown, for `review.md` and comments: foreign text stands in fences only."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from hdev_memory.review.contents import ContentChange
from hdev_memory.review.document import (
    GRAVEST,
    SYMBOLS,
    Document,
    Heading,
    Row,
    approval,
    lines_changed,
    rest,
    sizes,
    totals,
    warnings,
)
from hdev_memory.review.reading import Details

_FENCE = "```"


def render(document: Document) -> str:
    """Markdown that says what the plan does; no link, image, mention or HTML comes from content."""
    loud = [f"**{text}**" for text in warnings(document)]
    if document.why:
        loud.append("**CONTENTS COULD NOT ALL BE READ, OR WERE LEFT OUT:**")
    parts = [
        "# Review of a memory migration plan",
        f"**{totals(document.heading.summary)}** {rest(document.heading.summary)}",
        *loud,
        *([fenced([document.why])] if document.why else []),
        fenced(_facts(document.heading)),
    ]
    for kind in GRAVEST:
        if document.rows[kind] or document.omitted[kind]:
            parts += _block(document, kind)
    if document.heading.findings:
        parts += ["## Findings", fenced(_findings(document.heading))]
    parts += [
        *loud,
        f"**{totals(document.heading.summary)}**",
        "The plan id covers everything, also what is not shown here.",
    ]
    return "\n\n".join(parts) + "\n"


def _facts(heading: Heading) -> Iterator[str]:
    yield f"source  {heading.source.kind}  {heading.source.location}"
    yield f"        CAS {heading.source.cas}"
    yield f"target  {heading.target.kind}  {heading.target.location}"
    yield f"        CAS {heading.target.cas}: {heading.target.promises}"
    yield f"options {heading.options}"
    by = f" by {heading.author}" if heading.author is not None else ""
    yield f"made    {heading.created}{by}"
    yield f"expires {heading.expires or 'never'}"
    yield f"plan id {heading.plan_id}"
    yield f"effect  sha256:{heading.effect}"
    if heading.audit is not None:
        audit = heading.audit
        yield f"audit   {audit.seq}:{audit.digest} ({audit.event} {audit.time})"
    for one in heading.approvals:
        yield f"approval {approval(one)}"


def _block(document: Document, kind: str) -> Iterator[str]:
    """All rows of a kind, numbered, and then what is told of single ones."""
    rows, omitted = document.rows[kind], document.omitted[kind]
    yield f"## {kind} ({len(rows) + omitted})"
    if rows:
        yield fenced(line for number, row in enumerate(rows, 1) for line in _lines(number, row))
    if omitted:
        yield f"**{omitted} more to {kind} are not shown here.**"
    for number, row in enumerate(rows, 1):
        if row.details is not None and row.details != _NOTHING:
            yield from _entry(number, row, row.details)


_NOTHING = Details()


def _lines(number: int, row: Row) -> Iterator[str]:
    parts = (row.key, sizes(row), lines_changed(row.details), f"({row.reason})")
    yield f"{SYMBOLS[row.kind]} {number}. " + "  ".join(filter(None, parts))
    yield from (f"    ! LOOKS LIKE {twin}" for twin in row.twins)
    if row.details is not None and row.details.drift:
        yield f"    ! DRIFT: {row.details.drift}"


def _entry(number: int, row: Row, details: Details) -> Iterator[str]:
    """What there is to see of one entry, folded away; the summary holds words of ours alone."""
    yield f"<details>\n<summary>{row.kind} {number}: {_summary(details)}</summary>"
    yield fenced(_remarks(row, details))
    if details.content is not None and details.content.hunks:
        yield fenced(_difference(details.content), "diff")
    if details.content is not None and details.content.left:
        yield f"**{details.content.left} more lines of this difference are not shown here.**"
    yield "</details>"


def _summary(details: Details) -> str:
    if details.drift:
        return "DRIFT"
    parts = []
    if details.content is not None:
        parts.append(f"lines: {details.content.removed} removed, {details.content.added} added")
    metadata = len(details.metadata) + details.metadata_left
    if metadata:
        parts.append(f"{metadata} {'change' if metadata == 1 else 'changes'} of metadata")
    return "; ".join(parts) or "see inside"


def _remarks(row: Row, details: Details) -> Iterator[str]:
    yield row.key
    if details.drift:
        yield f"! DRIFT: {details.drift}"
    if details.note:
        yield f"* {details.note}"
    for change in details.metadata:
        yield f"* {'bookkeeping' if change.bookkeeping else 'metadata'} {change.line}"
    if details.metadata_left:
        yield f"* … and {details.metadata_left} more of metadata"


def _difference(content: ContentChange) -> Iterator[str]:
    for hunk in content.hunks:
        yield hunk.header
        yield from (line.mark + line.text for line in hunk.lines)


def _findings(heading: Heading) -> Iterator[str]:
    for finding in heading.findings:
        yield f"{finding.level:8}  {finding.rule}  {finding.text}"
        if finding.key is not None:
            yield f"          at {finding.place}"
        if finding.digest is not None:
            yield f"          is {finding.digest}"


def fenced(lines: Iterable[str], language: str = "text") -> str:
    """The lines in a fence longer than any run of backticks in them."""
    text = "\n".join(lines)
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(len(_FENCE), longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
