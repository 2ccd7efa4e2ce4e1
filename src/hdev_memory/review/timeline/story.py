"""An audit log told run by run, as a stream: each run opens, has its rows, and closes.

All texts are inert. Nothing is held but the changes of one batch, so a log of any length is told
with flat memory.
"""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import groupby
from typing import Literal

from hdev_memory.core.audit import Event, Headmark, Record
from hdev_memory.core.entry import State, Value
from hdev_memory.review.inert import inert, spaced


class Totals(Value, frozen=True):
    """The whole of an intact log. `first` and `last` are times, empty for an empty log."""

    plan: str
    records: int
    runs: int
    head: Headmark
    first: str
    last: str


def totals(plan: str, records: Iterable[tuple[Record, Headmark]]) -> Totals:
    """Count a log; whatever is wrong with it is raised by `records` before anything is shown."""
    runs, head, first, last, run = 0, Headmark(seq=0, digest="0" * 64), "", "", ""
    for record, behind in records:
        runs += record.run != run
        first = first or record.time
        run, last, head = record.run, record.time, behind
    return Totals(plan=plan, records=head.seq, runs=runs, head=head, first=first, last=last)


class Wanted(Value, frozen=True):
    """Which records are shown; None for all."""

    key: str | None = None
    event: Event | None = None
    run: str | None = None

    def takes(self, record: Record) -> bool:
        return (
            (self.key is None or (record.key != "" and fnmatch.fnmatchcase(record.key, self.key)))
            and (self.event is None or record.event == self.event)
            and (self.run is None or record.run.startswith(self.run))
        )


Tone = Literal["plain", "done", "bad"]


class Opening(Value, frozen=True):
    """The beginning of a run; `title` says what it was."""

    run: str
    title: str
    actor: str
    time: str


class Row(Value, frozen=True):
    """One thing that happened; `change` is how an entry changed, in short digests."""

    seq: int
    time: str
    event: Event
    action: str
    key: str
    change: str
    remark: str
    tone: Tone


class Closing(Value, frozen=True):
    """The end of a run. `counts` are of the whole run, whatever was left out of its rows.

    `milliseconds` are between its first and its last record, by the clock of who ran it; they are
    below 0 where that was set back.
    """

    run: str
    ending: str
    milliseconds: int
    counts: tuple[tuple[str, int], ...]
    tone: Tone


Part = Opening | Row | Closing


def tell(records: Iterable[Record], wanted: Wanted) -> Iterator[Part]:
    """The parts of a log in order. A run without a row that is wanted is left out.

    An intent is shown where no outcome follows it; where intents are asked for, each is.
    """
    for _, run in groupby(records, key=_run):
        yield from _told(run, wanted)


def _run(record: Record) -> str:
    return record.run


def _told(run: Iterator[Record], wanted: Wanted) -> Iterator[Part]:
    counts: Counter[str] = Counter()
    began: Record | None = None
    last: Record | None = None
    opened = False
    intents = wanted.event == "intent"
    for record in run if intents else _settled(run):
        began = began or record
        last = record if last is None or record.seq > last.seq else last
        if (name := _counted(record)) and not (intents and record.event == "intent"):
            counts[name] += 1
        if wanted.takes(record):
            if not opened:
                yield _opening(began)
            opened = True
            yield _row(record)
    if opened and began is not None and last is not None:
        yield _closing(began, last, counts)


def _settled(run: Iterator[Record]) -> Iterator[Record]:
    """The records of a run without the intents that an outcome follows; the others come last."""
    open_intents: dict[str, Record] = {}
    for record in run:
        if record.event == "intent":
            open_intents[record.key] = record
            continue
        if record.action:
            open_intents.pop(record.key, None)
        yield record
    yield from open_intents.values()


def _opening(began: Record) -> Opening:
    return Opening(
        run=inert(began.run),
        title=_TITLES.get(began.event, began.event),
        actor=spaced(began.actor),
        time=began.time,
    )


_TITLES: dict[str, str] = {
    "planned": "plan",
    "approved": "approval",
    "rejected": "rejection",
    "started": "apply",
    "resumed": "apply, resumed",
    "refused": "apply, refused",
    "repaired": "repair of the log",
    "pruned": "pre-images removed",
}
"""What a run was, by its first record."""

_DONE = {"create": "created", "overwrite": "overwritten", "delete": "deleted"}
_COUNTED: dict[str, str] = {
    "failed": "failed",
    "drift": "drifted",
    "repaired": "repaired",
    "intent": "with no outcome",
}
"""What an action that was done, and what another event, is counted as."""


def _counted(record: Record) -> str:
    if record.event == "done":
        return _DONE.get(record.action, record.action)
    return _COUNTED.get(record.event, "")


def _closing(began: Record, last: Record, counts: Counter[str]) -> Closing:
    tone: Tone = "plain"
    match last.event:
        case "finished":
            ending, tone = "finished", "done"
        case "stopped":
            ending, tone = "stopped", "bad"
        case "refused":
            ending, tone = "refused, nothing written", "bad"
        case _ if began.event in ("started", "resumed"):
            ending, tone = "cut off, or still running: its end is not recorded", "bad"
        case _:
            ending = "recorded"
    return Closing(
        run=inert(began.run),
        ending=ending,
        milliseconds=_between(began, last),
        counts=tuple(counts.items()),
        tone=tone,
    )


def _between(began: Record, last: Record) -> int:
    try:
        span = datetime.fromisoformat(last.time) - datetime.fromisoformat(began.time)
    except ValueError:  # the form of a time, and no time: somebody made this log by hand
        return 0
    return round(span.total_seconds() * 1000)


_BAD: frozenset[Event] = frozenset({"refused", "rejected", "drift", "failed", "stopped"})


def _row(record: Record) -> Row:
    tone: Tone = "plain"
    if record.event in _BAD or "kept as " in record.reason:
        tone = "bad"
    elif record.event in ("done", "finished", "approved"):
        tone = "done"
    remark = "; ".join(part for part in (record.reason, record.evidence) if part)
    return Row(
        seq=record.seq,
        time=record.time,
        event=record.event,
        action=inert(record.action),
        key=spaced(record.key),
        change=change(record),
        remark=inert(remark),
        tone=tone,
    )


def change(record: Record) -> str:
    """How an entry changed, or was to: `absent -> 1a2b3c4d/44136fa3 12 B`; empty for no entry."""
    if not record.action:
        return ""
    text = f"{short(record.before)} -> {short(record.after)}"
    if record.observed != record.after and record.event in ("drift", "failed"):
        found = "not known" if record.evidence == "unverified" else short(record.observed)
        text += f", found {found}"
    return text


def short(state: State | None) -> str:
    """A state in a few characters: its content's and metadata's digests, and its bytes."""
    if state is None:
        return "absent"
    return f"{state.content[:8]}/{state.metadata[:8]} {state.bytes} B"


def summed_up(closing: Closing) -> str:
    """The end of a run in one line."""
    after = f" after {span(closing.milliseconds)}" if closing.milliseconds else ""
    counts = ", ".join(f"{count} {name}" for name, count in closing.counts)
    return closing.ending + after + (f": {counts}" if counts else "")


def span(milliseconds: int) -> str:
    """A time span in words."""
    sign = "-" if milliseconds < 0 else ""
    seconds = abs(milliseconds) / 1000
    if seconds < 60:
        return f"{sign}{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{sign}{minutes} min {rest} s"
    return f"{sign}{minutes // 60} h {minutes % 60} min"
