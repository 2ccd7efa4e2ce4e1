"""The records of a log as CSV (RFC 4180), safe to open in a spreadsheet.

A spreadsheet takes a cell that begins with one of `= + - @` (their full-width forms in some
languages, a tab or a CR in others) for a formula, quoted or not. See OWASP, "CSV Injection".
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator

from hdev_memory.core.audit import Record
from hdev_memory.core.entry import State
from hdev_memory.review.inert import inert

COLUMNS = (
    "seq", "time", "run", "actor", "event", "action", "key",
    "before_content", "before_metadata", "before_bytes",
    "after_content", "after_metadata", "after_bytes",
    "observed_content", "observed_metadata", "observed_bytes",
    "reason", "evidence",
)  # fmt: skip

_FORMULA = tuple("=+-@\t\r\uff1d\uff0b\uff0d\uff20'")


def cell(text: str) -> str:
    """Foreign text for one cell; two different texts never give the same cell.

    It is inert, `;` (which parts cells in some countries) is spelled `\\u{3b}`, and where it begins
    with what makes a formula, or with an apostrophe, an apostrophe is put before it.
    """
    shown = inert(text).replace(";", "\\u{3b}")
    return "'" + shown if shown.lstrip(" ").startswith(_FORMULA) else shown


def render(records: Iterable[Record]) -> Iterator[str]:
    """The lines, the names of the columns first, each with its CRLF."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")

    def line(cells: Iterable[str | int]) -> str:
        writer.writerow(cells)
        text = buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
        return text

    yield line(COLUMNS)
    for record in records:
        yield line(
            [
                record.seq,
                record.time,
                cell(record.run),
                cell(record.actor),
                record.event,
                cell(record.action),
                cell(record.key),
                *_state(record.before),
                *_state(record.after),
                *_state(record.observed),
                cell(record.reason),
                cell(record.evidence),
            ]
        )


def _state(state: State | None) -> tuple[str | int, ...]:
    if state is None:
        return ("", "", "")
    return (state.content, state.metadata, state.bytes)
