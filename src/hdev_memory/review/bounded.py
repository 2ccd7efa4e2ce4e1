"""A review within a number of bytes: rows are left out, the harmless ones first, and counted."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from hdev_memory.errors import UsageError
from hdev_memory.review.document import GRAVEST, Document, Row

CUT_FIRST = GRAVEST[::-1]
"""In this order rows go: what destroys is shown as long as anything is."""


def fit(document: Document, render: Callable[[Document], str], max_bytes: int) -> str:
    """The rendered document in at most `max_bytes` of UTF-8.

    Every row left out is counted in `Document.omitted`, which renderers tell in bold words. Raises
    UsageError where not even the totals fit.
    """
    document = _roughly(document, max_bytes)
    for kind in CUT_FIRST:
        text = render(document)
        if _fits(text, max_bytes):
            return text
        kept = _most(document, kind, render, max_bytes)
        document = _cut(document, kind, kept)
        if kept:
            break
    text = render(document)
    if _fits(text, max_bytes):
        return text
    raise UsageError(
        "The review does not fit.",
        why=f"Its totals alone take {len(text.encode())} bytes, and --max-bytes was {max_bytes}.",
        hint="Give more bytes, or --stat --format terminal.",
    )


def _fits(text: str, max_bytes: int) -> bool:
    return len(text.encode()) <= max_bytes


def _most(document: Document, kind: str, render: Callable[[Document], str], max_bytes: int) -> int:
    """How many rows of a kind may stay; 0 where it does not fit with any."""
    low, high = 0, max(0, len(document.rows[kind]) - 1)
    while low < high:
        middle = (low + high + 1) // 2
        if _fits(render(_cut(document, kind, middle)), max_bytes):
            low = middle
        else:
            high = middle - 1
    return low


def _cut(document: Document, kind: str, kept: int) -> Document:
    rows = document.rows[kind]
    gone = len(rows) - kept
    return msgspec.structs.replace(
        document,
        rows={**document.rows, kind: rows[:kept]},
        omitted={**document.omitted, kind: document.omitted[kind] + gone},
    )


def _roughly(document: Document, max_bytes: int) -> Document:
    """Drop rows that cannot fit whatever else is left out, so that huge plans render fast."""
    for kind in CUT_FIRST:
        taken = kept = 0
        for row in document.rows[kind]:
            taken += _least(row)
            if taken > max_bytes:
                break
            kept += 1
        document = _cut(document, kind, kept)
    return document


def _least(row: Row) -> int:
    """Bytes that a row takes in any rendering, at the very least."""
    return len(row.key.encode()) + 1
