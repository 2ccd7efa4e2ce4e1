"""The audit log's records, how they are chained, and how a chain is checked.

One canonical JSON object per line. `prev` is the SHA-256 of the previous line's bytes without its
LF, so an altered, dropped, repeated or exchanged line breaks the chain behind it. A chain cannot
see its own end cut off: for that the head (the last `seq` and its digest) is kept elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

import msgspec

from hdev_memory.core.digest import Digest, named, sha256
from hdev_memory.core.entry import State, Value
from hdev_memory.errors import AuditError

MAX_LINE_BYTES = 64 * 1024
GENESIS = "0" * 64
"""The `prev` of the first record."""

Event = Literal[
    "planned",
    "approved",
    "rejected",
    "overridden",
    "refused",
    "started",
    "resumed",
    "intent",
    "done",
    "drift",
    "failed",
    "stopped",
    "repaired",
    "pruned",
    "finished",
]

Time = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")]
"""A point in time as RFC 3339 in UTC, to the millisecond."""


class Record(Value, frozen=True, omit_defaults=True):
    """One line of the log.

    run     names one run of one command; all its records share it
    action  what is done to `key`: create, overwrite or delete
    before, after   the planned states; `observed` is what was found in their place
    evidence  how `observed` is known, or numbers that belong to the event, as text
    """

    seq: Annotated[int, msgspec.Meta(ge=1)]
    prev: Digest
    time: Time
    event: Event
    run: str
    plan: str
    actor: str
    action: str = ""
    key: str = ""
    before: State | None = None
    after: State | None = None
    observed: State | None = None
    reason: str = ""
    evidence: str = ""


class Headmark(Value, frozen=True):
    """The end of a chain: what is written down elsewhere to notice that it was cut."""

    seq: int
    digest: Digest

    def __str__(self) -> str:
        return f"{self.seq}:{named(self.digest)}"


EMPTY = Headmark(seq=0, digest=GENESIS)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Record).decode


def link(record: Record, head: Headmark) -> tuple[bytes, Headmark]:
    """The line (with LF) of `record` as the successor of `head`, and the new head.

    `seq` and `prev` are set here; what the record says of them is not looked at.
    """
    chained = msgspec.structs.replace(record, seq=head.seq + 1, prev=head.digest)
    text = _encode(chained)
    if len(text) >= MAX_LINE_BYTES:
        raise AssertionError("an audit record longer than its limit")
    return text + b"\n", Headmark(seq=chained.seq, digest=sha256(text))


def verify(lines: Iterable[bytes]) -> Iterator[tuple[Record, Headmark]]:
    """Each record with the head behind it, from the lines of a log (each with its LF).

    Raises AuditError at the first line that the chain does not allow.
    """
    head = EMPTY
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n") or len(line) > MAX_LINE_BYTES:
            raise _tampered(number, "it does not end as a record does")
        text = line[:-1]
        try:
            record = _decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise _tampered(number, f"it is no record ({error})") from None
        if _encode(record) != text:
            raise _tampered(number, "it is not in canonical form")
        if record.seq != head.seq + 1:
            raise _tampered(number, f"it has seq {record.seq} where {head.seq + 1} must stand")
        if record.prev != head.digest:
            raise _tampered(number, "it does not follow from the line before it")
        head = Headmark(seq=record.seq, digest=sha256(text))
        yield record, head


def _tampered(number: int, why: str) -> AuditError:
    return AuditError(
        "The audit log was edited or damaged.",
        why=f"Line {number}: {why}.",
        hint="Compare it with another copy or with the receipt; it proves nothing as it is.",
    )
