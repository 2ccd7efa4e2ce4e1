"""Do two logs of one plan tell the same: that of the plan, and that of the server it changed?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from hdev_memory.core.audit import Record, Write
from hdev_memory.core.entry import State, Value

Kind = Literal["missing here", "missing there", "failed here", "unknown there", "differs"]
"""`missing here`    the server did it, and the plan's log has no intent to
`missing there`   the plan's log says that it was done, and the server has no record of it
`failed here`     the plan's log says that it was not done, and the server did it
`unknown there`   the plan's log says that it was done, and the server does not know
`differs`         both did it, and say another state before or after, or the plan's log says two"""


class Disagreement(Value, frozen=True):
    """One write of a run of the plan of which the two logs do not tell the same.

    `here` and `there` are what the plan's log and the server's say was written; None is no entry.
    """

    kind: Kind
    run: str
    key: str
    here: State | None
    there: State | None


class Later(Value, frozen=True):
    """An entry of the plan that somebody else wrote after it; `plan` is empty for no plan."""

    key: str
    by: str
    time: str
    plan: str
    seq: int


class Comparison(Value, frozen=True):
    """What the comparison came to.

    agree    writes of which both logs tell the same
    settled  writes whose outcome the plan's log does not know, and the server's does
    """

    agree: int
    settled: int
    disagreements: tuple[Disagreement, ...]
    later: tuple[Later, ...]


class _Ours:
    """What the plan's log says of one write of one run; `first` is its intent, or in a log that
    was written anew an outcome that had none."""

    def __init__(self, first: Record) -> None:
        self.first = first
        self.said: Literal["nothing", "done", "failed"] = "nothing"
        self.server: Write | None = None
        self.twofold = False

    def note(self, record: Record, unverified: str) -> None:
        if record.event == "done":
            self.said = "done"
            here = self.first
            self.twofold = (record.before, record.after) != (here.before, here.after)
        elif record.event == "drift" or record.evidence != unverified:
            self.said = "failed"


def compare(
    ours: Iterable[Record],
    theirs: Iterable[Write],
    plan: str,
    *,
    exact: bool,
    unverified: str,
) -> Comparison:
    """Compare the log of the plan `plan` with that of its server; memory is that of the plan's.

    `exact` says that the plan's states are over the bytes as they are stored; else those before a
    write cannot be compared. `unverified` is the evidence of an outcome that nobody knows.
    """
    writes: dict[tuple[str, str], _Ours] = {}
    for record in ours:
        place = record.run, record.key
        if record.event == "intent":
            writes[place] = _Ours(record)
        elif record.event == "done":
            writes.setdefault(place, _Ours(record)).note(record, unverified)
        elif record.event in ("failed", "drift") and place in writes:
            writes[place].note(record, unverified)
    keys = {key for _, key in writes}
    strangers: list[Disagreement] = []
    later: dict[str, Later] = {}
    for write in theirs:
        if write.plan == plan:
            keys.add(write.key)
            later.pop(write.key, None)
            found = writes.get((write.run, write.key))
            if found is not None and found.server is None:
                found.server = write
            elif write.status != "unknown":
                strangers.append(
                    Disagreement(
                        kind="missing here",
                        run=write.run,
                        key=write.key,
                        here=None,
                        there=write.after,
                    )
                )
        elif write.key in keys:
            later[write.key] = Later(
                key=write.key, by=write.by, time=write.time, plan=write.plan, seq=write.seq
            )
    done = {key for (_, key), mine in writes.items() if mine.server is not None}
    agree, settled = 0, 0
    disagreements = strangers
    for (run, key), mine in writes.items():
        kind = _kind(mine, exact=exact)
        if kind is None:
            agree += mine.said == "done"
            settled += mine.said == "nothing" and mine.server is not None
            continue
        there = mine.server.after if mine.server is not None else None
        disagreements.append(
            Disagreement(kind=kind, run=run, key=key, here=mine.first.after, there=there)
        )
    return Comparison(
        agree=agree,
        settled=settled,
        disagreements=tuple(sorted(disagreements, key=lambda found: (found.key, found.run))),
        later=tuple(found for key, found in sorted(later.items()) if key in done),
    )


def _kind(mine: _Ours, *, exact: bool) -> Kind | None:
    """How the two sides differ about one write; None where they do not."""
    there = mine.server
    if there is None:
        return "missing there" if mine.said == "done" else None
    if there.status == "unknown":
        return "unknown there" if mine.said == "done" else None
    if mine.said == "failed":
        return "failed here"
    same = there.after == mine.first.after and not mine.twofold
    if exact and there.before != mine.first.before:
        same = False
    return None if same else "differs"
