"""A review within a number of bytes: what is left out goes the harmless first, and is counted."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from hdev_memory.errors import UsageError
from hdev_memory.review.document import GRAVEST, Document, FindingLine, Row, sizes

CUT_FIRST = GRAVEST[::-1]
"""In this order contents go, and then rows: what destroys is listed as long as anything is."""


ROUNDS = 8
"""Renderings that looking for the most rows of one kind may take."""

FINDINGS = 50
"""Findings that stay where not all of the review fits."""

_LEVELS = ("hard", "soft", "advisory")

Cut = Callable[[Document, str, int], Document]
"""The document with so many first rows, or first contents, of a kind."""


def fit(document: Document, render: Callable[[Document], str], max_bytes: int) -> str:
    """The rendered document in at most `max_bytes` of UTF-8.

    Contents go first, then all but the gravest findings, then rows; drift is told as long as its
    row is there. What is left out is counted in `Document.unread`, a last finding, and
    `Document.omitted`, which renderers tell in bold words. Raises UsageError where not even the
    totals fit.
    """
    document = _roughly(document, max_bytes)
    text = render(document)
    for cut in (_without_contents, _without_rows):
        if cut is _without_rows and _size(text) > max_bytes:
            document = _without_findings(document)
            text = render(document)
        for kind in CUT_FIRST:
            if _size(text) > max_bytes and document.rows[kind]:
                document = cut(document, kind, _most(document, kind, cut, render, max_bytes, text))
                text = render(document)
    if _size(text) <= max_bytes:
        return text
    raise UsageError(
        "The review does not fit.",
        why=f"Its totals alone take {_size(text)} bytes, and --max-bytes was {max_bytes}.",
        hint="Give more bytes, or --stat --format terminal.",
    )


def _size(text: str) -> int:
    return len(text.encode())


def _most(
    document: Document,
    kind: str,
    cut: Cut,
    render: Callable[[Document], str],
    max_bytes: int,
    text: str,
) -> int:
    """How many of a kind may stay, or hardly fewer; 0 where it does not fit with any.

    `text` is that with all of them, too long. Sizes grow nearly in line with rows, so each guess
    lies on the line between the best that fits and the best that does not.
    """
    low, low_size = 0, _size(render(cut(document, kind, 0)))
    high, high_size = len(document.rows[kind]), _size(text)
    if low_size > max_bytes:
        return 0
    for _ in range(ROUNDS):
        if high - low <= 1:
            break
        share = (max_bytes - low_size) / max(1, high_size - low_size)
        guess = min(max(low + int(share * (high - low)), low + 1), high - 1)
        found = _size(render(cut(document, kind, guess)))
        if found <= max_bytes:
            low, low_size = guess, found
        else:
            high, high_size = guess, found
    return low


def _without_rows(document: Document, kind: str, kept: int) -> Document:
    rows = document.rows[kind]
    gone = rows[kept:]
    unread = sum(row.details is not None for row in gone)
    return msgspec.structs.replace(
        document,
        rows={**document.rows, kind: rows[:kept]},
        omitted={**document.omitted, kind: document.omitted[kind] + len(gone)},
        unread={**document.unread, kind: document.unread.get(kind, 0) + unread},
    )


def _without_contents(document: Document, kind: str, kept: int) -> Document:
    rows = document.rows[kind]
    bare = [_bare(row) for row in rows[kept:]]
    unread = sum(
        row.details is not None and without.details is None
        for row, without in zip(rows[kept:], bare, strict=True)
    )
    return msgspec.structs.replace(
        document,
        rows={**document.rows, kind: rows[:kept] + bare},
        unread={**document.unread, kind: document.unread.get(kind, 0) + unread},
    )


def _without_findings(document: Document) -> Document:
    """The gravest findings, and one more that counts the others."""
    findings = sorted(document.heading.findings, key=lambda found: _LEVELS.index(found.level))
    left = findings[FINDINGS:]
    if not left:
        return document
    more = FindingLine(
        level=left[0].level,
        rule="cut",
        key=None,
        text=f"NOT SHOWN HERE: {len(left)} more findings.",
    )
    heading = msgspec.structs.replace(document.heading, findings=(*findings[:FINDINGS], more))
    return msgspec.structs.replace(document, heading=heading)


def _bare(row: Row) -> Row:
    if row.details is None or row.details.drift:
        return row
    return msgspec.structs.replace(row, details=None)


def _roughly(document: Document, max_bytes: int) -> Document:
    """Drop rows that cannot fit whatever else is left out, so that huge plans render fast."""
    for kind in CUT_FIRST:
        taken = kept = 0
        for row in document.rows[kind]:
            taken += _least(row)
            if taken > max_bytes:
                break
            kept += 1
        document = _without_rows(document, kind, kept)
    return document


def _least(row: Row) -> int:
    """Bytes that a row takes in any rendering, at the very least (folding may eat spaces)."""
    texts = (row.key, row.reason, sizes(row))
    return sum(_size(text.replace(" ", "")) for text in texts) + 1
