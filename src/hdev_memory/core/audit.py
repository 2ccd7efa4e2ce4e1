"""The audit log's records, how they are chained, and how a chain is checked.

One canonical JSON object per line. `prev` is the SHA-256 of the previous line's bytes without its
LF, so an altered, dropped, repeated or exchanged line breaks the chain behind it. A chain cannot
see its own end cut off: for that the head (the last `seq` and its digest) is kept elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Annotated, Literal, TypeVar

import msgspec

from hdev_memory.core.digest import Digest, NamedDigest, named, sha256
from hdev_memory.core.entry import State, Value
from hdev_memory.errors import AuditError

FORMAT = "hdev-audit/1"
"""The name of this form of the log; the lines themselves do not tell it."""

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

Time = Annotated[
    str,
    msgspec.Meta(pattern=r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z\Z"),
]
"""A point in time as RFC 3339 in UTC, to the millisecond."""


class Chained(Value, frozen=True, omit_defaults=True):
    """What every line of every log begins with: its place in the chain."""

    seq: Annotated[int, msgspec.Meta(ge=1)]
    prev: Digest


class Record(Chained, frozen=True, omit_defaults=True):
    """One line of audit.jsonl: canonical JSON, so members of no meaning for an event are not there.

    run     names one run of one command; all its records share it
    action  what is done to `key`: create, overwrite or delete
    before, after   the planned states; `observed` is what was found in their place
    evidence  how `observed` is known, or numbers that belong to the event, as text
    """

    time: Time
    event: Event
    run: str
    plan: NamedDigest
    actor: str
    action: str = ""
    key: str = ""
    before: State | None = None
    after: State | None = None
    observed: State | None = None
    reason: str = ""
    evidence: str = ""


HeadText = Annotated[str, msgspec.Meta(pattern=r"\A[0-9]+:sha256:[0-9a-f]{64}\Z")]
"""A head as people see and type it: the text of a Headmark."""


class Write(Chained, frozen=True, omit_defaults=True):
    """One line of the log of a server: an entry that a client had it write or delete.

    by, role  the name of the client's API key, and the role that allowed it
    status    `done`; `recovered` when the server was cut off in it and finished it when it started
              again, so that the client may not know; `unknown` when it failed in the middle
    before, after   the states of the entry; no state is no entry
    plan, run, request   what the client says that it belongs to, where it does
    """

    time: Time
    by: str
    role: str
    key: str
    status: Literal["done", "recovered", "unknown"]
    before: State | None = None
    after: State | None = None
    plan: str = ""
    run: str = ""
    request: str = ""


R = TypeVar("R", bound=Chained)


class Headmark(Value, frozen=True):
    """The end of a chain: what is written down elsewhere to notice that it was cut."""

    seq: int
    digest: Digest

    def __str__(self) -> str:
        return f"{self.seq}:{named(self.digest)}"


def headmark(text: str) -> Headmark | None:
    """The head that is written `SEQ:sha256:DIGEST`; None where the text is none."""
    found = re.fullmatch(r"(0|[1-9][0-9]{0,15}):sha256:([0-9a-f]{64})", text, re.ASCII)
    return Headmark(seq=int(found.group(1)), digest=found.group(2)) if found else None


EMPTY = Headmark(seq=0, digest=GENESIS)

_encode = msgspec.json.Encoder().encode


def chain(records: Iterable[Chained], head: Headmark) -> tuple[list[bytes], Headmark]:
    """The lines (each with LF) of records as the successors of `head`, and the new head.

    `seq` and `prev` are set here; what the records say of them is not looked at.
    """
    seq, digest = head.seq, head.digest
    lines = []
    for record in records:
        # Every line begins with these two, a number and a digest: so the second comma ends them.
        spelled = _encode(record)
        behind = spelled.index(b",", spelled.index(b",") + 1)
        seq += 1
        text = b'{"seq":%d,"prev":"%b"%b' % (seq, digest.encode(), spelled[behind:])
        if len(text) >= MAX_LINE_BYTES:
            raise AssertionError("an audit record longer than its limit")
        lines.append(text + b"\n")
        digest = sha256(text)
    return lines, Headmark(seq=seq, digest=digest)


def line_of(record: Chained) -> bytes:
    """The line (with LF) of a record that is in a chain already."""
    return _encode(record) + b"\n"


def verify(lines: Iterable[bytes], plan: str | None = None) -> Iterator[tuple[Record, Headmark]]:
    """Each record of a plan's log with the head behind it; see `chained`.

    Where a `plan` id is given, a record about another one is damage.
    """
    return chained(lines, Record, plan=plan)


def chained(
    lines: Iterable[bytes], kind: type[R], head: Headmark = EMPTY, *, plan: str | None = None
) -> Iterator[tuple[R, Headmark]]:
    """Each record with the head behind it, from the lines of a log (each with its LF) after `head`.

    Raises AuditError at the first line that the chain does not allow; what follows there is read
    only to tell what was done.
    """
    decode = msgspec.json.Decoder(kind).decode
    rest = iter(lines)
    previous: R | None = None
    for number, line in enumerate(rest, start=head.seq + 1):
        record = _read(line, number, rest, decode)
        if plan is not None and isinstance(record, Record) and record.plan != plan:
            raise _foreign(number, record)
        if record.seq != head.seq + 1:
            raise _misplaced(number, record, previous, head, rest, decode)
        if record.prev != head.digest:
            raise _broken(number)
        head = Headmark(seq=record.seq, digest=sha256(line[:-1]))
        previous = record
        yield record, head


def head_of(line: bytes) -> tuple[Record, Headmark]:
    """The record in the last line of a log, and the log's head; nothing before it is checked.

    Raises AuditError when the line is no record.
    """
    record = _read(line, None, iter(()), msgspec.json.Decoder(Record).decode)
    return record, Headmark(seq=record.seq, digest=sha256(line[:-1]))


def _read(
    line: bytes, number: int | None, rest: Iterator[bytes], decode: Callable[[bytes], R]
) -> R:
    if not line.endswith(b"\n"):
        if any(part.endswith(b"\n") for part in rest):
            raise _edited(number, "it is longer than a record can be")
        raise AuditError(
            "The last line of the audit log is torn.",
            why=f"{_line(number)} has no end: its write was cut off, or is still going on.",
            hint="Where no apply is running, the next one sets it aside and records that.",
        )
    text = line[:-1]
    if len(text) >= MAX_LINE_BYTES:
        raise _edited(number, "it is longer than a record can be")
    try:
        record = decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _edited(number, f"it is no record ({error})") from None
    if _encode(record) != text:
        raise _edited(number, "it is not in canonical form")
    return record


_LOOKED_AT = 10_000
"""Lines behind a gap in which the missing record is looked for; a log from afar may have no end."""

_COMPARE = "Compare it with another copy or with the receipt; it proves nothing as it is."


def _line(number: int | None) -> str:
    return "The last line" if number is None else f"Line {number}"


def _edited(number: int | None, why: str) -> AuditError:
    return AuditError(
        "The audit log was edited or damaged.", why=f"{_line(number)}: {why}.", hint=_COMPARE
    )


def _foreign(number: int, record: Record) -> AuditError:
    if number == 1:
        what, why = "The audit log belongs to another plan.", "Its first record"
    else:
        what, why = "The audit log was spliced together.", f"Line {number}"
    return AuditError(
        what,
        why=f"{why} is about another plan, {record.plan}.",
        hint="Put the plan's own log back; it is what tells how far it got.",
    )


def _misplaced(
    number: int,
    record: R,
    previous: R | None,
    head: Headmark,
    rest: Iterator[bytes],
    decode: Callable[[bytes], R],
) -> AuditError:
    """What was done to a log where another `seq` stands than must."""
    wanted = head.seq + 1
    if record.prev == head.digest:
        return _edited(number, f"it has seq {record.seq} where {wanted} must stand")
    if record == previous:
        what, why = "A record of the audit log is repeated.", f"Line {number} is line {number - 1}"
    elif record.seq < wanted:
        what = "The records of the audit log are out of order."
        why = f"Record {record.seq} stands at line {number}, where {wanted} must stand"
    elif (found := _position(wanted, head, rest, number, decode)) is not None:
        what = "The records of the audit log are out of order."
        why = f"Record {wanted} stands at line {found}, behind record {record.seq}"
    else:
        last = record.seq - 1
        missing = f"Record {wanted} is" if last == wanted else f"Records {wanted} to {last} are"
        what = "Records were cut out of the audit log."
        why = f"{missing} missing before line {number}"
    return AuditError(what, why=f"{why}.", hint=_COMPARE)


def _position(
    wanted: int,
    head: Headmark,
    rest: Iterator[bytes],
    number: int,
    decode: Callable[[bytes], R],
) -> int | None:
    """The line of the record that must come next, where it stands further behind."""
    for line_number, line in enumerate(islice(rest, _LOOKED_AT), start=number + 1):
        try:
            record = decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        if record.seq == wanted and record.prev == head.digest:
            return line_number
    return None


def _broken(number: int) -> AuditError:
    if number == 1:
        return _edited(1, "it does not begin a log")
    return AuditError(
        "The audit log was edited or spliced.",
        why=(
            f"Line {number} does not follow from line {number - 1}: that one was changed, or what "
            f"stands from line {number} on comes from another log."
        ),
        hint=_COMPARE,
    )
