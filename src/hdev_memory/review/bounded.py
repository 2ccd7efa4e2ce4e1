"""A review within a number of bytes: rows are left out, the harmless ones first, and counted."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from hdev_memory.errors import UsageError
from hdev_memory.review.document import GRAVEST, Document, Row, sizes

CUT_FIRST = GRAVEST[::-1]
"""In this order rows go: what destroys is shown as long as anything is."""


ROUNDS = 8
"""Renderings that looking for the most rows of one kind may take: a terminal's are slow."""


def fit(document: Document, render: Callable[[Document], str], max_bytes: int) -> str:
    """The rendered document in at most `max_bytes` of UTF-8.

    Every row left out is counted in `Document.omitted`, which renderers tell in bold words. Raises
    UsageError where not even the totals fit.
    """
    document = _roughly(document, max_bytes)
    text = render(document)
    for kind in CUT_FIRST:
        if _size(text) > max_bytes and document.rows[kind]:
            kept = _most(document, kind, render, max_bytes, _size(text))
            document = _cut(document, kind, kept)
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
    render: Callable[[Document], str],
    max_bytes: int,
    size: int,
) -> int:
    """How many rows of a kind may stay, or hardly fewer; 0 where it does not fit with any.

    `size` is that with all of them, too large. Sizes grow nearly in line with rows, so each guess
    lies on the line between the best that fits and the best that does not.
    """
    low, low_size = 0, _size(render(_cut(document, kind, 0)))
    high, high_size = len(document.rows[kind]), size
    if low_size > max_bytes:
        return 0
    for _ in range(ROUNDS):
        if high - low <= 1:
            break
        share = (max_bytes - low_size) / max(1, high_size - low_size)
        guess = min(max(low + int(share * (high - low)), low + 1), high - 1)
        found = _size(render(_cut(document, kind, guess)))
        if found <= max_bytes:
            low, low_size = guess, found
        else:
            high, high_size = guess, found
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
    """Bytes that a row takes in any rendering, at the very least (folding may eat spaces)."""
    texts = (row.key, row.reason, sizes(row))
    return sum(_size(text.replace(" ", "")) for text in texts) + 1
