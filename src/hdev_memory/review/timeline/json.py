"""The records of a log as one JSON document for programs, `hdev-timeline/1`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import msgspec

from hdev_memory.core.audit import Record
from hdev_memory.review.timeline.story import Totals

FORMAT = "hdev-timeline/1"


def render(totals: Totals, records: Iterable[Record]) -> Iterator[str]:
    """One document, a record on each line; ASCII, so that a terminal shows it safely."""
    head = {
        "format": FORMAT,
        "plan": totals.plan,
        "total": totals.records,
        "head": str(totals.head),
    }
    yield json.dumps(head)[:-1] + ', "records": ['
    separator = "\n"
    for record in records:
        yield separator + json.dumps(msgspec.to_builtins(record))
        separator = ",\n"
    yield "\n]}\n"
